//! Copies of a store that are stores themselves: [`crate::Store::checkpoint`], [`crate::ReplicatedStore::checkpoint`].
//!
//! # How a copy is made
//!
//! 1. Its directory is missing or empty. It is made, its LOCK taken, and a FILES written that names no runs. A directory with
//!    FILES and without MANIFEST is no store that was being made, so opening refuses it from here on.
//! 2. Between two turns of the writers the log is made durable and goes on in another segment. While nothing is published
//!    in FILES, what it names and the full segments get second names in the copy.
//! 3. Beside the writers what could not be linked is copied, the newest segment and FILES are written, and all names are
//!    made durable.
//! 4. MANIFEST comes last: with it the copy is a store.
//!
//! Only what nobody ever writes to again may be linked: runs, and segments whose entries are all committed. A cut takes the
//! seal of the segment that it ends in, so segments with entries that may be cut off are copied. The commit that this goes
//! by is written to both logs, so that neither of the two stores forgets it.
//!
//! When something fails, what is there of the copy is removed. Where that fails too, step 1 holds.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::batch::BATCH_HEADER_BYTES;
use crate::directory::Directory;
use crate::disk::{Disk, DiskFile};
use crate::error::{Error, Result};
use crate::files::Catalogue;
use crate::header::StoreId;
use crate::lock::Lock;
use crate::manifest::Manifest;
use crate::position::Sequence;
use crate::segment::{Chain, SEGMENT_START, Segment};

/// Files are copied in pieces of this size.
const COPY_PIECE_BYTES: usize = 1 << 20;

/// A copy that is being made. Dropped before it is finished, it goes.
#[derive(Debug)]
pub(crate) struct UnfinishedCopy {
    target: Directory,
    /// Held for its drop.
    lock: Lock,
    finished: bool,
}

/// What the copy is of, and what is left to do for it.
pub(crate) struct Plan {
    pub(crate) manifest: Manifest,
    pub(crate) catalogue: Catalogue,
    /// What the newest segment of the copy follows.
    pub(crate) chain: Chain,
    /// The batch that it begins with: it says what is committed.
    pub(crate) marker: [u8; BATCH_HEADER_BYTES],
    pub(crate) copies: Vec<Copy>,
}

/// A file that could not be linked. It is open, so it stays, whatever becomes of its name.
pub(crate) struct Copy {
    from: Arc<dyn DiskFile>,
    from_path: PathBuf,
    to: PathBuf,
}

impl Plan {
    /// The last entry of the log.
    pub(crate) fn last(&self) -> Sequence {
        self.chain.next.previous()
    }
}

impl UnfinishedCopy {
    /// Step 1.
    pub(crate) fn begin(path: &Path, disk: Arc<dyn Disk>, store_id: StoreId) -> Result<UnfinishedCopy> {
        let target = Directory::at(path, disk)?;
        target.make(&target.path)?;
        if !target.disk.list(&target.path).map_err(Error::io(&target.path))?.is_empty() {
            return Err(Error::NotEmpty { path: target.path });
        }
        let lock = Lock::take(&target)?;
        let copy = UnfinishedCopy { target, lock, finished: false };
        Catalogue::new(store_id).replace(&copy.target)?;
        copy.lock.write(&copy.target.lock_path(), store_id)?;
        for directory in [&copy.target.log, &copy.target.runs, &copy.target.index] {
            copy.target.make(directory)?;
        }
        Ok(copy)
    }

    /// Gives a segment that nobody writes to any more a second name in the copy.
    pub(crate) fn link_segment(&self, segment: &Segment, copies: &mut Vec<Copy>) -> Result<()> {
        self.link(segment.file.path(), self.target.segment_path(segment.first()), copies)
    }

    /// Notes a segment that may still be written to.
    pub(crate) fn copy_segment(&self, segment: &Segment, copies: &mut Vec<Copy>) -> Result<()> {
        self.copy(segment.file.path(), self.target.segment_path(segment.first()), copies)
    }

    /// Gives a run a second name in the copy.
    pub(crate) fn link_run(&self, source: &Directory, number: u32, copies: &mut Vec<Copy>) -> Result<()> {
        self.link(&source.run_path(number), self.target.run_path(number), copies)
    }

