//! Files that are open only when they are read, so that a process needs no more file descriptors the more a store holds.
//!
//! So many of a store's runs are open at once, and when another one is needed, one that has not been read for a while is
//! closed: each gets a second chance before (CLOCK). A file that is mapped is read without being open.
//!
//! What was closed is opened again by its name. So a name must stay as long as somebody may read the file, a snapshot for
//! example: the name of a run leaves the disk with its last reader ([`crate::run::Run::remove_when_unused`]). Only once
//! the store was closed, and opened again by somebody else, a name may be gone, or even another file's; what is opened is
//! then recognized by its length and its last bytes, which are checksums of what is in it, and refused.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use crate::disk::{Disk, DiskFile, MappedBytes};

/// Where a process may open few files, a store has this many at least.
const OPEN_MIN: u64 = 8;
/// However many a process may open, a store has no more runs open than this.
const OPEN_MAX: u64 = 512;
/// A store takes this part of what a process may open: there may be several, and connections.
const SHARE: u64 = 8;

/// So many of a file's last bytes tell it from any other: a run ends with its footer.
const END_BYTES: u64 = 64;

/// The files of one store that are open on demand.
#[derive(Debug)]
pub(crate) struct OpenFiles {
    open_max: usize,
    /// Those that are open, in the order in which they are looked at when one has to be closed.
    open: Mutex<VecDeque<Weak<OnDemand>>>,
}

/// A file that is open only when it is read. It is not written to any more.
#[derive(Debug)]
pub(crate) struct OnDemand {
    this: Weak<OnDemand>,
    files: Arc<OpenFiles>,
    disk: Arc<dyn Disk>,
    path: Arc<Path>,
    file: ArcSwapOption<Opened>,
    /// Whether it was read since it was looked at last.
    is_used: AtomicBool,
    /// What it is recognized by, from when it is closed for the first time.
    ending: OnceLock<Ending>,
}

#[derive(Debug)]
struct Opened(Arc<dyn DiskFile>);

/// A file's length, and its last bytes.
#[derive(Debug, PartialEq, Eq)]
struct Ending {
    length: u64,
    bytes: Vec<u8>,
}

impl OpenFiles {
    /// At most so many are open at once; `None`: what suits the limit of the process.
    pub(crate) fn new(open_max: Option<usize>) -> Arc<OpenFiles> {
        let open_max = open_max.unwrap_or_else(|| {
            let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
            limit.map_or(OPEN_MAX, |limit| (limit / SHARE).clamp(OPEN_MIN, OPEN_MAX)) as usize
        });
        Arc::new(OpenFiles { open_max: open_max.max(1), open: Mutex::default() })
    }

    /// A file that is open now.
    pub(crate) fn on_demand(
        self: &Arc<Self>,
        disk: Arc<dyn Disk>,
        path: Arc<Path>,
        file: Arc<dyn DiskFile>,
    ) -> Arc<OnDemand> {
        let on_demand = Arc::new_cyclic(|this| OnDemand {
            this: this.clone(),
            files: self.clone(),
            disk,
            path,
            file: ArcSwapOption::from_pointee(Opened(file)),
            is_used: AtomicBool::new(true),
            ending: OnceLock::new(),
        });
        let mut open = self.open.lock();
        self.make_room(&mut open);
        open.push_back(Arc::downgrade(&on_demand));
        on_demand
    }

    /// How many are open.
    pub(crate) fn count(&self) -> usize {
        self.open.lock().iter().filter(|file| file.strong_count() > 0).count()
    }

    /// Closes files until another one may be opened. Who reads one of them just now has it open to the end of that.
    fn make_room(&self, open: &mut VecDeque<Weak<OnDemand>>) {
        if open.len() >= self.open_max {
            open.retain(|file| file.strong_count() > 0);
        }
        // After one round nobody has another chance.
        let mut chances = open.len();
        while open.len() >= self.open_max
            && let Some(oldest) = open.pop_front()
        {
            let Some(file) = oldest.upgrade() else { continue };
            let may_stay = chances > 0 && file.is_used.swap(false, Relaxed);
            chances = chances.saturating_sub(1);
            // One whose end cannot be read could not be recognized. It stays open, and is not counted any more.
            if may_stay {
                open.push_back(oldest);
            } else if file.note_ending().is_ok() {
                file.file.store(None);
            }
        }
    }
}

