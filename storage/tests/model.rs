//! Random work on a store through its public face, held against a map that remembers every sequence: versions, expiry,
//! conditions, batches, snapshots that outlive compactions, ranges in all directions, durability, crashes in the middle of any call.
//! Everything is so small that flushes, merges, moves and cold runs happen all the time.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what helpers of a test meet unexpectedly fails it")]
#![allow(clippy::print_stderr, reason = "a failure has to say its seed")]

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use paddock_storage::disk::{Fault, FaultyDisk, Unsynced};
use paddock_storage::{
    Clock, Compression, Durability, Expected, Readable, Record, Result, Sequence, Snapshot, Store,
    WriteOptions,
};

const KEYS: u64 = 300;
const STEPS: u32 = 250;
/// Snapshots that are held at a time.
const SNAPSHOTS: usize = 3;

/// A record as the model has it. The version is the sequence of its row.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    value: Vec<u8>,
    version: u64,
    expires_at_ms: Option<u64>,
}

type Map = BTreeMap<Vec<u8>, Held>;

/// A row on its way: a key, and its value with its expiry, or none if it is deleted.
type Row = (Vec<u8>, Option<(Vec<u8>, Option<u64>)>);

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) % limit
    }

    fn key(&mut self) -> Vec<u8> {
        // Half of the work is on a tenth of the keys; lengths differ, and some are prefixes of others.
        let limit = if self.below(2) == 0 { KEYS / 10 } else { KEYS };
        let number = self.below(limit);
        let mut key = format!("{:03}", number % 100).into_bytes();
        key.extend(std::iter::repeat_n(b'x', (number / 100) as usize * 7));
        key
    }

    fn value(&mut self) -> Vec<u8> {
        let length = match self.below(40) {
            0 => 3_000,
            1..10 => self.below(600),
            _ => self.below(40),
        };
        vec![self.below(256) as u8; length as usize]
    }
}

/// How a store is to be.
#[derive(Clone, Copy, Debug)]
struct Plan {
    memory_bytes: u64,
    flush_bytes: u64,
    background: bool,
    compression: Compression,
}

struct Play {
    seed: u64,
    plan: Plan,
    dice: Dice,
    now_ms: Arc<AtomicU64>,
    disk: FaultyDisk,
    /// `None` only between two.
    store: Option<Store>,
    map: Map,
    last: u64,
    /// What a crash may leave: each state that the log may end with, by its last sequence, from what is certainly durable on.
    ends: BTreeMap<u64, Map>,
    snapshots: Vec<(Snapshot, Map, u64)>,
    /// Runs may be cold, so that counts are estimates.
    estimates: bool,
    crashes: u32,
    /// A write failed, and nobody knows whether it happened: the power has to fail before anything else is done.
    crash_is_due: bool,
}

