//! Broken streams, nodes that leave, strangers at known addresses, and a coordination service that is away.

use std::time::Duration;

use bytes::Bytes;
use paddock_coordination::{Coordinator, paths};
use paddock_proto::admin::v1::GetClusterRequest;
use paddock_proto::request_id::RequestId;
use paddock_proto::v1::{
    BatchWriteRequest, ErrorReason, Mutation, Operation, PutRequest, mutation, operation,
};
use paddock_router::request;
use tokio::task::JoinSet;
use tonic::Code;
use tonic_types::StatusExt;

use crate::cluster::{Cluster, get, key_in, keys_in, put, reason, soon, within, write_outcome};
use crate::fake::{Reply, failure};

#[tokio::test]
async fn a_write_on_a_stream_that_breaks_is_unknown_and_never_sent_again() {
    let mut cluster = Cluster::start(1).await;
    cluster.nodes[0].break_once();
    let keys: Vec<_> = keys_in(0).take(2).collect();
    let status = soon(cluster.client.put(put(&keys[0]))).await.unwrap_err();
    assert_eq!(status.code(), Code::Unknown, "{status}");
    assert_eq!(reason(&status), "CONNECTION_LOST_UNKNOWN_OUTCOME");
    assert_eq!(write_outcome(&status).as_deref(), Some("unknown"));

    // The link is opened again, and what is sent over it does not include the lost write.
    soon(cluster.client.put(put(&keys[1]))).await.unwrap();
    assert_eq!(cluster.nodes[0].arrivals_of(&keys[0]), 1);
}

fn named_put(key: &Bytes) -> PutRequest {
    let id = RequestId::from_parts(1_000, 7);
    PutRequest { request_id: id.to_string(), ..put(key) }
}

#[tokio::test]
async fn a_write_with_a_request_id_is_sent_again_under_the_same_id() {
    let mut cluster = Cluster::start(1).await;
    cluster.nodes[0].break_once();
    let keys: Vec<_> = keys_in(0).take(2).collect();
    soon(cluster.client.put(named_put(&keys[0]))).await.unwrap();
    let ids = |operation: &Operation| match &operation.kind {
        Some(operation::Kind::Write(mutation)) => mutation.request_id.clone(),
        other => panic!("{other:?}"),
    };
    let sent: Vec<_> = cluster.nodes[0].arrivals().iter().map(ids).collect();
    assert_eq!(sent, vec![named_put(&keys[0]).request_id; 2]);

    let mut answers = vec![Reply::With(failure(ErrorReason::LeaderChangedUnknownOutcome, true))];
    cluster.nodes[0].script(move |_| answers.pop().unwrap_or(Reply::Healthy));
    soon(cluster.client.put(named_put(&keys[1]))).await.unwrap();
    assert_eq!(cluster.nodes[0].arrivals_of(&keys[1]), 2);
}

#[tokio::test]
async fn a_refusal_after_an_unknown_outcome_does_not_say_that_nothing_was_done() {
    for (reason_of_second, outcome) in [
        (ErrorReason::RequestIdExpired, "unknown"),
        (ErrorReason::Overloaded, "unknown"),
        // This is what the id came to, so the write was not done by the first attempt either.
        (ErrorReason::PreconditionFailed, "not_applied"),
    ] {
        let mut cluster = Cluster::start(1).await;
        let mut answers = vec![
            Reply::With(failure(reason_of_second, false)),
            Reply::With(failure(ErrorReason::LeaderChangedUnknownOutcome, true)),
        ];
        cluster.nodes[0].script(move |_| answers.pop().unwrap_or(Reply::Healthy));
        let status = soon(cluster.client.put(named_put(&key_in(0)))).await.unwrap_err();
        assert_eq!(reason(&status), paddock_router::errors::reason_name(reason_of_second));
        assert_eq!(write_outcome(&status).as_deref(), Some(outcome), "{status}");
        assert_eq!(cluster.nodes[0].arrivals().len(), 2);
    }
}

/// An id that is too old says nothing of what was done under it; but what this request did is certain, unless an attempt of
/// it may have been done.
#[tokio::test]
async fn a_refused_id_tells_the_time_of_its_partition_and_what_this_request_did() {
    for (reason_of_last, is_old, outcome) in [
        (ErrorReason::RequestIdExpired, true, "unknown"),
        (ErrorReason::RequestIdAhead, false, "not_applied"),
    ] {
        for was_lost in [false, true] {
            let mut cluster = Cluster::start(1).await;
            let mut answers = vec![Reply::With(failure(reason_of_last, is_old))];
            if was_lost {
                answers.push(Reply::With(failure(ErrorReason::LeaderChangedUnknownOutcome, true)));
            }
            cluster.nodes[0].script(move |_| answers.pop().unwrap_or(Reply::Healthy));
            let status = soon(cluster.client.put(named_put(&key_in(1)))).await.unwrap_err();
            let info = status.get_details_error_info().unwrap();
            assert_eq!(info.metadata["write_outcome"], if was_lost { "unknown" } else { outcome });
            let call_outcome = info.metadata.get("call_outcome").map(String::as_str);
            assert_eq!(call_outcome, (!was_lost).then_some("not_applied"));
            assert_eq!(info.metadata["partition_id"], "1");
            assert!(info.metadata.contains_key("clock_ms"));
        }
    }
}

