//! FILES, byte by byte: FORMAT.md says what they are.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Catalogue, CataloguedFile, CataloguedRun};
use crate::disk::{DiskFile, read_small};
use crate::error::{Error, Result};
use crate::header::{FILE_HEADER_BYTES, FileHeader, Magic, read_u32, read_u64};
use crate::position::{EpochStart, Sequence};
use crate::row::KEY_BYTES_MAX;

/// More than a FILES can come to: so much is read at most, whatever the file's length.
const BYTES_MAX: u64 = 64 << 20;

const EPOCH_BYTES: usize = 16;
const RUN_BYTES: usize = 24;
const FILE_BYTES: usize = 16;

const COLD: u8 = 1;
const HAS_FROM: u8 = 2;

/// Reads all of the file.
pub(super) fn read(file: &dyn DiskFile, path: &Path) -> Result<Vec<u8>> {
    match read_small(file, BYTES_MAX) {
        Err(error) if error.kind() == std::io::ErrorKind::FileTooLarge => {
            Err(Error::corrupt(path, BYTES_MAX, error.to_string()))
        }
        read => read.map_err(Error::io(path)),
    }
}

impl Catalogue {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        put_count(&mut body, self.epochs.len());
        for epoch in &self.epochs {
            body.extend_from_slice(&epoch.epoch.to_le_bytes());
            body.extend_from_slice(&epoch.first.0.to_le_bytes());
        }
        put_count(&mut body, self.runs.len());
        for run in &self.runs {
            run.encode(&mut body);
        }
        let mut fields = [0; 32];
        fields[..4].copy_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
        fields[4..8].copy_from_slice(&crc32fast::hash(&body).to_le_bytes());
        fields[8..12].copy_from_slice(&self.next_number.to_le_bytes());
        fields[16..24].copy_from_slice(&self.flushed.0.to_le_bytes());
        fields[24..].copy_from_slice(&self.log_first.0.to_le_bytes());
        let mut bytes = FileHeader { store_id: self.store_id, fields }.encode(Magic::Files).to_vec();
        bytes.append(&mut body);
        bytes
    }

    /// Decodes all of a file's bytes, and refuses what contradicts itself.
    pub(crate) fn decode(bytes: &[u8], path: &Path) -> Result<Catalogue> {
        let FileHeader { store_id, fields } = FileHeader::decode(bytes, Magic::Files, path)?;
        let corrupt = |offset: usize, what| Error::corrupt(path, offset as u64, what);
        let body = &bytes[FILE_HEADER_BYTES..];
        if read_u32(&fields, 0) as usize != body.len() {
            return Err(corrupt(32, "the body is not as long as announced"));
        }
        if read_u32(&fields, 4) != crc32fast::hash(body) {
            return Err(corrupt(36, "the body's checksum does not match"));
        }
        if read_u32(&fields, 12) != 0 {
            return Err(corrupt(44, "bytes that this format leaves zero are not"));
        }
        let mut body = Body { bytes: body, offset: 0 };
        let (Some(epochs), Some(runs)) = (body.epochs(), body.runs()) else {
            return Err(corrupt(FILE_HEADER_BYTES + body.offset, "no epoch or run is written like this"));
        };
        if body.offset < body.bytes.len() {
            return Err(corrupt(FILE_HEADER_BYTES + body.offset, "bytes follow the last run"));
        }
        let catalogue = Catalogue {
            store_id,
            next_number: read_u32(&fields, 8),
            flushed: Sequence(read_u64(&fields, 16)),
            log_first: Sequence(read_u64(&fields, 24)),
            epochs,
            runs,
            stored: true,
        };
        catalogue.valid().map_err(|what| corrupt(FILE_HEADER_BYTES, what))?;
        Ok(catalogue)
    }

    /// Whether it holds together; or in what not.
    pub(super) fn valid(&self) -> std::result::Result<(), &'static str> {
        if self.flushed > Sequence::MAX {
            return Err("flushed is above every sequence");
        }
        if self.log_first == Sequence(0) || self.log_first > self.flushed.next() {
            return Err("entries left the log before they were flushed");
        }
        if !self.epochs.is_sorted_by(|one, next| one.epoch < next.epoch && one.first < next.first) {
            return Err("the epochs do not ascend");
        }
        if self.epochs.iter().any(|epoch| epoch.first == Sequence(0) || epoch.first > self.flushed) {
            return Err("an epoch begins where nothing was flushed");
        }
        for (index, run) in self.runs.iter().enumerate() {
            run.valid()?;
            if !self.runs[..index].iter().all(|older| run.may_follow(older)) {
                return Err("the runs are not in the order of their age");
            }
            if run.last > self.flushed {
                return Err("a run reaches above what was flushed");
            }
        }
        let mut numbers = BTreeSet::new();
        if !self.files().all(|file| file.number < self.next_number && numbers.insert(file.number)) {
            return Err("a file's number is used twice, or is still to come");
        }
        Ok(())
    }
}

