//! What looking at a store finds.

use std::path::PathBuf;

use crate::damage::Damage;
use crate::header::StoreId;
use crate::position::{Position, Sequence};

/// What there is of a store. Paths are absolute; sequences say where in the log.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The store's directory.
    pub path: PathBuf,
    /// What tells this store from any other.
    pub store_id: StoreId,
    /// Whether it is `replicated` or `standalone`.
    pub kind: &'static str,
    /// The format of its files.
    pub format: u32,
    /// Bytes of the owner's value.
    pub metadata_bytes: u64,
    /// The last entry of the log.
    pub last: Position,
    /// Everything up to here the log knows to be committed. Where the newest segment says nothing of it, and not all was
    /// read, less than the log knows. Of a standalone store, all that it has.
    pub known_commit: Sequence,
    /// The first entry that the log still has.
    pub log_first: Sequence,
    /// Everything up to here is in the runs, as far as it still counts.
    pub flushed: Sequence,
    /// The log's files, oldest first.
    pub segments: Vec<SegmentReport>,
    /// The files of the runs, oldest run first.
    pub runs: Vec<RunReport>,
    /// Checkpoints of the index: they make opening fast, and the store lives without them.
    pub checkpoints: Vec<FileReport>,
    /// What was written but never durable, at the log's end: opening drops it, and nothing is lost with it.
    pub torn_tail: Option<TornTail>,
    /// Files that a process left when it ended, and that opening removes.
    pub leftovers: Vec<PathBuf>,
    /// What is damaged: each file's first place.
    pub damages: Vec<Damage>,
    /// What was read, if everything was.
    pub verified: Option<Verified>,
}

/// A file of the log.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SegmentReport {
    /// Where it is.
    pub path: PathBuf,
    /// How long it is.
    pub bytes: u64,
    /// Its first entry.
    pub first: Sequence,
    /// Its last entry that counts; one before the first when there is none.
    pub last: Sequence,
    /// The epoch of the last entry before this segment.
    pub epoch_before: u64,
}

/// A file of a run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RunReport {
    /// Where it is.
    pub path: PathBuf,
    /// How long it is, by FILES.
    pub bytes: u64,
    /// What the run holds was written from here on ...
    pub first: Sequence,
    /// ... up to here.
    pub last: Sequence,
    /// Whether the index in memory leaves its rows out.
    pub cold: bool,
    /// Only keys from here on count: a compaction that is to go on has moved the others.
    pub from: Option<Vec<u8>>,
    /// What the file says of itself; `None` when it cannot be read.
    pub rows: Option<RowsReport>,
}

/// What a run's file says of its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RowsReport {
    /// How many, tombstones included.
    pub rows: u64,
    /// How many say that a key was deleted.
    pub tombstones: u64,
    /// What they take before compression.
    pub logical_bytes: u64,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileReport {
    /// Where it is.
    pub path: PathBuf,
    /// How long it is.
    pub bytes: u64,
}

/// A torn tail.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TornTail {
    /// The file.
    pub path: PathBuf,
    /// Where it begins.
    pub offset: u64,
    /// How long it is.
    pub bytes: u64,
}

/// What was read and verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verified {
    /// Batches of the log.
    pub batches: u64,
    /// Entries of the log.
    pub entries: u64,
    /// Rows in the runs.
    pub rows: u64,
}

impl Report {
    /// What the files of log, runs and checkpoints take.
    pub(super) fn file_bytes(&self) -> u64 {
        let segments = self.segments.iter().map(|segment| segment.bytes);
        let runs = self.runs.iter().map(|run| run.bytes);
        segments.chain(runs).chain(self.checkpoints.iter().map(|file| file.bytes)).sum()
    }

    /// Takes damage into the report; any other error stays one.
    pub(super) fn note<T>(&mut self, outcome: crate::error::Result<T>) -> crate::error::Result<Option<T>> {
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(error) => match Damage::of(&error) {
                Some(damage) => {
                    self.damages.push(damage);
                    Ok(None)
                }
                None => Err(error),
            },
        }
    }
}
