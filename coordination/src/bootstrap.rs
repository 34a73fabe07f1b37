//! How a cluster comes into being.
//!
//! Two steps, each of which every partition server attempts, and each of which has one outcome whoever
//! comes first and wherever anyone crashes:
//!
//! 1. [`ensure_cluster`]: the first server with a fresh data directory creates `/cluster`. Create is atomic,
//!    so all others read what it wrote. A server whose data directory already belongs to a cluster never
//!    creates one: the coordination service must show that cluster, else somebody pointed it elsewhere, or
//!    the coordination service lost its data; a new, empty cluster over old data would help nobody.
//! 2. [`place_initial`]: once `initial_nodes` nodes are live, and where the coordination service still shows the
//!    cluster that this server has joined, whoever notices
//!    - creates `/placement` with the live nodes it sees. Contenders may see different ones, but only one
//!      create succeeds, and everybody goes on from what stands there;
//!    - creates `/partitions/<p>/state` for each partition. The replicas follow from `/placement` alone, so it
//!      does not matter who creates which, nor if its creator dies in between: the next one fills the gaps
//!      and changes nothing that is there;
//!    - creates `/slots`, last: where the slots are, every partition is.
//!
//! What this does not do: move replicas of a cluster that lives, or wait. The callers watch, and call again.

use std::collections::BTreeSet;

use ulid::Ulid;

use crate::cluster_map::{self, MapError};
use crate::ids::{ClusterId, NodeId, PartitionId};
use crate::paths;
use crate::records::{self, ClusterRecord, FORMAT, PartitionState, Placement, SlotTable};
use crate::slots::{SLOT_COUNT, SlotsError};
use crate::store::{Coordinator, Error, Versioned};

/// The feature level that a new cluster starts at.
pub const FEATURE_LEVEL: u32 = 1;

/// The most replicas of a partition.
pub const REPLICATION_FACTOR_MAX: u32 = 7;

/// The shortest lease: below it, scheduling alone would end it now and then.
pub const LEASE_MS_MIN: u64 = 100;

/// The longest lease: a failover takes that long.
pub const LEASE_MS_MAX: u64 = 60_000;

/// How often a create that lost its race, or whose outcome is unknown, is followed by another look.
const ATTEMPTS_MAX: u32 = 5;

/// What a cluster is made with, from the flags of whichever server creates it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCluster {
    /// How many partitions.
    pub partitions: u32,
    /// How many replicas each gets.
    pub replication_factor: u32,
    /// How many live nodes placement waits for: the replication factor at least.
    pub initial_nodes: u32,
    /// The lease, in milliseconds.
    pub lease_ms: u64,
}

impl NewCluster {
    /// Checks the figures against their limits.
    ///
    /// # Errors
    /// [`BootstrapError::Invalid`], naming the figure and its limit.
    pub fn validate(&self) -> Result<(), BootstrapError> {
        let within = |what: &'static str, found: u64, least: u64, most: u64| {
            if (least..=most).contains(&found) {
                return Ok(());
            }
            Err(BootstrapError::Invalid { what, found, least, most })
        };
        within("partitions", self.partitions.into(), 1, SLOT_COUNT.into())?;
        within("replication factor", self.replication_factor.into(), 1, REPLICATION_FACTOR_MAX.into())?;
        let least = self.replication_factor.into();
        within("initial nodes", self.initial_nodes.into(), least, u32::MAX.into())?;
        within("lease_ms", self.lease_ms, LEASE_MS_MIN, LEASE_MS_MAX)
    }
}

