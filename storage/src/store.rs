//! The embedder's store: a durable, ordered map of bytes to bytes.

use std::ops::RangeBounds;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::builder::Builder;
use crate::changes::Changes;
use crate::clock::Clock;
use crate::commit::{Expectation, Outcome, Request};
use crate::compaction::Compaction;
use crate::damage::Damage;
use crate::durability::Durability;
use crate::error::{Error, Result};
use crate::group::Group;
use crate::manifest::Kind;
use crate::options::Options;
use crate::position::Sequence;
use crate::range::Range;
use crate::reader::{Readable, Reader};
use crate::record::RecordRef;
use crate::recovery::Recovery;
use crate::replicated::{ReplicatedStore, Stats, Verification};
use crate::row::{Rows, RowsBuilder};
use crate::scrub::Scrubber;
use crate::snapshot::Snapshot;
use crate::write::{Conflict, Expected, WriteBatch, WriteOptions};

/// A durable, ordered map of bytes to bytes, in a directory.
///
/// Handles are cheap to clone and can be used from any thread. A write has reached the disk when its call returns,
/// unless [`Durability`] says otherwise; callers that write at the same time share an fsync. Reading is [`Readable`]'s.
///
/// ```
/// use paddock_storage::{Readable, Store};
///
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("fruit");
/// let store = Store::open(&path)?;
/// store.insert(b"apple", b"red")?;
/// store.insert(b"pear", b"green")?;
/// assert_eq!(store.get(b"apple")?.as_deref(), Some(&b"red"[..]));
/// store.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Store {
    group: Arc<Group>,
    compaction: Arc<Compaction>,
    reader: Reader,
    recovery: Arc<Recovery>,
    path: Arc<Path>,
    durability: Durability,
    clock: Clock,
}

impl Store {
    /// Opens the store in a directory, or makes a new one there, missing parent directories included.
    ///
    /// ```
    /// use paddock_storage::{Error, Store};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("store");
    /// let store = Store::open(&path)?;
    /// assert!(store.recovery().created);
    /// // One process has it, and only once.
    /// assert!(matches!(Store::open(&path), Err(Error::Locked { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`crate::Error::Locked`], [`crate::Error::Corrupt`], [`crate::Error::Format`], [`crate::Error::WrongKind`],
    /// [`crate::Error::Io`], [`crate::Error::DiskFull`].
    pub fn open(path: impl AsRef<Path>) -> Result<Store> {
        Store::builder(path).open()
    }

