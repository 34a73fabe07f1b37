//! Replicas whose stores are damaged, or given up: how they come back.
//!
//! A replica that runs decides by itself, in its core, when its store is given up (once another one leads); then its thread ends, and
//! the store is set aside here. One that cannot run, since its store cannot be opened or read, decides nothing: for it the node asks the
//! partition's leader whether it leads, and whether its own store is sound. Until a leader says so, nothing is given up: of two replicas
//! whose stores do not open, neither is thrown away.
//!
//! ```text
//! thread ends: abandoned -----------------------------------------> set aside -> an empty store, another generation -> catch-up
//! store cannot be opened, or not be read -> asks who leads, again and again ->'
//! ```
//!
//! The other replicas of the node go on all the while.

use std::sync::Arc;
use std::time::{Duration, Instant};

use paddock_coordination::{Epoch, Generation, NodeId, PartitionId, PartitionState};
use paddock_proto::admin::v1::node_service_client::NodeServiceClient;
use paddock_proto::admin::v1::{GetNodeStatusRequest, ReplicaRole};
use paddock_storage::{Damage, Position, ReplicatedStore, Sequence, Stats};
use tokio::time::timeout;
use tracing::{error, info, warn};
use ulid::Ulid;

use super::Host;
use crate::facts::Facts;
use crate::replica::RoleName;
use crate::replica::config::ROLLBACK_PATIENCE_LEASES;
use crate::status::ReplicaStatus;

/// How long a leader may take to say that it leads.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a replica that cannot run is mentioned in the log.
const NOTICE: Duration = Duration::from_secs(60);

/// How a replica's thread has ended because of its store.
#[derive(Debug)]
pub(super) struct Repair {
    pub(super) uuid: Ulid,
    /// Why it could not go on; `None`: its store is given up, and may be set aside.
    pub(super) damage: Option<Damage>,
}

/// A replica that cannot run.
#[derive(Debug)]
pub(super) struct Broken {
    uuid: Ulid,
    what: String,
    noticed: Instant,
    /// Since when the leader says that it leads.
    led_since: Option<Instant>,
}

impl Host {
    /// A replica's thread has ended: its store is set aside, or kept for as long as nobody else is known to hold what it holds.
    pub(super) async fn repair(&self, partition: PartitionId, ended: Repair) {
        match ended.damage {
            Some(damage) => self.note_broken(partition, ended.uuid, &damage),
            None => self.set_aside(partition, ended.uuid).await,
        }
    }

    pub(super) fn has_broken(&self) -> bool {
        !self.broken.lock().is_empty()
    }

    pub(super) fn note_broken(&self, partition: PartitionId, uuid: Ulid, damage: &Damage) {
        let what = damage.to_string();
        error!(%partition, %what, "the store is damaged, and this replica cannot run: the others go on");
        let broken = Broken { uuid, what, noticed: Instant::now(), led_since: None };
        self.broken.lock().insert(partition, broken);
    }

    /// Whether a replica may be started: its store is whole as far as is known, or was given up just now.
    pub(super) async fn may_start(&self, partition: PartitionId, state: &PartitionState) -> bool {
        let uuid = state.partition_uuid;
        if self.broken.lock().get(&partition).is_none_or(|broken| broken.uuid != uuid) {
            self.broken.lock().remove(&partition);
            return true;
        }
        if !self.others_hold_it(partition, state).await {
            return false;
        }
        self.set_aside(partition, uuid).await;
        self.broken.lock().remove(&partition);
        true
    }

    /// What replicas that cannot run would say of themselves.
    pub(super) fn broken_statuses(&self) -> Vec<Arc<ReplicaStatus>> {
        let status = |(partition, broken): (&PartitionId, &Broken)| {
            Arc::new(ReplicaStatus {
                partition: *partition,
                role: RoleName::Quarantined,
                epoch: Epoch(0),
                leader: None,
                generation: Generation(0),
                lineage: None,
                data_lineage: 0,
                staleness_ms: None,
                last: Position::default(),
                commit: Sequence(0),
                applied: Sequence(0),
                records: 0,
                request_ids: 0,
                log_first: Sequence(0),
                transfers: Vec::new(),
                fetch_failures: 0,
                store: Stats::default(),
                problem: Some(format!(
                    "its store is damaged and cannot be used ({}): it begins anew once another replica leads whose store \
                     is sound",
                    broken.what
                )),
            })
        };
        self.broken.lock().iter().map(status).collect()
    }

