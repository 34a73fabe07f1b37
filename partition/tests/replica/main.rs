//! The replica core under golden scripts and random walks: `scripts.rs` runs every file of `tests/scripts`,
//! `walk.rs` lets seeded chance decide what happens next; with the feature `mutations` `broken.rs` breaks rules. Both use the same cluster in memory, and the same
//! checker, which holds every step to the invariants of PROTOCOL.md.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers fail as the test does")]

#[cfg(feature = "mutations")]
mod broken;
mod checker;
mod cluster;
mod describe;
mod hostile;
mod scripts;
mod snapshots;
mod walk;
