//! Catch-up by snapshot: a follower that lacks what its leader's log no longer has gets a copy of the leader's whole store.
//!
//! ```text
//! leader's core:    SendSnapshot -> a checkpoint beside the store, out of links       outgoing.rs
//!                   SnapshotReady -> Message::Snapshot, until the follower has it
//! follower's core:  FetchSnapshot -> FetchSnapshot call to the leader's node          fetch.rs
//! leader's node:    the copy's files, in pieces, paced                                service/snapshot.rs
//! follower:         written beside the store, fsynced, opened, every byte verified
//!                   SnapshotFetched -> InstallSnapshot: one replaced MANIFEST         runtime/snapshots.rs
//! then the log, from the copy's last entry on
//! ```
//!
//! A node sends one snapshot at a time and receives one at a time; others wait. Both ends take their bytes from a [`Pace`]. Who
//! takes nothing, or sends nothing, for [`CatchUpOptions::stall_timeout`] is cut off, so that nobody holds a turn for ever. A
//! transfer that breaks begins anew, after a pause: the leader keeps its copy, and says again that it has it.
//!
//! A node receives nothing that would take what is to stay free on its disk ([`CatchUpOptions::snapshot_reserve_bytes`]): its
//! other replicas live from that.
//!
//! The owner loop speaks to a [`Courier`], so that a test may carry snapshots in another way, or none.

mod fetch;
mod outgoing;
mod pace;
mod spread;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use paddock_coordination::{ClusterId, Epoch, Generation, Member, NodeId, PartitionId};
use paddock_storage::{Checkpointer, LogRetention, Options, Position, ReplicatedStore};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};
use ulid::Ulid;

use crate::assignment::Addresses;
use crate::inbox::Inbox;
use crate::metrics::SnapshotMetrics;
use crate::opening::durable_state;
use crate::replica::Event;
use crate::retries::Retries;

pub use fetch::FetchError;
pub use outgoing::{Kept, Outgoing};
pub use pace::{Foreground, Pace};

/// The bytes of one piece of a file.
pub const PIECE_BYTES: usize = 1 << 20;
/// How many snapshots a node sends at a time, and how many it receives.
const TRANSFERS_MAX: usize = 1;
/// How much of the log a replica keeps if nothing else is said.
pub const LOG_RETENTION_BYTES: u64 = 1 << 30;
/// How fast a node sends or receives snapshots at most if nothing else is said.
pub const BYTES_PER_SECOND: u64 = 256 << 20;
/// What of a node's disk stays free of snapshots if nothing else is said.
pub const RESERVE_BYTES: u64 = 1 << 30;
/// For how long a transfer may stand still if nothing else is said.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How replicas catch up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatchUpOptions {
    /// About how many bytes of log each replica keeps beyond what its runs do not hold yet. A follower that lacks more gets a
    /// snapshot.
    pub log_retention_bytes: u64,
    /// How many bytes of snapshots a node sends in a second at most, and how many it receives. Fewer while fsyncs take
    /// longer than they did before.
    pub snapshot_bytes_per_second: u64,
    /// What has to stay free on a node's disk while it receives a snapshot: for the log, the runs and the compaction of its
    /// replicas. One that does not fit beside that is not begun, and one that comes upon it is given up, and tried again later.
    pub snapshot_reserve_bytes: u64,
    /// How long the other end of a transfer may take for one piece. Then it is cut off.
    pub stall_timeout: Duration,
}

impl Default for CatchUpOptions {
    fn default() -> Self {
        CatchUpOptions {
            log_retention_bytes: LOG_RETENTION_BYTES,
            snapshot_bytes_per_second: BYTES_PER_SECOND,
            snapshot_reserve_bytes: RESERVE_BYTES,
            stall_timeout: STALL_TIMEOUT,
        }
    }
}

impl CatchUpOptions {
    /// How the stores of replicas keep their logs.
    #[must_use]
    pub fn log_retention(&self) -> LogRetention {
        LogRetention::Bytes(self.log_retention_bytes)
    }
}

/// A snapshot on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The node at the other end.
    pub peer: NodeId,
    /// Whether it comes here.
    pub is_incoming: bool,
    /// Bytes that have been transferred.
    pub done_bytes: u64,
    /// Bytes in all; 0 while that is not known.
    pub total_bytes: u64,
}

