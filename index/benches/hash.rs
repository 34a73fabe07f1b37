//! What the hash index costs per operation, at a million keys. `cargo bench -p paddock-index --bench hash`
//!
//! The rows are keys of 24 bytes in memory, in random order: asking one costs a cache miss, as a mapped row would.
#![allow(missing_docs, reason = "criterion's macro makes public functions without documentation")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on fails")]

use std::convert::Infallible;
use std::hint::black_box;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use criterion::{Criterion, criterion_group, criterion_main};
use paddock_index::{HashIndex, PackedLocator};

const KEYS: u32 = 1_000_000;

/// So many keys are touched before the first of them is looked up or written.
const GROUP: usize = 32;

type Row = [u8; 24];

fn row(number: u32) -> Row {
    let mut key = [b'k'; 24];
    key[..4].copy_from_slice(&number.to_be_bytes());
    key
}

fn rows() -> Vec<Row> {
    (0..2 * KEYS).map(row).collect()
}

fn is<'a>(rows: &'a [Row], key: &'a Row) -> impl FnMut(PackedLocator) -> Result<bool, Infallible> + 'a {
    move |found| Ok(rows[found.offset() as usize] == *key)
}

fn locator(number: u32) -> PackedLocator {
    PackedLocator::new(0, number, 24).unwrap()
}

fn filled(rows: &[Row], keys: u32) -> HashIndex {
    let mut index = HashIndex::new(1);
    for number in 0..keys {
        let key = &rows[number as usize];
        index.insert(key, locator(number), is(rows, key)).unwrap();
    }
    index
}

/// The same, each group of keys touched before it is written.
fn filled_in_groups(rows: &[Row], keys: u32) -> HashIndex {
    let mut index = HashIndex::new(1);
    for (group, keys) in (0..).step_by(GROUP).zip(rows[..keys as usize].chunks(GROUP)) {
        let hashes: Vec<u64> = keys.iter().map(|key| index.reader().hash(key)).collect();
        hashes.iter().for_each(|hash| index.reader().touch(*hash));
        for ((number, key), hash) in (group..).zip(keys).zip(hashes) {
            index.insert_hashed(hash, locator(number), is(rows, key)).unwrap();
        }
    }
    index
}

/// Numbers below `KEYS` in an order that no cache foresees.
struct Order(u32);

impl Order {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((u64::from(self.0) * u64::from(KEYS)) >> 32) as u32
    }
}

fn alone(criterion: &mut Criterion) {
    let rows = rows();
    let mut index = filled(&rows, KEYS);
    let mut order = Order(1);
    criterion.bench_function("hash: get a key that is there", |bencher| {
        bencher.iter(|| {
            let key = row(order.next());
            black_box(index.get(&key, is(&rows, &key)))
        });
    });
    criterion.bench_function("hash: get a key that is not there", |bencher| {
        bencher.iter(|| {
            let key = row(KEYS + order.next());
            black_box(index.get(&key, is(&rows, &key)))
        });
    });
    criterion.bench_function("hash: get 32 keys, touched first", |bencher| {
        bencher.iter(|| {
            let keys: [Row; GROUP] = std::array::from_fn(|_| row(order.next()));
            let hashes = keys.map(|key| index.reader().hash(&key));
            hashes.iter().for_each(|hash| index.reader().touch(*hash));
            for (key, hash) in keys.iter().zip(hashes) {
                black_box(index.reader().get_hashed(hash, is(&rows, key))).unwrap();
            }
        });
    });
    criterion.bench_function("hash: overwrite", |bencher| {
        bencher.iter(|| {
            let number = order.next();
            let key = row(number);
            black_box(index.insert(&key, locator(number), is(&rows, &key)))
        });
    });
    let mut checkpoint = Vec::new();
    criterion.bench_function("hash: write a checkpoint of 1M keys to memory", |bencher| {
        bencher.iter(|| {
            checkpoint.clear();
            index.reader().write_checkpoint(0, &mut checkpoint)
        });
    });
    criterion.bench_function("hash: load a checkpoint of 1M keys from memory", |bencher| {
        bencher.iter(|| HashIndex::read_checkpoint(&mut checkpoint.as_slice()));
    });
    criterion.bench_function("hash: fill with 1M keys", |bencher| bencher.iter(|| filled(&rows, KEYS)));
    criterion.bench_function("hash: fill with 1M keys, touched in groups", |bencher| {
        bencher.iter(|| filled_in_groups(&rows, KEYS));
    });
}

/// Lookups while another thread writes without a pause: overwrites, and keys that come and go.
fn beside_the_writer(criterion: &mut Criterion) {
    let rows = rows();
    let mut index = filled(&rows, KEYS);
    let reader = index.reader().clone();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut order = Order(2);
            while !stop.load(Relaxed) {
                let (old, new) = (order.next(), KEYS + order.next());
                let (old_key, new_key) = (row(old), row(new));
                index.insert(&old_key, locator(old), is(&rows, &old_key)).unwrap();
                if index.remove(&new_key, is(&rows, &new_key)).unwrap().is_none() {
                    index.insert(&new_key, locator(new), is(&rows, &new_key)).unwrap();
                }
            }
        });
        let mut order = Order(1);
        criterion.bench_function("hash: get beside a busy writer", |bencher| {
            bencher.iter(|| {
                let key = row(order.next());
                black_box(reader.get(&key, is(&rows, &key)))
            });
        });
        stop.store(true, Relaxed);
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = alone, beside_the_writer
}
criterion_main!(benches);
