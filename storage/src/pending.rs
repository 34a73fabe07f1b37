//! Entries that are in the log and not applied yet.

use std::collections::VecDeque;

use crate::contents::Contents;
use crate::file_table::Handle;
use crate::position::Sequence;
use crate::row::Rows;

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
    rows: Rows,
}

impl Batch {
    /// How many of its entries are at or below a sequence.
    fn count_through(&self, through: Sequence) -> u32 {
        let count = (through.0 + 1).saturating_sub(self.first.0);
        u32::try_from(count).unwrap_or(u32::MAX).min(self.rows.count())
    }
}

impl Pending {
    /// Adds rows that lie in a file from `offset` on; the first has sequence `first`.
    pub(crate) fn push(&mut self, handle: Handle, offset: u64, first: Sequence, rows: &Rows) {
        self.batches.push_back(Batch { handle, offset, first, rows: rows.clone() });
    }

    /// Applies entries up to `through`: for readers, all at once.
    pub(crate) fn apply(&mut self, through: Sequence, contents: &Contents) {
        let mut applied = None;
        while let Some(batch) = self.batches.front_mut() {
            let count = batch.count_through(through);
            if count == 0 {
                break;
            }
            let whole = count == batch.rows.count();
            let rows = batch.rows.take(count);
            contents.apply(batch.handle, batch.offset, batch.first, &rows);
            applied = Some(Sequence(batch.first.0 + u64::from(count) - 1));
            if !whole {
                batch.offset += rows.encoded().len() as u64;
                batch.first = Sequence(batch.first.0 + u64::from(count));
                batch.rows = batch.rows.skip(count);
                break;
            }
            self.batches.pop_front();
        }
        if let Some(applied) = applied {
            contents.set_applied(applied);
        }
    }

    /// Forgets entries after a cut.
    pub(crate) fn truncate_after(&mut self, last_kept: Sequence) {
        while let Some(batch) = self.batches.back_mut() {
            let count = batch.count_through(last_kept);
            if count == batch.rows.count() {
                break;
            }
            if count > 0 {
                batch.rows = batch.rows.take(count);
                break;
            }
            self.batches.pop_back();
        }
    }
}
