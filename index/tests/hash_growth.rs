//! What the hash index promises of its size: bytes per key, and how little one write moves.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::convert::Infallible;

use paddock_index::{HashIndex, PackedLocator};

/// What README.md promises, in bytes per key, from 100,000 keys on.
const BYTES_PER_KEY_MAX: usize = 24;

/// The most entries that one insert may move. The chain of a bucket that is parted has eight entries on average
/// at the worst moment, and their number is distributed as Poisson's: more than 64 would be an event of less
/// than 1 in 10^30.
const MOVED_PER_INSERT_MAX: u64 = 64;

/// The row is in its locator: the number of its key is the offset.
fn locator(number: u32) -> PackedLocator {
    PackedLocator::new(1, number, 100).unwrap()
}

fn is(number: u32) -> impl FnMut(PackedLocator) -> Result<bool, Infallible> {
    move |found| Ok(found.offset() == number)
}

fn key(number: u32) -> [u8; 24] {
    let mut key = *b"customer/00000000/orders";
    key[9..17].copy_from_slice(format!("{number:08}").as_bytes());
    key
}

#[test]
fn a_million_keys_stay_small_and_no_insert_moves_many() {
    let mut index = HashIndex::new(1);
    let (mut most_bytes, mut most_moved, mut asked_in_vain) = (0, 0, 0_u64);
    for number in 0..1_000_000 {
        let moved = index.moved_entries();
        let inserted = index.insert(&key(number), locator(number), |found| {
            asked_in_vain += 1;
            is(number)(found)
        });
        assert_eq!(inserted.unwrap(), None);
        most_moved = most_moved.max(index.moved_entries() - moved);
        if number >= 100_000 && number % 1000 == 0 {
            most_bytes = most_bytes.max(index.memory_bytes() / index.len());
        }
    }
    let bytes = index.memory_bytes() as f64 / 1e6;
    println!("{bytes:.1} bytes per key at 1,000,000; at most {most_bytes} from 100,000 on");
    println!("at most {most_moved} entries moved by one insert; {asked_in_vain} rows read in vain");
    assert!(most_bytes < BYTES_PER_KEY_MAX, "{most_bytes} bytes per key");
    assert!((1..=MOVED_PER_INSERT_MAX).contains(&most_moved), "{most_moved} entries moved");
    // 40 bits of hash, of which at most 18 tell the bucket: a row in a million lookups or so.
    assert!(asked_in_vain < 20, "{asked_in_vain} rows were read that are not the key's");
    for number in 0..1_000_000 {
        assert_eq!(index.get(&key(number), is(number)).unwrap(), Some(locator(number)));
    }
}

/// Keys that come and go at a constant count must not make the index larger and larger.
#[test]
fn memory_stays_under_churn() {
    let mut index = HashIndex::new(2);
    for number in 0..50_000 {
        index.insert(&key(number), locator(number), is(number)).unwrap();
    }
    for number in 50_000..300_000 {
        let oldest = number - 50_000;
        assert_eq!(index.remove(&key(oldest), is(oldest)).unwrap(), Some(locator(oldest)));
        index.insert(&key(number), locator(number), is(number)).unwrap();
    }
    let bytes = index.memory_bytes() / index.len();
    println!("{bytes} bytes per key after five rounds of churn");
    assert!(bytes < BYTES_PER_KEY_MAX, "{bytes} bytes per key");
}
