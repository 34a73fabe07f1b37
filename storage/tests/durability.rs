//! What each durability promises, and that whatever a crash takes, it takes from the end.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what helpers of a test meet unexpectedly fails it")]

mod support;

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use paddock_storage::disk::{FaultyDisk, Unsynced};
use paddock_storage::{Builder, Durability, Error, Expected, Sequence, Store, WriteBatch, WriteOptions};
use proptest::collection::vec;
use proptest::prelude::*;
use support::failing::fail_at;
use support::{Map, contents};

const LOG: &str = "/data/store/log/00000000000000000001.log";

/// A store whose own thread has nothing to do unless a test asks for it.
fn builder(disk: &FaultyDisk) -> Builder {
    let builder = Store::builder("/data/store").segment_bytes(4 << 10).extent_bytes(4 << 10);
    builder.disk(Arc::new(disk.clone())).mark_idle_after(None).sync_interval(Duration::from_secs(3_600))
}

/// Waits for what the store's own thread does.
fn eventually(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !happened() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        thread::yield_now();
    }
}

fn durability() -> impl Strategy<Value = Durability> {
    prop_oneof![
        4 => Just(Durability::Buffered),
        2 => Just(Durability::Interval),
        1 => Just(Durability::Sync),
    ]
}

fn unsynced() -> impl Strategy<Value = Unsynced> {
    prop_oneof![
        Just(Unsynced::Lost),
        Just(Unsynced::Kept),
        any::<u64>().prop_map(|seed| Unsynced::Torn { seed })
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Insert { key: u8, length: usize, durability: Durability },
    Remove { key: u8, durability: Durability },
    Sync,
    Crash(Unsynced),
    Kill,
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..20_u8, prop_oneof![0..60_usize, 0..3_000_usize], durability())
            .prop_map(|(key, length, durability)| Step::Insert { key, length, durability }),
        4 => (0..20_u8, durability()).prop_map(|(key, durability)| Step::Remove { key, durability }),
        1 => Just(Step::Sync),
        2 => unsynced().prop_map(Step::Crash),
        1 => Just(Step::Kill),
        1 => Just(Step::Close),
    ]
}

/// The contents after each write, and how many writes are durable for certain.
struct Model {
    states: Vec<Map>,
    durable: usize,
}

impl Model {
    fn wrote(&mut self, key: u8, value: Option<Vec<u8>>, durability: Durability) {
        let mut next = self.states.last().unwrap().clone();
        match value {
            Some(value) => drop(next.insert(vec![key], value)),
            None => drop(next.remove(&vec![key])),
        }
        self.states.push(next);
        if durability == Durability::Sync {
            self.durable = self.states.len() - 1;
        }
    }

