//! Opening: the lock, the manifest, the log, the index.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::ahead::MAKE_AHEAD_BYTES;
use super::append::segment_capacity;
use super::flush::RunningCompaction;
use super::{LogRetention, ReplicatedStore};
use crate::batch::{BATCH_HEADER_BYTES, BatchHeader};
use crate::clock::Expiry;
use crate::compaction::Compaction;
use crate::compaction::site::{Settings, Site, hash_entries_max};
use crate::contents::Contents;
use crate::directory::Directory;
use crate::durability::SyncGate;
use crate::error::{Error, Result};
use crate::files::Catalogue;
use crate::header::StoreId;
use crate::index_checkpoint::Checkpoint;
use crate::loading;
use crate::lock::Lock;
use crate::maintenance::Maintenance;
use crate::manifest::{Kind, Manifest};
use crate::memory::Memory;
use crate::options::Options;
use crate::pending::Pending;
use crate::position::{EpochStart, Sequence};
use crate::recovery::{Batch, Recovery, SegmentEnd, Unproven, Walk};
use crate::segment::{Chain, SEGMENT_START, Segment};
use crate::spare::SparePlace;

/// What the log holds, read front to back.
struct Log {
    contents: Arc<Contents>,
    /// What is in runs already.
    flushed: Sequence,
    sealed: Vec<Segment>,
    walk: Walk,
    epochs: Vec<EpochStart>,
    pending: Pending,
    torn_bytes: u64,
}

