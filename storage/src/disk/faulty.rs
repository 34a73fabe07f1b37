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
//!
//! It maps nothing ([`DiskFile::map`]): [`FaultyDisk::copy_to`] takes what is on it to a real disk, where files are mapped.

mod contents;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Disk, DiskFile, DiskLock};
use contents::{Change, Contents, Dice, write};

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
}

#[derive(Default)]
struct State {
    files: Names,
    directories: BTreeSet<PathBuf>,
    durable_files: Names,
    durable_directories: BTreeSet<PathBuf>,
    locked: BTreeSet<PathBuf>,
    calls: u64,
    fault: Option<Fault>,
    looks: u64,
    look_fault: Option<Fault>,
    capacity_bytes: Option<u64>,
}

type Names = BTreeMap<PathBuf, Arc<Mutex<Contents>>>;

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
        FaultyDisk { state: Arc::new(Mutex::new(copy)) }
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

    /// Counts a changing call, and fails it if it is its turn.
    fn call(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.calls += 1;
        Fault::meets(state.fault, state.calls)
    }

    /// Counts a call that looks at something, and fails it if it is its turn.
    fn look(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.looks += 1;
        Fault::meets(state.look_fault, state.looks)
    }

    fn open_file(&self, path: &Path, read_only: bool) -> io::Result<FaultyFile> {
        self.look()?;
        let contents = self.state.lock().files.get(path).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(FaultyFile { disk: self.clone(), contents, read_only })
    }

    fn lock_file(&self, path: &Path, file: FaultyFile) -> Option<Box<dyn DiskLock>> {
        let path = path.to_path_buf();
        let free = self.state.lock().locked.insert(path.clone());
        free.then(|| Box::new(FaultyLock { file, path }) as _)
    }

    /// Refuses growth beyond the capacity.
    fn room(&self, more: u64) -> io::Result<()> {
        let state = self.state.lock();
        match state.capacity_bytes {
            Some(capacity) if more > 0 && state.used_bytes() + more > capacity => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for FaultyDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyDisk").finish_non_exhaustive()
    }
}

impl State {
    fn used_bytes(&self) -> u64 {
        // A file of two names takes its room once.
        let files: BTreeMap<_, _> = self.files.values().map(|file| (Arc::as_ptr(file), file)).collect();
        files.values().map(|file| file.lock().seen.len() as u64).sum()
    }

    /// Each name as it was made durable, or as it was seen last; what open handles hold is another file from now on.
    fn names_after_crash(&self, directories: &BTreeSet<PathBuf>, dice: &mut Dice) -> Names {
        let names: BTreeSet<&PathBuf> = self.files.keys().chain(self.durable_files.keys()).collect();
        let reachable =
            names.into_iter().filter(|path| path.parent().is_some_and(|p| directories.contains(p)));
        let mut copies = Copies::default();
        let files = reachable.filter_map(|path| {
            let names = if dice.keeps() { &self.files } else { &self.durable_files };
            Some((path.clone(), copies.of(names.get(path)?)))
        });
        files.collect()
    }

    /// Directories whose names last, all the way up.
    fn reachable_directories(&self) -> BTreeSet<PathBuf> {
        let lasts = |path: &&PathBuf| path.ancestors().all(|above| self.durable_directories.contains(above));
        self.durable_directories.iter().filter(lasts).cloned().collect()
    }
}

/// Copies of files, of which open handles know nothing; a file of several names is copied once, for all of them.
#[derive(Default)]
struct Copies(BTreeMap<*const Mutex<Contents>, Arc<Mutex<Contents>>>);

impl Copies {
    fn of(&mut self, file: &Arc<Mutex<Contents>>) -> Arc<Mutex<Contents>> {
        let copy = || Arc::new(Mutex::new(file.lock().clone()));
        self.0.entry(Arc::as_ptr(file)).or_insert_with(copy).clone()
    }

    fn all(&mut self, names: &Names) -> Names {
        names.iter().map(|(path, file)| (path.clone(), self.of(file))).collect()
    }
}

