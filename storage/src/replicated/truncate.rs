//! Cutting off the log's end: entries that were never committed, and another leader has others in their place.

use std::io::ErrorKind;

use super::ReplicatedStore;
use crate::error::{Error, Result};
use crate::options::CONTROL_HEADROOM_BYTES;
use crate::position::Sequence;
use crate::recovery::Walk;
use crate::segment::{Chain, NamelessSegment, SEGMENT_START, Segment, UnfinishedSegment};

impl ReplicatedStore {
    /// Cuts every entry after `last_kept`, durably. Nothing to cut is no error. A crash in between leaves the old
    /// log, a part of what was to go, or the cut one: always a log that is whole, with everything up to `last_kept`. That
    /// part may be what an earlier cut had left behind in an older file: so what was cut off before may be back, as
    /// uncommitted as it was, until this cut is made again.
    ///
    /// ```
    /// # use paddock_storage::{LogEntries, Options, ReplicatedStore, RowsBuilder, Sequence};
    /// # let directory = tempfile::tempdir()?;
    /// # let mut store = ReplicatedStore::open(directory.path(), Options::new())?;
    /// # let mut rows = RowsBuilder::new();
    /// # rows.put(b"heron", b"grey")?;
    /// # let first = store.last().sequence.next();
    /// # store.append(&LogEntries { epoch: 1, first, log_time_ms: 0, rows: rows.finish() }, Sequence(0))?;
    /// store.truncate_after(Sequence(0))?;
    /// assert_eq!(store.last().sequence, Sequence(0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Misplaced`] below what is applied or known to be committed, or was applied before the store was opened, as
    /// far as its saved index knows; [`Error::DiskFull`], if the log itself has no
    /// room left either, and [`Error::TooLarge`], if the store has more files than places can tell apart: nothing was cut;
    /// [`Error::Io`], [`Error::Poisoned`].
    pub fn truncate_after(&mut self, last_kept: Sequence) -> Result<()> {
        self.writable()?;
        if last_kept >= self.last().sequence {
            return Ok(());
        }
        // Of a key whose last row was in what is cut, the saved index would know no older row either.
        let committed = self.known_commit.max(self.applied()).max(self.was_applied);
        if last_kept < committed {
            let what = "the log may not be cut below what is committed: the cut is after";
            return Err(Error::Misplaced { what, actual: last_kept.0, expected: committed.0 });
        }
        // The kept entries must be durable before a segment says that they are.
        self.sync()?;
        let start = self.chain_after(last_kept)?;
        let made = self
            .make_successor(start)
            .and_then(|successor| successor.take_in(&self.contents, &self.memory, self.segment_capacity()));
        let successor = self.poisoning(made)?;
        // First in memory: should cutting end half-way, nothing here speaks of entries whose file is gone.
        self.forget_after(last_kept, start);
        let cut = self.cut(successor);
        self.poisoning(cut)
    }

    /// What holds after an entry. Reads the segment that the entry is in.
    fn chain_after(&self, last: Sequence) -> Result<Chain> {
        let next = last.next();
        let (segment, _) = self.segment_of(next);
        if segment.first() == next {
            return Ok(segment.start);
        }
        let mut walk = Walk::new(self.manifest.store_id, segment.start);
        let end = walk.segment(&segment, Some(next), |_, _| {})?;
        match end.missing {
            None => Ok(walk.chain),
            Some(what) => Err(Error::corrupt(segment.file.path(), end.offset, what)),
        }
    }

    /// The segment that begins with the cut, under a temporary name still: if the disk is full, that shows before
    /// anything is cut.
    fn make_successor(&mut self, start: Chain) -> Result<UnfinishedSegment> {
        match self.segment_from(start, SEGMENT_START + CONTROL_HEADROOM_BYTES) {
            Err(Error::DiskFull { .. }) => {}
            made => return made,
        }
        // The active segment's room is of no use behind the cut: on a full disk the successor may have it.
        let allocated = self.active.allocated;
        self.reserved = 0;
        self.active.give_back();
        let made = match self.segment_from(start, SEGMENT_START + CONTROL_HEADROOM_BYTES) {
            Err(Error::DiskFull { .. }) => self.segment_from(start, SEGMENT_START),
            made => made,
        };
        if made.is_err() {
            match self.active.extend(allocated) {
                // Somebody else was quicker: the headroom is gone until there is room again.
                Err(Error::DiskFull { .. }) => {}
                extended => extended?,
            }
        }
        made
    }

    /// Removes the segments behind the cut, newest first, each durably, so that there is never a gap; then the
    /// successor gets its name, in place of a segment that began at the cut. With that the cut is in force.
    fn cut(&mut self, successor: NamelessSegment) -> Result<()> {
        let first = successor.first();
        while self.active.first() > first {
            let Some(mut older) = self.sealed.pop() else { break };
            if let Err(error) = self.remove_active(&mut older) {
                self.sealed.push(older);
                return Err(error);
            }
            let removed = std::mem::replace(&mut self.active, older);
            self.contents.files().remove(removed.handle);
        }
        let segment = successor.publish(&self.contents).map_err(past_return)?;
        if self.active.first() < first {
            self.seal(segment.start)?;
        }
        let older = self.activate(segment);
        if older.first() == first {
            self.contents.files().remove(older.handle);
        } else {
            self.sealed.push(older);
        }
        Ok(())
    }

    fn remove_active(&self, older: &mut Segment) -> Result<()> {
        self.unseal(older)?;
        let path = self.active.file.path();
        self.directory.disk.remove(path).map_err(Error::io(path))?;
        self.directory.sync_log()
    }

    fn forget_after(&mut self, last_kept: Sequence, start: Chain) {
        self.chain = start;
        self.durable = last_kept;
        self.proven = last_kept;
        self.reserved = 0;
        self.pending.truncate_after(last_kept);
        self.epochs.retain(|epoch| epoch.first <= last_kept);
    }
}

/// Once segments are removed, a full disk is no longer a refusal that left everything as it was.
fn past_return(error: Error) -> Error {
    match error {
        Error::DiskFull { path } => Error::Io { path, source: ErrorKind::StorageFull.into() },
        other => other,
    }
}
