//! The applied state of a store: what readers and the one writer share.
//!
//! A key's newest row is found in two ways. The *hash index* has, for each key, the place of its newest row, be that a
//! value or a delete: one lookup, one row. The *parts* (the growing tail, the frozen tails, the runs) have every row in key order,
//! newest part first: they answer what the hash index cannot, namely ranges, what was true at an earlier sequence, and
//! keys of cold runs, which the hash index leaves out to stay within its memory.
//!
//! Who writes does it in this order: the hash index, the tail, and last the sequence `applied`. A reader whom the hash
//! index gives a row above `applied` asks the parts instead, as of `applied`. So all rows of one `apply` are seen at once, and
//! nobody waits for anybody: a point read takes no lock.

use std::collections::HashSet;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};

use arc_swap::Guard;
use paddock_index::{HashIndex, HashReader, OrderedTail, PackedLocator};
use parking_lot::{Mutex, MutexGuard};

use crate::capture::Capture;
use crate::compaction::pace::Foreground;
use crate::error::Result;
use crate::file_table::{FileTable, Files, Handle, is_tombstone};
use crate::position::Sequence;
use crate::row::{Frames, StoredRow, decode_stored, verified};
use crate::row_buffer::with_buffer;
use crate::run::FoundRow;
use crate::view::{FrozenTail, SortedRun, View};

/// See the module.
pub(crate) struct Contents {
    /// Held by who changes the index: the writer for a batch, compaction for a few rows at a time.
    hash: Mutex<HashIndex>,
    lookup: HashReader,
    files: Files,
    parts: Mutex<Parts>,
    /// Counts views: a search that found nothing counts only if no row was moved meanwhile.
    generation: AtomicU64,
    /// Whether every key but those of cold runs is in the hash index.
    complete: AtomicBool,
    /// See [`Contents::set_index_ahead`].
    index_ahead: AtomicU64,
    /// Whether some run is cold.
    has_cold: AtomicBool,
    applied: AtomicU64,
    /// See [`Contents::indexed`].
    indexed: AtomicU64,
    settled: AtomicU64,
    records: AtomicU64,
    live_bytes: AtomicU64,
    /// What the store's callers do, for compaction to yield to.
    foreground: Foreground,
    /// The runs that the newest checkpoint of the index covers.
    checkpointed: Mutex<HashSet<u32>>,
}

/// What is in key order.
#[derive(Debug)]
struct Parts {
    tail: OrderedTail,
    view: Arc<View>,
    /// Keys that had a value when `applied` was set, but for those that compaction has dropped since.
    records: u64,
    /// The segment of the entry that was applied last.
    last_segment: Option<Handle>,
}

/// A row that has been copied elsewhere, or that is to leave the hash index.
#[derive(Debug)]
pub(crate) struct Moved {
    /// Of its key: [`HashReader::hash`].
    pub(crate) hash: u64,
    pub(crate) from: PackedLocator,
    /// `None`: it is in a cold run now.
    pub(crate) to: Option<PackedLocator>,
    /// How long the row is.
    pub(crate) length: u64,
}

/// A row that compaction dropped: of its key nothing is left.
#[derive(Debug)]
pub(crate) struct Gone {
    /// Of its key: [`HashReader::hash`].
    pub(crate) hash: u64,
    pub(crate) from: PackedLocator,
    /// How long the row was.
    pub(crate) length: u64,
}

/// Rows of one file that an index pointed at when it was loaded.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) puts: u64,
    pub(crate) put_bytes: u64,
    pub(crate) tombstone_bytes: u64,
}

impl Loaded {
    pub(crate) fn note(&mut self, place: PackedLocator) {
        let bytes = u64::from(place.length_max());
        if is_tombstone(place) {
            self.tombstone_bytes += bytes;
        } else {
            self.puts += 1;
            self.put_bytes += bytes;
        }
    }
}

/// Rows moved under one hold of the index's lock.
const MOVED_AT_ONCE: usize = 256;

/// So many rows before it is needed a row's place in the index is touched.
const TOUCHED_AHEAD: usize = 32;

