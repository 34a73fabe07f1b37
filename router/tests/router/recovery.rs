//! Partitions that nobody can lead: said by name, and recovered by an explicit word alone.

use paddock_coordination::{Coordinator, Epoch, PartitionId, PartitionState, paths, records};
use paddock_proto::admin::v1::{
    GetClusterRequest, ListPartitionsRequest, RecoverPartitionRequest, Replica, ReplicaRole,
};
use tonic::Code;

use crate::cluster::{Cluster, member, reason};

fn recover(node_id: &str, accept_data_loss: bool, expected_epoch: u64) -> RecoverPartitionRequest {
    RecoverPartitionRequest { partition_id: 0, node_id: node_id.to_owned(), accept_data_loss, expected_epoch }
}

fn replica(generation: u64, last_epoch: u64, last_sequence: u64) -> Replica {
    let role = ReplicaRole::Follower.into();
    Replica { role, generation, last_epoch, last_sequence, ..Replica::default() }
}

async fn state(cluster: &Cluster) -> PartitionState {
    let path = paths::partition_state(PartitionId(0));
    records::decode(&cluster.session.get(&path).await.unwrap().unwrap().value).unwrap()
}

/// Three nodes, of which the first alone is in sync in partition 0, and has lost its data.
async fn lost() -> Cluster {
    let cluster = Cluster::start(3).await;
    let path = paths::partition_state(PartitionId(0));
    let found = cluster.session.get(&path).await.unwrap().unwrap();
    let before: PartitionState = records::decode(&found.value).unwrap();
    let only = PartitionState { in_sync: vec![member(&cluster.nodes[0])], epoch: Epoch(4), ..before };
    cluster.session.compare_and_set(&path, records::encode(&only), found.version).await.unwrap();
    cluster.view_is(|view| view.map.partitions[&PartitionId(0)].state.epoch == Epoch(4)).await;
    cluster.nodes[0].report_replica(0, replica(2, 0, 0));
    cluster.nodes[1].report_replica(0, replica(7, 3, 90));
    cluster.nodes[2].report_replica(0, replica(8, 2, 95));
    cluster
}

#[tokio::test]
async fn what_nobody_can_lead_is_said_and_goes_on_from_the_furthest_log() {
    let mut cluster = lost().await;
    let furthest = cluster.nodes[1].id.to_string();
    let shown = cluster.admin.list_partitions(ListPartitionsRequest {}).await.unwrap().into_inner();
    let offline = &shown.partitions[0].offline;
    assert!(offline.contains("partition 0 is offline") && offline.contains("other data"), "{offline}");
    assert_eq!(shown.partitions[1].offline, "");
    let status = cluster.admin.get_cluster(GetClusterRequest {}).await.unwrap().into_inner();
    assert!(status.problems.contains(offline), "{:?}", status.problems);

    // Looking changes nothing.
    let shown = cluster.admin.recover_partition(recover("", false, 0)).await.unwrap().into_inner();
    assert_eq!((shown.chosen_node_id.as_str(), shown.epoch, shown.refusal.as_str()), (&*furthest, 4, ""));
    let order: Vec<_> = shown.sources.iter().map(|source| source.last_sequence).collect();
    assert_eq!(order, [90, 95, 0], "by epoch, then by sequence");
    assert_eq!(state(&cluster).await.lineage, 0);

    // What was not seen is not consented to.
    let status = cluster.admin.recover_partition(recover("", true, 3)).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "RECOVERY_REFUSED"));
    let done = cluster.admin.recover_partition(recover("", true, 4)).await.unwrap().into_inner();
    assert!(done.recovered);
    let after = state(&cluster).await;
    assert_eq!((after.epoch, after.lineage, after.leader), (Epoch(5), 1, None));
    assert_eq!(after.in_sync.len(), 1);
    assert_eq!((after.in_sync[0].node, after.in_sync[0].generation.0), (cluster.nodes[1].id, 7));
}

#[tokio::test]
async fn a_named_replica_is_gone_on_from() {
    let mut cluster = lost().await;
    let named = cluster.nodes[2].id;
    let done = cluster.admin.recover_partition(recover(&named.to_string(), true, 4)).await.unwrap();
    assert_eq!(done.into_inner().chosen_node_id, named.to_string());
    assert_eq!(state(&cluster).await.in_sync[0].node, named);
}

#[tokio::test]
async fn it_is_refused_as_long_as_somebody_may_lead() {
    let mut cluster = lost().await;
    // It has its data after all; or it is there, and says nothing.
    cluster.nodes[0].report_replica(0, replica(1, 4, 99));
    let status = cluster.admin.recover_partition(recover("", true, 4)).await.unwrap_err();
    assert!(status.message().contains("nothing need be lost"), "{}", status.message());
    assert_eq!(reason(&status), "RECOVERY_REFUSED");
    assert_eq!(state(&cluster).await.lineage, 0);
    let shown = cluster.admin.list_partitions(ListPartitionsRequest {}).await.unwrap().into_inner();
    assert_eq!(shown.partitions[0].offline, "");

    let unknown = recover(&ulid::Ulid::generate().to_string(), true, 4);
    let status = cluster.admin.recover_partition(unknown).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}
