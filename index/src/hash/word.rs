//! The one kind of memory that the writer and the readers share.
//!
//! **Memory ordering.** Only the writer stores. Everything it stores, it stores with Release, and readers load
//! with Acquire: a reader that has seen one store has seen every store that the writer made before it. This
//! single rule is what the arguments in `table.rs` rest on; it costs nothing on x86-64, and little elsewhere.
//! The writer's own loads may be Relaxed, because nobody else stores; when the writer moves to another thread,
//! whatever moves it brings its stores along.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// A shared word. In this crate's tests each access is a place where the threads may take turns.
#[derive(Debug)]
pub(super) struct Word(AtomicU64);

impl Word {
    pub(super) const fn new(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }

    /// Anyone's load.
    pub(super) fn load(&self) -> u64 {
        #[cfg(test)]
        super::turns::step();
        self.0.load(Acquire)
    }

    /// The writer's load of what only it stores.
    pub(super) fn own(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// The writer's store.
    pub(super) fn store(&self, value: u64) {
        #[cfg(test)]
        super::turns::step();
        self.0.store(value, Release);
    }
}
