//! Writing: room, append, fsync, roll to the next segment, close.

use std::sync::Arc;

use super::{ReplicatedStore, is_control};
use crate::batch::{BATCH_ALIGNMENT, BATCH_HEADER_BYTES, BatchHeader, LogEntries, batch_bytes};
use crate::durability::SyncTicket;
use crate::error::{Error, Result};
use crate::index_checkpoint::{When, write_if_due};
use crate::options::CONTROL_HEADROOM_BYTES;
use crate::position::Sequence;
use crate::row::{BATCH_BYTES_MAX, Rows};
use crate::segment::{Chain, SEGMENT_START, Segment, UnfinishedSegment, ZERO_AHEAD_BYTES};

/// What room is for. On a full disk growth is refused first, so that control still has headroom: otherwise a full
/// store could not even delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Rows that add data.
    Growth,
    /// Deletes and markers.
    Control,
}

// Locators hold offsets in 32 bits: the largest segment, the largest batch behind its end, and the headroom.
const _: () = assert!((1 << 30) + BATCH_BYTES_MAX as u64 + 2 * CONTROL_HEADROOM_BYTES < u32::MAX as u64);

/// How long a segment may become, unless one batch alone is longer: so much is mapped.
pub(super) fn segment_capacity(segment_bytes: u64) -> u64 {
    segment_bytes + CONTROL_HEADROOM_BYTES
}

/// Zeros are written ahead where there are at least so many fsyncs for each [`ZERO_AHEAD_BYTES`].
const FILL_SYNCS_MIN: u64 = 4;

/// When so many bytes wait for an fsync that nobody asks for, one is made beside the writers: so that a new segment, which
/// needs all before it to be durable, does not have to wait for a whole one.
const UNSYNCED_BYTES_MAX: u64 = 8 << 20;

/// The append buffer gives memory back when one batch was much larger than usual.
const BUFFER_BYTES_KEPT: usize = 4 << 20;

/// The most bytes that an append takes beside its rows: the batch's header and padding.
pub const APPEND_OVERHEAD_BYTES: u64 = BATCH_HEADER_BYTES as u64 + BATCH_ALIGNMENT;

impl ReplicatedStore {
    /// Makes room, so that appending rows of so many encoded bytes cannot meet a full disk. For more than one append, add
    /// [`APPEND_OVERHEAD_BYTES`] for each. Without a reservation, [`ReplicatedStore::append`] makes room itself, by what the
    /// rows are. A new reservation takes the place of the one before.
    ///
    /// ```
    /// # use paddock_storage::{Need, Options, ReplicatedStore};
    /// # let directory = tempfile::tempdir()?;
    /// # let mut store = ReplicatedStore::open(directory.path(), Options::new())?;
    /// store.reserve(1 << 20, Need::Growth)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::DiskFull`]: nothing is lost, and the store goes on. [`Error::TooLarge`], [`Error::Io`],
    /// [`Error::Poisoned`].
    pub fn reserve(&mut self, rows_bytes: u64, need: Need) -> Result<()> {
        self.writable()?;
        if rows_bytes > BATCH_BYTES_MAX as u64 {
            let limit = BATCH_BYTES_MAX as u64;
            return Err(Error::TooLarge { what: "bytes of rows in one batch", actual: rows_bytes, limit });
        }
        let bytes = batch_bytes(rows_bytes);
        self.reserved = 0;
        self.make_room(bytes, need)?;
        self.reserved = bytes;
        Ok(())
    }

