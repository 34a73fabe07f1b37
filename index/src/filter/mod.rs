//! A filter: is this key certainly not among those? In some 10.5 bits per key, and one cache miss.
//!
//! A split-block Bloom filter, as [Apache Parquet specifies it][parquet] (after Putze, Sanders and Singler, *Cache-,
//! Hash- and Space-Efficient Bloom Filters*): the upper half of a key's hash chooses one block of 256 bits, the lower
//! half one bit in each of its eight words. A key that was inserted is always found. Of those that were not, one in a
//! hundred is too, as long as there are no more keys than were expected. `index/FORMAT.md` describes every byte.
//!
//! Other than Parquet, keys are hashed by [`xxh3`] with a seed: with the seed of a [`HashIndex`](crate::HashIndex),
//! one hash serves both.
//!
//! # What it does not do
//!
//! No key can be taken out. It does not grow: beyond the expected keys it answers wrongly more and more often (see
//! [`FilterBuilder::new`]), though never a key that is there.
//!
//! [parquet]: https://parquet.apache.org/docs/file-format/bloomfilter/

mod encoding;

pub use encoding::FilterError;

use crate::xxh3;

/// Words of a block, and bits that each key sets in it.
const WORDS: usize = 8;

/// The multipliers that Parquet specifies.
const SALT: [u32; WORDS] =
    [0x47b6_137b, 0x4497_4d91, 0x8824_ad5b, 0xa2b7_289d, 0x7054_95c7, 0x2df1_424b, 0x9efc_4947, 0x5c6b_fb31];

const BLOCK_BYTES: usize = WORDS * size_of::<u32>();

/// Parquet's figure for a hundredth of wrong answers is 10.5 bits per key: 21 per two.
const BITS_PER_TWO_KEYS: u64 = 21;

/// 2 GiB: as many keys as 1.6 thousand million.
const BLOCKS_MAX: u32 = 1 << 26;

/// The number of blocks is such that halving it so many times leaves a whole number, if that rounds it up by an
/// eighth at most.
const HALVINGS: u32 = 6;

/// 256 bits, half a cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(align(32))]
struct Block([u32; WORDS]);

impl Block {
    const EMPTY: Self = Self([0; WORDS]);

    /// The block in which a hash sets its bits and no others.
    fn of(hash: u64) -> Self {
        // The lower half; the upper has chosen the block.
        let lower = hash as u32;
        Self(SALT.map(|salt| 1 << (lower.wrapping_mul(salt) >> 27)))
    }

    fn add(&mut self, other: &Self) {
        for (word, more) in self.0.iter_mut().zip(other.0) {
            *word |= more;
        }
    }

    fn holds(&self, other: &Self) -> bool {
        // All words, instead of stopping at the first: no branch to foretell.
        let missing = self.0.iter().zip(other.0).fold(0, |missing, (word, bits)| missing | (bits & !word));
        missing == 0
    }
}

/// Which of so many blocks a hash belongs to.
fn block_number(hash: u64, blocks: usize) -> usize {
    // Below 2^32 * 2^26, and the quotient below the number of blocks.
    (((hash >> 32) * blocks as u64) >> 32) as usize
}

/// Collects the keys of a [`Filter`].
///
/// ```
/// use paddock_index::{Filter, FilterBuilder};
///
/// let mut builder = FilterBuilder::new(2);
/// builder.insert(b"apple");
/// builder.insert(b"pear");
/// let bytes = builder.build().to_bytes();
///
/// let filter = Filter::from_bytes(&bytes)?;
/// assert!(filter.may_contain(b"apple"));
/// assert!(!filter.may_contain(b"plum"));
/// # Ok::<(), paddock_index::FilterError>(())
/// ```
#[derive(Clone, Debug)]
pub struct FilterBuilder {
    seed: u64,
    expected: u64,
    keys: u64,
    blocks: Vec<Block>,
}

