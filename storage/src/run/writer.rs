//! Writing a run, row by row in the order of their keys.

use std::path::Path;
use std::sync::Arc;

use paddock_index::{Filter, FilterBuilder, xxh3};

use super::STORED_CHECKSUM_BYTES;
use super::block::{BlockBuilder, expiry_of, key_of};
use super::codec::{Codec, Compression, Compressor};
use super::expiry::Expiries;
use super::format::{
    BLOCK_BYTES_MAX, Footer, LOGICAL_BYTES_MAX, RUN_START, Salt, Section, Statistics, TABLE_END_BYTES,
    TABLE_ROW_BYTES, encode_header_fields,
};
use super::index::{BlockIndex, Entry, separator};
use super::reader::{Parts, Run};
use crate::directory::{Directory, Unfinished};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::header::{FileHeader, Magic, StoreId};
use crate::memory::Memory;
use crate::position::Sequence;
use crate::row::{RowRef, StoredRow};

const BLOCK_BYTES: usize = 16 << 10;
const BLOCK_BYTES_MIN: usize = 256;

/// Memory is taken ahead for at most so many rows.
const ROWS_EXPECTED_MAX: u64 = 1 << 20;

/// Blocks are gathered, and written when there is this much.
const WRITE_BYTES: usize = 256 << 10;

/// How a run is to be written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunOptions {
    /// How many bytes of rows a block has, about.
    pub(crate) block_bytes: usize,
    pub(crate) compression: Compression,
    /// How many rows there will be, about.
    pub(crate) expected_rows: u64,
}

impl Default for RunOptions {
    fn default() -> Self {
        RunOptions { block_bytes: BLOCK_BYTES, compression: Compression::default(), expected_rows: 0 }
    }
}

/// A run that is being written. Dropped before it is finished, it leaves nothing behind.
///
/// After an error it is of no further use: drop it.
pub(crate) struct RunWriter {
    /// Gone once it has its name.
    unfinished: Option<Unfinished>,
    path: Arc<Path>,
    memory: Arc<Memory>,
    disk: Arc<dyn Disk>,
    number: u32,
    store_id: StoreId,
    salt: Salt,
    block_bytes: usize,
    compressor: Compressor,
    block: BlockBuilder,
    /// Of the block that is being gathered.
    separator: Vec<u8>,
    /// Where that block begins, as a logical offset.
    logical: u32,
    /// The end of the file, those bytes counted that are not written yet.
    pending: Vec<u8>,
    written: u64,
    index: Vec<u8>,
    blocks: u32,
    /// Of the keys: the filter is made once it is known how many there are.
    hashes: Vec<u64>,
    filter_seed: u64,
    statistics: Statistics,
    /// Of the rows: known only with the last one, like the filter.
    expiries: Expiries,
}

impl RunWriter {
    /// Begins a run of this number.
    pub(crate) fn create(
        directory: &Directory,
        memory: &Arc<Memory>,
        number: u32,
        store_id: StoreId,
        options: RunOptions,
    ) -> Result<RunWriter> {
        let path: Arc<Path> = directory.run_path(number).into();
        let header = FileHeader { store_id, fields: encode_header_fields(number) }.encode(Magic::Run);
        let unfinished = Unfinished::make_unsynced(&directory.disk, &path, |_| Ok(()))?;
        Ok(RunWriter {
            unfinished: Some(unfinished),
            path,
            memory: memory.clone(),
            disk: directory.disk.clone(),
            number,
            store_id,
            salt: Salt::new(store_id, number),
            block_bytes: options.block_bytes.clamp(BLOCK_BYTES_MIN, BLOCK_BYTES_MAX),
            compressor: Compressor::new(options.compression),
            block: BlockBuilder::default(),
            separator: Vec::new(),
            logical: RUN_START,
            pending: header.to_vec(),
            written: 0,
            index: Vec::new(),
            blocks: 0,
            hashes: Vec::with_capacity(options.expected_rows.min(ROWS_EXPECTED_MAX) as usize),
            filter_seed: filter_seed(store_id),
            statistics: Statistics::default(),
            expiries: Expiries::default(),
        })
    }

    /// Adds a row, verified by the caller, whose key is above all before. Returns its logical offset.
    ///
    /// [`Error::TooLarge`]: the run is as long as a run can be; nothing was added. [`Error::Corrupt`]: it is no row for a run,
    /// or its place is not here. Merging takes rows from files, whose checksums do not say in which order they are.
    pub(crate) fn push(&mut self, row: &StoredRow<'_>) -> Result<u32> {
        let key = key_of(&row.row);
        self.check_row(key, row.sequence)?;
        if !self.block.is_empty() && self.block.row_bytes() + row.bytes.len() > self.block_bytes {
            self.finish_block()?;
        }
        self.check_length(row.bytes.len())?;
        if self.block.is_empty() {
            // Above the last key of the block before; of the first block, the key itself.
            let separator = if self.blocks == 0 { key } else { separator(&self.statistics.last_key, key) };
            self.separator.clear();
            self.separator.extend_from_slice(separator);
        }
        // It was checked that the block ends below what 32 bits hold.
        let offset = self.logical + self.block.row_bytes() as u32;
        self.block.push(row);
        self.hashes.push(xxh3(self.filter_seed, key));
        let tombstone = matches!(row.row, RowRef::Delete { .. });
        self.statistics.count(row.sequence, row.bytes.len(), tombstone, expiry_of(&row.row));
        self.expiries.note(expiry_of(&row.row), row.bytes.len());
        self.statistics.last_key.clear();
        self.statistics.last_key.extend_from_slice(key);
        Ok(offset)
    }

    /// How many bytes the file has so far, about: those of the block that is being gathered count as they are.
    pub(crate) fn bytes(&self) -> u64 {
        self.stored_end() + self.block.row_bytes() as u64
    }

