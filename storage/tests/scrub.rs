//! Damage is found by reading beside the store's use: every flipped bit of what is durable for good, and nothing where
//! there is none, whatever is written, cut and compacted meanwhile.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what helpers of a test meet unexpectedly fails it")]

mod support;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use paddock_storage::disk::{Fault, FaultyDisk};
use paddock_storage::{
    Error, LogRetention, Mapping, Options, Readable, ReplicatedStore, ScrubPosition, Scrubbed, Scrubber,
    Sequence,
};
use support::{Entry, append, contents, dice};

const PLACE: &str = "/data/store";

/// Small files, compacted when it is asked for, and read from the disk each time.
fn options(disk: &FaultyDisk) -> Options {
    let options = Options::new().segment_bytes(4 << 10).extent_bytes(4 << 10).run_bytes(4 << 10);
    let options = options.background_compaction(false).mark_idle_after(None).mapping(Mapping::Never);
    options.log_retention(LogRetention::Everything).disk(Arc::new(disk.clone()))
}

fn open(disk: &FaultyDisk) -> ReplicatedStore {
    ReplicatedStore::open(Path::new(PLACE), options(disk)).unwrap()
}

fn write(store: &mut ReplicatedStore, seed: u64, count: usize) {
    let mut dice = dice(seed);
    for _ in 0..count {
        let key = format!("key {:03}", dice(80));
        let value = (0..dice(200)).map(|_| dice(256) as u8).collect();
        append(store, 1, &[Entry::Put(key.into(), value)], 0).unwrap();
    }
    let durable = store.sync().unwrap();
    store.apply(durable).unwrap();
}

/// Runs, a checkpoint of the index, several segments.
fn filled(disk: &FaultyDisk) -> ReplicatedStore {
    let mut store = open(disk);
    write(&mut store, 1, 150);
    store.compact().unwrap();
    store.close().unwrap();
    let mut store = open(disk);
    write(&mut store, 2, 60);
    store
}

/// A whole round, a little at a time.
fn round(scrubber: &mut Scrubber) -> (u64, Vec<Scrubbed>) {
    let (mut bytes, mut found) = (0, Vec::new());
    for _ in 0..100_000 {
        let scrubbed = scrubber.step(500).unwrap();
        bytes += scrubbed.bytes;
        if scrubbed.is_complete {
            return (bytes, found);
        }
        if scrubbed.damage.is_some() {
            found.push(scrubbed);
        }
    }
    panic!("the round does not end");
}

/// The files of a store that are durable for good, but for LOCK, spare files and the newest segment.
fn sealed(disk: &FaultyDisk) -> Vec<PathBuf> {
    let mut paths: Vec<_> = disk.paths();
    paths.sort();
    let is_log = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "log");
    let newest = paths.iter().rfind(is_log).cloned();
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        !name.ends_with(".tmp") && name != "LOCK" && disk.bytes(path).is_some()
    };
    paths.into_iter().filter(|path| Some(path) != newest.as_ref() && is_ours(path)).collect()
}

#[test]
fn a_sound_store_is_read_whole_and_nothing_is_found() {
    let disk = FaultyDisk::new();
    let store = filled(&disk);
    let (bytes, found) = round(&mut store.scrubber());
    assert_eq!(found, []);
    assert_eq!(store.damage(), None);
    let kinds = ["log", "run", "ckpt"];
    let has =
        |kind: &str| sealed(&disk).iter().any(|path| path.extension().is_some_and(|found| found == kind));
    assert!(kinds.iter().all(|kind| has(kind)), "the test is of all kinds: {:?}", sealed(&disk));
    let all: usize = sealed(&disk).iter().map(|path| disk.bytes(path).unwrap().len()).sum();
    assert!(bytes as usize > all / 3, "{bytes} of {all} bytes were read");
}

