//! The block index of a run: which block a key would be in, and where blocks lie. FORMAT.md, "Block index".
//!
//! In memory it is a handful of flat arrays. All separators share a beginning (that which the first and the last share),
//! which is kept once; of what follows, the first eight bytes are a number, and binary search compares numbers.

use std::cmp::Ordering;

use super::STORED_CHECKSUM_BYTES;
use super::codec::Codec;
use super::format::{DECODED_BYTES_MAX, LOGICAL_BYTES_MAX, RUN_START};
use crate::header::read_u32;

const ENTRY_BYTES: usize = 16;

/// Where a block lies, and how it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) logical_offset: u32,
    pub(super) decoded_bytes: u32,
    pub(super) offset: u32,
    pub(super) stored_bytes: u32,
    pub(super) codec: Codec,
}

/// The index of an open run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct BlockIndex {
    /// What all separators begin with.
    prefix: Box<[u8]>,
    /// For each block the eight bytes of its separator that follow the prefix, as a number; zeros where it is shorter.
    heads: Vec<u64>,
    /// The separators without the prefix, one after the other.
    keys: Vec<u8>,
    /// Where each of them ends.
    key_ends: Vec<u32>,
    /// Where each block begins, and where the last one ends.
    logical: Vec<u32>,
    /// The same in the file, and the codecs; `None`: all are raw, so that both offsets are the same.
    stored: Option<Stored>,
}

#[derive(Debug, PartialEq, Eq)]
struct Stored {
    offsets: Vec<u32>,
    codecs: Vec<Codec>,
}

impl BlockIndex {
    /// Reads the index of a file whose footer says that it has so many blocks, with so many bytes.
    pub(super) fn decode(bytes: &[u8], blocks: u32, block_bytes: u32) -> Result<BlockIndex, &'static str> {
        let entries = Entries { bytes };
        let mut offsets = Offsets::new();
        let mut separators = Vec::new();
        for entry in entries {
            let entry = entry?;
            if separators.last().is_some_and(|last| *last >= entry.separator) {
                return Err("the separators of the block index do not ascend");
            }
            offsets.push(&entry)?;
            separators.push(entry.separator);
        }
        let end = offsets.offsets.last().map_or(0, |end| end - RUN_START);
        if separators.len() != blocks as usize || end != block_bytes {
            return Err("the block index is not of as many blocks as the file has");
        }
        let OffsetsDone { logical, stored } = offsets.finish();
        Ok(BlockIndex { logical, stored, ..Self::with_separators(&separators) })
    }

    fn with_separators(separators: &[&[u8]]) -> BlockIndex {
        let prefix = match (separators.first(), separators.last()) {
            (Some(first), Some(last)) => &first[..common(first, last)],
            _ => &[],
        };
        let mut index = BlockIndex { prefix: prefix.into(), ..Self::default() };
        index.keys.reserve_exact(separators.iter().map(|separator| separator.len() - prefix.len()).sum());
        for separator in separators {
            let rest = &separator[prefix.len()..];
            index.heads.push(head(rest));
            index.keys.extend_from_slice(rest);
            index.key_ends.push(u32::try_from(index.keys.len()).unwrap_or(u32::MAX));
        }
        index
    }

    pub(super) fn blocks(&self) -> u32 {
        // The count was a u32.
        self.heads.len() as u32
    }

    /// The only block that may have a key: the last one whose separator is not above it. `None`: the key is
    /// below all keys of the file, or there is none.
    pub(super) fn block_of(&self, key: &[u8]) -> Option<u32> {
        let shared = common(&self.prefix, key);
        if shared < self.prefix.len() {
            // It differs within what all begin with: it is below all, or above all.
            let above = key.get(shared).is_some_and(|byte| *byte > self.prefix[shared]);
            return if above { self.blocks().checked_sub(1) } else { None };
        }
        let rest = &key[self.prefix.len()..];
        let key_head = head(rest);
        let mut low = self.heads.partition_point(|head| *head < key_head);
        let ties = self.heads[low..].partition_point(|head| *head == key_head);
        if ties > 0 {
            low += partition(ties, |at| self.rest(low + at) <= rest);
        }
        // `low` is the first block whose separator is above the key.
        u32::try_from(low).ok()?.checked_sub(1)
    }

    /// A separator but for the prefix.
    fn rest(&self, block: usize) -> &[u8] {
        let start = if block == 0 { 0 } else { self.key_ends[block - 1] as usize };
        &self.keys[start..self.key_ends[block] as usize]
    }

    /// A block's separator, put together. The first block's is the first key.
    pub(super) fn separator(&self, block: u32) -> Option<Vec<u8>> {
        let block = block as usize;
        (block < self.heads.len()).then(|| [&self.prefix, self.rest(block)].concat())
    }

    /// The block that holds a logical offset.
    pub(super) fn block_at(&self, logical_offset: u32) -> Option<u32> {
        let after = self.logical.partition_point(|start| *start <= logical_offset);
        let block = u32::try_from(after).ok()?.checked_sub(1)?;
        (block < self.blocks()).then_some(block)
    }

    /// Where a block lies.
    pub(super) fn place(&self, block: u32) -> Option<Place> {
        let block = block as usize;
        let (logical_offset, logical_end) = (*self.logical.get(block)?, *self.logical.get(block + 1)?);
        let decoded_bytes = logical_end - logical_offset;
        let Some(stored) = &self.stored else {
            let (offset, stored_bytes) = (logical_offset, decoded_bytes);
            return Some(Place { logical_offset, decoded_bytes, offset, stored_bytes, codec: Codec::Raw });
        };
        let offset = *stored.offsets.get(block)?;
        let stored_bytes = *stored.offsets.get(block + 1)? - offset;
        Some(Place { logical_offset, decoded_bytes, offset, stored_bytes, codec: *stored.codecs.get(block)? })
    }

    /// Whether logical offsets are the file's own.
    pub(super) fn is_raw(&self) -> bool {
        self.stored.is_none()
    }

    /// Where the last block ends.
    pub(super) fn logical_end(&self) -> u32 {
        self.logical.last().copied().unwrap_or(RUN_START)
    }

    /// Bytes of memory.
    pub(super) fn memory_bytes(&self) -> usize {
        let words = self.heads.len() * 8 + (self.key_ends.len() + self.logical.len()) * 4;
        let stored = self.stored.as_ref().map_or(0, |stored| stored.offsets.len() * 4 + stored.codecs.len());
        self.prefix.len() + self.keys.len() + words + stored
    }
}

