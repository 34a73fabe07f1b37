//! What a store consists of at one moment, besides its growing tail: tails that are waiting to be flushed, and runs.
//!
//! Sequences order them: everything in a later part is newer than everything in an earlier one. So of a key's versions
//! the newest is in the last part that has one.

use std::sync::Arc;

use paddock_index::{TailEntry, TailLayers};

use crate::error::Result;
use crate::file_table::{FileEntry, Handle};
use crate::position::Sequence;
use crate::run::{FoundRow, Run};

/// Tails and runs. One state of it: it never changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// Oldest first; all older than the growing tail.
    pub(crate) frozen: Vec<Arc<FrozenTail>>,
    /// Oldest first; all older than the tails.
    pub(crate) runs: Vec<SortedRun>,
}

/// A tail that takes no more entries, and is waiting to be written to a run. Its rows are in the log.
#[derive(Debug)]
pub(crate) struct FrozenTail {
    pub(crate) layers: TailLayers,
    /// The last entry that was applied when it was frozen: markers have no rows, so this may be above the last row's.
    pub(crate) last: Sequence,
    /// The segment of that entry. Once it is synced, all of the tail is durable: segments before it are.
    pub(crate) segment: Arc<FileEntry>,
}

/// Rows in key order, one version of each key, in one file or in several that follow one another.
#[derive(Clone, Debug)]
pub(crate) struct SortedRun {
    /// In the order of their keys, which do not overlap.
    pub(crate) files: Vec<RunFile>,
    /// Only keys from here on count: a merge under way has the others already.
    pub(crate) from: Option<Arc<[u8]>>,
    /// Whether the hash index does not know its rows.
    pub(crate) cold: bool,
}

/// A file of a run.
#[derive(Clone, Debug)]
pub(crate) struct RunFile {
    pub(crate) handle: Handle,
    pub(crate) run: Arc<Run>,
}

impl View {
    pub(crate) fn has_cold_runs(&self) -> bool {
        self.runs.iter().any(|run| run.cold)
    }

    /// A key's newest row in the cold runs.
    pub(crate) fn find_cold(&self, key: &[u8]) -> Result<Option<FoundRow>> {
        find_in(self.runs.iter().filter(|run| run.cold), key)
    }

    /// Whether some cold run may have a row of a key: false is certain.
    pub(crate) fn may_be_cold(&self, key: &[u8]) -> bool {
        let mut cold = self.runs.iter().filter(|run| run.cold);
        // What cannot be read is for who reads rows to say.
        cold.any(|run| run.file_of(key).is_some_and(|file| file.run.may_hold(key).unwrap_or(true)))
    }

    /// A key's newest row in all runs.
    pub(crate) fn find_in_runs(&self, key: &[u8]) -> Result<Option<FoundRow>> {
        find_in(self.runs.iter(), key)
    }

    /// A key's newest entry up to a sequence in the frozen tails.
    pub(crate) fn find_in_tails(&self, key: &[u8], at: Sequence) -> Option<TailEntry> {
        self.frozen.iter().rev().find_map(|tail| tail.layers.newest(key, at.0))
    }
}

fn find_in<'a>(runs: impl DoubleEndedIterator<Item = &'a SortedRun>, key: &[u8]) -> Result<Option<FoundRow>> {
    for run in runs.rev() {
        if let Some(file) = run.file_of(key)
            && let Some(found) = file.run.find(key)?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

impl SortedRun {
    /// The file that a key would be in; `None` when it is below all that count here, or above all.
    pub(crate) fn file_of(&self, key: &[u8]) -> Option<&RunFile> {
        if self.from.as_ref().is_some_and(|from| key < &**from) {
            return None;
        }
        let after = self.files.partition_point(|file| file.run.summary().last_key() < key);
        self.files.get(after)
    }
}
