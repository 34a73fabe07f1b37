//! Damage at rest: it is found, never served, and the replica begins anew where another one leads; and where none does, the
//! one that there is goes on with what is sound.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use paddock_coordination::NodeId;
use paddock_partition::host::CareOptions;
use paddock_partition::scrub::ScrubOptions;
use paddock_partition::snapshot::CatchUpOptions;
use paddock_proto::v1::outcome;
use paddock_storage::Options;

use crate::support::{Cluster, Stream, eager_scrub, on, put, read};
use crate::{value, version};

/// Small files that are flushed often, and little log that is kept.
async fn cluster(nodes: u32, partitions: u32, care: CareOptions) -> Cluster {
    let storage = Options::new().segment_bytes(64 << 10).extent_bytes(16 << 10).flush_bytes(64 << 10);
    let catch_up = CatchUpOptions { log_retention_bytes: 64 << 10, ..CatchUpOptions::default() };
    let cluster = Cluster::start_scrubbing(nodes, partitions, storage, (catch_up, care)).await;
    for partition in 0..partitions {
        cluster.in_sync(partition, usize::try_from(nodes).expect("few")).await;
    }
    cluster
}

fn no_scrub() -> CareOptions {
    let scrub = ScrubOptions { bytes_per_second: 0, ..ScrubOptions::default() };
    CareOptions { scrub, ..CareOptions::default() }
}

/// Writes enough for a few runs; returns what was acknowledged.
async fn fill(stream: &mut Stream, partition: u32, prefix: &str) -> HashMap<String, String> {
    let mut written = HashMap::new();
    for batch in 0..24_u64 {
        let mut seed = batch + 1;
        let mut noise = || {
            seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            format!("{seed:016x}")
        };
        let of = |n: u64| (format!("{prefix}-{batch}-{n}"), (0..128).map(|_| noise()).collect::<String>());
        let batch: Vec<_> = (0..16).map(of).collect();
        for outcome in
            stream.call(batch.iter().map(|(key, value)| on(partition, put(key, value))).collect()).await
        {
            version(&outcome);
        }
        written.extend(batch);
    }
    written
}

async fn holds(stream: &mut Stream, partition: u32, expected: &HashMap<String, String>) {
    for (key, expected) in expected {
        let found = value(&stream.settled(on(partition, read(key))).await);
        assert!(found.as_deref() == Some(expected.as_bytes()), "{key} is lost");
    }
}

/// The directories of a partition's stores on a node.
fn stores(data: &Path, partition: u32) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(data.join("partitions")).expect("a folder");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    let prefix = format!("{partition}-");
    paths.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)));
    paths.sort();
    paths
}

fn set_aside(data: &Path, partition: u32) -> usize {
    stores(data, partition).iter().filter(|path| path.to_string_lossy().contains(".damaged-")).count()
}

/// Flips a bit in the middle of the largest run of a partition's store.
fn damage_a_run(data: &Path, partition: u32) -> PathBuf {
    let runs = stores(data, partition).into_iter().flat_map(|store| {
        let runs = std::fs::read_dir(store.join("runs")).into_iter().flatten();
        runs.filter_map(|entry| Some(entry.ok()?.path()))
    });
    let runs = runs.filter(|path| path.extension().is_some_and(|kind| kind == "run"));
    let path = runs.max_by_key(|path| path.metadata().map_or(0, |file| file.len())).expect("a run");
    flip(&path, |length| length / 2);
    path
}

fn flip(path: &Path, at: impl Fn(u64) -> u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).expect("the file");
    let offset = at(file.metadata().expect("a file").len());
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("a byte");
    file.write_all_at(&[byte[0] ^ 0x10], offset).expect("written");
}