/// An entry of the index as it is in the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    pub(super) decoded_bytes: u32,
    pub(super) stored_bytes: u32,
    pub(super) rows: u32,
    pub(super) codec: Codec,
    pub(super) separator: &'a [u8],
}

impl Entry<'_> {
    pub(super) fn encode(&self, bytes: &mut Vec<u8>) {
        // A separator is no longer than a key.
        let separator_bytes = u16::try_from(self.separator.len()).unwrap_or(u16::MAX);
        for field in [self.decoded_bytes, self.stored_bytes, self.rows] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        bytes.extend_from_slice(&[self.codec.to_byte(), 0]);
        bytes.extend_from_slice(&separator_bytes.to_le_bytes());
        bytes.extend_from_slice(self.separator);
    }

    /// Whether a block can be like this at all: nothing larger than these bounds is ever decoded into memory.
    fn is_possible(&self) -> bool {
        let lengths = match self.codec {
            Codec::Raw => self.stored_bytes == self.decoded_bytes,
            _ => self.stored_bytes as usize > STORED_CHECKSUM_BYTES && self.stored_bytes < self.decoded_bytes,
        };
        lengths
            && self.decoded_bytes as usize <= DECODED_BYTES_MAX
            && self.rows > 0
            && !self.separator.is_empty()
    }
}

/// The entries of an encoded index, one after the other; the first that cannot be one ends them.
#[derive(Clone, Debug)]
pub(super) struct Entries<'a> {
    pub(super) bytes: &'a [u8],
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        let entry = self.entry();
        if entry.is_none() {
            self.bytes = &[];
        }
        Some(entry.ok_or("the block index does not hold together"))
    }
}

impl<'a> Entries<'a> {
    fn entry(&mut self) -> Option<Entry<'a>> {
        let (fixed, rest) = self.bytes.split_first_chunk::<ENTRY_BYTES>()?;
        let separator_bytes = usize::from(u16::from_le_bytes([fixed[14], fixed[15]]));
        let (separator, rest) = rest.split_at_checked(separator_bytes)?;
        let (decoded_bytes, stored_bytes) = (read_u32(fixed, 0), read_u32(fixed, 4));
        let codec = Codec::from_byte(fixed[12])?;
        let entry = Entry { decoded_bytes, stored_bytes, rows: read_u32(fixed, 8), codec, separator };
        self.bytes = rest;
        (fixed[13] == 0 && entry.is_possible()).then_some(entry)
    }
}

/// Running sums of lengths.
struct Offsets {
    logical: Vec<u32>,
    offsets: Vec<u32>,
    codecs: Vec<Codec>,
}

struct OffsetsDone {
    logical: Vec<u32>,
    stored: Option<Stored>,
}

impl Offsets {
    fn new() -> Offsets {
        Offsets { logical: vec![RUN_START], offsets: vec![RUN_START], codecs: Vec::new() }
    }

