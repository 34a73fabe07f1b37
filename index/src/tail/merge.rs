//! Making chunks: of entries that were just pushed, and of two chunks.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::chunk::{Chunk, ChunkBuilder, Place, common_length, head};

/// Entries in the order in which they came.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending {
    places: Vec<Place>,
    ends: Vec<u32>,
    keys: Vec<u8>,
}

impl Pending {
    pub(super) fn push(&mut self, key: &[u8], place: Place) {
        self.places.push(place);
        self.keys.extend_from_slice(key);
        // Pending keys are far fewer than 2^32 bytes: see `PENDING_KEY_BYTES_MAX`.
        self.ends.push(self.keys.len() as u32);
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn key_bytes(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.places.capacity() * size_of::<Place>() + self.ends.capacity() * 4 + self.keys.capacity()
    }

    fn key(&self, number: usize) -> &[u8] {
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        &self.keys[start..self.ends[number] as usize]
    }

    /// What all keys begin with.
    fn common_prefix(&self) -> &[u8] {
        let Some(first) = (self.len() > 0).then(|| self.key(0)) else { return &[] };
        let shorten = |length: usize, number| {
            let key = self.key(number);
            // Nearly always all of it is there: one comparison.
            if key.starts_with(&first[..length]) { length } else { common_length(&first[..length], key) }
        };
        &first[..(1..self.len()).fold(first.len(), shorten)]
    }

    /// Its entries in order. It is empty afterwards, and keeps its memory.
    pub(super) fn sort(&mut self) -> Chunk {
        let prefix = self.common_prefix();
        // Head and number in one word: sorted without looking at a key. The number has 32 bits at most.
        let with_head = |number| u128::from(head(&self.key(number)[prefix.len()..])) << 64 | number as u128;
        let mut order: Vec<u128> = (0..self.len()).map(with_head).collect();
        order.sort_unstable();
        let number = |word: u128| word as u64 as usize;
        for ties in order.chunk_by_mut(|one, other| one >> 64 == other >> 64).filter(|ties| ties.len() > 1) {
            ties.sort_unstable_by(|one, other| {
                let (one, other) = (number(*one), number(*other));
                let keys = self.key(one).cmp(self.key(other));
                keys.then_with(|| self.places[other].stamp.cmp(&self.places[one].stamp))
            });
        }
        let mut chunk = ChunkBuilder::new(prefix, self.len(), self.keys.len());
        for word in order {
            let number = number(word);
            chunk.push((word >> 64) as u64, self.key(number), self.places[number]);
        }
        self.places.clear();
        self.ends.clear();
        self.keys.clear();
        chunk.build()
    }
}

/// A chunk that is merged, its heads behind the common prefix of both.
struct Side<'a> {
    chunk: &'a Chunk,
    heads: Cow<'a, [u64]>,
    next: usize,
}

impl<'a> Side<'a> {
    fn new(chunk: &'a Chunk, prefix_length: usize) -> Self {
        let heads = if chunk.prefix().len() == prefix_length {
            Cow::Borrowed(chunk.heads())
        } else {
            (0..chunk.len()).map(|number| chunk.head_behind(prefix_length, number)).collect()
        };
        Self { chunk, heads, next: 0 }
    }

    fn is_at_end(&self) -> bool {
        self.next == self.heads.len()
    }

    /// Whether its next entry comes before the other's. Neither is at its end.
    fn is_before(&self, other: &Self) -> bool {
        let by_key = || {
            let keys = self.chunk.key(self.next).cmp(other.chunk.key(other.next));
            let (stamp, others) = (self.chunk.place(self.next).stamp, other.chunk.place(other.next).stamp);
            keys.then(others.cmp(&stamp))
        };
        self.heads[self.next].cmp(&other.heads[other.next]).then_with(by_key) == Ordering::Less
    }

    /// Gives all entries up to the first that is not to be taken.
    fn give(&mut self, merged: &mut ChunkBuilder, mut is_taken: impl FnMut(&Self) -> bool) {
        let start = self.next;
        while !self.is_at_end() && is_taken(self) {
            self.next += 1;
        }
        merged.extend(self.chunk, &self.heads, start..self.next);
    }
}

/// One chunk of two.
pub(super) fn merge(one: &Chunk, other: &Chunk) -> Chunk {
    let prefix = &one.prefix()[..common_length(one.prefix(), other.prefix())];
    let (entries, key_bytes) = (one.len() + other.len(), one.key_bytes() + other.key_bytes());
    let mut merged = ChunkBuilder::new(prefix, entries, key_bytes);
    let mut one = Side::new(one, prefix.len());
    let mut other = Side::new(other, prefix.len());
    while !one.is_at_end() && !other.is_at_end() {
        one.give(&mut merged, |one| one.is_before(&other));
        if !one.is_at_end() {
            other.give(&mut merged, |other| !one.is_before(other));
        }
    }
    one.give(&mut merged, |_| true);
    other.give(&mut merged, |_| true);
    merged.build()
}
