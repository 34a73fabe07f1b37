//! The replicas of one node: started and stopped as the cluster's map assigns them, and found by those who
//! bring operations and messages. What takes time with one partition holds up none of the others: see `lanes`.

pub mod anywhere;
mod departed;
mod lanes;
mod leaving;
mod repair;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use crossbeam_channel::TrySendError;
use paddock_coordination::bootstrap::{self, PlaceOutcome};
use paddock_coordination::cluster_map::{ClusterMap, Partition};
use paddock_coordination::{
    ClusterId, ClusterRecord, Coordinator, Epoch, Member, NodeId, PartitionId, PartitionState, Version, Watch,
};
use paddock_proto::limits::MESSAGE_BYTES_MAX;
use paddock_storage::{Damage, Options, Reader, Scrubber};
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};
use ulid::Ulid;

use self::lanes::{Lanes, Want};
use crate::assignment::{Addresses, addresses};
use crate::clock;
use crate::inbox::{Delivery, Inbox};
use crate::metrics::{Metrics, ReplicaMetrics};
use crate::node::NodeDirectory;
use crate::operation::{Answer, Arrival, Budget, Failure, Operation, Replies};
use crate::peer::PeerNetwork;
use crate::replica::config::WINDOW_BYTES_MAX;
use crate::replica::{Event, Message, ObservedState};
use crate::reply::{Reply, ReplySender};
use crate::scrub::{ScrubCell, ScrubOptions, ScrubStatus, Scrubbing, Subject};
use crate::snapshot::{CatchUp, CatchUpNode, CatchUpOptions, Outgoing};
use crate::status::{ReplicaStatus, StatusCell};
use crate::watchdog::{DiskWatch, StallLimits};

/// The most bytes of operations under way in one replica.
const OPERATIONS_BYTES_MAX: usize = 64 << 20;
/// The most bytes of peers' messages that wait for one replica: more than a leader's window, and what it sends again.
const MESSAGES_BYTES_MAX: usize = 64 << 20;
const _: () = assert!(MESSAGES_BYTES_MAX >= 2 * WINDOW_BYTES_MAX + MESSAGE_BYTES_MAX);
/// How often a node looks whether a drained replica still has operations under way.
const DRAIN_POLL: Duration = Duration::from_millis(5);
/// How long to wait before another attempt to place the first replicas.
const PLACEMENT_RETRY: Duration = Duration::from_secs(1);
/// How long a graceful stop waits for operations under way.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

/// How often disks are looked at.
const WATCH_INTERVAL_MIN: Duration = Duration::from_millis(10);
const WATCH_INTERVAL_MAX: Duration = Duration::from_millis(500);

/// Why a node must stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FatalError {
    /// A replica's store cannot be opened, or can no longer be trusted.
    #[error("partition {partition}: {source}")]
    Store {
        /// The partition.
        partition: PartitionId,
        /// What happened.
        source: paddock_storage::Error,
    },
    /// A replica's store holds no facts that this build can read.
    #[error("partition {partition}: the facts in its manifest cannot be read: {source}")]
    Facts {
        /// The partition.
        partition: PartitionId,
        /// What is wrong with them.
        source: serde_json::Error,
    },
    /// A replica's store has keys in the form of an earlier build.
    #[error(
        "partition {partition}: its store was written by an earlier build and has keys that begin with a zero byte, which \
         this build would take for others: dump it with that build (paddock batch dump), and load it into a new cluster"
    )]
    OldKeys {
        /// The partition.
        partition: PartitionId,
    },
    /// The cluster's records are of a newer format.
    #[error(transparent)]
    Map(#[from] paddock_coordination::cluster_map::MapError),
    /// An invariant of a replica does not hold; its thread has said which.
    #[error("partition {partition}: its replica came upon a broken invariant")]
    Panicked {
        /// The partition.
        partition: PartitionId,
    },
    /// A write or an fsync does not come back.
    #[error(
        "partition {partition}: its disk has stood still for {seconds} s: a process that waits for it would be taken for alive \
         (--disk-abort-seconds)"
    )]
    DiskStalled {
        /// The partition.
        partition: PartitionId,
        /// For how long.
        seconds: u64,
    },
    /// The system gave no thread.
    #[error("partition {partition}: no thread for its replica: {source}")]
    Thread {
        /// The partition.
        partition: PartitionId,
        /// What happened.
        source: std::io::Error,
    },
}

