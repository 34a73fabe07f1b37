//! Prints the table of times that README.md has: processor time of one thread per operation, which says more than
//! the clock does on a machine that is busy with other things. `cargo bench -p paddock-index --bench cost -- 1000000`
#![allow(missing_docs, reason = "a program")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench that cannot go on fails, and it prints"
)]

use std::convert::Infallible;
use std::hint::black_box;
use std::ops::Bound;

use paddock_index::{FilterBuilder, HashIndex, OrderedTail, PackedLocator, TailLayers};
use rustix::time::{ClockId, clock_gettime};

/// So many times each thing is measured; the best one counts.
const ROUNDS: usize = 5;

/// Lookups in a round.
const LOOKS: u32 = 200_000;

/// Keys that are touched before the first of them is looked up or written.
const GROUP: u32 = 32;

type Key = [u8; 24];

/// A key whose place in the order says nothing of its number.
fn key(number: u32) -> Key {
    let spread = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15) % 10_000_000_000_000_000;
    let mut key = *b"user0000000000000000/row";
    key[4..20].copy_from_slice(format!("{spread:016}").as_bytes());
    key
}

fn locator(number: u32) -> PackedLocator {
    PackedLocator::new(1, number, 140).unwrap()
}

fn processor_ns() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 * 1e9 + now.tv_nsec as f64
}

fn report<R>(name: &str, operations: u32, mut work: impl FnMut() -> R) {
    let best = (0..ROUNDS).map(|_| {
        let start = processor_ns();
        let result = work();
        let took = processor_ns() - start;
        drop(black_box(result));
        took / f64::from(operations)
    });
    println!("| {name} | {:.0} ns |", best.fold(f64::INFINITY, f64::min));
}

/// Numbers below `count` in an order that no cache foresees.
fn numbers(count: u32) -> impl FnMut() -> u32 {
    let mut state = 1_u32;
    move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((u64::from(state) * u64::from(count)) >> 32) as u32
    }
}

fn is<'a>(keys: &'a [Key], key: &'a Key) -> impl FnMut(PackedLocator) -> Result<bool, Infallible> + 'a {
    move |found| Ok(keys[found.offset() as usize] == *key)
}

fn filled(keys: &[Key]) -> HashIndex {
    let mut index = HashIndex::new(1);
    for (number, key) in (0..).zip(keys) {
        index.insert(key, locator(number), is(keys, key)).unwrap();
    }
    index
}

fn filled_in_groups(keys: &[Key]) -> HashIndex {
    let mut index = HashIndex::new(1);
    for (first, group) in (0..).step_by(GROUP as usize).zip(keys.chunks(GROUP as usize)) {
        let hashes: Vec<u64> = group.iter().map(|key| index.reader().hash(key)).collect();
        hashes.iter().for_each(|hash| index.reader().touch(*hash));
        for ((number, key), hash) in (first..).zip(group).zip(hashes) {
            index.insert_hashed(hash, locator(number), is(keys, key)).unwrap();
        }
    }
    index
}

fn hash_index(keys: &[Key], absent: &[Key]) {
    let count = keys.len() as u32;
    report("hash index: insert a new key", count, || filled(keys));
    report("the same, in groups of 32 touched first", count, || filled_in_groups(keys));
    let mut index = filled(keys);
    let mut next = numbers(count);
    report("overwrite a key, and compare its row", LOOKS, || {
        for number in (0..LOOKS).map(|_| next()) {
            index.insert(&keys[number as usize], locator(number), is(keys, &keys[number as usize])).unwrap();
        }
    });
    report("get a key that is there, and compare its row", LOOKS, || {
        let get = |key: &Key| index.get(key, is(keys, key)).unwrap();
        (0..LOOKS).filter_map(|_| get(&keys[next() as usize])).count()
    });
    report("the same, in groups of 32 touched first", LOOKS, || {
        for _ in 0..LOOKS / GROUP {
            let group: [&Key; GROUP as usize] = std::array::from_fn(|_| &keys[next() as usize]);
            let hashes = group.map(|key| index.reader().hash(key));
            hashes.iter().for_each(|hash| index.reader().touch(*hash));
            for (key, hash) in group.into_iter().zip(hashes) {
                black_box(index.reader().get_hashed(hash, is(keys, key))).unwrap();
            }
        }
    });
    report("get a key that is not there", LOOKS, || {
        let get = |key: &Key| index.get(key, is(keys, key)).unwrap();
        (0..LOOKS).filter_map(|_| get(&absent[next() as usize])).count()
    });
    let mut bytes = Vec::new();
    report("write a checkpoint to memory, per key", count, || {
        bytes.clear();
        index.reader().write_checkpoint(0, &mut bytes).unwrap();
    });
    drop(index);
    report("load it, per key", count, || HashIndex::read_checkpoint(&mut bytes.as_slice()).unwrap());
}

