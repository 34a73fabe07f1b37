//! The embedder's store: a durable, ordered map of bytes to bytes.

use std::ops::RangeBounds;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::commit::{Expectation, Outcome, Request};
use crate::disk::Disk;
use crate::error::Result;
use crate::group::Group;
use crate::manifest::Kind;
use crate::options::Options;
use crate::position::Sequence;
use crate::range::Range;
use crate::reader::{Readable, Reader};
use crate::record::Record;
use crate::recovery::Recovery;
use crate::replicated::{ReplicatedStore, Stats, Verification};
use crate::row::{Rows, RowsBuilder};
use crate::snapshot::Snapshot;

/// A durable, ordered map of bytes to bytes, in a directory.
///
/// Handles are cheap to clone and can be used from any thread. A write has reached the disk when its call returns;
/// callers that write at the same time share an fsync. Reading is [`Readable`]'s.
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
    reader: Reader,
    recovery: Arc<Recovery>,
    path: Arc<Path>,
}

/// What a conditional write expects of its key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expected {
    /// Anything: the write is unconditional.
    #[default]
    Any,
    /// That it has no value.
    Absent,
    /// That it has a value.
    Present,
    /// That its value was made by the write with this sequence.
    Version(Sequence),
}

/// A conditional write lost: the key was not as expected, and nothing was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// What the key has instead; `None`: nothing.
    pub current: Option<Record>,
}

/// Writes that happen together: all of them, or after a crash perhaps none; readers see them at once.
#[derive(Clone, Debug, Default)]
pub struct WriteBatch {
    rows: RowsBuilder,
}

/// Opens a store with other options than the default ones.
#[derive(Clone, Debug)]
pub struct Builder {
    path: PathBuf,
    options: Options,
}

impl WriteBatch {
    /// A batch without writes.
    #[must_use]
    pub fn new() -> WriteBatch {
        WriteBatch::default()
    }

    /// Adds a write of a value. Of several writes of one key the last one counts.
    ///
    /// # Errors
    /// [`crate::Error::EmptyKey`], [`crate::Error::TooLarge`]: the batch is as before.
    pub fn insert(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<&mut WriteBatch> {
        self.rows.put(key.as_ref(), value.as_ref())?;
        Ok(self)
    }

    /// Adds a removal.
    ///
    /// # Errors
    /// As [`WriteBatch::insert`].
    pub fn remove(&mut self, key: impl AsRef<[u8]>) -> Result<&mut WriteBatch> {
        self.rows.delete(key.as_ref())?;
        Ok(self)
    }

    /// How many writes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.count() as usize
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.count() == 0
    }
}

impl Builder {
    /// See [`Options::segment_bytes`].
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u64) -> Builder {
        self.options = self.options.segment_bytes(bytes);
        self
    }

    /// See [`Options::extent_bytes`].
    #[must_use]
    pub fn extent_bytes(mut self, bytes: u64) -> Builder {
        self.options = self.options.extent_bytes(bytes);
        self
    }

    /// See [`Options::disk`].
    #[must_use]
    pub fn disk(mut self, disk: Arc<dyn Disk>) -> Builder {
        self.options = self.options.disk(disk);
        self
    }

    /// Opens the store, or makes a new one.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open(self) -> Result<Store> {
        let mut store = ReplicatedStore::open_kind(&self.path, self.options, Kind::Standalone)?;
        // Nobody above decides what is committed: what survived counts.
        store.apply(store.last().sequence)?;
        let (reader, recovery) = (store.reader(), Arc::new(store.recovery().clone()));
        let path = store.path().into();
        Ok(Store { group: Arc::new(Group::new(store)), reader, recovery, path })
    }
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
        Builder { path: path.as_ref().to_path_buf(), options: Options::default() }
    }

    /// What opening found.
    #[must_use]
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// The store's directory, as an absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is true now, for as long as you keep it. See [`Snapshot`].
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

    /// Gives a key a value if it is as expected. The outer result is a fault, the inner one a lost race.
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
        expected: Expected,
    ) -> Result<std::result::Result<Sequence, Conflict>> {
        let rows = put(key.as_ref(), value.as_ref())?;
        self.conditionally(rows, key.as_ref(), expected.into())
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

    /// Takes a key away if it is as expected.
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
        expected: Expected,
    ) -> Result<std::result::Result<Sequence, Conflict>> {
        let rows = delete(key.as_ref())?;
        self.conditionally(rows, key.as_ref(), expected.into())
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
        self.conditionally(rows, key, Some(expectation))
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
    /// As [`Store::insert`].
    pub fn write(&self, batch: WriteBatch) -> Result<Sequence> {
        self.must(batch.rows.finish())
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

    /// Reads the whole log and verifies every checksum, sequence and link. Writers wait meanwhile, readers do not.
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
        self.group.with(|store| store.verify())
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
        match self.group.submit(Request { rows, condition: None })? {
            Outcome::Written(sequence) => Ok(sequence),
            // Only a condition refuses.
            Outcome::Refused(_) => Ok(self.reader.applied()),
        }
    }

    fn conditionally(
        &self,
        rows: Rows,
        key: &[u8],
        expectation: Option<Expectation>,
    ) -> Result<std::result::Result<Sequence, Conflict>> {
        let condition = expectation.map(|expectation| (Bytes::copy_from_slice(key), expectation));
        Ok(match self.group.submit(Request { rows, condition })? {
            Outcome::Written(sequence) => Ok(sequence),
            Outcome::Refused(current) => Err(Conflict { current }),
        })
    }
}

impl From<Expected> for Option<Expectation> {
    fn from(expected: Expected) -> Self {
        match expected {
            Expected::Any => None,
            Expected::Absent => Some(Expectation::Absent),
            Expected::Present => Some(Expectation::Present),
            Expected::Version(version) => Some(Expectation::Version(version)),
        }
    }
}

impl Readable for Store {
    fn get_record(&self, key: &[u8]) -> Result<Option<Record>> {
        self.reader.get_record(key)
    }

    fn version(&self, key: &[u8]) -> Result<Option<Sequence>> {
        self.reader.version(key)
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
