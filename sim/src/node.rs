//! One simulated machine: its disk, which outlives it, its clock, and the process on it: real owner loops on real stores.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use paddock_coordination::{Generation, NodeId, PartitionId, Version};
use paddock_partition::clock::{Clock, Timestamp};
use paddock_partition::configuration::{ConfigurationClient, Requests};
use paddock_partition::host::FatalError;
use paddock_partition::inbox::{Inbox, inbox};
use paddock_partition::metrics::Metrics;
use paddock_partition::opening::{Faces, Identity, open_store};
use paddock_partition::operation::Budget;
use paddock_partition::peer::{Parcels, PeerNetwork};
use paddock_partition::reply::{ReplyReceiver, ReplySender, channel};
use paddock_partition::runtime::OwnerLoop;
use paddock_partition::snapshot::NoCourier;
use paddock_storage::disk::{Fault, FaultyDisk};
use paddock_storage::{Clock as StoreClock, EpochStart, Mapping, Options, Position, Sequence};
use parking_lot::Mutex;
use ulid::Ulid;

use crate::plan::Plan;
use crate::queue::Time;

/// The budgets of a replica, in bytes.
const BUDGET_BYTES: usize = 1 << 20;
/// What a store may use of memory.
const STORE_MEMORY_BYTES: u64 = 4 << 20;

/// A machine.
pub struct Node {
    /// Its name.
    pub id: NodeId,
    /// What is on its disk.
    pub disk: FaultyDisk,
    /// How many millionths of a second its clock goes forward in a second.
    pub rate_millionths: u64,
    /// What its clock showed in the beginning, in milliseconds.
    pub offset_ms: u64,
    /// How often it has started.
    pub boots: u64,
    /// What runs.
    pub process: Option<Process>,
    /// What its stores had for certain when they were last seen, by partition.
    pub held: Vec<Option<Held>>,
    /// It stands still until then.
    pub paused_until: Time,
    /// Its disk stands still until then.
    pub disk_stalled_until: Time,
    /// It does not reach the coordination service until then.
    pub coordination_lost_until: Time,
}

/// A running server.
pub struct Process {
    hands: Arc<AtomicU64>,
    links: Arc<Mutex<Vec<(NodeId, Parcels)>>>,
    /// The replicas, by partition.
    pub replicas: Vec<Option<Hosted>>,
    /// Where answers leave.
    pub replies: ReplyReceiver,
    /// For those who bring operations.
    pub sender: ReplySender,
}

/// A running replica.
pub struct Hosted {
    /// The real thing.
    pub owner: OwnerLoop,
    /// Its ear.
    pub inbox: Inbox,
    /// What it asks of the coordination service.
    pub requests: Requests,
    /// One of them is on its way.
    pub is_asking: bool,
    /// Of operations.
    pub budget: Arc<Budget>,
    /// Of messages.
    pub messages_budget: Arc<Budget>,
    /// The state that it was told last.
    pub told: Option<(Version, Ulid)>,
    /// When its next round is.
    pub round_at: Option<Time>,
    /// It is in a round until then.
    pub busy_until: Time,
}

/// What a replica surely has on its disk.
#[derive(Clone, Debug)]
pub struct Held {
    /// Which life of its data.
    pub generation: Generation,
    /// Its log is durable through here.
    pub durable: Sequence,
    /// Which epoch wrote what.
    pub epochs: Vec<EpochStart>,
}

impl Held {
    fn of(owner: &OwnerLoop) -> Self {
        Held {
            generation: owner.facts.generation,
            durable: owner.store.durable(),
            epochs: owner.store.epochs().to_vec(),
        }
    }

    /// Whether the entry at this position is there for certain, and so all before it.
    #[must_use]
    pub fn has(&self, position: Position) -> bool {
        let wrote = self.epochs.iter().rev().find(|start| start.first <= position.sequence);
        position.sequence <= self.durable && wrote.map_or(0, |start| start.epoch) == position.epoch
    }
}

/// Which partitions there are, for whoever starts a server.
pub struct Assignment {
    /// The partition's life.
    pub partition_uuid: Ulid,
    /// Its replicas.
    pub replicas: Vec<NodeId>,
}

impl Node {
    /// A machine with an empty disk.
    #[must_use]
    pub fn new(id: NodeId, plan: &Plan, rate_millionths: u64, offset_ms: u64) -> Self {
        Node {
            id,
            disk: FaultyDisk::new(),
            rate_millionths,
            offset_ms,
            boots: 0,
            process: None,
            held: (0..plan.partitions).map(|_| None).collect(),
            paused_until: 0,
            disk_stalled_until: 0,
            coordination_lost_until: 0,
        }
    }

    /// What its clock shows.
    #[must_use]
    pub fn clock(&self, now: Time) -> Timestamp {
        let elapsed = u128::from(now) * u128::from(self.rate_millionths) / 1_000_000_000;
        Timestamp(self.offset_ms + u64::try_from(elapsed).unwrap_or(u64::MAX))
    }

