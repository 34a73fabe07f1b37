//! Verifying all of a run: that it is what it says of itself.

use std::sync::Arc;

use super::block::{expiry_of, key_of};
use super::cursor::RunCursor;
use super::expiry::Expiries;
use super::format::Statistics;
use super::index::Entries;
use super::reader::Run;
use crate::error::{Error, Result};
use crate::row::{RowRef, StoredRow};

impl Run {
    /// Reads the whole file, by system calls and front to back, and verifies it: every checksum, that keys ascend, that
    /// the index leads to every row, that the filter knows every key, that the statistics are true.
    pub(crate) fn verify(self: &Arc<Run>) -> Result<()> {
        let (parts, index) = self.read_parts()?;
        let behind_blocks = |what: &str| Error::corrupt(self.path(), u64::from(self.blocks_end), what);
        if parts.statistics != self.summary().statistics || parts.index != self.lookup()?.index {
            return Err(behind_blocks("not what it was when the run was opened"));
        }
        let entries = Entries { bytes: &index };
        let mut audit =
            Audit { entries, counted: Statistics::default(), expiries: Expiries::default(), rows_left: 0 };
        let mut cursor = RunCursor::avoiding_the_mapping(self.clone());
        while cursor.next()?.is_some() {
            let (Some(row), Some(number), Some(offset)) =
                (cursor.current(), cursor.number_in_block(), cursor.offset())
            else {
                return Err(behind_blocks("the rows cannot be read"));
            };
            audit
                .row(&row, number)
                .map_err(|what| Error::corrupt(self.path(), self.offset_of(offset), what))?;
            if audit.rows_left == 0 && !cursor.heads_are_right() {
                let what = "the table of the block is not that of its rows";
                return Err(Error::corrupt(self.path(), self.offset_of(offset), what));
            }
            if !parts.filter.may_contain(key_of(&row.row)) || !self.may_hold(key_of(&row.row))? {
                return Err(behind_blocks("the filter does not know a key of the run"));
            }
        }
        audit.counted.expiry_steps = audit.expiries.steps();
        if audit.rows_left > 0 || audit.entries.next().is_some() || audit.counted != parts.statistics {
            return Err(behind_blocks("the statistics are not those of the rows"));
        }
        Ok(())
    }
}

/// The block index held against the rows, which are counted anew.
struct Audit<'a> {
    entries: Entries<'a>,
    counted: Statistics,
    expiries: Expiries,
    /// Rows that the current block is still to have.
    rows_left: u32,
}

impl Audit<'_> {
    /// Takes the next row, which is so many rows into its block.
    fn row(&mut self, row: &StoredRow<'_>, number_in_block: u32) -> std::result::Result<(), &'static str> {
        const INDEX: &str = "the block is not what the block index says";
        let key = key_of(&row.row);
        let before = self.counted.last_key.as_slice();
        if number_in_block == 0 {
            let Some(Ok(entry)) = self.entries.next() else { return Err(INDEX) };
            let separates = entry.separator > before && entry.separator <= key;
            let is_first = self.counted.rows == 0;
            if self.rows_left > 0 || !separates || (is_first && entry.separator != key) {
                return Err(INDEX);
            }
            self.rows_left = entry.rows;
        }
        self.rows_left = self.rows_left.checked_sub(1).ok_or(INDEX)?;
        if key <= before {
            return Err("the rows are not in order");
        }
        let tombstone = matches!(row.row, RowRef::Delete { .. });
        self.counted.count(row.sequence, row.bytes.len(), tombstone, expiry_of(&row.row));
        self.expiries.note(expiry_of(&row.row), row.bytes.len());
        self.counted.last_key.clear();
        self.counted.last_key.extend_from_slice(key);
        Ok(())
    }
}