/// Why there is no cluster to serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootstrapError {
    /// A figure out of its limits.
    #[error("{what} must be {least} to {most}, not {found}")]
    Invalid {
        /// Which.
        what: &'static str,
        /// The figure.
        found: u64,
        /// The least allowed.
        least: u64,
        /// The most allowed.
        most: u64,
    },
    /// The data directory belongs to another cluster.
    #[error(
        "this data directory belongs to cluster {ours}, but the coordination service holds cluster {theirs}"
    )]
    OtherCluster {
        /// The data directory's.
        ours: ClusterId,
        /// The coordination service's.
        theirs: ClusterId,
    },
    /// The data directory belongs to a cluster that the coordination service does not know.
    #[error(
        "this data directory belongs to cluster {ours}, but the coordination service holds no cluster here: \
         it is another one, or it lost its data"
    )]
    NoCluster {
        /// The data directory's.
        ours: ClusterId,
    },
    /// The records are of a newer format.
    #[error(transparent)]
    Map(#[from] MapError),
    /// A record that cannot be read.
    #[error("{path}: the record in the coordination service cannot be read")]
    Broken {
        /// Where it stands.
        path: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// `/placement` names fewer nodes than a partition has replicas.
    #[error("{}: {found} nodes cannot hold {needed} replicas of a partition", paths::PLACEMENT)]
    TooFewNodes {
        /// How many it names.
        found: usize,
        /// The replication factor.
        needed: usize,
    },
    /// The cluster's record asks for a number of partitions that cannot be.
    #[error(transparent)]
    Slots(#[from] SlotsError),
    /// The coordination service failed; all steps can be taken again.
    #[error(transparent)]
    Coordination(#[from] Error),
}

impl BootstrapError {
    /// True if trying again may help: the coordination service was away, or busy.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            BootstrapError::Coordination(
                Error::Unavailable { .. } | Error::UnknownOutcome { .. } | Error::Conflict { .. }
            )
        )
    }
}

/// Reads the cluster's record, and creates it if this server is the first one.
///
/// `known` is the cluster that the data directory belongs to; `now_ms` is the wall clock, in milliseconds
/// since 1970.
///
/// # Errors
/// See [`BootstrapError`]; where [`BootstrapError::is_transient`], call again.
pub async fn ensure_cluster(
    coordinator: &dyn Coordinator,
    new: &NewCluster,
    known: Option<ClusterId>,
    now_ms: u64,
) -> Result<ClusterRecord, BootstrapError> {
    let record = match (coordinator.get(paths::CLUSTER).await?, known) {
        (Some(found), _) => read_cluster(&found)?,
        (None, Some(ours)) => return Err(BootstrapError::NoCluster { ours }),
        (None, None) => {
            new.validate()?;
            let record = ClusterRecord {
                id: ClusterId(Ulid::generate()),
                format: FORMAT,
                feature_level: FEATURE_LEVEL,
                created_ms: now_ms,
                partitions: new.partitions,
                replication_factor: new.replication_factor,
                initial_nodes: new.initial_nodes,
                lease_ms: new.lease_ms,
            };
            read_cluster(&create_or_read(coordinator, paths::CLUSTER, &record).await?)?
        }
    };
    match known {
        Some(ours) if ours != record.id => Err(BootstrapError::OtherCluster { ours, theirs: record.id }),
        _ => Ok(record),
    }
}

/// What [`place_initial`] found or did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlaceOutcome {
    /// Every partition is placed, by this call or before it.
    Placed,
    /// Too few nodes are live to begin.
    Waiting {
        /// How many are.
        live: usize,
        /// How many it takes.
        needed: usize,
    },
}

