//! Numbers that look random, and are the same for the same seed: SplitMix64.

/// A source of numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The numbers of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below the limit; 0 where the limit is.
    pub fn below(&mut self, limit: u64) -> u64 {
        // The high bits, so that a limit that divides nothing evenly hardly shows.
        let scaled = (u128::from(self.any()) * u128::from(limit)) >> 64;
        u64::try_from(scaled).unwrap_or(0)
    }

    /// An index into so many things.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or(0)
    }

    /// A number from the first to the last, both included.
    pub fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last.saturating_sub(first) + 1)
    }

    /// True so many times in a thousand.
    pub fn per_mille(&mut self, times: u64) -> bool {
        self.below(1_000) < times
    }

    /// One of several things.
    pub fn one_of<T: Copy>(&mut self, things: &[T]) -> Option<T> {
        let index = self.index(things.len());
        things.get(index).copied()
    }

    /// 128 bits.
    pub fn any_wide(&mut self) -> u128 {
        (u128::from(self.any()) << 64) | u128::from(self.any())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_published_numbers_of_splitmix64() {
        let mut random = Random::new(1_234_567);
        let numbers: Vec<u64> = (0..3).map(|_| random.any()).collect();
        assert_eq!(
            numbers,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn numbers_keep_to_their_bounds_and_reach_them() {
        let mut random = Random::new(1);
        let numbers: Vec<u64> = (0..1_000).map(|_| random.between(3, 5)).collect();
        assert_eq!((numbers.iter().min(), numbers.iter().max()), (Some(&3), Some(&5)));
        assert_eq!(random.below(0), 0);
        assert_eq!(random.one_of::<u8>(&[]), None);
    }
}
