//! Who gets which operation, and what happens when that is not clear.

use std::time::Duration;

use bytes::Bytes;
use paddock_coordination::{Epoch, NodeId, PartitionId};
use paddock_proto::v1::read_consistency::Requirement;
use paddock_proto::v1::{DeleteRequest, ErrorReason, GetRequest, ReadConsistency, operation, outcome};
use paddock_router::request;
use paddock_router::session::Session;
use tonic::Code;
use tonic_types::StatusExt;
use ulid::Ulid;

use crate::cluster::{Cluster, eventual_get, get, key_in, keys_in, put, reason, soon, within, write_outcome};
use crate::fake::{Reply, failure, key_of, not_leader};

#[tokio::test]
async fn an_operation_goes_to_the_leader_of_its_keys_slot() {
    let mut cluster = Cluster::start(2).await;
    for partition in 0..2 {
        for key in keys_in(partition).take(10) {
            let answer = cluster.client.put(put(&key)).await.unwrap().into_inner();
            let meta = answer.meta.unwrap();
            assert_eq!((meta.partition_id, meta.leader_epoch), (partition, 7));
            assert_eq!(meta.served_by, cluster.nodes[partition as usize].id.to_string());
            let record = cluster.client.get(get(&key)).await.unwrap().into_inner().record.unwrap();
            assert_eq!(record.value, key);
        }
        let arrivals = cluster.nodes[partition as usize].arrivals();
        assert_eq!(arrivals.len(), 20);
        assert!(arrivals.iter().all(|operation| operation.partition_id == partition));
    }
    let delete = DeleteRequest { key: key_in(0), ..DeleteRequest::default() };
    let deleted = cluster.client.delete(delete).await.unwrap().into_inner();
    assert!(deleted.deleted && deleted.version > 0);
}

#[tokio::test]
async fn keys_are_any_bytes() {
    let mut cluster = Cluster::start(1).await;
    for key in [&b"\0"[..], b"a/b//c", b"\xff\xfe\0", b"{", &[b'k'; 4096]] {
        let key = Bytes::copy_from_slice(key);
        let record = cluster.client.get(get(&key)).await.unwrap().into_inner().record.unwrap();
        assert_eq!(record.key, key);
    }
}

#[tokio::test]
async fn a_named_leader_is_followed() {
    let mut cluster = Cluster::start(2).await;
    let second = cluster.nodes[1].id;
    cluster.nodes[0].script(move |_| Reply::With(not_leader(Some(second))));
    let answer = cluster.client.put(put(&key_in(0))).await.unwrap().into_inner();
    assert_eq!(answer.meta.unwrap().served_by, second.to_string());
    assert_eq!((cluster.nodes[0].arrivals().len(), cluster.nodes[1].arrivals().len()), (1, 1));
}

#[tokio::test]
async fn a_named_leader_that_the_map_does_not_know_is_not_followed() {
    let mut cluster = Cluster::start(1).await;
    let mut answers = 0;
    cluster.nodes[0].script(move |_| {
        answers += 1;
        if answers < 3 { Reply::With(not_leader(Some(NodeId(Ulid::generate())))) } else { Reply::Healthy }
    });
    cluster.client.put(put(&key_in(0))).await.unwrap();
    assert_eq!(cluster.nodes[0].arrivals().len(), 3);
}

#[tokio::test]
async fn two_nodes_that_name_each_other_do_not_outlast_the_deadline() {
    let cluster = Cluster::start(2).await;
    let (first, second) = (cluster.nodes[0].id, cluster.nodes[1].id);
    cluster.nodes[0].script(move |_| Reply::With(not_leader(Some(second))));
    cluster.nodes[1].script(move |_| Reply::With(not_leader(Some(first))));
    let job = request::put(put(&key_in(0)));
    let status = cluster.perform_within(Duration::from_secs(1), job).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    // Unless the deadline came while an attempt was under way.
    if !status.message().contains("while the write was under way") {
        assert_eq!(write_outcome(&status).as_deref(), Some("not_applied"));
    }
    let attempts = cluster.nodes[0].arrivals().len() + cluster.nodes[1].arrivals().len();
    assert!(attempts < 500, "{attempts} attempts in a second is spinning");
}

