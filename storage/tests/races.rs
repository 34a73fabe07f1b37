//! Readers on other threads, while the one writer rolls to new segments, cuts entries off and writes others in their place.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what helpers of a test meet unexpectedly fails it")]

mod support;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use paddock_storage::{Options, Readable, Reader, Record, ReplicatedStore, Sequence};
use support::{Entry, append};

const KEYS: u64 = 40;
const ROUNDS: u64 = 200;

/// A value says which key it is of, and whether its entry was to be committed.
fn entry(key: u64, version: u64, committed: bool) -> Entry {
    let filling = "x".repeat((version * 37 % 400) as usize);
    Entry::put(&format!("key {key:02}"), &format!("key {key:02} {version} {committed} {filling}"))
}

/// What a reader saw of each key last: versions only rise, and what was cut off is never seen.
#[derive(Default)]
struct Seen(HashMap<Vec<u8>, u64>);

impl Seen {
    fn check(&mut self, record: &Record) {
        let key = str::from_utf8(&record.key).unwrap();
        let value = str::from_utf8(&record.value).unwrap();
        assert!(
            value.starts_with(&format!("{key} {} true ", record.version)),
            "{key} at {}: {value}",
            record.version
        );
        let last = self.0.insert(record.key.to_vec(), record.version.0).unwrap_or_default();
        assert!(last <= record.version.0, "{key} went from {last} back to {}", record.version);
    }
}

fn read_all_the_time(reader: &Reader, done: &AtomicBool) -> u64 {
    let (mut seen, mut reads) = (Seen::default(), 0);
    while !done.load(Ordering::Relaxed) {
        let applied = reader.applied();
        let mut keys = 0;
        for record in reader.iter() {
            seen.check(&record.unwrap());
            keys += 1;
        }
        for record in reader.range("key 10".."key 20").rev() {
            seen.check(&record.unwrap());
        }
        if let Some(record) = reader.get_record(b"key 07").unwrap() {
            seen.check(&record);
        }
        // Each key was written in the first rounds, and none is ever removed.
        assert!(applied < Sequence(KEYS) || keys == KEYS, "{keys} keys at {applied}");
        reads += keys;
    }
    reads
}

/// Lets the readers go, also when the writer fails its test.
struct Finish<'a>(&'a AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn readers_see_committed_rows_only_and_none_goes_back() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options::new().segment_bytes(8 << 10).extent_bytes(8 << 10);
    let mut store = ReplicatedStore::open(directory.path(), options).unwrap();
    let done = AtomicBool::new(false);
    let reads: u64 = thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let (reader, done) = (store.reader(), &done);
                scope.spawn(move || read_all_the_time(&reader, done))
            })
            .collect();
        let finish = Finish(&done);
        for round in 0..ROUNDS {
            let epoch = round + 1;
            let next = store.last().sequence.0 + 1;
            let good: Vec<Entry> = (0..4).map(|at| entry((next + at - 1) % KEYS, next + at, true)).collect();
            let lost: Vec<Entry> =
                (0..1 + round % 60).map(|at| entry(at % KEYS, next + 4 + at, false)).collect();
            append(&mut store, epoch, &[good, lost].concat(), 0).unwrap();
            store.apply(Sequence(next + 3)).unwrap();
            if round % 3 == 0 {
                store.sync().unwrap();
            }
            store.truncate_after(Sequence(next + 3)).unwrap();
        }
        drop(finish);
        readers.into_iter().map(|reader| reader.join().unwrap()).sum()
    });
    assert!(reads > KEYS, "{reads} reads");
    assert!(store.stats().segments > 50);
    assert_eq!(store.stats().records, KEYS);
    store.verify().unwrap();
}

/// What is printed of a store does not grow with it.
#[test]
fn a_store_is_not_printed_key_by_key() {
    let directory = tempfile::tempdir().unwrap();
    let store = paddock_storage::Store::open(directory.path()).unwrap();
    for number in 0..100 {
        store.insert(format!("secret {number}"), "value").unwrap();
    }
    let printed = format!("{store:?} {:?}", store.iter());
    assert!(!printed.contains("secret") && printed.len() < 2_000, "{printed}");
}
