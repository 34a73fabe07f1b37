//! Files mapped into memory: the only module of this workspace that may use `unsafe`.
//!
//! A mapping is shared and only read. The file goes on to be written by other means (`pwrite`), which the mapping shows
//! at once, since both go through the page cache. Two things could go wrong, and this is what is done about them:
//!
//! - **Bytes behind the file's end end the process** (SIGBUS). A mapping may be longer than its file, so that a file
//!   that grows need not be mapped again; so it is told how much of the file there is ([`MappedBytes::set_readable`]),
//!   before the file is cut and after it grew, and hands out nothing behind that.
//! - **Bytes may change under a borrow.** A store never changes a byte that a row lies in: rows are appended, read only
//!   once they are written, and neither moved nor overwritten. Bytes behind the row that a reader looks for may be
//!   written just then; a reader looks at them only as far as the row's own lengths say.
//!
//! The kernel is told that access is random: with its readahead a store that is larger than memory reads megabytes for
//! every row.
//!
//! What this does not do: it never writes through a mapping, and does not keep others from cutting the file. The
//! store's lock keeps other stores away; whoever cuts the files of an open store by hand ends its process.
#![allow(unsafe_code, reason = "borrowing from a mapping: see the module's documentation")]

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use memmap2::{Advice, MmapOptions, MmapRaw};

/// A file's bytes in memory, for reading.
pub struct MappedBytes {
    map: MmapRaw,
    /// How much of it the file has.
    readable: AtomicUsize,
}

impl MappedBytes {
    /// Maps the first `length` bytes of a file, which may be more than it has. Nothing is readable yet.
    pub(super) fn new(file: &File, length: u64) -> io::Result<MappedBytes> {
        let length = usize::try_from(length).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let map = MmapOptions::new().len(length).map_raw_read_only(file)?;
        map.advise(Advice::Random)?;
        Ok(MappedBytes { map, readable: AtomicUsize::new(0) })
    }

    /// How many bytes are mapped, whether the file has them or not.
    ///
    /// ```
    /// use paddock_storage::disk::{Disk, SystemDisk};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("file");
    /// # std::fs::write(&path, "some bytes")?;
    /// let file = SystemDisk.open(&path)?;
    /// // Longer than the file is: it may grow into it.
    /// assert_eq!(file.map(1 << 20)?.unwrap().len(), 1 << 20);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn len(&self) -> u64 {
        self.map.len() as u64
    }

    /// Whether nothing is mapped.
    ///
    /// ```
    /// use paddock_storage::disk::{Disk, SystemDisk};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("file");
    /// # std::fs::write(&path, "some bytes")?;
    /// let file = SystemDisk.open(&path)?;
    /// assert!(!file.map(10)?.unwrap().is_empty());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.len() == 0
    }

    /// Says how long the file is: after it grew, and before it is cut. Borrows that reach behind a cut may go on, as long
    /// as nobody looks at those bytes.
    pub(crate) fn set_readable(&self, bytes: u64) {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(self.map.len());
        // Whoever learns of a row learned it after the file had grown around it; that order is the index's to give.
        self.readable.store(bytes, Ordering::Release);
    }

    /// The bytes of a range, if all of it is mapped and within the file.
    #[inline]
    pub(crate) fn get(&self, range: Range<usize>) -> Option<&[u8]> {
        let Range { start, end } = range;
        if start > end || end > self.readable.load(Ordering::Relaxed) {
            return None;
        }
        // SAFETY: `start <= end <= readable <= map.len()`, so the range is mapped as long as `self` lives, and the file
        // has it. That bytes of it may change meanwhile is dealt with in the module's documentation.
        Some(unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(start), end - start) })
    }
}

impl fmt::Debug for MappedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MappedBytes({} of {})", self.readable.load(Ordering::Relaxed), self.map.len())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn only_what_the_file_has_is_handed_out() {
        let mut file = tempfile::tempfile().unwrap();
        let mapped = MappedBytes::new(&file, 1 << 20).unwrap();
        assert_eq!(mapped.get(0..0), Some(&[][..]));
        assert_eq!(mapped.get(0..1), None, "the file is empty");

        file.write_all(b"grey heron").unwrap();
        mapped.set_readable(10);
        assert_eq!(mapped.get(5..10), Some(&b"heron"[..]));
        for range in [9..11, 11..12, usize::MAX..usize::MAX, Range { start: 3, end: 2 }, 0..usize::MAX] {
            assert_eq!(mapped.get(range.clone()), None, "{range:?}");
        }
        // What is written later is seen without mapping again.
        file.write_all(&vec![7; 100_000]).unwrap();
        mapped.set_readable(100_010);
        assert_eq!(mapped.get(100_000..100_010), Some(&[7; 10][..]));
        // Told of a cut first, it hands nothing out of what is gone.
        mapped.set_readable(5);
        file.set_len(5).unwrap();
        assert_eq!(mapped.get(0..10), None);
        assert_eq!(mapped.get(0..5), Some(&b"grey "[..]));
    }

    #[test]
    fn no_more_than_is_mapped_is_readable() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 8192]).unwrap();
        let mapped = MappedBytes::new(&file, 4096).unwrap();
        mapped.set_readable(u64::MAX);
        assert_eq!((mapped.len(), mapped.is_empty()), (4096, false));
        assert!(mapped.get(0..4096).is_some());
        assert_eq!(mapped.get(0..4097), None);
    }
}
