//! Directories and files that a store did not make, or that somebody made up: nothing of others is touched, nothing is
//! believed unseen, and nothing panics.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what helpers of a test meet unexpectedly fails it")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use paddock_storage::disk::FaultyDisk;
use paddock_storage::{Error, LogEntries, Options, ReplicatedStore, Rows, Sequence, Store};
use support::{Entry, append, encode, log, open};

const SEGMENT: &str = "/data/store/log/00000000000000000001.log";

/// Rewrites some bytes of a file's first 64 and makes its checksum right again, as only its maker could.
fn craft(disk: &FaultyDisk, path: &str, change: impl FnOnce(&mut [u8])) {
    let mut bytes = disk.bytes(Path::new(path)).unwrap();
    change(&mut bytes);
    let checksum = crc32fast::hash(&[&bytes[..12], &bytes[16..64]].concat());
    bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    disk.set_bytes(Path::new(path), &bytes);
}

fn corrupt_at(disk: &FaultyDisk) -> (PathBuf, u64, String) {
    match open(disk) {
        Err(Error::Corrupt { path, offset, what }) => (path, offset, what),
        other => panic!("{other:?}"),
    }
}

/// Someone may point a store at a directory in use: what they have there stays, whatever its name.
#[test]
fn files_of_others_stay_where_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    fs::create_dir_all(path.join("log/folder.tmp")).unwrap();
    let others = ["thesis.tmp", ".tmp", "LOCK.tmp", "log/notes.tmp", "log/1.log.tmp", "log/readme"];
    for name in others {
        fs::write(path.join(name), "mine").unwrap();
    }
    // What a store was making when its process ended is its own.
    let unfinished = ["MANIFEST.tmp", "log/00000000000000000007.log.tmp"];
    for name in unfinished {
        fs::write(path.join(name), "half").unwrap();
    }
    for _ in 0..2 {
        let store = Store::open(path).unwrap();
        store.insert("key", "value").unwrap();
        store.close().unwrap();
        for name in others {
            assert_eq!(fs::read(path.join(name)).unwrap(), b"mine", "{name}");
        }
        assert!(path.join("log/folder.tmp").is_dir());
    }
    assert!(!path.join("log/00000000000000000007.log.tmp").exists());
}

/// A directory without MANIFEST is not searched for a log by reading all that is there.
#[test]
fn a_huge_file_in_the_place_of_a_segment_is_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log/00000000000000000001.log");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::File::create(&path).unwrap().set_len(8 << 40).unwrap();
    let error = Store::open(directory.path()).unwrap_err();
    assert!(matches!(&error, Error::Corrupt { path, .. } if path.ends_with("MANIFEST")), "{error}");
    assert_eq!(fs::metadata(&path).unwrap().len(), 8 << 40);
}

#[test]
fn a_number_with_a_sign_names_no_segment() {
    let disk = FaultyDisk::new();
    drop(open(&disk).unwrap());
    let name = Path::new("/data/store/log/+0000000000000000001.log");
    disk.set_bytes(name, &disk.bytes(Path::new(SEGMENT)).unwrap());
    assert_eq!(corrupt_at(&disk), (name.into(), 0, "not the name of a segment".into()));
}

/// Bytes that this format leaves zero may mean something one day: they are not passed over.
#[test]
fn bytes_that_must_be_zero_are_looked_at() {
    const MANIFEST: &str = "/data/store/MANIFEST";
    let cases = [(SEGMENT, 56..64, 56), (MANIFEST, 50..52, 50), (MANIFEST, 56..64, 56)];
    for (path, zeros, offset) in cases {
        for at in zeros {
            let disk = FaultyDisk::new();
            drop(open(&disk).unwrap());
            craft(&disk, path, |bytes| bytes[at] = 1);
            let (found, where_, _) = corrupt_at(&disk);
            assert_eq!((found.to_str().unwrap(), where_), (path, offset), "byte {at}");
        }
    }
}

/// The manifest of a newer format may be longer than ours can be; still it is told from damage.
#[test]
fn a_long_manifest_of_a_newer_format_is_refused_with_both_numbers() {
    const MANIFEST: &str = "/data/store/MANIFEST";
    let disk = FaultyDisk::new();
    drop(open(&disk).unwrap());
    let mut long = disk.bytes(Path::new(MANIFEST)).unwrap();
    for byte in [0, 7] {
        long.resize(100_000, byte);
        disk.set_bytes(Path::new(MANIFEST), &long);
        let (path, ..) = corrupt_at(&disk);
        assert_eq!(path, Path::new(MANIFEST));
    }
    craft(&disk, MANIFEST, |bytes| bytes[8] = 3);
    let error = open(&disk).unwrap_err();
    assert!(matches!(error, Error::Format { found: 3, newest: 2, .. }), "{error}");
}

/// A peer may send any number.
#[test]
fn entries_at_the_end_of_all_numbers_are_refused() {
    let disk = FaultyDisk::new();
    let mut store = open(&disk).unwrap();
    append(&mut store, 1, &[Entry::put("a", "1")], u64::MAX).unwrap();
    for first in [0, u64::MAX - 1, u64::MAX] {
        for rows in [Rows::default(), encode(&[Entry::put("b", "2"), Entry::put("c", "3")])] {
            let count = u64::from(rows.count());
            let entries = LogEntries { epoch: u64::MAX, first: Sequence(first), log_time_ms: u64::MAX, rows };
            assert!(entries.last() >= Sequence(first.saturating_sub(1)), "{first} and {count}");
            assert!(matches!(store.append(&entries, Sequence(u64::MAX)), Err(Error::Misplaced { .. })));
        }
    }
    let end = Sequence(u64::MAX);
    assert!(matches!(store.apply(end), Err(Error::Misplaced { .. })));
    store.truncate_after(end).unwrap();
    assert!(store.read_log(end, usize::MAX).unwrap().is_empty());
    assert_eq!(store.read_log(Sequence(0), 0).unwrap().len(), 1);
    drop(store);
    assert_eq!(log(&open(&disk).unwrap()).len(), 1);
}

/// A path that leads to a file, or through one, is named.
#[test]
fn a_file_in_the_place_of_the_directory_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "mine").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = ReplicatedStore::open(&path, Options::new()).unwrap_err();
        assert!(matches!(&error, Error::Io { path, .. } if path.starts_with(&file)), "{error}");
    }
    assert_eq!(fs::read(&file).unwrap(), b"mine");
}
