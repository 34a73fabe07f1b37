//! What a row costs, without any disk: encoding, stamping while it is copied, verifying. `cargo bench -p paddock-storage
//! --bench rows`; times are of a thousand rows, so microseconds there are nanoseconds for each.
#![allow(clippy::unwrap_used, reason = "a benchmark has nobody to report to")]
#![allow(missing_docs, reason = "criterion's macro makes public functions without documentation")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use paddock_storage::{Rows, RowsBuilder, Sequence, fuzzing};

const ROWS: u32 = 1_000;

fn rows(value_bytes: usize) -> Rows {
    let mut rows = RowsBuilder::new();
    for number in 0..ROWS {
        let mut key = [b'k'; 24];
        key[..4].copy_from_slice(&number.to_be_bytes());
        rows.put(&key, &vec![7; value_bytes]).unwrap();
    }
    rows.finish()
}

fn costs(criterion: &mut Criterion) {
    for value_bytes in [100, 1_000] {
        let rows = rows(value_bytes);
        let mut group = criterion.benchmark_group(format!("1000 rows of {value_bytes} bytes"));
        group.throughput(Throughput::Bytes(rows.encoded().len() as u64));
        group.bench_function("encode", |bencher| {
            let value = vec![7; value_bytes];
            bencher.iter(|| {
                let mut rows = RowsBuilder::new();
                for _ in 0..ROWS {
                    rows.put(black_box(&[b'k'; 24]), black_box(&value)).unwrap();
                }
                rows.finish()
            });
        });
        let mut buffer = Vec::new();
        group.bench_function("copy", |bencher| {
            bencher.iter(|| {
                buffer.clear();
                buffer.extend_from_slice(black_box(rows.encoded()));
            });
        });
        group.bench_function("copy and stamp", |bencher| {
            bencher.iter(|| {
                buffer.clear();
                fuzzing::stamp(black_box(&rows), Sequence(1 << 40), &mut buffer)
            });
        });
        buffer.clear();
        fuzzing::stamp(&rows, Sequence(1 << 40), &mut buffer);
        group.bench_function("walk", |bencher| bencher.iter(|| fuzzing::walk(black_box(&buffer))));
        group.bench_function("verify", |bencher| bencher.iter(|| fuzzing::verify(black_box(&buffer))));
        group.bench_function("crc32fast alone", |bencher| {
            bencher.iter(|| {
                let length = buffer.len() / ROWS as usize;
                black_box(&buffer).chunks(length).fold(0, |all, row| all ^ crc32fast::hash(&row[10..]))
            });
        });
    }
}

criterion_group!(benches, costs);
criterion_main!(benches);
