//! Where other stores went wrong, each a test here by its name. The table is in `partition/PROTOCOL.md`, beside the bugs of
//! replication, which are golden scripts.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what helpers of a test meet unexpectedly fails it")]

mod support;

use std::io::ErrorKind;
use std::path::Path;

use paddock_storage::disk::{FaultyDisk, Unsynced};
use paddock_storage::{ReplicatedStore, Result, Sequence};
use support::failing::{calls_of, fail_at};
use support::{Entry, append, applied, contents, log, open, small};

/// What a power loss does to what was not synced.
const ENDINGS: [Unsynced; 5] = [
    Unsynced::Lost,
    Unsynced::Kept,
    Unsynced::Torn { seed: 1 },
    Unsynced::Torn { seed: 2 },
    Unsynced::Torn { seed: 3 },
];

fn entry(number: u64) -> Entry {
    // Every third is large, so that there are several files.
    let length = if number.is_multiple_of(3) { 2_000 } else { 20 };
    Entry::Put(format!("key {}", number % 4).into_bytes(), vec![number as u8; length])
}

/// Writes entries one by one, and syncs each.
fn write_synced(store: &mut ReplicatedStore, numbers: std::ops::Range<u64>) -> Result<()> {
    for number in numbers {
        let committed = store.last().sequence.0;
        append(store, 1, &[entry(number)], committed)?;
        store.sync()?;
    }
    Ok(())
}

/// KAFKA-10101: what recovery had found at the log's end was served, and counted as durable, although nobody had synced it.
/// Here a process is killed: its last entry is in the kernel's memory, where the next process finds it.
#[test]
fn kafka_10101_what_recovery_keeps_is_synced_before_it_is_served() {
    for ending in ENDINGS {
        let disk = FaultyDisk::new();
        let mut store = open(&disk).unwrap();
        write_synced(&mut store, 0..4).unwrap();
        append(&mut store, 1, &[entry(4)], 4).unwrap();
        drop(store);
        let store = open(&disk).unwrap();
        assert_eq!((store.last().sequence, store.durable()), (Sequence(5), Sequence(5)));
        let shown = log(&store);
        drop(store);
        disk.crash(ending);
        assert_eq!(log(&open(&disk).unwrap()), shown, "{ending:?}");
    }
}

/// KAFKA-15375: the marker of a clean end was written although recovery had not ended, so the next start skipped recovery. Here
/// an opening after a power loss is interrupted at each of its calls, in an orderly way or by another power loss.
#[test]
fn kafka_15375_an_interrupted_recovery_is_no_clean_end() {
    let torn = FaultyDisk::new();
    let mut store = open(&torn).unwrap();
    write_synced(&mut store, 0..7).unwrap();
    let synced = log(&store);
    for number in 7..12 {
        append(&mut store, 1, &[entry(number)], 7).unwrap();
    }
    let written = log(&store);
    drop(store);
    torn.crash(Unsynced::Torn { seed: 7 });
    let recover = |disk: &FaultyDisk| open(disk).and_then(ReplicatedStore::close);
    let calls = calls_of(&torn.copy(), || ()) + {
        let disk = torn.copy();
        calls_of(&disk, || recover(&disk).unwrap())
    };
    assert!(calls > 3, "{calls}");
    for call in 1..=calls {
        for ending in ENDINGS.map(Some).into_iter().chain([None]) {
            let disk = torn.copy();
            fail_at(&disk, call, ErrorKind::Other, true);
            // Whether it says so or not: a close may pass over what no longer matters.
            let _ = recover(&disk);
            disk.set_fault(None);
            if let Some(ending) = ending {
                disk.crash(ending);
            }
            let found = log(&open(&disk).unwrap());
            let case = format!("call {call}, {ending:?}");
            assert!(found.len() >= synced.len(), "{case}: synced entries are gone");
            assert_eq!(found[..], written[..found.len()], "{case}");
        }
    }
}

/// etcd #13766: the number of the last applied entry and the data were not written together, so that after a crash one of
/// them was ahead, and entries were applied twice or never. Here the power fails at every call.
#[test]
fn etcd_13766_index_and_log_stay_together() {
    let options = |disk: &FaultyDisk| small(disk).flush_bytes(4 << 10).background_compaction(false);
    let open = |disk: &FaultyDisk| ReplicatedStore::open(Path::new("/data/store"), options(disk));
    let work = |disk: &FaultyDisk| -> Result<()> {
        let mut store = open(disk)?;
        for round in 0..3 {
            write_synced(&mut store, round * 3..round * 3 + 3)?;
            store.apply(Sequence(store.last().sequence.0 - 1))?;
            store.compact()?;
        }
        store.close()
    };
    let whole = FaultyDisk::new();
    let calls = calls_of(&whole, || work(&whole).unwrap());
    let written = log(&open(&whole).unwrap());
    for call in 1..=calls {
        for ending in &ENDINGS[..3] {
            let disk = FaultyDisk::new();
            fail_at(&disk, call, ErrorKind::Other, true);
            let _ = work(&disk);
            disk.crash(*ending);
            let store = open(&disk).unwrap();
            let through = usize::try_from(store.applied().0).unwrap();
            assert!(store.applied() <= store.last().sequence, "call {call}, {ending:?}");
            assert_eq!(
                contents(&store.reader()),
                applied(&written[..through]),
                "call {call}, {ending:?}: {through} entries are applied"
            );
        }
    }
}

/// etcd #6368: a new file of the log was synced, and the directory with its name was not: after a power loss the file was
/// gone, with all that had been acknowledged in it.
#[test]
fn etcd_6368_the_name_of_a_file_lasts_before_anything_in_it_is_acknowledged() {
    let mut files = 0;
    for count in 1..20 {
        let disk = FaultyDisk::new();
        let mut store = open(&disk).unwrap();
        write_synced(&mut store, 0..count).unwrap();
        let acknowledged = log(&store);
        drop(store);
        disk.crash(Unsynced::Lost);
        assert_eq!(log(&open(&disk).unwrap()), acknowledged, "after {count} entries");
        let names = disk.paths();
        files = names.iter().filter(|path| path.starts_with("/data/store/log")).count();
    }
    assert!(files > 2, "there are several files: {files}");
}
