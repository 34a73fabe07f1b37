//! A block: whole rows and a table of where they begin. FORMAT.md, "Block".
//!
//! The table has a checksum of its own, so which bytes are a row is certain before any row is looked at. A row's own
//! checksum is checked when the row is handed out.

use std::cmp::Ordering;

use super::format::{Salt, TABLE_END_BYTES, TABLE_ROW_BYTES};
use crate::header::read_u32;
use crate::row::{RowRef, StoredRow, decode_stored, verified};

/// Rows that are being gathered for a block.
#[derive(Debug, Default)]
pub(super) struct BlockBuilder {
    bytes: Vec<u8>,
    starts: Vec<u8>,
}

impl BlockBuilder {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn row_bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn rows(&self) -> u32 {
        u32::try_from(self.starts.len() / TABLE_ROW_BYTES).unwrap_or(u32::MAX)
    }

    /// How long the block is once it is finished.
    pub(super) fn decoded_bytes(&self) -> usize {
        self.bytes.len() + self.starts.len() + TABLE_END_BYTES
    }

    /// Adds a row, which must begin where the table can say so: the caller keeps the block short.
    pub(super) fn push(&mut self, row: &[u8]) {
        let start = u16::try_from(self.bytes.len());
        assert!(start.is_ok(), "a row begins beyond what a block's table can say");
        self.starts.extend_from_slice(&start.unwrap_or(u16::MAX).to_le_bytes());
        self.bytes.extend_from_slice(row);
    }

    /// The block, decoded. It is there until [`BlockBuilder::clear`].
    pub(super) fn finish(&mut self, salt: Salt, logical_offset: u32) -> &[u8] {
        let rows_end = self.bytes.len();
        let rows = self.rows();
        self.bytes.extend_from_slice(&self.starts);
        self.bytes.extend_from_slice(&rows.to_le_bytes());
        let checksum = salt.checksum(&self.bytes[rows_end..], logical_offset);
        self.bytes.extend_from_slice(&checksum.to_le_bytes());
        &self.bytes
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.starts.clear();
    }
}

/// Where the rows of a decoded block end, and how many they are: known to be right, since the table's checksum was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) rows: u32,
    rows_end: u32,
}

impl Shape {
    /// Checks the table of a decoded block.
    pub(super) fn of(bytes: &[u8], salt: Salt, logical_offset: u32) -> Result<Shape, &'static str> {
        const SHORT: &str = "the block is shorter than its table";
        let count_at = bytes.len().checked_sub(TABLE_END_BYTES).ok_or(SHORT)?;
        let rows = read_u32(bytes, count_at);
        let table_bytes = (rows as usize).checked_mul(TABLE_ROW_BYTES).ok_or(SHORT)?;
        let rows_end = count_at.checked_sub(table_bytes).ok_or(SHORT)?;
        let covered = &bytes[rows_end..count_at + 4];
        if rows == 0 || read_u32(bytes, count_at + 4) != salt.checksum(covered, logical_offset) {
            return Err("the checksum of the block's table does not match");
        }
        Ok(Shape { rows, rows_end: u32::try_from(rows_end).map_err(|_| SHORT)? })
    }
}

/// A decoded block whose table was checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block<'a> {
    bytes: &'a [u8],
    shape: Shape,
}

/// A row that is not as it should be: where it begins in the block, and what is wrong.
pub(super) type Damage = (usize, &'static str);

impl<'a> Block<'a> {
    /// `shape` is that of these bytes.
    pub(super) fn new(bytes: &'a [u8], shape: Shape) -> Block<'a> {
        Block { bytes, shape }
    }

    pub(super) fn rows(&self) -> u32 {
        self.shape.rows
    }

    /// Where a row begins; for the number behind the last, where the rows end.
    #[inline]
    pub(super) fn start(&self, row: u32) -> usize {
        let rows_end = self.shape.rows_end as usize;
        if row >= self.shape.rows {
            return rows_end;
        }
        let at = rows_end + row as usize * TABLE_ROW_BYTES;
        let start = self.bytes.get(at..).and_then(|rest| rest.first_chunk());
        start.map_or(rows_end, |start| usize::from(u16::from_le_bytes(*start)))
    }

    /// The bytes of a row.
    #[inline]
    fn row_bytes(&self, row: u32) -> Result<&'a [u8], Damage> {
        let (start, end) = (self.start(row), self.start(row + 1));
        self.bytes.get(start..end).ok_or((start, "the block's table does not ascend"))
    }

    /// A row, verified.
    #[inline]
    pub(super) fn row(&self, row: u32) -> Result<StoredRow<'a>, Damage> {
        let bytes = self.row_bytes(row)?;
        let damage = |what| (self.start(row), what);
        let stored = verified(bytes).map_err(damage)?;
        if stored.bytes.len() != bytes.len() {
            return Err(damage("the row is shorter than its place"));
        }
        if key_of(&stored.row).is_empty() {
            return Err(damage("the row has no key"));
        }
        Ok(stored)
    }

    /// A row that was verified before.
    #[inline]
    pub(super) fn known_row(&self, row: u32) -> Option<StoredRow<'a>> {
        decode_stored(self.row_bytes(row).ok()?)
    }

    /// The first row whose key is not below `key`; and whether it is that key's. Both are certain: the rows on
    /// both sides of the answer are verified.
    pub(super) fn search(&self, key: &[u8]) -> Result<(u32, bool), Damage> {
        let found = self.probe(key)?;
        let mut equal = false;
        if found < self.rows() {
            let order = key_of(&self.row(found)?.row).cmp(key);
            equal = order == Ordering::Equal;
            if order == Ordering::Less {
                return Err((self.start(found), "the rows are not in order"));
            }
        }
        // The key itself has no better proof than its own row.
        if !equal && found > 0 && key_of(&self.row(found - 1)?.row) >= key {
            return Err((self.start(found - 1), "the rows are not in order"));
        }
        Ok((found, equal))
    }

    /// Binary search over keys that nobody verified.
    fn probe(&self, key: &[u8]) -> Result<u32, Damage> {
        let (mut low, mut high) = (0, self.rows());
        while low < high {
            let middle = low + (high - low) / 2;
            let row = self.known_row(middle).ok_or((self.start(middle), "no row begins here"))?;
            if key_of(&row.row) < key { low = middle + 1 } else { high = middle }
        }
        Ok(low)
    }
}

/// When the row expires.
#[inline]
pub(super) fn expiry_of(row: &RowRef<'_>) -> Option<u64> {
    match *row {
        RowRef::Put { expires_at_ms, .. } => expires_at_ms,
        RowRef::Delete { .. } | RowRef::Marker { .. } => None,
    }
}

/// The key of a row; empty for a marker, which no run has.
#[inline]
pub(super) fn key_of<'a>(row: &RowRef<'a>) -> &'a [u8] {
    match *row {
        RowRef::Put { key, .. } | RowRef::Delete { key } => key,
        RowRef::Marker { .. } => &[],
    }
}
