//! How blocks are stored: as they are, or compressed where that is worth it. FORMAT.md, "Block".

use std::cell::RefCell;

use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};

/// How the blocks of runs are compressed. A block is compressed only if that saves at least a third of it: reading a
/// row of a compressed block costs the decoding of the block, and is not worth a little space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all: reads cost least.
    None,
    /// LZ4: decodes at more than a gigabyte per second.
    #[default]
    Lz4,
    /// Zstandard: smaller than LZ4, and several times slower to decode.
    Zstd {
        /// 1 (fast) to 22 (small, and very slow to write).
        level: i32,
    },
}

/// How one block is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Codec {
    #[default]
    Raw,
    Lz4,
    Zstd,
}

impl Codec {
    pub(super) fn to_byte(self) -> u8 {
        match self {
            Codec::Raw => 0,
            Codec::Lz4 => 1,
            Codec::Zstd => 2,
        }
    }

    pub(super) fn from_byte(byte: u8) -> Option<Codec> {
        [Codec::Raw, Codec::Lz4, Codec::Zstd].into_iter().find(|codec| codec.to_byte() == byte)
    }
}

/// At most so many blocks are stored raw untried, after others could not be compressed.
const UNTRIED_MAX: u32 = 31;

/// Compresses blocks, and notices when there is no point in trying.
///
/// After a block that could not be compressed the next is stored without trying; after another such, the next three;
/// and so on, up to [`UNTRIED_MAX`]. So data that is random or compressed already costs next to nothing, and a
/// change in it is noticed within half a megabyte.
pub(super) struct Compressor {
    compression: Compression,
    table: CompressTable,
    zstd: Option<zstd::bulk::Compressor<'static>>,
    output: Vec<u8>,
    /// Blocks to store untried after the next that cannot be compressed.
    patience: u32,
    /// Blocks to store untried from here on.
    untried: u32,
}

impl Compressor {
    pub(super) fn new(compression: Compression) -> Compressor {
        let zstd = match compression {
            // Without memory for it blocks stay raw, and the level is clamped by the library.
            Compression::Zstd { level } => zstd::bulk::Compressor::new(level).ok(),
            Compression::None | Compression::Lz4 => None,
        };
        let (table, output) = (CompressTable::default(), Vec::new());
        Compressor { compression, table, zstd, output, patience: 1, untried: 0 }
    }

    /// The block compressed, with room behind it for the checksum; `None` where it is to be stored raw.
    pub(super) fn compress(&mut self, block: &[u8]) -> Option<(Codec, &[u8])> {
        if self.untried > 0 {
            self.untried -= 1;
            return None;
        }
        let limit = block.len() - block.len() / 3;
        let (codec, length) = self.encode(block)?;
        if length + super::STORED_CHECKSUM_BYTES > limit {
            self.untried = self.patience;
            self.patience = (self.patience * 2 + 1).min(UNTRIED_MAX);
            return None;
        }
        self.patience = 1;
        Some((codec, &self.output[..length]))
    }

    fn encode(&mut self, block: &[u8]) -> Option<(Codec, usize)> {
        let (codec, bound) = match self.compression {
            Compression::None => return None,
            Compression::Lz4 => (Codec::Lz4, get_maximum_output_size(block.len())),
            Compression::Zstd { .. } => (Codec::Zstd, zstd::zstd_safe::compress_bound(block.len())),
        };
        if self.output.len() < bound {
            self.output.resize(bound, 0);
        }
        let length = match &mut self.zstd {
            Some(zstd) => zstd.compress_to_buffer(block, &mut self.output[..]).ok()?,
            None if codec == Codec::Zstd => return None,
            None => compress_into_with_table(block, &mut self.output, &mut self.table).ok()?,
        };
        Some((codec, length))
    }
}

thread_local! {
    /// Its tables are larger than most blocks: made once for each thread that decodes.
    static ZSTD: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Decodes a block into `output`, which it must fill exactly: so it can never grow beyond what the index said.
pub(super) fn decompress(codec: Codec, stored: &[u8], output: &mut [u8]) -> Result<(), &'static str> {
    let length = match codec {
        Codec::Raw => None,
        Codec::Lz4 => decompress_into(stored, output).ok(),
        Codec::Zstd => ZSTD.with_borrow_mut(|zstd| {
            if zstd.is_none() {
                *zstd = zstd::bulk::Decompressor::new().ok();
            }
            zstd.as_mut()?.decompress_to_buffer(stored, output).ok()
        }),
    };
    if length == Some(output.len()) { Ok(()) } else { Err("the block cannot be decoded") }
}
