//! Checkpoints of the hash index, so that opening a store does not read every row. FORMAT.md, "Index checkpoint".
//!
//! A checkpoint is never the only truth. It says which runs it covers; of its entries those count whose run is still there.
//! All other runs are read, and the log after what was flushed, and so the index is complete again.
//!
//! One thing makes an entry wrong: a key's newest row was in the log when the checkpoint was written, and that end of the log is
//! lost, which may happen to what was never durable. Then the key's row in a run counts again, and no entry says so. So a
//! checkpoint notes how far the index knew the log when it was finished, and where the log is shorter it does not count.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use paddock_index::{CheckpointError, HashIndex, HashReader, PackedLocator};

use crate::contents::Contents;
use crate::directory::{Directory, Unfinished};
use crate::disk::DiskFile;
use crate::error::{Error, Result};
use crate::file_table::{Handle, is_tombstone};
use crate::header::{FILE_HEADER_BYTES, FileHeader, Magic, StoreId, read_u32, read_u64};
use crate::position::Sequence;
use crate::view::RunFile;

/// A line of the table: a run's number, and its handle in the places that follow.
const COVERED_BYTES: usize = 8;

/// More runs than a store ever has at once: so much is believed of a table's length.
const COVERED_MAX: usize = 1 << 16;

/// Read and written at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// A run that a checkpoint covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Covered {
    /// The run's number, which it has for good.
    pub(crate) number: u32,
    /// The number that stands for it in places.
    pub(crate) handle: Handle,
}

/// What an entry takes in a checkpoint, about.
const ENTRY_BYTES: u64 = 13;

/// When a checkpoint is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// Once reading the runs that the last one does not cover would take longer than writing one takes.
    Closing,
    /// The same, but while the store is in use it has to be worth much more.
    Running,
}

/// Writes a checkpoint if it is worth it, and removes the ones before. Returns whether it did.
///
/// # Errors
/// [`Error::DiskFull`], [`Error::Io`]: there is none then, which costs time at the next opening and nothing else.
pub(crate) fn write_if_due(
    directory: &Directory,
    store_id: StoreId,
    contents: &Contents,
    when: When,
) -> Result<bool> {
    let view = contents.view();
    let hot: Vec<&RunFile> = view.runs.iter().filter(|run| !run.cold).flat_map(|run| &run.files).collect();
    let uncovered_bytes: u64 = {
        let covered = contents.checkpointed();
        let uncovered = hot.iter().filter(|file| !covered.contains(&file.run.number()));
        uncovered.map(|file| file.run.summary().file_bytes).sum()
    };
    let factor = match when {
        When::Closing => 1,
        When::Running => 8,
    };
    if uncovered_bytes <= factor * ENTRY_BYTES * contents.hash_keys() {
        return Ok(false);
    }
    let number =
        directory.checkpoint_numbers()?.into_iter().max().map_or(1, |newest| newest.saturating_add(1));
    let covered: Vec<Covered> =
        hot.iter().map(|file| Covered { number: file.run.number(), handle: file.handle }).collect();
    write(directory, store_id, number, &covered, contents.index(), || contents.indexed())?;
    contents.set_checkpointed(covered.iter().map(|covered| covered.number).collect());
    directory.remove_checkpoints_but(Some(number))?;
    Ok(true)
}

/// Writes a checkpoint, beside the writer: durably, under its name.
fn write(
    directory: &Directory,
    store_id: StoreId,
    number: u32,
    covered: &[Covered],
    index: &HashReader,
    indexed: impl Fn() -> Sequence,
) -> Result<()> {
    let path = directory.index_path(number);
    let unfinished = Unfinished::make(&directory.disk, &path, |file| {
        let table = encode_table(covered);
        let mut output = FileWriter::new(file, FILE_HEADER_BYTES as u64);
        output.write_all(&table)?;
        index.write_checkpoint(0, &mut output).map_err(into_io)?;
        output.flush()?;
        // Last, since only now is it known what was in the index before that had been walked to its end.
        let mut fields = [0; 32];
        fields[..8].copy_from_slice(&indexed().0.to_le_bytes());
        fields[8..12].copy_from_slice(&u32::try_from(covered.len()).unwrap_or(u32::MAX).to_le_bytes());
        fields[12..16].copy_from_slice(&crc32fast::hash(&table).to_le_bytes());
        let header = FileHeader { store_id, fields }.encode(Magic::IndexCheckpoint);
        file.write_at(&header, 0)
    })?;
    unfinished.publish()?;
    Ok(())
}

