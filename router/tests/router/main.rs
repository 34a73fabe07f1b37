//! The router as its users meet it: a real router over gRPC, the embedded coordination backend, and
//! partition servers that answer as each test tells them to.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that meets one has failed"
)]

mod batches;
mod cluster;
mod faces;
mod fake;
mod faults;
mod leadership;
mod placement;
mod recovery;
mod routing;
