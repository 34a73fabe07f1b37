//! Stores that take the place of another one: whatever fails on the way, and wherever a crash comes, there is the old one or
//! the new one, whole.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what helpers of a test meet unexpectedly fails it")]

mod support;

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use paddock_storage::disk::{Disk, FaultyDisk, Unsynced};
use paddock_storage::{
    Error, IncomingCopy, LogRetention, Options, OutgoingCopy, ReplicatedStore, Result, Sequence,
};
use support::failing::{EveryCall, calls_of};
use support::{Entry, Map, append, contents, dice};

const PLACE: &str = "/data/store";

/// A copy's files.
type Files = Vec<(String, Vec<u8>)>;

/// Small files, compacted when it is asked for, so that every run of a test makes the same calls.
fn calm(disk: &FaultyDisk, retention: LogRetention) -> Options {
    let options = Options::new().segment_bytes(4 << 10).extent_bytes(4 << 10).run_bytes(4 << 10);
    let options = options.background_compaction(false).mark_idle_after(None).log_retention(retention);
    options.disk(Arc::new(disk.clone()))
}

fn options(disk: &FaultyDisk) -> Options {
    calm(disk, LogRetention::Nothing)
}

/// Random writes, applied.
fn write(store: &mut ReplicatedStore, seed: u64, count: usize) {
    let mut dice = dice(seed);
    for _ in 0..count {
        let key = format!("key {:03}", dice(80));
        let entry = match dice(5) {
            0 => Entry::Delete(key.into()),
            _ => Entry::Put(key.into(), vec![dice(256) as u8; dice(200) as usize]),
        };
        append(store, 1 + seed, &[entry], 0).unwrap();
    }
    let durable = store.sync().unwrap();
    store.apply(durable).unwrap();
}

/// A leader's copy: with runs, a checkpoint of the index, a log behind them, and an end that is not committed. And what is in it.
fn copy_of_a_leader() -> (Files, Map, Sequence) {
    let disk = FaultyDisk::new();
    let mut store = ReplicatedStore::open(Path::new(PLACE), options(&disk)).unwrap();
    write(&mut store, 1, 150);
    store.compact().unwrap();
    store.set_metadata(b"the leader's").unwrap();
    store.close().unwrap();
    let mut store = ReplicatedStore::open(Path::new(PLACE), options(&disk)).unwrap();
    write(&mut store, 2, 30);
    let map = contents(&store.reader());
    append(&mut store, 4, &[Entry::put("key 001", "not committed")], 0).unwrap();
    let checkpointer = store.checkpointer().unwrap();
    let copy = OutgoingCopy::write(checkpointer, Path::new(PLACE), "follower", &options(&disk)).unwrap();
    assert_eq!(copy.last(), Sequence(181));
    let read = |file: &paddock_storage::CopyFile| {
        let mut bytes = vec![0; file.length_bytes as usize];
        let read = copy.open(file).unwrap().read_at(&mut bytes, 0).unwrap();
        assert_eq!(read as u64, file.length_bytes);
        (file.name.clone(), bytes)
    };
    let files: Files = copy.files().iter().map(read).collect();
    for folder in ["log/", "runs/", "index/"] {
        assert!(files.iter().any(|(name, _)| name.starts_with(folder)), "{folder} is part of it");
    }
    (files, map, copy.last())
}

/// A follower's disk, with little on it.
fn follower() -> (FaultyDisk, Map) {
    let disk = FaultyDisk::new();
    let mut store = ReplicatedStore::open(Path::new(PLACE), options(&disk)).unwrap();
    write(&mut store, 7, 5);
    store.set_metadata(b"old").unwrap();
    let map = contents(&store.reader());
    store.close().unwrap();
    disk.crash(Unsynced::Kept);
    (disk, map)
}

fn receive(disk: &FaultyDisk, files: &Files) -> Result<ReplicatedStore> {
    let mut incoming = IncomingCopy::begin(Path::new(PLACE), &options(disk))?;
    for (name, bytes) in files {
        incoming.begin_file(name, bytes.len() as u64)?;
        for piece in bytes.chunks(3_000) {
            incoming.write(piece)?;
        }
    }
    incoming.finish(options(disk))
}

/// All that a follower does.
fn replace(disk: &FaultyDisk, files: &Files) -> Result<()> {
    let old =
        ReplicatedStore::open(&ReplicatedStore::settle(Path::new(PLACE), &options(disk))?, options(disk))?;
    let mut new = receive(disk, files)?;
    new.set_metadata(b"new")?;
    let path = old.path().to_owned();
    drop(old);
    ReplicatedStore::remove_directory(&path, &options(disk))?;
    new.close()
}

