//! Letting the log's beginning go: segments whose rows are in runs.

use std::sync::Arc;

use super::ReplicatedStore;
use crate::data_file::DataFile;
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
    /// Keeps the log from an entry on, as far as it is there ([`ReplicatedStore::log_first`]), whatever its retention, until this is called again: for a follower that has the
    /// entries before it from a copy, and will ask for these. `None`: only the retention counts.
    ///
    /// ```
    /// # use paddock_storage::{Options, ReplicatedStore, Sequence};
    /// # let directory = tempfile::tempdir()?;
    /// # let mut store = ReplicatedStore::open(directory.path(), Options::new())?;
    /// store.hold_log(Some(Sequence(1)));
    /// store.hold_log(None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn hold_log(&mut self, from: Option<Sequence>) {
        if self.held_from != from {
            self.held_from = from;
            if let Some(from) = from {
                self.compaction.0.hold_log(from);
            }
            // What was held back may go with the next entries that are applied.
            self.released = Sequence(0);
        }
    }

    /// Sees to it that segments go that nobody needs any more. Asks the compaction's thread to do what takes the disk's time,
    /// and forgets the segments that it is done with.
    pub(crate) fn let_log_go(&mut self) -> Result<()> {
        let settled = self.contents.settled();
        if settled > self.released {
            self.released = settled;
            if !self.compaction.0.has_thread() {
                return self.release_log();
            }
            let count = self.releasable();
            if count > 0 {
                self.compaction.0.let_log_begin(self.first_behind(count));
            }
        }
        self.forget_released();
        Ok(())
    }

    /// Forgets segments that are before the log's beginning by now.
    pub(super) fn forget_released(&mut self) {
        let log_first = self.compaction.0.log_first();
        if log_first > self.log_first() {
            let count = self.sealed.iter().take_while(|segment| segment.first() < log_first).count();
            let files = self.forget_segments(count);
            self.compaction.0.bury(files);
        }
    }

    /// Removes segments that nobody needs any more: everything in them was flushed, the index points into runs instead, and the
    /// retention lets them go. A full disk is no error: they go another time.
    pub(crate) fn release_log(&mut self) -> Result<()> {
        self.writable()?;
        self.released = self.contents.settled();
        self.forget_released();
        let count = self.releasable();
        if count == 0 {
            return Ok(());
        }
        let noted = self.compaction.0.note_log_first(self.first_behind(count));
        match noted {
            Err(Error::DiskFull { .. }) => return Ok(()),
            noted => self.poisoning(noted)?,
        }
        for file in self.forget_segments(count) {
            self.compaction.0.names().remove(file.path());
        }
        Ok(())
    }

    /// The first entry behind so many of the oldest segments.
    fn first_behind(&self, count: usize) -> Sequence {
        self.sealed.get(count).map_or(self.active.first(), Segment::first)
    }

    /// Returns the files of so many of the oldest segments, which are no longer part of the log.
    fn forget_segments(&mut self, count: usize) -> Vec<Arc<DataFile>> {
        let files = self.contents.files();
        let gone = self.sealed.drain(..count);
        gone.inspect(|segment| files.remove(segment.handle)).map(|segment| segment.file).collect()
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
            let is_held = self.held_from.is_some_and(|first| next > first);
            if next.previous() > settled || is_retained || is_held {
                break;
            }
            count += 1;
        }
        count
    }
}
