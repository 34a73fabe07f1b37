//! When a write counts as done, and the care that an fsync needs.
//!
//! An fsync reports a failure once, and to one caller only; the kernel then takes the pages that it could not write
//! for clean, so that the next fsync succeeds without having done anything. Two fsyncs of one file at a time could
//! therefore tell a writer that its entry is durable although the other one's failure was its own. Hence the [`SyncGate`]:
//! one fsync at a time, and none after one that failed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::data_file::DataFile;
use crate::error::{Error, Result};
use crate::position::Sequence;

/// When a write counts as done. Readers see it from then on.
///
/// Whatever the mode, what a crash leaves is a prefix of the writes, in their order: a write that lasts has all those
/// before it, also the weaker ones.
///
/// ```
/// use paddock_storage::{Durability, Readable, Store, WriteOptions};
///
/// # let directory = tempfile::tempdir()?;
/// let store = Store::builder(directory.path()).durability(Durability::Interval).open()?;
/// // On the disk 100 ms later.
/// store.insert("page view 17", "/birds")?;
/// // On the disk when the call returns, and with it everything before.
/// store.insert_with("order 4", "two herons", WriteOptions::new().durability(Durability::Sync))?.ok();
/// let stats = store.stats()?;
/// assert_eq!(stats.durable, stats.last);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// Handed to the operating system: it survives the end of the process, not of the machine. It reaches the disk when the
    /// operating system sees fit, or with a later write of another mode, [`crate::Store::sync`] or [`crate::Store::close`].
    Buffered,
    /// As [`Durability::Buffered`], but the disk has it at the latest [`crate::Options::sync_interval`] later, but for the
    /// time that an fsync takes. Should that fsync fail, the store takes no more writes.
    Interval,
    /// On the disk.
    #[default]
    Sync,
}

/// One fsync of the log at a time, and none after a failed one. Clones are the same gate.
#[derive(Clone, Debug, Default)]
pub(crate) struct SyncGate {
    state: Arc<GateState>,
}

#[derive(Debug, Default)]
struct GateState {
    /// Why there is none any more. Locked while there is one.
    failed: Mutex<Option<String>>,
    /// Whether one has failed.
    has_failed: AtomicBool,
}

impl SyncGate {
    /// Makes a segment's contents durable.
    pub(crate) fn sync(&self, file: &DataFile) -> Result<()> {
        let mut failed = self.state.failed.lock();
        if let Some(reason) = &*failed {
            return Err(Error::Poisoned { reason: reason.clone() });
        }
        // So it stays should the disk's code panic.
        *failed = Some("an fsync did not come to its end".to_string());
        let synced = file.file().sync_data().map_err(Error::io(file.path()));
        *failed = synced.as_ref().err().map(ToString::to_string);
        self.state.has_failed.store(failed.is_some(), Ordering::Release);
        synced
    }

    /// [`Error::Poisoned`] after a failure, whoever's fsync it was. Does not wait for one that is under way.
    pub(crate) fn check(&self) -> Result<()> {
        if !self.state.has_failed.load(Ordering::Acquire) {
            return Ok(());
        }
        let reason = self.state.failed.lock().clone().unwrap_or_default();
        Err(Error::Poisoned { reason })
    }
}

/// An fsync that may run beside the store, and what it will have made durable.
#[derive(Debug)]
pub(crate) struct SyncTicket {
    pub(crate) gate: SyncGate,
    /// Of the segment. If another one is active by the end, whatever happened to this one has settled the matter.
    pub(crate) file: Arc<DataFile>,
    pub(crate) through: Sequence,
}

impl SyncTicket {
    pub(crate) fn run(&self) -> Result<()> {
        self.gate.sync(&self.file)
    }
}
