//! Opening a store with other options than the default ones.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::disk::Disk;
use crate::durability::Durability;
use crate::error::Result;
use crate::options::{Mapping, Options};
use crate::replicated::LogRetention;
use crate::run::Compression;
use crate::store::Store;

/// Opens a store with other options than the default ones.
#[derive(Clone, Debug)]
pub struct Builder {
    path: PathBuf,
    options: Options,
}

impl Builder {
    pub(crate) fn new(path: PathBuf) -> Builder {
        Builder { path, options: Options::default() }
    }

    /// All options at once.
    ///
    /// ```
    /// use paddock_storage::{Options, Store};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// let options = Options::new().segment_bytes(16 << 20);
    /// let store = Store::builder(directory.path()).options(options).open()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn options(mut self, options: Options) -> Builder {
        self.options = options;
        self
    }

    /// See [`Options::segment_bytes`].
    ///
    /// ```
    /// use paddock_storage::Store;
    ///
    /// # let directory = tempfile::tempdir()?;
    /// let store = Store::builder(directory.path()).segment_bytes(16 << 20).open()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u64) -> Builder {
        self.options = self.options.segment_bytes(bytes);
        self
    }

    /// See [`Options::extent_bytes`].
    ///
    /// ```
    /// use paddock_storage::Store;
    ///
    /// # let directory = tempfile::tempdir()?;
    /// let store = Store::builder(directory.path()).extent_bytes(64 << 10).open()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn extent_bytes(mut self, bytes: u64) -> Builder {
        self.options = self.options.extent_bytes(bytes);
        self
    }

    /// See [`Options::open_files_max`].
    ///
    /// ```
    /// # use paddock_storage::Store;
    /// # let directory = tempfile::tempdir()?;
    /// let store = Store::builder(directory.path()).open_files_max(64).open()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn open_files_max(mut self, files: usize) -> Builder {
        self.options = self.options.open_files_max(files);
        self
    }

    /// See [`Options::memory_bytes`].
    ///
    /// ```
    /// use paddock_storage::Store;
    ///
    /// # let directory = tempfile::tempdir()?;
    /// let store = Store::builder(directory.path()).memory_bytes(256 << 20).open()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn memory_bytes(mut self, bytes: u64) -> Builder {
        self.options = self.options.memory_bytes(bytes);
        self
    }

    /// See [`Options::mapping`].
    ///
    /// ```
    /// use paddock_storage::{Mapping, Store};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// let store = Store::builder(directory.path()).mapping(Mapping::Never).open()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn mapping(mut self, mapping: Mapping) -> Builder {
        self.options = self.options.mapping(mapping);
        self
    }

    /// See [`Options::disk`].
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use paddock_storage::Store;
    /// use paddock_storage::disk::SystemDisk;
    ///
    /// # let directory = tempfile::tempdir()?;
    /// let store = Store::builder(directory.path()).disk(Arc::new(SystemDisk)).open()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn disk(mut self, disk: Arc<dyn Disk>) -> Builder {
        self.options = self.options.disk(disk);
        self
    }

    /// See [`Options::durability`].
    ///
    /// ```
    /// use paddock_storage::{Durability, Store};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// let store = Store::builder(directory.path()).durability(Durability::Buffered).open()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Builder {
        self.options = self.options.durability(durability);
        self
    }

    /// See [`Options::sync_interval`].
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use paddock_storage::{Durability, Store};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// let second = Duration::from_secs(1);
    /// let store = Store::builder(directory.path()).durability(Durability::Interval).sync_interval(second).open()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn sync_interval(mut self, interval: Duration) -> Builder {
        self.options = self.options.sync_interval(interval);
        self
    }

    /// See [`Options::log_retention`].
    ///
    /// ```
    /// use paddock_storage::{LogRetention, Store};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// let store = Store::builder(directory.path()).log_retention(LogRetention::Bytes(1 << 30)).open()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn log_retention(mut self, retention: LogRetention) -> Builder {
        self.options = self.options.log_retention(retention);
        self
    }

    /// See [`Options::clock`].
    ///
    /// ```
    /// use paddock_storage::{Clock, Store};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// let store = Store::builder(directory.path()).clock(Clock::from_fn(|| 1_800_000_000_000)).open()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Builder {
        self.options = self.options.clock(clock);
        self
    }

    /// See [`Options::mark_idle_after`].
    ///
    /// ```
    /// use paddock_storage::Store;
    ///
    /// # let directory = tempfile::tempdir()?;
    /// let store = Store::builder(directory.path()).mark_idle_after(None).open()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn mark_idle_after(mut self, idle: Option<Duration>) -> Builder {
        self.options = self.options.mark_idle_after(idle);
        self
    }

    /// See [`Options::compression`].
    ///
    /// ```
    /// use paddock_storage::{Compression, Store};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// let store = Store::builder(directory.path()).compression(Compression::None).open()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Builder {
        self.options = self.options.compression(compression);
        self
    }

    /// See [`Options::flush_bytes`].
    ///
    /// ```
    /// use paddock_storage::Store;
    ///
    /// # let directory = tempfile::tempdir()?;
    /// let store = Store::builder(directory.path()).flush_bytes(1 << 20).open()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn flush_bytes(mut self, bytes: u64) -> Builder {
        self.options = self.options.flush_bytes(bytes);
        self
    }

    /// See [`Options::run_bytes`].
    ///
    /// ```
    /// use paddock_storage::Store;
    ///
    /// # let directory = tempfile::tempdir()?;
    /// let store = Store::builder(directory.path()).run_bytes(16 << 20).open()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn run_bytes(mut self, bytes: u64) -> Builder {
        self.options = self.options.run_bytes(bytes);
        self
    }

    /// See [`Options::background_compaction`].
    ///
    /// ```
    /// use paddock_storage::Store;
    ///
    /// # let directory = tempfile::tempdir()?;
    /// let store = Store::builder(directory.path()).background_compaction(false).open()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn background_compaction(mut self, background: bool) -> Builder {
        self.options = self.options.background_compaction(background);
        self
    }

    /// Opens the store, or makes a new one.
    ///
    /// ```
    /// use paddock_storage::Store;
    ///
    /// # let directory = tempfile::tempdir()?;
    /// let store = Store::builder(directory.path()).segment_bytes(1 << 20).open()?;
    /// assert!(store.recovery().created);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open(self) -> Result<Store> {
        Store::open_with(&self.path, self.options)
    }
}