#[tokio::test]
async fn a_write_with_a_request_id_does_not_wait_for_a_leader_that_was_replaced() {
    let cluster = Cluster::start(2).await;
    cluster.nodes[0].script(|_| Reply::Never);
    let mut client = cluster.client.clone();
    let request = within(Duration::from_secs(20), named_put(&key_in(0)));
    let writing = tokio::spawn(async move { client.put(request).await });
    soon(cluster.nodes[0].arrived(1)).await;
    let second = cluster.member(1);
    cluster.change_state(0, |state| state.leader = Some(second)).await;
    let meta = soon(writing).await.unwrap().unwrap().into_inner().meta.unwrap();
    assert_eq!(meta.served_by, second.node.to_string());
}

#[tokio::test]
async fn a_read_on_a_stream_that_breaks_is_done_again() {
    let mut cluster = Cluster::start(1).await;
    cluster.nodes[0].break_once();
    let key = key_in(0);
    let record = soon(cluster.client.get(get(&key))).await.unwrap().into_inner().record.unwrap();
    assert_eq!((record.value, cluster.nodes[0].arrivals_of(&key)), (key.clone(), 2));
}

#[tokio::test]
async fn a_write_whose_leader_changed_is_unknown_and_never_sent_again() {
    let mut cluster = Cluster::start(1).await;
    cluster.nodes[0].script(|_| Reply::With(failure(ErrorReason::LeaderChangedUnknownOutcome, true)));
    let status = soon(cluster.client.put(put(&key_in(0)))).await.unwrap_err();
    assert_eq!((status.code(), write_outcome(&status).as_deref()), (Code::Unknown, Some("unknown")));
    assert_eq!(reason(&status), "LEADER_CHANGED_UNKNOWN_OUTCOME");
    assert_eq!(cluster.nodes[0].arrivals().len(), 1);
}

#[tokio::test]
async fn a_write_that_was_sent_and_not_answered_in_time_is_unknown() {
    let cluster = Cluster::start(1).await;
    cluster.nodes[0].script(|_| Reply::Never);
    // On a machine that has no time for it the deadline passes before the write is sent: then it has more, the next time.
    let mut timeout = Duration::from_millis(500);
    for key in keys_in(0) {
        let status = cluster.perform_within(timeout, request::put(put(&key))).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
        if write_outcome(&status).as_deref() == Some("unknown") {
            soon(cluster.nodes[0].arrived(1)).await;
            assert_eq!(cluster.nodes[0].arrivals_of(&key), 1);
            break;
        }
        assert_eq!(cluster.nodes[0].arrivals_of(&key), 0, "{status}");
        timeout *= 2;
    }
    let job = request::get(get(&key_in(1)));
    let status = cluster.perform_within(Duration::from_millis(500), job).await.unwrap_err();
    assert_eq!((status.code(), write_outcome(&status)), (Code::DeadlineExceeded, None));
}

#[tokio::test]
async fn a_read_does_not_wait_for_a_leader_that_stalled_and_was_replaced() {
    let mut cluster = Cluster::start(2).await;
    cluster.nodes[0].script(|_| Reply::Never);
    let mut client = cluster.client.clone();
    let request = within(Duration::from_secs(20), get(&key_in(0)));
    let reading = tokio::spawn(async move { client.get(request).await });
    soon(cluster.nodes[0].arrived(1)).await;
    let second = cluster.member(1);
    cluster.change_state(0, |state| state.leader = Some(second)).await;
    let meta = soon(reading).await.unwrap().unwrap().into_inner().meta.unwrap();
    assert_eq!(meta.served_by, second.node.to_string());
    cluster.client.put(put(&key_in(0))).await.unwrap();
}

