//! Checkpoints of the hash index: what is written is format 1 for ever, and no damage passes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::convert::Infallible;
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

use paddock_index::{CheckpointError, HashIndex, PackedLocator};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

const PAGE_BYTES: usize = 4096;
const POSITION: u64 = 0x0123_4567_89ab_cdef;

/// 400 keys: a full page of entries and one that is not.
const KEYS: u32 = 400;

fn key(number: u32) -> String {
    format!("key {number}")
}

fn locator(number: u32) -> PackedLocator {
    PackedLocator::new(number % 7 * 1000, number.wrapping_mul(1_000_003), number * number).unwrap()
}

fn filled(keys: u32) -> HashIndex {
    let mut index = HashIndex::new(42);
    for number in 0..keys {
        let is_key = |found| Ok::<_, Infallible>(found == locator(number));
        index.insert(key(number).as_bytes(), locator(number), is_key).unwrap();
    }
    index
}

fn written(index: &HashIndex, position: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    index.reader().write_checkpoint(position, &mut bytes).unwrap();
    bytes
}

fn read(mut bytes: &[u8]) -> Result<(HashIndex, u64), CheckpointError> {
    HashIndex::read_checkpoint(&mut bytes)
}

fn assert_holds_all(index: &HashIndex, keys: u32) {
    assert_eq!(index.len(), keys as usize);
    for number in 0..keys {
        let is_key = |found| Ok::<_, Infallible>(found == locator(number));
        assert_eq!(index.get(key(number).as_bytes(), is_key).unwrap(), Some(locator(number)));
    }
}

/// If this fails, the format has changed. See the end of FORMAT.md: that takes a new number and a new golden file.
#[test]
fn the_golden_file_is_read_and_would_be_written_again() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/format-1.ckpt");
    let now = written(&filled(KEYS), POSITION);
    let golden = fs::read(golden).unwrap_or_default();
    if golden != now {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("format-1.ckpt");
        fs::write(&path, now).unwrap();
        panic!("what is written today is not the golden file; it lies in {}", path.display());
    }
    let (index, position) = read(&golden).unwrap();
    assert_eq!((position, index.reader().seed()), (POSITION, 42));
    assert_holds_all(&index, KEYS);
}

#[test]
fn indexes_of_any_size_come_back() {
    // A page holds 313 entries; from 1,024 keys on the table has grown.
    for keys in [0, 1, 312, 313, 314, 626, 1024, 1025, 5000] {
        let bytes = written(&filled(keys), u64::from(keys));
        assert_eq!(bytes.len(), PAGE_BYTES * (2 + (keys as usize).div_ceil(313)));
        let (index, position) = read(&bytes).unwrap();
        assert_eq!(position, u64::from(keys));
        assert_holds_all(&index, keys);
        assert_eq!(written(&index, position), bytes, "the order is the table's, not of its history");
    }
}

#[test]
fn every_flipped_bit_is_found() {
    let mut bytes = written(&filled(20), POSITION);
    for offset in 0..bytes.len() {
        for bit in 0..8 {
            bytes[offset] ^= 1 << bit;
            let page = (offset / PAGE_BYTES * PAGE_BYTES) as u64;
            match read(&bytes) {
                Err(CheckpointError::Corrupt { offset: found, .. }) if found == page => {}
                other => panic!("bit {bit} of byte {offset}: {other:?}"),
            }
            bytes[offset] ^= 1 << bit;
        }
    }
    assert!(read(&bytes).is_ok());
}

#[test]
fn every_truncation_is_found() {
    let bytes = written(&filled(KEYS), POSITION);
    for length in 0..bytes.len() {
        let page = (length / PAGE_BYTES * PAGE_BYTES) as u64;
        match read(&bytes[..length]) {
            Err(CheckpointError::Truncated { offset }) if offset == page => {}
            other => panic!("cut to {length}: {other:?}"),
        }
    }
}

