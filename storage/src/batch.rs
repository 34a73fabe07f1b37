//! Batches: what one append writes. FORMAT.md, "Batch".

use crate::header::{StoreId, read_u32, read_u64};
use crate::position::Sequence;
use crate::row::{BATCH_BYTES_MAX, Rows};

pub(crate) const BATCH_HEADER_BYTES: usize = 72;

/// Where a header says that it seals its segment: its last byte that can be other than zero then.
pub(crate) const SEAL_FLAG_OFFSET: u64 = 68;

/// Batches begin at multiples of this.
pub(crate) const BATCH_ALIGNMENT: u64 = 8;

const MAGIC: [u8; 4] = *b"PDKb";

/// A run of entries of one epoch: what is appended, what a peer is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntries {
    /// The epoch that they were written in.
    pub epoch: u64,
    /// The sequence of the first; the others count up from it.
    pub first: Sequence,
    /// Milliseconds since 1970 by the clock of whoever wrote them first.
    pub log_time_ms: u64,
    /// One row per entry.
    pub rows: Rows,
}

impl LogEntries {
    /// The sequence of the last entry (`first - 1` when there is none).
    ///
    /// ```
    /// use paddock_storage::{LogEntries, RowsBuilder, Sequence};
    ///
    /// let mut rows = RowsBuilder::new();
    /// rows.delete(b"heron")?;
    /// rows.delete(b"robin")?;
    /// let entries = LogEntries { epoch: 1, first: Sequence(7), log_time_ms: 0, rows: rows.finish() };
    /// assert_eq!(entries.last(), Sequence(8));
    /// # Ok::<(), paddock_storage::Error>(())
    /// ```
    #[must_use]
    pub fn last(&self) -> Sequence {
        // Saturates, since a peer may send any first sequence.
        Sequence(self.first.0.saturating_add(u64::from(self.rows.count())).saturating_sub(1))
    }
}

/// What stands before a batch's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub(crate) rows_bytes: u32,
    pub(crate) count: u32,
    pub(crate) epoch: u64,
    pub(crate) first: Sequence,
    pub(crate) previous_durable: Sequence,
    pub(crate) known_commit: Sequence,
    pub(crate) log_time_ms: u64,
    pub(crate) previous_chain: u64,
    pub(crate) rows_checksum: u32,
    /// Only in a batch of no rows: the segment ends here, and the log goes on in the next one, which is there already.
    pub(crate) seals: bool,
}

impl BatchHeader {
    /// Bytes of the whole batch in the file, padding included.
    pub(crate) fn batch_bytes(&self) -> u64 {
        batch_bytes(u64::from(self.rows_bytes))
    }

    /// The first sequence after the batch.
    pub(crate) fn next(&self) -> Sequence {
        Sequence(self.first.0.saturating_add(u64::from(self.count)))
    }

    pub(crate) fn encode(&self, store_id: StoreId) -> [u8; BATCH_HEADER_BYTES] {
        let mut bytes = [0; BATCH_HEADER_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&self.rows_bytes.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.count.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.previous_durable.0.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.known_commit.0.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.log_time_ms.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.previous_chain.to_le_bytes());
        bytes[64..68].copy_from_slice(&self.rows_checksum.to_le_bytes());
        bytes[68] = u8::from(self.seals);
        let checksum = checksum(&bytes, store_id);
        bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Decodes the header that `bytes` begin with; `None` when there is none, or a damaged one.
    pub(crate) fn decode(bytes: &[u8], store_id: StoreId) -> Option<BatchHeader> {
        let bytes = bytes.first_chunk::<BATCH_HEADER_BYTES>()?;
        if bytes[..4] != MAGIC || read_u32(bytes, 4) != checksum(bytes, store_id) {
            return None;
        }
        let header = BatchHeader::fields(bytes);
        if read_u32(bytes, 68) != u32::from(header.seals) || header.seals && header.rows_bytes > 0 {
            return None;
        }
        // So that nobody makes room for more than a batch can have.
        (header.rows_bytes as usize <= BATCH_BYTES_MAX).then_some(header)
    }

    /// What the bytes say, whether it is so or not.
    pub(crate) fn fields(bytes: &[u8; BATCH_HEADER_BYTES]) -> BatchHeader {
        BatchHeader {
            rows_bytes: read_u32(bytes, 8),
            count: read_u32(bytes, 12),
            epoch: read_u64(bytes, 16),
            first: Sequence(read_u64(bytes, 24)),
            previous_durable: Sequence(read_u64(bytes, 32)),
            known_commit: Sequence(read_u64(bytes, 40)),
            log_time_ms: read_u64(bytes, 48),
            previous_chain: read_u64(bytes, 56),
            rows_checksum: read_u32(bytes, 64),
            seals: read_u32(bytes, 68) == 1 && read_u32(bytes, 12) == 0,
        }
    }

    /// The batch's link of the chain: what the next batch names as the one before it.
    pub(crate) fn chain(&self, store_id: StoreId) -> u64 {
        let header_checksum = read_u32(&self.encode(store_id), 4);
        u64::from(header_checksum) << 32 | u64::from(self.rows_checksum)
    }
}

/// Bytes that a batch with so many bytes of rows takes in the file.
pub(crate) fn batch_bytes(rows_bytes: u64) -> u64 {
    (BATCH_HEADER_BYTES as u64 + rows_bytes).next_multiple_of(BATCH_ALIGNMENT)
}

fn checksum(header: &[u8; BATCH_HEADER_BYTES], store_id: StoreId) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&store_id.0);
    hasher.update(&header[8..]);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A length is believed only within the limit: nobody makes room for 4 GiB because a header says so.
    #[test]
    fn a_header_of_too_many_bytes_is_none() {
        let store_id = StoreId([7; 16]);
        for (rows_bytes, good) in [(BATCH_BYTES_MAX as u32, true), (BATCH_BYTES_MAX as u32 + 1, false)] {
            let header = BatchHeader {
                rows_bytes,
                count: 1,
                epoch: 1,
                first: Sequence(1),
                previous_durable: Sequence(0),
                known_commit: Sequence(0),
                log_time_ms: 0,
                previous_chain: 0,
                rows_checksum: 0,
                seals: false,
            };
            let decoded = BatchHeader::decode(&header.encode(store_id), store_id);
            assert_eq!(decoded, good.then_some(header));
        }
    }
}
