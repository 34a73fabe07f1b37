//! Removing a store, and nothing else that is in its directory.
//!
//! 1. Its MANIFEST is replaced by one that says that there is no store any more: from here on nothing opens it.
//! 2. Its files go, and the directories for them as far as they are empty then.
//! 3. MANIFEST goes, and LOCK.
//!
//! So whatever a crash leaves is known for what it is, and can be removed by who comes later. A full disk
//! may keep the first step from being done; then what a crash leaves lacks files that it names, and is not opened either.

use std::io::ErrorKind;
use std::path::Path;

use crate::directory::{Directory, UNFINISHED, checkpoint_number, run_number, segment_first};
use crate::error::{Error, Result};
use crate::manifest::{Manifest, Stage};

impl Directory {
    /// Removes a store that nobody has open, and its directory, if nothing else is in it. What is no store stays.
    pub(crate) fn remove(&self) -> Result<()> {
        if !self.disk.dir_exists(&self.path) {
            return Ok(());
        }
        let lock = self.lock_path();
        let _lock = match self.disk.lock_existing(&lock) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            taken => Some(taken.map_err(Error::io(&lock))?.ok_or(Error::Locked { path: lock })?),
        };
        self.remove_store()?;
        self.remove_if_empty(&self.path)
    }

    /// The same for who holds the lock; the directory itself stays.
    pub(crate) fn remove_store(&self) -> Result<()> {
        match Manifest::load(self)? {
            Some(manifest) if manifest.stage != Stage::Unfinished => {
                match (Manifest { stage: Stage::Unfinished, ..manifest }).replace(self) {
                    Ok(()) | Err(Error::DiskFull { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            Some(_) => {}
            None => Manifest::was_never_made(self)?,
        }
        self.remove_files(&self.log, |name| segment_first(name).is_some())?;
        self.remove_files(&self.runs, |name| run_number(name).is_some())?;
        self.remove_files(&self.index, |name| checkpoint_number(name).is_some())?;
        for inner in [&self.log, &self.runs, &self.index] {
            self.remove_if_empty(inner)?;
        }
        self.remove_files(&self.path, |name| name == "FILES")?;
        self.remove_files(&self.path, |name| name == "MANIFEST")?;
        self.remove_files(&self.path, |name| name == "LOCK")
    }

    /// Removes files, finished or not, whose names are those; that they are gone lasts when this returns.
    fn remove_files(&self, directory: &Path, is_ours: impl Fn(&str) -> bool) -> Result<()> {
        if !self.disk.dir_exists(directory) {
            return Ok(());
        }
        let mut names = self.names(directory)?;
        names.sort();
        for name in names.iter().filter(|name| is_ours(name.strip_suffix(UNFINISHED).unwrap_or(name))) {
            let path = directory.join(name);
            self.disk.remove(&path).map_err(Error::io(&path))?;
        }
        self.disk.sync_dir(directory).map_err(Error::io(directory))
    }

    fn remove_if_empty(&self, directory: &Path) -> Result<()> {
        if self.disk.dir_exists(directory) && self.names(directory)?.is_empty() {
            match self.disk.remove_dir(directory) {
                // There is something whose name is not UTF-8.
                Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {}
                removed => removed.map_err(Error::io(directory))?,
            }
        }
        Ok(())
    }
}
