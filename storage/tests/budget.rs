//! The memory budget against what the operating system says: a store several times as large as its budget, in a process of its
//! own, whose memory is measured at its highest.
//!
//! Nothing is mapped, so that what is measured is what the store allocated, and not the kernel's cache.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "what helpers of a test meet unexpectedly fails it")]

use std::path::Path;
use std::process::Command;

use paddock_storage::{Durability, Mapping, Options, Readable, Store, WriteBatch};

const DIRECTORY: &str = "PADDOCK_TEST_BUDGET_DIRECTORY";

/// Their entries in the hash index alone would take more than all that indexes may.
const KEYS: u32 = 180_000;
const BUDGET_BYTES: u64 = 5 << 20;

fn key(number: u32) -> Vec<u8> {
    // Scattered, so that neighbours in time are none by key.
    format!("key {:08x}", number.wrapping_mul(0x9e37_79b1)).into_bytes()
}

fn value(number: u32) -> [u8; 64] {
    let mut value = [0; 64];
    // Half of it does not compress.
    value[..4].copy_from_slice(&number.to_le_bytes());
    value[4..32].copy_from_slice(&key(number).repeat(3)[..28]);
    value
}

fn open(memory_bytes: u64) -> Store {
    let directory = std::env::var_os(DIRECTORY).unwrap();
    let options = Options::new().memory_bytes(memory_bytes).mapping(Mapping::Never);
    let options = options.durability(Durability::Buffered);
    Store::builder(Path::new(&directory)).options(options).open().unwrap()
}

fn write(store: &Store, numbers: std::ops::Range<u32>) {
    for first in numbers.clone().step_by(1_000) {
        let mut batch = WriteBatch::new();
        for number in first..(first + 1_000).min(numbers.end) {
            batch.insert(key(number), value(number)).unwrap();
        }
        store.write(batch).unwrap();
    }
}

/// The most memory that this process has had so far.
fn highest_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

/// Makes a store with memory for all of its keys.
#[test]
#[ignore = "a child of the other test"]
fn child_with_much_memory() {
    let store = open(1 << 30);
    write(&store, 0..KEYS);
    store.compact().unwrap();
    let stats = store.stats().unwrap();
    assert!(stats.index_bytes > BUDGET_BYTES / 2, "{stats:?}");
    assert!(stats.live_bytes > 3 * BUDGET_BYTES, "{stats:?}");
    // A cold key costs no more than this, and a hot one this and its entry in the index.
    let per_key = stats.memory.lookup_bytes as f64 / f64::from(KEYS);
    assert!(per_key <= 2.0, "{per_key} bytes of lookups for each key");
    store.close().unwrap();
    println!("\nended well: {per_key:.2} bytes of lookups for each key");
}

/// Opens it with much less, and uses it.
#[test]
#[ignore = "a child of the other test"]
fn child_with_little_memory() {
    let before = highest_bytes();
    let used = |what: &str| {
        let used = highest_bytes() - before;
        println!("\n{what}: {used} bytes of {BUDGET_BYTES}");
        used
    };
    let store = open(BUDGET_BYTES);
    used("opened");
    for number in (0..KEYS).step_by(41) {
        assert_eq!(store.get(&key(number)).unwrap().unwrap(), &value(number)[..]);
    }
    assert_eq!(store.get(b"key that is not there").unwrap(), None);
    used("read");
    write(&store, 0..KEYS / 20);
    used("written");
    assert_eq!(store.iter().filter(|record| record.is_ok()).count(), KEYS as usize);
    let highest = used("walked");
    let stats = store.stats().unwrap();
    let known = stats.index_bytes + stats.memory.lookup_bytes + stats.memory.cached_bytes;
    assert!(known <= BUDGET_BYTES, "{stats:?}");
    assert!(stats.memory.lookup_bytes <= BUDGET_BYTES / 8, "{stats:?}");
    assert!(highest <= BUDGET_BYTES, "{highest} bytes of {BUDGET_BYTES}: {stats:?}");
    store.close().unwrap();
    println!("\nended well");
}

fn run(child: &str, directory: &Path) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", child, "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("\nended well"), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_store_keeps_within_its_budget_whatever_it_was_made_with() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    run("child_with_much_memory", &path);
    run("child_with_little_memory", &path);
}
