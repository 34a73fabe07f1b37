//! The log's beginning: what leaves it, what opening skips, and what shows when a segment is lost.
#![allow(clippy::unwrap_used, reason = "what helpers of a test meet unexpectedly fails it")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ReplicatedStore;
use crate::batch::LogEntries;
use crate::disk::{Fault, FaultyDisk, Unsynced};
use crate::error::{Error, Result};
use crate::options::Options;
use crate::position::Sequence;
use crate::replicated::LogRetention;
use crate::row::RowsBuilder;

const STORE: &str = "/data/store";

fn open_keeping(disk: &FaultyDisk, retention: LogRetention) -> Result<ReplicatedStore> {
    let options = Options::new().segment_bytes(4 << 10).extent_bytes(4 << 10).log_retention(retention);
    ReplicatedStore::open(Path::new(STORE), options.disk(Arc::new(disk.clone())))
}

fn open(disk: &FaultyDisk) -> Result<ReplicatedStore> {
    open_keeping(disk, LogRetention::Nothing)
}

/// A store whose files do not come and go by themselves.
fn open_alone(disk: &FaultyDisk) -> ReplicatedStore {
    let options = Options::new().segment_bytes(4 << 10).extent_bytes(4 << 10).background_compaction(false);
    let options = options.log_retention(LogRetention::Nothing).disk(Arc::new(disk.clone()));
    ReplicatedStore::open(Path::new(STORE), options).unwrap()
}

/// One entry of about 1,500 bytes: two fill a segment.
fn append(store: &mut ReplicatedStore, epoch: u64) -> Result<()> {
    let first = store.last().sequence.next();
    let mut rows = RowsBuilder::new();
    rows.put(format!("key {first}").as_bytes(), &[7; 1_500])?;
    store.append(&LogEntries { epoch, first, log_time_ms: 0, rows: rows.finish() }, Sequence(0))?;
    let durable = store.sync()?;
    store.apply(durable)
}

/// Two entries in each of the segments 1, 3, 5, 7 and 9, one of the last epoch in the segment 11.
fn filled(disk: &FaultyDisk) -> ReplicatedStore {
    let mut store = open(disk).unwrap();
    for epoch in [1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 4] {
        append(&mut store, epoch).unwrap();
    }
    assert_eq!(segments(disk), [1, 3, 5, 7, 9, 11]);
    store
}

fn segments(disk: &FaultyDisk) -> Vec<u64> {
    let names = disk.paths().into_iter().filter_map(|path| {
        let name = path.file_name()?.to_str()?.strip_suffix(".log")?.to_string();
        name.parse().ok()
    });
    names.collect()
}

fn segment_path(first: u64) -> PathBuf {
    Path::new(STORE).join(format!("log/{first:020}.log"))
}

/// Says in FILES that everything up to here is in runs.
fn note_flushed(store: &ReplicatedStore, flushed: u64) {
    let mut catalogue = store.catalogue.lock();
    catalogue.flushed = Sequence(flushed);
    catalogue.epochs = store.epochs().iter().filter(|start| start.first.0 <= flushed).copied().collect();
    catalogue.replace(&store.directory).unwrap();
}

/// The same, and lets the log's beginning go.
fn flush(store: &mut ReplicatedStore, flushed: u64) -> Result<()> {
    note_flushed(store, flushed);
    store.contents.set_settled(Sequence(flushed));
    store.release_log()
}

fn sequences(store: &ReplicatedStore, after: u64) -> Result<Vec<u64>> {
    let entries = store.read_log(Sequence(after), 1 << 20)?;
    Ok(entries.iter().flat_map(|run| run.first.0..=run.last().0).collect())
}

