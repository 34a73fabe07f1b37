//! Writing rows to run files, at the pace that is allowed.

use paddock_index::PackedLocator;

use super::site::{Site, Written};
use crate::error::Result;
use crate::row::StoredRow;
use crate::run::{RunOptions, RunWriter};

/// So many bytes are moved between two looks at the pace.
const PIECE_BYTES: u64 = 128 << 10;

/// Counts the bytes that a job moves.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    bytes: u64,
}

impl Meter {
    /// Notes bytes. Returns how many there are to be accounted for, once there are enough.
    pub(crate) fn add(&mut self, bytes: usize) -> Option<u64> {
        self.bytes += bytes as u64;
        (self.bytes >= PIECE_BYTES).then(|| std::mem::take(&mut self.bytes))
    }
}

/// A file in the making. It leaves nothing behind when it is dropped unfinished.
pub(crate) struct Output<'a> {
    site: &'a Site,
    writer: Option<RunWriter>,
    moved_from: Vec<Option<PackedLocator>>,
    row_bytes: u64,
}

impl<'a> Output<'a> {
    pub(crate) fn new(site: &'a Site) -> Output<'a> {
        Output { site, writer: None, moved_from: Vec::new(), row_bytes: 0 }
    }

    /// Adds a row, and where the hash index may know it to be.
    pub(crate) fn push(&mut self, row: &StoredRow<'_>, from: Option<PackedLocator>) -> Result<()> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(self.site.begin_run()?),
        };
        writer.push(row)?;
        self.moved_from.push(from);
        self.row_bytes += row.bytes.len() as u64;
        Ok(())
    }

    /// Whether the file is long enough, at so many bytes or as many rows as memory allows.
    pub(crate) fn is_full(&self, file_bytes: u64) -> bool {
        self.row_bytes >= file_bytes || self.moved_from.len() as u64 >= self.site.settings.file_rows_max
    }

    /// The file, complete and durable; `None` without a row.
    pub(crate) fn finish(&mut self) -> Result<Option<Written>> {
        let Some(writer) = self.writer.take() else { return Ok(None) };
        self.row_bytes = 0;
        let moved_from = std::mem::take(&mut self.moved_from);
        Ok(Some(Written { run: writer.finish()?, moved_from }))
    }
}

impl Site {
    fn begin_run(&self) -> Result<RunWriter> {
        let number = self.catalogue.lock().take_number(&self.directory)?;
        let options = RunOptions { compression: self.settings.compression, ..RunOptions::default() };
        RunWriter::create(&self.directory, &self.memory, number, self.store_id, options)
    }
}
