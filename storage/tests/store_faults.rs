//! The embedder's store, with all that goes on behind its writes, on a disk whose n-th call fails, for every n: after that,
//! and after a crash on top of it, the store holds what a prefix of the writes comes to, with all that were acknowledged.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what helpers of a test meet unexpectedly fails it")]

mod support;

use std::io::ErrorKind;
use std::sync::Arc;

use paddock_storage::disk::{Fault, FaultyDisk, Unsynced};
use paddock_storage::{Error, Expected, Readable, Result, Store, WriteBatch};
use support::failing::{EveryCall, calls_of};
use support::{Map, contents};

const FILE_BYTES: u64 = 4 << 10;

/// The writes, each with its effect.
const WRITES: usize = 18;

fn open(disk: &FaultyDisk) -> Result<Store> {
    let builder = Store::builder("/data/store").segment_bytes(FILE_BYTES).extent_bytes(FILE_BYTES);
    let builder = builder.flush_bytes(2 * FILE_BYTES).run_bytes(FILE_BYTES).background_compaction(false);
    builder.mark_idle_after(None).disk(Arc::new(disk.clone())).open()
}

fn value(number: usize) -> Vec<u8> {
    vec![number as u8 + 1; number * 277 % 1_500]
}

/// Write `number`, to the store and to what should be there.
fn write(store: &Store, number: usize) -> Result<()> {
    let key = format!("key {}", number % 5);
    match number % 4 {
        1 => {
            let mut batch = WriteBatch::new();
            batch.insert(&key, value(number))?.insert("other", value(number + 1))?.remove("key 2")?;
            store.write(batch).map(drop)
        }
        3 => store.remove_with(&key, Expected::Any).map(drop),
        _ => store.insert(&key, value(number)).map(drop),
    }
}

fn note(map: &mut Map, number: usize) {
    let key = format!("key {}", number % 5).into_bytes();
    match number % 4 {
        1 => {
            map.insert(key, value(number));
            map.insert(b"other".to_vec(), value(number + 1));
            map.remove(&b"key 2"[..]);
        }
        3 => drop(map.remove(&key)),
        _ => drop(map.insert(key, value(number))),
    }
}

/// What should be there after so many writes, for every number of them.
fn states() -> Vec<Map> {
    let mut states = vec![Map::new()];
    for number in 0..WRITES {
        let mut next = states[number].clone();
        note(&mut next, number);
        states.push(next);
    }
    states
}

/// Carries the script out until something fails. Returns how many writes were acknowledged, and the failure.
fn script(store: Store) -> (usize, Option<Error>) {
    for number in 0..WRITES {
        if let Err(error) = write(&store, number) {
            return (number, Some(error));
        }
        // Whatever fails in it, no write is lost by it.
        if number == WRITES / 2
            && let Err(error) = store.compact()
        {
            return (number + 1, Some(error));
        }
    }
    (WRITES, store.close().err())
}

fn calls() -> u64 {
    let disk = FaultyDisk::new();
    calls_of(&disk, || {
        let (acknowledged, error) = script(open(&disk).unwrap());
        assert!(acknowledged == WRITES && error.is_none(), "{error:?}");
    })
}

/// Returns whether the failure was seen.
fn run(states: &[Map], fault: Fault, ending: Option<Unsynced>) -> bool {
    let case = format!("{fault:?}, then {ending:?}");
    let disk = FaultyDisk::new();
    disk.set_fault(Some(fault));
    let (acknowledged, error) = match open(&disk) {
        Ok(store) => script(store),
        Err(error) => (0, Some(error)),
    };
    let expected =
        |error: &Error| matches!(error, Error::Io { .. } | Error::DiskFull { .. } | Error::Poisoned { .. });
    assert!(error.as_ref().is_none_or(expected), "{case}: {error:?}");
    disk.set_fault(None);
    if let Some(unsynced) = ending {
        disk.crash(unsynced);
    }
    let mut found = None;
    for opening in ["opened", "opened after the next power cut"] {
        let store = open(&disk).unwrap_or_else(|error| panic!("{case}, {opening}: {error}"));
        let map = contents(&store);
        for key in (0..5).map(|number| format!("key {number}")).chain(["other".to_owned()]) {
            let value = store.get(key.as_bytes()).unwrap();
            assert_eq!(
                value.as_deref(),
                map.get(key.as_bytes()).map(Vec::as_slice),
                "{case}, {opening}: {key}"
            );
        }
        let fits = (acknowledged..=WRITES.min(acknowledged + 1)).any(|count| states[count] == map);
        assert!(fits, "{case}, {opening}: not what {acknowledged} writes come to, nor one more");
        // What was served once stays.
        assert!(found.as_ref().is_none_or(|found| *found == map), "{case}, {opening}");
        store.verify().unwrap();
        found = Some(map);
        drop(store);
        disk.crash(Unsynced::Lost);
    }
    error.is_some()
}

fn every_call(kind: ErrorKind, lasting: bool) {
    let (calls, states) = (calls(), states());
    let endings = |call| vec![(call % 2 == 0).then_some(Unsynced::Torn { seed: call })];
    let every_call = EveryCall { calls, kind, lasting, endings: &endings };
    let seen = every_call.fails(|fault, ending| run(&states, fault, ending));
    assert!(seen > calls / 2, "{seen} of {calls} calls were seen to fail");
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

/// The power fails after every call, whatever was under way.
#[test]
fn the_power_may_fail_after_any_call() {
    let (calls, states) = (calls(), states());
    let endings =
        |call| vec![Some(if call % 2 == 0 { Unsynced::Lost } else { Unsynced::Torn { seed: call } })];
    let every_call = EveryCall { calls, kind: ErrorKind::Interrupted, lasting: true, endings: &endings };
    every_call.fails(|fault, ending| run(&states, fault, ending));
}