fn pushed<'a>(keys: impl IntoIterator<Item = &'a Key>) -> OrderedTail {
    let mut tail = OrderedTail::new();
    for (sequence, key) in (1..).zip(keys) {
        tail.push(key, sequence, locator(0), false);
    }
    tail
}

fn ordered_tail(keys: &[Key]) {
    let count = keys.len() as u32;
    let mut ascending = keys.to_vec();
    ascending.sort_unstable();
    report("ordered tail: push keys in their order", count, || pushed(&ascending));
    report("push keys in another order", count, || pushed(keys));
    report("push a tenth of the keys ten times", count, || {
        pushed(keys[..keys.len() / 10].iter().cycle().take(keys.len()))
    });
    report("push a key and take the layers", LOOKS, || {
        let mut tail = OrderedTail::new();
        for (sequence, key) in (1..).zip(&keys[..LOOKS as usize]) {
            tail.push(key, sequence, locator(0), false);
            black_box(tail.layers());
        }
    });
    let mut tail = pushed(keys);
    report("take the layers, nothing pending", LOOKS, || {
        (0..LOOKS).for_each(|_| drop(black_box(tail.layers())));
    });
    let layers = tail.layers();
    read(&layers, keys);
}

fn read(layers: &TailLayers, keys: &[Key]) {
    let count = keys.len() as u32;
    let mut next = numbers(count);
    report("newest version of a key", LOOKS, || {
        (0..LOOKS).filter_map(|_| layers.newest(&keys[next() as usize], u64::MAX)).count()
    });
    let mut cursor = layers.cursor();
    report("cursor: seek", LOOKS, || {
        (0..LOOKS).for_each(|_| {
            cursor.seek(Bound::Included(&keys[next() as usize]));
            black_box(cursor.entry());
        });
    });
    report("cursor: next", count, || {
        cursor.seek(Bound::Unbounded);
        while black_box(cursor.entry()).is_some() {
            cursor.next();
        }
    });
    let mut versions = layers.keys(u64::MAX);
    report("keys at a sequence: next", count, || {
        versions.seek(Bound::Unbounded);
        while black_box(versions.entry()).is_some() {
            versions.next();
        }
    });
    report("keys at a sequence: prev", count, || {
        versions.seek_back(Bound::Unbounded);
        while black_box(versions.entry()).is_some() {
            versions.prev();
        }
    });
}

fn filter(keys: &[Key], absent: &[Key]) {
    let count = keys.len() as u32;
    let fill = || {
        let mut builder = FilterBuilder::new(count.into());
        keys.iter().for_each(|key| builder.insert(key));
        builder.build()
    };
    report("filter: insert a key", count, fill);
    let filter = fill();
    let mut next = numbers(count);
    report("ask for a key that is there", LOOKS, || {
        (0..LOOKS).filter(|_| filter.may_contain(&keys[next() as usize])).count()
    });
    report("ask for a key that is not there", LOOKS, || {
        (0..LOOKS).filter(|_| filter.may_contain(&absent[next() as usize])).count()
    });
}

fn main() {
    let count = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(1_000_000);
    let count: u32 = count.max(LOOKS);
    let keys: Vec<Key> = (0..count).map(key).collect();
    let absent: Vec<Key> = (count..2 * count).map(key).collect();
    println!("| {count} keys of 24 bytes | processor time |\n|---|---|");
    hash_index(&keys, &absent);
    ordered_tail(&keys);
    filter(&keys, &absent);
}
