//! The n-th call to the disk fails, for every n: the store answers with an error, takes nothing more where it must not,
//! and opened again it holds everything that was acknowledged.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what helpers of a test meet unexpectedly fails it")]

mod support;

use std::io::ErrorKind;
use std::path::Path;

use paddock_storage::disk::{Fault, FaultyDisk, Unsynced};
use paddock_storage::{Error, ReplicatedStore, Result, Sequence};
use support::failing::{EveryCall, calls_of, fail_at};
use support::{Entry, append, applied, contents, log, open};

/// What a run was told.
#[derive(Debug, Default)]
struct Told {
    /// Entries that were appended, in order; the last ones perhaps without success.
    written: Vec<(u64, Entry)>,
    /// How many of them are durable for certain.
    durable: usize,
    metadata: Vec<u8>,
    metadata_tried: Vec<u8>,
}

impl Told {
    fn batch(&mut self, store: &mut ReplicatedStore, epoch: u64, entries: &[Entry]) -> Result<()> {
        self.written.extend(entries.iter().map(|entry| (epoch, entry.clone())));
        append(store, epoch, entries, store.applied().0)?;
        self.durable = store.sync()?.0 as usize;
        Ok(())
    }

    fn metadata(&mut self, store: &mut ReplicatedStore, metadata: &[u8]) -> Result<()> {
        self.metadata_tried = metadata.to_vec();
        store.set_metadata(metadata)?;
        self.metadata = metadata.to_vec();
        Ok(())
    }

    /// Everything that a store does, with a few segments.
    fn script(&mut self, store: &mut ReplicatedStore) -> Result<()> {
        let large = vec![5; 3000];
        self.metadata(store, b"epoch 1")?;
        self.batch(store, 1, &[Entry::put("a", "1"), Entry::put("b", "2")])?;
        self.batch(store, 1, &[Entry::Put(b"large".to_vec(), large.clone())])?;
        store.apply(Sequence(2))?;
        self.batch(store, 1, &[Entry::Put(b"larger".to_vec(), large), Entry::Delete(b"a".to_vec())])?;
        self.batch(store, 1, &[Entry::put("c", "3")])?;
        // From here on the last two entries may be gone.
        self.durable = 4;
        store.truncate_after(Sequence(4))?;
        self.written.truncate(4);
        self.metadata(store, b"epoch 2")?;
        self.batch(store, 2, &[Entry::put("d", "4")])?;
        store.apply(Sequence(5))
    }
}

/// After a failure the store takes nothing more, unless the failure left everything as it was; reads go on.
fn check_after_failure(store: &mut ReplicatedStore, error: &Error, told: &Told) {
    let through = usize::try_from(store.applied().0).unwrap();
    assert_eq!(contents(&store.reader()), applied(&told.written[..through]));
    // What the log still says to hold can be applied, and is there for readers: also when a cut ended half-way.
    let last = store.last().sequence;
    assert!(matches!(store.apply(last.next()), Err(Error::Misplaced { .. })));
    store.apply(last).unwrap();
    let through = usize::try_from(last.0).unwrap();
    assert_eq!(contents(&store.reader()), applied(&told.written[..through]), "after {error}");
    let next = append(store, 9, &[Entry::put("next", "1")], 0).and_then(|()| store.sync());
    if matches!(error, Error::DiskFull { .. }) {
        // Not poisoned: it tries again, and meets the same disk.
        assert!(!matches!(next, Err(Error::Poisoned { .. })), "{next:?}");
    } else {
        assert!(matches!(next, Err(Error::Poisoned { .. })), "after {error}: {next:?}");
        assert!(matches!(store.sync(), Err(Error::Poisoned { .. })));
        assert!(matches!(store.set_metadata(b"x"), Err(Error::Poisoned { .. })));
        assert!(matches!(store.truncate_after(Sequence(0)), Err(Error::Poisoned { .. })));
    }
}

fn check_reopened(disk: &FaultyDisk, told: &Told, extra: &(u64, Entry), case: &str) {
    let store = open(disk).unwrap_or_else(|error| panic!("{case}: {error}"));
    let found = log(&store);
    assert!(found.len() >= told.durable, "{case}: {} of {} durable entries", found.len(), told.durable);
    let known = found.len().min(told.written.len());
    if let Some((last, rest)) = found.split_last().filter(|(last, _)| *last == extra) {
        // The write after a full disk may be there, behind a prefix.
        assert_eq!(rest, &told.written[..rest.len()], "{case}: before {last:?}");
    } else {
        assert_eq!(found[..known], told.written[..known], "{case}");
        assert_eq!(known, found.len(), "{case}: entries that nobody wrote");
    }
    let metadata = store.metadata();
    assert!(metadata == told.metadata || metadata == told.metadata_tried, "{case}: {metadata:?}");
    store.verify().unwrap();
}

