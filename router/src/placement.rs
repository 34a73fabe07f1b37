//! Where replicas are to be, as operators want it: a record in the coordination service, which the cluster's controller goes by.

use paddock_coordination::cluster_map::Target;
use paddock_coordination::{
    Coordinator, Error, NodeId, PartitionId, PartitionState, ReplicaTarget, Version, paths, placement,
    records,
};
use paddock_proto::admin::v1::{ChangeReplicasRequest, ChangeReplicasResponse};
use paddock_proto::v1::ErrorReason;

use crate::errors::{Failure, WriteFate};
use crate::leadership::{RECORD_ATTEMPTS_MAX, known_node, known_partition, unavailable};
use crate::map::Views;

/// Writes where a partition's replicas are to be.
///
/// # Errors
/// INVALID_REQUEST if it cannot be, PARTITION_UNAVAILABLE if the coordination service does not take it.
pub(crate) async fn change_replicas(
    views: &Views,
    coordinator: &dyn Coordinator,
    request: ChangeReplicasRequest,
) -> Result<ChangeReplicasResponse, Failure> {
    let view = views.load();
    let partition = PartitionId(request.partition_id);
    let state = &known_partition(&view, partition)?.state;
    let nodes = |field, ids: &[String]| -> Result<Vec<NodeId>, Failure> {
        ids.iter().map(|id| known_node(&view, field, id)).collect()
    };
    let add = nodes("add_node_ids", &request.add_node_ids)?;
    let remove = nodes("remove_node_ids", &request.remove_node_ids)?;
    if let Some(away) = add.iter().find(|node| !view.map.live.contains(node)) {
        return Err(invalid("add_node_ids", format!("node {away} is not live")));
    }
    let mut problem = None;
    for _ in 0..RECORD_ATTEMPTS_MAX {
        let known = match read(coordinator, partition, state).await {
            Ok(known) => known,
            Err(Read::Broken(failure)) => return Err(failure),
            Err(Read::Failed(error)) => {
                problem = Some(error);
                continue;
            }
        };
        let present = known.target.as_ref().map_or(&state.replicas, |known| &known.target.replicas);
        let replicas = placement::changed_target(present, &add, &remove).map_err(|error| {
            invalid("add_node_ids, remove_node_ids", format!("partition {partition}: {error}"))
        })?;
        let response = ChangeReplicasResponse {
            replica_node_ids: state.replicas.iter().map(NodeId::to_string).collect(),
            target_node_ids: replicas.iter().map(NodeId::to_string).collect(),
        };
        let target = ReplicaTarget { partition_uuid: state.partition_uuid, replicas };
        match write(coordinator, partition, known.version, &target).await {
            Ok(()) => return Ok(response),
            Err(Error::Conflict { .. }) => {}
            Err(error @ Error::UnknownOutcome { .. }) => {
                let message = format!("partition {partition}: {error}");
                return Err(
                    Failure::new(ErrorReason::PartitionUnavailable, message).of_write(WriteFate::Unknown)
                );
            }
            Err(error) => problem = Some(error),
        }
    }
    let why = problem.map_or_else(String::new, |error| format!(": {error}"));
    Err(unavailable(format!(
        "the coordination service did not take the target of partition {partition}{why}"
    )))
}

/// The target as it is stored.
struct Known {
    /// Of whatever stands there.
    version: Option<Version>,
    /// Unless it is of a former life of the partition.
    target: Option<Target>,
}

/// Why it could not be read.
enum Read {
    Failed(Error),
    Broken(Failure),
}

async fn read(
    coordinator: &dyn Coordinator,
    partition: PartitionId,
    state: &PartitionState,
) -> Result<Known, Read> {
    let found = coordinator.get(&paths::partition_target(partition)).await.map_err(Read::Failed)?;
    let Some(found) = found else { return Ok(Known { version: None, target: None }) };
    let target: ReplicaTarget = records::decode(&found.value).map_err(|error| {
        let message = format!("the target of partition {partition} cannot be read: {error}");
        Read::Broken(Failure::new(ErrorReason::Internal, message))
    })?;
    let version = found.version;
    let target = (target.partition_uuid == state.partition_uuid).then_some(Target { version, target });
    Ok(Known { version: Some(version), target })
}

async fn write(
    coordinator: &dyn Coordinator,
    partition: PartitionId,
    expected: Option<Version>,
    target: &ReplicaTarget,
) -> Result<(), Error> {
    let (path, value) = (paths::partition_target(partition), records::encode(target));
    match expected {
        Some(expected) => coordinator.compare_and_set(&path, value, expected).await,
        None => coordinator.create(&path, value).await,
    }
    .map(drop)
}

fn invalid(field: &str, message: String) -> Failure {
    Failure::invalid(ErrorReason::InvalidRequest, field, message)
}
