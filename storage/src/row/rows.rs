//! Canonical rows, one after the other: what is to be written, and what peers send.

use bytes::Bytes;

use super::checksums::Checksums;
use super::codec::{decode_stored, encode_delete, encode_marker, encode_put, put_bytes, restamp, verified};
use super::{BATCH_BYTES_MAX, PutOptions, ROW_OVERHEAD_BYTES, RowRef, StoredRow};
use crate::error::{Error, Result};
use crate::position::Sequence;

/// Encoded rows with their checksums; one row is one log entry. Cheap to clone.
///
/// They are not in a log yet, or no longer, so they have no sequences: the same rows are always the same bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    bytes: Bytes,
    count: u32,
}

/// Encodes rows, one after the other.
///
/// ```
/// use paddock_storage::{PutOptions, RowRef, Rows, RowsBuilder};
///
/// let mut rows = RowsBuilder::new();
/// rows.put(b"heron", b"grey")?;
/// rows.delete(b"robin")?;
/// let options = PutOptions { expires_at_ms: Some(1_800_000_000_000), content_type: Some("text/plain") };
/// rows.put_with(b"swift", b"gone in autumn", &options)?;
/// let rows = rows.finish();
///
/// // A peer gets the bytes and the count, and believes neither.
/// let received = Rows::from_encoded(rows.encoded().clone(), rows.count())?;
/// assert!(matches!(received.iter().next(), Some(RowRef::Put { key: b"heron", value: b"grey", .. })));
/// assert!(Rows::from_encoded(rows.encoded().slice(1..), 3).is_err());
/// # Ok::<(), paddock_storage::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct RowsBuilder {
    bytes: Vec<u8>,
    count: u32,
}

impl RowsBuilder {
    /// A builder without rows.
    ///
    /// ```
    /// let rows = paddock_storage::RowsBuilder::new();
    /// assert_eq!((rows.count(), rows.encoded_bytes()), (0, 0));
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a row that gives a key its value.
    ///
    /// ```
    /// use paddock_storage::RowsBuilder;
    ///
    /// let mut rows = RowsBuilder::new();
    /// rows.put(b"heron", b"grey")?;
    /// assert!(rows.put(b"", b"no key").is_err());
    /// assert_eq!(rows.count(), 1);
    /// # Ok::<(), paddock_storage::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::EmptyKey`], or [`Error::TooLarge`] for the key, the value or the rows together.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.put_with(key, value, &PutOptions::default())
    }

    /// Adds a row that gives a key its value, with an expiry or a content type.
    ///
    /// ```
    /// use paddock_storage::{PutOptions, RowRef, RowsBuilder};
    ///
    /// let mut rows = RowsBuilder::new();
    /// let options = PutOptions { expires_at_ms: None, content_type: Some("image/png") };
    /// rows.put_with(b"heron", b"\x89PNG", &options)?;
    /// let rows = rows.finish();
    /// assert!(matches!(rows.iter().next(), Some(RowRef::Put { content_type: Some("image/png"), .. })));
    /// # Ok::<(), paddock_storage::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`RowsBuilder::put`]; [`Error::TooLarge`] for the content type, [`Error::ContentType`].
    pub fn put_with(&mut self, key: &[u8], value: &[u8], options: &PutOptions<'_>) -> Result<()> {
        check_batch(self.bytes.len() + put_bytes(key, value, options))?;
        encode_put(&mut self.bytes, key, value, options)?;
        self.count += 1;
        Ok(())
    }

    /// Adds a row that takes a key away.
    ///
    /// ```
    /// use paddock_storage::{RowRef, RowsBuilder};
    ///
    /// let mut rows = RowsBuilder::new();
    /// rows.delete(b"heron")?;
    /// assert_eq!(rows.finish().iter().next(), Some(RowRef::Delete { key: b"heron" }));
    /// # Ok::<(), paddock_storage::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`RowsBuilder::put`].
    pub fn delete(&mut self, key: &[u8]) -> Result<()> {
        check_batch(self.bytes.len() + ROW_OVERHEAD_BYTES + key.len())?;
        encode_delete(&mut self.bytes, key)?;
        self.count += 1;
        Ok(())
    }

    /// Adds an entry of the replication protocol's own, which the index does not see.
    ///
    /// ```
    /// use paddock_storage::{RowRef, RowsBuilder};
    ///
    /// let mut rows = RowsBuilder::new();
    /// rows.marker(b"epoch 2")?;
    /// assert_eq!(rows.finish().iter().next(), Some(RowRef::Marker { payload: b"epoch 2" }));
    /// # Ok::<(), paddock_storage::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::TooLarge`] for the payload or the rows together.
    pub fn marker(&mut self, payload: &[u8]) -> Result<()> {
        check_batch(self.bytes.len() + ROW_OVERHEAD_BYTES + payload.len())?;
        encode_marker(&mut self.bytes, payload)?;
        self.count += 1;
        Ok(())
    }

    /// Adds rows that are encoded already.
    ///
    /// ```
    /// use paddock_storage::RowsBuilder;
    ///
    /// let mut part = RowsBuilder::new();
    /// part.put(b"heron", b"grey")?;
    /// let part = part.finish();
    ///
    /// let mut all = RowsBuilder::new();
    /// all.extend(&part)?;
    /// all.extend(&part)?;
    /// assert_eq!(all.count(), 2);
    /// # Ok::<(), paddock_storage::Error>(())
    /// ```
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
    ///
    /// ```
    /// use paddock_storage::RowsBuilder;
    ///
    /// let mut rows = RowsBuilder::new();
    /// rows.put(b"heron", b"grey")?;
    /// assert_eq!(rows.count(), 1);
    /// # Ok::<(), paddock_storage::Error>(())
    /// ```
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// How many bytes they take, encoded.
    ///
    /// ```
    /// use paddock_storage::{ROW_OVERHEAD_BYTES, RowsBuilder};
    ///
    /// let mut rows = RowsBuilder::new();
    /// rows.put(b"heron", b"grey")?;
    /// assert_eq!(rows.encoded_bytes(), ROW_OVERHEAD_BYTES + 5 + 4);
    /// # Ok::<(), paddock_storage::Error>(())
    /// ```
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The rows.
    ///
    /// ```
    /// use paddock_storage::RowsBuilder;
    ///
    /// let mut rows = RowsBuilder::new();
    /// rows.put(b"heron", b"grey")?;
    /// assert_eq!(rows.finish().count(), 1);
    /// # Ok::<(), paddock_storage::Error>(())
    /// ```
    #[must_use]
    pub fn finish(self) -> Rows {
        Rows { bytes: self.bytes.into(), count: self.count }
    }
}

