//! The ordered tail: where the newest rows of a log lie, in the order of their keys.
//!
//! A log is written in the order of time. Until its rows are written again in the order of their keys, a scan
//! needs that order from somewhere. Here it is kept for places of rows, not for rows: about 28 bytes and the key
//! for each.
//!
//! # How
//!
//! What is pushed is only appended, to a small pending list. When that is full, or when somebody wants to read, it
//! is sorted and becomes a *chunk*, which never changes again. Chunks are merged as they come, such that each is at
//! least [`RATIO`] times as large as all after it: there are few of them, and an entry is moved only a few times,
//! always from and to consecutive memory. Readers get the list of chunks, [`TailLayers`], and walk it without a
//! lock, for as long as they like. What was replaced by a merge is freed when the last of them has gone.
//!
//! Every version of a key stays: an entry is found by key and sequence, and a tombstone is an entry like any other.
//! Whoever reads at a sequence takes, of each key, the newest version that is not above it.
//!
//! # What it does not do
//!
//! It forgets nothing: it is replaced by an empty one as a whole when its rows have been written elsewhere. A
//! merge is done at once by the call that makes it due, up to [`MERGED_ENTRIES_MAX`] entries: some 20 ms, once in
//! hundreds of thousands of calls.

mod chunk;
mod cursor;
mod keys;
mod layers;
mod merge;

use std::sync::Arc;

use chunk::{Chunk, Place, Stamp};
pub use cursor::TailCursor;
pub use keys::TailKeys;
pub use layers::TailLayers;
use merge::{Pending, merge};

use crate::PackedLocator;

/// Pending entries are made a chunk at this number: as many as a first-level cache sorts well.
const PENDING_MAX: usize = 8192;

/// And when their keys have so many bytes.
const PENDING_KEY_BYTES_MAX: usize = 4 << 20;

/// A chunk that is less than this many times as large as all after it is merged with them. (Counted for a million
/// entries: an entry is moved three times on average, and there are six chunks at most.)
const RATIO: usize = 2;

/// The same where those after it are less than a full pending list, because somebody reads often. They lie in the
/// cache: moving them once more costs less than another chunk to look into.
const RATIO_SMALL: usize = 8;

/// No more entries than this are merged into one chunk, because the caller waits for it.
const MERGED_ENTRIES_MAX: usize = 1 << 19;

/// And no more bytes of keys.
const MERGED_KEY_BYTES_MAX: usize = 64 << 20;

// Ends of keys have 32 bits in a chunk.
const _: () = assert!(MERGED_KEY_BYTES_MAX + PENDING_KEY_BYTES_MAX + OrderedTail::KEY_BYTES_MAX < 1 << 32);

/// What is known of one version of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TailEntry {
    /// The sequence of the write that made it.
    pub sequence: u64,
    /// Where its row lies.
    pub locator: PackedLocator,
    /// Whether it says that the key is gone.
    pub tombstone: bool,
}

/// An entry with its key, borrowed from a [`TailCursor`] or [`TailKeys`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TailEntryRef<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The sequence of the write that made it.
    pub sequence: u64,
    /// Where its row lies.
    pub locator: PackedLocator,
    /// Whether it says that the key is gone.
    pub tombstone: bool,
}

impl<'a> TailEntryRef<'a> {
    fn new(key: &'a [u8], entry: TailEntry) -> Self {
        let TailEntry { sequence, locator, tombstone } = entry;
        Self { key, sequence, locator, tombstone }
    }
}

