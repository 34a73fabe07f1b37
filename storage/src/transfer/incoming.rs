//! [`IncomingCopy`]: a store's files, received one after the other, beside the store whose place they are to take.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Place;
use crate::directory::Directory;
use crate::disk::DiskFile;
use crate::error::{Error, Result};
use crate::header::{FILE_HEADER_BYTES, FileHeader, Magic, StoreId};
use crate::manifest::{Kind, Manifest, Stage};
use crate::options::Options;
use crate::position::Sequence;
use crate::replicated::ReplicatedStore;

/// After so many bytes what was written is made durable: a large file must not leave all of that for its end, when the
/// fsyncs of others would have to wait for it.
const SYNC_BYTES: u64 = 8 << 20;

/// A copy that is being received: see [`super::OutgoingCopy`], which has an example. Dropped before it is finished, it goes.
#[derive(Debug)]
pub struct IncomingCopy {
    /// `None` once it is finished.
    directory: Option<Directory>,
    /// That of the directory.
    number: u32,
    file: Option<IncomingFile>,
}

#[derive(Debug)]
struct IncomingFile {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    length: u64,
    written: u64,
    unsynced: u64,
}

impl IncomingCopy {
    /// Makes a directory for a copy, beside the store at a place, which goes on.
    ///
    /// ```
    /// # use paddock_storage::{IncomingCopy, Options};
    /// # let directory = tempfile::tempdir()?;
    /// let place = directory.path().join("replica");
    /// let copy = IncomingCopy::begin(&place, &Options::new())?;
    /// assert!(directory.path().join("replica.1").exists());
    /// drop(copy);
    /// assert!(!directory.path().join("replica.1").exists());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::DiskFull`].
    pub fn begin(place: &Path, options: &Options) -> Result<IncomingCopy> {
        let place = Place::look(place, options.disk.clone())?;
        let number = place.next_number()?;
        let mut path = place.path.into_os_string();
        path.push(format!(".{number}"));
        let directory = Directory::at(Path::new(&path), place.disk)?;
        directory.make(&directory.path)?;
        let copy = IncomingCopy { directory: Some(directory), number, file: None };
        let directory = copy.directory()?;
        // First: it says that this is ours to remove. Which store it will be, its files say.
        copy.manifest(StoreId([0; 16]), Stage::Unfinished).create(directory)?;
        for inner in [&directory.log, &directory.runs, &directory.index] {
            directory.make(inner)?;
        }
        Ok(copy)
    }

