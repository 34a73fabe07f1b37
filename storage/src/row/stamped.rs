//! A batch's rows as they lie in the log, with their sequences.

use bytes::{Bytes, BytesMut};

use super::checksums::Checksums;
use super::codec::{restamp, stored_checksum, verified};
use super::rows::{Frames, Rows};
use crate::position::Sequence;

/// Rows of a log that were verified: checksums, framing and sequences.
#[derive(Clone, Debug)]
pub(crate) struct StampedRows {
    bytes: Bytes,
    count: u32,
}

impl StampedRows {
    /// Verifies what the log holds in the place of `count` rows, of which the first is entry `first`. `checksum` is the
    /// CRC of their checksums, as the batch header has it.
    pub(crate) fn verified(
        bytes: Bytes,
        count: u32,
        first: Sequence,
        checksum: u32,
    ) -> Result<StampedRows, &'static str> {
        const DAMAGED: &str = "a row of the batch is damaged";
        let mut checksums = Checksums::new();
        let (mut offset, mut next) = (0, first.0);
        while offset < bytes.len() {
            let stored = verified(&bytes[offset..]).map_err(|_| DAMAGED)?;
            if stored.sequence.0 != next {
                return Err("a row of the batch carries the sequence of another entry");
            }
            checksums.add(stored_checksum(stored.bytes).unwrap_or_default());
            offset += stored.bytes.len();
            next += 1;
        }
        if next - first.0 != u64::from(count) || checksums.finish() != checksum {
            return Err(DAMAGED);
        }
        Ok(StampedRows { bytes, count })
    }

    /// Their bytes.
    pub(crate) fn encoded(&self) -> Bytes {
        self.bytes.clone()
    }

    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// How many bytes they take.
    pub(crate) fn encoded_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The first `take` rows. No copy.
    pub(crate) fn take(self, take: u32) -> StampedRows {
        if take >= self.count {
            // Recovery asks this of every batch, and almost none was cut.
            return self;
        }
        let end = self.frames().offset_of(take);
        StampedRows { bytes: self.bytes.slice(..end), count: take }
    }

    /// The rows with their places.
    pub(crate) fn frames(&self) -> Frames<'_> {
        Frames::new(&self.bytes)
    }

    /// The same rows as they were before they were appended.
    pub(crate) fn canonical(&self) -> Rows {
        let mut bytes = BytesMut::from(&self.bytes[..]);
        for frame in self.frames() {
            restamp(&mut bytes[frame.offset..], frame.stored.sequence, Sequence(0));
        }
        Rows::verified(bytes.freeze(), self.count)
    }
}