    /// Writes entries after `last()`, as one batch: not yet durable, not yet visible. `known_commit` goes into the
    /// batch's header (as far as the log reaches), so that a restart knows what it may apply.
    ///
    /// ```
    /// # use paddock_storage::{LogEntries, Options, ReplicatedStore, RowsBuilder, Sequence};
    /// # let directory = tempfile::tempdir()?;
    /// # let mut store = ReplicatedStore::open(directory.path(), Options::new())?;
    /// let mut rows = RowsBuilder::new();
    /// rows.put(b"heron", b"grey")?;
    /// let entries = LogEntries { epoch: 1, first: Sequence(1), log_time_ms: 0, rows: rows.finish() };
    /// store.append(&entries, Sequence(0))?;
    /// // Its place is taken.
    /// assert!(store.append(&entries, Sequence(0)).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Misplaced`]: they do not follow, or their epoch is below the last one's. [`Error::DiskFull`]: nothing
    /// is lost, and the store goes on. [`Error::TooLarge`], [`Error::Io`], [`Error::Poisoned`].
    pub fn append(&mut self, entries: &LogEntries, known_commit: Sequence) -> Result<()> {
        self.writable()?;
        if entries.first != self.chain.next {
            let (actual, expected) = (entries.first.0, self.chain.next.0);
            return Err(Error::Misplaced { what: "entries begin at the wrong sequence", actual, expected });
        }
        if entries.epoch < self.chain.epoch {
            let (actual, expected) = (entries.epoch, self.chain.epoch);
            return Err(Error::Misplaced { what: "entries are of an epoch that is over", actual, expected });
        }
        if entries.rows.count() == 0 {
            return Ok(());
        }
        if entries.last() > Sequence::MAX {
            let (actual, limit) = (entries.last().0, Sequence::MAX.0);
            return Err(Error::TooLarge { what: "the last entry's sequence", actual, limit });
        }
        let bytes = batch_bytes(entries.rows.encoded().len() as u64);
        if bytes > self.reserved || bytes > self.active.room() {
            // What its reservation covers only in part was admitted already: better to use headroom than to fail it.
            let control = self.reserved > 0 || is_control(entries);
            let need = if control { Need::Control } else { Need::Growth };
            self.make_room(bytes, need)?;
        }
        self.reserved = self.reserved.saturating_sub(bytes);
        let known_commit = self.known_commit.max(known_commit).min(entries.last());
        let offset = self.active.end;
        let header = self.write_batch(entries, known_commit)?;

        self.active.mark(entries.first, offset);
        self.pending.push(
            self.active.handle,
            offset + BATCH_HEADER_BYTES as u64,
            entries.first,
            entries.rows.encoded().clone(),
            entries.rows.count(),
        );
        self.note_entries(entries.epoch, entries.first);
        self.known_commit = known_commit;
        let link = header.chain(self.manifest.store_id);
        self.chain = Chain { next: header.next(), epoch: entries.epoch, link };
        Ok(())
    }

    /// Makes everything appended durable, with one fdatasync (none when it is already). Returns the durable
    /// sequence.
    ///
    /// ```
    /// # use paddock_storage::{LogEntries, Options, ReplicatedStore, RowsBuilder, Sequence};
    /// # let directory = tempfile::tempdir()?;
    /// # let mut store = ReplicatedStore::open(directory.path(), Options::new())?;
    /// # let mut rows = RowsBuilder::new();
    /// # rows.put(b"heron", b"grey")?;
    /// # let first = store.last().sequence.next();
    /// # store.append(&LogEntries { epoch: 1, first, log_time_ms: 0, rows: rows.finish() }, Sequence(0))?;
    /// assert_eq!(store.sync()?, Sequence(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`]: the store is poisoned; [`Error::Poisoned`].
    pub fn sync(&mut self) -> Result<Sequence> {
        self.writable()?;
        let last = self.last().sequence;
        if self.durable < last {
            let synced = self.gate.sync(&self.active.file);
            self.poisoning(synced)?;
            self.syncs += 1;
            self.durable = last;
            self.sync_asked = self.active.end;
        }
        Ok(last)
    }

    /// Whether an fsync should be made of what waits for one. Says so once.
    pub(crate) fn wants_sync(&mut self) -> bool {
        let wants = self.active.end >= self.sync_asked + UNSYNCED_BYTES_MAX;
        if wants {
            self.sync_asked = self.active.end;
        }
        wants
    }

