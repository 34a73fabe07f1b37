//! What memory a store uses, and for what: one budget, in shares.
//!
//! | share | for |
//! |---|---|
//! | 3/8 | files that are mapped: their pages are the kernel's cache, and it takes them back when it must |
//! | 3/8 | the indexes: tails, and the hash index as long as it fits |
//! | 1/8 | blocks of runs, decompressed, in a cache |
//! | 1/8 | lookups: the filters of runs and the indexes of their blocks |
//!
//! The lookup of a run stays in memory as long as those that stay take three quarters of their share. All others are read
//! when they are needed, and the last quarter is a cache of them.
//!
//! The hash index of rows of 1 KiB fits until they take about ten times the budget. It is worth that much: a key that it knows
//! costs one read of its row, and one that it does not know a read of a whole block.
//!
//! A file is mapped as long as it fits its share as a whole, and read by system calls otherwise: a page fault in a mapping
//! stops the thread that meets it, whoever that is, and a mapped store larger than its memory faults all the time.
//! Which file that is decides the order in which they come; [`DataFile::map`] asks again.
//!
//! The cache evicts what was read once before what was read again (S3-FIFO, by the crate quick_cache), so that a long
//! scan does not empty it.

mod limit;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::data_file::DataFile;
use crate::disk::{DiskFile, MappedBytes};
use crate::error::Result;
use crate::open_files::OpenFiles;
use crate::options::{Mapping, Options};
use crate::run::Lookup;

/// What a store has where nobody can tell how much memory there is.
const BYTES_UNKNOWN: u64 = 1 << 30;

/// What a cached block is taken to weigh at least, with what the cache keeps beside it.
const BLOCK_BYTES_MIN: u64 = 256;

/// The cache is made for so many blocks at first: what they take when they are as large as they usually are.
const BLOCK_BYTES_USUAL: u64 = 16 << 10;

/// Each window in a file that is walked is at most this part of the budget,
const READ_AHEAD_SHARE: u64 = 128;
/// but never smaller than this, or reading would be all system calls.
const READ_AHEAD_BYTES_MIN: u32 = 16 << 10;

/// The cache of lookups is made for so many at first.
const LOOKUPS_USUAL: usize = 16;

/// A store's memory. Shared by all of its files.
pub(crate) struct Memory {
    bytes: u64,
    mapping: Mapping,
    next_id: AtomicU64,
    mapped_bytes: AtomicU64,
    unmapped_bytes: AtomicU64,
    blocks: Cache<BlockKey, Bytes, BlockWeighter>,
    blocks_loaded: AtomicU64,
    /// What lookups take that stay.
    kept_lookup_bytes: AtomicU64,
    lookups: Cache<u64, Arc<Lookup>, LookupWeighter>,
    open_files: Arc<OpenFiles>,
}

/// Figures of a store's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryStats {
    /// The budget.
    pub budget_bytes: u64,
    /// Files that are mapped.
    pub mapped_bytes: u64,
    /// Files that are read by system calls.
    pub unmapped_bytes: u64,
    /// Decompressed blocks in the cache.
    pub cached_bytes: u64,
    /// Blocks that were found in the cache since opening.
    pub cache_hits: u64,
    /// Blocks that had to be read.
    pub cache_misses: u64,
    /// Filters of runs and indexes of their blocks: those that stay, and those in the cache.
    pub lookup_bytes: u64,
    /// Files of runs that are open.
    pub open_run_files: u64,
}

/// A block of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BlockKey {
    /// [`DataFile::id`].
    pub(crate) file: u64,
    /// Which of its blocks.
    pub(crate) block: u32,
}

#[derive(Clone, Debug)]
struct BlockWeighter;

impl Weighter<BlockKey, Bytes> for BlockWeighter {
    fn weight(&self, _: &BlockKey, block: &Bytes) -> u64 {
        (block.len() as u64).max(BLOCK_BYTES_MIN)
    }
}

#[derive(Clone, Debug)]
struct LookupWeighter;

impl Weighter<u64, Arc<Lookup>> for LookupWeighter {
    fn weight(&self, _: &u64, lookup: &Arc<Lookup>) -> u64 {
        (lookup.memory_bytes() as u64).max(1)
    }
}

impl Memory {
    /// The memory that the options give a store.
    pub(crate) fn new(options: &Options) -> Arc<Memory> {
        let bytes = options.memory_bytes.unwrap_or_else(default_bytes);
        let cache_bytes = bytes / 8;
        let blocks = usize::try_from(cache_bytes / BLOCK_BYTES_USUAL).unwrap_or(usize::MAX);
        Arc::new(Memory {
            bytes,
            mapping: options.mapping,
            next_id: AtomicU64::new(0),
            mapped_bytes: AtomicU64::new(0),
            unmapped_bytes: AtomicU64::new(0),
            blocks: Cache::with_weighter(blocks, cache_bytes, BlockWeighter),
            blocks_loaded: AtomicU64::new(0),
            kept_lookup_bytes: AtomicU64::new(0),
            lookups: Cache::with_weighter(LOOKUPS_USUAL, bytes / 32, LookupWeighter),
            open_files: OpenFiles::new(options.open_files_max),
        })
    }

