//! Looking at a store that nobody has open, without changing anything of it.
//!
//! [`OfflineStore::open`] takes the store's lock, so that nobody opens it meanwhile, and reads its manifest. Then
//!
//! - [`OfflineStore::inspect`] says what there is: segments, runs, how far they reach, and how the log ends;
//! - [`OfflineStore::verify`] reads every byte and says what is damaged, all of it and not just the first;
//! - [`OfflineStore::dump`] gives the records, as opening the store would, and not at all where that refuses;
//! - [`OfflineStore::salvage`] gives what can still be read of a damaged store, and says what cannot.
//!
//! A torn tail (what a crash left of a write that nobody was told of) is told from damage as opening tells it: by what
//! the log itself proves to have been durable. The first is no problem, and goes when the store is opened; the second
//! stays until somebody brings the bytes back.
//!
//! Nothing is written, not even to the lock: files are opened for reading alone, and what opening a store would change is
//! changed in memory. So it works where one may only read, and on a copy of the evidence.
//!
//! [`compact`] is the one thing here that changes files: it opens the store as its owner would.
//!
//! What this does not do: it repairs nothing, and finds nothing where LOCK or MANIFEST is damaged. A damaged replica is replaced by its peers, a damaged store by its backup.
//!
//! ```
//! use paddock_storage::offline::OfflineStore;
//! use paddock_storage::{Options, Store};
//!
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("birds");
//! let store = Store::open(&path)?;
//! store.insert("robin", "red")?;
//! store.close()?;
//!
//! let offline = OfflineStore::open(&path, Options::new())?;
//! let report = offline.verify()?;
//! assert!(report.damages.is_empty() && report.torn_tail.is_none());
//! assert_eq!(report.last.sequence.0, 1);
//! for record in offline.dump(false)? {
//!     println!("{:?}", record?);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod overlay;
mod read_only;
mod report;
mod salvage;
mod survey;
mod survey_runs;

use std::io;
use std::path::Path;
use std::sync::Arc;

pub use crate::damage::Damage;
pub use report::{FileReport, Report, RowsReport, RunReport, SegmentReport, TornTail, Verified};
pub use salvage::Salvage;

use crate::clock::Clock;
use crate::directory::Directory;
use crate::error::{Error, Result};
use crate::lock::Lock;
use crate::manifest::Manifest;
use crate::options::Options;
use crate::position::Sequence;
use crate::range::Range;
use crate::reader::Readable as _;
use crate::record::Record;
use crate::replicated::{LogRetention, ReplicatedStore};

use overlay::OverlayDisk;
use read_only::ReadOnlyDisk;

/// A store that nobody has open, and nobody opens while this lives.
#[derive(Debug)]
pub struct OfflineStore {
    /// On a disk that refuses to be written to.
    directory: Directory,
    options: Options,
    manifest: Manifest,
    /// Held for its drop. A store that was copied without its LOCK has none.
    _lock: Option<Lock>,
}