/// A copy that a leader keeps for this replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// The leader.
    pub from: Member,
    /// Its epoch.
    pub epoch: Epoch,
    /// Which copy it is in that epoch.
    pub attempt: u64,
    /// The last entry of its log.
    pub last: Position,
    /// Which fetch it is, for the answer.
    pub fetch: u64,
}

/// Why the last fetch of a replica failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchFailure {
    /// From whom.
    pub from: NodeId,
    /// Why, in words.
    pub why: String,
}

/// Who carries the snapshots of one replica. Nothing here waits: what takes time is answered with an event.
pub trait Courier: Send {
    /// Has a copy of the store written for a follower, the so-many-th one of an epoch; answered with
    /// [`Event::SnapshotReady`].
    fn make(&mut self, to: NodeId, epoch: Epoch, attempt: u64, last: Position, checkpointer: Checkpointer);
    /// Forgets the copy for a follower.
    fn forget(&mut self, to: NodeId);
    /// Forgets all copies for followers.
    fn forget_all(&mut self);
    /// Fetches the copy that a leader keeps for this replica, in place of any that is being fetched; answered with
    /// [`Event::SnapshotFetched`].
    fn fetch(&mut self, order: Order);
    /// Why the last fetch failed, if it did.
    fn failure(&self) -> Option<FetchFailure>;
    /// Stops fetching, and forgets what was fetched.
    fn discard(&mut self);
    /// What was fetched, open and verified.
    fn take(&mut self) -> Option<FetchedStore>;
    /// Closes a store whose place another one has taken, and removes its files.
    fn bury(&mut self, store: ReplicatedStore);
    /// What is on its way.
    fn transfers(&self) -> Vec<Transfer>;
}

/// A courier that carries nothing, for a replica whose log keeps everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoCourier;

impl Courier for NoCourier {
    fn make(&mut self, _: NodeId, _: Epoch, _: u64, _: Position, _: Checkpointer) {}
    fn forget(&mut self, _: NodeId) {}
    fn forget_all(&mut self) {}
    fn fetch(&mut self, _: Order) {}
    fn failure(&self) -> Option<FetchFailure> {
        None
    }
    fn discard(&mut self) {}
    fn take(&mut self) -> Option<FetchedStore> {
        None
    }
    fn bury(&mut self, _: ReplicatedStore) {}
    fn transfers(&self) -> Vec<Transfer> {
        Vec::new()
    }
}

/// A store that was fetched, and does not count yet. Dropped, its files go.
#[derive(Debug)]
pub struct FetchedStore {
    store: Option<(ReplicatedStore, Retries)>,
    options: Options,
}

impl FetchedStore {
    /// One that was just finished, and what became of the writes in it that carried an id.
    #[must_use]
    pub fn new(store: ReplicatedStore, retries: Retries, options: Options) -> Self {
        FetchedStore { store: Some((store, retries)), options }
    }

    /// The store, whose files stay from here on.
    #[must_use]
    pub fn into_store(mut self) -> Option<(ReplicatedStore, Retries)> {
        self.store.take()
    }
}

impl Drop for FetchedStore {
    fn drop(&mut self) {
        if let Some((store, _)) = self.store.take() {
            remove(store, &self.options);
        }
    }
}

/// Closes a store that does not count (any more), and removes its files.
fn remove(store: ReplicatedStore, options: &Options) {
    let path = store.path().to_owned();
    drop(store);
    if let Err(error) = ReplicatedStore::remove_directory(&path, options) {
        warn!(%error, "files of a replaced store stay until the next start");
    }
}

/// What the replicas of one node share in carrying snapshots.
#[derive(Debug)]
pub struct CatchUp {
    cluster: ClusterId,
    me: NodeId,
    addresses: watch::Receiver<Addresses>,
    runtime: tokio::runtime::Handle,
    storage: Options,
    sending: Arc<Semaphore>,
    receiving: Arc<Semaphore>,
    pace: Pace,
    reserve_bytes: u64,
    stall_timeout: Duration,
    stopping: CancellationToken,
    metrics: SnapshotMetrics,
}

/// What a node says of itself to carry snapshots.
#[derive(Debug)]
pub struct CatchUpNode {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Itself.
    pub me: NodeId,
    /// Where the others are.
    pub addresses: watch::Receiver<Addresses>,
    /// How its stores are opened.
    pub storage: Options,
    /// Cancelled when it stops.
    pub stopping: CancellationToken,
}

