//! Makes the checksums of damaged bytes right, so that what they guard is reached. Written from storage/FORMAT.md and
//! index/FORMAT.md. (Rows, batches and manifests are sealed by paddock-storage itself.)

const FILE_HEADER_BYTES: usize = 64;

fn put(bytes: &mut [u8], at: usize, number: u32) {
    bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
}

/// The header that all files of a store begin with.
pub fn file_header(bytes: &mut [u8]) {
    if bytes.len() >= FILE_HEADER_BYTES {
        let parts = [&bytes[..12], &bytes[16..FILE_HEADER_BYTES]].concat();
        put(bytes, 12, crc32fast::hash(&parts));
    }
}

/// A filter: its blocks, and then its header.
pub fn filter(bytes: &mut [u8]) {
    if bytes.len() >= FILE_HEADER_BYTES {
        let checksum = crc32fast::hash(&bytes[FILE_HEADER_BYTES..]);
        put(bytes, 36, checksum);
        file_header(bytes);
    }
}
