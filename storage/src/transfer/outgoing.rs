//! [`OutgoingCopy`]: a checkpoint that is read file by file, for somebody who makes a store of it elsewhere.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{OUTGOING, Standing, standing};
use crate::directory::Directory;
use crate::disk::DiskFile;
use crate::error::{Error, Result};
use crate::options::Options;
use crate::position::Sequence;
use crate::replicated::Checkpointer;

/// A copy of a store for somebody else. It takes no room that the store does not take anyway, but for what has left the store
/// since. Dropped, its files go.
///
/// ```
/// # use paddock_storage::{IncomingCopy, LogEntries, Options, OutgoingCopy, Readable, ReplicatedStore, RowsBuilder, Sequence};
/// # let directory = tempfile::tempdir()?;
/// # let (one, other) = (directory.path().join("one"), directory.path().join("other"));
/// let mut store = ReplicatedStore::open(&one, Options::new())?;
/// # let mut rows = RowsBuilder::new();
/// # rows.put(b"heron", b"grey")?;
/// # store.append(&LogEntries { epoch: 1, first: Sequence(1), log_time_ms: 0, rows: rows.finish() }, Sequence(0))?;
/// # store.apply(Sequence(1))?;
/// let outgoing = OutgoingCopy::write(store.checkpointer()?, &one, "follower", &Options::new())?;
/// let mut incoming = IncomingCopy::begin(&other, &Options::new())?;
/// for file in outgoing.files() {
///     incoming.begin_file(&file.name, file.length_bytes)?;
///     let mut bytes = vec![0; file.length_bytes as usize];
///     outgoing.open(file)?.read_at(&mut bytes, 0)?;
///     incoming.write(&bytes)?;
/// }
/// let mut received = incoming.finish(Options::new())?;
/// received.set_metadata(b"mine")?; // From here on it counts.
/// assert_eq!(received.reader().get(b"heron")?.as_deref(), Some(&b"grey"[..]));
/// assert_eq!(ReplicatedStore::find(&other, &Options::new())?, received.path());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct OutgoingCopy {
    directory: Directory,
    last: Sequence,
    files: Vec<CopyFile>,
}

/// A file of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyFile {
    /// Its path within the store's directory, parts divided by `/`.
    pub name: String,
    /// Its length in bytes.
    pub length_bytes: u64,
}

impl OutgoingCopy {
    /// Writes a checkpoint beside the store's place, under a name for whom it is. Entries that are in runs are left out of its
    /// log. A copy that is there of that name goes.
    ///
    /// ```
    /// # use paddock_storage::{Options, OutgoingCopy, ReplicatedStore};
    /// # let directory = tempfile::tempdir()?;
    /// # let place = directory.path().join("replica");
    /// let mut store = ReplicatedStore::open(&place, Options::new())?;
    /// let copy = OutgoingCopy::write(store.checkpointer()?, &place, "a", &Options::new())?;
    /// assert!(directory.path().join("replica.to-a").exists());
    /// drop(copy);
    /// assert!(!directory.path().join("replica.to-a").exists());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Checkpointer::write`]; [`Error::NotEmpty`] also where there is something else of that name.
    pub fn write(
        checkpointer: Checkpointer,
        place: &Path,
        name: &str,
        options: &Options,
    ) -> Result<OutgoingCopy> {
        let mut path = place.as_os_str().to_owned();
        path.push(format!(".{OUTGOING}{name}"));
        let path = PathBuf::from(path);
        let directory = Directory::at(&path, options.disk.clone())?;
        let is_there = directory.disk.dir_exists(&path);
        if is_there && matches!(standing(&path, 0, &directory.disk), Ok(Standing::Passing)) {
            directory.remove()?;
        }
        let last = checkpointer.without_flushed_log().write_for_travel(&path)?;
        let mut copy = OutgoingCopy { directory, last, files: Vec::new() };
        copy.files = copy.list()?;
        Ok(copy)
    }

    /// The last entry of its log.
    ///
    /// ```
    /// # use paddock_storage::{Options, OutgoingCopy, ReplicatedStore, Sequence};
    /// # let directory = tempfile::tempdir()?;
    /// # let place = directory.path().join("replica");
    /// # let mut store = ReplicatedStore::open(&place, Options::new())?;
    /// let copy = OutgoingCopy::write(store.checkpointer()?, &place, "a", &Options::new())?;
    /// assert_eq!(copy.last(), Sequence(0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn last(&self) -> Sequence {
        self.last
    }

    /// Its files, as [`super::IncomingCopy`] takes them.
    ///
    /// ```
    /// # use paddock_storage::{Options, OutgoingCopy, ReplicatedStore};
    /// # let directory = tempfile::tempdir()?;
    /// # let place = directory.path().join("replica");
    /// # let mut store = ReplicatedStore::open(&place, Options::new())?;
    /// let copy = OutgoingCopy::write(store.checkpointer()?, &place, "a", &Options::new())?;
    /// assert_eq!(copy.files()[0].name, "FILES");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn files(&self) -> &[CopyFile] {
        &self.files
    }

    /// Opens one of its files for reading.
    ///
    /// ```
    /// # use paddock_storage::{Options, OutgoingCopy, ReplicatedStore};
    /// # let directory = tempfile::tempdir()?;
    /// # let place = directory.path().join("replica");
    /// # let mut store = ReplicatedStore::open(&place, Options::new())?;
    /// let copy = OutgoingCopy::write(store.checkpointer()?, &place, "a", &Options::new())?;
    /// let file = &copy.files()[0];
    /// assert_eq!(copy.open(file)?.len()?, file.length_bytes);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(&self, file: &CopyFile) -> Result<Arc<dyn DiskFile>> {
        let path = self.directory.path.join(&file.name);
        self.directory.disk.open_read(&path).map_err(Error::io(&path))
    }

    /// All but LOCK and MANIFEST, which the other one makes for itself.
    fn list(&self) -> Result<Vec<CopyFile>> {
        let Directory { path, log, runs, index, disk } = &self.directory;
        let mut files = vec!["FILES".to_owned()];
        for (inner, prefix) in [(log, "log"), (runs, "runs"), (index, "index")] {
            let mut names = disk.list(inner).map_err(Error::io(inner))?;
            names.sort();
            files.extend(names.into_iter().map(|name| format!("{prefix}/{name}")));
        }
        let measured = files.into_iter().map(|name| {
            let path = path.join(&name);
            let length = disk.open_read(&path).and_then(|file| file.len());
            Ok(CopyFile { length_bytes: length.map_err(Error::io(&path))?, name })
        });
        measured.collect()
    }
}

impl Drop for OutgoingCopy {
    fn drop(&mut self) {
        // What cannot be removed goes when the place is settled.
        let _ = self.directory.remove();
    }
}
