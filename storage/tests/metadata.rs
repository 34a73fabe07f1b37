//! The owner's value in the manifest: replaced as a whole, also on a full disk, also on a file system that cannot
//! exchange two files.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what helpers of a test meet unexpectedly fails it")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use paddock_storage::disk::{Disk, DiskFile, DiskLock, FaultyDisk, SystemDisk, Unsynced};
use paddock_storage::{Error, METADATA_BYTES_MAX, Options, ReplicatedStore};
use support::failing::fail_at;
use support::open;

fn full(disk: &FaultyDisk) {
    disk.set_capacity_bytes(Some(disk.used_bytes()));
}

/// Whatever call fails while the disk is full, and whatever the crash then leaves: the value is the old or the new one, and
/// opened again, it can be replaced again.
#[test]
fn a_crash_at_any_step_leaves_the_old_or_the_new_value() {
    let disk = FaultyDisk::new();
    open(&disk).unwrap().set_metadata(b"old").unwrap();
    full(&disk);
    let mut found = BTreeSet::new();
    for call in 1.. {
        let mut failed = false;
        for unsynced in (0..32).map(|seed| Unsynced::Torn { seed }).chain([Unsynced::Lost, Unsynced::Kept]) {
            let copy = disk.copy();
            let mut store = open(&copy).unwrap();
            fail_at(&copy, call, ErrorKind::Other, false);
            let outcome = store.set_metadata(b"new and longer");
            failed = outcome.is_err();
            if failed {
                assert!(matches!(store.set_metadata(b"newer"), Err(Error::Poisoned { .. })));
                assert_eq!(store.metadata(), b"old");
            }
            drop(store);
            copy.crash(unsynced);
            let mut store = open(&copy).unwrap();
            assert!(failed || store.metadata() == b"new and longer");
            found.insert(store.metadata().to_vec());
            // Of its two names the crash may have lost one: then the disk is no longer full, or it is as it was.
            store.set_metadata(b"after").unwrap();
            drop(store);
            copy.crash(Unsynced::Lost);
            assert_eq!(open(&copy).unwrap().metadata(), b"after");
        }
        if !failed {
            assert!(call > 4, "write, fsync, exchange, fsync the directory");
            break;
        }
    }
    assert_eq!(found.len(), 2, "{found:?}");
}

/// Without a spare, and no room for one, the value stays, and the store goes on.
#[test]
fn without_room_for_a_spare_the_value_stays() {
    let disk = FaultyDisk::new();
    let mut store = open(&disk).unwrap();
    store.set_metadata(b"old").unwrap();
    disk.remove_durably(Path::new("/data/store/MANIFEST.tmp"));
    full(&disk);
    assert!(matches!(store.set_metadata(b"new"), Err(Error::DiskFull { .. })));
    drop(store);
    let mut store = open(&disk).unwrap();
    assert_eq!(store.metadata(), b"old");
    disk.set_capacity_bytes(None);
    store.set_metadata(&[7; METADATA_BYTES_MAX]).unwrap();
    let error = store.set_metadata(&[7; METADATA_BYTES_MAX + 1]).unwrap_err();
    assert_eq!(error.to_string(), "metadata bytes: 4097, the limit is 4096");
    drop(store);
    assert_eq!(open(&disk).unwrap().metadata(), [7; METADATA_BYTES_MAX]);
}

/// What lies where the spare should be need not be one.
#[test]
fn anything_in_the_place_of_the_spare_is_replaced() {
    let path = Path::new("/data/store/MANIFEST.tmp");
    for bytes in [vec![], vec![1; 100], vec![2; 4_160], vec![3; 10_000]] {
        let disk = FaultyDisk::new();
        open(&disk).unwrap().set_metadata(b"old").unwrap();
        disk.set_bytes(path, &bytes);
        let mut store = open(&disk).unwrap();
        assert_eq!(store.metadata(), b"old");
        assert_eq!(disk.bytes(path).unwrap().len(), 4_160);
        full(&disk);
        store.set_metadata(b"new").unwrap();
        drop(store);
        disk.crash(Unsynced::Lost);
        assert_eq!(open(&disk).unwrap().metadata(), b"new");
    }
}

/// A disk that leaves `exchange` as the trait has it: it cannot.
#[derive(Debug)]
struct PlainDisk(FaultyDisk);

impl Disk for PlainDisk {
    fn create_dir(&self, path: &Path) -> io::Result<bool> {
        self.0.create_dir(path)
    }

    fn dir_exists(&self, path: &Path) -> bool {
        self.0.dir_exists(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.sync_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.0.list(path)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.0.create(path)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.0.open(path)
    }

    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.0.open_read(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.0.remove_dir(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        self.0.lock(path)
    }

    fn lock_existing(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        self.0.lock_existing(path)
    }
}

#[test]
fn where_files_cannot_be_exchanged_one_is_renamed() {
    let disk = FaultyDisk::new();
    let open = || {
        let options = Options::new().disk(Arc::new(PlainDisk(disk.clone())));
        ReplicatedStore::open(Path::new("/data/store"), options).unwrap()
    };
    let mut store = open();
    // The spare is there for once, and the next one takes the room of the manifest that went.
    full(&disk);
    for value in ["1", "2", "3"] {
        store.set_metadata(value.as_bytes()).unwrap();
    }
    drop(store);
    disk.crash(Unsynced::Lost);
    assert_eq!(open().metadata(), b"3");
}

#[test]
fn the_systems_disk_exchanges_two_files_or_says_that_it_cannot() {
    let directory = tempfile::tempdir().unwrap();
    let [one, other]: [PathBuf; 2] = ["one", "other"].map(|name| directory.path().join(name));
    fs::write(&one, "1").unwrap();
    fs::write(&other, "2").unwrap();
    match SystemDisk.exchange(&one, &other) {
        Ok(()) => {
            assert_eq!((fs::read(&one).unwrap(), fs::read(&other).unwrap()), (b"2".into(), b"1".into()));
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}"),
    }
    let error = SystemDisk.exchange(&one, &directory.path().join("none")).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unsupported), "{error}");

    let path = directory.path().join("store");
    let mut store = ReplicatedStore::open(&path, Options::new()).unwrap();
    for value in ["first", "second, longer", "3"] {
        store.set_metadata(value.as_bytes()).unwrap();
    }
    drop(store);
    let store = ReplicatedStore::open(&path, Options::new()).unwrap();
    assert_eq!(store.metadata(), b"3");
    let lengths = ["MANIFEST", "MANIFEST.tmp"].map(|name| fs::metadata(path.join(name)).unwrap().len());
    assert_eq!(lengths, [4_160, 4_160]);
}
