//! The rows of a sorted run as a [`Source`], with their places.

use std::ops::Bound;

use paddock_index::PackedLocator;

use super::merge::Source;
use crate::error::Result;
use crate::row::StoredRow;
use crate::run::RunCursor;
use crate::view::{RunFile, SortedRun};

/// The rows of a run from some key on, in its files one after the other.
pub(crate) struct RunSource {
    /// Those that are left, last first.
    files: Vec<RunFile>,
    /// In the last file of these; `None` at the end.
    cursor: Option<RunCursor>,
    cold: bool,
}

impl RunSource {
    /// Stands on the first row that counts.
    pub(crate) fn new(run: &SortedRun) -> Result<RunSource> {
        let from = run.from.as_deref();
        let counts = |file: &&RunFile| from.is_none_or(|from| file.run.summary().last_key() >= from);
        let files: Vec<RunFile> = run.files.iter().filter(counts).rev().cloned().collect();
        let mut source = RunSource { files, cursor: None, cold: run.cold };
        source.open(from.map_or(Bound::Unbounded, Bound::Included))?;
        source.advance()?;
        Ok(source)
    }

    fn open(&mut self, bound: Bound<&[u8]>) -> Result<()> {
        self.cursor = self.files.last().map(|file| file.run.cursor());
        self.cursor.as_mut().map_or(Ok(()), |cursor| cursor.seek(bound))
    }

    /// The row on which it stands.
    pub(crate) fn row(&self) -> Option<StoredRow<'_>> {
        self.cursor.as_ref()?.current()
    }

    /// Where that row is, as far as the hash index may know.
    pub(crate) fn hashed_place(&self) -> Option<PackedLocator> {
        if self.cold {
            return None;
        }
        let (file, cursor) = (self.files.last()?, self.cursor.as_ref()?);
        let row = cursor.current()?;
        file.handle.place(!row.row.is_put(), u64::from(cursor.offset()?), row.bytes.len())
    }
}

impl Source for RunSource {
    fn key(&self) -> Option<&[u8]> {
        self.row()?.row.key()
    }

    fn is_tombstone(&self) -> bool {
        self.row().is_some_and(|row| !row.row.is_put())
    }

    fn expires_at_ms(&self) -> Option<u64> {
        self.row()?.expires_at_ms()
    }

    fn advance(&mut self) -> Result<()> {
        while let Some(cursor) = &mut self.cursor {
            if cursor.next()?.is_some() {
                return Ok(());
            }
            self.files.pop();
            self.open(Bound::Unbounded)?;
        }
        Ok(())
    }
}
