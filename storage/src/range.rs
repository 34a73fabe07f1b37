//! Walking the records in key order, from both ends.

use std::ops::{Bound, RangeBounds};

use crate::capture::Capture;
use crate::clock::Expiry;
use crate::error::{Error, Result};
use crate::merge_cursor::{Direction, MergeCursor, Place};
use crate::record::Record;

/// An iterator over records in key order; see [`crate::Readable::range`]. After an error it goes on behind the damaged row
/// if that is certain to be the next one; otherwise it is over.
///
/// It is a consistent view of the moment in which it was made, and keeps the files of that moment: hold it for as
/// long as you need it, not longer.
#[derive(Debug)]
pub struct Range {
    capture: Capture,
    expiry: Expiry,
    start: Bound<Vec<u8>>,
    end: Bound<Vec<u8>>,
    front: Option<MergeCursor>,
    back: Option<MergeCursor>,
    /// What was given last from either end: where they meet, the range is over.
    last_front: Option<Vec<u8>>,
    last_back: Option<Vec<u8>>,
    /// What went wrong beyond the record that was given last.
    failed: Option<Error>,
    over: bool,
}

impl Range {
    /// `expiry` as of a moment: a record that expires on the way stays.
    pub(crate) fn new<K: AsRef<[u8]>>(
        capture: Capture,
        expiry: Expiry,
        bounds: &impl RangeBounds<K>,
    ) -> Range {
        let owned = |bound: Bound<&K>| bound.map(|key| key.as_ref().to_vec());
        let (start, end) = (owned(bounds.start_bound()), owned(bounds.end_bound()));
        let (front, back, last_front, last_back) = (None, None, None, None);
        Range { capture, expiry, start, end, front, back, last_front, last_back, failed: None, over: false }
    }

    fn step(&mut self, direction: Direction) -> Option<Result<Record>> {
        if let Some(error) = self.failed.take() {
            // What follows is not known: a range without it would look whole.
            self.over = true;
            return Some(Err(error));
        }
        while !self.over {
            match self.step_once(direction) {
                Ok(Some(record)) => return Some(Ok(record)),
                Ok(None) => {}
                Err(error) => return Some(Err(error)),
            }
        }
        None
    }

    /// The next key's record; `None` if it has none, or if the range is over.
    fn step_once(&mut self, direction: Direction) -> Result<Option<Record>> {
        let Range { capture, front, back, start, end, .. } = self;
        let (cursor, bound) = match direction {
            Direction::Forward => (front, &*start),
            Direction::Backward => (back, &*end),
        };
        let cursor = match cursor {
            Some(cursor) => cursor,
            None => {
                let made = MergeCursor::new(capture, direction, bound.as_ref().map(Vec::as_slice));
                self.over = made.is_err();
                cursor.insert(made?)
            }
        };
        let Some(key) = cursor.key().filter(|key| match direction {
            Direction::Forward => {
                !is_beyond_end(end, key) && self.last_back.as_deref().is_none_or(|back| *key < back)
            }
            Direction::Backward => {
                !is_before_start(start, key) && self.last_front.as_deref().is_none_or(|front| *key > front)
            }
        }) else {
            self.over = true;
            return Ok(None);
        };
        let last = match direction {
            Direction::Forward => &mut self.last_front,
            Direction::Backward => &mut self.last_back,
        };
        let last = last.get_or_insert_default();
        last.clear();
        last.extend_from_slice(key);
        let record = match cursor.place() {
            None => Ok(None),
            Some(Place::Row(row)) => Ok(Record::of(&row)),
            Some(Place::Entry(entry)) if entry.tombstone => Ok(None),
            Some(Place::Entry(entry)) => capture.read_entry(last, &entry, Record::of),
        };
        if let Err(error) = cursor.advance() {
            match &record {
                Ok(Some(_)) => self.failed = Some(error),
                _ => {
                    self.over = true;
                    return record.and(Err(error));
                }
            }
        }
        Ok(record?.filter(|record| !self.expiry.hides(record.expires_at_ms)))
    }
}

fn is_beyond_end(end: &Bound<Vec<u8>>, key: &[u8]) -> bool {
    match end {
        Bound::Unbounded => false,
        Bound::Included(end) => key > &**end,
        Bound::Excluded(end) => key >= &**end,
    }
}

fn is_before_start(start: &Bound<Vec<u8>>, key: &[u8]) -> bool {
    match start {
        Bound::Unbounded => false,
        Bound::Included(start) => key < &**start,
        Bound::Excluded(start) => key <= &**start,
    }
}

impl Iterator for Range {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Result<Record>> {
        self.step(Direction::Forward)
    }
}

impl DoubleEndedIterator for Range {
    fn next_back(&mut self) -> Option<Result<Record>> {
        self.step(Direction::Backward)
    }
}
