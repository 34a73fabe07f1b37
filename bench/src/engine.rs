//! What the driver asks of a storage engine. One file in `engines/` for each that is compared.

use std::path::Path;

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::engines;

/// When a write counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Durability {
    /// It survives a power cut.
    Sync,
    /// It is handed to the operating system, and reaches the disk some time later.
    Buffered,
}

/// How an engine is opened.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// For all writes.
    pub durability: Durability,
    /// What the engine's own caches and write buffers may take together. An engine that only uses the page cache
    /// has nothing to set.
    pub cache_bytes: u64,
}

/// An open engine. All of it can be called from several threads.
pub trait Engine: Send + Sync {
    /// Writes one row.
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()>;
    /// Shows a key's value to `read`, without a copy where the engine can. Returns whether there is one.
    fn get(&self, key: &[u8], read: &mut dyn FnMut(&[u8])) -> Result<bool>;
    /// Removes a row.
    fn delete(&self, key: &[u8]) -> Result<()>;
    /// Shows up to `rows_max` rows from `start` on, in key order. Returns how many there were.
    fn scan(&self, start: &[u8], rows_max: usize, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<usize>;
    /// Writes several rows as one atomic batch.
    fn write(&self, rows: &[(Vec<u8>, Vec<u8>)]) -> Result<()>;
    /// Makes everything durable that was written before.
    fn flush(&self) -> Result<()>;
    /// Brings the data into the engine's best order for reading; nothing where it has no such thing.
    fn compact(&mut self) -> Result<()> {
        Ok(())
    }
    /// What its index takes of memory, where it says so.
    fn index_bytes(&self) -> Result<Option<u64>> {
        Ok(None)
    }
    /// Closes it in good order.
    fn close(self: Box<Self>) -> Result<()>;
}

/// The engines that are compared. Ours first: the table compares the others with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Name {
    /// Ours.
    Paddock,
    /// A log-structured merge tree in C++.
    #[cfg_attr(not(feature = "rocksdb"), value(skip))]
    Rocksdb,
    /// A log-structured merge tree in Rust.
    Fjall,
    /// A copy-on-write B-tree in Rust.
    Redb,
    /// A memory-mapped copy-on-write B-tree in C, through heed.
    Lmdb,
    /// A lock-free B-link tree over a log, in Rust.
    Sled,
}

impl Name {
    /// All of them, in the table's order.
    pub const ALL: [Name; 6] =
        [Name::Paddock, Name::Rocksdb, Name::Fjall, Name::Redb, Name::Lmdb, Name::Sled];

    /// The crate behind it, as `Cargo.lock` calls it.
    pub fn crate_name(self) -> &'static str {
        match self {
            Name::Paddock => "paddock-storage",
            Name::Rocksdb => "rocksdb",
            Name::Fjall => "fjall",
            Name::Redb => "redb",
            Name::Lmdb => "heed",
            Name::Sled => "sled",
        }
    }

    /// As it is written in tables and on the command line.
    pub fn label(self) -> &'static str {
        match self {
            Name::Paddock => "paddock",
            Name::Rocksdb => "rocksdb",
            Name::Fjall => "fjall",
            Name::Redb => "redb",
            Name::Lmdb => "lmdb",
            Name::Sled => "sled",
        }
    }

    /// Whether this build has it.
    pub fn is_built(self) -> bool {
        self != Name::Rocksdb || cfg!(feature = "rocksdb")
    }

    /// Opens it in a directory, which exists.
    pub fn open(self, directory: &Path, options: Options) -> Result<Box<dyn Engine>> {
        Ok(match self {
            Name::Paddock => Box::new(engines::paddock::Paddock::open(directory, options)?),
            #[cfg(feature = "rocksdb")]
            Name::Rocksdb => Box::new(engines::rocksdb::RocksDb::open(directory, options)?),
            #[cfg(not(feature = "rocksdb"))]
            Name::Rocksdb => anyhow::bail!("this build has no RocksDB (cargo feature `rocksdb`)"),
            Name::Fjall => Box::new(engines::fjall::Fjall::open(directory, options)?),
            Name::Redb => Box::new(engines::redb::Redb::open(directory, options)?),
            Name::Lmdb => Box::new(engines::lmdb::Lmdb::open(directory, options)?),
            Name::Sled => Box::new(engines::sled::Sled::open(directory, options)?),
        })
    }
}
