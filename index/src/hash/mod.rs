//! The hash index: where is the row of this key, in some 20 bytes per key, whatever the keys' length.
//!
//! # What is kept
//!
//! No keys. An entry is 32 bits of the key's hash and a [`PackedLocator`]; where the entry stands tells 8 more
//! bits. Whether the row at a locator is the key's is asked of the caller, who reads it. Of 2^(40 - b) entries that
//! a lookup passes, one has a wrong row read, where 2^b is the number of buckets: at a million keys one lookup in
//! a million or so, at a thousand million keys one in a thousand.
//!
//! A bucket is a cache line of five entries. A full one is continued by an overflow bucket. There is a bucket
//! for every four keys, and the table grows by linear hashing: when it is due, *one* bucket is parted in two by
//! the next bit of its entries' hashes, which the entries hold, so no row is read. Nothing else moves. One
//! write allocates two blocks of buckets of 64 KiB and two directories of 16 KiB at most, at any size; only the
//! writer's list of unused overflow buckets, 4 bytes each, doubles as it grows.
//!
//! # One writer, many readers
//!
//! [`HashIndex`] is the writer, and there is one. [`HashReader`]s, as many as you like, look up and walk on
//! other threads at the same time. They take no lock and never wait for the writer, not even when it is stopped
//! in the middle of a write: `table.rs` argues why they miss nothing, `word.rs` says which memory
//! ordering stores and loads have, and `bucket.rs` and `state.rs` what for.
//!
//! A lookup that runs beside a write gives what was true before it or after it. A walk gives each key that is
//! there from its beginning to its end once, with a locator that the key had meanwhile; of keys that were added
//! or removed meanwhile it may give some and not others.
//!
//! # What it does not do
//!
//! It reads no rows and no files of its own, orders nothing, and never gives the table's memory back as keys go
//! (overflow buckets are used again; the table stays as large as its most keys made it).

mod array;
mod bucket;
mod checkpoint;
mod key_hash;
mod page;
mod state;
mod table;
#[cfg(test)]
mod turns;
mod walk;
mod word;
mod writer;

use std::io::{Read, Write};
use std::sync::Arc;

use crate::locator::PackedLocator;

pub use checkpoint::{CheckpointError, CheckpointVerifier};
use key_hash::KeyHash;
pub use key_hash::{HashFunction, xxh3};
use state::BUCKETS_MIN;
use table::Table;
use walk::Walk;
pub use writer::Full;
use writer::Writer;

/// Why a key could not be pointed at a locator.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InsertError<E> {
    /// The caller could not say whether a row is the key's. Nothing was changed.
    #[error(transparent)]
    Rows(E),
    /// There is no room for a new key. Nothing was changed.
    #[error(transparent)]
    Full(#[from] Full),
}

/// A hash index, and the one that may write to it. See the [module](self) for what it costs and promises.
///
/// The closures that its methods take answer one question: *is the row at this locator the key's?* They may
/// fail, with an error of yours that is passed through.
///
/// ```
/// use std::convert::Infallible;
/// use paddock_index::{HashIndex, PackedLocator};
///
/// // The rows: here in memory, in a store of yours in files.
/// let rows = "apple=red pear=green ";
/// let is = |key: &'static str| move |place: PackedLocator| {
///     Ok::<_, Infallible>(rows[place.offset() as usize..].split('=').next() == Some(key))
/// };
///
/// let mut index = HashIndex::new(42);
/// index.insert(b"apple", PackedLocator::new(0, 0, 10)?, is("apple"))?;
/// index.insert(b"pear", PackedLocator::new(0, 10, 11)?, is("pear"))?;
///
/// let reader = index.reader().clone(); // for another thread
/// let found = reader.get(b"pear", is("pear"))?;
/// assert_eq!(found.map(|place| place.offset()), Some(10));
/// assert_eq!(reader.get(b"plum", is("plum"))?, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct HashIndex {
    reader: HashReader,
    writer: Writer,
}

/// Looks up and walks a [`HashIndex`] while its writer goes on. Cheap to clone, and outlives the writer.
#[derive(Clone, Debug)]
pub struct HashReader {
    table: Arc<Table>,
}

