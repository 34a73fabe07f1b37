//! Lanes: how the replicas of a node come and go. Each partition has a lane of its own, in which its replica is started and
//! stopped in order, beside those of all other partitions: to open a large store, or to wait until a stopped replica has let go
//! of its files, takes as long as it takes, and meanwhile the others hear of every map.
//!
//! ```text
//! Host::adopt -> want(partition, what) --- it runs as wanted, and its lane is free: it is told the state
//!                                      `-- else its lane's newest want, which takes the place of the one before
//! the lane, a task while there is a want: stop, until nothing of it is left on the disk; open; start; tell
//! ```
//!
//! A lane that is busy takes only the newest want: what was wanted in between nobody wants any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use paddock_coordination::cluster_map::Partition;
use paddock_coordination::{PartitionId, PartitionState};
use paddock_storage::Damage;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};
use ulid::Ulid;

use super::repair::Repair;
use super::{FatalError, Host, Hosted, MESSAGES_BYTES_MAX, OPERATIONS_BYTES_MAX, milliseconds};
use crate::clock::Clock;
use crate::configuration::ConfigurationClient;
use crate::inbox::inbox;
use crate::node::Place;
use crate::opening::{Faces, Identity, Opened, open_store};
use crate::operation::Budget;
use crate::replica::Event;
use crate::runtime::{Ended, OwnerLoop};
use crate::snapshot::{NetworkCourier, Served};

/// How many stores are opened at a time: each may fill its share of memory, and reads as fast as the disk gives.
const OPENINGS_MAX: usize = 8;
/// How often a stopped replica that does not let go of its disk is mentioned.
const LETTING_GO_NOTICE: Duration = Duration::from_secs(10);
/// How long a node that stops waits for lanes, and for what is under way on its disk.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// What this node is to have of a partition.
#[derive(Clone, Debug)]
pub(super) enum Want {
    /// A replica, that knows this state.
    Replica(Partition),
    /// None.
    Nothing,
    /// Nothing at this place either, where no replica runs.
    Removed(Place),
}

/// The lanes that are busy.
pub(super) struct Lanes {
    /// What each has to do when it is done with what it does.
    busy: Mutex<BTreeMap<PartitionId, Option<Want>>>,
    tasks: TaskTracker,
    opening: Semaphore,
}

impl Default for Lanes {
    fn default() -> Self {
        Lanes { busy: Mutex::default(), tasks: TaskTracker::new(), opening: Semaphore::new(OPENINGS_MAX) }
    }
}

impl Host {
    /// The partitions that have a replica here, or may be about to get one.
    pub(super) fn hosted_or_busy(&self) -> BTreeSet<PartitionId> {
        let busy = self.lanes.busy.lock();
        self.replicas.load().keys().chain(busy.keys()).copied().collect()
    }

    /// Has a partition's replica be as wanted, after whatever its lane is at.
    pub(super) fn want(self: &Arc<Self>, partition: PartitionId, want: Want) {
        let mut busy = self.lanes.busy.lock();
        if let Some(next) = busy.get_mut(&partition) {
            // What may be removed now can be removed later.
            if !matches!(want, Want::Removed(_)) {
                *next = Some(want);
            }
            return;
        }
        let hosted = self.replicas.load().get(&partition).cloned();
        match (&want, hosted) {
            (Want::Replica(found), Some(hosted)) if hosted.runs_as(found.state.partition_uuid) => {
                hosted.tell(found);
            }
            (Want::Nothing, None) | (Want::Removed(_), Some(_)) => {}
            _ => {
                busy.insert(partition, Some(want));
                drop(self.lanes.tasks.spawn(Arc::clone(self).work(partition)));
            }
        }
    }

    /// One lane, until nothing more is wanted of it.
    async fn work(self: Arc<Self>, partition: PartitionId) {
        while let Some(want) = self.next_want(partition) {
            match want {
                Want::Replica(found) => {
                    if let Err(error) = self.assign(partition, &found).await {
                        // Nobody listens any more when the node is stopping.
                        let _ = self.fatal.send(error);
                    }
                }
                Want::Removed(place) => self.remove_files(place).await,
                Want::Nothing => {
                    if self.replicas.load().contains_key(&partition) {
                        info!(%partition, "no longer a replica here");
                    }
                    self.remove(partition).await;
                }
            }
        }
    }

