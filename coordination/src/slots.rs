//! Which slot a key falls into, and which partition a slot belongs to.
//!
//! slot = CRC16/XMODEM(hashed part of the key) mod 16,384: Redis Cluster's published function. The hashed
//! part is the key, or, where the key has a `{hash tag}`, only the tag: so `{user1000}.following` and
//! `{user1000}.followers` lie in one partition. The tag is what stands between the first `{` and the first
//! `}` after it; an empty one (`foo{}{bar}`) counts as none.
//!
//! The function is stable for ever: it is part of where the data lies.

use std::fmt;

use crc::{CRC_16_XMODEM, Crc, Table};

use crate::ids::PartitionId;
use crate::records::{SlotRange, SlotTable};

/// How many slots there are.
pub const SLOT_COUNT: u16 = 16_384;

/// The last slot.
const SLOT_LAST: u16 = SLOT_COUNT - 1;

/// Eight bytes at a time: a key is hashed on every request.
const CRC16: Crc<u16, Table<16>> = Crc::<u16, Table<16>>::new(&CRC_16_XMODEM);

/// A slot, 0..=16,383.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u16);

impl Slot {
    /// The slot of a key.
    #[must_use]
    pub fn of(key: &[u8]) -> Slot {
        Slot(CRC16.checksum(hashed_part(key)) % SLOT_COUNT)
    }

    /// The slot of this number; `None` from 16,384 on.
    #[must_use]
    pub fn new(number: u16) -> Option<Slot> {
        (number < SLOT_COUNT).then_some(Slot(number))
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The part of a key that decides its slot: its hash tag, or the whole key where it has none.
#[must_use]
pub fn hashed_part(key: &[u8]) -> &[u8] {
    let tag = || {
        let open = key.iter().position(|byte| *byte == b'{')?;
        let after = key.get(open + 1..)?;
        let close = after.iter().position(|byte| *byte == b'}')?;
        after.get(..close).filter(|tag| !tag.is_empty())
    };
    tag().unwrap_or(key)
}

/// Why a slot table cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SlotsError {
    /// Each partition needs at least one slot, and somebody must hold them.
    #[error("a cluster has 1 to {SLOT_COUNT} partitions, not {partitions}")]
    PartitionCount {
        /// How many were asked for.
        partitions: u32,
    },
    /// A range that ends before it begins, or beyond the last slot.
    #[error("slots {first} to {last} are no range within 0 to {SLOT_LAST}")]
    BadRange {
        /// Its first slot.
        first: u16,
        /// Its last slot.
        last: u16,
    },
    /// The ranges do not follow on each other.
    #[error("the slot ranges leave a gap or overlap: {expected} should come next, {found} does")]
    NotContiguous {
        /// The slot that comes next.
        expected: u16,
        /// The slot at which the next range begins; 16,384 where there is none.
        found: u16,
    },
}

impl SlotTable {
    /// The first table of a cluster: contiguous ranges whose lengths differ by at most one.
    ///
    /// # Errors
    /// [`SlotsError::PartitionCount`] for none, or for more partitions than there are slots.
    pub fn even(partitions: u32) -> Result<SlotTable, SlotsError> {
        if partitions == 0 || partitions > u32::from(SLOT_COUNT) {
            return Err(SlotsError::PartitionCount { partitions });
        }
        // Both stay at or below SLOT_COUNT: the division is by the partition count.
        let start_of = |p: u32| (u64::from(p) * u64::from(SLOT_COUNT) / u64::from(partitions)) as u16;
        let ranges = (0..partitions)
            .map(|p| SlotRange { first: start_of(p), last: start_of(p + 1) - 1, partition: PartitionId(p) })
            .collect();
        Ok(SlotTable { map_version: 1, ranges })
    }

    /// Checks that the ranges cover 0..=16,383 once each, ascending.
    ///
    /// # Errors
    /// What is wrong first.
    pub fn validate(&self) -> Result<(), SlotsError> {
        let mut expected = 0_u16;
        for range in &self.ranges {
            let SlotRange { first, last, .. } = *range;
            if first > last || last > SLOT_LAST {
                return Err(SlotsError::BadRange { first, last });
            }
            if first != expected {
                return Err(SlotsError::NotContiguous { expected, found: first });
            }
            expected = last + 1;
        }
        if expected != SLOT_COUNT {
            return Err(SlotsError::NotContiguous { expected, found: SLOT_COUNT });
        }
        Ok(())
    }

