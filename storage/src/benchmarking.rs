//! Runs, laid open to the benchmark that measures them (feature `benchmarking`; no part of the API, and may change any
//! day).

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use crate::directory::Directory;
use crate::disk::SystemDisk;
use crate::error::Result;
use crate::header::StoreId;
use crate::memory::Memory;
use crate::options::{Mapping, Options};
use crate::position::Sequence;
use crate::row::{RowsBuilder, decode_stored, verified};
use crate::run::{Compression, Run, RunOptions, RunWriter};

const STORE: StoreId = StoreId([7; 16]);

/// Rows in one piece of memory, as a batch has them.
#[derive(Debug, Default)]
pub struct EncodedRows {
    bytes: Vec<u8>,
    count: u64,
}

/// A run, and the rows that it has.
#[derive(Debug)]
pub struct BenchedRun(Arc<Run>);

impl EncodedRows {
    /// Adds a row, whose key is above all before.
    ///
    /// # Errors
    /// As encoding a row.
    pub fn push(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let mut row = RowsBuilder::new();
        row.put(key, value)?;
        self.count += 1;
        row.finish().stamp_into(Sequence(self.count), &mut self.bytes);
        Ok(())
    }

    /// How many bytes they have.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Walks them by their lengths; and verifies them, or not. Returns how many there were.
    #[must_use]
    pub fn walk(&self, verify: bool) -> u64 {
        let (mut rest, mut rows) = (self.bytes.as_slice(), 0);
        while !rest.is_empty() {
            let row = if verify { verified(rest).ok() } else { decode_stored(rest) };
            let Some(row) = row else { return 0 };
            rest = &rest[row.bytes.len()..];
            rows += 1;
        }
        rows
    }

    /// Writes them to a run of this number.
    ///
    /// # Errors
    /// As writing a run.
    pub fn write(
        &self,
        path: &Path,
        number: u32,
        options: (usize, Compression),
        mapped: bool,
    ) -> Result<BenchedRun> {
        let directory = Directory::prepare(path, Arc::new(SystemDisk))?;
        let mapping = if mapped { Mapping::Always } else { Mapping::Never };
        let memory = Memory::new(&Options::new().memory_bytes(64 << 20).mapping(mapping));
        let (block_bytes, compression) = options;
        let options = RunOptions { block_bytes, compression, expected_rows: self.count };
        let mut writer = RunWriter::create(&directory, &memory, number, STORE, options)?;
        let mut rest = self.bytes.as_slice();
        while let Some(row) = decode_stored(rest) {
            writer.push(&row)?;
            rest = &rest[row.bytes.len()..];
        }
        Ok(BenchedRun(writer.finish()?))
    }
}

impl BenchedRun {
    /// How long the file is, what of it is in memory, and how many bytes its rows have.
    #[must_use]
    pub fn sizes(&self) -> (u64, usize, u64) {
        let summary = self.0.summary();
        (summary.file_bytes, self.0.lookup_bytes(), summary.statistics.row_bytes)
    }

    /// Walks all rows, and returns how many there are.
    ///
    /// # Errors
    /// As reading a run.
    pub fn scan(&self, backward: bool) -> Result<u64> {
        let mut cursor = self.0.cursor();
        let mut rows = 0;
        if backward {
            cursor.seek_back(Bound::Unbounded)?;
            while let Some(row) = cursor.prev()? {
                std::hint::black_box(&row);
                rows += 1;
            }
        } else {
            while let Some(row) = cursor.next()? {
                std::hint::black_box(&row);
                rows += 1;
            }
        }
        Ok(rows)
    }

    /// Seeks a key with a cursor, and reads so many rows from there.
    ///
    /// # Errors
    /// As reading a run.
    pub fn scan_from(&self, key: &[u8], rows: usize) -> Result<()> {
        let mut cursor = self.0.cursor();
        cursor.seek(Bound::Included(key))?;
        for _ in 0..rows {
            std::hint::black_box(&cursor.next()?);
        }
        Ok(())
    }

    /// Whether the run has a key.
    ///
    /// # Errors
    /// As reading a run.
    pub fn has(&self, key: &[u8]) -> Result<bool> {
        Ok(self.0.find(key)?.is_some())
    }

    /// As when the hash index is made anew.
    ///
    /// # Errors
    /// As reading a run.
    pub fn locate_all(&self) -> Result<u64> {
        let mut rows = 0;
        self.0.for_each_location(|key, _, _, _, _| {
            std::hint::black_box(key);
            rows += 1;
        })?;
        Ok(rows)
    }
}
