//! [`Node`]: a partition server that the map shows as live, with the links to it.

use std::sync::Arc;
use std::time::Duration;

use paddock_coordination::{ClusterId, NodeId, NodeRecord, PartitionId};
use paddock_proto::admin::v1::node_service_client::NodeServiceClient;
use paddock_proto::admin::v1::{
    GetNodeStatusRequest, NodeReplica, TransferNodeLeadershipRequest, TransferNodeLeadershipResponse,
};
use paddock_proto::limits::MESSAGE_BYTES_MAX;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::bell::Bell;
use crate::link::{Link, Peer};

/// Streams to each node. More than one, so that two cores can decode; few, since a batch is what makes a
/// stream fast.
pub const LINKS_PER_NODE: usize = 2;

/// How long a node may take to say how it is.
pub const STATUS_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a node may take to hand a partition over, and to say so: more than it takes at the most.
pub const TRANSFER_TIMEOUT: Duration = Duration::from_secs(4);

/// A live partition server and the links to it. A node that registers anew (it restarted, or moved) is a
/// new `Node`: its old links led to a process that is no more.
pub struct Node {
    id: NodeId,
    cluster: ClusterId,
    record: NodeRecord,
    links: [Link; LINKS_PER_NODE],
    /// For calls that are not worth a stream; `None` if the address is not one.
    channel: Option<Channel>,
}

impl Node {
    /// Opens the links.
    #[must_use]
    pub fn open(cluster: ClusterId, id: NodeId, record: NodeRecord, bell: &Arc<Bell>) -> Node {
        let peer = Peer { cluster, node: id, address: record.grpc_address.clone() };
        let channel = peer.endpoint().ok().map(|endpoint| endpoint.connect_lazy());
        let links = std::array::from_fn(|_| Link::open(peer.clone(), Arc::clone(bell)));
        Node { id, cluster, record, links, channel }
    }

    /// True if this is the node that the record tells of. Whether it is drained changes nothing about its streams.
    #[must_use]
    pub fn is(&self, cluster: ClusterId, record: &NodeRecord) -> bool {
        let NodeRecord { grpc_address, boot_count, build_version, drained: _ } = record;
        self.cluster == cluster
            && self.record.grpc_address == *grpc_address
            && self.record.boot_count == *boot_count
            && self.record.build_version == *build_version
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// The link for a partition: always the same, so that the partition's operations keep their order.
    #[must_use]
    pub fn link(&self, partition: PartitionId) -> &Link {
        let [first, second] = &self.links;
        if partition.0.is_multiple_of(2) { first } else { second }
    }

    /// How many of its links are up.
    #[must_use]
    pub fn links_up(&self) -> usize {
        self.links.iter().filter(|link| link.is_up()).count()
    }

    /// Closes the links.
    pub fn close(&self) {
        for link in &self.links {
            link.close();
        }
    }

    /// Asks the node for its replicas, as it sees them. `None` if it does not answer soon, or somebody else
    /// answers.
    pub async fn status(&self) -> Option<Vec<NodeReplica>> {
        let mut client =
            NodeServiceClient::new(self.channel.clone()?).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut request = Request::new(GetNodeStatusRequest {});
        request.set_timeout(STATUS_TIMEOUT);
        let answer =
            tokio::time::timeout(STATUS_TIMEOUT, client.get_node_status(request)).await.ok()?.ok()?;
        let answer = answer.into_inner();
        (answer.node_id == self.id.to_string()).then_some(answer.replicas)
    }

    /// Has the node hand a partition over that it leads.
    ///
    /// # Errors
    /// What it says; UNAVAILABLE if it does not answer.
    pub async fn transfer(
        &self,
        partition: PartitionId,
        to: Option<NodeId>,
    ) -> Result<TransferNodeLeadershipResponse, Status> {
        let channel = self.channel.clone().ok_or_else(|| Status::unavailable("its address is none"))?;
        let mut request = Request::new(TransferNodeLeadershipRequest {
            node_id: self.id.to_string(),
            partition_id: partition.0,
            to_node_id: to.map(|to| to.to_string()).unwrap_or_default(),
        });
        request.set_timeout(TRANSFER_TIMEOUT);
        let call = NodeServiceClient::new(channel);
        let mut call = call.max_decoding_message_size(MESSAGE_BYTES_MAX);
        let answer = tokio::time::timeout(TRANSFER_TIMEOUT, call.transfer_node_leadership(request)).await;
        Ok(answer.map_err(|_| Status::deadline_exceeded("it did not answer in time"))??.into_inner())
    }
}