#[tokio::test]
async fn a_node_that_is_no_longer_live_is_not_sent_anything() {
    let mut cluster = Cluster::start(2).await;
    let node = cluster.nodes[0].id;
    cluster.set_live(0, false);
    cluster.view_is(|view| !view.nodes.contains_key(&node)).await;

    let key = key_in(0);
    let job = request::put(put(&key));
    let status = cluster.perform_within(Duration::from_millis(500), job).await.unwrap_err();
    assert_eq!(
        (status.code(), write_outcome(&status).as_deref()),
        (Code::DeadlineExceeded, Some("not_applied"))
    );
    assert!(status.message().contains("not registered as live"), "{status}");
    assert_eq!(cluster.nodes[0].arrivals().len(), 0);
    cluster.client.put(put(&key_in(1))).await.unwrap();

    let mut client = cluster.client.clone();
    let waiting = tokio::spawn(async move { client.put(put(&key)).await });
    cluster.set_live(0, true);
    soon(waiting).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_write_under_way_when_its_node_leaves_the_list_may_still_be_answered() {
    let mut cluster = Cluster::start(1).await;
    let (open, gate) = tokio::sync::oneshot::channel();
    let mut gate = Some(gate);
    cluster.nodes[0].script(move |_| gate.take().map_or(Reply::Healthy, Reply::After));
    let mut client = cluster.client.clone();
    let writing = tokio::spawn(async move { client.put(put(&key_in(0))).await });
    soon(cluster.nodes[0].arrived(1)).await;
    cluster.set_live(0, false);
    cluster.view_is(|view| view.nodes.is_empty()).await;
    open.send(()).unwrap();
    soon(writing).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stranger_at_a_known_address_gets_nothing() {
    let mut cluster = Cluster::start(2).await;
    let (home, strangers) = (cluster.nodes[0].address.to_string(), cluster.nodes[1].address.to_string());
    cluster.change_address(0, strangers).await;
    soon(cluster.nodes[1].refused(1)).await;

    let key = key_in(0);
    let job = request::put(put(&key));
    let status = cluster.perform_within(Duration::from_millis(500), job).await.unwrap_err();
    assert_eq!(
        (status.code(), write_outcome(&status).as_deref()),
        (Code::DeadlineExceeded, Some("not_applied"))
    );
    assert_eq!(cluster.nodes[1].arrivals_of(&key), 0);

    cluster.change_address(0, home).await;
    soon(cluster.client.put(put(&key))).await.unwrap();
    assert_eq!((cluster.nodes[0].arrivals_of(&key), cluster.nodes[1].arrivals_of(&key)), (1, 0));
}

#[tokio::test]
async fn the_data_plane_goes_on_without_the_coordination_service() {
    let mut cluster = Cluster::start(2).await;
    cluster.router_session.disconnect();
    cluster.view_is(|view| !view.map.connected).await;
    for key in keys_in(0).take(3).chain(keys_in(1).take(3)) {
        cluster.client.put(put(&key)).await.unwrap();
    }
    let shown = cluster.admin.get_cluster(GetClusterRequest {}).await.unwrap().into_inner();
    assert!(!shown.coordination_connected && shown.healthy);
    assert!(shown.problems[0].contains("coordination service cannot be reached"), "{:?}", shown.problems);

    // What changed meanwhile is read when it is back.
    let second = cluster.member(1);
    cluster.change_state(0, |state| state.leader = Some(second)).await;
    cluster.router_session.reconnect();
    cluster.view_is(|view| view.leader(paddock_coordination::PartitionId(0)) == Some(second)).await;
    let answer = cluster.client.put(put(&key_in(0))).await.unwrap().into_inner();
    assert_eq!(answer.meta.unwrap().served_by, second.node.to_string());
}

#[tokio::test]
async fn an_expired_session_brings_the_router_back_onto_the_list() {
    let mut cluster = Cluster::start(1).await;
    let path = paths::router(cluster.router.router_id());
    let mut tree = cluster.session.watch("/routers");
    soon(tree.wait_for(|tree| tree.nodes.contains_key(&path))).await.unwrap();
    cluster.router_session.disconnect();
    cluster.router_session.expire();
    soon(tree.wait_for(|tree| !tree.nodes.contains_key(&path))).await.unwrap();
    cluster.client.put(put(&key_in(0))).await.unwrap();
    cluster.router_session.reconnect();
    soon(tree.wait_for(|tree| tree.nodes.contains_key(&path))).await.unwrap();
    cluster.client.put(put(&key_in(0))).await.unwrap();
}

/// Fills the link of partition 0 with writes that are never answered: each batch holds 1,000 of them.
fn fill(cluster: &Cluster) -> JoinSet<()> {
    let mut batches = JoinSet::new();
    for _ in 0..17 {
        let mut client = cluster.client.clone();
        let mutation = |key| {
            let put = mutation::Put { key, value: Some("v".into()) };
            Mutation { operation: Some(mutation::Operation::Put(put)), ..Mutation::default() }
        };
        let mutations = keys_in(0).take(1_000).map(mutation).collect();
        let request = within(Duration::from_secs(20), BatchWriteRequest { mutations });
        batches.spawn(async move {
            // Its callers go away before there is an answer.
            let _ = client.batch_write(request).await;
        });
    }
    batches
}

#[tokio::test]
async fn a_full_link_says_so_and_abandoned_requests_give_their_room_back() {
    let mut cluster = Cluster::start(1).await;
    let free = key_in(0);
    cluster.nodes[0].script(|operation| match operation.kind {
        Some(operation::Kind::Write(_)) => Reply::Never,
        _ => Reply::Healthy,
    });
    let mut batches = fill(&cluster);
    soon(cluster.nodes[0].arrived(paddock_router::link::LINK_OPERATIONS_MAX)).await;
    // All the room is taken by writes that were handed over, so the next one is refused at once.
    let status = soon(cluster.client.get(get(&free))).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "OVERLOADED"));
    assert!(status.get_details_retry_info().unwrap().retry_delay.unwrap() > Duration::ZERO);
    assert!(status.message().contains("16384"), "{status}");
    // The other partition's link has room.
    cluster.client.get(get(&key_in(1))).await.unwrap();

    // The callers go away, and with them their operations.
    batches.shutdown().await;
    soon(async { while cluster.client.get(get(&free)).await.is_err() {} }).await;
}
