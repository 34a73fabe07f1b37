//! What readers share with the one writer: the index, and the files that it points into.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use paddock_index::{BTreeIndex, Locator, OrderedIndex};
use parking_lot::RwLock;

use crate::error::{Error, Result};
use crate::position::Sequence;
use crate::row::{ContentType, Frame, Frames, RowRef, verified};
use crate::segment::SegmentFile;

/// The applied state of a store.
#[derive(Default)]
pub(crate) struct Contents {
    pub(crate) index: BTreeIndex,
    /// By the number in a locator. `None`: the segment was cut off; no locator points there.
    pub(crate) files: Vec<Option<SegmentFile>>,
    pub(crate) applied: Sequence,
    pub(crate) live_bytes: u64,
}

/// The applied state, shared. Readers hold the lock for a lookup, never while they read the disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared {
    pub(crate) contents: Arc<RwLock<Contents>>,
}

/// A key's value, and the version of the write that made it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
    /// The sequence of the write that made it.
    pub version: Sequence,
    /// When the value expires, in milliseconds since 1970; `None`: never.
    pub expires_at_ms: Option<u64>,
    /// What the value is, if its writer said so.
    pub content_type: Option<ContentType>,
}

impl Record {
    /// The record that a put makes, sharing the `encoded` bytes that it was decoded from.
    pub(crate) fn of_row(encoded: &Bytes, row: RowRef<'_>, version: Sequence) -> Option<Record> {
        let RowRef::Put { key, value, expires_at_ms, content_type } = row else { return None };
        let content_type = content_type.map(|text| ContentType::shared(encoded, text));
        let (key, value) = (encoded.slice_ref(key), encoded.slice_ref(value));
        Some(Record { key, value, version, expires_at_ms, content_type })
    }
}

impl fmt::Debug for Contents {
    /// How much there is: a store is not to be printed key by key because a handle of it is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Contents({} keys, applied up to {})", self.index.len(), self.applied)
    }
}

/// Where a row lies: enough to read it without the index.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    file: SegmentFile,
    locator: Locator,
}

impl Contents {
    pub(crate) fn place(&self, locator: Locator) -> Option<Place> {
        let file = self.files.get(locator.file as usize)?.clone()?;
        Some(Place { file, locator })
    }

    /// Makes room for a file of this number.
    pub(crate) fn set_file(&mut self, id: u32, file: Option<SegmentFile>) {
        let id = id as usize;
        if self.files.len() <= id {
            self.files.resize(id + 1, None);
        }
        self.files[id] = file;
    }

    fn apply(&mut self, entry: &Entry) {
        let replaced = match &entry.change {
            Change::Put { key, locator } => {
                self.live_bytes += u64::from(locator.length);
                self.index.insert(key, *locator)
            }
            Change::Delete { key } => self.index.remove(key),
            Change::Marker => None,
        };
        self.live_bytes -= replaced.map_or(0, |locator| u64::from(locator.length));
        self.applied = entry.sequence;
    }
}

impl Place {
    pub(crate) fn version(&self) -> Sequence {
        Sequence(self.locator.tag)
    }

    /// Reads the row and verifies it: its checksum, and that it is the row of `key`.
    pub(crate) fn read(&self, key: &[u8]) -> Result<Record> {
        let Place { file, locator } = self;
        let corrupt = |what| Error::corrupt(&file.path, u64::from(locator.offset), what);
        let mut bytes = vec![0; locator.length as usize];
        let read = file.file.read_at(&mut bytes, u64::from(locator.offset)).map_err(Error::io(&file.path))?;
        if read < bytes.len() {
            return Err(corrupt("the file ends within a row"));
        }
        let bytes = Bytes::from(bytes);
        let stored = verified(&bytes).map_err(corrupt)?;
        if stored.sequence != self.version() || stored.bytes.len() != bytes.len() {
            return Err(corrupt("the row is not the one that the index points at"));
        }
        match Record::of_row(&bytes, stored.row, stored.sequence) {
            Some(record) if record.key == key => Ok(record),
            _ => Err(corrupt("the row is of another key")),
        }
    }
}

/// What an entry of the log does to the index.
#[derive(Debug)]
enum Change {
    Put { key: Box<[u8]>, locator: Locator },
    Delete { key: Box<[u8]> },
    Marker,
}

#[derive(Debug)]
struct Entry {
    sequence: Sequence,
    change: Change,
}

/// Entries that are in the log and not in the index yet. Kept with their keys, so that applying them reads
/// nothing.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    entries: VecDeque<Entry>,
}

impl Pending {
    /// Adds rows that lie in a file from `offset` on; the first has sequence `first`.
    pub(crate) fn push(&mut self, file: u32, offset: u64, first: Sequence, rows: Frames<'_>) {
        for (sequence, frame) in (first.0..).zip(rows) {
            let change = match frame.stored.row {
                RowRef::Put { key, .. } => {
                    Change::Put { key: key.into(), locator: locator(file, offset, sequence, &frame) }
                }
                RowRef::Delete { key } => Change::Delete { key: key.into() },
                RowRef::Marker { .. } => Change::Marker,
            };
            self.entries.push_back(Entry { sequence: Sequence(sequence), change });
        }
    }

    /// Moves entries up to `through` into the index: for readers, all at once.
    pub(crate) fn apply(&mut self, through: Sequence, shared: &Shared) {
        let count = self.entries.partition_point(|entry| entry.sequence <= through);
        if count == 0 {
            return;
        }
        let mut contents = shared.contents.write();
        for entry in self.entries.drain(..count) {
            contents.apply(&entry);
        }
    }

    /// Forgets entries after a cut.
    pub(crate) fn truncate_after(&mut self, last_kept: Sequence) {
        let count = self.entries.partition_point(|entry| entry.sequence <= last_kept);
        self.entries.truncate(count);
    }
}

/// Files stay below 4 GiB (asserted where segments are rolled), so that 32 bits hold any offset.
fn locator(file: u32, rows_offset: u64, sequence: u64, frame: &Frame<'_>) -> Locator {
    let offset = u32::try_from(rows_offset + frame.offset as u64).unwrap_or(u32::MAX);
    let length = u32::try_from(frame.stored.bytes.len()).unwrap_or(u32::MAX);
    Locator { file, offset, length, tag: sequence }
}