    /// Whether another replica leads and so holds all that is committed, by what that replica says itself just now; and the record
    /// that names it is no older than what this node's replica has seen. Where that cannot be read any more, it has to stay so for as
    /// long as a coordination service may lag.
    async fn others_hold_it(&self, partition: PartitionId, state: &PartitionState) -> bool {
        let is_led = self.is_led_elsewhere(partition, state).await;
        let seen = self.epoch_seen(partition, state.partition_uuid);
        let patience = Duration::from_millis(self.cluster.lease_ms * ROLLBACK_PATIENCE_LEASES);
        let mut all = self.broken.lock();
        let Some(broken) = all.get_mut(&partition) else { return false };
        broken.led_since = is_led.then(|| broken.led_since.unwrap_or_else(Instant::now));
        let is_certain = match seen {
            Some(seen) => is_led && seen <= state.epoch,
            None => broken.led_since.is_some_and(|since| since.elapsed() >= patience),
        };
        if !is_certain && broken.noticed.elapsed() >= NOTICE {
            broken.noticed = Instant::now();
            error!(%partition, what = %broken.what,
                "this replica cannot run, and nobody else is known to hold what it holds: its store is kept");
        }
        is_certain
    }

    /// The highest epoch that the replica has seen, as its store says; `None` if that cannot be read.
    fn epoch_seen(&self, partition: PartitionId, uuid: Ulid) -> Option<Epoch> {
        let place = self.directory.store(partition, uuid);
        let metadata = ReplicatedStore::find_metadata(&place, &self.storage).ok()??;
        Facts::decode(&metadata).ok().map(|facts| facts.epoch_seen)
    }

    async fn is_led_elsewhere(&self, partition: PartitionId, state: &PartitionState) -> bool {
        let Some(leader) = state.leader.filter(|leader| leader.node != self.node()) else { return false };
        let Some(address) = self.addresses.borrow().get(&leader.node).cloned() else { return false };
        timeout(ASK_TIMEOUT, says_that_it_leads(address, leader.node, partition)).await.unwrap_or(false)
    }

    /// Moves a store out of the way, for the operator to look at.
    async fn set_aside(&self, partition: PartitionId, uuid: Ulid) {
        let (place, options) = (self.directory.store(partition, uuid), self.storage.clone());
        let moved = tokio::task::spawn_blocking(move || ReplicatedStore::set_aside(&place, &options)).await;
        match moved {
            Ok(Ok(aside)) => {
                warn!(%partition, kept = %aside.display(), "a damaged store was set aside: the replica begins anew");
                self.metrics.set_aside(partition.0);
            }
            // What is still there is opened as what it is.
            Ok(Err(error)) => error!(%partition, %error, "a damaged store could not be set aside"),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

/// Whether a node says that it leads a partition, and that nothing is wrong there.
async fn says_that_it_leads(address: String, node: NodeId, partition: PartitionId) -> bool {
    let Ok(mut client) = NodeServiceClient::connect(format!("http://{address}")).await else { return false };
    let Ok(status) = client.get_node_status(GetNodeStatusRequest {}).await else { return false };
    let status = status.into_inner();
    let replicas = status.replicas.iter().filter(|replica| replica.partition_id == partition.0);
    let leads = replicas
        .filter_map(|replica| replica.replica.as_ref())
        .any(|replica| replica.role() == ReplicaRole::Leader && replica.problem.is_empty());
    if leads {
        info!(%partition, %node, "leads, and holds what this node's damaged replica held");
    }
    leads && status.node_id == node.to_string()
}