    fn push(&mut self, entry: &Entry<'_>) -> Result<(), &'static str> {
        const LONG: &str = "the blocks are longer than a run can be";
        let add = |sums: &[u32], length: u32| sums.last().and_then(|sum| sum.checked_add(length)).ok_or(LONG);
        let logical = add(&self.logical, entry.decoded_bytes)?;
        if logical > LOGICAL_BYTES_MAX {
            return Err(LONG);
        }
        self.offsets.push(add(&self.offsets, entry.stored_bytes)?);
        self.logical.push(logical);
        self.codecs.push(entry.codec);
        Ok(())
    }

    fn finish(mut self) -> OffsetsDone {
        self.logical.shrink_to_fit();
        if self.codecs.iter().all(|codec| *codec == Codec::Raw) {
            return OffsetsDone { logical: self.logical, stored: None };
        }
        self.offsets.shrink_to_fit();
        self.codecs.shrink_to_fit();
        let stored = Stored { offsets: self.offsets, codecs: self.codecs };
        OffsetsDone { logical: self.logical, stored: Some(stored) }
    }
}

/// The shortest beginning of `key` that is above `before`, which is below `key`.
pub(super) fn separator<'a>(before: &[u8], key: &'a [u8]) -> &'a [u8] {
    debug_assert_eq!(before.cmp(key), Ordering::Less);
    &key[..(common(before, key) + 1).min(key.len())]
}

/// How many bytes two keys share at their beginning.
pub(super) fn common(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(a, b)| a == b).count()
}

/// The first eight bytes as a number that compares as they do; zeros where there are fewer.
fn head(bytes: &[u8]) -> u64 {
    if let Some(head) = bytes.first_chunk() {
        return u64::from_be_bytes(*head);
    }
    let mut head = [0; 8];
    head[..bytes.len()].copy_from_slice(bytes);
    u64::from_be_bytes(head)
}

/// How many of the first `count` numbers are so, where those that are so come first.
fn partition(count: usize, mut is_so: impl FnMut(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if is_so(middle) { low = middle + 1 } else { high = middle }
    }
    low
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    use super::*;

    fn index(separators: &[Vec<u8>]) -> BlockIndex {
        let mut bytes = Vec::new();
        for separator in separators {
            let (decoded_bytes, stored_bytes) = (100, 100);
            Entry { decoded_bytes, stored_bytes, rows: 1, codec: Codec::Raw, separator }.encode(&mut bytes);
        }
        let blocks = separators.len() as u32;
        BlockIndex::decode(&bytes, blocks, blocks * 100).unwrap()
    }

    /// Keys that share beginnings, are each other's beginnings, and have zeros at their ends.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        let tail = vec(prop_oneof![Just(0), Just(b'a'), Just(0xff), any::<u8>()], 1..12);
        (any::<bool>(), tail).prop_map(
            |(long, tail)| {
                if long { [&b"prefix/"[..], &tail].concat() } else { tail }
            },
        )
    }

    proptest! {
        #[test]
        fn the_block_of_a_key_is_the_last_not_above_it(
            separators in btree_set(key(), 0..20),
            keys in vec(key(), 1..20),
            all_long: bool,
        ) {
            let separators: Vec<Vec<u8>> =
                separators.into_iter().filter(|key| !all_long || key.starts_with(b"prefix/")).collect();
            let index = index(&separators);
            for key in keys.iter().chain(&separators).chain([&vec![]]) {
                let expected = separators.iter().rposition(|separator| separator <= key);
                prop_assert_eq!(index.block_of(key).map(|block| block as usize), expected);
            }
            for (block, separator) in separators.iter().enumerate() {
                prop_assert_eq!(index.separator(block as u32), Some(separator.clone()));
                let start = RUN_START + block as u32 * 100;
                prop_assert_eq!(index.block_at(start), Some(block as u32));
                prop_assert_eq!(index.block_at(start + 99), Some(block as u32));
            }
            prop_assert_eq!(index.block_at(index.logical_end()), None);
            prop_assert_eq!(index.block_at(RUN_START - 1), None);
        }

        #[test]
        fn separators_are_above_the_one_and_not_above_the_other(one in key(), other in key()) {
            prop_assume!(one != other);
            let (before, after) = if one < other { (one, other) } else { (other, one) };
            let found = separator(&before, &after);
            prop_assert!(before.as_slice() < found && found <= after.as_slice());
        }

        #[test]
        fn any_bytes_are_refused_or_make_sense(bytes in vec(any::<u8>(), 0..200), blocks in 0..4_u32) {
            if let Ok(index) = BlockIndex::decode(&bytes, blocks, 100) {
                prop_assert_eq!(index.blocks(), blocks);
            }
        }
    }
}
