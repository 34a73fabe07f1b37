//! Verifying all of a run: that it is what it says of itself.

use std::sync::Arc;

use super::block::{expiry_of, key_of};
use super::cursor::RunCursor;
use super::expiry::Expiries;
use super::format::Statistics;
use super::index::Entries;
use super::reader::{Lookup, Parts, Run};
use crate::error::{Error, Result};
use crate::row::{RowRef, StoredRow};

impl Run {
    /// Reads the whole file, by system calls and front to back, and verifies it: every checksum, that keys ascend, that
    /// the index leads to every row, that the filter knows every key, that the statistics are true.
    pub(crate) fn verify(self: &Arc<Run>) -> Result<()> {
        let mut verifier = RunVerifier::new(self.clone())?;
        while verifier.step(u64::MAX)?.is_some() {}
        Ok(())
    }
}

/// The same a little at a time.
#[derive(Debug)]
pub(crate) struct RunVerifier {
    run: Arc<Run>,
    /// What searches in it go by.
    lookup: Arc<Lookup>,
    parts: Parts,
    cursor: RunCursor,
    audit: Audit,
    /// How far it has come in the file.
    offset: u64,
}

impl RunVerifier {
    /// Reads what lies behind the blocks.
    pub(crate) fn new(run: Arc<Run>) -> Result<RunVerifier> {
        let (parts, index) = run.read_parts()?;
        let lookup = run.lookup()?.into_owned();
        if parts.statistics != run.summary().statistics || parts.index != lookup.index {
            return Err(behind_blocks(&run, "not what it was when the run was opened"));
        }
        let cursor = RunCursor::avoiding_the_mapping(run.clone());
        Ok(RunVerifier { run, lookup, parts, cursor, audit: Audit::new(index), offset: 0 })
    }

    /// Verifies rows in about `bytes_max` bytes of the file, and says how many those were; `None`: it is over, all of it is sound.
    pub(crate) fn step(&mut self, bytes_max: u64) -> Result<Option<u64>> {
        let RunVerifier { run, lookup, parts, cursor, audit, offset: reached } = self;
        let start = *reached;
        while *reached - start < bytes_max {
            if cursor.next()?.is_none() {
                return audit.finish(parts).map(|()| None).map_err(|what| behind_blocks(run, what));
            }
            let (Some(row), Some(number), Some(offset)) =
                (cursor.current(), cursor.number_in_block(), cursor.offset())
            else {
                return Err(behind_blocks(run, "the rows cannot be read"));
            };
            let corrupt = |what| Error::corrupt(run.path(), run.offset_of(offset), what);
            audit.row(&row, number).map_err(corrupt)?;
            if audit.rows_left == 0 && !cursor.heads_are_right() {
                return Err(corrupt("the table of the block is not that of its rows"));
            }
            if !parts.filter.may_contain(key_of(&row.row)) || !lookup.filter.may_contain(key_of(&row.row)) {
                return Err(behind_blocks(run, "the filter does not know a key of the run"));
            }
            let place = parts.index.block_at(offset).and_then(|block| parts.index.place(block));
            *reached = (*reached).max(place.map_or(0, |place| u64::from(place.offset)));
        }
        Ok(Some(*reached - start))
    }
}

fn behind_blocks(run: &Run, what: &str) -> Error {
    Error::corrupt(run.path(), u64::from(run.blocks_end), what)
}

/// The block index held against the rows, which are counted anew.
#[derive(Debug)]
struct Audit {
    /// The encoded block index, and how much of it was taken.
    index: Vec<u8>,
    taken: usize,
    counted: Statistics,
    expiries: Expiries,
    /// Rows that the current block is still to have.
    rows_left: u32,
}

impl Audit {
    fn new(index: Vec<u8>) -> Audit {
        let (counted, expiries) = (Statistics::default(), Expiries::default());
        Audit { index, taken: 0, counted, expiries, rows_left: 0 }
    }

    /// Takes the next row, which is so many rows into its block.
    fn row(&mut self, row: &StoredRow<'_>, number_in_block: u32) -> std::result::Result<(), &'static str> {
        const INDEX: &str = "the block is not what the block index says";
        let key = key_of(&row.row);
        let before = self.counted.last_key.as_slice();
        if number_in_block == 0 {
            let mut entries = Entries { bytes: self.index.get(self.taken..).unwrap_or_default() };
            let Some(Ok(entry)) = entries.next() else { return Err(INDEX) };
            let separates = entry.separator > before && entry.separator <= key;
            let is_first = self.counted.rows == 0;
            if self.rows_left > 0 || !separates || (is_first && entry.separator != key) {
                return Err(INDEX);
            }
            self.rows_left = entry.rows;
            self.taken = self.index.len() - entries.bytes.len();
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

    /// There are no more rows.
    fn finish(&mut self, parts: &Parts) -> std::result::Result<(), &'static str> {
        self.counted.expiry_steps = std::mem::take(&mut self.expiries).steps();
        if self.rows_left > 0 || self.taken < self.index.len() || self.counted != parts.statistics {
            return Err("the statistics are not those of the rows");
        }
        Ok(())
    }
}
