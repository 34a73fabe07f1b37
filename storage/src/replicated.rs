//! The store as a replicated log.
//!
//! One owner appends entries, makes them durable and applies them, as three separate steps, because a
//! replication protocol decides between them: an entry is acknowledged once it is durable, and applied once it is
//! committed. What is not applied can still be cut off again; what is applied cannot.
//!
//! ```text
//! append ──> sync ──> (acknowledge) ... (committed) ──> apply ──> readers see it
//!               └──────────────────────────── truncate_after: only here
//! ```
//!
//! What it does not do: it does not know what is committed (it is told), it takes no locks among writers (there
//! is one), and it never waits for compaction: an owner asks [`ReplicatedStore::is_congested`] before it takes more in.

mod ahead;
mod append;
mod checkpoint;
mod flush;
mod open;
mod read;
mod release;
#[cfg(test)]
mod tests;
mod truncate;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::batch::LogEntries;
use crate::clock::{Clock, Expiry};
use crate::compaction::CompactionStats;
use crate::contents::Contents;
use crate::damage::Damage;
use crate::directory::Directory;
use crate::durability::SyncGate;
use crate::error::{Error, Result};
use crate::files::Catalogue;
use crate::header::StoreId;
use crate::lock::Lock;
use crate::maintenance::{Board, Maintenance};
use crate::manifest::{Kind, Manifest, Stage};
use crate::memory::{Memory, MemoryStats};
use crate::options::Options;
use crate::pending::Pending;
use crate::position::{EpochStart, Position, Sequence};
use crate::reader::Reader;
use crate::recovery::Recovery;
use crate::scrub::Scrubber;
use crate::segment::{Chain, Segment};
use crate::spare::SparePlace;

use flush::RunningCompaction;

pub use append::{APPEND_OVERHEAD_BYTES, Need};
pub use checkpoint::Checkpointer;
pub use read::Verification;
pub use release::LogRetention;

/// A store as a log with explicit durability, and an index that advances only over committed entries.
///
/// It has one owner, and every change goes through `&mut self`. [`ReplicatedStore::reader`] gives handles that
/// read from any thread.
///
/// ```
/// # use paddock_storage::{LogEntries, Options, Readable, ReplicatedStore, RowsBuilder, Sequence};
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("replica");
/// let mut store = ReplicatedStore::open(&path, Options::new())?;
/// let reader = store.reader();
///
/// let mut rows = RowsBuilder::new();
/// rows.put(b"heron", b"grey")?;
/// rows.put(b"robin", b"red")?;
/// let first = store.last().sequence.next();
/// store.append(&LogEntries { epoch: 1, first, log_time_ms: 0, rows: rows.finish() }, store.known_commit())?;
///
/// // Durable: it may be acknowledged. Nobody reads it yet.
/// assert_eq!(store.sync()?, Sequence(2));
/// assert_eq!(reader.get(b"heron")?, None);
///
/// // Committed: from now on it is read, and stays.
/// store.apply(Sequence(1))?;
/// assert_eq!(reader.get(b"heron")?.as_deref(), Some(&b"grey"[..]));
///
/// // Never committed: another leader has something else in its place.
/// store.truncate_after(Sequence(1))?;
/// assert_eq!(store.last().sequence, Sequence(1));
/// assert_eq!(store.read_log(Sequence(0), 1 << 20)?.len(), 1);
///
/// // A small value beside the log, for what the protocol must not forget.
/// store.set_metadata(b"epoch 2")?;
/// store.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ReplicatedStore {
    /// First, so that it ends before the lock is let go of.
    compaction: RunningCompaction,
    /// Before the lock, too: its thread makes files.
    maintenance: Maintenance,
    /// The next segment, where that was made ahead.
    spare: SparePlace,
    /// So long the active segment is when the next one is made ahead; `None` where that is never done.
    make_ahead_bytes: Option<u64>,
    /// Whether it was asked for since this segment began.
    made_ahead: bool,
    flush_bytes: Option<u64>,
    /// Bytes of the log since the tail was frozen last, about.
    tail_log_bytes: u64,
    directory: Directory,
    segment_bytes: u64,
    extent_bytes: u64,
    /// Held for its drop.
    _lock: Lock,
    manifest: Manifest,
    /// All but the newest; entries of a segment end where the next one begins.
    sealed: Vec<Segment>,
    active: Segment,
    chain: Chain,
    durable: Sequence,
    /// The durable sequence that the log itself proves.
    proven: Sequence,
    /// Everything up to here was applied before the store was opened, so far as its saved index knew.
    was_applied: Sequence,
    known_commit: Sequence,
    epochs: Vec<EpochStart>,
    pending: Pending,
    contents: Arc<Contents>,
    log_retention: LogRetention,
    /// From here on the log is kept, whatever its retention.
    held_from: Option<Sequence>,
    /// What was settled when segments were last let go.
    released: Sequence,
    /// Which runs there are. Held by whoever changes FILES.
    catalogue: Arc<Mutex<Catalogue>>,
    memory: Arc<Memory>,
    expiry: Expiry,
    recovery: Recovery,
    poison: Option<String>,
    /// Every fsync of entries goes through it.
    gate: SyncGate,
    clock: Clock,
    /// Bytes that a reservation still covers.
    reserved: u64,
    syncs: u64,
    /// What `syncs` was when it was last decided whether zeros are written ahead.
    syncs_at_fill: u64,
    /// How far the active segment was written when an fsync was last made or asked for.
    sync_asked: u64,
    /// Reused by every append.
    buffer: Vec<u8>,
}