/// What the hash index says of a key.
enum Hashed<T> {
    /// Its newest row: what was taken of it, or `None` if it is a delete.
    Newest(Option<T>),
    /// It has a row that is not applied yet.
    TooNew,
    /// Its row was moved while it was looked for.
    Moved,
    /// It has none.
    Nothing,
}

impl fmt::Debug for Contents {
    /// How much there is: a store is not to be printed key by key because a handle of it is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Contents({} keys, applied up to {})", self.records(), self.applied())
    }
}

impl Contents {
    /// With an index that points into these files.
    pub(crate) fn new(files: Files, hash: HashIndex) -> Contents {
        let lookup = hash.reader().clone();
        Contents {
            hash: Mutex::new(hash),
            lookup,
            files,
            parts: Mutex::new(Parts {
                tail: OrderedTail::new(),
                view: Arc::default(),
                records: 0,
                last_segment: None,
            }),
            generation: AtomicU64::new(0),
            complete: AtomicBool::new(true),
            index_ahead: AtomicU64::new(0),
            has_cold: AtomicBool::new(false),
            applied: AtomicU64::new(0),
            indexed: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            records: AtomicU64::new(0),
            live_bytes: AtomicU64::new(0),
            foreground: Foreground::default(),
            checkpointed: Mutex::default(),
        }
    }

    /// The last entry that readers see.
    pub(crate) fn applied(&self) -> Sequence {
        Sequence(self.applied.load(Acquire))
    }

    /// The last entry that the hash index may know of: above [`Contents::applied`] while some are being applied.
    pub(crate) fn indexed(&self) -> Sequence {
        Sequence(self.indexed.load(Acquire)).max(self.applied())
    }

    /// Of what was written up to here nothing is read from the log any more: it was flushed, and the index points into runs.
    pub(crate) fn settled(&self) -> Sequence {
        Sequence(self.settled.load(Acquire))
    }

    /// For compaction, once a flush has moved its last row.
    pub(crate) fn set_settled(&self, through: Sequence) {
        self.settled.store(through.0, Release);
    }

    /// How many keys have a value, as of what is applied. With cold runs an estimate:
    /// [`crate::Readable::len`] says how far off.
    pub(crate) fn records(&self) -> u64 {
        self.parts.lock().records
    }

