//! A consistent view of a store: what was true when it was taken, for as long as somebody holds it.

use std::fmt;
use std::sync::Arc;

use paddock_index::{TailEntry, TailLayers};

use crate::contents::take_put;
use crate::damage::FirstDamage;
use crate::error::{Error, Result};
use crate::file_table::FileTable;
use crate::position::Sequence;
use crate::row::StoredRow;
use crate::row_buffer::with_buffer;
use crate::view::View;

/// All parts of a store at one moment. It keeps the files that it needs open, also when compaction has replaced them:
/// their space is free once the last capture of them is gone.
#[derive(Clone)]
pub(crate) struct Capture {
    /// Rows above this are not in it, wherever they are met.
    pub(crate) at: Sequence,
    /// The growing tail.
    pub(crate) layers: TailLayers,
    pub(crate) view: Arc<View>,
    pub(crate) files: Arc<FileTable>,
    pub(crate) damage: FirstDamage,
}

impl fmt::Debug for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Capture(at {}, {} entries in the tail)", self.at, self.layers.len())
    }
}

impl Capture {
    /// What `take` makes of a key's newest row, asked of the parts from the newest to the oldest.
    pub(crate) fn read<T>(&self, key: &[u8], take: impl FnOnce(&StoredRow<'_>) -> T) -> Result<Option<T>> {
        let tail = self.layers.newest(key, self.at.0).or_else(|| self.view.find_in_tails(key, self.at));
        self.damage.note(match tail {
            Some(entry) if entry.tombstone => Ok(None),
            Some(entry) => self.read_entry(key, &entry, take).map(Some),
            None => self.view.find_in_runs(key).map(|found| take_put(&found?, take)),
        })
    }

    /// Reads the row that an entry of a tail points at.
    pub(crate) fn read_entry<T>(
        &self,
        key: &[u8],
        entry: &TailEntry,
        take: impl FnOnce(&StoredRow<'_>) -> T,
    ) -> Result<T> {
        // A file is let go of only after the view without its tail was published, and both were captured at once.
        let Some(file) = self.files.of(entry.locator) else {
            return Err(Error::Poisoned { reason: "a row's file is gone while it is needed".to_string() });
        };
        with_buffer(|buffer| {
            let row = file.row_at(entry.locator, buffer)?;
            if row.row.key() != Some(key) || row.sequence.0 != entry.sequence {
                let offset = u64::from(entry.locator.offset());
                return Err(Error::corrupt(
                    file.path(),
                    offset,
                    "the row is not the one that was written here",
                ));
            }
            Ok(take(&row))
        })
    }
}
