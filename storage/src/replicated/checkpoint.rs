//! A copy of the store: what of it is done with the store in hand. The rest is [`crate::checkpoint`]'s.

use std::path::Path;

use super::{Need, ReplicatedStore};
use crate::batch::BATCH_HEADER_BYTES;
use crate::checkpoint::{Plan, PlannedSegment, UnfinishedCopy};
use crate::error::Result;
use crate::manifest::{Manifest, Stage};
use crate::options::CONTROL_HEADROOM_BYTES;
use crate::position::Sequence;
use crate::segment::Segment;

/// A copy of a store that is not written yet, as of the moment when [`ReplicatedStore::checkpointer`] made this.
#[derive(Debug)]
pub struct Checkpointer {
    plan: Plan,
}

impl Checkpointer {
    /// The last entry of the log that is in the copy.
    ///
    /// ```
    /// # use paddock_storage::{Options, ReplicatedStore, Sequence};
    /// # let directory = tempfile::tempdir()?;
    /// # let mut store = ReplicatedStore::open(directory.path(), Options::new())?;
    /// assert_eq!(store.checkpointer()?.last(), Sequence(0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn last(&self) -> Sequence {
        self.plan.last()
    }

    /// The same without the segments of the log all of whose entries are in runs: the copy's log begins later.
    ///
    /// ```
    /// # use paddock_storage::{Options, ReplicatedStore};
    /// # let directory = tempfile::tempdir()?;
    /// # let (path, copy) = (directory.path().join("replica"), directory.path().join("copy"));
    /// # let mut store = ReplicatedStore::open(&path, Options::new())?;
    /// store.checkpointer()?.without_flushed_log().write(&copy)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn without_flushed_log(mut self) -> Checkpointer {
        let Plan { catalogue, segments, chain, .. } = &mut self.plan;
        let nexts = segments.iter().skip(1).map(|segment| segment.first).chain([chain.next]);
        let ends = segments.iter().zip(nexts).map(|(_, next)| next.previous());
        let flushed = ends.take_while(|end| *end <= catalogue.flushed).count();
        segments.drain(..flushed);
        catalogue.log_first = segments.first().map_or(chain.next, |segment| segment.first);
        self
    }

    /// Writes the copy, as [`ReplicatedStore::checkpoint`] does, on whatever thread this is; its store may go on
    /// meanwhile. Returns the last entry of the log that is in it.
    ///
    /// ```
    /// # use paddock_storage::{Options, ReplicatedStore};
    /// # let directory = tempfile::tempdir()?;
    /// # let (path, copy) = (directory.path().join("replica"), directory.path().join("copy"));
    /// # let mut store = ReplicatedStore::open(&path, Options::new())?;
    /// let last = store.checkpointer()?.write(&copy)?;
    /// assert_eq!(ReplicatedStore::open(&copy, Options::new())?.last().sequence, last);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`crate::Error::NotEmpty`]; [`crate::Error::DiskFull`]: nothing is lost; [`crate::Error::Io`]: if it was the store's
    /// own log that failed, the store is poisoned. What fails leaves nothing behind, or a directory
    /// that does not open.
    pub fn write(self, path: &Path) -> Result<Sequence> {
        let last = self.last();
        self.begin(path)?.finish(self.plan)?;
        Ok(last)
    }

    /// The same, of all files but a MANIFEST that makes a store of them: for somebody else.
    pub(crate) fn write_for_travel(self, path: &Path) -> Result<Sequence> {
        let last = self.last();
        self.begin(path)?.finish_for_travel(self.plan)?;
        Ok(last)
    }

    fn begin(&self, path: &Path) -> Result<UnfinishedCopy> {
        UnfinishedCopy::begin(path, self.plan.source.disk.clone(), self.plan.manifest.store_id)
    }
}

impl ReplicatedStore {
    /// Makes a copy of the store as it is now, in a directory of its own, which can be opened as a store: the whole log
    /// with what is not applied yet, runs, and metadata. What is known to be committed here is known there.
    ///
    /// Files that never change are linked, and take no room twice; where the file system does not link them (another
    /// one, say), they are copied. Segments of the log with entries that are not committed yet are copied always.
    ///
    /// The copy is the same store, with the same id: both may be open at the same time, and neither disturbs the other,
    /// but a replication protocol must not take them for one replica. Damage to a linked file is damage to both.
    ///
    /// The directory must be missing or empty. What fails leaves nothing behind, or, if that cannot be removed either, a
    /// directory that does not open.
    ///
    /// ```
    /// # use paddock_storage::{LogEntries, Options, Readable, ReplicatedStore, RowsBuilder, Sequence};
    /// # let directory = tempfile::tempdir()?;
    /// # let (path, copy) = (directory.path().join("replica"), directory.path().join("copy"));
    /// let mut store = ReplicatedStore::open(&path, Options::new())?;
    /// let mut rows = RowsBuilder::new();
    /// rows.put(b"heron", b"grey")?;
    /// store.append(&LogEntries { epoch: 1, first: Sequence(1), log_time_ms: 0, rows: rows.finish() }, Sequence(0))?;
    /// store.apply(Sequence(1))?;
    /// store.checkpoint(&copy)?;
    /// let copy = ReplicatedStore::open(&copy, Options::new())?;
    /// assert_eq!(copy.reader().get(b"heron")?.as_deref(), Some(&b"grey"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`crate::Error::NotEmpty`]; [`crate::Error::DiskFull`]: nothing is lost, and the store goes on; [`crate::Error::Io`],
    /// which poisons the store if its own log is what failed; [`crate::Error::Poisoned`].
    pub fn checkpoint(&mut self, path: &Path) -> Result<()> {
        let copy = self.copy_beginning()?(path)?;
        let plan = self.plan_copy()?;
        copy.finish(plan)
    }