impl HashIndex {
    /// An empty index whose keys are hashed by [`xxh3`]. Give each store a random seed of its own, and keep it:
    /// checkpoints carry it.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::with_hash(seed, xxh3)
    }

    /// An empty index with a hash function of yours.
    #[must_use]
    pub fn with_hash(seed: u64, function: HashFunction) -> Self {
        Self::with_buckets(seed, function, BUCKETS_MIN)
    }

    fn with_buckets(seed: u64, function: HashFunction, buckets: u32) -> Self {
        let table = Arc::new(Table::new(seed, function, buckets));
        Self { reader: HashReader { table }, writer: Writer::new() }
    }

    /// The reading face, to be cloned for other threads.
    #[must_use]
    pub fn reader(&self) -> &HashReader {
        &self.reader
    }

    /// Points a key at a locator, and returns the one that it pointed at before. A locator belongs to one key:
    /// no two keys may point at the same row.
    ///
    /// # Errors
    ///
    /// [`InsertError::Rows`] with the closure's error, and [`InsertError::Full`]; nothing was changed then.
    pub fn insert<E>(
        &mut self,
        key: &[u8],
        locator: PackedLocator,
        is_key: impl FnMut(PackedLocator) -> Result<bool, E>,
    ) -> Result<Option<PackedLocator>, InsertError<E>> {
        self.insert_hashed(self.reader.hash(key), locator, is_key)
    }

    /// [`Self::insert`] for the key of this [hash](HashReader::hash).
    ///
    /// # Errors
    ///
    /// As [`Self::insert`].
    pub fn insert_hashed<E>(
        &mut self,
        hash: u64,
        locator: PackedLocator,
        is_key: impl FnMut(PackedLocator) -> Result<bool, E>,
    ) -> Result<Option<PackedLocator>, InsertError<E>> {
        let table = &*self.reader.table;
        let hash = KeyHash::new(hash);
        if let Some(found) = table.find(table.state.load(), hash, is_key).map_err(InsertError::Rows)? {
            found.bucket.replace(found.slot, locator);
            return Ok(Some(found.locator));
        }
        self.writer.add(table, hash, locator)?;
        Ok(None)
    }

    /// Forgets a key, and returns the locator that it pointed at.
    ///
    /// # Errors
    ///
    /// The closure's; nothing was changed then.
    pub fn remove<E>(
        &mut self,
        key: &[u8],
        is_key: impl FnMut(PackedLocator) -> Result<bool, E>,
    ) -> Result<Option<PackedLocator>, E> {
        self.remove_hashed(self.reader.hash(key), is_key)
    }

    /// [`Self::remove`] for the key of this [hash](HashReader::hash).
    ///
    /// # Errors
    ///
    /// As [`Self::remove`].
    pub fn remove_hashed<E>(
        &mut self,
        hash: u64,
        is_key: impl FnMut(PackedLocator) -> Result<bool, E>,
    ) -> Result<Option<PackedLocator>, E> {
        let table = &*self.reader.table;
        let hash = KeyHash::new(hash);
        let Some(found) = table.find(table.state.load(), hash, is_key)? else { return Ok(None) };
        self.writer.erase(table, hash, found);
        Ok(Some(found.locator))
    }

    /// Points a key at `new` if it still points at `current`, and says whether it did: how compaction hands over
    /// a row that it has copied. No row is read, because a locator belongs to one key.
    pub fn replace_if(&mut self, key: &[u8], current: PackedLocator, new: PackedLocator) -> bool {
        self.replace_if_hashed(self.reader.hash(key), current, new)
    }

    /// [`Self::replace_if`] for the key of this [hash](HashReader::hash).
    pub fn replace_if_hashed(&mut self, hash: u64, current: PackedLocator, new: PackedLocator) -> bool {
        let Some(found) = self.reader.table.find_exactly(KeyHash::new(hash), current) else { return false };
        found.bucket.replace(found.slot, new);
        true
    }

    /// Forgets a key if it still points at `current`, and says whether it did. No row is read.
    pub fn remove_if(&mut self, key: &[u8], current: PackedLocator) -> bool {
        self.remove_if_hashed(self.reader.hash(key), current)
    }

    /// [`Self::remove_if`] for the key of this [hash](HashReader::hash).
    pub fn remove_if_hashed(&mut self, hash: u64, current: PackedLocator) -> bool {
        let table = &*self.reader.table;
        let hash = KeyHash::new(hash);
        let Some(found) = table.find_exactly(hash, current) else { return false };
        self.writer.erase(table, hash, found);
        true
    }

    /// How many times an entry was copied from one place to another, since the index was made or loaded. A
    /// write that adds a key moves at most the entries of one chain, eight or fewer on average, and with
    /// overwhelming probability no more than 64.
    #[must_use]
    pub fn moved_entries(&self) -> u64 {
        self.writer.moved
    }

    /// The locator of a key. See [`HashReader::get`].
    ///
    /// # Errors
    ///
    /// The closure's.
    pub fn get<E>(
        &self,
        key: &[u8],
        is_key: impl FnMut(PackedLocator) -> Result<bool, E>,
    ) -> Result<Option<PackedLocator>, E> {
        self.reader.get(key, is_key)
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.reader.len()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.reader.is_empty()
    }

    /// Bytes of memory allocated: all of them, but for a list of unused overflow buckets, 4 bytes each.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.reader.memory_bytes()
    }

    /// Every key's locator, in no order.
    pub fn locators(&self) -> impl Iterator<Item = PackedLocator> + '_ {
        self.reader.locators()
    }

    /// Makes an index of a checkpoint whose keys were hashed by [`xxh3`], and gives the position that it was
    /// written with. Reads to the end of the checkpoint and no further.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`] when reading fails or what was read is not wholly a checkpoint.
    pub fn read_checkpoint(input: &mut impl Read) -> Result<(Self, u64), CheckpointError> {
        Self::read_checkpoint_with_hash(input, xxh3)
    }

    /// [`Self::read_checkpoint`] for a hash function of yours, the one that the checkpoint was made with.
    ///
    /// # Errors
    ///
    /// As [`Self::read_checkpoint`]; [`CheckpointError::HashFunction`] for another function.
    pub fn read_checkpoint_with_hash(
        input: &mut impl Read,
        function: HashFunction,
    ) -> Result<(Self, u64), CheckpointError> {
        checkpoint::read(input, function, Some)
    }

    /// [`Self::read_checkpoint`], with a say in each entry: `keep` is given its locator, and gives the one to keep
    /// or `None` to leave the key out. For a checkpoint that is older than its owner's files: some have gone since,
    /// and their rows are found where they are now.
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use paddock_index::{HashIndex, PackedLocator};
    /// # let mut index = HashIndex::new(42);
    /// # for file in 0..4 {
    /// #     let place = PackedLocator::new(file, 0, 80)?;
    /// #     index.insert(&file.to_le_bytes(), place, |_| Ok::<_, Infallible>(false))?;
    /// # }
    /// # let mut bytes = Vec::new();
    /// # index.reader().write_checkpoint(1_000, &mut bytes)?;
    /// let live_files = [0, 2];
    /// let is_live = |place: &PackedLocator| live_files.contains(&place.file());
    /// let (index, _) =
    ///     HashIndex::read_checkpoint_keeping(&mut bytes.as_slice(), |place| Some(place).filter(is_live))?;
    /// assert_eq!(index.len(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Self::read_checkpoint`].
    pub fn read_checkpoint_keeping(
        input: &mut impl Read,
        keep: impl FnMut(PackedLocator) -> Option<PackedLocator>,
    ) -> Result<(Self, u64), CheckpointError> {
        checkpoint::read(input, xxh3, keep)
    }
}

