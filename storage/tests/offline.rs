//! Looking at a store that nobody has open: what is found is what opening it finds, and nothing is changed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what helpers of a test meet unexpectedly fails it")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use paddock_storage::disk::{FaultyDisk, Unsynced};
use paddock_storage::offline::{self, Damage, OfflineStore, Report, TornTail};
use paddock_storage::{Error, Options, Readable, ReplicatedStore, Result, Sequence, Store};
use support::failing::fail_at;
use support::{Entry, Map, append, applied, contents, log, open, small};

const STORE: &str = "/data/store";

fn offline(disk: &FaultyDisk) -> Result<OfflineStore> {
    OfflineStore::open(Path::new(STORE), small(disk))
}

/// Looks at a store in every way, and that it stays as it is.
fn looked_at<T>(disk: &FaultyDisk, look: impl FnOnce(&OfflineStore) -> T) -> Result<T> {
    let (calls, files) = (disk.calls(), bytes_of(disk));
    let outcome = offline(disk).map(|offline| look(&offline));
    assert_eq!(disk.calls(), calls, "nobody even tried to change anything");
    assert!(bytes_of(disk) == files);
    outcome
}

fn bytes_of(disk: &FaultyDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    disk.paths().into_iter().map(|path| (path.clone(), disk.bytes(&path).unwrap())).collect()
}

fn verified(disk: &FaultyDisk) -> Report {
    looked_at(disk, |offline| offline.verify().unwrap()).unwrap()
}

fn dumped(disk: &FaultyDisk, uncommitted: bool) -> (Map, u64) {
    let dump = |offline: &OfflineStore| {
        let dump = offline.dump(uncommitted).unwrap();
        let left_out = dump.left_out();
        (dump.map(|record| record.unwrap()).map(|r| (r.key.into(), r.value.into())).collect(), left_out)
    };
    looked_at(disk, dump).unwrap()
}

/// A store of several segments, the last batch not known to be committed. Returns its log.
fn written(disk: &FaultyDisk) -> Vec<(u64, Entry)> {
    let mut store = open(disk).unwrap();
    let large = vec![7; 2500];
    for batch in 0..5_u64 {
        let key = format!("key {batch}");
        let entries =
            [Entry::put(&key, "old"), Entry::Put(b"large".to_vec(), large.clone()), Entry::put("a", &key)];
        append(&mut store, 1 + batch / 3, &entries, batch * 3).unwrap();
        store.sync().unwrap();
    }
    append(&mut store, 2, &[Entry::Delete(b"key 1".to_vec()), Entry::put("a", "new")], 15).unwrap();
    store.sync().unwrap();
    let written = log(&store);
    store.close().unwrap();
    written
}

fn segments(disk: &FaultyDisk) -> Vec<PathBuf> {
    disk.paths().into_iter().filter(|path| path.extension().is_some_and(|end| end == "log")).collect()
}

#[test]
fn a_whole_store_is_described() {
    let disk = FaultyDisk::new();
    let entries = written(&disk);
    let paths = segments(&disk);
    assert!(paths.len() >= 3);
    for report in [verified(&disk), looked_at(&disk, |offline| offline.inspect().unwrap()).unwrap()] {
        assert_eq!((report.kind, report.format, report.metadata_bytes), ("replicated", 2, 0));
        assert_eq!((report.last.sequence, report.last.epoch), (Sequence(17), 2));
        assert_eq!((report.known_commit, report.log_first), (Sequence(15), Sequence(1)));
        assert!(report.damages.is_empty() && report.torn_tail.is_none() && report.leftovers.is_empty());
        let found: Vec<&PathBuf> = report.segments.iter().map(|segment| &segment.path).collect();
        assert_eq!(found, paths.iter().collect::<Vec<_>>());
        let mut next = Sequence(1);
        for segment in &report.segments {
            assert_eq!(segment.first, next);
            assert_eq!(segment.bytes as usize, disk.bytes(&segment.path).unwrap().len());
            next = segment.last.next();
        }
        assert_eq!(next, Sequence(18));
        if let Some(verified) = report.verified {
            // Closing wrote a batch of no entries.
            assert_eq!((verified.batches, verified.entries), (7, 17));
        }
    }
    assert_eq!(dumped(&disk, false), (applied(&entries[..15]), 2));
    assert_eq!(dumped(&disk, true), (applied(&entries), 0));
}

