//! Ids for writes, so that each happens once however often it is sent.
//!
//! An id carries the time when it was made, and a partition refuses one that is too old or too far in the future. Where
//! our clock is wrong by so much, or the partition's leader's is, the refusal says what time it is there, and from then on
//! ids for that partition are made by that. Each partition has a time of its own: one leader whose clock is wrong has nothing
//! to say of the others.
//!
//! Which partition a key belongs to is learned from answers, and guessed by the key's slot where it is not known yet:
//! partitions hold runs of slots. A wrong guess costs one more refusal, and nothing else.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crc::{CRC_16_XMODEM, Crc};
use paddock_proto::request_id::RequestId;
use ulid::Ulid;

/// How many slots there are: see docs/api.md.
const SLOT_COUNT: u16 = 16_384;
const CRC16: Crc<u16> = Crc::<u16>::new(&CRC_16_XMODEM);
/// From how many partitions times are learned at most.
const PARTITIONS_MAX: usize = 16_384;

/// Makes ids. Shared by the clones of a client.
#[derive(Debug, Default)]
pub(crate) struct Identities {
    /// Whether any time was learned: as a rule none ever is.
    has_learned: AtomicBool,
    learned: Mutex<Learned>,
}

/// What refusals told.
#[derive(Debug, Default)]
struct Learned {
    /// What is added to our clock for a partition, in milliseconds.
    corrections_ms: HashMap<u32, i64>,
    /// The one that was learned last, for keys of which nothing is known.
    last_ms: i64,
    partitions: BTreeMap<u16, u32>,
}

impl Learned {
    fn correction_ms(&self, key: &[u8]) -> i64 {
        let near = self.partitions.range(..=slot(key)).next_back();
        let correction = near.and_then(|(_, partition)| self.corrections_ms.get(partition));
        correction.copied().unwrap_or(self.last_ms)
    }
}

impl Identities {
    /// An id that nobody else has, for a write of any key.
    pub(crate) fn next(&self) -> RequestId {
        let correction_ms = if self.has_learned.load(Ordering::Relaxed) { self.learned().last_ms } else { 0 };
        made_now(correction_ms)
    }

    /// An id that nobody else has, for a write of this key.
    pub(crate) fn next_for(&self, key: &[u8]) -> RequestId {
        let has_learned = self.has_learned.load(Ordering::Relaxed);
        made_now(if has_learned { self.learned().correction_ms(key) } else { 0 })
    }

    /// Learns the time by which a partition judges ids of this key: the partition, where it is known.
    pub(crate) fn learn(&self, key: &[u8], partition: Option<u32>, clock_ms: u64) {
        let ours = i64::try_from(Ulid::generate().timestamp_ms()).unwrap_or(i64::MAX);
        let theirs = i64::try_from(clock_ms).unwrap_or(i64::MAX);
        let correction_ms = theirs.saturating_sub(ours);
        let mut learned = self.learned();
        learned.last_ms = correction_ms;
        if let Some(partition) = partition
            && (learned.corrections_ms.len() < PARTITIONS_MAX
                || learned.corrections_ms.contains_key(&partition))
        {
            learned.corrections_ms.insert(partition, correction_ms);
            learned.partitions.insert(slot(key), partition);
        }
        self.has_learned.store(true, Ordering::Relaxed);
    }

    /// A partition has answered for this key.
    pub(crate) fn note(&self, key: &[u8], partition: u32) {
        if self.has_learned.load(Ordering::Relaxed) {
            let mut learned = self.learned();
            // It took an id by the correction that was guessed: that one serves there.
            let correction_ms = learned.correction_ms(key);
            if learned.corrections_ms.len() < PARTITIONS_MAX {
                learned.corrections_ms.entry(partition).or_insert(correction_ms);
            }
            learned.partitions.insert(slot(key), partition);
        }
    }

    fn learned(&self) -> MutexGuard<'_, Learned> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Its time and its random bits are what an id is made of.
fn made_now(correction_ms: i64) -> RequestId {
    let ulid = Ulid::generate();
    RequestId::from_parts(ulid.timestamp_ms().saturating_add_signed(correction_ms), ulid.random())
}

/// The slot of a key, as docs/api.md has it.
fn slot(key: &[u8]) -> u16 {
    let tag = || {
        let (_, after) = key.split_at_checked(key.iter().position(|byte| *byte == b'{')? + 1)?;
        let (tag, _) = after.split_at_checked(after.iter().position(|byte| *byte == b'}')?)?;
        (!tag.is_empty()).then_some(tag)
    };
    CRC16.checksum(tag().unwrap_or(key)) % SLOT_COUNT
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_about(id: RequestId, time_ms: u64) -> bool {
        (time_ms..time_ms + 60_000).contains(&id.time_ms())
    }

    #[test]
    fn ids_differ_and_are_made_by_the_time_that_was_learned() {
        let identities = Identities::default();
        assert_ne!(identities.next(), identities.next());
        identities.learn(b"k", None, 5_000_000);
        assert!(is_about(identities.next(), 5_000_000));
        assert!(is_about(identities.next_for(b"any"), 5_000_000));
    }

    #[test]
    fn one_partitions_time_is_not_anothers() {
        let identities = Identities::default();
        let now_ms = identities.next().time_ms();
        // Slots 12739, 5061 and 7610.
        let (high, low, near_low) = (b"123456789", b"{bar}1", b"hello6");
        assert!(slot(low) < slot(near_low) && slot(near_low) < slot(high));
        identities.learn(high, Some(1), 5_000_000);
        // Nothing is known of the other one yet, so one more refusal tells.
        assert!(is_about(identities.next_for(low), 5_000_000));
        identities.learn(low, Some(0), now_ms);
        for _ in 0..3 {
            assert!(is_about(identities.next_for(high), 5_000_000));
            assert!(is_about(identities.next_for(low), now_ms));
            assert!(is_about(identities.next_for(near_low), now_ms), "its slot is near");
            identities.note(high, 1);
            identities.note(near_low, 0);
        }
        // The leader has changed, and its clock is right.
        identities.learn(high, Some(1), now_ms);
        assert!(is_about(identities.next_for(high), now_ms));
    }

    #[test]
    fn slots_are_those_of_the_servers() {
        // The published check value of CRC16/XMODEM, and Redis Cluster's examples.
        assert_eq!(slot(b"123456789"), 0x31C3);
        assert_eq!(slot(b"foo{bar}{zap}"), slot(b"bar"));
        assert_eq!(slot(b"{user1000}.following"), slot(b"user1000"));
        assert_eq!(slot(b"foo{}{bar}"), CRC16.checksum(b"foo{}{bar}") % SLOT_COUNT);
        assert_eq!(slot(b"foo{{bar}}zap"), slot(b"{bar"));
        assert_eq!(slot(b"foo{bar"), CRC16.checksum(b"foo{bar") % SLOT_COUNT);
    }
}
