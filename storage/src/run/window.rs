//! Reads the blocks of a run that is not mapped, in large pieces: one system call for many blocks.

use crate::data_file::DataFile;
use crate::error::Result;

/// The first piece that is read ahead, behind the block that a search led to.
const AHEAD_BYTES_MIN: u32 = 64 << 10;

/// The largest, where there is memory for it: a merge has a window in each of a dozen runs.
const AHEAD_BYTES_MAX: u32 = 256 << 10;

/// Which way the cursor goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Forward,
    Backward,
}

/// A piece of a file in memory. The longer a cursor goes on in one direction, the larger the pieces are.
#[derive(Debug, Default)]
pub(super) struct Window {
    buffer: Vec<u8>,
    /// Where in the file it begins, and how much of the buffer it is.
    start: u32,
    length: u32,
    /// How much to read next; 0: no more than the block asked for.
    ahead: u32,
}

impl Window {
    /// A search led elsewhere: perhaps only for one block.
    pub(super) fn jump(&mut self) {
        self.ahead = 0;
    }

    /// Sees to it that a block is in the window, whose file has blocks in the given bounds; and says where in the window
    /// the block begins. What is missing at the end of the file is missing there, too.
    pub(super) fn fill(
        &mut self,
        file: &DataFile,
        (start, length): (u32, u32),
        (first, end): (u32, u32),
        direction: Direction,
    ) -> Result<usize> {
        let in_window = start >= self.start && start + length <= self.start + self.length;
        if !in_window {
            let want = self.ahead.max(length);
            let from = match direction {
                Direction::Forward => start,
                Direction::Backward => (start + length).saturating_sub(want).max(first),
            };
            let want = want.min(end.saturating_sub(from)).max(start + length - from);
            self.length = 0;
            // By a system call also where the file is mapped: who wants the mapping does not come here.
            let read = file.read_into(u64::from(from), want as usize, &mut self.buffer)?.len();
            self.start = from;
            self.length = u32::try_from(read).unwrap_or(u32::MAX);
            let ahead_max = file.memory().read_ahead_bytes_max(AHEAD_BYTES_MAX);
            self.ahead = (self.ahead * 2).max(AHEAD_BYTES_MIN).min(ahead_max);
        }
        Ok(start.saturating_sub(self.start) as usize)
    }

    /// The bytes from a place in the window on, as many as asked for if they are there.
    #[inline]
    pub(super) fn bytes(&self, start: usize, length: usize) -> &[u8] {
        let bytes = &self.buffer[..(self.length as usize).min(self.buffer.len())];
        let rest = bytes.get(start..).unwrap_or_default();
        &rest[..length.min(rest.len())]
    }
}
