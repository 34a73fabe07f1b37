//! The embedder's store: conditions, iteration, group commit, a full disk.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what helpers of a test meet unexpectedly fails it")]

mod support;

use std::collections::BTreeSet;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use paddock_storage::disk::{Disk, DiskFile, DiskLock, Fault, FaultyDisk, Unsynced};
use paddock_storage::{
    APPEND_OVERHEAD_BYTES, CONTROL_HEADROOM_BYTES, Error, Expected, Need, Readable, Sequence, Store,
    WriteBatch,
};
use proptest::collection::vec;
use proptest::prelude::*;
use support::{Map, contents};

fn open(disk: &FaultyDisk) -> Store {
    let builder = Store::builder("/data/store").segment_bytes(4 << 10).extent_bytes(4 << 10);
    // Nothing happens on the disk but what a test does.
    builder.disk(Arc::new(disk.clone())).mark_idle_after(None).open().unwrap()
}

#[test]
fn what_was_written_survives_the_power_failing_after_the_call() {
    let disk = FaultyDisk::new();
    let store = open(&disk);
    for number in 0..100_u32 {
        store.insert(number.to_be_bytes(), vec![9; number as usize]).unwrap();
    }
    store.remove(7_u32.to_be_bytes()).unwrap();
    let before = contents(&store);
    drop(store);
    disk.crash(Unsynced::Lost);
    let store = open(&disk);
    assert_eq!(contents(&store), before);
    assert_eq!((store.len(), store.recovery().entries), (99, 101));
    assert!(store.stats().unwrap().segments > 2);
}

#[test]
fn conditions_are_held_against_what_is_there() {
    let store = open(&FaultyDisk::new());
    let absent = store.insert_with("key", "1", Expected::Present).unwrap().unwrap_err();
    assert_eq!(absent.current, None);
    let first = store.insert_with("key", "1", Expected::Absent).unwrap().unwrap();
    let lost = store.insert_with("key", "2", Expected::Absent).unwrap().unwrap_err();
    assert_eq!(lost.current.unwrap().version, first);
    let second = store.insert_with("key", "2", Expected::Version(first)).unwrap().unwrap();
    assert!(store.insert_with("key", "3", Expected::Version(first)).unwrap().is_err());
    assert!(store.remove_with("key", Expected::Version(first)).unwrap().is_err());
    assert_eq!(store.version(b"key").unwrap(), Some(second));
    store.insert_with("key", "any", Expected::Any).unwrap().unwrap();
    assert!(store.remove_with("key", Expected::Present).unwrap().is_ok());
    assert_eq!(store.get(b"key").unwrap(), None);
    // A version is not given out again.
    assert!(store.insert("key", "new").unwrap() > second);
}

/// Each increments a counter by compare-and-swap: no increment is lost, however the writes are grouped.
#[test]
fn threads_that_race_lose_no_update() {
    const THREADS: usize = 8;
    const INCREMENTS: usize = 50;
    let disk = FaultyDisk::new();
    let store = open(&disk);
    let start = Barrier::new(THREADS);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            let (store, start) = (store.clone(), &start);
            scope.spawn(move || {
                start.wait();
                for _ in 0..INCREMENTS {
                    loop {
                        let old = store.get(b"counter").unwrap();
                        let number =
                            old.as_deref().map_or(0, |old| str::from_utf8(old).unwrap().parse().unwrap());
                        let new = (number + 1_usize).to_string();
                        if store
                            .compare_and_swap("counter", old.as_deref(), Some(new.as_bytes()))
                            .unwrap()
                            .is_ok()
                        {
                            break;
                        }
                    }
                }
            });
        }
    });
    let total = (THREADS * INCREMENTS).to_string();
    assert_eq!(store.get(b"counter").unwrap().unwrap(), total.as_bytes());
    drop(store);
    disk.crash(Unsynced::Lost);
    assert_eq!(open(&disk).get(b"counter").unwrap().unwrap(), total.as_bytes());
}

