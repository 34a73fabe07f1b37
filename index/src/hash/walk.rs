//! Walking all entries, while the writer goes on.
//!
//! The table is walked in groups: one for each bucket that there was when the walk began, together with the
//! buckets that growth has parted from it since. Entries move within their group only, so what the table does
//! meanwhile can hide no key from the walk and show none twice. One group is taken as a whole: if the state
//! changed while it was read, it is read again.

use super::key_hash::KeyHash;
use super::state::{BUCKETS_MIN, State};
use super::table::Table;
use crate::locator::PackedLocator;

/// The entries of the table, group by group.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    table: &'a Table,
    /// The state when the walk began, whose buckets are the groups.
    begun: State,
    next_group: u32,
    /// The entries of one group that were not given yet.
    entries: Vec<(KeyHash, PackedLocator)>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(table: &'a Table) -> Self {
        Self { table, begun: table.state.load(), next_group: 0, entries: Vec::new() }
    }

    /// How many buckets there were when the walk began.
    pub(super) fn buckets(&self) -> u32 {
        self.begun.buckets()
    }

    /// The entries of one group, without those of others that were not given yet.
    #[cfg(test)]
    pub(super) fn group(&mut self, group: u32) -> impl Iterator<Item = (KeyHash, PackedLocator)> + '_ {
        self.read_group(group);
        self.entries.drain(..)
    }

    fn read_group(&mut self, group: u32) {
        loop {
            let before = self.table.state.load();
            self.entries.clear();
            for bucket in members(group, self.begun.buckets(), before.buckets()) {
                let chain = self.table.chain(bucket).flat_map(|(_, bucket)| bucket.entries());
                let entries = chain.map(|(_, tag, locator)| (KeyHash::of_entry(bucket, tag), locator));
                // Those that growth has copied elsewhere and not erased yet are taken there: it may be another
                // group, if the walk began between the two.
                self.entries.extend(entries.filter(|(hash, _)| before.home(*hash) == bucket));
            }
            if self.table.state.load() == before {
                break;
            }
        }
        // Between copying and erasing, an entry may stand in two places of its chain.
        self.entries.sort_unstable();
        self.entries.dedup();
    }
}

impl Iterator for Walk<'_> {
    type Item = (KeyHash, PackedLocator);

    fn next(&mut self) -> Option<Self::Item> {
        while self.entries.is_empty() && self.next_group < self.begun.buckets() {
            self.read_group(self.next_group);
            self.next_group += 1;
        }
        self.entries.pop()
    }
}

/// A bucket and all that were parted from it, directly or not, as the table grew from `begun` to `now` buckets.
fn members(group: u32, begun: u32, now: u32) -> Vec<u32> {
    let mut members = vec![group];
    let mut next = 0;
    while let Some(bucket) = members.get(next).copied() {
        next += 1;
        // A bucket is parted once in every round that begins after it was made.
        let rounds = (0..u32::BITS).map(|level| 1_u64 << level);
        let children = rounds
            .filter(|round| *round > u64::from(bucket) && *round >= u64::from(BUCKETS_MIN))
            .map(|round| u64::from(bucket) + round);
        members.extend(
            children
                .filter(|child| (u64::from(begun)..u64::from(now)).contains(child))
                .filter_map(|child| u32::try_from(child).ok()),
        );
    }
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the table grew to, each bucket is in exactly one group.
    #[test]
    fn groups_part_the_table() {
        for begun in [256, 257, 400, 511, 512, 700] {
            for now in [begun, begun + 1, 512, 1024, 1500, 5000] {
                let mut all: Vec<u32> =
                    (0..begun).flat_map(|group| members(group, begun, now.max(begun))).collect();
                all.sort_unstable();
                assert_eq!(all, (0..now.max(begun)).collect::<Vec<_>>(), "from {begun} to {now}");
            }
        }
    }

    /// The group of a bucket is where growth puts its keys.
    #[test]
    fn keys_stay_in_their_group() {
        let (begun, now) = (300, 3000);
        let state = |buckets| crate::hash::state::SharedState::new(buckets).load();
        for number in 0..2000_u64 {
            let hash = KeyHash::new(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let group = state(begun).home(hash);
            assert!(members(group, begun, now).contains(&state(now).home(hash)));
        }
    }
}