/// What a checkpoint's file begins with.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    covered: Vec<Covered>,
    /// When it was finished the index knew of no entry above this one.
    pub(crate) applied: Sequence,
}

impl Checkpoint {
    /// The newest checkpoint that can be used. Any other is removed, also what is damaged or cannot be read: it is no loss, and a
    /// store that only its checkpoint keeps closed would be one.
    pub(crate) fn newest(directory: &Directory, store_id: StoreId) -> Result<Option<Checkpoint>> {
        let mut numbers = directory.checkpoint_numbers()?;
        numbers.sort_unstable();
        while let Some(number) = numbers.pop() {
            if let Ok(checkpoint) = Checkpoint::open(directory, store_id, number) {
                directory.remove_checkpoints_but(Some(number))?;
                return Ok(Some(checkpoint));
            }
        }
        directory.remove_checkpoints_but(None)?;
        Ok(None)
    }

    /// Opens a checkpoint of this store.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Format`], [`Error::Io`]: whatever it is, the index can be made without it.
    pub(crate) fn open(directory: &Directory, store_id: StoreId, number: u32) -> Result<Checkpoint> {
        let path = directory.index_path(number);
        let file = directory.disk.open(&path).map_err(Error::io(&path))?;
        let mut header = [0; FILE_HEADER_BYTES];
        let read = file.read_at(&mut header, 0).map_err(Error::io(&path))?;
        let FileHeader { store_id: found, fields } =
            FileHeader::decode(&header[..read], Magic::IndexCheckpoint, &path)?;
        if found != store_id {
            return Err(Error::corrupt(&path, 16, format!("of store {found}, not of {store_id}")));
        }
        let count = read_u32(&fields, 8) as usize;
        if count > COVERED_MAX {
            return Err(Error::corrupt(&path, 40, "it covers more runs than a store has"));
        }
        let mut table = vec![0; count * COVERED_BYTES];
        let read = file.read_at(&mut table, FILE_HEADER_BYTES as u64).map_err(Error::io(&path))?;
        if read < table.len() || crc32fast::hash(&table) != read_u32(&fields, 12) {
            return Err(Error::corrupt(&path, FILE_HEADER_BYTES as u64, "the table of runs is damaged"));
        }
        let covered = decode_table(&table);
        Ok(Checkpoint { path, file, covered, applied: Sequence(read_u64(&fields, 0)) })
    }

    /// Where the index itself begins in the file.
    pub(crate) fn index_start(&self) -> u64 {
        (FILE_HEADER_BYTES + self.covered.len() * COVERED_BYTES) as u64
    }

    /// The file, for who reads it in another way.
    pub(crate) fn into_file(self) -> (PathBuf, Arc<dyn DiskFile>) {
        (self.path, self.file)
    }

    /// The numbers of the runs that it covers.
    pub(crate) fn covered(&self) -> impl Iterator<Item = u32> {
        self.covered.iter().map(|covered| covered.number)
    }

    /// Whether it covers a run.
    pub(crate) fn covers(&self, number: u32) -> bool {
        self.covered.iter().any(|covered| covered.number == number)
    }

    /// By number of the runs that it covers, how many entries point into them.
    pub(crate) fn count(&self) -> Result<HashMap<u32, u64>> {
        let mut numbers: Vec<(Handle, u32)> =
            self.covered.iter().map(|covered| (covered.handle, covered.number)).collect();
        numbers.sort_unstable();
        let mut counts = vec![0; numbers.len()];
        self.read(|place| {
            if let Ok(at) = numbers.binary_search_by_key(&Handle::of(place), |(handle, _)| *handle) {
                counts[at] += 1;
            }
            None
        })?;
        Ok(numbers.into_iter().map(|(_, number)| number).zip(counts).collect())
    }