    /// What a lane is to do next; `None`: it is no longer busy. A node that stops starts nothing more.
    fn next_want(&self, partition: PartitionId) -> Option<Want> {
        let mut busy = self.lanes.busy.lock();
        let next = busy.get_mut(&partition).and_then(Option::take).filter(|_| !self.stopping.is_cancelled());
        if next.is_none() {
            busy.remove(&partition);
        }
        next
    }

    async fn assign(&self, partition: PartitionId, found: &Partition) -> Result<(), FatalError> {
        let current = self.replicas.load().get(&partition).cloned();
        let uuid = found.state.partition_uuid;
        let hosted = match current {
            Some(hosted) if hosted.runs_as(uuid) => hosted,
            current => {
                self.remove(partition).await;
                let ended = current.and_then(|hosted| hosted.ended.lock().take());
                if let Some(ended) = ended.filter(|ended| ended.uuid == uuid) {
                    self.repair(partition, ended).await;
                }
                if !self.may_start(partition, &found.state).await {
                    return Ok(());
                }
                let opened = match self.open(partition, &found.state).await {
                    Ok(Some(opened)) => opened,
                    Ok(None) => return Ok(()),
                    Err(error) => {
                        let damage = error.damage().ok_or(error)?;
                        self.note_broken(partition, uuid, &damage);
                        return Ok(());
                    }
                };
                self.start(partition, &found.state, opened)?
            }
        };
        hosted.tell(found);
        Ok(())
    }

    /// Opens a replica's store; `None`: the node is stopping.
    async fn open(
        &self,
        partition: PartitionId,
        state: &PartitionState,
    ) -> Result<Option<(Identity, Opened)>, FatalError> {
        let identity = Identity {
            partition,
            partition_uuid: state.partition_uuid,
            node: self.node(),
            life: self.directory.life(),
            lease_ms: self.cluster.lease_ms,
            random: Ulid::generate().0,
        };
        let (path, options) = (self.directory.store(partition, state.partition_uuid), self.storage.clone());
        let Ok(_turn) = self.lanes.opening.acquire().await else { return Ok(None) };
        let opened = tokio::task::spawn_blocking(move || {
            let opened = open_store(&identity, &path, options);
            (identity, opened)
        });
        let (identity, opened) = opened.await.map_err(|_| FatalError::Panicked { partition })?;
        let opened = opened?;
        Ok((!self.stopping.is_cancelled()).then_some((identity, opened)))
    }

    /// Starts a replica on its store.
    fn start(
        &self,
        partition: PartitionId,
        state: &PartitionState,
        (identity, opened): (Identity, Opened),
    ) -> Result<Arc<Hosted>, FatalError> {
        let uuid = state.partition_uuid;
        let (inbox, outlet) = inbox();
        let bell = inbox.clone();
        opened.store.when_relieved(move || bell.wake());
        let served = Served {
            partition,
            partition_uuid: uuid,
            generation: opened.facts.generation,
            place: self.directory.store(partition, uuid),
            inbox: inbox.clone(),
        };
        let courier = NetworkCourier::new(Arc::clone(&self.catch_up), served);
        let (outgoing, tasks) = (courier.outgoing(), courier.tasks());
        let faces = Faces {
            outlet,
            courier: Box::new(courier),
            peers: self.network.sender(partition, uuid, opened.facts.generation),
            configuration: ConfigurationClient::start(
                Arc::clone(&self.coordinator),
                partition,
                inbox.clone(),
            ),
            metrics: self.metrics.replica(partition.0),
            clock: Clock::system(),
        };
        let mut owner = OwnerLoop::new(&identity, opened, faces);
        owner.stalled_after_ms = milliseconds(self.stalls.hand_over_after);
        let hosted = Arc::new(Hosted {
            uuid,
            inbox,
            budget: Budget::new(OPERATIONS_BYTES_MAX),
            messages_budget: Budget::new(MESSAGES_BYTES_MAX),
            reader: Arc::clone(&owner.shared_reader),
            scrubber: Arc::clone(&owner.shared_scrubber),
            scrub: self.scrubbing.replica(uuid),
            watch: Arc::clone(&owner.watch),
            outgoing,
            tasks,
            metrics: Arc::clone(&owner.metrics),
            status: owner.status.clone(),
            told: Mutex::new(None),
            state: arc_swap::ArcSwap::from_pointee(state.clone()),
            told_drained: Mutex::default(),
            thread: Mutex::new(None),
            ended: Arc::default(),
        });
        self.run(partition, &hosted, owner)?;
        self.replicas.rcu(|replicas| {
            let mut replicas = BTreeMap::clone(replicas);
            replicas.insert(partition, Arc::clone(&hosted));
            replicas
        });
        // Whoever told all replicas of these while this one was not among them.
        hosted.tell_drained(&self.drained.load());
        if self.is_leaving() {
            hosted.inbox.control(Event::Leave);
        }
        Ok(hosted)
    }

