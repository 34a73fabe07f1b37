//! The edge: the only files that know the wire. Each turns its service's messages into the domain's types
//! and back, once.

pub mod exchange;
pub mod handshake;
pub mod replication;
pub mod snapshot;
pub mod status;
