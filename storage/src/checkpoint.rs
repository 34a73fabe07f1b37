//! Copies of a store that are stores themselves: [`crate::Store::checkpoint`], [`crate::ReplicatedStore::checkpoint`].
//!
//! # How a copy is made
//!
//! 1. Its directory is missing or empty. It is made, its LOCK taken, and a MANIFEST written that says that there is no store
//!    yet: opening refuses it from here on.
//! 2. Between two turns of the writers the log is made durable and goes on in another segment, and what the copy is of is noted
//!    ([`Plan`]): what FILES says, and the full segments. From here on no name of theirs leaves the disk ([`crate::names`]).
//! 3. Beside the writers these files get second names in the copy. What could not be linked is copied, the newest segment and
//!    FILES are written, and all names are made durable.
//! 4. MANIFEST is replaced last: then the copy is a store.
//!
//! Only what nobody ever writes to again may be linked: runs, and segments whose entries are all committed. A cut takes the
//! seal of the segment that it ends in, so segments with entries that may be cut off are copied. The commit that this goes
//! by is written to both logs, so that neither of the two stores forgets it.
//!
//! When something fails, what is there of the copy is removed. Where that fails too, step 1 holds.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use crate::batch::BATCH_HEADER_BYTES;
use crate::data_file::DataFile;
use crate::directory::Directory;
use crate::disk::{Disk, DiskFile};
use crate::durability::SyncTicket;
use crate::error::{Error, Result};
use crate::files::Catalogue;
use crate::header::StoreId;
use crate::lock::Lock;
use crate::manifest::{Kind, Manifest, Stage};
use crate::names::Pin;
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

/// What the copy is of.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) source: Directory,
    pub(crate) manifest: Manifest,
    pub(crate) catalogue: Catalogue,
    /// The newest checkpoint of the index. A later one may not know files of this catalogue.
    pub(crate) index: Option<u32>,
    pub(crate) segments: Vec<PlannedSegment>,
    /// What the newest segment of the copy follows.
    pub(crate) chain: Chain,
    /// The batch that it begins with: it says what is committed.
    pub(crate) marker: [u8; BATCH_HEADER_BYTES],
    /// The same in the store's own log has to last, before anything is linked.
    pub(crate) marked: SyncTicket,
    pub(crate) pin: Pin,
}

/// A full segment.
#[derive(Debug)]
pub(crate) struct PlannedSegment {
    pub(crate) first: Sequence,
    pub(crate) file: Arc<DataFile>,
    /// Whether all of it is: then nobody writes to it any more.
    pub(crate) is_committed: bool,
}

/// A file that is open: it stays, whatever becomes of its name.
enum Opened {
    Segment(Arc<DataFile>),
    Run(Arc<dyn DiskFile>),
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
        let nothing_yet = Manifest { stage: Stage::Unfinished, ..Manifest::new(store_id, Kind::Replicated) };
        nothing_yet.create(&copy.target)?;
        copy.lock.write(&copy.target.lock_path(), store_id)?;
        for directory in [&copy.target.log, &copy.target.runs, &copy.target.index] {
            copy.target.make(directory)?;
        }
        Ok(copy)
    }

    /// Gives the files that never change second names in the copy; copies the others, and what is not linked.
    fn take_over(&self, plan: &Plan) -> Result<()> {
        for PlannedSegment { first, file, is_committed } in &plan.segments {
            let to = self.target.segment_path(*first);
            if !is_committed || !self.link(file.path(), &to)? {
                self.copy(file.path(), &Opened::Segment(file.clone()), &to)?;
            }
        }
        for run in plan.catalogue.files() {
            let (from, to) = (plan.source.run_path(run.number), self.target.run_path(run.number));
            if !self.link(&from, &to)? {
                let file = self.target.disk.open_read(&from).map_err(Error::io(&from))?;
                self.copy(&from, &Opened::Run(file), &to)?;
            }
        }
        // The copy can do without.
        if let Some(number) = plan.index {
            let to = self.target.index_path(number);
            let linked = self.target.disk.link(&plan.source.index_path(number), &to).is_ok();
            // Once the store was closed, and opened again, this may be another one of the same name.
            if linked && plan.pin.is_of_a_closed_store() {
                self.remove_file(&to)?;
            }
        }
        Ok(())
    }

    /// False: this file system does not link it.
    fn link(&self, from: &Path, to: &Path) -> Result<bool> {
        match self.target.disk.link(from, to) {
            Ok(()) => Ok(true),
            // Another file system, one without links, or too many of them.
            Err(error) if is_refusal(error.kind()) => Ok(false),
            Err(error) => Err(Error::space(to)(error)),
        }
    }

    fn copy(&self, from_path: &Path, from: &Opened, to: &Path) -> Result<()> {
        let file = self.target.disk.create(to).map_err(Error::space(to))?;
        let (mut piece, mut offset) = (vec![0; COPY_PIECE_BYTES], 0);
        loop {
            let read = from.file().read_at(&mut piece, offset).map_err(Error::io(from_path))?;
            if read == 0 {
                // Here some file systems only find out that there is no room.
                return file.sync_all().map_err(Error::space(to));
            }
            file.write_at(&piece[..read], offset).map_err(Error::space(to))?;
            offset += read as u64;
        }
    }

    /// Steps 3 and 4.
    pub(crate) fn finish(mut self, plan: Plan) -> Result<()> {
        let manifest = plan.manifest.clone();
        self.write_files(plan)?;
        manifest.create(&self.target)?;
        self.finished = true;
        Ok(())
    }

    /// Step 3 alone, for somebody who makes a MANIFEST elsewhere.
    pub(crate) fn finish_for_travel(mut self, plan: Plan) -> Result<()> {
        self.write_files(plan)?;
        self.finished = true;
        Ok(())
    }

    fn write_files(&self, plan: Plan) -> Result<()> {
        plan.marked.run()?;
        self.take_over(&plan)?;
        let Plan { manifest, mut catalogue, chain, marker, .. } = plan;
        let (target, disk) = (&self.target, &self.target.disk);
        Segment::make(target, manifest.store_id, chain, SEGMENT_START)?.publish_unopened()?;
        let newest = target.segment_path(chain.next);
        let file = disk.open(&newest).map_err(Error::io(&newest))?;
        file.write_at(&marker, SEGMENT_START).map_err(Error::space(&newest))?;
        file.sync_all().map_err(Error::space(&newest))?;
        catalogue.replace(target)?;
        for directory in [&target.log, &target.runs, &target.index] {
            disk.sync_dir(directory).map_err(Error::io(directory))?;
        }
        target.sync_ancestors()
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        self.target.disk.remove(path).map_err(Error::io(path))
    }
}

impl Drop for UnfinishedCopy {
    fn drop(&mut self) {
        if !self.finished {
            // What cannot be removed is no store: its MANIFEST says so.
            let _ = self.target.remove_store();
        }
    }
}

impl Opened {
    fn file(&self) -> &dyn DiskFile {
        match self {
            Opened::Segment(segment) => segment.file(),
            Opened::Run(file) => &**file,
        }
    }
}

/// Whether a file system says so of links that it does not make.
fn is_refusal(kind: ErrorKind) -> bool {
    use ErrorKind::{CrossesDevices, PermissionDenied, TooManyLinks, Unsupported};
    matches!(kind, CrossesDevices | PermissionDenied | TooManyLinks | Unsupported)
}
