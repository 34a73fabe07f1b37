//! Which files the places in an index point into.
//!
//! A place names its file by a [`Handle`]. Readers load the table without a lock; who changes it puts another one in its
//! place, which costs as much as there are files at once, and not as there ever were: a handle is used again when its file
//! is gone.
//!
//! # Why nobody takes one file for another
//!
//! A file goes only when no place in the index and none in a published view points into it any more, and its handle is
//! given to another one only then. Whoever has places has them in one of three ways:
//!
//! - *Under the index's lock* places neither come nor go, so each is one of the table as it is now: [`FileTable::of`].
//! - *A capture* has its places and its table from one moment, and neither changes: [`FileTable::of`].
//! - *A look into the index without a lock* loads the table first. A place that it finds then is of a file in that table, or
//!   of one that came later, perhaps under the handle of one that went. But before a handle is given away
//!   the file that had it is marked, and all that precedes the place in the index: so if the file in the table is
//!   not marked once the place was found, it is the one. Else the look begins anew: [`FileTable::lasting`].
//!
//! The number in a place is twice the handle, plus one if the row there is a delete: so counting keys that have a value
//! reads no rows.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};

use arc_swap::{ArcSwap, Guard};
use paddock_index::PackedLocator;
use parking_lot::Mutex;

use crate::contents::take;
use crate::data_file::DataFile;
use crate::error::{Error, Result};
use crate::row::{HEAD_BYTES_MAX, StoredRow, decode_head, decode_stored, verified};
use crate::run::Run;

/// The number of a file in places, for as long as it is in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Handle(pub(crate) u32);

/// The highest handle whose places fit.
const HANDLE_MAX: u32 = (PackedLocator::FILE_MAX - 1) / 2;

impl Handle {
    /// The place of a row in this file; `None` beyond what a place can hold, which no file is long enough for.
    pub(crate) fn place(self, tombstone: bool, offset: u64, length: usize) -> Option<PackedLocator> {
        let (offset, length) = (u32::try_from(offset).ok()?, u32::try_from(length).ok()?);
        PackedLocator::new(self.0 * 2 + u32::from(tombstone), offset, length).ok()
    }

    pub(crate) fn of(place: PackedLocator) -> Handle {
        Handle(place.file() / 2)
    }
}

/// Whether the row at a place is a delete.
pub(crate) fn is_tombstone(place: PackedLocator) -> bool {
    place.file() % 2 == 1
}

/// A file that has rows.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// A file of the log: offsets are the file's own.
    Segment(Arc<DataFile>),
    /// A file that compaction made: offsets are logical ones.
    Run(Arc<Run>),
}

/// A file, and what is known of what it holds.
#[derive(Debug)]
pub(crate) struct FileEntry {
    pub(crate) source: Source,
    /// Bytes of rows that the hash index points at: the newest of their keys, deletes included.
    live_bytes: AtomicU64,
    /// Whether its handle may be another file's by now.
    is_gone: AtomicBool,
}

impl FileEntry {
    /// Whether the row at a place is this key's, and never expires: as far as its beginning says.
    pub(crate) fn is_lasting_row_of(&self, place: PackedLocator, key: &[u8], buffer: &mut Vec<u8>) -> bool {
        let head = self.head_at(place, HEAD_BYTES_MAX + key.len(), buffer).ok().and_then(decode_head);
        head.is_some_and(|head| head.key == key && !head.expires)
    }

    fn new(source: Source) -> FileEntry {
        FileEntry { source, live_bytes: AtomicU64::new(0), is_gone: AtomicBool::new(false) }
    }

