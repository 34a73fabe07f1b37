//! Rows, the one place that encodes and decodes them. Their bytes are the same in the log, in memory and on
//! the wire between replicas, so a row is encoded and checksummed once in its life. FORMAT.md, "Row".

use std::fmt;

use bytes::Bytes;

use crate::error::{Error, Result};

/// Bytes of a row beside its key and value.
pub const ROW_OVERHEAD_BYTES: usize = 12;

/// The longest key that the format holds.
pub const KEY_BYTES_MAX: usize = u16::MAX as usize;

/// The longest value, and the longest payload of a marker.
pub const VALUE_BYTES_MAX: usize = 64 << 20;

/// The most bytes of encoded rows in one batch: one append, one write.
pub const BATCH_BYTES_MAX: usize = 256 << 20;

const _: () = assert!(ROW_OVERHEAD_BYTES + KEY_BYTES_MAX + VALUE_BYTES_MAX < BATCH_BYTES_MAX);

const KIND_PUT: u8 = 0;
const KIND_DELETE: u8 = 1;
const KIND_MARKER: u8 = 2;

/// One row, borrowed from where it is encoded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum RowRef<'a> {
    /// The key has this value from now on.
    Put {
        /// 1 to [`KEY_BYTES_MAX`] bytes.
        key: &'a [u8],
        /// 0 to [`VALUE_BYTES_MAX`] bytes.
        value: &'a [u8],
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

impl fmt::Debug for RowRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RowRef::Put { key, value } => write!(f, "put {}={}", key.escape_ascii(), value.escape_ascii()),
            RowRef::Delete { key } => write!(f, "delete {}", key.escape_ascii()),
            RowRef::Marker { payload } => write!(f, "marker {}", payload.escape_ascii()),
        }
    }
}

/// Encoded rows with their checksums; one row is one log entry. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    bytes: Bytes,
    count: u32,
}

/// Encodes rows, one after the other.
///
/// ```
/// use paddock_storage::{RowRef, Rows, RowsBuilder};
///
/// let mut rows = RowsBuilder::new();
/// rows.put(b"heron", b"grey")?;
/// rows.delete(b"robin")?;
/// let rows = rows.finish();
///
/// // A peer gets the bytes and the count, and believes neither.
/// let received = Rows::from_encoded(rows.encoded().clone(), rows.count())?;
/// assert_eq!(received.iter().next(), Some(RowRef::Put { key: b"heron", value: b"grey" }));
/// assert!(Rows::from_encoded(rows.encoded().slice(1..), 2).is_err());
/// # Ok::<(), paddock_storage::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct RowsBuilder {
    bytes: Vec<u8>,
    count: u32,
}

impl RowsBuilder {
    /// A builder without rows.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a row that gives a key its value.
    ///
    /// # Errors
    /// [`Error::EmptyKey`], or [`Error::TooLarge`] for the key, the value or the rows together.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        check_key(key)?;
        self.encode(KIND_PUT, key, value)
    }

    /// Adds a row that takes a key away.
    ///
    /// # Errors
    /// As [`RowsBuilder::put`].
    pub fn delete(&mut self, key: &[u8]) -> Result<()> {
        check_key(key)?;
        self.encode(KIND_DELETE, key, &[])
    }

    /// Adds an entry of the replication protocol's own, which the index does not see.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for the payload or the rows together.
    pub fn marker(&mut self, payload: &[u8]) -> Result<()> {
        self.encode(KIND_MARKER, &[], payload)
    }

    /// Adds rows that are encoded already.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for the rows together.
    pub fn extend(&mut self, rows: &Rows) -> Result<()> {
        check_batch(self.bytes.len() + rows.bytes.len())?;
        self.bytes.extend_from_slice(&rows.bytes);
        self.count += rows.count;
        Ok(())
    }

    /// How many rows there are so far.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// How many bytes they take, encoded.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The rows.
    #[must_use]
    pub fn finish(self) -> Rows {
        Rows { bytes: self.bytes.into(), count: self.count }
    }

    fn encode(&mut self, kind: u8, key: &[u8], value: &[u8]) -> Result<()> {
        let too_large = |limit| Error::TooLarge { what: "value bytes", actual: value.len() as u64, limit };
        let value_bytes = u32::try_from(value.len()).map_err(|_| too_large(VALUE_BYTES_MAX as u64))?;
        if value.len() > VALUE_BYTES_MAX {
            return Err(too_large(VALUE_BYTES_MAX as u64));
        }
        check_batch(self.bytes.len() + ROW_OVERHEAD_BYTES + key.len() + value.len())?;
        let start = self.bytes.len();
        // The key was checked against KEY_BYTES_MAX, which is what two bytes hold.
        let key_bytes = u16::try_from(key.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&[kind, 0]);
        self.bytes.extend_from_slice(&key_bytes.to_le_bytes());
        self.bytes.extend_from_slice(&value_bytes.to_le_bytes());
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        let checksum = crc32fast::hash(&self.bytes[start + 4..]);
        self.bytes[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
        self.count += 1;
        Ok(())
    }
}

impl Rows {
    /// Takes rows that someone else encoded, after verifying framing, limits and every checksum: bytes from a
    /// peer enter here.
    ///
    /// # Errors
    /// [`Error::DamagedRows`], or [`Error::TooLarge`].
    pub fn from_encoded(bytes: Bytes, count: u32) -> Result<Rows> {
        check_batch(bytes.len())?;
        let rows = Rows { bytes, count };
        rows.verify()?;
        Ok(rows)
    }

    /// The encoded bytes, as they go on the wire and into the log.
    #[must_use]
    pub fn encoded(&self) -> &Bytes {
        &self.bytes
    }