impl fmt::Debug for ReplicatedStore {
    /// Where it stands, and not all of its keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicatedStore")
            .field("path", &self.directory.path)
            .field("last", &self.last())
            .field("durable", &self.durable)
            .field("poison", &self.poison)
            .finish_non_exhaustive()
    }
}

/// Figures of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Keys that have a value.
    pub records: u64,
    /// Bytes of disk that the log takes, with what is preallocated. Runs are beside it: [`CompactionStats::run_bytes`].
    pub disk_bytes: u64,
    /// Bytes of the rows that keys point at, uncompressed, wherever they are. What the log and the runs have beyond that is
    /// overwritten, deleted or overhead.
    pub live_bytes: u64,
    /// Files of the log.
    pub segments: u64,
    /// How many fsyncs made entries durable since opening.
    pub syncs: u64,
    /// About how many bytes of memory the indexes take: the hash index, the growing tail, and those that wait to be flushed.
    /// What is known of runs is in [`MemoryStats::lookup_bytes`].
    pub index_bytes: u64,
    /// The last entry of the log.
    pub last: Sequence,
    /// The last entry that is on the disk for certain.
    pub durable: Sequence,
    /// What compaction has done, and what is there for it.
    pub compaction: CompactionStats,
    /// How the memory budget is used for files and blocks.
    pub memory: MemoryStats,
}

impl ReplicatedStore {
    /// Opens a store, or makes a new one where there is none, missing parent directories included. Takes the lock,
    /// verifies the log as far as it is not in runs yet, and builds the index up to what the log proves to be committed.
    ///
    /// ```
    /// use paddock_storage::{Error, Options, ReplicatedStore};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// let store = ReplicatedStore::open(directory.path(), Options::new())?;
    /// assert!(matches!(ReplicatedStore::open(directory.path(), Options::new()), Err(Error::Locked { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Corrupt`], [`Error::Format`], [`Error::WrongKind`], [`Error::Io`],
    /// [`Error::DiskFull`] (only in making a store).
    pub fn open(path: &Path, options: Options) -> Result<Self> {
        Self::open_kind(path, options, Kind::Replicated)
    }