    /// The bytes that begin with the row at a place, as they are on the disk: nothing is verified.
    pub(crate) fn bytes_at<'a>(&'a self, place: PackedLocator, buffer: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        self.head_at(place, usize::MAX, buffer)
    }

    /// The same, but of a long row no more than so many bytes.
    fn head_at<'a>(
        &'a self,
        place: PackedLocator,
        bytes_max: usize,
        buffer: &'a mut Vec<u8>,
    ) -> Result<&'a [u8]> {
        // A length class is never below the length; what it reads too much is cut off below.
        let length = usize::try_from(place.length_max()).unwrap_or(usize::MAX).min(bytes_max);
        match &self.source {
            Source::Segment(file) => file.read(u64::from(place.offset()), length, buffer),
            Source::Run(run) => run.bytes_at(place.offset(), length, buffer),
        }
    }

    /// The row at a place, verified.
    pub(crate) fn row_at<'a>(
        &'a self,
        place: PackedLocator,
        buffer: &'a mut Vec<u8>,
    ) -> Result<StoredRow<'a>> {
        let bytes = self.bytes_at(place, buffer)?;
        verified(bytes).map_err(|what| Error::corrupt(self.path(), u64::from(place.offset()), what))
    }

    /// The row at a place, unverified; `None` when no row can begin there.
    pub(crate) fn unverified_row_at<'a>(
        &'a self,
        place: PackedLocator,
        buffer: &'a mut Vec<u8>,
    ) -> Result<Option<StoredRow<'a>>> {
        Ok(decode_stored(self.bytes_at(place, buffer)?))
    }

    pub(crate) fn path(&self) -> &Path {
        match &self.source {
            Source::Segment(file) => file.path(),
            Source::Run(run) => run.path(),
        }
    }

    /// Maps the file, if it is not and there is room.
    pub(crate) fn map(&self) {
        match &self.source {
            Source::Segment(file) => file.map(),
            Source::Run(run) => run.map(),
        };
    }

    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes.load(Relaxed)
    }

    pub(crate) fn add_live_bytes(&self, bytes: u64) {
        self.live_bytes.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn take_live_bytes(&self, bytes: u64) {
        take(&self.live_bytes, bytes);
    }
}

/// Files by handle. One state of it: it never changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileTable {
    entries: Vec<Option<Arc<FileEntry>>>,
}

impl FileTable {
    /// The file that a place points into, for who has place and table from one moment: see the module.
    pub(crate) fn of(&self, place: PackedLocator) -> Option<&Arc<FileEntry>> {
        self.get(Handle::of(place))
    }

    /// The file that a place points into which was found in the index after this table was loaded. `None`: the row is being
    /// moved elsewhere, and has to be looked for anew.
    pub(crate) fn lasting(&self, place: PackedLocator) -> Option<&Arc<FileEntry>> {
        self.of(place).filter(|file| !file.is_gone.load(Acquire))
    }

    /// The files that there are.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &FileEntry> {
        self.entries.iter().flatten().map(|entry| &**entry)
    }

    /// The same, with their numbers.
    pub(crate) fn with_handles(&self) -> impl Iterator<Item = (Handle, &FileEntry)> {
        // There are no more than fit: see `HANDLE_MAX`.
        let numbers = (0..=u32::MAX).map(Handle);
        numbers.zip(&self.entries).filter_map(|(handle, entry)| Some((handle, &**entry.as_ref()?)))
    }

    /// Above every handle in it.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How long the row at a place is if it is this key's, and `None` if it is another's. Reads no further than the key, unless
    /// the row is in a compressed block: a large value does not come from the disk to be overwritten.
    ///
    /// Of a damaged row only the class of its length is known, and it counts as the key's: an index has some forty bits of
    /// each key's hash, and if they agree and the row cannot be read, it is the key's. To take it for another's would leave
    /// two rows of one key in the index.
    pub(crate) fn length_of(&self, place: PackedLocator, key: &[u8], buffer: &mut Vec<u8>) -> Option<u64> {
        let damaged = Some(u64::from(place.length_max()));
        let Some(file) = self.of(place) else { return damaged };
        let Ok(head) = file.head_at(place, HEAD_BYTES_MAX + key.len(), buffer) else { return damaged };
        if let Some(head) = decode_head(head).filter(|head| head.key == key) {
            return Some(head.length);
        }
        // Verified only now: this happens once in very many lookups.
        let is_whole = file.bytes_at(place, buffer).is_ok_and(|bytes| verified(bytes).is_ok());
        if is_whole { None } else { damaged }
    }

    pub(crate) fn get(&self, handle: Handle) -> Option<&Arc<FileEntry>> {
        self.entries.get(handle.0 as usize)?.as_ref()
    }
}

/// The table as it is now.
#[derive(Debug)]
pub(crate) struct Files {
    current: ArcSwap<FileTable>,
    /// Held by who puts another table in the current one's place. The highest handle that is given.
    handle_max: Mutex<u32>,
}

impl Default for Files {
    fn default() -> Files {
        Files { current: ArcSwap::default(), handle_max: Mutex::new(HANDLE_MAX) }
    }
}

