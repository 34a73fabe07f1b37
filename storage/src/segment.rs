//! Segments: the files of the log. FORMAT.md, "Segment".

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::contents::Contents;
use crate::data_file::DataFile;
use crate::directory::{Directory, Unfinished};
use crate::disk::DiskFile;
use crate::error::{Error, Result};
use crate::file_table::{Handle, Source};
use crate::header::{FILE_HEADER_BYTES, FileHeader, Magic, StoreId, read_u64};
use crate::memory::Memory;
use crate::position::Sequence;

/// Where the first batch of a segment begins.
pub(crate) const SEGMENT_START: u64 = FILE_HEADER_BYTES as u64;

/// At least this much of the log lies between two marks.
const MARK_DISTANCE_BYTES: u64 = 16 << 10;

/// Zeros are written in pieces of this size.
static ZEROS: [u8; 256 << 10] = [0; 256 << 10];

/// What holds before a place of the log: what the next batch must follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    /// The next entry's sequence.
    pub(crate) next: Sequence,
    /// The last entry's epoch.
    pub(crate) epoch: u64,
    /// The chain of the last batch with rows.
    pub(crate) link: u64,
}

impl Chain {
    /// Before the first entry.
    pub(crate) const START: Chain = Chain { next: Sequence(1), epoch: 0, link: 0 };
}

/// A batch's place in a segment: reading the log starts from the nearest one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    pub(crate) first: Sequence,
    pub(crate) offset: u64,
}

/// A segment of the log, as its writer knows it.
#[derive(Debug)]
pub(crate) struct Segment {
    /// The file's number in places.
    pub(crate) handle: Handle,
    /// What holds before the first entry.
    pub(crate) start: Chain,
    pub(crate) file: Arc<DataFile>,
    /// Where the next batch goes.
    pub(crate) end: u64,
    /// The file's length: all zeros from `end` on.
    pub(crate) allocated: u64,
    /// Ascending.
    pub(crate) marks: Vec<Mark>,
}

impl Segment {
    pub(crate) fn first(&self) -> Sequence {
        self.start.next
    }

    /// Writes a new segment of `allocated` bytes under a temporary name.
    pub(crate) fn make(
        directory: &Directory,
        store_id: StoreId,
        start: Chain,
        allocated: u64,
    ) -> Result<UnfinishedSegment> {
        let path = directory.segment_path(start.next);
        let mut fields = [0; 32];
        fields[..8].copy_from_slice(&start.next.0.to_le_bytes());
        fields[8..16].copy_from_slice(&start.link.to_le_bytes());
        fields[16..24].copy_from_slice(&start.epoch.to_le_bytes());
        let header = FileHeader { store_id, fields }.encode(Magic::Segment);
        let unfinished = Unfinished::make(&directory.disk, &path, |file| {
            file.write_at(&header, 0)?;
            fill_with_zeros(file, SEGMENT_START, allocated)
        })?;
        Ok(UnfinishedSegment { unfinished, path: path.into(), start, allocated })
    }

    /// Opens a segment and checks its header; what it holds is for recovery to find out. It may grow to `capacity` bytes.
    pub(crate) fn open(
        directory: &Directory,
        contents: &Contents,
        memory: &Arc<Memory>,
        store_id: StoreId,
        first: Sequence,
        capacity: u64,
    ) -> Result<Segment> {
        let path: Arc<Path> = directory.segment_path(first).into();
        let file = directory.disk.open(&path).map_err(Error::io(&path))?;
        let allocated = file.len().map_err(Error::io(&path))?;
        let mut header = [0; FILE_HEADER_BYTES];
        let read = file.read_at(&mut header, 0).map_err(Error::io(&path))?;
        let FileHeader { store_id: found, fields } =
            FileHeader::decode(&header[..read], Magic::Segment, &path)?;
        let start = Chain {
            next: Sequence(read_u64(&fields, 0)),
            link: read_u64(&fields, 8),
            epoch: read_u64(&fields, 16),
        };
        if found != store_id {
            return Err(Error::corrupt(&path, 16, format!("of store {found}, MANIFEST of {store_id}")));
        }
        if start.next != first {
            let what = format!("begins with entry {}, its name says {first}", start.next);
            return Err(Error::corrupt(&path, 32, what));
        }
        if !is_zero(&fields[24..]) {
            return Err(Error::corrupt(&path, 56, "bytes that this format leaves zero are not"));
        }
        let file = Arc::new(memory.data_file(path, file, allocated, capacity.max(allocated)));
        let handle = contents.files().add(Source::Segment(file.clone()))?;
        Ok(Segment { handle, start, file, end: SEGMENT_START, allocated, marks: Vec::new() })
    }

