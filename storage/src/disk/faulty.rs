//! A disk in memory that behaves as badly as a real one may, on demand and reproducibly.
//!
//! - What was not fsynced is lost in a crash, kept, or torn sector by sector: see [`Unsynced`]. Torn means in any order, too:
//!   each sector of each write, each length and each name is lost or kept by a throw of its own, so a later write may be
//!   there and an earlier one not, in one file and across files.
//! - A name (of a file made, renamed or removed, of a directory) lasts for certain only once its directory was fsynced,
//!   and all above it were.
//! - Every call that changes something is counted, and every call that looks at something beside; the n-th of either fails
//!   if told so, and from then on perhaps all.
//! - A failed fsync drops what it was to make durable, while reads still show it: as kernels do.
//! - It has room for so many bytes.
//! - It stands still if told so: fsyncs wait.
//!
//! It maps nothing ([`DiskFile::map`]): [`FaultyDisk::copy_to`] takes what is on it to a real disk, where files are mapped.

mod calls;
mod contents;
mod file;
mod names;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use contents::{Contents, Dice};
use names::{Copies, State};

/// A call that is to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which changing (or looking) call, from 1 on, counted since the disk was made.
    pub call: u64,
    /// What it answers.
    pub kind: io::ErrorKind,
    /// Whether all calls after it fail, too.
    pub lasting: bool,
}

impl Fault {
    fn meets(fault: Option<Fault>, call: u64) -> io::Result<()> {
        match fault {
            Some(fault) if call == fault.call || (fault.lasting && call > fault.call) => {
                Err(io::Error::new(fault.kind, "injected"))
            }
            _ => Ok(()),
        }
    }
}

/// What a crash does to writes that were not fsynced, and to names whose directory was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsynced {
    /// All are lost.
    Lost,
    /// All had reached the disk anyway.
    Kept,
    /// Each sector of each write, and each name of a file, is lost or kept, as the seed decides.
    Torn {
        /// The same seed tears the same way.
        seed: u64,
    },
}

/// A disk in memory that loses, tears, fails and fills up. Clones are the same disk.
#[derive(Clone, Default)]
pub struct FaultyDisk {
    state: Arc<Mutex<State>>,
    /// Told when a stall ends.
    resumed: Arc<Condvar>,
}

impl FaultyDisk {
    /// An empty disk without faults, where the directory `/` is.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use paddock_storage::Store;
    /// use paddock_storage::disk::FaultyDisk;
    ///
    /// let disk = FaultyDisk::new();
    /// let store = Store::builder("/data").disk(Arc::new(disk.clone())).open()?;
    /// store.insert("heron", "grey")?;
    /// # Ok::<(), paddock_storage::Error>(())
    /// ```
    #[must_use]
    pub fn new() -> FaultyDisk {
        let disk = FaultyDisk::default();
        let mut state = disk.state.lock();
        state.directories.insert(PathBuf::from("/"));
        state.durable_directories.insert(PathBuf::from("/"));
        drop(state);
        disk
    }

