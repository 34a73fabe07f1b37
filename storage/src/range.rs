//! Walking the records in key order, from both ends.

use std::ops::{Bound, RangeBounds};

use crate::capture::Capture;
use crate::clock::Expiry;
use crate::error::Result;
use crate::merge_cursor::{MergeCursor, Place};
use crate::record::{Record, RecordRef};
use crate::row::{RowRef, StoredRow, decode_stored};
use crate::sorted_run_cursor::Direction;

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
    front: Option<Side>,
    back: Option<Side>,
    /// A row of the log that is being handed out.
    row: Vec<u8>,
    over: bool,
}

/// How far the range has come from one of its ends. Where the two meet, it is over.
#[derive(Debug)]
struct Side {
    /// It stays on the row that was given last until the next one is asked for, so that a row can be lent.
    cursor: MergeCursor,
    given: bool,
}

/// Where the row is that is to be given.
#[derive(Clone, Copy, Debug)]
enum Found {
    /// Under the cursor that goes this way.
    Under(Direction),
    /// In the range's own buffer.
    Copied,
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
        Range { capture, expiry, start, end, front: None, back: None, row: Vec::new(), over: false }
    }

    /// The next record, lent until the one after it is asked for: nothing is allocated or copied for it where its file is
    /// mapped. Otherwise as [`Iterator::next`].
    ///
    /// ```
    /// use paddock_storage::{Readable, Store};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let store = Store::open(directory.path())?;
    /// store.insert("robin", "red")?;
    /// store.insert("wren", "brown")?;
    /// let (mut range, mut bytes) = (store.iter(), 0);
    /// while let Some(record) = range.next_lent() {
    ///     bytes += record?.value.len();
    /// }
    /// assert_eq!(bytes, 8);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn next_lent(&mut self) -> Option<Result<RecordRef<'_>>> {
        self.lend(Direction::Forward)
    }

    /// The same from the other end: as [`DoubleEndedIterator::next_back`].
    ///
    /// ```
    /// use paddock_storage::{Readable, Store};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let store = Store::open(directory.path())?;
    /// store.insert("robin", "red")?;
    /// store.insert("wren", "brown")?;
    /// let mut range = store.iter();
    /// assert_eq!(range.next_back_lent().transpose()?.map(|record| record.key), Some(&b"wren"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn next_back_lent(&mut self) -> Option<Result<RecordRef<'_>>> {
        self.lend(Direction::Backward)
    }

    fn lend(&mut self, direction: Direction) -> Option<Result<RecordRef<'_>>> {
        match self.find(direction)? {
            Ok(found) => self.row_of(found).and_then(|row| RecordRef::of(&row)).map(Ok),
            Err(error) => Some(Err(error)),
        }
    }

    fn give(&mut self, direction: Direction) -> Option<Result<Record>> {
        match self.find(direction)? {
            Ok(found) => self.row_of(found).and_then(|row| Record::of(&row)).map(Ok),
            Err(error) => Some(Err(error)),
        }
    }

    /// The row that was just found.
    fn row_of(&self, found: Found) -> Option<StoredRow<'_>> {
        let side = match found {
            Found::Copied => return decode_stored(&self.row),
            Found::Under(Direction::Forward) => &self.front,
            Found::Under(Direction::Backward) => &self.back,
        };
        match side.as_ref()?.cursor.place()? {
            Place::Row(row) => Some(row),
            Place::Entry(_) => None,
        }
    }

    /// Goes to the next key with a record.
    fn find(&mut self, direction: Direction) -> Option<Result<Found>> {
        while !self.over {
            let found = self.find_once(direction);
            match self.capture.damage.note(found) {
                Ok(Some(found)) => return Some(Ok(found)),
                Ok(None) => {}
                Err(error) => return Some(Err(error)),
            }
        }
        None
    }

    /// Goes to the next key. `None` if it has no record, or if the range is over.
    fn find_once(&mut self, direction: Direction) -> Result<Option<Found>> {
        if let Err(error) = self.advance(direction) {
            // What follows is not known: a range without it would look whole.
            self.over = true;
            return Err(error);
        }
        let Range { capture, expiry, start, end, front, back, row: buffer, over } = self;
        let (side, other) = match direction {
            Direction::Forward => (front, back),
            Direction::Backward => (back, front),
        };
        let Some(cursor) = side.as_ref().map(|side| &side.cursor) else { return Ok(None) };
        let met = other.as_ref().and_then(|other| other.cursor.key());
        let Some(key) = cursor.key().filter(|key| match direction {
            Direction::Forward => !is_beyond_end(end, key) && met.is_none_or(|met| *key < met),
            Direction::Backward => !is_before_start(start, key) && met.is_none_or(|met| *key > met),
        }) else {
            *over = true;
            return Ok(None);
        };
        let shown = |row: &StoredRow<'_>| match row.row {
            RowRef::Put { expires_at_ms, .. } => !expiry.hides(expires_at_ms),
            RowRef::Delete { .. } | RowRef::Marker { .. } => false,
        };
        match cursor.place() {
            Some(Place::Row(row)) => Ok(shown(&row).then_some(Found::Under(direction))),
            Some(Place::Entry(entry)) if !entry.tombstone => {
                let is_shown = capture.read_entry(key, &entry, |row| {
                    buffer.clear();
                    buffer.extend_from_slice(row.bytes);
                    shown(row)
                })?;
                Ok(is_shown.then_some(Found::Copied))
            }
            _ => Ok(None),
        }
    }

    /// Leaves the key that was given last, or goes to the first one.
    fn advance(&mut self, direction: Direction) -> Result<()> {
        let (side, bound) = match direction {
            Direction::Forward => (&mut self.front, &self.start),
            Direction::Backward => (&mut self.back, &self.end),
        };
        let side = match side {
            Some(side) => side,
            None => {
                let cursor = MergeCursor::new(&self.capture, direction, bound.as_ref().map(Vec::as_slice))?;
                side.insert(Side { cursor, given: false })
            }
        };
        match std::mem::replace(&mut side.given, true) {
            true => side.cursor.advance(),
            false => Ok(()),
        }
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
        self.give(Direction::Forward)
    }
}

impl DoubleEndedIterator for Range {
    fn next_back(&mut self) -> Option<Result<Record>> {
        self.give(Direction::Backward)
    }
}
