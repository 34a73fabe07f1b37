//! Leadership that is handed over by plan, as routers see it.

use paddock_proto::v1::{ErrorReason, outcome};

use crate::support::{Cluster, PATIENCE, Stream, put, read};
use crate::{failure, value, version};

/// Writes on a stream to the leader until it says that another node leads; every write before was acknowledged.
/// Returns the last version.
async fn write_until_it_no_longer_leads(mut stream: Stream, next: String) -> u64 {
    let mut last = 0;
    loop {
        let outcomes = stream.call((0..8).map(|n| put(&format!("k{n}"), "v")).collect()).await;
        let mut is_over = false;
        for outcome in &outcomes {
            match &outcome.kind {
                Some(outcome::Kind::Write(write)) => {
                    assert!(!is_over, "a write was acknowledged after one that was not begun");
                    last = write.version;
                }
                _ => {
                    let failure = failure(outcome);
                    assert_eq!(failure.reason(), ErrorReason::NotLeader, "{failure:?}");
                    assert!(!failure.outcome_unknown, "{failure:?}");
                    assert_eq!(failure.leader_node_id, next);
                    is_over = true;
                }
            }
        }
        if is_over {
            return last;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_write_fails_or_is_in_doubt_while_leadership_is_handed_over() {
    let cluster = Cluster::start(2, 1).await;
    cluster.in_sync(0, 2).await;
    let (first, second) = (cluster.leader(0).await, cluster.follower(0).await);
    let stream = cluster.leader_stream(0).await;
    let writing = tokio::spawn(write_until_it_no_longer_leads(stream, second.to_string()));
    assert_eq!(cluster.transfer_when_possible(first, 0, Some(second)).await, second);
    let last = tokio::time::timeout(PATIENCE, writing).await.expect("it ends").expect("no write failed");
    assert!(last > 0);
    // Both are in sync all the while: the former leader holds everything.
    cluster.state(0, "both in sync", |state| state.in_sync.len() == 2 && state.epoch.0 == 2).await;
    let mut stream = cluster.leader_stream(0).await;
    assert!(version(&stream.one(put("after", "x")).await) > last);

    // And back, and refusals by name.
    let status = cluster.transfer(first, 0, None).await.expect_err("it does not lead");
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
    let status = cluster.transfer(second, 0, Some(second)).await.expect_err("it leads already");
    assert_eq!(status.code(), tonic::Code::FailedPrecondition, "{status}");
    assert!(status.message().contains("leads already"), "{status}");
    assert_eq!(cluster.transfer_when_possible(second, 0, None).await, first);
    let mut stream = cluster.leader_stream(0).await;
    assert_eq!(value(&stream.one(read("after")).await), Some("x".into()));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_hands_over_first_and_is_not_waited_for() {
    let mut cluster = Cluster::start(2, 1).await;
    cluster.in_sync(0, 2).await;
    let (first, second) = (cluster.leader(0).await, cluster.follower(0).await);
    let stream = cluster.leader_stream(0).await;
    let writing = tokio::spawn(write_until_it_no_longer_leads(stream, second.to_string()));
    let server = cluster.take(first);
    let stopping = tokio::spawn(server.stop());
    let last = tokio::time::timeout(PATIENCE, writing).await.expect("it ends").expect("no write failed");
    tokio::time::timeout(PATIENCE, stopping).await.expect("it stops").expect("no panic");
    // By then it has left the set, so this waits for nobody.
    cluster.state(0, "one in sync", |state| state.in_sync.len() == 1 && state.epoch.0 == 2).await;
    let mut stream = cluster.stream(second).await;
    assert!(version(&stream.one(put("after", "x")).await) > last);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_waits_for_somebody_to_hand_over_to_says_that_it_is_draining() {
    // With a long lease, for so long after its start a follower cannot take over.
    let mut cluster = Cluster::start_leasing(2, 1, 2_000).await;
    cluster.in_sync(0, 2).await;
    let first = cluster.leader(0).await;
    let address = cluster.http_address(first);
    let (code, body) = Cluster::ready(address).await.expect("it answers");
    assert_eq!(code, 200, "{body}");
    let stopping = tokio::spawn(cluster.take(first).stop());
    let draining = async {
        loop {
            let (code, body) = Cluster::ready(address).await.expect("it still answers");
            if code != 200 {
                return body;
            }
        }
    };
    let body = tokio::time::timeout(PATIENCE, draining).await.expect("it says so");
    assert!(body.contains("serving: the node is draining"), "{body}");
    tokio::time::timeout(PATIENCE, stopping).await.expect("it stops").expect("no panic");
    assert_ne!(cluster.leader(0).await, first);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_leads_nothing_also_after_a_restart() {
    let mut cluster = Cluster::start(2, 2).await;
    let first = cluster.leader(0).await;
    let second = cluster.follower(0).await;
    for partition in 0..2 {
        cluster.in_sync(partition, 2).await;
    }
    cluster.set_drained(first, true).await;
    for partition in 0..2 {
        let leads = |state: &paddock_coordination::PartitionState| {
            state.leader.is_some_and(|leader| leader.node == second) && state.in_sync.len() == 2
        };
        cluster.state(partition, "the other one leads", leads).await;
    }
    cluster.refused(second, Some(first), "is drained").await;

    // Its restart changes nothing about that.
    let parked = cluster.stop_node(first).await;
    assert_eq!(cluster.start_node(parked).await, first);
    cluster.in_sync(0, 2).await;
    cluster.refused(second, None, "is drained").await;

    // Where nobody else can, it leads.
    cluster.stop_node(second).await;
    let leads = |state: &paddock_coordination::PartitionState| {
        state.leader.is_some_and(|leader| leader.node == first)
    };
    cluster.state(0, "the drained node leads", leads).await;
    cluster.stop().await;
}