    /// Bytes of rows that are the newest of their key and no deletes. Of cold runs all rows count.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes.load(Relaxed)
    }

    /// Bytes of memory that the hash index takes.
    pub(crate) fn hash_bytes(&self) -> u64 {
        self.lookup.memory_bytes() as u64
    }

    /// Where the store's callers are counted.
    pub(crate) fn foreground(&self) -> &Foreground {
        &self.foreground
    }

    /// Keys in the hash index, deleted ones included that compaction has not dropped yet.
    pub(crate) fn hash_keys(&self) -> u64 {
        self.lookup.len() as u64
    }

    /// Bytes of memory that the growing tail takes.
    pub(crate) fn tail_bytes(&self) -> u64 {
        self.parts.lock().tail.memory_bytes() as u64
    }

    /// The hash index, for who walks it.
    pub(crate) fn index(&self) -> &HashReader {
        &self.lookup
    }

    /// The runs that the newest checkpoint of the index covers.
    pub(crate) fn checkpointed(&self) -> MutexGuard<'_, HashSet<u32>> {
        self.checkpointed.lock()
    }

    pub(crate) fn set_checkpointed(&self, runs: HashSet<u32>) {
        *self.checkpointed.lock() = runs;
    }

    /// Keeps everybody else from changing the index.
    #[cfg(test)]
    pub(crate) fn hold_index(&self) -> MutexGuard<'_, HashIndex> {
        self.hash.lock()
    }

    pub(crate) fn files(&self) -> &Files {
        &self.files
    }

    pub(crate) fn view(&self) -> Arc<View> {
        self.parts.lock().view.clone()
    }

    /// Everything as it is now, consistent: what is applied later is not in it.
    pub(crate) fn capture(&self) -> Capture {
        self.capture_counted().0
    }

    /// The same, and how many keys have a value in it.
    pub(crate) fn capture_counted(&self) -> (Capture, u64) {
        let mut parts = self.parts.lock();
        let capture = Capture {
            at: self.applied(),
            layers: parts.tail.layers(),
            view: parts.view.clone(),
            files: self.files.load_full(),
        };
        (capture, parts.records)
    }

    /// What `take` makes of a key's newest row; `None` when it has none or is deleted.
    pub(crate) fn read<T>(&self, key: &[u8], mut take: impl FnMut(&StoredRow<'_>) -> T) -> Result<Option<T>> {
        self.foreground.read_one();
        loop {
            // Before the look: what is applied later has not been looked at.
            let may_lack = self.applied.load(Acquire) < self.index_ahead.load(Acquire);
            let generation = self.generation.load(Acquire);
            match self.read_hashed(key, Sequence(u64::MAX), &mut take)? {
                Hashed::Newest(taken) => return Ok(taken),
                Hashed::TooNew => return self.capture().read(key, take),
                Hashed::Moved => continue,
                Hashed::Nothing => {}
            }
            if may_lack || !self.complete.load(Acquire) {
                return self.capture().read(key, take);
            }
            if !self.has_cold.load(Acquire) && self.generation.load(Acquire) == generation {
                return Ok(None);
            }
            if let Some(found) = self.view().find_cold(key)? {
                return Ok(take_put(&found, take));
            }
            // A key may have come from a cold run back into the index while it was looked for.
            if self.generation.load(Acquire) == generation {
                return Ok(None);
            }
        }
    }

    /// Reads a key's row as [`Self::apply`] will have to, and forgets it.
    pub(crate) fn warm(&self, key: &[u8]) {
        let files = self.files.load();
        let is_key = |place| {
            let known = with_buffer(|buffer| row_of(&files, place, key, buffer));
            Ok::<_, Infallible>(matches!(known, Known::Row(..)))
        };
        let _ = self.lookup.get(key, is_key);
    }

    /// The same as of a capture, which need not be of now.
    pub(crate) fn read_as_of<T>(
        &self,
        capture: &Capture,
        key: &[u8],
        mut take: impl FnMut(&StoredRow<'_>) -> T,
    ) -> Result<Option<T>> {
        match self.read_hashed(key, capture.at, &mut take)? {
            // Its newest row is old enough: it was the newest then, too.
            Hashed::Newest(taken) => Ok(taken),
            Hashed::TooNew | Hashed::Moved | Hashed::Nothing => capture.read(key, take),
        }
    }

    fn read_hashed<T>(
        &self,
        key: &[u8],
        at: Sequence,
        take: &mut impl FnMut(&StoredRow<'_>) -> T,
    ) -> Result<Hashed<T>> {
        with_buffer(|buffer| {
            let mut hashed = Hashed::Nothing;
            self.lookup.get(key, |place| {
                let files = self.files.load();
                let Some(file) = files.of(place) else {
                    hashed = Hashed::Moved;
                    return Ok(true);
                };
                // Verified before its key is believed: else a damaged key would look like another one's, and the row
                // would seem not to exist.
                let row = file.row_at(place, buffer)?;
                if row.row.key() != Some(key) {
                    return Ok(false);
                }
                hashed = if row.sequence > at.min(self.applied()) {
                    Hashed::TooNew
                } else {
                    Hashed::Newest(row.row.is_put().then(|| take(&row)))
                };
                Ok(true)
            })?;
            Ok(hashed)
        })
    }

    /// Takes rows in that lie in a file from `offset` on, the first of them with sequence `first`. They are seen from
    /// [`Contents::set_applied`] on.
    pub(crate) fn apply(&self, handle: Handle, offset: u64, first: Sequence, frames: &Frames<'_>) {
        let hash = self.hash.lock();
        // Under the lock: a run whose rows have left the index is known to be cold by then.
        let cold = self.has_cold.load(Acquire).then(|| self.view());
        let keep_deletes = !self.complete.load(Acquire) || first.0 <= self.index_ahead.load(Acquire);
        let mut places = Vec::new();
        let files = self.files.load();
        let mut pointing = Pointing { contents: self, cold: cold.as_deref(), keep_deletes, hash, files };
        let mut hashes = Hashes::new(&self.lookup, frames.clone());
        for (sequence, frame) in (first.0..).zip(frames.clone()) {
            self.indexed.store(sequence, Release);
            let hash = hashes.next();
            let Some((key, hash)) = frame.stored.row.key().zip(hash) else {
                places.push(None);
                continue;
            };
            let length = frame.stored.bytes.len();
            let place = handle.place(!frame.stored.row.is_put(), offset + frame.offset as u64, length);
            places.push(place.filter(|place| pointing.point(key, hash, *place, length as u64)));
        }
        drop(pointing);
        let mut parts = self.parts.lock();
        parts.last_segment = Some(handle);
        for ((sequence, frame), place) in (first.0..).zip(frames.clone()).zip(places) {
            if let (Some(place), Some(key)) = (place, frame.stored.row.key()) {
                parts.tail.push(key, sequence, place, is_tombstone(place));
            }
        }
    }

    /// From now on readers see everything up to here.
    pub(crate) fn set_applied(&self, through: Sequence) {
        // Under the lock, so that a capture has either all of it or knows that it has not.
        let mut parts = self.parts.lock();
        parts.records = self.records.load(Relaxed);
        self.applied.store(through.0, Release);
    }

    /// Puts the growing tail among the frozen ones, and begins another. False: it is empty, and nothing happened.
    pub(crate) fn freeze(&self) -> bool {
        let mut parts = self.parts.lock();
        if parts.tail.is_empty() {
            return false;
        }
        let Some(segment) = parts.last_segment.and_then(|last| self.files.load().get(last).cloned()) else {
            return false;
        };
        let layers = parts.tail.layers();
        parts.tail = OrderedTail::new();
        let mut view = View::clone(&parts.view);
        view.frozen.push(Arc::new(FrozenTail { layers, last: self.applied(), segment }));
        parts.view = Arc::new(view);
        true
    }

    /// Puts another view in the current one's place. For compaction: what a view loses must be in the new one.
    pub(crate) fn publish(&self, edit: impl FnOnce(&View) -> View) {
        let mut parts = self.parts.lock();
        let view = edit(&parts.view);
        self.has_cold.store(view.has_cold_runs(), Release);
        parts.view = Arc::new(view);
        self.generation.fetch_add(1, Release);
    }

    /// Lets the index point at where rows are now, unless it points at newer rows already.
    pub(crate) fn move_rows(&self, moved: &[Moved]) {
        for moved in moved.chunks(MOVED_AT_ONCE) {
            moved.iter().for_each(|moved| self.lookup.touch(moved.hash));
            let mut hash = self.hash.lock();
            let files = self.files.load();
            for Moved { hash: key, from, to, length } in moved {
                let was_newest = match to {
                    Some(to) => hash.replace_if_hashed(*key, *from, *to),
                    None => hash.remove_if_hashed(*key, *from),
                };
                if was_newest {
                    if let Some(file) = files.of(*from) {
                        file.take_live_bytes(*length);
                    }
                    if let Some(file) = to.and_then(|to| files.of(to)) {
                        file.add_live_bytes(*length);
                    }
                }
            }
        }
    }

    /// What compaction dropped, for [`Self::forget_rows`]; `None` if the index does not know its place.
    pub(crate) fn gone(&self, row: &StoredRow<'_>, from: Option<PackedLocator>) -> Option<Gone> {
        let (key, from) = row.row.key().zip(from)?;
        Some(Gone { hash: self.lookup.hash(key), from, length: row.bytes.len() as u64 })
    }

    /// Lets the index forget keys of which nothing is left, unless it knows newer rows of them. Those that had a value (it has
    /// expired) are counted no more.
    pub(crate) fn forget_rows(&self, gone: &[Gone]) {
        for gone in gone.chunks(MOVED_AT_ONCE) {
            let mut puts = 0;
            let mut hash = self.hash.lock();
            let files = self.files.load();
            for Gone { hash: key, from, length } in gone {
                if !hash.remove_if_hashed(*key, *from) {
                    continue;
                }
                if let Some(file) = files.of(*from) {
                    file.take_live_bytes(*length);
                }
                if !is_tombstone(*from) {
                    puts += 1;
                    take(&self.live_bytes, *length);
                }
            }
            drop(hash);
            // Both at once, so that neither is taken from the other in between.
            let mut parts = self.parts.lock();
            take(&self.records, puts);
            parts.records = parts.records.saturating_sub(puts);
        }
    }

    /// Counts rows of a file that the index pointed at from the beginning.
    pub(crate) fn count_loaded(&self, handle: Handle, loaded: &Loaded) {
        self.records.fetch_add(loaded.puts, Relaxed);
        self.live_bytes.fetch_add(loaded.put_bytes, Relaxed);
        if let Some(file) = self.files.load().get(handle) {
            file.add_live_bytes(loaded.put_bytes + loaded.tombstone_bytes);
        }
    }

    /// Counts the rows of cold runs, as if each were of another key.
    pub(crate) fn count_cold(&self, runs: &[SortedRun]) {
        for file in runs.iter().filter(|run| run.cold).flat_map(|run| &run.files) {
            let statistics = &file.run.summary().statistics;
            self.records.fetch_add(statistics.rows - statistics.tombstones, Relaxed);
            self.live_bytes.fetch_add(statistics.row_bytes, Relaxed);
        }
    }

    /// Points a key at its row in a run, unless the index knows a newer one: how opening fills the index.
    pub(crate) fn load_row(&self, key: &[u8], sequence: Sequence, place: PackedLocator, length: u64) {
        let mut hash = self.hash.lock();
        let files = self.files.load();
        let (mut newer, mut known_bytes) = (None, 0);
        let inserted = hash.insert(key, place, |found| {
            let known = with_buffer(|buffer| row_of(&files, found, key, buffer));
            if let Known::Row(known, bytes) = known {
                known_bytes = bytes;
                newer = (known > sequence).then_some(found);
            }
            Ok::<_, Infallible>(!matches!(known, Known::AnotherKey))
        });
        match (inserted, newer) {
            (Ok(_), Some(newer)) => {
                hash.replace_if(key, place, newer);
            }
            (Ok(replaced), None) => {
                let replaced = replaced.map(|replaced| (replaced, known_bytes));
                self.count(&files, replaced, place, length);
            }
            (Err(_), _) => self.complete.store(false, Release),
        }
    }

    /// The index was loaded from a checkpoint that knew entries up to here, though not where they are now: it lacks the keys
    /// that were written last by one of them, also those that have older rows in runs.
    pub(crate) fn set_index_ahead(&self, through: Sequence) {
        self.index_ahead.store(through.0, Release);
    }

    /// Keeps count when a key's newest row changes.
    fn count(
        &self,
        files: &FileTable,
        replaced: Option<(PackedLocator, u64)>,
        place: PackedLocator,
        length: u64,
    ) {
        if let Some((replaced, replaced_bytes)) = replaced {
            if let Some(file) = files.of(replaced) {
                file.take_live_bytes(replaced_bytes);
            }
            if !is_tombstone(replaced) {
                self.records.fetch_sub(1, Relaxed);
                take(&self.live_bytes, replaced_bytes);
            }
        }
        if let Some(file) = files.of(place) {
            file.add_live_bytes(length);
        }
        if !is_tombstone(place) {
            self.records.fetch_add(1, Relaxed);
            self.live_bytes.fetch_add(length, Relaxed);
        }
    }
}

/// Takes from a count, and stops at zero: what was rounded must not wrap it around.
pub(crate) fn take(count: &AtomicU64, bytes: u64) {
    let _ = count.fetch_update(Relaxed, Relaxed, |live| Some(live.saturating_sub(bytes)));
}

/// What `take` makes of a row, unless that is a delete.
pub(crate) fn take_put<T>(found: &FoundRow, take: impl FnOnce(&StoredRow<'_>) -> T) -> Option<T> {
    found.row().filter(|row| row.row.is_put()).map(|row| take(&row))
}

/// The writer's hold on the index, for one batch.
struct Pointing<'a> {
    contents: &'a Contents,
    cold: Option<&'a View>,
    /// Whether a key may have a row though the index does not know it.
    keep_deletes: bool,
    hash: MutexGuard<'a, HashIndex>,
    files: Guard<Arc<FileTable>>,
}

impl Pointing<'_> {
    /// Points a key at its newest row. False: a delete of a key that has no row anywhere, which leaves no trace.
    ///
    /// Where some run is cold, whether a key that the index does not know is new is answered by the runs' filters: the
    /// count of records is then right but for their errors, about one in a hundred.
    fn point(&mut self, key: &[u8], key_hash: u64, place: PackedLocator, length: u64) -> bool {
        let Pointing { contents, cold, keep_deletes, hash, files } = self;
        let mut known_bytes = 0;
        let mut is_key = |found| {
            let known = with_buffer(|buffer| row_of(files, found, key, buffer));
            Ok::<_, Infallible>(match known {
                Known::Row(_, bytes) => {
                    known_bytes = bytes;
                    true
                }
                Known::AnotherKey => false,
            })
        };
        if is_tombstone(place) && cold.is_none() && !*keep_deletes {
            let Ok(Some(found)) = hash.reader().get_hashed(key_hash, &mut is_key) else { return false };
            hash.replace_if_hashed(key_hash, found, place);
            contents.count(files, Some((found, known_bytes)), place, length);
            return true;
        }
        match hash.insert_hashed(key_hash, place, is_key) {
            Ok(Some(replaced)) => contents.count(files, Some((replaced, known_bytes)), place, length),
            Ok(None) => {
                contents.count(files, None, place, length);
                if cold.is_some_and(|view| view.may_be_cold(key)) {
                    let _ = contents.records.fetch_update(Relaxed, Relaxed, |count| count.checked_sub(1));
                }
            }
            // Beyond four thousand million keys. From here on what it does not know is searched for.
            Err(_) => contents.complete.store(false, Release),
        }
        true
    }
}

/// The hashes of rows' keys; of a marker, of nothing. Where there are many, their places in the index are brought into the
/// processor's cache some rows before they are needed: waiting for memory would be most of the work.
struct Hashes<'a> {
    lookup: &'a HashReader,
    frames: Frames<'a>,
    ahead: [u64; TOUCHED_AHEAD],
    touched: usize,
    given: usize,
}

