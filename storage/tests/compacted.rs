//! Random work on a store that flushes and merges all the time, held against a map after every step: by range from both
//! ends, by key, by snapshots, and after opening it again.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what helpers of a test meet unexpectedly fails it")]

use std::collections::BTreeMap;
use std::sync::Arc;

use paddock_storage::disk::{FaultyDisk, Unsynced};
use paddock_storage::{Compression, Expected, Readable, Snapshot, Store, WriteBatch};
use proptest::collection::vec;
use proptest::prelude::*;

const FILE_BYTES: u64 = 4 << 10;
const KEYS: u8 = 14;

type Map = BTreeMap<Vec<u8>, (u64, Vec<u8>)>;

#[derive(Clone, Debug)]
enum Step {
    /// Keys, each with the length of its value; `None`: it is deleted.
    Write(Vec<(u8, Option<usize>)>),
    Compact,
    Snapshot,
    Close,
    Kill,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![3 => 0_usize..60, 1 => 200_usize..2_500];
    let row = (0..KEYS, prop_oneof![3 => length.prop_map(Some), 2 => Just(None)]);
    prop_oneof![
        30 => vec(row, 1..5).prop_map(Step::Write),
        3 => Just(Step::Compact),
        3 => Just(Step::Snapshot),
        1 => Just(Step::Close),
        1 => Just(Step::Kill),
        1 => Just(Step::Crash),
    ]
}

fn open(disk: &FaultyDisk) -> Store {
    let builder = Store::builder("/data/store").segment_bytes(FILE_BYTES).extent_bytes(FILE_BYTES);
    let builder = builder.flush_bytes(FILE_BYTES).run_bytes(FILE_BYTES).compression(Compression::Lz4);
    builder.background_compaction(false).disk(Arc::new(disk.clone())).open().unwrap()
}

fn check(readable: &impl Readable, map: &Map, when: &str) -> Result<(), TestCaseError> {
    let record = |record: paddock_storage::Result<paddock_storage::Record>| {
        let record = record.unwrap();
        (record.key.to_vec(), (record.version.0, record.value.to_vec()))
    };
    let lines = |map: &Map| -> Vec<(String, u64, usize)> {
        let line = |(key, (version, value)): (&Vec<u8>, &(u64, Vec<u8>))| {
            (String::from_utf8_lossy(key).into_owned(), *version, value.len())
        };
        map.iter().map(line).collect()
    };
    let forward: Map = readable.iter().map(record).collect();
    prop_assert_eq!(lines(&forward), lines(map), "by range, {}", when);
    prop_assert_eq!(&forward, map);
    let backward: Map = readable.iter().rev().map(record).collect();
    prop_assert_eq!(lines(&backward), lines(map), "by range from the end, {}", when);
    for key in 0..KEYS {
        let key = name(key);
        let found = readable.get_record(&key).unwrap().map(|found| (found.version.0, found.value.to_vec()));
        prop_assert_eq!(found.as_ref(), map.get(&key), "{} by key, {}", String::from_utf8_lossy(&key), when);
    }
    prop_assert_eq!(readable.len(), map.len() as u64, "length, {}", when);
    Ok(())
}

fn name(key: u8) -> Vec<u8> {
    format!("key {key:02}").into_bytes()
}

struct World {
    disk: FaultyDisk,
    store: Option<Store>,
    map: Map,
    snapshots: Vec<(Snapshot, Map)>,
}

impl World {
    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn run(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Write(rows) => self.write(rows),
            Step::Compact => self.store().compact().unwrap(),
            Step::Snapshot => self.snapshots.push((self.store().snapshot(), self.map.clone())),
            Step::Close | Step::Kill | Step::Crash => self.reopen(step),
        }
        let when = format!("after {step:?}").chars().take(80).collect::<String>();
        check(self.store(), &self.map, &when)?;
        for (snapshot, map) in &self.snapshots {
            check(snapshot, map, &format!("in a snapshot of {}, {when}", snapshot.sequence()))?;
        }
        self.store().verify().unwrap();
        Ok(())
    }

    fn write(&mut self, rows: &[(u8, Option<usize>)]) {
        let mut batch = WriteBatch::new();
        for (key, length) in rows {
            match length {
                Some(length) => batch.insert(name(*key), vec![*key; *length]).unwrap(),
                None => batch.remove_with(name(*key), Expected::Any).unwrap(),
            };
        }
        let last = self.store().write(batch).unwrap().0;
        for (version, (key, length)) in (last + 1 - rows.len() as u64..).zip(rows) {
            match length {
                Some(length) => drop(self.map.insert(name(*key), (version, vec![*key; *length]))),
                None => drop(self.map.remove(&name(*key))),
            }
        }
    }

    fn reopen(&mut self, how: &Step) {
        self.snapshots.clear();
        let store = self.store.take().unwrap();
        match how {
            Step::Close => store.close().unwrap(),
            _ => drop(store),
        }
        if matches!(how, Step::Crash) {
            self.disk.crash(Unsynced::Lost);
        }
        self.store = Some(open(&self.disk));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_store_that_compacts_is_a_map(steps in vec(step(), 1..80)) {
        let disk = FaultyDisk::new();
        let store = Some(open(&disk));
        let mut world = World { disk, store, map: Map::new(), snapshots: Vec::new() };
        for step in &steps {
            world.run(step)?;
        }
    }
}
