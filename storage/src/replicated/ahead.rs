//! Making the next segment before it is needed: see [`crate::spare`].

use super::ReplicatedStore;
use crate::error::{Error, Result};
use crate::options::CONTROL_HEADROOM_BYTES;
use crate::segment::{SEGMENT_START, UnfinishedSegment};

/// So long the active segment is when the next one is made: half of what is flushed at least, since the log goes on in
/// another segment then. A store with less in it has no second file.
pub(super) const MAKE_AHEAD_BYTES: u64 = 4 << 20;

impl ReplicatedStore {
    /// Has the store's own thread make the next segment once the active one is long enough.
    pub(super) fn make_ahead_if_due(&mut self) {
        if self.made_ahead || self.make_ahead_bytes.is_none_or(|bytes| self.active.end < bytes) {
            return;
        }
        self.made_ahead = true;
        // Where there is no thread the segment is made when it is needed.
        if self.maintenance.start().is_ok()
            && let Some(make) = self.spare_maker()
        {
            self.maintenance.board().ask(make);
        }
    }

    fn spare_maker(&self) -> Option<impl FnOnce() + Send + use<>> {
        let (directory, place) = (self.directory.clone(), self.spare.clone());
        let allocated = self.allocation(SEGMENT_START + CONTROL_HEADROOM_BYTES);
        place.claim().then_some(move || place.make(&directory, allocated))
    }

    /// The next segment, of `least` bytes at least, under a temporary name still.
    pub(super) fn next_segment(&mut self, least: u64) -> Result<UnfinishedSegment> {
        self.made_ahead = false;
        if let Some(spare) = self.spare.take() {
            match spare.begin(&self.directory, self.manifest.store_id, self.chain, least) {
                // Its room is free again.
                Err(Error::DiskFull { .. }) => {}
                begun => return begun,
            }
        }
        match self.segment_from(self.chain, self.allocation(least)) {
            Err(Error::DiskFull { .. }) => self.segment_from(self.chain, least),
            made => made,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::path::{Path, PathBuf};
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::Readable as _;
    use crate::batch::LogEntries;
    use crate::disk::{Fault, FaultyDisk, Unsynced};
    use crate::options::Options;
    use crate::position::Sequence;
    use crate::row::RowsBuilder;

    const STORE: &str = "/data/store";

    fn open(disk: &FaultyDisk) -> ReplicatedStore {
        let options =
            Options::new().segment_bytes(8 << 10).extent_bytes(4 << 10).background_compaction(false);
        ReplicatedStore::open(Path::new(STORE), options.disk(Arc::new(disk.clone()))).unwrap()
    }

    fn append(store: &mut ReplicatedStore, value_bytes: usize) -> Result<()> {
        let first = store.last().sequence.next();
        let mut rows = RowsBuilder::new();
        rows.put(format!("key {first}").as_bytes(), &vec![7; value_bytes])?;
        store.append(&LogEntries { epoch: 1, first, log_time_ms: 0, rows: rows.finish() }, Sequence(0))?;
        store.sync().map(drop)
    }

    /// What the thread would do.
    fn make_spare(store: &ReplicatedStore) {
        store.spare_maker().unwrap()();
    }

    fn spare_path() -> PathBuf {
        Path::new(STORE).join("log/00000000000000000000.log.tmp")
    }

    /// Fills the first segment, but for what one more entry needs.
    fn filled(disk: &FaultyDisk) -> ReplicatedStore {
        let mut store = open(disk);
        for _ in 0..3 {
            append(&mut store, 2_000).unwrap();
        }
        assert_eq!(store.stats().segments, 1);
        store
    }

    #[test]
    fn the_next_segment_is_the_one_that_was_made_ahead() {
        let calls = [false, true].map(|ahead| {
            let disk = FaultyDisk::new();
            let mut store = filled(&disk);
            if ahead {
                make_spare(&store);
                assert!(store.spare_maker().is_none(), "there is one");
                assert!(disk.bytes(&spare_path()).is_some());
            }
            let before = disk.calls();
            append(&mut store, 2_000).unwrap();
            let calls = disk.calls() - before;
            assert_eq!((store.stats().segments, disk.bytes(&spare_path())), (2, None));
            for _ in 0..6 {
                append(&mut store, 2_000).unwrap();
            }
            store.apply(Sequence(10)).unwrap();
            store.close().unwrap();
            let store = open(&disk);
            assert_eq!((store.reader().len(), store.recovery().torn_bytes), (10, 0));
            calls
        });
        assert!(calls[1] < calls[0], "{calls:?}");
    }

    /// Larger than it was made.
    #[test]
    fn a_large_batch_fits_what_was_made_ahead() {
        let disk = FaultyDisk::new();
        let mut store = filled(&disk);
        make_spare(&store);
        append(&mut store, 1 << 20).unwrap();
        assert_eq!((store.stats().segments, disk.bytes(&spare_path())), (2, None));
        drop(store);
        disk.crash(Unsynced::Lost);
        assert_eq!(open(&disk).last().sequence, Sequence(4));
    }

    /// Each call from the making to the use of a spare fails once, and the power fails behind it.
    #[test]
    fn a_crash_leaves_no_spare_and_every_entry() {
        for call in 1.. {
            for (lasting, unsynced) in
                [(true, Unsynced::Lost), (false, Unsynced::Kept), (false, Unsynced::Torn { seed: call })]
            {
                let disk = FaultyDisk::new();
                let mut store = filled(&disk);
                let fault = Fault { call: disk.calls() + call, kind: ErrorKind::Other, lasting };
                disk.set_fault(Some(fault));
                make_spare(&store);
                let outcomes = [2_000, 2_000].map(|bytes| append(&mut store, bytes));
                let acknowledged = 3 + outcomes.iter().take_while(|outcome| outcome.is_ok()).count() as u64;
                drop(store);
                disk.crash(unsynced);
                let store = open(&disk);
                assert!(store.last().sequence.0 >= acknowledged, "call {call}");
                assert_eq!(disk.bytes(&spare_path()), None);
                if call > 30 {
                    assert_eq!(acknowledged, 5);
                    return;
                }
            }
        }
    }

    /// On a full disk its room is for the log.
    #[test]
    fn a_full_disk_takes_the_spare_first() {
        let disk = FaultyDisk::new();
        let mut store = filled(&disk);
        make_spare(&store);
        disk.set_capacity_bytes(Some(disk.used_bytes()));
        let mut written = 0;
        while append(&mut store, 500).is_ok() {
            written += 1;
        }
        assert!(written > 0);
        assert_eq!(disk.bytes(&spare_path()), None);
        disk.set_capacity_bytes(None);
        append(&mut store, 500).unwrap();
    }

    /// By itself, on a thread; and a store that is closed leaves nothing of it.
    #[test]
    fn a_store_that_is_written_to_makes_its_segments_ahead() {
        let disk = FaultyDisk::new();
        let options = Options::new().disk(Arc::new(disk.clone()));
        let mut store = ReplicatedStore::open(Path::new(STORE), options).unwrap();
        append(&mut store, 1 << 20).unwrap();
        assert!(store.spare.claim(), "too early");
        store.spare = Default::default();
        append(&mut store, 4 << 20).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !store.spare.is_ready() {
            assert!(Instant::now() < deadline, "no spare is made");
            std::thread::yield_now();
        }
        store.close().unwrap();
        assert_eq!(disk.bytes(&spare_path()), None);
    }
}