/// Waits until a partition's replica on a node is another life of itself, and in sync.
async fn is_rebuilt(cluster: &Cluster, partition: u32, node: NodeId, former: u64, members: usize) {
    cluster
        .state(partition, "another generation in sync", |state| {
            let mut of_node = state.in_sync.iter().filter(|member| member.node == node);
            state.in_sync.len() == members && of_node.any(|member| member.generation.0 != former)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_followers_damaged_run_is_found_by_the_scrub_and_the_follower_is_rebuilt() {
    let mut cluster = cluster(2, 1, eager_scrub()).await;
    let (leader, follower) = (cluster.leader(0).await, cluster.follower(0).await);
    let mut stream = cluster.leader_stream(0).await;
    let mut written = fill(&mut stream, 0, "before").await;
    let former = cluster.generation(0, follower).await;
    damage_a_run(cluster.data(follower), 0);
    is_rebuilt(&cluster, 0, follower, former, 2).await;
    assert_eq!(set_aside(cluster.data(follower), 0), 1);
    assert_eq!(set_aside(cluster.data(leader), 0), 0);
    assert_eq!(cluster.leader(0).await, leader, "nobody else was disturbed");
    written.extend(fill(&mut stream, 0, "after").await);
    // All of it is there.
    cluster.stop_node(leader).await;
    assert_eq!(cluster.next_leader(0, leader).await, follower);
    holds(&mut cluster.stream(follower).await, 0, &written).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_run_is_damaged_hands_over_first_and_is_rebuilt_then() {
    let mut cluster = cluster(2, 1, eager_scrub()).await;
    let (leader, follower) = (cluster.leader(0).await, cluster.follower(0).await);
    let mut stream = cluster.leader_stream(0).await;
    let written = fill(&mut stream, 0, "before").await;
    let former = cluster.generation(0, leader).await;
    damage_a_run(cluster.data(leader), 0);
    assert_eq!(cluster.next_leader(0, leader).await, follower, "it was handed over");
    is_rebuilt(&cluster, 0, leader, former, 2).await;
    assert_eq!(set_aside(cluster.data(leader), 0), 1);
    assert_eq!(set_aside(cluster.data(follower), 0), 0);
    holds(&mut cluster.leader_stream(0).await, 0, &written).await;
    // And back: the one that was rebuilt has all of it.
    cluster.stop_node(follower).await;
    assert_eq!(cluster.next_leader(0, follower).await, leader);
    holds(&mut cluster.stream(leader).await, 0, &written).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_finds_damage_too_and_never_returns_it() {
    let cluster = cluster(2, 1, no_scrub()).await;
    let (leader, follower) = (cluster.leader(0).await, cluster.follower(0).await);
    let mut stream = cluster.leader_stream(0).await;
    let written = fill(&mut stream, 0, "before").await;
    let former = cluster.generation(0, leader).await;
    damage_a_run(cluster.data(leader), 0);
    // Whatever is read is right, or an error.
    let mut failed = 0;
    for (key, expected) in &written {
        match stream.one(read(key)).await.kind {
            Some(outcome::Kind::Read(found)) => {
                let found = found.record.expect("it was written").value;
                assert_eq!(found, expected.as_bytes(), "{key} is not as it was written");
            }
            _ => failed += 1,
        }
    }
    assert!(failed > 0, "nobody met the damage");
    assert_eq!(cluster.next_leader(0, leader).await, follower);
    is_rebuilt(&cluster, 0, leader, former, 2).await;
    holds(&mut cluster.leader_stream(0).await, 0, &written).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_does_not_open_is_rebuilt_and_the_nodes_other_partitions_start() {
    let mut cluster = cluster(2, 2, no_scrub()).await;
    let mut written = Vec::new();
    for partition in 0..2 {
        let mut stream = cluster.leader_stream(partition).await;
        written.push(fill(&mut stream, partition, "before").await);
    }
    let node = cluster.leader(0).await;
    let former = cluster.generation(0, node).await;
    let others = cluster.generation(1, node).await;
    let parked = cluster.stop_node(node).await;
    let manifest = stores(parked.data(), 0).pop().expect("a store").join("MANIFEST");
    flip(&manifest, |_| 70);
    cluster.start_node(parked).await;
    is_rebuilt(&cluster, 0, node, former, 2).await;
    cluster.in_sync(1, 2).await;
    assert_eq!(cluster.generation(1, node).await, others, "the other partition's store was whole");
    assert_eq!((set_aside(cluster.data(node), 0), set_aside(cluster.data(node), 1)), (1, 0));
    for (partition, written) in (0..).zip(&written) {
        holds(&mut cluster.leader_stream(partition).await, partition, written).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn alone_a_damaged_replica_goes_on_with_what_is_sound_and_says_so() {
    let mut cluster = cluster(1, 1, eager_scrub()).await;
    let node = cluster.leader(0).await;
    let mut stream = cluster.leader_stream(0).await;
    let written = fill(&mut stream, 0, "before").await;
    damage_a_run(cluster.data(node), 0);
    let says = |replica: &paddock_proto::admin::v1::Replica| {
        let scrub = replica.scrub.clone().unwrap_or_default();
        let is_found = scrub.damaged_files > 0 && scrub.last_damage.contains("corrupt at byte");
        (is_found && replica.problem.contains("its store is damaged")).then_some(())
    };
    cluster.replica_until(node, 0, says).await;
    let mut sound = 0;
    for (key, expected) in &written {
        if let Some(outcome::Kind::Read(found)) = stream.one(read(key)).await.kind {
            assert_eq!(found.record.expect("it was written").value, expected.as_bytes());
            sound += 1;
        }
    }
    assert!(sound * 2 > written.len(), "{sound} of {} are served", written.len());
    version(&stream.one(put("and", "it takes writes")).await);
    // A restart does not make it forget, nor give anything up.
    let parked = cluster.stop_node(node).await;
    cluster.start_node(parked).await;
    cluster
        .replica_until(node, 0, |replica| replica.problem.contains("its store is damaged").then_some(()))
        .await;
    assert_eq!(set_aside(cluster.data(node), 0), 0);
    assert_eq!(
        value(&cluster.leader_stream(0).await.settled(read("and")).await).as_deref(),
        Some(&b"it takes writes"[..])
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_stores_that_do_not_open_are_both_kept() {
    let mut cluster = cluster(2, 2, no_scrub()).await;
    for partition in 0..2 {
        let mut stream = cluster.leader_stream(partition).await;
        fill(&mut stream, partition, "before").await;
    }
    let mut parked = Vec::new();
    for node in cluster.running() {
        parked.push(cluster.stop_node_without_handover(node).await);
    }
    for one in &parked {
        flip(&stores(one.data(), 0).pop().expect("a store").join("MANIFEST"), |_| 70);
    }
    for one in parked {
        cluster.start_node(one).await;
    }
    // The other partition is served; and this one says what is wrong, now and after another start.
    for _ in 0..2 {
        cluster.leader_stream(1).await;
        for node in cluster.running() {
            cluster
                .replica_until(node, 0, |replica| replica.problem.contains("cannot be used").then_some(()))
                .await;
            assert_eq!(set_aside(cluster.data(node), 0), 0, "nobody else is known to hold what it holds");
        }
        cluster.restart_all().await;
    }
    cluster.stop().await;
}
