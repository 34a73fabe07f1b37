//! Reads a file front to back in large pieces, and hands out small ones without copying.

use bytes::Bytes;

use crate::data_file::DataFile;
use crate::error::{Error, Result};

const WINDOW_BYTES: u64 = 256 << 10;

pub(crate) struct Window<'a> {
    file: &'a DataFile,
    end: u64,
    start: u64,
    bytes: Bytes,
}

impl<'a> Window<'a> {
    /// A window on the file's bytes below `end`.
    pub(crate) fn new(file: &'a DataFile, end: u64) -> Self {
        Window { file, end, start: 0, bytes: Bytes::new() }
    }

    /// The bytes at `offset`, or `None` when fewer than `length` lie below the end.
    pub(crate) fn get(&mut self, offset: u64, length: u64) -> Result<Option<Bytes>> {
        if offset.checked_add(length).is_none_or(|end| end > self.end) {
            return Ok(None);
        }
        if offset < self.start || offset + length > self.start + self.bytes.len() as u64 {
            self.fill(offset, length.max(WINDOW_BYTES.min(self.end - offset)))?;
        }
        let (Ok(from), Ok(length)) = (usize::try_from(offset - self.start), usize::try_from(length)) else {
            return Ok(None);
        };
        // Shorter than asked for only if the file shrank under our hands.
        Ok((from + length <= self.bytes.len()).then(|| self.bytes.slice(from..from + length)))
    }

    fn fill(&mut self, offset: u64, length: u64) -> Result<()> {
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        let read = self.file.file().read_at(&mut bytes, offset).map_err(Error::io(self.file.path()))?;
        bytes.truncate(read);
        self.start = offset;
        self.bytes = bytes.into();
        Ok(())
    }
}
