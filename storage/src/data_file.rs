//! Files that rows are read from: borrowed from memory where the file is mapped, read into a buffer where not.
//!
//! Which of the two is decided by [`Memory`] when a file comes, and can be decided again later ([`DataFile::map`]) when
//! others have gone. A reader need not know.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::disk::{DiskFile, MappedBytes};
use crate::error::{Error, Result};
use crate::memory::Memory;

/// An open file with rows. Shared; read from any thread.
#[derive(Debug)]
pub(crate) struct DataFile {
    /// Set at most once, so that reading asks for no lock.
    mapping: OnceLock<MappedBytes>,
    file: Arc<dyn DiskFile>,
    path: Arc<Path>,
    id: u64,
    /// How long the file may become: so much is mapped.
    capacity: u64,
    /// How long it is.
    length: Mutex<u64>,
    memory: Arc<Memory>,
}

impl DataFile {
    pub(super) fn new(
        memory: Arc<Memory>,
        id: u64,
        path: Arc<Path>,
        file: Arc<dyn DiskFile>,
        length: u64,
        capacity: u64,
    ) -> DataFile {
        let mapping = OnceLock::new();
        DataFile { mapping, file, path, id, capacity: capacity.max(length), length: length.into(), memory }
    }

    /// The bytes from `offset` on, as many as asked for; fewer where the file ends. Borrowed from the mapping if there is
    /// one, which costs no lock and no allocation; otherwise read into `buffer`.
    ///
    /// Only what was written before the caller came to know of the place is to be looked at: what lies behind a row may
    /// be changing.
    #[inline]
    pub(crate) fn read<'a>(
        &'a self,
        offset: u64,
        length: usize,
        buffer: &'a mut Vec<u8>,
    ) -> Result<&'a [u8]> {
        if let Some(mapping) = self.mapping.get()
            && let Ok(start) = usize::try_from(offset)
            && let Some(bytes) = mapping.get(start..start.saturating_add(length))
        {
            return Ok(bytes);
        }
        self.read_into(offset, length, buffer)
    }

    /// The bytes of a range, if the file is mapped and has all of them.
    #[inline]
    pub(crate) fn mapped(&self, offset: u64, length: usize) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        self.mapping.get()?.get(start..start.saturating_add(length))
    }

    /// The same by a system call, also where the file is mapped: also at its end, where a mapping says nothing.
    #[inline(never)]
    pub(crate) fn read_into<'a>(
        &self,
        offset: u64,
        length: usize,
        buffer: &'a mut Vec<u8>,
    ) -> Result<&'a [u8]> {
        // What is in a reused buffer is overwritten: only what is new in it needs to be zeros first.
        if buffer.len() < length {
            buffer.resize(length, 0);
        }
        let read = self.file.read_at(&mut buffer[..length], offset).map_err(Error::io(&self.path))?;
        Ok(&buffer[..read])
    }

    /// Maps the file, if it is not yet and the budget has room for it. Returns whether it is mapped.
    pub(crate) fn map(&self) -> bool {
        // Held all the way, so that a change of the length is seen before or told after.
        let length = self.length.lock();
        if self.mapping.get().is_some() {
            return true;
        }
        let Some(mapping) = self.memory.try_map(&*self.file, self.capacity) else { return false };
        mapping.set_readable(*length);
        self.mapping.set(mapping).is_ok()
    }

    /// Says how long the file is: after it grew, and **before** it is cut.
    pub(crate) fn set_length(&self, bytes: u64) {
        let mut length = self.length.lock();
        if let Some(mapping) = self.mapping.get() {
            mapping.set_readable(bytes);
        }
        *length = bytes;
    }

    /// How long it is, as far as it was told.
    pub(crate) fn length(&self) -> u64 {
        *self.length.lock()
    }

    pub(crate) fn is_mapped(&self) -> bool {
        self.mapping.get().is_some()
    }

    pub(crate) fn file(&self) -> &dyn DiskFile {
        &*self.file
    }

    pub(crate) fn path(&self) -> &Arc<Path> {
        &self.path
    }

    /// A number that no other file of this [`Memory`] has, ever: for [`Memory::block`].
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The budget that this file counts against.
    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }
}