impl FilterBuilder {
    /// For so many keys, hashed with the seed 0. It allocates 1.3 to 1.5 bytes for each at once.
    ///
    /// More keys than expected are no error, but of those that are not there it then finds about 15 in a hundred
    /// (twice as many as expected) or 67 (four times). If there are half as many or fewer, it is halved as often.
    #[must_use]
    pub fn new(expected_keys: u64) -> Self {
        Self::with_seed(expected_keys, 0)
    }

    /// For so many keys, hashed with a seed of yours. Who chooses keys cannot choose them to be found without it.
    #[must_use]
    pub fn with_seed(expected_keys: u64, seed: u64) -> Self {
        let bits = expected_keys.saturating_mul(BITS_PER_TWO_KEYS) / 2;
        let needed = bits.div_ceil(u64::from(u8::MAX) + 1).clamp(1, u64::from(BLOCKS_MAX));
        let unit = (0..=HALVINGS).map(|halvings| 1 << halvings).rfind(|unit| unit * 8 <= needed);
        // Both at most 2^26.
        let blocks = needed.next_multiple_of(unit.unwrap_or(1)) as usize;
        Self { seed, expected: expected_keys, keys: 0, blocks: vec![Block::EMPTY; blocks] }
    }

    /// Adds a key.
    pub fn insert(&mut self, key: &[u8]) {
        self.insert_hash(xxh3(self.seed, key));
    }

    /// Adds a key by its hash: what [`xxh3`] gives with this filter's seed. All 64 bits count.
    pub fn insert_hash(&mut self, hash: u64) {
        let number = block_number(hash, self.blocks.len());
        self.blocks[number].add(&Block::of(hash));
        self.keys += 1;
    }

    /// The filter, halved for as long as there are half as many keys as were expected, or fewer.
    #[must_use]
    pub fn build(mut self) -> Filter {
        while self.keys <= self.expected / 2 && self.blocks.len().is_multiple_of(2) {
            self.halve();
        }
        Filter { seed: self.seed, keys: self.keys, blocks: self.blocks.into() }
    }

    /// Half as many blocks. A hash that was in block 2n or 2n + 1 is in block n then, as `block_number` says.
    fn halve(&mut self) {
        self.expected /= 2;
        let half = self.blocks.len() / 2;
        for number in 0..half {
            let mut both = self.blocks[2 * number];
            both.add(&self.blocks[2 * number + 1]);
            self.blocks[number] = both;
        }
        self.blocks.truncate(half);
    }
}

/// Says of a key that it is certainly not among those that were inserted, or that it may be. See the
/// [module](self).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    seed: u64,
    keys: u64,
    blocks: Box<[Block]>,
}

impl Filter {
    /// Whether a key may have been inserted: `false` is certain.
    #[must_use]
    pub fn may_contain(&self, key: &[u8]) -> bool {
        self.may_contain_hash(xxh3(self.seed, key))
    }

    /// [`Self::may_contain`] for a key's hash: what [`xxh3`] gives with [this seed](Self::seed).
    #[must_use]
    pub fn may_contain_hash(&self, hash: u64) -> bool {
        self.blocks[block_number(hash, self.blocks.len())].holds(&Block::of(hash))
    }

    /// The seed that keys are hashed with.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// How many keys were inserted, one that was inserted twice counting twice.
    #[must_use]
    pub fn keys(&self) -> u64 {
        self.keys
    }

    /// Bytes of memory that it takes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.blocks)
    }

    /// How long [`Self::to_bytes`] is.
    #[must_use]
    pub fn encoded_length(&self) -> usize {
        encoding::HEADER_BYTES + self.blocks.len() * BLOCK_BYTES
    }

    /// Its bytes, as `index/FORMAT.md` describes them.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        encoding::encode(self)
    }

    /// The filter that [`Self::to_bytes`] was called for. It allocates no more than `bytes` have.
    ///
    /// # Errors
    ///
    /// [`FilterError`] for any other bytes, be it that a bit of them is another.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FilterError> {
        encoding::decode(bytes)
    }
}
