//! All contact with the disk goes through these two small traits, so that tests can put a disk underneath
//! that loses what was not fsynced, tears writes, fails and fills up.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

mod mapping;
pub use mapping::MappedBytes;

#[cfg(feature = "test-disk")]
mod faulty;
#[cfg(feature = "test-disk")]
pub use faulty::{Fault, FaultyDisk, Unsynced};

/// A file system, as far as a store needs one.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Makes a directory whose parent exists. Returns whether it was missing.
    fn create_dir(&self, path: &Path) -> io::Result<bool>;
    /// Whether there is a directory of this name.
    fn dir_exists(&self, path: &Path) -> bool;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory, in any order.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Makes an empty file, in place of any other of that name.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file for reading and writing; `NotFound` when there is none.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file for reading alone; `NotFound` when there is none. What would change it fails.
    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Gives a file a new name in the same directory, in place of any other of that name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Lets two files of one directory change names, both at once: so neither name nor space is needed for it, and a full
    /// disk does not matter. `Unsupported`, and nothing was done: this file system cannot.
    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        let _ = (one, other);
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Gives a file a second name on the same file system; `AlreadyExists` when there is something of that name.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// How many bytes may still be written below a directory before the disk is full, for a process without privileges.
    /// `None`: that is not known.
    fn free_bytes(&self, directory: &Path) -> io::Result<Option<u64>> {
        let _ = directory;
        Ok(None)
    }
    /// Removes a file's name.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Opens or makes a file and locks it, until the lock is dropped. `None`: someone else has it.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>>;
    /// Locks a file that is there, without changing anything of it; `NotFound` when there is none.
    fn lock_existing(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>>;
}

/// An open file. Reads and writes name their place, so a file needs no cursor and no lock.
pub trait DiskFile: fmt::Debug + Send + Sync + 'static {
    /// Reads into `buffer` from `offset` on, as much as there is. Less than the buffer's length: the file ends.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Takes room for `length` bytes from `offset` on, so that writing there later cannot meet a full disk,
    /// as far as the file system can promise that.
    fn allocate(&self, offset: u64, length: u64) -> io::Result<()>;
    /// Makes the contents durable, and the length where it changed.
    fn sync_data(&self) -> io::Result<()>;
    /// Makes contents and metadata durable.
    fn sync_all(&self) -> io::Result<()>;
    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts the file, or extends it by zeros.
    fn set_len(&self, length: u64) -> io::Result<()>;
    /// Maps the first `length` bytes into memory, more than the file has if it is to grow. `None`: this disk cannot.
    fn map(&self, length: u64) -> io::Result<Option<MappedBytes>> {
        let _ = length;
        Ok(None)
    }
    /// Says that these bytes will be read soon, so that the disk may begin with it. A hint, without an answer.
    fn will_need(&self, offset: u64, length: u64) {
        let _ = (offset, length);
    }
}

/// A locked file.
pub trait DiskLock: fmt::Debug + Send + Sync + 'static {
    /// The locked file itself.
    fn file(&self) -> &dyn DiskFile;
}

/// Reads a whole small file. Longer than `bytes_max` is an error, so that a wrong file cannot fill the memory.
pub(crate) fn read_small(file: &dyn DiskFile, bytes_max: u64) -> io::Result<Vec<u8>> {
    let length = file.len()?;
    if length > bytes_max {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("{length} bytes, expected at most {bytes_max}"),
        ));
    }
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// The operating system's disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemDisk;

#[derive(Debug)]
struct SystemFile(File);

impl Disk for SystemDisk {
    fn create_dir(&self, path: &Path) -> io::Result<bool> {
        match std::fs::create_dir(path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn dir_exists(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        // A name that is not UTF-8 is none of ours.
        let names = std::fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(io::Result::transpose).collect()
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(Arc::new(SystemFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(SystemFile(OpenOptions::new().read(true).write(true).open(path)?)))
    }

    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(SystemFile(File::open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE) {
            // Each is said by some kernel or file system that does not know the flag.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Err(io::ErrorKind::Unsupported.into()),
            other => other.map_err(io::Error::from),
        }
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::hard_link(from, to)
    }

    fn free_bytes(&self, directory: &Path) -> io::Result<Option<u64>> {
        let found = rustix::fs::statvfs(directory)?;
        Ok(Some(found.f_bavail.saturating_mul(found.f_frsize)))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_dir(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        try_lock(OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?)
    }

    fn lock_existing(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        try_lock(File::open(path)?)
    }
}

fn try_lock(file: File) -> io::Result<Option<Box<dyn DiskLock>>> {
    match file.try_lock() {
        Ok(()) => Ok(Some(Box::new(SystemFile(file)))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

impl DiskFile for SystemFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut read = 0;
        while read < buffer.len() {
            match self.0.read_at(&mut buffer[read..], offset + read as u64) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::retry_on_intr;
        // Some file systems give up at a signal, and a failure here would end all writing.
        match retry_on_intr(|| fallocate(&self.0, FallocateFlags::empty(), offset, length)) {
            // Some file systems cannot.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                crate::segment::write_zeros(self, self.len()?.max(offset), offset + length)
            }
            other => other.map_err(io::Error::from),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn map(&self, length: u64) -> io::Result<Option<MappedBytes>> {
        MappedBytes::new(&self.0, length).map(Some)
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn will_need(&self, offset: u64, length: u64) {
        // Also where the file is mapped: both read from the same pages.
        let length = std::num::NonZeroU64::new(length);
        let _ = rustix::fs::fadvise(&self.0, offset, length, rustix::fs::Advice::WillNeed);
    }
}

impl DiskLock for SystemFile {
    fn file(&self) -> &dyn DiskFile {
        self
    }
}