    /// Opens a store with options.
    ///
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("store");
    /// // A small device: small files.
    /// let store = paddock_storage::Store::builder(&path).segment_bytes(1 << 20).extent_bytes(64 << 10).open()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn builder(path: impl AsRef<Path>) -> Builder {
        Builder::new(path.as_ref().to_path_buf())
    }

    pub(crate) fn open_with(path: &Path, options: Options) -> Result<Store> {
        let Options { durability, sync_interval, background, .. } = options;
        let clock = options.clock.clone();
        let mut store = ReplicatedStore::open_kind(path, options, Kind::Standalone)?;
        store.start_maintenance()?;
        let (reader, recovery) = (store.reader(), Arc::new(store.recovery().clone()));
        let path = store.path().into();
        let compaction = store.compaction();
        if background {
            // Otherwise who writes or asks for compaction lets go of the log, too.
            let board = store.board();
            compaction.when_settled(move || board.release_log());
        }
        let group = Arc::new(Group::new(store, sync_interval));
        Ok(Store { group, compaction, reader, recovery, path, durability, clock })
    }

    /// What opening found.
    ///
    /// ```
    /// use paddock_storage::Store;
    ///
    /// # let directory = tempfile::tempdir()?;
    /// let store = Store::open(directory.path())?;
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
    /// use paddock_storage::Store;
    ///
    /// # let directory = tempfile::tempdir()?;
    /// let store = Store::open(directory.path())?;
    /// assert!(store.path().is_absolute());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is true now, for as long as you keep it. See [`Snapshot`].
    ///
    /// ```
    /// use paddock_storage::{Readable, Store};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let store = Store::open(directory.path())?;
    /// store.insert("robin", "red")?;
    /// let before = store.snapshot();
    /// store.remove("robin")?;
    /// assert!(before.contains_key(b"robin")? && !store.contains_key(b"robin")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.reader.snapshot()
    }

    /// Gives a key a value, whether it had one or not. Returns the write's version.
    ///
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// # let store = paddock_storage::Store::open(directory.path())?;
    /// let first = store.insert(b"colour", b"red")?;
    /// let second = store.insert(b"colour", b"blue")?;
    /// assert!(first < second);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`crate::Error::EmptyKey`], [`crate::Error::TooLarge`], [`crate::Error::DiskFull`]: nothing was written.
    /// [`crate::Error::Io`], [`crate::Error::Poisoned`]: it may or may not survive. [`crate::Error::Closed`].
    pub fn insert(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Sequence> {
        self.must(put(key.as_ref(), value.as_ref())?)
    }

    /// Gives a key a value with options, or if it is as expected. The outer result is a fault, the inner one a lost race.
    ///
    /// ```
    /// use paddock_storage::Expected;
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let store = paddock_storage::Store::open(directory.path())?;
    /// let version = store.insert(b"seat 12", b"free")?;
    /// assert!(store.insert_with(b"seat 12", b"Ada", Expected::Version(version))?.is_ok());
    ///
    /// let lost = store.insert_with(b"seat 12", b"Bob", Expected::Version(version))?.unwrap_err();
    /// assert_eq!(lost.current.unwrap().value, "Ada");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Store::insert`].
    pub fn insert_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: impl Into<WriteOptions>,
    ) -> Result<std::result::Result<Sequence, Conflict>> {
        let options = options.into();
        let mut rows = RowsBuilder::new();
        rows.put_with(key.as_ref(), value.as_ref(), &options.kept(&self.clock))?;
        let rows = rows.finish();
        self.with_options(rows, key.as_ref(), &options)
    }

    /// Takes a key away. Returns whether it had a value.
    ///
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// # let store = paddock_storage::Store::open(directory.path())?;
    /// store.insert(b"colour", b"red")?;
    /// assert!(store.remove(b"colour")?);
    /// assert!(!store.remove(b"colour")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Store::insert`].
    pub fn remove(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.remove_with(key, Expected::Present)?.is_ok())
    }

    /// Takes a key away with options, or if it is as expected.
    ///
    /// ```
    /// use paddock_storage::Expected;
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let store = paddock_storage::Store::open(directory.path())?;
    /// let version = store.insert(b"lease", b"mine")?;
    /// store.insert(b"lease", b"another's")?;
    /// assert!(store.remove_with(b"lease", Expected::Version(version))?.is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Store::insert`].
    pub fn remove_with(
        &self,
        key: impl AsRef<[u8]>,
        options: impl Into<WriteOptions>,
    ) -> Result<std::result::Result<Sequence, Conflict>> {
        let options = options.into();
        let rows = delete(key.as_ref())?;
        self.with_options(rows, key.as_ref(), &options)
    }

    /// Sets a key's value if it has the expected one; `None` is no value. The outer result is a fault, the inner one
    /// a lost race.
    ///
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// # let store = paddock_storage::Store::open(directory.path())?;
    /// assert!(store.compare_and_swap(b"counter", None, Some(b"1"))?.is_ok());
    /// assert!(store.compare_and_swap(b"counter", None, Some(b"1"))?.is_err());
    /// assert!(store.compare_and_swap(b"counter", Some(b"1"), Some(b"2"))?.is_ok());
    /// assert!(store.compare_and_swap(b"counter", Some(b"2"), None)?.is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Store::insert`].
    pub fn compare_and_swap(
        &self,
        key: impl AsRef<[u8]>,
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
    ) -> Result<std::result::Result<Sequence, Conflict>> {
        let key = key.as_ref();
        let rows = match new {
            Some(value) => put(key, value)?,
            None => delete(key)?,
        };
        let expectation = match expected {
            Some(value) => Expectation::Value(Bytes::copy_from_slice(value)),
            None => Expectation::Absent,
        };
        self.submit(rows, vec![(Bytes::copy_from_slice(key), expectation)], None)
    }

    /// A batch without writes, whose times are of this store's clock.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use paddock_storage::WriteOptions;
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let store = paddock_storage::Store::open(directory.path())?;
    /// let mut batch = store.batch();
    /// batch.insert_with("session 1", "Ada", WriteOptions::new().ttl(Duration::from_secs(60)))?;
    /// store.write(batch)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn batch(&self) -> WriteBatch {
        WriteBatch { clock: self.clock.clone(), ..WriteBatch::new() }
    }

    /// Carries out several writes together. Returns the version of the last one.
    ///
    /// ```
    /// use paddock_storage::{Readable, WriteBatch};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let store = paddock_storage::Store::open(directory.path())?;
    /// let mut batch = WriteBatch::new();
    /// batch.insert(b"from", b"90")?.insert(b"to", b"110")?.remove(b"pending")?;
    /// store.write(batch)?;
    /// assert_eq!(store.len(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Store::insert`]. [`crate::Error::Conflict`]: a condition of the batch does not hold, and nothing was written.
    pub fn write(&self, batch: WriteBatch) -> Result<Sequence> {
        self.write_if(batch)?.map_err(|Conflict { key, .. }| Error::Conflict { key })
    }

    /// Carries out several writes together if all of them find their keys as they expect them. The outer result is a fault,
    /// the inner one a lost race.
    ///
    /// ```
    /// use paddock_storage::{Expected, WriteBatch};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let store = paddock_storage::Store::open(directory.path())?;
    /// let version = store.insert(b"from", b"100")?;
    /// let mut transfer = WriteBatch::new();
    /// transfer.insert_with(b"from", b"90", Expected::Version(version))?;
    /// transfer.insert_with(b"to", b"10", Expected::Absent)?;
    /// assert!(store.write_if(transfer.clone())?.is_ok());
    /// assert_eq!(store.write_if(transfer)?.unwrap_err().key, "from");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Store::insert`].
    pub fn write_if(&self, batch: WriteBatch) -> Result<std::result::Result<Sequence, Conflict>> {
        let WriteBatch { rows, conditions, durability, .. } = batch;
        self.submit(rows.finish(), conditions, durability)
    }

    /// Makes every write durable that has returned so far, however it was written.
    ///
    /// ```
    /// use paddock_storage::{Durability, Store};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// let store = Store::builder(directory.path()).durability(Durability::Buffered).open()?;
    /// for number in 0..1_000_u32 {
    ///     store.insert(number.to_be_bytes(), "x")?;
    /// }
    /// store.sync()?;
    /// assert_eq!(store.stats()?.durable, store.stats()?.last);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`crate::Error::Io`]: some may be lost, and the store takes no more writes; [`crate::Error::Poisoned`],
    /// [`crate::Error::Closed`].
    pub fn sync(&self) -> Result<()> {
        self.submit(Rows::default(), Vec::new(), Some(Durability::Sync)).map(drop)
    }

    /// The changes after a version, oldest first, as far as they are durable: what a crash could take is not among them, so
    /// that nobody who follows them is ever ahead. At the end the iterator gives `None`, and goes on once there is more.
    ///
    /// The log keeps what [`crate::Options::log_retention`] says, and by default as little as it can.
    ///
    /// ```
    /// use paddock_storage::{Sequence, Store};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let store = Store::open(directory.path())?;
    /// let first = store.insert("robin", "red")?;
    /// store.remove("robin")?;
    /// let mut changes = store.changes(first);
    /// let removed = changes.next().transpose()?.unwrap();
    /// assert_eq!((&removed.key[..], removed.record), (&b"robin"[..], None));
    /// assert!(changes.next().is_none());
    /// store.insert("wren", "brown")?;
    /// assert!(changes.next().is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// The iterator's errors are [`crate::Error::Reclaimed`] (the log no longer goes back so far: read the contents
    /// instead), [`crate::Error::Corrupt`], [`crate::Error::Io`], [`crate::Error::Closed`]; after one it is at its end.
    #[must_use]
    pub fn changes(&self, after: Sequence) -> Changes {
        Changes::new(self.group.clone(), after)
    }

    /// Figures for graphs and budgets.
    ///
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// # let store = paddock_storage::Store::open(directory.path())?;
    /// store.insert(b"colour", b"red")?;
    /// assert_eq!(store.stats()?.records, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`crate::Error::Closed`].
    pub fn stats(&self) -> Result<Stats> {
        self.group.with(|store| Ok(store.stats()))
    }

    /// The first damage that anybody has come upon since the store was opened: who read, compaction, or a [`Scrubber`]. The store
    /// goes on; what is damaged is never handed out, and never goes away by itself.
    ///
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// # let store = paddock_storage::Store::open(directory.path())?;
    /// assert_eq!(store.damage()?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`crate::Error::Closed`].
    pub fn damage(&self) -> Result<Option<Damage>> {
        self.group.with(|store| Ok(store.damage().cloned()))
    }

    /// What reads all files that do not change any more and verifies them, a little at a time, from any thread, while the store is in
    /// use: to find damage before somebody needs what is damaged. Nobody waits for it.
    ///
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// # let store = paddock_storage::Store::open(directory.path())?;
    /// let mut scrubber = store.scrubber()?;
    /// while !scrubber.step(1 << 20)?.is_complete {
    ///     // Wait here, for as long as that many bytes are to take.
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`crate::Error::Closed`].
    pub fn scrubber(&self) -> Result<Scrubber> {
        self.group.with(|store| Ok(store.scrubber()))
    }

    /// Reads the whole log and all runs as they are now, and verifies every checksum, sequence and link. Others read and write
    /// meanwhile; what they write is not waited for.
    ///
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// # let store = paddock_storage::Store::open(directory.path())?;
    /// store.insert(b"colour", b"red")?;
    /// assert_eq!(store.verify()?.entries, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] names the first damaged place; [`crate::Error::Io`], [`crate::Error::Closed`].
    pub fn verify(&self) -> Result<Verification> {
        self.group.with(|store| Ok(store.verifier()))?.run()
    }

    /// Writes all records to one file in the order of their keys (or to several, if there is much), without what was
    /// overwritten, deleted or has expired, and gives all other space back. By itself a store does as much of this as pays;
    /// ranges are read fastest afterwards. Others read and write meanwhile: what is there when this begins is compacted when it
    /// returns, and what they write later is not waited for.
    ///
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// # let store = paddock_storage::Store::open(directory.path())?;
    /// store.insert(b"colour", b"red")?;
    /// store.remove(b"colour")?;
    /// store.compact()?;
    /// assert_eq!(store.stats()?.compaction.run_bytes, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`crate::Error::DiskFull`]: nothing is lost, and what was done stays done. [`crate::Error::Corrupt`]: a damaged run
    /// cannot be merged, and the store goes on without merging. [`crate::Error::Io`]: the store goes on, unless it says
    /// at the next write that it does not. [`crate::Error::Poisoned`], [`crate::Error::Closed`].
    pub fn compact(&self) -> Result<()> {
        self.group.with(ReplicatedStore::freeze)?;
        // Beside the writers, not in a turn of theirs.
        self.compaction.compact()?;
        self.group.with(ReplicatedStore::release_log)
    }

    /// Makes a copy of the store as it is now, in a directory of its own, which can be opened as a store. Returns the
    /// version of the last write in it.
    ///
    /// Files that never change, which are nearly all, are linked: so this is quick, and takes hardly any room. Where the
    /// file system does not link them (another one, say), they are copied. Others read and write meanwhile; writers wait
    /// only while the log begins another segment.
    ///
    /// The copy has the same store id, and both may be open at the same time: what happens to one does not happen to the
    /// other. Only damage to a linked file is damage to both, so a copy that is to survive the disk belongs on another one.
    ///
    /// The directory must be missing or empty. What fails leaves nothing behind, or, if that cannot be removed either, a
    /// directory that does not open.
    ///
    /// ```
    /// use paddock_storage::{Readable, Store};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let (path, copy) = (directory.path().join("store"), directory.path().join("copy"));
    /// let store = Store::open(&path)?;
    /// let version = store.insert("robin", "red")?;
    /// assert_eq!(store.checkpoint(&copy)?, version);
    /// store.remove("robin")?;
    /// assert_eq!(Store::open(&copy)?.get(b"robin")?.as_deref(), Some(&b"red"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`crate::Error::NotEmpty`]; [`crate::Error::DiskFull`]: nothing is lost, and the store goes on; [`crate::Error::Io`],
    /// after which the store takes no more writes if its own log is what failed; [`crate::Error::Poisoned`],
    /// [`crate::Error::Closed`].
    pub fn checkpoint(&self, path: impl AsRef<Path>) -> Result<Sequence> {
        let begin = self.group.with(|store| store.copy_beginning())?;
        let copy = begin(path.as_ref())?;
        let plan = self.group.with(|store| store.plan_copy())?;
        let last = plan.last();
        copy.finish(plan)?;
        Ok(last)
    }

    /// Closes the store for all handles: they answer [`crate::Error::Closed`] to writes, and still read. Dropping the
    /// last handle instead loses nothing, but leaves preallocated space on the disk.
    ///
    /// ```
    /// use paddock_storage::Error;
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let store = paddock_storage::Store::open(directory.path())?;
    /// let other = store.clone();
    /// store.close()?;
    /// assert!(matches!(other.insert(b"colour", b"red"), Err(Error::Closed)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`crate::Error::Closed`] when it is already; [`crate::Error::Io`], [`crate::Error::Poisoned`].
    pub fn close(self) -> Result<()> {
        self.group.close()
    }

    /// An unconditional write.
    fn must(&self, rows: Rows) -> Result<Sequence> {
        // Only a condition refuses.
        Ok(self.submit(rows, Vec::new(), None)?.unwrap_or_else(|_| self.reader.applied()))
    }

    fn with_options(
        &self,
        rows: Rows,
        key: &[u8],
        options: &WriteOptions,
    ) -> Result<std::result::Result<Sequence, Conflict>> {
        self.submit(rows, options.expected.of(key).into_iter().collect(), options.durability)
    }

    fn submit(
        &self,
        rows: Rows,
        conditions: Vec<(Bytes, Expectation)>,
        durability: Option<Durability>,
    ) -> Result<std::result::Result<Sequence, Conflict>> {
        let durability = durability.unwrap_or(self.durability);
        self.compaction.admit(rows.encoded().len() as u64)?;
        if self.compaction.has_unmapped_files() {
            // The rows that are overwritten may have to come from the disk. In the turn everybody would wait for that.
            self.reader.warm(&rows);
        }
        Ok(match self.group.submit(Request { rows, conditions, durability })? {
            Outcome::Written(sequence) => Ok(sequence),
            Outcome::Refused(key, current) => Err(Conflict { key, current }),
        })
    }
}

impl Readable for Store {
    fn get_with<T>(&self, key: &[u8], look: impl FnMut(RecordRef<'_>) -> T) -> Result<Option<T>> {
        self.reader.get_with(key, look)
    }

    fn len(&self) -> u64 {
        self.reader.len()
    }

    fn range<K: AsRef<[u8]>>(&self, bounds: impl RangeBounds<K>) -> Range {
        self.reader.range(bounds)
    }
}

fn put(key: &[u8], value: &[u8]) -> Result<Rows> {
    let mut rows = RowsBuilder::new();
    rows.put(key, value)?;
    Ok(rows.finish())
}

fn delete(key: &[u8]) -> Result<Rows> {
    let mut rows = RowsBuilder::new();
    rows.delete(key)?;
    Ok(rows.finish())
}
