//! Makes the checksums of damaged bytes right, so that what they guard is reached. Written from storage/FORMAT.md and
//! index/FORMAT.md; follows lengths as far as they make sense, and leaves the rest.

const FILE_HEADER_BYTES: usize = 64;
const BATCH_HEADER_BYTES: usize = 72;
const BATCH_MAGIC: &[u8] = b"PDKb";
const HAS_EXPIRY: u32 = 1 << 29;
const HAS_CONTENT_TYPE: u32 = 1 << 30;

fn number(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn put(bytes: &mut [u8], at: usize, number: u32) {
    bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
}

/// Where a row ends, if it is whole.
fn row_end(bytes: &[u8]) -> Option<usize> {
    let key = usize::from(u16::from_le_bytes(*bytes.get(10..12)?.first_chunk()?));
    let field = number(bytes.get(..16)?, 12);
    let mut start = 16;
    if field & HAS_EXPIRY != 0 {
        start += 8;
    }
    if field & HAS_CONTENT_TYPE != 0 {
        start += 1 + usize::from(*bytes.get(start)?);
    }
    let end = start + key + (field & 0x07ff_ffff) as usize;
    (end <= bytes.len()).then_some(end)
}

/// Rows, one after the other. Gives their checksums.
pub fn rows(mut bytes: &mut [u8]) -> Vec<u8> {
    let mut checksums = Vec::new();
    while let Some(end) = row_end(bytes) {
        let checksum = crc32fast::hash(&bytes[10..end]) ^ crc32fast::hash(&bytes[4..10]);
        put(bytes, 0, checksum);
        checksums.extend_from_slice(&checksum.to_le_bytes());
        bytes = &mut bytes[end..];
    }
    checksums
}

/// The header that all files of a store begin with.
pub fn file_header(bytes: &mut [u8]) {
    if bytes.len() >= FILE_HEADER_BYTES {
        let parts = [&bytes[..12], &bytes[16..FILE_HEADER_BYTES]].concat();
        put(bytes, 12, crc32fast::hash(&parts));
    }
}

/// The owner's value in a manifest.
pub fn manifest(bytes: &mut [u8]) {
    let length = number(bytes, 40) as usize;
    if let Some(value) = bytes.get(64..64_usize.saturating_add(length)) {
        let checksum = crc32fast::hash(value);
        put(bytes, 44, checksum);
    }
}

/// A segment's batches, with their chain.
pub fn segment(bytes: &mut [u8], store_id: &[u8]) {
    let Some(chain) = bytes.get(40..48).and_then(<[u8]>::first_chunk) else { return };
    let mut chain = u64::from_le_bytes(*chain);
    let mut at = FILE_HEADER_BYTES;
    while at + BATCH_HEADER_BYTES <= bytes.len() {
        let batch = &mut bytes[at..];
        let length = number(batch, 8) as usize;
        if !batch.starts_with(BATCH_MAGIC) || BATCH_HEADER_BYTES + length > batch.len() {
            at += 8;
            continue;
        }
        let checksums = rows(&mut batch[BATCH_HEADER_BYTES..BATCH_HEADER_BYTES + length]);
        batch[56..64].copy_from_slice(&chain.to_le_bytes());
        let of_rows = crc32fast::hash(&checksums);
        put(batch, 64, of_rows);
        let of_header = crc32fast::hash(&[store_id, &batch[8..BATCH_HEADER_BYTES]].concat());
        put(batch, 4, of_header);
        if number(batch, 12) > 0 {
            chain = u64::from(of_header) << 32 | u64::from(of_rows);
        }
        at += (BATCH_HEADER_BYTES + length).next_multiple_of(8);
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