impl<'a> Hashes<'a> {
    fn new(lookup: &'a HashReader, frames: Frames<'a>) -> Hashes<'a> {
        Hashes { lookup, frames, ahead: [0; TOUCHED_AHEAD], touched: 0, given: 0 }
    }
}

impl Iterator for Hashes<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        while self.touched - self.given < TOUCHED_AHEAD
            && let Some(frame) = self.frames.next()
        {
            let hash = self.lookup.hash(frame.stored.row.key().unwrap_or_default());
            self.lookup.touch(hash);
            self.ahead[self.touched % TOUCHED_AHEAD] = hash;
            self.touched += 1;
        }
        let hash = self.ahead[self.given % TOUCHED_AHEAD];
        (self.given < self.touched).then(|| {
            self.given += 1;
            hash
        })
    }
}

/// What stands at a place.
enum Known {
    /// The key's row, with its sequence and its length; or a damaged one, of which only the class of its length is known. The index has some forty bits of each key's hash: if they
    /// agree and the row cannot be read, it is the key's. To take it for another's would leave two rows of one key in the index.
    Row(Sequence, u64),
    AnotherKey,
}

fn row_of(files: &FileTable, place: PackedLocator, key: &[u8], buffer: &mut Vec<u8>) -> Known {
    let damaged = Known::Row(Sequence(0), u64::from(place.length_max()));
    let Some(file) = files.of(place) else { return damaged };
    let Ok(bytes) = file.bytes_at(place, buffer) else { return damaged };
    match decode_stored(bytes) {
        Some(row) if row.row.key() == Some(key) => Known::Row(row.sequence, row.bytes.len() as u64),
        // Verified only now: this happens once in very many lookups.
        _ if verified(bytes).is_ok() => Known::AnotherKey,
        _ => damaged,
    }
}
