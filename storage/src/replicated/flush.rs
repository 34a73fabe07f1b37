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
        // Not before: closing lets go of some of the log once compaction has stopped.
        self.0.names().close();
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
    /// [`Error::DiskFull`]: nothing is lost, and what was done stays done. [`Error::Corrupt`]: a damaged run cannot be merged,
    /// and the store goes on without merging. [`Error::Io`]: the store goes on, unless it says at the next write that it does
    /// not. [`Error::Poisoned`].
    pub fn compact(&mut self) -> Result<()> {
        self.freeze()?;
        self.compaction.0.compact()?;
        self.release_log()
    }

    /// Whether compaction is so far behind that the owner should take no more entries in: what waits for it is in memory.
    /// What is in the log already may be applied all the same; that is bounded by what its owner lets into it.
    ///
    /// A full disk is no reason, since there the log itself does not grow, and deletes must get through; nor is a compaction
    /// that has failed, which every write is told of. So this ends, however it goes: [`ReplicatedStore::when_relieved`].
    /// Where the store does not compact by itself ([`crate::Options::background_compaction`]), [`ReplicatedStore::compact`]
    /// ends it. Asking is cheap.
    ///
    /// ```
    /// # use paddock_storage::{Options, ReplicatedStore};
    /// # let directory = tempfile::tempdir()?;
    /// # let store = ReplicatedStore::open(directory.path(), Options::new())?;
    /// if store.is_congested() {
    ///     // Later: clients wait, or are told that nothing was done.
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn is_congested(&self) -> bool {
        self.compaction.0.is_congested()
    }

    /// Has the owner called whenever [`ReplicatedStore::is_congested`] ends, on the thread that brought it about: so the call
    /// must not block. It takes the place of an earlier one.
    ///
    /// ```
    /// # use paddock_storage::{Options, ReplicatedStore};
    /// # let directory = tempfile::tempdir()?;
    /// # let store = ReplicatedStore::open(directory.path(), Options::new())?;
    /// let (bell, heard) = std::sync::mpsc::sync_channel(1);
    /// store.when_relieved(move || {
    ///     // There is room again, if it was not known already.
    ///     let _ = bell.try_send(());
    /// });
    /// # assert!(heard.try_recv().is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn when_relieved(&self, call: impl Fn() + Send + Sync + 'static) {
        self.compaction.0.when_relieved(call);
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
            Err(Error::DiskFull { .. } | Error::TooLarge { .. }) => Ok(()),
            rolled => self.poisoning(rolled),
        }
    }
}