    /// How many changing calls there were so far.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use paddock_storage::Store;
    /// use paddock_storage::disk::FaultyDisk;
    ///
    /// let disk = FaultyDisk::new();
    /// let store = Store::builder("/data").disk(Arc::new(disk.clone())).open()?;
    /// let before = disk.calls();
    /// store.insert("heron", "grey")?;
    /// assert!(disk.calls() > before);
    /// # Ok::<(), paddock_storage::Error>(())
    /// ```
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state.lock().calls
    }

    /// Lets fsyncs of files below a directory wait, until this is called with another one or with none.
    ///
    /// ```
    /// use std::path::Path;
    /// use std::sync::Arc;
    ///
    /// use paddock_storage::Store;
    /// use paddock_storage::disk::FaultyDisk;
    ///
    /// let disk = FaultyDisk::new();
    /// let store = Store::builder("/data").disk(Arc::new(disk.clone())).open()?;
    /// disk.stall(Some(Path::new("/data")));
    /// let writing = std::thread::spawn(move || store.insert("heron", "grey"));
    /// assert!(!writing.is_finished());
    /// disk.stall(None);
    /// writing.join().unwrap()?;
    /// # Ok::<(), paddock_storage::Error>(())
    /// ```
    pub fn stall(&self, below: Option<&Path>) {
        self.state.lock().stalled = below.map(Path::to_path_buf);
        self.resumed.notify_all();
    }

    /// Makes a call fail, or none from now on.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use paddock_storage::Store;
    /// use paddock_storage::disk::{Fault, FaultyDisk};
    ///
    /// let disk = FaultyDisk::new();
    /// let store = Store::builder("/data").disk(Arc::new(disk.clone())).open()?;
    /// let fault = Fault { call: disk.calls() + 1, kind: std::io::ErrorKind::Other, lasting: false };
    /// disk.set_fault(Some(fault));
    /// assert!(store.insert("heron", "grey").is_err());
    /// # Ok::<(), paddock_storage::Error>(())
    /// ```
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.state.lock().fault = fault;
    }

    /// How many calls looked at something so far: opened or listed or read, or asked for a length.
    ///
    /// ```
    /// use paddock_storage::disk::{Disk, FaultyDisk};
    ///
    /// let disk = FaultyDisk::new();
    /// disk.list("/".as_ref())?;
    /// assert_eq!((disk.looks(), disk.calls()), (1, 0));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn looks(&self) -> u64 {
        self.state.lock().looks
    }

    /// Makes a call fail that only looks at something, or none from now on. Such calls are counted by themselves.
    ///
    /// ```
    /// use std::io::ErrorKind;
    ///
    /// use paddock_storage::disk::{Disk, Fault, FaultyDisk};
    ///
    /// let disk = FaultyDisk::new();
    /// disk.set_look_fault(Some(Fault { call: 1, kind: ErrorKind::Other, lasting: false }));
    /// assert!(disk.list("/".as_ref()).is_err());
    /// assert!(disk.list("/".as_ref()).is_ok());
    /// ```
    pub fn set_look_fault(&self, fault: Option<Fault>) {
        self.state.lock().look_fault = fault;
    }

    /// Writes all files, as they are seen, below a directory of the real disk: `/a/b` becomes `to/a/b`.
    ///
    /// # Errors
    /// What the operating system says.
    ///
    /// ```
    /// use paddock_storage::disk::FaultyDisk;
    ///
    /// let disk = FaultyDisk::new();
    /// disk.set_bytes("/a/b".as_ref(), b"grey");
    /// let real = tempfile::tempdir()?;
    /// disk.copy_to(real.path())?;
    /// assert_eq!(std::fs::read(real.path().join("a/b"))?, b"grey");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn copy_to(&self, to: &Path) -> io::Result<()> {
        for path in self.paths() {
            let target = to.join(path.strip_prefix("/").unwrap_or(&path));
            if let Some(parent) = target.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::write(target, self.bytes(&path).unwrap_or_default())?;
        }
        Ok(())
    }

    /// Limits the bytes of all files together.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use paddock_storage::{Error, Store};
    /// use paddock_storage::disk::FaultyDisk;
    ///
    /// let disk = FaultyDisk::new();
    /// let store = Store::builder("/data").disk(Arc::new(disk.clone())).open()?;
    /// disk.set_capacity_bytes(Some(disk.used_bytes()));
    /// assert!(matches!(store.insert("heron", "grey"), Err(Error::DiskFull { .. })));
    /// # Ok::<(), paddock_storage::Error>(())
    /// ```
    pub fn set_capacity_bytes(&self, capacity_bytes: Option<u64>) {
        self.state.lock().capacity_bytes = capacity_bytes;
    }

    /// Bytes of all files together.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use paddock_storage::Store;
    /// use paddock_storage::disk::FaultyDisk;
    ///
    /// let disk = FaultyDisk::new();
    /// let store = Store::builder("/data").disk(Arc::new(disk.clone())).open()?;
    /// assert!(disk.used_bytes() > 0);
    /// # Ok::<(), paddock_storage::Error>(())
    /// ```
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.state.lock().used_bytes()
    }

    /// The power fails, and faults are over.
    ///
    /// # Panics
    /// When somebody still has a store on this disk: it would go on writing to what is there after the crash.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use paddock_storage::{Readable, Store};
    /// use paddock_storage::disk::{FaultyDisk, Unsynced};
    ///
    /// let disk = FaultyDisk::new();
    /// let store = Store::builder("/data").disk(Arc::new(disk.clone())).open()?;
    /// store.insert("heron", "grey")?;
    /// drop(store);
    /// disk.crash(Unsynced::Lost);
    /// let store = Store::builder("/data").disk(Arc::new(disk)).open()?;
    /// assert_eq!(store.get(b"heron")?.as_deref(), Some(&b"grey"[..]));
    /// # Ok::<(), paddock_storage::Error>(())
    /// ```
    pub fn crash(&self, unsynced: Unsynced) {
        let mut state = self.state.lock();
        assert!(state.locked.is_empty(), "the power fails under {:?}: drop that store first", state.locked);
        let mut dice = Dice(unsynced);
        let directories = match unsynced {
            Unsynced::Kept => state.directories.clone(),
            Unsynced::Lost | Unsynced::Torn { .. } => state.reachable_directories(),
        };
        let files = state.names_after_crash(&directories, &mut dice);
        for file in files.values() {
            file.lock().crash(&mut dice);
        }
        state.fault = None;
        state.look_fault = None;
        state.durable_directories.clone_from(&directories);
        state.directories = directories;
        state.durable_files.clone_from(&files);
        state.files = files;
    }

    /// A copy that shares nothing with this disk.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use paddock_storage::Store;
    /// use paddock_storage::disk::FaultyDisk;
    ///
    /// let disk = FaultyDisk::new();
    /// let store = Store::builder("/data").disk(Arc::new(disk.clone())).open()?;
    /// drop(store);
    /// let copy = disk.copy();
    /// assert_eq!(copy.paths(), disk.paths());
    /// # Ok::<(), paddock_storage::Error>(())
    /// ```
    #[must_use]
    pub fn copy(&self) -> FaultyDisk {
        let state = self.state.lock();
        let mut copies = Copies::default();
        let copy = State {
            files: copies.all(&state.files),
            durable_files: copies.all(&state.durable_files),
            directories: state.directories.clone(),
            durable_directories: state.durable_directories.clone(),
            capacity_bytes: state.capacity_bytes,
            ..State::default()
        };
        FaultyDisk { state: Arc::new(Mutex::new(copy)), resumed: Arc::default() }
    }

    /// The files there are, in order.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use paddock_storage::Store;
    /// use paddock_storage::disk::FaultyDisk;
    ///
    /// let disk = FaultyDisk::new();
    /// let store = Store::builder("/data").disk(Arc::new(disk.clone())).open()?;
    /// assert!(disk.paths().contains(&"/data/MANIFEST".into()));
    /// # Ok::<(), paddock_storage::Error>(())
    /// ```
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        self.state.lock().files.keys().cloned().collect()
    }

    /// A file's bytes, as they are seen.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use paddock_storage::Store;
    /// use paddock_storage::disk::FaultyDisk;
    ///
    /// let disk = FaultyDisk::new();
    /// let store = Store::builder("/data").disk(Arc::new(disk.clone())).open()?;
    /// assert!(disk.bytes("/data/MANIFEST".as_ref()).unwrap().starts_with(b"PDKMANIF"));
    /// # Ok::<(), paddock_storage::Error>(())
    /// ```
    #[must_use]
    pub fn bytes(&self, path: &Path) -> Option<Vec<u8>> {
        let file = self.state.lock().files.get(path)?.clone();
        let bytes = file.lock().seen.clone();
        Some(bytes)
    }

    /// Replaces a file's bytes behind everybody's back, durably: rot.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use paddock_storage::Store;
    /// use paddock_storage::disk::FaultyDisk;
    ///
    /// let disk = FaultyDisk::new();
    /// let store = Store::builder("/data").disk(Arc::new(disk.clone())).open()?;
    /// drop(store);
    /// disk.set_bytes("/data/MANIFEST".as_ref(), b"no manifest");
    /// assert!(Store::builder("/data").disk(Arc::new(disk)).open().is_err());
    /// # Ok::<(), paddock_storage::Error>(())
    /// ```
    pub fn set_bytes(&self, path: &Path, bytes: &[u8]) {
        let mut state = self.state.lock();
        let contents = Contents { seen: bytes.to_vec(), durable: bytes.to_vec(), unsynced: Vec::new() };
        let file = state.files.entry(path.to_path_buf()).or_default().clone();
        *file.lock() = contents;
        state.durable_files.insert(path.to_path_buf(), file);
    }

    /// Removes a file behind everybody's back, durably.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use paddock_storage::Store;
    /// use paddock_storage::disk::FaultyDisk;
    ///
    /// let disk = FaultyDisk::new();
    /// let store = Store::builder("/data").disk(Arc::new(disk.clone())).open()?;
    /// drop(store);
    /// disk.remove_durably("/data/MANIFEST".as_ref());
    /// assert!(disk.bytes("/data/MANIFEST".as_ref()).is_none());
    /// # Ok::<(), paddock_storage::Error>(())
    /// ```
    pub fn remove_durably(&self, path: &Path) {
        let mut state = self.state.lock();
        state.files.remove(path);
        state.durable_files.remove(path);
    }
}

impl fmt::Debug for FaultyDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyDisk").finish_non_exhaustive()
    }
}
