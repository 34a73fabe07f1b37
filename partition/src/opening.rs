//! How a replica comes to life: from its store's directory to an owner loop that is ready to run. Nothing here knows
//! threads or the network; whoever opens a replica says how it is to be driven, by its [`Faces`].

use std::path::Path;
use std::sync::Arc;

use paddock_coordination::{Member, NodeId, PartitionId};
use paddock_storage::{Options, ReplicatedStore};
use tracing::{info, warn};
use ulid::Ulid;

use crate::clock::Clock;
use crate::configuration::ConfigurationClient;
use crate::facts::Facts;
use crate::host::FatalError;
use crate::inbox::Outlet;
use crate::metrics::ReplicaMetrics;
use crate::peer::PeerSender;
use crate::replica::{DurableState, Replica, ReplicaConfig};
use crate::runtime::{OwnerLoop, Round};
use crate::status::StatusCell;

/// Who a replica is, in one start of its process.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Which partition.
    pub partition: PartitionId,
    /// Which life of it.
    pub partition_uuid: Ulid,
    /// On which node.
    pub node: NodeId,
    /// The cluster's lease, in milliseconds.
    pub lease_ms: u64,
    /// 128 random bits, fresh at every start.
    pub random: u128,
}

/// Where a replica hears and speaks.
pub struct Faces {
    /// What arrives.
    pub outlet: Outlet,
    /// Where messages leave.
    pub peers: PeerSender,
    /// Where writes of the partition's state leave.
    pub configuration: ConfigurationClient,
    /// Its counters.
    pub metrics: Arc<ReplicaMetrics>,
    /// What tells it the time.
    pub clock: Clock,
}

/// Opens a replica's store, and makes it where there is none, as a new life of the replica's data.
///
/// # Errors
/// The store cannot be opened, or holds facts that this build cannot read.
pub fn open_store(
    identity: &Identity,
    path: &Path,
    options: Options,
) -> Result<(ReplicatedStore, Facts), FatalError> {
    let partition = identity.partition;
    let store_error = |source| FatalError::Store { partition, source };
    let mut store = ReplicatedStore::open(path, options).map_err(store_error)?;
    let recovery = store.recovery();
    info!(%partition, path = %path.display(), entries = recovery.entries, "opened the store");
    if recovery.torn_bytes > 0 {
        warn!(%partition, path = %path.display(), torn_bytes = recovery.torn_bytes,
            "dropped the end of the log, which a crash cut short before it was acknowledged");
    }
    if store.metadata().is_empty() {
        let facts = Facts::new(identity.partition_uuid, identity.random);
        store.set_metadata(&facts.encode()).map_err(store_error)?;
        return Ok((store, facts));
    }
    let facts = Facts::decode(store.metadata()).map_err(|source| FatalError::Facts { partition, source })?;
    Ok((store, facts))
}

impl OwnerLoop {
    /// The owner loop of a replica whose store was just opened.
    #[must_use]
    pub fn new(identity: &Identity, store: ReplicatedStore, facts: Facts, faces: Faces) -> Self {
        let Faces { outlet, peers, configuration, metrics, clock } = faces;
        let config = ReplicaConfig {
            partition: identity.partition,
            partition_uuid: facts.partition_uuid,
            member: Member { node: identity.node, generation: facts.generation },
            lease_ms: identity.lease_ms,
            nonce_seed: identity.random,
        };
        let replica = Replica::new(config, durable_state(&store, &facts), clock.now());
        OwnerLoop {
            partition: identity.partition,
            status: StatusCell::new(identity.partition, &replica, &store),
            reader: store.reader(),
            replica,
            store,
            facts,
            outlet,
            peers,
            configuration,
            metrics,
            clock,
            round: Round::default(),
        }
    }
}

fn durable_state(store: &ReplicatedStore, facts: &Facts) -> DurableState {
    DurableState {
        last: store.last(),
        durable: store.durable(),
        applied: store.applied(),
        known_commit: store.known_commit(),
        epochs: store.epochs().to_vec(),
        epoch_seen: facts.epoch_seen,
    }
}
