//! Reading the log: for followers that lack some of it, and to verify it.

use std::sync::Arc;

use super::ReplicatedStore;
use crate::batch::{BATCH_HEADER_BYTES, BatchHeader, LogEntries};
use crate::error::{Error, Result};
use crate::header::StoreId;
use crate::position::Sequence;
use crate::recovery::Walk;
use crate::row::{Rows, StampedRows};
use crate::segment::Segment;
use crate::view::View;
use crate::window::Window;

/// What verifying a store read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verification {
    /// Files of the log.
    pub segments: u64,
    /// Batches.
    pub batches: u64,
    /// Entries.
    pub entries: u64,
    /// Bytes of encoded rows.
    pub rows_bytes: u64,
    /// Files of runs.
    pub run_files: u64,
    /// Rows in runs.
    pub run_rows: u64,
}

impl ReplicatedStore {
    /// Entries after a sequence, each batch verified, in order: as many whole batches as fit into about
    /// `bytes_max` bytes of rows, but at least one where there is one. Also entries that are not durable yet.
    ///
    /// ```
    /// # use paddock_storage::{LogEntries, Options, ReplicatedStore, RowsBuilder, Sequence};
    /// # let directory = tempfile::tempdir()?;
    /// # let mut store = ReplicatedStore::open(directory.path(), Options::new())?;
    /// # let mut rows = RowsBuilder::new();
    /// # rows.put(b"heron", b"grey")?;
    /// # let first = store.last().sequence.next();
    /// # store.append(&LogEntries { epoch: 1, first, log_time_ms: 0, rows: rows.finish() }, Sequence(0))?;
    /// let log = store.read_log(Sequence(0), 1 << 20)?;
    /// assert_eq!((log.len(), log[0].first, log[0].rows.count()), (1, Sequence(1), 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Reclaimed`] when the log begins after the first of them; [`Error::Io`], [`Error::Corrupt`].
    pub fn read_log(&self, after: Sequence, bytes_max: usize) -> Result<Vec<LogEntries>> {
        let mut found = Found { entries: Vec::new(), bytes: 0, bytes_max };
        let mut next = after.next();
        self.check_kept(next)?;
        while next < self.chain.next {
            let (segment, limit) = self.segment_of(next);
            let piece = LogPiece { segment, store_id: self.manifest.store_id, limit };
            if !self.contents.damage().note(piece.read(&mut next, &mut found))? {
                break;
            }
        }
        Ok(found.entries)
    }

    /// Where durable and applied entries from `next` on can be read, without the store: for others, beside its owner.
    pub(crate) fn log_piece(&self, next: Sequence) -> Result<Option<LogPiece>> {
        self.check_kept(next)?;
        let (segment, limit) = self.segment_of(next);
        let limit = limit.min(self.durable.min(self.applied()).next());
        Ok((next < limit).then_some(LogPiece { segment, store_id: self.manifest.store_id, limit }))
    }

    fn check_kept(&self, next: Sequence) -> Result<()> {
        let first = self.log_first();
        if next < first { Err(Error::Reclaimed { first: first.0 }) } else { Ok(()) }
    }

    /// Reads the whole log and all runs again, and verifies every checksum, sequence and link.
    ///
    /// ```
    /// # use paddock_storage::{LogEntries, Options, ReplicatedStore, RowsBuilder, Sequence};
    /// # let directory = tempfile::tempdir()?;
    /// # let mut store = ReplicatedStore::open(directory.path(), Options::new())?;
    /// # let mut rows = RowsBuilder::new();
    /// # rows.put(b"heron", b"grey")?;
    /// # let first = store.last().sequence.next();
    /// # store.append(&LogEntries { epoch: 1, first, log_time_ms: 0, rows: rows.finish() }, Sequence(0))?;
    /// assert_eq!(store.verify()?.entries, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Corrupt`] names the first damaged place; [`Error::Io`].
    pub fn verify(&self) -> Result<Verification> {
        self.verifier().run()
    }

    /// What verifying the store as it is now needs of it: the reading itself takes long, and needs the store no more.
    pub(crate) fn verifier(&self) -> Verifier {
        Verifier {
            store_id: self.manifest.store_id,
            segments: self.segments_with_limits().map(|(segment, limit)| (segment.clone(), limit)).collect(),
            view: self.contents.view(),
        }
    }
    /// The segments, and where the entries of each end.
    fn segments_with_limits(&self) -> impl Iterator<Item = (&Segment, Sequence)> {
        let limits = self.segments().skip(1).map(Segment::first).chain([self.chain.next]);
        self.segments().zip(limits)
    }

    /// The segment that an entry is in, or would be, as it is now; and where its entries end.
    pub(super) fn segment_of(&self, sequence: Sequence) -> (Segment, Sequence) {
        let after = self.sealed.partition_point(|segment| segment.first() <= sequence);
        match after.checked_sub(1).map(|at| &self.sealed[at]) {
            Some(segment) if sequence < self.active.first() => {
                let next = self.sealed.get(after).unwrap_or(&self.active);
                (segment.clone(), next.first())
            }
            _ => (self.active.clone(), self.chain.next),
        }
    }
}