#[test]
fn every_missing_doubled_exchanged_or_foreign_page_is_found() {
    let ours = written(&filled(KEYS), POSITION);
    let theirs = written(&filled(KEYS), POSITION + 1);
    let pages: Vec<&[u8]> = ours.chunks(PAGE_BYTES).collect();
    let corrupt = |pages: &[&[u8]]| matches!(read(&pages.concat()), Err(CheckpointError::Corrupt { .. }));
    for (number, page) in pages.iter().enumerate() {
        let mut doubled = pages.clone();
        doubled.insert(number, page);
        assert_eq!(corrupt(&doubled), number + 1 < pages.len(), "page {number} twice");
        if number + 1 < pages.len() {
            let mut missing = pages.clone();
            missing.remove(number);
            assert!(corrupt(&missing), "page {number} missing");
            let mut exchanged = pages.clone();
            exchanged.swap(number, number + 1);
            assert!(corrupt(&exchanged), "pages {number} and the next exchanged");
        }
        let mut foreign = pages.clone();
        foreign[number] = &theirs[number * PAGE_BYTES..][..PAGE_BYTES];
        assert!(corrupt(&foreign), "page {number} of another checkpoint");
        let mut zeroed = pages.clone();
        zeroed[number] = &[0; PAGE_BYTES];
        assert!(corrupt(&zeroed), "page {number} zeroed");
    }
}

/// Sets a field of the header, and the CRC that goes with it.
fn with_header(mut bytes: Vec<u8>, offset: usize, field: &[u8]) -> Vec<u8> {
    bytes[offset..offset + field.len()].copy_from_slice(field);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[..12]);
    crc.update(&bytes[16..64]);
    bytes[12..16].copy_from_slice(&crc.finalize().to_le_bytes());
    bytes
}

/// Gives each page the checksum of what it holds, and the header's.
fn sealed(bytes: Vec<u8>) -> Vec<u8> {
    let mut bytes = with_header(bytes, 0, b"");
    let mark: [u8; 4] = bytes[12..16].try_into().unwrap();
    for page in bytes.chunks_exact_mut(PAGE_BYTES).skip(1) {
        page[4..8].copy_from_slice(&mark);
        let crc = crc32fast::hash(&page[4..]);
        page[..4].copy_from_slice(&crc.to_le_bytes());
    }
    bytes
}

proptest! {
    /// Whatever stands under checksums that are right: it is read or refused, and there is no third way.
    #[test]
    fn forged_checkpoints_are_read_or_refused(
        keys in 0..700_u32,
        changes in vec((any::<Index>(), vec(any::<u8>(), 1..20)), 1..6),
    ) {
        let mut bytes = written(&filled(keys), POSITION);
        for (at, change) in changes {
            // Most of them where they do not only break the zeros that must be there.
            let at = at.index(bytes.len());
            let at = if at % 3 == 0 { at } else { at % 80 + at / PAGE_BYTES * PAGE_BYTES };
            let end = bytes.len().min(at + change.len());
            bytes[at..end].copy_from_slice(&change[..end - at]);
        }
        if let Ok((index, _)) = read(&sealed(bytes)) {
            prop_assert_eq!(index.locators().count(), index.len());
        }
    }
}

#[test]
fn an_intact_header_that_cannot_be_is_refused_for_what_it_is() {
    let bytes = written(&filled(KEYS), POSITION);
    let newer = with_header(bytes.clone(), 8, &2_u32.to_le_bytes());
    assert!(matches!(read(&newer), Err(CheckpointError::Format { found: 2, supported: 1 })));
    let other_seed = with_header(bytes.clone(), 16, &43_u64.to_le_bytes());
    assert!(matches!(read(&other_seed), Err(CheckpointError::HashFunction)));
    for buckets in [0, 255, (1 << 30) + 1, u32::MAX] {
        let wrong = with_header(bytes.clone(), 48, &u32::to_le_bytes(buckets));
        assert!(matches!(read(&wrong), Err(CheckpointError::Corrupt { offset: 0, .. })), "{buckets}");
    }
    let other_function = HashIndex::read_checkpoint_with_hash(&mut bytes.as_slice(), |_, _| 0);
    assert!(matches!(other_function, Err(CheckpointError::HashFunction)));
}

