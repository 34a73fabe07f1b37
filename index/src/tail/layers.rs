//! What is given to readers: chunks that stay as they are.

use std::sync::Arc;

use super::TailEntry;
use super::chunk::{Chunk, Stamp};
use super::cursor::TailCursor;
use super::keys::TailKeys;
use super::merge::common_prefix_length;

/// The entries of an [`OrderedTail`](super::OrderedTail) at one moment. It stays as it is, whatever is pushed
/// afterwards; a clone costs one atomic increment, and no method takes a lock.
#[derive(Clone, Debug)]
pub struct TailLayers {
    /// Oldest first, by when their entries were pushed.
    chunks: Arc<[Arc<Chunk>]>,
    /// How many bytes all keys have in common at their beginning, as far as the chunks know.
    prefix_length: usize,
}

impl Default for TailLayers {
    fn default() -> Self {
        Self::new(&[])
    }
}

impl TailLayers {
    pub(super) fn new(chunks: &[Arc<Chunk>]) -> Self {
        Self { chunks: chunks.into(), prefix_length: common_prefix_length(chunks) }
    }

    pub(super) fn chunks(&self) -> &[Arc<Chunk>] {
        &self.chunks
    }

    pub(super) fn prefix_length(&self) -> usize {
        self.prefix_length
    }

    /// A key's entry of the highest sequence that is not above `at`.
    #[must_use]
    pub fn newest(&self, key: &[u8], at: u64) -> Option<TailEntry> {
        let mut newest: Option<Stamp> = None;
        let mut found = None;
        for chunk in self.chunks.iter().rev() {
            // What was pushed earlier has lower sequences as a rule, so one chunk is enough as a rule.
            if newest.is_some_and(|newest| newest >= chunk.newest()) {
                continue;
            }
            let number = chunk.count_before(key, |stamp| stamp.sequence() > at);
            if number == chunk.len() || chunk.key(number) != key {
                continue;
            }
            let place = chunk.place(number);
            if newest.is_none_or(|newest| place.stamp > newest) {
                newest = Some(place.stamp);
                found = Some(place.entry());
            }
        }
        found
    }

    /// A cursor over all entries, before the first one: by key ascending, then by sequence descending. It keeps
    /// these layers for as long as it lives.
    #[must_use]
    pub fn cursor(&self) -> TailCursor {
        TailCursor::new(self.clone())
    }

    /// A cursor over the keys as they were at a sequence, before the first one. It keeps these layers for as long
    /// as it lives.
    #[must_use]
    pub fn keys(&self, at: u64) -> TailKeys {
        TailKeys::new(self.clone(), at)
    }

    /// How many entries there are: every version of every key counts.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.len()).sum()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// How many chunks a lookup or a cursor has to deal with.
    #[must_use]
    pub fn layer_count(&self) -> usize {
        self.chunks.len()
    }

    /// Bytes of memory that its entries take. Layers taken from one tail share most of them.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.chunks.iter().map(|chunk| size_of::<Arc<Chunk>>() + chunk.memory_bytes()).sum::<usize>()
    }
}
