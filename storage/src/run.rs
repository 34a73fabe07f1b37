//! Runs: immutable files of rows in key order, made by flushing and compaction. FORMAT.md, "Run".
//!
//! A run is a row of blocks, each a handful of whole rows and a table of where they begin; and behind them what is kept in
//! memory while it is open: a filter of its keys, an index of its blocks, statistics.
//!
//! - [`RunWriter`] writes one, row by row, and names it once it is complete and durable.
//! - [`Run`] answers for one: a row at a place, a row of a key, all rows in order ([`RunCursor`]).
//!
//! What is handed out was verified: a row by its checksum, where rows begin by the checksum of the block's table, and what
//! a search did *not* find by verifying the two rows that it would lie between. So a flipped bit is either
//! [`crate::Error::Corrupt`] or was not looked at.
//!
//! A run does not know whether its rows are the newest of their keys, nor what the time is: all that is for those above.

mod block;
mod codec;
mod cursor;
mod expiry;
mod format;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod index;
mod reader;
mod verify;
mod window;
mod writer;

#[cfg(test)]
mod tests;

pub use codec::Compression;
#[allow(unused_imports, reason = "the engine and compaction are about to use them")]
pub(crate) use {
    cursor::RunCursor,
    expiry::{expired_bytes, next_expiry_ms},
    format::LOGICAL_BYTES_MAX,
    reader::{FoundRow, Lookup, Run, Summary},
    verify::RunVerifier,
    writer::{RunOptions, RunWriter},
};

/// What follows the bytes of a compressed block.
const STORED_CHECKSUM_BYTES: usize = 4;
