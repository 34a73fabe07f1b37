//! A store in which one file has any bytes. What opening it then gives must have been written once, in that version, or
//! it says what is wrong.
//!
//! An input's first byte chooses the file among those of its kind, the second says whether its header's checksum is made right;
//! the rest is what the file holds.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use paddock_storage::disk::FaultyDisk;
use paddock_storage::offline::OfflineStore;
use paddock_storage::{Error, Options, Readable, Result, Store, WriteBatch};

use super::repair;

const DIRECTORY: &str = "/store";
const FILE_BYTES: u64 = 4 << 10;
const WRITES: u64 = 60;
const STORED: &[&str] = &["FILES", "runs/"];

/// A store with files of every kind, and every record that it ever held: key, value, version.
struct Base {
    disk: FaultyDisk,
    written: HashSet<Written>,
}

type Written = (Vec<u8>, Vec<u8>, u64);

/// Any segment of the log.
pub fn log(input: &[u8]) {
    store_file("log/", input);
}

/// The lock file.
pub fn lock(input: &[u8]) {
    store_file("LOCK", input);
}

/// The catalogue of runs, or any run. (Each by itself is in paddock-storage's `fuzzing`.)
pub fn stored(input: &[u8]) {
    let Some((&kind, rest)) = input.split_first() else { return };
    store_file(STORED[usize::from(kind) % STORED.len()], rest);
}

/// Those files, as they are.
pub fn stored_seeds() -> Vec<Vec<u8>> {
    let of = |(number, kind): (u8, &&str)| {
        seeds(kind).into_iter().map(move |seed| [&[number], &seed[..]].concat())
    };
    (0..).zip(STORED).flat_map(of).collect()
}

/// Any checkpoint of the index.
pub fn checkpoint(input: &[u8]) {
    store_file("index/", input);
}

/// The files themselves, once as they are and once with a header made right.
pub fn seeds(kind: &str) -> Vec<Vec<u8>> {
    let disk = &base().disk;
    let paths = (0..).zip(paths_of(kind));
    let contents = paths.map(|(number, path)| (number, disk.bytes(&path).unwrap()));
    contents
        .flat_map(|(number, bytes)| [0, 1].map(|repaired| [&[number, repaired], &bytes[..]].concat()))
        .collect()
}

/// The files of a kind, as they are.
pub fn contents(kind: &str) -> Vec<Vec<u8>> {
    paths_of(kind).iter().filter_map(|path| base().disk.bytes(path)).collect()
}

fn paths_of(kind: &str) -> Vec<PathBuf> {
    let of_kind = |path: &PathBuf| {
        let name = path.strip_prefix(DIRECTORY).unwrap().to_str().unwrap();
        name == kind || (kind.ends_with('/') && name.starts_with(kind))
    };
    base().disk.paths().into_iter().filter(of_kind).collect()
}

fn open(disk: &FaultyDisk) -> Result<Store> {
    let builder = Store::builder(DIRECTORY).segment_bytes(FILE_BYTES).extent_bytes(FILE_BYTES);
    let builder = builder.flush_bytes(2 * FILE_BYTES).run_bytes(FILE_BYTES).background_compaction(false);
    builder.disk(Arc::new(disk.clone())).open()
}

fn base() -> &'static Base {
    static BASE: OnceLock<Base> = OnceLock::new();
    BASE.get_or_init(|| {
        let disk = FaultyDisk::new();
        let mut written = HashSet::new();
        let store = open(&disk).unwrap();
        for number in 0..WRITES {
            let key = format!("key {:02}", number % 17).into_bytes();
            let value = vec![number as u8; (number * 53 % 500) as usize];
            if number == WRITES / 2 {
                store.compact().unwrap();
            }
            let version = match number % 7 {
                3 => {
                    store.remove(&key).unwrap();
                    continue;
                }
                5 => {
                    let mut batch = WriteBatch::new();
                    batch.remove(b"key 01").unwrap().insert(&key, &value).unwrap();
                    store.write(batch).unwrap()
                }
                _ => store.insert(&key, &value).unwrap(),
            };
            written.insert((key, value, version.0));
        }
        store.close().unwrap();
        cut_zeros(&disk);
        Base { disk, written }
    })
}

