//! A disk over another one: it shows what is there, and what is written to it stays in memory.
//!
//! Opening a store writes: it zeroes a torn tail, makes room, removes leftovers. Over this disk it opens as ever, and the
//! files stay as they are. What is written is kept page by page, so it costs memory only where something changed.
//!
//! It is for one process that looks, and goes. It keeps no promise about crashes: there is nothing to lose.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::disk::{Disk, DiskFile, DiskLock};

const PAGE_BYTES: u64 = 4096;

#[derive(Debug)]
pub(super) struct OverlayDisk {
    below: Arc<dyn Disk>,
    names: Mutex<Names>,
}

#[derive(Debug, Default)]
struct Names {
    /// Files that were opened or made here; `None`: removed here.
    files: BTreeMap<PathBuf, Option<Arc<OverlayFile>>>,
    directories: BTreeSet<PathBuf>,
}

impl OverlayDisk {
    pub(super) fn over(below: Arc<dyn Disk>) -> OverlayDisk {
        OverlayDisk { below, names: Mutex::default() }
    }

    fn file(&self, names: &mut Names, path: &Path) -> io::Result<Arc<OverlayFile>> {
        if let Some(known) = names.files.get(path) {
            return known.clone().ok_or_else(|| io::ErrorKind::NotFound.into());
        }
        let below = self.below.open_read(path)?;
        let length = below.len()?;
        let changed = Changed { length, below_length: length, pages: HashMap::new() };
        let file = Arc::new(OverlayFile { below: Some(below), changed: Mutex::new(changed) });
        names.files.insert(path.to_path_buf(), Some(file.clone()));
        Ok(file)
    }
}

impl Disk for OverlayDisk {
    fn create_dir(&self, path: &Path) -> io::Result<bool> {
        if self.dir_exists(path) {
            return Ok(false);
        }
        Ok(self.names.lock().directories.insert(path.to_path_buf()))
    }

    fn dir_exists(&self, path: &Path) -> bool {
        self.below.dir_exists(path) || self.names.lock().directories.contains(path)
    }

    fn sync_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let names = self.names.lock();
        let below = match self.below.list(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && names.directories.contains(path) => {
                Vec::new()
            }
            listed => listed?,
        };
        let mut found: BTreeSet<String> = below.into_iter().collect();
        for (file, there) in names.files.iter().filter(|(file, _)| file.parent() == Some(path)) {
            let Some(name) = file.file_name().and_then(|name| name.to_str()) else { continue };
            match there {
                Some(_) => drop(found.insert(name.to_owned())),
                None => drop(found.remove(name)),
            }
        }
        Ok(found.into_iter().collect())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = Arc::new(OverlayFile::default());
        self.names.lock().files.insert(path.to_path_buf(), Some(file.clone()));
        Ok(file)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(&mut self.names.lock(), path)?)
    }

    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut names = self.names.lock();
        let file = self.file(&mut names, from)?;
        names.files.insert(from.to_path_buf(), None);
        names.files.insert(to.to_path_buf(), Some(file));
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut names = self.names.lock();
        if self.file(&mut names, to).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = self.file(&mut names, from)?;
        names.files.insert(to.to_path_buf(), Some(file));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut names = self.names.lock();
        self.file(&mut names, path)?;
        names.files.insert(path.to_path_buf(), None);
        Ok(())
    }

    fn remove_dir(&self, _path: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Whoever made this disk holds the lock below it.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        let mut names = self.names.lock();
        let file = match self.file(&mut names, path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Arc::default(),
            opened => opened?,
        };
        names.files.insert(path.to_path_buf(), Some(file.clone()));
        Ok(Some(Box::new(OverlayLock(file))))
    }

    fn lock_existing(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        let file = self.file(&mut self.names.lock(), path)?;
        Ok(Some(Box::new(OverlayLock(file))))
    }
}

#[derive(Debug)]
struct OverlayLock(Arc<OverlayFile>);

impl DiskLock for OverlayLock {
    fn file(&self) -> &dyn DiskFile {
        &*self.0
    }
}

#[derive(Debug, Default)]
struct OverlayFile {
    /// `None`: made here.
    below: Option<Arc<dyn DiskFile>>,
    changed: Mutex<Changed>,
}

#[derive(Debug, Default)]
struct Changed {
    length: u64,
    /// How much of the file below still shows: what was cut off once does not come back.
    below_length: u64,
    /// Whole pages, by number, in the place of those below.
    pages: HashMap<u64, Box<[u8]>>,
}

impl OverlayFile {
    /// Reads what a page has without regard to pages that were written.
    fn read_below(&self, changed: &Changed, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let shown = changed.below_length.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let (shown, behind) = buffer.split_at_mut(shown);
        let read = match &self.below {
            Some(below) => below.read_at(shown, offset)?,
            None => 0,
        };
        shown[read..].fill(0);
        behind.fill(0);
        Ok(())
    }

    /// Visits the parts of a range that lie in one page each: page, offset in it, and which bytes of the range.
    fn parts(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
        let end = offset + length as u64;
        let first = offset / PAGE_BYTES;
        (first..end.div_ceil(PAGE_BYTES)).map(move |page| {
            let (from, to) = ((page * PAGE_BYTES).max(offset), ((page + 1) * PAGE_BYTES).min(end));
            ((page), (from % PAGE_BYTES) as usize, (from - offset) as usize..(to - offset) as usize)
        })
    }
}

