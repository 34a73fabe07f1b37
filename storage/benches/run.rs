//! What runs cost: walking one, against walking the same rows in memory; searching; writing; and what compression saves.
//! `cargo bench -p paddock-storage --bench run [rows]`
//!
//! Interleaved rounds, the median of each, in processor time of the one thread (waiting for the disk does not count, nor do
//! others that run meanwhile). PACKAGES may name a Debian package index as plain text. It writes to the target directory, and measures what is in the page cache.
#![allow(clippy::print_stdout, reason = "what is measured is for people to read")]
#![allow(clippy::unwrap_used, reason = "a benchmark has nobody to report to")]

use std::hint::black_box;
use std::path::Path;

use paddock_storage::Compression;
use paddock_storage::benchmarking::{BenchedRun, EncodedRows};

const ROUNDS: usize = 5;
const BLOCK_BYTES: usize = 16 << 10;
const SEARCHES: u64 = 100_000;
const SHORT_SCAN_ROWS: usize = 50;

/// A seeded generator: all that a benchmark needs of chance.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn key(number: u64) -> String {
    format!("user{number:020}")
}

/// Rows with 24-byte keys and values of noise.
fn rows(count: u64, value_bytes: usize) -> EncodedRows {
    let mut dice = Dice(count | 1);
    let mut rows = EncodedRows::default();
    for number in 0..count {
        let value: Vec<u8> = (0..value_bytes.div_ceil(8)).flat_map(|_| dice.next().to_le_bytes()).collect();
        rows.push(key(number * 2).as_bytes(), &value[..value_bytes]).unwrap();
    }
    rows
}

fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(8).map(|chunk| u64::from_le_bytes(chunk.try_into().unwrap()));
    words.fold(0, u64::wrapping_add)
}

/// Processor time of this thread.
fn cpu_ns() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

type Case<'a> = (&'static str, Box<dyn Fn() -> u64 + 'a>);

/// Runs the cases in turn, round after round, and prints the median of nanoseconds per unit of each.
fn measure(title: &str, cases: &[Case<'_>]) {
    println!("{title}");
    let mut times = vec![Vec::new(); cases.len()];
    for _ in 0..ROUNDS {
        for ((_, case), times) in cases.iter().zip(&mut times) {
            let start = cpu_ns();
            let units = black_box(case());
            times.push((cpu_ns() - start) / units as f64);
        }
    }
    for ((name, _), times) in cases.iter().zip(&mut times) {
        times.sort_by(f64::total_cmp);
        println!("  {name:44} {:9.1} ns  (worst {:.1})", times[ROUNDS / 2], times[ROUNDS - 1]);
    }
}

fn walking(directory: &Path, rows: &EncodedRows, name: &str) {
    let count = rows.count();
    let write = |number, compression, mapped| {
        rows.write(directory, number, (BLOCK_BYTES, compression), mapped).unwrap()
    };
    let mapped = write(1, Compression::None, true);
    let unmapped = write(2, Compression::None, false);
    let (file, memory, row_bytes) = mapped.sizes();
    println!(
        "{name}: {count} rows, {row_bytes} bytes; file {file} ({:.2} % more), memory {:.2} bytes per row",
        (file as f64 / row_bytes as f64 - 1.0) * 100.0,
        memory as f64 / count as f64
    );
    let search = |run: &BenchedRun, odd: u64| {
        let mut dice = Dice(5);
        let mut found = 0;
        for _ in 0..SEARCHES {
            found += u64::from(run.has(key(dice.next() % count * 2 + odd).as_bytes()).unwrap());
        }
        assert_eq!(found, if odd == 0 { SEARCHES } else { 0 });
        SEARCHES
    };
    let short = |run: &BenchedRun| {
        let mut dice = Dice(6);
        for _ in 0..SEARCHES / 10 {
            run.scan_from(key(dice.next() % count * 2).as_bytes(), SHORT_SCAN_ROWS).unwrap();
        }
        SEARCHES / 10
    };
    let all = |scanned: u64| {
        assert_eq!(scanned, count);
        count
    };
    let cases: Vec<Case<'_>> = vec![
        ("memory: words summed", Box::new(|| all(black_box((sum(rows.bytes()), count)).1))),
        ("memory: rows decoded", Box::new(|| all(rows.walk(false)))),
        ("memory: rows decoded and verified", Box::new(|| all(rows.walk(true)))),
        ("mapped: forward", Box::new(|| all(mapped.scan(false).unwrap()))),
        ("mapped: backward", Box::new(|| all(mapped.scan(true).unwrap()))),
        ("mapped: locations", Box::new(|| all(mapped.locate_all().unwrap()))),
        ("unmapped: forward", Box::new(|| all(unmapped.scan(false).unwrap()))),
        ("unmapped: backward", Box::new(|| all(unmapped.scan(true).unwrap()))),
    ];
    measure("  per row", &cases);
    let cases: Vec<Case<'_>> = vec![
        ("mapped: find", Box::new(|| search(&mapped, 0))),
        ("mapped: find what is not there", Box::new(|| search(&mapped, 1))),
        ("unmapped: find", Box::new(|| search(&unmapped, 0))),
        ("mapped: seek and 50 rows", Box::new(|| short(&mapped))),
        ("unmapped: seek and 50 rows", Box::new(|| short(&unmapped))),
    ];
    measure("  per search", &cases);
}