    /// How many rows there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The rows, in order.
    pub fn iter(&self) -> impl Iterator<Item = RowRef<'_>> + '_ {
        self.frames().map(|frame| frame.row)
    }

    /// The rows from the `skip`-th on (for a follower that already holds the first ones). No copy.
    #[must_use]
    pub fn skip(&self, skip: u32) -> Rows {
        let start = self.frames().nth(skip as usize).map_or(self.bytes.len(), |frame| frame.offset);
        Rows { bytes: self.bytes.slice(start..), count: self.count.saturating_sub(skip) }
    }

    /// The first `take` rows. No copy.
    #[must_use]
    pub fn take(&self, take: u32) -> Rows {
        if take >= self.count {
            // Recovery asks this of every batch, and almost none was cut.
            return self.clone();
        }
        let end = self.frames().nth(take as usize).map_or(self.bytes.len(), |frame| frame.offset);
        Rows { bytes: self.bytes.slice(..end), count: self.count.min(take) }
    }

    /// Rows whose bytes are known to be good: read from the log, where the caller verifies them.
    pub(crate) fn unverified(bytes: Bytes, count: u32) -> Rows {
        Rows { bytes, count }
    }

    /// The rows with their places.
    pub(crate) fn frames(&self) -> Frames<'_> {
        Frames { bytes: &self.bytes, offset: 0 }
    }

    /// The CRC of the rows' CRCs: the batch header's word on all of them.
    pub(crate) fn checksum(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        for frame in self.frames() {
            hasher.update(&self.bytes[frame.offset..frame.offset + 4]);
        }
        hasher.finalize()
    }

    /// Checks framing, count and every row's checksum.
    pub(crate) fn verify(&self) -> Result<()> {
        let damaged =
            |offset: usize, what: &str| Error::DamagedRows { offset: offset as u64, what: what.into() };
        let mut frames = self.frames();
        let mut count = 0;
        loop {
            let offset = frames.offset;
            match frames.next() {
                Some(frame) => {
                    verify_checksum(&self.bytes[frame.offset..frame.offset + frame.length])
                        .map_err(|what| damaged(offset, what))?;
                    count += 1;
                }
                None if offset == self.bytes.len() => break,
                None => return Err(damaged(offset, "no row begins here")),
            }
        }
        if count != u64::from(self.count) {
            return Err(Error::DamagedRows {
                offset: self.bytes.len() as u64,
                what: format!("{count} rows, announced as {}", self.count),
            });
        }
        Ok(())
    }
}

/// A row and where it lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) offset: usize,
    pub(crate) length: usize,
    pub(crate) row: RowRef<'a>,
}

/// Walks encoded rows by their lengths; stops at the first that cannot be one.
#[derive(Clone, Debug)]
pub(crate) struct Frames<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Frame<'a>> {
        let (row, length) = decode(&self.bytes[self.offset..])?;
        let frame = Frame { offset: self.offset, length, row };
        self.offset += length;
        Some(frame)
    }
}

/// Decodes the row that `bytes` begin with, and its length. Checks its shape, not its checksum.
fn decode(bytes: &[u8]) -> Option<(RowRef<'_>, usize)> {
    let (header, rest) = bytes.split_at_checked(ROW_OVERHEAD_BYTES)?;
    let [_, _, _, _, kind, 0, k0, k1, v0, v1, v2, v3] = *header else { return None };
    let key_bytes = usize::from(u16::from_le_bytes([k0, k1]));
    let value_bytes = usize::try_from(u32::from_le_bytes([v0, v1, v2, v3])).ok()?;
    if value_bytes > VALUE_BYTES_MAX {
        return None;
    }
    let (key, rest) = rest.split_at_checked(key_bytes)?;
    let (value, _) = rest.split_at_checked(value_bytes)?;
    let row = match kind {
        KIND_PUT if !key.is_empty() => RowRef::Put { key, value },
        KIND_DELETE if !key.is_empty() && value.is_empty() => RowRef::Delete { key },
        KIND_MARKER if key.is_empty() => RowRef::Marker { payload: value },
        _ => return None,
    };
    Some((row, ROW_OVERHEAD_BYTES + key_bytes + value_bytes))
}

fn verify_checksum(row: &[u8]) -> std::result::Result<(), &'static str> {
    match row.split_first_chunk::<4>() {
        Some((checksum, rest)) if u32::from_le_bytes(*checksum) == crc32fast::hash(rest) => Ok(()),
        _ => Err("the row's checksum does not match"),
    }
}

/// The key and value ranges of a put that takes up all of `bytes`, verified; or what is wrong with it.
pub(crate) fn verified_put(bytes: &[u8]) -> std::result::Result<usize, &'static str> {
    verify_checksum(bytes)?;
    match decode(bytes) {
        Some((RowRef::Put { key, .. }, length)) if length == bytes.len() => Ok(key.len()),
        _ => Err("the row is not the one that the index points at"),
    }
}

fn check_key(key: &[u8]) -> Result<()> {
    if key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if key.len() > KEY_BYTES_MAX {
        let (actual, limit) = (key.len() as u64, KEY_BYTES_MAX as u64);
        return Err(Error::TooLarge { what: "key bytes", actual, limit });
    }
    Ok(())
}

fn check_batch(bytes: usize) -> Result<()> {
    if bytes > BATCH_BYTES_MAX {
        let (actual, limit) = (bytes as u64, BATCH_BYTES_MAX as u64);
        return Err(Error::TooLarge { what: "bytes of rows in one batch", actual, limit });
    }
    Ok(())
}
