//! How a store is laid out on its disk.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::compaction::site::FILE_BYTES_MAX;
use crate::disk::{Disk, SystemDisk};
use crate::durability::Durability;
use crate::replicated::LogRetention;
use crate::run::Compression;

/// Room that growth leaves free in the log for what must go on when the disk is full: deletes and markers.
pub const CONTROL_HEADROOM_BYTES: u64 = 256 << 10;

const SEGMENT_BYTES: u64 = 64 << 20;
const SEGMENT_BYTES_MIN: u64 = 4 << 10;
const SEGMENT_BYTES_MAX: u64 = 1 << 30;
const EXTENT_BYTES: u64 = 4 << 20;
const EXTENT_BYTES_MIN: u64 = 4 << 10;
const SYNC_INTERVAL: Duration = Duration::from_millis(100);
const RUN_BYTES_MIN: u64 = 4 << 10;
const RUN_BYTES_MAX: u64 = 512 << 20;
const MARK_IDLE_AFTER: Duration = Duration::from_millis(10);

/// A hundred years: so long after any moment that a clock tells there is another one that it can tell.
const WAIT_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Options of a store. The defaults suit a server; tests and small devices set less.
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) segment_bytes: u64,
    pub(crate) extent_bytes: u64,
    /// `None`: half of what there is.
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) mapping: Mapping,
    /// `None`: what suits the limit of the process.
    pub(crate) open_files_max: Option<usize>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) durability: Durability,
    pub(crate) sync_interval: Duration,
    pub(crate) mark_idle_after: Option<Duration>,
    pub(crate) clock: Clock,
    pub(crate) compression: Compression,
    pub(crate) flush_bytes: Option<u64>,
    pub(crate) run_bytes: u64,
    pub(crate) background: bool,
    /// `None`: what suits the kind of store.
    pub(crate) log_retention: Option<LogRetention>,
}

/// Which files are mapped into memory, and which are read by system calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mapping {
    /// As many as fit the budget: see [`Options::memory_bytes`].
    #[default]
    Auto,
    /// All. For a store that is known to fit into memory; where it does not, every thread that reads may wait for the disk
    /// at any moment.
    Always,
    /// None.
    Never,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            segment_bytes: SEGMENT_BYTES,
            extent_bytes: EXTENT_BYTES,
            memory_bytes: None,
            mapping: Mapping::Auto,
            open_files_max: None,
            disk: Arc::new(SystemDisk),
            durability: Durability::default(),
            sync_interval: SYNC_INTERVAL,
            mark_idle_after: Some(MARK_IDLE_AFTER),
            clock: Clock::system(),
            compression: Compression::default(),
            flush_bytes: None,
            run_bytes: FILE_BYTES_MAX,
            background: true,
            log_retention: None,
        }
    }
}

impl Options {
    /// How the blocks of runs are compressed, those that become a third shorter by it: by LZ4 if nothing else is said.
    ///
    /// ```
    /// use paddock_storage::{Compression, Options};
    ///
    /// let options = Options::new().compression(Compression::Zstd { level: 3 });
    /// ```
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// After how many bytes of log their rows are written to runs, in the order of their keys. By default a twelfth of the
    /// store's live bytes, at least 2 MiB; and whatever this is, before the memory for it is used up. Less costs more
    /// writing, more costs space and takes longer to open after a crash.
    ///
    /// ```
    /// use paddock_storage::Options;
    ///
    /// let options = Options::new().flush_bytes(1 << 20);
    /// ```
    #[must_use]
    pub fn flush_bytes(mut self, bytes: u64) -> Self {
        self.flush_bytes = Some(bytes.max(1));
        self
    }

    /// How long the files of runs become at most, about: 256 MiB by default, 4 KiB to 512 MiB. Merging takes the space of
    /// some of them beside what it replaces.
    ///
    /// ```
    /// use paddock_storage::Options;
    ///
    /// let options = Options::new().run_bytes(16 << 20);
    /// ```
    #[must_use]
    pub fn run_bytes(mut self, bytes: u64) -> Self {
        self.run_bytes = bytes.clamp(RUN_BYTES_MIN, RUN_BYTES_MAX);
        self
    }

    /// Whether the store compacts by itself, on a thread of its own, and makes segments of the log before they are needed, on
    /// another: it does by default. Otherwise that happens on the threads
    /// of its callers: when one asks for it ([`crate::Store::compact`]), and when one writes and too much is waiting.
    ///
    /// ```
    /// use paddock_storage::Options;
    ///
    /// let options = Options::new().background_compaction(false);
    /// ```
    #[must_use]
    pub fn background_compaction(mut self, background: bool) -> Self {
        self.background = background;
        self
    }

    /// How many files of runs the store has open at once: by default an eighth of what the process may open when the store is
    /// opened (`ulimit -n`), at least 8 and at most 512. Others are opened when they are read, which takes a few
    /// microseconds. Each thread that reads at the moment may have one more open; besides, there is one for each segment of
    /// the log, the lock, and one or two for a moment.
    ///
    /// ```
    /// use paddock_storage::Options;
    ///
    /// let options = Options::new().open_files_max(64);
    /// ```
    #[must_use]
    pub fn open_files_max(mut self, files: usize) -> Self {
        self.open_files_max = Some(files.max(1));
        self
    }

