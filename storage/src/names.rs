//! Names of files that the store needs no more. They leave the disk at once, unless somebody is about to give the files a second
//! name ([`crate::checkpoint`]): then when that is done.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::disk::Disk;

/// See the module. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    disk: Arc<dyn Disk>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    pins: u64,
    waiting: Vec<PathBuf>,
    closed: bool,
}

/// As long as there is one, no name leaves.
#[derive(Debug)]
pub(crate) struct Pin(Names);

impl Names {
    pub(crate) fn new(disk: Arc<dyn Disk>) -> Names {
        Names { disk, state: Arc::default() }
    }

    /// Removes a name that FILES does not need any more. What cannot be removed is removed by the next opening.
    pub(crate) fn remove(&self, path: &Path) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        if state.pins > 0 {
            state.waiting.push(path.to_path_buf());
        } else {
            let _ = self.disk.remove(path);
        }
    }

    /// Keeps the names that there are.
    pub(crate) fn pin(&self) -> Pin {
        self.state.lock().pins += 1;
        Pin(self.clone())
    }

    /// The store is closed, and its directory may soon be another's: nothing is removed any more, since names may come again.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.waiting.clear();
    }
}

impl Pin {
    /// Whether the store is closed: files of its directory may be another's by now.
    pub(crate) fn is_of_a_closed_store(&self) -> bool {
        self.0.state.lock().closed
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.pins -= 1;
        if state.pins == 0 {
            for path in std::mem::take(&mut state.waiting) {
                let _ = self.0.disk.remove(&path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::FaultyDisk;

    fn with(names: [&str; 2]) -> (FaultyDisk, Names) {
        let disk = FaultyDisk::new();
        for name in names {
            disk.create(Path::new(name)).unwrap();
        }
        (disk.clone(), Names::new(Arc::new(disk)))
    }

    #[test]
    fn names_leave_when_nobody_needs_them_any_more() {
        let (disk, names) = with(["/one", "/other"]);
        let (first, second) = (names.pin(), names.pin());
        names.remove(Path::new("/one"));
        drop(first);
        assert_eq!(disk.paths().len(), 2);
        drop(second);
        assert_eq!(disk.paths(), [Path::new("/other")]);
        names.remove(Path::new("/other"));
        assert!(disk.paths().is_empty());
    }

    #[test]
    fn a_closed_store_removes_nothing() {
        let (disk, names) = with(["/one", "/other"]);
        let pin = names.pin();
        names.remove(Path::new("/one"));
        names.close();
        names.remove(Path::new("/other"));
        drop(pin);
        assert_eq!(disk.paths().len(), 2);
    }
}
