//! Followers that the leader's log no longer reaches: rebuilt from a snapshot while writes go on, and nothing is lost.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use paddock_coordination::NodeId;
use paddock_partition::snapshot::CatchUpOptions;
use paddock_proto::admin::v1::Replica;
use paddock_proto::v1::outcome;
use paddock_storage::Options;

use crate::gate::{GatedDisk, What};
use crate::support::{Cluster, Stream, on, put, read};
use crate::{value, version};

/// Small files that are flushed often.
fn small_files() -> Options {
    Options::new().segment_bytes(64 << 10).extent_bytes(16 << 10).flush_bytes(64 << 10)
}

/// The same, and little log that is kept.
async fn cluster_that_forgets(catch_up: CatchUpOptions) -> Cluster {
    Cluster::start_catching_up(2, 1, small_files(), catch_up).await
}

fn little_log() -> CatchUpOptions {
    CatchUpOptions { log_retention_bytes: 64 << 10, ..CatchUpOptions::default() }
}

/// The names of the directories at the place of the one partition.
fn directories(data: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(data.join("partitions")).expect("a folder");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// What each directory's name has behind its place.
fn copies(data: &Path) -> Vec<String> {
    let name = |name: &String| name.split_once('.').map_or_else(String::new, |(_, copy)| copy.to_owned());
    directories(data).iter().map(name).collect()
}

/// Text that no compressor makes shorter by much: the same for the same seed.
fn noise(seed: u64, bytes: usize) -> String {
    let mut random = seed;
    let mut text = String::with_capacity(bytes + 10);
    while text.len() < bytes {
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        // Six bits a character.
        text.extend((0..10).map(|digit| char::from(b'0' + ((random >> (6 * digit)) & 63) as u8)));
    }
    text
}

/// Writes enough that the log loses its beginning.
async fn fill(stream: &mut Stream, prefix: &str, mib: usize) -> HashMap<String, String> {
    fill_on(0, stream, prefix, mib).await
}

/// The same on a partition.
async fn fill_on(partition: u32, stream: &mut Stream, prefix: &str, mib: usize) -> HashMap<String, String> {
    let mut written = HashMap::new();
    for batch in 0..mib * 16 {
        let of = |n: usize| (format!("{prefix}-{batch}-{n}"), noise((batch * 16 + n) as u64, 4 << 10));
        let batch: Vec<_> = (0..16).map(of).collect();
        let puts = batch.iter().map(|(key, value)| on(partition, put(key, value))).collect();
        for outcome in stream.call(puts).await {
            version(&outcome);
        }
        written.extend(batch);
    }
    written
}

/// Writes until it is told to stop, and returns what was acknowledged last of each key.
fn load(mut stream: Stream, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<HashMap<String, String>> {
    tokio::spawn(async move {
        let mut acknowledged = HashMap::new();
        for number in 0_u64.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let (key, value) = (format!("load-{}", number % 500), format!("{number} ").repeat(50));
            // What is not acknowledged may have been written or not: its key is not looked at any more.
            match stream.one(put(&key, &value)).await.kind {
                Some(outcome::Kind::Write(_)) => drop(acknowledged.insert(key, value)),
                _ => drop(acknowledged.remove(&key)),
            }
        }
        acknowledged
    })
}

async fn holds(stream: &mut Stream, expected: &HashMap<String, String>) {
    for (key, expected) in expected {
        let found = value(&stream.settled(read(key)).await);
        assert!(found.as_deref() == Some(expected.as_bytes()), "{key} is lost");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_lost_its_disk_is_rebuilt_under_load_and_has_everything() {
    let mut cluster = cluster_that_forgets(little_log()).await;
    cluster.in_sync(0, 2).await;
    let leader = cluster.leader(0).await;
    let follower = cluster.follower(0).await;
    let mut stream = cluster.leader_stream(0).await;
    let mut written = fill(&mut stream, "before", 4).await;
    // Its retention, what is not in runs yet, and the segments that these begin and end in.
    let is_bounded = |replica: &Replica| (replica.disk_bytes < 1 << 20).then_some(());
    says(&cluster, leader, is_bounded).await;

    let stop = Arc::new(AtomicBool::new(false));
    let loading = load(cluster.leader_stream(0).await, Arc::clone(&stop));
    let parked = cluster.stop_node(follower).await;
    cluster.in_sync(0, 1).await;
    // All of it, its identity included.
    cluster.replace_node(parked, follower).await;
    cluster.in_sync(0, 2).await;
    written.extend(fill(&mut stream, "after", 1).await);
    stop.store(true, Ordering::Relaxed);
    let acknowledged = loading.await.expect("the load ends");
    assert!(acknowledged.len() > 10, "hardly any load: {}", acknowledged.len());
    written.extend(acknowledged);
    // It was no log that filled it.
    assert_eq!(copies(cluster.data(follower)), ["1"]);

    // It leads, alone, and has everything.
    let former = cluster.stop_node(leader).await;
    assert_eq!(copies(former.data()), [""], "the leader's copy is gone");
    assert_eq!(cluster.next_leader(0, leader).await, follower);
    let mut stream = cluster.stream(follower).await;
    holds(&mut stream, &written).await;

    // And it comes back from the disk as what it is.
    let parked = cluster.stop_node(follower).await;
    cluster.start_node(parked).await;
    cluster.start_node(former).await;
    cluster.in_sync(0, 2).await;
    holds(&mut cluster.leader_stream(0).await, &written).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_was_away_for_long_gets_a_snapshot_and_again_another_one() {
    let mut cluster = cluster_that_forgets(little_log()).await;
    cluster.in_sync(0, 2).await;
    let follower = cluster.follower(0).await;
    let mut stream = cluster.leader_stream(0).await;
    let mut written = fill(&mut stream, "with both", 1).await;
    for (round, copy) in [("first", "1"), ("second", "2")] {
        let parked = cluster.stop_node(follower).await;
        written.extend(fill(&mut stream, round, 1).await);
        cluster.start_node(parked).await;
        cluster.in_sync(0, 2).await;
        let last = version(&stream.one(put("last", round)).await);
        written.insert("last".to_owned(), round.to_owned());
        cluster.applied(follower, 0, last).await;
        assert!(
            copies(cluster.data(follower)).contains(&copy.to_owned()),
            "{:?}",
            directories(cluster.data(follower))
        );
    }
    let leader = cluster.leader(0).await;
    cluster.stop_node(leader).await;
    cluster.next_leader(0, leader).await;
    holds(&mut cluster.stream(follower).await, &written).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_the_log_still_reaches_gets_no_snapshot() {
    let catch_up = CatchUpOptions { log_retention_bytes: 64 << 20, ..CatchUpOptions::default() };
    let mut cluster = cluster_that_forgets(catch_up).await;
    cluster.in_sync(0, 2).await;
    let follower = cluster.follower(0).await;
    let mut stream = cluster.leader_stream(0).await;
    let parked = cluster.stop_node(follower).await;
    fill(&mut stream, "alone", 1).await;
    cluster.start_node(parked).await;
    cluster.in_sync(0, 2).await;
    assert_eq!(copies(cluster.data(follower)), [""]);
    cluster.stop().await;
}

/// Waits until a node says something of its replica.
async fn says<T>(cluster: &Cluster, node: NodeId, what: impl Fn(&Replica) -> Option<T>) -> T {
    cluster.replica_until(node, 0, what).await
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ends_tell_how_far_a_snapshot_is_and_the_old_leaders_is_forgotten() {
    // Slow enough to be seen.
    let catch_up = CatchUpOptions { snapshot_bytes_per_second: 1 << 20, ..little_log() };
    let mut cluster = cluster_that_forgets(catch_up).await;
    cluster.in_sync(0, 2).await;
    let leader = cluster.leader(0).await;
    let follower = cluster.follower(0).await;
    let mut stream = cluster.leader_stream(0).await;
    let parked = cluster.stop_node(follower).await;
    let written = fill(&mut stream, "alone", 4).await;
    cluster.start_node(parked).await;

    let underway = |from: NodeId, transfer: &paddock_proto::admin::v1::SnapshotTransfer| {
        let is_underway = transfer.done_bytes > 0 && transfer.done_bytes < transfer.total_bytes;
        (is_underway && transfer.node_id == from.to_string()).then_some(transfer.total_bytes)
    };
    let receiving = |replica: &Replica| underway(leader, replica.receiving_snapshot.as_ref()?);
    let sending = |replica: &Replica| underway(follower, replica.sending_snapshots.first()?);
    let total = says(&cluster, follower, receiving).await;
    assert_eq!(says(&cluster, leader, sending).await, total);

    // The leader is restarted in the middle of it. It leads again, and the follower begins anew.
    let parked = cluster.stop_node_without_handover(leader).await;
    assert_eq!(copies(parked.data()), [""], "what it kept for the follower is gone");
    cluster.start_node(parked).await;
    cluster.in_sync(0, 2).await;
    assert_eq!(cluster.leader(0).await, leader, "nobody else may lead");
    holds(&mut cluster.leader_stream(0).await, &written).await;
    let done = |replica: &Replica| replica.sending_snapshots.is_empty().then_some(());
    says(&cluster, leader, done).await;
    cluster.stop().await;
}

/// Waits until there is nothing but the store itself at the place of a node's replica.
async fn has_no_droppings(cluster: &Cluster, node: NodeId) {
    let data = cluster.data(node);
    says(cluster, node, |_| (copies(data) == [""]).then_some(())).await;
}

/// Waits until a node says that it has no room for a snapshot, in such words.
async fn has_no_room(cluster: &Cluster, node: NodeId, words: &str) {
    let says_so = |replica: &Replica| {
        let problem = &replica.problem;
        (problem.contains("no room on the disk") && problem.contains(words)).then_some(())
    };
    says(cluster, node, says_so).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_room_for_a_snapshot_begins_none_says_so_and_holds_its_leaders_log_no_longer() {
    let disk = GatedDisk::default();
    let storage = small_files().disk(Arc::new(disk.clone()));
    let mut cluster = Cluster::start_catching_up(2, 1, storage, little_log()).await;
    cluster.in_sync(0, 2).await;
    let (leader, follower) = (cluster.leader(0).await, cluster.follower(0).await);
    let mut stream = cluster.leader_stream(0).await;
    let parked = cluster.stop_node(follower).await;
    let mut written = fill(&mut stream, "alone", 2).await;
    // It would fit, but for what has to stay free.
    disk.say_free(Some((parked.data(), 1 << 30)));
    cluster.start_node(parked).await;
    has_no_room(&cluster, follower, "4 times in a row").await;
    has_no_droppings(&cluster, follower).await;
    // The leader goes on, and keeps no more log than it would without that follower.
    written.extend(fill(&mut stream, "meanwhile", 2).await);
    says(&cluster, leader, |replica| (replica.disk_bytes < 1 << 20).then_some(())).await;
    let metrics = cluster.metrics(follower).await;
    assert!(metrics.contains("snapshot_transfers_failed_total{reason=\"no_room\"}"), "{metrics}");
    assert!(!metrics.contains("snapshot_fetch_failures{partition=\"0\"} 0"), "{metrics}");

    disk.say_free(None);
    cluster.in_sync(0, 2).await;
    says(&cluster, follower, |replica| replica.problem.is_empty().then_some(())).await;
    let former = cluster.stop_node(leader).await;
    cluster.next_leader(0, leader).await;
    holds(&mut cluster.stream(follower).await, &written).await;
    drop(former);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_comes_upon_the_reserve_is_given_up_and_removed() {
    let disk = GatedDisk::default();
    let storage = small_files().disk(Arc::new(disk.clone()));
    // Slow enough to be met on its way.
    let catch_up = CatchUpOptions { snapshot_bytes_per_second: 1 << 20, ..little_log() };
    let mut cluster = Cluster::start_catching_up(2, 1, storage, catch_up).await;
    cluster.in_sync(0, 2).await;
    let follower = cluster.follower(0).await;
    let mut stream = cluster.leader_stream(0).await;
    let parked = cluster.stop_node(follower).await;
    let written = fill(&mut stream, "alone", 3).await;
    cluster.start_node(parked).await;
    let begun = |replica: &Replica| {
        replica.receiving_snapshot.as_ref().is_some_and(|one| one.done_bytes > 0).then_some(())
    };
    says(&cluster, follower, begun).await;
    // Somebody else writes on that disk.
    disk.say_free(Some((cluster.data(follower), (1 << 30) - 1)));
    has_no_room(&cluster, follower, "").await;
    has_no_droppings(&cluster, follower).await;
    disk.say_free(None);
    cluster.in_sync(0, 2).await;
    holds(&mut stream, &written).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_takes_nothing_keeps_the_turn_from_nobody_for_long() {
    let catch_up = CatchUpOptions {
        snapshot_bytes_per_second: 4 << 20,
        stall_timeout: Duration::from_secs(3),
        ..little_log()
    };
    let mut cluster = Cluster::start_catching_up(2, 2, small_files(), catch_up).await;
    for partition in [0, 1] {
        cluster.in_sync(partition, 2).await;
    }
    let follower = cluster.follower(0).await;
    let parked = cluster.stop_node(follower).await;
    for partition in [0, 1] {
        cluster.in_sync(partition, 1).await;
        let mut stream = cluster.leader_stream(partition).await;
        fill_on(partition, &mut stream, "alone", 4).await;
    }
    cluster.start_node(parked).await;
    let leader = cluster.leader(0).await;
    assert_eq!(cluster.leader(1).await, leader, "nobody else may lead");
    // While one is sent the other waits.
    let kept = |replica: &Replica| Some(replica.sending_snapshots.first()?.done_bytes);
    let is_first = loop {
        let sent =
            [cluster.replica_until(leader, 0, kept).await, cluster.replica_until(leader, 1, kept).await];
        match sent {
            [0, 0] => {}
            [zero, _] => break zero > 0,
        }
    };
    let waiting = if is_first { 1 } else { 0 };
    let last = cluster.replica_until(leader, waiting, |replica| Some(replica.last_sequence)).await;
    // Somebody takes its place in the queue, in its name, and then nothing of what comes.
    let stuck = cluster.fetch_snapshot(leader, follower, waiting, last).await;
    cluster.in_sync(waiting, 2).await;
    cluster.in_sync(1 - waiting, 2).await;
    let metrics = cluster.metrics(leader).await;
    assert!(metrics.contains("snapshot_transfers_failed_total{reason=\"receiver_stalled\"} 1"), "{metrics}");
    drop(stuck);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_leaves_and_returns_while_its_snapshot_is_verified_is_whole_in_the_end() {
    let disk = GatedDisk::default();
    let storage = small_files().disk(Arc::new(disk.clone()));
    let mut cluster = Cluster::start_with_spares_catching_up(3, None, storage, little_log()).await;
    cluster.in_sync(0, 2).await;
    let (leader, follower) = (cluster.leader(0).await, cluster.follower(0).await);
    let spare = cluster.spares(0).await[0];
    let mut stream = cluster.leader_stream(0).await;
    let parked = cluster.stop_node(follower).await;
    cluster.in_sync(0, 1).await;
    let mut written = fill(&mut stream, "alone", 2).await;
    // What is received comes to its end, and is not opened to be verified.
    let copy = format!("partitions/{}.1", directories(parked.data())[0]);
    disk.shut_for(What::OpeningStores, &parked.data().join(copy));
    cluster.start_node(parked).await;
    let whole = |replica: &Replica| {
        let one = replica.receiving_snapshot.as_ref()?;
        (one.total_bytes > 0 && one.done_bytes == one.total_bytes).then_some(())
    };
    says(&cluster, follower, whole).await;
    cluster.set_target(0, &[leader, spare]).await;
    cluster.settled_on(0, &[leader, spare]).await;
    cluster.set_target(0, &[leader, follower]).await;
    cluster.state(0, "it is listed again", |state| state.replicas.contains(&follower)).await;
    disk.open();
    // Whoever received the first copy must not take anything of the second one with it, which has the same place.
    cluster.settled_on(0, &[leader, follower]).await;
    written.extend(fill(&mut stream, "after", 1).await);
    cluster.stop_node(spare).await;
    cluster.stop_node(leader).await;
    cluster.next_leader(0, leader).await;
    holds(&mut cluster.stream(follower).await, &written).await;
    cluster.stop().await;
}

/// How long writes took: the median and the 99th percentile, in milliseconds, and how many there were.
struct Latencies {
    p50_ms: f64,
    p99_ms: f64,
    count: usize,
}

impl Latencies {
    fn of(mut micros: Vec<u128>) -> Latencies {
        micros.sort_unstable();
        let at = |percent: usize| micros.get(micros.len() * percent / 100).map_or(0.0, |us| *us as f64 / 1e3);
        Latencies { p50_ms: at(50), p99_ms: at(99), count: micros.len() }
    }
}

/// One small write after the other, timed, until it is told to stop.
fn timed(mut stream: Stream, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<Vec<u128>> {
    tokio::spawn(async move {
        let mut micros = Vec::new();
        for number in 0_u64.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let begun = Instant::now();
            version(&stream.one(put(&format!("timed-{}", number % 1000), "v")).await);
            micros.push(begun.elapsed().as_micros());
        }
        micros
    })
}

/// Small writes for so long.
async fn timed_for(cluster: &Cluster, duration: Duration) -> Latencies {
    let stop = Arc::new(AtomicBool::new(false));
    let timing = timed(cluster.leader_stream(0).await, Arc::clone(&stop));
    tokio::time::sleep(duration).await;
    stop.store(true, Ordering::Relaxed);
    Latencies::of(timing.await.expect("ends"))
}

/// What one rebuild came to.
struct Rebuild {
    received_mb_per_second: f64,
    installed_mb_per_second: f64,
    in_sync_after: Duration,
    before: Latencies,
    alone: Latencies,
    during: Latencies,
}

/// Loses a follower's disk, and waits until it is in sync again.
async fn rebuild(cluster: &mut Cluster, usual: Duration) -> (Rebuild, u64) {
    const PATIENCE: Duration = Duration::from_secs(1_800);
    let follower = cluster.follower(0).await;
    let before = timed_for(cluster, usual).await;
    let parked = cluster.stop_node(follower).await;
    cluster.in_sync(0, 1).await;
    let alone = timed_for(cluster, usual).await;
    let stop = Arc::new(AtomicBool::new(false));
    let timing = timed(cluster.leader_stream(0).await, Arc::clone(&stop));
    let begun = Instant::now();
    cluster.replace_node(parked, follower).await;
    let known = |replica: &Replica| {
        replica.receiving_snapshot.as_ref().map(|one| one.total_bytes).filter(|all| *all > 0)
    };
    let total = says(cluster, follower, known).await;
    let receiving = Instant::now();
    let whole = |replica: &Replica| match &replica.receiving_snapshot {
        Some(one) => (one.done_bytes == one.total_bytes).then_some(()),
        None => Some(()),
    };
    cluster.replica_within(PATIENCE, follower, 0, whole).await;
    let received = receiving.elapsed();
    let installed = |replica: &Replica| replica.receiving_snapshot.is_none().then_some(());
    cluster.replica_within(PATIENCE, follower, 0, installed).await;
    let installed = receiving.elapsed();
    cluster.in_sync(0, 2).await;
    let in_sync_after = begun.elapsed();
    stop.store(true, Ordering::Relaxed);
    let during = Latencies::of(timing.await.expect("ends"));
    let per_second = |elapsed: Duration| total as f64 / 1e6 / elapsed.as_secs_f64();
    let (received_mb_per_second, installed_mb_per_second) = (per_second(received), per_second(installed));
    let rebuild =
        Rebuild { received_mb_per_second, installed_mb_per_second, in_sync_after, before, alone, during };
    (rebuild, total)
}

/// Measures, and judges nothing but that it works: how fast a lost replica is rebuilt, and what the writes beside it see of that.
/// `PADDOCK_REBUILD_MIB` says how much there is to be rebuilt (256), `PADDOCK_REBUILD_MIB_PER_SECOND` how fast it may go,
/// `PADDOCK_REBUILD_ROUNDS` how often it is done (3), `PADDOCK_REBUILD_SECONDS` how long the writes before it are timed (10).
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures for minutes, and prints figures (make rebuild): see docs/guarantees.md"]
async fn measure_a_rebuild_under_load() {
    const VALUE_BYTES: usize = 16 << 10;
    let from_environment = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
    };
    let mib = from_environment("PADDOCK_REBUILD_MIB", 256);
    let rounds = from_environment("PADDOCK_REBUILD_ROUNDS", 3);
    let usual = Duration::from_secs(from_environment("PADDOCK_REBUILD_SECONDS", 10));
    let rate = from_environment(
        "PADDOCK_REBUILD_MIB_PER_SECOND",
        paddock_partition::snapshot::BYTES_PER_SECOND >> 20,
    );
    let catch_up = CatchUpOptions {
        log_retention_bytes: 64 << 20,
        snapshot_bytes_per_second: rate << 20,
        ..CatchUpOptions::default()
    };
    let mut cluster = Cluster::start_catching_up(2, 1, Options::new(), catch_up).await;
    cluster.in_sync(0, 2).await;
    let mut stream = cluster.leader_stream(0).await;
    for batch in 0..mib * (1 << 20) / (16 * VALUE_BYTES as u64) {
        let value = noise(batch, VALUE_BYTES);
        for outcome in stream.call((0..16).map(|n| put(&format!("{batch}-{n}"), &value)).collect()).await {
            version(&outcome);
        }
    }
    println!("one writer; p50 and p99 of its writes in ms (how many); at most {rate} MiB/s");
    println!(
        "| round | MB | received, MB/s | installed, MB/s | in sync after | both in sync | leader alone | during | p99 against before |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for round in 1..=rounds {
        let (rebuild, total) = rebuild(&mut cluster, usual).await;
        let Rebuild { received_mb_per_second, installed_mb_per_second, in_sync_after, before, alone, during } =
            rebuild;
        let cell = |one: &Latencies| format!("{:.1}, {:.1} ({})", one.p50_ms, one.p99_ms, one.count);
        println!(
            "| {round} | {} | {received_mb_per_second:.0} | {installed_mb_per_second:.0} | {in_sync_after:.1?} | {} | {} | {} | {:.1} x |",
            total / 1_000_000,
            cell(&before),
            cell(&alone),
            cell(&during),
            during.p99_ms / before.p99_ms.max(0.001),
        );
    }
    cluster.stop().await;
}
