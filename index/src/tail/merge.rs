//! Making chunks: of entries that were just pushed, and of several chunks.

use std::cmp::Ordering;
use std::sync::Arc;

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
        // Head and number in one word, which is sorted without looking at a key. Later ones first: of a key's
        // versions that is the order in which they are wanted, as a rule.
        let last = self.len().saturating_sub(1);
        let with_head =
            |number| u128::from(head(&self.key(number)[prefix.len()..])) << 64 | (last - number) as u128;
        let mut order: Vec<u128> = (0..self.len()).map(with_head).collect();
        order.sort_unstable();
        let number = |word: u128| last - word as u64 as usize;
        for ties in order.chunk_by_mut(|one, other| one >> 64 == other >> 64).filter(|ties| ties.len() > 1) {
            ties.sort_by(|one, other| {
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

/// A chunk that is merged: the head of its next entry, behind the common prefix of all, and that entry's number.
#[derive(Clone, Copy)]
struct Side<'a> {
    head: u64,
    next: usize,
    chunk: &'a Chunk,
    prefix_length: usize,
}

impl<'a> Side<'a> {
    fn new(chunk: &'a Chunk, prefix_length: usize) -> Option<Self> {
        let head = (chunk.len() > 0).then(|| chunk.head_behind(prefix_length, 0))?;
        Some(Self { head, next: 0, chunk, prefix_length })
    }

    /// Gives its next entry, and says whether there is another one.
    fn give(&mut self, merged: &mut ChunkBuilder) -> bool {
        merged.push(self.head, self.chunk.key(self.next), self.chunk.place(self.next));
        self.next += 1;
        let is_there = self.next < self.chunk.len();
        if is_there {
            self.head = self.chunk.head_behind(self.prefix_length, self.next);
        }
        is_there
    }

    /// Whether its next entry comes before the other's.
    fn is_before(&self, other: &Self) -> bool {
        if self.head == other.head { self.is_before_by_key(other) } else { self.head < other.head }
    }

    fn is_before_by_key(&self, other: &Self) -> bool {
        let keys = self.chunk.key(self.next).cmp(other.chunk.key(other.next));
        let (stamp, others) = (self.chunk.place(self.next).stamp, other.chunk.place(other.next).stamp);
        keys.then(others.cmp(&stamp)) == Ordering::Less
    }
}

/// One chunk of several.
pub(super) fn merge(chunks: &[Arc<Chunk>]) -> Chunk {
    let Some(first) = chunks.first() else { return ChunkBuilder::new(&[], 0, 0).build() };
    let prefix_length = common_prefix_length(chunks);
    let entries = chunks.iter().map(|chunk| chunk.len()).sum();
    let key_bytes = chunks.iter().map(|chunk| chunk.key_bytes()).sum();
    let mut merged = ChunkBuilder::new(&first.prefix()[..prefix_length], entries, key_bytes);
    // Those with entries left; the one whose entry is next stands last.
    let mut sides: Vec<Side<'_>> = Vec::with_capacity(chunks.len());
    let all = chunks.iter().filter_map(|chunk| Side::new(chunk, prefix_length));
    all.for_each(|side| put_in_order(&mut sides, side));
    while let Some((side, others)) = sides.split_last_mut() {
        let mut is_there = side.give(&mut merged);
        while is_there && others.last().is_none_or(|other| side.is_before(other)) {
            is_there = side.give(&mut merged);
        }
        if let Some(side) = sides.pop().filter(|_| is_there) {
            put_in_order(&mut sides, side);
        }
    }
    merged.build()
}

fn put_in_order<'a>(sides: &mut Vec<Side<'a>>, side: Side<'a>) {
    let earlier = sides.iter().rposition(|other| side.is_before(other));
    sides.insert(earlier.map_or(0, |at| at + 1), side);
}

/// How many bytes all keys have in common at their beginning, as far as the chunks know.
pub(super) fn common_prefix_length(chunks: &[Arc<Chunk>]) -> usize {
    let Some((first, others)) = chunks.split_first() else { return 0 };
    let prefix = first.prefix();
    others.iter().map(|chunk| common_length(prefix, chunk.prefix())).min().unwrap_or(prefix.len())
}
