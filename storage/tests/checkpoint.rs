//! Copies of a store: what they hold, that the two leave each other alone, and what a failure leaves behind.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what helpers of a test meet unexpectedly fails it")]

mod support;

use std::fmt::Debug;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use paddock_storage::disk::{Disk, DiskFile, DiskLock, Fault, FaultyDisk, Unsynced};
use paddock_storage::{Builder, Durability, Error, Expected, Options, ReplicatedStore, Sequence, Store};
use support::failing::{EveryCall, calls_of, fail_at, fail_look_at};
use support::{Entry, Map, append, applied, contents, log};

const STORE: &str = "/data/store";
const COPY: &str = "/data/copy";

/// Small files, and a flush now and then. What the copy must hold is made durable by making it.
fn busy(path: impl AsRef<Path>) -> Builder {
    let builder = Store::builder(path).segment_bytes(16 << 10).extent_bytes(4 << 10);
    builder.flush_bytes(24 << 10).run_bytes(32 << 10).durability(Durability::Buffered)
}

/// Compacts only when it is asked to, so that every run of a test makes the same calls.
fn calm(disk: impl Disk, path: &str) -> Builder {
    let builder = Store::builder(path).segment_bytes(4 << 10).extent_bytes(4 << 10);
    builder.mark_idle_after(None).background_compaction(false).disk(Arc::new(disk))
}

fn value(number: u64) -> Vec<u8> {
    vec![number as u8; (number * 37 % 300) as usize]
}

/// A write that happened: its version, its key, its value or `None` for a delete.
type Write = (Sequence, Vec<u8>, Option<Vec<u8>>);

fn write_all_the_time(store: &Store, writer: u64, done: &AtomicBool, count: &AtomicU64) -> Vec<Write> {
    let mut writes = Vec::new();
    for number in 0.. {
        if done.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("writer {writer} key {}", number % 200).into_bytes();
        if number % 5 == 4 {
            let version = store.remove_with(&key, Expected::Any).unwrap().unwrap();
            writes.push((version, key, None));
        } else {
            let version = store.insert(&key, value(number)).unwrap();
            writes.push((version, key, Some(value(number))));
        }
        count.fetch_add(1, Ordering::Relaxed);
    }
    writes
}

fn state_at(writes: &[Write], last: Sequence) -> Map {
    let mut map = Map::new();
    for (_, key, value) in writes.iter().filter(|(version, ..)| *version <= last) {
        match value {
            Some(value) => drop(map.insert(key.clone(), value.clone())),
            None => drop(map.remove(key)),
        }
    }
    map
}

struct Finish<'a>(&'a AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_copy_is_what_the_store_was_while_others_write_and_compact() {
    const COPIES: u64 = 12;
    let directory = tempfile::tempdir().unwrap();
    let store = busy(directory.path().join("store")).open().unwrap();
    let (done, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let copy_path = |copy: u64| directory.path().join(format!("copy {copy}"));
    let (mut writes, lasts) = thread::scope(|scope| {
        let _finish = Finish(&done);
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let (store, done, count) = (&store, &done, &count);
                scope.spawn(move || write_all_the_time(store, writer, done, count))
            })
            .collect();
        let mut lasts = Vec::new();
        for copy in 0..COPIES {
            // Writes of all writers lie between two copies.
            while count.load(Ordering::Relaxed) < copy * 150 && writers.iter().all(|w| !w.is_finished()) {
                thread::yield_now();
            }
            if copy == COPIES / 2 {
                store.compact().unwrap();
            }
            lasts.push(store.checkpoint(copy_path(copy)).unwrap());
        }
        done.store(true, Ordering::Relaxed);
        let writes: Vec<Write> = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
        (writes, lasts)
    });
    writes.sort_by_key(|(version, ..)| *version);
    assert!(store.stats().unwrap().compaction.flushes > 1);
    store.close().unwrap();
    // Nothing of the copies needs it.
    std::fs::remove_dir_all(directory.path().join("store")).unwrap();
    for (copy, last) in lasts.into_iter().enumerate() {
        let copy = busy(copy_path(copy as u64)).open().unwrap();
        assert_eq!(copy.stats().unwrap().last, last);
        assert_eq!(contents(&copy), state_at(&writes, last));
        copy.verify().unwrap();
    }
}