    /// Says in the log that all of it is durable, durably: from then on damage anywhere in it is told from an end that a
    /// crash tore. For a quiet moment, since it costs an fsync; nothing happens if there is nothing to say, or no room to
    /// say it. (The embedder's [`crate::Store`] sees to it by itself.)
    ///
    /// ```
    /// # use paddock_storage::{LogEntries, Options, ReplicatedStore, RowsBuilder, Sequence};
    /// # let directory = tempfile::tempdir()?;
    /// # let mut store = ReplicatedStore::open(directory.path(), Options::new())?;
    /// # let mut rows = RowsBuilder::new();
    /// # rows.put(b"heron", b"grey")?;
    /// # let first = store.last().sequence.next();
    /// # store.append(&LogEntries { epoch: 1, first, log_time_ms: 0, rows: rows.finish() }, Sequence(0))?;
    /// store.sync()?;
    /// // Nobody has written for a while.
    /// store.mark_durable()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`]: the store is poisoned; [`Error::Poisoned`].
    pub fn mark_durable(&mut self) -> Result<()> {
        if let Some(ticket) = self.begin_mark()? {
            let synced = ticket.run();
            self.poisoning(synced)?;
        }
        Ok(())
    }

    /// An fsync of all that is not durable yet, to be run beside the store.
    pub(crate) fn begin_sync(&self) -> Option<SyncTicket> {
        (self.poison.is_none() && self.durable < self.last().sequence).then(|| self.ticket())
    }

    /// Writes the durable marker. Its fsync is for the caller to run.
    pub(crate) fn begin_mark(&mut self) -> Result<Option<SyncTicket>> {
        self.writable()?;
        let last = self.last().sequence;
        // The headroom is not for this.
        let room = self.active.room() >= BATCH_HEADER_BYTES as u64 + CONTROL_HEADROOM_BYTES;
        if self.durable < last || self.proven >= last || !room {
            return Ok(None);
        }
        self.write_marker()?;
        Ok(Some(self.ticket()))
    }

    /// Takes the outcome of an fsync that ran beside the store.
    pub(crate) fn finish_sync(&mut self, ticket: &SyncTicket, synced: Result<()>) {
        // A caller of its own it has none: whoever writes next is told.
        if self.poisoning(synced).is_ok()
            && Arc::ptr_eq(&ticket.file, &self.active.file)
            && self.durable < ticket.through
        {
            self.syncs += 1;
            self.durable = ticket.through;
        }
    }

    pub(super) fn ticket(&self) -> SyncTicket {
        SyncTicket { gate: self.gate.clone(), file: self.active.file.clone(), through: self.last().sequence }
    }

    fn header(&self, entries: &LogEntries, known_commit: Sequence, rows_checksum: u32) -> BatchHeader {
        BatchHeader {
            // Rows are never longer than BATCH_BYTES_MAX, which 32 bits hold.
            rows_bytes: u32::try_from(entries.rows.encoded().len()).unwrap_or(u32::MAX),
            count: entries.rows.count(),
            epoch: entries.epoch,
            first: entries.first,
            previous_durable: self.durable,
            known_commit,
            log_time_ms: entries.log_time_ms,
            previous_chain: self.chain.link,
            rows_checksum,
            seals: false,
        }
    }

    /// One write, for the header, the rows and the padding. The rows get their sequences on the way.
    fn write_batch(&mut self, entries: &LogEntries, known_commit: Sequence) -> Result<BatchHeader> {
        self.buffer.clear();
        self.buffer.resize(BATCH_HEADER_BYTES, 0);
        let rows_checksum = entries.rows.stamp_into(entries.first, &mut self.buffer);
        let header = self.header(entries, known_commit, rows_checksum);
        self.buffer[..BATCH_HEADER_BYTES].copy_from_slice(&header.encode(self.manifest.store_id));
        let bytes = header.batch_bytes();
        let filled = self.fill_ahead(self.active.end + bytes);
        let length = filled.max(self.active.end + bytes) - self.active.end;
        self.buffer.resize(usize::try_from(length).unwrap_or(self.buffer.len()), 0);
        let file = &self.active.file;
        let written = file.file().write_at(&self.buffer, self.active.end).map_err(Error::io(file.path()));
        self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        self.poisoning(written)?;
        self.active.end += bytes;
        self.tail_log_bytes += bytes;
        self.contents.foreground().wrote(bytes);
        self.proven = self.proven.max(header.previous_durable);
        self.make_ahead_if_due();
        Ok(header)
    }