/// One bit in every few bytes of every file. What is found is named by path; what is not found cannot matter: it is what the store
/// does not read either (zeros behind a log's end, seals that lead nowhere else).
#[test]
fn flipped_bits_are_found_and_named_and_the_store_goes_on() {
    let disk = FaultyDisk::new();
    let mut store = filled(&disk);
    let before = contents(&store.reader());
    let mut dice = dice(3);
    let (mut found_in, mut silent) = (0, 0);
    for path in sealed(&disk) {
        let bytes = disk.bytes(&path).unwrap();
        let mut offset = dice(64) as usize;
        while offset < bytes.len() {
            let mut damaged = bytes.clone();
            damaged[offset] ^= 1 << dice(8);
            disk.set_bytes(&path, &damaged);
            let (_, scrubbed) = round(&mut store.scrubber());
            match scrubbed.first() {
                Some(Scrubbed { damage: Some(damage), is_spare, .. }) => {
                    // FILES is read with MANIFEST.
                    assert_eq!(damage.path, path, "byte {offset}");
                    assert_eq!(*is_spare, path.extension().is_some_and(|kind| kind == "ckpt"));
                    found_in += 1;
                }
                _ => {
                    let is_log = path.extension().is_some_and(|kind| kind == "log");
                    assert!(
                        is_log || bytes.len() - offset <= 4096 && path.ends_with("MANIFEST"),
                        "{} {offset}",
                        path.display()
                    );
                    silent += 1;
                }
            }
            offset += 150 + dice(300) as usize;
        }
        disk.set_bytes(&path, &bytes);
    }
    assert!(found_in > 50 && silent * 4 < found_in, "{found_in} found, {silent} not");
    assert!(store.damage().is_some(), "the store remembers the first");
    // It goes on all the same.
    write(&mut store, 4, 5);
    assert!(contents(&store.reader()).len() >= before.len());
}

#[test]
fn what_cannot_be_read_is_damage() {
    let disk = FaultyDisk::new();
    let store = filled(&disk);
    let mut scrubber = store.scrubber();
    // MANIFEST and FILES are read before the disk begins to fail.
    scrubber.step(1 << 20).unwrap();
    let fault = Fault { call: disk.looks() + 2, kind: ErrorKind::Other, lasting: true };
    disk.set_look_fault(Some(fault));
    let damaged = loop {
        if let Some(damage) = scrubber.step(1 << 20).unwrap().damage {
            break damage;
        }
    };
    disk.set_look_fault(None);
    assert!(damaged.what.contains("cannot be read"), "{damaged}");
    assert_eq!(store.damage(), Some(&damaged));
}

/// A read that fails once is no damage.
#[test]
fn what_was_read_wrong_once_is_read_again() {
    let disk = FaultyDisk::new();
    let store = filled(&disk);
    for after in 1..40 {
        let fault = Fault { call: disk.looks() + after, kind: ErrorKind::Other, lasting: false };
        disk.set_look_fault(Some(fault));
        // Listing a directory may fail, too: then the step does.
        let mut scrubber = store.scrubber();
        while scrubber.step(500).is_ok_and(|scrubbed| {
            assert_eq!(scrubbed.damage, None);
            !scrubbed.is_complete
        }) {}
        disk.set_look_fault(None);
    }
    assert_eq!(store.damage(), None);
}

#[test]
fn writers_cuts_and_compaction_beside_it_are_no_damage() {
    let disk = FaultyDisk::new();
    let mut store = filled(&disk);
    let mut scrubber = store.scrubber();
    let (mut dice, mut rounds) = (dice(5), 0);
    for turn in 0..600_u32 {
        for _ in 0..dice(6) {
            let scrubbed = scrubber.step(u64::from(dice(3000))).unwrap();
            assert_eq!(scrubbed.damage, None, "turn {turn}");
            rounds += u32::from(scrubbed.is_complete);
        }
        match dice(8) {
            0 => store.compact().unwrap(),
            1 => {
                // An end that is never committed, and goes again.
                let last = store.last().sequence;
                for _ in 0..dice(40) {
                    append(&mut store, 1, &[Entry::Put(b"lost".to_vec(), vec![7; 200])], 0).unwrap();
                }
                store.truncate_after(last).unwrap();
            }
            _ => write(&mut store, u64::from(turn), 1 + dice(4) as usize),
        }
    }
    assert_eq!(store.damage(), None);
    assert!(rounds > 3, "{rounds} rounds are too few to say anything");
}

