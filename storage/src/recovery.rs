//! Reads the log and finds where it ends. FORMAT.md, "Reading it after a crash", is what this does, word for
//! word.
//!
//! The rule that matters most: a bad place is dropped only where it is certain that nobody was ever told that
//! it was durable. Anything else is corruption, and opening fails.

use std::collections::VecDeque;

use crate::batch::{BATCH_ALIGNMENT, BATCH_HEADER_BYTES, BatchHeader};
use crate::error::{Error, Result};
use crate::header::StoreId;
use crate::position::Sequence;
use crate::row::StampedRows;
use crate::segment::{Chain, SEGMENT_START, Segment, is_zero, write_zeros};
use crate::window::Window;

/// What opening a store found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// Whether the store was made just now.
    pub created: bool,
    /// Entries in the log.
    pub entries: u64,
    /// Bytes at the log's end that were written but never durable, and were dropped: a crash tore them.
    pub torn_bytes: u64,
}

/// A batch where it lies.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) offset: u64,
    pub(crate) header: BatchHeader,
    /// The rows that count: without those that a later segment cut off.
    pub(crate) rows: StampedRows,
}

/// What a walk over the log knows so far.
#[derive(Clone, Debug)]
pub(crate) struct Walk {
    store_id: StoreId,
    pub(crate) chain: Chain,
    /// Everything up to here is proven to have been fsynced.
    pub(crate) proven: Sequence,
    pub(crate) known_commit: Sequence,
}

/// How the walk over a segment ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SegmentEnd {
    /// Where there is no further batch that counts.
    pub(crate) offset: u64,
    /// Why, when entries could have followed.
    pub(crate) missing: Option<&'static str>,
}

impl Walk {
    pub(crate) fn new(store_id: StoreId, start: Chain) -> Walk {
        Walk { store_id, chain: start, proven: start.next.previous(), known_commit: Sequence(0) }
    }

    pub(crate) fn store_id(&self) -> StoreId {
        self.store_id
    }

    /// Passes over a segment that is known to lead to `next`.
    pub(crate) fn skip(&mut self, segment: &Segment, next: Chain) -> Result<()> {
        self.enter(segment)?;
        self.chain = next;
        Ok(())
    }

    /// Goes to the beginning of a segment that has to follow what was read so far.
    pub(crate) fn enter(&mut self, segment: &Segment) -> Result<()> {
        if segment.start != self.chain {
            let what = format!("does not follow entry {}: entries are missing", self.chain.next.previous());
            return Err(Error::corrupt(segment.file.path(), 32, what));
        }
        // What is before a segment was durable when it was made.
        self.proven = self.proven.max(segment.start.next.previous());
        Ok(())
    }

    /// Reads the batches of a segment that count: those below `limit`, the next segment's first sequence.
    pub(crate) fn segment(
        &mut self,
        segment: &Segment,
        limit: Option<Sequence>,
        mut visit: impl FnMut(&Batch, &Walk),
    ) -> Result<SegmentEnd> {
        self.enter(segment)?;
        let mut offset = SEGMENT_START;
        loop {
            if let Some(end) = self.batches(segment, &mut offset, u64::MAX, limit, &mut visit)? {
                return Ok(end);
            }
        }
    }

    /// The same a little at a time: about `bytes_max` bytes of batches from `offset` on, which advances. `None`: there may be
    /// more.
    pub(crate) fn batches(
        &mut self,
        segment: &Segment,
        offset: &mut u64,
        bytes_max: u64,
        limit: Option<Sequence>,
        mut visit: impl FnMut(&Batch, &Walk),
    ) -> Result<Option<SegmentEnd>> {
        let mut window = Window::new(&segment.file, segment.allocated);
        let start = *offset;
        while *offset - start < bytes_max {
            if limit.is_some_and(|limit| self.chain.next >= limit) {
                return Ok(Some(SegmentEnd { offset: *offset, missing: None }));
            }
            match self.batch(&mut window, *offset, limit)? {
                Ok(batch) => {
                    self.advance(&batch);
                    visit(&batch, self);
                    *offset += batch.header.batch_bytes();
                }
                Err(what) => return Ok(Some(SegmentEnd { offset: *offset, missing: Some(what) })),
            }
        }
        Ok(None)
    }

