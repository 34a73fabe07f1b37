//! What the index crate reads: checkpoints of a hash index, and filters.

use paddock_index::{Filter, FilterBuilder, HashIndex, PackedLocator};

use super::repair;

/// A checkpoint, as the index crate writes it.
pub fn hash_index(mut input: &[u8]) {
    let Ok((index, position)) = HashIndex::read_checkpoint(&mut input) else { return };
    assert_eq!(index.locators().count(), index.len());
    // What is taken can be written, and is then the same.
    let mut bytes = Vec::new();
    index.reader().write_checkpoint(position, &mut bytes).unwrap();
    let (again, position_again) = HashIndex::read_checkpoint(&mut &bytes[..]).unwrap();
    let sorted = |index: &HashIndex| {
        let mut locators: Vec<u64> = index.locators().map(PackedLocator::to_bits).collect();
        locators.sort_unstable();
        locators
    };
    assert_eq!((position_again, sorted(&again)), (position, sorted(&index)));
}

pub fn hash_index_seeds() -> Vec<Vec<u8>> {
    let checkpoint = |keys: u32| {
        let mut index = HashIndex::new(7);
        for key in 0..keys {
            let place = PackedLocator::new(key % 3, key * 8, 100).unwrap();
            index.insert(&key.to_le_bytes(), place, |_| Ok::<_, ()>(false)).unwrap();
        }
        let mut bytes = Vec::new();
        index.reader().write_checkpoint(keys.into(), &mut bytes).unwrap();
        bytes
    };
    let golden = include_bytes!("../../index/tests/golden/format-1.ckpt").to_vec();
    [0, 1, 50].map(checkpoint).into_iter().chain([golden]).collect()
}

/// The first byte: whether checksums are made right; then a filter.
pub fn filter(input: &[u8]) {
    let Some((&repaired, bytes)) = input.split_first() else { return };
    let mut bytes = bytes.to_vec();
    if repaired & 1 == 1 {
        repair::filter(&mut bytes);
    }
    let Ok(filter) = Filter::from_bytes(&bytes) else { return };
    assert_eq!(filter.to_bytes(), bytes);
    for key in [&b""[..], b"key", &bytes] {
        let _ = filter.may_contain(key);
    }
}

pub fn filter_seeds() -> Vec<Vec<u8>> {
    let filter = |keys: u32| {
        let mut filter = FilterBuilder::with_seed(keys.into(), 9);
        (0..keys).for_each(|key| filter.insert(&key.to_le_bytes()));
        filter.build().to_bytes()
    };
    let golden = include_bytes!("../../index/tests/golden/format-1.filter").to_vec();
    let seeds = [0, 1, 200].map(filter).into_iter().chain([golden]);
    seeds.flat_map(|bytes| [0, 1].map(|repaired| [&[repaired], &bytes[..]].concat())).collect()
}