#[test]
fn a_store_and_its_copy_leave_each_other_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (path, copy_path) = (directory.path().join("store"), directory.path().join("copy"));
    let store = busy(&path).open().unwrap();
    let mut expected = Map::new();
    for number in 0..600 {
        let key = format!("key {:03}", number % 400).into_bytes();
        store.insert(&key, value(number)).unwrap();
        expected.insert(key, value(number));
        if number == 300 {
            store.compact().unwrap();
        }
    }
    store.checkpoint(&copy_path).unwrap();
    let copy = busy(&copy_path).open().unwrap();
    let (mut left, mut right) = (expected.clone(), expected);
    for number in 0..600_u64 {
        let key = format!("key {:03}", number * 7 % 500).into_bytes();
        store.insert(&key, value(number + 1)).unwrap();
        left.insert(key.clone(), value(number + 1));
        copy.remove(&key).unwrap();
        right.remove(&key);
        if number % 200 == 100 {
            store.compact().unwrap();
            copy.compact().unwrap();
        }
    }
    assert!(contents(&store) == left && contents(&copy) == right);
    drop((store, copy));
    for (path, expected) in [(&path, &left), (&copy_path, &right)] {
        let store = busy(path).open().unwrap();
        assert_eq!(&contents(&store), expected);
        store.verify().unwrap();
        store.close().unwrap();
    }
}

/// What the log has at its end in the copy, and what is only known in memory, is there, too; and a cut in the one does not
/// show in the other.
#[test]
fn uncommitted_entries_are_copied_and_may_be_cut_in_either() {
    let disk = FaultyDisk::new();
    let options = || Options::new().segment_bytes(4 << 10).extent_bytes(4 << 10).disk(Arc::new(disk.clone()));
    let open = |path: &str| ReplicatedStore::open(Path::new(path), options());
    let mut store = open(STORE).unwrap();
    for number in 0..60 {
        append(&mut store, 1, &[Entry::put(&format!("key {number}"), &"x".repeat(300))], 0).unwrap();
    }
    store.set_metadata(b"of the protocol").unwrap();
    // No batch says so: only this.
    store.apply(Sequence(25)).unwrap();
    store.checkpoint(Path::new(COPY)).unwrap();
    let whole = log(&store);
    let mut copy = open(COPY).unwrap();
    assert_eq!((copy.metadata(), copy.store_id()), (&b"of the protocol"[..], store.store_id()));
    assert_eq!((copy.known_commit(), copy.applied()), (Sequence(25), Sequence(25)));
    assert_eq!(contents(&copy.reader()), applied(&whole[..25]));
    assert!(matches!(copy.truncate_after(Sequence(24)), Err(Error::Misplaced { .. })));

    copy.truncate_after(Sequence(31)).unwrap();
    append(&mut copy, 2, &[Entry::put("key 1", "of the copy")], 32).unwrap();
    copy.sync().unwrap();
    assert!(log(&store) == whole);
    store.truncate_after(Sequence(40)).unwrap();
    append(&mut store, 3, &[Entry::put("key 1", "of the store")], 30).unwrap();
    store.sync().unwrap();
    let (of_store, of_copy) = (log(&store), log(&copy));
    assert!(of_store[..40] == whole[..40] && of_copy[..31] == whole[..31]);
    drop((store, copy));
    disk.crash(Unsynced::Lost);
    for (path, expected, commit) in [(STORE, of_store, 30), (COPY, of_copy, 32)] {
        let store = open(path).unwrap();
        assert!(log(&store) == expected && store.known_commit() == Sequence(commit), "{path}");
        store.verify().unwrap();
    }
}

