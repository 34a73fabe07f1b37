//! The operating system's disk, with a gate: while it is shut for a directory, no run is made there, so that nothing is
//! compacted.

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
    shut_for: Mutex<Option<PathBuf>>,
    told: Condvar,
}

impl GatedDisk {
    /// From now on whoever makes a run below this directory waits.
    pub fn shut_for(&self, directory: &Path) {
        *self.gate.shut_for.lock() = Some(directory.to_owned());
    }

    /// Nobody waits any more.
    pub fn open(&self) {
        *self.gate.shut_for.lock() = None;
        self.gate.told.notify_all();
    }

    fn pass(&self, path: &Path) {
        let is_run = path.to_string_lossy().ends_with(".run.tmp");
        let mut shut_for = self.gate.shut_for.lock();
        while is_run && shut_for.as_ref().is_some_and(|directory| path.starts_with(directory)) {
            self.gate.told.wait(&mut shut_for);
        }
    }
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
        self.pass(path);
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

    fn remove(&self, path: &Path) -> io::Result<()> {
        SystemDisk.remove(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        SystemDisk.remove_dir(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        SystemDisk.lock(path)
    }

    fn lock_existing(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        SystemDisk.lock_existing(path)
    }
}
