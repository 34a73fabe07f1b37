//! What a large value costs those who do not want it: a disk that counts what is read from it.
#![allow(clippy::unwrap_used, reason = "what helpers of a test meet unexpectedly fails it")]

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use paddock_storage::disk::{Disk, DiskFile, DiskLock, FaultyDisk};
use paddock_storage::{Compression, Options, Readable, Store};

#[derive(Clone, Debug)]
struct Counted {
    disk: FaultyDisk,
    read_bytes: Arc<AtomicU64>,
}

#[derive(Debug)]
struct CountedFile {
    file: Arc<dyn DiskFile>,
    read_bytes: Arc<AtomicU64>,
}

impl Counted {
    fn file(&self, file: io::Result<Arc<dyn DiskFile>>) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(CountedFile { file: file?, read_bytes: self.read_bytes.clone() }))
    }

    /// How many bytes were read meanwhile.
    fn read_while<T>(&self, run: impl FnOnce() -> T) -> u64 {
        let before = self.read_bytes.load(Ordering::SeqCst);
        run();
        self.read_bytes.load(Ordering::SeqCst) - before
    }
}

impl DiskFile for CountedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = self.file.read_at(buffer, offset)?;
        self.read_bytes.fetch_add(read as u64, Ordering::SeqCst);
        Ok(read)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }
    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        self.file.allocate(offset, length)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }
}

impl Disk for Counted {
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
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.file(self.disk.create(path))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.file(self.disk.open(path))
    }
    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.file(self.disk.open_read(path))
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

/// Where the file is not mapped, a value that is overwritten or removed stays where it is: only its key is read.
#[test]
fn overwriting_and_removing_read_no_value() {
    const VALUE_BYTES: usize = 1 << 20;
    let disk = Counted { disk: FaultyDisk::new(), read_bytes: Arc::default() };
    let options = Options::new()
        .compression(Compression::None)
        .background_compaction(false)
        .mark_idle_after(None)
        .disk(Arc::new(disk.clone()));
    let store = Store::builder("/data/store").options(options).open().unwrap();
    for in_a_run in [false, true] {
        for key in ["overwritten", "removed"] {
            store.insert(key, vec![7; VALUE_BYTES]).unwrap();
        }
        if in_a_run {
            store.compact().unwrap();
        }
        let read = disk.read_while(|| store.get(b"removed").unwrap());
        assert!(read >= VALUE_BYTES as u64, "a value that is wanted is read: {read}");
        let read = disk.read_while(|| store.insert("overwritten", "small").unwrap());
        assert!(read < 2_000, "in a run: {in_a_run}: {read} bytes were read to overwrite");
        let read = disk.read_while(|| store.remove("removed").unwrap());
        assert!(read < 2_000, "in a run: {in_a_run}: {read} bytes were read to remove");
        assert_eq!((store.len(), store.get(b"removed").unwrap()), (1, None));
        assert_eq!(store.get(b"overwritten").unwrap().as_deref(), Some(&b"small"[..]));
        let live_bytes = store.stats().unwrap().live_bytes;
        assert_eq!(live_bytes, 16 + 11 + 5, "what is overwritten counts no more");
    }
}
