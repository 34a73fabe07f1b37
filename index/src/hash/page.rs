//! The pages of a checkpoint: `index/FORMAT.md` in code.

use super::key_hash::KeyHash;
use crate::locator::PackedLocator;

/// Every page has this length.
pub(super) const PAGE_BYTES: usize = 4096;

/// The newest format, and the only one so far.
pub(super) const FORMAT: u32 = 1;

const MAGIC: &[u8; 8] = b"PDKHASHI";

/// The part of the header page that keeps its shape in every format.
const PREFIX_BYTES: usize = 64;

/// Where the entries of a page begin.
const BODY: usize = 16;

/// Five bytes of hash, eight of locator.
const ENTRY_BYTES: usize = 13;
const HASH_BYTES: usize = 5;

/// How many entries a page has room for.
pub(super) const ENTRIES_MAX: usize = (PAGE_BYTES - BODY) / ENTRY_BYTES;

const KIND_ENTRIES: u16 = 1;
const KIND_END: u16 = 2;

/// A page's bytes.
pub(super) type Page = [u8; PAGE_BYTES];

static ZERO: Page = [0; PAGE_BYTES];

/// What the header page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) seed: u64,
    /// What the hash function gives for [`PROOF_KEY`].
    pub(super) proof: u64,
    pub(super) position: u64,
    pub(super) keys: u64,
    pub(super) buckets: u32,
}

/// The key by whose hash a reader knows that it has the right function.
pub(super) const PROOF_KEY: &[u8] = b"paddock";

/// Why a header page is refused.
pub(super) enum BadHeader {
    Damaged(&'static str),
    Format(u32),
}

/// What a page after the header says.
pub(super) enum Content {
    Entries(Vec<(KeyHash, PackedLocator)>),
    /// How many entries there were in all.
    End(u64),
}

/// The header's CRC, which the other pages carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark(u32);

pub(super) fn encode_header(header: &Header) -> (Page, Mark) {
    let mut page = [0; PAGE_BYTES];
    put(&mut page, 0, MAGIC);
    put(&mut page, 8, &FORMAT.to_le_bytes());
    put(&mut page, 16, &header.seed.to_le_bytes());
    put(&mut page, 24, &header.proof.to_le_bytes());
    put(&mut page, 32, &header.position.to_le_bytes());
    put(&mut page, 40, &header.keys.to_le_bytes());
    put(&mut page, 48, &header.buckets.to_le_bytes());
    let mark = header_crc(&page);
    put(&mut page, 12, &mark.to_le_bytes());
    (page, Mark(mark))
}

pub(super) fn decode_header(page: &Page) -> Result<(Header, Mark), BadHeader> {
    if &page[..8] != MAGIC {
        return Err(BadHeader::Damaged("it does not begin as a checkpoint does"));
    }
    let mark = header_crc(page);
    if u32_at(page, 12) != mark {
        return Err(BadHeader::Damaged("the header's checksum is wrong"));
    }
    // The format after the checksum: only an intact header can be of another one.
    if u32_at(page, 8) != FORMAT {
        return Err(BadHeader::Format(u32_at(page, 8)));
    }
    if page[52..] != ZERO[52..] {
        return Err(BadHeader::Damaged("the header is not zero where it must be"));
    }
    let header = Header {
        seed: u64_at(page, 16),
        proof: u64_at(page, 24),
        position: u64_at(page, 32),
        keys: u64_at(page, 40),
        buckets: u32_at(page, 48),
    };
    Ok((header, Mark(mark)))
}

pub(super) fn encode_entries(mark: Mark, number: u32, entries: &[(KeyHash, PackedLocator)]) -> Page {
    let mut page = [0; PAGE_BYTES];
    for (slot, (hash, locator)) in page[BODY..].chunks_exact_mut(ENTRY_BYTES).zip(entries) {
        slot[..HASH_BYTES].copy_from_slice(&hash.to_bits().to_le_bytes()[..HASH_BYTES]);
        slot[HASH_BYTES..].copy_from_slice(&locator.to_bits().to_le_bytes());
    }
    // At most 313: the caller fills no page further.
    seal(page, mark, number, KIND_ENTRIES, entries.len() as u16)
}

pub(super) fn encode_end(mark: Mark, number: u32, entries: u64) -> Page {
    let mut page = [0; PAGE_BYTES];
    put(&mut page, BODY, &entries.to_le_bytes());
    seal(page, mark, number, KIND_END, 0)
}

fn seal(mut page: Page, mark: Mark, number: u32, kind: u16, count: u16) -> Page {
    put(&mut page, 4, &mark.0.to_le_bytes());
    put(&mut page, 8, &number.to_le_bytes());
    put(&mut page, 12, &kind.to_le_bytes());
    put(&mut page, 14, &count.to_le_bytes());
    let crc = crc32fast::hash(&page[4..]);
    put(&mut page, 0, &crc.to_le_bytes());
    page
}

/// Reads a page that must be this one, or says what is wrong with it.
pub(super) fn decode(page: &Page, mark: Mark, number: u32) -> Result<Content, &'static str> {
    if u32_at(page, 0) != crc32fast::hash(&page[4..]) {
        return Err("the page's checksum is wrong");
    }
    if (u32_at(page, 4), u32_at(page, 8)) != (mark.0, number) {
        return Err("the page belongs elsewhere");
    }
    let (kind, count) = (u16_at(page, 12), usize::from(u16_at(page, 14)));
    let (content, end) = match (kind, count) {
        (KIND_ENTRIES, 1..=ENTRIES_MAX) => {
            let end = BODY + count * ENTRY_BYTES;
            (Content::Entries(decode_entries(&page[BODY..end])?), end)
        }
        (KIND_END, 0) => (Content::End(u64_at(page, BODY)), BODY + size_of::<u64>()),
        _ => return Err("the page is of no known kind"),
    };
    if page[end..] != ZERO[end..] {
        return Err("the page is not zero where it must be");
    }
    Ok(content)
}

fn decode_entries(bytes: &[u8]) -> Result<Vec<(KeyHash, PackedLocator)>, &'static str> {
    let decode_entry = |bytes: &[u8]| {
        let (hash, locator) = bytes.split_at(HASH_BYTES);
        let locator = PackedLocator::from_bits(number(locator)).map_err(|_| "a locator is none")?;
        Ok((KeyHash::new(number(hash)), locator))
    };
    bytes.chunks_exact(ENTRY_BYTES).map(decode_entry).collect()
}

fn header_crc(page: &Page) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&page[..12]);
    crc.update(&page[16..PREFIX_BYTES]);
    crc.finalize()
}

fn put(page: &mut Page, offset: usize, bytes: &[u8]) {
    page[offset..offset + bytes.len()].copy_from_slice(bytes);
}

fn u16_at(page: &Page, offset: usize) -> u16 {
    // The casts keep exactly the bytes that were read.
    number(&page[offset..offset + 2]) as u16
}

fn u32_at(page: &Page, offset: usize) -> u32 {
    number(&page[offset..offset + 4]) as u32
}

fn u64_at(page: &Page, offset: usize) -> u64 {
    number(&page[offset..offset + 8])
}

/// A little-endian number of up to 8 bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