    /// How far zeros are written behind a batch that ends at `end`, in the same write: nowhere, if those of an earlier one
    /// reach further, or if fsyncs are so rare that they may as well cost more.
    fn fill_ahead(&mut self, end: u64) -> u64 {
        if end <= self.active.filled {
            return 0;
        }
        let batch_bytes = end - self.active.end;
        let often = batch_bytes <= ZERO_AHEAD_BYTES / FILL_SYNCS_MIN
            && (self.active.filled == 0 || self.syncs >= self.syncs_at_fill + FILL_SYNCS_MIN);
        self.syncs_at_fill = self.syncs;
        self.active.filled = (end + ZERO_AHEAD_BYTES).min(self.active.allocated);
        if often { self.active.filled } else { 0 }
    }

    /// Sees to it that a batch of so many bytes, and the headroom behind it, have room that is on the disk already: in
    /// the active segment, by extending it, or in a new one. When the disk is full, control may use the headroom.
    pub(super) fn make_room(&mut self, bytes: u64, need: Need) -> Result<()> {
        let needed = bytes + CONTROL_HEADROOM_BYTES;
        if self.active.room() >= needed {
            return Ok(());
        }
        let fits = self.active.end + bytes <= self.segment_bytes || self.active_has_no_entries();
        let made = if fits { self.extend(needed) } else { self.roll(needed) };
        match made {
            Err(Error::DiskFull { .. }) if need == Need::Control && self.active.room() >= bytes => Ok(()),
            made => self.poisoning(made),
        }
    }

    /// Extends the active segment by an extent, or by what is needed if the disk has no more.
    fn extend(&mut self, needed: u64) -> Result<()> {
        let least = self.active.end + needed;
        match self.active.extend(self.allocation(least)) {
            Err(Error::DiskFull { .. }) => {
                self.spare.discard();
                self.active.extend(least)
            }
            extended => extended,
        }
    }

    /// How long a segment is made that must hold `least` bytes: whole extents, but not far beyond its full size.
    pub(super) fn allocation(&self, least: u64) -> u64 {
        let most = (self.segment_bytes + CONTROL_HEADROOM_BYTES).max(least);
        least.next_multiple_of(self.extent_bytes).min(most)
    }

    /// Begins the next segment. Everything before it is made durable first: that is what a segment's beginning
    /// proves.
    pub(super) fn roll(&mut self, needed: u64) -> Result<()> {
        self.sync()?;
        let least = SEGMENT_START + needed;
        let segment = self.next_segment(least)?;
        let segment = segment.take_in(&self.contents, &self.memory, self.segment_capacity())?;
        let segment = segment.publish(&self.contents)?;
        self.seal(segment.start)?;
        let sealed = self.activate(segment);
        self.sealed.push(sealed);
        Ok(())
    }

    /// Says at the end of the active segment that the log goes on in the one that begins with `next`, which is there
    /// already. So the loss of the newest segment shows; and what leads from one segment to the next is known
    /// without reading a whole one. Without room for it, both has to do without.
    pub(super) fn seal(&mut self, next: Chain) -> Result<()> {
        if self.active.room() < BATCH_HEADER_BYTES as u64 {
            return Ok(());
        }
        let header = BatchHeader {
            rows_bytes: 0,
            count: 0,
            epoch: next.epoch,
            first: next.next,
            previous_durable: next.next.previous(),
            known_commit: self.known_commit.min(next.next.previous()),
            log_time_ms: 0,
            previous_chain: next.link,
            rows_checksum: 0,
            seals: true,
        };
        let file = self.active.file.clone();
        let written = file.file().write_at(&header.encode(self.manifest.store_id), self.active.end);
        written.map_err(Error::io(file.path()))?;
        self.active.is_sealed = true;
        self.active.give_back();
        self.gate.sync(&file)
    }

    /// Takes back what [`ReplicatedStore::seal`] said, before the next segment is removed.
    pub(super) fn unseal(&self, segment: &mut Segment) -> Result<()> {
        if !std::mem::take(&mut segment.is_sealed) {
            return Ok(());
        }
        let written = segment.file.file().write_at(&[0; BATCH_HEADER_BYTES], segment.end);
        written.map_err(Error::io(segment.file.path()))?;
        self.gate.sync(&segment.file)
    }

