//! `paddock.admin.v1.NodeService`: what this node says of its replicas, and how it is told to hand one over.

use std::sync::Arc;

use paddock_coordination::{NodeId, PartitionId};
use paddock_proto::admin::v1 as wire;
use paddock_proto::admin::v1::node_service_server::NodeService;
use tonic::{Request, Response, Status};

use crate::host::Host;
use crate::replica::RoleName;
use crate::scrub::ScrubStatus;
use crate::status::ReplicaStatus;
use crate::transfer::TransferError;

/// The service.
#[derive(Clone)]
pub struct NodeStatus {
    /// Whose replicas.
    pub host: Arc<Host>,
}

#[tonic::async_trait]
impl NodeService for NodeStatus {
    async fn get_node_status(
        &self,
        _request: Request<wire::GetNodeStatusRequest>,
    ) -> Result<Response<wire::GetNodeStatusResponse>, Status> {
        let node_id = self.host.node().to_string();
        let scrubs = self.host.scrubs();
        let statuses = self.host.statuses();
        let replicas =
            statuses.iter().map(|status| replica(&node_id, status, scrubs.get(&status.partition))).collect();
        Ok(Response::new(wire::GetNodeStatusResponse { node_id, replicas }))
    }

    async fn transfer_node_leadership(
        &self,
        request: Request<wire::TransferNodeLeadershipRequest>,
    ) -> Result<Response<wire::TransferNodeLeadershipResponse>, Status> {
        let wire::TransferNodeLeadershipRequest { node_id, partition_id, to_node_id } = request.into_inner();
        let mine = self.host.node().to_string();
        if node_id != mine {
            return Err(Status::failed_precondition(format!("WRONG_NODE: this is {mine}, not {node_id}")));
        }
        let to = match to_node_id.as_str() {
            "" => None,
            text => Some(
                text.parse::<NodeId>()
                    .map_err(|error| Status::invalid_argument(format!("to_node_id: {error}")))?,
            ),
        };
        let ended = self.host.transfer(PartitionId(partition_id), to).await.map_err(refused)?;
        Ok(Response::new(wire::TransferNodeLeadershipResponse {
            leader_node_id: ended.leader.map(|leader| leader.to_string()).unwrap_or_default(),
            epoch: ended.epoch.0,
            duration_us: u64::try_from(ended.took.as_micros()).unwrap_or(u64::MAX),
        }))
    }
}

fn refused(error: TransferError) -> Status {
    let text = error.to_string();
    match error {
        TransferError::Refused { .. } | TransferError::Busy => Status::failed_precondition(text),
        TransferError::NotLeader { .. } | TransferError::Stopped => Status::unavailable(text),
        TransferError::TimedOut => Status::deadline_exceeded(text),
    }
}

fn transfers(status: &ReplicaStatus, is_incoming: bool) -> impl Iterator<Item = wire::SnapshotTransfer> {
    let chosen = status.transfers.iter().filter(move |transfer| transfer.is_incoming == is_incoming);
    chosen.map(|transfer| wire::SnapshotTransfer {
        node_id: transfer.peer.to_string(),
        done_bytes: transfer.done_bytes,
        total_bytes: transfer.total_bytes,
    })
}

fn scrub(status: &ScrubStatus) -> wire::Scrub {
    wire::Scrub {
        completed_at_ms: status.completed_at_ms.unwrap_or(0),
        completed_bytes: status.completed_bytes,
        running: status.running_bytes.is_some(),
        running_bytes: status.running_bytes.unwrap_or(0),
        damaged_files: status.damaged_files,
        last_damage: status.last_damage.clone().unwrap_or_default(),
    }
}

fn replica(node_id: &str, status: &ReplicaStatus, scrubbed: Option<&ScrubStatus>) -> wire::NodeReplica {
    let role = match status.role {
        RoleName::Leader => wire::ReplicaRole::Leader,
        RoleName::Follower => wire::ReplicaRole::Follower,
        RoleName::Candidate => wire::ReplicaRole::Candidate,
        RoleName::Quarantined => wire::ReplicaRole::Quarantined,
    };
    wire::NodeReplica {
        partition_id: status.partition.0,
        replica: Some(wire::Replica {
            node_id: node_id.to_owned(),
            role: role.into(),
            in_sync: false,
            live: true,
            last_sequence: status.last.sequence.0,
            committed_sequence: status.commit.0,
            applied_sequence: status.applied.0,
            record_count: status.records,
            disk_bytes: status.store.disk_bytes,
            receiving_snapshot: transfers(status, true).next(),
            sending_snapshots: transfers(status, false).collect(),
            generation: status.generation.0,
            last_epoch: status.last.epoch,
            lineage: status.data_lineage,
            problem: status.problem.clone().unwrap_or_default(),
            scrub: scrubbed.map(scrub),
        }),
    }
}
