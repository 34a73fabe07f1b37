//! Walks all parts of a store as one, in key order, in one direction.

use std::ops::Bound;
use std::sync::Arc;

use paddock_index::{TailEntry, TailEntryRef, TailKeys};

use crate::capture::Capture;
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

/// Each key that has a row, with its newest row up to the capture's sequence; deletes included.
#[derive(Debug)]
pub(crate) struct MergeCursor {
    direction: Direction,
    /// Newest first: of several that stand on one key the first one counts.
    parts: Vec<Part>,
    /// The part that the cursor stands on; `None` at the end.
    current: Option<usize>,
    /// The part that would be next without the current one: as long as that stays in front, no other is looked at.
    rival: Option<usize>,
    /// Whether the rival stands on the same key: with an older row of it.
    tied: bool,
}

#[derive(Debug)]
enum Part {
    Tail(TailKeys),
    Run(SortedRunCursor),
}

/// Where a key's newest row is.
pub(crate) enum Place<'a> {
    /// In the log.
    Entry(TailEntry),
    /// Here.
    Row(StoredRow<'a>),
}

impl MergeCursor {
    /// Stands on the first key within the bound: the lower one on the way forward, the upper one on the way back.
    pub(crate) fn new(capture: &Capture, direction: Direction, bound: Bound<&[u8]>) -> Result<MergeCursor> {
        let tails = capture.view.frozen.iter().rev().map(|frozen| &frozen.layers);
        let tails = std::iter::once(&capture.layers).chain(tails).filter(|layers| !layers.is_empty());
        let mut parts: Vec<Part> = Vec::with_capacity(4);
        for layers in tails {
            let mut keys = layers.keys(capture.at.0);
            match direction {
                Direction::Forward => keys.seek(bound),
                Direction::Backward => keys.seek_back(bound),
            }
            parts.push(Part::Tail(keys));
        }
        for run in capture.view.runs.iter().rev() {
            parts.push(Part::Run(SortedRunCursor::new(run, direction, bound)?));
        }
        let mut cursor = MergeCursor { direction, parts, current: None, rival: None, tied: false };
        cursor.choose();
        Ok(cursor)
    }

    /// The key on which it stands.
    pub(crate) fn key(&self) -> Option<&[u8]> {
        self.parts[self.current?].key()
    }

    /// Where the row of this key is.
    pub(crate) fn place(&self) -> Option<Place<'_>> {
        match &self.parts[self.current?] {
            Part::Tail(tail) => tail.entry().map(|entry| Place::Entry(version(&entry))),
            Part::Run(run) => run.row().map(Place::Row),
        }
    }

    /// Goes to the next key.
    pub(crate) fn advance(&mut self) -> Result<()> {
        let Some(current) = self.current else { return Ok(()) };
        let mut failed = Ok(());
        if self.tied {
            // Parts before the current one stand on later keys, or they would be it.
            let (newer, older) = self.parts.split_at_mut(current + 1);
            let key = newer.last().and_then(Part::key);
            for part in older.iter_mut().filter(|part| part.key() == key) {
                failed = failed.and(part.advance(self.direction));
            }
        }
        failed = failed.and(self.parts[current].advance(self.direction));
        if self.tied || failed.is_err() || !self.stays_in_front(current) {
            self.choose();
        }
        failed
    }

    /// Whether the current part is still in front of all others.
    fn stays_in_front(&self, current: usize) -> bool {
        let rival = self.rival.and_then(|rival| self.parts[rival].key());
        match (self.parts[current].key(), rival) {
            (Some(key), Some(rival)) => self.is_sooner(key, rival),
            (Some(_), None) => true,
            (None, _) => false,
        }
    }

    #[inline]
    fn is_sooner(&self, key: &[u8], than: &[u8]) -> bool {
        match self.direction {
            Direction::Forward => key < than,
            Direction::Backward => key > than,
        }
    }

    fn choose(&mut self) {
        let mut first: Option<(usize, &[u8])> = None;
        let mut second: Option<(usize, &[u8])> = None;
        for (number, part) in self.parts.iter().enumerate() {
            let Some(key) = part.key() else { continue };
            if first.is_none_or(|(_, first)| self.is_sooner(key, first)) {
                second = first.replace((number, key));
            } else if second.is_none_or(|(_, second)| self.is_sooner(key, second)) {
                second = Some((number, key));
            }
        }
        let tied = first.zip(second).is_some_and(|((_, first), (_, second))| first == second);
        let (current, rival) = (first.map(|(number, _)| number), second.map(|(number, _)| number));
        (self.current, self.rival, self.tied) = (current, rival, tied);
    }
}

impl Part {
    #[inline]
    fn key(&self) -> Option<&[u8]> {
        match self {
            Part::Tail(tail) => tail.entry().map(|entry| entry.key),
            Part::Run(run) => run.key(),
        }
    }

    fn advance(&mut self, direction: Direction) -> Result<()> {
        match (self, direction) {
            (Part::Tail(tail), Direction::Forward) => tail.next(),
            (Part::Tail(tail), Direction::Backward) => tail.prev(),
            (Part::Run(run), _) => return run.advance(direction),
        }
        Ok(())
    }
}

fn version(entry: &TailEntryRef<'_>) -> TailEntry {
    TailEntry { sequence: entry.sequence, locator: entry.locator, tombstone: entry.tombstone }
}

/// The rows of a run's files, one after the other.
#[derive(Debug)]
struct SortedRunCursor {
    files: Vec<RunFile>,
    /// Keys below this do not count.
    from: Option<Arc<[u8]>>,
    file: usize,
    /// In the file of that number, on the row that it gave last; `None` at the end.
    cursor: Option<RunCursor>,
}

impl SortedRunCursor {
    fn new(run: &SortedRun, direction: Direction, bound: Bound<&[u8]>) -> Result<SortedRunCursor> {
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
    fn row(&self) -> Option<StoredRow<'_>> {
        self.cursor.as_ref()?.current()
    }

    #[inline]
    fn key(&self) -> Option<&[u8]> {
        self.cursor.as_ref()?.current_key()
    }

    fn advance(&mut self, direction: Direction) -> Result<()> {
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