/// A store as it was at one moment, whose files stay open.
#[derive(Debug)]
pub(crate) struct Verifier {
    store_id: StoreId,
    /// Each with where its entries end.
    segments: Vec<(Segment, Sequence)>,
    view: Arc<View>,
}

impl Verifier {
    /// Reads all of it, by system calls also where it is mapped: there what cannot be read would end the process.
    pub(crate) fn run(&self) -> Result<Verification> {
        let mut verification = Verification::default();
        let Some((oldest, _)) = self.segments.first() else { return Ok(verification) };
        let mut walk = Walk::new(self.store_id, oldest.start);
        for (segment, limit) in &self.segments {
            let end = walk.segment(segment, Some(*limit), |batch, _| {
                verification.batches += 1;
                verification.entries += u64::from(batch.rows.count());
                verification.rows_bytes += batch.rows.encoded_bytes() as u64;
            })?;
            if let Some(what) = end.missing {
                return Err(Error::corrupt(segment.file.path(), end.offset, what));
            }
            verification.segments += 1;
        }
        for file in self.view.runs.iter().flat_map(|run| &run.files) {
            file.run.verify()?;
            verification.run_files += 1;
            verification.run_rows += file.run.summary().statistics.rows;
        }
        Ok(verification)
    }
}

/// A part of the log: a segment as it is now.
pub(crate) struct LogPiece {
    segment: Segment,
    store_id: StoreId,
    /// Entries from here on are not in it.
    limit: Sequence,
}

impl LogPiece {
    /// Batches from `next` on: about `bytes_max` bytes of them. Advances `next`.
    pub(crate) fn entries(&self, next: &mut Sequence, bytes_max: usize) -> Result<Vec<LogEntries>> {
        let mut found = Found { entries: Vec::new(), bytes: 0, bytes_max };
        self.read(next, &mut found)?;
        Ok(found.entries)
    }

    /// Reads batches from `next` on and advances it. False: there is enough.
    fn read(&self, next: &mut Sequence, found: &mut Found) -> Result<bool> {
        let LogPiece { segment, store_id, limit } = self;
        let mut window = Window::new(&segment.file, segment.end);
        let mut offset = segment.nearest(*next);
        while *next < *limit {
            let header = window.get(offset, BATCH_HEADER_BYTES as u64)?;
            let header = header.and_then(|bytes| BatchHeader::decode(&bytes, *store_id));
            let Some(header) = header.filter(|header| header.first <= *next) else {
                let what = "no batch begins here, though one was written";
                return Err(Error::corrupt(segment.file.path(), offset, what));
            };
            // The segments that opening did not have to read are known only from here on.
            segment.mark(header.first, offset);
            if header.next() > *next {
                if found.has_enough(u64::from(header.rows_bytes)) {
                    return Ok(false);
                }
                let rows = read_rows(&mut window, segment, offset, &header)?;
                let skip = next.0 - header.first.0;
                // Entries that a later segment cut off do not count.
                let rows = rows
                    .take(count_between(header.first, *limit))
                    .skip(u32::try_from(skip).unwrap_or(u32::MAX));
                let (epoch, log_time_ms) = (header.epoch, header.log_time_ms);
                found.push(LogEntries { epoch, first: *next, log_time_ms, rows });
                *next = header.next().min(*limit);
            }
            offset += header.batch_bytes();
        }
        Ok(true)
    }
}

/// As many entries as lie between two sequences, as far as a batch can hold so many.
fn count_between(first: Sequence, end: Sequence) -> u32 {
    u32::try_from(end.0.saturating_sub(first.0)).unwrap_or(u32::MAX)
}

/// A batch's rows, as they were appended.
fn read_rows(window: &mut Window<'_>, segment: &Segment, offset: u64, header: &BatchHeader) -> Result<Rows> {
    let corrupt = |what| Error::corrupt(segment.file.path(), offset, what);
    let rows_offset = offset + BATCH_HEADER_BYTES as u64;
    let bytes = window.get(rows_offset, u64::from(header.rows_bytes))?;
    let bytes = bytes.ok_or_else(|| corrupt("the file ends within a batch"))?;
    let rows = StampedRows::verified(bytes, header.count, header.first, header.rows_checksum);
    Ok(rows.map_err(corrupt)?.canonical())
}

/// What read_log gathers.
struct Found {
    entries: Vec<LogEntries>,
    bytes: u64,
    bytes_max: usize,
}

impl Found {
    fn has_enough(&self, more: u64) -> bool {
        !self.entries.is_empty() && self.bytes + more > self.bytes_max as u64
    }

    fn push(&mut self, entries: LogEntries) {
        self.bytes += entries.rows.encoded().len() as u64;
        self.entries.push(entries);
    }
}
