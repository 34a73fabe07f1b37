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

mod applying;

use std::collections::HashSet;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};

pub(crate) use self::applying::TOUCHED_TOGETHER;
use paddock_index::{HashIndex, HashReader, OrderedTail, PackedLocator};
use parking_lot::{Mutex, MutexGuard};

use crate::capture::Capture;
use crate::compaction::pace::Foreground;
use crate::damage::FirstDamage;
use crate::error::Result;
use crate::file_table::{FileEntry, Files, Handle, is_tombstone};
use crate::position::Sequence;
use crate::row::StoredRow;
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
    damage: FirstDamage,
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
    /// One more row, of so many bytes.
    pub(crate) fn note(&mut self, place: PackedLocator, bytes: u64) {
        if is_tombstone(place) {
            self.tombstone_bytes += bytes;
        } else {
            self.puts += 1;
            self.put_bytes += bytes;
        }
    }

    /// Without these. What was rounded may leave less than nothing, which is nothing.
    pub(crate) fn less(&self, lost: &Loaded) -> Loaded {
        Loaded {
            puts: self.puts.saturating_sub(lost.puts),
            put_bytes: self.put_bytes.saturating_sub(lost.put_bytes),
            tombstone_bytes: self.tombstone_bytes.saturating_sub(lost.tombstone_bytes),
        }
    }
}

/// Rows moved under one hold of the index's lock.
const MOVED_AT_ONCE: usize = 256;

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
    /// With an index that points into these files, and whether it has every key but those of cold runs.
    pub(crate) fn new(files: Files, hash: HashIndex, is_complete: bool) -> Contents {
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
            complete: AtomicBool::new(is_complete),
            index_ahead: AtomicU64::new(0),
            has_cold: AtomicBool::new(false),
            applied: AtomicU64::new(0),
            indexed: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            records: AtomicU64::new(0),
            live_bytes: AtomicU64::new(0),
            foreground: Foreground::default(),
            damage: FirstDamage::default(),
            checkpointed: Mutex::default(),
        }
    }

    /// What anybody came upon that is not as it was written.
    pub(crate) fn damage(&self) -> &FirstDamage {
        &self.damage
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

    /// Bytes of memory that the frozen tails take.
    pub(crate) fn frozen_bytes(&self) -> u64 {
        self.view().frozen.iter().map(|tail| tail.layers.memory_bytes() as u64).sum()
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
            damage: self.damage.clone(),
        };
        (capture, parts.records)
    }

    /// What `take` makes of a key's newest row; `None` when it has none or is deleted.
    pub(crate) fn read<T>(&self, key: &[u8], take: impl FnMut(&StoredRow<'_>) -> T) -> Result<Option<T>> {
        self.foreground.read_one();
        self.damage.note(self.look_up(key, take))
    }

    #[inline]
    fn look_up<T>(&self, key: &[u8], mut take: impl FnMut(&StoredRow<'_>) -> T) -> Result<Option<T>> {
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

    /// Whether a key is certain to have a value, as far as that is known without reading it: it is not of a key that may
    /// expire, nor of one of a cold run. For who writes: what is in the index is applied.
    pub(crate) fn surely_has(&self, key: &[u8]) -> bool {
        let files = self.files.load();
        let is_it = |place| {
            let is_it =
                |file: &Arc<FileEntry>| with_buffer(|buffer| file.is_lasting_row_of(place, key, buffer));
            Ok::<_, Infallible>(files.lasting(place).is_some_and(is_it))
        };
        let found = self.lookup.get(key, is_it).unwrap_or_else(|never| match never {});
        found.is_some_and(|place| !is_tombstone(place))
    }

    /// Reads a key's row as [`Self::apply`] will have to, and forgets it.
    pub(crate) fn warm(&self, key: &[u8]) {
        let files = self.files.load();
        // A row that is moved meanwhile is nothing to wait for.
        let is_key = |place| {
            let is_it = |buffer: &mut Vec<u8>| files.length_of(place, key, buffer).is_some();
            Ok::<_, Infallible>(files.lasting(place).is_none() || with_buffer(is_it))
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
        match self.damage.note(self.read_hashed(key, capture.at, &mut take))? {
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
            // Before the look: see file_table.rs.
            let files = self.files.load();
            self.lookup.get(key, |place| {
                let Some(file) = files.lasting(place) else {
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

    /// The index was loaded from a checkpoint that knew entries up to here, though not where they are now: it lacks the keys
    /// that were written last by one of them, also those that have older rows in runs.
    pub(crate) fn set_index_ahead(&self, through: Sequence) {
        self.index_ahead.store(through.0, Release);
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