impl DiskFile for OverlayFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let changed = self.changed.lock();
        let length = changed.length.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let buffer = &mut buffer[..length];
        self.read_below(&changed, buffer, offset)?;
        if !changed.pages.is_empty() {
            for (page, at, range) in Self::parts(offset, length) {
                if let Some(bytes) = changed.pages.get(&page) {
                    let length = range.len();
                    buffer[range].copy_from_slice(&bytes[at..at + length]);
                }
            }
        }
        Ok(length)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut changed = self.changed.lock();
        for (page, at, range) in Self::parts(offset, bytes.len()) {
            if !changed.pages.contains_key(&page) {
                let mut whole = vec![0; PAGE_BYTES as usize].into_boxed_slice();
                self.read_below(&changed, &mut whole, page * PAGE_BYTES)?;
                changed.pages.insert(page, whole);
            }
            if let Some(whole) = changed.pages.get_mut(&page) {
                whole[at..at + range.len()].copy_from_slice(&bytes[range]);
            }
        }
        changed.length = changed.length.max(offset + bytes.len() as u64);
        Ok(())
    }

    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        let mut changed = self.changed.lock();
        changed.length = changed.length.max(offset + length);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.changed.lock().length)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut changed = self.changed.lock();
        changed.length = length;
        changed.below_length = changed.below_length.min(length);
        changed.pages.retain(|page, bytes| {
            let kept = length.saturating_sub(page * PAGE_BYTES).min(PAGE_BYTES) as usize;
            bytes[kept..].fill(0);
            kept > 0
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::disk::FaultyDisk;

    #[derive(Clone, Debug)]
    enum Step {
        Write { offset: u64, length: usize, byte: u8 },
        Length(u64),
        Allocate(u64, u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..20_000_u64, 0..9_000_usize, 1..=255_u8).prop_map(|(offset, length, byte)| Step::Write {
                offset,
                length,
                byte
            }),
            (0..30_000_u64).prop_map(Step::Length),
            (0..20_000_u64, 0..20_000_u64).prop_map(|(offset, length)| Step::Allocate(offset, length)),
        ]
    }

    fn apply(file: &dyn DiskFile, step: &Step) {
        match *step {
            Step::Write { offset, length, byte } => file.write_at(&vec![byte; length], offset),
            Step::Length(length) => file.set_len(length),
            Step::Allocate(offset, length) => file.allocate(offset, length),
        }
        .unwrap();
    }

    proptest! {
        /// Over the overlay everything looks as if it had been done to the file itself, which stays as it was.
        #[test]
        fn it_looks_changed_and_is_not(
            length in 0..20_000_usize,
            steps in vec(step(), 0..8),
            reads in vec((0..30_000_u64, 0..10_000_usize), 1..6),
        ) {
            let disk = FaultyDisk::new();
            let (path, model) = (Path::new("/file"), Path::new("/model"));
            let bytes: Vec<u8> = (0..length).map(|at| at as u8 | 1).collect();
            disk.set_bytes(path, &bytes);
            disk.set_bytes(model, &bytes);
            let model = disk.open(model).unwrap();
            let overlay = OverlayDisk::over(Arc::new(disk.clone()));
            let file = overlay.open(path).unwrap();
            for step in &steps {
                apply(&*file, step);
                apply(&*model, step);
            }
            prop_assert_eq!(file.len().unwrap(), model.len().unwrap());
            for (offset, length) in reads {
                let (mut ours, mut theirs) = (vec![7; length], vec![7; length]);
                let read = file.read_at(&mut ours, offset).unwrap();
                prop_assert_eq!(read, model.read_at(&mut theirs, offset).unwrap());
                prop_assert_eq!(ours, theirs);
            }
            prop_assert_eq!(disk.bytes(path).unwrap(), bytes);
        }
    }

    #[test]
    fn names_change_above_and_not_below() {
        let disk = FaultyDisk::new();
        let (one, two, three) = (Path::new("/one"), Path::new("/two"), Path::new("/three"));
        disk.set_bytes(one, b"1");
        disk.set_bytes(two, b"2");
        let overlay = OverlayDisk::over(Arc::new(disk.clone()));
        let first = |path| {
            let mut byte = [0];
            overlay.open(path).map(|file| file.read_at(&mut byte, 0).map(|_| byte[0]).unwrap())
        };
        overlay.rename(one, two).unwrap();
        assert_eq!(first(two).unwrap(), b'1');
        assert_eq!(first(one).unwrap_err().kind(), io::ErrorKind::NotFound);
        overlay.create(three).unwrap().write_at(b"3", 0).unwrap();
        assert_eq!(overlay.list(Path::new("/")).unwrap(), ["three", "two"]);
        overlay.link(three, one).unwrap();
        assert_eq!(overlay.link(three, two).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        overlay.remove(three).unwrap();
        assert_eq!(first(one).unwrap(), b'3');
        assert!(overlay.create_dir(Path::new("/folder")).unwrap());
        assert!(!overlay.create_dir(Path::new("/folder")).unwrap());
        assert!(overlay.list(Path::new("/folder")).unwrap().is_empty());
        assert_eq!(disk.paths(), [one, two]);
        assert_eq!(disk.bytes(two).unwrap(), b"2");
    }
}