    /// The partition of a slot; `None` only in a table that [`SlotTable::validate`] refuses.
    #[must_use]
    pub fn lookup(&self, slot: Slot) -> Option<PartitionId> {
        let after = self.ranges.partition_point(|range| range.first <= slot.number());
        let range = self.ranges.get(after.checked_sub(1)?)?;
        (slot.number() <= range.last).then_some(range.partition)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slot(key: &str) -> u16 {
        Slot::of(key.as_bytes()).number()
    }

    #[test]
    fn published_vectors() {
        assert_eq!(CRC16.checksum(b"123456789"), 0x31C3);
        assert_eq!(slot("123456789"), 12_739);
        assert_eq!(slot("foo"), 12_182);
        assert_eq!(slot("bar"), 5_061);
        assert_eq!(slot(""), 0);
    }

    #[test]
    fn hash_tags_as_redis_cluster_specifies_them() {
        assert_eq!(slot("{user1000}.following"), slot("{user1000}.followers"));
        assert_eq!(hashed_part(b"{user1000}.following"), b"user1000");
        assert_eq!(hashed_part(b"foo{}{bar}"), b"foo{}{bar}", "an empty tag is none");
        assert_eq!(hashed_part(b"foo{{bar}}zap"), b"{bar", "to the first closing brace");
        assert_eq!(hashed_part(b"foo{bar}{zap}"), b"bar", "the first tag only");
        assert_eq!(hashed_part(b"foo{bar"), b"foo{bar", "never closed");
        assert_eq!(hashed_part(b"}foo{bar}"), b"bar", "a closing brace before it means nothing");
        assert_eq!(hashed_part(b"{"), b"{");
        assert_eq!(hashed_part(b"{\x00\xff}x"), b"\x00\xff", "any bytes");
    }

    #[test]
    fn even_tables_are_even() {
        let table = SlotTable::even(2).unwrap();
        assert_eq!(table.ranges[0], SlotRange { first: 0, last: 8_191, partition: PartitionId(0) });
        assert_eq!(table.ranges[1], SlotRange { first: 8_192, last: 16_383, partition: PartitionId(1) });
        let lengths =
            SlotTable::even(3).unwrap().ranges.iter().map(|r| r.last - r.first + 1).collect::<Vec<_>>();
        assert_eq!(lengths, [5_461, 5_461, 5_462]);
        assert_eq!(SlotTable::even(0), Err(SlotsError::PartitionCount { partitions: 0 }));
        assert_eq!(SlotTable::even(16_385), Err(SlotsError::PartitionCount { partitions: 16_385 }));
    }

    fn table(ranges: &[(u16, u16)]) -> SlotTable {
        let ranges = ranges
            .iter()
            .enumerate()
            .map(|(p, (first, last))| SlotRange {
                first: *first,
                last: *last,
                partition: PartitionId(u32::try_from(p).unwrap()),
            })
            .collect();
        SlotTable { map_version: 1, ranges }
    }

    #[test]
    fn broken_tables_are_refused() {
        let refusal = |ranges: &[(u16, u16)]| table(ranges).validate().unwrap_err();
        assert_eq!(refusal(&[]), SlotsError::NotContiguous { expected: 0, found: 16_384 });
        assert_eq!(refusal(&[(1, 16_383)]), SlotsError::NotContiguous { expected: 0, found: 1 });
        assert_eq!(refusal(&[(0, 10), (12, 16_383)]), SlotsError::NotContiguous { expected: 11, found: 12 });
        assert_eq!(refusal(&[(0, 10), (10, 16_383)]), SlotsError::NotContiguous { expected: 11, found: 10 });
        assert_eq!(refusal(&[(0, 10)]), SlotsError::NotContiguous { expected: 11, found: 16_384 });
        assert_eq!(refusal(&[(0, 16_384)]), SlotsError::BadRange { first: 0, last: 16_384 });
        assert_eq!(refusal(&[(5, 4)]), SlotsError::BadRange { first: 5, last: 4 });
    }

    proptest! {
        #[test]
        fn every_slot_of_an_even_table_has_its_partition(partitions in 1_u32..=16_384, number in 0_u16..SLOT_COUNT) {
            let table = SlotTable::even(partitions).unwrap();
            prop_assert_eq!(table.validate(), Ok(()));
            let found = table.lookup(Slot::new(number).unwrap()).unwrap();
            let linear = table.ranges.iter().find(|r| (r.first..=r.last).contains(&number)).unwrap();
            prop_assert_eq!(found, linear.partition);
        }

        #[test]
        fn a_tag_decides_alone(tag in "[^{}]{1,8}", before in "[^{}]{0,8}", after in ".{0,8}") {
            let key = format!("{before}{{{tag}}}{after}");
            prop_assert_eq!(Slot::of(key.as_bytes()), Slot::of(tag.as_bytes()));
        }
    }
}
