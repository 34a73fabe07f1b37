//! What the ordered index costs per operation. `cargo bench -p paddock-index`
#![allow(missing_docs, reason = "criterion's macro makes public functions without documentation")]

use std::hint::black_box;
use std::ops::Bound;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use paddock_index::{BTreeIndex, Locator, OrderedIndex};

const KEYS: u64 = 100_000;

/// Keys spread over the whole order, so that neighbours in time are no neighbours in the tree.
fn key(number: u64) -> [u8; 24] {
    let mut key = [b'k'; 24];
    key[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    key
}

fn filled() -> BTreeIndex {
    let mut index = BTreeIndex::new();
    for number in 0..KEYS {
        index.insert(&key(number), Locator { tag: number, ..Locator::default() });
    }
    index
}

fn ordered(criterion: &mut Criterion) {
    let mut index = filled();
    let mut number = 0;
    criterion.bench_function("get", |bencher| {
        bencher.iter(|| {
            number = (number + 1) % KEYS;
            black_box(index.get(&key(number)))
        });
    });
    criterion.bench_function("overwrite", |bencher| {
        bencher.iter(|| {
            number = (number + 1) % KEYS;
            black_box(index.insert(&key(number), Locator { tag: number, ..Locator::default() }))
        });
    });
    criterion.bench_function("range of 100", |bencher| {
        bencher.iter(|| {
            number = (number + 1) % KEYS;
            let start = key(number);
            index
                .range((Bound::Included(&start), Bound::Unbounded))
                .take(100)
                .map(|(_, l)| l.tag)
                .sum::<u64>()
        });
    });
    criterion.bench_function("fill with 100k keys", |bencher| {
        bencher.iter_batched(|| (), |()| filled(), BatchSize::PerIteration);
    });
}

criterion_group!(benches, ordered);
criterion_main!(benches);
