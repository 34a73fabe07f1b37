//! Opening: the lock, the manifest, the log, the index.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::Arc;

use paddock_index::HashIndex;

use super::ReplicatedStore;
use super::append::segment_capacity;
use crate::batch::BATCH_HEADER_BYTES;
use crate::clock::Expiry;
use crate::contents::Contents;
use crate::directory::Directory;
use crate::durability::SyncGate;
use crate::error::{Error, Result};
use crate::header::StoreId;
use crate::lock::Lock;
use crate::maintenance::Maintenance;
use crate::manifest::{Kind, Manifest};
use crate::memory::Memory;
use crate::options::Options;
use crate::pending::Pending;
use crate::position::{EpochStart, Sequence};
use crate::recovery::{Batch, Recovery, SegmentEnd, Unproven, Walk};
use crate::segment::{Chain, SEGMENT_START, Segment};

/// What the log holds, read front to back.
struct Log<'a> {
    contents: &'a Contents,
    sealed: Vec<Segment>,
    walk: Walk,
    epochs: Vec<EpochStart>,
    pending: Pending,
    torn_bytes: u64,
}

impl ReplicatedStore {
    pub(crate) fn open_kind(path: &Path, options: Options, kind: Kind) -> Result<Self> {
        let memory = Memory::new(&options);
        let Options { segment_bytes, extent_bytes, disk, mark_idle_after, clock, .. } = options;
        let directory = Directory::prepare(path, disk)?;
        let lock = Lock::take(&directory)?;
        directory.remove_unfinished_segments()?;
        let (manifest, created) = match Manifest::load(&directory)? {
            Some(manifest) => {
                lock.confirm(&directory, manifest.store_id)?;
                (manifest, false)
            }
            None => (create(&directory, &lock, kind)?, true),
        };
        if manifest.kind != kind {
            let path = directory.manifest_path();
            return Err(Error::WrongKind { path, found: manifest.kind.name(), wanted: kind.name() });
        }
        let contents = Arc::new(Contents::new(HashIndex::new(manifest.store_id.seed())));
        let capacity = segment_capacity(segment_bytes);
        let (log, active) = Log::read(&directory, manifest.store_id, &contents, &memory, capacity)?;
        Manifest::prepare_spare(&directory)?;
        if !created {
            // What was found is served only once it is certain to stay, its names included.
            active.file.file().sync_all().map_err(Error::io(active.file.path()))?;
            directory.sync_log()?;
            directory.sync()?;
        }
        let last = log.walk.chain.next.previous();
        let recovery = Recovery { created, entries: last.0, torn_bytes: log.torn_bytes };
        Ok(ReplicatedStore {
            directory,
            segment_bytes,
            extent_bytes,
            _lock: lock,
            manifest,
            sealed: log.sealed,
            active,
            chain: log.walk.chain,
            durable: last,
            proven: log.walk.proven,
            known_commit: log.walk.known_commit.min(last),
            epochs: log.epochs,
            pending: log.pending,
            contents: contents.clone(),
            expiry: match kind {
                Kind::Standalone => Expiry::Now(clock.clone()),
                Kind::Replicated => Expiry::Never,
            },
            memory,
            recovery,
            poison: None,
            gate: SyncGate::default(),
            clock,
            maintenance: Maintenance::new(mark_idle_after),
            reserved: 0,
            syncs: 0,
            buffer: Vec::new(),
        })
    }
}

/// Makes a new store: the manifest comes last, so that a store with one is whole.
fn create(directory: &Directory, lock: &Lock, kind: Kind) -> Result<Manifest> {
    let manifest_path = directory.manifest_path();
    for first in directory.segments()? {
        if !holds_nothing(directory, first)? {
            return Err(Error::corrupt(&manifest_path, 0, "missing, although the log was in use"));
        }
        let path = directory.segment_path(first);
        directory.disk.remove(&path).map_err(Error::io(&path))?;
    }
    directory.sync_ancestors()?;
    let store_id = random_id();
    lock.write(&directory.lock_path(), store_id)?;
    // No preallocation: an empty store is small, and made in no time. The first append sees to it.
    Segment::make(directory, store_id, Chain::START, SEGMENT_START)?.publish_unopened()?;
    let manifest = Manifest { store_id, kind, metadata: Vec::new() };
    manifest.create(directory)?;
    Ok(manifest)
}

