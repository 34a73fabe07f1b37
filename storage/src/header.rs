//! The 64 bytes that all files but LOCK begin with. FORMAT.md, "File header".

use std::fmt;
use std::path::Path;

use crate::error::{Error, Result};

/// The format that this build writes, and the newest that it reads.
pub(crate) const FORMAT: u32 = 2;

/// The oldest format that this build reads: format 1 was never released.
pub(crate) const FORMAT_OLDEST: u32 = 2;

pub(crate) const FILE_HEADER_BYTES: usize = 64;

/// What tells one store's files from another's: random, made with the store.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StoreId(pub(crate) [u8; 16]);

impl StoreId {
    /// What keys are hashed with: nobody can choose keys beforehand that all fall into one place.
    pub(crate) fn seed(self) -> u64 {
        read_u64(&self.0, 0)
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreId({self})")
    }
}

/// What kind of file it is, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Magic {
    Manifest,
    Files,
    Segment,
    Run,
    IndexCheckpoint,
}

impl Magic {
    fn bytes(self) -> &'static [u8; 8] {
        match self {
            Magic::Manifest => b"PDKMANIF",
            Magic::Files => b"PDKFILES",
            Magic::Segment => b"PDKSEGMT",
            Magic::Run => b"PDKRUNFL",
            Magic::IndexCheckpoint => b"PDKINDEX",
        }
    }
}

/// A decoded file header: whose file it is, and the fields of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileHeader {
    pub(crate) store_id: StoreId,
    pub(crate) fields: [u8; 32],
}

impl FileHeader {
    pub(crate) fn encode(&self, magic: Magic) -> [u8; FILE_HEADER_BYTES] {
        let mut bytes = [0; FILE_HEADER_BYTES];
        bytes[..8].copy_from_slice(magic.bytes());
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.store_id.0);
        bytes[32..].copy_from_slice(&self.fields);
        let checksum = checksum(&bytes);
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Makes the checksum of the header that `bytes` begin with right.
    #[cfg(feature = "fuzzing")]
    pub(crate) fn seal(bytes: &mut [u8]) {
        if let Some(header) = bytes.first_chunk_mut() {
            let checksum = checksum(header);
            header[12..16].copy_from_slice(&checksum.to_le_bytes());
        }
    }

    /// Decodes the header that `bytes` begin with. Damage is told from another format by the checksum, which
    /// every format has in the same place.
    pub(crate) fn decode(bytes: &[u8], magic: Magic, path: &Path) -> Result<FileHeader> {
        let Some(header) = bytes.first_chunk::<FILE_HEADER_BYTES>() else {
            return Err(Error::corrupt(path, bytes.len() as u64, "the file ends within its header"));
        };
        if read_u32(header, 12) != checksum(header) {
            return Err(Error::corrupt(path, 0, "the file header's checksum does not match"));
        }
        if &header[..8] != magic.bytes() {
            return Err(Error::corrupt(path, 0, "the file is of another kind"));
        }
        let found = read_u32(header, 8);
        check_format(found, path)?;
        let mut store_id = [0; 16];
        store_id.copy_from_slice(&header[16..32]);
        let mut fields = [0; 32];
        fields.copy_from_slice(&header[32..]);
        Ok(FileHeader { store_id: StoreId(store_id), fields })
    }
}

/// Refuses a format that this build does not read.
pub(crate) fn check_format(found: u32, path: &Path) -> Result<()> {
    if (FORMAT_OLDEST..=FORMAT).contains(&found) {
        return Ok(());
    }
    Err(Error::Format { path: path.to_path_buf(), found, oldest: FORMAT_OLDEST, newest: FORMAT })
}

fn checksum(header: &[u8; FILE_HEADER_BYTES]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header[..12]);
    hasher.update(&header[16..]);
    hasher.finalize()
}

/// Reads a little-endian number; bytes that are not there count as zero.
pub(crate) fn read_u32(bytes: &[u8], offset: usize) -> u32 {
    bytes.get(offset..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

/// Reads a little-endian number; bytes that are not there count as zero.
pub(crate) fn read_u64(bytes: &[u8], offset: usize) -> u64 {
    bytes.get(offset..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u64::from_le_bytes(*chunk))
}