/// Its newest segment has a batch, but no entry: a new segment would have the same name.
#[test]
fn a_copy_of_nothing_new_goes_on() {
    let disk = FaultyDisk::new();
    let store = calm(disk.clone(), STORE).open().unwrap();
    assert_eq!(store.checkpoint("/data/empty").unwrap(), Sequence(0));
    store.insert("heron", "grey").unwrap();
    for copy in ["/data/one", "/data/two"] {
        assert_eq!(store.checkpoint(copy).unwrap(), Sequence(1));
    }
    // One write more than fits a segment.
    let (empty, mut expected) = (calm(disk.clone(), "/data/empty").open().unwrap(), Map::new());
    assert!(!empty.recovery().created);
    empty.insert("large", vec![1; 10_000]).unwrap();
    expected.insert(b"large".to_vec(), vec![1; 10_000]);
    assert_eq!(contents(&empty), expected);
    for copy in [STORE, "/data/two"] {
        let copy = if copy == STORE { store.clone() } else { calm(disk.clone(), copy).open().unwrap() };
        copy.compact().unwrap();
        copy.checkpoint(copy.path().with_extension("again")).unwrap();
        copy.insert("robin", "red").unwrap();
        copy.compact().unwrap();
    }
    drop((store, empty));
    disk.crash(Unsynced::Lost);
    for (path, keys) in
        [("/data/empty", 1), ("/data/one", 1), (STORE, 2), ("/data/two", 2), ("/data/two.again", 1)]
    {
        let store = calm(disk.clone(), path).open().unwrap();
        assert_eq!(contents(&store).len(), keys, "{path}");
        store.verify().unwrap();
    }
}

#[test]
fn only_a_directory_of_its_own_will_do() {
    let disk = FaultyDisk::new();
    let store = calm(disk.clone(), STORE).open().unwrap();
    store.insert("heron", "grey").unwrap();
    for path in [STORE, "/data"] {
        let refused = store.checkpoint(path).unwrap_err();
        let expected = format!("{path}: not empty, and a checkpoint needs a directory of its own");
        assert_eq!(refused.to_string(), expected);
    }
    store.checkpoint(COPY).unwrap();
    assert!(matches!(store.checkpoint(COPY), Err(Error::NotEmpty { .. })));
    store.insert("robin", "red").unwrap();
    store.clone().close().unwrap();
    assert!(matches!(store.checkpoint("/data/late"), Err(Error::Closed)));
}

/// A store with runs, with segments that are full, and with one that is not.
fn written(disk: &FaultyDisk) -> (Store, Map) {
    let store = calm(disk.clone(), STORE).open().unwrap();
    let mut expected = Map::new();
    for number in 0..40 {
        let key = format!("key {:02}", number % 30).into_bytes();
        store.insert(&key, value(number)).unwrap();
        expected.insert(key, value(number));
        if number == 20 {
            store.compact().unwrap();
        }
    }
    (store, expected)
}

/// Makes a copy while a call fails. Returns whether that was seen.
fn run(disk: &FaultyDisk, copied: &Map, fault: Option<Fault>, ending: Option<Unsynced>) -> bool {
    let case = format!("{fault:?}, then {ending:?}");
    let disk = disk.copy();
    let (store, mut expected) = (calm(disk.clone(), STORE).open().unwrap(), copied.clone());
    if let Some(Fault { call, kind, lasting }) = fault {
        fail_at(&disk, call, kind, lasting);
    }
    let outcome = store.checkpoint(COPY);
    disk.set_fault(None);
    if let Err(error) = &outcome {
        assert!(
            matches!(error, Error::Io { .. } | Error::DiskFull { .. } | Error::Poisoned { .. }),
            "{case}: {error}"
        );
    }
    // Whatever became of the copy: the store has everything, and goes on unless it says that it does not.
    assert!(contents(&store) == expected, "{case}");
    match store.insert("afterwards", "x") {
        Ok(_) => drop(expected.insert(b"afterwards".to_vec(), b"x".to_vec())),
        Err(error) => assert!(matches!(error, Error::Poisoned { .. }) && outcome.is_err(), "{case}: {error}"),
    }
    drop(store);
    if let Some(unsynced) = ending {
        disk.crash(unsynced);
    }
    let store = calm(disk.clone(), STORE).open().unwrap_or_else(|error| panic!("{case}: {error}"));
    assert!(contents(&store) == expected, "{case}");
    store.verify().unwrap();

    let begun = disk.paths().into_iter().filter(|path| path.starts_with(COPY));
    let begun: Vec<_> =
        begun.filter(|path| !path.ends_with("LOCK") && !path.ends_with("MANIFEST.tmp")).collect();
    match calm(disk.clone(), COPY).open() {
        // Nothing is there, not even of a copy that was begun: then this is like any other directory.
        Ok(copy) if copy.recovery().created => assert!(outcome.is_err() && begun.is_empty(), "{case}"),
        Ok(copy) => {
            assert!(contents(&copy) == *copied, "{case}");
            copy.verify().unwrap();
        }
        Err(error) => assert!(outcome.is_err() && matches!(error, Error::Corrupt { .. }), "{case}: {error}"),
    }
    outcome.is_err()
}