impl ReplicatedStore {
    pub(crate) fn open_kind(path: &Path, options: Options, kind: Kind) -> Result<Self> {
        let memory = Memory::new(&options);
        let Options { segment_bytes, extent_bytes, disk, mark_idle_after, clock, log_retention, .. } =
            options.clone();
        let directory = Directory::prepare(path, disk)?;
        let lock = Lock::take(&directory)?;
        directory.remove_unfinished_segments()?;
        let (manifest, created) = match Manifest::load_store(&directory)? {
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
        let catalogue = Catalogue::load(&directory, manifest.store_id)?;
        catalogue.check_files(&directory)?;
        catalogue.remove_leftovers(&directory)?;
        let capacity = segment_capacity(segment_bytes);
        let mut checkpoint = Checkpoint::newest(&directory, manifest.store_id)?;
        let (contents, (log, active)) = loop {
            let opened = open_contents(&directory, &catalogue, &memory, &mut checkpoint, capacity)?;
            match &checkpoint {
                // The index was ahead of the log: see index_checkpoint.rs.
                Some(checkpoint) if opened.1.0.walk.chain.next <= checkpoint.applied => {}
                _ => break opened,
            }
            checkpoint = None;
            directory.remove_checkpoints_but(None)?;
        };
        Manifest::prepare_spare(&directory)?;
        if !created {
            // What was found is served only once it is certain to stay, its names included.
            active.file.file().sync_all().map_err(Error::io(active.file.path()))?;
            directory.sync_log()?;
            directory.sync()?;
        }
        let (last, active_end) = (log.walk.chain.next.previous(), active.end);
        let entries = last.0 - catalogue.log_first.previous().0;
        let recovery = Recovery { created, entries, torn_bytes: log.torn_bytes };
        let expiry = match kind {
            Kind::Standalone => Expiry::Now(clock.clone()),
            Kind::Replicated => Expiry::Never,
        };
        let (catalogue, gate) = (Arc::new(Mutex::new(catalogue)), SyncGate::default());
        let compaction = Compaction::new(Site::new(
            contents.clone(),
            directory.clone(),
            memory.clone(),
            expiry.clone(),
            Settings::new(options.compression, &memory).run_bytes(options.run_bytes),
            catalogue.clone(),
            gate.clone(),
        ));
        if options.background {
            compaction.start().map_err(Error::io(&directory.path))?;
        }
        let mut store = ReplicatedStore {
            compaction: RunningCompaction(Arc::new(compaction)),
            maintenance: Maintenance::new(mark_idle_after),
            spare: SparePlace::default(),
            make_ahead_bytes: options.background.then_some(MAKE_AHEAD_BYTES),
            made_ahead: false,
            flush_bytes: options.flush_bytes,
            tail_log_bytes: 0,
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
            was_applied: checkpoint.map_or(Sequence(0), |checkpoint| checkpoint.applied),
            known_commit: log.walk.known_commit.min(last),
            epochs: log.epochs,
            pending: log.pending,
            contents,
            log_retention: log_retention.unwrap_or(match kind {
                Kind::Standalone => LogRetention::Nothing,
                Kind::Replicated => LogRetention::Everything,
            }),
            held_from: None,
            released: Sequence(0),
            catalogue,
            expiry,
            memory,
            recovery,
            poison: None,
            gate,
            clock,
            reserved: 0,
            syncs: 0,
            syncs_at_fill: 0,
            sync_asked: active_end,
            buffer: Vec::new(),
        };
        store.note_tail_log_bytes();
        if kind == Kind::Standalone {
            // Nobody above decides what is committed: what survived counts.
            store.apply(last)?;
        }
        Ok(store)
    }
}

/// The runs, the index, and what is in the log beyond them. A checkpoint that is damaged further in, or cannot be read, is no
/// loss: it goes, and is `None` afterwards.
fn open_contents(
    directory: &Directory,
    catalogue: &Catalogue,
    memory: &Arc<Memory>,
    checkpoint: &mut Option<Checkpoint>,
    capacity: u64,
) -> Result<(Arc<Contents>, (Log, Segment))> {
    let entries_max = hash_entries_max(memory);
    let with_checkpoint = match &checkpoint {
        Some(usable) => loading::load(directory, catalogue, memory, Some(usable), entries_max).ok(),
        None => None,
    };
    let contents = match with_checkpoint {
        Some(contents) => contents,
        None => {
            // If it is a run that is damaged, this says so, and the checkpoint stays.
            let contents = loading::load(directory, catalogue, memory, None, entries_max)?;
            if checkpoint.take().is_some() {
                directory.remove_checkpoints_but(None)?;
            }
            contents
        }
    };
    let contents = Arc::new(contents);
    contents.set_applied(catalogue.flushed);
    contents.set_settled(catalogue.flushed);
    let log = Log::read(directory, catalogue, &contents, memory, capacity)?;
    Ok((contents, log))
}

/// Makes a new store: the manifest comes last, so that a store with one is whole.
fn create(directory: &Directory, lock: &Lock, kind: Kind) -> Result<Manifest> {
    Manifest::was_never_made(directory)?;
    for first in directory.segments()? {
        let path = directory.segment_path(first);
        directory.disk.remove(&path).map_err(Error::io(&path))?;
    }
    directory.sync_ancestors()?;
    let store_id = random_id();
    lock.write(&directory.lock_path(), store_id)?;
    // No preallocation: an empty store is small, and made in no time. The first append sees to it.
    Segment::make(directory, store_id, Chain::START, SEGMENT_START)?.publish_unopened()?;
    let manifest = Manifest::new(store_id, kind);
    manifest.create(directory)?;
    Ok(manifest)
}

/// The first sequences of the segments that count, ascending. Those before are removed: FILES said that they may go, and then
/// the process ended.
fn live_segments(directory: &Directory, log_first: Sequence) -> Result<Vec<Sequence>> {
    let (gone, live): (Vec<_>, Vec<_>) =
        directory.segments()?.into_iter().partition(|first| *first < log_first);
    if live.first().is_some_and(|first| *first != log_first) {
        let path = directory.segment_path(log_first);
        return Err(Error::corrupt(&path, 0, "the log's oldest segment is missing"));
    }
    for first in gone {
        let path = directory.segment_path(first);
        directory.disk.remove(&path).map_err(Error::io(&path))?;
    }
    Ok(live)
}

/// Sixteen bytes from the operating system's randomness, by way of the standard library's hasher keys.
fn random_id() -> StoreId {
    let (high, low) = (RandomState::new().hash_one(0), RandomState::new().hash_one(1));
    StoreId((u128::from(high) << 64 | u128::from(low)).to_le_bytes())
}

impl Log {
    /// Reads the segments in order; the newest is returned for writing.
    fn read(
        directory: &Directory,
        catalogue: &Catalogue,
        contents: &Arc<Contents>,
        memory: &Arc<Memory>,
        capacity: u64,
    ) -> Result<(Log, Segment)> {
        let firsts = live_segments(directory, catalogue.log_first)?;
        let mut segments = Vec::with_capacity(firsts.len());
        for (number, first) in firsts.iter().enumerate() {
            // Only the newest one grows.
            let capacity = if number + 1 == firsts.len() { capacity } else { 0 };
            segments.push(Segment::open(directory, contents, memory, catalogue.store_id, *first, capacity)?);
        }
        let start = segments.first().map(|oldest| oldest.start);
        let (Some(active), Some(start)) = (segments.pop(), start) else {
            return Err(Error::corrupt(
                &directory.log,
                0,
                "the log has no segment, though MANIFEST is there",
            ));
        };
        let mut log = Log {
            contents: contents.clone(),
            flushed: catalogue.flushed,
            sealed: Vec::with_capacity(segments.len()),
            walk: Walk::new(catalogue.store_id, start),
            epochs: catalogue.epochs.clone(),
            pending: Pending::default(),
            torn_bytes: 0,
        };
        log.walk.known_commit = catalogue.flushed;
        let starts: Vec<Chain> =
            segments.iter().skip(1).chain([&active]).map(|segment| segment.start).collect();
        for (segment, next) in segments.into_iter().zip(starts) {
            log.take_sealed(segment, next)?;
        }
        let active = log.read_active(active)?;
        if log.walk.chain.next <= catalogue.flushed {
            let what = format!("the log ends before entry {}, which was flushed", catalogue.flushed);
            return Err(Error::corrupt(active.file.path(), active.end, what));
        }
        Ok((log, active))
    }

    /// What was flushed is not read, if the segment's seal leads to the next one: it is in runs, and whoever wants it from
    /// the log verifies it then.
    fn take_sealed(&mut self, segment: Segment, next: Chain) -> Result<()> {
        let seal = segment.find_seal(self.walk.store_id())?;
        let leads_on = |header: &BatchHeader| {
            header.first == next.next && header.previous_chain == next.link && header.epoch == next.epoch
        };
        match &seal {
            Some((_, header)) if next.next.previous() <= self.flushed && leads_on(header) => {
                self.walk.skip(&segment, next)?;
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
            let rows_offset = batch.offset + BATCH_HEADER_BYTES as u64;
            pending.push(handle, rows_offset, batch.header.first, batch.rows.encoded(), batch.rows.count());
            pending.skip_through(*flushed);
            pending.apply(walk.known_commit, contents);
        })?;
        for (first, offset) in marks {
            segment.mark(first, offset);
        }
        Ok(end)
    }
}
