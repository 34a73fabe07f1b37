//! Readers on threads of their own beside the writer: they must miss nothing, see no mix, and never go back.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::thread;

use paddock_index::{HashFunction, HashIndex, HashReader, PackedLocator, xxh3};

/// Keys that are always there; their locators change all the time.
const STABLE: u32 = 3_000;

/// Keys that come and go, so that the table grows and chains lengthen and shorten: STABLE to here.
const VOLATILE_END: u32 = 40_000;

/// How many writes there are in all: the end of the test, whatever the machine.
const WRITES: u32 = 400_000;

/// The row of a key in its version: the locator holds both, so a mix of two would show.
fn locator(number: u32, version: u32) -> PackedLocator {
    PackedLocator::new(version, (number << 8) | ((number ^ version) % 251), number % 16).unwrap()
}

fn number_of(locator: PackedLocator) -> u32 {
    locator.offset() >> 8
}

fn assert_is_no_mix(found: PackedLocator) {
    assert_eq!(found, locator(number_of(found), found.file()), "a locator that was never written");
}

/// What the writer has done, so that readers know the least that they must see.
struct Written {
    versions: Vec<AtomicU32>,
    done: AtomicBool,
}

fn write(index: &mut HashIndex, written: &Written) {
    let (mut random, mut volatile) = (88_172_645_463_325_252_u64, vec![0; VOLATILE_END as usize]);
    for version in 1..=WRITES {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // The space of the volatile keys widens as time goes on, so that growth lasts as long as the test.
        let space = STABLE + (VOLATILE_END - STABLE) / 100 * (1 + version / (WRITES / 99 + 1));
        let number = (random >> 33) as u32 % space;
        let key = number.to_le_bytes();
        let is_key = |found| Ok::<_, Infallible>(number_of(found) == number);
        if number < STABLE {
            let old = written.versions[number as usize].load(Acquire);
            if version % 2 == 0 {
                let before = index.insert(&key, locator(number, version), is_key).unwrap();
                assert_eq!(before, Some(locator(number, old)));
            } else {
                assert!(index.replace_if(&key, locator(number, old), locator(number, version)));
            }
            written.versions[number as usize].store(version, Release);
        } else if volatile[number as usize] == 0 || random.is_multiple_of(3) {
            index.insert(&key, locator(number, version), is_key).unwrap();
            volatile[number as usize] = version;
        } else {
            assert!(index.remove(&key, is_key).unwrap().is_some());
            volatile[number as usize] = 0;
        }
    }
    written.done.store(true, Release);
}

/// Looks up stable keys, volatile ones and some that never were, at least once each and until the writer is done.
fn look_up(reader: &HashReader, written: &Written) -> u64 {
    let mut passes = 0;
    loop {
        let last = written.done.load(Acquire);
        for number in 0..VOLATILE_END + 1000 {
            let is_key = |found| {
                assert_is_no_mix(found);
                Ok::<_, Infallible>(number_of(found) == number)
            };
            let least = written.versions.get(number as usize).map(|version| version.load(Acquire));
            let found = reader.get(&number.to_le_bytes(), is_key).unwrap();
            if let Some(least) = least {
                let version = found.expect("a key that is always there").file();
                assert!(version >= least, "key {number}: version {version} after {least}");
            }
            assert!(number < VOLATILE_END || found.is_none(), "a key that never was");
        }
        passes += 1;
        if last {
            return passes;
        }
    }
}

/// Each stable key exactly once, in a version that is not behind the beginning of the walk; any other once at most.
fn assert_walk_is_whole(found: impl Iterator<Item = PackedLocator>, least: &[u32]) {
    let mut versions = BTreeMap::new();
    for locator in found {
        assert_is_no_mix(locator);
        let before = versions.insert(number_of(locator), locator.file());
        assert!(before.is_none(), "a key came twice");
    }
    for (number, least) in (0..).zip(least) {
        let version = versions.get(&number).expect("a stable key was missed");
        assert!(version >= least, "key {number}: version {version} after {least}");
    }
}

fn walk(reader: &HashReader, written: &Written, function: HashFunction) -> u64 {
    let mut passes = 0;
    loop {
        let last = written.done.load(Acquire);
        let least: Vec<u32> = written.versions.iter().map(|version| version.load(Acquire)).collect();
        assert_walk_is_whole(reader.locators(), &least);
        let mut file = Vec::new();
        reader.write_checkpoint(passes, &mut file).unwrap();
        let loaded = HashIndex::read_checkpoint_with_hash(&mut file.as_slice(), function).unwrap();
        assert_eq!(loaded.1, passes);
        assert_walk_is_whole(loaded.0.locators(), &least);
        passes += 1;
        if last {
            return passes;
        }
    }
}

fn run(function: HashFunction) {
    let mut index = HashIndex::with_hash(5, function);
    for number in 0..STABLE {
        index
            .insert(&number.to_le_bytes(), locator(number, 0), |found| {
                Ok::<_, Infallible>(number_of(found) == number)
            })
            .unwrap();
    }
    let written =
        Written { versions: (0..STABLE).map(|_| AtomicU32::new(0)).collect(), done: AtomicBool::new(false) };
    let reader = index.reader().clone();
    thread::scope(|scope| {
        // A writer that fails must not leave the readers running for ever.
        let writer = scope.spawn(|| {
            struct Done<'a>(&'a AtomicBool);
            impl Drop for Done<'_> {
                fn drop(&mut self) {
                    self.0.store(true, Release);
                }
            }
            let _done = Done(&written.done);
            write(&mut index, &written);
        });
        let lookers = [(); 2].map(|()| scope.spawn(|| look_up(&reader, &written)));
        let walker = scope.spawn(|| walk(&reader, &written, function));
        writer.join().unwrap();
        let looked = lookers.map(|looker| looker.join().unwrap());
        let walks = walker.join().unwrap();
        assert!(walks > 0 && looked.iter().all(|passes| *passes > 0));
    });
    assert_eq!(reader.len(), reader.locators().count());
}

#[test]
fn readers_beside_the_writer_miss_nothing() {
    run(xxh3);
}

/// Long chains: 1,024 homes for all keys, and tags of which many are alike.
#[test]
fn readers_beside_the_writer_miss_nothing_in_long_chains() {
    run(|seed, key| xxh3(seed, key) & 0xf_03ff);
}
