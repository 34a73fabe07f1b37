//! What the writer and the readers share: the buckets, and how a key is looked for.
//!
//! **Why a reader never misses a key that is there.** Entries do move: growth parts a bucket in two, and a
//! chain that has become too long for its entries is pulled together. The writer moves in this order:
//!
//! 1. it copies the entries to where they will be,
//! 2. it changes the state (for growth, the same store makes the new bucket count),
//! 3. it erases them where they were, and unlinks overflow buckets that are empty now,
//! 4. it changes the state again, and only then takes anything that was emptied or unlinked for other entries.
//!
//! A reader loads the state, walks the chain, and loads the state again. If it found its key, it is done: a
//! locator that stands in the table is its key's current one, since between 1 and 3 nobody points it elsewhere.
//! If it did not, the answer counts only if both states are the same; else the reader looks again.
//!
//! Say that both loads gave the state S. Stores are Release and loads Acquire. So whatever the walk loaded was
//! no older than S, and nothing that it loaded was stored after the change that follows S, or the second load
//! would have seen that change. What the writer may do between two changes is: add entries, point entries
//! elsewhere, remove keys, and one of the steps 1 and 3. In a period with step 1, a key that moves stands at its
//! old place all the time; in one with step 3, at its new place, where it was before the period began. Slots
//! and overflow buckets that were emptied or unlinked before or in the period are used for other chains only
//! after it. So a key that was there from the first load to the second was seen, and an answer that counts is
//! right.
//!
//! No reader waits for the writer: while the writer stands still, in whatever step, the state stands still too
//! and the reader's walk counts. It looks again only when the writer has got on.

use std::convert::Infallible;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use super::array::BucketArray;
use super::bucket::Bucket;
use super::key_hash::{HashFunction, KeyHash};
use super::state::{SharedState, State};
use crate::locator::PackedLocator;

/// The buckets, the state and the hash function. See the module.
#[derive(Debug)]
pub(super) struct Table {
    /// The buckets that a hash leads to.
    pub(super) homes: BucketArray,
    /// The buckets that a full bucket is continued by. Number 0 is not used.
    pub(super) overflow: BucketArray,
    pub(super) state: SharedState,
    pub(super) len: SharedLen,
    pub(super) seed: u64,
    pub(super) function: HashFunction,
}

/// The number of keys, on a cache line of its own, so that counting does not disturb the readers' loads of the
/// state. Relaxed: nothing is concluded from it.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct SharedLen(AtomicUsize);

impl SharedLen {
    pub(super) fn get(&self) -> usize {
        self.0.load(Relaxed)
    }

    /// The writer's; nobody else stores.
    pub(super) fn set(&self, len: usize) {
        self.0.store(len, Relaxed);
    }
}

/// An entry, and where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<'a> {
    pub(super) bucket: &'a Bucket,
    pub(super) slot: usize,
    pub(super) locator: PackedLocator,
}

impl Table {
    pub(super) fn new(seed: u64, function: HashFunction, buckets: u32) -> Self {
        Self {
            homes: BucketArray::new(),
            overflow: BucketArray::new(),
            state: SharedState::new(buckets),
            len: SharedLen::default(),
            seed,
            function,
        }
    }

    #[cfg(test)]
    pub(super) fn hash(&self, key: &[u8]) -> KeyHash {
        KeyHash::new((self.function)(self.seed, key))
    }

    /// See [`Bucket::touch`].
    pub(super) fn touch(&self, hash: KeyHash) {
        if let Some(bucket) = self.homes.get(self.state.load().home(hash)) {
            bucket.touch();
        }
    }

    /// The reader's lookup, while the writer goes on.
    pub(super) fn get<E>(
        &self,
        hash: KeyHash,
        mut is_key: impl FnMut(PackedLocator) -> Result<bool, E>,
    ) -> Result<Option<PackedLocator>, E> {
        loop {
            let before = self.state.load();
            if let Some(found) = self.find(before, hash, &mut is_key)? {
                return Ok(Some(found.locator));
            }
            if self.state.load() == before {
                return Ok(None);
            }
        }
    }

    /// Walks one chain for a key. That it is not found counts only while nothing moves: see [`Self::get`].
    pub(super) fn find<E>(
        &self,
        state: State,
        hash: KeyHash,
        mut is_key: impl FnMut(PackedLocator) -> Result<bool, E>,
    ) -> Result<Option<Found<'_>>, E> {
        let tag = hash.tag();
        for (_, bucket) in self.chain(state.home(hash)) {
            let mut slots = bucket.slots_of(tag);
            while slots != 0 {
                // Below 5, as no other bit is set.
                let slot = slots.trailing_zeros() as usize;
                slots &= slots - 1;
                if let Some(locator) = bucket.locator(slot)
                    && is_key(locator)?
                {
                    return Ok(Some(Found { bucket, slot, locator }));
                }
            }
        }
        Ok(None)
    }

    /// The entry that points at exactly this row, for the writer.
    pub(super) fn find_exactly(&self, hash: KeyHash, current: PackedLocator) -> Option<Found<'_>> {
        let is_current = |locator| Ok::<_, Infallible>(locator == current);
        self.find(self.state.load(), hash, is_current).unwrap_or_else(|never| match never {})
    }

    /// The buckets of a chain, home first, each with its number among the overflow buckets (0: the home).
    pub(super) fn chain(&self, home: u32) -> impl Iterator<Item = (u32, &Bucket)> {
        let first = self.homes.get(home).map(|bucket| (0, bucket));
        std::iter::successors(first, |(_, bucket)| {
            let number = bucket.link()?;
            Some((number, self.overflow.get(number)?))
        })
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.homes.memory_bytes() + self.overflow.memory_bytes()
    }
}
