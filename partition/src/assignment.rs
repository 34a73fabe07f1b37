//! What the cluster's map says to this node: where the others are, and which replicas are its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use paddock_coordination::{NodeId, cluster_map::ClusterMap};

/// Where each node listens for gRPC: only nodes that the present map lists.
pub type Addresses = Arc<BTreeMap<NodeId, String>>;

/// The addresses of a map.
#[must_use]
pub fn addresses(map: &ClusterMap) -> Addresses {
    Arc::new(map.nodes.iter().map(|(node, record)| (*node, record.grpc_address.clone())).collect())
}
