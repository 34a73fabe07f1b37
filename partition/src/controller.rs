//! The controller: one node of the cluster brings the partitions' replicas to where they are to be.
//!
//! It is the live node with the lowest id. Everybody reads that from the same records, and nobody has to ask; where two take
//! themselves for it for a while, each of their steps is bound to the version of the record that it was planned on, so
//! that one of the two comes too late. What a step is and when it is taken is told in
//! [`placement`]; here is only the time that passes, and the writing.
//!
//! Failover does not wait for it: a partition whose leader died is led by another replica long before anybody is replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use paddock_coordination::placement::{self, Change, Step};
use paddock_coordination::{
    ClusterId, ClusterMap, Coordinator, Error, NodeId, PartitionId, Registration, Watch, paths, records,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How long others wait for a replica that is being made, before it counts no more among the few that are made at a time.
const JOIN_PATIENCE: Duration = Duration::from_secs(600);
/// How often a controller looks around though nothing has changed: time has passed, or a step did not succeed.
const LOOK: Duration = Duration::from_secs(1);

/// What a node needs to be the controller, should it come to that.
pub struct Controller {
    coordinator: Arc<dyn Coordinator>,
    cluster: ClusterId,
    me: NodeId,
    /// How long a node may be away before its replicas are placed elsewhere; `None`: for ever.
    replace_after: Option<Duration>,
    /// Since when this controller has missed nodes. It begins anew with each controller: rather late than too soon.
    missed_since: BTreeMap<NodeId, Instant>,
    /// Since when replicas have been joining.
    joining_since: BTreeMap<(PartitionId, NodeId), Instant>,
    /// Says, for people, that this node is the controller.
    registration: Option<Registration>,
}

impl Controller {
    /// For this node of this cluster.
    #[must_use]
    pub fn new(
        coordinator: Arc<dyn Coordinator>,
        cluster: ClusterId,
        me: NodeId,
        replace_after: Option<Duration>,
    ) -> Controller {
        Controller {
            coordinator,
            cluster,
            me,
            replace_after,
            missed_since: BTreeMap::new(),
            joining_since: BTreeMap::new(),
            registration: None,
        }
    }

    /// Looks after the cluster whenever it falls to this node, until the node stops.
    pub async fn run(mut self, mut tree: Watch, stopping: CancellationToken) {
        loop {
            // A newer program's records are the host's to complain of.
            let map = ClusterMap::from_tree(&tree.borrow_and_update()).unwrap_or_default();
            self.look(&map).await;
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                changed = tree.changed() => if changed.is_err() { return },
                () = stopping.cancelled() => return,
            }
        }
    }

    async fn look(&mut self, map: &ClusterMap) {
        let is_ours = map.cluster.as_ref().is_some_and(|cluster| cluster.id == self.cluster);
        if !map.connected || !is_ours || map.live.first() != Some(&self.me) {
            self.registration = None;
            self.missed_since.clear();
            self.joining_since.clear();
            return;
        }
        if self.registration.is_none() {
            info!(node = %self.me, "this node places replicas now");
            let id = records::encode(&self.me);
            self.registration = Some(self.coordinator.register(paths::CONTROLLER, id));
        }
        for step in placement::plan(map, &self.gone(map), &self.slow(map)) {
            self.perform(step).await;
        }
    }

    /// The nodes that have been missed for too long.
    fn gone(&mut self, map: &ClusterMap) -> BTreeSet<NodeId> {
        let now = Instant::now();
        self.missed_since.retain(|node, _| !map.live.contains(node));
        for node in map.nodes.keys().filter(|node| !map.live.contains(node)) {
            self.missed_since.entry(*node).or_insert(now);
        }
        let Some(replace_after) = self.replace_after else { return BTreeSet::new() };
        let missed = self.missed_since.iter();
        missed
            .filter(|(_, since)| now.duration_since(**since) >= replace_after)
            .map(|(node, _)| *node)
            .collect()
    }

    /// The replicas that have been joining for so long that the others wait for them no more.
    fn slow(&mut self, map: &ClusterMap) -> BTreeSet<(PartitionId, NodeId)> {
        let now = Instant::now();
        let joining: BTreeSet<_> = placement::joining(map).collect();
        self.joining_since.retain(|replica, _| joining.contains(replica));
        for replica in joining {
            self.joining_since.entry(replica).or_insert(now);
        }
        let since = self.joining_since.iter();
        since
            .filter(|(_, since)| now.duration_since(**since) >= JOIN_PATIENCE)
            .map(|(replica, _)| *replica)
            .collect()
    }

    /// Takes one step. What does not succeed is planned again, on what stands there then.
    async fn perform(&self, step: Step) {
        say(&step);
        let (partition, written) = match step {
            Step::SetTarget { partition, expected, target } => {
                let (path, value) = (paths::partition_target(partition), records::encode(&target));
                let written = match expected {
                    Some(expected) => self.coordinator.compare_and_set(&path, value, expected).await,
                    None => self.coordinator.create(&path, value).await,
                };
                (partition, written)
            }
            Step::SetState { partition, expected, state, .. } => {
                let value = records::encode(&placement::with_fresh_nonce(state));
                let path = paths::partition_state(partition);
                (partition, self.coordinator.compare_and_set(&path, value, expected).await)
            }
        };
        match written {
            // In a conflict somebody was quicker: the partition's leader, or another controller.
            Ok(_) | Err(Error::Conflict { .. }) => {}
            Err(error) => {
                warn!(%partition, %error, "a step of placing replicas did not succeed, and is planned again");
            }
        }
    }
}

fn say(step: &Step) {
    match step {
        Step::SetTarget { partition, target, .. } => {
            info!(%partition, replicas = ?target.replicas, "a node is gone for too long: its replica is to be elsewhere");
        }
        Step::SetState { partition, state, change, .. } => match change {
            Change::Add(node) => info!(%partition, %node, "adding a replica"),
            Change::Remove(node) => info!(%partition, %node, "removing a replica: the others are in sync"),
            Change::Settle => {
                info!(%partition, replicas = ?state.replicas, "the replicas are where they are to be");
            }
        },
    }
}