    /// How long a segment may become, unless one batch alone is longer.
    pub(super) fn segment_capacity(&self) -> u64 {
        segment_capacity(self.segment_bytes)
    }

    /// The segment that is to be the next, under a temporary name still.
    pub(super) fn segment_from(&self, start: Chain, allocated: u64) -> Result<UnfinishedSegment> {
        Segment::make(&self.directory, self.manifest.store_id, start, allocated)
    }

    /// Goes on in another segment; returns the one so far.
    pub(super) fn activate(&mut self, segment: Segment) -> Segment {
        self.proven = self.proven.max(segment.first().previous());
        self.sync_asked = segment.end;
        let mut left = std::mem::replace(&mut self.active, segment);
        if !left.is_sealed {
            left.give_back();
        }
        left
    }

    /// Closes the log: see [`ReplicatedStore::close`].
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.compaction.0.stop();
        self.maintenance.stop();
        self.spare.discard();
        self.sync()?;
        self.prove_durable()?;
        let kept = self.active.end + CONTROL_HEADROOM_BYTES;
        if self.active.allocated > kept {
            let file = &self.active.file;
            file.set_length(kept);
            let cut = file
                .file()
                .set_len(kept)
                .and_then(|()| file.file().sync_all())
                .map_err(Error::io(file.path()));
            self.poisoning(cut)?;
            self.active.allocated = kept;
        }
        self.release_log()?;
        self.compaction.0.remove_buried();
        // A help for the next opening, which does without where it fails.
        let _ = write_if_due(&self.directory, self.manifest.store_id, &self.contents, When::Closing);
        Ok(())
    }

    /// Not worth an error: without room for it, the log is as good as after a crash.
    fn prove_durable(&mut self) -> Result<()> {
        if self.proven >= self.durable || self.active.room() < BATCH_HEADER_BYTES as u64 {
            return Ok(());
        }
        self.write_marker()?;
        let synced = self.gate.sync(&self.active.file);
        self.poisoning(synced)
    }

    /// Writes a batch of no rows, which says what is durable.
    pub(super) fn write_marker(&mut self) -> Result<BatchHeader> {
        let (epoch, first, rows) = (self.chain.epoch, self.chain.next, Rows::default());
        let nothing = LogEntries { epoch, first, log_time_ms: 0, rows };
        self.write_batch(&nothing, self.known_commit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::FaultyDisk;
    use crate::options::Options;
    use crate::row::RowsBuilder;

    /// The last sequence is written; one beyond it is refused, by name, and the store goes on.
    #[test]
    fn sequences_end_where_rows_can_no_longer_hold_them() {
        let options = Options::new().disk(Arc::new(FaultyDisk::new()));
        let mut store = ReplicatedStore::open(std::path::Path::new("/data"), options).unwrap();
        // As if all the entries before had been written: nobody has the time.
        store.chain.next = Sequence::MAX;
        let mut rows = RowsBuilder::new();
        rows.put(b"key", b"value").unwrap();
        rows.put(b"key", b"next").unwrap();
        let rows = rows.finish();
        let entries = |store: &ReplicatedStore, rows| {
            let first = store.last().sequence.next();
            LogEntries { epoch: 1, first, log_time_ms: 0, rows }
        };
        let refused = "the last entry's sequence: 281474976710656, the limit is 281474976710655";
        let two = entries(&store, rows.clone());
        assert_eq!(store.append(&two, Sequence(0)).unwrap_err().to_string(), refused);
        let one = entries(&store, rows.take(1));
        store.append(&one, Sequence(0)).unwrap();
        assert_eq!(store.sync().unwrap(), Sequence::MAX);
        let beyond = entries(&store, rows.take(1));
        assert_eq!(store.append(&beyond, Sequence(0)).unwrap_err().to_string(), refused);
        store.apply(Sequence::MAX).unwrap();
        let record = crate::Readable::get_record(&store.reader(), b"key").unwrap().unwrap();
        assert_eq!((&record.value[..], record.version), (&b"value"[..], Sequence::MAX));
    }
}
