//! [`Spread`]: how values are spread, roughly, the newer ones counting more.

/// Each doubling of a value has so many buckets: a value is known within a fifth or so.
const BUCKETS_PER_DOUBLING: u32 = 4;
const BUCKETS: usize = 64 * BUCKETS_PER_DOUBLING as usize;
/// When there are so many values, all count half from then on.
const COUNT_MAX: u64 = 8_192;

/// Counts of values, by their size.
#[derive(Debug)]
pub(super) struct Spread {
    counts: Vec<u64>,
    count: u64,
}

impl Default for Spread {
    fn default() -> Self {
        Spread { counts: vec![0; BUCKETS], count: 0 }
    }
}

impl Spread {
    /// One more value.
    pub(super) fn add(&mut self, value: u64) {
        if let Some(count) = self.counts.get_mut(bucket(value)) {
            *count += 1;
            self.count += 1;
        }
        if self.count >= COUNT_MAX {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.count = self.counts.iter().sum();
        }
    }

    /// How many values count.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// A value that so many percent of all do not exceed; `None`: there are none.
    pub(super) fn percentile(&self, percent: u64) -> Option<u64> {
        let needed = (self.count * percent).div_ceil(100).max(1);
        let mut seen = 0;
        let found = self.counts.iter().position(|count| {
            seen += count;
            seen >= needed
        });
        found.map(end)
    }
}

fn bucket(value: u64) -> usize {
    let value = value.max(1);
    let doublings = value.ilog2();
    // The two bits after the first one.
    let quarter = if doublings < 2 { 0 } else { (value >> (doublings - 2)) & 3 };
    doublings as usize * BUCKETS_PER_DOUBLING as usize + usize::try_from(quarter).unwrap_or(0)
}

/// The largest value of a bucket.
fn end(bucket: usize) -> u64 {
    let (doublings, quarter) = (bucket as u64 / 4, bucket as u64 % 4);
    let end = (u128::from(quarter) + 5) << doublings >> 2;
    u64::try_from(end - 1).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_is_in_a_bucket_that_ends_less_than_a_quarter_above_it() {
        for value in (4..5_000).chain([1 << 20, (1 << 20) - 1, u64::MAX / 3, u64::MAX]) {
            let end = end(bucket(value));
            assert!(end >= value && end - value <= value / 4, "{value}: {end}");
        }
    }

    #[test]
    fn percentiles_are_those_of_what_was_added_lately() {
        let mut spread = Spread::default();
        assert_eq!(spread.percentile(99), None);
        for value in 1..=1_000 {
            spread.add(value * 1_000);
        }
        for percent in [1, 50, 90, 99, 100] {
            let found = spread.percentile(percent).expect("there are some");
            assert!(found >= percent * 10_000 && found <= percent * 12_500, "{percent}: {found}");
        }
        for _ in 0..100_000 {
            spread.add(7);
        }
        assert_eq!(spread.percentile(99), Some(7), "what was long ago is forgotten");
        assert!(spread.count() < COUNT_MAX);
    }
}
