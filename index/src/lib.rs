//! Index engines: from a key to the place where its row lies.
//!
//! An index here answers one question: *where is the row of this key?* It maps key bytes to a [`PackedLocator`] (a
//! file, an offset, a length), and it knows nothing about what lies there. That makes it useful for more than one
//! kind of store: rows of a log, lines of a text file, frames of a recording.
//!
//! There are two engines, for two kinds of question, and a filter:
//!
//! - [`HashIndex`] finds one key. It keeps no keys and takes 20 to 23 bytes for each, whatever its length;
//!   whether a row is the key's, it asks the caller. Readers on other threads never wait for its one writer, and
//!   it can be written to a checkpoint and loaded again. It is the truth about what is live in a store that is
//!   much larger than its index.
//! - [`OrderedTail`] knows the newest rows of a log by key and version, in order. A write costs it an append;
//!   readers get [layers](TailLayers) that never change, search them and walk them in both directions. Its owner
//!   replaces it as a whole, once the rows have been written elsewhere in the order of their keys.
//! - [`Filter`] says of a file of rows that a key is certainly not there, in some 10.5 bits per key.
//!
//! [`Index`] is what the engines have in common.
//!
//! ```
//! use paddock_index::{OrderedTail, PackedLocator};
//!
//! let mut tail = OrderedTail::new();
//! tail.push(b"pear", 1, PackedLocator::new(0, 0, 12)?, false);
//! tail.push(b"apple", 2, PackedLocator::new(0, 12, 9)?, false);
//!
//! let layers = tail.layers();
//! assert_eq!(layers.newest(b"pear", 2).map(|entry| entry.locator.offset()), Some(0));
//!
//! let mut cursor = layers.cursor();
//! cursor.next();
//! assert_eq!(cursor.entry().map(|entry| entry.key), Some(&b"apple"[..]));
//! # Ok::<(), paddock_index::LocatorError>(())
//! ```
//!
//! What this crate deliberately does not do: it opens no file and syncs none (checkpoints go to a `Write` and come
//! from a `Read` of the caller's), spawns nothing, and is not durable by itself: what it knows can always be made
//! again from the caller's data.

#![forbid(unsafe_code)]

mod engine;
pub mod filter;
pub mod hash;
mod locator;
pub mod tail;

/// Holds README.md to what it shows.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use engine::{Index, Lookup};
pub use filter::{Filter, FilterBuilder, FilterError};
pub use hash::{
    CheckpointError, CheckpointVerifier, Full, HashFunction, HashIndex, HashReader, InsertError, xxh3,
};
pub use locator::{LocatorError, PackedLocator};
pub use tail::{OrderedTail, TailCursor, TailEntry, TailEntryRef, TailKeys, TailLayers};

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
