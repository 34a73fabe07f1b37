//! What the filter costs per key, at a million keys. `cargo bench -p paddock-index --bench filter`
#![allow(missing_docs, reason = "criterion's macro makes public functions without documentation")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use paddock_index::{Filter, FilterBuilder, xxh3};

const KEYS: u64 = 1_000_000;

fn key(number: u64) -> [u8; 24] {
    let mut key = [b'k'; 24];
    key[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    key
}

fn filled() -> Filter {
    let mut builder = FilterBuilder::new(KEYS);
    (0..KEYS).for_each(|number| builder.insert(&key(number)));
    builder.build()
}

fn filter(criterion: &mut Criterion) {
    let filter = filled();
    let mut number = 0;
    let mut next = || {
        number = (number + 7919) % KEYS;
        number
    };
    criterion.bench_function("filter: a key that is there", |bencher| {
        bencher.iter(|| black_box(filter.may_contain(&key(next()))));
    });
    criterion.bench_function("filter: a key that is not there", |bencher| {
        bencher.iter(|| black_box(filter.may_contain(&key(KEYS + next()))));
    });
    let hashes: Vec<u64> = (0..1024).map(|number| xxh3(0, &key(number))).collect();
    criterion.bench_function("filter: a key whose hash is known", |bencher| {
        bencher.iter(|| {
            number = (number + 1) % 1024;
            black_box(filter.may_contain_hash(hashes[number as usize]))
        });
    });
    let mut group = criterion.benchmark_group("filter of 1M keys");
    group.throughput(Throughput::Elements(KEYS)).sample_size(10);
    group.bench_function("fill", |bencher| bencher.iter(filled));
    let bytes = filter.to_bytes();
    group.bench_function("to bytes", |bencher| bencher.iter(|| filter.to_bytes()));
    group.bench_function("from bytes", |bencher| bencher.iter(|| Filter::from_bytes(&bytes)));
    group.finish();
}

criterion_group!(benches, filter);
criterion_main!(benches);