const COMPRESSIONS: [(&str, Compression); 4] = [
    ("none", Compression::None),
    ("lz4", Compression::Lz4),
    ("zstd 1", Compression::Zstd { level: 1 }),
    ("zstd 3", Compression::Zstd { level: 3 }),
];

fn compressing(directory: &Path, rows: &EncodedRows, name: &str) {
    println!("{name}: {} rows, {} bytes", rows.count(), rows.bytes().len());
    let write =
        |compression, block_bytes| rows.write(directory, 3, (block_bytes, compression), true).unwrap();
    let runs: Vec<BenchedRun> = COMPRESSIONS.map(|(_, compression)| write(compression, BLOCK_BYTES)).into();
    for ((name, compression), run) in COMPRESSIONS.iter().zip(&runs) {
        let ratio = |run: &BenchedRun| rows.bytes().len() as f64 / run.sizes().0 as f64;
        let larger = [32 << 10, 65_000].map(|block_bytes| ratio(&write(*compression, block_bytes)));
        println!(
            "  {name:8} ratio {:.2}  (blocks of 32 KiB {:.2}, of 64 KiB {:.2})",
            ratio(run),
            larger[0],
            larger[1]
        );
    }
    let cases: Vec<Case<'_>> = COMPRESSIONS
        .iter()
        .map(|(name, compression)| {
            let write = Box::new(|| drop(write(*compression, BLOCK_BYTES))) as Box<dyn Fn()>;
            let case = move || {
                write();
                rows.count()
            };
            (*name, Box::new(case) as Box<dyn Fn() -> u64>)
        })
        .collect();
    measure("  writing, per row", &cases);
    let cases: Vec<Case<'_>> = COMPRESSIONS
        .iter()
        .zip(&runs)
        .map(|((name, _), run)| (*name, Box::new(|| run.scan(false).unwrap()) as Box<dyn Fn() -> u64>))
        .collect();
    measure("  walking, per row", &cases);
}

/// A Debian package index, or what is installed on this machine: one row for each package.
fn package_index() -> Option<EncodedRows> {
    let path = std::env::var("PACKAGES").unwrap_or_else(|_| "/var/lib/dpkg/status".into());
    let text = std::fs::read_to_string(path).ok()?;
    let mut packages: Vec<(&str, &str)> = text
        .split("\n\n")
        .filter_map(|package| Some((package.lines().next()?.strip_prefix("Package: ")?, package)))
        .collect();
    packages.sort_unstable();
    packages.dedup_by_key(|package| package.0);
    let mut rows = EncodedRows::default();
    for (name, package) in packages {
        rows.push(name.as_bytes(), package.as_bytes()).unwrap();
    }
    Some(rows)
}

fn main() {
    let count = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(1_000_000);
    let temporary = tempfile::tempdir_in(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
    let directory = temporary.path();
    for (name, value_bytes) in [("100-byte values", 100), ("1 KiB values", 1024)] {
        walking(directory, &rows(count, value_bytes), name);
    }
    compressing(directory, &rows(count / 5, 100), "noise of 100 bytes");
    compressing(directory, &rows(count / 20, 1024), "noise of 1 KiB");
    if let Some(rows) = package_index() {
        compressing(directory, &rows, "package index");
    }
}