    /// What mapped files may take together.
    fn mapped_bytes_max(&self) -> u64 {
        match self.mapping {
            Mapping::Auto => self.bytes / 8 * 3,
            Mapping::Always => u64::MAX,
            Mapping::Never => 0,
        }
    }

    /// What the indexes may take together.
    pub(crate) fn index_bytes_max(&self) -> u64 {
        self.bytes / 8 * 3
    }

    /// Takes a file in, and maps it if there is room. It is `length` bytes long, and may grow to `capacity`.
    pub(crate) fn data_file(
        self: &Arc<Self>,
        path: Arc<Path>,
        file: Arc<dyn DiskFile>,
        length: u64,
        capacity: u64,
    ) -> DataFile {
        let id = self.next_id.fetch_add(1, Relaxed);
        let file = DataFile::new(self.clone(), id, path, file, length, capacity);
        self.unmapped_bytes.fetch_add(capacity.max(length), Relaxed);
        file.map();
        file
    }

    /// Whether a lookup of so many bytes may stay in memory. Who is told that it may says so when it goes:
    /// [`Memory::forget_lookup`].
    pub(crate) fn keep_lookup(&self, bytes: u64) -> bool {
        let max = self.bytes / 32 * 3;
        let fits = |kept: u64| kept.checked_add(bytes).filter(|kept| *kept <= max);
        self.kept_lookup_bytes.fetch_update(Relaxed, Relaxed, fits).is_ok()
    }

    pub(crate) fn forget_lookup(&self, bytes: u64) {
        self.kept_lookup_bytes.fetch_sub(bytes, Relaxed);
    }

    /// The lookup of a file that does not stay, from the cache or else by `load`.
    pub(crate) fn lookup(
        &self,
        file: u64,
        load: impl FnOnce() -> Result<Arc<Lookup>>,
    ) -> Result<Arc<Lookup>> {
        self.lookups.get_or_insert_with(&file, load)
    }

    /// How much is read ahead of who walks a file: less than what is best where that is a part of the memory that counts.
    pub(crate) fn read_ahead_bytes_max(&self, best: u32) -> u32 {
        u32::try_from(self.bytes / READ_AHEAD_SHARE).unwrap_or(u32::MAX).clamp(READ_AHEAD_BYTES_MIN, best)
    }

    /// The store's files that are open on demand.
    pub(crate) fn open_files(&self) -> &Arc<OpenFiles> {
        &self.open_files
    }

    /// Maps a file that was read by system calls so far, if there is room and the disk can.
    pub(crate) fn try_map(&self, file: &dyn DiskFile, length: u64) -> Option<MappedBytes> {
        let max = self.mapped_bytes_max();
        let fits = |mapped: u64| mapped.checked_add(length).filter(|mapped| *mapped <= max);
        if length == 0 || self.mapped_bytes.fetch_update(Relaxed, Relaxed, fits).is_err() {
            return None;
        }
        match file.map(length) {
            Ok(Some(mapping)) => {
                self.unmapped_bytes.fetch_sub(length, Relaxed);
                Some(mapping)
            }
            // The operating system has no more mappings to give, or this disk never had: reading works without.
            Ok(None) | Err(_) => {
                self.mapped_bytes.fetch_sub(length, Relaxed);
                None
            }
        }
    }

    /// Whether a file is read by system calls.
    pub(crate) fn has_unmapped(&self) -> bool {
        self.unmapped_bytes.load(Relaxed) > 0
    }

    /// A file has gone.
    pub(crate) fn forget(&self, length: u64, mapped: bool) {
        let bytes = if mapped { &self.mapped_bytes } else { &self.unmapped_bytes };
        bytes.fetch_sub(length, Relaxed);
    }

    /// A decompressed block, from the cache or else by `load`: while one thread loads it, others wait for that.
    pub(crate) fn block(&self, key: BlockKey, load: impl FnOnce() -> Result<Bytes>) -> Result<Bytes> {
        self.blocks.get_or_insert_with(&key, || {
            self.blocks_loaded.fetch_add(1, Relaxed);
            load()
        })
    }

    /// A decompressed block, if it is in the cache.
    pub(crate) fn cached_block(&self, key: BlockKey) -> Option<Bytes> {
        self.blocks.get(&key)
    }

    pub(crate) fn stats(&self) -> MemoryStats {
        MemoryStats {
            budget_bytes: self.bytes,
            mapped_bytes: self.mapped_bytes.load(Relaxed),
            unmapped_bytes: self.unmapped_bytes.load(Relaxed),
            cached_bytes: self.blocks.weight(),
            cache_hits: self.blocks.hits(),
            cache_misses: self.blocks_loaded.load(Relaxed),
            lookup_bytes: self.kept_lookup_bytes.load(Relaxed) + self.lookups.weight(),
            open_run_files: self.open_files.count() as u64,
        }
    }
}