#[tokio::test]
async fn a_request_waits_for_a_leader() {
    let cluster = Cluster::start(1).await;
    let leader = cluster.member(0);
    cluster.change_state(0, |state| state.leader = None).await;
    cluster.view_is(|view| view.leader(PartitionId(0)).is_none()).await;

    let mut client = cluster.client.clone();
    let waiting = tokio::spawn(async move { client.put(put(&key_in(0))).await });
    let short = request::put(put(&key_in(0)));
    let status = cluster.perform_within(Duration::from_millis(500), short).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
    assert_eq!(write_outcome(&status).as_deref(), Some("not_applied"));
    assert!(status.message().contains("partition 0 has no leader"), "{status}");
    assert_eq!(cluster.nodes[0].arrivals().len(), 0);

    cluster
        .change_state(0, |state| {
            state.leader = Some(leader);
            state.epoch = Epoch(8);
        })
        .await;
    soon(waiting).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_partition_that_cannot_serve_now_is_asked_again() {
    let mut cluster = Cluster::start(1).await;
    let mut answers = 0;
    cluster.nodes[0].script(move |_| {
        answers += 1;
        match answers {
            1 => Reply::With(failure(ErrorReason::PartitionUnavailable, false)),
            _ => Reply::Healthy,
        }
    });
    cluster.client.put(put(&key_in(0))).await.unwrap();
    assert_eq!(cluster.nodes[0].arrivals().len(), 2);
}

#[tokio::test]
async fn the_deadline_travels_with_the_operation() {
    let mut cluster = Cluster::start(1).await;
    cluster.client.get(within(Duration::from_secs(3), get(&key_in(0)))).await.unwrap();
    cluster.client.get(get(&key_in(0))).await.unwrap();
    cluster.client.get(within(Duration::from_secs(3_600), get(&key_in(0)))).await.unwrap();
    let timeouts: Vec<u32> =
        cluster.nodes[0].arrivals().iter().map(|operation| operation.timeout_ms).collect();
    assert!((1..3_000).contains(&timeouts[0]), "{timeouts:?}");
    assert!((1..5_000).contains(&timeouts[1]), "the default: {timeouts:?}");
    assert!((30_000..60_000).contains(&timeouts[2]), "the cap: {timeouts:?}");
}

#[tokio::test]
async fn eventual_reads_are_spread_over_the_replicas() {
    let mut cluster = Cluster::start(3).await;
    cluster.view_is(|view| view.nodes.values().all(|node| node.links_up() == 2)).await;
    let key = key_in(0);
    for _ in 0..12 {
        cluster.client.get(eventual_get(&key)).await.unwrap();
    }
    let arrivals: Vec<usize> = cluster.nodes.iter().map(|node| node.arrivals_of(&key)).collect();
    assert_eq!(arrivals, [4, 4, 4]);

    // A follower that fails is not insisted upon.
    for node in &cluster.nodes[1..] {
        node.script(|_| Reply::With(failure(ErrorReason::PartitionUnavailable, false)));
    }
    for _ in 0..3 {
        let answer = cluster.client.get(eventual_get(&key)).await.unwrap().into_inner();
        assert_eq!(answer.meta.unwrap().served_by, cluster.nodes[0].id.to_string());
    }
}

#[tokio::test]
async fn an_eventual_read_goes_to_whom_has_the_least_to_do() {
    let cluster = Cluster::start(3).await;
    cluster.view_is(|view| view.nodes.values().all(|node| node.links_up() == 2)).await;
    // The first two are asked, and do not answer.
    let key = key_in(0);
    for node in &cluster.nodes[..2] {
        node.script(|_| Reply::Never);
    }
    let mut pending = Vec::new();
    while cluster.nodes[..2].iter().any(|node| node.arrivals_of(&key) == 0) {
        let (mut client, request) = (cluster.client.clone(), eventual_get(&key));
        pending.push(tokio::spawn(async move { client.get(within(Duration::from_secs(20), request)).await }));
        let reached = || cluster.nodes.iter().map(|node| node.arrivals_of(&key)).sum::<usize>();
        while reached() < pending.len() {
            tokio::task::yield_now().await;
        }
    }
    let before = cluster.nodes[2].arrivals_of(&key);
    for _ in 0..5 {
        let mut client = cluster.client.clone();
        soon(client.get(eventual_get(&key))).await.unwrap();
    }
    assert_eq!(cluster.nodes[2].arrivals_of(&key), before + 5);
}

fn get_as_fresh(key: &Bytes, requirement: Requirement) -> GetRequest {
    let consistency = Some(ReadConsistency { requirement: Some(requirement) });
    GetRequest { consistency, ..get(key) }
}

#[tokio::test]
async fn a_read_for_which_a_replica_is_not_fresh_enough_goes_on_to_another_and_fails_by_name() {
    let mut cluster = Cluster::start(2).await;
    cluster.view_is(|view| view.nodes.values().all(|node| node.links_up() == 2)).await;
    let key = key_in(0);
    cluster.nodes[1].script(|_| Reply::With(failure(ErrorReason::ReplicaBehind, false)));
    for _ in 0..4 {
        let request = get_as_fresh(&key, Requirement::MaxStalenessMs(5));
        let meta = cluster.client.get(request).await.unwrap().into_inner().meta.unwrap();
        assert_eq!(meta.served_by, cluster.nodes[0].id.to_string());
    }
    assert!(cluster.nodes[1].arrivals_of(&key) > 0);
    let asked = cluster.nodes[1].arrivals();
    let Some(operation::Kind::Read(read)) = &asked[0].kind else { panic!("{asked:?}") };
    assert_eq!(read.consistency.as_ref().unwrap().requirement, Some(Requirement::MaxStalenessMs(5)));

    cluster.nodes[0].script(|_| Reply::With(failure(ErrorReason::ReplicaBehind, false)));
    let job = request::get(get_as_fresh(&key, Requirement::MaxStalenessMs(5)));
    let status = cluster.perform_within(Duration::from_secs(1), job).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "REPLICA_BEHIND"));
}