#[test]
fn the_log_begins_where_files_says() {
    let disk = FaultyDisk::new();
    let mut store = filled(&disk);
    let epochs = store.epochs().to_vec();
    flush(&mut store, 6).unwrap();
    assert_eq!(store.log_first(), Sequence(7));
    assert_eq!(segments(&disk), [7, 9, 11]);

    let check = |store: &ReplicatedStore| {
        let reclaimed = |after| matches!(sequences(store, after), Err(Error::Reclaimed { first: 7 }));
        assert!(reclaimed(0) && reclaimed(5) && !reclaimed(6));
        assert_eq!(sequences(store, 6).unwrap(), [7, 8, 9, 10, 11]);
        assert_eq!(store.epochs(), epochs);
        assert_eq!(store.verify().unwrap().entries, 5);
        assert_eq!((store.last().sequence, store.last().epoch), (Sequence(11), 4));
    };
    check(&store);
    drop(store);
    disk.crash(Unsynced::Lost);
    let mut store = open(&disk).unwrap();
    check(&store);
    // What is flushed is committed, whatever the log's own words were.
    assert!(store.known_commit() >= Sequence(6) && store.applied() >= Sequence(6));
    store.apply(Sequence(11)).unwrap();
    append(&mut store, 4).unwrap();
    assert_eq!(sequences(&store, 10).unwrap(), [11, 12]);
}

#[test]
fn what_is_retained_stays() {
    let disk = FaultyDisk::new();
    let newest = filled(&disk).stats().disk_bytes
        - [1, 3, 5].map(|first| disk.bytes(&segment_path(first)).unwrap().len() as u64).iter().sum::<u64>();
    for (retention, first) in [
        (LogRetention::Nothing, 9),
        (LogRetention::Bytes(1), 9),
        (LogRetention::Bytes(newest), 7),
        (LogRetention::Bytes(1 << 30), 1),
        (LogRetention::Everything, 1),
    ] {
        let disk = FaultyDisk::new();
        drop(filled(&disk));
        let mut store = open_keeping(&disk, retention).unwrap();
        flush(&mut store, 9).unwrap();
        assert_eq!(store.log_first(), Sequence(first), "{retention:?}");
        assert_eq!(segments(&disk)[0], first);
    }
}

/// Each call of it fails once, and the power fails behind it: what is left of the log is whole, and begins where it did, or
/// where it was to.
#[test]
fn letting_go_of_the_beginning_is_crash_safe() {
    for call in 1.. {
        for unsynced in [Unsynced::Lost, Unsynced::Kept, Unsynced::Torn { seed: call }] {
            let disk = FaultyDisk::new();
            let mut store = filled(&disk);
            note_flushed(&store, 8);
            store.contents.set_settled(Sequence(8));
            let fault = Fault { call: disk.calls() + call, kind: std::io::ErrorKind::Other, lasting: true };
            disk.set_fault(Some(fault));
            let outcome = store.release_log();
            drop(store);
            disk.crash(unsynced);
            let store = open(&disk).unwrap();
            let first = store.log_first().0;
            assert!(first == 1 || first == 9, "call {call}: {first}");
            assert_eq!(sequences(&store, first - 1).unwrap(), (first..=11).collect::<Vec<_>>());
            assert_eq!(segments(&disk)[0], first);
            if outcome.is_ok() {
                assert!(call > 5 && first == 9);
                return;
            }
        }
    }
}

/// The owner asks for it, and the thread does what takes the disk's time: so nothing of it is done in `apply`.
#[test]
fn the_owner_does_not_wait_for_the_beginning_to_leave() {
    let disk = FaultyDisk::new();
    let mut store = filled(&disk);
    let compaction = store.compaction();
    note_flushed(&store, 6);
    store.contents.set_settled(Sequence(6));
    let apply = |store: &mut ReplicatedStore| {
        compaction.paused(|| {
            let calls = disk.calls();
            store.apply(Sequence(11)).unwrap();
            assert_eq!(disk.calls(), calls);
        });
    };
    apply(&mut store);
    assert_eq!((store.log_first(), segments(&disk)[0]), (Sequence(1), 1));
    assert!(compaction.release_log().unwrap());
    assert_eq!((store.log_first(), segments(&disk)[0]), (Sequence(1), 1), "its owner may still read it");
    assert_eq!(sequences(&store, 0).unwrap().len(), 11);
    apply(&mut store);
    assert_eq!(store.log_first(), Sequence(7));
    assert!(compaction.release_log().unwrap());
    assert_eq!(segments(&disk), [7, 9, 11]);
    // What is let go of at once does not take back what the thread has said.
    flush(&mut store, 8).unwrap();
    assert_eq!(segments(&disk), [9, 11]);
}