    /// The index, with the entries of those runs that are still there, each under the handle that it has now. `kept` is told of each
    /// entry that stays.
    pub(crate) fn load(
        &self,
        handles: &HashMap<u32, Handle>,
        mut kept: impl FnMut(PackedLocator),
    ) -> Result<HashIndex> {
        // In order: the look for each entry has to be quick, and a hash of its own would be half of the work.
        let still_there = |covered: &Covered| Some((covered.handle, *handles.get(&covered.number)?));
        let mut now: Vec<(Handle, Handle)> = self.covered.iter().filter_map(still_there).collect();
        now.sort_unstable();
        self.read(|place| {
            let then = Handle::of(place);
            let (_, handle) = now.get(now.binary_search_by_key(&then, |(then, _)| *then).ok()?)?;
            let length = usize::try_from(place.length_max()).ok()?;
            let place = handle.place(is_tombstone(place), u64::from(place.offset()), length)?;
            kept(place);
            Some(place)
        })
    }

    fn read(&self, keep: impl FnMut(PackedLocator) -> Option<PackedLocator>) -> Result<HashIndex> {
        let start = self.index_start();
        let mut input = FileReader::new(&*self.file, start);
        match HashIndex::read_checkpoint_keeping(&mut input, keep) {
            Ok((index, _)) => Ok(index),
            Err(CheckpointError::Io(source)) => Err(Error::io(&self.path)(source)),
            Err(error) => Err(Error::corrupt(&self.path, start, error.to_string())),
        }
    }
}

fn encode_table(covered: &[Covered]) -> Vec<u8> {
    let mut table = Vec::with_capacity(covered.len() * COVERED_BYTES);
    for Covered { number, handle } in covered {
        table.extend_from_slice(&number.to_le_bytes());
        table.extend_from_slice(&handle.0.to_le_bytes());
    }
    table
}

fn decode_table(table: &[u8]) -> Vec<Covered> {
    let lines = table.chunks_exact(COVERED_BYTES);
    lines.map(|line| Covered { number: read_u32(line, 0), handle: Handle(read_u32(line, 4)) }).collect()
}

fn into_io(error: CheckpointError) -> io::Error {
    match error {
        CheckpointError::Io(error) => error,
        other => io::Error::other(other),
    }
}

/// Writes a file front to back, in large pieces.
struct FileWriter<'a> {
    file: &'a dyn DiskFile,
    offset: u64,
    buffer: Vec<u8>,
}

impl<'a> FileWriter<'a> {
    fn new(file: &'a dyn DiskFile, offset: u64) -> Self {
        FileWriter { file, offset, buffer: Vec::with_capacity(BUFFER_BYTES) }
    }
}

impl Write for FileWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + bytes.len() > BUFFER_BYTES {
            self.flush()?;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_at(&self.buffer, self.offset)?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// Reads a file front to back, in large pieces.
struct FileReader<'a> {
    file: &'a dyn DiskFile,
    offset: u64,
    buffer: Vec<u8>,
    taken: usize,
}

impl<'a> FileReader<'a> {
    fn new(file: &'a dyn DiskFile, offset: u64) -> Self {
        FileReader { file, offset, buffer: Vec::new(), taken: 0 }
    }
}

impl Read for FileReader<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.buffer.len() {
            self.buffer.resize(BUFFER_BYTES, 0);
            let read = self.file.read_at(&mut self.buffer, self.offset)?;
            self.buffer.truncate(read);
            self.offset += read as u64;
            self.taken = 0;
        }
        let available = &self.buffer[self.taken..];
        let count = available.len().min(bytes.len());
        bytes[..count].copy_from_slice(&available[..count]);
        self.taken += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