/// Places the first replicas, if enough nodes are live and nobody has done it.
///
/// Call it whenever the set of live nodes changes, until it answers [`PlaceOutcome::Placed`].
///
/// # Errors
/// See [`BootstrapError`]; where [`BootstrapError::is_transient`], call again.
pub async fn place_initial(
    coordinator: &dyn Coordinator,
    cluster: &ClusterRecord,
    live: &BTreeSet<NodeId>,
) -> Result<PlaceOutcome, BootstrapError> {
    // A service that lost its data shows no slots either. To place the partitions of a cluster that lives would be to
    // put empty ones in their stead.
    let ours = cluster.id;
    let found = coordinator.get(paths::CLUSTER).await?.ok_or(BootstrapError::NoCluster { ours })?;
    let theirs = read_cluster(&found)?.id;
    if theirs != ours {
        return Err(BootstrapError::OtherCluster { ours, theirs });
    }
    if coordinator.get(paths::SLOTS).await?.is_some() {
        return Ok(PlaceOutcome::Placed);
    }
    let slots = SlotTable::even(cluster.partitions)?;
    let placement = match coordinator.get(paths::PLACEMENT).await? {
        Some(found) => found,
        None => {
            let needed = cluster.initial_nodes.max(cluster.replication_factor) as usize;
            if live.len() < needed {
                return Ok(PlaceOutcome::Waiting { live: live.len(), needed });
            }
            let proposal = Placement { nodes: live.iter().copied().collect() };
            create_or_read(coordinator, paths::PLACEMENT, &proposal).await?
        }
    };
    let placement: Placement = decode(paths::PLACEMENT, &placement)?;
    let replicas = plan(cluster.partitions, cluster.replication_factor, &placement.nodes)?;
    for (partition, replicas) in (0..).map(PartitionId).zip(replicas) {
        let state = PartitionState::initial(Ulid::generate(), replicas, Ulid::generate());
        create_or_read(coordinator, &paths::partition_state(partition), &state).await?;
    }
    create_or_read(coordinator, paths::SLOTS, &slots).await?;
    Ok(PlaceOutcome::Placed)
}

/// Which nodes hold which partition, the preferred leader first.
///
/// The nodes, sorted, form a ring; each partition takes the next `replication_factor` of them. When a round
/// is over (the takings have gone round the ring and met its start again), the next one starts a node later, so
/// that leaders take turns too: two partitions with two replicas take all of four nodes, and on two nodes
/// each leads one.
///
/// # Errors
/// [`BootstrapError::TooFewNodes`].
pub fn plan(
    partitions: u32,
    replication_factor: u32,
    nodes: &[NodeId],
) -> Result<Vec<Vec<NodeId>>, BootstrapError> {
    let nodes = nodes.iter().copied().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>();
    let needed = replication_factor as usize;
    if nodes.is_empty() || nodes.len() < needed {
        return Err(BootstrapError::TooFewNodes { found: nodes.len(), needed });
    }
    let round = nodes.len() / greatest_common_divisor(nodes.len(), needed);
    let replicas_of = |partition: usize| {
        let start = partition * needed + partition / round;
        nodes.iter().cycle().skip(start % nodes.len()).take(needed).copied().collect()
    };
    Ok((0..partitions as usize).map(replicas_of).collect())
}

fn greatest_common_divisor(left: usize, right: usize) -> usize {
    if right == 0 { left } else { greatest_common_divisor(right, left % right) }
}

/// Creates a record, or reads the one that is already there: whoever comes first, all see the same.
async fn create_or_read<T: serde::Serialize>(
    coordinator: &dyn Coordinator,
    path: &str,
    record: &T,
) -> Result<Versioned, BootstrapError> {
    let value = records::encode(record);
    let mut last_error = Error::Conflict { path: path.to_owned() };
    for _ in 0..ATTEMPTS_MAX {
        match coordinator.create(path, value.clone()).await {
            Ok(version) => return Ok(Versioned { version, value }),
            // Somebody was first, or perhaps we were: the read after it tells.
            Err(error @ (Error::Conflict { .. } | Error::UnknownOutcome { .. })) => last_error = error,
            Err(error) => return Err(error.into()),
        }
        if let Some(found) = coordinator.get(path).await? {
            return Ok(found);
        }
    }
    Err(last_error.into())
}

fn read_cluster(found: &Versioned) -> Result<ClusterRecord, BootstrapError> {
    cluster_map::refuse_newer_format(&found.value)?;
    decode(paths::CLUSTER, found)
}

