//! Walks all parts of a store as one, in key order, in one direction.

use std::ops::Bound;

use paddock_index::{TailEntry, TailEntryRef, TailKeys};

use crate::capture::Capture;
use crate::error::Result;
use crate::row::StoredRow;
use crate::sorted_run_cursor::{Direction, SortedRunCursor};

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
