//! A steady load that counts every failure and measures every pause, for scripts/handover.py and scripts/failover.py:
//! `steady_load ENDPOINT WRITERS READERS`, so many for each partition.
//!
//! Each writer puts one key again and again, its values counting up; readers read these keys strongly, and none may show
//! less than was acknowledged before the read began. Nothing is retried by the client, so that what it would hide counts.
//!
//! It says `READY`. For each line on its standard input it prints one line of JSON: what was done in all, what failed, and the
//! acknowledged writes of each partition, and the longest time between two of them since the line before. When the input ends, so does it,
//! with exit code 1 if anything failed.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says so by failing")]

use std::io::BufRead;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use paddock_client::Client;

/// How long one request may wait; a pause longer than this is a failure.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);

/// Between two requests of one writer or reader: a load, not a race for the machine's cores.
const PACE: Duration = Duration::from_millis(2);

/// What of failures is printed; all are counted.
const FAILURES_PRINTED_MAX: u64 = 20;

/// One partition's figures.
struct Partition {
    /// When its last write was acknowledged.
    last: Mutex<Instant>,
    gap_us_max: AtomicU64,
    writes: AtomicU64,
}

/// One key, which one writer writes.
struct Key {
    name: String,
    partition: usize,
    acknowledged: AtomicU64,
}

struct Shared {
    client: Client,
    partitions: Vec<Partition>,
    keys: Vec<Key>,
    reads: AtomicU64,
    failed: AtomicU64,
    stale: AtomicU64,
    stopping: AtomicBool,
    began: Instant,
}

impl Shared {
    fn fail(&self, counter: &AtomicU64, what: &str) {
        if counter.fetch_add(1, Ordering::Relaxed) < FAILURES_PRINTED_MAX {
            println!("FAILURE at {} ms: {what}", self.began.elapsed().as_millis());
        }
    }

    fn acknowledged(&self, partition: usize) {
        let partition = &self.partitions[partition];
        let now = Instant::now();
        let gap = std::mem::replace(&mut *partition.last.lock().unwrap(), now);
        let gap_us = now.saturating_duration_since(gap).as_micros() as u64;
        partition.gap_us_max.fetch_max(gap_us, Ordering::Relaxed);
        partition.writes.fetch_add(1, Ordering::Relaxed);
    }

    fn report(&self) -> String {
        let gaps = self.partitions.iter().map(|partition| {
            format!("{:.1}", partition.gap_us_max.swap(0, Ordering::Relaxed) as f64 / 1_000.0)
        });
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let writes = self.partitions.iter().map(|partition| get(&partition.writes));
        format!(
            "{{\"writes\":{},\"writes_by_partition\":[{}],\"reads\":{},\"failed\":{},\"stale\":{},\"gap_ms_max\":[{}]}}",
            writes.clone().sum::<u64>(),
            writes.map(|count| count.to_string()).collect::<Vec<_>>().join(","),
            get(&self.reads),
            get(&self.failed),
            get(&self.stale),
            gaps.collect::<Vec<_>>().join(","),
        )
    }
}

async fn write(shared: Arc<Shared>, index: usize) {
    let key = &shared.keys[index];
    let mut number = 0_u64;
    while !shared.stopping.load(Ordering::Relaxed) {
        number += 1;
        match shared.client.put(key.name.clone(), number.to_string()).await {
            Ok(_) => {
                key.acknowledged.store(number, Ordering::Release);
                shared.acknowledged(key.partition);
            }
            Err(error) => shared.fail(&shared.failed, &format!("put {}: {error}", key.name)),
        }
        tokio::time::sleep(PACE).await;
    }
}

async fn read(shared: Arc<Shared>, reader: usize) {
    let mut turn = reader;
    while !shared.stopping.load(Ordering::Relaxed) {
        let key = &shared.keys[turn % shared.keys.len()];
        turn += 1;
        let before = key.acknowledged.load(Ordering::Acquire);
        if before > 0 {
            match shared.client.get(key.name.clone()).await {
                Ok(record) => {
                    shared.reads.fetch_add(1, Ordering::Relaxed);
                    let found: Option<u64> =
                        std::str::from_utf8(&record.value).ok().and_then(|text| text.parse().ok());
                    if found.is_none_or(|found| found < before) {
                        let what = format!("{} shows {found:?}, {before} was acknowledged", key.name);
                        shared.fail(&shared.stale, &what);
                    }
                }
                Err(error) => shared.fail(&shared.failed, &format!("get {}: {error}", key.name)),
            }
        }
        tokio::time::sleep(PACE).await;
    }
}

/// Names that lie in each partition, so many for each.
async fn choose_keys(client: &Client, partitions: usize, each: usize) -> Vec<Key> {
    let mut keys: Vec<Key> = Vec::new();
    let mut number = 0;
    while keys.len() < partitions * each {
        let name = format!("steady/{number}");
        number += 1;
        let located = client.locate(name.clone()).await.expect("the router answers");
        let partition = located.partition.expect("it is placed").partition_id as usize;
        if keys.iter().filter(|key| key.partition == partition).count() < each {
            keys.push(Key { name, partition, acknowledged: AtomicU64::new(0) });
        }
    }
    keys
}

#[tokio::main]
async fn main() {
    let arguments = std::env::args().skip(1).collect::<Vec<_>>();
    let [endpoint, writers, readers] = &arguments[..] else {
        eprintln!("usage: steady_load ENDPOINT WRITERS READERS");
        std::process::exit(2);
    };
    let (writers, readers): (usize, usize) = (writers.parse().unwrap(), readers.parse().unwrap());
    let builder = Client::builder(endpoint.clone()).request_timeout(REQUEST_TIMEOUT).attempts_max(1);
    let client = builder.connect().await.expect("the router answers");
    let count = client.partitions().await.expect("the router answers").len();
    let keys = choose_keys(&client, count, writers).await;
    let began = Instant::now();
    let partition = |_| Partition {
        last: Mutex::new(Instant::now()),
        gap_us_max: AtomicU64::new(0),
        writes: AtomicU64::new(0),
    };
    let shared = Arc::new(Shared {
        client,
        partitions: (0..count).map(partition).collect(),
        keys,
        reads: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        stale: AtomicU64::new(0),
        stopping: AtomicBool::new(false),
        began,
    });
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..shared.keys.len() {
        tasks.spawn(write(Arc::clone(&shared), index));
    }
    for reader in 0..readers * count {
        tasks.spawn(read(Arc::clone(&shared), reader));
    }
    println!("READY");
    let asked = Arc::clone(&shared);
    let reports = move || {
        for _ in std::io::stdin().lock().lines().map_while(Result::ok) {
            println!("{}", asked.report());
        }
    };
    let _ = tokio::task::spawn_blocking(reports).await;
    shared.stopping.store(true, Ordering::Relaxed);
    tasks.join_all().await;
    println!("{}", shared.report());
    let failed = shared.failed.load(Ordering::Relaxed) + shared.stale.load(Ordering::Relaxed);
    std::process::exit(i32::from(failed > 0));
}