impl HashReader {
    /// The locator of a key.
    ///
    /// The closure may be asked about a row that a write beside it has just replaced. Keep rows readable for as
    /// long as a reader may ask, or let the closure fail and ask again.
    ///
    /// # Errors
    ///
    /// The closure's.
    pub fn get<E>(
        &self,
        key: &[u8],
        is_key: impl FnMut(PackedLocator) -> Result<bool, E>,
    ) -> Result<Option<PackedLocator>, E> {
        self.get_hashed(self.hash(key), is_key)
    }

    /// [`Self::get`] for the key of this [hash](Self::hash).
    ///
    /// # Errors
    ///
    /// The closure's.
    pub fn get_hashed<E>(
        &self,
        hash: u64,
        is_key: impl FnMut(PackedLocator) -> Result<bool, E>,
    ) -> Result<Option<PackedLocator>, E> {
        self.table.get(KeyHash::new(hash), is_key)
    }

    /// A key's hash, to be computed once where several calls follow. A [`Filter`](crate::Filter) of the same seed
    /// takes it too.
    #[must_use]
    pub fn hash(&self, key: &[u8]) -> u64 {
        (self.table.function)(self.table.seed, key)
    }

    /// The number of the bucket in which a key of this hash is looked for, as of now. Buckets of neighbouring numbers lie
    /// side by side in memory: who has many keys to insert does it fastest in the order of their buckets.
    ///
    /// ```
    /// # use paddock_index::HashIndex;
    /// let index = HashIndex::new(42);
    /// let mut keys: Vec<String> = (0..1_000).map(|number| format!("key {number}")).collect();
    /// keys.sort_by_key(|key| index.reader().bucket(index.reader().hash(key.as_bytes())));
    /// # let buckets = keys.iter().map(|key| index.reader().bucket(index.reader().hash(key.as_bytes())));
    /// # assert!(buckets.is_sorted());
    /// ```
    #[must_use]
    pub fn bucket(&self, hash: u64) -> u32 {
        self.table.state.load().home(KeyHash::new(hash))
    }

