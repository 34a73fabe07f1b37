//! The storage engine of PaddockDB, as a library of its own: a durable, ordered map of bytes to bytes in a directory.
//!
//! There are two faces to one engine:
//!
//! - [`Store`] is for programs that want to keep things. A write is on the disk when its call returns.
//! - [`ReplicatedStore`] is for a replication protocol: the same log, but appending, making durable and applying are
//!   separate steps, and an uncommitted end can be cut off.
//!
//! What is read from either is read through [`Readable`].
//!
//! ```
//! use paddock_storage::{Readable, Store};
//!
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("birds");
//! let store = Store::open(&path)?;
//! store.insert("heron", "grey")?;
//! store.insert("robin", "red")?;
//! for record in store.range("a".."m") {
//!     let record = record?;
//!     println!("{:?} is {:?}, since write {}", record.key, record.value, record.version);
//! }
//! store.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # How it works
//!
//! The log is the data. A write is encoded once, as a row with its checksum; a batch of rows gets a header, and both are
//! appended to a segment, a file that was filled with zeros ahead of them, with one write and one fdatasync.
//!
//! Beside it there are two indexes. A hash index (crate `paddock-index`) points from each key to its newest row, wherever that
//! is: so a read is one lookup and one row, verified by its checksum. And what is not in key order on the disk yet, the *tail*,
//! is kept in key order in memory: places of rows, not rows. When the tail is large enough, its rows are *flushed*: written in
//! key order to a run, and the segments that they came from go. Runs are merged now and then, which drops what was overwritten and
//! deleted. A range walks the tail and the runs at once, and so does a snapshot; both are consistent views, for as long as they live.
//!
//! [`Store::checkpoint`] makes a copy that is a store itself, out of links to the files that no longer change.
//!
//! Opening reads which runs there are, a checkpoint of the hash index, and the log's end.
//!
//! `FORMAT.md` beside this crate has every byte of it, and what is done about bytes that are not as they should be. In
//! short: the torn end that a crash leaves is told from damage, for each batch says how much was durable before it.
//! The first is dropped and reported, the second is never dropped and never served.
//!
//! After a failed write or fsync a store takes no more writes ([`Error::Poisoned`]): nobody knows what reached the disk.
//! A full disk is no such failure ([`Error::DiskFull`]): nothing is lost, and deletes still work.
//!
//! # What it does not do
//!
//! - There is no transaction beyond one batch with conditions.
//! - One process has a store, and one thread compacts it.
//! - It does not replicate: [`ReplicatedStore`] is what a protocol that does needs.

#![deny(unsafe_code)]

mod batch;
#[cfg(feature = "benchmarking")]
#[doc(hidden)]
pub mod benchmarking;
mod builder;
mod capture;
mod changes;
mod checkpoint;
mod clock;
mod commit;
mod compaction;
mod contents;
mod damage;
#[allow(dead_code, reason = "parts of it serve tests, and what is to come")]
mod data_file;
mod directory;
pub mod disk;
mod durability;
mod error;
#[allow(dead_code, reason = "parts of it serve tests, and what is to come")]
mod file_table;
mod files;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod group;
mod header;
mod index_checkpoint;
mod loading;
mod lock;
mod maintenance;
mod manifest;
mod memory;
mod merge_cursor;
mod names;
pub mod offline;
mod open_files;
mod options;
mod pending;
mod position;
mod range;
mod reader;
mod record;
mod recovery;
mod removal;
mod replicated;
mod row;
mod row_buffer;
#[allow(dead_code, reason = "parts of it serve tests, and what is to come")]
mod run;
mod scrub;
mod segment;
mod snapshot;
mod sorted_run_cursor;
mod spare;
mod store;
mod transfer;
mod view;
mod window;
mod write;

pub use batch::LogEntries;
pub use builder::Builder;
pub use changes::{Change, Changes};
pub use clock::Clock;
pub use compaction::CompactionStats;
pub use damage::Damage;
pub use durability::Durability;
pub use error::{Error, Result};
pub use header::StoreId;
pub use manifest::METADATA_BYTES_MAX;
pub use memory::MemoryStats;
pub use options::{CONTROL_HEADROOM_BYTES, Mapping, Options};
pub use position::{EpochStart, Position, Sequence};
pub use range::Range;
pub use reader::{Readable, Reader};
pub use record::{Record, RecordRef};
pub use recovery::Recovery;
pub use replicated::{
    APPEND_OVERHEAD_BYTES, Checkpointer, LogRetention, Need, ReplicatedStore, Stats, Verification,
};
pub use row::{
    BATCH_BYTES_MAX, CONTENT_TYPE_BYTES_MAX, ContentType, KEY_BYTES_MAX, PutOptions, ROW_OVERHEAD_BYTES,
    RowRef, Rows, RowsBuilder, VALUE_BYTES_MAX,
};
pub use run::Compression;
pub use scrub::{ScrubPosition, Scrubbed, Scrubber};
pub use snapshot::Snapshot;
pub use store::Store;
pub use transfer::{CopyFile, IncomingCopy, OutgoingCopy};
pub use write::{Conflict, Expected, WriteBatch, WriteOptions};

/// The README's example, so that it compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
