//! What was deleted or has expired stays away, whatever a merge was interrupted by.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what helpers of a test meet unexpectedly fails it")]

mod support;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use paddock_storage::disk::{FaultyDisk, Unsynced};
use paddock_storage::{Builder, Clock, Readable, Result, Store, WriteOptions};
use support::failing::fail_at;
use support::{Entry, Map, contents};

fn small(disk: &FaultyDisk) -> Builder {
    let builder =
        Store::builder("/data/store").segment_bytes(4 << 10).extent_bytes(4 << 10).run_bytes(4 << 10);
    builder.disk(Arc::new(disk.clone())).mark_idle_after(None).background_compaction(false)
}

fn key(number: u32) -> Vec<u8> {
    format!("key {number:03}").into_bytes()
}

/// Overwrites and deletes keys of a run that a checkpoint of the index covers, and merges that.
fn change_and_merge(store: &Store) -> Result<()> {
    let mut batch = store.batch();
    for number in 0..200 {
        match number % 3 {
            0 => drop(batch.remove(key(number))?),
            1 => drop(batch.insert(key(number), [number as u8; 60])?),
            _ => {}
        }
    }
    store.write(batch)?;
    store.compact()
}

fn check(store: &Store, expected: &Map, what: &str) {
    assert_eq!(contents(store), *expected, "{what}");
    for number in 0..200 {
        let found = store.get(&key(number)).unwrap().map(|value| value.to_vec());
        assert_eq!(found.as_ref(), expected.get(&key(number)), "{what}: key {number}");
    }
}

/// A checkpoint of the index covers a run. A merge moves some of the run's keys on, and is interrupted at each call. What the
/// checkpoint says of those keys does not count any more.
#[test]
fn an_interrupted_merge_makes_a_part_of_a_checkpoint_old() {
    let disk = FaultyDisk::new();
    let store = small(&disk).open().unwrap();
    let mut before = BTreeMap::new();
    for number in 0..200 {
        store.insert(key(number), [0; 100]).unwrap();
        before.insert(key(number), vec![0; 100]);
    }
    store.compact().unwrap();
    store.close().unwrap();
    assert!(disk.paths().iter().any(|path| path.extension().is_some_and(|extension| extension == "ckpt")));
    let mut after = before.clone();
    for number in 0..200 {
        match number % 3 {
            0 => drop(after.remove(&key(number))),
            1 => drop(after.insert(key(number), vec![number as u8; 60])),
            _ => {}
        }
    }
    for call in 1.. {
        let disk = disk.copy();
        let store = small(&disk).open().unwrap();
        fail_at(&disk, call, ErrorKind::Other, true);
        let outcome = change_and_merge(&store);
        drop(store);
        disk.crash(Unsynced::Kept);
        let store = small(&disk).open().unwrap();
        let expected = if contents(&store).len() == before.len() { &before } else { &after };
        check(&store, expected, &format!("call {call}"));
        store.compact().unwrap();
        check(&store, expected, &format!("call {call}, merged"));
        if outcome.is_ok() {
            return;
        }
    }
}

/// What has expired counts until compaction drops it, and not any longer.
#[test]
fn dropped_records_are_not_counted() {
    let now_ms = Arc::new(AtomicU64::new(1_000));
    let clock = Clock::from_fn({
        let now_ms = now_ms.clone();
        move || now_ms.load(Ordering::SeqCst)
    });
    let store = small(&FaultyDisk::new()).clock(clock).open().unwrap();
    let short = || WriteOptions::new().ttl(Duration::from_secs(1));
    for number in 0..100 {
        store.insert_with(key(number), "short", short()).unwrap().unwrap();
        store.insert(key(100 + number), "long").unwrap();
    }
    store.compact().unwrap();
    now_ms.store(10_000, Ordering::SeqCst);
    assert_eq!(store.len(), 200);
    store.insert("one more", "").unwrap();
    store.compact().unwrap();
    assert_eq!(store.len(), 101);
    assert_eq!(store.snapshot().len(), 101);
    store.insert(key(3), "again").unwrap();
    assert_eq!(store.len(), 102);
    assert_eq!(store.iter().count(), 102);
}

/// A replica's log knows less of what is committed than its index did when that was saved. What is not applied again yet is not
/// there; what it replaces is.
#[test]
fn a_checkpoint_knows_more_than_is_applied() {
    let disk = FaultyDisk::new();
    let options = || support::small(&disk).run_bytes(4 << 10).background_compaction(false);
    let open = || paddock_storage::ReplicatedStore::open("/data/store".as_ref(), options()).unwrap();
    let mut store = open();
    for number in 0..100 {
        support::append(&mut store, 1, &[Entry::Put(key(number), vec![1; 100])], 0).unwrap();
    }
    store.apply(paddock_storage::Sequence(100)).unwrap();
    store.compact().unwrap();
    support::append(&mut store, 1, &[Entry::Put(key(7), b"new".to_vec())], 0).unwrap();
    store.sync().unwrap();
    // Before the store notes in its log that this is committed, the power fails: but the index has been saved.
    store.apply(paddock_storage::Sequence(101)).unwrap();
    let at_work = disk.copy();
    store.close().unwrap();
    let saved =
        disk.paths().into_iter().find(|path| path.extension().is_some_and(|name| name == "ckpt")).unwrap();
    at_work.set_bytes(&saved, &disk.bytes(&saved).unwrap());
    at_work.crash(Unsynced::Lost);
    let options = support::small(&at_work).run_bytes(4 << 10).background_compaction(false);
    let mut store = paddock_storage::ReplicatedStore::open("/data/store".as_ref(), options).unwrap();
    assert_eq!(store.applied(), paddock_storage::Sequence(100));
    let reader = store.reader();
    assert_eq!(reader.get(&key(7)).unwrap().as_deref(), Some(&[1; 100][..]));
    assert_eq!(reader.iter().count(), 100);
    store.apply(paddock_storage::Sequence(101)).unwrap();
    assert_eq!(reader.get(&key(7)).unwrap().as_deref(), Some(&b"new"[..]));
}