impl Rows {
    /// Takes rows that someone else encoded, after verifying framing, limits and every checksum: bytes from a
    /// peer enter here. Rows that carry a sequence are refused: it would be another log's.
    ///
    /// ```
    /// use paddock_storage::{Error, Rows, RowsBuilder};
    ///
    /// let mut rows = RowsBuilder::new();
    /// rows.put(b"heron", b"grey")?;
    /// let rows = rows.finish();
    /// let mut received = rows.encoded().to_vec();
    /// assert_eq!(Rows::from_encoded(received.clone().into(), 1)?, rows);
    ///
    /// received[20] ^= 1;
    /// assert!(matches!(Rows::from_encoded(received.into(), 1), Err(Error::DamagedRows { offset: 0, .. })));
    /// # Ok::<(), paddock_storage::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::DamagedRows`], or [`Error::TooLarge`].
    pub fn from_encoded(bytes: Bytes, count: u32) -> Result<Rows> {
        check_batch(bytes.len())?;
        let rows = Rows { bytes, count };
        rows.verify()?;
        Ok(rows)
    }

    /// The encoded bytes, as they go on the wire. In the log the same rows carry their sequences, too.
    ///
    /// ```
    /// use paddock_storage::RowsBuilder;
    ///
    /// let mut rows = RowsBuilder::new();
    /// rows.put(b"heron", b"grey")?;
    /// assert!(rows.finish().encoded().ends_with(b"herongrey"));
    /// # Ok::<(), paddock_storage::Error>(())
    /// ```
    #[must_use]
    pub fn encoded(&self) -> &Bytes {
        &self.bytes
    }

    /// How many rows there are.
    ///
    /// ```
    /// use paddock_storage::RowsBuilder;
    ///
    /// let mut rows = RowsBuilder::new();
    /// rows.put(b"heron", b"grey")?;
    /// rows.delete(b"robin")?;
    /// assert_eq!(rows.finish().count(), 2);
    /// # Ok::<(), paddock_storage::Error>(())
    /// ```
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The rows, in order.
    ///
    /// ```
    /// use paddock_storage::{RowRef, RowsBuilder};
    ///
    /// let mut rows = RowsBuilder::new();
    /// rows.put(b"heron", b"grey")?;
    /// rows.delete(b"robin")?;
    /// assert_eq!(rows.finish().iter().nth(1), Some(RowRef::Delete { key: b"robin" }));
    /// # Ok::<(), paddock_storage::Error>(())
    /// ```
    pub fn iter(&self) -> impl Iterator<Item = RowRef<'_>> + '_ {
        self.frames().map(|frame| frame.stored.row)
    }

