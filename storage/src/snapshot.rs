//! A consistent view, for the user.

use std::ops::RangeBounds;
use std::sync::Arc;

use crate::capture::Capture;
use crate::clock::Expiry;
use crate::contents::Contents;
use crate::error::Result;
use crate::position::Sequence;
use crate::range::Range;
use crate::reader::{Readable, shown};
use crate::record::RecordRef;

/// What was true when it was made, whatever is written and compacted meanwhile. Cheap to make and to clone, usable from
/// any thread, valid as long as you keep it.
///
/// It costs the disk space and the memory of what it shows and the store no longer has: it keeps the files of its moment, and
/// about 30 bytes and the key for each entry that had not been flushed then.
///
/// ```
/// use paddock_storage::{Readable, Store};
///
/// # let directory = tempfile::tempdir()?;
/// # let store = Store::open(directory.path())?;
/// store.insert("robin", "red")?;
/// let before = store.snapshot();
/// store.insert("robin", "orange")?;
/// store.insert("wren", "brown")?;
///
/// assert_eq!(before.get(b"robin")?.as_deref(), Some(&b"red"[..]));
/// assert_eq!(before.len(), 1);
/// assert_eq!(before.iter().count(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Snapshot {
    contents: Arc<Contents>,
    capture: Capture,
    records: u64,
    expiry: Expiry,
}

impl Snapshot {
    pub(crate) fn new(contents: Arc<Contents>, expiry: Expiry) -> Snapshot {
        let (capture, records) = contents.capture_counted();
        Snapshot { contents, capture, records, expiry }
    }

    /// The last entry that it shows.
    ///
    /// ```
    /// use paddock_storage::Store;
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let store = Store::open(directory.path())?;
    /// let written = store.insert("robin", "red")?;
    /// assert_eq!(store.snapshot().sequence(), written);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn sequence(&self) -> Sequence {
        self.capture.at
    }
}

impl Readable for Snapshot {
    fn get_with<T>(&self, key: &[u8], look: impl FnMut(RecordRef<'_>) -> T) -> Result<Option<T>> {
        Ok(self.contents.read_as_of(&self.capture, key, shown(&self.expiry, look))?.flatten())
    }

    fn len(&self) -> u64 {
        self.records
    }

    fn range<K: AsRef<[u8]>>(&self, bounds: impl RangeBounds<K>) -> Range {
        Range::new(self.capture.clone(), self.expiry.clone(), &bounds)
    }
}
