//! The faulty disk as a [`Disk`]: what every call to it does.

use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::contents::Contents;
use super::file::{FaultyFile, FaultyLock};
use super::{Fault, FaultyDisk};
use crate::disk::{Disk, DiskFile, DiskLock};

impl FaultyDisk {
    /// Counts a changing call, and fails it if it is its turn.
    pub(super) fn call(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.calls += 1;
        Fault::meets(state.fault, state.calls)
    }

    /// Waits while the disk stands still for this file.
    pub(super) fn wait_while_stalled(&self, contents: &Arc<Mutex<Contents>>) {
        let mut state = self.state.lock();
        while state.stalls(contents) {
            self.resumed.wait(&mut state);
        }
    }

    /// Counts a call that looks at something, and fails it if it is its turn.
    pub(super) fn look(&self) -> io::Result<()> {
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
    pub(super) fn room(&self, more: u64) -> io::Result<()> {
        let state = self.state.lock();
        match state.capacity_bytes {
            Some(capacity) if more > 0 && state.used_bytes() + more > capacity => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
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

    fn free_bytes(&self, _: &Path) -> io::Result<Option<u64>> {
        let state = self.state.lock();
        Ok(state.capacity_bytes.map(|capacity| capacity.saturating_sub(state.used_bytes())))
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