fn settled(disk: &FaultyDisk) -> Result<ReplicatedStore> {
    ReplicatedStore::open(&ReplicatedStore::settle(Path::new(PLACE), &options(disk))?, options(disk))
}

fn directories(disk: &FaultyDisk) -> Vec<String> {
    let mut names = disk.list(Path::new("/data")).unwrap();
    names.sort();
    names
}

/// That there is the old store or the new one, whole, alone, and that it can be replaced. True: the new one.
fn check(disk: &FaultyDisk, old: &Map, files: &Files, new: &(Map, Sequence), context: &str) -> bool {
    let store = settled(disk).unwrap_or_else(|error| panic!("{context}: {error}"));
    let is_new = store.metadata() == b"new";
    if is_new {
        assert_eq!(store.last().sequence, new.1, "{context}");
        assert_eq!(contents(&store.reader()), new.0, "{context}");
    } else {
        assert_eq!(store.metadata(), b"old", "{context}");
        assert_eq!(contents(&store.reader()), *old, "{context}");
    }
    store.verify().unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!(directories(disk).len(), 1, "{context}: {:?}", directories(disk));
    drop(store);
    replace(disk, files).unwrap_or_else(|error| panic!("{context}, and again: {error}"));
    let store = settled(disk).unwrap();
    assert_eq!((store.metadata(), contents(&store.reader())), (&b"new"[..], new.0.clone()), "{context}");
    is_new
}

#[test]
fn a_crash_at_every_call_leaves_the_old_store_or_the_new_one() {
    let (files, map, last) = copy_of_a_leader();
    let new = (map, last);
    let (disk, old) = follower();
    let calls = calls_of(&disk, || replace(&disk, &files).unwrap());
    assert!(calls > 50, "{calls} calls say little");
    let endings = |call| {
        let torn = (0..3).map(|seed| Some(Unsynced::Torn { seed: seed * 1_000 + call }));
        torn.chain([None, Some(Unsynced::Lost), Some(Unsynced::Kept)]).collect()
    };
    let (mut olds, mut news) = (0, 0);
    let every = EveryCall { calls, kind: ErrorKind::Other, lasting: true, endings: &endings };
    every.fails(|mut fault, ending| {
        let (disk, _) = follower();
        fault.call += disk.calls();
        disk.set_fault(Some(fault));
        let outcome = replace(&disk, &files);
        disk.set_fault(None);
        if let Some(unsynced) = ending {
            disk.crash(unsynced);
        }
        match check(&disk, &old, &files, &new, &format!("{fault:?}, {ending:?}")) {
            true => news += 1,
            false => olds += 1,
        }
        outcome.is_err()
    });
    assert!(olds > 20 && news > 20, "old {olds}, new {news}");
}

#[test]
fn a_failure_at_every_call_leaves_the_old_store_or_the_new_one() {
    let (files, map, last) = copy_of_a_leader();
    let new = (map, last);
    let (disk, old) = follower();
    let calls = calls_of(&disk, || replace(&disk, &files).unwrap());
    for kind in [ErrorKind::Other, ErrorKind::StorageFull] {
        let every = EveryCall { calls, kind, lasting: false, endings: &|_| vec![None] };
        let seen = every.fails(|mut fault, _| {
            let (disk, _) = follower();
            fault.call += disk.calls();
            disk.set_fault(Some(fault));
            let outcome = replace(&disk, &files);
            disk.set_fault(None);
            check(&disk, &old, &files, &new, &format!("{fault:?}"));
            outcome.is_err()
        });
        assert!(seen > calls / 2, "{kind:?}: {seen} of {calls} failures were seen");
    }
}

