//! A store as it travels: a copy that is read file by file, and one that is received beside a store and takes its place.
//!
//! # Places
//!
//! Who replaces stores as a whole opens them at a *place*: a path `P`. The store there is in the directory `P` or in one of
//! `P.1`, `P.2`, ...: that with the highest number which counts. A numbered directory counts if its MANIFEST says that it was
//! received under this number, and is in use; `P` itself always does. So a store is replaced by one step, the one that
//! replaces a MANIFEST:
//!
//! 1. [`IncomingCopy`] makes the next numbered directory with a MANIFEST that has the number, and says that nothing is there yet,
//!    and writes the files.
//! 2. All of it is made durable, and MANIFEST says that it was received. It is opened, and every byte verified.
//! 3. The owner sets its value ([`crate::ReplicatedStore::set_metadata`]): from then on it counts, and the one before does not.
//! 4. The one before is removed.
//!
//! Whatever a crash leaves, [`ReplicatedStore::settle`] finds the store that counts and removes the rest: what its MANIFEST says was
//! received there, or is on its way. What somebody else put beside a store (a backup `P.20261121`, say) has no such
//! MANIFEST: it never counts, and stays.
//!
//! A store that is given up goes to `P.damaged-NUMBER` as a whole, and the place is empty then ([`ReplicatedStore::set_aside`]).
//!
//! [`OutgoingCopy`] is the other end: a checkpoint (`P.to-NAME`, which never counts) that is read, and removed when it is dropped.
//!
//! What it does not do: it tells a store that was received at `P.1`, and put back there by hand later, from no other. It knows no network, and resumes nothing: a transfer that breaks begins anew.

mod incoming;
mod outgoing;

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::directory::Directory;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::manifest::{Manifest, Stage};
use crate::options::Options;
use crate::replicated::ReplicatedStore;

pub use incoming::IncomingCopy;
pub use outgoing::{CopyFile, OutgoingCopy};

/// What the name of an outgoing copy has behind that of its place.
const OUTGOING: &str = "to-";
/// What the name of a directory of stores that were set aside has behind that of their place.
const SET_ASIDE: &str = "damaged-";
/// So many of those are kept; of more the oldest goes.
const SET_ASIDE_MAX: usize = 2;

/// The directories of a place.
struct Place {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    /// Those with a number, ascending.
    numbered: Vec<(u32, PathBuf)>,
    outgoing: Vec<PathBuf>,
    /// Stores that were set aside, in the order in which that was done.
    set_aside: Vec<(u32, PathBuf)>,
}

impl Place {
    fn look(path: &Path, disk: Arc<dyn Disk>) -> Result<Place> {
        let path = std::path::absolute(path).map_err(Error::io(path))?;
        let (numbered, outgoing, set_aside) = (Vec::new(), Vec::new(), Vec::new());
        let mut place = Place { path, disk, numbered, outgoing, set_aside };
        let (Some(parent), Some(name)) = (place.path.parent(), place.path.file_name()) else {
            return Ok(place);
        };
        let Some(name) = name.to_str() else {
            let source =
                io::Error::new(ErrorKind::InvalidInput, "the place of a store has to have a name in UTF-8");
            return Err(Error::Io { path: place.path, source });
        };
        let names = match place.disk.list(parent) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(place),
            names => names.map_err(Error::io(parent))?,
        };
        let prefix = format!("{name}.");
        for (found, suffix) in names.iter().filter_map(|found| Some((found, found.strip_prefix(&prefix)?))) {
            let found = parent.join(found);
            if !place.disk.dir_exists(&found) {
                continue;
            }
            if suffix.starts_with(OUTGOING) {
                place.outgoing.push(found);
            } else if let Some(number) = suffix.strip_prefix(SET_ASIDE).and_then(number_of) {
                place.set_aside.push((number, found));
            } else if let Some(number) = number_of(suffix) {
                place.numbered.push((number, found));
            }
        }
        place.numbered.sort_unstable();
        place.set_aside.sort_unstable();
        Ok(place)
    }

    /// The directory of the store that counts.
    fn current(&self) -> Result<PathBuf> {
        for (number, path) in self.numbered.iter().rev() {
            if standing(path, *number, &self.disk)? == Standing::Counts {
                return Ok(path.clone());
            }
        }
        Ok(self.path.clone())
    }

    /// The number of the next copy that is received here: above all that were.
    fn next_number(&self) -> Result<u32> {
        let mut last = 0;
        for (number, path) in &self.numbered {
            if standing(path, *number, &self.disk)? != Standing::Foreign {
                last = last.max(*number);
            }
        }
        let is_free = |number: &u32| self.numbered.iter().all(|(taken, _)| taken != number);
        let next = (last..=u32::MAX).skip(1).find(is_free);
        next.ok_or(Error::TooLarge {
            what: "copies that took a store's place",
            actual: u64::from(last),
            limit: u64::from(u32::MAX - 1),
        })
    }
}

