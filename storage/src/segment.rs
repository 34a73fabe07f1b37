//! Segments: the files of the log. FORMAT.md, "Segment".

use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::batch::{BATCH_HEADER_BYTES, BatchHeader, SEAL_FLAG_OFFSET};
use crate::contents::Contents;
use crate::data_file::DataFile;
use crate::directory::{Directory, Unfinished};
use crate::disk::DiskFile;
use crate::error::{Error, Result};
use crate::file_table::{Handle, Source};
use crate::header::{FILE_HEADER_BYTES, FileHeader, Magic, StoreId, read_u64};
use crate::memory::Memory;
use crate::position::Sequence;
use crate::window::Window;

/// Where the first batch of a segment begins.
pub(crate) const SEGMENT_START: u64 = FILE_HEADER_BYTES as u64;

/// At least this much of the log lies between two marks.
const MARK_DISTANCE_BYTES: u64 = 16 << 10;

/// So far ahead of the rows a segment is filled with zeros, where fsyncs are frequent: an fsync is several times
/// cheaper if the rows before it went to where something had been written already. Far enough that the few fsyncs that pay
/// for it do not count, and near enough that none of them takes long.
pub(crate) const ZERO_AHEAD_BYTES: u64 = 128 << 10;

/// If a segment does not end with its seal, that is looked for in pieces of this size.
const SEAL_PIECE_BYTES: u64 = 256 << 10;

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
#[derive(Clone, Debug)]
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
    /// Up to here it has been decided whether zeros are written ahead, and it was done.
    pub(crate) filled: u64,
    /// Whether a batch at `end` seals it.
    pub(crate) is_sealed: bool,
    marks: Arc<Mutex<Vec<Mark>>>,
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
        let header = segment_header(store_id, start);
        let unfinished = Unfinished::make(&directory.disk, &path, |file| {
            file.write_at(&header, 0)?;
            if allocated > SEGMENT_START {
                file.allocate(SEGMENT_START, allocated - SEGMENT_START)?;
            }
            write_zeros(file, SEGMENT_START, filled(allocated))
        })?;
        Ok(UnfinishedSegment::new(unfinished, start, allocated))
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
        let start = read_header(&*file, &path, store_id, first)?;
        let file = Arc::new(memory.data_file(path, file, allocated, capacity.max(allocated)));
        let handle = contents.files().add(Source::Segment(file.clone()))?;
        Ok(Segment {
            handle,
            start,
            file,
            end: SEGMENT_START,
            allocated,
            filled: 0,
            is_sealed: false,
            marks: Arc::default(),
        })
    }

    /// A sealed segment that is open already, for who only reads it once more. Its header is read anew.
    pub(crate) fn to_verify(
        handle: Handle,
        file: Arc<DataFile>,
        store_id: StoreId,
        first: Sequence,
    ) -> Result<Segment> {
        let start = read_header(file.file(), file.path(), store_id, first)?;
        let allocated = file.file().len().map_err(Error::io(file.path()))?;
        let (end, filled, marks) = (SEGMENT_START, 0, Arc::default());
        Ok(Segment { handle, start, file, end, allocated, filled, is_sealed: true, marks })
    }

    /// Free bytes that are on the disk already.
    pub(crate) fn room(&self) -> u64 {
        self.allocated.saturating_sub(self.end)
    }

    /// Makes the file longer, by room that is taken and reads as zeros. A full disk leaves it as it was. That it is longer
    /// becomes durable with the first rows that need it.
    pub(crate) fn extend(&mut self, allocated: u64) -> Result<()> {
        if allocated <= self.allocated {
            return Ok(());
        }
        let file = self.file.file();
        let extended = file.allocate(self.allocated, allocated - self.allocated);
        match extended.map_err(Error::space(self.file.path())) {
            Ok(()) => {}
            Err(error) => {
                // Gives back what it got. Failing at that costs some bytes of disk, and is no harm.
                let _ = file.set_len(self.allocated);
                return Err(error);
            }
        }
        self.allocated = allocated;
        self.file.set_length(allocated);
        Ok(())
    }

    /// Gives the room behind the last batch back. Failing at that costs disk, and is no harm.
    pub(crate) fn give_back(&mut self) {
        let end = if self.is_sealed { self.end + BATCH_HEADER_BYTES as u64 } else { self.end };
        self.file.set_length(end);
        if self.file.file().set_len(end).is_ok() {
            self.allocated = end;
        }
    }

    /// Notes a batch's place, if the last mark is far enough away.
    pub(crate) fn mark(&self, first: Sequence, offset: u64) {
        let mut marks = self.marks.lock();
        if marks.last().is_none_or(|last| offset >= last.offset + MARK_DISTANCE_BYTES) {
            marks.push(Mark { first, offset });
        }
    }

    /// Where to begin to look for an entry: at the nearest batch before it that is known.
    pub(crate) fn nearest(&self, sequence: Sequence) -> u64 {
        let marks = self.marks.lock();
        let after = marks.partition_point(|mark| mark.first <= sequence);
        after.checked_sub(1).map_or(SEGMENT_START, |mark| marks[mark].offset)
    }

    /// The batch that seals it, if it has one: at the end of the file, but for zeros after a crash.
    pub(crate) fn find_seal(&self, store_id: StoreId) -> Result<Option<(u64, BatchHeader)>> {
        let mut window = Window::new(&self.file, self.allocated);
        let (mut end, mut piece_bytes) = (self.allocated, BATCH_HEADER_BYTES as u64);
        while end > SEGMENT_START {
            let start = end.saturating_sub(piece_bytes).max(SEGMENT_START);
            piece_bytes = SEAL_PIECE_BYTES;
            let Some(piece) = window.get(start, end - start)? else { return Ok(None) };
            if let Some(last) = piece.iter().rposition(|byte| *byte != 0) {
                // The last byte of it that is not zero says that it seals.
                let offset = (start + last as u64).saturating_sub(SEAL_FLAG_OFFSET);
                if offset < SEGMENT_START {
                    return Ok(None);
                }
                let header = window.get(offset, BATCH_HEADER_BYTES as u64)?;
                let header = header.and_then(|bytes| BatchHeader::decode(&bytes, store_id));
                return Ok(header.filter(|header| header.seals).map(|header| (offset, header)));
            }
            end = start;
        }
        Ok(None)
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
    /// A file that is complete and durable but for its name.
    pub(crate) fn new(unfinished: Unfinished, start: Chain, allocated: u64) -> UnfinishedSegment {
        UnfinishedSegment { path: unfinished.path().into(), unfinished, start, allocated }
    }

    /// Has places for its rows. It may grow to `capacity` bytes. What can be refused is refused here, where the log does not
    /// know of it yet: once it has its name the log goes on in it, and must not go on anywhere else.
    pub(crate) fn take_in(
        self,
        contents: &Contents,
        memory: &Arc<Memory>,
        capacity: u64,
    ) -> Result<NamelessSegment> {
        let UnfinishedSegment { unfinished, path, start, allocated } = self;
        let capacity = capacity.max(allocated);
        let file = Arc::new(memory.data_file(path, unfinished.shared_file(), allocated, capacity));
        let handle = match contents.files().add(Source::Segment(file.clone())) {
            Ok(handle) => handle,
            Err(error) => {
                unfinished.discard();
                return Err(error);
            }
        };
        let (end, filled, marks) = (SEGMENT_START, filled(allocated), Arc::default());
        let segment = Segment { handle, start, file, end, allocated, filled, is_sealed: false, marks };
        Ok(NamelessSegment { unfinished, segment })
    }

    /// Gives a new store's first segment its name. Nothing is written to it yet.
    pub(crate) fn publish_unopened(self) -> Result<()> {
        self.unfinished.publish().map(drop)
    }
}

