//! Where replicas are to be, as routers are told of it.

use paddock_coordination::{Coordinator, PartitionId, ReplicaTarget, paths, records};
use paddock_proto::admin::v1::{ChangeReplicasRequest, ListPartitionsRequest};
use tonic::Code;
use ulid::Ulid;

use crate::cluster::{Cluster, reason};

fn change(partition_id: u32, add: &[&str], remove: &[&str]) -> ChangeReplicasRequest {
    let owned = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
    ChangeReplicasRequest { partition_id, add_node_ids: owned(add), remove_node_ids: owned(remove) }
}

#[tokio::test]
async fn a_target_is_written_and_changed_and_shown() {
    let mut cluster = Cluster::start(2).await;
    let (first, second) = (cluster.nodes[0].id.to_string(), cluster.nodes[1].id.to_string());
    let changed = cluster.admin.change_replicas(change(0, &[], &[&second])).await.unwrap().into_inner();
    assert_eq!(changed.replica_node_ids, [first.clone(), second.clone()]);
    assert_eq!(changed.target_node_ids, std::slice::from_ref(&first));
    let path = paths::partition_target(PartitionId(0));
    let found = cluster.session.get(&path).await.unwrap().unwrap();
    let target: ReplicaTarget = records::decode(&found.value).unwrap();
    assert_eq!(target.replicas, [cluster.nodes[0].id]);

    // What is there is changed, not what the router saw last.
    let changed = cluster.admin.change_replicas(change(0, &[&second], &[])).await.unwrap().into_inner();
    assert_eq!(changed.target_node_ids, [first.clone(), second.clone()]);
    cluster.admin.change_replicas(change(0, &[], &[&first])).await.unwrap();
    cluster.view_is(|view| view.map.targets.values().any(|known| known.target.replicas.len() == 1)).await;
    let shown = cluster.admin.list_partitions(ListPartitionsRequest {}).await.unwrap().into_inner();
    assert_eq!(shown.partitions[0].target_node_ids, [second]);
    assert_eq!(shown.partitions[1].target_node_ids.len(), 2, "without a target they stay where they are");
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_name() {
    let mut cluster = Cluster::start(2).await;
    let (first, second) = (cluster.nodes[0].id.to_string(), cluster.nodes[1].id.to_string());
    let stranger = Ulid::generate().to_string();
    for (bad, why) in [
        (change(7, &[], &[&first]), "there is no partition 7: there are 2".to_owned()),
        (change(0, &[&stranger], &[]), format!("there is no node {stranger}")),
        (change(0, &["x"], &[]), "add_node_ids: \"x\" is no node".to_owned()),
        (
            change(0, &[&first], &[]),
            format!("partition 0: node {first} has a replica of the partition already"),
        ),
        (change(0, &[], &[&first, &second]), "partition 0: a partition has one replica at least".to_owned()),
    ] {
        let status = cluster.admin.change_replicas(bad).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_REQUEST"));
        assert!(status.message().starts_with(&why), "{}", status.message());
    }
    cluster.admin.change_replicas(change(0, &[], &[&second])).await.unwrap();
    cluster.set_live(1, false);
    cluster.view_is(|view| view.map.live.len() == 1).await;
    let status = cluster.admin.change_replicas(change(0, &[&second], &[])).await.unwrap_err();
    assert_eq!(status.message(), format!("node {second} is not live"));
}
