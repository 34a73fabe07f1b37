//! The bytes of a filter: `index/FORMAT.md` in code.

use super::{BLOCK_BYTES, BLOCKS_MAX, Block, Filter};

/// The newest format, and the only one so far.
const FORMAT: u32 = 1;

const MAGIC: &[u8; 8] = b"PDKBLOOM";

/// The header has a cache line, so that no block lies on two.
pub(super) const HEADER_BYTES: usize = 64;

/// Why bytes are no filter. Whatever is wrong: make it again from the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// They are not as many as the filter has.
    #[error("the filter has {found} bytes and should have {expected}")]
    Length {
        /// How many there are.
        found: u64,
        /// How many there should be, as far as can be told.
        expected: u64,
    },
    /// They are damaged, or none of a filter.
    #[error("the filter is damaged: {reason}")]
    Corrupt {
        /// What is wrong.
        reason: &'static str,
    },
    /// It is intact, but of a format that this build does not read.
    #[error("the filter is of format {found}; this build reads format {supported}")]
    Format {
        /// The filter's format.
        found: u32,
        /// The format that this build reads.
        supported: u32,
    },
}

pub(super) fn encode(filter: &Filter) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES];
    bytes.reserve_exact(filter.blocks.len() * BLOCK_BYTES);
    for word in filter.blocks.iter().flat_map(|block| block.0) {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    let blocks_crc = crc32fast::hash(&bytes[HEADER_BYTES..]);
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    bytes[16..24].copy_from_slice(&filter.seed.to_le_bytes());
    bytes[24..32].copy_from_slice(&filter.keys.to_le_bytes());
    // At most 2^26.
    bytes[32..36].copy_from_slice(&(filter.blocks.len() as u32).to_le_bytes());
    bytes[36..40].copy_from_slice(&blocks_crc.to_le_bytes());
    let crc = header_crc(&bytes[..HEADER_BYTES]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    bytes
}

pub(super) fn decode(bytes: &[u8]) -> Result<Filter, FilterError> {
    let length = |expected| FilterError::Length { found: bytes.len() as u64, expected };
    let Some((header, body)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(length(HEADER_BYTES as u64));
    };
    if &header[..8] != MAGIC {
        return Err(FilterError::Corrupt { reason: "it does not begin as a filter does" });
    }
    if u32_at(header, 12) != header_crc(header) {
        return Err(FilterError::Corrupt { reason: "the header's checksum is wrong" });
    }
    // The format after the checksum: only an intact header can be of another one.
    if u32_at(header, 8) != FORMAT {
        return Err(FilterError::Format { found: u32_at(header, 8), supported: FORMAT });
    }
    if header[40..] != [0; HEADER_BYTES - 40] {
        return Err(FilterError::Corrupt { reason: "the header is not zero where it must be" });
    }
    let blocks = u32_at(header, 32);
    if !(1..=BLOCKS_MAX).contains(&blocks) {
        return Err(FilterError::Corrupt { reason: "the number of blocks is none" });
    }
    let expected = u64::from(blocks) * BLOCK_BYTES as u64;
    if body.len() as u64 != expected {
        return Err(length(HEADER_BYTES as u64 + expected));
    }
    if u32_at(header, 36) != crc32fast::hash(body) {
        return Err(FilterError::Corrupt { reason: "the blocks' checksum is wrong" });
    }
    let block = |bytes: &[u8]| Block(std::array::from_fn(|word| u32_at(bytes, 4 * word)));
    let blocks = body.chunks_exact(BLOCK_BYTES).map(block).collect();
    Ok(Filter { seed: u64_at(header, 16), keys: u64_at(header, 24), blocks })
}

/// Of all of the header but the checksum itself.
fn header_crc(header: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header[..12]);
    crc.update(&header[16..HEADER_BYTES]);
    crc.finalize()
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|byte| bytes[offset + byte]))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|byte| bytes[offset + byte]))
}
