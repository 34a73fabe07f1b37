//! Compaction through the store's own door: what is written is there, whatever was compacted, crashed or full meanwhile.
#![allow(clippy::unwrap_used, reason = "what helpers of a test meet unexpectedly fails it")]

mod support;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use paddock_storage::disk::{Fault, FaultyDisk, Unsynced};
use paddock_storage::{
    Compression, Error, LogRetention, Options, Readable, ReplicatedStore, Result, Sequence, Store,
};
use support::{Entry, append, contents, dice};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

const PATH: &str = "/data/store";

/// Everything small, so that little work needs many flushes and merges; and all of it on the caller's thread.
fn small(disk: &FaultyDisk) -> Options {
    Options::new()
        .segment_bytes(4 << 10)
        .extent_bytes(4 << 10)
        .flush_bytes(2 << 10)
        .run_bytes(4 << 10)
        .background_compaction(false)
        .mark_idle_after(None)
        .disk(Arc::new(disk.clone()))
}

fn open(options: Options) -> Result<Store> {
    Store::builder(PATH).options(options).open()
}

/// Writes, each known to the model once it was acknowledged; the one that failed is returned.
fn work(store: &Store, model: &mut Model, seed: u64, rounds: u32) -> (Result<()>, Option<Vec<u8>>) {
    let mut dice = dice(seed);
    for round in 0..rounds {
        let key = format!("key {:03}", dice(60)).into_bytes();
        let outcome = match dice(5) {
            0 => store.remove(&key).map(|_| drop(model.remove(&key))),
            _ => {
                let value = vec![dice(256) as u8; dice(120) as usize];
                store.insert(&key, &value).map(|_| drop(model.insert(key.clone(), value)))
            }
        };
        if outcome.is_err() {
            return (outcome, Some(key));
        }
        if round % 60 == 59
            && let Err(error) = store.compact()
        {
            return (Err(error), None);
        }
    }
    (Ok(()), None)
}

/// The store has what the model has, but for one key that nobody knows of.
fn compare(store: &Store, model: &Model, unknown: Option<&Vec<u8>>, what: &str) {
    let mut found = contents(store);
    let mut expected = model.clone();
    if let Some(key) = unknown {
        found.remove(key);
        expected.remove(key);
    }
    assert_eq!(found, expected, "{what}");
    for (key, value) in &expected {
        assert_eq!(store.get(key).unwrap().as_deref(), Some(&value[..]), "{what}");
    }
}

#[test]
fn the_power_fails_at_every_call() {
    let whole = FaultyDisk::new();
    let store = open(small(&whole)).unwrap();
    work(&store, &mut Model::new(), 3, 130).0.unwrap();
    let calls = whole.calls();
    drop(store);
    // Writes alone are tried elsewhere: every third call of all is enough of each kind here.
    for call in (1..=calls).step_by(3) {
        let (disk, mut model) = (FaultyDisk::new(), Model::new());
        disk.set_fault(Some(Fault { call, kind: io::ErrorKind::Other, lasting: true }));
        let unknown = open(small(&disk)).ok().and_then(|store| {
            let (_, unknown) = work(&store, &mut model, 3, 130);
            compare(&store, &model, unknown.as_ref(), "before the crash");
            unknown
        });
        disk.crash(if call % 2 == 0 { Unsynced::Torn { seed: call } } else { Unsynced::Lost });
        let what = format!("after call {call} of {calls}");
        let store = open(small(&disk)).unwrap_or_else(|error| panic!("{what}: {error}"));
        compare(&store, &model, unknown.as_ref(), &what);
        store.compact().unwrap();
        compare(&store, &model, unknown.as_ref(), &what);
        assert!(store.stats().unwrap().compaction.runs <= 1);
    }
}

