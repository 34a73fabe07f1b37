//! A block: whole rows and a table of where they begin. FORMAT.md, "Block".
//!
//! The table has a checksum of its own, so which bytes are a row is certain before any row is looked at. A row's own
//! checksum is checked when the row is handed out.

use std::cmp::Ordering;
use std::ops::Range;

use super::format::{HEAD_BYTES, START_BYTES, Salt, TABLE_END_BYTES, TABLE_ROW_BYTES};
use super::index::common;
use crate::header::read_u32;
use crate::row::{RowRef, StoredRow, decode_stored, verified};

/// Rows that are being gathered for a block.
#[derive(Debug, Default)]
pub(super) struct BlockBuilder {
    bytes: Vec<u8>,
    /// Where each row begins, encoded.
    starts: Vec<u8>,
    /// Where each row's key lies.
    keys: Vec<Range<usize>>,
}

impl BlockBuilder {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn row_bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn rows(&self) -> u32 {
        u32::try_from(self.keys.len()).unwrap_or(u32::MAX)
    }

    /// How long the block is once it is finished.
    pub(super) fn decoded_bytes(&self) -> usize {
        self.bytes.len() + self.keys.len() * TABLE_ROW_BYTES + TABLE_END_BYTES
    }

    /// Adds a row, which must begin where the table can say so: the caller keeps the block short.
    pub(super) fn push(&mut self, row: &StoredRow<'_>) {
        let start = u16::try_from(self.bytes.len());
        assert!(start.is_ok(), "a row begins beyond what a block's table can say");
        self.starts.extend_from_slice(&start.unwrap_or(u16::MAX).to_le_bytes());
        self.bytes.extend_from_slice(row.bytes);
        // A row ends with its key and its value.
        let value_bytes = match row.row {
            RowRef::Put { value, .. } => value.len(),
            RowRef::Delete { .. } | RowRef::Marker { .. } => 0,
        };
        let end = self.bytes.len() - value_bytes;
        self.keys.push(end - key_of(&row.row).len()..end);
    }

    /// The block, decoded. It is there until [`BlockBuilder::clear`].
    pub(super) fn finish(&mut self, salt: Salt, logical_offset: u32) -> &[u8] {
        let rows_end = self.bytes.len();
        let prefix_bytes = self.prefix_bytes();
        self.bytes.extend_from_slice(&self.starts);
        for key in &self.keys {
            let head = head(&self.bytes[key.start + prefix_bytes..key.end]);
            self.bytes.extend_from_slice(&head.to_be_bytes());
        }
        // A prefix is no longer than a key.
        self.bytes.extend_from_slice(&(prefix_bytes as u16).to_le_bytes());
        self.bytes.extend_from_slice(&self.rows().to_le_bytes());
        let checksum = salt.checksum(&self.bytes[rows_end..], logical_offset);
        self.bytes.extend_from_slice(&checksum.to_le_bytes());
        &self.bytes
    }

    /// How many bytes all keys begin with in common: they are in order, so the first and the last tell.
    fn prefix_bytes(&self) -> usize {
        match (self.keys.first(), self.keys.last()) {
            (Some(first), Some(last)) => common(&self.bytes[first.clone()], &self.bytes[last.clone()]),
            _ => 0,
        }
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.keys.clear();
        self.starts.clear();
    }
}

/// Where the rows of a decoded block end, and how many they are: known to be right, since the table's checksum was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) rows: u32,
    rows_end: u32,
    /// How many bytes all keys begin with in common.
    prefix_bytes: u16,
}

