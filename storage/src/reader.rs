//! Reading, from any thread.

use std::ops::{Bound, RangeBounds};

use bytes::Bytes;
use paddock_index::{OrderedIndex as _, prefix_end};

use crate::contents::{Place, Record, Shared};
use crate::error::Result;
use crate::position::Sequence;
use crate::range::Range;

/// What a store can be asked. Each answer is of what is applied when it is given; every row that is returned was
/// verified against its checksum.
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
    /// A key's record: its value, and the version of the write that made it.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] when the row is damaged, [`crate::Error::Io`].
    fn get_record(&self, key: &[u8]) -> Result<Option<Record>>;

    /// The version alone, without reading the row. Cannot fail today; a result, since an index may one day be partly
    /// on disk.
    ///
    /// # Errors
    /// None so far.
    fn version(&self, key: &[u8]) -> Result<Option<Sequence>>;

    /// How many keys have a value.
    fn len(&self) -> u64;

    /// The records between two keys, in the order of their keys, from either end.
    ///
    /// It is not a snapshot: each record was there at some moment of the iteration, none comes twice, and none that
    /// was there all the time is left out.
    fn range<K: AsRef<[u8]>>(&self, bounds: impl RangeBounds<K>) -> Range;

    /// All records, as [`Readable::range`] gives them.
    fn iter(&self) -> Range {
        self.range::<&[u8]>(..)
    }

    /// A key's value.
    ///
    /// # Errors
    /// As [`Readable::get_record`].
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.get_record(key)?.map(|record| record.value))
    }

    /// Whether no key has a value.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The records whose keys begin with `prefix`, as [`Readable::range`] gives them.
    fn prefix(&self, prefix: &[u8]) -> Range {
        let end = prefix_end(prefix).map_or(Bound::Unbounded, Bound::Excluded);
        self.range((Bound::Included(prefix.to_vec()), end))
    }
}

/// A read handle of a store: cheap to clone, usable from any thread, valid as long as you keep it (also when the store
/// is closed).
#[derive(Clone, Debug)]
pub struct Reader {
    shared: Shared,
}

impl Reader {
    pub(crate) fn new(shared: Shared) -> Reader {
        Reader { shared }
    }

    /// The last entry that is applied: what an answer given now reflects at least.
    #[must_use]
    pub fn applied(&self) -> Sequence {
        self.shared.contents.read().applied
    }

    /// At most `records_max` records after a key, in the order of their keys, and no more than fit into
    /// `bytes_max` bytes of keys and values (but at least one where there is one); and whether more follow.
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

    fn place(&self, key: &[u8]) -> Option<Place> {
        let contents = self.shared.contents.read();
        contents.place(contents.index.get(key)?)
    }
}

impl Readable for Reader {
    fn get_record(&self, key: &[u8]) -> Result<Option<Record>> {
        self.place(key).map(|place| place.read(key)).transpose()
    }

    fn version(&self, key: &[u8]) -> Result<Option<Sequence>> {
        Ok(self.shared.contents.read().index.get(key).map(|locator| Sequence(locator.tag)))
    }

    fn len(&self) -> u64 {
        self.shared.contents.read().index.len() as u64
    }

    fn range<K: AsRef<[u8]>>(&self, bounds: impl RangeBounds<K>) -> Range {
        let owned = |bound: Bound<&K>| bound.map(|key| key.as_ref().to_vec());
        Range::new(self.shared.clone(), owned(bounds.start_bound()), owned(bounds.end_bound()))
    }
}
