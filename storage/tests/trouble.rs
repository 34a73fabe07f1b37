//! What fails beside the writers, and is no reason to end writing: files that cannot be made for a while, runs that are damaged, and
//! verifying that takes long.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what helpers of a test meet unexpectedly fails it")]

mod support;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use paddock_storage::disk::{Disk, DiskFile, DiskLock, FaultyDisk, MappedBytes, Unsynced};
use paddock_storage::{Builder, Durability, Error, Readable, Store};
use support::{Map, contents};

const STORE: &str = "/data/store";

/// What is about to be done with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Create,
    Read,
}

type Hook = Arc<dyn Fn(Act, &Path) -> io::Result<()> + Send + Sync>;

/// A disk that asks first.
#[derive(Clone)]
struct HookedDisk {
    disk: FaultyDisk,
    hook: Arc<Mutex<Option<Hook>>>,
}

impl HookedDisk {
    fn new() -> HookedDisk {
        HookedDisk { disk: FaultyDisk::new(), hook: Arc::default() }
    }

    fn set(&self, hook: impl Fn(Act, &Path) -> io::Result<()> + Send + Sync + 'static) {
        *self.hook.lock().unwrap() = Some(Arc::new(hook));
    }

    fn ask(&self, act: Act, path: &Path) -> io::Result<()> {
        let hook = self.hook.lock().unwrap().clone();
        hook.map_or(Ok(()), |hook| hook(act, path))
    }

    fn file(&self, path: &Path, file: io::Result<Arc<dyn DiskFile>>) -> io::Result<Arc<dyn DiskFile>> {
        // It keeps its handle when it gets its name.
        let is_unfinished = path.extension().is_some_and(|extension| extension == "tmp");
        let path = if is_unfinished { path.with_extension("") } else { path.to_owned() };
        Ok(Arc::new(HookedFile { file: file?, path, disk: self.clone() }))
    }
}

impl fmt::Debug for HookedDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HookedDisk")
    }
}

#[derive(Debug)]
struct HookedFile {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    disk: HookedDisk,
}

impl Disk for HookedDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.ask(Act::Create, path)?;
        self.file(path, self.disk.create(path))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.file(path, self.disk.open(path))
    }
    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.file(path, self.disk.open_read(path))
    }
    fn create_dir(&self, path: &Path) -> io::Result<bool> {
        self.disk.create_dir(path)
    }
    fn dir_exists(&self, path: &Path) -> bool {
        self.disk.dir_exists(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.disk.list(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        self.disk.exchange(one, other)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.link(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        self.disk.lock(path)
    }
    fn lock_existing(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        self.disk.lock_existing(path)
    }
}

impl DiskFile for HookedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk.ask(Act::Read, &self.path)?;
        self.file.read_at(buffer, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }
    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        self.file.allocate(offset, length)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }
    fn map(&self, length: u64) -> io::Result<Option<MappedBytes>> {
        self.file.map(length)
    }
}

fn builder(disk: &HookedDisk) -> Builder {
    let builder = Store::builder(STORE).segment_bytes(8 << 10).extent_bytes(4 << 10).run_bytes(16 << 10);
    builder.flush_bytes(6 << 10).mark_idle_after(None).disk(Arc::new(disk.clone()))
}

/// Compacts when it is asked to.
fn calm(disk: &HookedDisk) -> Builder {
    builder(disk).background_compaction(false)
}

fn insert(store: &Store, map: &mut Map, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let (key, value) = (format!("key {:03}", number % 300).into_bytes(), vec![number as u8; 150]);
        store.insert(&key, &value).unwrap();
        map.insert(key, value);
    }
}

fn too_many_files() -> io::Error {
    io::Error::from_raw_os_error(24)
}

fn is_in(path: &Path, directory: &str) -> bool {
    path.parent().is_some_and(|parent| parent.ends_with(directory))
}

fn reopened(disk: &HookedDisk, expected: &Map) {
    disk.disk.crash(Unsynced::Lost);
    let store = calm(disk).open().unwrap();
    assert_eq!(&contents(&store), expected);
    store.verify().unwrap();
}