/// A transfer that ends early, with every file and at every piece: nothing of it counts.
#[test]
fn what_is_not_whole_does_not_count() {
    let (files, map, last) = copy_of_a_leader();
    for missing in 0..files.len() {
        let (disk, old) = follower();
        let mut lacking = files.clone();
        let (name, _) = lacking.remove(missing);
        match receive(&disk, &lacking) {
            // The index is made anew from the rows.
            Ok(store) => {
                assert!(name.starts_with("index/"), "{name} was missing");
                assert_eq!(contents(&store.reader()), map);
            }
            Err(error) => {
                assert!(matches!(error, Error::Corrupt { .. } | Error::Io { .. }), "{name}: {error}");
            }
        }
        // Whole or not: nobody has said that it counts.
        assert!(!check(&disk, &old, &files, &(map.clone(), last), &name));
    }
    let (disk, old) = follower();
    let mut incoming = IncomingCopy::begin(Path::new(PLACE), &options(&disk)).unwrap();
    incoming.begin_file("FILES", 100).unwrap();
    incoming.write(&[0; 50]).unwrap();
    assert!(incoming.begin_file("log/00000000000000000001.log", 1).is_err(), "FILES is not whole");
    drop(incoming);
    assert_eq!(directories(&disk), ["store"], "what was dropped is gone");
    assert!(!check(&disk, &old, &files, &(map, last), "a part of a file"));
}

/// One bit anywhere: it is refused, or it does not matter (in the room behind the log's last entry, or in the index, which is
/// then made anew).
#[test]
fn damage_on_the_way_is_noticed() {
    let (files, map, last) = copy_of_a_leader();
    let (mut refused, mut harmless) = (0, 0);
    for (at, (name, bytes)) in files.iter().enumerate() {
        let step = (bytes.len() / 40).max(1);
        for offset in (0..bytes.len()).step_by(step) {
            let mut damaged = files.clone();
            damaged[at].1[offset] ^= 4;
            let (disk, _) = follower();
            match receive(&disk, &damaged) {
                Err(_) => refused += 1,
                Ok(store) => {
                    harmless += 1;
                    let context = format!("{name} at {offset}");
                    assert!(!name.starts_with("runs/") && name != "FILES", "{context}");
                    assert_eq!(contents(&store.reader()), map, "{context}");
                    assert_eq!(store.last().sequence, last, "{context}");
                }
            }
            assert_eq!(ReplicatedStore::find(Path::new(PLACE), &options(&disk)).unwrap(), Path::new(PLACE));
        }
    }
    assert!(refused > 100, "refused {refused}, harmless {harmless}");
}

#[test]
fn only_names_of_a_store_are_taken() {
    let disk = FaultyDisk::new();
    let mut incoming = IncomingCopy::begin(Path::new(PLACE), &options(&disk)).unwrap();
    let bad = [
        "",
        "LOCK",
        "MANIFEST",
        "MANIFEST.tmp",
        "FILES.tmp",
        "/etc/passwd",
        "../store/FILES",
        "log/..",
        "log/",
        "log/1.log",
        "log/00000000000000000000.log",
        "log/00000000000000000001.log.tmp",
        "runs/1.run",
        "runs/00000001.run/x",
        "runs/../FILES",
        "index/00000001.run",
        "other/00000001.run",
    ];
    for name in bad {
        assert!(matches!(incoming.begin_file(name, 1), Err(Error::Corrupt { .. })), "{name:?}");
    }
    assert!(incoming.write(b"x").is_err(), "bytes of no file");
    for name in ["FILES", "log/00000000000000000001.log", "runs/00000001.run", "index/00000001.ckpt"] {
        incoming.begin_file(name, 0).unwrap();
    }
}

/// Has copies take a place, as often as that.
fn adopt(disk: &FaultyDisk, files: &Files, times: usize) {
    for _ in 0..times {
        let mut store = receive(disk, files).unwrap();
        store.set_metadata(b"new").unwrap();
        store.close().unwrap();
    }
}

/// A whole directory, as `cp -a` copies it.
fn copy_directory(disk: &FaultyDisk, from: &str, to: &str) {
    for inner in ["", "log", "runs", "index"] {
        disk.create_dir(&Path::new(to).join(inner)).unwrap();
    }
    for path in disk.paths() {
        if let Ok(name) = path.strip_prefix(from) {
            disk.set_bytes(&Path::new(to).join(name), &disk.bytes(&path).unwrap());
        }
    }
}

