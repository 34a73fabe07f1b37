//! Copies that somebody else writes than the store's owner: what they hold is as of the moment when they were asked for,
//! whatever the owner and compaction do meanwhile.
#![allow(clippy::unwrap_used, reason = "what helpers of a test meet unexpectedly fails it")]

mod support;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;

use paddock_storage::disk::{Fault, FaultyDisk};
use paddock_storage::{LogRetention, Options, ReplicatedStore, Sequence};
use support::{Entry, Map, append, contents, dice};

const STORE: &str = "/data/store";
const COPY: &str = "/data/copy";

/// Small files, compacted when it is asked for, and no log but what is needed.
fn calm(disk: &FaultyDisk) -> Options {
    let options = Options::new().segment_bytes(4 << 10).extent_bytes(4 << 10).run_bytes(4 << 10);
    let options = options.background_compaction(false).log_retention(LogRetention::Nothing);
    options.disk(Arc::new(disk.clone()))
}

fn open(disk: &FaultyDisk, path: &str) -> ReplicatedStore {
    ReplicatedStore::open(Path::new(path), calm(disk)).unwrap()
}

/// Random writes, applied.
fn write(store: &mut ReplicatedStore, dice: &mut impl FnMut(u32) -> u32, count: usize) {
    for _ in 0..count {
        let key = format!("key {:03}", dice(80));
        let entry = match dice(5) {
            0 => Entry::Delete(key.into()),
            _ => Entry::Put(key.into(), vec![dice(256) as u8; dice(200) as usize]),
        };
        append(store, 1, &[entry], 0).unwrap();
    }
    let durable = store.sync().unwrap();
    store.apply(durable).unwrap();
}

fn names(disk: &FaultyDisk, path: &str, folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(path).join(folder);
    disk.paths().into_iter().filter(|path| path.starts_with(&folder)).collect()
}

/// A store that has been compacted, and written to since; and what is in it.
fn used(disk: &FaultyDisk) -> (ReplicatedStore, Map) {
    let (mut store, mut dice) = (open(disk, STORE), dice(1));
    write(&mut store, &mut dice, 200);
    store.compact().unwrap();
    write(&mut store, &mut dice, 60);
    let map = contents(&store.reader());
    (store, map)
}

#[test]
fn what_goes_meanwhile_is_in_the_copy_and_leaves_the_disk_afterwards() {
    let disk = FaultyDisk::new();
    let (mut store, map) = used(&disk);
    let last = store.last().sequence;
    for ending in ["written", "dropped"] {
        let checkpointer = store.checkpointer().unwrap();
        assert_eq!(checkpointer.last(), store.last().sequence);
        let before = (names(&disk, STORE, "runs"), names(&disk, STORE, "log"));
        write(&mut store, &mut dice(2), 200);
        store.compact().unwrap();
        let first = store.log_first();
        assert!(first > last);
        let meanwhile = disk.paths();
        assert!(before.0.iter().chain(&before.1).all(|name| meanwhile.contains(name)));
        match ending {
            "written" => assert_eq!(checkpointer.write(Path::new(COPY)).unwrap(), last),
            _ => drop(checkpointer),
        }
        assert_eq!(names(&disk, STORE, "runs").len() as u64, store.stats().compaction.run_files, "{ending}");
        assert_eq!(names(&disk, STORE, "log").len() as u64, store.stats().segments, "{ending}");
    }
    let mut copy = open(&disk, COPY);
    assert_eq!((copy.last().sequence, contents(&copy.reader()) == map), (last, true));
    copy.verify().unwrap();
    write(&mut copy, &mut dice(3), 200);
    copy.compact().unwrap();
    store.verify().unwrap();
}

