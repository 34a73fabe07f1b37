//! Ours. Only the public face of `Store` is used, so that its inside may change.
//!
//! Each read verifies the row's checksum.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use paddock_storage::disk::{Disk, DiskFile, DiskLock, MappedBytes, SystemDisk};
use paddock_storage::{Readable, Store, WriteBatch};

use crate::engine::{Durability, Engine, Options};

/// An open store.
pub struct Paddock {
    store: Store,
    directory: PathBuf,
}

impl Paddock {
    /// The store has no cache of its own yet, so there is no budget to set.
    pub fn open(directory: &Path, options: Options) -> Result<Paddock> {
        let builder = Store::builder(directory);
        let builder = match options.durability {
            Durability::Sync => builder,
            Durability::Buffered => builder.disk(Arc::new(UnsyncedDisk)),
        };
        Ok(Paddock { store: builder.open()?, directory: directory.to_path_buf() })
    }
}

impl Engine for Paddock {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.store.insert(key, value)?;
        Ok(())
    }

    fn get(&self, key: &[u8], read: &mut dyn FnMut(&[u8])) -> Result<bool> {
        let value = self.store.get(key)?;
        if let Some(value) = &value {
            read(value);
        }
        Ok(value.is_some())
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        self.store.remove(key)?;
        Ok(())
    }

    fn scan(&self, start: &[u8], rows_max: usize, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<usize> {
        let mut rows = 0;
        for record in self.store.range(start..).take(rows_max) {
            let record = record?;
            each(&record.key, &record.value);
            rows += 1;
        }
        Ok(rows)
    }

    fn write(&self, rows: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        let mut batch = WriteBatch::new();
        for (key, value) in rows {
            batch.insert(key, value)?;
        }
        self.store.write(batch)?;
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        // Synced writes already are; for the others the store has not heard of an fsync.
        rustix::fs::syncfs(File::open(&self.directory)?)?;
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.store.close()?;
        Ok(())
    }
}

/// The system's disk without fsync: the store itself syncs every write, and has no weaker mode to compare with peers
/// that do not.
#[derive(Debug)]
struct UnsyncedDisk;

#[derive(Debug)]
struct UnsyncedFile(Arc<dyn DiskFile>);

impl Disk for UnsyncedDisk {
    fn create_dir(&self, path: &Path) -> io::Result<bool> {
        SystemDisk.create_dir(path)
    }

    fn dir_exists(&self, path: &Path) -> bool {
        SystemDisk.dir_exists(path)
    }

    fn sync_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        SystemDisk.list(path)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(UnsyncedFile(SystemDisk.create(path)?)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(UnsyncedFile(SystemDisk.open(path)?)))
    }

    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(UnsyncedFile(SystemDisk.open_read(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        SystemDisk.rename(from, to)
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

impl DiskFile for UnsyncedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(bytes, offset)
    }

    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        self.0.allocate(offset, length)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn map(&self, length: u64) -> io::Result<Option<MappedBytes>> {
        self.0.map(length)
    }

    fn will_need(&self, offset: u64, length: u64) {
        self.0.will_need(offset, length);
    }
}
