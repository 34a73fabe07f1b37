//! What a write and a read cost on this disk. `cargo bench -p paddock-storage`
//!
//! It writes to the target directory, not to the temporary one, which may be in memory.
#![allow(clippy::unwrap_used, reason = "a benchmark has nobody to report to")]
#![allow(missing_docs, reason = "criterion's macro makes public functions without documentation")]

use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use paddock_storage::{
    LogEntries, Options, Readable, ReplicatedStore, RowsBuilder, Sequence, Store, WriteBatch,
};

const KEYS: u64 = 100_000;
const VALUE: [u8; 100] = [7; 100];

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap()
}

/// Keys spread over the whole order.
fn key(number: u64) -> [u8; 24] {
    let mut key = [b'k'; 24];
    key[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    key
}

fn append_and_sync(criterion: &mut Criterion) {
    let directory = directory();
    let mut store = ReplicatedStore::open(directory.path(), Options::new()).unwrap();
    let mut group = criterion.benchmark_group("append and sync");
    for rows_per_batch in [1, 100] {
        group.throughput(Throughput::Elements(rows_per_batch));
        group.bench_function(format!("{rows_per_batch} rows"), |bencher| {
            bencher.iter(|| {
                let mut rows = RowsBuilder::new();
                for number in 0..rows_per_batch {
                    rows.put(&key(number), &VALUE).unwrap();
                }
                let first = store.last().sequence.next();
                let entries = LogEntries { epoch: 1, first, log_time_ms: 0, rows: rows.finish() };
                store.append(&entries, Sequence(0)).unwrap();
                let durable = store.sync().unwrap();
                store.apply(durable).unwrap();
            });
        });
    }
}

fn get(criterion: &mut Criterion) {
    let directory = directory();
    let store = Store::open(directory.path()).unwrap();
    let mut batch = WriteBatch::new();
    for number in 0..KEYS {
        batch.insert(key(number), VALUE).unwrap();
    }
    store.write(batch).unwrap();
    let mut number = 0;
    criterion.bench_function("get", |bencher| {
        bencher.iter(|| {
            number = (number + 7_919) % KEYS;
            black_box(store.get(&key(number)).unwrap())
        });
    });
}

criterion_group!(benches, append_and_sync, get);
criterion_main!(benches);
