//! Whole partition servers over the embedded coordination service, on real ports and real files: what
//! routers and operators see of them.

#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod catch_up;
mod freshness;
mod gate;
mod handover;
mod leaders;
mod placement;
mod repair;
mod retries;
mod stalls;
mod support;

use bytes::Bytes;
use paddock_proto::admin::v1::Replica;
use paddock_proto::v1::{ErrorReason, Outcome, outcome};
use support::{Cluster, Stream, eventual_read, put, put_if, read, remove};

/// The version of a write that must have succeeded.
fn version(outcome: &Outcome) -> u64 {
    match &outcome.kind {
        Some(outcome::Kind::Write(write)) => write.version,
        other => panic!("not written: {other:?}"),
    }
}

/// The value that a read found.
fn value(outcome: &Outcome) -> Option<Bytes> {
    match &outcome.kind {
        Some(outcome::Kind::Read(read)) => read.record.clone().map(|record| record.value),
        other => panic!("not read: {other:?}"),
    }
}

/// Why it failed.
fn failure(outcome: &Outcome) -> &paddock_proto::v1::Failure {
    match &outcome.kind {
        Some(outcome::Kind::Failure(failure)) => failure,
        other => panic!("no failure: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_reaches_both_replicas() {
    let cluster = Cluster::start(2, 1).await;
    let mut leader = cluster.leader_stream(0).await;
    let written = leader.call(vec![put("k", "v"), read("k")]).await;
    assert!(version(&written[0]) > 0);
    cluster.in_sync(0, 2).await;
    let written = version(&leader.one(put("k", "v2")).await);

    // Strong at the leader at once; at the follower when it has heard of the commit.
    assert_eq!(value(&leader.one(read("k")).await), Some(Bytes::from("v2")));
    let follower = cluster.follower(0).await;
    cluster.applied(follower, 0, written).await;
    let mut stream = cluster.stream(follower).await;
    assert_eq!(value(&stream.one(eventual_read("k")).await), Some(Bytes::from("v2")));

    // The follower sends strong requests on, and names the leader.
    let refused = stream.one(read("k")).await;
    assert_eq!(failure(&refused).reason(), ErrorReason::NotLeader);
    assert_eq!(failure(&refused).leader_node_id, cluster.leader(0).await.to_string());
    assert!(!failure(&stream.one(put("k", "x")).await).outcome_unknown);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_hold_also_among_writes_that_are_still_under_way() {
    use paddock_proto::v1::precondition::Condition;
    let cluster = Cluster::start(2, 1).await;
    let mut leader = cluster.leader_stream(0).await;
    // One message, so one batch of the log: each is judged by what those before it will have made.
    let outcomes = leader
        .call(vec![
            put_if("k", "1", Condition::Exists(true)),
            put_if("k", "1", Condition::Exists(false)),
            put_if("k", "2", Condition::Exists(false)),
            put_if("k", "2", Condition::Value(Bytes::from("1"))),
            put_if("k", "3", Condition::Value(Bytes::from("1"))),
            remove("k"),
            remove("k"),
            put_if("k", "4", Condition::Exists(true)),
        ])
        .await;
    assert_eq!(failure(&outcomes[0]).reason(), ErrorReason::KeyNotFound);
    let first = version(&outcomes[1]);
    assert_eq!(failure(&outcomes[2]).reason(), ErrorReason::KeyExists);
    assert_eq!(failure(&outcomes[2]).current_version, first);
    assert_eq!(version(&outcomes[3]), first + 1);
    assert_eq!(failure(&outcomes[4]).reason(), ErrorReason::PreconditionFailed);
    assert_eq!(failure(&outcomes[4]).current_version, first + 1);
    assert_eq!(version(&outcomes[5]), first + 2);
    assert_eq!(version(&outcomes[6]), 0, "a delete that finds nothing leaves no entry");
    assert_eq!(failure(&outcomes[7]).reason(), ErrorReason::KeyNotFound);

    // By version, and the version only grows, also over a delete.
    let again = version(&leader.one(put("k", "5")).await);
    assert_eq!(again, first + 3);
    let lost = leader.one(put_if("k", "6", Condition::Version(first))).await;
    assert_eq!(failure(&lost).current_version, again);
    assert_eq!(version(&leader.one(put_if("k", "6", Condition::Version(again))).await), again + 1);
    // Version 0 is no way to say "absent".
    let absent = leader.one(put_if("none", "x", Condition::Version(0))).await;
    assert_eq!(failure(&absent).reason(), ErrorReason::PreconditionFailed);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_leaves_is_gone_on_without_and_catches_up_when_it_returns() {
    let mut cluster = Cluster::start(2, 1).await;
    cluster.in_sync(0, 2).await;
    let mut leader = cluster.leader_stream(0).await;
    version(&leader.one(put("before", "1")).await);
    let follower = cluster.follower(0).await;
    let parked = cluster.stop_node(follower).await;
    // Acknowledged only once it has left the in-sync set.
    version(&leader.one(put("meanwhile", "2")).await);
    cluster.in_sync(0, 1).await;
    let last = version(&leader.one(put("meanwhile", "3")).await);

    let returned = cluster.start_node(parked).await;
    assert_eq!(returned, follower, "a restart keeps the identity");
    cluster.in_sync(0, 2).await;
    cluster.applied(returned, 0, last).await;
    let mut stream = cluster.stream(returned).await;
    assert_eq!(value(&stream.one(eventual_read("meanwhile")).await), Some(Bytes::from("3")));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_leaves_is_followed_by_one_that_has_every_acknowledged_write() {
    let mut cluster = Cluster::start(2, 1).await;
    cluster.in_sync(0, 2).await;
    let first = cluster.leader(0).await;
    let mut stream = cluster.leader_stream(0).await;
    let writes: Vec<_> = (0..100).map(|n| put(&format!("k{n}"), &format!("v{n}"))).collect();
    let versions: Vec<_> = stream.call(writes).await.iter().map(version).collect();
    assert!(versions.is_sorted());

    let parked = cluster.stop_node(first).await;
    let second = cluster.next_leader(0, first).await;
    assert_ne!(second, first);
    let mut stream = cluster.stream(second).await;
    for n in 0..100 {
        let found = value(&stream.settled(read(&format!("k{n}"))).await);
        assert_eq!(found, Some(Bytes::from(format!("v{n}"))));
    }
    let after = version(&stream.one(put("after", "x")).await);
    assert!(after > *versions.last().expect("a hundred"));

    let returned = cluster.start_node(parked).await;
    cluster.in_sync(0, 2).await;
    cluster.applied(returned, 0, after).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_there_after_all_nodes_restart() {
    let mut cluster = Cluster::start(2, 2).await;
    cluster.in_sync(0, 2).await;
    cluster.in_sync(1, 2).await;
    for partition in 0..2 {
        let mut stream = cluster.leader_stream(partition).await;
        let operation = |n: u32| support::on(partition, put(&format!("k{n}"), &format!("{partition}/{n}")));
        for outcome in stream.call((0..50).map(operation).collect()).await {
            version(&outcome);
        }
    }
    cluster.restart_all().await;
    for partition in 0..2 {
        let mut stream = cluster.leader_stream(partition).await;
        for n in 0..50 {
            let read = support::on(partition, read(&format!("k{n}")));
            assert_eq!(value(&stream.settled(read).await), Some(Bytes::from(format!("{partition}/{n}"))));
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_replica_alone_serves() {
    let cluster = Cluster::start(1, 1).await;
    let mut leader = cluster.leader_stream(0).await;
    version(&leader.one(put("k", "v")).await);
    assert_eq!(value(&leader.one(read("k")).await), Some(Bytes::from("v")));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_meant_for_another_is_refused() {
    let cluster = Cluster::start(1, 1).await;
    let node = cluster.leader(0).await;
    let stranger = paddock_coordination::NodeId(ulid::Ulid::generate());
    let address = cluster.address(node);
    let status = Stream::open(&address, cluster.id(), stranger).await.expect_err("not that node");
    assert_eq!(status.code(), tonic::Code::FailedPrecondition);
    assert!(status.message().contains(&node.to_string()), "{status}");
    let other = paddock_coordination::ClusterId(ulid::Ulid::generate());
    let status = Stream::open(&address, other, node).await.expect_err("not that cluster");
    assert_eq!(status.code(), tonic::Code::FailedPrecondition);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_served_is_refused_by_name() {
    let cluster = Cluster::start(1, 1).await;
    let mut stream = cluster.leader_stream(0).await;
    let not_here = stream.one(support::on(7, read("k"))).await;
    assert_eq!(failure(&not_here).reason(), ErrorReason::NotLeader);
    let late = stream.one(support::within(0, put("k", "v"))).await;
    assert_eq!(failure(&late).reason(), ErrorReason::DeadlineExceeded);
    assert!(!failure(&late).outcome_unknown, "it was never begun");
    let empty = stream.one(put("", "v")).await;
    assert_eq!(failure(&empty).reason(), ErrorReason::KeyInvalid);
    let nothing = stream.one(paddock_proto::v1::Operation::default()).await;
    assert_eq!(failure(&nothing).reason(), ErrorReason::InvalidRequest);
    // The stream is none the worse for it.
    version(&stream.one(put("\0/\u{fffd}", "")).await);
    cluster.stop().await;
}

/// Every key of the stream's partition, read page by page, and the number of pages.
async fn keys_by_pages(stream: &mut Stream, records_max: u32) -> (Vec<Bytes>, usize) {
    let mut after = Bytes::new();
    let (mut keys, mut pages) = (Vec::new(), 0);
    loop {
        let outcome = stream.one(support::range(&after, records_max)).await;
        let Some(outcome::Kind::ReadRange(page)) = outcome.kind else { panic!("{outcome:?}") };
        assert!(page.records.len() <= records_max as usize);
        pages += 1;
        keys.extend(page.records.iter().map(|record| record.key.clone()));
        match page.records.last() {
            Some(last) if page.more => after = last.key.clone(),
            _ => return (keys, pages),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_comes_in_pages() {
    let cluster = Cluster::start(1, 1).await;
    let mut stream = cluster.leader_stream(0).await;
    stream.call((0..25).map(|n| put(&format!("k{n:02}"), "v")).collect()).await;
    let expected: Vec<_> = (0..25).map(|n| Bytes::from(format!("k{n:02}"))).collect();
    assert_eq!(keys_by_pages(&mut stream, 10).await, (expected, 3));
    cluster.stop().await;
}

/// A page that is cut for its bytes says that more follow: else a dump would end early, and nobody would know.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_cut_for_its_bytes_says_that_more_follow() {
    let cluster = Cluster::start(1, 1).await;
    let mut stream = cluster.leader_stream(0).await;
    let value = "v".repeat(1 << 20);
    for n in 0..10 {
        version(&stream.one(put(&format!("k{n}"), &value)).await);
    }
    let expected: Vec<_> = (0..10).map(|n| Bytes::from(format!("k{n}"))).collect();
    assert_eq!(keys_by_pages(&mut stream, 1_000).await, (expected, 4));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_clusters_data_is_refused() {
    let mut cluster = Cluster::start(1, 1).await;
    let node = cluster.leader(0).await;
    let parked = cluster.stop_node(node).await;
    let elsewhere = tempfile::tempdir().expect("a directory");
    let error =
        parked.start_in(elsewhere.path()).await.expect_err("another coordination service").to_string();
    assert!(error.contains(&cluster.id().to_string()), "{error}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_copy_of_the_data_is_of_a_new_generation_and_is_filled_up() {
    let mut cluster = Cluster::start(2, 1).await;
    cluster.in_sync(0, 2).await;
    let mut stream = cluster.leader_stream(0).await;
    version(&stream.one(put("k", "old")).await);
    let leader = cluster.leader(0).await;
    let follower = cluster.follower(0).await;

    // A backup, after which writes are acknowledged that rest on both copies.
    let parked = cluster.stop_node(follower).await;
    let backup = tempfile::tempdir().expect("a directory");
    support::copy(parked.data(), backup.path());
    cluster.start_node(parked).await;
    cluster.in_sync(0, 2).await;
    let last = version(&stream.one(put("k", "new")).await);
    let before = cluster.replica_until(follower, 0, generation).await;

    // The backup comes back in place of the newer copy, while nobody else is there. It would have passed for one in sync.
    let restored = cluster.stop_node(follower).await;
    std::fs::remove_dir_all(restored.data()).expect("removed");
    support::copy(backup.path(), restored.data());
    let other = cluster.stop_node(leader).await;
    assert_eq!(cluster.start_node(restored).await, follower);
    let after = cluster.replica_until(follower, 0, generation).await;
    assert_ne!(before, after, "it is not its former self");

    // Only who has everything leads, and fills it up.
    assert_eq!(cluster.start_node(other).await, leader);
    cluster.in_sync(0, 2).await;
    cluster.applied(follower, 0, last).await;
    let mut stream = cluster.leader_stream(0).await;
    assert_eq!(value(&stream.settled(read("k")).await), Some(Bytes::from("new")));
    assert_eq!(cluster.replica_until(follower, 0, generation).await, after);
    cluster.stop().await;
}

/// The generation that a node says its replica to be of.
fn generation(replica: &Replica) -> Option<u64> {
    Some(replica.generation)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_does_not_read_its_answers_does_not_fill_the_memory() {
    const READS: usize = 512;
    // What a stream may hold, and what one round of the owner loop adds, with the answer that went beyond.
    const ANSWERS_WAITING_MAX: i64 = (32 + 16 + 2) << 20;
    let cluster = Cluster::start(1, 1).await;
    let mut other = cluster.leader_stream(0).await;
    let value = "v".repeat(1 << 20);
    version(&other.one(put("large", &value)).await);
    for operation in [read("large"), eventual_read("large")] {
        let mut lazy = cluster.leader_stream(0).await;
        // Half a gigabyte of answers, if they were all made at once.
        for _ in 0..8 {
            assert!(lazy.cast(vec![operation.clone(); READS / 8], std::time::Duration::from_secs(10)).await);
        }
        // Others are served meanwhile, and often enough that the lazy one's operations have long been there too.
        for _ in 0..100 {
            version(&other.one(put("small", "v")).await);
            let waiting = cluster.answers_waiting_bytes();
            assert!(waiting < ANSWERS_WAITING_MAX, "{waiting} bytes of answers that nobody reads");
        }
        // None is lost when it reads after all.
        let outcomes = lazy.take(READS).await;
        assert!(outcomes.iter().all(|outcome| value_len(outcome) == 1 << 20));
    }
    cluster.stop().await;
}

fn value_len(outcome: &Outcome) -> usize {
    value(outcome).map_or(0, |value| value.len())
}

/// A cluster whose stores want to be compacted after every few writes, and the disk that they are on.
async fn cluster_that_compacts(nodes: u32) -> (Cluster, gate::GatedDisk) {
    let disk = gate::GatedDisk::default();
    let storage = paddock_storage::Options::new().flush_bytes(16 << 10);
    (Cluster::start_with(nodes, 1, storage.disk(std::sync::Arc::new(disk.clone()))).await, disk)
}

/// More than waits for compaction at most.
const WRITES_MAX: u32 = 200;

#[tokio::test(flavor = "multi_thread")]
async fn writes_wait_for_a_compaction_that_is_behind_and_reads_do_not() {
    let (cluster, disk) = cluster_that_compacts(1).await;
    let mut stream = cluster.leader_stream(0).await;
    disk.shut_for(gate::What::MakingRuns, cluster.data(cluster.leader(0).await));
    let value = "v".repeat(4 << 10);
    let mut last = None;
    for n in 0..WRITES_MAX {
        let outcome = stream.one(support::within(1_000, put(&format!("k{n}"), &value))).await;
        if let Some(outcome::Kind::Failure(failure)) = &outcome.kind {
            assert_eq!(failure.reason(), ErrorReason::DeadlineExceeded);
            assert!(!failure.outcome_unknown, "it certainly did not happen");
            last = Some(n);
            break;
        }
        version(&outcome);
    }
    let last = last.expect("memory is not filled without an end");
    assert!(last > 10, "only {last} writes were taken");

    let mut writer = cluster.leader_stream(0).await;
    assert!(writer.cast(vec![put("late", "v")], std::time::Duration::from_secs(10)).await);
    assert_eq!(value_len(&stream.one(read("k0")).await), value.len());
    assert_eq!(self::value(&stream.one(read(&format!("k{last}"))).await), None);
    disk.open();
    let late = writer.take(1).await;
    version(&late[0]);
    // And on it goes.
    for n in 0..WRITES_MAX {
        version(&stream.one(put(&format!("k{n}"), &value)).await);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_whose_compaction_is_behind_is_gone_on_without_until_it_has_caught_up() {
    let (cluster, disk) = cluster_that_compacts(2).await;
    cluster.in_sync(0, 2).await;
    let mut leader = cluster.leader_stream(0).await;
    let follower = cluster.follower(0).await;
    disk.shut_for(gate::What::MakingRuns, cluster.data(follower));
    let value = "v".repeat(4 << 10);
    let mut last = 0;
    for n in 0..WRITES_MAX {
        last = version(&leader.one(put(&format!("k{n}"), &value)).await);
    }
    cluster.in_sync(0, 1).await;
    disk.open();
    cluster.in_sync(0, 2).await;
    cluster.applied(follower, 0, last).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_opens_slowly_holds_up_no_other_one() {
    let disk = gate::GatedDisk::default();
    let storage = paddock_storage::Options::new().disk(std::sync::Arc::new(disk.clone()));
    let mut cluster = Cluster::start_with(1, 2, storage).await;
    for partition in [0, 1] {
        let mut stream = cluster.leader_stream(partition).await;
        version(&stream.settled_write(support::on(partition, put("k", "v"))).await);
    }
    let node = cluster.leader(0).await;
    let parked = cluster.stop_node(node).await;
    // The store of the first partition, which is the first to be opened.
    disk.shut_for(gate::What::OpeningStores, &parked.data().join("partitions/0-"));
    cluster.start_node(parked).await;
    let mut stream = cluster.stream(node).await;
    let other = stream.settled(support::on(1, read("k"))).await;
    assert_eq!(value(&other).as_deref(), Some(&b"v"[..]), "the second one serves");
    // It is led by then: so the map, which tells replicas the states of their partitions, was read on.
    version(&stream.settled_write(support::on(1, put("more", "v"))).await);
    disk.open();
    let first = stream.settled(read("k")).await;
    assert_eq!(value(&first).as_deref(), Some(&b"v"[..]));
    cluster.stop().await;
}