impl FatalError {
    /// The damage to a replica's store that it tells of: no reason to stop the node.
    fn damage(&self) -> Option<Damage> {
        match self {
            FatalError::Store { source, .. } => Damage::of(source),
            _ => None,
        }
    }
}

/// One replica of this node.
struct Hosted {
    uuid: Ulid,
    inbox: Inbox,
    budget: Arc<Budget>,
    messages_budget: Arc<Budget>,
    reader: Arc<ArcSwap<Reader>>,
    scrubber: Arc<ArcSwap<Scrubber>>,
    scrub: Arc<ScrubCell>,
    watch: Arc<DiskWatch>,
    outgoing: Arc<Outgoing>,
    /// What it has under way on its disk beside its owner loop.
    tasks: TaskTracker,
    metrics: Arc<ReplicaMetrics>,
    status: StatusCell,
    /// The state that it was told last: its version, and its nonce, since a state that was deleted and made again
    /// may have an old version.
    told: Mutex<Option<(Version, Ulid)>>,
    /// That state.
    state: ArcSwap<PartitionState>,
    /// The drained nodes that it was told of last.
    told_drained: Mutex<BTreeSet<NodeId>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// How its owner loop ended, if that was because of its store.
    ended: Arc<Mutex<Option<repair::Repair>>>,
}

impl Hosted {
    /// Tells the replica the state of its partition, unless it was told of that one last.
    fn tell(&self, found: &Partition) {
        let mut told = self.told.lock();
        let identity = Some((found.version, found.state.nonce));
        if *told != identity {
            *told = identity;
            self.state.store(Arc::new(found.state.clone()));
            let state = ObservedState { version: found.version, state: found.state.clone() };
            self.inbox.control(Event::StateObserved { state });
        }
    }

    /// Tells it which nodes are drained, unless it was told that last.
    fn tell_drained(&self, nodes: &BTreeSet<NodeId>) {
        let mut told = self.told_drained.lock();
        if *told != *nodes {
            told.clone_from(nodes);
            self.inbox.control(Event::NodesDrained { nodes: nodes.clone() });
        }
    }
}

/// The replicas of one node.
pub struct Host {
    directory: Arc<NodeDirectory>,
    cluster: ClusterRecord,
    storage: Options,
    coordinator: Arc<dyn Coordinator>,
    network: PeerNetwork,
    catch_up: Arc<CatchUp>,
    addresses: watch::Sender<Addresses>,
    replicas: ArcSwap<BTreeMap<PartitionId, Arc<Hosted>>>,
    /// Replicas that are being started or stopped.
    lanes: Lanes,
    /// The drained nodes, as the cluster's map has them.
    drained: ArcSwap<BTreeSet<NodeId>>,
    metrics: Metrics,
    fatal: mpsc::UnboundedSender<FatalError>,
    /// What the node is to hand over, as the cluster's map has it.
    duties: watch::Sender<leaving::Duties>,
    /// The node is about to stop, and hands over what it leads.
    leaving: AtomicBool,
    /// Streams of operations that are open.
    exchanges: watch::Sender<usize>,
    draining: CancellationToken,
    stopping: CancellationToken,
    connected: AtomicBool,
    /// Replicas that cannot run, since their stores are damaged.
    broken: Mutex<BTreeMap<PartitionId, repair::Broken>>,
    /// Rung when a replica's thread has ended because of its store.
    repairs: Arc<Notify>,
    scrubbing: Scrubbing,
    stalls: StallLimits,
}

/// How a node treats what it keeps.
#[derive(Clone, Copy, Debug, Default)]
pub struct CareOptions {
    /// How it verifies its files.
    pub scrub: ScrubOptions,
    /// How long its disk may take.
    pub stalls: StallLimits,
}

