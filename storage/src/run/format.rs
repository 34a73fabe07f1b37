//! The parts of a run file that have a fixed shape: header, statistics, footer. FORMAT.md, "Run".
//!
//! Pure: bytes in, values or words of complaint out. Whatever bytes are given, nothing panics and nothing is allocated
//! beyond their length.

use super::expiry::{self, ExpiryStep};
use crate::header::{StoreId, read_u32, read_u64};
use crate::position::Sequence;
use crate::row::{KEY_BYTES_MAX, ROW_BYTES_MAX};

/// Where the first block begins, in the file and in logical offsets.
pub(crate) const RUN_START: u32 = 64;

/// No block ends at a higher logical offset: places have 32 bits for it.
pub(crate) const LOGICAL_BYTES_MAX: u32 = 1 << 30;

/// The most rows' bytes in a block of several rows: its table has 16 bits for where a row begins.
pub(crate) const BLOCK_BYTES_MAX: usize = u16::MAX as usize;

/// What the table takes beside what it takes for each row: the prefix's length, the count of the rows, the checksum.
pub(super) const TABLE_END_BYTES: usize = 10;

/// Where a row begins.
pub(super) const START_BYTES: usize = 2;

/// The head of a row's key.
pub(super) const HEAD_BYTES: usize = 4;

/// What the table takes for each row.
pub(super) const TABLE_ROW_BYTES: usize = START_BYTES + HEAD_BYTES;

/// No decoded block is longer: the largest row, by itself.
pub(super) const DECODED_BYTES_MAX: usize = ROW_BYTES_MAX + TABLE_ROW_BYTES + TABLE_END_BYTES;

const _: () = assert!(DECODED_BYTES_MAX < LOGICAL_BYTES_MAX as usize / 2);
const _: () = assert!(BLOCK_BYTES_MAX * 2 < DECODED_BYTES_MAX);

pub(super) const FOOTER_BYTES: usize = 64;

const FOOTER_MAGIC: &[u8; 8] = b"PDKRUNFT";

const STATISTICS_BYTES: usize = 64;

/// Mixed into the checksums of a file, so that a block of another file or from another place does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Salt(u32);

impl Salt {
    pub(super) fn new(store_id: StoreId, number: u32) -> Salt {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&store_id.0);
        hasher.update(&number.to_le_bytes());
        Salt(hasher.finalize())
    }

    /// The checksum of bytes that belong at a logical offset.
    pub(super) fn checksum(self, bytes: &[u8], logical_offset: u32) -> u32 {
        crc32fast::hash(bytes) ^ logical_offset ^ self.0
    }
}

/// The file's own fields of the file header.
pub(super) fn encode_header_fields(number: u32) -> [u8; 32] {
    let mut fields = [0; 32];
    fields[..4].copy_from_slice(&number.to_le_bytes());
    fields
}

/// Checks them against the number that the file's name says. The offset in an error is that in the file.
pub(super) fn check_header_fields(fields: &[u8; 32], number: u32) -> Result<(), (u64, String)> {
    let found = read_u32(fields, 0);
    if found != number {
        return Err((32, format!("run {found}, its name says {number}")));
    }
    if fields[4..].iter().any(|byte| *byte != 0) {
        return Err((36, "bytes that this format leaves zero are not".into()));
    }
    Ok(())
}

/// What a run holds, all in all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Statistics {
    pub(crate) rows: u64,
    /// Deletes among the rows.
    pub(crate) tombstones: u64,
    /// Bytes of all rows, as they are before compression.
    pub(crate) row_bytes: u64,
    /// 0 without rows.
    pub(crate) sequence_min: Sequence,
    /// 0 without rows.
    pub(crate) sequence_max: Sequence,
    /// The earliest expiry of a row, in milliseconds since 1970.
    pub(crate) expires_at_ms_min: Option<u64>,
    /// Rows that have an expiry.
    pub(crate) expiring: u64,
    /// How much of them has expired by when.
    pub(crate) expiry_steps: Vec<ExpiryStep>,
    /// Empty without rows.
    pub(crate) last_key: Vec<u8>,
}

