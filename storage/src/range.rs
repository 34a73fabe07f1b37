//! Walking the records in key order, from both ends.
//!
//! Keys and places are taken from the index a page at a time, so that the index is locked only briefly; rows are read
//! one by one, as the caller asks for them.

use std::collections::VecDeque;
use std::ops::Bound;

use paddock_index::OrderedIndex as _;

use crate::contents::{Contents, Place, Record, Shared};
use crate::error::Result;

/// Keys taken from the index at a time. The first page is small, since many ranges are.
const PAGE_KEYS_FIRST: usize = 16;
const PAGE_KEYS_MAX: usize = 256;

/// An iterator over records in key order; see [`crate::Readable::range`]. After an error it can go on behind the
/// damaged row.
#[derive(Debug)]
pub struct Range {
    shared: Shared,
    /// What is not yet taken from the index.
    start: Bound<Vec<u8>>,
    end: Bound<Vec<u8>>,
    /// Taken from the front, and from the back: both in key order.
    front: VecDeque<(Box<[u8]>, Place)>,
    back: VecDeque<(Box<[u8]>, Place)>,
    page_keys: usize,
    exhausted: bool,
}

impl Range {
    pub(crate) fn new(shared: Shared, start: Bound<Vec<u8>>, end: Bound<Vec<u8>>) -> Range {
        let (front, back) = (VecDeque::new(), VecDeque::new());
        Range { shared, start, end, front, back, page_keys: PAGE_KEYS_FIRST, exhausted: false }
    }

    fn fill_front(&mut self) {
        self.fill(|contents, bounds, keys, front, _| {
            front.extend(take(contents, contents.index.range(bounds), keys));
        });
        if let Some((key, _)) = self.front.back() {
            self.start = Bound::Excluded(key.to_vec());
        }
    }

    fn fill_back(&mut self) {
        self.fill(|contents, bounds, keys, _, back| {
            for taken in take(contents, contents.index.range(bounds).rev(), keys) {
                back.push_front(taken);
            }
        });
        if let Some((key, _)) = self.back.front() {
            self.end = Bound::Excluded(key.to_vec());
        }
    }

    fn fill(
        &mut self,
        take: impl FnOnce(&Contents, paddock_index::KeyBounds<'_>, usize, &mut Taken, &mut Taken),
    ) {
        if self.exhausted {
            return;
        }
        let before = self.front.len() + self.back.len();
        let bounds = (self.start.as_ref().map(Vec::as_slice), self.end.as_ref().map(Vec::as_slice));
        take(&self.shared.contents.read(), bounds, self.page_keys, &mut self.front, &mut self.back);
        self.exhausted = self.front.len() + self.back.len() < before + self.page_keys;
        self.page_keys = (self.page_keys * 2).min(PAGE_KEYS_MAX);
    }
}

type Taken = VecDeque<(Box<[u8]>, Place)>;

fn take<'a>(
    contents: &'a Contents,
    entries: impl Iterator<Item = (&'a [u8], paddock_index::Locator)>,
    keys: usize,
) -> impl Iterator<Item = (Box<[u8]>, Place)> {
    // Every locator in the index has its file: only cut segments lose theirs, and what is applied is never cut.
    entries.take(keys).filter_map(|(key, locator)| Some((key.into(), contents.place(locator)?)))
}

impl Iterator for Range {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Result<Record>> {
        if self.front.is_empty() {
            self.fill_front();
        }
        let (key, place) = self.front.pop_front().or_else(|| self.back.pop_front())?;
        Some(place.read(&key))
    }
}

impl DoubleEndedIterator for Range {
    fn next_back(&mut self) -> Option<Result<Record>> {
        if self.back.is_empty() {
            self.fill_back();
        }
        let (key, place) = self.back.pop_back().or_else(|| self.front.pop_back())?;
        Some(place.read(&key))
    }
}