#[test]
fn leftovers_are_named_and_what_is_not_ours_is_not() {
    let disk = FaultyDisk::new();
    drop(open(&disk).unwrap());
    for name in ["log/00000000000000000007.log.tmp", "runs/00000003.run.tmp", "FILES.tmp"] {
        disk.set_bytes(&Path::new(STORE).join(name), b"half");
    }
    for name in ["notes.tmp", "log/notes.tmp", "runs/notes"] {
        disk.set_bytes(&Path::new(STORE).join(name), b"mine");
    }
    let leftovers = ["FILES.tmp", "log/00000000000000000007.log.tmp", "runs/00000003.run.tmp"];
    assert_eq!(verified(&disk).leftovers, leftovers.map(|name| Path::new(STORE).join(name)));
}

/// What crashes leave is called by its name, and is what opening drops.
#[test]
fn a_torn_tail_is_told_as_opening_tells_it() {
    let mut torn = 0;
    for seed in 0..25 {
        let disk = FaultyDisk::new();
        let mut store = open(&disk).unwrap();
        append(&mut store, 1, &[Entry::put("a", "1")], 0).unwrap();
        store.sync().unwrap();
        append(&mut store, 1, &[Entry::Put(b"b".to_vec(), vec![5; 2000])], 1).unwrap();
        drop(store);
        disk.crash(Unsynced::Torn { seed });
        let report = verified(&disk);
        let inspected = looked_at(&disk, |offline| offline.inspect().unwrap()).unwrap();
        assert!(report.damages.is_empty(), "seed {seed}: {:?}", report.damages);
        assert_eq!(report.torn_tail, inspected.torn_tail);
        let dumped = dumped(&disk, true).0;
        let mut store = open(&disk).unwrap();
        store.apply(store.last().sequence).unwrap();
        assert_eq!(report.torn_tail.as_ref().map_or(0, |tail| tail.bytes), store.recovery().torn_bytes);
        assert_eq!((report.last, dumped), (store.last(), contents(&store.reader())), "seed {seed}");
        if let Some(TornTail { path, offset, .. }) = report.torn_tail {
            torn += 1;
            assert_eq!((path, offset % 8), (segments(&disk).pop().unwrap(), 0));
        }
    }
    assert!(torn > 5, "the crashes tore too little to show anything");
}

/// What opening a store says of it, and what looking at it says.
fn same_verdict(disk: &FaultyDisk, case: &str) {
    let (calls, copy) = (disk.calls(), disk.copy());
    let looked = offline(disk).and_then(|offline| offline.verify());
    assert_eq!(disk.calls(), calls);
    match (open(&copy), looked) {
        (Ok(store), Ok(report)) => {
            assert!(report.damages.is_empty(), "{case}: it opens, and {:?}", report.damages);
            assert_eq!(report.last, store.last(), "{case}");
            assert_eq!(report.known_commit, store.known_commit(), "{case}");
            assert_eq!(report.torn_tail.map_or(0, |tail| tail.bytes), store.recovery().torn_bytes, "{case}");
        }
        (Err(Error::Corrupt { path, offset, what }), Ok(report)) => {
            let Some(Damage { path: at, offset: where_, what: why, .. }) = report.damages.first() else {
                panic!("{case}: {what}, and nothing is found");
            };
            assert_eq!((at, *where_, why), (&path, offset, &what), "{case}");
        }
        // What is wrong with LOCK or MANIFEST is said by both, in the same words.
        (Err(opened), Err(looked)) => assert_eq!(opened.to_string(), looked.to_string(), "{case}"),
        (opened, looked) => panic!("{case}: opening says {opened:?}, looking says {looked:?}"),
    }
}