/// The same as above for what the thread does.
#[test]
fn letting_go_of_the_beginning_beside_the_owner_is_crash_safe() {
    for call in 1.. {
        for unsynced in [Unsynced::Lost, Unsynced::Kept, Unsynced::Torn { seed: call }] {
            let disk = FaultyDisk::new();
            let mut store = filled(&disk);
            let compaction = store.compaction();
            note_flushed(&store, 8);
            store.contents.set_settled(Sequence(8));
            let fault = Fault { call: disk.calls() + call, kind: std::io::ErrorKind::Other, lasting: true };
            disk.set_fault(Some(fault));
            store.apply(Sequence(11)).unwrap();
            let outcome = compaction.release_log();
            store.apply(Sequence(11)).unwrap();
            let removed = compaction.release_log();
            assert_eq!(outcome.is_ok(), removed.is_ok());
            // Before FILES could have changed, nothing was done.
            if outcome.is_err() && compaction.check().is_err() {
                assert!(matches!(append(&mut store, 4), Err(Error::Poisoned { .. })), "call {call}");
            }
            drop(compaction);
            drop(store);
            disk.crash(unsynced);
            let store = open(&disk).unwrap();
            let first = store.log_first().0;
            assert!(first == 1 || first == 9, "call {call}: {first}");
            assert_eq!(sequences(&store, first - 1).unwrap(), (first..=11).collect::<Vec<_>>());
            assert_eq!(segments(&disk)[0], first);
            if outcome.is_ok() && call > 10 {
                assert_eq!(first, 9);
                return;
            }
        }
    }
}

/// Opening does not read what is flushed: damage there does not keep it from opening, and shows when it is read.
#[test]
fn opening_skips_what_is_flushed() {
    let disk = FaultyDisk::new();
    let store = filled(&disk);
    note_flushed(&store, 6);
    drop(store);
    let mut bytes = disk.bytes(&segment_path(3)).unwrap();
    bytes[300] ^= 1;
    disk.set_bytes(&segment_path(3), &bytes);
    let store = open(&disk).unwrap();
    assert!(matches!(sequences(&store, 0), Err(Error::Corrupt { path, .. }) if path == segment_path(3)));
    assert!(matches!(store.verify(), Err(Error::Corrupt { .. })));
    // Looking for entries from the middle of segments on, whose batches nobody has noted.
    assert_eq!(sequences(&store, 5).unwrap(), [6, 7, 8, 9, 10, 11]);
    drop(store);

    // Without its seal a segment is read.
    let mut bytes = disk.bytes(&segment_path(3)).unwrap();
    let end = bytes.len();
    bytes[end - 72..].fill(0);
    disk.set_bytes(&segment_path(3), &bytes);
    assert!(matches!(open(&disk), Err(Error::Corrupt { path, .. }) if path == segment_path(3)));
    bytes[300] ^= 1;
    disk.set_bytes(&segment_path(3), &bytes);
    assert_eq!(sequences(&open(&disk).unwrap(), 0).unwrap().len(), 11);
}

/// A lost segment shows, wherever it was; also the newest, and also among those that are not read.
#[test]
fn a_lost_segment_shows() {
    for flushed in [0, 6, 8] {
        for lost in [1, 3, 5, 7, 9, 11] {
            let disk = FaultyDisk::new();
            let store = filled(&disk);
            note_flushed(&store, flushed);
            drop(store);
            disk.remove_durably(&segment_path(lost));
            let opened = open(&disk);
            assert!(matches!(opened, Err(Error::Corrupt { .. })), "{flushed}, {lost}: {opened:?}");
        }
    }
}

