//! The partition server: replicas of partitions, each a pure core with a runtime around it.
//!
//! ```text
//! service/*   the wire's edge: exchange (routers), replication (peers), status
//! host        which replicas this node has, by the cluster's map
//! opening     from a store's directory to an owner loop
//! inbox       what reaches an owner loop, bounded
//! runtime     the owner loop: drains, admits, steps the core, performs its effects
//!   admission   decides what a conditional write comes to
//!   retries     what became of writes with a request id
//!   waiting     writes that wait for their commit, reads that wait for the lease
//!   reply       answers on their way back, bounded for callers that do not take them
//!   replica/*   the core: step(event) -> effects. No I/O, no clock, no lock
//! keys        users' keys and our own, in one store
//! controller  brings replicas to where they are to be, on one node of the cluster
//! snapshot/*  a follower that the log no longer reaches gets a copy of the store
//! configuration, peer   where effects leave: the coordination service, the other nodes
//! node, facts what a node, and a replica, must remember for ever
//! server      ports and life cycle
//! ```
//!
//! `PROTOCOL.md` beside this crate tells the replication protocol.
//!
//! # The way of a Put
//!
//! 1. A router sends it on an Exchange stream. [`service::exchange`] checks its limits and makes it an
//!    [`operation::Arrival`]; [`host`] takes its share of the replica's budget, which it keeps until it is over, and
//!    puts it into the replica's [`inbox`].
//! 2. The owner loop ([`runtime`]) drains the inbox into one batch. [`admission`] judges each write against what is
//!    applied and what is under way, and gives it a place in the log; [`waiting`] keeps it until that place is applied.
//! 3. The batch is proposed to the core ([`replica`]), which answers with effects: append it here, send it to the
//!    followers ([`peer`]). Then comes the round's one fsync, while the followers' disks do the same.
//! 4. What every member that counts has made durable is committed: the core asks for it to be applied, the index
//!    advances, and the answer goes into the stream's queue ([`reply`]).
//!
//! A Get takes the same way to the owner loop, waits there until the leader's lease lets it be read, and leaves no entry.
//! A Get of another consistency is read where it arrives, by [`host::Host::read_here`], at any replica: unless what its
//! session has seen is not applied there yet, for which the owner loop waits.

#![forbid(unsafe_code)]

pub mod admission;
pub mod assignment;
pub mod clock;
pub mod configuration;
pub mod controller;
pub mod facts;
pub mod host;
pub mod http;
pub mod inbox;
pub mod keys;
pub mod metrics;
pub mod node;
pub mod opening;
pub mod operation;
pub mod peer;
pub mod replica;
pub mod reply;
pub mod retries;
pub mod runtime;
pub mod scrub;
pub mod server;
pub mod service;
pub mod snapshot;
pub mod status;
pub mod transfer;
pub mod waiting;
pub mod watchdog;
