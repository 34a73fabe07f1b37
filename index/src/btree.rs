//! The first engine: everything in memory, in the standard library's B-tree.

use std::collections::BTreeMap;
use std::mem::size_of;
use std::ops::Bound;

use crate::{KeyBounds, Locator, OrderedIndex};

/// What one entry costs beside the bytes of its key: its slot in a B-tree node. Nodes are about three
/// quarters full after random inserts, hence the 4/3.
const ENTRY_BYTES: usize = (size_of::<Box<[u8]>>() + size_of::<Locator>()) * 4 / 3;

/// What the allocator adds to a key's own allocation, on average: its header and rounding.
const ALLOCATION_BYTES: usize = 16;

/// An ordered index in memory.
///
/// Every key is kept whole, so memory grows with the keys: [`OrderedIndex::memory_bytes`] says by how much.
#[derive(Clone, Debug, Default)]
pub struct BTreeIndex {
    entries: BTreeMap<Box<[u8]>, Locator>,
    key_bytes: usize,
}

impl BTreeIndex {
    /// An empty index.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl OrderedIndex for BTreeIndex {
    fn get(&self, key: &[u8]) -> Option<Locator> {
        self.entries.get(key).copied()
    }

    fn insert(&mut self, key: &[u8], locator: Locator) -> Option<Locator> {
        // Overwriting is the common case of a store that lives long: it must not allocate.
        if let Some(slot) = self.entries.get_mut(key) {
            return Some(std::mem::replace(slot, locator));
        }
        self.key_bytes += key.len();
        self.entries.insert(key.into(), locator)
    }

    fn remove(&mut self, key: &[u8]) -> Option<Locator> {
        let removed = self.entries.remove(key);
        if removed.is_some() {
            self.key_bytes -= key.len();
        }
        removed
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.key_bytes = 0;
    }

    fn len(&self) -> usize {
        self.entries.len()
    }

    fn range<'a>(
        &'a self,
        bounds: KeyBounds<'_>,
    ) -> impl DoubleEndedIterator<Item = (&'a [u8], Locator)> + 'a {
        // BTreeMap::range panics on bounds that enclose nothing; here they are an empty range.
        let range = (!encloses_nothing(bounds)).then(|| self.entries.range::<[u8], _>(bounds));
        range.into_iter().flatten().map(|(key, locator)| (key.as_ref(), *locator))
    }

    fn memory_bytes(&self) -> usize {
        self.key_bytes + self.entries.len() * (ENTRY_BYTES + ALLOCATION_BYTES)
    }
}

fn encloses_nothing((start, end): KeyBounds<'_>) -> bool {
    match (start, end) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (Bound::Included(start) | Bound::Excluded(start), Bound::Included(end) | Bound::Excluded(end)) => {
            start >= end
        }
    }
}