    /// The same for the newest checkpoint of the index. The copy can do without.
    pub(crate) fn link_index(&self, source: &Directory) {
        if let Some(number) = source.checkpoint_numbers().ok().and_then(|numbers| numbers.into_iter().max()) {
            let _ = source.disk.link(&source.index_path(number), &self.target.index_path(number));
        }
    }

    fn link(&self, from: &Path, to: PathBuf, copies: &mut Vec<Copy>) -> Result<()> {
        match self.target.disk.link(from, &to) {
            Ok(()) => Ok(()),
            // Another file system, one without links, or too many of them.
            Err(error) if is_refusal(error.kind()) => self.copy(from, to, copies),
            Err(error) => Err(Error::space(&to)(error)),
        }
    }

    fn copy(&self, from: &Path, to: PathBuf, copies: &mut Vec<Copy>) -> Result<()> {
        let file = self.target.disk.open_read(from).map_err(Error::io(from))?;
        copies.push(Copy { from: file, from_path: from.to_path_buf(), to });
        Ok(())
    }

    /// Steps 3 and 4.
    pub(crate) fn finish(mut self, plan: Plan) -> Result<()> {
        let Plan { manifest, mut catalogue, chain, marker, copies } = plan;
        let (target, disk) = (&self.target, &self.target.disk);
        copies.iter().try_for_each(|copy| copy.run(&**disk))?;
        Segment::make(target, manifest.store_id, chain, SEGMENT_START)?.publish_unopened()?;
        let newest = target.segment_path(chain.next);
        let file = disk.open(&newest).map_err(Error::io(&newest))?;
        file.write_at(&marker, SEGMENT_START).map_err(Error::space(&newest))?;
        file.sync_all().map_err(Error::space(&newest))?;
        catalogue.replace(target)?;
        for directory in [&target.log, &target.runs, &target.index] {
            disk.sync_dir(directory).map_err(Error::io(directory))?;
        }
        target.sync_ancestors()?;
        manifest.create(target)?;
        self.finished = true;
        Ok(())
    }

    /// Removes all of it. As long as anything is there, so is FILES.
    fn remove(&self) -> Result<()> {
        let target = &self.target;
        // With MANIFEST the copy is whole, so that has to go before anything else does.
        let (first, last): (Vec<_>, Vec<_>) =
            self.names(&target.path)?.into_iter().partition(|name| name.starts_with("MANIFEST"));
        for name in first {
            self.remove_file(&target.path.join(name))?;
        }
        target.sync()?;
        for directory in [&target.log, &target.runs, &target.index] {
            for name in self.names(directory)? {
                self.remove_file(&directory.join(name))?;
            }
            if target.disk.dir_exists(directory) {
                target.disk.remove_dir(directory).map_err(Error::io(directory))?;
            }
        }
        let files = ["LOCK", "FILES.tmp", "FILES"].into_iter();
        files.filter(|name| last.iter().any(|there| there == name)).try_for_each(|name| {
            target.sync()?;
            self.remove_file(&target.path.join(name))
        })
    }

    fn names(&self, directory: &Path) -> Result<Vec<String>> {
        match self.target.disk.list(directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            names => names.map_err(Error::io(directory)),
        }
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        self.target.disk.remove(path).map_err(Error::io(path))
    }
}

impl Drop for UnfinishedCopy {
    fn drop(&mut self) {
        if !self.finished {
            // What cannot be removed is no store: it has no MANIFEST.
            let _ = self.remove();
        }
    }
}

impl Copy {
    fn run(&self, disk: &dyn Disk) -> Result<()> {
        let Copy { from, from_path, to } = self;
        let file = disk.create(to).map_err(Error::space(to))?;
        let (mut piece, mut offset) = (vec![0; COPY_PIECE_BYTES], 0);
        loop {
            let read = from.read_at(&mut piece, offset).map_err(Error::io(from_path))?;
            if read == 0 {
                // Here some file systems only find out that there is no room.
                return file.sync_all().map_err(Error::space(to));
            }
            file.write_at(&piece[..read], offset).map_err(Error::space(to))?;
            offset += read as u64;
        }
    }
}

/// Whether a file system says so of links that it does not make.
fn is_refusal(kind: ErrorKind) -> bool {
    use ErrorKind::{CrossesDevices, PermissionDenied, TooManyLinks, Unsupported};
    matches!(kind, CrossesDevices | PermissionDenied | TooManyLinks | Unsupported)
}
