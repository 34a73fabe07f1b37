//! [`Views`]: the cluster as it was last read, replaced whole with every change.
//!
//! A [`View`] is the map and the links to the nodes that it shows as registered *and* live. Both are
//! replaced together, so a request that holds a view can reach nobody whom that view does not know: nothing
//! is forwarded to a node that the router only remembers. Links to nodes that left, or that registered
//! anew, are closed.
//!
//! While the coordination service cannot be reached its watch keeps showing what was read last, and so
//! does the view: the data plane goes on.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use paddock_coordination::cluster_map::ClusterMap;
use paddock_coordination::{Coordinator, Member, NodeId, PartitionId, Tree};
use tracing::{error, info, warn};

use crate::bell::Bell;
use crate::node::Node;

/// The map, and the links to the nodes in it.
#[derive(Default)]
pub struct View {
    /// The map.
    pub map: ClusterMap,
    /// Links to the nodes that are registered and live, and to no others.
    pub nodes: HashMap<NodeId, Arc<Node>>,
    /// Why there is no usable map, for a person: it was not read yet, or it cannot be understood.
    pub refusal: Option<String>,
}

impl View {
    /// The leader that the map names.
    #[must_use]
    pub fn leader(&self, partition: PartitionId) -> Option<Member> {
        self.map.partitions.get(&partition)?.state.leader
    }

    /// True if a strong read of the partition could be sent off now.
    #[must_use]
    pub fn reaches_leader(&self, partition: PartitionId) -> bool {
        self.leader(partition)
            .and_then(|leader| self.nodes.get(&leader.node))
            .is_some_and(|node| node.link(partition).is_up())
    }

    /// True once every slot has a partition whose leader can be reached.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.map.is_placed() && self.map.partitions.keys().all(|partition| self.reaches_leader(*partition))
    }

    /// True once a usable map was read.
    #[must_use]
    pub fn has_map(&self) -> bool {
        self.refusal.is_none() && self.map.cluster.is_some() && self.map.slots.is_some()
    }
}

/// The view in force, for everybody.
pub struct Views {
    current: ArcSwap<View>,
    bell: Arc<Bell>,
}

impl Views {
    /// The view before anything was read.
    #[must_use]
    pub fn new() -> Self {
        let refusal = Some("the cluster's map was not read yet".to_owned());
        let view = View { refusal, ..View::default() };
        Views { current: ArcSwap::from_pointee(view), bell: Arc::new(Bell::default()) }
    }

    /// The view in force.
    #[must_use]
    pub fn load(&self) -> Arc<View> {
        self.current.load_full()
    }

    /// Rings when the view is replaced, and when a link goes up or down.
    #[must_use]
    pub fn bell(&self) -> &Bell {
        &self.bell
    }

    /// Follows the coordination service for as long as its watch lives.
    pub async fn follow(&self, coordinator: &dyn Coordinator) {
        let mut watch = coordinator.watch("/");
        loop {
            let tree = Arc::clone(&watch.borrow_and_update());
            self.replace(&tree);
            if watch.changed().await.is_err() {
                warn!("the coordination service's watch has ended; the last map stays in force");
                return;
            }
        }
    }

    /// Closes every link.
    pub fn close(&self) {
        let last = self
            .current
            .swap(Arc::new(View { refusal: Some("the router is stopping".to_owned()), ..View::default() }));
        for node in last.nodes.values() {
            node.close();
        }
        self.bell.ring();
    }

    /// Puts the view of another tree in force.
    fn replace(&self, tree: &Tree) {
        let last = self.load();
        let next = self.derive(tree, &last);
        if last.map.connected != next.map.connected {
            if next.map.connected {
                info!("connected to the coordination service");
            } else {
                warn!("the coordination service cannot be reached; the last map stays in force");
            }
        }
        let next = Arc::new(next);
        self.current.store(Arc::clone(&next));
        for (id, node) in &last.nodes {
            if !next.nodes.get(id).is_some_and(|kept| Arc::ptr_eq(kept, node)) {
                info!(node = %id, "left the map, or registered anew: its links are closed");
                node.close();
            }
        }
        self.bell.ring();
    }

    fn derive(&self, tree: &Tree, last: &View) -> View {
        let map = match ClusterMap::from_tree(tree) {
            Ok(map) => map,
            Err(refusal) => {
                error!(%refusal, "the map is not used");
                let map = ClusterMap { connected: tree.connected, ..ClusterMap::default() };
                return View { map, refusal: Some(refusal.to_string()), ..View::default() };
            }
        };
        let refusal = map.cluster.is_none().then(|| {
            "no partition server has founded the cluster yet, or its record was not read".to_owned()
        });
        let nodes = self.link_nodes(&map, last);
        View { map, nodes, refusal }
    }

    /// Links to the registered and live nodes of the map: those that there are, and new ones.
    fn link_nodes(&self, map: &ClusterMap, last: &View) -> HashMap<NodeId, Arc<Node>> {
        let Some(cluster) = map.cluster.as_ref().map(|record| record.id) else { return HashMap::new() };
        map.live
            .iter()
            .filter_map(|id| Some((*id, map.nodes.get(id)?)))
            .map(|(id, record)| {
                let kept = last.nodes.get(&id).filter(|node| node.is(cluster, record)).cloned();
                let node =
                    kept.unwrap_or_else(|| Arc::new(Node::open(cluster, id, record.clone(), &self.bell)));
                (id, node)
            })
            .collect()
    }
}

impl Default for Views {
    fn default() -> Self {
        Self::new()
    }
}