impl OfflineStore {
    /// Locks a store, and reads what store it is. Nothing is made where there is none.
    ///
    /// ```
    /// use paddock_storage::Options;
    /// use paddock_storage::offline::OfflineStore;
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("birds");
    /// # let store = paddock_storage::Store::open(&path)?;
    /// # store.insert("robin", "red")?;
    /// # store.close()?;
    /// // Nobody opens it as long as it is looked at.
    /// let offline = OfflineStore::open(&path, Options::new())?;
    /// assert!(paddock_storage::Store::open(&path).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NotAStore`]; [`Error::Locked`]; [`Error::Corrupt`], when LOCK or MANIFEST is damaged: then nothing else can
    /// be told; [`Error::Format`]; [`Error::Io`].
    pub fn open(path: &Path, options: Options) -> Result<OfflineStore> {
        let disk = Arc::new(ReadOnlyDisk(options.disk.clone()));
        let directory = Directory::at(path, disk)?;
        let manifest_path = directory.manifest_path();
        match directory.disk.open_read(&manifest_path) {
            Err(error) if is_missing(&error) => return Err(without_manifest(directory)),
            opened => drop(opened.map_err(Error::io(&manifest_path))?),
        }
        let lock = match Lock::take(&directory) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
            taken => Some(taken?),
        };
        // Anew, now that it stays as it is.
        let Some(manifest) = Manifest::load_store(&directory)? else {
            return Err(Error::NotAStore { path: directory.path });
        };
        if let Some(lock) = &lock {
            lock.check(&directory, manifest.store_id)?;
        }
        Ok(OfflineStore { directory, options, manifest, _lock: lock })
    }

    /// The store's directory, as an absolute path.
    ///
    /// ```
    /// use paddock_storage::Options;
    /// use paddock_storage::offline::OfflineStore;
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("birds");
    /// # let store = paddock_storage::Store::open(&path)?;
    /// # store.insert("robin", "red")?;
    /// # store.close()?;
    /// assert_eq!(OfflineStore::open(&path, Options::new())?.path(), path);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.directory.path
    }

    /// What there is, and how the log ends. Reads the headers of all files, and all of the log's newest segment.
    ///
    /// ```
    /// use paddock_storage::Options;
    /// use paddock_storage::offline::OfflineStore;
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("birds");
    /// # let store = paddock_storage::Store::open(&path)?;
    /// # store.insert("robin", "red")?;
    /// # store.close()?;
    /// let report = OfflineStore::open(&path, Options::new())?.inspect()?;
    /// assert_eq!((report.kind, report.last.sequence.0), ("standalone", 1));
    /// assert!(report.torn_tail.is_none(), "it was closed");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Format`]. Damage is no error here, but what is told.
    pub fn inspect(&self) -> Result<Report> {
        survey::survey(&self.directory, &self.options, &self.manifest, survey::Depth::Headers)
    }

    /// The same, after reading everything and verifying every checksum.
    ///
    /// ```
    /// use paddock_storage::Options;
    /// use paddock_storage::offline::OfflineStore;
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("birds");
    /// # let store = paddock_storage::Store::open(&path)?;
    /// # store.insert("robin", "red")?;
    /// # store.close()?;
    /// let report = OfflineStore::open(&path, Options::new())?.verify()?;
    /// for damage in &report.damages {
    ///     println!("{} at byte {}: {}", damage.path.display(), damage.offset, damage.what);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Format`]. Damage is no error here, but what is told.
    pub fn verify(&self) -> Result<Report> {
        survey::survey(&self.directory, &self.options, &self.manifest, survey::Depth::Everything)
    }

    /// What can still be read of a store that is damaged, when there is no other copy: of each key the newest row that is whole, in the
    /// order of the keys, expired ones included, and what could not be read. Where that was a key's newest row, an older one
    /// of it may be given, or one that had been deleted. `uncommitted` is as in [`OfflineStore::dump`]; with a damaged log
    /// less may be known to be committed than was.
    ///
    /// All keys are kept in memory.
    ///
    /// ```
    /// use paddock_storage::Options;
    /// use paddock_storage::offline::OfflineStore;
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("birds");
    /// # let store = paddock_storage::Store::open(&path)?;
    /// # store.insert("robin", "red")?;
    /// # store.close()?;
    /// let salvage = OfflineStore::open(&path, Options::new())?.salvage(false)?;
    /// for damage in salvage.damages() {
    ///     println!("{} at byte {}: {}", damage.path.display(), damage.offset, damage.what);
    /// }
    /// let records: Vec<_> = salvage.collect::<Result<_, _>>()?;
    /// assert_eq!(records[0].key, "robin");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Format`], [`Error::Io`] where a directory cannot be read. Damage is no error here, but what is told.
    pub fn salvage(&self, uncommitted: bool) -> Result<Salvage> {
        salvage::salvage(&self.directory, &self.options, &self.manifest, uncommitted)
    }

    /// The newest record of each key, in the order of the keys, expired ones included. Of a replicated store that is what
    /// its log knows to be committed, and with `uncommitted` also what the log holds beyond that, which may be cut off
    /// again one day.
    ///
    /// ```
    /// use paddock_storage::Options;
    /// use paddock_storage::offline::OfflineStore;
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("birds");
    /// # let store = paddock_storage::Store::open(&path)?;
    /// # store.insert("robin", "red")?;
    /// # store.close()?;
    /// let offline = OfflineStore::open(&path, Options::new())?;
    /// let records: Vec<_> = offline.dump(false)?.collect::<Result<_, _>>()?;
    /// assert_eq!(records[0].key, "robin");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`ReplicatedStore::open`] has them.
    pub fn dump(&self, uncommitted: bool) -> Result<Dump> {
        let overlay = Arc::new(OverlayDisk::over(self.directory.disk.clone()));
        // At the beginning of all time nothing has expired.
        let options = self.options.clone().disk(overlay).clock(Clock::from_fn(|| 0));
        // Compaction would be undone with everything else.
        let options = options.background_compaction(false);
        let mut store = ReplicatedStore::open_kind(&self.directory.path, options, self.manifest.kind)?;
        let last = store.last().sequence;
        if uncommitted {
            store.apply(last)?;
        }
        let through = store.applied();
        Ok(Dump { through, left_out: last.0 - through.0, records: store.reader().iter(), _store: store })
    }
}

