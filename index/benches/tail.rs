//! What the ordered tail costs per operation, at a million entries of 24-byte keys.
//! `cargo bench -p paddock-index --bench tail`
#![allow(missing_docs, reason = "criterion's macro makes public functions without documentation")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on fails")]

use std::hint::black_box;
use std::ops::Bound;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use paddock_index::{OrderedTail, PackedLocator};

const ENTRIES: u64 = 1_000_000;

type Key = [u8; 24];

/// Keys that have much in common, as those of a table have.
fn key(number: u64) -> Key {
    let mut key = *b"user0000000000000000pad!";
    key[4..20].copy_from_slice(format!("{:016}", number % 10_000_000_000_000_000).as_bytes());
    key
}

fn ascending() -> Vec<Key> {
    (0..ENTRIES).map(key).collect()
}

fn random() -> Vec<Key> {
    (0..ENTRIES).map(|number| key(number.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect()
}

/// Of every thousand keys one is not of the table: nothing is common to all.
fn mixed() -> Vec<Key> {
    let mut keys = random();
    keys.iter_mut().step_by(1000).for_each(|key| key[0] = b'm');
    keys
}

/// A few keys again and again.
fn skewed() -> Vec<Key> {
    let numbers = (0..ENTRIES).map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32);
    numbers.map(|number| key(number % (1 + (number >> 7) % 10_000))).collect()
}

fn filled(keys: &[Key]) -> OrderedTail {
    let mut tail = OrderedTail::new();
    let locator = PackedLocator::new(0, 0, 100).unwrap();
    for (sequence, key) in (1..).zip(keys) {
        tail.push(key, sequence, locator, false);
    }
    tail
}

fn push(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tail: push a million keys");
    group.throughput(Throughput::Elements(ENTRIES)).sample_size(10);
    for (name, keys) in
        [("ascending", ascending()), ("random", random()), ("mixed", mixed()), ("skewed", skewed())]
    {
        group.bench_function(name, |bencher| bencher.iter(|| filled(&keys)));
    }
    group.finish();
    let keys = random();
    criterion.bench_function("tail: push one and take the layers", |bencher| {
        let mut tail = filled(&keys[..200_000]);
        let mut sequence = 1_000_000;
        let locator = PackedLocator::new(0, 0, 100).unwrap();
        bencher.iter(|| {
            sequence += 1;
            tail.push(&keys[sequence as usize % keys.len()], sequence, locator, false);
            black_box(tail.layers())
        });
    });
}

fn read(criterion: &mut Criterion) {
    let keys = random();
    let mut tail = filled(&keys);
    let layers = tail.layers();
    let mut number = 0;
    let mut next = || {
        number = (number + 7919) % keys.len();
        &keys[number]
    };
    criterion.bench_function("tail: layers with nothing pending", |bencher| {
        bencher.iter(|| black_box(tail.layers()));
    });
    criterion.bench_function("tail: newest", |bencher| {
        bencher.iter(|| black_box(layers.newest(next(), u64::MAX)));
    });
    let mut cursor = layers.cursor();
    criterion.bench_function("tail: seek", |bencher| {
        bencher.iter(|| {
            cursor.seek(Bound::Included(next()));
            black_box(cursor.entry().is_some())
        });
    });
    criterion.bench_function("tail: next", |bencher| {
        cursor.seek(Bound::Unbounded);
        bencher.iter(|| {
            cursor.next();
            if cursor.entry().is_none() {
                cursor.seek(Bound::Unbounded);
            }
            black_box(cursor.entry().map(|entry| entry.sequence))
        });
    });
    criterion.bench_function("tail: prev", |bencher| {
        cursor.seek_back(Bound::Unbounded);
        bencher.iter(|| {
            cursor.prev();
            if cursor.entry().is_none() {
                cursor.seek_back(Bound::Unbounded);
            }
            black_box(cursor.entry().map(|entry| entry.sequence))
        });
    });
}

criterion_group!(benches, push, read);
criterion_main!(benches);