/// Several of the newest are lost: the one before says that there was more.
#[test]
fn a_lost_end_shows() {
    let disk = FaultyDisk::new();
    drop(filled(&disk));
    for lost in [11, 9, 7] {
        disk.remove_durably(&segment_path(lost));
    }
    let Err(Error::Corrupt { path, what, .. }) = open(&disk) else { panic!("it opens") };
    assert_eq!(path, segment_path(5));
    assert!(what.contains("another segment, which is missing"), "{what}");
}

/// Cutting takes the seals back that it makes untrue, whatever crashes in between.
#[test]
fn a_cut_takes_seals_back() {
    for kept in [2, 3, 4, 5] {
        for call in 1.. {
            let disk = FaultyDisk::new();
            let options = Options::new().segment_bytes(4 << 10).extent_bytes(4 << 10);
            let options = options.disk(Arc::new(disk.clone()));
            let mut store = ReplicatedStore::open(Path::new(STORE), options).unwrap();
            for sequence in 1..=9_u64 {
                let mut rows = RowsBuilder::new();
                rows.put(b"key", &[7; 1_500]).unwrap();
                let first = Sequence(sequence);
                let entries = LogEntries { epoch: 1, first, log_time_ms: 0, rows: rows.finish() };
                store.append(&entries, Sequence(0)).unwrap();
            }
            store.sync().unwrap();
            let fault = Fault { call: disk.calls() + call, kind: std::io::ErrorKind::Other, lasting: true };
            disk.set_fault(Some(fault));
            let outcome = store.truncate_after(Sequence(kept));
            drop(store);
            disk.crash(Unsynced::Torn { seed: call });
            let mut store = open(&disk).unwrap_or_else(|error| panic!("cut {kept}, call {call}: {error}"));
            let last = store.last().sequence.0;
            assert!(last >= kept, "cut {kept}, call {call}: {last}");
            store.truncate_after(Sequence(kept)).unwrap();
            append(&mut store, 2).unwrap();
            append(&mut store, 2).unwrap();
            drop(store);
            disk.crash(Unsynced::Lost);
            let store = open(&disk).unwrap();
            assert_eq!(sequences(&store, 0).unwrap(), (1..=kept + 2).collect::<Vec<_>>());
            if outcome.is_ok() {
                assert_eq!(last, kept);
                break;
            }
        }
    }
}

/// What was flushed since the last write leaves the log when the store is closed.
#[test]
fn closing_lets_go_of_what_was_flushed() {
    let disk = FaultyDisk::new();
    let options = Options::new().disk(Arc::new(disk.clone())).background_compaction(false).flush_bytes(1);
    let options = options.log_retention(LogRetention::Nothing);
    let mut store = ReplicatedStore::open(Path::new(STORE), options.clone()).unwrap();
    append(&mut store, 1).unwrap();
    store.compaction().work_while(|| true).unwrap();
    assert_eq!(segments(&disk), [1, 2]);
    store.close().unwrap();
    assert_eq!(segments(&disk), [2]);
    let store = ReplicatedStore::open(Path::new(STORE), options).unwrap();
    assert_eq!((store.last().sequence, store.log_first()), (Sequence(1), Sequence(2)));
}

/// As many files as places can name: what has no place is refused before anything is on the disk that says otherwise, and
/// what was acknowledged stays.
#[test]
fn without_a_place_for_another_segment_the_log_goes_on_in_this_one() {
    let disk = FaultyDisk::new();
    let mut store = open_alone(&disk);
    append(&mut store, 1).unwrap();
    store.contents.files().set_handle_max(0);
    let before = segments(&disk);
    // A tail is frozen, and the log would go on in a segment of its own.
    store.freeze().unwrap();
    append(&mut store, 1).unwrap();
    // And now the segment is full.
    let refused = loop {
        if let Err(error) = append(&mut store, 1) {
            break error;
        }
    };
    assert!(matches!(refused, Error::TooLarge { what: "files of one store at a time", .. }), "{refused}");
    let cut = store.truncate_after(store.applied());
    cut.unwrap();
    assert_eq!(segments(&disk), before);
    let is_unfinished = |path: &PathBuf| path.to_string_lossy().ends_with(".log.tmp");
    assert!(!disk.paths().iter().any(is_unfinished), "{:?}", disk.paths());
    let kept = sequences(&store, 0).unwrap();
    assert!(kept.len() >= 2 && store.durable().0 == kept.len() as u64);
    // Once others have gone it goes on.
    store.contents.files().set_handle_max(100);
    append(&mut store, 1).unwrap();
    drop(store);
    disk.crash(Unsynced::Lost);
    let store = open_alone(&disk);
    assert_eq!(sequences(&store, 0).unwrap(), [kept.clone(), vec![kept.len() as u64 + 1]].concat());
}

