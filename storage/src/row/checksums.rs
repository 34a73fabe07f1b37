//! The batch header's word on its rows: the CRC of their checksums.

/// Checksums that are gathered before the CRC goes over them: it costs as much for one of them as for several.
const GATHERED_BYTES: usize = 256;

/// Computes the CRC of rows' checksums, one after the other.
pub(super) struct Checksums {
    hasher: crc32fast::Hasher,
    gathered: [u8; GATHERED_BYTES],
    length: usize,
}

impl Checksums {
    pub(super) fn new() -> Checksums {
        Checksums { hasher: crc32fast::Hasher::new(), gathered: [0; GATHERED_BYTES], length: 0 }
    }

    pub(super) fn add(&mut self, checksum: u32) {
        self.gathered[self.length..self.length + 4].copy_from_slice(&checksum.to_le_bytes());
        self.length += 4;
        if self.length == GATHERED_BYTES {
            self.hasher.update(&self.gathered);
            self.length = 0;
        }
    }

    pub(super) fn finish(mut self) -> u32 {
        self.hasher.update(&self.gathered[..self.length]);
        self.hasher.finalize()
    }
}