impl Statistics {
    /// Counts a row in; the caller sees to the last key and to the steps of expiry.
    pub(super) fn count(
        &mut self,
        sequence: Sequence,
        bytes: usize,
        tombstone: bool,
        expires_at_ms: Option<u64>,
    ) {
        if self.rows == 0 || sequence < self.sequence_min {
            self.sequence_min = sequence;
        }
        self.sequence_max = self.sequence_max.max(sequence);
        self.rows += 1;
        self.tombstones += u64::from(tombstone);
        self.row_bytes += bytes as u64;
        if let Some(expires_at_ms) = expires_at_ms {
            self.expiring += 1;
            let earlier = self.expires_at_ms_min.map_or(expires_at_ms, |min| min.min(expires_at_ms));
            self.expires_at_ms_min = Some(earlier);
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(STATISTICS_BYTES + self.last_key.len());
        let expires_at_ms_min = self.expires_at_ms_min.unwrap_or(0);
        let (min, max) = (self.sequence_min.0, self.sequence_max.0);
        for field in [self.rows, self.tombstones, self.row_bytes, min, max, expires_at_ms_min, self.expiring]
        {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        // Keys of rows are no longer than what two bytes hold.
        let key_bytes = u16::try_from(self.last_key.len()).unwrap_or(u16::MAX);
        bytes.extend_from_slice(&key_bytes.to_le_bytes());
        bytes.extend_from_slice(&[0; 6]);
        bytes.extend_from_slice(&self.last_key);
        expiry::encode(&self.expiry_steps, &mut bytes);
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Statistics, &'static str> {
        const INCONSISTENT: &str = "the statistics do not hold together";
        let (fixed, rest) =
            bytes.split_first_chunk::<STATISTICS_BYTES>().ok_or("the statistics are too short")?;
        let key_bytes = usize::from(u16::from_le_bytes([fixed[56], fixed[57]]));
        let (last_key, steps) = rest.split_at_checked(key_bytes).ok_or(INCONSISTENT)?;
        let field = |number: usize| read_u64(fixed, number * 8);
        let expiring = field(6);
        let expires_at_ms_min = (expiring > 0).then(|| field(5));
        let statistics = Statistics {
            rows: field(0),
            tombstones: field(1),
            row_bytes: field(2),
            sequence_min: Sequence(field(3)),
            sequence_max: Sequence(field(4)),
            expires_at_ms_min,
            expiring,
            expiry_steps: expiry::decode(steps, expires_at_ms_min, field(2)).ok_or(INCONSISTENT)?,
            last_key: last_key.to_vec(),
        };
        let empty = statistics.rows == 0;
        let consistent = empty == last_key.is_empty()
            && last_key.len() <= KEY_BYTES_MAX
            && fixed[58..].iter().all(|byte| *byte == 0)
            && statistics.tombstones.saturating_add(expiring) <= statistics.rows
            && (expiring > 0 || field(5) == 0)
            && empty == (statistics.sequence_max.0 == 0)
            && empty == (statistics.sequence_min.0 == 0)
            && statistics.sequence_min <= statistics.sequence_max
            && statistics.sequence_max <= Sequence::MAX
            // Sums of them over all files stay sums.
            && statistics.row_bytes <= u64::from(LOGICAL_BYTES_MAX)
            && statistics.rows <= statistics.row_bytes;
        if consistent { Ok(statistics) } else { Err(INCONSISTENT) }
    }
}

/// Where the parts of a file are, and their checksums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) blocks: u32,
    pub(super) block_bytes: u32,
    pub(super) filter: Section,
    pub(super) index: Section,
    pub(super) statistics: Section,
}

/// A part of the file behind the blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) bytes: u32,
    pub(super) checksum: u32,
}

impl Section {
    /// `None`: too long for a file.
    pub(super) fn of(bytes: &[u8]) -> Option<Section> {
        Some(Section { bytes: u32::try_from(bytes.len()).ok()?, checksum: crc32fast::hash(bytes) })
    }
}

impl Footer {
    /// How long a file with these parts is.
    pub(super) fn file_bytes(&self) -> u64 {
        let parts = [self.block_bytes, self.filter.bytes, self.index.bytes, self.statistics.bytes];
        u64::from(RUN_START) + parts.into_iter().map(u64::from).sum::<u64>() + FOOTER_BYTES as u64
    }

    pub(super) fn encode(&self, salt: Salt) -> [u8; FOOTER_BYTES] {
        let mut bytes = [0; FOOTER_BYTES];
        bytes[..8].copy_from_slice(FOOTER_MAGIC);
        for (place, field) in bytes[12..44].chunks_mut(4).zip(self.fields()) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        let checksum = salt.checksum(&bytes[12..], 0);
        bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; FOOTER_BYTES], salt: Salt) -> Result<Footer, &'static str> {
        if &bytes[..8] != FOOTER_MAGIC {
            return Err("no footer is where the file ends");
        }
        if read_u32(bytes, 8) != salt.checksum(&bytes[12..], 0) {
            return Err("the footer's checksum does not match");
        }
        if bytes[44..].iter().any(|byte| *byte != 0) {
            return Err("bytes of the footer that this format leaves zero are not");
        }
        let field = |number: usize| read_u32(bytes, 12 + number * 4);
        Ok(Footer {
            blocks: field(0),
            block_bytes: field(1),
            filter: Section { bytes: field(2), checksum: field(5) },
            index: Section { bytes: field(3), checksum: field(6) },
            statistics: Section { bytes: field(4), checksum: field(7) },
        })
    }

    fn fields(&self) -> [u32; 8] {
        let Footer { blocks, block_bytes, filter, index, statistics } = *self;
        let lengths = [filter.bytes, index.bytes, statistics.bytes];
        let checksums = [filter.checksum, index.checksum, statistics.checksum];
        let ([a, b, c], [d, e, f]) = (lengths, checksums);
        [blocks, block_bytes, a, b, c, d, e, f]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More than a file can hold is no statistic, whatever its checksum: it would be added to those of other files.
    #[test]
    fn statistics_are_of_what_a_file_can_hold() {
        let most = Statistics {
            rows: 1 << 20,
            row_bytes: u64::from(LOGICAL_BYTES_MAX),
            sequence_min: Sequence(1),
            sequence_max: Sequence::MAX,
            last_key: b"key".to_vec(),
            ..Statistics::default()
        };
        assert_eq!(Statistics::decode(&most.encode()), Ok(most.clone()));
        for beyond in [
            Statistics { row_bytes: most.row_bytes + 1, ..most.clone() },
            Statistics { rows: u64::MAX, ..most.clone() },
            Statistics { sequence_max: Sequence(u64::MAX), ..most.clone() },
        ] {
            assert!(Statistics::decode(&beyond.encode()).is_err(), "{beyond:?}");
        }
    }
}