/// Half of what this process may use: the other half is for the program around the store, and for the kernel.
fn default_bytes() -> u64 {
    limit::memory_bytes(Path::new("/")).map_or(BYTES_UNKNOWN, |bytes| bytes / 2)
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({:?}, {:?})", self.mapping, self.stats())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk as _, SystemDisk};
    use crate::error::Error;

    const MIB: u64 = 1 << 20;

    fn open(memory: &Arc<Memory>, directory: &Path, bytes: u64) -> DataFile {
        let file = SystemDisk.create(&directory.join("file")).unwrap();
        file.set_len(bytes).unwrap();
        memory.data_file(directory.into(), file, bytes, bytes)
    }

    fn mapped_and_not(memory: &Memory) -> (u64, u64) {
        let MemoryStats { mapped_bytes, unmapped_bytes, .. } = memory.stats();
        (mapped_bytes / MIB, unmapped_bytes / MIB)
    }

    #[test]
    fn files_are_mapped_as_long_as_they_fit() {
        let directory = tempfile::tempdir().unwrap();
        let open = |memory: &Arc<Memory>, mib| open(memory, directory.path(), mib * MIB);
        // Of 27 MiB, a little more than 10 are for mapped files.
        let memory = Memory::new(&Options::new().memory_bytes(27 * MIB));
        let first = open(&memory, 7);
        let second = open(&memory, 4);
        let third = open(&memory, 3);
        assert_eq!([&first, &second, &third].map(DataFile::is_mapped), [true, false, true]);
        assert_eq!(mapped_and_not(&memory), (10, 4));
        // Room that became free is taken when somebody asks again.
        assert!(!second.map());
        drop(first);
        assert_eq!(mapped_and_not(&memory), (3, 4));
        assert!(second.map() && second.map() && second.is_mapped());
        assert_eq!(mapped_and_not(&memory), (7, 0));
        drop((second, third));
        assert_eq!(mapped_and_not(&memory), (0, 0));
    }

    #[test]
    fn mapping_can_be_forced_and_forbidden() {
        let directory = tempfile::tempdir().unwrap();
        for (mapping, mapped) in [(Mapping::Always, true), (Mapping::Never, false)] {
            let memory = Memory::new(&Options::new().memory_bytes(MIB).mapping(mapping));
            let files = [1, 8, 64].map(|mib| open(&memory, directory.path(), mib * MIB));
            assert!(files.iter().all(|file| file.is_mapped() == mapped), "{mapping:?}");
            assert_eq!(mapped_and_not(&memory), if mapped { (73, 0) } else { (0, 73) });
        }
    }

    #[test]
    fn no_two_files_have_one_number() {
        let directory = tempfile::tempdir().unwrap();
        let memory = Memory::new(&Options::new());
        let ids = [0; 3].map(|_| open(&memory, directory.path(), 10).id());
        assert_eq!(ids, [0, 1, 2]);
    }

    #[test]
    fn the_cache_keeps_within_its_share() {
        let memory = Memory::new(&Options::new().memory_bytes(8 * MIB));
        for round in 0..3 {
            for block in 0..500 {
                let key = BlockKey { file: 1, block };
                let bytes = memory.block(key, || Ok(vec![block as u8; 10_000].into())).unwrap();
                assert!(bytes.len() == 10_000 && bytes[0] == block as u8, "round {round}");
                assert!(memory.stats().cached_bytes <= MIB);
            }
        }
        let stats = memory.stats();
        assert!(stats.cached_bytes > MIB / 2, "{stats:?}");
        assert_eq!(stats.cache_hits + stats.cache_misses, 1500, "{stats:?}");

        // Small blocks do not hide what they cost beside their bytes.
        for block in 0..100_000 {
            memory.block(BlockKey { file: 2, block }, || Ok(Bytes::from_static(b"x"))).unwrap();
        }
        assert!(memory.blocks.len() as u64 <= MIB / BLOCK_BYTES_MIN);
    }

    #[test]
    fn a_block_that_cannot_be_read_is_not_cached() {
        let memory = Memory::new(&Options::new().memory_bytes(8 * MIB));
        let key = BlockKey { file: 1, block: 7 };
        let failed = memory.block(key, || Err(Error::corrupt(Path::new("run"), 5, "rotten")));
        assert!(matches!(failed, Err(Error::Corrupt { offset: 5, .. })));
        assert_eq!(memory.cached_block(key), None);
        assert_eq!(memory.block(key, || Ok(Bytes::from_static(b"good"))).unwrap(), "good");
        assert_eq!(memory.block(key, || panic!("it is cached")).unwrap(), "good");
        assert_eq!(memory.cached_block(key).unwrap(), "good");
    }

    /// A budget may be of any size: nothing overflows, and reading works.
    #[test]
    fn extreme_budgets_work() {
        let directory = tempfile::tempdir().unwrap();
        for bytes in [0, 1, 7, u64::MAX] {
            let memory = Memory::new(&Options::new().memory_bytes(bytes));
            let file = open(&memory, directory.path(), 5);
            assert_eq!(file.read(0, 10, &mut Vec::new()).unwrap(), [0; 5]);
            let block = memory.block(BlockKey { file: 0, block: 0 }, || Ok(Bytes::from_static(b"x")));
            assert_eq!(block.unwrap(), "x");
        }
    }
}