#[test]
fn the_newest_store_that_counts_is_found_and_nothing_else_of_the_place_stays() {
    let (files, ..) = copy_of_a_leader();
    let (disk, _) = follower();
    adopt(&disk, &files, 2);
    // Received, and nobody has said that it counts.
    receive(&disk, &files).unwrap().close().unwrap();
    let mut store = settled_but_all_stay(&disk);
    let copy = OutgoingCopy::write(store.checkpointer().unwrap(), Path::new(PLACE), "x", &options(&disk));
    // The process ends.
    std::mem::forget(copy.unwrap());
    drop(store);
    let place = Path::new(PLACE);
    assert_eq!(directories(&disk), ["store", "store.1", "store.2", "store.3", "store.to-x"]);
    assert_eq!(ReplicatedStore::find(place, &options(&disk)).unwrap(), Path::new("/data/store.2"));
    assert_eq!(directories(&disk).len(), 5, "looking changes nothing");
    let next = IncomingCopy::begin(place, &options(&disk)).unwrap();
    assert!(directories(&disk).contains(&"store.4".to_owned()));
    drop(next);
    let copy = ReplicatedStore::open(Path::new("/data/store.to-x"), options(&disk));
    assert!(matches!(copy, Err(Error::Corrupt { .. })), "a copy on its way is no store");
    assert_eq!(ReplicatedStore::settle(place, &options(&disk)).unwrap(), Path::new("/data/store.2"));
    assert_eq!(directories(&disk), ["store.2"]);
    // An empty value is a value.
    let mut store = settled(&disk).unwrap();
    store.set_metadata(b"").unwrap();
    drop(store);
    assert_eq!(ReplicatedStore::find(place, &options(&disk)).unwrap(), Path::new("/data/store.2"));
}

fn settled_but_all_stay(disk: &FaultyDisk) -> ReplicatedStore {
    let path = ReplicatedStore::find(Path::new(PLACE), &options(disk)).unwrap();
    ReplicatedStore::open(&path, options(disk)).unwrap()
}

/// Whatever its name: it never takes the place of the store, and never goes.
#[test]
fn a_backup_beside_a_store_stays_a_backup() {
    let (files, new, _) = copy_of_a_leader();
    let (disk, _) = follower();
    for backup in ["/data/store.1", "/data/store.20261121", "/data/store.to-the-attic"] {
        copy_directory(&disk, PLACE, backup);
    }
    let mut store = ReplicatedStore::open(Path::new(PLACE), options(&disk)).unwrap();
    write(&mut store, 8, 5);
    store.checkpoint(Path::new("/data/store.7")).unwrap();
    let map = contents(&store.reader());
    store.close().unwrap();
    let backups = ["store.1", "store.20261121", "store.7", "store.to-the-attic"];
    let with = |other: &str| {
        let mut names: Vec<_> =
            backups.iter().map(|name| (*name).to_owned()).chain([other.to_owned()]).collect();
        names.sort();
        names
    };
    let store = settled(&disk).unwrap();
    assert_eq!((store.path(), contents(&store.reader())), (Path::new(PLACE), map));
    drop(store);
    assert_eq!(directories(&disk), with("store"));
    // What is received gets a number of its own, and what counted is removed, but not its copies.
    adopt(&disk, &files, 1);
    copy_directory(&disk, "/data/store.2", "/data/store.3");
    let store = settled(&disk).unwrap();
    assert_eq!((store.path(), contents(&store.reader())), (Path::new("/data/store.2"), new));
    let mut names = with("store.2");
    names.push("store.3".to_owned());
    names.sort();
    assert_eq!(directories(&disk), names);
    drop(store);
    for backup in backups {
        let backup = ReplicatedStore::open(&Path::new("/data").join(backup), options(&disk)).unwrap();
        backup.verify().unwrap();
    }
}

/// A numbered directory with files, and without a MANIFEST, may be the newest store.
#[test]
fn a_lost_manifest_is_no_reason_to_go_back() {
    let (files, ..) = copy_of_a_leader();
    let (disk, _) = follower();
    adopt(&disk, &files, 1);
    disk.remove_durably(Path::new("/data/store.1/MANIFEST"));
    let found = ReplicatedStore::settle(Path::new(PLACE), &options(&disk));
    assert!(matches!(found, Err(Error::Corrupt { .. })), "{found:?}");
    assert_eq!(directories(&disk), ["store", "store.1"]);
}