/// What a directory is for the place that its name belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// A store, received under this number.
    Counts,
    /// What is to become one, or was one, or is a copy for somebody else, or nothing.
    Passing,
    /// Nothing that came there by way of the place.
    Foreign,
}

/// 0: the place itself, and copies for others.
fn standing(path: &Path, number: u32, disk: &Arc<dyn Disk>) -> Result<Standing> {
    let directory = Directory::at(path, disk.clone())?;
    let Some(manifest) = Manifest::load(&directory)? else {
        // With something there it might be the newest store, which has lost its MANIFEST: that is not passed over.
        return Manifest::was_never_made(&directory).map(|()| Standing::Passing);
    };
    Ok(match manifest.stage {
        _ if manifest.number != number => Standing::Foreign,
        Stage::Store => Standing::Counts,
        Stage::Unfinished | Stage::Received => Standing::Passing,
    })
}

/// The number that a directory's name ends with: digits alone, without leading zeros.
fn number_of(suffix: &str) -> Option<u32> {
    let is_one = suffix.bytes().all(|byte| byte.is_ascii_digit()) && !suffix.starts_with('0');
    is_one.then(|| suffix.parse().ok())?
}

/// Removes what was set aside, with all that is in it: nothing there has to be whole.
fn remove_set_aside(path: &Path, disk: &Arc<dyn Disk>) -> Result<()> {
    for name in disk.list(path).map_err(Error::io(path))? {
        let inner = path.join(name);
        match disk.dir_exists(&inner) {
            true => remove_set_aside(&inner, disk)?,
            false => disk.remove(&inner).map_err(Error::io(&inner))?,
        }
    }
    disk.remove_dir(path).map_err(Error::io(path))
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

    /// The value that the owner of the store at a place gave it ([`ReplicatedStore::set_metadata`]), without opening it. `None`: there
    /// is no store, or none that was finished. Changes nothing.
    ///
    /// ```
    /// # use paddock_storage::{Options, ReplicatedStore};
    /// # let directory = tempfile::tempdir()?;
    /// let place = directory.path().join("replica");
    /// assert_eq!(ReplicatedStore::find_metadata(&place, &Options::new())?, None);
    /// ReplicatedStore::open(&place, Options::new())?.set_metadata(b"mine")?;
    /// assert_eq!(ReplicatedStore::find_metadata(&place, &Options::new())?.as_deref(), Some(&b"mine"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`ReplicatedStore::find`].
    pub fn find_metadata(place: &Path, options: &Options) -> Result<Option<Vec<u8>>> {
        let current = Place::look(place, options.disk.clone())?.current()?;
        let manifest = Manifest::load(&Directory::at(&current, options.disk.clone())?)?;
        Ok(manifest.map(|manifest| manifest.metadata))
    }

    /// The same for who is about to open it, and nobody else has any of it open: what else is at the place is removed, as
    /// far as that can be: stores that were replaced, copies that were not received to their end, and outgoing ones. What is
    /// none of these stays, such as a backup that somebody has put there.
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
        let Place { path, disk, numbered, outgoing, .. } = place;
        // Oldest first, so that an older one never outlives a newer one that has been replaced as well.
        let stores = [(0, path)].into_iter().chain(numbered).filter(|(_, path)| *path != current);
        let goes = |(number, path): &(u32, PathBuf)| {
            matches!(standing(path, *number, &disk), Ok(Standing::Counts | Standing::Passing))
        };
        let stores = stores.filter(goes).map(|(_, path)| path);
        let goes = |path: &PathBuf| matches!(standing(path, 0, &disk), Ok(Standing::Passing));
        for other in stores.chain(outgoing.into_iter().filter(goes)) {
            // What stays does not count, and the next time may remove it.
            let _ = Directory::at(&other, disk.clone())?.remove();
        }
        Ok(current)
    }

    /// Moves the store at a place out of it, and with it whatever else is there, into a directory beside it that never counts
    /// (`P.damaged-1`, `P.damaged-2`, ...; two are kept, of more the oldest goes). For a store that is given up because it is damaged:
    /// the place is empty then, and what there was stays for people to look at. Nobody may have any of it open. Returns that
    /// directory.
    ///
    /// What does not count goes first, so a crash in the middle leaves the store that counted, or none.
    ///
    /// ```
    /// # use paddock_storage::{Options, ReplicatedStore};
    /// # let directory = tempfile::tempdir()?;
    /// let place = directory.path().join("replica");
    /// ReplicatedStore::open(&place, Options::new())?.close()?;
    /// let aside = ReplicatedStore::set_aside(&place, &Options::new())?;
    /// assert!(!place.exists() && aside.join("replica/MANIFEST").exists());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`]: some of it may have been moved.
    pub fn set_aside(place: &Path, options: &Options) -> Result<PathBuf> {
        let Place { path, disk, numbered, outgoing, set_aside } = Place::look(place, options.disk.clone())?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Error::NotAStore { path });
        };
        let is_passing = |copy: &PathBuf| matches!(standing(copy, 0, &disk), Ok(Standing::Passing));
        for copy in outgoing.into_iter().filter(is_passing) {
            // What stays does not count, and the next time may remove it.
            let _ = Directory::at(&copy, disk.clone())?.remove();
        }
        let number = set_aside.last().map_or(1, |(last, _)| last.saturating_add(1));
        let too_many = (set_aside.len() + 1).saturating_sub(SET_ASIDE_MAX);
        for (_, oldest) in set_aside.into_iter().take(too_many) {
            // The same goes for these.
            let _ = remove_set_aside(&oldest, &disk);
        }
        let aside = parent.join(format!("{}.{SET_ASIDE}{number}", name.to_string_lossy()));
        disk.create_dir(&aside).map_err(Error::io(&aside))?;
        disk.sync_dir(parent).map_err(Error::io(parent))?;
        // An older one must not outlive the one that counts.
        let stores = [(0, path.clone())].into_iter().chain(numbered);
        // What cannot be judged may be the one that counted.
        let is_ours = |(number, path): &(u32, PathBuf)| {
            disk.dir_exists(path) && !matches!(standing(path, *number, &disk), Ok(Standing::Foreign))
        };
        for (_, store) in stores.filter(is_ours) {
            let Some(name) = store.file_name() else { continue };
            disk.rename(&store, &aside.join(name)).map_err(Error::io(&store))?;
            disk.sync_dir(&aside).map_err(Error::io(&aside))?;
            disk.sync_dir(parent).map_err(Error::io(parent))?;
        }
        Ok(aside)
    }

    /// Removes the directory of a store that is not open any more, because a copy has taken its place. What is in it
    /// and is no store's stays, and so does the directory then. Nothing there is no error.
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
    /// [`Error::NotAStore`], [`Error::Locked`], [`Error::Corrupt`] and [`Error::Format`]: nothing was removed. [`Error::Io`]:
    /// [`ReplicatedStore::settle`] removes it another time.
    pub fn remove_directory(path: &Path, options: &Options) -> Result<()> {
        let directory = Directory::at(path, options.disk.clone())?;
        if directory.disk.dir_exists(&directory.path) && Manifest::load(&directory)?.is_none() {
            return Err(Error::NotAStore { path: directory.path });
        }
        directory.remove()
    }
}
