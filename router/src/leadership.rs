//! Who leads, as operators want it: a partition is handed over by its leader, which this router asks to; a node is
//! drained by its record in the coordination service, which every replica goes by.

use std::sync::Arc;

use paddock_coordination::cluster_map::Partition;
use paddock_coordination::{Coordinator, NodeId, NodeRecord, PartitionId, paths, records};
use paddock_proto::admin::v1::{
    SetNodeDrainedRequest, SetNodeDrainedResponse, TransferLeadershipRequest, TransferLeadershipResponse,
};
use paddock_proto::v1::ErrorReason;
use tonic::{Code, Status};

use crate::errors::{Failure, WriteFate};
use crate::map::{View, Views};

/// How often a record is read again because somebody else wrote it at the same moment.
pub(crate) const RECORD_ATTEMPTS_MAX: u32 = 5;

/// Has a partition's leader hand it over.
///
/// # Errors
/// Why it did not come about; TRANSFER_REFUSED if the leader keeps it.
pub(crate) async fn transfer(
    views: &Views,
    request: TransferLeadershipRequest,
) -> Result<TransferLeadershipResponse, Failure> {
    let view = views.load();
    let partition = PartitionId(request.partition_id);
    let to = match request.to_node_id.as_str() {
        "" => None,
        text => Some(known_node(&view, "to_node_id", text)?),
    };
    let known = known_partition(&view, partition)?;
    let leader =
        known.state.leader.ok_or_else(|| unavailable(format!("partition {partition} has no leader")))?;
    let from_node_id = leader.node.to_string();
    if to == Some(leader.node) {
        return Ok(TransferLeadershipResponse {
            leader_node_id: from_node_id.clone(),
            from_node_id,
            epoch: known.state.epoch.0,
            duration_us: 0,
        });
    }
    if let Some(to) = to
        && !known.state.replicas.contains(&to)
    {
        let message = format!("node {to} has no replica of partition {partition}");
        return Err(Failure::invalid(ErrorReason::InvalidRequest, "to_node_id", message));
    }
    let node = view.nodes.get(&leader.node).ok_or_else(|| {
        unavailable(format!("partition {partition}: its leader, node {}, is not live", leader.node))
    })?;
    let ended = node.transfer(partition, to).await.map_err(|status| refused(partition, &status))?;
    Ok(TransferLeadershipResponse {
        from_node_id,
        leader_node_id: ended.leader_node_id,
        epoch: ended.epoch,
        duration_us: ended.duration_us,
    })
}

/// Writes into a node's record whether it is drained.
///
/// # Errors
/// INVALID_REQUEST if there is no such node; PARTITION_UNAVAILABLE if the coordination service does not take it.
pub(crate) async fn set_drained(
    views: &Views,
    coordinator: &dyn Coordinator,
    request: SetNodeDrainedRequest,
) -> Result<SetNodeDrainedResponse, Failure> {
    let view = views.load();
    let node = known_node(&view, "node_id", &request.node_id)?;
    write_drained(coordinator, node, request.drained).await?;
    let view = views.load();
    let leads = |partition: &&PartitionId| view.leader(**partition).is_some_and(|leader| leader.node == node);
    let leading = view.map.partitions.keys().filter(leads).map(|partition| partition.0).collect();
    Ok(SetNodeDrainedResponse { leading_partition_ids: leading })
}

async fn write_drained(coordinator: &dyn Coordinator, node: NodeId, drained: bool) -> Result<(), Failure> {
    let path = paths::node(node);
    let mut problem = None;
    for _ in 0..RECORD_ATTEMPTS_MAX {
        let found = match coordinator.get(&path).await {
            Ok(Some(found)) => found,
            Ok(None) => return Err(no_node("node_id", &node.to_string())),
            Err(error) => {
                problem = Some(error);
                continue;
            }
        };
        let mut record: NodeRecord = records::decode(&found.value).map_err(|error| {
            Failure::new(ErrorReason::Internal, format!("the record of node {node} cannot be read: {error}"))
        })?;
        if record.drained == drained {
            return Ok(());
        }
        record.drained = drained;
        // Whatever became of a write that failed, the next reading shows.
        match coordinator.compare_and_set(&path, records::encode(&record), found.version).await {
            Ok(_) => return Ok(()),
            Err(error) => problem = Some(error),
        }
    }
    let why = problem.map_or_else(String::new, |error| format!(": {error}"));
    Err(unavailable(format!("the coordination service did not take the record of node {node}{why}")))
}

/// A partition that somebody named.
pub(crate) fn known_partition(view: &View, partition: PartitionId) -> Result<&Partition, Failure> {
    view.map.partitions.get(&partition).ok_or_else(|| {
        if view.map.is_placed() {
            let count = view.map.partitions.len();
            let message = format!("there is no partition {partition}: there are {count}");
            Failure::invalid(ErrorReason::InvalidRequest, "partition_id", message)
        } else {
            unavailable("the cluster's partitions are not placed yet")
        }
    })
}

/// A node that somebody named.
pub(crate) fn known_node(view: &Arc<View>, field: &str, text: &str) -> Result<NodeId, Failure> {
    let node = text.parse::<NodeId>().map_err(|error| {
        Failure::invalid(ErrorReason::InvalidRequest, field, format!("{field}: {text:?} is no node: {error}"))
    })?;
    if view.map.nodes.contains_key(&node) { Ok(node) } else { Err(no_node(field, text)) }
}

fn no_node(field: &str, text: &str) -> Failure {
    Failure::invalid(ErrorReason::InvalidRequest, field, format!("there is no node {text}"))
}

/// Nothing was begun.
pub(crate) fn unavailable(why: impl Into<String>) -> Failure {
    Failure::new(ErrorReason::PartitionUnavailable, why).of_write(WriteFate::NotApplied)
}

/// What the leader's node said.
fn refused(partition: PartitionId, status: &Status) -> Failure {
    let message = format!("partition {partition}: {}", status.message());
    match status.code() {
        Code::FailedPrecondition => {
            Failure::new(ErrorReason::TransferRefused, message).of_write(WriteFate::NotApplied)
        }
        Code::InvalidArgument => Failure::new(ErrorReason::InvalidRequest, message),
        Code::Unavailable => unavailable(message),
        _ => Failure::new(ErrorReason::DeadlineExceeded, message).of_write(WriteFate::Unknown),
    }
}