/// No file could be made, or an input not be read: nothing was touched, so the store goes on, and does it another time.
#[test]
fn what_fails_before_anything_has_changed_ends_nothing() {
    let run_is_made = |act, path: &Path, _: &[PathBuf]| act == Act::Create && is_in(path, "runs");
    let run_is_read =
        |act, path: &Path, runs: &[PathBuf]| act == Act::Read && runs.iter().any(|run| run == path);
    let files_is_made = |act, path: &Path, _: &[PathBuf]| act == Act::Create && path.ends_with("FILES.tmp");
    for fails in [run_is_made as fn(Act, &Path, &[PathBuf]) -> bool, run_is_read, files_is_made] {
        let (disk, mut map) = (HookedDisk::new(), Map::new());
        // Compressed blocks might be in memory already.
        let store = calm(&disk).compression(paddock_storage::Compression::None).open().unwrap();
        insert(&store, &mut map, 0..100);
        store.compact().unwrap();
        insert(&store, &mut map, 50..200);
        // Those that a merge has to read.
        let runs: Vec<_> = disk.disk.paths().into_iter().filter(|path| is_in(path, "runs")).collect();
        assert!(!runs.is_empty());
        disk.set(move |act, path| if fails(act, path, &runs) { Err(too_many_files()) } else { Ok(()) });
        let error = store.compact().unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        assert!(store.stats().unwrap().compaction.trouble.is_some());
        insert(&store, &mut map, 150..250);
        disk.set(|_, _| Ok(()));
        assert_eq!(contents(&store), map);
        store.compact().unwrap();
        assert_eq!(store.stats().unwrap().compaction.trouble, None);
        assert_eq!(contents(&store), map);
        insert(&store, &mut map, 200..260);
        drop(store);
        reopened(&disk, &map);
    }
}

/// The same with a thread of its own: it does not end, and writers wait at most for the room that they need.
#[test]
fn the_thread_tries_again() {
    let (disk, mut map) = (HookedDisk::new(), Map::new());
    let store = builder(&disk).durability(Durability::Buffered).open().unwrap();
    disk.set(|act, path| match act {
        Act::Create if is_in(path, "runs") => Err(too_many_files()),
        _ => Ok(()),
    });
    insert(&store, &mut map, 0..100);
    let deadline = Instant::now() + Duration::from_secs(60);
    while store.stats().unwrap().compaction.trouble.is_none() {
        assert!(Instant::now() < deadline, "nothing was tried");
        thread::yield_now();
    }
    disk.set(|_, _| Ok(()));
    // More than fits without a flush.
    insert(&store, &mut map, 100..600);
    store.compact().unwrap();
    let stats = store.stats().unwrap().compaction;
    assert_eq!((stats.failure, stats.trouble), (None, None));
    store.sync().unwrap();
    drop(store);
    reopened(&disk, &map);
}

/// Merging meets a damaged row again and again, across openings. What is written stays, what is whole is read, and the error names
/// the file.
#[test]
fn a_damaged_run_is_not_merged_and_does_not_end_writing() {
    let (disk, mut map) = (HookedDisk::new(), Map::new());
    let open = || calm(&disk).compression(paddock_storage::Compression::None).open().unwrap();
    let store = open();
    insert(&store, &mut map, 0..20);
    store.compact().unwrap();
    store.close().unwrap();
    let run = disk.disk.paths().into_iter().find(|path| is_in(path, "runs")).unwrap();
    let mut bytes = disk.disk.bytes(&run).unwrap();
    // The value of its first row.
    bytes[64 + 60] ^= 1;
    disk.disk.set_bytes(&run, &bytes);
    let damaged = |error: &Error| matches!(error, Error::Corrupt { path, .. } if *path == run);
    for opening in 0..2 {
        // The checkpoint of the index spares opening the rows.
        let store = open();
        for number in 0..10 {
            insert(&store, &mut map, 100 + number..110 + number);
            let error = store.compact().unwrap_err();
            assert!(damaged(&error), "{error}");
        }
        let stats = store.stats().unwrap().compaction;
        assert!(stats.trouble.unwrap().contains("corrupt at byte"), "opening {opening}");
        assert_eq!(stats.failure, None);
        assert!(stats.runs > 10, "what is written is flushed all the same: {} runs", stats.runs);
        for (key, value) in map.iter().filter(|(key, _)| **key != b"key 000") {
            assert_eq!(store.get(key).unwrap().as_ref().map(|value| &value[..]), Some(&value[..]));
        }
        assert!(damaged(&store.get(b"key 000").unwrap_err()));
        store.close().unwrap();
    }
    // But not for ever: reads look at all of the runs.
    let store = open();
    let poisoned = (0..100).find_map(|number| {
        let outcome = store.insert("another", [number; 100]).and_then(|_| store.compact());
        Some(outcome.unwrap_err()).filter(|error| !damaged(error))
    });
    let reason = poisoned.expect("no end").to_string();
    assert!(reason.contains("takes no more writes") && reason.contains(run.to_str().unwrap()), "{reason}");
    assert!(store.stats().unwrap().compaction.runs < 70);
}