#[test]
fn only_a_stores_own_files_are_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    // No store at all.
    std::fs::create_dir_all(path("project/log")).unwrap();
    for file in ["project/LOCK", "project/log/today.log", "project/FILES"] {
        std::fs::write(path(file), "mine").unwrap();
    }
    let removed = ReplicatedStore::remove_directory(&path("project"), &Options::new());
    assert!(matches!(removed, Err(Error::NotAStore { .. })), "{removed:?}");
    std::fs::write(path("project/MANIFEST"), "include README").unwrap();
    let removed = ReplicatedStore::remove_directory(&path("project"), &Options::new());
    assert!(matches!(removed, Err(Error::Corrupt { .. })), "{removed:?}");
    for file in ["project/LOCK", "project/log/today.log", "project/FILES", "project/MANIFEST"] {
        assert!(path(file).exists(), "{file}");
    }
    // One that is open.
    let store = ReplicatedStore::open(&path("store"), Options::new()).unwrap();
    let removed = ReplicatedStore::remove_directory(&path("store"), &Options::new());
    assert!(matches!(removed, Err(Error::Locked { .. })), "{removed:?}");
    store.close().unwrap();
    // One with notes.
    for file in ["store/notes", "store/runs/notes"] {
        std::fs::write(path(file), "mine").unwrap();
    }
    ReplicatedStore::remove_directory(&path("store"), &Options::new()).unwrap();
    let left = |name: &str| {
        let names = std::fs::read_dir(path(name)).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(
        (left("store"), left("store/runs")),
        (vec!["notes".into(), "runs".into()], vec!["notes".into()])
    );
    ReplicatedStore::remove_directory(&path("nowhere"), &Options::new()).unwrap();
}

/// It would never be found again.
#[cfg(target_os = "linux")]
#[test]
fn a_place_has_a_name_that_can_be_read() {
    use std::os::unix::ffi::OsStrExt;
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9"));
    assert!(matches!(ReplicatedStore::settle(&place, &Options::new()), Err(Error::Io { .. })));
    assert!(matches!(IncomingCopy::begin(&place, &Options::new()), Err(Error::Io { .. })));
}

/// One that cannot be judged is not passed over for an older one.
#[test]
fn a_damaged_manifest_is_no_reason_to_go_back() {
    let (files, ..) = copy_of_a_leader();
    let (disk, _) = follower();
    let mut new = receive(&disk, &files).unwrap();
    new.set_metadata(b"new").unwrap();
    new.close().unwrap();
    let manifest = Path::new("/data/store.1/MANIFEST");
    let mut bytes = disk.bytes(manifest).unwrap();
    bytes[20] ^= 1;
    disk.set_bytes(manifest, &bytes);
    let found = ReplicatedStore::settle(Path::new(PLACE), &options(&disk));
    assert!(matches!(found, Err(Error::Corrupt { .. })), "{found:?}");
    assert_eq!(directories(&disk), ["store", "store.1"], "and nothing is removed");
}

#[test]
fn a_held_log_stays_as_long_as_it_is_held() {
    let disk = FaultyDisk::new();
    let mut store = ReplicatedStore::open(Path::new(PLACE), options(&disk)).unwrap();
    write(&mut store, 1, 60);
    store.hold_log(Some(Sequence(41)));
    store.compact().unwrap();
    let first = store.log_first();
    assert!(first > Sequence(1) && first <= Sequence(41), "{first}");
    assert_eq!(
        store.read_log(Sequence(40), usize::MAX).unwrap().first().map(|run| run.first),
        Some(Sequence(41))
    );
    // Further on it may go.
    store.hold_log(None);
    write(&mut store, 2, 1);
    assert!(store.log_first() > Sequence(41), "{}", store.log_first());
}

/// A copy for somebody else leaves out what is in runs anyway, whatever the store keeps; its own log says from where on.
#[test]
fn a_copy_without_the_flushed_log_has_everything_but_that() {
    let disk = FaultyDisk::new();
    let retention = LogRetention::Everything;
    let mut store = ReplicatedStore::open(Path::new(PLACE), calm(&disk, retention)).unwrap();
    write(&mut store, 1, 150);
    store.compact().unwrap();
    write(&mut store, 2, 20);
    assert_eq!(store.log_first(), Sequence(1));
    let (map, epochs) = (contents(&store.reader()), store.epochs().to_vec());
    let copy = Path::new("/data/copy");
    store.checkpointer().unwrap().without_flushed_log().write(copy).unwrap();
    let copy = ReplicatedStore::open(copy, calm(&disk, retention)).unwrap();
    assert!(copy.log_first() > Sequence(100), "{}", copy.log_first());
    assert_eq!((contents(&copy.reader()), copy.last(), copy.epochs()), (map, store.last(), &epochs[..]));
    copy.verify().unwrap();
    // And where all of it was flushed.
    store.compact().unwrap();
    let other = Path::new("/data/other");
    store.checkpointer().unwrap().without_flushed_log().write(other).unwrap();
    let other = ReplicatedStore::open(other, calm(&disk, retention)).unwrap();
    assert_eq!(other.last(), store.last());
    assert_eq!(contents(&other.reader()), contents(&copy.reader()));
}
