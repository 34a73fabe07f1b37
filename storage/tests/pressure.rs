//! Compaction while somebody writes at every one of its steps: a disk that writes to the store whenever a run is begun.
#![allow(clippy::unwrap_used, reason = "what helpers of a test meet unexpectedly fails it")]

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use paddock_storage::disk::{Disk, DiskFile, DiskLock, FaultyDisk};
use paddock_storage::{Options, Readable, Store};

type Interruption = Box<dyn Fn() + Send + Sync>;

/// A disk that does something first whenever the file of a run is made.
#[derive(Clone)]
struct Interrupted {
    disk: FaultyDisk,
    interruption: Arc<Mutex<Option<Arc<Interruption>>>>,
}

impl Interrupted {
    fn new() -> Interrupted {
        Interrupted { disk: FaultyDisk::new(), interruption: Arc::default() }
    }

    fn set(&self, interruption: Option<Interruption>) {
        *self.interruption.lock().unwrap() = interruption.map(Arc::new);
    }
}

impl fmt::Debug for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Interrupted")
    }
}

impl Disk for Interrupted {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        if path.parent().is_some_and(|parent| parent.ends_with("runs")) {
            let interruption = self.interruption.lock().unwrap().clone();
            interruption.inspect(|interruption| interruption());
        }
        self.disk.create(path)
    }
    fn create_dir(&self, path: &Path) -> io::Result<bool> {
        self.disk.create_dir(path)
    }
    fn dir_exists(&self, path: &Path) -> bool {
        self.disk.dir_exists(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.disk.list(path)
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(path)
    }
    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open_read(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        self.disk.exchange(one, other)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.link(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        self.disk.lock(path)
    }
    fn lock_existing(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        self.disk.lock_existing(path)
    }
}

/// Everything small, and all of it on the caller's thread.
fn open(disk: &Interrupted) -> Store {
    let options = Options::new()
        .segment_bytes(4 << 10)
        .extent_bytes(4 << 10)
        .flush_bytes(2 << 10)
        .run_bytes(4 << 10)
        .background_compaction(false)
        .mark_idle_after(None)
        .disk(Arc::new(disk.clone()));
    Store::builder("/data/store").options(options).open().unwrap()
}

fn key(number: u32) -> String {
    format!("key {:03}", number % 300)
}

/// Asked to compact, a store does that with what it has, and is done, although each of its steps finds another tail.
#[test]
fn compacting_ends_while_others_write() {
    const WRITES_MAX: u32 = 4_000;
    let disk = Interrupted::new();
    let store = open(&disk);
    (0..600).for_each(|number| _ = store.insert(key(number), [1; 100]).unwrap());
    store.insert("deleted", "x").unwrap();
    store.remove("deleted").unwrap();
    let written = Arc::new(AtomicU32::new(0));
    let (writer, counted) = (store.clone(), written.clone());
    disk.set(Some(Box::new(move || {
        // As much as a tail holds, unless writers have to wait: that nobody may on this thread.
        while writer.stats().unwrap().compaction.waiting_tails < 2
            && counted.load(Ordering::SeqCst) < WRITES_MAX
        {
            let number = counted.fetch_add(1, Ordering::SeqCst);
            writer.insert(key(number), [2; 100]).unwrap();
        }
    })));
    store.compact().unwrap();
    disk.set(None);
    let written = written.load(Ordering::SeqCst);
    assert!((50..WRITES_MAX).contains(&written), "it ended after {written} writes");
    for number in 0..300 {
        let value = if number < written { [2; 100] } else { [1; 100] };
        assert_eq!(store.get(key(number).as_bytes()).unwrap().as_deref(), Some(&value[..]));
    }
    assert_eq!(store.get(b"deleted").unwrap(), None);
    store.compact().unwrap();
    assert_eq!((store.stats().unwrap().compaction.runs, store.len()), (1, 300));
}
