//! The controller: one node of the cluster brings the partitions' replicas to where they are to be.
//!
//! It is the live node with the lowest id. Everybody reads that from the same records, and nobody has to ask; where two take
//! themselves for it for a while, each of their steps is bound to the version of the record that it was planned on, so
//! that one of the two comes too late. What a step is and when it is taken is told in
//! [`placement`]; here is only the time that passes, and the writing.
//!
//! And it brings leaders back to an even spread ([`leaders`]): when nothing has changed for a while it has the node that leads too many
//! hand one over by plan, and then waits until all is quiet again. So it never runs after a failover that is under way, and a
//! node that comes and goes is left alone.
//!
//! Failover does not wait for it: a partition whose leader died is led by another replica long before anybody is replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use paddock_coordination::leaders::{self, Move};
use paddock_coordination::placement::{self, Change, Step};
use paddock_coordination::{
    ClusterId, ClusterMap, Coordinator, Error, Member, NodeId, PartitionId, PartitionState, Registration,
    Watch, paths, records,
};
use paddock_proto::admin::v1::TransferNodeLeadershipRequest;
use paddock_proto::admin::v1::node_service_client::NodeServiceClient;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::{info, warn};

use crate::peer;

/// How long others wait for a replica that is being made, before it counts no more among the few that are made at a time.
const JOIN_PATIENCE: Duration = Duration::from_secs(600);
/// How often a controller looks around though nothing has changed: time has passed, or a step did not succeed.
const LOOK: Duration = Duration::from_secs(1);

/// How long a node may take to hand a partition over, and to say so: more than it takes at the most.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(4);

/// What the controller does of its own accord, should it come to be this node.
#[derive(Clone, Copy, Debug, Default)]
pub struct ControllerOptions {
    /// How long a node may be away before its replicas are placed elsewhere; `None`: for ever.
    pub replace_after: Option<Duration>,
    /// How long nothing may have changed before a leader is moved for the sake of an even spread; `None`: none ever is.
    pub spread_leaders_after: Option<Duration>,
}

/// What must not have changed for a while before a leader is moved.
#[derive(Debug, Default, PartialEq, Eq)]
struct Scene {
    /// The live nodes, how often each has started, and whether it is drained.
    nodes: Vec<(NodeId, u64, bool)>,
    partitions: BTreeMap<PartitionId, Cast>,
}

/// Of a partition who leads it, who is in sync, and where its replicas are.
type Cast = (Option<Member>, Vec<Member>, Vec<NodeId>);

impl Scene {
    fn of(map: &ClusterMap) -> Scene {
        let nodes = map.nodes.iter().filter(|(node, _)| map.live.contains(node));
        let cast = |state: &PartitionState| (state.leader, state.in_sync.clone(), state.replicas.clone());
        let partitions = map.partitions.iter().map(|(id, known)| (*id, cast(&known.state)));
        Scene {
            nodes: nodes.map(|(node, record)| (*node, record.boot_count, record.drained)).collect(),
            partitions: partitions.collect(),
        }
    }
}

/// What a node needs to be the controller, should it come to that.
pub struct Controller {
    coordinator: Arc<dyn Coordinator>,
    cluster: ClusterId,
    me: NodeId,
    options: ControllerOptions,
    /// What is there, and since when: before a leader is moved again, all of it has to have been so for a while.
    quiet: Option<(Scene, Instant)>,
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
        options: ControllerOptions,
    ) -> Controller {
        Controller {
            coordinator,
            cluster,
            me,
            options,
            quiet: None,
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
            self.quiet = None;
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
        if let Some(step) = self.due_move(map) {
            self.spread(map, step).await;
        }
    }

    /// The leader that is to be moved now: if one is to be, and nothing has changed for a while.
    fn due_move(&mut self, map: &ClusterMap) -> Option<Move> {
        let quiet_for = self.options.spread_leaders_after?;
        let (scene, now) = (Scene::of(map), Instant::now());
        match &self.quiet {
            Some((known, since)) if *known == scene => {
                if now.duration_since(*since) < quiet_for {
                    return None;
                }
            }
            _ => {
                self.quiet = Some((scene, now));
                return None;
            }
        }
        let step = leaders::next_move(map)?;
        // One at a time; and should it be refused, not again at once.
        self.quiet = None;
        Some(step)
    }

    /// Has a leader hand over, so that leaders are spread evenly.
    async fn spread(&self, map: &ClusterMap, step: Move) {
        let Move { partition, from, to } = step;
        let Some(record) = map.nodes.get(&from) else { return };
        match timeout(TRANSFER_TIMEOUT, ask_to_hand_over(&record.grpc_address, step)).await {
            Ok(Ok(())) => info!(%partition, %from, %to, "handed over, so that leaders are spread evenly"),
            Ok(Err(status)) => {
                warn!(%partition, %from, %to, why = status.message(), "not handed over for an even spread");
            }
            Err(_) => warn!(%partition, %from, %to, "not handed over for an even spread in time"),
        }
    }

    /// The nodes that have been missed for too long.
    fn gone(&mut self, map: &ClusterMap) -> BTreeSet<NodeId> {
        let now = Instant::now();
        self.missed_since.retain(|node, _| !map.live.contains(node));
        for node in map.nodes.keys().filter(|node| !map.live.contains(node)) {
            self.missed_since.entry(*node).or_insert(now);
        }
        let Some(replace_after) = self.options.replace_after else { return BTreeSet::new() };
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
                let value = records::encode(&state);
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

async fn ask_to_hand_over(address: &str, step: Move) -> Result<(), Status> {
    let channel = peer::connect(address).await.map_err(|error| Status::unavailable(error.to_string()))?;
    let request = TransferNodeLeadershipRequest {
        node_id: step.from.to_string(),
        partition_id: step.partition.0,
        to_node_id: step.to.to_string(),
    };
    NodeServiceClient::new(channel).transfer_node_leadership(request).await.map(drop)
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
