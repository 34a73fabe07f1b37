//! The filter: never misses a key, errs as rarely as it says, and its bytes are format 1 for ever.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use paddock_index::{Filter, FilterBuilder, FilterError, xxh3};
use proptest::collection::{hash_set, vec};
use proptest::prelude::*;

const HEADER_BYTES: usize = 64;

fn of(expected: u64, seed: u64, keys: impl Iterator<Item = u64>) -> Filter {
    let mut builder = FilterBuilder::with_seed(expected, seed);
    keys.for_each(|key| builder.insert(&key.to_be_bytes()));
    builder.build()
}

/// How many in a hundred of other keys are found.
fn wrong_percent(filter: &Filter) -> f64 {
    const LOOKS: u64 = 100_000;
    let found = (0..LOOKS).filter(|key| filter.may_contain(&(u64::MAX - key).to_be_bytes())).count();
    found as f64 * 100.0 / LOOKS as f64
}

#[test]
fn it_errs_as_rarely_as_it_says() {
    for keys in [100, 1000, 300_000] {
        let filter = of(keys, 7, 0..keys);
        let (wrong, bits) = (wrong_percent(&filter), filter.memory_bytes() as f64 * 8.0 / keys as f64);
        println!("{keys} keys: {wrong:.2} in a hundred, {bits:.1} bits per key");
        assert!(wrong < 1.3, "{wrong} in a hundred at {keys} keys");
        assert!(keys < 1000 || bits < 12.0, "{bits} bits per key at {keys} keys");
    }
    assert_eq!(wrong_percent(&of(0, 7, 0..0)), 0.0);
}

#[test]
fn it_is_as_large_as_its_keys_even_if_more_were_expected() {
    for keys in [12_500, 40_000, 51_000, 100_000] {
        let filter = of(100_000, 7, 0..keys);
        let (wrong, bits) = (wrong_percent(&filter), filter.memory_bytes() as f64 * 8.0 / keys as f64);
        println!("{keys} of 100000 keys: {wrong:.2} in a hundred, {bits:.1} bits per key");
        assert!(wrong < 1.3, "{wrong} in a hundred at {keys} keys");
        assert!(bits < 23.0, "{bits} bits per key at {keys} keys");
        assert!((0..keys).all(|key| filter.may_contain(&key.to_be_bytes())));
    }
    let filter = of(100_000, 7, 0..200_000);
    println!("twice as many keys as expected: {:.2} in a hundred", wrong_percent(&filter));
    println!("four times: {:.2}", wrong_percent(&of(100_000, 7, 0..400_000)));
    assert!(wrong_percent(&filter) < 18.0);
}

/// The specification once more, as literally as it can be written.
fn expected_blocks(hashes: &[u64], blocks: u64) -> Vec<u8> {
    const SALT: [u32; 8] =
        [0x47b6137b, 0x44974d91, 0x8824ad5b, 0xa2b7289d, 0x705495c7, 0x2df1424b, 0x9efc4947, 0x5c6bfb31];
    let mut bits = vec![0_u8; usize::try_from(blocks * 32).unwrap()];
    for hash in hashes {
        let block = ((hash >> 32) * blocks) >> 32;
        for (word, salt) in SALT.iter().enumerate() {
            let bit = ((*hash as u32).wrapping_mul(*salt) >> 27) as usize;
            bits[block as usize * 32 + word * 4 + bit / 8] |= 1 << (bit % 8);
        }
    }
    bits
}