impl Host {
    /// The host of a node that has joined its cluster. Fatal errors go to the channel.
    pub fn new(
        directory: NodeDirectory,
        cluster: ClusterRecord,
        storage: Options,
        catch_up: &CatchUpOptions,
        care: CareOptions,
        coordinator: Arc<dyn Coordinator>,
        fatal: mpsc::UnboundedSender<FatalError>,
    ) -> Arc<Self> {
        let (sender, receiver) = watch::channel(Addresses::default());
        let network = PeerNetwork::new(cluster.id, directory.node(), receiver.clone());
        let storage = storage.memory_bytes(REPLICA_MEMORY_BYTES).log_retention(catch_up.log_retention());
        let (metrics, stopping) = (Metrics::default(), CancellationToken::new());
        let node = CatchUpNode {
            cluster: cluster.id,
            me: directory.node(),
            addresses: receiver,
            storage: storage.clone(),
            stopping: stopping.clone(),
        };
        let catch_up = CatchUp::new(node, catch_up, metrics.foreground(), metrics.snapshots());
        let scrubbing = Scrubbing::new(care.scrub, metrics.foreground(), metrics.scrub());
        Arc::new(Host {
            directory: Arc::new(directory),
            cluster,
            storage,
            coordinator,
            network,
            catch_up,
            addresses: sender,
            replicas: ArcSwap::default(),
            lanes: Lanes::default(),
            drained: ArcSwap::default(),
            metrics,
            fatal,
            duties: watch::Sender::default(),
            leaving: AtomicBool::new(false),
            exchanges: watch::Sender::new(0),
            draining: CancellationToken::new(),
            stopping,
            connected: false.into(),
            broken: Mutex::default(),
            repairs: Arc::default(),
            scrubbing,
            stalls: care.stalls,
        })
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.directory.node()
    }

    /// How often it has started.
    #[must_use]
    pub fn boot_count(&self) -> u64 {
        self.directory.boot_count()
    }