    /// What opening found: how many entries, whether a torn tail was dropped.
    ///
    /// ```
    /// # use paddock_storage::{Options, ReplicatedStore};
    /// # let directory = tempfile::tempdir()?;
    /// # let store = ReplicatedStore::open(directory.path(), Options::new())?;
    /// assert!(store.recovery().created);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// The store's directory, as an absolute path.
    ///
    /// ```
    /// # use paddock_storage::{Options, ReplicatedStore};
    /// # let directory = tempfile::tempdir()?;
    /// # let store = ReplicatedStore::open(directory.path(), Options::new())?;
    /// assert!(store.path().is_absolute());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.directory.path
    }

    /// What tells this store from any other: random, made with it.
    ///
    /// ```
    /// # use paddock_storage::{Options, ReplicatedStore};
    /// # let directory = tempfile::tempdir()?;
    /// # let store = ReplicatedStore::open(directory.path(), Options::new())?;
    /// assert_eq!(store.store_id().to_string().len(), 32);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn store_id(&self) -> StoreId {
        self.manifest.store_id
    }

    /// The last entry appended.
    ///
    /// ```
    /// # use paddock_storage::{LogEntries, Options, Position, ReplicatedStore, RowsBuilder, Sequence};
    /// # let directory = tempfile::tempdir()?;
    /// # let mut store = ReplicatedStore::open(directory.path(), Options::new())?;
    /// # let mut rows = RowsBuilder::new();
    /// # rows.put(b"heron", b"grey")?;
    /// # let first = store.last().sequence.next();
    /// # store.append(&LogEntries { epoch: 1, first, log_time_ms: 0, rows: rows.finish() }, Sequence(0))?;
    /// assert_eq!(store.last(), Position { epoch: 1, sequence: Sequence(1) });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn last(&self) -> Position {
        Position { epoch: self.chain.epoch, sequence: self.chain.next.previous() }
    }

    /// Everything up to here is on the disk for certain.
    ///
    /// ```
    /// # use paddock_storage::{LogEntries, Options, ReplicatedStore, RowsBuilder, Sequence};
    /// # let directory = tempfile::tempdir()?;
    /// # let mut store = ReplicatedStore::open(directory.path(), Options::new())?;
    /// # let mut rows = RowsBuilder::new();
    /// # rows.put(b"heron", b"grey")?;
    /// # let first = store.last().sequence.next();
    /// # store.append(&LogEntries { epoch: 1, first, log_time_ms: 0, rows: rows.finish() }, Sequence(0))?;
    /// assert_eq!(store.durable(), Sequence(0));
    /// store.sync()?;
    /// assert_eq!(store.durable(), Sequence(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn durable(&self) -> Sequence {
        self.durable
    }

    /// The first entry that the log still has: see [`Error::Reclaimed`].
    ///
    /// ```
    /// use paddock_storage::{Options, ReplicatedStore, Sequence};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// let store = ReplicatedStore::open(directory.path(), Options::new())?;
    /// assert_eq!(store.log_first(), Sequence(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn log_first(&self) -> Sequence {
        self.segments().next().map_or(self.chain.next, Segment::first)
    }

    /// Everything up to here is in the index. After opening: the smaller of `known_commit()` and `last()`.
    ///
    /// ```
    /// # use paddock_storage::{LogEntries, Options, ReplicatedStore, RowsBuilder, Sequence};
    /// # let directory = tempfile::tempdir()?;
    /// # let mut store = ReplicatedStore::open(directory.path(), Options::new())?;
    /// # let mut rows = RowsBuilder::new();
    /// # rows.put(b"heron", b"grey")?;
    /// # let first = store.last().sequence.next();
    /// # store.append(&LogEntries { epoch: 1, first, log_time_ms: 0, rows: rows.finish() }, Sequence(0))?;
    /// assert_eq!(store.applied(), Sequence(0));
    /// store.sync()?;
    /// store.apply(Sequence(1))?;
    /// assert_eq!(store.applied(), Sequence(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn applied(&self) -> Sequence {
        self.contents.applied()
    }

    /// The commit that the log itself proves, a lower bound after a restart.
    ///
    /// ```
    /// # use paddock_storage::{LogEntries, Options, ReplicatedStore, RowsBuilder, Sequence};
    /// # let directory = tempfile::tempdir()?;
    /// # let mut store = ReplicatedStore::open(directory.path(), Options::new())?;
    /// # let mut rows = RowsBuilder::new();
    /// # rows.put(b"heron", b"grey")?;
    /// # let first = store.last().sequence.next();
    /// # store.append(&LogEntries { epoch: 1, first, log_time_ms: 0, rows: rows.finish() }, Sequence(0))?;
    /// store.sync()?;
    /// store.apply(Sequence(1))?;
    /// assert_eq!(store.known_commit(), Sequence(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn known_commit(&self) -> Sequence {
        self.known_commit
    }

    /// Where each epoch of the log begins, ascending. Only epochs with entries.
    ///
    /// ```
    /// # use paddock_storage::{EpochStart, LogEntries, Options, ReplicatedStore, RowsBuilder, Sequence};
    /// # let directory = tempfile::tempdir()?;
    /// # let mut store = ReplicatedStore::open(directory.path(), Options::new())?;
    /// # let mut rows = RowsBuilder::new();
    /// # rows.put(b"heron", b"grey")?;
    /// # let first = store.last().sequence.next();
    /// # store.append(&LogEntries { epoch: 1, first, log_time_ms: 0, rows: rows.finish() }, Sequence(0))?;
    /// assert_eq!(store.epochs(), [EpochStart { epoch: 1, first: Sequence(1) }]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn epochs(&self) -> &[EpochStart] {
        &self.epochs
    }

    /// Advances the index over entries up to `through`: from now on readers see them, all of one call at once,
    /// and they can no longer be cut off. Reads nothing from the disk. What is applied already is no error.
    ///
    /// ```
    /// # use paddock_storage::{LogEntries, Options, Readable, ReplicatedStore, RowsBuilder, Sequence};
    /// # let directory = tempfile::tempdir()?;
    /// # let mut store = ReplicatedStore::open(directory.path(), Options::new())?;
    /// # let mut rows = RowsBuilder::new();
    /// # rows.put(b"heron", b"grey")?;
    /// # let first = store.last().sequence.next();
    /// # store.append(&LogEntries { epoch: 1, first, log_time_ms: 0, rows: rows.finish() }, Sequence(0))?;
    /// let reader = store.reader();
    /// store.sync()?;
    /// assert_eq!(reader.get(b"heron")?, None);
    /// store.apply(Sequence(1))?;
    /// assert_eq!(reader.get(b"heron")?.as_deref(), Some(&b"grey"[..]));
    /// assert!(store.apply(Sequence(2)).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Misplaced`] beyond `last()`.
    pub fn apply(&mut self, through: Sequence) -> Result<()> {
        let last = self.last().sequence;
        if through > last {
            let what = "entries to apply end beyond the log";
            return Err(Error::Misplaced { what, actual: through.0, expected: last.0 });
        }
        self.pending.apply(through, &self.contents);
        self.freeze_if_due()?;
        self.let_log_go()?;
        self.known_commit = self.known_commit.max(through);
        Ok(())
    }

    /// A small durable value of the owner's, empty in a new store.
    ///
    /// ```
    /// # use paddock_storage::{Options, ReplicatedStore};
    /// # let directory = tempfile::tempdir()?;
    /// # let store = ReplicatedStore::open(directory.path(), Options::new())?;
    /// assert!(store.metadata().is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn metadata(&self) -> &[u8] {
        &self.manifest.metadata
    }

    /// Replaces the owner's value, durably (and has a store that was received count at its place): at most [`crate::METADATA_BYTES_MAX`] bytes. A crash leaves the old or
    /// the new one. Works on a full disk, too: room for it is kept (where the file system can exchange two files, and
    /// write in place, as ext4 and XFS do).
    ///
    /// ```
    /// # use paddock_storage::{Options, ReplicatedStore};
    /// # let directory = tempfile::tempdir()?;
    /// # let mut store = ReplicatedStore::open(directory.path(), Options::new())?;
    /// store.set_metadata(b"epoch 7")?;
    /// assert_eq!(store.metadata(), b"epoch 7");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::TooLarge`]; [`Error::DiskFull`] (nothing changed); [`Error::Io`] and [`Error::Poisoned`].
    pub fn set_metadata(&mut self, metadata: &[u8]) -> Result<()> {
        self.writable()?;
        let metadata = metadata.to_vec();
        let manifest = Manifest { metadata, stage: Stage::Store, ..self.manifest.clone() };
        let stored = manifest.replace(&self.directory);
        self.poisoning(stored)?;
        self.manifest = manifest;
        Ok(())
    }

    /// A read handle, which sees what is applied.
    ///
    /// ```
    /// # use paddock_storage::{Options, Readable, ReplicatedStore};
    /// # let directory = tempfile::tempdir()?;
    /// # let store = ReplicatedStore::open(directory.path(), Options::new())?;
    /// let reader = store.reader();
    /// assert_eq!(std::thread::spawn(move || reader.get(b"heron")).join().unwrap()?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new(self.contents.clone(), self.expiry.clone())
    }

    /// Figures for graphs and budgets.
    ///
    /// ```
    /// # use paddock_storage::{Options, ReplicatedStore};
    /// # let directory = tempfile::tempdir()?;
    /// # let store = ReplicatedStore::open(directory.path(), Options::new())?;
    /// assert_eq!(store.stats().records, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn stats(&self) -> Stats {
        let contents = &self.contents;
        Stats {
            records: contents.records(),
            disk_bytes: self.segments().map(|segment| segment.allocated).sum(),
            live_bytes: contents.live_bytes(),
            segments: self.segments().count() as u64,
            syncs: self.syncs,
            index_bytes: contents.hash_bytes() + contents.tail_bytes() + contents.frozen_bytes(),
            last: self.last().sequence,
            durable: self.durable,
            compaction: self.compaction.0.stats(),
            memory: self.active.file.memory().stats(),
        }
    }

    /// The first damage that anybody has come upon since the store was opened: who read, compaction, or a [`Scrubber`]. The store
    /// goes on; what is damaged is never handed out, and never goes away by itself.
    ///
    /// ```
    /// # use paddock_storage::{Options, ReplicatedStore};
    /// # let directory = tempfile::tempdir()?;
    /// # let store = ReplicatedStore::open(directory.path(), Options::new())?;
    /// assert_eq!(store.damage(), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn damage(&self) -> Option<&Damage> {
        self.contents.damage().get()
    }

    /// What reads all files that do not change any more and verifies them, a little at a time, from any thread, while the store is in
    /// use: to find damage before somebody needs what is damaged.
    ///
    /// ```
    /// # use paddock_storage::{Options, ReplicatedStore};
    /// # let directory = tempfile::tempdir()?;
    /// # let store = ReplicatedStore::open(directory.path(), Options::new())?;
    /// let mut scrubber = store.scrubber();
    /// let scrubbing = std::thread::spawn(move || {
    ///     while !scrubber.step(1 << 20)?.is_complete {}
    ///     Ok::<_, paddock_storage::Error>(())
    /// });
    /// scrubbing.join().unwrap()?;
    /// assert_eq!(store.damage(), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn scrubber(&self) -> Scrubber {
        Scrubber::new(self.contents.clone(), self.directory.clone(), self.store_id())
    }

    /// Makes everything durable, gives back unused preallocation (all but the headroom for a full disk) and what of the log
    /// was flushed, and lets go of the lock. Dropping the store instead is safe too, and is what a crash does.
    ///
    /// ```
    /// # use paddock_storage::{LogEntries, Options, ReplicatedStore, RowsBuilder, Sequence};
    /// # let directory = tempfile::tempdir()?;
    /// # let mut store = ReplicatedStore::open(directory.path(), Options::new())?;
    /// # let mut rows = RowsBuilder::new();
    /// # rows.put(b"heron", b"grey")?;
    /// # let first = store.last().sequence.next();
    /// # store.append(&LogEntries { epoch: 1, first, log_time_ms: 0, rows: rows.finish() }, Sequence(0))?;
    /// store.close()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Poisoned`].
    pub fn close(mut self) -> Result<()> {
        self.finish()
    }

    /// Where the store's own thread is told what is due.
    pub(crate) fn board(&self) -> Arc<Board> {
        self.maintenance.board()
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// Starts the store's own thread.
    pub(crate) fn start_maintenance(&mut self) -> Result<()> {
        self.maintenance.start().map_err(Error::io(&self.directory.path))
    }

    fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.sealed.iter().chain(std::iter::once(&self.active))
    }

    fn writable(&self) -> Result<()> {
        match &self.poison {
            Some(reason) => Err(Error::Poisoned { reason: reason.clone() }),
            None => self.gate.check().and_then(|()| self.compaction.0.check()),
        }
    }

    /// Passes the outcome of a write on. Unless it is a refusal that left everything as it was, a failure ends all
    /// writing for good: nothing is known about the disk any more, and to try again could pretend success.
    fn poisoning<T>(&mut self, outcome: Result<T>) -> Result<T> {
        if let Err(error) = &outcome
            && !matches!(error, Error::DiskFull { .. } | Error::TooLarge { .. } | Error::Misplaced { .. })
        {
            self.poison.get_or_insert_with(|| error.to_string());
        }
        outcome
    }

    /// Ends all writing for good, since nobody knows how far the last write came.
    pub(crate) fn poison(&mut self, reason: &str) {
        self.poison.get_or_insert_with(|| reason.to_string());
    }

    /// Notes in memory what the log now holds.
    fn note_entries(&mut self, epoch: u64, first: Sequence) {
        if self.epochs.last().is_none_or(|last| last.epoch < epoch) {
            self.epochs.push(EpochStart { epoch, first });
        }
    }
}

/// Whether rows only free space or steer: those may use the headroom of a full disk.
fn is_control(entries: &LogEntries) -> bool {
    entries.rows.iter().all(|row| !matches!(row, crate::row::RowRef::Put { .. }))
}