impl Files {
    pub(crate) fn load(&self) -> Guard<Arc<FileTable>> {
        self.current.load()
    }

    pub(crate) fn load_full(&self) -> Arc<FileTable> {
        self.current.load_full()
    }

    /// Takes a file in. From now on places may point into it.
    pub(crate) fn add(&self, source: Source) -> Result<Handle> {
        let entry = Arc::new(FileEntry::new(source));
        self.edit(|entries, handle_max| {
            let free = entries.iter().position(Option::is_none).unwrap_or(entries.len());
            let number = u32::try_from(free).unwrap_or(u32::MAX);
            if number > handle_max {
                let (actual, limit) = (u64::from(number) + 1, u64::from(handle_max) + 1);
                return Err(Error::TooLarge { what: "files of one store at a time", actual, limit });
            }
            match entries.get_mut(free) {
                Some(place) => *place = Some(entry),
                None => entries.push(Some(entry)),
            }
            Ok(Handle(number))
        })
    }

    /// Lets a file go that no place points into any more. Its handle may be given away at once.
    pub(crate) fn remove(&self, handle: Handle) {
        self.edit(|entries, _| {
            if let Some(entry) = entries.get_mut(handle.0 as usize).and_then(Option::take) {
                // Under the lock, so before anybody else gets the handle.
                entry.is_gone.store(true, Release);
            }
            let used = entries.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
            entries.truncate(used);
        });
    }

    fn edit<T>(&self, change: impl FnOnce(&mut Vec<Option<Arc<FileEntry>>>, u32) -> T) -> T {
        let handle_max = self.handle_max.lock();
        let mut table = FileTable::clone(&self.current.load());
        let outcome = change(&mut table.entries, *handle_max);
        self.current.store(Arc::new(table));
        outcome
    }

    /// As if places had room for fewer files.
    #[cfg(test)]
    pub(crate) fn set_handle_max(&self, handle_max: u32) {
        *self.handle_max.lock() = handle_max;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk as _, FaultyDisk};
    use crate::memory::Memory;
    use crate::options::Options;

    fn source(name: &str) -> Source {
        let (disk, memory) = (FaultyDisk::new(), Memory::new(&Options::new()));
        let path: Arc<Path> = Path::new(name).into();
        let file = disk.create(&path).unwrap();
        Source::Segment(Arc::new(memory.data_file(path, file, 0, 0)))
    }

    /// However many files come and go, the table is as large as there are at once.
    #[test]
    fn handles_are_used_again() {
        let files = Files::default();
        let kept = files.add(source("/kept")).unwrap();
        for _ in 0..1_000 {
            let [one, other] = ["/one", "/other"].map(|name| files.add(source(name)).unwrap());
            assert!(one != other && one != kept && other != kept);
            files.remove(one);
            files.remove(other);
            assert_eq!(files.load().len(), 1);
        }
        assert_eq!(files.load().get(kept).unwrap().path(), Path::new("/kept"));
        files.remove(kept);
        assert_eq!(files.load().len(), 0);
    }

    /// Who loaded the table before a handle changed hands has the file that had it; and is told so where that matters.
    #[test]
    fn an_old_table_keeps_its_files_and_knows_that_they_are_gone() {
        let files = Files::default();
        let handle = files.add(source("/old")).unwrap();
        let place = handle.place(false, 64, 100).unwrap();
        let before = files.load_full();
        assert!(before.lasting(place).is_some());
        files.remove(handle);
        let between = files.load_full();
        assert_eq!(files.add(source("/new")).unwrap(), handle);
        let after = files.load_full();
        assert_eq!(before.of(place).unwrap().path(), Path::new("/old"));
        assert!(before.lasting(place).is_none() && between.lasting(place).is_none());
        assert_eq!(after.lasting(place).unwrap().path(), Path::new("/new"));
    }

    #[test]
    fn a_full_table_takes_one_in_when_another_went() {
        let files = Files::default();
        files.set_handle_max(1);
        let first = files.add(source("/first")).unwrap();
        files.add(source("/second")).unwrap();
        let refused = files.add(source("/third")).unwrap_err().to_string();
        assert_eq!(refused, "files of one store at a time: 3, the limit is 2");
        files.remove(first);
        assert_eq!(files.add(source("/third")).unwrap(), first);
    }
}
