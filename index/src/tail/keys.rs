//! Walking the keys of a tail as they were at a sequence.

use std::ops::Bound;

use super::TailEntryRef;
use super::cursor::{Position, TailCursor};
use super::layers::TailLayers;

/// Stands on a key of a tail, before the first one, or behind the last. Of each key it gives the newest version
/// that is not above its sequence; keys without such a version do not exist for it. Tombstones do: whoever merges
/// a tail with older data needs them.
///
/// Like a [`TailCursor`], it holds the layers that it walks.
///
/// ```
/// use std::ops::Bound;
/// use paddock_index::{OrderedTail, PackedLocator};
///
/// let mut tail = OrderedTail::new();
/// for (sequence, key) in [(1, "pear"), (2, "apple"), (3, "plum"), (4, "pear")] {
///     tail.push(key.as_bytes(), sequence, PackedLocator::new(0, 0, 10)?, false);
/// }
/// let mut keys = tail.layers().keys(3);
/// keys.seek(Bound::Included(b"b"));
/// assert_eq!(keys.entry().map(|entry| (entry.key, entry.sequence)), Some((&b"pear"[..], 1)));
/// keys.next();
/// assert_eq!(keys.entry().map(|entry| (entry.key, entry.sequence)), Some((&b"plum"[..], 3)));
/// # Ok::<(), paddock_index::LocatorError>(())
/// ```
#[derive(Clone, Debug)]
pub struct TailKeys {
    cursor: TailCursor,
    at: u64,
    /// Where it stands. On the way forward the cursor stands there too; on the way back it stands on the next
    /// entry that was not looked at.
    current: Option<Position>,
    forward: bool,
}

impl TailKeys {
    /// Before the first key.
    pub(super) fn new(layers: TailLayers, at: u64) -> Self {
        Self { cursor: TailCursor::new(layers), at, current: None, forward: false }
    }

    /// The version on which it stands.
    #[must_use]
    pub fn entry(&self) -> Option<TailEntryRef<'_>> {
        self.current.map(|current| self.cursor.entry_at(current))
    }

    /// Goes to the first key that a lower bound lets in.
    pub fn seek(&mut self, lower: Bound<&[u8]>) {
        self.cursor.seek(lower);
        self.current = None;
        self.load_forward();
    }

    /// Goes to the last key that an upper bound lets in.
    pub fn seek_back(&mut self, upper: Bound<&[u8]>) {
        self.cursor.seek_back(upper);
        self.load_back();
    }

    /// Goes to the key that follows; from before the first one to that.
    #[allow(clippy::should_implement_trait, reason = "an entry borrows from this, which no iterator can")]
    pub fn next(&mut self) {
        match self.current {
            // The cursor has gone further back; its keys come again.
            Some(current) if !self.forward => self.cursor.seek_behind(current),
            Some(_) => self.cursor.next(),
            None if !self.forward => self.cursor.next(),
            None => {}
        }
        self.load_forward();
    }

    /// Goes to the key before; from behind the last one to that.
    pub fn prev(&mut self) {
        if self.forward {
            // What comes next on the way back, of this key, is too new to be seen.
            self.cursor.prev();
        }
        self.load_back();
    }

    /// Versions come newest first: the first of another key that can be seen is it.
    fn load_forward(&mut self) {
        let before = self.current.take();
        self.forward = true;
        while let Some(position) = self.cursor.position() {
            let is_of_before = || before.is_some_and(|before| self.cursor.is_same_key(before, position));
            if self.cursor.sequence_at(position) <= self.at && !is_of_before() {
                self.current = Some(position);
                return;
            }
            self.cursor.next();
        }
    }

    /// Versions come newest last: the last of a key that can be seen is it.
    fn load_back(&mut self) {
        self.current = None;
        self.forward = false;
        while let Some(position) = self.cursor.position() {
            if self.current.is_some_and(|current| !self.cursor.is_same_key(current, position)) {
                return;
            }
            if self.cursor.sequence_at(position) <= self.at {
                self.current = Some(position);
            }
            self.cursor.prev();
        }
    }
}
