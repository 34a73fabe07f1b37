//! Which key comes next: uniform, zipfian or latest, from seeded random numbers.

/// YCSB's skew.
pub const ZIPFIAN_SKEW: f64 = 0.99;

/// Random numbers that are the same for the same seed (splitmix64).
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// A sequence of its own for each seed.
    pub fn new(seed: u64) -> Random {
        Random { state: mix(seed) }
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// One below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        // The high half of a wide product: as good as a remainder, without a division.
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    /// One in 0..1.
    pub fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Spreads numbers over all of u64; no two give the same.
pub fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Ranks with the probability of rank r proportional to 1 / (r + 1)^0.99, as YCSB draws them ("Quickly generating
/// billion-record synthetic databases", Gray et al., 1994).
#[derive(Clone, Debug)]
pub struct Zipfian {
    items: u64,
    zeta: f64,
    alpha: f64,
    eta: f64,
}

impl Zipfian {
    /// Over ranks below `items`, of which there must be two or more. Takes time proportional to it.
    pub fn new(items: u64) -> Zipfian {
        let zeta_of = |items: u64| (1..=items).map(|rank| (rank as f64).powf(-ZIPFIAN_SKEW)).sum::<f64>();
        let zeta = zeta_of(items);
        let eta = (1.0 - (2.0 / items as f64).powf(1.0 - ZIPFIAN_SKEW)) / (1.0 - zeta_of(2) / zeta);
        Zipfian { items, zeta, alpha: 1.0 / (1.0 - ZIPFIAN_SKEW), eta }
    }

    /// The next rank; 0 is the most frequent one.
    pub fn rank(&self, random: &mut Random) -> u64 {
        let fraction = random.fraction();
        let scaled = fraction * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5_f64.powf(ZIPFIAN_SKEW) {
            return 1;
        }
        let rank = self.items as f64 * (self.eta * fraction - self.eta + 1.0).powf(self.alpha);
        (rank as u64).min(self.items - 1)
    }
}

/// How keys are chosen among those that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// All alike.
    Uniform,
    /// Some much more often, spread over the whole order of keys.
    Zipfian,
    /// The more often the later they were inserted.
    Latest,
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: u64 = 200_000;
    const ITEMS: u64 = 1_000;

    fn zipfian_counts(seed: u64) -> Vec<u64> {
        let (zipfian, mut random) = (Zipfian::new(ITEMS), Random::new(seed));
        let mut counts = vec![0; ITEMS as usize];
        for _ in 0..DRAWS {
            counts[zipfian.rank(&mut random) as usize] += 1;
        }
        counts
    }

    #[test]
    fn zipfian_ranks_have_their_probabilities() {
        let counts = zipfian_counts(7);
        let zeta: f64 = (1..=ITEMS).map(|rank| (rank as f64).powf(-ZIPFIAN_SKEW)).sum();
        // Ranks 0 and 1 are exact in this method; the tail is an approximation.
        for rank in [0_usize, 1] {
            let expected = DRAWS as f64 / ((rank + 1) as f64).powf(ZIPFIAN_SKEW) / zeta;
            assert!((counts[rank] as f64 / expected - 1.0).abs() < 0.05, "{rank}: {}", counts[rank]);
        }
        let head: u64 = counts[..100].iter().sum();
        let expected: f64 = (1..=100).map(|rank| f64::from(rank).powf(-ZIPFIAN_SKEW)).sum::<f64>() / zeta;
        assert!((head as f64 / DRAWS as f64 - expected).abs() < 0.03, "{head}");
        assert!(counts[500..].iter().sum::<u64>() > 0);
    }

    #[test]
    fn a_seed_gives_the_same_numbers_and_another_one_others() {
        assert_eq!(zipfian_counts(1), zipfian_counts(1));
        assert_ne!(zipfian_counts(1), zipfian_counts(2));
    }

    #[test]
    fn uniform_numbers_reach_every_item_alike() {
        let mut random = Random::new(3);
        let mut counts = [0_u32; 10];
        for _ in 0..DRAWS {
            counts[random.below(10) as usize] += 1;
        }
        for count in counts {
            assert!((f64::from(count) / (DRAWS as f64 / 10.0) - 1.0).abs() < 0.05, "{counts:?}");
        }
    }
}