#[test]
fn callers_at_the_same_time_each_get_their_own_answer() {
    const THREADS: usize = 8;
    const WRITES: usize = 100;
    let disk = FaultyDisk::new();
    let store = open(&disk);
    let versions = thread::scope(|scope| {
        let write = |thread: usize| {
            let store = store.clone();
            move || -> Vec<Sequence> {
                (0..WRITES).map(|write| store.insert(format!("{thread}/{write}"), "x").unwrap()).collect()
            }
        };
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(write(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    for (thread, versions) in versions.iter().enumerate() {
        for (write, version) in versions.iter().enumerate() {
            assert_eq!(store.version(format!("{thread}/{write}").as_bytes()).unwrap(), Some(*version));
        }
    }
    let distinct: BTreeSet<Sequence> = versions.into_iter().flatten().collect();
    assert_eq!(distinct.len(), THREADS * WRITES);
    let stats = store.stats().unwrap();
    assert!(stats.syncs <= stats.records, "{stats:?}");
}

/// A failed fsync is everybody's failure: nobody in its group, nor after it, is told that a write is durable.
#[test]
fn a_failed_fsync_ends_writing_and_not_reading() {
    let disk = FaultyDisk::new();
    let store = open(&disk);
    store.insert("a", "1").unwrap();
    disk.set_fault(Some(Fault { call: disk.calls() + 2, kind: io::ErrorKind::Other, lasting: false }));
    assert!(matches!(store.insert("b", "2"), Err(Error::Io { .. })));
    assert!(matches!(store.insert("c", "3"), Err(Error::Poisoned { .. })));
    assert_eq!(contents(&store), Map::from([(b"a".to_vec(), b"1".to_vec())]));
    assert!(matches!(store.close(), Err(Error::Poisoned { .. })));
}

/// A disk whose file calls panic while told so: a bug below the store, or in an embedder's own disk.
#[derive(Debug)]
struct PanickingDisk {
    disk: FaultyDisk,
    panics: Arc<AtomicBool>,
}

#[derive(Debug)]
struct PanickingFile {
    file: Arc<dyn DiskFile>,
    panics: Arc<AtomicBool>,
}

impl PanickingDisk {
    fn file(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(PanickingFile { file, panics: self.panics.clone() })
    }
}

impl Disk for PanickingDisk {
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

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(self.disk.create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(self.disk.open(path)?))
    }

    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(self.disk.open_read(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
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

impl DiskFile for PanickingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }

    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        self.file.allocate(offset, length)
    }

    fn sync_data(&self) -> io::Result<()> {
        assert!(!self.panics.load(Ordering::SeqCst), "as told");
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
}

/// The thread that writes for everybody panics half-way: nobody waits for ever, and nobody writes on where nothing is
/// known about what the log holds.
#[test]
fn a_writer_that_panics_ends_writing_for_all() {
    let panics = Arc::new(AtomicBool::new(false));
    let disk = PanickingDisk { disk: FaultyDisk::new(), panics: panics.clone() };
    let store = Store::builder("/data/store").disk(Arc::new(disk)).mark_idle_after(None).open().unwrap();
    store.insert("a", "1").unwrap();
    panics.store(true, Ordering::SeqCst);
    thread::scope(|scope| {
        let writers = (0..8).map(|number| {
            let store = store.clone();
            scope.spawn(move || store.insert(format!("{number}"), "x"))
        });
        let writers: Vec<_> = writers.collect();
        let outcomes: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        assert!(outcomes.iter().any(|outcome| outcome.is_err()), "the writer itself panics");
        for outcome in outcomes.into_iter().flatten() {
            assert!(matches!(outcome, Err(Error::Poisoned { .. })), "{outcome:?}");
        }
    });
    panics.store(false, Ordering::SeqCst);
    assert!(matches!(store.insert("b", "2"), Err(Error::Poisoned { .. })));
    assert_eq!(contents(&store), Map::from([(b"a".to_vec(), b"1".to_vec())]));
    assert!(matches!(store.close(), Err(Error::Poisoned { .. })));
}

/// A condition on whether a key is there, or on its version, does not read its row: so a damaged one can be removed.
#[test]
fn a_damaged_row_can_be_removed_and_replaced() {
    let disk = FaultyDisk::new();
    let store = open(&disk);
    let version = store.insert("damaged", "value").unwrap();
    store.insert("other", "value").unwrap();
    let path = Path::new("/data/store/log/00000000000000000001.log");
    let mut bytes = disk.bytes(path).unwrap();
    let at = bytes.windows(7).position(|window| window == b"damaged").unwrap();
    bytes[at + 7] ^= 1;
    disk.set_bytes(path, &bytes);
    let corrupt = |outcome: Error| matches!(outcome, Error::Corrupt { .. });
    assert!(corrupt(store.get(b"damaged").unwrap_err()));
    // Where the answer would have the value in it, there is none.
    assert!(corrupt(store.insert_with("damaged", "new", Expected::Absent).unwrap_err()));
    assert!(corrupt(store.compare_and_swap("damaged", Some(b"value"), None).unwrap_err()));
    // The version is in the row: nobody knows whether it is right.
    assert!(corrupt(store.insert_with("damaged", "new", Expected::Version(version)).unwrap_err()));
    store.insert("damaged", "new").unwrap();
    assert_eq!(store.get(b"damaged").unwrap().unwrap(), "new");

    let at = disk.bytes(path).unwrap().windows(7).rposition(|window| window == b"damaged").unwrap();
    let mut bytes = disk.bytes(path).unwrap();
    bytes[at + 7] ^= 1;
    disk.set_bytes(path, &bytes);
    assert!(corrupt(store.get(b"damaged").unwrap_err()));
    assert!(store.remove("damaged").unwrap());
    assert_eq!(store.get(b"damaged").unwrap(), None);
    assert!(!store.remove("damaged").unwrap());
}

#[test]
fn a_full_disk_refuses_growth_and_takes_deletes() {
    let disk = FaultyDisk::new();
    let store = open(&disk);
    for number in 0..200_u32 {
        store.insert(number.to_be_bytes(), [8; 1000]).unwrap();
    }
    disk.set_capacity_bytes(Some(disk.used_bytes()));
    let full =
        (200..1000_u32).find_map(|number| store.insert(number.to_be_bytes(), [8; 1000]).err()).unwrap();
    assert!(matches!(&full, Error::DiskFull { path } if path.starts_with("/data/store/log")), "{full}");
    for number in 0..200_u32 {
        assert!(store.remove(number.to_be_bytes()).unwrap());
    }
    let before = contents(&store);
    drop(store);
    disk.crash(Unsynced::Lost);
    // Also a restart finds the disk full, and the store whole.
    let store = open(&disk);
    assert_eq!(contents(&store), before);
    assert!(matches!(store.insert("more", [8; 1000]), Err(Error::DiskFull { .. })));
    disk.set_capacity_bytes(None);
    store.insert("more", [8; 1000]).unwrap();
}

/// What was reserved is there, for as many appends as were counted in, however full the disk is by then; also where it
/// takes a new segment.
#[test]
fn reserved_room_is_there_on_a_full_disk() {
    let disk = FaultyDisk::new();
    let mut store = support::open(&disk).unwrap();
    let rows = support::encode(&[support::Entry::put("key", "value")]);
    let bytes = rows.encoded().len() as u64;
    for appends in [1, 7, 300, 2, 4_000] {
        disk.set_capacity_bytes(None);
        store.reserve(appends * (bytes + APPEND_OVERHEAD_BYTES), Need::Growth).unwrap();
        disk.set_capacity_bytes(Some(0));
        for _ in 0..appends {
            support::append(&mut store, 1, &[support::Entry::put("key", "value")], 0).unwrap();
        }
        store.sync().unwrap();
        // The headroom is whole still.
        let small = CONTROL_HEADROOM_BYTES - 1_000;
        store.reserve(small, Need::Control).unwrap();
        assert!(matches!(store.reserve(CONTROL_HEADROOM_BYTES, Need::Growth), Err(Error::DiskFull { .. })));
    }
    store.verify().unwrap();
}

#[test]
fn a_batch_is_seen_at_once_and_its_last_write_counts() {
    let store = open(&FaultyDisk::new());
    let mut batch = WriteBatch::new();
    batch.insert("a", "1").unwrap().insert("b", "2").unwrap().insert("a", "3").unwrap().remove("b").unwrap();
    assert!(matches!(batch.insert("", "x"), Err(Error::EmptyKey)));
    assert_eq!(batch.len(), 4);
    let last = store.write(batch).unwrap();
    assert_eq!(last, Sequence(4));
    assert_eq!(contents(&store), Map::from([(b"a".to_vec(), b"3".to_vec())]));
    // Writing nothing is no write.
    assert_eq!(store.write(WriteBatch::new()).unwrap(), last);
}

#[test]
fn prefixes_and_pages_walk_in_order() {
    let store = open(&FaultyDisk::new());
    for number in 0..600_u32 {
        store.insert(format!("user/{number:03}"), "x").unwrap();
    }
    store.insert("user", "before").unwrap();
    store.insert("user0", "after").unwrap();
    let keys: Vec<_> = store.prefix(b"user/").map(|record| record.unwrap().key).collect();
    assert_eq!((keys.len(), &keys[0][..], &keys[599][..]), (600, &b"user/000"[..], &b"user/599"[..]));
    assert!(keys.is_sorted());
    let reversed: Vec<_> = store.prefix(b"user/").rev().map(|record| record.unwrap().key).collect();
    assert!(reversed.iter().eq(keys.iter().rev()));
    let some: Vec<_> = store.range("user/598".."user0").map(|record| record.unwrap().key).collect();
    assert_eq!(some, ["user/598", "user/599"]);
}

fn short_key() -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![Just(b'a'), Just(b'b'), Just(0xff)], 1..4)
}

fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
    prop_oneof![
        Just(Bound::Unbounded),
        short_key().prop_map(Bound::Included),
        short_key().prop_map(Bound::Excluded)
    ]
}

fn within(key: &[u8], start: &Bound<Vec<u8>>, end: &Bound<Vec<u8>>) -> bool {
    let after = match start {
        Bound::Included(start) => key >= &start[..],
        Bound::Excluded(start) => key > &start[..],
        Bound::Unbounded => true,
    };
    let before = match end {
        Bound::Included(end) => key <= &end[..],
        Bound::Excluded(end) => key < &end[..],
        Bound::Unbounded => true,
    };
    after && before
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Ranges from both ends at once, over more keys than a page of the iterator takes, agree with the model.
    #[test]
    fn ranges_agree_with_the_model(
        writes in vec((short_key(), any::<bool>()), 0..60),
        (start, end) in (bound(), bound()),
        ends in vec(any::<bool>(), 0..60),
    ) {
        let store = open(&FaultyDisk::new());
        let mut model = Map::new();
        for (number, (key, put)) in writes.iter().enumerate() {
            if *put {
                store.insert(key, number.to_be_bytes()).unwrap();
                model.insert(key.clone(), number.to_be_bytes().to_vec());
            } else {
                prop_assert_eq!(store.remove(key).unwrap(), model.remove(key).is_some());
            }
        }
        let expected: Vec<_> = model.into_iter().filter(|(key, _)| within(key, &start, &end)).collect();
        let mut expected = expected.into_iter();
        let mut found = store.range((start, end)).map(|record| record.unwrap()).map(|r| (r.key.to_vec(), r.value.to_vec()));
        for back in ends {
            if back {
                prop_assert_eq!(found.next_back(), expected.next_back());
            } else {
                prop_assert_eq!(found.next(), expected.next());
            }
        }
        prop_assert_eq!(found.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    }
}
