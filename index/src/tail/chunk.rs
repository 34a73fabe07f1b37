//! A chunk: entries that are in order and never change.
//!
//! ```text
//! prefix   what all its keys begin with
//! heads    8 bytes per entry: the key's bytes that follow the prefix, big-endian, filled up with zeros
//! places   16 bytes per entry: sequence and tombstone, locator
//! ends     4 bytes per entry: where its key ends in `keys`, and the next one begins
//! keys     whole keys, one after the other, in order
//! ```
//!
//! Heads order entries as their keys do, but for ties, which the keys decide. They stand apart from the rest, so
//! that a search touches nothing else. Without the prefix they would say nothing about keys like
//! `customer/0000017`, of which every eight bytes that differ come later.

use std::cmp::Ordering;
use std::fmt;

use super::TailEntry;
use crate::PackedLocator;

/// A sequence, and in the lowest bit whether it is a tombstone's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stamp(u64);

impl Stamp {
    /// The caller has checked that the sequence leaves the highest bit clear.
    pub(super) fn new(sequence: u64, tombstone: bool) -> Self {
        Self(sequence << 1 | u64::from(tombstone))
    }

    pub(super) fn sequence(self) -> u64 {
        self.0 >> 1
    }

    fn is_tombstone(self) -> bool {
        self.0 & 1 == 1
    }
}

/// What an entry says of its key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) stamp: Stamp,
    pub(super) locator: PackedLocator,
}

impl Place {
    pub(super) fn entry(self) -> TailEntry {
        TailEntry {
            sequence: self.stamp.sequence(),
            locator: self.locator,
            tombstone: self.stamp.is_tombstone(),
        }
    }
}

/// See the module. Entries by key ascending, then by stamp descending.
pub(super) struct Chunk {
    prefix: Box<[u8]>,
    heads: Box<[u64]>,
    places: Box<[Place]>,
    ends: Box<[u32]>,
    keys: Box<[u8]>,
    /// The highest stamp, so that a search for the newest entry knows where it need not look.
    newest: Stamp,
}

/// Collects the entries of a chunk, which come in order.
pub(super) struct ChunkBuilder {
    prefix: Box<[u8]>,
    heads: Vec<u64>,
    places: Vec<Place>,
    ends: Vec<u32>,
    keys: Vec<u8>,
}

/// The first eight bytes, as a number that compares as they do. Missing bytes are zeros.
pub(super) fn head(rest: &[u8]) -> u64 {
    if let Some(eight) = rest.first_chunk() {
        return u64::from_be_bytes(*eight);
    }
    let mut eight = [0; 8];
    eight[..rest.len()].copy_from_slice(rest);
    u64::from_be_bytes(eight)
}

/// How many bytes two keys have in common at their beginning.
pub(super) fn common_length(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

impl ChunkBuilder {
    /// Takes as many entries as this without allocating again: chunks have no slack.
    pub(super) fn new(prefix: &[u8], entries: usize, key_bytes: usize) -> Self {
        Self {
            prefix: prefix.into(),
            heads: Vec::with_capacity(entries),
            places: Vec::with_capacity(entries),
            ends: Vec::with_capacity(entries),
            keys: Vec::with_capacity(key_bytes),
        }
    }

    pub(super) fn push(&mut self, head: u64, key: &[u8], place: Place) {
        self.heads.push(head);
        self.places.push(place);
        self.keys.extend_from_slice(key);
        // Whoever fills a chunk stops at `KEY_BYTES_IN_CHUNK_MAX`, which is below 2^32.
        self.ends.push(self.keys.len() as u32);
    }

    pub(super) fn build(self) -> Chunk {
        Chunk {
            newest: self.places.iter().map(|place| place.stamp).max().unwrap_or(Stamp(0)),
            prefix: self.prefix,
            heads: self.heads.into(),
            places: self.places.into(),
            ends: self.ends.into(),
            keys: self.keys.into(),
        }
    }
}

impl Chunk {
    pub(super) fn len(&self) -> usize {
        self.heads.len()
    }

    pub(super) fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    pub(super) fn newest(&self) -> Stamp {
        self.newest
    }

    pub(super) fn key_bytes(&self) -> usize {
        self.keys.len()
    }

    fn key_start(&self, number: usize) -> usize {
        number.checked_sub(1).map_or(0, |before| self.ends[before] as usize)
    }

    pub(super) fn key(&self, number: usize) -> &[u8] {
        &self.keys[self.key_start(number)..self.ends[number] as usize]
    }

    pub(super) fn place(&self, number: usize) -> Place {
        self.places[number]
    }

    /// The head of an entry, behind a prefix of its chunk's prefix that is so long.
    pub(super) fn head_behind(&self, prefix_length: usize, number: usize) -> u64 {
        if prefix_length == self.prefix.len() {
            self.heads[number]
        } else {
            head(&self.key(number)[prefix_length..])
        }
    }

    /// How many entries come before a key, and before or among its own those whose stamp is `passed`, which
    /// must be so for the highest stamps or none.
    pub(super) fn count_before(&self, key: &[u8], passed: impl Fn(Stamp) -> bool) -> usize {
        let Some(rest) = key.strip_prefix(&*self.prefix) else {
            // All of them are on one side of a key that does not begin as they do.
            return if *key < *self.prefix { 0 } else { self.len() };
        };
        let head = head(rest);
        let start = self.heads.partition_point(|other| *other < head);
        // Few heads are alike as a rule, so their end is looked for from their beginning.
        let mut step = 1;
        while self.heads.get(start + step).is_some_and(|other| *other == head) {
            step *= 2;
        }
        let (mut low, mut high) = (start, self.len().min(start + step));
        while low < high {
            let middle = low.midpoint(high);
            let before = match self.heads[middle].cmp(&head).then_with(|| self.key(middle).cmp(key)) {
                Ordering::Less => true,
                Ordering::Equal => passed(self.places[middle].stamp),
                Ordering::Greater => false,
            };
            if before { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// Bytes of memory that it takes, without what the allocator adds.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.prefix.len()
            + size_of_val(&*self.heads)
            + size_of_val(&*self.places)
            + size_of_val(&*self.ends)
            + self.keys.len()
    }
}

impl fmt::Debug for Chunk {
    /// How much there is: a tail is not to be printed key by key because something that holds it is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({} entries, {} bytes of keys)", self.len(), self.key_bytes())
    }
}
