//! Handing what is applied over to compaction.

use std::sync::Arc;

use super::{LogRetention, ReplicatedStore};
use crate::compaction::Compaction;
use crate::compaction::policy::tail_is_due;
use crate::error::{Error, Result};
use crate::options::CONTROL_HEADROOM_BYTES;

/// Ends with the store, whoever else has it.
#[derive(Debug)]
pub(super) struct RunningCompaction(pub(super) Arc<Compaction>);

impl Drop for RunningCompaction {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl ReplicatedStore {
    /// Writes everything that is applied to one run in the order of its keys, without what was overwritten and deleted, and
    /// lets go of the log that is not needed any more. By itself a store does as much of this as pays; reading ranges is
    /// fastest afterwards.
    ///
    /// ```
    /// # use paddock_storage::{Options, ReplicatedStore};
    /// # let directory = tempfile::tempdir()?;
    /// # let mut store = ReplicatedStore::open(directory.path(), Options::new())?;
    /// store.compact()?;
    /// assert!(store.stats().compaction.runs <= 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::DiskFull`]: nothing is lost, and what was done stays done. [`Error::Corrupt`], [`Error::Io`]: the store
    /// is poisoned; [`Error::Poisoned`].
    pub fn compact(&mut self) -> Result<()> {
        self.freeze()?;
        self.compaction.0.compact()?;
        self.release_log()
    }

    pub(crate) fn compaction(&self) -> Arc<Compaction> {
        self.compaction.0.clone()
    }

    /// How many bytes of the log are not flushed, about.
    pub(super) fn note_tail_log_bytes(&mut self) {
        let flushed = self.contents.settled();
        let lasts = self
            .sealed
            .iter()
            .skip(1)
            .map(|next| next.first().previous())
            .chain([self.active.first().previous()]);
        let sealed = self.sealed.iter().zip(lasts).filter(|(_, last)| *last > flushed);
        let sealed_bytes: u64 = sealed.map(|(segment, _)| segment.end).sum();
        self.tail_log_bytes = sealed_bytes + self.active.end;
    }

    /// Freezes the tail when it is large enough.
    pub(super) fn freeze_if_due(&mut self) -> Result<()> {
        let log_bytes = self.tail_log_bytes;
        let index_bytes_max = self.memory.index_bytes_max();
        let is_due = match self.flush_bytes {
            Some(flush_bytes) if log_bytes >= flush_bytes => true,
            _ => tail_is_due(
                log_bytes,
                self.contents.tail_bytes(),
                self.contents.live_bytes(),
                index_bytes_max,
            ),
        };
        if is_due { self.freeze() } else { Ok(()) }
    }

    /// Freezes the tail, and goes on in another segment, so that the ones before can go when the tail has been flushed.
    pub(crate) fn freeze(&mut self) -> Result<()> {
        self.writable()?;
        // First: once it is frozen it may be flushed at any time, and FILES says which epochs it is of.
        self.compaction.0.note_epochs(&self.epochs);
        if !self.contents.freeze() {
            return Ok(());
        }
        self.tail_log_bytes = 0;
        self.compaction.0.froze();
        if self.active_has_no_entries() || self.log_retention == LogRetention::Everything {
            return Ok(());
        }
        // What was reserved stays reserved.
        match self.roll(self.reserved + CONTROL_HEADROOM_BYTES) {
            // The log goes on in the same segment, as long as it has room.
            Err(Error::DiskFull { .. }) => Ok(()),
            rolled => self.poisoning(rolled),
        }
    }
}