    /// What survived is one of the states, and none before what was durable.
    fn check(&mut self, store: &Store) {
        let last = usize::try_from(store.stats().unwrap().last.0).unwrap();
        assert!(last >= self.durable, "{last} writes of {} durable ones", self.durable);
        assert_eq!(contents(store), self.states[last]);
        self.states.truncate(last + 1);
        self.durable = last;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Writes of all kinds, mixed; crashes of all kinds: what is left is a prefix with everything that was synced.
    #[test]
    fn a_crash_leaves_a_prefix_with_all_that_was_synced(steps in vec(step(), 1..60)) {
        let mut disk = FaultyDisk::new();
        let mut store = builder(&disk).open().unwrap();
        let mut model = Model { states: vec![Map::new()], durable: 0 };
        for step in steps {
            match step {
                Step::Insert { key, length, durability } => {
                    let value = vec![key; length];
                    let options = WriteOptions::new().durability(durability);
                    store.insert_with([key], &value, options).unwrap().unwrap();
                    model.wrote(key, Some(value), durability);
                }
                Step::Remove { key, durability } => {
                    let options = WriteOptions::new().durability(durability);
                    store.remove_with([key], options).unwrap().unwrap();
                    model.wrote(key, None, durability);
                }
                Step::Sync => {
                    store.sync().unwrap();
                    model.durable = model.states.len() - 1;
                }
                Step::Crash(unsynced) => {
                    // The process dies with the machine: what it does on its way out happens on no disk.
                    let lost = disk;
                    disk = lost.copy();
                    drop(store);
                    disk.crash(unsynced);
                    store = builder(&disk).open().unwrap();
                }
                Step::Kill => {
                    drop(store);
                    store = builder(&disk).open().unwrap();
                    model.durable = model.states.len() - 1;
                }
                Step::Close => {
                    store.close().unwrap();
                    store = builder(&disk).open().unwrap();
                    model.durable = model.states.len() - 1;
                }
            }
            model.durable = model.durable.max(usize::try_from(store.stats().unwrap().durable.0).unwrap());
            if matches!(step, Step::Crash(_) | Step::Kill | Step::Close) {
                model.check(&store);
            } else {
                prop_assert_eq!(&contents(&store), model.states.last().unwrap());
            }
        }
    }
}

#[test]
fn each_durability_lasts_as_long_as_it_says() {
    let disk = FaultyDisk::new();
    let store = builder(&disk).durability(Durability::Buffered).open().unwrap();
    let syncs = |store: &Store| store.stats().unwrap().syncs;
    store.insert("a", "1").unwrap();
    store.insert_with("b", "2", WriteOptions::new().durability(Durability::Interval)).unwrap().unwrap();
    let stats = store.stats().unwrap();
    assert_eq!((stats.last, stats.durable, stats.syncs), (Sequence(2), Sequence(0), 0));
    // Visible at once.
    assert_eq!(contents(&store).len(), 2);

    // One fsync for all before it.
    store.insert_with("c", "3", WriteOptions::new().durability(Durability::Sync)).unwrap().unwrap();
    assert_eq!((store.stats().unwrap().durable, syncs(&store)), (Sequence(3), 1));

    // The most durable write of a batch decides.
    let mut batch = WriteBatch::new();
    batch.insert("d", "4").unwrap();
    batch.insert_with("e", "5", WriteOptions::new().durability(Durability::Sync)).unwrap();
    batch.remove_with("a", WriteOptions::new().durability(Durability::Buffered)).unwrap();
    store.write(batch).unwrap();
    assert_eq!((store.stats().unwrap().durable, syncs(&store)), (Sequence(6), 2));
    store.sync().unwrap();
    assert_eq!(syncs(&store), 2, "there was nothing to sync");
    store.insert("f", "lost").unwrap();
    // The process dies with the machine: what it does on its way out happens on no disk.
    let lost = disk;
    let disk = lost.copy();
    drop(store);
    disk.crash(Unsynced::Lost);
    let store = builder(&disk).open().unwrap();
    let keys: Vec<_> = contents(&store).into_keys().collect();
    assert_eq!(keys, [b"b", b"c", b"d", b"e"]);
}

/// A refusal that is told durably rests on durable writes, also on those of others.
#[test]
fn a_synced_refusal_makes_durable_what_it_rests_on() {
    let disk = FaultyDisk::new();
    let store = builder(&disk).open().unwrap();
    store.insert_with("seat", "Ada", WriteOptions::new().durability(Durability::Buffered)).unwrap().unwrap();
    assert!(store.insert_with("seat", "Bob", Expected::Absent).unwrap().is_err());
    drop(store);
    disk.crash(Unsynced::Lost);
    assert_eq!(contents(&builder(&disk).open().unwrap()).len(), 1);
}

#[test]
fn an_interval_write_is_synced_soon_and_beside_others() {
    let disk = FaultyDisk::new();
    let store = builder(&disk).durability(Durability::Interval).sync_interval(Duration::from_millis(1));
    let store = store.open().unwrap();
    for number in 0..50_u32 {
        store.insert(number.to_be_bytes(), [1; 200]).unwrap();
        eventually("the fsync", || {
            let stats = store.stats().unwrap();
            stats.durable == stats.last
        });
    }
    let before = contents(&store);
    drop(store);
    disk.crash(Unsynced::Lost);
    assert_eq!(contents(&builder(&disk).open().unwrap()), before);
}

/// Who lets go of the store within the interval keeps the promise, too.
#[test]
fn dropping_the_store_syncs_what_was_promised() {
    let disk = FaultyDisk::new();
    let store = builder(&disk).durability(Durability::Interval).open().unwrap();
    store.insert("a", "1").unwrap();
    drop(store);
    disk.crash(Unsynced::Lost);
    assert_eq!(contents(&builder(&disk).open().unwrap()).len(), 1);
}

#[test]
fn a_later_fsync_that_fails_ends_writing() {
    let disk = FaultyDisk::new();
    let store = builder(&disk).durability(Durability::Interval).sync_interval(Duration::from_millis(1));
    let store = store.open().unwrap();
    store.insert("a", "1").unwrap();
    store.sync().unwrap();
    // The write itself, then the fsync.
    fail_at(&disk, 2, ErrorKind::Other, false);
    let mut number = 0_u32;
    eventually("the failure", || {
        number += 1;
        let options = WriteOptions::new().durability(Durability::Interval);
        match store.insert_with(number.to_be_bytes(), "x", options) {
            Ok(_) => false,
            Err(Error::Poisoned { .. } | Error::Io { .. }) => true,
            Err(other) => panic!("{other}"),
        }
    });
    assert!(matches!(store.sync(), Err(Error::Poisoned { .. })));
    assert!(matches!(store.insert("b", "2"), Err(Error::Poisoned { .. })));
    // A weaker write is no way around it.
    let options = WriteOptions::new().durability(Durability::Buffered);
    assert!(matches!(store.insert_with("b", "2", options), Err(Error::Poisoned { .. })));
    drop(store);
    disk.crash(Unsynced::Lost);
    assert!(contents(&builder(&disk).open().unwrap()).contains_key(&b"a"[..]));
}

/// Once nobody writes, the log says that all of it is durable: then even its last batch cannot pass for torn.
#[test]
fn an_idle_store_marks_its_log_durable() {
    let disk = FaultyDisk::new();
    let store = builder(&disk).mark_idle_after(Some(Duration::from_millis(1))).open().unwrap();
    store.insert("last", "value").unwrap();
    let batches = || {
        let bytes = disk.bytes(Path::new(LOG)).unwrap();
        bytes.windows(4).filter(|window| window == b"PDKb").count()
    };
    eventually("the marker", || batches() == 2);
    store.sync().unwrap();
    drop(store);
    damage_last(&disk, "value");
    assert!(matches!(builder(&disk).open(), Err(Error::Corrupt { .. })));
}

/// Without the marker the same damage looks like a torn end.
#[test]
fn without_the_marker_the_last_batch_may_pass_for_torn() {
    let disk = FaultyDisk::new();
    let store = builder(&disk).open().unwrap();
    store.insert("last", "value").unwrap();
    drop(store);
    damage_last(&disk, "value");
    assert!(builder(&disk).open().unwrap().recovery().torn_bytes > 0);
}

fn damage_last(disk: &FaultyDisk, text: &str) {
    let mut bytes = disk.bytes(Path::new(LOG)).unwrap();
    let at = bytes.windows(text.len()).rposition(|window| window == text.as_bytes()).unwrap();
    bytes[at] ^= 1;
    disk.set_bytes(Path::new(LOG), &bytes);
}

/// Threads with all durabilities at once: each synced write is durable when its call returns.
#[test]
fn threads_of_all_durabilities_share_turns() {
    let disk = FaultyDisk::new();
    let store = builder(&disk).sync_interval(Duration::from_millis(1)).open().unwrap();
    thread::scope(|scope| {
        for thread in 0..6_u8 {
            let store = store.clone();
            scope.spawn(move || {
                for number in 0..100_u8 {
                    let durability = [Durability::Sync, Durability::Interval, Durability::Buffered]
                        [usize::from(thread % 3)];
                    let options = WriteOptions::new().durability(durability);
                    let version = store.insert_with([thread, number], "x", options).unwrap().unwrap();
                    if durability == Durability::Sync {
                        assert!(store.stats().unwrap().durable >= version);
                    }
                }
            });
        }
    });
    store.sync().unwrap();
    let before = contents(&store);
    assert_eq!(before.len(), 600);
    drop(store);
    disk.crash(Unsynced::Lost);
    assert_eq!(contents(&builder(&disk).open().unwrap()), before);
}

/// The n-th call fails, for every n, while buffered and synced writes alternate: what is left is a prefix with everything
/// that was acknowledged as durable.
#[test]
fn any_one_call_may_fail_below_buffered_writes() {
    let write = |store: &Store, number: u32| {
        let durability = [Durability::Buffered, Durability::Buffered, Durability::Sync][number as usize % 3];
        let options = WriteOptions::new().durability(durability);
        let value = vec![7; 100 + number as usize * 97 % 1_500];
        store.insert_with(number.to_be_bytes(), value, options).map(|written| (written.unwrap(), durability))
    };
    let mut failed = 0;
    for call in 1.. {
        let disk = FaultyDisk::new();
        let store = builder(&disk).open().unwrap();
        fail_at(&disk, call, ErrorKind::Other, false);
        let mut durable = Sequence(0);
        let mut outcome = Ok(());
        for number in 0..12 {
            match write(&store, number) {
                Ok((version, Durability::Sync)) => durable = version,
                Ok(_) => {}
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        if outcome.is_err() {
            failed += 1;
            assert!(matches!(write(&store, 99), Err(Error::Poisoned { .. })));
        }
        drop(store);
        disk.crash(Unsynced::Torn { seed: call });
        let store = builder(&disk).open().unwrap();
        let last = store.stats().unwrap().last;
        assert!(last >= durable, "call {call}: {last} of {durable}");
        let keys: Vec<_> = contents(&store).into_keys().collect();
        let expected: Vec<_> =
            (0..u32::try_from(last.0).unwrap()).map(|number| number.to_be_bytes()).collect();
        assert_eq!(keys, expected, "call {call}");
        if outcome.is_ok() {
            break;
        }
    }
    assert!(failed > 15, "{failed}");
}

/// Changes come in order, each once, and none that a crash could take.
#[test]
fn changes_are_those_that_last() {
    let disk = FaultyDisk::new();
    let clock = paddock_storage::Clock::from_fn(|| 77);
    let store = builder(&disk).log_retention(paddock_storage::LogRetention::Everything).clock(clock);
    let store = store.open().unwrap();
    let buffered = || WriteOptions::new().durability(Durability::Buffered);
    let mut changes = store.changes(Sequence(0));
    assert!(changes.next().is_none());
    for number in 0..50_u32 {
        let options = buffered().expires_at_ms(u64::from(number) + 1).content_type("text/plain");
        store.insert_with(number.to_be_bytes(), [1; 300], options).unwrap().unwrap();
    }
    // What is in older segments is durable.
    let early = changes.by_ref().count();
    assert!((1..50).contains(&early), "{early}");
    store.remove_with(7_u32.to_be_bytes(), buffered()).unwrap().unwrap();
    store.sync().unwrap();
    let late: Vec<_> = changes.by_ref().map(|change| change.unwrap()).collect();
    assert_eq!(early + late.len(), 51);

    let all: Vec<_> = store.changes(Sequence(0)).map(|change| change.unwrap()).collect();
    assert_eq!(all[early..], late);
    for (number, change) in (0..50_u32).zip(&all) {
        let record = change.record.as_ref().unwrap();
        assert_eq!((&change.key[..], change.log_time_ms), (&number.to_be_bytes()[..], 77));
        assert_eq!((change.version, record.version), (Sequence(u64::from(number) + 1), change.version));
        assert_eq!((record.value.len(), record.expires_at_ms), (300, Some(u64::from(number) + 1)));
        assert_eq!(record.content_type.as_ref().map(|text| text.as_str()), Some("text/plain"));
    }
    assert_eq!((all[50].version, &all[50].record), (Sequence(51), &None));
    assert_eq!(store.changes(Sequence(49)).count(), 2);
    assert_eq!(store.changes(Sequence(51)).count(), 0);
    assert_eq!(store.changes(Sequence(1_000)).count(), 0);
    let mut changes = store.changes(Sequence(0));
    store.close().unwrap();
    assert!(matches!(changes.next(), Some(Err(Error::Closed))));
    assert!(changes.next().is_none());
}
