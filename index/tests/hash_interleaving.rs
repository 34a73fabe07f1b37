//! Writes in the very middle of a reader's walk, without threads and without chance: the closure that a lookup
//! asks about a candidate row is the moment between two steps of the walk, so the test writes there. A key that
//! is there all the while must be found, whatever is parted, pulled together, unlinked and taken again meanwhile.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::cell::RefCell;
use std::convert::Infallible;

use paddock_index::{HashIndex, HashReader, PackedLocator};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

/// The key that is looked for.
const WANTED: u32 = 0;

/// Keys below this have the wanted key's hash: the walk stops at each of them.
const TWINS: u32 = 12;

/// Keys below this have its home, and other tags: growth may part them from it, or the walk from them.
const NEIGHBOURS: u32 = 60;

/// Keys below this have homes that are parted next after the wanted one's: they take the overflow buckets that
/// its chain gives back.
const NEXT: u32 = 160;

/// More keys, everywhere: with them the table is about to grow (it has 256 buckets, and 4 keys for each).
const FILLERS: std::ops::Range<u32> = 1000..2024;

fn hash(_: u64, key: &[u8]) -> u64 {
    let number = key.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    match key_number(key) {
        // The wanted key moves when its bucket is parted.
        ..TWINS => 0x100,
        TWINS..NEIGHBOURS => number << 8,
        NEIGHBOURS..NEXT => number << 8 | (1 + number % 2),
        _ => number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 0x80,
    }
}

fn key_number(key: &[u8]) -> u32 {
    key.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// One key has one row here, which is in the locator.
fn locator(number: u32) -> PackedLocator {
    PackedLocator::new(1, number, 1).unwrap()
}

/// Adds a key that is not there, removes one that is.
fn toggle(index: &mut HashIndex, number: u32) {
    let key = number.to_le_bytes();
    let is_key = |found| Ok::<_, Infallible>(found == locator(number));
    if index.remove(&key, is_key).unwrap().is_none() {
        index.insert(&key, locator(number), is_key).unwrap();
    }
}

fn lookup(
    reader: &HashReader,
    index: &RefCell<HashIndex>,
    mut writes: impl Iterator<Item = Vec<u32>>,
) -> bool {
    let found = reader.get(&WANTED.to_le_bytes(), |candidate| {
        for number in writes.next().into_iter().flatten() {
            toggle(&mut index.borrow_mut(), number);
        }
        Ok::<_, Infallible>(candidate == locator(WANTED))
    });
    found.unwrap() == Some(locator(WANTED))
}

fn any_key() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => 1..TWINS,
        4 => TWINS..NEIGHBOURS,
        4 => NEIGHBOURS..NEXT,
        2 => FILLERS.end..FILLERS.end + 500,
    ]
}

/// A failing case's seed is printed, and kept here to be run again.
fn config() -> ProptestConfig {
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hash_interleaving.proptest-regressions");
    let failure_persistence = Some(Box::new(FileFailurePersistence::Direct(seeds)) as _);
    ProptestConfig { cases: 400, failure_persistence, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_key_that_is_there_is_found(
        fillers in FILLERS.start + 700..FILLERS.end,
        before in vec(any_key(), 0..60),
        wanted_at in 0..60_usize,
        during in vec(vec(any_key(), 0..30), 0..20),
    ) {
        let mut index = HashIndex::with_hash(0, hash);
        for number in FILLERS.start..fillers {
            toggle(&mut index, number);
        }
        for (at, number) in before.iter().enumerate() {
            if at == wanted_at {
                toggle(&mut index, WANTED);
            }
            toggle(&mut index, *number);
        }
        if wanted_at >= before.len() {
            toggle(&mut index, WANTED);
        }
        let reader = index.reader().clone();
        let index = RefCell::new(index);
        prop_assert!(lookup(&reader, &index, during.into_iter()));
    }
}

/// The case that a reader without the second look at the state would miss: the wanted key stands in an overflow
/// bucket, and is moved into a bucket that the walk has left.
#[test]
fn a_key_that_moves_behind_the_walk_is_found() {
    let mut index = HashIndex::with_hash(0, hash);
    for number in 1..10 {
        toggle(&mut index, number);
    }
    toggle(&mut index, WANTED);
    toggle(&mut index, TWINS);
    // The chain is 1 2 3 4 5, 6 7 8 9 wanted, TWINS. When the walk asks about 6, the first bucket empties and the
    // chain is pulled together.
    let reader = index.reader().clone();
    let index = RefCell::new(index);
    let writes = (1..).map(|asked| if asked == 6 { vec![1, 2, 3, 4, 5, 6, 7, 8, 9, TWINS] } else { vec![] });
    let moved = index.borrow().moved_entries();
    assert!(lookup(&reader, &index, writes));
    assert!(index.borrow().moved_entries() > moved);
}

/// The same, as growth moves it to a bucket that the walk does not know.
#[test]
fn a_key_that_growth_moves_away_is_found() {
    let mut index = HashIndex::with_hash(0, hash);
    for number in FILLERS.take(1020) {
        toggle(&mut index, number);
    }
    for number in [1, 2, WANTED] {
        toggle(&mut index, number);
    }
    let reader = index.reader().clone();
    let index = RefCell::new(index);
    let writes = (1..).map(|asked| if asked == 1 { vec![3, 4, 5] } else { vec![] });
    let moved = index.borrow().moved_entries();
    assert!(lookup(&reader, &index, writes));
    assert!(index.borrow().moved_entries() >= moved + 4, "growth moved the twins and the wanted key");
}
