//! Which files the places in an index point into.
//!
//! A place names its file by a [`Handle`], a number that lives as long as the process and is never given twice: so a
//! place of a file that is gone is told from a place of another file. Readers load the table without a lock; who
//! changes it puts another one in its place.
//!
//! The number in a place is twice the handle, plus one if the row there is a delete: so counting keys that have a value
//! reads no rows.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::{ArcSwap, Guard};
use paddock_index::PackedLocator;
use parking_lot::Mutex;

use crate::contents::take;
use crate::data_file::DataFile;
use crate::error::{Error, Result};
use crate::row::{StoredRow, decode_stored, verified};
use crate::run::Run;

/// The number of a file in places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Handle(pub(crate) u32);

/// The highest handle whose places fit.
const HANDLE_MAX: u32 = (PackedLocator::FILE_MAX - 1) / 2;

impl Handle {
    /// The place of a row in this file; `None` beyond what a place can hold, which no file is long enough for.
    pub(crate) fn place(self, tombstone: bool, offset: u64, length: usize) -> Option<PackedLocator> {
        let (offset, length) = (u32::try_from(offset).ok()?, u32::try_from(length).ok()?);
        PackedLocator::new(self.0 * 2 + u32::from(tombstone), offset, length).ok()
    }

    pub(crate) fn of(place: PackedLocator) -> Handle {
        Handle(place.file() / 2)
    }
}

/// Whether the row at a place is a delete.
pub(crate) fn is_tombstone(place: PackedLocator) -> bool {
    place.file() % 2 == 1
}

/// A file that has rows.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// A file of the log: offsets are the file's own.
    Segment(Arc<DataFile>),
    /// A file that compaction made: offsets are logical ones.
    Run(Arc<Run>),
}

/// A file, and what is known of what it holds.
#[derive(Debug)]
pub(crate) struct FileEntry {
    pub(crate) source: Source,
    /// Bytes of rows that the hash index points at: the newest of their keys, deletes included.
    live_bytes: AtomicU64,
}

impl FileEntry {
    /// The bytes that begin with the row at a place, as they are on the disk: nothing is verified.
    pub(crate) fn bytes_at<'a>(&'a self, place: PackedLocator, buffer: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        // A length class is never below the length; what it reads too much is cut off below.
        let length = usize::try_from(place.length_max()).unwrap_or(usize::MAX);
        match &self.source {
            Source::Segment(file) => file.read(u64::from(place.offset()), length, buffer),
            Source::Run(run) => run.bytes_at(place.offset(), length, buffer),
        }
    }

    /// The row at a place, verified.
    pub(crate) fn row_at<'a>(
        &'a self,
        place: PackedLocator,
        buffer: &'a mut Vec<u8>,
    ) -> Result<StoredRow<'a>> {
        let bytes = self.bytes_at(place, buffer)?;
        verified(bytes).map_err(|what| Error::corrupt(self.path(), u64::from(place.offset()), what))
    }

    /// The row at a place, unverified; `None` when no row can begin there.
    pub(crate) fn unverified_row_at<'a>(
        &'a self,
        place: PackedLocator,
        buffer: &'a mut Vec<u8>,
    ) -> Result<Option<StoredRow<'a>>> {
        Ok(decode_stored(self.bytes_at(place, buffer)?))
    }

    pub(crate) fn path(&self) -> &Path {
        match &self.source {
            Source::Segment(file) => file.path(),
            Source::Run(run) => run.path(),
        }
    }

    /// Maps the file, if it is not and there is room.
    pub(crate) fn map(&self) {
        match &self.source {
            Source::Segment(file) => file.map(),
            Source::Run(run) => run.map(),
        };
    }

    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes.load(Relaxed)
    }

    pub(crate) fn add_live_bytes(&self, bytes: u64) {
        self.live_bytes.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn take_live_bytes(&self, bytes: u64) {
        take(&self.live_bytes, bytes);
    }
}

/// Files by handle. One state of it: it never changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileTable {
    entries: Vec<Option<Arc<FileEntry>>>,
}

impl FileTable {
    /// The file that a place points into; `None` once all of its rows have been moved elsewhere.
    pub(crate) fn of(&self, place: PackedLocator) -> Option<&Arc<FileEntry>> {
        self.get(Handle::of(place))
    }

    /// The files that there are.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &FileEntry> {
        self.entries.iter().flatten().map(|entry| &**entry)
    }

    /// The number of handles given so far, of files that are gone too.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How long the row at a place is if it is this key's, and `None` if it is another's.
    ///
    /// Of a damaged row only the class of its length is known, and it counts as the key's: an index has some forty bits of
    /// each key's hash, and if they agree and the row cannot be read, it is the key's. To take it for another's would leave
    /// two rows of one key in the index.
    pub(crate) fn length_of(&self, place: PackedLocator, key: &[u8], buffer: &mut Vec<u8>) -> Option<u64> {
        let damaged = Some(u64::from(place.length_max()));
        let Some(file) = self.of(place) else { return damaged };
        let Ok(bytes) = file.bytes_at(place, buffer) else { return damaged };
        match decode_stored(bytes) {
            Some(row) if row.row.key() == Some(key) => Some(row.bytes.len() as u64),
            // Verified only now: this happens once in very many lookups.
            _ if verified(bytes).is_ok() => None,
            _ => damaged,
        }
    }

    pub(crate) fn get(&self, handle: Handle) -> Option<&Arc<FileEntry>> {
        self.entries.get(handle.0 as usize)?.as_ref()
    }
}

/// The table as it is now.
#[derive(Debug, Default)]
pub(crate) struct Files {
    current: ArcSwap<FileTable>,
    /// Held by who puts another table in the current one's place.
    edit: Mutex<()>,
}

impl Files {
    pub(crate) fn load(&self) -> Guard<Arc<FileTable>> {
        self.current.load()
    }

    pub(crate) fn load_full(&self) -> Arc<FileTable> {
        self.current.load_full()
    }

    /// Takes a file in. From now on places may point into it.
    pub(crate) fn add(&self, source: Source) -> Result<Handle> {
        let entry = Arc::new(FileEntry { source, live_bytes: AtomicU64::new(0) });
        self.edit(|entries| {
            let number = u32::try_from(entries.len()).unwrap_or(u32::MAX);
            if number > HANDLE_MAX {
                let (actual, limit) = (u64::from(number), u64::from(HANDLE_MAX));
                return Err(Error::TooLarge { what: "files since the store was opened", actual, limit });
            }
            entries.push(Some(entry));
            Ok(Handle(number))
        })
    }

    /// Lets a file go that no place points into any more.
    pub(crate) fn remove(&self, handle: Handle) {
        self.edit(|entries| {
            if let Some(entry) = entries.get_mut(handle.0 as usize) {
                *entry = None;
            }
        });
    }

    fn edit<T>(&self, change: impl FnOnce(&mut Vec<Option<Arc<FileEntry>>>) -> T) -> T {
        let _edit = self.edit.lock();
        let mut table = FileTable::clone(&self.current.load());
        let outcome = change(&mut table.entries);
        self.current.store(Arc::new(table));
        outcome
    }
}
