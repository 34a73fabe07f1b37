//! The one word by which readers know where to look, and whether anything moved while they looked.

use super::key_hash::{HASH_BITS, KeyHash, PLACE_BITS};
use super::word::Word;

/// The fewest buckets: so many that a bucket's number tells the part of a hash that its entries leave out.
pub(super) const BUCKETS_MIN: u32 = 1 << PLACE_BITS;

/// How many buckets there are (low half), and a version (high half) that changes whenever an entry has been
/// copied elsewhere and is about to be erased where it was, and whenever slots have been emptied.
///
/// The version comes round after 2^32 changes. A reader would be misled if it stood still for exactly that many
/// of them, or a multiple, in the middle of one lookup: at a million changes a second, more than an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State(u64);

impl State {
    /// How many buckets there are.
    pub(super) fn buckets(self) -> u32 {
        // The low half.
        self.0 as u32
    }

    /// The bucket whose chain holds the keys of this hash: linear hashing. Of 2^L to 2^(L+1) buckets those
    /// that the growth of this round has reached are told apart by one more bit of the hash than the others.
    pub(super) fn home(self, hash: KeyHash) -> u32 {
        let level = self.buckets().ilog2();
        let low_bits = |count: u32| (hash.to_bits() & ((1 << count) - 1)) as u32;
        let longer = low_bits(level + 1);
        if longer < self.buckets() { longer } else { low_bits(level) }
    }

    /// The bucket that is parted next, and the number of the hash bit by which its entries are told apart:
    /// those that have it go to the new bucket, whose number is today's count.
    pub(super) fn next_split(self) -> (u32, u32) {
        let level = self.buckets().ilog2();
        (self.buckets() - (1 << level), level)
    }

    /// How often it has changed.
    #[cfg(test)]
    pub(super) fn version(self) -> u32 {
        (self.0 >> 32) as u32
    }

    fn moved(self) -> Self {
        Self(self.0.wrapping_add(1 << 32))
    }

    fn grown(self) -> Self {
        Self(self.moved().0 + 1)
    }
}

/// The state where readers find it, on a cache line of its own.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct SharedState(Word);

impl SharedState {
    pub(super) fn new(buckets: u32) -> Self {
        Self(Word::new(u64::from(buckets)))
    }

    /// Before a walk, Acquire shows the walk all that was stored before this state was. After it, the loads of
    /// the walk (Acquire all) have come first, so a state that is still the same means that nothing which the
    /// walk saw was stored after a change of it.
    pub(super) fn load(&self) -> State {
        State(self.0.load())
    }

    /// The writer's: entries were copied or erased. Release, after the stores that it stands for.
    pub(super) fn note_move(&self) {
        self.store(self.own().moved());
    }

    /// The writer's: one more bucket, already filled.
    pub(super) fn note_growth(&self) {
        self.store(self.own().grown());
    }

    fn own(&self) -> State {
        State(self.0.own())
    }

    fn store(&self, state: State) {
        self.0.store(state.0);
    }
}

// Every bit that tells a bucket is one that the index keeps.
const _: () = assert!(super::array::BUCKETS_MAX.ilog2() <= HASH_BITS);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Growing by one bucket changes the home of exactly those hashes that the split says it does.
        #[test]
        fn a_split_moves_what_it_says(buckets in BUCKETS_MIN..1 << 20, bits: u64) {
            let (old, new) = (State(u64::from(buckets)), State(u64::from(buckets)).grown());
            prop_assert_eq!(new.buckets(), buckets + 1);
            let hash = KeyHash::new(bits);
            let (source, bit) = old.next_split();
            let moves = old.home(hash) == source && hash.tag().hash_bit(bit);
            prop_assert_eq!(new.home(hash), if moves { buckets } else { old.home(hash) });
            prop_assert_eq!(KeyHash::of_entry(new.home(hash), hash.tag()), hash);
        }
    }
}