    /// Free bytes that are on the disk already.
    pub(crate) fn room(&self) -> u64 {
        self.allocated.saturating_sub(self.end)
    }

    /// Makes the file longer, by zeros. A full disk leaves it as it was.
    pub(crate) fn extend(&mut self, allocated: u64) -> Result<()> {
        if allocated <= self.allocated {
            return Ok(());
        }
        let file = self.file.file();
        let extended = fill_with_zeros(file, self.allocated, allocated);
        match extended.map_err(Error::space(self.file.path())) {
            Ok(()) => {}
            Err(error) => {
                // Gives back what it got. Failing at that costs some bytes of disk, and is no harm.
                let _ = file.set_len(self.allocated);
                return Err(error);
            }
        }
        file.sync_data().map_err(Error::io(self.file.path()))?;
        self.allocated = allocated;
        self.file.set_length(allocated);
        Ok(())
    }

    /// Gives the room behind the last batch back. Failing at that costs disk, and is no harm.
    pub(crate) fn give_back(&mut self) {
        self.file.set_length(self.end);
        if self.file.file().set_len(self.end).is_ok() {
            self.allocated = self.end;
        }
    }

    /// Notes a batch's place, if the last mark is far enough away.
    pub(crate) fn mark(&mut self, first: Sequence, offset: u64) {
        if self.marks.last().is_none_or(|last| offset - last.offset >= MARK_DISTANCE_BYTES) {
            self.marks.push(Mark { first, offset });
        }
    }
}

/// A segment that has no name yet.
#[derive(Debug)]
pub(crate) struct UnfinishedSegment {
    unfinished: Unfinished,
    path: Arc<Path>,
    start: Chain,
    allocated: u64,
}

impl UnfinishedSegment {
    /// The first entry that it will hold.
    pub(crate) fn first(&self) -> Sequence {
        self.start.next
    }

    /// From here on it is part of the log. It may grow to `capacity` bytes.
    pub(crate) fn publish(self, contents: &Contents, memory: &Arc<Memory>, capacity: u64) -> Result<Segment> {
        let UnfinishedSegment { unfinished, path, start, allocated } = self;
        let file = memory.data_file(path, unfinished.publish()?, allocated, capacity.max(allocated));
        let file = Arc::new(file);
        let handle = contents.files().add(Source::Segment(file.clone()))?;
        let (end, marks) = (SEGMENT_START, Vec::new());
        Ok(Segment { handle, start, file, end, allocated, marks })
    }

    /// Gives a new store's first segment its name. Nothing is written to it yet.
    pub(crate) fn publish_unopened(self) -> Result<()> {
        self.unfinished.publish().map(drop)
    }
}

fn fill_with_zeros(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<()> {
    if from < to {
        file.allocate(from, to - from)?;
    }
    write_zeros(file, from, to)
}

/// Overwrites `from..to` by zeros.
pub(crate) fn write_zeros(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<()> {
    let mut offset = from;
    while offset < to {
        let piece = usize::try_from(to - offset).unwrap_or(usize::MAX).min(ZEROS.len());
        file.write_at(&ZEROS[..piece], offset)?;
        offset += piece as u64;
    }
    Ok(())
}

/// Whether all bytes are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(ZEROS.len()).all(|chunk| *chunk == ZEROS[..chunk.len()])
}
