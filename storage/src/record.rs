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

impl Record {
    /// The record of a row, copied: what was verified stays as it is, whatever becomes of the file. `None` for a row that
    /// is no put.
    pub(crate) fn of(stored: &StoredRow<'_>) -> Option<Record> {
        let RowRef::Put { key, value, .. } = stored.row else { return None };
        // Key and value end the row: one copy for both. What is in front of them is copied only if somebody needs it.
        let needed = match stored.row {
            RowRef::Put { content_type: Some(_), .. } => stored.bytes.len(),
            _ => key.len() + value.len(),
        };
        let copied = Bytes::copy_from_slice(&stored.bytes[stored.bytes.len() - needed..]);
        let value_start = copied.len() - value.len();
        let key_start = value_start - key.len();
        let mut record = Record {
            key: copied.slice(key_start..value_start),
            value: copied.slice(value_start..),
            version: stored.sequence,
            expires_at_ms: None,
            content_type: None,
        };
        if let RowRef::Put { expires_at_ms, content_type, .. } = stored.row {
            record.expires_at_ms = expires_at_ms;
            record.content_type = content_type.map(|text| {
                let end = key_start;
                ContentType::verified(copied.slice(end - text.len()..end))
            });
        }
        Some(record)
    }

    /// The record that a put makes, sharing the `encoded` bytes that it was decoded from.
    pub(crate) fn of_row(encoded: &Bytes, row: RowRef<'_>, version: Sequence) -> Option<Record> {
        let RowRef::Put { key, value, expires_at_ms, content_type } = row else { return None };
        let content_type = content_type.map(|text| ContentType::shared(encoded, text));
        let (key, value) = (encoded.slice_ref(key), encoded.slice_ref(value));
        Some(Record { key, value, version, expires_at_ms, content_type })
    }
}