#[test]
fn random_histories_with_reopening() {
    for seed in 1..12 {
        let (disk, mut model) = (FaultyDisk::new(), Model::new());
        for part in 0..6 {
            let store = open(small(&disk)).unwrap();
            compare(&store, &model, None, &format!("seed {seed}, part {part}"));
            let before = store.snapshot();
            let then = model.clone();
            work(&store, &mut model, seed * 100 + part, 150).0.unwrap();
            compare(&store, &model, None, &format!("seed {seed}, part {part}"));
            assert_eq!(contents(&before), then, "seed {seed}: a snapshot changed");
            if part % 2 == 0 {
                store.close().unwrap();
            } else {
                drop((store, before));
                disk.crash(Unsynced::Lost);
            }
        }
    }
}

/// With much less memory than its keys would take, a store answers right and stays within its memory.
#[test]
fn a_store_with_little_memory() {
    let directory = tempfile::tempdir().unwrap();
    let memory_bytes = 2 << 20;
    let options = Options::new().memory_bytes(memory_bytes).segment_bytes(256 << 10).run_bytes(256 << 10);
    let store = Store::builder(directory.path()).options(options.clone()).open().unwrap();
    let key = |number: u32| format!("a key that is rather long, number {number:08}");
    let mut dice = dice(9);
    let mut model: BTreeMap<String, u32> = BTreeMap::new();
    let keys = 40_000;
    for number in 0..keys {
        let mut batch = paddock_storage::WriteBatch::new();
        for _ in 0..if number % 40 == 0 { 40 } else { 0 } {
            let number = dice(keys);
            let version = dice(u32::MAX);
            batch.insert(key(number), version.to_le_bytes()).unwrap();
            model.insert(key(number), version);
        }
        if !batch.is_empty() {
            store.write(batch).unwrap();
        }
        if number % 4_000 == 0 {
            let index_bytes = store.stats().unwrap().index_bytes;
            assert!(index_bytes <= memory_bytes / 8 * 3, "{index_bytes} bytes of indexes");
        }
    }
    let stats = store.stats().unwrap();
    assert!(stats.compaction.cooled_runs > 0, "{stats:?}");
    // With an entry for each key the index would not have fitted.
    assert!(model.len() * 28 > memory_bytes as usize / 4);
    let check = |store: &Store| {
        for (key, version) in &model {
            assert_eq!(store.get(key.as_bytes()).unwrap().as_deref(), Some(&version.to_le_bytes()[..]));
        }
        assert_eq!(store.get(key(keys + 1).as_bytes()).unwrap(), None);
    };
    check(&store);
    store.close().unwrap();
    let store = Store::builder(directory.path()).options(options).open().unwrap();
    check(&store);
    assert!(store.stats().unwrap().index_bytes <= memory_bytes / 8 * 3);
}

/// A replicated store compacts only what is applied, and its log stays whole.
#[test]
fn a_replicated_store_keeps_its_log_and_what_may_be_cut() {
    let disk = FaultyDisk::new();
    let open = || ReplicatedStore::open(Path::new(PATH), small(&disk)).unwrap();
    let mut store = open();
    for number in 0..200 {
        append(&mut store, 1, &[Entry::put(&format!("key {}", number % 50), "applied")], 0).unwrap();
        let last = store.sync().unwrap();
        store.apply(last).unwrap();
    }
    append(&mut store, 1, &[Entry::put("key 7", "not applied"), Entry::put("new", "not applied")], 0)
        .unwrap();
    store.sync().unwrap();
    store.compact().unwrap();
    assert_eq!(store.stats().compaction.runs, 1);
    assert_eq!(store.reader().get(b"key 7").unwrap().as_deref(), Some(&b"applied"[..]));
    store.truncate_after(Sequence(200)).unwrap();
    assert_eq!(support::log(&store).len(), 200);
    drop(store);
    disk.crash(Unsynced::Lost);
    let store = open();
    assert_eq!((store.last().sequence, store.applied()), (Sequence(200), Sequence(200)));
    assert_eq!(contents(&store.reader()).len(), 50);
    assert_eq!(support::log(&store).len(), 200);
}

