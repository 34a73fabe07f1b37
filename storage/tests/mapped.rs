//! The same store on a real disk, mapped and not: it answers the same, while it grows, is compacted and is opened again, and
//! what rots under it is found either way.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what helpers of a test meet unexpectedly fails it")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use paddock_storage::disk::FaultyDisk;
use paddock_storage::{Error, Mapping, Options, Readable, ReplicatedStore, Sequence, Store};
use proptest::collection::vec;
use proptest::prelude::*;
use support::{Entry, Map, append, applied, contents, log, open};

const MAPPINGS: [Mapping; 3] = [Mapping::Auto, Mapping::Always, Mapping::Never];

/// Small files, so that a few writes need several.
fn options(mapping: Mapping) -> Options {
    Options::new().segment_bytes(8 << 10).extent_bytes(4 << 10).mapping(mapping).background_compaction(false)
}

fn open_real(path: &Path, mapping: Mapping) -> Store {
    Store::builder(path).options(options(mapping)).open().unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u16),
    Remove(u8),
    Compact,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (0..40_u8, 0..1500_u16).prop_map(|(key, length)| Step::Put(key, length)),
        4 => (0..40_u8).prop_map(Step::Remove),
        1 => Just(Step::Compact),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn it_answers_the_same_mapped_or_not(steps in vec(step(), 1..120)) {
        for mapping in MAPPINGS {
            let directory = tempfile::tempdir().unwrap();
            let mut store = open_real(directory.path(), mapping);
            let mut model = Map::new();
            for (number, step) in steps.iter().enumerate() {
                match step {
                    Step::Put(key, length) => {
                        let value = vec![number as u8; usize::from(*length)];
                        store.insert([*key], value.clone()).unwrap();
                        model.insert(vec![*key], value);
                    }
                    Step::Remove(key) => {
                        store.remove([*key]).unwrap();
                        model.remove(&vec![*key]);
                    }
                    Step::Compact => store.compact().unwrap(),
                    Step::Reopen => {
                        store.close().unwrap();
                        store = open_real(directory.path(), mapping);
                    }
                }
                if let Step::Put(key, _) | Step::Remove(key) = step {
                    let found = store.get(&[*key]).unwrap();
                    prop_assert_eq!(found.as_deref(), model.get(&vec![*key]).map(Vec::as_slice), "{:?}", mapping);
                }
            }
            prop_assert_eq!(contents(&store), model, "{:?}", mapping);
            store.verify().unwrap();
        }
    }
}

/// Every row of a log that lies in files of the real disk rots while the store is open.
#[test]
fn rot_under_an_open_store_is_found_mapped_or_not() {
    for mapping in MAPPINGS {
        let directory = tempfile::tempdir().unwrap();
        let disk = FaultyDisk::new();
        let mut store = open(&disk).unwrap();
        for number in 1..=30 {
            let entry = Entry::Put(format!("key {number}").into(), vec![number; 300]);
            append(&mut store, 1, &[entry], 0).unwrap();
        }
        store.sync().unwrap();
        let entries = log(&store);
        store.close().unwrap();
        disk.copy_to(directory.path()).unwrap();

        let path = directory.path().join("data/store");
        let mut store = ReplicatedStore::open(&path, options(mapping)).unwrap();
        store.apply(Sequence(30)).unwrap();
        let reader = store.reader();
        assert_eq!(contents(&reader), applied(&entries));
        for segment in segments(&path) {
            let bytes = fs::read(&segment).unwrap();
            for number in 1..=30_u8 {
                let Some(at) = bytes.windows(200).position(|window| window == [number; 200]) else {
                    continue;
                };
                write_byte(&segment, at, number ^ 1);
                let key = format!("key {number}");
                let error = reader.get(key.as_bytes()).unwrap_err();
                assert!(
                    matches!(&error, Error::Corrupt { path, .. } if *path == segment),
                    "{mapping:?}: {error}"
                );
                write_byte(&segment, at, number);
                assert_eq!(reader.get(key.as_bytes()).unwrap().unwrap(), &[number; 300][..]);
            }
        }
    }
}

#[test]
fn runs_are_mapped_once_what_kept_them_from_it_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    // Half of it is for mappings: too little for the log before it is compacted.
    let options = options(Mapping::Auto).memory_bytes(1 << 20);
    let store = Store::builder(directory.path()).options(options).open().unwrap();
    for number in 0..1_000_u32 {
        store.insert(number.to_be_bytes(), [number as u8; 100]).unwrap();
    }
    let before = store.stats().unwrap().memory;
    assert!(before.unmapped_bytes > 0, "{before:?}");
    store.compact().unwrap();
    // The next look at the store finds the room that the log had.
    store.compact().unwrap();
    let after = store.stats().unwrap().memory;
    assert_eq!(after.unmapped_bytes, 0, "{after:?}, before: {before:?}");
}

fn segments(store: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(store.join("log")).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() > 1);
    paths
}

fn write_byte(path: &Path, at: usize, byte: u8) {
    use std::os::unix::fs::FileExt as _;
    fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(&[byte], at as u64).unwrap();
}