impl CatchUp {
    /// To be called inside the async runtime that is to carry.
    #[must_use]
    pub fn new(
        node: CatchUpNode,
        options: &CatchUpOptions,
        foreground: Arc<Foreground>,
        metrics: SnapshotMetrics,
    ) -> Arc<Self> {
        let CatchUpNode { cluster, me, addresses, storage, stopping } = node;
        Arc::new(CatchUp {
            cluster,
            me,
            addresses,
            runtime: tokio::runtime::Handle::current(),
            storage,
            sending: Arc::new(Semaphore::new(TRANSFERS_MAX)),
            receiving: Arc::new(Semaphore::new(TRANSFERS_MAX)),
            pace: Pace::new(options.snapshot_bytes_per_second, foreground),
            reserve_bytes: options.snapshot_reserve_bytes,
            stall_timeout: options.stall_timeout,
            stopping,
            metrics,
        })
    }

    /// The turn to send.
    #[must_use]
    pub fn sending(&self) -> Arc<Semaphore> {
        Arc::clone(&self.sending)
    }

    /// What is sent and received is taken from here.
    #[must_use]
    pub fn pace(&self) -> &Pace {
        &self.pace
    }

    /// How long the other end of a transfer may take for one piece.
    #[must_use]
    pub fn stall_timeout(&self) -> Duration {
        self.stall_timeout
    }

    /// Counters.
    #[must_use]
    pub fn metrics(&self) -> &SnapshotMetrics {
        &self.metrics
    }
}

/// Which replica a courier serves.
#[derive(Clone, Debug)]
pub struct Served {
    /// The partition.
    pub partition: PartitionId,
    /// Its life.
    pub partition_uuid: Ulid,
    /// The replica's generation.
    pub generation: Generation,
    /// The place of its store.
    pub place: PathBuf,
    /// Where its owner loop hears.
    pub inbox: Inbox,
}

/// The courier of a replica of a real node.
pub struct NetworkCourier {
    shared: Arc<CatchUp>,
    served: Served,
    outgoing: Arc<Outgoing>,
    tasks: TaskTracker,
    fetch: Option<Fetch>,
    failure: Arc<Mutex<Option<FetchFailure>>>,
}

/// A snapshot that is being fetched, or was.
struct Fetch {
    from: NodeId,
    cancelled: CancellationToken,
    progress: Arc<Progress>,
    fetched: Arc<Mutex<Option<FetchedStore>>>,
}

/// How far a transfer is.
#[derive(Debug, Default)]
pub struct Progress {
    done_bytes: AtomicU64,
    total_bytes: AtomicU64,
}

impl Progress {
    fn begin(&self, total_bytes: u64) {
        self.done_bytes.store(0, Ordering::Relaxed);
        self.total_bytes.store(total_bytes, Ordering::Relaxed);
    }

    fn add(&self, bytes: u64) {
        self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn transfer(&self, peer: NodeId, is_incoming: bool) -> Transfer {
        Transfer {
            peer,
            is_incoming,
            done_bytes: self.done_bytes.load(Ordering::Relaxed),
            total_bytes: self.total_bytes.load(Ordering::Relaxed),
        }
    }
}

impl NetworkCourier {
    /// The courier of one replica.
    #[must_use]
    pub fn new(shared: Arc<CatchUp>, served: Served) -> Self {
        let (outgoing, failure) = (Arc::default(), Arc::default());
        NetworkCourier { shared, served, outgoing, tasks: TaskTracker::new(), fetch: None, failure }
    }

    /// The copies that it keeps, for those who send them.
    #[must_use]
    pub fn outgoing(&self) -> Arc<Outgoing> {
        Arc::clone(&self.outgoing)
    }

    /// What it has under way on the disk: to be waited for before the place is opened again.
    #[must_use]
    pub fn tasks(&self) -> TaskTracker {
        self.tasks.clone()
    }

