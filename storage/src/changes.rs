//! The store's changes, in the order in which they were made.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::batch::LogEntries;
use crate::error::Result;
use crate::group::Group;
use crate::position::Sequence;
use crate::record::Record;
use crate::row::RowRef;

/// About how much of the log is read at a time.
const PIECE_BYTES: usize = 256 << 10;

/// One key was given a value, or lost it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: Bytes,
    /// The write's sequence.
    pub version: Sequence,
    /// When it was written, in milliseconds since 1970 by the store's clock.
    pub log_time_ms: u64,
    /// What the key has from then on; `None`: nothing.
    pub record: Option<Record>,
}

/// An iterator over changes; see [`crate::Store::changes`].
pub struct Changes {
    group: Arc<Group>,
    /// The first entry that is not in `ready` nor before it.
    next: Sequence,
    ready: VecDeque<Change>,
    /// After an error there is nothing more.
    failed: bool,
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").field("next", &self.next).finish_non_exhaustive()
    }
}

impl Changes {
    pub(crate) fn new(group: Arc<Group>, after: Sequence) -> Changes {
        Changes { group, next: after.next(), ready: VecDeque::new(), failed: false }
    }

    /// Reads some more of the log, if there is more.
    fn fill(&mut self) -> Result<()> {
        // The store's lock is held for a look at its segments only.
        while self.ready.is_empty()
            && let Some(piece) = self.group.with(|store| store.log_piece(self.next))?
        {
            for entries in piece.entries(&mut self.next, PIECE_BYTES)? {
                self.ready.extend(changes(&entries));
            }
        }
        Ok(())
    }
}

fn changes(entries: &LogEntries) -> impl Iterator<Item = Change> {
    let encoded = entries.rows.encoded();
    (entries.first.0..).map(Sequence).zip(entries.rows.iter()).filter_map(|(version, row)| {
        let record = Record::of_row(encoded, row, version);
        let key = match row {
            RowRef::Put { key, .. } | RowRef::Delete { key } => encoded.slice_ref(key),
            RowRef::Marker { .. } => return None,
        };
        Some(Change { key, version, log_time_ms: entries.log_time_ms, record })
    })
}

impl Iterator for Changes {
    type Item = Result<Change>;

    fn next(&mut self) -> Option<Result<Change>> {
        if self.ready.is_empty()
            && !self.failed
            && let Err(error) = self.fill()
        {
            self.failed = true;
            return Some(Err(error));
        }
        self.ready.pop_front().map(Ok)
    }
}