#[test]
fn every_flipped_bit_is_judged_as_opening_judges_it() {
    let disk = FaultyDisk::new();
    written(&disk);
    for (path, bytes) in bytes_of(&disk).into_iter().filter(|(path, _)| !path.ends_with("MANIFEST.tmp")) {
        // Some bytes of everything. (damage.rs has all of them.)
        for at in (0..bytes.len()).filter(|at| at % if *at < 144 { 4 } else { 211 } == 0) {
            let copy = disk.copy();
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << (at % 8);
            copy.set_bytes(&path, &bytes);
            same_verdict(&copy, &format!("{} flipped at {at}", path.display()));
        }
    }
}

#[test]
fn every_truncation_is_judged_as_opening_judges_it() {
    let disk = FaultyDisk::new();
    written(&disk);
    for (path, bytes) in bytes_of(&disk).into_iter().filter(|(path, _)| !path.ends_with("MANIFEST.tmp")) {
        for length in (0..bytes.len()).filter(|at| at % if *at < 144 { 9 } else { 311 } == 0) {
            let copy = disk.copy();
            copy.set_bytes(&path, &bytes[..length]);
            same_verdict(&copy, &format!("{} cut to {length}", path.display()));
        }
    }
    let copy = disk.copy();
    copy.remove_durably(&Path::new(STORE).join("MANIFEST"));
    same_verdict(&copy, "without a manifest");
    for path in segments(&disk) {
        let copy = disk.copy();
        copy.remove_durably(&path);
        same_verdict(&copy, &format!("without {}", path.display()));
    }
}

/// A store of runs, and of a log whose beginning is gone.
fn compacted() -> FaultyDisk {
    let disk = FaultyDisk::new();
    let store = Store::builder(STORE).options(small(&disk)).background_compaction(false).open().unwrap();
    for number in 0..300 {
        store.insert(format!("key {number:03}"), vec![number as u8; 50]).unwrap();
    }
    store.compact().unwrap();
    store.close().unwrap();
    disk
}

/// Whatever of a store is missing, looking says the same as opening. What was no store in the words of the one was a damaged
/// one in those of the other.
#[test]
fn what_is_missing_is_judged_as_opening_judges_it() {
    let disk = compacted();
    let paths = disk.paths();
    for kept in [
        &[][..],
        &["LOCK"],
        &["FILES"],
        &["runs"],
        &["log"],
        &["FILES", "runs"],
        &["MANIFEST", "FILES", "runs"],
    ] {
        let copy = disk.copy();
        let is_kept = |path: &&PathBuf| {
            let name = path.strip_prefix(STORE).unwrap();
            kept.iter().any(|kept| name.starts_with(kept))
        };
        paths.iter().filter(|path| !is_kept(path)).for_each(|path| copy.remove_durably(path));
        let looked = OfflineStore::open(Path::new(STORE), small(&copy)).and_then(|store| store.verify());
        let looked = looked.and_then(|report| match report.damages.into_iter().next() {
            Some(Damage { path, offset, what, .. }) => Err(Error::Corrupt { path, offset, what }),
            None => Ok(()),
        });
        let opened = Store::builder(STORE).options(small(&copy)).open();
        match (opened, looked) {
            (Ok(made), Err(Error::NotAStore { .. })) => assert!(made.is_empty(), "{kept:?}"),
            (Err(opened), Err(looked)) => assert_eq!(opened.to_string(), looked.to_string(), "{kept:?}"),
            (opened, looked) => panic!("{kept:?}: opening says {opened:?}, looking says {looked:?}"),
        }
    }
}

/// Not even the directory of the log is there, which opening makes.
#[test]
fn a_lost_directory_is_damage() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = Store::open(&path).unwrap();
    store.insert("key", "value").unwrap();
    store.close().unwrap();
    fs::remove_dir_all(path.join("log")).unwrap();
    let offline = OfflineStore::open(&path, Options::new()).unwrap();
    let found = [offline.inspect().unwrap(), offline.verify().unwrap()].map(|report| report.damages);
    for damages in found {
        assert_eq!(damages.len(), 1);
        assert_eq!(damages[0].path, path.join("log"));
    }
    drop(offline);
    assert!(
        matches!(Store::open(&path), Err(Error::Corrupt { path: found, .. }) if found == path.join("log"))
    );
}