    /// The rows from the `skip`-th on (for a follower that already holds the first ones). No copy.
    ///
    /// ```
    /// use paddock_storage::{RowRef, RowsBuilder};
    ///
    /// let mut rows = RowsBuilder::new();
    /// rows.delete(b"heron")?;
    /// rows.delete(b"robin")?;
    /// let rows = rows.finish();
    /// assert_eq!(rows.skip(1).iter().next(), Some(RowRef::Delete { key: b"robin" }));
    /// assert_eq!(rows.skip(7).count(), 0);
    /// # Ok::<(), paddock_storage::Error>(())
    /// ```
    #[must_use]
    pub fn skip(&self, skip: u32) -> Rows {
        let start = self.frames().offset_of(skip);
        Rows { bytes: self.bytes.slice(start..), count: self.count.saturating_sub(skip) }
    }

    /// The first `take` rows. No copy.
    ///
    /// ```
    /// use paddock_storage::{RowRef, RowsBuilder};
    ///
    /// let mut rows = RowsBuilder::new();
    /// rows.delete(b"heron")?;
    /// rows.delete(b"robin")?;
    /// let rows = rows.finish();
    /// assert_eq!(rows.take(1).iter().next(), Some(RowRef::Delete { key: b"heron" }));
    /// assert_eq!(rows.take(7), rows);
    /// # Ok::<(), paddock_storage::Error>(())
    /// ```
    #[must_use]
    pub fn take(&self, take: u32) -> Rows {
        if take >= self.count {
            return self.clone();
        }
        let end = self.frames().offset_of(take);
        Rows { bytes: self.bytes.slice(..end), count: self.count.min(take) }
    }

    /// Rows that were verified already.
    pub(super) fn verified(bytes: Bytes, count: u32) -> Rows {
        Rows { bytes, count }
    }

    /// The rows with their places.
    pub(crate) fn frames(&self) -> Frames<'_> {
        Frames::new(&self.bytes)
    }

    /// Copies the rows behind what is in `buffer`, as a log holds them: the first is entry `first`. Returns the CRC of
    /// their checksums, the batch header's word on all of them.
    pub(crate) fn stamp_into(&self, first: Sequence, buffer: &mut Vec<u8>) -> u32 {
        let start = buffer.len();
        buffer.extend_from_slice(&self.bytes);
        let mut checksums = Checksums::new();
        for (sequence, frame) in (first.0..).zip(self.frames()) {
            let row = &mut buffer[start + frame.offset..];
            checksums.add(restamp(row, Sequence(0), Sequence(sequence)));
        }
        checksums.finish()
    }

    /// Checks framing, count, every row's checksum, and that none has a sequence.
    fn verify(&self) -> Result<()> {
        let damaged = |offset: usize, what: String| Err(Error::DamagedRows { offset: offset as u64, what });
        let (mut offset, mut count) = (0, 0);
        while offset < self.bytes.len() {
            match verified(&self.bytes[offset..]) {
                Ok(StoredRow { sequence: Sequence(0), bytes, .. }) => offset += bytes.len(),
                Ok(StoredRow { sequence, .. }) => {
                    return damaged(
                        offset,
                        format!("the row carries the sequence {sequence} of another log"),
                    );
                }
                Err(what) => return damaged(offset, what.into()),
            }
            count += 1;
        }
        if count != u64::from(self.count) {
            return damaged(offset, format!("{count} rows, announced as {}", self.count));
        }
        Ok(())
    }
}

/// A row and where it lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) offset: usize,
    pub(crate) stored: StoredRow<'a>,
}

/// Walks encoded rows by their lengths; stops at the first that cannot be one.
#[derive(Clone, Debug)]
pub(crate) struct Frames<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Frames<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Frames<'a> {
        Frames { bytes, offset: 0 }
    }

    /// Where the `index`-th row begins; where the rows end when there are fewer.
    pub(crate) fn offset_of(mut self, index: u32) -> usize {
        self.nth(index as usize).map_or(self.bytes.len(), |frame| frame.offset)
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Frame<'a>> {
        let stored = decode_stored(&self.bytes[self.offset..])?;
        let frame = Frame { offset: self.offset, stored };
        self.offset += stored.bytes.len();
        Some(frame)
    }
}

fn check_batch(bytes: usize) -> Result<()> {
    if bytes > BATCH_BYTES_MAX {
        let (actual, limit) = (bytes as u64, BATCH_BYTES_MAX as u64);
        return Err(Error::TooLarge { what: "bytes of rows in one batch", actual, limit });
    }
    Ok(())
}