impl Drop for DataFile {
    fn drop(&mut self) {
        self.memory.forget(self.capacity, self.mapping.get().is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk as _, FaultyDisk, SystemDisk};
    use crate::options::{Mapping, Options};

    const MIB: u64 = 1 << 20;

    fn memory(mapping: Mapping) -> Arc<Memory> {
        Memory::new(&Options::new().memory_bytes(64 * MIB).mapping(mapping))
    }

    fn system_file(directory: &Path, bytes: &[u8]) -> (Arc<Path>, Arc<dyn DiskFile>) {
        let path: Arc<Path> = directory.join("file").into();
        let file = SystemDisk.create(&path).unwrap();
        file.write_at(bytes, 0).unwrap();
        (path, file)
    }

    /// The same answers on every path; and where it is mapped, without touching the buffer.
    #[test]
    fn reads_are_the_same_mapped_and_not() {
        let directory = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..20_000_u32).map(|number| number as u8).collect();
        let disk = FaultyDisk::new();
        let unmappable = disk.create(Path::new("/file")).unwrap();
        unmappable.write_at(&bytes, 0).unwrap();
        for mapping in [Mapping::Auto, Mapping::Always, Mapping::Never] {
            let memory = memory(mapping);
            let (path, mappable) = system_file(directory.path(), &bytes);
            for (file, maps) in [(mappable, mapping != Mapping::Never), (unmappable.clone(), false)] {
                let file = memory.data_file(path.clone(), file, 20_000, MIB);
                assert_eq!(file.is_mapped(), maps);
                assert_eq!((file.length(), file.map()), (20_000, maps));
                let mut buffer = Vec::new();
                for (offset, length) in [(0, 20_000), (4095, 2), (19_999, 1), (7, 0)] {
                    let found = file.read(offset, length, &mut buffer).unwrap();
                    assert_eq!(found, &bytes[offset as usize..][..length]);
                }
                assert_eq!(buffer.is_empty(), maps);
                // At the end of the file there is less, wherever one asks.
                for (offset, length, there) in [(19_990, 11, 10), (20_000, 1, 0), (1 << 40, 5, 0)] {
                    let found = file.read(offset, length, &mut buffer).unwrap();
                    assert_eq!(found.len(), there, "{length} bytes at {offset}");
                }
                assert_eq!(file.read_into(5, 3, &mut buffer).unwrap(), &bytes[5..8]);
            }
        }
    }

    /// A segment grows under its readers, and gives its room back when it is sealed.
    #[test]
    fn a_file_grows_and_shrinks_under_its_mapping() {
        let directory = tempfile::tempdir().unwrap();
        let (path, file) = system_file(directory.path(), b"");
        let data = memory(Mapping::Always).data_file(path, file.clone(), 0, 8192);
        let mut buffer = Vec::new();
        assert!(data.read(0, 10, &mut buffer).unwrap().is_empty());

        // Beyond what the mapping covers it goes on to work.
        file.write_at(&[9; 10_000], 0).unwrap();
        // Not told yet: read by a system call.
        assert_eq!(data.read(0, 10, &mut buffer).unwrap(), [9; 10]);
        assert_eq!(buffer, [9; 10]);
        data.set_length(10_000);
        buffer.clear();
        assert_eq!(data.read(8182, 10, &mut buffer).unwrap(), [9; 10]);
        assert!(buffer.is_empty());
        assert_eq!(data.read(8183, 10, &mut buffer).unwrap(), [9; 10]);
        assert_eq!(data.read(9_995, 10, &mut buffer).unwrap(), [9; 5]);

        data.set_length(100);
        file.set_len(100).unwrap();
        assert_eq!(data.read(90, 20, &mut buffer).unwrap(), [9; 10]);
        assert!(data.read(100, 1, &mut buffer).unwrap().is_empty());
        assert_eq!(data.length(), 100);
    }
}
