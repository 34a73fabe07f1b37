//! A cluster comes into being once, whoever comes first and wherever anyone stops.

use std::collections::BTreeSet;
use std::sync::Arc;

use paddock_coordination::bootstrap::{
    BootstrapError, NewCluster, PlaceOutcome, ensure_cluster, place_initial, plan,
};
use paddock_coordination::{
    ClusterId, ClusterMap, ClusterRecord, Coordinator, NodeId, PartitionState, Placement, paths, records,
};
use ulid::Ulid;

use crate::support::{DEADLINE, Fixture, shows};

const NOW_MS: u64 = 1_790_000_000_000;

fn new_cluster() -> NewCluster {
    NewCluster { partitions: 3, replication_factor: 2, initial_nodes: 4, lease_ms: 1_000 }
}

fn nodes(numbers: std::ops::Range<u128>) -> BTreeSet<NodeId> {
    numbers.map(|number| NodeId(Ulid::from_parts(0, number))).collect()
}

/// Calls again while that may help, as a server does.
async fn ensure(client: &dyn Coordinator) -> ClusterRecord {
    let attempts = async {
        loop {
            match ensure_cluster(client, &new_cluster(), None, NOW_MS).await {
                Ok(record) => return record,
                Err(error) => assert!(error.is_transient(), "{error}"),
            }
        }
    };
    tokio::time::timeout(DEADLINE, attempts).await.expect("a cluster in time")
}

async fn place(client: &dyn Coordinator, record: &ClusterRecord, live: &BTreeSet<NodeId>) {
    let attempts = async {
        loop {
            match place_initial(client, record, live).await {
                Ok(outcome) => return assert_eq!(outcome, PlaceOutcome::Placed),
                Err(error) => assert!(error.is_transient(), "{error}"),
            }
        }
    };
    tokio::time::timeout(DEADLINE, attempts).await.expect("placed in time");
}

async fn map_of(client: &dyn Coordinator) -> ClusterMap {
    let mut watch = client.watch("/");
    let tree = shows(&mut watch, "every partition", |tree| {
        tree.connected && ClusterMap::from_tree(tree).unwrap().is_placed()
    })
    .await;
    let map = ClusterMap::from_tree(&tree).unwrap();
    assert_eq!(map.problems, [""; 0]);
    map
}

fn replicas(map: &ClusterMap) -> Vec<Vec<NodeId>> {
    map.partitions.values().map(|partition| partition.state.replicas.clone()).collect()
}

pub async fn everyone_agrees_on_one_cluster<F: Fixture>() {
    let fixture = F::start(false).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let client = Arc::clone(&fixture.client().await.coordinator);
        tasks.spawn(async move { ensure(&*client).await });
    }
    let records = tasks.join_all().await;
    let first = &records[0];
    assert!(records.iter().all(|record| record == first), "{records:?}");
    assert_eq!((first.partitions, first.lease_ms, first.created_ms), (3, 1_000, NOW_MS));
    let client = fixture.client().await;
    let late = ensure_cluster(&*client, &new_cluster(), Some(first.id), 0).await.unwrap();
    assert_eq!(&late, first);
}

pub async fn a_node_of_a_cluster_never_creates_one<F: Fixture>() {
    let fixture = F::start(false).await;
    let client = fixture.client().await;
    let ours = ClusterId(Ulid::from_parts(0, 9));
    let error = ensure_cluster(&*client, &new_cluster(), Some(ours), NOW_MS).await.unwrap_err();
    assert!(
        matches!(error, BootstrapError::NoCluster { .. }) && error.to_string().contains(&ours.to_string())
    );
    assert_eq!(client.get(paths::CLUSTER).await.unwrap(), None);
    let theirs = ensure(&*client).await.id;
    let error = ensure_cluster(&*client, &new_cluster(), Some(ours), NOW_MS).await.unwrap_err();
    assert!(matches!(error, BootstrapError::OtherCluster { .. }) && !error.is_transient());
    let message = error.to_string();
    assert!(message.contains(&ours.to_string()) && message.contains(&theirs.to_string()), "{message}");
}

