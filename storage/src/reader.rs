//! Reading, from any thread.

use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;
use paddock_index::prefix_end;

use crate::clock::Expiry;
use crate::contents::Contents;
use crate::error::Result;
use crate::position::Sequence;
use crate::range::Range;
use crate::record::{Record, RecordRef};
use crate::row::{Rows, StoredRow};
use crate::snapshot::Snapshot;

/// What a store and a snapshot of one can be asked. A store answers as of now, a snapshot as of when it was made; every row that
/// is returned was verified against its checksum.
///
/// ```
/// use paddock_storage::{Readable, Store};
///
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("birds");
/// let store = Store::open(&path)?;
/// let version = store.insert("robin", "red")?;
/// store.insert("wren", "brown")?;
///
/// assert_eq!(store.get(b"robin")?.as_deref(), Some(&b"red"[..]));
/// assert_eq!(store.version(b"robin")?, Some(version));
/// assert_eq!(store.prefix(b"w").count(), 1);
/// let last = store.range("a"..).next_back().transpose()?;
/// assert_eq!(last.map(|record| record.key).as_deref(), Some(&b"wren"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Readable {
    /// What `look` makes of a key's record, which is lent to it: nothing is allocated, or copied where its file is mapped.
    /// Keep it short: the file stays open meanwhile. It may be called again when the row moves while it is read.
    ///
    /// ```
    /// use paddock_storage::{Readable, Store};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let store = Store::open(directory.path())?;
    /// store.insert("robin", "red")?;
    /// assert_eq!(store.get_with(b"robin", |record| record.value.len())?, Some(3));
    /// assert_eq!(store.get_with(b"wren", |record| record.value.len())?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Readable::get_record`].
    fn get_with<T>(&self, key: &[u8], look: impl FnMut(RecordRef<'_>) -> T) -> Result<Option<T>>;

    /// A key's record: its value, and the version of the write that made it.
    ///
    /// ```
    /// use paddock_storage::{Readable, Store};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let store = Store::open(directory.path())?;
    /// let version = store.insert("robin", "red")?;
    /// let record = store.get_record(b"robin")?.unwrap();
    /// assert_eq!((&record.value[..], record.version), (&b"red"[..], version));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] when the row is damaged, [`crate::Error::Io`].
    fn get_record(&self, key: &[u8]) -> Result<Option<Record>> {
        self.get_with(key, |record| record.to_record())
    }

    /// The version alone. It is read from the row, which is verified, but nothing is copied.
    ///
    /// ```
    /// use paddock_storage::{Readable, Store};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let store = Store::open(directory.path())?;
    /// let version = store.insert("robin", "red")?;
    /// assert_eq!(store.version(b"robin")?, Some(version));
    /// assert_eq!(store.version(b"wren")?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Readable::get_record`].
    fn version(&self, key: &[u8]) -> Result<Option<Sequence>> {
        self.get_with(key, |record| record.version)
    }

    /// How many keys have a value: those too that have expired and were not dropped yet. Exact as long as all keys are in the
    /// index.
    ///
    /// While part of them is not, for want of memory (those of *cold* runs), it is an estimate, for counting them would take
    /// reading them:
    ///
    /// - Of the keys that are written for the first time, about one in a hundred is taken for a cold one, and not counted. Nor
    ///   is a key that is written again after its removal has become cold; and removing such a key once more counts it off.
    /// - Opening the store counts each row of the cold runs, as if no key were in two of them, or in one and in the index: so
    ///   keys that were overwritten since their row became cold count twice, until compaction has merged these and the
    ///   store is opened again. With the garbage that compaction leaves alone that may be half too many.
    /// - What has expired and was dropped from cold runs is counted until the next opening.
    ///
    /// ```
    /// use paddock_storage::{Readable, Store};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let store = Store::open(directory.path())?;
    /// store.insert("robin", "red")?;
    /// assert_eq!(store.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn len(&self) -> u64;

    /// The records between two keys, in the order of their keys, from either end.
    ///
    /// It is a consistent view: what was true when it was made, whatever is written while it goes on.
    ///
    /// ```
    /// use paddock_storage::{Readable, Store};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let store = Store::open(directory.path())?;
    /// for key in ["heron", "robin", "wren"] {
    ///     store.insert(key, "")?;
    /// }
    /// let keys: Result<Vec<_>, _> = store.range("i"..="wren").rev().map(|record| record.map(|r| r.key)).collect();
    /// assert_eq!(keys?, ["wren", "robin"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn range<K: AsRef<[u8]>>(&self, bounds: impl RangeBounds<K>) -> Range;

    /// All records, as [`Readable::range`] gives them.
    ///
    /// ```
    /// use paddock_storage::{Readable, Store};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let store = Store::open(directory.path())?;
    /// store.insert("wren", "brown")?;
    /// store.insert("robin", "red")?;
    /// assert_eq!(store.iter().next().unwrap()?.key, "robin");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn iter(&self) -> Range {
        self.range::<&[u8]>(..)
    }

    /// A key's value.
    ///
    /// ```
    /// use paddock_storage::{Readable, Store};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let store = Store::open(directory.path())?;
    /// store.insert("robin", "red")?;
    /// assert_eq!(store.get(b"robin")?.as_deref(), Some(&b"red"[..]));
    /// assert_eq!(store.get(b"wren")?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Readable::get_record`].
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.get_with(key, |record| Bytes::copy_from_slice(record.value))
    }

    /// Whether a key has a value.
    ///
    /// ```
    /// use paddock_storage::{Readable, Store};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let store = Store::open(directory.path())?;
    /// store.insert("robin", "red")?;
    /// assert!(store.contains_key(b"robin")? && !store.contains_key(b"wren")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Readable::get_record`].
    fn contains_key(&self, key: &[u8]) -> Result<bool> {
        Ok(self.version(key)?.is_some())
    }

    /// Whether no key has a value.
    ///
    /// ```
    /// use paddock_storage::{Readable, Store};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let store = Store::open(directory.path())?;
    /// assert!(store.is_empty());
    /// store.insert("robin", "red")?;
    /// assert!(!store.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The records whose keys begin with `prefix`, as [`Readable::range`] gives them.
    ///
    /// ```
    /// use paddock_storage::{Readable, Store};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let store = Store::open(directory.path())?;
    /// for key in ["robin", "rook", "wren"] {
    ///     store.insert(key, "")?;
    /// }
    /// assert_eq!(store.prefix(b"ro").count(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn prefix(&self, prefix: &[u8]) -> Range {
        let end = prefix_end(prefix).map_or(Bound::Unbounded, Bound::Excluded);
        self.range((Bound::Included(prefix.to_vec()), end))
    }
}