    /// How many rows there are so far.
    pub(crate) fn rows(&self) -> u64 {
        self.statistics.rows
    }

    /// Completes the run, makes it durable, gives it its name, and opens it.
    pub(crate) fn finish(mut self) -> Result<Arc<Run>> {
        if !self.block.is_empty() {
            self.finish_block()?;
        }
        let block_bytes = self.stored_end() - u64::from(RUN_START);
        let filter = self.build_filter();
        let filter_bytes = filter.to_bytes();
        self.statistics.expiry_steps = std::mem::take(&mut self.expiries).steps();
        let statistics_bytes = self.statistics.encode();
        let section = |bytes: &[u8]| Section::of(bytes).ok_or_else(|| too_long(bytes.len() as u64));
        let footer = Footer {
            blocks: self.blocks,
            block_bytes: u32::try_from(block_bytes).map_err(|_| too_long(block_bytes))?,
            filter: section(&filter_bytes)?,
            index: section(&self.index)?,
            statistics: section(&statistics_bytes)?,
        };
        for part in [&filter_bytes[..], &self.index, &statistics_bytes, &footer.encode(self.salt)] {
            self.pending.extend_from_slice(part);
        }
        self.write_pending()?;
        let index = BlockIndex::decode(&self.index, footer.blocks, footer.block_bytes);
        // What was just encoded is decoded: this cannot fail, but for a mistake in this module.
        let index = index.map_err(|what| Error::corrupt(&self.path, 0, what))?;
        let file = self.publish()?;
        let file = self.memory.open_files().on_demand(self.disk.clone(), self.path.clone(), file);
        let statistics = std::mem::take(&mut self.statistics);
        let parts = Parts { footer, index, filter, statistics };
        let file = self.memory.data_file(self.path.clone(), file, footer.file_bytes(), footer.file_bytes());
        Ok(Arc::new(Run::new(file, self.number, self.store_id, parts)))
    }

    fn build_filter(&mut self) -> Filter {
        let hashes = std::mem::take(&mut self.hashes);
        let mut filter = FilterBuilder::with_seed(hashes.len() as u64, self.filter_seed);
        for hash in hashes {
            filter.insert_hash(hash);
        }
        filter.build()
    }

    fn publish(&mut self) -> Result<Arc<dyn crate::disk::DiskFile>> {
        if let Some(unfinished) = &self.unfinished {
            // Here some file systems only find out that there is no room.
            unfinished.file().sync_all().map_err(Error::space(&self.path))?;
        }
        match self.unfinished.take() {
            Some(unfinished) => unfinished.publish(),
            None => Err(Error::Closed),
        }
    }

    fn check_row(&self, key: &[u8], sequence: Sequence) -> Result<()> {
        let what = if key.is_empty() {
            "not written: a row without a key"
        } else if key <= self.statistics.last_key.as_slice() {
            "not written: the rows that it is made of are not in order"
        } else if sequence.0 == 0 {
            "not written: a row that the log gave no sequence"
        } else {
            return Ok(());
        };
        Err(Error::corrupt(&self.path, self.stored_end(), what))
    }

    /// Whether the block that is being gathered can take a row of so many bytes.
    fn check_length(&self, row_bytes: usize) -> Result<()> {
        let block_bytes = self.block.row_bytes() + (self.block.rows() as usize + 1) * TABLE_ROW_BYTES;
        let end = u64::from(self.logical) + (block_bytes + TABLE_END_BYTES + row_bytes) as u64;
        if end > u64::from(LOGICAL_BYTES_MAX) { Err(too_long(end)) } else { Ok(()) }
    }

    fn finish_block(&mut self) -> Result<()> {
        let rows = self.block.rows();
        let block = self.block.finish(self.salt, self.logical);
        // The length of the block was checked with its last row.
        let decoded_bytes = block.len() as u32;
        let (codec, stored) = self.compressor.compress(block).unwrap_or((Codec::Raw, block));
        let mut stored_bytes = stored.len();
        self.pending.extend_from_slice(stored);
        if codec != Codec::Raw {
            let checksum = self.salt.checksum(stored, self.logical);
            self.pending.extend_from_slice(&checksum.to_le_bytes());
            stored_bytes += STORED_CHECKSUM_BYTES;
        }
        let entry = Entry {
            decoded_bytes,
            stored_bytes: stored_bytes as u32,
            rows,
            codec,
            separator: &self.separator,
        };
        entry.encode(&mut self.index);
        self.blocks += 1;
        self.logical += decoded_bytes;
        self.block.clear();
        if self.pending.len() >= WRITE_BYTES { self.write_pending() } else { Ok(()) }
    }

    fn stored_end(&self) -> u64 {
        self.written + self.pending.len() as u64
    }

    fn write_pending(&mut self) -> Result<()> {
        let Some(unfinished) = &self.unfinished else { return Err(Error::Closed) };
        unfinished.file().write_at(&self.pending, self.written).map_err(Error::space(&self.path))?;
        self.written += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }
}

impl Drop for RunWriter {
    fn drop(&mut self) {
        if let Some(unfinished) = self.unfinished.take() {
            unfinished.discard();
        }
    }
}

impl std::fmt::Debug for RunWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RunWriter({}, {} rows)", self.path.display(), self.statistics.rows)
    }
}

/// Another one in each store: who gives it keys cannot know which of them the filter takes for one another.
fn filter_seed(store_id: StoreId) -> u64 {
    store_id.0.first_chunk().map_or(0, |seed| u64::from_le_bytes(*seed))
}

fn too_long(actual: u64) -> Error {
    Error::TooLarge { what: "bytes of a run", actual, limit: u64::from(LOGICAL_BYTES_MAX) }
}