/// The log of an embedder's store says of a batch that it is committed only in the next one. It is all the same.
#[test]
fn what_an_embedder_wrote_before_a_crash_is_dumped() {
    let disk = FaultyDisk::new();
    let store = Store::builder(STORE).options(small(&disk)).open().unwrap();
    store.insert("heron", "grey").unwrap();
    store.insert("robin", "red").unwrap();
    let expected = contents(&store);
    drop(store);
    disk.crash(Unsynced::Lost);
    assert_eq!(dumped(&disk, false), (expected, 0));
    assert_eq!(verified(&disk).known_commit, Sequence(2));
}

/// Compacting is interrupted at each call, by a failure and by the power: no record is lost, none comes back.
#[test]
fn an_interrupted_compaction_loses_nothing() {
    let disk = FaultyDisk::new();
    let store = Store::builder(STORE).options(small(&disk)).background_compaction(false).open().unwrap();
    for number in 0..40 {
        store.insert(format!("key {number:03}"), vec![number as u8; 200]).unwrap();
    }
    store.compact().unwrap();
    for number in 0..40 {
        match number % 3 {
            0 => assert!(store.remove(format!("key {number:03}")).is_ok()),
            1 => assert!(store.insert(format!("key {number:03}"), "new").is_ok()),
            _ => {}
        }
    }
    let expected = contents(&store);
    store.close().unwrap();
    for call in 1.. {
        let mut done = false;
        for unsynced in [Unsynced::Lost, Unsynced::Kept, Unsynced::Torn { seed: call }] {
            let copy = disk.copy();
            fail_at(&copy, call, ErrorKind::Other, true);
            done = offline::compact(Path::new(STORE), small(&copy)).is_ok();
            copy.crash(unsynced);
            let report = OfflineStore::open(Path::new(STORE), small(&copy)).unwrap().verify().unwrap();
            assert!(report.damages.is_empty(), "call {call}, {unsynced:?}: {:?}", report.damages);
            assert!(dumped(&copy, false) == (expected.clone(), 0), "call {call}, {unsynced:?}");
            offline::compact(Path::new(STORE), small(&copy)).unwrap();
            assert!(dumped(&copy, false) == (expected.clone(), 0), "call {call}, {unsynced:?}, again");
        }
        if done {
            return;
        }
    }
}

/// Damage in one file does not hide that in another.
#[test]
fn all_damaged_files_are_named() {
    let disk = FaultyDisk::new();
    written(&disk);
    let paths = segments(&disk);
    for path in &paths[..2] {
        let mut bytes = disk.bytes(path).unwrap();
        bytes[100] ^= 1;
        disk.set_bytes(path, &bytes);
    }
    let damages = verified(&disk).damages;
    let found: Vec<(&PathBuf, u64)> = damages.iter().map(|damage| (&damage.path, damage.offset)).collect();
    assert_eq!(found, [(&paths[0], 64), (&paths[1], 64)], "{damages:?}");
    // Headers alone do not tell.
    let inspected = looked_at(&disk, |offline| offline.inspect().unwrap()).unwrap();
    assert!(inspected.damages.is_empty() && inspected.verified.is_none());
    assert!(
        looked_at(&disk, |offline| offline.dump(false).unwrap_err().to_string()).unwrap().contains("corrupt")
    );
}

#[test]
fn a_store_in_use_is_left_alone_and_no_store_is_made() {
    let disk = FaultyDisk::new();
    let store = open(&disk).unwrap();
    assert!(matches!(offline(&disk), Err(Error::Locked { .. })));
    drop(store);
    let held = offline(&disk).unwrap();
    assert!(matches!(open(&disk), Err(Error::Locked { .. })), "nobody opens what is looked at");
    drop(held);
    drop(open(&disk).unwrap());
    for path in ["/data", "/data/missing", "/data/store/MANIFEST"] {
        let opened = OfflineStore::open(Path::new(path), small(&disk));
        assert!(
            matches!(&opened, Err(Error::NotAStore { path: named }) if named == Path::new(path)),
            "{opened:?}"
        );
    }
    // A copy may lack its LOCK.
    disk.remove_durably(&Path::new(STORE).join("LOCK"));
    assert!(verified(&disk).damages.is_empty());
}