    /// How many bytes the disk still takes, for whoever wants to leave some of it to others. `None`: that is not known.
    ///
    /// ```
    /// # use paddock_storage::{IncomingCopy, Options};
    /// # let directory = tempfile::tempdir()?;
    /// let copy = IncomingCopy::begin(&directory.path().join("replica"), &Options::new())?;
    /// assert!(copy.free_bytes()?.is_some_and(|bytes| bytes > 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn free_bytes(&self) -> Result<Option<u64>> {
        let directory = self.directory()?;
        directory.disk.free_bytes(&directory.path).map_err(Error::io(&directory.path))
    }

    /// Begins the next file. Only names that a store gives are taken.
    ///
    /// ```
    /// # use paddock_storage::{IncomingCopy, Options};
    /// # let directory = tempfile::tempdir()?;
    /// let mut copy = IncomingCopy::begin(&directory.path().join("replica"), &Options::new())?;
    /// assert!(copy.begin_file("../../etc/passwd", 10).is_err());
    /// copy.begin_file("runs/00000001.run", 10)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Corrupt`]: another name, or the file before is not whole. [`Error::Io`], [`Error::DiskFull`].
    pub fn begin_file(&mut self, name: &str, length_bytes: u64) -> Result<()> {
        self.end_file()?;
        let directory = self.directory()?;
        let path = directory.path.join(name);
        if !directory.is_name_of_a_copy(name) {
            return Err(Error::corrupt(&directory.path, 0, format!("{name:?} is no file of a store's copy")));
        }
        let file = directory.disk.create(&path).map_err(Error::space(&path))?;
        // Its room is taken now: whoever looks for room of his own meanwhile sees what there will be. And the fsyncs of others need
        // not wait, in the file system's journal, for places to be found for what is written here.
        if length_bytes > 0 {
            file.allocate(0, length_bytes).map_err(Error::space(&path))?;
        }
        self.file = Some(IncomingFile { path, file, length: length_bytes, written: 0, unsynced: 0 });
        Ok(())
    }

    /// Writes the file's next bytes.
    ///
    /// ```
    /// # use paddock_storage::{IncomingCopy, Options};
    /// # let directory = tempfile::tempdir()?;
    /// let mut copy = IncomingCopy::begin(&directory.path().join("replica"), &Options::new())?;
    /// copy.begin_file("FILES", 4)?;
    /// copy.write(b"abc")?;
    /// assert!(copy.write(b"de").is_err(), "more than was announced");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Corrupt`]: there is no file that they belong to. [`Error::Io`], [`Error::DiskFull`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(file) = &mut self.file else {
            return Err(Error::corrupt(&self.directory()?.path, 0, "bytes of no file"));
        };
        let end = file.written.saturating_add(bytes.len() as u64);
        if end > file.length {
            return Err(Error::corrupt(&file.path, file.length, "more bytes than were announced"));
        }
        file.file.write_at(bytes, file.written).map_err(Error::space(&file.path))?;
        file.written = end;
        file.unsynced += bytes.len() as u64;
        if file.unsynced >= SYNC_BYTES {
            file.unsynced = 0;
            file.file.sync_data().map_err(Error::space(&file.path))?;
        }
        Ok(())
    }

    /// Makes all of it durable, opens it as a store, and verifies every byte. It counts at its place once its owner has given
    /// it a value ([`ReplicatedStore::set_metadata`]); who drops it before that has to remove its directory
    /// ([`ReplicatedStore::remove_directory`]).
    ///
    /// ```
    /// # use paddock_storage::{IncomingCopy, Options};
    /// # let directory = tempfile::tempdir()?;
    /// let copy = IncomingCopy::begin(&directory.path().join("replica"), &Options::new())?;
    /// assert!(copy.finish(Options::new()).is_err(), "nothing was received");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Corrupt`]: what was received is no whole store. [`Error::Format`], [`Error::Io`], [`Error::DiskFull`].
    pub fn finish(mut self, options: Options) -> Result<ReplicatedStore> {
        self.end_file()?;
        let directory = self.directory()?;
        let disk = &directory.disk;
        for inner in [&directory.log, &directory.runs, &directory.index] {
            disk.sync_dir(inner).map_err(Error::io(inner))?;
        }
        directory.sync_ancestors()?;
        let files = directory.files_path();
        let mut header = [0; FILE_HEADER_BYTES];
        let file = disk.open_read(&files).map_err(Error::io(&files))?;
        let read = file.read_at(&mut header, 0).map_err(Error::io(&files))?;
        let FileHeader { store_id, .. } = FileHeader::decode(&header[..read], Magic::Files, &files)?;
        self.manifest(store_id, Stage::Received).create(directory)?;
        let store = ReplicatedStore::open(&directory.path, options)?;
        store.verify()?;
        // From here on its files are in other hands.
        self.directory = None;
        Ok(store)
    }

    fn manifest(&self, store_id: StoreId, stage: Stage) -> Manifest {
        Manifest { stage, number: self.number, ..Manifest::new(store_id, Kind::Replicated) }
    }

    fn directory(&self) -> Result<&Directory> {
        let finished = || Error::Poisoned { reason: "the copy is finished".into() };
        self.directory.as_ref().ok_or_else(finished)
    }

    fn end_file(&mut self) -> Result<()> {
        let Some(file) = self.file.take() else { return Ok(()) };
        if file.written < file.length {
            return Err(Error::corrupt(&file.path, file.written, "fewer bytes than were announced"));
        }
        file.file.sync_all().map_err(Error::space(&file.path))
    }
}

impl Drop for IncomingCopy {
    fn drop(&mut self) {
        if let Some(directory) = &self.directory {
            // What cannot be removed does not count, and goes when the place is settled.
            let _ = directory.remove();
        }
    }
}

impl Directory {
    /// Whether a copy may have a file of this name: those of finished files, but for LOCK and MANIFEST.
    fn is_name_of_a_copy(&self, name: &str) -> bool {
        use crate::directory::{checkpoint_number, run_number, segment_first};
        match name.split_once('/') {
            None => name == "FILES",
            Some(("log", name)) => segment_first(name).is_some_and(|first| first > Sequence(0)),
            Some(("runs", name)) => run_number(name).is_some(),
            Some(("index", name)) => checkpoint_number(name).is_some(),
            Some(_) => false,
        }
    }
}