/// Without the zeros that segments are filled with ahead of their rows, inputs are small.
fn cut_zeros(disk: &FaultyDisk) {
    for path in disk.paths().into_iter().filter(|path| path.extension().is_some_and(|name| name == "log")) {
        let mut bytes = disk.bytes(&path).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 9);
        bytes.truncate(end.next_multiple_of(8));
        disk.set_bytes(&path, &bytes);
    }
}

fn store_file(kind: &str, input: &[u8]) {
    let Some((&[chosen, repaired], bytes)) = input.split_first_chunk() else { return };
    let paths = paths_of(kind);
    let Some(path) = paths.get(usize::from(chosen) % paths.len().max(1)) else { return };
    let repaired = repaired & 1 == 1;
    let mut bytes = bytes.to_vec();
    if repaired {
        repair::file_header(&mut bytes);
    }
    let disk = base().disk.copy();
    disk.set_bytes(path, &bytes);
    let sound = look_offline(&disk);
    let before = look(&disk, repaired);
    assert!(before.is_some() || !sound, "it verified, and cannot be opened and read");
    let Some(before) = before else { return };
    // What opening did about it stays so.
    assert_eq!(look(&disk, repaired).as_ref(), Some(&before), "opened again");
}

/// As `paddock storage` looks at a store: whatever it finds, it changes nothing. Returns whether all is well.
fn look_offline(disk: &FaultyDisk) -> bool {
    let files = |disk: &FaultyDisk| -> Vec<_> {
        disk.paths().into_iter().map(|path| (disk.bytes(&path), path)).collect()
    };
    let before = files(disk);
    let sound = match examine(disk) {
        Ok(sound) => sound,
        Err(Error::Corrupt { .. } | Error::Format { .. } | Error::NotAStore { .. }) => false,
        Err(other) => panic!("{other:?}"),
    };
    assert_eq!(files(disk), before, "looking changed the store");
    sound
}

fn examine(disk: &FaultyDisk) -> Result<bool> {
    let options = Options::new().disk(Arc::new(disk.clone()));
    let store = OfflineStore::open(Path::new(DIRECTORY), options)?;
    let (inspected, verified) = (store.inspect()?, store.verify()?);
    // The second look reads more, and so finds no less.
    assert!(inspected.damages.is_empty() || !verified.damages.is_empty());
    for record in store.dump(true)? {
        record?;
    }
    Ok(verified.damages.is_empty())
}

/// Opens the store and reads all of it. `None`: it says that something is wrong.
fn look(disk: &FaultyDisk, repaired: bool) -> Option<Vec<Written>> {
    let store = match open(disk) {
        Ok(store) => store,
        Err(Error::Corrupt { .. } | Error::Format { .. } | Error::WrongKind { .. }) => return None,
        Err(other) => panic!("{other:?}"),
    };
    let mut records = Vec::new();
    for record in store.iter() {
        let record = match record {
            Ok(record) => record,
            Err(Error::Corrupt { .. }) => return None,
            Err(other) => panic!("{other:?}"),
        };
        let again = store.get_record(&record.key);
        assert!(
            again.is_err() || again.as_ref().is_ok_and(|again| again.as_ref() == Some(&record)),
            "{again:?}, in the range {record:?}"
        );
        let record = (record.key.to_vec(), record.value.to_vec(), record.version.0);
        // Whoever makes checksums right may write what he likes.
        assert!(repaired || base().written.contains(&record), "{record:?} was never written");
        records.push(record);
    }
    assert!(records.is_sorted_by(|left, right| left.0 < right.0));
    match store.verify() {
        Ok(_) | Err(Error::Corrupt { .. }) => Some(records),
        Err(other) => panic!("{other:?}"),
    }
}
