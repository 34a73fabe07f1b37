//! Reading the rows of runs for an index: where they lie, and whose they are.
//!
//! Where there is much to read, threads read files ahead while the caller takes what they have found. What little data
//! there is, is read by the caller alone, which always makes the same calls in the same order.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::sync_channel;
use std::thread;

use paddock_index::{HashReader, PackedLocator};

use crate::error::{Error, Result};
use crate::file_table::Handle;
use crate::run::Run;

/// Rows handed over at a time: what they take fits a processor's cache.
const BATCH_ROWS: usize = 512;

/// With fewer of them, where keys are so long.
const BATCH_KEY_BYTES: usize = 64 << 10;

/// From so many bytes on threads are worth their while.
const THREADED_BYTES_MIN: u64 = 16 << 20;

/// No more threads than this, on however large a machine: one thread takes what they find.
const THREADS_MAX: usize = 4;

/// Batches that wait to be taken, for each thread.
const WAITING_PER_THREAD: usize = 4;

/// A file to be read, and from which key on.
#[derive(Debug)]
pub(super) struct Unread {
    pub(super) handle: Handle,
    pub(super) run: Arc<Run>,
    pub(super) from: Option<Arc<[u8]>>,
}

/// What an index is to know of a row.
#[derive(Debug)]
pub(super) struct Entry {
    /// Of its key: [`HashReader::hash`].
    pub(super) hash: u64,
    pub(super) place: PackedLocator,
    /// How long the row is.
    pub(super) length: u32,
    /// Where its key ends among the batch's keys, and the next one's begins.
    key_end: u32,
}

/// Rows of one file, in the order of their keys.
#[derive(Debug)]
pub(super) struct Batch {
    entries: Vec<Entry>,
    keys: Vec<u8>,
}

impl Batch {
    fn new() -> Batch {
        Batch { entries: Vec::with_capacity(BATCH_ROWS), keys: Vec::new() }
    }

    fn push(&mut self, key: &[u8], hash: u64, place: PackedLocator, length: u32) {
        self.keys.extend_from_slice(key);
        // A few hundred keys, each no longer than 16 bits can say.
        let key_end = self.keys.len() as u32;
        self.entries.push(Entry { hash, place, length, key_end });
    }

    /// The rows, each with its key.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Entry, &[u8])> {
        let mut start = 0;
        self.entries.iter().map(move |entry| {
            let key = self.keys.get(start..entry.key_end as usize).unwrap_or_default();
            start = entry.key_end as usize;
            (entry, key)
        })
    }
}

/// Calls `take` with all rows of some files, verified.
///
/// # Errors
/// [`Error::Corrupt`], [`Error::Io`]: of the first file that could not be read to its end. Some rows were taken.
pub(super) fn for_each_batch(files: &[Unread], reader: &HashReader, take: impl FnMut(Batch)) -> Result<()> {
    let bytes: u64 = files.iter().map(|file| file.run.summary().file_bytes).sum();
    let threads = match bytes {
        0..THREADED_BYTES_MIN => 0,
        _ => thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX).min(files.len()),
    };
    read(files, threads, reader, take)
}

/// The same with so many threads beside the caller's.
pub(super) fn read(
    files: &[Unread],
    threads: usize,
    reader: &HashReader,
    mut take: impl FnMut(Batch),
) -> Result<()> {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (sender, batches) = sync_channel(WAITING_PER_THREAD * threads.max(1));
        for _ in 0..threads {
            let (sender, next) = (sender.clone(), &next);
            let read = move || {
                if let Err(error) = read_on(files, next, reader, |batch| sender.send(Ok(batch)).is_ok()) {
                    let _ = sender.send(Err(error));
                }
            };
            // Without a thread the others read more.
            let _ = thread::Builder::new().name("paddock-load".into()).spawn_scoped(scope, read);
        }
        drop(sender);
        batches.into_iter().try_for_each(|batch| batch.map(&mut take))?;
        // Without any, all of it is left.
        read_on(files, &next, reader, |batch| {
            take(batch);
            true
        })
    })
}

/// Reads the files that nobody has begun, until `give` says false.
fn read_on(
    files: &[Unread],
    next: &AtomicUsize,
    reader: &HashReader,
    mut give: impl FnMut(Batch) -> bool,
) -> Result<()> {
    while let Some(file) = files.get(next.fetch_add(1, Relaxed)) {
        if !file.read(reader, &mut give)? {
            break;
        }
    }
    Ok(())
}

impl Unread {
    /// Calls `give` with the file's rows, until it says false: then it says so too.
    fn read(&self, reader: &HashReader, give: &mut impl FnMut(Batch) -> bool) -> Result<bool> {
        let mut batch = Batch::new();
        let mut cursor = self.run.cursor_avoiding_the_mapping();
        while let Some(row) = cursor.next()? {
            let (tombstone, length) = (!row.row.is_put(), row.bytes.len());
            let key = cursor.key();
            if self.from.as_ref().is_some_and(|from| key < &**from) {
                continue;
            }
            let offset = cursor.offset().unwrap_or_default();
            let Some(place) = self.handle.place(tombstone, u64::from(offset), length) else {
                // Said of files that no place can name: Files::add refuses to take them in.
                let what = "a row lies beyond what an index can point at";
                return Err(Error::corrupt(self.run.path(), u64::from(offset), what));
            };
            // A row is no longer than what a place can say.
            batch.push(key, reader.hash(key), place, length as u32);
            let is_full = batch.entries.len() == BATCH_ROWS || batch.keys.len() >= BATCH_KEY_BYTES;
            if is_full && !give(std::mem::replace(&mut batch, Batch::new())) {
                return Ok(false);
            }
        }
        Ok(give(batch))
    }
}
