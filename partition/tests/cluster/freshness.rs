//! Reads at any replica: how fresh they are, and what a session may count on.

use std::time::Duration;

use paddock_proto::v1::read_consistency::Requirement;
use paddock_proto::v1::{ErrorReason, Operation, Outcome, SessionPosition, operation, outcome};

use crate::support::{Cluster, Stream, eventual_read, put, read, read_as_fresh, remove};
use crate::{failure, value, version};

/// A read that must see what was seen.
fn read_after(key: &str, seen: &SessionPosition) -> Operation {
    let mut operation = read_as_fresh(key, Requirement::SessionToken(bytes::Bytes::new()));
    if let Some(operation::Kind::Read(read)) = &mut operation.kind {
        read.at_least = Some(seen.clone());
    }
    operation
}

fn position(outcome: &Outcome) -> SessionPosition {
    outcome.position.clone().expect("an answer says how far it was")
}

/// Asks until the replica serves such a read.
async fn served(stream: &mut Stream, operation: Operation) -> Outcome {
    let wait = async {
        loop {
            let outcome = stream.one(operation.clone()).await;
            match &outcome.kind {
                Some(outcome::Kind::Failure(failure)) => {
                    assert_eq!(failure.reason(), ErrorReason::ReplicaBehind, "{failure:?}");
                    tokio::task::yield_now().await;
                }
                _ => return outcome,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("it is served in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_reads_its_own_writes_at_a_follower() {
    let cluster = Cluster::start(2, 1).await;
    cluster.in_sync(0, 2).await;
    let mut leader = cluster.leader_stream(0).await;
    let mut follower = cluster.stream(cluster.follower(0).await).await;
    for round in 0..50 {
        let text = round.to_string();
        let written = leader.one(put("k", &text)).await;
        assert!(position(&written).sequence >= version(&written));
        let seen = served(&mut follower, read_after("k", &position(&written))).await;
        assert_eq!(value(&seen).as_deref(), Some(text.as_bytes()), "in round {round}");
        assert!(position(&seen).sequence >= position(&written).sequence);
        // Also that there is nothing.
        let gone = leader.one(remove("k")).await;
        let seen = served(&mut follower, read_after("k", &position(&gone))).await;
        assert_eq!(value(&seen), None, "in round {round}");
        let again = served(&mut follower, read_after("k", &position(&seen))).await;
        assert_eq!(value(&again), None);
    }
    // What is not there yet is not waited for at a follower, but the leader is asked: it waits.
    let ahead = SessionPosition { sequence: 1_000_000, ..position(&leader.one(read("k")).await) };
    let behind = follower.one(read_after("k", &ahead)).await;
    assert_eq!(failure(&behind).reason(), ErrorReason::ReplicaBehind);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sessions_reads_never_go_back_whoever_answers_and_whoever_leads() {
    let mut cluster = Cluster::start(3, 1).await;
    cluster.in_sync(0, 3).await;
    let mut seen = position(&cluster.leader_stream(0).await.one(read("k")).await);
    let mut written = 0_u64;
    for _ in 0..3 {
        let former = cluster.leader(0).await;
        let others: Vec<_> = cluster.running().into_iter().filter(|node| *node != former).collect();
        let mut leader = cluster.leader_stream(0).await;
        for _ in 0..20 {
            written += 1;
            let answer = leader.settled_write(put("k", &written.to_string())).await;
            assert!(position(&answer).sequence >= seen.sequence);
            seen = position(&answer);
            for node in &others {
                let mut stream = cluster.stream(*node).await;
                let answer = served(&mut stream, read_after("k", &seen)).await;
                assert_eq!(value(&answer).as_deref(), Some(written.to_string().as_bytes()));
                seen = position(&answer);
            }
        }
        // Before anybody leads, and after.
        let parked = cluster.stop_node(former).await;
        for node in &others {
            let mut stream = cluster.stream(*node).await;
            let answer = served(&mut stream, read_after("k", &seen)).await;
            assert_eq!(value(&answer).as_deref(), Some(written.to_string().as_bytes()));
        }
        cluster.next_leader(0, former).await;
        let mut leader = cluster.leader_stream(0).await;
        let answer = served(&mut leader, read_after("k", &seen)).await;
        assert_eq!(value(&answer).as_deref(), Some(written.to_string().as_bytes()));
        assert!(position(&answer).sequence >= seen.sequence);
        seen = position(&answer);
        cluster.start_node(parked).await;
        cluster.in_sync(0, 3).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_another_life_or_lineage_is_told_so() {
    let cluster = Cluster::start(1, 1).await;
    let mut leader = cluster.leader_stream(0).await;
    let seen = position(&leader.one(put("k", "v")).await);
    let other_life = SessionPosition { partition_uuid: vec![7; 16].into(), ..seen.clone() };
    let no_life = SessionPosition { partition_uuid: bytes::Bytes::new(), ..seen.clone() };
    for lost in [other_life, no_life] {
        let refused = leader.one(read_after("k", &lost)).await;
        assert_eq!(failure(&refused).reason(), ErrorReason::SessionTokenInvalid);
    }
    // A lineage that this replica has not heard of yet may be one that it will hear of.
    let later = SessionPosition { lineage: seen.lineage + 1, ..seen };
    let refused = leader.one(read_after("k", &later)).await;
    assert_eq!(failure(&refused).reason(), ErrorReason::ReplicaBehind);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_holds_its_lease_serves_any_staleness_and_reads_behind_barriers() {
    let mut cluster = Cluster::start(2, 1).await;
    cluster.in_sync(0, 2).await;
    let mut leader = cluster.leader_stream(0).await;
    for round in 0..50_u32 {
        let text = round.to_string();
        version(&leader.one(put("k", &text)).await);
        for requirement in [Requirement::MaxStalenessMs(0), Requirement::Barrier(true)] {
            let found = leader.one(read_as_fresh("k", requirement.clone())).await;
            assert_eq!(value(&found).as_deref(), Some(text.as_bytes()), "{requirement:?}");
        }
    }
    // A follower sends a read behind a barrier on, as any strong one.
    let node = cluster.follower(0).await;
    let refused = cluster.stream(node).await.one(read_as_fresh("k", Requirement::Barrier(true))).await;
    assert_eq!(failure(&refused).reason(), ErrorReason::NotLeader);

    // Without the other one, which could be elected: nothing is read until it is certain that it was not.
    let parked = cluster.stop_node(node).await;
    let found = async {
        loop {
            let outcome = leader.one(read_as_fresh("k", Requirement::Barrier(true))).await;
            let Some(outcome::Kind::Failure(failure)) = &outcome.kind else { return outcome };
            assert_eq!(failure.reason(), ErrorReason::PartitionUnavailable, "{failure:?}");
            assert!(failure.message.contains("could be elected"), "{failure:?}");
        }
    };
    let found =
        tokio::time::timeout(Duration::from_secs(20), found).await.expect("it leaves the in-sync set");
    assert_eq!(value(&found).as_deref(), Some(&b"49"[..]));
    cluster.start_node(parked).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_for_which_nobody_vouches_grows_stale_and_says_so() {
    let mut cluster = Cluster::start(3, 1).await;
    cluster.in_sync(0, 3).await;
    let mut leader = cluster.leader_stream(0).await;
    version(&leader.one(put("k", "v")).await);
    let node = cluster.follower(0).await;
    let mut follower = cluster.stream(node).await;
    // A lease is 300 ms here, and there are ten heartbeats in it.
    let within = |bound_ms| read_as_fresh("k", Requirement::MaxStalenessMs(bound_ms));
    // The write is younger than the bound at first, and may be missing; then it may not.
    let seen = async { while value(&served(&mut follower, within(200)).await).is_none() {} };
    tokio::time::timeout(Duration::from_secs(20), seen).await.expect("the write grows older than the bound");
    assert_eq!(failure(&follower.one(within(0)).await).reason(), ErrorReason::ReplicaBehind);

    // Alone it may be elected, but not know what was committed meanwhile.
    let mut parked = Vec::new();
    for other in cluster.running().into_iter().filter(|other| *other != node) {
        parked.push(cluster.stop_node(other).await);
    }
    let refused = async {
        loop {
            let outcome = follower.one(within(100)).await;
            if let Some(outcome::Kind::Failure(failure)) = outcome.kind {
                return failure;
            }
        }
    };
    let refused = tokio::time::timeout(Duration::from_secs(20), refused).await.expect("it grows stale");
    assert_eq!(refused.reason(), ErrorReason::ReplicaBehind);
    // As a follower it says how old it may be; as a leader whom nobody follows, that it has no lease.
    let says = ["the bound is 100 ms", "has no lease", "is not ready"];
    assert!(says.iter().any(|words| refused.message.contains(words)), "{}", refused.message);
    assert_eq!(value(&follower.one(eventual_read("k")).await).as_deref(), Some(&b"v"[..]));
    for other in parked {
        cluster.start_node(other).await;
    }
    assert_eq!(value(&served(&mut follower, within(100)).await).as_deref(), Some(&b"v"[..]));
    cluster.stop().await;
}