fn run(fault: Fault, ending: Option<Unsynced>) -> bool {
    let case = format!("{fault:?}, then {ending:?}");
    let disk = FaultyDisk::new();
    disk.set_fault(Some(fault));
    let mut told = Told::default();
    let mut hit = false;
    match open(&disk) {
        Ok(mut store) => {
            if let Err(error) = told.script(&mut store) {
                hit = true;
                check_after_failure(&mut store, &error, &told);
            } else if let Err(error) = store.close() {
                hit = true;
                assert!(matches!(error, Error::Io { .. }), "{case}: {error}");
            }
        }
        Err(error) => {
            hit = true;
            assert!(matches!(error, Error::Io { .. } | Error::DiskFull { .. }), "{case}: {error}");
        }
    }
    disk.set_fault(None);
    match ending {
        Some(unsynced) => disk.crash(unsynced),
        // Only the process is gone; what the kernel holds as clean is still seen.
        None => {
            check_reopened(&disk, &told, &(9, Entry::put("next", "1")), &case);
            // What was served now must stay, whatever the failed fsync had lost.
            let before = log(&open(&disk).unwrap());
            disk.crash(Unsynced::Lost);
            assert_eq!(log(&open(&disk).unwrap()), before, "{case}: served, then lost");
        }
    }
    check_reopened(&disk, &told, &(9, Entry::put("next", "1")), &case);
    hit
}

/// How many changing calls the script makes without faults.
fn calls() -> u64 {
    let disk = FaultyDisk::new();
    calls_of(&disk, || {
        let mut store = open(&disk).unwrap();
        Told::default().script(&mut store).unwrap();
        store.close().unwrap();
    })
}

fn torn(seed: u64) -> Option<Unsynced> {
    Some(Unsynced::Torn { seed })
}

fn every_call(kind: ErrorKind, lasting: bool) {
    let calls = calls();
    let endings = |_| vec![None, Some(Unsynced::Lost), Some(Unsynced::Kept), torn(1), torn(2), torn(3)];
    let hits = EveryCall { calls, kind, lasting, endings: &endings }.fails(run);
    // Few calls are such that failing at them is no matter.
    assert!(hits > calls * 5, "{hits} of {calls} calls, 6 times each, were seen to fail");
}

#[test]
fn any_one_call_may_fail() {
    every_call(ErrorKind::Other, false);
}

#[test]
fn all_calls_may_fail_from_some_point_on() {
    every_call(ErrorKind::Other, true);
}

#[test]
fn the_disk_may_be_full_from_any_call_on() {
    every_call(ErrorKind::StorageFull, true);
}

/// A name takes room, too: that there is none for a new segment's is a full disk like any other, and ends nothing.
#[test]
fn a_segment_that_gets_no_name_is_a_full_disk() {
    let disk = FaultyDisk::new();
    let mut store = open(&disk).unwrap();
    let large = [Entry::Put(b"large".to_vec(), vec![5; 3000])];
    append(&mut store, 1, &large, 0).unwrap();
    store.sync().unwrap();
    let mut refused = 0;
    // The one call of each number, until the append succeeds: making the file, filling it, naming it.
    for more in 1.. {
        fail_at(&disk, more, ErrorKind::StorageFull, true);
        let outcome = append(&mut store, 1, &large, 0);
        disk.set_fault(None);
        match outcome {
            Err(Error::DiskFull { .. }) => refused += 1,
            Err(Error::Io { path, .. }) => {
                assert_eq!(path, Path::new("/data/store/log"), "only where the name is made durable");
                break;
            }
            other => panic!("{other:?}"),
        }
        let left = disk.paths().into_iter().filter(|path| path.to_string_lossy().ends_with(".log.tmp"));
        assert!(left.count() <= 1);
    }
    assert!(refused > 3, "{refused}");
}

/// The note that the log is durable meets a failed fsync: the kernel shows it, and never writes it. What is written behind
/// it after a restart must not hang on it.
#[test]
fn a_marker_that_never_reached_the_disk_takes_nothing_down_with_it() {
    for more in 1..4 {
        let disk = FaultyDisk::new();
        let mut store = open(&disk).unwrap();
        append(&mut store, 1, &[Entry::put("a", "1")], 0).unwrap();
        store.sync().unwrap();
        // The marker's write, then its fsync.
        disk.set_fault(Some(Fault { call: disk.calls() + 2, kind: ErrorKind::Other, lasting: false }));
        store.mark_durable().unwrap_err();
        drop(store);

        let mut store = open(&disk).unwrap();
        for _ in 0..more {
            append(&mut store, 2, &[Entry::put("b", "2")], 1).unwrap();
            store.sync().unwrap();
        }
        drop(store);
        disk.crash(Unsynced::Lost);
        let store = open(&disk).unwrap();
        assert_eq!(store.last().sequence, Sequence(1 + more), "entries that were durable are gone");
    }
}