    /// Has the processor fetch what a call with this hash will look at, without waiting for it. Memory takes its
    /// time for each of many keys: called for a few dozen hashes before the first of them is looked up or written,
    /// it makes them wait together.
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use paddock_index::{HashIndex, PackedLocator};
    /// # let mut index = HashIndex::new(42);
    /// # let rows = [("apple", PackedLocator::new(0, 0, 10)?), ("pear", PackedLocator::new(0, 10, 11)?)];
    /// let hashes = rows.map(|(key, _)| index.reader().hash(key.as_bytes()));
    /// hashes.iter().for_each(|hash| index.reader().touch(*hash));
    /// for ((key, place), hash) in rows.iter().zip(hashes) {
    ///     index.insert_hashed(hash, *place, |found| Ok::<_, Infallible>(found == *place))?;
    /// }
    /// # assert_eq!(index.len(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn touch(&self, hash: u64) {
        self.table.touch(KeyHash::new(hash));
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len.get()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The seed that keys are hashed with.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.table.seed
    }

    /// See [`HashIndex::memory_bytes`].
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.table.memory_bytes()
    }

    /// Every key's locator, in no order: each key that is there all the while exactly once.
    pub fn locators(&self) -> impl Iterator<Item = PackedLocator> + '_ {
        Walk::new(&self.table).map(|(_, locator)| locator)
    }

    /// Writes a checkpoint, beside the writer if you like, with a position of yours: a sequence up to which all
    /// writes had been applied *before this was called*. The checkpoint may hold some later writes too; who
    /// loads it applies all writes after the position again, in order, and is where the writer was. `index/FORMAT.md`
    /// describes every byte. Flushing, syncing and renaming are the caller's.
    ///
    /// ```
    /// use std::convert::Infallible;
    /// use paddock_index::{HashIndex, PackedLocator};
    ///
    /// let mut index = HashIndex::new(42);
    /// let place = PackedLocator::new(3, 500, 80)?;
    /// index.insert(b"key", place, |_| Ok::<_, Infallible>(true))?;
    ///
    /// let mut file = Vec::new();
    /// index.reader().write_checkpoint(1_000, &mut file)?;
    /// let (loaded, position) = HashIndex::read_checkpoint(&mut file.as_slice())?;
    /// assert_eq!((loaded.len(), position), (1, 1_000));
    /// assert_eq!(loaded.get(b"key", |found| Ok::<_, Infallible>(found == place))?, Some(place));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Io`] when writing fails.
    pub fn write_checkpoint(&self, position: u64, output: &mut impl Write) -> Result<(), CheckpointError> {
        checkpoint::write(&self.table, position, output)
    }
}
