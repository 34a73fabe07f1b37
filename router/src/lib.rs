//! The router: users speak to it, and it finds out who is to answer.
//!
//! # The way of a request
//!
//! ```text
//! gRPC ─► message_size ─► service ─► request: wire → job, every rule checked
//!                           │
//!                           ├─ one job ────► route ◄──── scatter ◄─ a batch: one result per item
//!                           │                 │  key → slot → partition → leader, by the view in force
//!                           │                 ▼
//!                           │               node ─► link: bounded queue ─► one stream, batches ─► partition
//!                           │                 │                                                   server
//!                           ▼                 ▼
//!                        response ◄──────── outcome, by operation id
//! ```
//!
//! - [`map`] follows the coordination service and holds the [`View`](map::View): the map, and links to the
//!   nodes that are registered and live. It is replaced whole, so nothing is forwarded to a node that the
//!   router only remembers. While the coordination service is away the last view stays in force.
//! - [`route`] gets one job done within its deadline: it follows NOT_LEADER, waits for a leader, and tries
//!   again what certainly was not done. A write whose outcome is unknown is reported as that, never retried.
//! - [`scatter`] spreads a batch and keeps the order of each key's writes.
//! - [`link`] is one long-lived stream that carries batches, and knows of each operation whether it was
//!   handed over: that decides what can be said of a write when something breaks.
//! - [`errors`] is the one place where failures turn into gRPC statuses, [`request`] the one where users'
//!   messages turn into jobs. Operations travel on in the exchange's own words: the router does not read
//!   what it has no need to.
//! - [`memory`] bounds what all requests and answers may weigh.
//! - [`admin`] and [`problems`] show the cluster, [`http`] health and metrics, [`server`] runs it all.
//!
//! # What is absent
//!
//! The router keeps nothing: no data, no sessions (their tokens are with their callers), no cache of reads, no memory of nodes that left. It
//! never chooses a leader, and its idea of one is only a hint that the partition server checks.

#![forbid(unsafe_code)]

pub mod admin;
pub mod bell;
pub mod deadline;
pub mod errors;
pub mod http;
mod leadership;
pub mod link;
pub mod map;
pub mod memory;
pub mod message_size;
pub mod metrics;
pub mod node;
pub mod placement;
mod problems;
mod recovery;
pub mod request;
pub mod route;
pub mod scatter;
pub mod server;
pub mod service;
pub mod session;

pub use server::{Router, RouterConfig, StartError};
