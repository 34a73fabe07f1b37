//! The rows of a sorted run as a [`Source`], with their places.

use std::ops::Bound;

use paddock_index::PackedLocator;

use super::merge::Source;
use crate::error::Result;
use crate::row::StoredRow;
use crate::sorted_run_cursor::{Direction, SortedRunCursor};
use crate::view::SortedRun;

/// The rows of a run that count, in the order of their keys.
pub(crate) struct RunSource {
    cursor: SortedRunCursor,
    cold: bool,
}

impl RunSource {
    /// Stands on the first row that counts.
    pub(crate) fn new(run: &SortedRun) -> Result<RunSource> {
        let cursor = SortedRunCursor::new(run, Direction::Forward, Bound::Unbounded)?;
        Ok(RunSource { cursor, cold: run.cold })
    }

    /// The row on which it stands.
    pub(crate) fn row(&self) -> Option<StoredRow<'_>> {
        self.cursor.row()
    }

    /// Where that row is, as far as the hash index may know.
    pub(crate) fn hashed_place(&self) -> Option<PackedLocator> {
        if self.cold { None } else { self.cursor.place() }
    }
}

impl Source for RunSource {
    fn key(&self) -> Option<&[u8]> {
        self.cursor.key()
    }

    fn is_tombstone(&self) -> bool {
        self.row().is_some_and(|row| !row.row.is_put())
    }

    fn expires_at_ms(&self) -> Option<u64> {
        self.row()?.expires_at_ms()
    }

    fn advance(&mut self) -> Result<()> {
        self.cursor.advance(Direction::Forward)
    }
}