pub async fn contenders_with_different_views_place_one_plan<F: Fixture>() {
    let fixture = F::start(false).await;
    let client = fixture.client().await;
    let record = ensure(&*client).await;
    let outcome = place_initial(&*client, &record, &nodes(0..3)).await.unwrap();
    assert_eq!(outcome, PlaceOutcome::Waiting { live: 3, needed: 4 });
    let mut tasks = tokio::task::JoinSet::new();
    for contender in 0..4 {
        let (client, record) = (Arc::clone(&fixture.client().await.coordinator), record.clone());
        tasks.spawn(async move { place(&*client, &record, &nodes(contender..contender + 4)).await });
    }
    tasks.join_all().await;
    let map = map_of(&*client).await;
    let placement = client.get(paths::PLACEMENT).await.unwrap().unwrap();
    let placement: Placement = records::decode(&placement.value).unwrap();
    assert_eq!(replicas(&map), plan(3, 2, &placement.nodes).unwrap(), "all from one contender's view");
    assert_eq!(map.slots.unwrap().ranges.len(), 3);
}

pub async fn placement_is_finished_by_others<F: Fixture>() {
    let fixture = F::start(false).await;
    let client = fixture.client().await;
    let record = ensure(&*client).await;
    // As one leaves it that dies after the plan and one partition of it.
    let seen = Placement { nodes: nodes(0..4).into_iter().collect() };
    client.create(paths::PLACEMENT, records::encode(&seen)).await.unwrap();
    let planned = plan(3, 2, &seen.nodes).unwrap();
    let state = PartitionState::initial(Ulid::from_parts(0, 77), planned[1].clone(), Ulid::nil());
    let path = paths::partition_state(paddock_coordination::PartitionId(1));
    client.create(&path, records::encode(&state)).await.unwrap();
    // Others see other nodes by now, or none at all: the plan stands.
    place(&*fixture.client().await, &record, &nodes(10..14)).await;
    let map = map_of(&*client).await;
    assert_eq!(replicas(&map), planned);
    let kept = map.partitions.values().nth(1).unwrap();
    assert_eq!(kept.state, state, "what was there is not touched");
    assert_eq!(place_initial(&*client, &record, &BTreeSet::new()).await.unwrap(), PlaceOutcome::Placed);
}

pub async fn a_lost_answer_does_not_hurt_bootstrap<F: Fixture>() {
    let fixture = F::start(false).await;
    let client = fixture.client().await;
    client.create("/nodes", bytes::Bytes::new()).await.unwrap();
    client.faults.lose_next_answer().await;
    let record = ensure(&*client).await;
    assert_eq!(ensure(&*client).await, record, "the one whose answer was lost is the one that stands");
    client.faults.lose_next_answer().await;
    place(&*client, &record, &nodes(0..4)).await;
    assert_eq!(
        replicas(&map_of(&*client).await),
        plan(3, 2, &nodes(0..4).into_iter().collect::<Vec<_>>()).unwrap()
    );
}

/// The service lost its data while the nodes lived on: empty partitions must not take the place of theirs.
pub async fn nothing_is_placed_for_a_cluster_that_is_gone<F: Fixture>() {
    let fixture = F::start(false).await;
    let client = fixture.client().await;
    let former = ensure(&*client).await;
    client.delete(paths::CLUSTER, None).await.unwrap();
    let error = place_initial(&*client, &former, &nodes(0..4)).await.unwrap_err();
    assert!(matches!(error, BootstrapError::NoCluster { .. }) && !error.is_transient(), "{error}");
    let other = ensure(&*client).await;
    let error = place_initial(&*client, &former, &nodes(0..4)).await.unwrap_err();
    assert!(matches!(error, BootstrapError::OtherCluster { .. }) && !error.is_transient(), "{error}");
    assert_eq!(client.get(paths::PLACEMENT).await.unwrap(), None);
    assert_eq!(client.get(paths::SLOTS).await.unwrap(), None);
    place(&*client, &other, &nodes(0..4)).await;
}