#[tokio::test]
async fn a_sessions_token_names_what_it_has_seen_of_each_partition() {
    let mut cluster = Cluster::start(2).await;
    let (key, other) = (key_in(0), key_in(1));
    let mut token = Vec::new();
    for key in [&key, &other] {
        token.extend(cluster.client.put(put(key)).await.unwrap().into_inner().meta.unwrap().session_token);
    }
    let seen = Session::decode(&token.clone().into()).unwrap();
    assert_eq!(seen.partitions().map(|partition| partition.0).collect::<Vec<_>>(), [0, 1]);

    let request = get_as_fresh(&key, Requirement::SessionToken(token.into()));
    let answer = cluster.client.get(request).await.unwrap().into_inner();
    let asked: Vec<_> = cluster.nodes.iter().flat_map(|node| node.arrivals()).collect();
    let read = asked.iter().find_map(|operation| match &operation.kind {
        Some(operation::Kind::Read(read)) => Some(read.clone()),
        _ => None,
    });
    // The partition server is told its own part, and the answer's token covers the others too.
    assert_eq!(read.unwrap().at_least.as_ref(), seen.position(PartitionId(0)));
    let after = Session::decode(&answer.meta.unwrap().session_token).unwrap();
    assert_eq!(after.partitions().count(), 2);

    let strange = Session::at(PartitionId(9), seen.position(PartitionId(0)).unwrap().clone());
    for token in [strange.encode(), Bytes::from_static(b"garbage")] {
        let request = get_as_fresh(&key, Requirement::SessionToken(token));
        let status = cluster.client.get(request).await.unwrap_err();
        assert_eq!(reason(&status), "SESSION_TOKEN_INVALID", "{status}");
    }
}

#[tokio::test]
async fn eventual_reads_go_to_the_leader_where_no_follower_is_in_sync() {
    let mut cluster = Cluster::start(2).await;
    let leader = cluster.member(0);
    cluster.change_state(0, |state| state.in_sync = vec![leader]).await;
    let shrunk = |view: &paddock_router::map::View| {
        view.map.partitions.values().any(|partition| partition.state.in_sync.len() == 1)
    };
    cluster.view_is(shrunk).await;
    let answer = cluster.client.get(eventual_get(&key_in(0))).await.unwrap().into_inner();
    assert_eq!(answer.meta.unwrap().served_by, cluster.nodes[0].id.to_string());
}

#[tokio::test]
async fn refusals_of_the_partition_reach_the_caller_with_their_details() {
    let mut cluster = Cluster::start(1).await;
    cluster.nodes[0].script(|operation| {
        let key = key_of(operation).to_vec();
        let mut kind = failure(ErrorReason::PreconditionFailed, false);
        if key == b"full" {
            kind = failure(ErrorReason::DiskFull, false);
        }
        if let outcome::Kind::Failure(failure) = &mut kind {
            failure.current_version = 42;
        }
        Reply::With(kind)
    });
    let status = cluster.client.put(put(&"guarded".into())).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    let info = status.get_details_error_info().unwrap();
    assert_eq!((info.reason.as_str(), info.domain.as_str()), ("PRECONDITION_FAILED", "paddockdb"));
    assert_eq!(info.metadata["current_version"], "42");
    assert_eq!(info.metadata["write_outcome"], "not_applied");

    let status = cluster.client.put(put(&"full".into())).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "DISK_FULL"));
    assert_eq!(cluster.nodes[0].arrivals().len(), 2, "neither is tried again");
}

#[tokio::test]
async fn a_missing_record_is_not_found() {
    let mut cluster = Cluster::start(1).await;
    cluster.nodes[0].script(|_| Reply::With(outcome::Kind::Read(Default::default())));
    let status = cluster.client.get(get(&key_in(0))).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "KEY_NOT_FOUND"));
    assert_eq!(write_outcome(&status), None);
}
