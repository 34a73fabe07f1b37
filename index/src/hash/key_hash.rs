//! From a key to the 40 bits of its hash that the index keeps.

use twox_hash::XxHash3_64;

/// A hash function: the same key and seed must give the same hash for ever, in every process and version,
/// because checkpoints are read by it. All 64 bits should depend on all of the key; the lowest 40 are used.
pub type HashFunction = fn(seed: u64, key: &[u8]) -> u64;

/// XXH3, 64 bits, with a seed: the hash function of an index that is given no other.
///
/// Its output is fixed by the published algorithm, on every platform. The seed is there so that who chooses the
/// keys cannot choose them to collide without knowing it; it is no secret-keyed cryptographic hash.
#[must_use]
pub fn xxh3(seed: u64, key: &[u8]) -> u64 {
    XxHash3_64::oneshot_with_seed(seed, key)
}

/// Bits of the hash that a bucket's number always tells, because there are never fewer than 2^8 buckets.
pub(super) const PLACE_BITS: u32 = 8;

/// Bits of the hash that the entry keeps.
const TAG_BITS: u32 = u32::BITS;

/// The most doublings of the table that these bits can serve.
pub(super) const HASH_BITS: u32 = PLACE_BITS + TAG_BITS;

/// The part of a key's hash that the index keeps: 40 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KeyHash(u64);

impl KeyHash {
    /// Of 64 bits the lowest 40.
    pub(super) fn new(hash: u64) -> Self {
        Self(hash & ((1 << HASH_BITS) - 1))
    }

    /// Puts together again what a bucket and an entry in its chain keep.
    pub(super) fn of_entry(bucket: u32, tag: Tag) -> Self {
        Self(u64::from(bucket) & ((1 << PLACE_BITS) - 1) | u64::from(tag.0) << PLACE_BITS)
    }

    pub(super) fn tag(self) -> Tag {
        // 40 bits less 8 are 32.
        Tag((self.0 >> PLACE_BITS) as u32)
    }

    pub(super) fn to_bits(self) -> u64 {
        self.0
    }
}

/// The part of a hash that stands in the entry: the 32 bits above the lowest 8. It holds every bit by which
/// the table will ever be grown, so growth reads no row; what growth has not used yet tells keys apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag(u32);

impl Tag {
    pub(super) fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    pub(super) fn to_bits(self) -> u32 {
        self.0
    }

    /// A bit of the whole hash, by its number there: at least [`PLACE_BITS`], below [`HASH_BITS`].
    pub(super) fn hash_bit(self, number: u32) -> bool {
        self.0 >> (number - PLACE_BITS) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published test vectors of XXH3: the function that checkpoints were written by.
    #[test]
    fn the_hash_function_is_the_published_one() {
        assert_eq!(xxh3(0, b""), 0x2d06_8005_38d3_94c2);
        assert_eq!(xxh3(0, b"a"), 0xe6c6_32b6_1e96_4e1f);
        assert_eq!(xxh3(0, b"abc"), 0x78af_5f94_892f_3950);
        assert_ne!(xxh3(1, b"abc"), xxh3(0, b"abc"));
    }

    #[test]
    fn a_bucket_and_a_tag_hold_the_hash() {
        let hash = KeyHash::new(0x1234_5678_9abc_def0);
        assert_eq!(hash.to_bits(), 0x0078_9abc_def0);
        // Bucket numbers above the lowest 8 bits are bits of the tag too.
        assert_eq!(KeyHash::of_entry(0xdef0, hash.tag()), hash);
        assert!(hash.tag().hash_bit(12) && !hash.tag().hash_bit(8));
    }
}