/// What compacting a store came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compacted {
    /// Bytes of its files before.
    pub bytes_before: u64,
    /// Bytes of its files after.
    pub bytes_after: u64,
}

/// Opens a store that nobody has open, whatever its kind, compacts all of it, and closes it. What a crash had left is settled
/// on the way, as any opening does. Of the log it keeps what [`Options::log_retention`] says, and by default nothing that is
/// in runs then, of a replicated store neither.
///
/// # Errors
/// [`Error::NotAStore`]; as [`ReplicatedStore::open`] and [`ReplicatedStore::compact`] have them.
///
/// ```
/// use paddock_storage::{Options, Store, offline};
///
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("birds");
/// let store = Store::open(&path)?;
/// for number in 0..1000_u32 {
///     store.insert("robin", number.to_le_bytes())?;
/// }
/// store.close()?;
///
/// let compacted = offline::compact(&path, Options::new())?;
/// assert!(compacted.bytes_after < compacted.bytes_before);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn compact(path: &Path, options: Options) -> Result<Compacted> {
    let offline = OfflineStore::open(path, options.clone())?;
    let (kind, bytes_before) = (offline.manifest.kind, offline.inspect()?.file_bytes());
    // From here on the lock is the store's own.
    drop(offline);
    let retention = options.log_retention.unwrap_or(LogRetention::Nothing);
    let compacting = options.clone().background_compaction(false).log_retention(retention);
    let mut store = ReplicatedStore::open_kind(path, compacting, kind)?;
    store.compact()?;
    store.close()?;
    let bytes_after = OfflineStore::open(path, options)?.inspect()?.file_bytes();
    Ok(Compacted { bytes_before, bytes_after })
}

/// There is no store where no manifest is; unless it was lost, by which opening goes, too.
fn without_manifest(directory: Directory) -> Error {
    match Manifest::was_never_made(&directory) {
        Err(Error::Io { source, .. }) if is_missing(&source) => Error::NotAStore { path: directory.path },
        Err(error) => error,
        Ok(()) => Error::NotAStore { path: directory.path },
    }
}

/// Also a path that leads through a file leads to no store.
fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The records of a store; see [`OfflineStore::dump`].
#[derive(Debug)]
pub struct Dump {
    through: Sequence,
    left_out: u64,
    records: Range,
    /// Its records are read from it.
    _store: ReplicatedStore,
}

impl Dump {
    /// The last entry of the log that the records reflect.
    ///
    /// ```
    /// use paddock_storage::Options;
    /// use paddock_storage::offline::OfflineStore;
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("birds");
    /// # let store = paddock_storage::Store::open(&path)?;
    /// # store.insert("robin", "red")?;
    /// # store.close()?;
    /// let dump = OfflineStore::open(&path, Options::new())?.dump(false)?;
    /// assert_eq!(dump.through().0, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn through(&self) -> Sequence {
        self.through
    }

    /// How many entries of the log were left out, as nothing says that they were committed.
    ///
    /// ```
    /// use paddock_storage::Options;
    /// use paddock_storage::offline::OfflineStore;
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("birds");
    /// # let store = paddock_storage::Store::open(&path)?;
    /// # store.insert("robin", "red")?;
    /// # store.close()?;
    /// let dump = OfflineStore::open(&path, Options::new())?.dump(false)?;
    /// assert_eq!(dump.left_out(), 0, "a standalone store has committed what it has");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.left_out
    }
}

impl Iterator for Dump {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        self.records.next()
    }
}