/// On a real disk: not a byte, not a time, not a name is different afterwards.
#[test]
fn real_files_stay_as_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = Store::open(&path).unwrap();
    for number in 0..100 {
        store.insert(format!("key {number}"), "value").unwrap();
    }
    store.close().unwrap();
    // Torn, so that opening would have something to do.
    let segment = path.join("log/00000000000000000001.log");
    let mut bytes = fs::read(&segment).unwrap();
    bytes.extend_from_slice(&[9; 100]);
    fs::write(&segment, bytes).unwrap();

    type Seen = (SystemTime, Option<Vec<u8>>);
    let seen = || {
        let mut seen: BTreeMap<PathBuf, Seen> = BTreeMap::new();
        let mut folders = vec![path.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                let bytes = path.is_file().then(|| fs::read(&path).unwrap());
                seen.insert(path.clone(), (fs::metadata(&path).unwrap().modified().unwrap(), bytes));
                folders.extend(path.is_dir().then_some(path));
            }
        }
        seen.insert(path.clone(), (fs::metadata(&path).unwrap().modified().unwrap(), None));
        seen
    };
    let mut all = seen();
    for path in all.keys() {
        let mut permissions = fs::metadata(path).unwrap().permissions();
        permissions.set_readonly(true);
        fs::set_permissions(path, permissions).unwrap();
    }
    all = seen();
    let offline = OfflineStore::open(&path, Options::new()).unwrap();
    assert_eq!(offline.path(), path);
    let report = offline.verify().unwrap();
    assert_eq!((report.kind, report.last.sequence), ("standalone", Sequence(100)));
    let tail = report.torn_tail.unwrap();
    let end = fs::metadata(&segment).unwrap().len();
    // From behind the last batch on: what was preallocated is part of it.
    assert_eq!((&tail.path, tail.offset + tail.bytes), (&segment, end));
    assert_eq!(offline.dump(false).unwrap().count(), 100);
    drop(offline);
    assert!(seen() == all);
    for path in all.keys() {
        let mut permissions = fs::metadata(path).unwrap().permissions();
        #[allow(
            clippy::permissions_set_readonly_false,
            reason = "only so that the folder can be removed again"
        )]
        permissions.set_readonly(false);
        fs::set_permissions(path, permissions).unwrap();
    }
    assert_eq!(Store::open(&path).unwrap().recovery().torn_bytes, tail.bytes);
}

/// The other kind of error than damage stays an error.
#[test]
fn another_format_is_refused() {
    let disk = FaultyDisk::new();
    drop(ReplicatedStore::open(Path::new(STORE), small(&disk)).unwrap());
    let path = Path::new(STORE).join("MANIFEST");
    let mut bytes = disk.bytes(&path).unwrap();
    bytes[8] = 9;
    let checksum = crc32fast::hash(&[&bytes[..12], &bytes[16..64]].concat());
    bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    disk.set_bytes(&path, &bytes);
    let opened = OfflineStore::open(Path::new(STORE), Options::new().disk(Arc::new(disk.clone())));
    assert!(matches!(opened, Err(Error::Format { found: 9, .. })), "{opened:?}");
}