fn decode<T: serde::de::DeserializeOwned>(path: &str, found: &Versioned) -> Result<T, BootstrapError> {
    records::decode(&found.value).map_err(|source| BootstrapError::Broken { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn nodes(count: usize) -> Vec<NodeId> {
        (0..count as u128).map(|number| NodeId(Ulid::from_parts(0, number))).collect()
    }

    fn planned(partitions: u32, replication_factor: u32, count: usize) -> Vec<Vec<u128>> {
        let plan = plan(partitions, replication_factor, &nodes(count)).unwrap();
        plan.into_iter().map(|replicas| replicas.into_iter().map(|node| node.0.random()).collect()).collect()
    }

    #[test]
    fn small_clusters_are_spread_as_one_would_by_hand() {
        assert_eq!(planned(2, 2, 4), [[0, 1], [2, 3]], "all four nodes");
        assert_eq!(planned(4, 2, 2), [[0, 1], [1, 0], [0, 1], [1, 0]], "leaders take turns");
        assert_eq!(planned(3, 3, 3), [[0, 1, 2], [1, 2, 0], [2, 0, 1]]);
        assert_eq!(planned(2, 1, 1), [[0], [0]]);
    }

    #[test]
    fn the_order_of_the_nodes_does_not_matter_and_doubles_do_not_count() {
        let mut turned = nodes(4);
        turned.reverse();
        turned.push(nodes(1)[0]);
        assert_eq!(plan(5, 3, &turned).unwrap(), plan(5, 3, &nodes(4)).unwrap());
    }

    #[test]
    fn too_few_nodes_are_refused() {
        let error = plan(1, 2, &[nodes(1)[0], nodes(1)[0]]).unwrap_err();
        assert_eq!(error.to_string(), "/placement: 1 nodes cannot hold 2 replicas of a partition");
        assert!(plan(1, 0, &[]).is_err());
    }

    #[test]
    fn figures_out_of_their_limits_are_named() {
        let sound = NewCluster { partitions: 2, replication_factor: 2, initial_nodes: 2, lease_ms: 1_000 };
        assert!(sound.validate().is_ok());
        let refused = |cluster: NewCluster| cluster.validate().unwrap_err().to_string();
        let partitions = NewCluster { partitions: 0, ..sound.clone() };
        assert_eq!(refused(partitions), "partitions must be 1 to 16384, not 0");
        let replicas = NewCluster { replication_factor: 8, ..sound.clone() };
        assert_eq!(refused(replicas), "replication factor must be 1 to 7, not 8");
        let initial = NewCluster { initial_nodes: 1, ..sound.clone() };
        assert_eq!(refused(initial), "initial nodes must be 2 to 4294967295, not 1");
        let lease = NewCluster { lease_ms: 99, ..sound };
        assert_eq!(refused(lease), "lease_ms must be 100 to 60000, not 99");
    }

    proptest! {
        #[test]
        fn plans_are_balanced(partitions in 1_u32..64, replication_factor in 1_u32..=7, spare in 0_usize..6) {
            let count = replication_factor as usize + spare;
            let mut leads = BTreeMap::<u128, usize>::new();
            let mut holds = BTreeMap::<u128, usize>::new();
            for replicas in planned(partitions, replication_factor, count) {
                prop_assert_eq!(replicas.iter().collect::<BTreeSet<_>>().len(), replication_factor as usize);
                *leads.entry(replicas[0]).or_default() += 1;
                for node in replicas {
                    *holds.entry(node).or_default() += 1;
                }
            }
            for (what, counts) in [("leads", leads), ("holds", holds)] {
                let most = counts.values().max().copied().unwrap_or(0);
                let least = if counts.len() < count { 0 } else { counts.values().min().copied().unwrap_or(0) };
                prop_assert!(most - least <= 1, "{}: {:?}", what, counts);
            }
        }
    }
}
