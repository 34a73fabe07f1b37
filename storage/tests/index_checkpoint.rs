//! Checkpoints of the index that must not be believed: what they say was overtaken by a log that ended before it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what helpers of a test meet unexpectedly fails it")]

mod support;

use std::io::ErrorKind;
use std::path::PathBuf;

use paddock_storage::disk::{FaultyDisk, Unsynced};
use paddock_storage::{Error, Options, Readable, ReplicatedStore, Sequence};
use support::failing::{fail_at, fail_look_at};
use support::{Entry, append, contents};

fn options(disk: &FaultyDisk) -> Options {
    support::small(disk).run_bytes(4 << 10).background_compaction(false)
}

fn open(disk: &FaultyDisk) -> paddock_storage::Result<ReplicatedStore> {
    ReplicatedStore::open("/data/store".as_ref(), options(disk))
}

fn key(number: u32) -> Vec<u8> {
    format!("key {number:03}").into_bytes()
}

fn saved(disk: &FaultyDisk) -> Option<PathBuf> {
    disk.paths().into_iter().find(|path| path.extension().is_some_and(|name| name == "ckpt"))
}

/// A hundred keys in a run, and one of them once more in the log, of which a checkpoint of the index knows. What of the log was
/// not durable is lost in a crash, the checkpoint is not.
fn ahead_of_its_log(synced: bool) -> FaultyDisk {
    let disk = FaultyDisk::new();
    let mut store = open(&disk).unwrap();
    for number in 0..100 {
        append(&mut store, 1, &[Entry::Put(key(number), vec![1; 100])], 0).unwrap();
    }
    store.apply(Sequence(100)).unwrap();
    store.compact().unwrap();
    append(&mut store, 1, &[Entry::Put(key(7), b"new".to_vec())], 0).unwrap();
    if synced {
        store.sync().unwrap();
    }
    store.apply(Sequence(101)).unwrap();
    let at_work = disk.copy();
    store.close().unwrap();
    let saved = saved(&disk).unwrap();
    at_work.set_bytes(&saved, &disk.bytes(&saved).unwrap());
    at_work.crash(Unsynced::Lost);
    at_work
}

/// Opening finds that the log is shorter than the checkpoint, and removes that; the process is killed at each call of it. The next
/// one goes on where the first one was, writes as much as the log had lost, and then the power fails: what was removed must
/// not be there again.
#[test]
fn a_checkpoint_that_was_removed_does_not_come_back() {
    for call in 1.. {
        let disk = ahead_of_its_log(false);
        fail_at(&disk, call, ErrorKind::Other, true);
        let opened = open(&disk);
        let done = opened.is_ok();
        drop(opened);
        disk.set_fault(None);

        let mut store = open(&disk).unwrap();
        assert_eq!(store.last().sequence, Sequence(100));
        append(&mut store, 2, &[Entry::Put(key(8), b"new".to_vec())], 0).unwrap();
        store.sync().unwrap();
        store.apply(Sequence(101)).unwrap();
        drop(store);
        disk.crash(Unsynced::Lost);

        let mut store = open(&disk).unwrap();
        store.apply(Sequence(101)).unwrap();
        let reader = store.reader();
        assert_eq!(reader.get(&key(7)).unwrap().as_deref(), Some(&[1; 100][..]), "killed at call {call}");
        assert_eq!(contents(&reader).len(), 100, "killed at call {call}");
        if done {
            return;
        }
    }
}

/// What was applied once was committed. The log does not know it, but the index does: a cut below it would leave keys that
/// the index does not find.
#[test]
fn what_the_index_knows_to_be_applied_is_not_cut_off() {
    let disk = ahead_of_its_log(true);
    let mut store = open(&disk).unwrap();
    assert_eq!((store.applied(), store.last().sequence), (Sequence(100), Sequence(101)));
    let cut = store.truncate_after(Sequence(100));
    if cut.is_ok() {
        append(&mut store, 2, &[Entry::Put(key(8), b"new".to_vec())], 0).unwrap();
        store.apply(Sequence(101)).unwrap();
        let found = store.reader().get(&key(7)).unwrap();
        assert_eq!(found.as_deref(), Some(&[1; 100][..]));
    }
    assert!(matches!(cut, Err(Error::Misplaced { actual: 100, expected: 101, .. })), "{cut:?}");
    assert_eq!(store.last().sequence, Sequence(101));
    store.apply(Sequence(101)).unwrap();
    assert_eq!(store.reader().get(&key(7)).unwrap().as_deref(), Some(&b"new"[..]));
}

/// A checkpoint that cannot be read, or is damaged anywhere, costs time and nothing else; and it does not stay.
#[test]
fn what_is_wrong_with_a_checkpoint_keeps_no_store_closed() {
    let disk = ahead_of_its_log(true);
    let path = saved(&disk).unwrap();
    let bytes = disk.bytes(&path).unwrap();
    for at in (0..bytes.len()).step_by(997).chain([bytes.len() - 1]) {
        let copy = disk.copy();
        let mut bytes = bytes.clone();
        bytes[at] ^= 4;
        copy.set_bytes(&path, &bytes);
        let store = open(&copy).unwrap();
        assert_eq!(contents(&store.reader()).len(), 100, "byte {at}");
        assert_eq!(store.reader().get(&key(7)).unwrap().as_deref(), Some(&[1; 100][..]), "byte {at}");
        assert_eq!(saved(&copy), None, "byte {at}");
    }
    for call in 1.. {
        let copy = disk.copy();
        fail_look_at(&copy, call, ErrorKind::Other);
        let opened = open(&copy);
        let looks = copy.looks();
        copy.set_look_fault(None);
        match opened {
            Ok(store) => assert_eq!(store.reader().iter().count(), 100, "look {call}"),
            Err(Error::Io { path: of, .. }) => assert_ne!(of, path, "look {call}"),
            Err(error) => panic!("look {call}: {error}"),
        }
        if looks < call {
            return;
        }
    }
}
