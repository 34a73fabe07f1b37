//! An open file of the faulty disk, and its lock.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::FaultyDisk;
use super::contents::{Change, Contents, set_length, write};
use crate::disk::{DiskFile, DiskLock};

pub(super) struct FaultyFile {
    pub(super) disk: FaultyDisk,
    pub(super) contents: Arc<Mutex<Contents>>,
    /// Opened for reading alone: whatever would change it fails, and is not even counted.
    pub(super) read_only: bool,
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
        self.disk.wait_while_stalled(&self.contents);
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
            set_length(&mut contents.seen, length);
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
        set_length(&mut contents.seen, length);
        contents.unsynced.push(Change::Length(length));
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct FaultyLock {
    pub(super) file: FaultyFile,
    pub(super) path: PathBuf,
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