/// It reads everything, and that takes long. Others write, and ask for figures, meanwhile.
#[test]
fn verifying_holds_nobody_up() {
    let (disk, mut map) = (HookedDisk::new(), Map::new());
    let store = calm(&disk).open().unwrap();
    insert(&store, &mut map, 0..200);
    store.compact().unwrap();
    insert(&store, &mut map, 200..220);
    let (other, seen) = (store.clone(), Mutex::new([false; 2]));
    let seen = Arc::new(seen);
    let noting = seen.clone();
    disk.set(move |act, path| {
        let place = ["log", "runs"].iter().position(|directory| is_in(path, directory));
        let Some(place) = place.filter(|place| act == Act::Read && !noting.lock().unwrap()[*place]) else {
            return Ok(());
        };
        noting.lock().unwrap()[place] = true;
        let (other, (done, is_done)) = (other.clone(), channel());
        thread::spawn(move || {
            other.insert(format!("written meanwhile {place}"), "x").unwrap();
            other.stats().unwrap();
            done.send(()).unwrap();
        });
        is_done.recv_timeout(Duration::from_secs(20)).map_err(|_| io::Error::other("others had to wait"))
    });
    let verification = store.verify().unwrap();
    assert_eq!(*seen.lock().unwrap(), [true, true]);
    assert!(verification.run_rows >= 200);
    disk.set(|_, _| Ok(()));
    assert!(store.get(b"written meanwhile 1").unwrap().is_some());
    store.verify().unwrap();
}

/// Durations that no clock reaches.
#[test]
fn what_is_never_due_panics_nowhere() {
    let disk = HookedDisk::new();
    let builder = || calm(&disk).sync_interval(Duration::MAX).mark_idle_after(Some(Duration::MAX));
    let store = builder().open().unwrap();
    for durability in [Durability::Sync, Durability::Interval, Durability::Sync, Durability::Interval] {
        let options = paddock_storage::WriteOptions::new().durability(durability);
        store.insert_with("heron", "grey", options).unwrap().unwrap();
    }
    drop(store);
    disk.disk.crash(Unsynced::Lost);
    // Dropping it has seen to what was promised.
    assert_eq!(builder().open().unwrap().stats().unwrap().last.0, 4);
}

/// Where nobody compacts by itself a writer does it, and a disk that is full for that is none for a delete.
#[test]
fn a_delete_gets_through_though_a_flush_has_no_room() {
    let (disk, mut map) = (HookedDisk::new(), Map::new());
    let store = calm(&disk).durability(Durability::Buffered).open().unwrap();
    disk.set(|act, path| match act {
        Act::Create if is_in(path, "runs") => Err(io::ErrorKind::StorageFull.into()),
        _ => Ok(()),
    });
    insert(&store, &mut map, 0..400);
    for number in 0..100 {
        store.remove(format!("key {number:03}")).unwrap();
        map.remove(format!("key {number:03}").as_bytes());
    }
    assert_eq!(contents(&store), map);
    store.sync().unwrap();
    disk.set(|_, _| Ok(()));
    drop(store);
    reopened(&disk, &map);
}