    /// The defaults.
    ///
    /// ```
    /// use paddock_storage::{Options, ReplicatedStore};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// let store = ReplicatedStore::open(directory.path(), Options::new())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// When a segment is full and the next one begins: 64 MiB by default, 4 KiB to 1 GiB (a batch that is larger
    /// gets a segment to itself). May change from one opening to the next.
    ///
    /// ```
    /// use paddock_storage::Options;
    ///
    /// let options = Options::new().segment_bytes(16 << 20);
    /// ```
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = bytes.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        self
    }

    /// How much room a segment takes at a time, ahead of the rows: 4 MiB by default, at least 4 KiB. It reads as zeros; where
    /// fsyncs are frequent, up to 128 KiB of zeros are also written. More means rarer pauses, less a smaller empty store.
    ///
    /// ```
    /// use paddock_storage::Options;
    ///
    /// let options = Options::new().segment_bytes(1 << 20).extent_bytes(64 << 10);
    /// ```
    #[must_use]
    pub fn extent_bytes(mut self, bytes: u64) -> Self {
        self.extent_bytes = bytes.clamp(EXTENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        self
    }

    /// How much memory the store may use: by default half of what the machine has, or of what the process's control group
    /// allows, if that is less. In it are the files that are mapped (1/2), the indexes (3/8), and decompressed blocks (1/8);
    /// what is read by system calls comes from the kernel's cache, beside it. A process with several stores divides.
    ///
    /// ```
    /// use paddock_storage::Options;
    ///
    /// let options = Options::new().memory_bytes(256 << 20);
    /// ```
    #[must_use]
    pub fn memory_bytes(mut self, bytes: u64) -> Self {
        self.memory_bytes = Some(bytes);
        self
    }

    /// Which files are mapped into memory: by default as many as fit the budget.
    ///
    /// ```
    /// use paddock_storage::{Mapping, Options};
    ///
    /// let options = Options::new().mapping(Mapping::Never);
    /// ```
    #[must_use]
    pub fn mapping(mut self, mapping: Mapping) -> Self {
        self.mapping = mapping;
        self
    }

    /// How much of the log stays after its rows were flushed to runs: by default nothing in a [`crate::Store`], and everything in a
    /// [`crate::ReplicatedStore`], whose followers read it.
    ///
    /// ```
    /// use paddock_storage::{LogRetention, Options, ReplicatedStore};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// let options = Options::new().log_retention(LogRetention::Bytes(1 << 30));
    /// let store = ReplicatedStore::open(directory.path(), options)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn log_retention(mut self, retention: LogRetention) -> Self {
        self.log_retention = Some(retention);
        self
    }

    /// Another disk than the operating system's.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use paddock_storage::Options;
    /// use paddock_storage::disk::SystemDisk;
    ///
    /// let options = Options::new().disk(Arc::new(SystemDisk));
    /// ```
    #[must_use]
    pub fn disk(mut self, disk: Arc<dyn Disk>) -> Self {
        self.disk = disk;
        self
    }

    /// How durable writes are that do not say so themselves: on the disk ([`Durability::Sync`]) by default. Of a
    /// [`crate::ReplicatedStore`], whose owner decides when to fsync, it changes nothing.
    ///
    /// ```
    /// use paddock_storage::{Durability, Options};
    ///
    /// let options = Options::new().durability(Durability::Interval);
    /// ```
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// How long after a write of [`Durability::Interval`] its fsync begins at the latest: 100 ms by default.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use paddock_storage::{Durability, Options};
    ///
    /// // At most a second of writes is lost with the machine.
    /// let options = Options::new().durability(Durability::Interval).sync_interval(Duration::from_secs(1));
    /// ```
    #[must_use]
    pub fn sync_interval(mut self, interval: Duration) -> Self {
        self.sync_interval = interval.min(WAIT_MAX);
        self
    }

    /// Another clock than the system's.
    ///
    /// ```
    /// use paddock_storage::{Clock, Options, Readable, Store};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// // Where it is always the first of January 1970, nothing expires.
    /// let options = Options::new().clock(Clock::from_fn(|| 0));
    /// let store = Store::builder(directory.path()).options(options).open()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// How long nobody has written before the store notes in its log that all of it is durable: 10 ms by default. Until
    /// then, damage to the last batch of the log cannot be told from a write that a crash tore. `None`: only closing the
    /// store, and later writes, do so; then a store that nobody uses does nothing, for tests that count.
    ///
    /// ```
    /// use paddock_storage::Options;
    ///
    /// let options = Options::new().mark_idle_after(None);
    /// ```
    #[must_use]
    pub fn mark_idle_after(mut self, idle: Option<Duration>) -> Self {
        self.mark_idle_after = idle.map(|idle| idle.min(WAIT_MAX));
        self
    }
}
