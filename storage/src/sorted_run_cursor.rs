//! Walks the rows of a sorted run, file after file, in one direction.

use std::ops::Bound;
use std::sync::Arc;

use paddock_index::PackedLocator;

use crate::error::Result;
use crate::row::StoredRow;
use crate::run::RunCursor;
use crate::view::{RunFile, SortedRun};

/// Which way a cursor goes. One that goes backward begins at the upper end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Forward,
    Backward,
}

/// The rows of a run's files, one after the other.
#[derive(Debug)]
pub(crate) struct SortedRunCursor {
    files: Vec<RunFile>,
    /// Keys below this do not count.
    from: Option<Arc<[u8]>>,
    file: usize,
    /// In the file of that number, on the row that it gave last; `None` at the end.
    cursor: Option<RunCursor>,
}

impl SortedRunCursor {
    /// Stands on the first row that counts within the bound: the lower one on the way forward, the upper one on the way back.
    pub(crate) fn new(run: &SortedRun, direction: Direction, bound: Bound<&[u8]>) -> Result<SortedRunCursor> {
        let SortedRun { files, from, .. } = run.clone();
        let mut cursor = SortedRunCursor { files, from, file: 0, cursor: None };
        match direction {
            Direction::Forward => cursor.seek(bound)?,
            Direction::Backward => cursor.seek_back(bound)?,
        }
        cursor.advance(direction)?;
        Ok(cursor)
    }

    fn seek(&mut self, lower: Bound<&[u8]>) -> Result<()> {
        let from = self.from.clone();
        let lower = match (&from, lower) {
            (Some(from), Bound::Unbounded) => Bound::Included(&**from),
            (Some(from), Bound::Included(key) | Bound::Excluded(key)) if key < &**from => {
                Bound::Included(&**from)
            }
            (_, lower) => lower,
        };
        let is_before = |file: &RunFile| match lower {
            Bound::Unbounded => false,
            Bound::Included(key) => file.run.summary().last_key() < key,
            Bound::Excluded(key) => file.run.summary().last_key() <= key,
        };
        self.file = self.files.partition_point(is_before);
        self.open(|cursor| cursor.seek(lower))
    }

    fn seek_back(&mut self, upper: Bound<&[u8]>) -> Result<()> {
        let begins_below = |file: &RunFile| match upper {
            Bound::Unbounded => true,
            Bound::Included(key) => file.run.summary().first_key() <= key,
            Bound::Excluded(key) => file.run.summary().first_key() < key,
        };
        // Without a file that begins below the bound, there is none of this number.
        self.file = self.files.partition_point(begins_below).checked_sub(1).unwrap_or(usize::MAX);
        self.open(|cursor| cursor.seek_back(upper))
    }

    /// Begins with the file of the current number, if there is one.
    fn open(&mut self, seek: impl FnOnce(&mut RunCursor) -> Result<()>) -> Result<()> {
        self.cursor = self.files.get(self.file).map(|file| file.run.cursor());
        self.cursor.as_mut().map_or(Ok(()), seek)
    }

    /// The row on which it stands.
    pub(crate) fn row(&self) -> Option<StoredRow<'_>> {
        self.cursor.as_ref()?.current()
    }

    /// Where that row is.
    pub(crate) fn place(&self) -> Option<PackedLocator> {
        let (file, cursor) = (self.files.get(self.file)?, self.cursor.as_ref()?);
        let row = cursor.current()?;
        file.handle.place(!row.row.is_put(), u64::from(cursor.offset()?), row.bytes.len())
    }

    /// Its key.
    #[inline]
    pub(crate) fn key(&self) -> Option<&[u8]> {
        self.cursor.as_ref()?.current_key()
    }

    /// Goes to the next row.
    pub(crate) fn advance(&mut self, direction: Direction) -> Result<()> {
        while let Some(cursor) = &mut self.cursor {
            let row = match direction {
                Direction::Forward => cursor.next()?,
                Direction::Backward => cursor.prev()?,
            };
            if let Some(row) = row {
                // On the way back this is where the keys end that count.
                if self.from.as_ref().is_some_and(|from| row.row.key() < Some(&**from)) {
                    self.cursor = None;
                }
                return Ok(());
            }
            match direction {
                Direction::Forward => {
                    self.file += 1;
                    self.open(|cursor| cursor.seek(Bound::Unbounded))?;
                }
                Direction::Backward => {
                    self.file = self.file.checked_sub(1).unwrap_or(usize::MAX);
                    self.open(|cursor| cursor.seek_back(Bound::Unbounded))?;
                }
            }
        }
        Ok(())
    }
}
