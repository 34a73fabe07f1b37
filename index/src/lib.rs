//! Index engines: from a key to the place where its data lies.
//!
//! An index here answers one question: *where is the data of this key?* It maps key bytes to a locator (a file,
//! an offset, a length), and it knows nothing about what lies there. That makes it useful for more than one kind
//! of store: rows of a log, lines of a text file, frames of a recording.
//!
//! There are two engines, for two kinds of question:
//!
//! - [`HashIndex`] finds one key. It keeps no keys and takes 20 to 23 bytes for each, whatever its length;
//!   whether a row is the key's, it asks the caller. Readers on other threads never wait for its one writer, and
//!   it can be written to a checkpoint and loaded again. It is the truth about what is live in a store that is
//!   much larger than its index.
//! - [`OrderedIndex`] walks keys in order, from both ends. [`BTreeIndex`], its engine, is the standard library's
//!   B-tree and keeps every key, at about 70 bytes beside it. One writer, many readers is the caller's
//!   arrangement (a `RwLock` around it will do); after a restart the caller fills it again.
//!
//! ```
//! use paddock_index::{BTreeIndex, Locator, OrderedIndex};
//!
//! let mut index = BTreeIndex::new();
//! index.insert(b"apple", Locator { file: 0, offset: 0, length: 12, tag: 1 });
//! index.insert(b"pear", Locator { file: 0, offset: 12, length: 9, tag: 2 });
//!
//! assert_eq!(index.get(b"pear").map(|locator| locator.offset), Some(12));
//!
//! let fruit: Vec<&[u8]> = index.iter().map(|(key, _)| key).collect();
//! assert_eq!(fruit, [&b"apple"[..], b"pear"]);
//! ```
//!
//! What this crate deliberately does not do: it opens no file and syncs none (checkpoints go to a `Write` and come
//! from a `Read` of the caller's), spawns nothing, and is not durable by itself: what it knows can always be made
//! again from the caller's data.

#![forbid(unsafe_code)]

mod btree;
mod engine;
pub mod filter;
pub mod hash;
mod locator;
pub mod tail;

/// Holds README.md to what it shows.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

use std::ops::Bound;

pub use btree::BTreeIndex;
pub use engine::{Index, Lookup};
pub use filter::{Filter, FilterBuilder, FilterError};
pub use hash::{CheckpointError, Full, HashFunction, HashIndex, HashReader, InsertError, xxh3};
pub use locator::{LocatorError, PackedLocator};
pub use tail::{OrderedTail, TailCursor, TailEntry, TailEntryRef, TailKeys, TailLayers};

/// Where the data of a key lies, for an [`OrderedIndex`]. The index stores it and hands it back; only the caller gives it meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Locator {
    /// Which file, by a number of the caller's.
    pub file: u32,
    /// Offset of the first byte in that file.
    pub offset: u32,
    /// Length in bytes.
    pub length: u32,
    /// A number that travels along: a version, a sequence, a time.
    pub tag: u64,
}

/// The two ends of a range of keys.
pub type KeyBounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// An index whose keys are in order, as bytes compare.
///
/// An empty key is a key like any other here.
pub trait OrderedIndex {
    /// The locator of a key.
    fn get(&self, key: &[u8]) -> Option<Locator>;

    /// Points a key at a locator, and returns the one that it pointed at before.
    fn insert(&mut self, key: &[u8], locator: Locator) -> Option<Locator>;

    /// Forgets a key, and returns the locator that it pointed at.
    fn remove(&mut self, key: &[u8]) -> Option<Locator>;

    /// Forgets every key.
    fn clear(&mut self);

    /// How many keys there are.
    fn len(&self) -> usize;

    /// Whether there is no key.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The keys between two bounds, in order, from either end. Bounds that enclose nothing, even reversed
    /// ones, give an empty iterator; they are no error.
    fn range<'a>(
        &'a self,
        bounds: KeyBounds<'_>,
    ) -> impl DoubleEndedIterator<Item = (&'a [u8], Locator)> + 'a;

    /// All keys in order.
    fn iter<'a>(&'a self) -> impl DoubleEndedIterator<Item = (&'a [u8], Locator)> + 'a {
        self.range((Bound::Unbounded, Bound::Unbounded))
    }

    /// About how many bytes of memory the index takes: an estimate for budgets and graphs, not an account.
    fn memory_bytes(&self) -> usize;
}

/// The first key after every key that starts with `prefix`, or `None` when there is no such key (an empty
/// prefix, or one of 0xff bytes only). The upper bound of a scan by prefix.
///
/// ```
/// assert_eq!(paddock_index::prefix_end(b"user/"), Some(b"user0".to_vec()));
/// assert_eq!(paddock_index::prefix_end(b"a\xff"), Some(b"b".to_vec()));
/// assert_eq!(paddock_index::prefix_end(b"\xff"), None);
/// ```
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.last_mut() {
        if *last < u8::MAX {
            *last += 1;
            return Some(end);
        }
        end.pop();
    }
    None
}