    /// The same for an owner that has no time for it: a copy of the store as it is now, that any thread can write. Here
    /// it costs the fsyncs of a new segment. Until it was written, or is dropped, files that the store needs no more keep their
    /// names, and so their room.
    ///
    /// ```
    /// # use paddock_storage::{LogEntries, Options, Readable, ReplicatedStore, RowsBuilder, Sequence};
    /// # let directory = tempfile::tempdir()?;
    /// # let (path, copy) = (directory.path().join("replica"), directory.path().join("copy"));
    /// # let mut store = ReplicatedStore::open(&path, Options::new())?;
    /// # let mut rows = RowsBuilder::new();
    /// # rows.put(b"heron", b"grey")?;
    /// # store.append(&LogEntries { epoch: 1, first: Sequence(1), log_time_ms: 0, rows: rows.finish() }, Sequence(0))?;
    /// store.apply(Sequence(1))?;
    /// let checkpointer = store.checkpointer()?;
    /// let writing = std::thread::spawn(move || checkpointer.write(&copy).map(|last| (last, copy)));
    /// // The owner goes on.
    /// store.set_metadata(b"epoch 2")?;
    /// let (last, copy) = writing.join().unwrap()?;
    /// assert_eq!(last, Sequence(1));
    /// assert!(ReplicatedStore::open(&copy, Options::new())?.metadata().is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`crate::Error::DiskFull`]: nothing is lost, and the store goes on; [`crate::Error::Io`]: the store is poisoned;
    /// [`crate::Error::Poisoned`].
    pub fn checkpointer(&mut self) -> Result<Checkpointer> {
        self.plan_copy().map(|plan| Checkpointer { plan })
    }

    /// What makes the directory of a copy: it needs the store no more.
    pub(crate) fn copy_beginning(&self) -> Result<impl FnOnce(&Path) -> Result<UnfinishedCopy> + use<>> {
        self.writable()?;
        let (disk, store_id) = (self.directory.disk.clone(), self.store_id());
        Ok(move |path: &Path| UnfinishedCopy::begin(path, disk, store_id))
    }

    /// Notes what a copy of the store as it is now is of.
    pub(crate) fn plan_copy(&mut self) -> Result<Plan> {
        self.writable()?;
        if !self.active_has_no_entries() {
            let rolled = self.roll(self.reserved + BATCH_HEADER_BYTES as u64 + CONTROL_HEADROOM_BYTES);
            self.poisoning(rolled)?;
        }
        self.make_room(BATCH_HEADER_BYTES as u64, Need::Control)?;
        let marker = self.write_marker()?.encode(self.manifest.store_id);
        // First: what FILES names from now on, and what it names no more, keeps its name.
        let pin = self.compaction.0.names().pin();
        let index = self.directory.checkpoint_numbers()?.into_iter().max();
        let catalogue = self.catalogue.lock().clone();
        let firsts = self.sealed.iter().skip(1).map(Segment::first).chain([self.active.first()]);
        let segments =
            self.sealed.iter().zip(firsts).filter(|(segment, _)| segment.first() >= catalogue.log_first);
        let segments = segments.map(|(segment, next)| PlannedSegment {
            first: segment.first(),
            file: segment.file.clone(),
            is_committed: next.previous() <= self.known_commit,
        });
        let segments = segments.collect();
        let source = self.directory.clone();
        // Whatever number this store has at its place, its copy has none.
        let manifest = Manifest { stage: Stage::Store, number: 0, ..self.manifest.clone() };
        let (chain, marked) = (self.chain, self.ticket());
        Ok(Plan { source, manifest, catalogue, index, segments, chain, marker, marked, pin })
    }

    /// Whether the newest segment has no entries: then another would have its name.
    pub(super) fn active_has_no_entries(&self) -> bool {
        self.active.first() == self.chain.next
    }
}