    /// The batch at `offset`, verified in every respect; or what is wrong there.
    fn batch(
        &self,
        window: &mut Window<'_>,
        offset: u64,
        limit: Option<Sequence>,
    ) -> Result<std::result::Result<Batch, &'static str>> {
        let Some(bytes) = window.get(offset, BATCH_HEADER_BYTES as u64)? else {
            return Ok(Err("the file ends where a batch was expected"));
        };
        let Some(header) = BatchHeader::decode(&bytes, self.store_id) else {
            return Ok(Err("no batch begins here"));
        };
        if let Err(what) = self.follows(&header) {
            return Ok(Err(what));
        }
        if header.seals {
            return Ok(Err("the log goes on in another segment, which is missing"));
        }
        let Some(bytes) = window.get(offset, header.batch_bytes())? else {
            return Ok(Err("the file ends within a batch"));
        };
        let rows_end = BATCH_HEADER_BYTES + header.rows_bytes as usize;
        let rows = bytes.slice(BATCH_HEADER_BYTES..rows_end);
        let rows = match StampedRows::verified(rows, header.count, header.first, header.rows_checksum) {
            Ok(rows) => rows,
            Err(what) => return Ok(Err(what)),
        };
        if !is_zero(&bytes[rows_end..]) {
            return Ok(Err("the batch's padding is damaged"));
        }
        // Saturates at what a batch can hold at most, which is then no cut.
        let keep = limit.map_or(u64::MAX, |limit| limit.0 - header.first.0);
        let rows = rows.take(u32::try_from(keep).unwrap_or(u32::MAX));
        Ok(Ok(Batch { offset, header, rows }))
    }

    fn follows(&self, header: &BatchHeader) -> std::result::Result<(), &'static str> {
        if header.first != self.chain.next {
            return Err("the batch does not follow the last sequence");
        }
        if header.previous_chain != self.chain.link {
            return Err("the batch does not follow the last batch");
        }
        if header.epoch < self.chain.epoch {
            return Err("the batch's epoch is below the last one");
        }
        if header.previous_durable >= header.first || header.known_commit >= header.next() {
            return Err("the batch's header contradicts itself");
        }
        Ok(())
    }

    fn advance(&mut self, batch: &Batch) {
        let Batch { header, rows, .. } = batch;
        if rows.count() > 0 {
            let next = Sequence(header.first.0 + u64::from(rows.count()));
            self.chain = Chain { next, epoch: header.epoch, link: header.chain(self.store_id) };
        }
        self.proven = self.proven.max(header.previous_durable);
        self.known_commit = self.known_commit.max(header.known_commit);
    }

    /// The log's end in its newest segment: nothing but zeros, or a torn tail, which is overwritten by zeros and
    /// counted; or corruption.
    pub(crate) fn settle_tail(&self, segment: &Segment, end: &SegmentEnd) -> Result<u64> {
        let torn_bytes = self.torn_bytes(segment, end)?;
        if torn_bytes > 0 {
            let file = segment.file.file();
            let zeroed = write_zeros(file, end.offset, end.offset + torn_bytes);
            zeroed.and_then(|()| file.sync_data()).map_err(Error::io(segment.file.path()))?;
        }
        Ok(torn_bytes)
    }

    /// How much of a torn tail there is behind the log's end; or corruption. Changes nothing.
    pub(crate) fn torn_bytes(&self, segment: &Segment, end: &SegmentEnd) -> Result<u64> {
        let tail = self.inspect_tail(segment, end.offset)?;
        if tail.proof {
            let missing = end.missing.unwrap_or("a batch is missing");
            let what = format!("{missing}, and entry {} was durable", self.chain.next);
            return Err(Error::corrupt(segment.file.path(), end.offset, what));
        }
        Ok(tail.end.saturating_sub(end.offset))
    }

    fn inspect_tail(&self, segment: &Segment, from: u64) -> Result<Tail> {
        let mut window = Window::new(&segment.file, segment.allocated);
        let mut tail = Tail { end: from, proof: false };
        let mut offset = from;
        while offset < segment.allocated {
            let length = TAIL_PIECE_BYTES.min(segment.allocated - offset);
            let Some(piece) = window.get(offset, length)? else { break };
            if !is_zero(&piece) {
                let last = piece.iter().rposition(|byte| *byte != 0).unwrap_or(0);
                tail.end = offset + last as u64 + 1;
                tail.proof |= self.proof_in(&mut window, offset, length)?;
            }
            offset += length;
        }
        Ok(tail)
    }

    /// Whether a batch header in these bytes proves that the missing entry was once durable.
    fn proof_in(&self, window: &mut Window<'_>, from: u64, length: u64) -> Result<bool> {
        for offset in (from..from + length).step_by(BATCH_ALIGNMENT as usize) {
            let Some(bytes) = window.get(offset, BATCH_HEADER_BYTES as u64)? else { break };
            let header = BatchHeader::decode(&bytes, self.store_id);
            // A seal as well: what it speaks of was there before it.
            if header.is_some_and(|header| header.previous_durable >= self.chain.next || header.seals) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

const REWRITE_PIECE_BYTES: u64 = 256 << 10;

const TAIL_PIECE_BYTES: u64 = 64 << 10;

const _: () = assert!(TAIL_PIECE_BYTES.is_multiple_of(BATCH_ALIGNMENT));

struct Tail {
    /// Behind the last byte that is not zero.
    end: u64,
    proof: bool,
}

/// Keeps track of where the batches begin that no later batch proves durable.
#[derive(Debug, Default)]
pub(crate) struct Unproven {
    /// Each with the entry that has to be durable to prove it.
    batches: VecDeque<(Sequence, u64)>,
}

impl Unproven {
    pub(crate) fn note(&mut self, batch: &Batch, proven: Sequence) {
        // A marker has no entry of its own: it is durable for certain once an entry after it is.
        let next = batch.header.next();
        let proof = if batch.rows.count() == 0 { next } else { next.previous() };
        self.batches.push_back((proof, batch.offset));
        while self.batches.front().is_some_and(|(proof, _)| *proof <= proven) {
            self.batches.pop_front();
        }
    }

    /// Writes them again where they are. After a failed fsync the kernel may take pages for clean that never
    /// reached the disk; only a new write makes the next fsync mean what it says.
    pub(crate) fn rewrite(&self, segment: &Segment) -> Result<()> {
        let Some((_, start)) = self.batches.front() else { return Ok(()) };
        let path = segment.file.path();
        let (mut window, mut offset) = (Window::new(&segment.file, segment.end), *start);
        while offset < segment.end {
            // In pieces: writers that did not wait for an fsync may have left a whole segment of this.
            let length = REWRITE_PIECE_BYTES.min(segment.end - offset);
            let Some(bytes) = window.get(offset, length)? else {
                return Err(Error::corrupt(path, offset, "the file shrank while it was read"));
            };
            segment.file.file().write_at(&bytes, offset).map_err(Error::io(path))?;
            offset += length;
        }
        Ok(())
    }
}
