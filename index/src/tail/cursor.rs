//! Walking the layers of a tail as one, in both directions.

use std::cmp::Ordering;
use std::ops::Bound;

use super::TailEntryRef;
use super::layers::TailLayers;

/// Stands on an entry of a tail, before the first one, or behind the last.
///
/// It holds the layers that it walks: it can be kept for as long as one likes, and what is pushed meanwhile does
/// not change what it gives. Keys are borrowed from it until it moves on.
///
/// ```
/// use std::ops::Bound;
/// use paddock_index::{OrderedTail, PackedLocator};
///
/// let mut tail = OrderedTail::new();
/// for (sequence, key) in [(1, "pear"), (2, "apple"), (3, "plum"), (4, "pear")] {
///     tail.push(key.as_bytes(), sequence, PackedLocator::new(0, 0, 10)?, false);
/// }
/// let mut cursor = tail.layers().cursor();
/// cursor.seek(Bound::Included(b"b"));
/// assert_eq!(cursor.entry().map(|entry| (entry.key, entry.sequence)), Some((&b"pear"[..], 4)));
/// cursor.next(); // an older version of the same key
/// assert_eq!(cursor.entry().map(|entry| (entry.key, entry.sequence)), Some((&b"pear"[..], 1)));
/// cursor.seek_back(Bound::Unbounded);
/// assert_eq!(cursor.entry().map(|entry| entry.key), Some(&b"plum"[..]));
/// # Ok::<(), paddock_index::LocatorError>(())
/// ```
#[derive(Clone, Debug)]
pub struct TailCursor {
    layers: TailLayers,
    /// For each chunk how many of its entries lie before the gap that the cursor is in. Its entry is the one
    /// behind the gap on the way forward, the one before the gap on the way back: so it may turn at any time.
    gaps: Box<[usize]>,
    forward: bool,
    /// The head of each chunk's candidate: its entry next to the gap.
    heads: Box<[u64]>,
    /// The chunks that have a candidate. The last one's is the cursor's entry, those before follow later.
    order: Vec<usize>,
}

/// Where an entry is: its chunk, and its number there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    chunk: usize,
    number: usize,
}

impl TailCursor {
    /// Before the first entry.
    pub(super) fn new(layers: TailLayers) -> Self {
        let chunks = layers.chunks().len();
        Self {
            gaps: vec![0; chunks].into(),
            heads: vec![0; chunks].into(),
            order: Vec::with_capacity(chunks),
            forward: false,
            layers,
        }
    }

    /// The entry on which it stands.
    #[must_use]
    pub fn entry(&self) -> Option<TailEntryRef<'_>> {
        self.position().map(|position| self.entry_at(position))
    }

    pub(super) fn position(&self) -> Option<Position> {
        let chunk = *self.order.last()?;
        Some(Position { chunk, number: self.candidate(chunk)? })
    }

    pub(super) fn entry_at(&self, position: Position) -> TailEntryRef<'_> {
        let chunk = &self.layers.chunks()[position.chunk];
        TailEntryRef::new(chunk.key(position.number), chunk.place(position.number).entry())
    }

    pub(super) fn sequence_at(&self, position: Position) -> u64 {
        self.layers.chunks()[position.chunk].place(position.number).stamp.sequence()
    }

    pub(super) fn is_same_key(&self, one: Position, other: Position) -> bool {
        let key = |position: Position| self.layers.chunks()[position.chunk].key(position.number);
        key(one) == key(other)
    }

    /// Goes to the first entry of the key that follows that of a position.
    pub(super) fn seek_behind(&mut self, position: Position) {
        let layers = self.layers.clone();
        self.seek(Bound::Excluded(layers.chunks()[position.chunk].key(position.number)));
    }

    /// Goes to the first entry that a lower bound lets in: of the first such key the newest version.
    pub fn seek(&mut self, lower: Bound<&[u8]>) {
        self.seek_gap(true, |chunk| match lower {
            Bound::Unbounded => 0,
            Bound::Included(key) => chunk.count_before(key, |_| false),
            Bound::Excluded(key) => chunk.count_before(key, |_| true),
        });
    }

    /// Goes to the last entry that an upper bound lets in: of the last such key the oldest version.
    pub fn seek_back(&mut self, upper: Bound<&[u8]>) {
        self.seek_gap(false, |chunk| match upper {
            Bound::Unbounded => chunk.len(),
            Bound::Included(key) => chunk.count_before(key, |_| true),
            Bound::Excluded(key) => chunk.count_before(key, |_| false),
        });
    }

    /// Goes to the entry that follows; from before the first one to that.
    // An iterator's `next` gives what it finds; this one is asked for it afterwards.
    #[allow(
        clippy::should_implement_trait,
        reason = "an entry borrows from the cursor, which no iterator can"
    )]
    pub fn next(&mut self) {
        self.go(true);
    }

    /// Goes to the entry before; from behind the last one to that.
    pub fn prev(&mut self) {
        self.go(false);
    }

    fn seek_gap(&mut self, forward: bool, gap: impl Fn(&super::chunk::Chunk) -> usize) {
        for (place, chunk) in self.gaps.iter_mut().zip(self.layers.chunks()) {
            *place = gap(chunk);
        }
        self.forward = forward;
        self.order_all();
    }

    fn go(&mut self, forward: bool) {
        if self.forward != forward {
            // The entry is on one side of the gap, and the one to go to on the other.
            self.forward = forward;
            self.order_all();
            return;
        }
        let Some(chunk) = self.order.pop() else { return };
        if forward {
            self.gaps[chunk] += 1;
        } else {
            self.gaps[chunk] -= 1;
        }
        self.put_in_order(chunk);
    }

    /// The number of a chunk's entry next to the gap.
    fn candidate(&self, chunk: usize) -> Option<usize> {
        if self.forward {
            Some(self.gaps[chunk]).filter(|number| *number < self.layers.chunks()[chunk].len())
        } else {
            self.gaps[chunk].checked_sub(1)
        }
    }

    fn order_all(&mut self) {
        self.order.clear();
        for chunk in 0..self.gaps.len() {
            self.put_in_order(chunk);
        }
    }

    /// Takes a chunk's candidate among those of the others. It is likely to be the first again: chunks are of
    /// very different sizes.
    fn put_in_order(&mut self, chunk: usize) {
        let Some(number) = self.candidate(chunk) else { return };
        self.heads[chunk] = self.layers.chunks()[chunk].head_behind(self.layers.prefix_length(), number);
        let mut at = self.order.len();
        while at > 0 && !self.comes_first(chunk, self.order[at - 1]) {
            at -= 1;
        }
        self.order.insert(at, chunk);
    }

    /// Whether the cursor comes to this chunk's candidate before the other's.
    fn comes_first(&self, chunk: usize, other: usize) -> bool {
        let order = self.heads[chunk].cmp(&self.heads[other]).then_with(|| self.by_key(chunk, other));
        order == if self.forward { Ordering::Less } else { Ordering::Greater }
    }

    fn by_key(&self, chunk: usize, other: usize) -> Ordering {
        let (Some(number), Some(others)) = (self.candidate(chunk), self.candidate(other)) else {
            return Ordering::Equal;
        };
        let (chunk, other) = (&self.layers.chunks()[chunk], &self.layers.chunks()[other]);
        let keys = chunk.key(number).cmp(other.key(others));
        keys.then_with(|| other.place(others).stamp.cmp(&chunk.place(number).stamp))
    }
}