/// The counts of a header are not believed: memory comes with entries.
#[test]
fn a_header_that_promises_much_allocates_nothing_for_it() {
    let mut bytes = Vec::new();
    HashIndex::new(42).reader().write_checkpoint(1, &mut bytes).unwrap();
    let much = with_header(bytes, 40, &u64::MAX.to_le_bytes());
    let much = with_header(much, 48, &u32::to_le_bytes(1 << 30));
    // The end page belongs to the header's CRC: give it the new one, and its own.
    let mut end = much[PAGE_BYTES..].to_vec();
    end[4..8].copy_from_slice(&much[12..16]);
    let crc = crc32fast::hash(&end[4..]);
    end[..4].copy_from_slice(&crc.to_le_bytes());
    let (index, _) = read(&[&much[..PAGE_BYTES], &end].concat()).unwrap();
    assert!(index.is_empty());
    assert!(index.memory_bytes() < 100_000, "{} bytes", index.memory_bytes());
}

/// Entries that lie far apart would each take a block of their own: they are packed instead.
#[test]
fn few_entries_in_many_buckets_take_little_memory() {
    let bytes = written(&filled(KEYS), POSITION);
    let sparse = sealed(with_header(bytes, 48, &u32::to_le_bytes(1 << 30)));
    let (index, _) = read(&sparse).unwrap();
    assert_holds_all(&index, KEYS);
    assert!(index.memory_bytes() < 20_000_000, "{} bytes", index.memory_bytes());
}

#[test]
fn what_follows_the_end_page_is_left_alone() {
    let mut bytes = written(&filled(KEYS), POSITION);
    bytes.extend_from_slice(b"more");
    let mut rest = bytes.as_slice();
    HashIndex::read_checkpoint(&mut rest).unwrap();
    assert_eq!(rest, b"more");
}

/// Entries of files that have gone are left out, others are pointed elsewhere, and the total still counts them all.
#[test]
fn a_load_keeps_what_it_is_told_to() {
    let bytes = written(&filled(5000), POSITION);
    let kept = |found: PackedLocator| (found.file() != 1000).then_some(found);
    let moved = |found: PackedLocator| PackedLocator::new(found.file() + 1, found.offset(), 40).unwrap();
    let keep = |found| kept(found).map(moved);
    let (index, position) = HashIndex::read_checkpoint_keeping(&mut bytes.as_slice(), keep).unwrap();
    assert_eq!(position, POSITION);
    for number in 0..5000 {
        let expected = keep(locator(number));
        let is_key = |found| Ok::<_, Infallible>(Some(found) == expected);
        assert_eq!(index.get(key(number).as_bytes(), is_key).unwrap(), expected);
    }
    assert_eq!(index.len(), (0..5000).filter(|number| number % 7 != 1).count());
    let (index, _) = HashIndex::read_checkpoint_keeping(&mut bytes.as_slice(), |_| None).unwrap();
    assert!(index.is_empty());
    let cut = HashIndex::read_checkpoint_keeping(&mut &bytes[..bytes.len() - 1], |_| None);
    assert!(matches!(cut, Err(CheckpointError::Truncated { .. })));
}

/// Fails at the n-th call.
struct Failing {
    calls_left: usize,
}

impl Failing {
    fn call(&mut self) -> io::Result<()> {
        self.calls_left = self.calls_left.checked_sub(1).ok_or_else(|| io::Error::other("no disk"))?;
        Ok(())
    }
}

impl Write for Failing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.call().map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.call()
    }
}

#[test]
fn errors_of_the_disk_come_through() {
    let index = filled(KEYS);
    for calls_left in 0..4 {
        let result = index.reader().write_checkpoint(0, &mut Failing { calls_left });
        assert!(matches!(result, Err(CheckpointError::Io(error)) if error.to_string() == "no disk"));
    }
    assert!(index.reader().write_checkpoint(0, &mut Failing { calls_left: 4 }).is_ok());
    struct Unreadable;
    impl Read for Unreadable {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("no disk"))
        }
    }
    assert!(matches!(HashIndex::read_checkpoint(&mut Unreadable), Err(CheckpointError::Io(_))));
}