impl Disk for FaultyDisk {
    fn create_dir(&self, path: &Path) -> io::Result<bool> {
        self.call()?;
        let mut state = self.state.lock();
        if !path.parent().is_some_and(|parent| state.directories.contains(parent)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(state.directories.insert(path.to_path_buf()))
    }

    fn dir_exists(&self, path: &Path) -> bool {
        self.state.lock().directories.contains(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.call()?;
        let mut state = self.state.lock();
        if !state.directories.contains(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let within = |name: &Path| name.parent() == Some(path);
        let files: Vec<_> = state
            .files
            .iter()
            .filter(|(name, _)| within(name))
            .map(|(n, f)| (n.clone(), f.clone()))
            .collect();
        state.durable_files.retain(|name, _| !within(name));
        state.durable_files.extend(files);
        let directories: Vec<_> = state.directories.iter().filter(|name| within(name)).cloned().collect();
        state.durable_directories.extend(directories);
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.look()?;
        let state = self.state.lock();
        if !state.directories.contains(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let names = state.files.keys().chain(&state.directories).filter(|name| name.parent() == Some(path));
        Ok(names.filter_map(|name| Some(name.file_name()?.to_str()?.to_string())).collect())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.call()?;
        let mut state = self.state.lock();
        if !path.parent().is_some_and(|parent| state.directories.contains(parent)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let file = Arc::new(Mutex::new(Contents::default()));
        state.files.insert(path.to_path_buf(), file.clone());
        Ok(Arc::new(FaultyFile { disk: self.clone(), contents: file, read_only: false }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.open_file(path, false).map(|file| Arc::new(file) as _)
    }

    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.open_file(path, true).map(|file| Arc::new(file) as _)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call()?;
        let mut state = self.state.lock();
        let file = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.to_path_buf(), file);
        Ok(())
    }

    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        self.call()?;
        let mut state = self.state.lock();
        let of = |path: &Path| state.files.get(path).cloned().ok_or(io::ErrorKind::NotFound);
        let (first, second) = (of(one)?, of(other)?);
        state.files.insert(one.to_path_buf(), second);
        state.files.insert(other.to_path_buf(), first);
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call()?;
        let mut state = self.state.lock();
        if state.files.contains_key(to) || state.directories.contains(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !to.parent().is_some_and(|parent| state.directories.contains(parent)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let file = state.files.get(from).cloned().ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.to_path_buf(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.call()?;
        self.state.lock().files.remove(path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.call()?;
        let mut state = self.state.lock();
        if state.files.keys().chain(&state.directories).any(|name| name.parent() == Some(path)) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        if state.directories.remove(path) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        self.call()?;
        let contents = self.state.lock().files.entry(path.to_path_buf()).or_default().clone();
        Ok(self.lock_file(path, FaultyFile { disk: self.clone(), contents, read_only: false }))
    }

    fn lock_existing(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        Ok(self.lock_file(path, self.open_file(path, true)?))
    }
}

struct FaultyFile {
    disk: FaultyDisk,
    contents: Arc<Mutex<Contents>>,
    /// Opened for reading alone: whatever would change it fails, and is not even counted.
    read_only: bool,
}

impl fmt::Debug for FaultyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyFile").finish_non_exhaustive()
    }
}

impl FaultyFile {
    fn writable(&self) -> io::Result<()> {
        if self.read_only { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(()) }
    }

    /// Only what was written since the last fsync, failed or not, reaches the platter: a kernel that failed to write
    /// pages takes them for clean from then on.
    fn sync(&self) -> io::Result<()> {
        let outcome = self.disk.call();
        let mut contents = self.contents.lock();
        let unsynced = std::mem::take(&mut contents.unsynced);
        if outcome.is_ok() {
            unsynced.into_iter().for_each(|change| contents.settle(change));
        }
        outcome
    }
}

impl DiskFile for FaultyFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk.look()?;
        let contents = self.contents.lock();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(contents.seen.len());
        let length = buffer.len().min(contents.seen.len() - start);
        buffer[..length].copy_from_slice(&contents.seen[start..start + length]);
        Ok(length)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.writable()?;
        let length = self.contents.lock().seen.len() as u64;
        let outcome = self
            .disk
            .call()
            .and_then(|()| self.disk.room((offset + bytes.len() as u64).saturating_sub(length)));
        // A write that fails has written a part.
        let bytes = if outcome.is_ok() { bytes } else { &bytes[..bytes.len() / 2] };
        let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut contents = self.contents.lock();
        if outcome.is_ok() || offset + bytes.len() <= contents.seen.len() {
            write(&mut contents.seen, offset, bytes);
            contents.unsynced.push(Change::Write { offset, bytes: bytes.to_vec() });
        }
        outcome
    }

    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        self.writable()?;
        self.disk.call()?;
        let more = (offset + length).saturating_sub(self.contents.lock().seen.len() as u64);
        self.disk.room(more)?;
        if more > 0 {
            let length = usize::try_from(offset + length).map_err(|_| io::ErrorKind::FileTooLarge)?;
            let mut contents = self.contents.lock();
            contents.seen.resize(length, 0);
            contents.unsynced.push(Change::Length(length));
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.look()?;
        Ok(self.contents.lock().seen.len() as u64)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.writable()?;
        self.disk.call()?;
        let length = usize::try_from(length).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut contents = self.contents.lock();
        contents.seen.resize(length, 0);
        contents.unsynced.push(Change::Length(length));
        Ok(())
    }
}

#[derive(Debug)]
struct FaultyLock {
    file: FaultyFile,
    path: PathBuf,
}

impl DiskLock for FaultyLock {
    fn file(&self) -> &dyn DiskFile {
        &self.file
    }
}

impl Drop for FaultyLock {
    fn drop(&mut self) {
        self.file.disk.state.lock().locked.remove(&self.path);
    }
}
