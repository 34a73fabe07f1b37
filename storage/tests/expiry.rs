//! What has expired is dropped by compaction, and counted no more.
#![allow(clippy::unwrap_used, reason = "what helpers of a test meet unexpectedly fails it")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use paddock_storage::disk::FaultyDisk;
use paddock_storage::{Clock, Readable, Store, WriteOptions};
use support::contents;

const NOW_MS: u64 = 1_800_000_000_000;

fn open(disk: &FaultyDisk, now_ms: &Arc<AtomicU64>) -> Store {
    let now_ms = now_ms.clone();
    let builder = Store::builder("/data/store").clock(Clock::from_fn(move || now_ms.load(Ordering::Relaxed)));
    builder.background_compaction(false).mark_idle_after(None).disk(Arc::new(disk.clone())).open().unwrap()
}

/// Dropped by the merge of a run, and by that of two; and once more after opening.
#[test]
fn counts_are_exact_after_compaction() {
    let (disk, now_ms) = (FaultyDisk::new(), Arc::new(AtomicU64::new(NOW_MS)));
    let store = open(&disk, &now_ms);
    let minutes = |count: u64| WriteOptions::new().ttl(Duration::from_secs(60 * count));
    let lasting_bytes = {
        store.insert("lasting", "x".repeat(100)).unwrap();
        store.stats().unwrap().live_bytes
    };
    for number in 0..900_u64 {
        let key = format!("session {number}");
        store.insert_with(&key, [7; 50], minutes(1 + number % 3)).unwrap().unwrap();
        if number == 500 {
            store.compact().unwrap();
        }
    }
    assert_eq!(store.len(), 901);
    for (passed, left) in [(1, 601), (2, 301)] {
        now_ms.store(NOW_MS + passed * 60_000, Ordering::Relaxed);
        store.compact().unwrap();
        assert_eq!(store.len(), left);
        assert_eq!(contents(&store).len() as u64, left);
    }
    // One lives on with another value.
    store.insert("session 2", "kept").unwrap();
    now_ms.store(NOW_MS + 3 * 60_000, Ordering::Relaxed);
    store.compact().unwrap();
    assert_eq!((store.len(), contents(&store).len()), (2, 2));
    store.remove("session 2").unwrap();
    store.compact().unwrap();
    let stats = store.stats().unwrap();
    assert_eq!((stats.records, stats.live_bytes), (1, lasting_bytes));
    drop(store);
    assert_eq!(open(&disk, &now_ms).len(), 1);
}

/// A store that nobody uses gives the space of what expires back, without being asked.
#[test]
fn an_idle_store_drops_what_expires() {
    let (disk, now_ms) = (FaultyDisk::new(), Arc::new(AtomicU64::new(NOW_MS)));
    let clock = now_ms.clone();
    let builder = Store::builder("/data/store").clock(Clock::from_fn(move || clock.load(Ordering::Relaxed)));
    let builder = builder.flush_bytes(32 << 10).run_bytes(16 << 10).mark_idle_after(None);
    let store = builder.disk(Arc::new(disk.clone())).open().unwrap();
    store.insert("lasting", "x").unwrap();
    let mut batch = store.batch();
    for number in 0..1_000_u32 {
        // Soon, for compaction then looks soon: here time passes only when it is told to.
        let ttl = Duration::from_millis(10 + u64::from(number % 10));
        batch.insert_with(number.to_be_bytes(), [7; 50], WriteOptions::new().ttl(ttl)).unwrap();
    }
    store.write(batch).unwrap();
    let wait_until = |what: &str, is_so: &dyn Fn(&Store) -> bool| {
        let begun = Instant::now();
        while !is_so(&store) {
            assert!(begun.elapsed() < Duration::from_secs(60), "{what}: {:?}", store.stats());
            std::thread::yield_now();
        }
    };
    wait_until("flushed", &|store| store.stats().unwrap().compaction.flushes == 1);
    assert_eq!(store.len(), 1_001);
    now_ms.store(NOW_MS + 60, Ordering::Relaxed);
    wait_until("dropped", &|store| store.len() == 1);
    assert_eq!(contents(&store).len(), 1);
}