/// Where the newest rows of a log lie, by key and sequence. See the [module](self).
///
/// ```
/// use paddock_index::{OrderedTail, PackedLocator};
///
/// let mut tail = OrderedTail::new();
/// tail.push(b"pear", 1, PackedLocator::new(0, 0, 30)?, false);
/// tail.push(b"apple", 2, PackedLocator::new(0, 30, 30)?, false);
/// tail.push(b"pear", 3, PackedLocator::new(0, 60, 20)?, true);
///
/// let layers = tail.layers(); // for readers, on any thread
/// assert_eq!(layers.newest(b"pear", 2).map(|entry| entry.locator.offset()), Some(0));
/// assert!(layers.newest(b"pear", 3).is_some_and(|entry| entry.tombstone));
/// assert_eq!(layers.newest(b"plum", 3), None);
///
/// let mut cursor = layers.cursor();
/// cursor.next();
/// assert_eq!(cursor.entry().map(|entry| entry.key), Some(&b"apple"[..]));
/// # Ok::<(), paddock_index::LocatorError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct OrderedTail {
    pending: Pending,
    /// Oldest first; each at least [`RATIO`] times as large as all after it, or as large as a chunk may become.
    chunks: Vec<Arc<Chunk>>,
    /// Of all chunks, unless `is_stale`.
    layers: TailLayers,
    is_stale: bool,
    /// The highest that was pushed; 0 before that.
    newest_sequence: u64,
}

impl OrderedTail {
    /// The longest key.
    pub const KEY_BYTES_MAX: usize = 1 << 24;

    /// The highest sequence.
    pub const SEQUENCE_MAX: u64 = u64::MAX >> 1;

    /// An empty tail.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a version of a key. Sequences may come in any order; it is quickest if they ascend. If a key has the
    /// same sequence twice, both entries stay, in no order.
    ///
    /// # Panics
    ///
    /// If the key is longer than [`Self::KEY_BYTES_MAX`], or the sequence above [`Self::SEQUENCE_MAX`].
    pub fn push(&mut self, key: &[u8], sequence: u64, locator: PackedLocator, tombstone: bool) {
        assert!(key.len() <= Self::KEY_BYTES_MAX, "a key of {} bytes", key.len());
        assert!(sequence <= Self::SEQUENCE_MAX, "sequence {sequence}");
        self.newest_sequence = self.newest_sequence.max(sequence);
        self.pending.push(key, Place { stamp: Stamp::new(sequence, tombstone), locator });
        if self.pending.len() >= PENDING_MAX || self.pending.key_bytes() >= PENDING_KEY_BYTES_MAX {
            self.sort_pending();
        }
    }

    /// All that was pushed so far, for readers. What came since the last call is sorted first; if nothing did, it
    /// costs one atomic increment.
    pub fn layers(&mut self) -> TailLayers {
        if self.pending.len() > 0 {
            self.sort_pending();
        }
        if self.is_stale {
            self.layers = TailLayers::new(&self.chunks);
            self.is_stale = false;
        }
        self.layers.clone()
    }

    /// The highest sequence that was pushed, 0 before the first.
    #[must_use]
    pub fn newest_sequence(&self) -> u64 {
        self.newest_sequence
    }

    /// How many entries there are: every version of every key counts.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pending.len() + self.chunks.iter().map(|chunk| chunk.len()).sum::<usize>()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory that it takes, without layers that only readers hold any more.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let chunks = self.chunks.iter().map(|chunk| size_of::<Arc<Chunk>>() + chunk.memory_bytes());
        size_of::<Self>() + self.pending.memory_bytes() + chunks.sum::<usize>()
    }

    fn sort_pending(&mut self) {
        self.chunks.push(Arc::new(self.pending.sort()));
        let merged = merged_from(&self.chunks);
        if merged + 1 < self.chunks.len() {
            let chunk = merge(&self.chunks[merged..]);
            self.chunks.truncate(merged);
            self.chunks.push(Arc::new(chunk));
        }
        self.is_stale = true;
        // The layers of the last call would keep chunks alive that have just been replaced.
        self.layers = TailLayers::default();
    }
}

/// From which chunk on they are merged now, if that is not the last.
fn merged_from(chunks: &[Arc<Chunk>]) -> usize {
    let (mut entries, mut key_bytes) = (0, 0);
    let before = chunks.iter().rposition(|chunk| {
        let ratio = if entries < PENDING_MAX { RATIO_SMALL } else { RATIO };
        let is_large_enough = entries > 0 && chunk.len() >= ratio * entries;
        entries += chunk.len();
        key_bytes += chunk.key_bytes();
        is_large_enough || entries > MERGED_ENTRIES_MAX || key_bytes > MERGED_KEY_BYTES_MAX
    });
    before.map_or(0, |before| before + 1)
}