#[test]
fn a_store_lets_go_of_its_log() {
    let disk = FaultyDisk::new();
    let store = open(small(&disk).log_retention(LogRetention::Nothing)).unwrap();
    let mut model = Model::new();
    work(&store, &mut model, 5, 600).0.unwrap();
    store.compact().unwrap();
    let stats = store.stats().unwrap();
    assert_eq!(stats.segments, 1, "{stats:?}");
    // What is said to be live is exactly what is left.
    let rows: u64 = model.iter().map(|(key, value)| 16 + (key.len() + value.len()) as u64).sum();
    assert_eq!(stats.live_bytes, rows);
    compare(&store, &model, None, "at the end");
    store.close().unwrap();
    compare(&open(small(&disk)).unwrap(), &model, None, "opened again");
}

/// Nobody has to write again for the log to get shorter once its rows are in runs.
#[test]
fn an_idle_store_lets_go_of_its_log() {
    let store = open(small(&FaultyDisk::new()).background_compaction(true)).unwrap();
    store.insert("as much as a tail holds", [7; 3 << 10]).unwrap();
    let begun = Instant::now();
    while store.stats().unwrap().segments > 1 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", store.stats());
        std::thread::yield_now();
    }
    assert_eq!(store.stats().unwrap().compaction.runs, 1);
}

/// A damaged run stops merging, and what is damaged is not returned. Writes go on.
#[test]
fn damage_is_found_and_not_copied() {
    let disk = FaultyDisk::new();
    let store = open(small(&disk).compression(Compression::None)).unwrap();
    store.insert("heron", "a value that can be found in the file").unwrap();
    store.compact().unwrap();
    store.insert("robin", "red").unwrap();
    let run =
        disk.paths().into_iter().find(|path| path.extension().is_some_and(|name| name == "run")).unwrap();
    let mut bytes = disk.bytes(&run).unwrap();
    let place = bytes.windows(7).position(|window| window == b"a value").unwrap();
    bytes[place] ^= 1;
    disk.set_bytes(&run, &bytes);
    assert!(matches!(store.get(b"heron"), Err(Error::Corrupt { .. })));
    assert!(matches!(store.compact(), Err(Error::Corrupt { path, .. }) if path == run));
    store.insert("wren", "brown").unwrap();
    assert!(store.stats().unwrap().compaction.trouble.is_some());
    assert_eq!(store.get(b"robin").unwrap().as_deref(), Some(&b"red"[..]));
}

/// Figures, on the real disk with the store's own thread: what is written for each byte, space, and the longest write.
#[test]
#[ignore = "it prints figures: cargo test --release -p paddock-storage --test compaction -- --ignored --nocapture"]
fn figures() {
    let directory = tempfile::tempdir().unwrap();
    let number = |name: &str| std::env::var(name).ok().map(|number| number.parse::<u64>().unwrap());
    let mut options =
        Options::new().durability(paddock_storage::Durability::Buffered).compression(Compression::None);
    if let Some(bytes) = number("FLUSH") {
        options = options.flush_bytes(bytes);
    }
    let store = Store::builder(directory.path()).options(options.clone()).open().unwrap();
    let keys = number("KEYS").unwrap_or(200_000) as u32;
    let (mut dice, mut noise) = (dice(1), dice(2));
    let row_bytes = 16 + 12 + 200;
    let mut latencies: Vec<Duration> = Vec::new();
    for round in 0..6 {
        let before = store.stats().unwrap().compaction;
        let begun = Instant::now();
        for number in 0..keys {
            let number = if round == 0 { number } else { dice(keys) };
            let mut value = [0; 200];
            value.iter_mut().for_each(|byte| *byte = noise(256) as u8);
            let begun = Instant::now();
            store.insert(format!("key {number:08}"), value).unwrap();
            latencies.push(begun.elapsed());
        }
        let stats = store.stats().unwrap();
        let after = stats.compaction;
        let stored = (u64::from(keys) * row_bytes) as f64;
        let compacted = after.flushed_bytes + after.merged_bytes - before.flushed_bytes - before.merged_bytes;
        println!(
            "round {round}: {:.1} s; per byte stored: log 1 + compaction {:.2}; space {:.2} of live (runs {:.2}, log {:.2}), {} runs",
            begun.elapsed().as_secs_f64(),
            compacted as f64 / stored,
            (after.run_bytes + stats.disk_bytes) as f64 / stored,
            after.run_bytes as f64 / stored,
            stats.disk_bytes as f64 / stored,
            after.runs
        );
    }
    latencies.sort_unstable();
    let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize];
    println!(
        "write: p50 {:?}, p99.9 {:?}, p99.99 {:?}, longest {:?}",
        at(0.5),
        at(0.999),
        at(0.9999),
        at(1.0)
    );
    let begun = Instant::now();
    store.close().unwrap();
    let seconds = begun.elapsed().as_secs_f64();
    let live = (u64::from(keys) * row_bytes) as f64;
    let at_close = parts_on_disk(directory.path());
    let space: u64 = at_close.iter().map(|(_, bytes)| bytes).sum();
    println!("close(): {seconds:.3} s; {:.2} of live on the disk: {at_close:?}", space as f64 / live);
    let store = Store::builder(directory.path()).options(options).open().unwrap();
    let begun = Instant::now();
    store.compact().unwrap();
    let stats = store.stats().unwrap();
    println!(
        "compact(): {:.1} s; {:.2} bytes of runs per live byte, log {} bytes",
        begun.elapsed().as_secs_f64(),
        stats.compaction.run_bytes as f64 / stats.live_bytes as f64,
        stats.disk_bytes
    );
}