impl CataloguedRun {
    fn encode(&self, body: &mut Vec<u8>) {
        let from = self.from.as_deref().unwrap_or_default();
        let cold = if self.cold { COLD } else { 0 };
        let has_from = if self.from.is_some() { HAS_FROM } else { 0 };
        body.extend_from_slice(&self.first.0.to_le_bytes());
        body.extend_from_slice(&self.last.0.to_le_bytes());
        put_count(body, self.files.len());
        body.extend_from_slice(&[cold | has_from, 0]);
        body.extend_from_slice(&u16::try_from(from.len()).unwrap_or(u16::MAX).to_le_bytes());
        body.extend_from_slice(from);
        for file in &self.files {
            body.extend_from_slice(&file.number.to_le_bytes());
            body.extend_from_slice(&[0; 4]);
            body.extend_from_slice(&file.bytes.to_le_bytes());
        }
    }

    fn valid(&self) -> std::result::Result<(), &'static str> {
        if self.first == Sequence(0) || self.first > self.last {
            return Err("a run's sequences are in no order");
        }
        if self.files.is_empty() {
            return Err("a run has no file");
        }
        match &self.from {
            Some(from) if from.is_empty() || from.len() > KEY_BYTES_MAX => Err("a run begins at no key"),
            _ => Ok(()),
        }
    }

    /// Whether it can stand behind another run. Their keys are apart where one is an input of the merge that makes
    /// the other.
    fn may_follow(&self, older: &CataloguedRun) -> bool {
        older.last < self.first || (older.first <= self.last && (older.from.is_some() || self.from.is_some()))
    }
}

/// Counts stay far below this: what they count is in memory.
fn put_count(body: &mut Vec<u8>, count: usize) {
    body.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
}

/// What is left to decode.
struct Body<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Body<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.offset.checked_add(length)?;
        let taken = self.bytes.get(self.offset..end)?;
        self.offset = end;
        Some(taken)
    }

    /// A count of things that take so many bytes each, all of them.
    fn take_counted(&mut self, each: usize) -> Option<&'a [u8]> {
        let count = read_u32(self.take(4)?, 0) as usize;
        self.take(count.checked_mul(each)?)
    }

    fn epochs(&mut self) -> Option<Vec<EpochStart>> {
        let epochs = self.take_counted(EPOCH_BYTES)?.chunks_exact(EPOCH_BYTES);
        let epoch = |bytes| EpochStart { epoch: read_u64(bytes, 0), first: Sequence(read_u64(bytes, 8)) };
        Some(epochs.map(epoch).collect())
    }

    fn runs(&mut self) -> Option<Vec<CataloguedRun>> {
        let count = read_u32(self.take(4)?, 0);
        // Grows as it is read: a count is no reason to make room.
        (0..count).map(|_| self.run()).collect()
    }

    fn run(&mut self) -> Option<CataloguedRun> {
        let begin = self.offset;
        let fixed = self.take(RUN_BYTES)?;
        let (files, flags) = (read_u32(fixed, 16) as usize, fixed[20]);
        let from = self.take(usize::from(u16::from_le_bytes([fixed[22], fixed[23]])))?;
        let files = self.take(files.checked_mul(FILE_BYTES)?)?.chunks_exact(FILE_BYTES);
        let has_from = flags & HAS_FROM != 0;
        let zeros = fixed[21] == 0 && files.clone().all(|file| read_u32(file, 4) == 0);
        if flags & !(COLD | HAS_FROM) != 0 || !zeros || (!has_from && !from.is_empty()) {
            self.offset = begin;
            return None;
        }
        let file = |file| CataloguedFile { number: read_u32(file, 0), bytes: read_u64(file, 8) };
        Some(CataloguedRun {
            first: Sequence(read_u64(fixed, 0)),
            last: Sequence(read_u64(fixed, 8)),
            cold: flags & COLD != 0,
            from: has_from.then(|| from.into()),
            files: files.map(file).collect(),
        })
    }
}
