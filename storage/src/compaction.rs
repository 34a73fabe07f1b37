//! Compaction.

pub(crate) mod policy;
