//! The cluster's shared truth: who is in it, who leads what, and which slot belongs to which partition.
//!
//! [`Coordinator`] is the one trait; [`zookeeper`] and [`embedded`] are its two backends, and one
//! conformance suite (`tests/`) holds both to it. On top of it stand the paths and values of PaddockDB
//! ([`paths`], [`records`]), the way a cluster comes into being ([`bootstrap`]), the map that routers and nodes
//! derive from all that ([`cluster_map`]), and the hash that places a key ([`slots`]).
//!
//! Nothing here is on the path of a read or a write: it is touched when the configuration changes, and
//! the data plane goes on while it is away.
//!
//! # The way of a cluster through this crate
//! A partition server opens a backend at [`paths::cluster_root`], reads or makes the cluster's record
//! ([`bootstrap::ensure_cluster`]), writes where it is to be found at [`paths::node`], and registers itself at
//! [`paths::live`]. It watches `/` and makes a [`ClusterMap`] of each tree. While nothing is placed it calls
//! [`bootstrap::place_initial`] whenever the live nodes change; from then on its replicas change their
//! partitions' states by compare-and-set. Routers register at [`paths::router`], watch `/`, and look keys up
//! in the map. In the end each calls [`Coordinator::close`], so that it is not missed later but now.
//!
//! # What this does not do
//! It elects no leader: those rules are the partition server's, which only needs the compare-and-set. It moves no
//! replica by itself: [`placement`] says what is to be done, and the partition server does it. It keeps no clock: an ephemeral
//! node says that somebody had a session lately, no more.

#![forbid(unsafe_code)]

pub mod bootstrap;
pub mod cluster_map;
pub mod embedded;
pub mod ids;
pub mod leaders;
pub mod paths;
pub mod placement;
pub mod records;
pub mod slots;
pub mod store;
pub mod zookeeper;

pub use cluster_map::ClusterMap;
pub use ids::{ClusterId, Epoch, Generation, Member, NodeId, PartitionId, RouterId};
pub use records::{
    ClusterRecord, NodeRecord, PartitionState, Placement, ReplicaTarget, RouterRecord, SlotRange, SlotTable,
};
pub use slots::Slot;
pub use store::{Coordinator, Error, Registration, Tree, Version, Versioned, Watch};
