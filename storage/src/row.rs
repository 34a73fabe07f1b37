//! Rows, the one place that encodes and decodes them. FORMAT.md, "Row".
//!
//! A row is encoded and checksummed once in its life. Until it is in a log it is *canonical*: its sequence is 0, and so it
//! travels between replicas. Appending *stamps* it with the sequence of its entry, while it is copied into the append
//! buffer; from then on its bytes stay as they are, in the log and in whatever is made of the log.
//!
//! - [`codec`]: one row.
//! - [`rows`]: canonical rows, one after the other: what callers and peers give.
//! - [`stamped`]: a batch's rows as they lie in the log.
//!
//! It does not know what a row's expiry means: that is a matter of the owner's clock.

mod checksums;
mod codec;
mod content_type;
mod rows;
mod stamped;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::position::Sequence;

#[cfg(feature = "fuzzing")]
pub(crate) use codec::seal;
#[allow(unused_imports, reason = "key-ordered files, which are to come, walk rows with it")]
pub(crate) use codec::{HEAD_BYTES_MAX, decode_head, decode_stored, verified};
pub use content_type::ContentType;
pub(crate) use rows::Frames;
pub use rows::{Rows, RowsBuilder};
pub(crate) use stamped::StampedRows;

/// Bytes of a row beside its key and value, when it has neither an expiry nor a content type.
pub const ROW_OVERHEAD_BYTES: usize = 16;

/// Bytes that an expiry adds to a row.
const EXPIRY_BYTES: usize = 8;

/// The longest content type. It adds one byte more to its row.
pub const CONTENT_TYPE_BYTES_MAX: usize = u8::MAX as usize;

/// The longest key that the format holds.
pub const KEY_BYTES_MAX: usize = u16::MAX as usize;

/// The longest value, and the longest payload of a marker.
pub const VALUE_BYTES_MAX: usize = 64 << 20;

/// The most bytes of encoded rows in one batch: one append, one write.
pub const BATCH_BYTES_MAX: usize = 256 << 20;

pub(crate) const ROW_BYTES_MAX: usize =
    ROW_OVERHEAD_BYTES + EXPIRY_BYTES + 1 + CONTENT_TYPE_BYTES_MAX + KEY_BYTES_MAX + VALUE_BYTES_MAX;

const _: () = assert!(ROW_BYTES_MAX < BATCH_BYTES_MAX);

/// One row, borrowed from where it is encoded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum RowRef<'a> {
    /// The key has this value from now on.
    Put {
        /// 1 to [`KEY_BYTES_MAX`] bytes.
        key: &'a [u8],
        /// 0 to [`VALUE_BYTES_MAX`] bytes.
        value: &'a [u8],
        /// When the value expires, in milliseconds since 1970.
        expires_at_ms: Option<u64>,
        /// What the value is, as [`ContentType`] allows it.
        content_type: Option<&'a str>,
    },
    /// The key has no value from now on.
    Delete {
        /// 1 to [`KEY_BYTES_MAX`] bytes.
        key: &'a [u8],
    },
    /// An entry that is no row: the replication protocol's own (an epoch's start).
    Marker {
        /// 0 to [`VALUE_BYTES_MAX`] bytes.
        payload: &'a [u8],
    },
}

/// What a put may say beside its key and value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PutOptions<'a> {
    /// When the value expires, in milliseconds since 1970; `None`: never.
    pub expires_at_ms: Option<u64>,
    /// What the value is: 1 to [`CONTENT_TYPE_BYTES_MAX`] bytes of printable ASCII.
    pub content_type: Option<&'a str>,
}

/// A row as it lies somewhere, with the sequence that it was stamped with (0: none yet).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoredRow<'a> {
    pub(crate) sequence: Sequence,
    pub(crate) row: RowRef<'a>,
    /// All of the row, and nothing else.
    pub(crate) bytes: &'a [u8],
}

impl<'a> RowRef<'a> {
    /// The key; a marker has none.
    ///
    /// ```
    /// use paddock_storage::RowRef;
    ///
    /// assert_eq!(RowRef::Delete { key: b"heron" }.key(), Some(&b"heron"[..]));
    /// assert_eq!(RowRef::Marker { payload: b"epoch 2" }.key(), None);
    /// ```
    #[must_use]
    pub fn key(&self) -> Option<&'a [u8]> {
        match self {
            RowRef::Put { key, .. } | RowRef::Delete { key } => Some(key),
            RowRef::Marker { .. } => None,
        }
    }

    /// Whether it gives its key a value.
    ///
    /// ```
    /// assert!(!paddock_storage::RowRef::Delete { key: b"heron" }.is_put());
    /// ```
    #[must_use]
    pub fn is_put(&self) -> bool {
        matches!(self, RowRef::Put { .. })
    }
}

impl<'a> StoredRow<'a> {
    /// The value of a put.
    pub(crate) fn value(&self) -> Option<&'a [u8]> {
        match self.row {
            RowRef::Put { value, .. } => Some(value),
            _ => None,
        }
    }

    /// When a put expires, if ever.
    pub(crate) fn expires_at_ms(&self) -> Option<u64> {
        match self.row {
            RowRef::Put { expires_at_ms, .. } => expires_at_ms,
            _ => None,
        }
    }
}

impl fmt::Debug for RowRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RowRef::Put { key, value, expires_at_ms, content_type } => {
                write!(f, "put {}={}", key.escape_ascii(), value.escape_ascii())?;
                if let Some(expires_at_ms) = expires_at_ms {
                    write!(f, " expires at {expires_at_ms} ms")?;
                }
                content_type.map_or(Ok(()), |content_type| write!(f, " as {content_type}"))
            }
            RowRef::Delete { key } => write!(f, "delete {}", key.escape_ascii()),
            RowRef::Marker { payload } => write!(f, "marker {}", payload.escape_ascii()),
        }
    }
}
