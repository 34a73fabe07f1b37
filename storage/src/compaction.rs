//! Compaction: the log's entries become runs in key order, and runs become fewer and smaller.
//!
//! - [`policy`] says what to do next: pure.
//! - [`merge`] says which rows stay: pure.
//! - [`pace`] says how fast.

pub(crate) mod merge;
pub(crate) mod pace;
pub(crate) mod policy;