impl Shape {
    /// Checks the table of a decoded block.
    pub(super) fn of(bytes: &[u8], salt: Salt, logical_offset: u32) -> Result<Shape, &'static str> {
        const SHORT: &str = "the block is shorter than its table";
        let end_at = bytes.len().checked_sub(TABLE_END_BYTES).ok_or(SHORT)?;
        let (table, end) = bytes.split_at(end_at);
        let rows = read_u32(end, 2);
        let table_bytes = (rows as usize).checked_mul(TABLE_ROW_BYTES).ok_or(SHORT)?;
        let rows_end = table.len().checked_sub(table_bytes).ok_or(SHORT)?;
        let covered = &bytes[rows_end..bytes.len() - 4];
        if rows == 0 || read_u32(end, 6) != salt.checksum(covered, logical_offset) {
            return Err("the checksum of the block's table does not match");
        }
        let prefix_bytes = u16::from_le_bytes([end[0], end[1]]);
        Ok(Shape { rows, rows_end: u32::try_from(rows_end).map_err(|_| SHORT)?, prefix_bytes })
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
        let at = rows_end + row as usize * START_BYTES;
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
        if let Some(rest) = key.get(usize::from(self.shape.prefix_bytes)..) {
            let (low, ties) = self.search_heads(head(rest));
            let found = low + self.search_rows(low, ties, key)?;
            if let Some(equal) = self.is_place_of(found, key)? {
                return Ok((found, equal));
            }
        }
        // The key does not begin as those of the block do, and belongs before or behind them.
        let found = self.search_rows(0, self.rows(), key)?;
        match self.is_place_of(found, key)? {
            Some(equal) => Ok((found, equal)),
            None => Err((self.start(found), "the rows are not in order")),
        }
    }

    /// Whether a key belongs before the row of this number and behind the one before, by rows that are verified: `None` if
    /// not, otherwise whether that row is the key's.
    fn is_place_of(&self, row: u32, key: &[u8]) -> Result<Option<bool>, Damage> {
        if row < self.rows() {
            match key_of(&self.row(row)?.row).cmp(key) {
                // The key itself has no better proof than its own row.
                Ordering::Equal => return Ok(Some(true)),
                Ordering::Less => return Ok(None),
                Ordering::Greater => {}
            }
        }
        let is_behind = row == 0 || key_of(&self.row(row - 1)?.row) < key;
        Ok(is_behind.then_some(false))
    }

    /// Whether prefix and heads are those of the rows, which were verified. A search does not depend on that: it would
    /// only take longer.
    pub(super) fn heads_are_right(&self) -> bool {
        let key = |row| self.known_row(row).map(|row| key_of(&row.row));
        let prefix_bytes = usize::from(self.shape.prefix_bytes);
        let (Some(first), Some(last)) = (key(0), key(self.rows() - 1)) else { return false };
        let right = |(row, found): (u32, &[u8; HEAD_BYTES])| {
            key(row).and_then(|key| key.get(prefix_bytes..)).map(head) == Some(u32::from_be_bytes(*found))
        };
        common(first, last) == prefix_bytes && (0..).zip(self.heads()).all(right)
    }

    fn heads(&self) -> &'a [[u8; HEAD_BYTES]] {
        let start = self.shape.rows_end as usize + self.shape.rows as usize * START_BYTES;
        let end = start + self.shape.rows as usize * HEAD_BYTES;
        self.bytes.get(start..end).unwrap_or_default().as_chunks().0
    }

    /// How many heads are below this one, and how many are equal to it.
    fn search_heads(&self, head: u32) -> (u32, u32) {
        let heads = self.heads();
        let low = heads.partition_point(|other| u32::from_be_bytes(*other) < head);
        let ties = heads[low..].iter().take_while(|other| u32::from_be_bytes(**other) == head);
        // No more than there are rows.
        (low as u32, ties.count() as u32)
    }

    /// Of so many rows from one on, how many have keys below this one. Nobody has verified them.
    fn search_rows(&self, first: u32, count: u32, key: &[u8]) -> Result<u32, Damage> {
        let (mut low, mut high) = (first, first + count);
        while low < high {
            let middle = low + (high - low) / 2;
            let row = self.known_row(middle).ok_or((self.start(middle), "no row begins here"))?;
            if key_of(&row.row) < key { low = middle + 1 } else { high = middle }
        }
        Ok(low - first)
    }
}

/// The first bytes as a number that compares as they do; zeros where there are fewer.
fn head(bytes: &[u8]) -> u32 {
    if let Some(head) = bytes.first_chunk() {
        return u32::from_be_bytes(*head);
    }
    let mut head = [0; HEAD_BYTES];
    head[..bytes.len()].copy_from_slice(bytes);
    u32::from_be_bytes(head)
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
