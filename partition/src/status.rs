//! What the rest of the node may know of a replica: a snapshot that the owner loop replaces.

use std::sync::Arc;

use arc_swap::ArcSwap;
use paddock_coordination::{Epoch, Generation, NodeId, PartitionId};
use paddock_storage::{Position, ReplicatedStore, Sequence, Stats};
use parking_lot::Mutex;

use crate::clock::Timestamp;
use crate::replica::{Replica, RoleName};
use crate::retries::Retries;
use crate::snapshot::{Courier, FetchFailure, NoCourier, Transfer};

/// How old a snapshot may get while nothing but its figures changes.
const REFRESH_MS: u64 = 100;

/// One replica, as it sees itself.
#[derive(Clone, Debug)]
pub struct ReplicaStatus {
    /// Which partition.
    pub partition: PartitionId,
    /// What it does.
    pub role: RoleName,
    /// The epoch that it is in.
    pub epoch: Epoch,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// The life of its data.
    pub generation: Generation,
    /// The lineage that its contents are to be read in; `None`: they are not to be read.
    pub lineage: Option<u64>,
    /// The lineage that its contents are of, whether or not that is the partition's.
    pub data_lineage: u64,
    /// How old what its reads see may be, in milliseconds; `None`: it does not know.
    pub staleness_ms: Option<u64>,
    /// The last entry of its log.
    pub last: Position,
    /// What it knows to be committed.
    pub commit: Sequence,
    /// What its reads see.
    pub applied: Sequence,
    /// How many records its users have.
    pub records: u64,
    /// How many request ids it remembers.
    pub request_ids: u64,
    /// The first entry that its log still has.
    pub log_first: Sequence,
    /// Snapshots on their way here, or to followers.
    pub transfers: Vec<Transfer>,
    /// How often in a row it could not fetch the snapshot that it needs.
    pub fetch_failures: u32,
    /// Its files.
    pub store: Stats,
    /// What is wrong with it, for a person.
    pub problem: Option<String>,
}

/// The snapshot, and when it was taken.
#[derive(Clone)]
pub struct StatusCell {
    partition: PartitionId,
    current: Arc<ArcSwap<ReplicaStatus>>,
    published: Timestamp,
    fresh_as_of: Arc<Mutex<Option<(Timestamp, Sequence)>>>,
}

impl StatusCell {
    /// The first snapshot.
    #[must_use]
    pub fn new(
        partition: PartitionId,
        replica: &Replica,
        store: &ReplicatedStore,
        retries: &Retries,
    ) -> Self {
        let first = snapshot(Timestamp(0), partition, replica, store, retries, &NoCourier);
        StatusCell {
            partition,
            current: Arc::new(ArcSwap::from_pointee(first)),
            published: Timestamp(0),
            fresh_as_of: Arc::default(),
        }
    }

    /// The newest snapshot.
    #[must_use]
    pub fn load(&self) -> Arc<ReplicaStatus> {
        self.current.load_full()
    }

    /// A read that sees this entry sees everything that was committed before this moment; `None`: the replica does not
    /// know.
    #[must_use]
    pub fn fresh_as_of(&self) -> Option<(Timestamp, Sequence)> {
        *self.fresh_as_of.lock()
    }

    /// Takes a snapshot, if the last one is old or tells another role.
    pub fn publish(
        &mut self,
        now: Timestamp,
        replica: &Replica,
        store: &ReplicatedStore,
        retries: &Retries,
        courier: &dyn Courier,
    ) {
        *self.fresh_as_of.lock() = replica.fresh_as_of();
        let last = self.current.load();
        let same = last.role == replica.role()
            && last.epoch == replica.epoch()
            && last.leader == replica.leader()
            && last.lineage == replica.lineage();
        if same && now.0 < self.published.0 + REFRESH_MS {
            return;
        }
        self.published = now;
        self.current.store(Arc::new(snapshot(now, self.partition, replica, store, retries, courier)));
    }
}

fn snapshot(
    now: Timestamp,
    partition: PartitionId,
    replica: &Replica,
    store: &ReplicatedStore,
    retries: &Retries,
    courier: &dyn Courier,
) -> ReplicaStatus {
    let stats = store.stats();
    ReplicaStatus {
        partition,
        role: replica.role(),
        epoch: replica.epoch(),
        leader: replica.leader(),
        generation: replica.member().generation,
        lineage: replica.lineage(),
        data_lineage: replica.data_lineage(),
        staleness_ms: replica.fresh_as_of().map(|(as_of, _)| now.since(as_of)),
        last: replica.last(),
        commit: replica.commit(),
        applied: store.applied(),
        records: stats.records.saturating_sub(retries.rows()),
        request_ids: retries.len() as u64,
        store: stats,
        log_first: store.log_first(),
        transfers: courier.transfers(),
        fetch_failures: replica.fetch_failures().0,
        problem: replica.problem().or_else(|| fetch_problem(now, replica, courier)),
    }
}

/// What keeps a replica from having the snapshot that it needs.
fn fetch_problem(now: Timestamp, replica: &Replica, courier: &dyn Courier) -> Option<String> {
    let (failures, paused_until) = replica.fetch_failures();
    let FetchFailure { from, why } = courier.failure().filter(|_| failures > 0)?;
    let times = if failures == 1 { "once".to_owned() } else { format!("{failures} times in a row") };
    let next = match paused_until.since(now).div_ceil(1_000) {
        0 => "tried again now".to_owned(),
        seconds => format!("tried again in {seconds} s"),
    };
    Some(format!("the snapshot of {from} could not be fetched, {times}, and is {next}: {why}"))
}