#[test]
fn a_round_goes_on_where_another_one_ended() {
    let disk = FaultyDisk::new();
    let store = filled(&disk);
    let (all, _) = round(&mut store.scrubber());
    let mut scrubber = store.scrubber();
    let mut bytes = 0;
    while bytes < all / 2 {
        bytes += scrubber.step(500).unwrap().bytes;
    }
    let position = scrubber.position();
    assert!(position > ScrubPosition::default());
    let (rest, _) = round(&mut store.scrubber().resume(position));
    assert!(rest < all && rest > 0, "{rest} of {all}");
    let (again, _) = round(&mut scrubber.clone());
    assert_eq!(rest, again, "a clone goes on there, too");
}

#[test]
fn readers_the_log_and_compaction_tell_the_store_of_damage() {
    let flip = |disk: &FaultyDisk, kind: &str, near_the_end: bool| {
        let paths = sealed(disk);
        let mut of_kind = paths.iter().filter(|path| path.extension().is_some_and(|found| found == kind));
        let path = if near_the_end { of_kind.next_back() } else { of_kind.next() }.unwrap();
        let mut bytes = disk.bytes(path).unwrap();
        bytes[200] ^= 1;
        disk.set_bytes(path, &bytes);
        path.clone()
    };
    // A reader.
    let disk = FaultyDisk::new();
    let store = filled(&disk);
    let path = flip(&disk, "run", false);
    assert!(store.reader().iter().any(|record| record.is_err()));
    assert_eq!(store.damage().map(|damage| damage.path.clone()), Some(path));
    // Who reads the log.
    let disk = FaultyDisk::new();
    let store = filled(&disk);
    let path = flip(&disk, "log", false);
    let read = store.read_log(Sequence(0), 1 << 20);
    assert!(matches!(read, Err(Error::Corrupt { .. })));
    assert_eq!(store.damage().map(|damage| damage.path.clone()), Some(path));
    // Compaction. Writing goes on.
    let disk = FaultyDisk::new();
    let mut store = filled(&disk);
    let path = flip(&disk, "run", false);
    assert!(matches!(store.compact(), Err(Error::Corrupt { .. })));
    assert_eq!(store.damage().map(|damage| damage.path.clone()), Some(path));
    write(&mut store, 9, 3);
    store.set_metadata(b"still written").unwrap();
    store.close().unwrap();
}

#[test]
fn a_store_that_is_given_up_is_set_aside_and_its_place_is_empty() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("replica");
    let options = Options::new();
    for round in 1..=4 {
        let mut store = ReplicatedStore::open(&place, options.clone()).unwrap();
        assert!(store.recovery().created, "round {round}");
        store.set_metadata(format!("round {round}").as_bytes()).unwrap();
        append(&mut store, 1, &[Entry::put("round", &round.to_string())], 0).unwrap();
        store.close().unwrap();
        let metadata = ReplicatedStore::find_metadata(&place, &options).unwrap();
        assert_eq!(metadata.as_deref(), Some(format!("round {round}").as_bytes()));
        // A copy that was not received to its end goes with it.
        std::fs::create_dir_all(directory.path().join("replica.7/log")).unwrap();
        let aside = ReplicatedStore::set_aside(&place, &options).unwrap();
        assert_eq!(aside, directory.path().join(format!("replica.damaged-{round}")));
        assert!(!place.exists() && !directory.path().join("replica.7").exists());
        let kept = ReplicatedStore::open(&aside.join("replica"), options.clone()).unwrap();
        assert_eq!(kept.metadata(), format!("round {round}").as_bytes());
    }
    let mut names: Vec<_> =
        std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["replica.damaged-3", "replica.damaged-4"], "two are kept");
    assert_eq!(ReplicatedStore::settle(&place, &options).unwrap(), place);
    assert!(directory.path().join("replica.damaged-4").exists(), "nobody removes it");
}