impl Play {
    fn new(seed: u64) -> Play {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        (0..8).for_each(|_| _ = dice.below(2));
        let plan = Plan {
            memory_bytes: if seed.is_multiple_of(2) { 8 << 20 } else { 16 << 10 },
            flush_bytes: 1_000 << dice.below(4),
            background: seed % 4 >= 2,
            compression: if dice.below(2) == 0 { Compression::Lz4 } else { Compression::default() },
        };
        let (disk, now_ms) = (FaultyDisk::new(), Arc::new(AtomicU64::new(1_000_000)));
        let mut play = Play {
            seed,
            plan,
            dice,
            now_ms,
            disk,
            store: None,
            map: Map::new(),
            last: 0,
            ends: BTreeMap::from([(0, Map::new())]),
            snapshots: Vec::new(),
            estimates: false,
            crashes: 0,
            crash_is_due: false,
        };
        play.open();
        play
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn now(&self) -> u64 {
        self.now_ms.load(Ordering::SeqCst)
    }

    fn open(&mut self) {
        let now_ms = self.now_ms.clone();
        let builder = Store::builder("/data/store")
            .segment_bytes(4 << 10)
            .extent_bytes(4 << 10)
            .run_bytes(4 << 10)
            .memory_bytes(self.plan.memory_bytes)
            .flush_bytes(self.plan.flush_bytes)
            .compression(self.plan.compression)
            .background_compaction(self.plan.background)
            .clock(Clock::from_fn(move || now_ms.load(Ordering::SeqCst)))
            .disk(Arc::new(self.disk.clone()));
        self.store = Some(builder.open().unwrap());
    }

    /// Notes a write, and how it went.
    fn written(&mut self, outcome: Result<Sequence>, rows: &[Row], durability: Durability) {
        for (key, held) in rows {
            self.last += 1;
            match held.clone() {
                Some((value, expires_at_ms)) => {
                    drop(self.map.insert(key.clone(), Held { value, version: self.last, expires_at_ms }));
                }
                None => drop(self.map.remove(key)),
            }
        }
        match outcome {
            Ok(sequence) => {
                assert_eq!(sequence.0, self.last);
                if durability == Durability::Sync {
                    self.ends.clear();
                }
                self.ends.insert(self.last, self.map.clone());
            }
            Err(_) => {
                // It may have happened.
                self.ends.insert(self.last, self.map.clone());
                self.crash_is_due = true;
            }
        }
    }

    fn shown(&self, key: &[u8]) -> Option<&Held> {
        let now_ms = self.now();
        self.map.get(key).filter(|held| held.expires_at_ms.is_none_or(|at| at > now_ms))
    }

    fn write(&mut self) {
        self.write_something();
        // Not before: whoever writes holds on to the store, whose threads end when the last holder lets go. A disk that
        // two stores write to proves nothing.
        if std::mem::take(&mut self.crash_is_due) {
            self.crash();
        }
    }

    fn write_something(&mut self) {
        let durability = [Durability::Sync, Durability::Interval, Durability::Buffered, Durability::Buffered]
            [self.dice.below(4) as usize];
        let mut options = WriteOptions::new().durability(durability);
        let (key, value) = (self.dice.key(), self.dice.value());
        let store = self.store().clone();
        let current = self.shown(&key).cloned();
        let mut expires_at_ms = None;
        if self.dice.below(5) == 0 {
            let at = self.now() + self.dice.below(30);
            options = options.expires_at_ms(at);
            expires_at_ms = Some(at);
        }
        let put = vec![(key.clone(), Some((value.clone(), expires_at_ms)))];
        match self.dice.below(9) {
            0..3 => {
                let written = store.insert_with(&key, &value, options).map(std::result::Result::unwrap);
                self.written(written, &put, durability);
            }
            3 => {
                // Of a key that may not be there: the row is written all the same.
                let written = store.remove_with(&key, options).map(std::result::Result::unwrap);
                self.written(written, &[(key, None)], durability);
            }
            4 => {
                let expected = match self.dice.below(3) {
                    0 => Expected::Absent,
                    1 => Expected::Present,
                    _ => Expected::Version(Sequence(current.as_ref().map_or(9, |held| held.version))),
                };
                let holds = match expected {
                    Expected::Absent => current.is_none(),
                    _ => current.is_some(),
                };
                match store.insert_with(&key, &value, options.expected(expected)) {
                    Ok(Err(conflict)) => {
                        assert!(!holds, "{expected:?}: {conflict:?}, {current:?}");
                        let found = conflict.current.as_ref().map(held);
                        assert_eq!(found, current);
                    }
                    Ok(Ok(sequence)) => {
                        assert!(holds, "{expected:?}, {current:?}");
                        self.written(Ok(sequence), &put, durability);
                    }
                    Err(error) => self.written(Err(error), &put, durability),
                }
            }
            5 => {
                let right = self.dice.below(4) > 0;
                let expected = current.as_ref().map(|held| held.value.clone()).filter(|_| right);
                let holds = expected == current.as_ref().map(|held| held.value.clone());
                let new = (self.dice.below(3) > 0).then(|| value.clone());
                let rows = vec![(key.clone(), new.clone().map(|value| (value, None)))];
                match store.compare_and_swap(&key, expected.as_deref(), new.as_deref()) {
                    Ok(Err(_)) => assert!(!holds),
                    Ok(Ok(sequence)) => {
                        assert!(holds);
                        self.written(Ok(sequence), &rows, Durability::Sync);
                    }
                    Err(error) => self.written(Err(error), &rows, Durability::Sync),
                }
            }
            _ => {
                let (mut batch, mut rows) = (store.batch(), Vec::new());
                for _ in 0..1 + self.dice.below(20) {
                    let (key, value) = (self.dice.key(), self.dice.value());
                    if self.dice.below(3) == 0 {
                        batch.remove(&key).unwrap();
                        rows.push((key, None));
                    } else {
                        let options = WriteOptions::new().durability(durability);
                        batch.insert_with(&key, &value, options).unwrap();
                        rows.push((key, Some((value, None))));
                    }
                }
                let all = rows.iter().all(|(_, value)| value.is_none());
                let durability = if all { Durability::Sync } else { durability };
                let written = store.write(batch);
                self.written(written, &rows, durability);
            }
        }
    }

    fn crash(&mut self) {
        self.crashes += 1;
        self.disk.set_fault(None);
        self.snapshots.clear();
        self.store = None;
        let seed = self.dice.below(1 << 40);
        self.disk.crash(match self.dice.below(3) {
            0 => Unsynced::Lost,
            1 => Unsynced::Kept,
            _ => Unsynced::Torn { seed },
        });
        self.open();
        let last = self.store().stats().unwrap().last.0;
        let Some(map) = self.ends.remove(&last) else {
            panic!("it ends with {last}, not one of {:?}", self.ends.keys());
        };
        (self.map, self.last) = (map, last);
        self.ends = BTreeMap::from([(last, self.map.clone())]);
        self.check_all();
    }

    fn step(&mut self) {
        match self.dice.below(60) {
            0..30 => self.write(),
            30..33 => _ = self.now_ms.fetch_add(1, Ordering::SeqCst),
            33 => _ = self.now_ms.fetch_add(40, Ordering::SeqCst),
            34 => {
                let outcome = self.store().compact();
                assert!(outcome.is_ok(), "{outcome:?}");
            }
            35..37 => {
                if self.snapshots.len() == SNAPSHOTS {
                    let which = self.dice.below(SNAPSHOTS as u64) as usize;
                    drop(self.snapshots.remove(which));
                }
                let snapshot = self.store().snapshot();
                assert_eq!(snapshot.sequence().0, self.last);
                self.snapshots.push((snapshot, self.map.clone(), self.now()));
            }
            37 => {
                self.snapshots.clear();
                self.store.take().unwrap().close().unwrap();
                self.ends = BTreeMap::from([(self.last, self.map.clone())]);
                self.open();
                self.check_all();
            }
            38 => self.crash(),
            39 => self.fail_at_some_call(),
            40..48 => {
                let key = self.dice.key();
                self.check_key(&key);
            }
            48..52 => self.check_range(),
            _ => self.check_snapshot(),
        }
        self.estimates |= self.store().stats().unwrap().compaction.cooled_runs > 0;
    }

    /// The disk fails at some call from now on, in a write or in a compaction; then the power does.
    fn fail_at_some_call(&mut self) {
        let (call, lasting) = (self.disk.calls() + 1 + self.dice.below(60), self.dice.below(2) == 0);
        self.disk.set_fault(Some(Fault { call, kind: ErrorKind::Other, lasting }));
        let crashes = self.crashes;
        for _ in 0..20 {
            if self.crashes > crashes {
                return;
            }
            if self.dice.below(4) == 0 && self.store().compact().is_err() {
                break;
            }
            self.write();
        }
        self.crash();
    }

    fn check_key(&self, key: &[u8]) {
        let found = self.store().get_record(key).unwrap();
        assert_eq!(found.as_ref().map(held).as_ref(), self.shown(key), "key {}", key.escape_ascii());
        assert_eq!(
            self.store().version(key).unwrap().map(|version| version.0),
            self.shown(key).map(|held| held.version)
        );
    }

    fn check_all(&mut self) {
        let now_ms = self.now();
        let store = self.store().clone();
        walk(&store, &self.map, now_ms, &mut self.dice);
        for number in 0..KEYS {
            let mut key = format!("{:03}", number % 100).into_bytes();
            key.extend(std::iter::repeat_n(b'x', (number / 100) as usize * 7));
            self.check_key(&key);
        }
        store.verify().unwrap();
        self.check_count();
    }

    /// Between those that have not expired and those that may not have been dropped yet.
    fn check_count(&self) {
        let now_ms = self.now();
        let (count, alive) = (self.store().len(), shown(&self.map, now_ms).count() as u64);
        let tiny = self.plan.memory_bytes < 1 << 20;
        assert!(
            tiny || self.estimates || (alive..=self.map.len() as u64).contains(&count),
            "{alive} <= {count} <= {}",
            self.map.len()
        );
    }

    fn check_range(&mut self) {
        let now_ms = self.now();
        let store = self.store().clone();
        walk(&store, &self.map, now_ms, &mut self.dice);
        self.check_count();
    }

    fn check_snapshot(&mut self) {
        if self.snapshots.is_empty() {
            return;
        }
        let which = self.dice.below(self.snapshots.len() as u64) as usize;
        let (snapshot, map, now_ms) = self.snapshots[which].clone();
        walk(&snapshot, &map, now_ms, &mut self.dice);
        for _ in 0..20 {
            let key = self.dice.key();
            let found = snapshot.get_record(&key).unwrap();
            let expected = map.get(&key).filter(|held| held.expires_at_ms.is_none_or(|at| at > now_ms));
            assert_eq!(found.as_ref().map(held).as_ref(), expected, "key {}", key.escape_ascii());
        }
    }
}

fn held(record: &Record) -> Held {
    let Record { value, version, expires_at_ms, .. } = record;
    Held { value: value.to_vec(), version: version.0, expires_at_ms: *expires_at_ms }
}

fn shown(map: &Map, now_ms: u64) -> impl DoubleEndedIterator<Item = (&Vec<u8>, &Held)> {
    map.iter().filter(move |(_, held)| held.expires_at_ms.is_none_or(|at| at > now_ms))
}

fn bound(dice: &mut Dice) -> Bound<Vec<u8>> {
    let key = dice.key();
    match dice.below(4) {
        0 => Bound::Unbounded,
        1 => Bound::Excluded(key),
        _ => Bound::Included(key),
    }
}

/// A range between random bounds, taken from either end as the dice fall.
fn walk(readable: &impl Readable, map: &Map, now_ms: u64, dice: &mut Dice) {
    let bounds =
        if dice.below(3) == 0 { (Bound::Unbounded, Bound::Unbounded) } else { (bound(dice), bound(dice)) };
    let after_start = |key: &Vec<u8>| match &bounds.0 {
        Bound::Unbounded => true,
        Bound::Included(start) => key >= start,
        Bound::Excluded(start) => key > start,
    };
    let before_end = |key: &Vec<u8>| match &bounds.1 {
        Bound::Unbounded => true,
        Bound::Included(end) => key <= end,
        Bound::Excluded(end) => key < end,
    };
    let mut expected = shown(map, now_ms).filter(|(key, _)| after_start(key) && before_end(key));
    let mut range = readable.range(bounds.clone());
    let backward = dice.below(4);
    loop {
        // Forward alone, backward alone, or mixed.
        let back = match backward {
            0 => false,
            1 => true,
            _ => dice.below(2) == 0,
        };
        let (found, expected) = match back {
            false => (range.next(), expected.next()),
            true => (range.next_back(), expected.next_back()),
        };
        let found = found.map(|record| record.unwrap());
        let found = found.map(|record| (record.key.to_vec(), held(&record)));
        assert_eq!(found, expected.map(|(key, held)| (key.clone(), held.clone())), "{bounds:?}, {back}");
        if found.is_none() {
            return;
        }
    }
}

/// Says which seed it was when something goes wrong.
struct Seed(u64, u32);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}, step {}", self.0, self.1);
        }
    }
}

fn play(seed: u64) {
    let mut play = Play::new(seed);
    let mut at = Seed(play.seed, 0);
    for step in 0..STEPS {
        at.1 = step;
        play.step();
    }
    play.crash();
    play.store().compact().unwrap();
    play.check_all();
}

#[test]
fn a_store_is_a_map_that_remembers() {
    let seeds = std::env::var("PADDOCK_MODEL_SEEDS").ok().and_then(|seeds| {
        let (first, last) = seeds.split_once("..")?;
        Some(first.parse().ok()?..last.parse().ok()?)
    });
    match seeds {
        Some(seeds) => seeds.for_each(play),
        // Of half of them compaction has no thread of its own: those play the same each time.
        None => (0..10).for_each(play),
    }
}