    /// Gives an owner loop its thread.
    fn run(&self, partition: PartitionId, hosted: &Hosted, owner: OwnerLoop) -> Result<(), FatalError> {
        let (fatal, repairs) = (self.fatal.clone(), Arc::clone(&self.repairs));
        let (uuid, ended) = (hosted.uuid, Arc::clone(&hosted.ended));
        let thread = std::thread::Builder::new()
            .name(format!("partition-{partition}"))
            .spawn(move || {
                // A panic is a broken invariant: the node must not go on beside it.
                let error = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| owner.run())) {
                    Ok(Ok(Ended::Stopped)) => return,
                    // It cannot go on with this store. The node can.
                    Ok(Ok(Ended::Abandoned)) => {
                        *ended.lock() = Some(Repair { uuid, damage: None });
                        return repairs.notify_one();
                    }
                    Ok(Err(source)) if Damage::of(&source).is_some() => {
                        *ended.lock() = Some(Repair { uuid, damage: Damage::of(&source) });
                        return repairs.notify_one();
                    }
                    Ok(Err(source)) => FatalError::Store { partition, source },
                    Err(_) => FatalError::Panicked { partition },
                };
                // Nobody listens any more when the node is stopping.
                let _ = fatal.send(error);
            })
            .map_err(|source| FatalError::Thread { partition, source })?;
        *hosted.thread.lock() = Some(thread);
        Ok(())
    }

    /// Stops a partition's replica, if there is one, and waits until nothing of it is under way on the disk: who opens the
    /// store again must not meet that.
    async fn remove(&self, partition: PartitionId) {
        let Some(hosted) = self.replicas.load().get(&partition).cloned() else { return };
        self.replicas.rcu(|replicas| {
            let mut replicas = BTreeMap::clone(replicas);
            replicas.remove(&partition);
            replicas
        });
        hosted.end().await;
        while timeout(LETTING_GO_NOTICE, hosted.tasks.wait()).await.is_err() {
            warn!(%partition, "a stopped replica has snapshots under way on the disk; it is not started before they end");
        }
    }

    /// Stops every replica. To be called when [`Host::follow`] has ended: it would start them again.
    pub async fn stop_replicas(&self) {
        self.lanes.tasks.close();
        if timeout(STOP_TIMEOUT, self.lanes.tasks.wait()).await.is_err() {
            warn!("stopping while replicas are being started or stopped");
        }
        let replicas = self.replicas.swap(Arc::default());
        for hosted in replicas.values() {
            hosted.inbox.stop();
        }
        join_all(replicas.values().map(|hosted| hosted.end())).await;
        let let_go = join_all(replicas.values().map(|hosted| hosted.tasks.wait()));
        if timeout(STOP_TIMEOUT, let_go).await.is_err() {
            warn!("stopping with snapshots under way on the disk");
        }
    }
}

impl Hosted {
    /// Whether this is the replica of a partition's life, and its owner loop has not ended because of its store.
    fn runs_as(&self, uuid: Ulid) -> bool {
        self.uuid == uuid && self.ended.lock().is_none()
    }

    /// Ends its owner loop, which closes its store.
    async fn end(&self) {
        self.inbox.stop();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            // A thread that panicked has said so itself.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        self.tasks.close();
    }
}
