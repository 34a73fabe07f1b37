//! Walks all parts of a store as one, in key order, in one direction.

use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;

use paddock_index::{TailCursor, TailEntry, TailEntryRef, TailLayers};

use crate::capture::Capture;
use crate::error::Result;
use crate::position::Sequence;
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
}

#[derive(Debug)]
enum Part {
    Tail(VersionCursor),
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
            parts.push(Part::Tail(VersionCursor::new(layers, capture.at, direction, bound)));
        }
        for run in capture.view.runs.iter().rev() {
            parts.push(Part::Run(SortedRunCursor::new(run, direction, bound)?));
        }
        let mut cursor = MergeCursor { direction, parts, current: None };
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
            Part::Tail(tail) => tail.current.map(Place::Entry),
            Part::Run(run) => run.row().map(Place::Row),
        }
    }

    /// Goes to the next key.
    pub(crate) fn advance(&mut self) -> Result<()> {
        let Some(current) = self.current else { return Ok(()) };
        // Parts before the current one stand on later keys, or they would be it.
        let (_, rest) = self.parts.split_at_mut(current);
        let Some((first, older)) = rest.split_first_mut() else { return Ok(()) };
        let mut failed = Ok(());
        if let Some(key) = first.key() {
            for part in older.iter_mut().filter(|part| part.key() == Some(key)) {
                failed = failed.and(part.advance(self.direction));
            }
        }
        failed = failed.and(first.advance(self.direction));
        self.choose();
        failed
    }

    fn choose(&mut self) {
        let sooner = match self.direction {
            Direction::Forward => Ordering::Less,
            Direction::Backward => Ordering::Greater,
        };
        let mut best: Option<(usize, &[u8])> = None;
        for (number, part) in self.parts.iter().enumerate() {
            if let Some(key) = part.key()
                && best.is_none_or(|(_, best)| key.cmp(best) == sooner)
            {
                best = Some((number, key));
            }
        }
        self.current = best.map(|(number, _)| number);
    }
}

impl Part {
    fn key(&self) -> Option<&[u8]> {
        match self {
            Part::Tail(tail) => tail.current.map(|_| &*tail.key),
            Part::Run(run) => run.key(),
        }
    }

    fn advance(&mut self, direction: Direction) -> Result<()> {
        match self {
            Part::Tail(tail) => {
                tail.load(direction);
                Ok(())
            }
            Part::Run(run) => run.advance(direction),
        }
    }
}

/// The keys of a tail, each with its newest version up to a sequence.
#[derive(Debug)]
struct VersionCursor {
    /// Stands on the first entry that has not been looked at.
    cursor: TailCursor,
    at: Sequence,
    key: Vec<u8>,
    current: Option<TailEntry>,
}

impl VersionCursor {
    fn new(layers: &TailLayers, at: Sequence, direction: Direction, bound: Bound<&[u8]>) -> VersionCursor {
        let mut cursor = layers.cursor();
        match direction {
            Direction::Forward => cursor.seek(bound),
            Direction::Backward => cursor.seek_back(bound),
        }
        let mut versions = VersionCursor { cursor, at, key: Vec::new(), current: None };
        versions.load(direction);
        versions
    }

    /// Takes the next key.
    fn load(&mut self, direction: Direction) {
        match direction {
            Direction::Forward => self.load_forward(),
            Direction::Backward => self.load_backward(),
        }
    }

    /// A key's versions come newest first: the first one that is visible counts, the others are passed over next time.
    fn load_forward(&mut self) {
        let had = self.current.take().is_some();
        while let Some(entry) = self.cursor.entry() {
            let is_older = had && entry.key == &*self.key;
            if !is_older && entry.sequence <= self.at.0 {
                self.current = Some(version(&entry));
                self.key.clear();
                self.key.extend_from_slice(entry.key);
                self.cursor.next();
                return;
            }
            self.cursor.next();
        }
    }

    /// A key's versions come newest last: all are looked at, and the last one that is visible counts.
    fn load_backward(&mut self) {
        self.current = None;
        while let Some(entry) = self.cursor.entry() {
            if self.current.is_some() && entry.key != &*self.key {
                return;
            }
            if entry.sequence <= self.at.0 {
                self.current = Some(version(&entry));
                self.key.clear();
                self.key.extend_from_slice(entry.key);
            }
            self.cursor.prev();
        }
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
        let row = self.cursor.as_ref()?.current()?;
        // On the way back this is where the keys end that count.
        let counts = self.from.as_ref().is_none_or(|from| row.row.key() >= Some(&**from));
        counts.then_some(row)
    }

    fn key(&self) -> Option<&[u8]> {
        self.row()?.row.key()
    }

    fn advance(&mut self, direction: Direction) -> Result<()> {
        while let Some(cursor) = &mut self.cursor {
            let row = match direction {
                Direction::Forward => cursor.next()?,
                Direction::Backward => cursor.prev()?,
            };
            if row.is_some() {
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