/// The cut that has no place for its segment cuts nothing.
#[test]
fn without_a_place_for_another_segment_nothing_is_cut() {
    let disk = FaultyDisk::new();
    let mut store = open_alone(&disk);
    append(&mut store, 1).unwrap();
    let mut rows = RowsBuilder::new();
    rows.put(b"uncommitted", b"value").unwrap();
    let entries = LogEntries { epoch: 1, first: Sequence(2), log_time_ms: 0, rows: rows.finish() };
    store.append(&entries, Sequence(0)).unwrap();
    store.contents.files().set_handle_max(0);
    let refused = store.truncate_after(Sequence(1)).unwrap_err();
    assert!(matches!(refused, Error::TooLarge { .. }), "{refused}");
    assert_eq!(sequences(&store, 0).unwrap(), [1, 2]);
    store.contents.files().set_handle_max(1);
    store.truncate_after(Sequence(1)).unwrap();
    append(&mut store, 2).unwrap();
    drop(store);
    disk.crash(Unsynced::Lost);
    assert_eq!(sequences(&open_alone(&disk), 0).unwrap(), [1, 2]);
}

/// An fsync that ran beside the store says nothing of a segment that came since, though that has the handle of its own.
#[test]
fn a_late_fsync_is_not_taken_for_that_of_another_segment() {
    let disk = FaultyDisk::new();
    let mut store = open_alone(&disk);
    append(&mut store, 1).unwrap();
    let put = |store: &mut ReplicatedStore| {
        let mut rows = RowsBuilder::new();
        rows.put(b"key", b"value").unwrap();
        let first = store.last().sequence.next();
        let entries = LogEntries { epoch: 1, first, log_time_ms: 0, rows: rows.finish() };
        store.append(&entries, Sequence(0)).unwrap();
    };
    store.roll(0).unwrap();
    put(&mut store);
    put(&mut store);
    let ticket = store.begin_sync().unwrap();
    let handle = store.active.handle;
    // Twice: the first segment behind the cut takes the next free handle, the second one that of the ticket's segment.
    store.truncate_after(Sequence(1)).unwrap();
    put(&mut store);
    store.sync().unwrap();
    store.roll(0).unwrap();
    assert_eq!(store.active.handle, handle);
    put(&mut store);
    assert_eq!((store.last().sequence, store.durable()), (Sequence(3), Sequence(2)));
    let synced = ticket.run();
    store.finish_sync(&ticket, synced);
    assert_eq!(store.durable(), Sequence(2), "nobody has made it durable");
}

/// What had been asked of the thread before somebody held the log is not done any more.
#[test]
fn a_held_log_is_held_also_from_what_was_asked_for_before() {
    let disk = FaultyDisk::new();
    let mut store = filled(&disk);
    let compaction = store.compaction();
    note_flushed(&store, 8);
    compaction.paused(|| {
        compaction.let_log_begin(Sequence(9));
        store.hold_log(Some(Sequence(4)));
    });
    compaction.release_log().unwrap();
    assert_eq!(compaction.log_first(), Sequence(0));
    store.contents.set_settled(Sequence(8));
    store.let_log_go().unwrap();
    compaction.release_log().unwrap();
    assert_eq!(compaction.log_first(), Sequence(3));
    store.hold_log(None);
    store.let_log_go().unwrap();
    compaction.release_log().unwrap();
    assert_eq!(compaction.log_first(), Sequence(9));
}
