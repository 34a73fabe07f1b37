//! The simulation of PaddockDB: real replica cores in their real owner loops, on real stores, while everything around them
//! is made up from one seed: disks that lose and tear, clocks that run wrong, a network, a coordination service, clients.
//!
//! ```text
//! random, queue, trace  chance, time, and what happened
//! plan                  the swarm: what a seed's world is like
//! node                  a machine: disk, clock, process
//! coordination          the coordination service's records
//! client, history       what clients want, and what they were told
//! simulation            the world, and what happens in it
//!   rounds, service, clients, faults, ending   by whom it happens
//! invariants, certificate, linearizability     the judges, each independent of the others
//! campaign              many seeds
//! ```
//!
//! What it does not simulate: threads (a round is one step; what happens between two of its disk calls happens to nobody
//! else), the wire's encoding, routers' batches, snapshots (logs keep everything here), and background compaction, which is
//! done between rounds instead.

#![forbid(unsafe_code)]

pub mod campaign;
pub mod certificate;
pub mod client;
mod clients;
pub mod coordination;
mod ending;
mod faults;
pub mod history;
pub mod invariants;
pub mod linearizability;
pub mod node;
pub mod plan;
pub mod queue;
pub mod random;
mod rounds;
mod service;
pub mod simulation;
pub mod trace;

pub use simulation::{Failed, Report, run};