/// An owner that asks before it takes more in has few tails waiting, and what is in its log already is applied all the same.
#[test]
fn an_owner_that_may_not_wait_is_told_when_to_hold_back_and_when_to_go_on() {
    let disk = FaultyDisk::new();
    let mut store = ReplicatedStore::open(Path::new(PATH), small(&disk)).unwrap();
    let (bell, heard) = std::sync::mpsc::channel();
    store.when_relieved(move || bell.send(()).unwrap());
    let write = |store: &mut ReplicatedStore| {
        let key = format!("key {}", store.last().sequence);
        append(store, 1, &[Entry::Put(key.into(), vec![7; 500])], 0).unwrap();
    };
    for _ in 0..3 {
        let mut rounds = 0;
        while !store.is_congested() {
            write(&mut store);
            let durable = store.sync().unwrap();
            store.apply(durable).unwrap();
            rounds += 1;
            assert!(rounds < 100, "nobody holds it back");
        }
        assert!(store.stats().compaction.waiting_tails <= 5);
        // Written before the owner asked: that it waits would help nobody.
        write(&mut store);
        let durable = store.sync().unwrap();
        store.apply(durable).unwrap();
        assert_eq!(store.applied(), store.last().sequence);
        assert!(heard.try_recv().is_err());
        store.compact().unwrap();
        assert!(!store.is_congested());
        assert_eq!(heard.try_iter().count(), 1);
    }
    assert_eq!(contents(&store.reader()).len() as u64, store.last().sequence.0);
}

/// Nothing keeps an owner back for good: neither a disk that has no room for runs, nor one that makes no files.
#[test]
fn nobody_waits_for_a_compaction_that_cannot_go_on() {
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
        let disk = FaultyDisk::new();
        let mut store = ReplicatedStore::open(Path::new(PATH), small(&disk)).unwrap();
        while !store.is_congested() {
            append(&mut store, 1, &[Entry::Put(b"key".to_vec(), vec![7; 500])], 0).unwrap();
            let durable = store.sync().unwrap();
            store.apply(durable).unwrap();
        }
        disk.set_fault(Some(Fault { call: disk.calls() + 3, kind, lasting: true }));
        assert!(store.compact().is_err());
        disk.set_fault(None);
        assert!(!store.is_congested());
        store.reserve(1, paddock_storage::Need::Control).unwrap();
        store.compact().unwrap();
    }
}

/// Bytes that the disk gives to each folder of a store.
fn parts_on_disk(path: &Path) -> Vec<(&'static str, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let bytes = |folder: &&'static str| {
        let entries = std::fs::read_dir(path.join(folder)).unwrap();
        entries.map(|entry| entry.unwrap().metadata().unwrap().blocks() * 512).sum()
    };
    ["log", "runs", "index"].iter().map(|folder| (*folder, bytes(folder))).collect()
}
