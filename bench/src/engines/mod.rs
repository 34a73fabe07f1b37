//! The engines, each behind [`crate::engine::Engine`].

#[cfg(test)]
pub mod btree;
pub mod fjall;
pub mod lmdb;
pub mod paddock;
pub mod redb;
#[cfg(feature = "rocksdb")]
pub mod rocksdb;
pub mod sled;
