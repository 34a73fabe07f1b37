//! Entries that are in the log and not applied yet.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::contents::Contents;
use crate::file_table::Handle;
use crate::position::Sequence;
use crate::row::Frames;

/// Batches in the order of their sequences, with their rows: applying them reads nothing from the disk. Who bounds the log's
/// uncommitted end bounds this.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    batches: VecDeque<Batch>,
}

#[derive(Debug)]
struct Batch {
    handle: Handle,
    /// Where the first row lies.
    offset: u64,
    first: Sequence,
    rows: Bytes,
    count: u32,
}

impl Batch {
    /// How many of its entries are at or below a sequence.
    fn count_through(&self, through: Sequence) -> u32 {
        let count = through.0.saturating_add(1).saturating_sub(self.first.0);
        u32::try_from(count).unwrap_or(u32::MAX).min(self.count)
    }

    /// Takes the first `count` entries off.
    fn split(&mut self, count: u32) -> Batch {
        // Most often all of them: then there is nothing to look for.
        let at = if count == self.count { self.rows.len() } else { Frames::new(&self.rows).offset_of(count) };
        let Batch { handle, offset, first, .. } = *self;
        let front = Batch { handle, offset, first, rows: self.rows.slice(..at), count };
        self.rows = self.rows.slice(at..);
        self.offset += at as u64;
        self.first = Sequence(self.first.0 + u64::from(count));
        self.count -= count;
        front
    }
}

impl Pending {
    /// Adds `count` rows that lie in a file from `offset` on; the first has sequence `first`.
    pub(crate) fn push(&mut self, handle: Handle, offset: u64, first: Sequence, rows: Bytes, count: u32) {
        // A batch of no rows says something about the log, and nothing to readers.
        if count > 0 {
            self.batches.push_back(Batch { handle, offset, first, rows, count });
        }
    }

    /// Forgets entries up to `through`, which readers find elsewhere.
    pub(crate) fn skip_through(&mut self, through: Sequence) {
        while let Some(mut batch) = self.batches.pop_front() {
            batch.split(batch.count_through(through));
            if batch.count > 0 {
                self.batches.push_front(batch);
                break;
            }
        }
    }

    /// Applies entries up to `through`: for readers, all at once.
    pub(crate) fn apply(&mut self, through: Sequence, contents: &Contents) {
        let mut applied = None;
        while let Some(mut batch) = self.batches.pop_front() {
            let count = batch.count_through(through);
            if count == 0 {
                self.batches.push_front(batch);
                break;
            }
            let front = batch.split(count);
            contents.apply(front.handle, front.offset, front.first, &Frames::new(&front.rows));
            applied = Some(Sequence(front.first.0 + u64::from(count) - 1));
            if batch.count > 0 {
                self.batches.push_front(batch);
                break;
            }
        }
        if let Some(applied) = applied {
            contents.set_applied(applied);
        }
    }

    /// Forgets entries after a cut.
    pub(crate) fn truncate_after(&mut self, last_kept: Sequence) {
        while let Some(mut batch) = self.batches.pop_back() {
            let count = batch.count_through(last_kept);
            if count > 0 {
                self.batches.push_back(batch.split(count));
                break;
            }
        }
    }
}
