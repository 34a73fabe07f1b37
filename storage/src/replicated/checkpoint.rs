//! A copy of the store: what of it is done with the store in hand. The rest is [`crate::checkpoint`]'s.

use std::path::Path;

use super::{Need, ReplicatedStore};
use crate::batch::BATCH_HEADER_BYTES;
use crate::checkpoint::{Plan, UnfinishedCopy};
use crate::error::Result;
use crate::options::CONTROL_HEADROOM_BYTES;
use crate::segment::Segment;

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
        let plan = self.plan_copy(&copy)?;
        copy.finish(plan)
    }

    /// What makes the directory of a copy: it needs the store no more.
    pub(crate) fn copy_beginning(&self) -> Result<impl FnOnce(&Path) -> Result<UnfinishedCopy> + use<>> {
        self.writable()?;
        let (disk, store_id) = (self.directory.disk.clone(), self.store_id());
        Ok(move |path: &Path| UnfinishedCopy::begin(path, disk, store_id))
    }

    /// Links what a copy of the store as it is now can share, and says what else it needs.
    pub(crate) fn plan_copy(&mut self, copy: &UnfinishedCopy) -> Result<Plan> {
        self.writable()?;
        if !self.active_has_no_entries() {
            let rolled = self.roll(self.reserved + BATCH_HEADER_BYTES as u64 + CONTROL_HEADROOM_BYTES);
            self.poisoning(rolled)?;
        }
        let marker = self.mark_commit()?;
        let mut copies = Vec::new();
        let firsts = self.sealed.iter().skip(1).map(Segment::first).chain([self.active.first()]);
        for (segment, next) in self.sealed.iter().zip(firsts) {
            if next.previous() <= self.known_commit {
                copy.link_segment(segment, &mut copies)?;
            } else {
                copy.copy_segment(segment, &mut copies)?;
            }
        }
        // What it names stays on the disk until it is replaced.
        let catalogue = self.catalogue.lock();
        for file in catalogue.files() {
            copy.link_run(&self.directory, file.number, &mut copies)?;
        }
        copy.link_index(&self.directory);
        let (manifest, catalogue) = (self.manifest.clone(), catalogue.clone());
        Ok(Plan { manifest, catalogue, chain: self.chain, marker, copies })
    }

    /// Says in the log what is known to be committed, durably. Returns the batch that says so.
    fn mark_commit(&mut self) -> Result<[u8; BATCH_HEADER_BYTES]> {
        self.make_room(BATCH_HEADER_BYTES as u64, Need::Control)?;
        let header = self.write_marker()?;
        let synced = self.gate.sync(&self.active.file);
        self.poisoning(synced)?;
        Ok(header.encode(self.manifest.store_id))
    }

    /// Whether the newest segment has no entries: then another would have its name.
    pub(super) fn active_has_no_entries(&self) -> bool {
        self.active.first() == self.chain.next
    }
}