/// Whether a segment is as short as a new store's. It grows only once there is a manifest, so anything longer was in use;
/// and what lies there may be somebody's whole log, or no log at all: it is not read to find out.
fn holds_nothing(directory: &Directory, first: Sequence) -> Result<bool> {
    let path = directory.segment_path(first);
    let file = directory.disk.open(&path).map_err(Error::io(&path))?;
    Ok(file.len().map_err(Error::io(&path))? <= SEGMENT_START)
}

/// Sixteen bytes from the operating system's randomness, by way of the standard library's hasher keys.
fn random_id() -> StoreId {
    let (high, low) = (RandomState::new().hash_one(0), RandomState::new().hash_one(1));
    StoreId((u128::from(high) << 64 | u128::from(low)).to_le_bytes())
}

impl<'a> Log<'a> {
    /// Reads the segments in order; the newest is returned for writing.
    fn read(
        directory: &Directory,
        store_id: StoreId,
        contents: &'a Contents,
        memory: &Arc<Memory>,
        capacity: u64,
    ) -> Result<(Log<'a>, Segment)> {
        let firsts = directory.segments()?;
        let mut segments = Vec::with_capacity(firsts.len());
        for (number, first) in firsts.iter().enumerate() {
            // Only the newest one grows.
            let capacity = if number + 1 == firsts.len() { capacity } else { 0 };
            segments.push(Segment::open(directory, contents, memory, store_id, *first, capacity)?);
        }
        let Some(active) = segments.pop() else {
            return Err(Error::corrupt(
                &directory.log,
                0,
                "the log has no segment, though MANIFEST is there",
            ));
        };
        let mut log = Log {
            contents,
            sealed: Vec::with_capacity(segments.len()),
            walk: Walk::new(store_id, Chain::START),
            epochs: Vec::new(),
            pending: Pending::default(),
            torn_bytes: 0,
        };
        for (segment, next) in segments.into_iter().zip(firsts.iter().skip(1)) {
            log.read_sealed(segment, *next)?;
        }
        let active = log.read_active(active)?;
        Ok((log, active))
    }

    fn read_sealed(&mut self, mut segment: Segment, next: Sequence) -> Result<()> {
        let end = self.read_segment(&mut segment, Some(next), &mut Unproven::default())?;
        if let Some(missing) = end.missing {
            let what = format!("{missing}, and entry {} was durable", self.walk.chain.next);
            return Err(Error::corrupt(segment.file.path(), end.offset, what));
        }
        segment.end = end.offset;
        self.sealed.push(segment);
        Ok(())
    }

    fn read_active(&mut self, mut active: Segment) -> Result<Segment> {
        let mut unproven = Unproven::default();
        let end = self.read_segment(&mut active, None, &mut unproven)?;
        self.torn_bytes = self.walk.settle_tail(&active, &end)?;
        active.end = end.offset;
        unproven.rewrite(&active)?;
        Ok(active)
    }

    fn read_segment(
        &mut self,
        segment: &mut Segment,
        limit: Option<Sequence>,
        unproven: &mut Unproven,
    ) -> Result<SegmentEnd> {
        let Log { walk, epochs, pending, contents, .. } = self;
        let (handle, mut marks) = (segment.handle, Vec::new());
        let end = walk.segment(segment, limit, |batch: &Batch, walk: &Walk| {
            unproven.note(batch, walk.proven);
            if batch.rows.count() > 0 {
                marks.push((batch.header.first, batch.offset));
                if epochs.last().is_none_or(|last: &EpochStart| last.epoch < batch.header.epoch) {
                    epochs.push(EpochStart { epoch: batch.header.epoch, first: batch.header.first });
                }
            }
            let rows_offset = batch.offset + BATCH_HEADER_BYTES as u64;
            pending.push(handle, rows_offset, batch.header.first, batch.rows.encoded(), batch.rows.count());
            pending.apply(walk.known_commit, contents);
        })?;
        for (first, offset) in marks {
            segment.mark(first, offset);
        }
        Ok(end)
    }
}
