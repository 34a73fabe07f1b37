//! How a replica comes to life: from its store's directory to an owner loop that is ready to run. Nothing here knows
//! threads or the network; whoever opens a replica says how it is to be driven, by its [`Faces`].

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use paddock_coordination::{Epoch, Member, NodeId, PartitionId};
use paddock_storage::{Options, ReplicatedStore};
use tracing::{error, info, warn};
use ulid::Ulid;

use crate::clock::Clock;
use crate::configuration::ConfigurationClient;
use crate::facts::{Facts, KEY_FORMAT};
use crate::host::FatalError;
use crate::inbox::Outlet;
use crate::metrics::ReplicaMetrics;
use crate::peer::PeerSender;
use crate::replica::config::LOG_READ_BYTES_MAX;
use crate::replica::{DurableState, Replica, ReplicaConfig};
use crate::retries::Retries;
use crate::runtime::{OwnerLoop, Round};
use crate::snapshot::Courier;
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
    /// Which life of the node's data directory this is.
    pub life: u64,
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
    /// Who carries snapshots.
    pub courier: Box<dyn Courier>,
    /// Where writes of the partition's state leave.
    pub configuration: ConfigurationClient,
    /// Its counters.
    pub metrics: Arc<ReplicaMetrics>,
    /// What tells it the time.
    pub clock: Clock,
}

/// What a replica finds when it starts.
pub struct Opened {
    /// Its log and rows.
    pub store: ReplicatedStore,
    /// What it must remember for ever.
    pub facts: Facts,
    /// What became of writes that carried an id.
    pub retries: Retries,
}

/// Opens the replica's store that counts at a place, and removes what else is there; makes it where there is none, as a
/// new life of the replica's data.
///
/// # Errors
/// The store cannot be opened, or holds facts or keys that this build cannot read.
pub fn open_store(identity: &Identity, place: &Path, options: Options) -> Result<Opened, FatalError> {
    let partition = identity.partition;
    let store_error = |source| FatalError::Store { partition, source };
    let path = ReplicatedStore::settle(place, &options).map_err(store_error)?;
    let mut store = ReplicatedStore::open(&path, options).map_err(store_error)?;
    let recovery = store.recovery();
    info!(%partition, path = %path.display(), entries = recovery.entries, "opened the store");
    if recovery.torn_bytes > 0 {
        warn!(%partition, path = %path.display(), torn_bytes = recovery.torn_bytes,
            "dropped the end of the log, which a crash cut short before it was acknowledged");
    }
    if store.metadata().is_empty() {
        let facts = Facts::new(identity.partition_uuid, identity.life, identity.random);
        store.set_metadata(&facts.encode()).map_err(store_error)?;
        return Ok(Opened { store, facts, retries: Retries::default() });
    }
    let mut facts =
        Facts::decode(store.metadata()).map_err(|source| FatalError::Facts { partition, source })?;
    if facts.key_format == 0 {
        if has_zero_keys(&store).map_err(store_error)? {
            return Err(FatalError::OldKeys { partition });
        }
        facts.key_format = KEY_FORMAT;
        store.set_metadata(&facts.encode()).map_err(store_error)?;
    }
    if facts.life != identity.life {
        let former = facts.generation;
        facts.begin_generation(identity.life, identity.random);
        error!(%partition, path = %path.display(), %former, generation = %facts.generation, last = %store.last().sequence,
            "of an older copy of the node's data: a new generation, which counts for nothing until it is filled up");
        store.set_metadata(&facts.encode()).map_err(store_error)?;
    }
    if let Some(fault) = &facts.fault {
        error!(%partition, path = %path.display(), ?fault, "this store is not to be relied on, as was found before");
    }
    let retries = Retries::load(&store).map_err(store_error)?;
    Ok(Opened { store, facts, retries })
}

/// Whether a store of an earlier build has a key that begins with a zero byte, which would now be read as another one.
fn has_zero_keys(store: &ReplicatedStore) -> Result<bool, paddock_storage::Error> {
    let (first, _) = store.reader().page(None, 1, 0)?;
    if first.iter().any(|record| record.key.first() == Some(&0)) {
        return Ok(true);
    }
    let mut read = store.applied();
    while read < store.last().sequence {
        let log = store.read_log(read, LOG_READ_BYTES_MAX)?;
        let Some(last) = log.last() else { break };
        read = last.last();
        if log.iter().any(|run| run.rows.iter().any(|row| row.key().is_some_and(|key| key.starts_with(&[0]))))
        {
            return Ok(true);
        }
    }
    Ok(false)
}

impl OwnerLoop {
    /// The owner loop of a replica whose store was just opened.
    #[must_use]
    pub fn new(identity: &Identity, opened: Opened, faces: Faces) -> Self {
        let Opened { store, facts, retries } = opened;
        let Faces { outlet, peers, courier, configuration, metrics, clock } = faces;
        let config = ReplicaConfig {
            partition: identity.partition,
            partition_uuid: facts.partition_uuid,
            member: Member { node: identity.node, generation: facts.generation },
            lease_ms: identity.lease_ms,
            nonce_seed: identity.random,
        };
        let (lineage, fault) = (facts.lineage, facts.fault.clone());
        let state = DurableState { lineage, fault, ..durable_state(&store, facts.epoch_seen) };
        let replica = Replica::new(config, state, clock.now());
        OwnerLoop {
            partition: identity.partition,
            status: StatusCell::new(identity.partition, &replica, &store, &retries),
            retries,
            reader: store.reader(),
            shared_reader: Arc::new(ArcSwap::from_pointee(store.reader())),
            shared_scrubber: Arc::new(ArcSwap::from_pointee(store.scrubber())),
            replica,
            store,
            facts,
            outlet,
            peers,
            courier,
            configuration,
            metrics,
            clock,
            watch: Arc::default(),
            stalled_after_ms: u64::MAX,
            round: Round::default(),
        }
    }
}

/// What a store's log says to the core.
#[must_use]
pub fn durable_state(store: &ReplicatedStore, epoch_seen: Epoch) -> DurableState {
    DurableState {
        last: store.last(),
        durable: store.durable(),
        applied: store.applied(),
        known_commit: store.known_commit(),
        epochs: store.epochs().to_vec(),
        epoch_seen,
        ..DurableState::default()
    }
}