/// The log of a replica goes with what was overwritten in it, but for what its owner wants to keep.
#[test]
fn a_replica_that_is_compacted_gives_its_log_back() {
    let disk = FaultyDisk::new();
    let mut store = ReplicatedStore::open(Path::new(STORE), small(&disk)).unwrap();
    for number in 0..200 {
        append(&mut store, 1, &[Entry::put(&format!("key {}", number % 10), &"x".repeat(400))], number)
            .unwrap();
    }
    store.sync().unwrap();
    store.apply(Sequence(199)).unwrap();
    let expected = contents(&store.reader());
    store.close().unwrap();
    let keeping = disk.copy();
    let options = small(&keeping).log_retention(paddock_storage::LogRetention::Everything);
    offline::compact(Path::new(STORE), options).unwrap();
    assert_eq!(ReplicatedStore::open(Path::new(STORE), small(&keeping)).unwrap().log_first(), Sequence(1));
    let compacted = offline::compact(Path::new(STORE), small(&disk)).unwrap();
    // What is left is room that is kept for deletes, and little else.
    let room = paddock_storage::CONTROL_HEADROOM_BYTES;
    assert!((compacted.bytes_after - room) * 4 < compacted.bytes_before - room, "{compacted:?}");
    let store = ReplicatedStore::open(Path::new(STORE), small(&disk)).unwrap();
    assert!(store.log_first() > Sequence(150), "{}", store.log_first());
    // What nobody knows to be committed is still there.
    assert_eq!((store.last().sequence, store.applied()), (Sequence(200), Sequence(199)));
    assert_eq!(contents(&store.reader()), expected);
    store.verify().unwrap();
}

/// What is salvaged of a store, and how many places were damaged.
fn salvaged(disk: &FaultyDisk, uncommitted: bool) -> (Map, Vec<Damage>) {
    let salvage = looked_at(disk, |offline| {
        let salvage = offline.salvage(uncommitted).unwrap();
        let damages = salvage.damages().to_vec();
        let records = salvage.map(|record| record.unwrap());
        (records.map(|record| (record.key.to_vec(), record.value.to_vec())).collect(), damages)
    });
    salvage.unwrap()
}

/// Of a whole store it is the same as a dump. With a bit flipped anywhere, what is given was written to that key once; what is missing
/// is explained; and the rest is there.
#[test]
fn what_is_whole_is_salvaged() {
    let disk = FaultyDisk::new();
    let options = || small(&disk).background_compaction(false).run_bytes(4 << 10);
    let mut store = ReplicatedStore::open(Path::new(STORE), options()).unwrap();
    let mut written: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
    for number in 0..120_u64 {
        let key = format!("key {:02}", number % 50);
        let value = format!("value {number} {}", "x".repeat(60));
        written.entry(key.clone().into_bytes()).or_default().push(value.clone().into_bytes());
        let delete = Entry::Delete(b"key 07".to_vec());
        let entry = if number == 110 { delete } else { Entry::put(&key, &value) };
        append(&mut store, 1, &[entry], number).unwrap();
        if number == 60 {
            store.sync().unwrap();
            store.apply(Sequence(60)).unwrap();
            store.compact().unwrap();
        }
    }
    store.sync().unwrap();
    store.apply(Sequence(119)).unwrap();
    drop(store);
    disk.crash(Unsynced::Lost);
    for uncommitted in [false, true] {
        assert_eq!(salvaged(&disk, uncommitted), (dumped(&disk, uncommitted).0, Vec::new()));
    }
    let whole = dumped(&disk, true).0;
    assert_eq!(whole.len(), 49);
    let mut skipped = 0;
    let is_data = |path: &PathBuf| {
        ["log", "runs"]
            .iter()
            .any(|directory| path.parent().is_some_and(|parent| parent.ends_with(directory)))
            || path.ends_with("FILES")
    };
    for path in disk.paths().into_iter().filter(is_data) {
        let bytes = disk.bytes(&path).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        for at in (0..end).step_by(101) {
            let damaged = disk.copy();
            let mut bytes = bytes.clone();
            bytes[at] ^= 4;
            damaged.set_bytes(&path, &bytes);
            let (found, damages) = salvaged(&damaged, true);
            let context = format!("{} at {at}", path.display());
            for (key, value) in &found {
                assert!(written[key].contains(value), "{context}: {key:?} never had that value");
            }
            let changed = whole.iter().filter(|(key, value)| found.get(*key) != Some(value)).count();
            let is_run = path.extension().is_some_and(|name| name == "run");
            // A run whose index is damaged is lost as a whole; otherwise it is a block or a batch.
            assert!(changed <= if is_run { 50 } else { 1 }, "{context}: {changed} keys are not as they were");
            assert!(changed == 0 || !damages.is_empty(), "{context}: and nothing was said");
            skipped += usize::from(!damages.is_empty());
        }
    }
    assert!(skipped > 20, "{skipped}");
}
