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

    /// Where the row of this key is. A row in a run is verified here.
    pub(crate) fn place(&mut self) -> Option<Result<Place<'_>>> {
        match &mut self.parts[self.current?] {
            Part::Tail(tail) => tail.current.map(Place::Entry).map(Ok),
            Part::Run(run) => Some(run.cursor.as_mut()?.row().map(Place::Row)),
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
    fn new(
        layers: &TailLayers,
        at: Sequence,
        direction: Direction,
        bound: Bound<&[u8]>,
    ) -> VersionCursor {
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

/// The files of a run, one after the other.
#[derive(Debug)]
struct SortedRunCursor {
    files: Vec<RunFile>,
    /// Keys below this do not count.
    from: Option<Arc<[u8]>>,
    file: usize,
    /// In the file of that number; `None` at the end.
    cursor: Option<RunCursor>,
}

impl SortedRunCursor {
    fn new(run: &SortedRun, direction: Direction, bound: Bound<&[u8]>) -> Result<SortedRunCursor> {
        let mut cursor =
            SortedRunCursor { files: run.files.clone(), from: run.from.clone(), file: 0, cursor: None };
        match direction {
            Direction::Forward => cursor.seek(bound)?,
            Direction::Backward => cursor.seek_back(bound)?,
        }
        Ok(cursor)
    }

    fn seek(&mut self, lower: Bound<&[u8]>) -> Result<()> {
        let from = self.from.clone();
        let lower = match (&from, lower) {
            (Some(from), Bound::Unbounded) => Bound::Included(&**from),
            (Some(from), Bound::Included(key) | Bound::Excluded(key)) if key < &**from => Bound::Included(&**from),
            (_, lower) => lower,
        };
        self.file = match lower {
            Bound::Unbounded => 0,
            Bound::Included(key) => self.files.partition_point(|file| file.run.summary().last_key() < key),
            Bound::Excluded(key) => self.files.partition_point(|file| file.run.summary().last_key() <= key),
        };
        self.cursor = match self.files.get(self.file) {
            Some(file) => {
                let mut cursor = file.run.cursor();
                cursor.seek(lower)?;
                Some(cursor)
            }
            None => None,
        };
        Ok(())
    }

    fn seek_back(&mut self, upper: Bound<&[u8]>) -> Result<()> {
        let after = match upper {
            Bound::Unbounded => self.files.len(),
            Bound::Included(key) => self.files.partition_point(|file| file.run.summary().first_key() <= key),
            Bound::Excluded(key) => self.files.partition_point(|file| file.run.summary().first_key() < key),
        };
        self.cursor = None;
        if let Some(before) = after.checked_sub(1) {
            self.file = before;
            let mut cursor = self.files[before].run.cursor();
            cursor.seek_back(upper)?;
            self.cursor = Some(cursor);
        }
        Ok(())
    }

    /// The key on which it stands, as it is on the disk: its row is verified before it is given to anybody.
    fn key(&self) -> Option<&[u8]> {
        let key = self.cursor.as_ref()?.key()?;
        // On the way back this is where the keys end that count.
        self.from.as_ref().is_none_or(|from| key >= &**from).then_some(key)
    }

    fn advance(&mut self, direction: Direction) -> Result<()> {
        let Some(cursor) = &mut self.cursor else { return Ok(()) };
        match direction {
            Direction::Forward => cursor.next()?,
            Direction::Backward => cursor.prev()?,
        }
        if cursor.key().is_some() {
            return Ok(());
        }
        match direction {
            Direction::Forward => {
                self.file += 1;
                self.cursor = None;
                if let Some(file) = self.files.get(self.file) {
                    let mut cursor = file.run.cursor();
                    cursor.seek(Bound::Unbounded)?;
                    self.cursor = Some(cursor);
                }
            }
            Direction::Backward => {
                self.cursor = None;
                if let Some(before) = self.file.checked_sub(1) {
                    self.file = before;
                    let mut cursor = self.files[before].run.cursor();
                    cursor.seek_back(Bound::Unbounded)?;
                    self.cursor = Some(cursor);
                }
            }
        }
        Ok(())
    }
}
