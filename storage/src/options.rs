//! How a store is laid out on its disk.

use std::sync::Arc;

use crate::disk::{Disk, SystemDisk};

/// Room that growth leaves free in the log for what must go on when the disk is full: deletes and markers.
pub const CONTROL_HEADROOM_BYTES: u64 = 256 << 10;

const SEGMENT_BYTES: u64 = 64 << 20;
const SEGMENT_BYTES_MIN: u64 = 4 << 10;
const SEGMENT_BYTES_MAX: u64 = 1 << 30;
const EXTENT_BYTES: u64 = 4 << 20;
const EXTENT_BYTES_MIN: u64 = 4 << 10;

/// Options of a store. The defaults suit a server; tests and small devices set less.
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) segment_bytes: u64,
    pub(crate) extent_bytes: u64,
    pub(crate) disk: Arc<dyn Disk>,
}

impl Default for Options {
    fn default() -> Self {
        Options { segment_bytes: SEGMENT_BYTES, extent_bytes: EXTENT_BYTES, disk: Arc::new(SystemDisk) }
    }
}

impl Options {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// When a segment is full and the next one begins: 64 MiB by default, 4 KiB to 1 GiB (a batch that is larger
    /// gets a segment to itself). May change from one opening to the next.
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = bytes.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        self
    }

    /// How much of a segment is filled with zeros at a time, ahead of the rows: 4 MiB by default, at least 4 KiB.
    /// More means rarer pauses, less a smaller empty store.
    #[must_use]
    pub fn extent_bytes(mut self, bytes: u64) -> Self {
        self.extent_bytes = bytes.clamp(EXTENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        self
    }

    /// Another disk than the operating system's.
    #[must_use]
    pub fn disk(mut self, disk: Arc<dyn Disk>) -> Self {
        self.disk = disk;
        self
    }
}
