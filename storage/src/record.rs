//! What a read gives.

use bytes::Bytes;

use crate::position::Sequence;
use crate::row::{ContentType, RowRef, StoredRow};

/// A key's value, and the version of the write that made it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
    /// The sequence of the write that made it.
    pub version: Sequence,
    /// When the value expires, in milliseconds since 1970; `None`: never.
    pub expires_at_ms: Option<u64>,
    /// What the value is, if its writer said so.
    pub content_type: Option<ContentType>,
}

/// A record that is lent: see [`crate::Range::next_lent`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordRef<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Its value.
    pub value: &'a [u8],
    /// The sequence of the write that made it.
    pub version: Sequence,
    /// When the value expires, in milliseconds since 1970; `None`: never.
    pub expires_at_ms: Option<u64>,
    /// What the value is, if its writer said so.
    pub content_type: Option<&'a str>,
}

impl<'a> RecordRef<'a> {
    /// The record of a row; `None` for a row that is no put.
    pub(crate) fn of(stored: &StoredRow<'a>) -> Option<RecordRef<'a>> {
        let RowRef::Put { key, value, expires_at_ms, content_type } = stored.row else { return None };
        Some(RecordRef { key, value, version: stored.sequence, expires_at_ms, content_type })
    }

    /// The same to keep.
    ///
    /// ```
    /// use paddock_storage::{Readable, Store};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let store = Store::open(directory.path())?;
    /// store.insert("robin", "red")?;
    /// let kept = store.get_with(b"robin", |record| record.to_record())?;
    /// assert_eq!(kept, store.get_record(b"robin")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn to_record(&self) -> Record {
        // Copies of their own: to share one copy would cost a third allocation, and counting who shares it.
        Record {
            key: Bytes::copy_from_slice(self.key),
            value: Bytes::copy_from_slice(self.value),
            version: self.version,
            expires_at_ms: self.expires_at_ms,
            content_type: self.content_type.map(ContentType::copied),
        }
    }
}

impl Record {
    /// The record of a row, copied: what was verified stays as it is, whatever becomes of the file. `None` for a row that
    /// is no put.
    pub(crate) fn of(stored: &StoredRow<'_>) -> Option<Record> {
        RecordRef::of(stored).map(|record| record.to_record())
    }

    /// The record that a put makes, sharing the `encoded` bytes that it was decoded from.
    pub(crate) fn of_row(encoded: &Bytes, row: RowRef<'_>, version: Sequence) -> Option<Record> {
        let RowRef::Put { key, value, expires_at_ms, content_type } = row else { return None };
        let content_type = content_type.map(|text| ContentType::shared(encoded, text));
        let (key, value) = (encoded.slice_ref(key), encoded.slice_ref(value));
        Some(Record { key, value, version, expires_at_ms, content_type })
    }
}
