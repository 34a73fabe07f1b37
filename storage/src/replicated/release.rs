//! Letting the log's beginning go: segments whose rows are in runs.

use super::ReplicatedStore;
use crate::error::{Error, Result};
use crate::position::Sequence;
use crate::segment::Segment;

/// How much of the log stays after its rows were flushed to runs: for followers that come back, and for
/// [`crate::Store::changes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogRetention {
    /// Only what was not flushed yet: segments go as soon as they can.
    Nothing,
    /// The newest segments, together at most about this many bytes.
    Bytes(u64),
    /// All of it.
    Everything,
}

impl ReplicatedStore {
    /// Removes segments that nobody needs any more: everything in them was flushed, the index points into runs instead, and the
    /// retention lets them go. A full disk is no error: they go another time.
    pub(crate) fn release_log(&mut self) -> Result<()> {
        self.writable()?;
        self.released = self.contents.settled();
        let count = self.releasable();
        if count == 0 {
            return Ok(());
        }
        let oldest_kept = self.sealed.get(count).map_or(self.active.first(), Segment::first);
        match self.note_log_first(oldest_kept) {
            Err(Error::DiskFull { .. }) => return Ok(()),
            noted => self.poisoning(noted)?,
        }
        for segment in self.sealed.drain(..count) {
            self.contents.files().remove(segment.handle);
            // Should this fail, or the process end: FILES says already that it does not count, and opening removes it.
            let _ = self.directory.disk.remove(segment.file.path());
        }
        Ok(())
    }

    /// How many of the oldest segments may go.
    fn releasable(&self) -> usize {
        let settled = self.contents.settled();
        let mut kept_bytes: u64 = self.segments().map(|segment| segment.allocated).sum();
        let firsts = self.sealed.iter().skip(1).map(Segment::first).chain([self.active.first()]);
        let mut count = 0;
        for (segment, next) in self.sealed.iter().zip(firsts) {
            kept_bytes -= segment.allocated;
            let is_retained = match self.log_retention {
                LogRetention::Nothing => false,
                LogRetention::Bytes(bytes) => kept_bytes < bytes,
                LogRetention::Everything => true,
            };
            if next.previous() > settled || is_retained {
                break;
            }
            count += 1;
        }
        count
    }

    fn note_log_first(&self, log_first: Sequence) -> Result<()> {
        let mut catalogue = self.catalogue.lock();
        let mut changed = catalogue.clone();
        changed.log_first = log_first;
        changed.replace(&self.directory)?;
        *catalogue = changed;
        Ok(())
    }
}