/// A read handle of a store: cheap to clone, usable from any thread, valid as long as you keep it (also when the store
/// is closed).
#[derive(Clone, Debug)]
pub struct Reader {
    contents: Arc<Contents>,
    expiry: Expiry,
}

impl Reader {
    pub(crate) fn new(contents: Arc<Contents>, expiry: Expiry) -> Reader {
        Reader { contents, expiry }
    }

    /// See [`Contents::surely_has`].
    pub(crate) fn surely_has(&self, key: &[u8]) -> bool {
        self.contents.surely_has(key)
    }

    /// The last entry that is applied: what an answer given now reflects at least.
    ///
    /// ```
    /// # use paddock_storage::{Options, Readable, ReplicatedStore, Sequence};
    /// # let directory = tempfile::tempdir()?;
    /// # let store = ReplicatedStore::open(directory.path(), Options::new())?;
    /// let reader = store.reader();
    /// assert_eq!(reader.applied(), Sequence(0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn applied(&self) -> Sequence {
        self.contents.applied()
    }

    /// What is true now, for as long as you keep it.
    ///
    /// ```
    /// # use paddock_storage::{Options, Readable, ReplicatedStore, Sequence};
    /// # let directory = tempfile::tempdir()?;
    /// # let store = ReplicatedStore::open(directory.path(), Options::new())?;
    /// let snapshot = store.reader().snapshot();
    /// assert_eq!(snapshot.sequence(), Sequence(0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(self.contents.clone(), self.expiry.now())
    }

    /// At most `records_max` records after a key, in the order of their keys, and no more than fit into
    /// `bytes_max` bytes of keys and values (but at least one where there is one); and whether more follow.
    ///
    /// ```
    /// # use paddock_storage::{Options, Readable, ReplicatedStore, Sequence};
    /// # let directory = tempfile::tempdir()?;
    /// # let store = ReplicatedStore::open(directory.path(), Options::new())?;
    /// let reader = store.reader();
    /// let (mut after, mut all) = (None, Vec::new());
    /// loop {
    ///     let (records, more) = reader.page(after.as_deref(), 100, 1 << 20)?;
    ///     after = records.last().map(|record| record.key.clone());
    ///     all.extend(records);
    ///     if !more {
    ///         break;
    ///     }
    /// }
    /// assert_eq!(all.len() as u64, reader.len());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Readable::get_record`].
    pub fn page(
        &self,
        after: Option<&[u8]>,
        records_max: usize,
        bytes_max: usize,
    ) -> Result<(Vec<Record>, bool)> {
        let start = after.map_or(Bound::Unbounded, |key| Bound::Excluded(key.to_vec()));
        let mut records: Vec<Record> = Vec::new();
        let mut bytes = 0;
        for record in self.range((start, Bound::Unbounded)) {
            let record = record?;
            bytes += record.key.len() + record.value.len();
            if records.len() == records_max || (bytes > bytes_max && !records.is_empty()) {
                return Ok((records, true));
            }
            records.push(record);
        }
        Ok((records, false))
    }

    /// Brings the present rows of these rows' keys into the kernel's cache.
    pub(crate) fn warm(&self, rows: &Rows) {
        rows.iter().filter_map(|row| row.key()).for_each(|key| self.contents.warm(key));
    }

    /// Whether a record that expires then, if ever, is not to be seen.
    pub(crate) fn hides(&self, expires_at_ms: Option<u64>) -> bool {
        self.expiry.hides(expires_at_ms)
    }
}

impl Readable for Reader {
    fn get_with<T>(&self, key: &[u8], look: impl FnMut(RecordRef<'_>) -> T) -> Result<Option<T>> {
        Ok(self.contents.read(key, shown(&self.expiry, look))?.flatten())
    }

    fn len(&self) -> u64 {
        self.contents.records()
    }

    fn range<K: AsRef<[u8]>>(&self, bounds: impl RangeBounds<K>) -> Range {
        Range::new(self.contents.capture(), self.expiry.now(), &bounds)
    }
}

/// `look`, of rows that are puts and have not expired.
pub(crate) fn shown<T>(
    expiry: &Expiry,
    mut look: impl FnMut(RecordRef<'_>) -> T,
) -> impl FnMut(&StoredRow<'_>) -> Option<T> {
    move |row| RecordRef::of(row).filter(|record| !expiry.hides(record.expires_at_ms)).map(&mut look)
}