/// Uncommitted entries are in the copy, and the owner may cut them meanwhile.
#[test]
fn what_is_cut_meanwhile_is_in_the_copy() {
    let disk = FaultyDisk::new();
    let (mut store, map) = used(&disk);
    let committed = store.last().sequence;
    for number in 0..30 {
        append(&mut store, 1, &[Entry::put(&format!("uncommitted {number}"), &"x".repeat(300))], 0).unwrap();
    }
    let whole = store.read_log(committed, 1 << 20).unwrap();
    let checkpointer = store.checkpointer().unwrap();
    store.truncate_after(Sequence(committed.0 + 5)).unwrap();
    append(&mut store, 2, &[Entry::put("key", "of the store")], 0).unwrap();
    store.sync().unwrap();
    assert_eq!(checkpointer.write(Path::new(COPY)).unwrap().0, committed.0 + 30);
    let mut copy = open(&disk, COPY);
    assert_eq!((copy.known_commit(), contents(&copy.reader()) == map), (committed, true));
    assert!(copy.read_log(committed, 1 << 20).unwrap() == whole);
    copy.truncate_after(committed).unwrap();
    store.verify().unwrap();
}

/// A failure is told to who writes the copy, and the store goes on, unless it is its own log that failed.
#[test]
fn every_call_of_writing_a_copy_may_fail() {
    for call in 1.. {
        let disk = FaultyDisk::new();
        let (mut store, map) = used(&disk);
        let checkpointer = store.checkpointer().unwrap();
        let fault = Fault { call: disk.calls() + call, kind: ErrorKind::Other, lasting: false };
        disk.set_fault(Some(fault));
        let outcome = checkpointer.write(Path::new(COPY));
        disk.set_fault(None);
        assert!(contents(&store.reader()) == map, "call {call}");
        let appended = append(&mut store, 1, &[Entry::put("key", "value")], 0);
        let goes_on = appended.and_then(|()| store.sync()).is_ok();
        if outcome.is_ok() {
            assert!(goes_on && call > 20, "call {call}");
            assert!(contents(&open(&disk, COPY).reader()) == map);
            return;
        }
        let is_left = disk.paths().iter().any(|path| path.ends_with("copy/MANIFEST"));
        assert!(!is_left || contents(&open(&disk, COPY).reader()) == map, "call {call}");
        drop(store);
        let _ = open(&disk, STORE);
    }
}

/// Once the store is closed nobody keeps its files for the copy: it is made all the same, or refused.
#[test]
fn a_store_that_was_closed_meanwhile_loses_nothing() {
    let disk = FaultyDisk::new();
    let (mut store, map) = used(&disk);
    let last = store.last().sequence;
    let checkpointer = store.checkpointer().unwrap();
    write(&mut store, &mut dice(4), 100);
    store.compact().unwrap();
    let map_after = contents(&store.reader());
    store.close().unwrap();
    let store = open(&disk, STORE);
    match checkpointer.write(Path::new(COPY)) {
        Ok(written) => {
            assert_eq!(written, last);
            assert!(contents(&open(&disk, COPY).reader()) == map);
        }
        Err(_) => assert!(
            ReplicatedStore::open(Path::new(COPY), calm(&disk)).is_ok_and(|copy| copy.recovery().created)
        ),
    }
    assert!(contents(&store.reader()) == map_after);
    store.verify().unwrap();
}

#[test]
fn an_owner_goes_on_while_copies_are_written() {
    let directory = tempfile::tempdir().unwrap();
    let options = || {
        let options = Options::new().segment_bytes(16 << 10).extent_bytes(4 << 10).run_bytes(32 << 10);
        options.flush_bytes(24 << 10).log_retention(LogRetention::Bytes(32 << 10))
    };
    let mut store = ReplicatedStore::open(&directory.path().join("store"), options()).unwrap();
    let mut dice = dice(5);
    let (jobs, todo) = mpsc::channel::<(paddock_storage::Checkpointer, PathBuf)>();
    let writer = thread::spawn(move || {
        for (checkpointer, path) in todo {
            checkpointer.write(&path).unwrap();
        }
    });
    let mut expected = Vec::new();
    for number in 0..12 {
        write(&mut store, &mut dice, 150);
        let path = directory.path().join(format!("copy {number}"));
        let checkpointer = store.checkpointer().unwrap();
        expected.push((path.clone(), store.last(), contents(&store.reader())));
        jobs.send((checkpointer, path)).unwrap();
    }
    drop(jobs);
    writer.join().unwrap();
    assert!(store.stats().compaction.flushes > 0);
    for (path, last, map) in expected {
        let copy = ReplicatedStore::open(&path, options()).unwrap();
        assert_eq!((copy.last(), contents(&copy.reader()) == map), (last, true), "{}", path.display());
        copy.verify().unwrap();
    }
}