impl OnDemand {
    /// The file, open.
    fn opened(&self) -> io::Result<Arc<dyn DiskFile>> {
        self.is_used.store(true, Relaxed);
        if let Some(opened) = &*self.file.load() {
            return Ok(opened.0.clone());
        }
        // One after the other: else there might be more of them than allowed.
        let mut open = self.files.open.lock();
        if let Some(opened) = &*self.file.load() {
            return Ok(opened.0.clone());
        }
        self.files.make_room(&mut open);
        let file = self.disk.open_read(&self.path)?;
        if self.ending.get().is_some_and(|known| Ending::of(&*file).ok().as_ref() != Some(known)) {
            let what = "the file is another one: the store was closed, and opened again elsewhere";
            return Err(io::Error::new(io::ErrorKind::NotFound, what));
        }
        self.file.store(Some(Arc::new(Opened(file.clone()))));
        open.push_back(self.this.clone());
        Ok(file)
    }

    fn note_ending(&self) -> io::Result<()> {
        if self.ending.get().is_none()
            && let Some(opened) = &*self.file.load()
        {
            let _ = self.ending.set(Ending::of(&*opened.0)?);
        }
        Ok(())
    }
}

impl Ending {
    fn of(file: &dyn DiskFile) -> io::Result<Ending> {
        let length = file.len()?;
        let end_bytes = length.min(END_BYTES);
        let mut bytes = vec![0; end_bytes as usize];
        let read = file.read_at(&mut bytes, length - end_bytes)?;
        bytes.truncate(read);
        Ok(Ending { length, bytes })
    }
}

impl DiskFile for OnDemand {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.opened()?.read_at(buffer, offset)
    }

    fn write_at(&self, _bytes: &[u8], _offset: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn allocate(&self, _offset: u64, _length: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync_all(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn len(&self) -> io::Result<u64> {
        self.opened()?.len()
    }

    fn set_len(&self, _length: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn map(&self, length: u64) -> io::Result<Option<MappedBytes>> {
        self.opened()?.map(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::FaultyDisk;

    fn file(disk: &FaultyDisk, files: &Arc<OpenFiles>, number: u8) -> Arc<OnDemand> {
        let path: Arc<Path> = Path::new(&format!("/{number}")).into();
        let file = disk.create(&path).unwrap();
        file.write_at(&[number; 100], 0).unwrap();
        files.on_demand(Arc::new(disk.clone()), path, file)
    }

    fn read(file: &OnDemand) -> io::Result<u8> {
        let mut buffer = [0; 10];
        assert_eq!(file.read_at(&mut buffer, 90)?, 10);
        Ok(buffer[9])
    }

    fn is_open(file: &OnDemand) -> bool {
        file.file.load().is_some()
    }

    #[test]
    fn no_more_are_open_than_allowed_and_all_are_read() {
        let (disk, files) = (FaultyDisk::new(), OpenFiles::new(Some(3)));
        let all: Vec<_> = (0..10).map(|number| file(&disk, &files, number)).collect();
        for _ in 0..3 {
            for (number, file) in all.iter().enumerate() {
                assert_eq!(usize::from(read(file).unwrap()), number);
                assert!(files.count() <= 3 && all.iter().filter(|file| is_open(file)).count() <= 3);
            }
        }
        drop(all);
        assert_eq!(files.count(), 0);
    }

    /// What is read again and again stays open while others come and go.
    #[test]
    fn what_is_used_stays_open() {
        let (disk, files) = (FaultyDisk::new(), OpenFiles::new(Some(3)));
        let all: Vec<_> = (0..10).map(|number| file(&disk, &files, number)).collect();
        read(&all[0]).unwrap();
        for file in &all[1..] {
            read(file).unwrap();
            read(&all[0]).unwrap();
        }
        disk.remove(Path::new("/0")).unwrap();
        assert!(is_open(&all[0]));
    }

    /// Another file of the same name is not read in its place.
    #[test]
    fn another_file_of_the_name_is_refused() {
        let (disk, files) = (FaultyDisk::new(), OpenFiles::new(Some(1)));
        let (first, second) = (file(&disk, &files, 1), file(&disk, &files, 2));
        disk.create(Path::new("/1")).unwrap().write_at(&[9; 100], 0).unwrap();
        assert!(read(&first).unwrap_err().to_string().contains("another one"));
        disk.remove(Path::new("/1")).unwrap();
        assert_eq!(read(&first).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(read(&second).unwrap(), 2);
    }
}