    /// Its cluster.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster.id
    }

    /// Cancelled when no more operations are taken.
    #[must_use]
    pub fn draining(&self) -> CancellationToken {
        self.draining.clone()
    }

    /// Cancelled when the node no longer listens to its peers.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// What its replicas share in carrying snapshots.
    #[must_use]
    pub fn catch_up(&self) -> &CatchUp {
        &self.catch_up
    }

    /// The snapshots that a replica keeps for its followers, and what to send them on, so that its end waits for them.
    #[must_use]
    pub fn outgoing_snapshots(
        &self,
        partition: PartitionId,
        partition_uuid: Ulid,
    ) -> Option<(Arc<Outgoing>, TaskTracker)> {
        let replicas = self.replicas.load();
        let hosted = replicas.get(&partition).filter(|hosted| hosted.uuid == partition_uuid)?;
        Some((Arc::clone(&hosted.outgoing), hosted.tasks.clone()))
    }

    /// True while the coordination service can be reached.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// What each replica says of itself.
    #[must_use]
    pub fn statuses(&self) -> Vec<Arc<ReplicaStatus>> {
        let running = self.replicas.load();
        let broken = self.broken_statuses();
        running.values().map(|hosted| hosted.status.load()).chain(broken).collect()
    }

    /// Verifies the files of this node's replicas, until the node stops.
    pub async fn scrub(self: Arc<Self>) {
        let stopping = self.stopping();
        let subjects = || {
            let replicas = self.replicas.load();
            let subject = |(partition, hosted): (&PartitionId, &Arc<Hosted>)| Subject {
                partition: *partition,
                scrubber: hosted.scrubber.load_full(),
                cell: Arc::clone(&hosted.scrub),
            };
            replicas.iter().map(subject).collect()
        };
        tokio::select! {
            () = self.scrubbing.run(subjects) => {}
            () = stopping.cancelled() => {}
        }
    }

    /// Watches the disks of this node's replicas, until the node stops: one that stands still for too long is fatal.
    pub async fn watch_disks(self: Arc<Self>) {
        let stopping = self.stopping();
        let abort_after_ms = milliseconds(self.stalls.abort_after);
        let interval = (self.stalls.abort_after / 20).clamp(WATCH_INTERVAL_MIN, WATCH_INTERVAL_MAX);
        loop {
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                () = stopping.cancelled() => return,
            }
            let now = clock::now();
            for (partition, hosted) in self.replicas.load().iter() {
                if let Some(busy_ms) = hosted.watch.busy_ms(now).filter(|busy_ms| *busy_ms >= abort_after_ms)
                {
                    let (partition, seconds) = (*partition, busy_ms / 1_000);
                    let _ = self.fatal.send(FatalError::DiskStalled { partition, seconds });
                    return;
                }
            }
        }
    }

    /// Has the files of a partition's replica verified now. False: there is none here.
    pub fn scrub_now(&self, partition: PartitionId) -> bool {
        let is_here = self.replicas.load().contains_key(&partition);
        if is_here {
            self.scrubbing.ask(partition);
        }
        is_here
    }

    /// How verifying its files stands, of each replica.
    #[must_use]
    pub fn scrubs(&self) -> BTreeMap<PartitionId, ScrubStatus> {
        self.replicas.load().iter().map(|(partition, hosted)| (*partition, hosted.scrub.status())).collect()
    }

    /// Bytes of answers that wait for the streams of this node to take them.
    #[must_use]
    pub fn answers_waiting(&self) -> &Gauge {
        self.metrics.answers_waiting()
    }

    /// The figures, as Prometheus' text.
    ///
    /// # Errors
    /// Never in practice: writing to a string.
    pub fn metrics(&self) -> Result<String, std::fmt::Error> {
        self.metrics.encode(&self.statuses())
    }

    /// Brings operations of one stream to a partition, in order.
    pub fn deliver_operations(&self, partition: PartitionId, operations: Vec<Arrival>, sender: &ReplySender) {
        let fail = Reply::unheard;
        let replicas = self.replicas.load();
        let Some(hosted) = replicas.get(&partition) else {
            let not_here =
                |arrival: &Arrival| fail(arrival.operation_id, Failure::NotLeader { leader: None });
            let failures = operations.iter().map(not_here).collect();
            sender.send(failures);
            return;
        };
        let mut failures = Vec::new();
        let mut accepted = Vec::with_capacity(operations.len());
        for arrival in operations {
            match hosted.budget.acquire(arrival.kind.size_bytes()) {
                Ok(permit) => accepted.push(Operation::new(arrival, sender.clone(), permit)),
                Err(failure) => failures.push(fail(arrival.operation_id, failure)),
            }
        }
        if !failures.is_empty() {
            sender.send(failures);
        }
        // What a stopped replica does not take is dropped, and so answers for itself.
        if let Err(TrySendError::Full(Delivery::Operations(refused))) =
            hosted.inbox.deliver(Delivery::Operations(accepted))
        {
            let mut replies = Replies::default();
            for operation in refused {
                let failure = Failure::Overloaded("the replica's inbox is full".into());
                replies.answer(operation, Epoch(0), Answer::Failed(failure));
            }
            replies.flush();
        }
    }

    /// Brings messages of a peer to a replica. What is meant for a partition that this node does not host,
    /// or for another life of it, is dropped.
    pub fn deliver_messages(
        &self,
        partition: PartitionId,
        partition_uuid: Ulid,
        from: Member,
        messages: Vec<Message>,
    ) {
        if let Some(hosted) = self.replicas.load().get(&partition)
            && hosted.uuid == partition_uuid
        {
            let bytes = messages.iter().map(Message::size_bytes).sum();
            // Peers send again what a full inbox did not take.
            if let Ok(permit) = hosted.messages_budget.acquire(bytes) {
                let _ = hosted.inbox.deliver(Delivery::Messages { from, messages, permit });
            }
        }
    }

    /// Follows the cluster's map until the node stops.
    pub async fn follow(self: Arc<Self>, mut tree: Watch) {
        loop {
            let map = ClusterMap::from_tree(&tree.borrow_and_update());
            let is_done = match map {
                Ok(map) => self.adopt(&map).await,
                Err(error) => {
                    let _ = self.fatal.send(error.into());
                    return;
                }
            };
            tokio::select! {
                () = tokio::time::sleep(PLACEMENT_RETRY), if !is_done || self.has_broken() => {}
                () = self.repairs.notified() => {}
                changed = tree.changed() => if changed.is_err() { return },
                () = self.stopping.cancelled() => return,
            }
        }
    }

    /// Does what a map asks for: places a new cluster's replicas, has our own started and stopped, and tells each
    /// its partition's state. Waits for none of them. False if that must be tried again although nothing changes.
    async fn adopt(self: &Arc<Self>, map: &ClusterMap) -> bool {
        let is_ours = self.is_ours(map);
        self.connected.store(map.connected && is_ours, Ordering::Relaxed);
        if !is_ours {
            return true;
        }
        let known = addresses(map);
        self.addresses.send_if_modified(|current| {
            let changed = *current != known;
            *current = known;
            changed
        });
        let is_placed = !map.connected || map.slots.is_some() || self.place(&map.live).await;
        let me = self.node();
        let assigned = map.partitions.iter().filter(|(_, found)| counts_on(&found.state, me));
        let mut unassigned = self.hosted_or_busy();
        self.note_drained(map);
        for (&partition, found) in assigned {
            unassigned.remove(&partition);
            self.want(partition, Want::Replica(found.clone()));
        }
        self.note_duties(map);
        // A map that was not read, or lacks a record, takes nothing away.
        unassigned.retain(|partition| map.partitions.contains_key(partition));
        for partition in unassigned {
            self.want(partition, Want::Nothing);
        }
        is_placed
    }

    /// False if the map is of no cluster, or another: then nothing in it is for us to act on. The coordination
    /// service lost its data, or somebody pointed it elsewhere; our replicas go on with what they know, as if it
    /// were away, and none is replaced by an empty one.
    fn is_ours(&self, map: &ClusterMap) -> bool {
        let ours = self.cluster.id;
        let theirs = map.cluster.as_ref().map(|cluster| cluster.id);
        if map.connected && theirs != Some(ours) {
            let theirs = theirs.map_or_else(|| "none".to_owned(), |id| id.to_string());
            error!(%ours, theirs, "the coordination service no longer holds this node's cluster: restore its data");
        }
        theirs == Some(ours)
    }

    /// False if the coordination service was away or busy: no change of the map need follow when it is back.
    async fn place(&self, live: &BTreeSet<NodeId>) -> bool {
        match bootstrap::place_initial(&*self.coordinator, &self.cluster, live).await {
            Ok(PlaceOutcome::Placed) => info!("the first replicas are placed"),
            Ok(outcome) => info!(?outcome, "not placed yet"),
            Err(error) if error.is_transient() => {
                warn!(%error, "the first replicas are not placed yet");
                return false;
            }
            Err(error) => error!(%error, "the first replicas cannot be placed"),
        }
        true
    }

    /// Takes no more operations, waits for those under way (bounded), then listens to nobody any more.
    pub async fn drain(&self) {
        self.draining.cancel();
        let drained = async {
            while self.replicas.load().values().any(|hosted| hosted.budget.used_bytes() > 0) {
                tokio::time::sleep(DRAIN_POLL).await;
            }
        };
        if tokio::time::timeout(DRAIN_TIMEOUT, drained).await.is_err() {
            warn!("stopping with operations under way: their outcome is unknown to those who asked");
        }
        self.stopping.cancel();
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Whether a partition counts on a node: it is to have a replica, or the leader's writes still wait for the one that it has.
fn counts_on(state: &PartitionState, node: NodeId) -> bool {
    let mut members = state.in_sync.iter().chain(&state.eligible);
    state.replicas.contains(&node) || members.any(|member| member.node == node)
}

/// What each replica's store may use for its index, mapped files and cached blocks. A store alone would take half of the
/// machine, and a node has several, and may share the machine with other nodes.
const REPLICA_MEMORY_BYTES: u64 = 1 << 30;
