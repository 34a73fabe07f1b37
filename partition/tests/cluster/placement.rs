//! Replicas that are placed elsewhere, while the partition is written to.

use std::time::Duration;

use bytes::Bytes;
use paddock_coordination::NodeId;

use crate::support::{Cluster, put, read};
use crate::{value, version};

async fn write(cluster: &Cluster, keys: std::ops::Range<u32>) -> u64 {
    let mut stream = cluster.leader_stream(0).await;
    let writes = keys.map(|n| put(&format!("k{n}"), &format!("v{n}"))).collect();
    stream.call(writes).await.iter().map(version).max().expect("some writes")
}

async fn check(cluster: &Cluster, keys: std::ops::Range<u32>) {
    let mut stream = cluster.leader_stream(0).await;
    for n in keys {
        let found = value(&stream.settled(read(&format!("k{n}"))).await);
        assert_eq!(found, Some(Bytes::from(format!("v{n}"))), "k{n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_replicas_are_moved_and_nothing_is_lost() {
    let cluster = Cluster::start_with_spares(4, None).await;
    cluster.in_sync(0, 2).await;
    write(&cluster, 0..200).await;
    let (leader, follower) = (cluster.leader(0).await, cluster.follower(0).await);
    let spares = cluster.spares(0).await;
    assert_eq!(spares.len(), 2);

    // The follower first; then also the leader, which hands over before it leaves.
    cluster.set_target(0, &[leader, spares[0]]).await;
    cluster.settled_on(0, &[leader, spares[0]]).await;
    write(&cluster, 200..400).await;
    cluster.set_target(0, &spares).await;
    cluster.settled_on(0, &spares).await;
    let last = write(&cluster, 400..600).await;
    check(&cluster, 0..600).await;
    for node in &spares {
        cluster.applied(*node, 0, last).await;
    }
    assert_eq!(cluster.replicas(0).await, spares, "in the order that was asked for");
    assert!(cluster.spares(0).await.contains(&follower));

    // And back again, onto nodes that still have their old files.
    cluster.set_target(0, &[leader, follower]).await;
    cluster.settled_on(0, &[leader, follower]).await;
    check(&cluster, 0..600).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_third_replica_is_added_and_taken_away_again() {
    let cluster = Cluster::start_with_spares(3, None).await;
    cluster.in_sync(0, 2).await;
    let two = cluster.replicas(0).await;
    let three = [two.clone(), cluster.spares(0).await].concat();
    cluster.set_target(0, &three).await;
    cluster.settled_on(0, &three).await;
    write(&cluster, 0..50).await;
    cluster.set_target(0, &two).await;
    cluster.settled_on(0, &two).await;
    check(&cluster, 0..50).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_gone_for_too_long_is_replaced() {
    let mut cluster = Cluster::start_with_spares(3, Some(Duration::from_millis(300))).await;
    cluster.in_sync(0, 2).await;
    write(&cluster, 0..100).await;
    let (leader, spare) = (cluster.leader(0).await, cluster.spares(0).await[0]);
    let follower = cluster.follower(0).await;
    let parked = cluster.stop_node(leader).await;
    cluster.settled_on(0, &[follower, spare]).await;
    check(&cluster, 0..100).await;
    let last = write(&cluster, 100..200).await;
    cluster.applied(spare, 0, last).await;

    // Who comes back has no replica any more, and takes none away.
    cluster.start_node(parked).await;
    write(&cluster, 200..210).await;
    check(&cluster, 0..210).await;
    cluster.settled_on(0, &[follower, spare]).await;
    cluster.stop().await;
}

/// The names of what a node has of replicas.
fn files(cluster: &Cluster, node: NodeId) -> Vec<String> {
    let entries = std::fs::read_dir(cluster.data(node).join("partitions")).expect("a folder");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_replica_that_left_go_when_another_epoch_has_shown_that_nobody_counts_on_them() {
    let cluster = Cluster::start_with_spares(3, None).await;
    cluster.in_sync(0, 2).await;
    write(&cluster, 0..100).await;
    let (leader, follower) = (cluster.leader(0).await, cluster.follower(0).await);
    let spare = cluster.spares(0).await[0];
    cluster.set_target(0, &[leader, spare]).await;
    cluster.settled_on(0, &[leader, spare]).await;
    // The node has looked for them often enough, and is not sure: this may be the state of an old backup.
    let departed = "paddock_partition_departed_replicas 1";
    cluster.metrics_until(follower, |text| text.contains(departed)).await;
    assert_eq!(files(&cluster, follower).len(), 1);
    cluster.transfer_when_possible(leader, 0, Some(spare)).await;
    cluster.metrics_until(follower, |_| files(&cluster, follower).is_empty()).await;
    cluster.metrics_until(follower, |text| text.contains("paddock_partition_departed_replicas 0")).await;

    // It may come back, with nothing.
    cluster.set_target(0, &[spare, follower]).await;
    cluster.settled_on(0, &[spare, follower]).await;
    check(&cluster, 0..100).await;
    cluster.stop().await;
}