    fn in_background(&self, work: impl FnOnce() + Send + 'static) {
        drop(self.tasks.spawn_blocking_on(work, &self.shared.runtime));
    }
}

impl Courier for NetworkCourier {
    fn make(&mut self, to: NodeId, epoch: Epoch, attempt: u64, last: Position, checkpointer: Checkpointer) {
        self.outgoing.expect(to, epoch, attempt);
        let (outgoing, shared, served) =
            (Arc::clone(&self.outgoing), Arc::clone(&self.shared), self.served.clone());
        self.in_background(move || {
            let name = format!("{to}-{}", Ulid::generate());
            let Served { partition, place, inbox, .. } = served;
            let last = match paddock_storage::OutgoingCopy::write(checkpointer, &place, &name, &shared.storage) {
                Ok(copy) if copy.last() == last.sequence => {
                    let kept = Kept::new(epoch, attempt, last, copy);
                    info!(%partition, %to, %epoch, attempt, last = %last.sequence, bytes = kept.total_bytes(),
                        "the log no longer has what a follower lacks: it gets a snapshot");
                    if !outgoing.keep(to, kept) {
                        return;
                    }
                    Some(last)
                }
                Ok(copy) => {
                    warn!(%partition, %to, ends = %copy.last(), expected = %last.sequence, "a snapshot ends elsewhere");
                    None
                }
                Err(error) => {
                    warn!(%partition, %to, %error, "a snapshot could not be made");
                    None
                }
            };
            inbox.control(Event::SnapshotReady { to, epoch, attempt, last });
        });
    }

    fn forget(&mut self, to: NodeId) {
        if let Some(kept) = self.outgoing.forget(to) {
            self.in_background(move || drop(kept));
        }
    }

    fn forget_all(&mut self) {
        let all = self.outgoing.forget_all();
        if !all.is_empty() {
            self.in_background(move || drop(all));
        }
    }

    fn fetch(&mut self, order: Order) {
        self.discard();
        let Order { from, fetch: number, .. } = order;
        let cancelled = self.shared.stopping.child_token();
        let progress = Arc::new(Progress::default());
        let fetched = Arc::new(Mutex::new(None));
        self.fetch = Some(Fetch {
            from: from.node,
            cancelled: cancelled.clone(),
            progress: Arc::clone(&progress),
            fetched: Arc::clone(&fetched),
        });
        let (shared, served) = (Arc::clone(&self.shared), self.served.clone());
        let (tasks, failure) = (self.tasks.clone(), Arc::clone(&self.failure));
        let fetching = async move {
            let outcome = tokio::select! {
                outcome = fetch::fetch(&shared, &served, &tasks, order, &progress) => outcome,
                () = cancelled.cancelled() => return,
            };
            let state = match outcome {
                Ok((store, state)) => {
                    let mut fetched = fetched.lock();
                    if cancelled.is_cancelled() {
                        drop(tasks.spawn_blocking(move || drop(store)));
                        return;
                    }
                    *fetched = Some(store);
                    Some(state)
                }
                Err(error) => {
                    warn!(partition = %served.partition, from = %from.node, %error, "a snapshot was not fetched");
                    shared.metrics.failed(error.reason());
                    *failure.lock() = Some(FetchFailure { from: from.node, why: error.to_string() });
                    None
                }
            };
            served.inbox.control(Event::SnapshotFetched { fetch: number, state });
        };
        drop(self.tasks.spawn_on(fetching, &self.shared.runtime));
    }

    fn discard(&mut self) {
        if let Some(fetch) = self.fetch.take() {
            let fetched = {
                let mut fetched = fetch.fetched.lock();
                fetch.cancelled.cancel();
                fetched.take()
            };
            if let Some(store) = fetched {
                self.in_background(move || drop(store));
            }
        }
    }

    fn take(&mut self) -> Option<FetchedStore> {
        let fetch = self.fetch.take()?;
        let fetched = fetch.fetched.lock().take()?;
        self.shared.metrics.installed.inc();
        *self.failure.lock() = None;
        let bell = self.served.inbox.clone();
        if let Some((store, _)) = &fetched.store {
            store.when_relieved(move || bell.wake());
        }
        Some(fetched)
    }

    fn failure(&self) -> Option<FetchFailure> {
        self.failure.lock().clone()
    }

    fn bury(&mut self, store: ReplicatedStore) {
        let options = self.shared.storage.clone();
        self.in_background(move || remove(store, &options));
    }

    fn transfers(&self) -> Vec<Transfer> {
        let incoming = self.fetch.iter().map(|fetch| fetch.progress.transfer(fetch.from, true));
        incoming.chain(self.outgoing.transfers()).collect()
    }
}

impl Drop for NetworkCourier {
    fn drop(&mut self) {
        self.discard();
        self.forget_all();
        self.tasks.close();
    }
}
