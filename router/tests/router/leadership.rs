//! Hand-overs and drained nodes, as routers are told of them.

use paddock_coordination::{Coordinator, NodeRecord, paths, records};
use paddock_proto::admin::v1::{
    GetClusterRequest, SetNodeDrainedRequest, TransferLeadershipRequest, TransferNodeLeadershipResponse,
};
use tonic::Code;
use ulid::Ulid;

use crate::cluster::{Cluster, key_in, put, reason, soon};
use crate::fake::Reply;

fn transfer(partition_id: u32, to_node_id: String) -> TransferLeadershipRequest {
    TransferLeadershipRequest { partition_id, to_node_id }
}

#[tokio::test]
async fn a_transfer_is_asked_of_the_leader() {
    let mut cluster = Cluster::start(2).await;
    let (first, second) = (cluster.nodes[0].id.to_string(), cluster.nodes[1].id.to_string());
    let expected = (first.clone(), second.clone());
    cluster.nodes[0].transfers(move |request| {
        assert_eq!((request.node_id, request.to_node_id), expected);
        assert_eq!(request.partition_id, 0);
        let leader_node_id = expected.1.clone();
        Ok(TransferNodeLeadershipResponse { leader_node_id, epoch: 8, duration_us: 1_500 })
    });
    let done = cluster.admin.transfer_leadership(transfer(0, second.clone())).await.unwrap().into_inner();
    assert_eq!((done.from_node_id, done.leader_node_id), (first.clone(), second));
    assert_eq!((done.epoch, done.duration_us), (8, 1_500));

    // Who leads already is not asked.
    cluster.nodes[0].transfers(|_| panic!("nothing is to be done"));
    let done = cluster.admin.transfer_leadership(transfer(0, first.clone())).await.unwrap().into_inner();
    assert_eq!((done.from_node_id, done.leader_node_id, done.epoch), (first.clone(), first, 7));
}

#[tokio::test]
async fn a_transfer_that_cannot_be_is_refused_by_name() {
    let mut cluster = Cluster::start(2).await;
    let refused = cluster.admin.transfer_leadership(transfer(1, String::new())).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "TRANSFER_REFUSED"));
    assert_eq!(refused.message(), "partition 1: nobody is in sync");
    for bad in
        [transfer(7, String::new()), transfer(0, "x".into()), transfer(0, Ulid::generate().to_string())]
    {
        let status = cluster.admin.transfer_leadership(bad.clone()).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{bad:?}: {status}");
        assert_eq!(reason(&status), "INVALID_REQUEST");
    }
    let stranger = cluster.nodes[1].id;
    cluster.change_state(0, |state| state.replicas.retain(|node| *node != stranger)).await;
    cluster.view_is(|view| view.map.partitions.values().any(|one| one.state.replicas.len() == 1)).await;
    let status = cluster.admin.transfer_leadership(transfer(0, stranger.to_string())).await.unwrap_err();
    assert_eq!(status.message(), format!("node {stranger} has no replica of partition 0"));
    cluster.change_state(0, |state| state.leader = None).await;
    cluster.view_is(|view| view.map.partitions.values().any(|one| one.state.leader.is_none())).await;
    let status = cluster.admin.transfer_leadership(transfer(0, String::new())).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test]
async fn draining_a_node_breaks_no_stream() {
    let mut cluster = Cluster::start(2).await;
    let node = cluster.nodes[0].id;
    let set = |drained| SetNodeDrainedRequest { node_id: node.to_string(), drained };

    // A write is under way, and is answered only when the router has seen that its node is drained.
    let (answer, gate) = tokio::sync::oneshot::channel();
    let mut gate = Some(gate);
    cluster.nodes[0].script(move |_| gate.take().map_or(Reply::Healthy, Reply::After));
    let mut client = cluster.client.clone();
    let writing = tokio::spawn(async move { client.put(put(&key_in(0))).await });
    soon(cluster.nodes[0].arrived(1)).await;
    let answered = cluster.admin.set_node_drained(set(true)).await.unwrap().into_inner();
    assert_eq!(answered.leading_partition_ids, [0]);
    cluster.view_is(|view| view.map.nodes.values().any(|record| record.drained)).await;
    answer.send(()).unwrap();
    soon(writing).await.unwrap().unwrap();
    let shown = cluster.admin.get_cluster(GetClusterRequest {}).await.unwrap().into_inner();
    let drained: Vec<_> = shown.nodes.iter().filter(|node| node.drained).map(|node| &node.node_id).collect();
    assert_eq!(drained, [&node.to_string()]);

    // To say it twice is to say it once; the rest of the record stays.
    cluster.admin.set_node_drained(set(true)).await.unwrap();
    let found = cluster.session.get(&paths::node(node)).await.unwrap().unwrap();
    let record: NodeRecord = records::decode(&found.value).unwrap();
    assert!(record.drained && record.build_version == "fake" && record.boot_count == 1);
    cluster.admin.set_node_drained(set(false)).await.unwrap();
    cluster.view_is(|view| view.map.nodes.values().all(|record| !record.drained)).await;

    let nobody = SetNodeDrainedRequest { node_id: Ulid::generate().to_string(), drained: true };
    let status = cluster.admin.set_node_drained(nobody).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}
