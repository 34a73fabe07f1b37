//! The operating system's disk, with a gate: while it is shut for a directory, no run is made there, so that nothing is
//! compacted; or no store is opened there.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use paddock_storage::disk::{Disk, DiskFile, DiskLock, SystemDisk};
use parking_lot::{Condvar, Mutex};

/// See the module. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct GatedDisk {
    gate: Arc<Gate>,
}

#[derive(Debug, Default)]
struct Gate {
    shut_for: Mutex<Option<(What, PathBuf)>>,
    told: Condvar,
    /// What is said to be free below a path that begins like this.
    free: Mutex<Option<(PathBuf, u64)>>,
}

/// What is not done while the gate is shut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    MakingRuns,
    OpeningStores,
}

impl GatedDisk {
    /// From now on whoever does this below a path that begins like this one waits.
    pub fn shut_for(&self, what: What, prefix: &Path) {
        *self.gate.shut_for.lock() = Some((what, prefix.to_owned()));
    }

    /// Nobody waits any more.
    pub fn open(&self) {
        *self.gate.shut_for.lock() = None;
        self.gate.told.notify_all();
    }

    /// From now on there is said to be so much room below a path that begins like this one; `None`: the truth.
    pub fn say_free(&self, free: Option<(&Path, u64)>) {
        *self.gate.free.lock() = free.map(|(prefix, bytes)| (prefix.to_owned(), bytes));
    }

    fn pass(&self, what: What, path: &Path) {
        let mut shut_for = self.gate.shut_for.lock();
        while shut_for.as_ref().is_some_and(|(shut, prefix)| *shut == what && begins(path, prefix)) {
            self.gate.told.wait(&mut shut_for);
        }
    }
}

/// By characters, so that a place stands for all directories of it.
fn begins(path: &Path, prefix: &Path) -> bool {
    path.to_string_lossy().starts_with(&*prefix.to_string_lossy())
}

impl Disk for GatedDisk {
    fn create_dir(&self, path: &Path) -> io::Result<bool> {
        SystemDisk.create_dir(path)
    }

    fn dir_exists(&self, path: &Path) -> bool {
        SystemDisk.dir_exists(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        SystemDisk.sync_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        SystemDisk.list(path)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        if path.to_string_lossy().ends_with(".run.tmp") {
            self.pass(What::MakingRuns, path);
        }
        SystemDisk.create(path)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        SystemDisk.open(path)
    }

    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        SystemDisk.open_read(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        SystemDisk.rename(from, to)
    }

    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        SystemDisk.exchange(one, other)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        SystemDisk.link(from, to)
    }

    fn free_bytes(&self, directory: &Path) -> io::Result<Option<u64>> {
        match &*self.gate.free.lock() {
            Some((prefix, bytes)) if begins(directory, prefix) => Ok(Some(*bytes)),
            _ => SystemDisk.free_bytes(directory),
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        SystemDisk.remove(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        SystemDisk.remove_dir(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        self.pass(What::OpeningStores, path);
        SystemDisk.lock(path)
    }

    fn lock_existing(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        SystemDisk.lock_existing(path)
    }
}