    /// How much of our time its clock takes for so many milliseconds, at least.
    #[must_use]
    pub fn duration(&self, milliseconds: u64) -> Time {
        milliseconds * 1_000_000_000 / self.rate_millionths + 1
    }

    /// Starts its server on what its disk has.
    ///
    /// # Errors
    /// A store that cannot be opened.
    pub fn start(
        &mut self,
        now: Time,
        plan: &Plan,
        assignments: &[Assignment],
        mut random: impl FnMut() -> u128,
        metrics: &Metrics,
    ) -> Result<(), FatalError> {
        self.boots += 1;
        let hands = Arc::new(AtomicU64::new(self.clock(now).0));
        let links: Arc<Mutex<Vec<(NodeId, Parcels)>>> = Arc::default();
        let carried = Arc::clone(&links);
        let network = PeerNetwork::carried_by(move |node, parcels| carried.lock().push((node, parcels)));
        let (sender, replies) = channel(metrics.answers_waiting());
        let mut replicas = Vec::new();
        for (index, assignment) in assignments.iter().enumerate() {
            if !assignment.replicas.contains(&self.id) {
                replicas.push(None);
                continue;
            }
            let partition = PartitionId(u32::try_from(index).unwrap_or(0));
            let identity = Identity {
                partition,
                partition_uuid: assignment.partition_uuid,
                node: self.id,
                life: 0,
                lease_ms: plan.lease_ms,
                random: random(),
            };
            let clock = Clock::turned_by_hand(Arc::clone(&hands));
            let opened = open_store(&identity, &store_path(index), self.options(plan, &hands))?;
            let (inbox, outlet) = inbox();
            let (configuration, requests) = ConfigurationClient::channel();
            let faces = Faces {
                outlet,
                peers: network.sender(partition, assignment.partition_uuid, opened.facts.generation),
                courier: Box::new(NoCourier),
                configuration,
                metrics: metrics.replica(partition.0),
                clock,
            };
            let owner = OwnerLoop::new(&identity, opened, faces);
            if let Some(held) = self.held.get_mut(index) {
                *held = Some(Held::of(&owner));
            }
            replicas.push(Some(Hosted {
                owner,
                inbox,
                requests,
                is_asking: false,
                budget: Budget::new(BUDGET_BYTES),
                messages_budget: Budget::new(BUDGET_BYTES),
                told: None,
                round_at: None,
                busy_until: now,
            }));
        }
        self.process = Some(Process { hands, links, replicas, replies, sender });
        Ok(())
    }

    fn options(&self, plan: &Plan, hands: &Arc<AtomicU64>) -> Options {
        let hands = Arc::clone(hands);
        Options::new()
            .disk(Arc::new(self.disk.clone()))
            .clock(StoreClock::from_fn(move || hands.load(Ordering::Relaxed)))
            .segment_bytes(4 << 10)
            .extent_bytes(4 << 10)
            .run_bytes(4 << 10)
            .flush_bytes(plan.flush_bytes)
            .memory_bytes(STORE_MEMORY_BYTES)
            .mapping(Mapping::Never)
            .background_compaction(false)
            .mark_idle_after(None)
    }

    /// Notes what the stores have for certain.
    pub fn note_held(&mut self, partition: usize) {
        let hosted = self.process.as_ref().and_then(|process| process.replicas.get(partition));
        if let (Some(Some(hosted)), Some(held)) = (hosted, self.held.get_mut(partition)) {
            *held = Some(Held::of(&hosted.owner));
        }
    }

    /// Ends its server at once: nothing that it would still do gets to its disk.
    pub fn kill(&mut self) {
        for partition in 0..self.held.len() {
            self.note_held(partition);
        }
        let fault = Fault { call: self.disk.calls() + 1, kind: std::io::ErrorKind::Other, lasting: true };
        self.disk.set_fault(Some(fault));
        self.process = None;
        self.disk.set_fault(None);
    }

    /// A running replica.
    #[must_use]
    pub fn hosted(&self, partition: usize) -> Option<&Hosted> {
        self.process.as_ref()?.replicas.get(partition)?.as_ref()
    }

    /// A running replica.
    pub fn hosted_mut(&mut self, partition: usize) -> Option<&mut Hosted> {
        self.process.as_mut()?.replicas.get_mut(partition)?.as_mut()
    }
}

impl Process {
    /// Turns the hands of its clock.
    pub fn turn(&self, now: Timestamp) {
        self.hands.store(now.0, Ordering::Relaxed);
    }

    /// What left on its links since this was last asked.
    #[must_use]
    pub fn take_parcels(&self) -> Vec<(NodeId, paddock_partition::peer::Parcel)> {
        let mut taken = Vec::new();
        for (node, parcels) in self.links.lock().iter_mut() {
            while let Ok(parcel) = parcels.try_recv() {
                taken.push((*node, parcel));
            }
        }
        taken
    }
}

/// Where a partition's store is on every disk.
#[must_use]
pub fn store_path(partition: usize) -> PathBuf {
    PathBuf::from(format!("/data/partition-{partition}"))
}
