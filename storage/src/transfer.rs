//! A store as it travels: a copy that is read file by file, and one that is received beside a store and takes its place.
//!
//! # Places
//!
//! Who replaces stores as a whole opens them at a *place*: a path `P`. The store there is in the directory `P` or in one of
//! `P.1`, `P.2`, ...: that with the highest number which counts. A numbered directory counts once its MANIFEST holds a value
//! of its owner's; `P` itself always does. So a store is replaced by one step, the one that replaces a MANIFEST:
//!
//! 1. [`IncomingCopy`] makes the next numbered directory and writes the files, without MANIFEST.
//! 2. All of it is made durable, and gets a MANIFEST with an empty value. It is opened, and every byte verified.
//! 3. The owner sets its value ([`crate::ReplicatedStore::set_metadata`]): from then on it counts, and the one before does not.
//! 4. The one before is removed.
//!
//! Whatever a crash leaves, [`ReplicatedStore::settle`] finds the store that counts and removes the rest.
//!
//! [`OutgoingCopy`] is the other end: a checkpoint (`P.to-NAME`, which never counts) that is read, and removed when it is dropped.
//!
//! What it does not do: it knows no network, and resumes nothing: a transfer that breaks begins anew.

mod incoming;
mod outgoing;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::directory::Directory;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::manifest::Manifest;
use crate::options::Options;
use crate::replicated::ReplicatedStore;

pub use incoming::IncomingCopy;
pub use outgoing::{CopyFile, OutgoingCopy};

/// What the name of an outgoing copy has behind that of its place.
const OUTGOING: &str = "to-";

/// The directories of a place.
struct Place {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    /// Those with a number, ascending.
    numbered: Vec<(u32, PathBuf)>,
    outgoing: Vec<PathBuf>,
}

impl Place {
    fn look(path: &Path, disk: Arc<dyn Disk>) -> Result<Place> {
        let path = std::path::absolute(path).map_err(Error::io(path))?;
        let mut place = Place { path, disk, numbered: Vec::new(), outgoing: Vec::new() };
        let (Some(parent), Some(name)) = (place.path.parent(), place.path.file_name()) else {
            return Ok(place);
        };
        let names = match place.disk.list(parent) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(place),
            names => names.map_err(Error::io(parent))?,
        };
        let prefix = format!("{}.", name.to_string_lossy());
        for (found, suffix) in names.iter().filter_map(|found| Some((found, found.strip_prefix(&prefix)?))) {
            if suffix.starts_with(OUTGOING) {
                place.outgoing.push(parent.join(found));
            } else if let Some(number) = number_of(suffix) {
                place.numbered.push((number, parent.join(found)));
            }
        }
        place.numbered.sort_unstable();
        Ok(place)
    }

    /// The directory of the store that counts.
    fn current(&self) -> Result<PathBuf> {
        for (_, path) in self.numbered.iter().rev() {
            let directory = Directory::at(path, self.disk.clone())?;
            if Manifest::load(&directory)?.is_some_and(|manifest| !manifest.metadata.is_empty()) {
                return Ok(path.clone());
            }
        }
        Ok(self.path.clone())
    }
}

/// The number that a directory's name ends with: digits alone, without leading zeros.
fn number_of(suffix: &str) -> Option<u32> {
    let is_one = suffix.bytes().all(|byte| byte.is_ascii_digit()) && !suffix.starts_with('0');
    is_one.then(|| suffix.parse().ok())?
}

/// Removes a store's directory: first what makes it a store.
fn remove(directory: &Directory) -> Result<()> {
    let Directory { path, log, runs, index, disk } = directory;
    let remove_files = |directory: &Path, chosen: &dyn Fn(&str) -> bool| -> Result<()> {
        let names = match disk.list(directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            names => names.map_err(Error::io(directory))?,
        };
        for name in names.iter().filter(|name| chosen(name)) {
            let path = directory.join(name);
            disk.remove(&path).map_err(Error::io(&path))?;
        }
        Ok(())
    };
    remove_files(path, &|name| name.starts_with("MANIFEST"))?;
    if disk.dir_exists(path) {
        directory.sync()?;
    }
    for inner in [log, runs, index] {
        remove_files(inner, &|_| true)?;
        if disk.dir_exists(inner) {
            disk.remove_dir(inner).map_err(Error::io(inner))?;
        }
    }
    remove_files(path, &|_| true)?;
    if disk.dir_exists(path) {
        disk.remove_dir(path).map_err(Error::io(path))?;
    }
    Ok(())
}

impl ReplicatedStore {
    /// The directory of the store at a place: the place itself, or the newest copy that has taken its place
    /// ([`IncomingCopy`]). Changes nothing; whether there is a store, opening it says.
    ///
    /// ```
    /// # use paddock_storage::{Options, ReplicatedStore};
    /// # let directory = tempfile::tempdir()?;
    /// let place = directory.path().join("replica");
    /// assert_eq!(ReplicatedStore::find(&place, &Options::new())?, place);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Corrupt`] and [`Error::Format`] where it cannot be told whether a copy counts.
    pub fn find(place: &Path, options: &Options) -> Result<PathBuf> {
        Place::look(place, options.disk.clone())?.current()
    }

    /// The same for who is about to open it, and nobody else has any of it open: what else is at the place is removed, as
    /// far as that can be: stores that were replaced, copies that were not received to their end, and outgoing ones.
    ///
    /// ```
    /// # use paddock_storage::{Options, ReplicatedStore};
    /// # let directory = tempfile::tempdir()?;
    /// let place = directory.path().join("replica");
    /// std::fs::create_dir_all(directory.path().join("replica.1/log"))?;
    /// assert_eq!(ReplicatedStore::settle(&place, &Options::new())?, place);
    /// assert!(!directory.path().join("replica.1").exists());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`ReplicatedStore::find`].
    pub fn settle(place: &Path, options: &Options) -> Result<PathBuf> {
        let place = Place::look(place, options.disk.clone())?;
        let current = place.current()?;
        let Place { path, disk, numbered, outgoing } = place;
        let numbered = numbered.into_iter().map(|(_, path)| path);
        // Oldest first, so that an older one never outlives a newer one that has been replaced as well.
        for other in [path].into_iter().chain(numbered).chain(outgoing).filter(|path| *path != current) {
            if disk.dir_exists(&other) {
                // What stays does not count, and the next time may remove it.
                let _ = remove(&Directory::at(&other, disk.clone())?);
            }
        }
        Ok(current)
    }

    /// Removes the directory of a store that is not open any more, because a copy has taken its place.
    ///
    /// ```
    /// # use paddock_storage::{Options, ReplicatedStore};
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("replica");
    /// ReplicatedStore::open(&path, Options::new())?.close()?;
    /// ReplicatedStore::remove_directory(&path, &Options::new())?;
    /// assert!(!path.exists());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`]: [`ReplicatedStore::settle`] removes it another time.
    pub fn remove_directory(path: &Path, options: &Options) -> Result<()> {
        remove(&Directory::at(path, options.disk.clone())?)
    }
}