proptest! {
    #[test]
    fn no_key_is_missed(keys in hash_set(vec(any::<u8>(), 0..12), 0..300), expected in 0..1000_u64, seed: u64) {
        let mut builder = FilterBuilder::with_seed(expected, seed);
        keys.iter().for_each(|key| builder.insert(key));
        let filter = builder.build();
        let read = Filter::from_bytes(&filter.to_bytes()).unwrap();
        prop_assert_eq!(&read, &filter);
        prop_assert_eq!((read.seed(), read.keys()), (seed, keys.len() as u64));
        for key in &keys {
            prop_assert!(read.may_contain(key) && read.may_contain_hash(xxh3(seed, key)));
        }
    }

    #[test]
    fn its_bits_are_those_of_the_specification(hashes in vec(any::<u64>(), 0..200), expected in 0..1000_u64) {
        let mut builder = FilterBuilder::new(expected);
        hashes.iter().for_each(|hash| builder.insert_hash(*hash));
        let bytes = builder.build().to_bytes();
        let blocks = u32::from_le_bytes(bytes[32..36].try_into().unwrap());
        prop_assert_eq!(&bytes[HEADER_BYTES..], expected_blocks(&hashes, blocks.into()));
    }

    #[test]
    fn other_bytes_are_refused(bytes in vec(any::<u8>(), 0..300), keys in 0..40_u64) {
        prop_assert!(Filter::from_bytes(&bytes).is_err());
        let ours = of(keys, 1, 0..keys).to_bytes();
        let length = bytes.len().min(ours.len());
        let spliced = [&ours[..ours.len() - length], &bytes[..length]].concat();
        prop_assert!(length == 0 || spliced == ours || Filter::from_bytes(&spliced).is_err());
    }
}

/// If this fails, the format has changed. See the end of FORMAT.md: that takes a new number and a new golden file.
#[test]
fn the_golden_file_is_read_and_would_be_written_again() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/format-1.filter");
    let now = of(400, 42, 0..400).to_bytes();
    let golden = fs::read(golden).unwrap_or_default();
    if golden != now {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("format-1.filter");
        fs::write(&path, now).unwrap();
        panic!("what is written today is not the golden file; it lies in {}", path.display());
    }
    let filter = Filter::from_bytes(&golden).unwrap();
    assert_eq!((filter.seed(), filter.keys()), (42, 400));
    assert!((0..400_u64).all(|key| filter.may_contain(&key.to_be_bytes())));
}

#[test]
fn every_flipped_bit_and_every_other_length_is_found() {
    let filter = of(100, 42, 0..100);
    let mut bytes = filter.to_bytes();
    assert_eq!(bytes.len(), filter.encoded_length());
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(matches!(Filter::from_bytes(&bytes), Err(FilterError::Corrupt { .. })), "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    for length in 0..bytes.len() {
        let expected = if length < HEADER_BYTES { HEADER_BYTES } else { bytes.len() } as u64;
        let refused = FilterError::Length { found: length as u64, expected };
        assert_eq!(Filter::from_bytes(&bytes[..length]), Err(refused));
    }
    bytes.push(0);
    assert!(matches!(Filter::from_bytes(&bytes), Err(FilterError::Length { .. })));
}

/// Sets a field of the header, and the CRC that goes with it.
fn with_header(mut bytes: Vec<u8>, offset: usize, field: &[u8]) -> Vec<u8> {
    bytes[offset..offset + field.len()].copy_from_slice(field);
    let crc = crc32fast::hash(&[&bytes[..12], &bytes[16..HEADER_BYTES]].concat());
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[test]
fn an_intact_header_that_cannot_be_is_refused_for_what_it_is() {
    let bytes = of(10, 1, 0..10).to_bytes();
    let newer = Filter::from_bytes(&with_header(bytes.clone(), 8, &2_u32.to_le_bytes()));
    assert_eq!(newer, Err(FilterError::Format { found: 2, supported: 1 }));
    for blocks in [0, (1 << 26) + 1, u32::MAX] {
        let wrong = Filter::from_bytes(&with_header(bytes.clone(), 32, &u32::to_le_bytes(blocks)));
        assert!(matches!(wrong, Err(FilterError::Corrupt { .. })), "{blocks}");
    }
    let much = Filter::from_bytes(&with_header(bytes.clone(), 32, &u32::to_le_bytes(1 << 26)));
    assert!(matches!(much, Err(FilterError::Length { expected, .. }) if expected == 64 + (32 << 26)));
    let not_zero = Filter::from_bytes(&with_header(bytes, 63, &[1]));
    assert!(matches!(not_zero, Err(FilterError::Corrupt { .. })));
}

/// Keys that collide under one seed do not under another.
#[test]
fn seeds_part_what_is_found_by_mistake() {
    let found = |seed| -> HashSet<u64> {
        let filter = of(1000, seed, 0..1000);
        (1000..50_000_u64).filter(|key| filter.may_contain(&key.to_be_bytes())).collect()
    };
    let (one, other) = (found(1), found(2));
    let both = one.intersection(&other).count();
    assert!(both * 10 < one.len(), "{both} of {} and {}", one.len(), other.len());
}