/// A segment that has all but its name.
#[derive(Debug)]
pub(crate) struct NamelessSegment {
    unfinished: Unfinished,
    segment: Segment,
}

impl NamelessSegment {
    /// The first entry that it will hold.
    pub(crate) fn first(&self) -> Sequence {
        self.segment.first()
    }

    /// From here on it is part of the log.
    pub(crate) fn publish(self, contents: &Contents) -> Result<Segment> {
        let NamelessSegment { unfinished, segment } = self;
        match unfinished.publish() {
            Ok(_) => Ok(segment),
            Err(error) => {
                contents.files().remove(segment.handle);
                Err(error)
            }
        }
    }
}

/// Reads and checks a segment's header: what holds before its first entry.
fn read_header(file: &dyn DiskFile, path: &Path, store_id: StoreId, first: Sequence) -> Result<Chain> {
    let mut header = [0; FILE_HEADER_BYTES];
    let read = file.read_at(&mut header, 0).map_err(Error::io(path))?;
    let FileHeader { store_id: found, fields } = FileHeader::decode(&header[..read], Magic::Segment, path)?;
    let start = Chain {
        next: Sequence(read_u64(&fields, 0)),
        link: read_u64(&fields, 8),
        epoch: read_u64(&fields, 16),
    };
    if found != store_id {
        return Err(Error::corrupt(path, 16, format!("of store {found}, MANIFEST of {store_id}")));
    }
    if start.next != first {
        let what = format!("begins with entry {}, its name says {first}", start.next);
        return Err(Error::corrupt(path, 32, what));
    }
    if !is_zero(&fields[24..]) {
        return Err(Error::corrupt(path, 56, "bytes that this format leaves zero are not"));
    }
    Ok(start)
}

/// The header of the segment that begins here.
pub(crate) fn segment_header(store_id: StoreId, start: Chain) -> [u8; FILE_HEADER_BYTES] {
    let mut fields = [0; 32];
    fields[..8].copy_from_slice(&start.next.0.to_le_bytes());
    fields[8..16].copy_from_slice(&start.link.to_le_bytes());
    fields[16..24].copy_from_slice(&start.epoch.to_le_bytes());
    FileHeader { store_id, fields }.encode(Magic::Segment)
}

/// How far a new segment is filled with zeros.
pub(crate) fn filled(allocated: u64) -> u64 {
    allocated.min(SEGMENT_START + ZERO_AHEAD_BYTES)
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