fn every_call(kind: ErrorKind, lasting: bool) {
    let disk = FaultyDisk::new();
    let (store, expected) = written(&disk);
    drop(store);
    let calls = {
        let disk = disk.copy();
        let store = calm(disk.clone(), STORE).open().unwrap();
        calls_of(&disk, || store.checkpoint(COPY).unwrap())
    };
    assert!(!run(&disk, &expected, None, Some(Unsynced::Lost)));
    let endings = |call| vec![None, Some(Unsynced::Lost), Some(Unsynced::Torn { seed: call })];
    let every_call = EveryCall { calls, kind, lasting, endings: &endings };
    let seen = every_call.fails(|fault, ending| run(&disk, &expected, Some(fault), ending));
    // Some of the calls are only a help.
    assert!(seen > calls * 2, "{seen} of {calls} calls, three times each, were seen to fail");
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

/// What fails is called by its name: what could not be read is a file of the store, and what had no room one of the copy, even
/// if that showed only when it was made durable.
#[test]
fn a_failure_names_its_file() {
    let disk = FaultyDisk::new();
    let (store, _) = written(&disk);
    drop(store);
    let (mut read, mut full) = (0, 0);
    for look in [true, false] {
        for call in 1.. {
            let disk = disk.copy();
            let store = calm(Unlinked(disk.clone(), ErrorKind::Unsupported), STORE).open().unwrap();
            let (looks, calls) = (disk.looks() + call, disk.calls() + call);
            match look {
                true => fail_look_at(&disk, call, ErrorKind::Other),
                false => fail_at(&disk, call, ErrorKind::StorageFull, false),
            }
            let outcome = store.checkpoint(COPY);
            let done = if look { disk.looks() < looks } else { disk.calls() < calls };
            match outcome {
                Err(Error::Io { path, .. }) if path.extension().is_some_and(|end| end == "run") => {
                    assert!(look && path.starts_with(STORE), "{}", path.display());
                    read += 1;
                }
                // The store's own log is durable, or nobody knows.
                Err(Error::Io { path, .. }) if path.starts_with(COPY) => {
                    assert!(look || path.extension().is_none(), "{}", path.display());
                }
                Err(Error::DiskFull { path }) => full += usize::from(path.starts_with(COPY)),
                _ => {}
            }
            if done {
                break;
            }
        }
    }
    assert!(read > 2 && full > 10, "{read} files not read, {full} without room");
}

/// A disk without links.
#[derive(Clone, Debug)]
struct Unlinked(FaultyDisk, ErrorKind);

impl Disk for Unlinked {
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
    fn link(&self, _: &Path, _: &Path) -> io::Result<()> {
        Err(self.1.into())
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
fn without_links_files_are_copied() {
    for kind in [ErrorKind::Unsupported, ErrorKind::CrossesDevices] {
        let disk = FaultyDisk::new();
        let (store, expected) = written(&disk);
        store.close().unwrap();
        let store = calm(Unlinked(disk.clone(), kind), STORE).open().unwrap();
        let used = disk.used_bytes();
        store.checkpoint(COPY).unwrap();
        let runs = disk.paths().into_iter().filter(|path| path.starts_with("/data/store/runs"));
        let runs_bytes: usize = runs.map(|path| disk.bytes(&path).unwrap().len()).sum();
        assert!(runs_bytes > 0 && disk.used_bytes() > used + runs_bytes as u64, "{kind}");
        drop(store);
        disk.crash(Unsynced::Lost);
        let copy = calm(disk, COPY).open().unwrap();
        assert_eq!(contents(&copy), expected, "{kind}");
        copy.verify().unwrap();
    }
}
