//! Opening: the lock, the manifest, the log, the index.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::Arc;

use paddock_index::HashIndex;

use super::append::segment_capacity;
use super::{ReplicatedStore, Sealed};
use crate::batch::{BATCH_HEADER_BYTES, BatchHeader};
use crate::clock::Expiry;
use crate::contents::Contents;
use crate::directory::Directory;
use crate::durability::SyncGate;
use crate::error::{Error, Result};
use crate::files::Catalogue;
use crate::header::StoreId;
use crate::lock::Lock;
use crate::maintenance::Maintenance;
use crate::manifest::{Kind, Manifest};
use crate::memory::Memory;
use crate::options::{LogRetention, Options};
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
    /// Rows of entries up to here are in runs.
    flushed: Sequence,
}

impl ReplicatedStore {
    pub(crate) fn open_kind(path: &Path, options: Options, kind: Kind) -> Result<Self> {
        let memory = Memory::new(&options);
        let Options { segment_bytes, extent_bytes, disk, mark_idle_after, clock, log_retention, .. } =
            options;
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
        let catalogue = Catalogue::load(&directory, manifest.store_id)?;
        let segments = open_segments(&directory, &catalogue, &contents, &memory, capacity)?;
        let (log, active) = Log::read(&directory, &catalogue, &contents, segments)?;
        Manifest::prepare_spare(&directory)?;
        if !created {
            // What was found is served only once it is certain to stay, its names included.
            active.file.file().sync_all().map_err(Error::io(active.file.path()))?;
            directory.sync_log()?;
            directory.sync()?;
        }
        let (last, active_end) = (log.walk.chain.next.previous(), active.end);
        let recovery = Recovery { created, entries: last.0, torn_bytes: log.torn_bytes };
        Ok(ReplicatedStore {
            directory,
            segment_bytes,
            extent_bytes,
            _lock: lock,
            manifest,
            sealed: Sealed::new(log.sealed, active.first()),
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
            retention: log_retention.unwrap_or(match kind {
                Kind::Standalone => LogRetention::Nothing,
                Kind::Replicated => LogRetention::Everything,
            }),
            clock,
            maintenance: Maintenance::new(mark_idle_after),
            reserved: 0,
            syncs: 0,
            syncs_at_fill: 0,
            sync_asked: active_end,
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

/// Opens the segments, oldest first. What FILES says to have left the log is removed: a crash came before that.
fn open_segments(
    directory: &Directory,
    catalogue: &Catalogue,
    contents: &Contents,
    memory: &Arc<Memory>,
    capacity: u64,
) -> Result<Vec<Segment>> {
    let mut firsts = directory.segments()?;
    let left = firsts.partition_point(|first| *first < catalogue.log_first);
    for first in firsts.drain(..left) {
        let path = directory.segment_path(first);
        directory.disk.remove(&path).map_err(Error::io(&path))?;
    }
    let (Some(first), Some(last)) = (firsts.first(), firsts.last()) else {
        return Err(Error::corrupt(&directory.log, 0, "the log has no segment, though MANIFEST is there"));
    };
    if *first != catalogue.log_first {
        let what = format!("does not follow entry {}: entries are missing", catalogue.log_first.previous());
        return Err(Error::corrupt(&directory.segment_path(*first), 32, what));
    }
    if *last <= catalogue.flushed {
        let what = format!("the newest, but FILES says that entry {} was before it", catalogue.flushed);
        return Err(Error::corrupt(&directory.segment_path(*last), 32, what));
    }
    let count = firsts.len();
    let open = |(number, first)| {
        // Only the newest one grows.
        let capacity = if number + 1 == count { capacity } else { 0 };
        Segment::open(directory, contents, memory, catalogue.store_id, first, capacity)
    };
    firsts.into_iter().enumerate().map(open).collect()
}

impl<'a> Log<'a> {
    /// Reads the segments in order; the newest is returned for writing. What is flushed is not read: it is enough that
    /// the end of a segment leads to the next one.
    fn read(
        directory: &Directory,
        catalogue: &Catalogue,
        contents: &'a Contents,
        mut segments: Vec<Segment>,
    ) -> Result<(Log<'a>, Segment)> {
        let starts: Vec<Chain> = segments.iter().map(|segment| segment.start).collect();
        let (Some(active), Some(start)) = (segments.pop(), starts.first()) else {
            return Err(Error::corrupt(&directory.log, 0, "the log has no segment"));
        };
        let start = if start.next == Chain::START.next { Chain::START } else { *start };
        let mut log = Log {
            contents,
            sealed: Vec::with_capacity(segments.len()),
            walk: Walk::new(catalogue.store_id, start),
            epochs: catalogue.epochs.clone(),
            pending: Pending::default(),
            torn_bytes: 0,
            flushed: catalogue.flushed,
        };
        log.walk.known_commit = catalogue.flushed;
        if catalogue.flushed > Sequence(0) {
            contents.set_applied(catalogue.flushed);
        }
        for (segment, next) in segments.into_iter().zip(starts.iter().skip(1)) {
            log.take_sealed(segment, *next)?;
        }
        let active = log.read_active(active)?;
        Ok((log, active))
    }

    fn take_sealed(&mut self, mut segment: Segment, next: Chain) -> Result<()> {
        let seal = segment.find_seal(self.walk.store_id())?;
        let leads_on = |header: &BatchHeader| {
            header.first == next.next && header.previous_chain == next.link && header.epoch == next.epoch
        };
        match &seal {
            Some((_, header)) if next.next.previous() <= self.flushed && leads_on(header) => {
                self.walk.skip(&segment, next)?;
                segment.end = segment.allocated;
                self.sealed.push(segment);
            }
            _ => self.read_sealed(segment, next.next)?,
        }
        // What a cut left behind the last entry that counts ends before the seal, too.
        if let (Some(segment), Some((offset, _))) = (self.sealed.last_mut(), seal) {
            segment.end = offset;
            segment.is_sealed = true;
        }
        Ok(())
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
        let Log { walk, epochs, pending, contents, flushed, .. } = self;
        let (handle, mut marks) = (segment.handle, Vec::new());
        let end = walk.segment(segment, limit, |batch: &Batch, walk: &Walk| {
            unproven.note(batch, walk.proven);
            if batch.rows.count() > 0 {
                marks.push((batch.header.first, batch.offset));
                if epochs.last().is_none_or(|last: &EpochStart| last.epoch < batch.header.epoch) {
                    epochs.push(EpochStart { epoch: batch.header.epoch, first: batch.header.first });
                }
            }
            if batch.header.first <= *flushed {
                return;
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
