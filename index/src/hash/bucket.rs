//! One bucket: a cache line of five slots, their tags, and the number of the bucket that follows.
//!
//! ```text
//! word 0 .. 4   the locators of slots 0 .. 4; 0 is an empty slot
//! word 5        tags of slots 0 (low half) and 1
//! word 6        tags of slots 2 and 3
//! word 7        tag of slot 4, and the number of the overflow bucket that follows (0: none)
//! ```
//!
//! An entry is two words that a reader loads one after the other, the tag first. A mix of two entries can be
//! seen only while a slot is emptied and taken again, and does no harm: the tag is a hint, and the row behind
//! the locator is asked in any case. The locator itself is one word.

use super::key_hash::Tag;
use super::word::Word;
use crate::locator::PackedLocator;

/// Slots per bucket.
pub(super) const SLOTS: usize = 5;

/// Words per bucket: a cache line.
const WORDS: usize = 8;

const TAGS_PER_WORD: usize = 2;

/// The word whose low half is the last slot's tag, and whose high half is the link.
const LINK_WORD: usize = SLOTS + SLOTS / TAGS_PER_WORD;
const _: () = assert!(LINK_WORD + 1 == WORDS);

/// A cache line of the table. See the module.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Bucket([Word; WORDS]);

const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    pub(super) const fn new() -> Self {
        Self([const { Word::new(0) }; WORDS])
    }

    /// What a reader sees in a slot, given that the tag fits.
    pub(super) fn locator(&self, slot: usize) -> Option<PackedLocator> {
        // Acquire: who sees an entry gone, moved away or replaced has seen what was done before that.
        PackedLocator::from_slot(self.0[slot].load())
    }

    pub(super) fn tag(&self, slot: usize) -> Tag {
        // Acquire: a tag that is not ours may be there because our entry was moved, so seeing it must show
        // the state that was stored before.
        Tag::from_bits(half(self.0[SLOTS + slot / TAGS_PER_WORD].load(), slot % TAGS_PER_WORD))
    }

    /// The slots whose tag is this one: a bit for each, the lowest for slot 0. All tags are loaded before any
    /// locator, and compared without a branch, because nobody could foretell it.
    pub(super) fn slots_of(&self, tag: Tag) -> u32 {
        // Acquire, for the reason that `tag` gives.
        let words: [u64; WORDS - SLOTS] = std::array::from_fn(|word| self.0[SLOTS + word].load());
        let is_same = |slot: usize| half(words[slot / TAGS_PER_WORD], slot % TAGS_PER_WORD) == tag.to_bits();
        (0..SLOTS).fold(0, |slots, slot| slots | u32::from(is_same(slot)) << slot)
    }

    /// The number of the overflow bucket that follows, if any.
    pub(super) fn link(&self) -> Option<u32> {
        // Acquire: the followed bucket's entries were stored before the link to it.
        Some(half(self.0[LINK_WORD].load(), 1)).filter(|number| *number != 0)
    }

    /// A load that nobody waits for. It stands for a prefetch instruction, which takes `unsafe`: nothing depends on
    /// the loaded word, so the processor goes on while it comes.
    pub(super) fn touch(&self) {
        std::hint::black_box(self.0[LINK_WORD].load());
    }

    /// The entries in this bucket. Here no row is asked, so tag and locator must belong together: the locator
    /// is loaded first, which shows the tag that was stored before it. If the slot was emptied and taken again
    /// in between, the state has changed, and the walk does not count.
    pub(super) fn entries(&self) -> impl Iterator<Item = (usize, Tag, PackedLocator)> + '_ {
        (0..SLOTS).filter_map(|slot| {
            let locator = self.locator(slot)?;
            Some((slot, self.tag(slot), locator))
        })
    }

    // What follows is the writer's alone.

    /// The slots without an entry.
    pub(super) fn free_slots(&self) -> impl Iterator<Item = usize> + '_ {
        (0..SLOTS).filter(|slot| self.0[*slot].own() == 0)
    }

    /// Puts an entry into an empty slot: the tag first, so that whoever sees the locator sees its tag too.
    pub(super) fn fill(&self, slot: usize, tag: Tag, locator: PackedLocator) {
        self.store_half(SLOTS + slot / TAGS_PER_WORD, slot % TAGS_PER_WORD, tag.to_bits());
        self.0[slot].store(locator.to_bits());
    }

    /// Points an entry elsewhere: one store, so that a reader gets the old locator or the new one.
    pub(super) fn replace(&self, slot: usize, locator: PackedLocator) {
        self.0[slot].store(locator.to_bits());
    }

    /// Empties a slot. Its tag stays; without a locator it says nothing.
    pub(super) fn clear(&self, slot: usize) {
        self.0[slot].store(0);
    }

    pub(super) fn set_link(&self, number: Option<u32>) {
        self.store_half(LINK_WORD, 1, number.unwrap_or(0));
    }

    /// Load and store instead of a read-modify-write: there is only one writer.
    fn store_half(&self, word: usize, upper: usize, bits: u32) {
        let other = half(self.0[word].own(), 1 - upper);
        let both = if upper == 1 { [other, bits] } else { [bits, other] };
        self.0[word].store(u64::from(both[1]) << 32 | u64::from(both[0]));
    }
}

/// The lower (0) or upper (1) half of a word.
fn half(word: u64, upper: usize) -> u32 {
    (word >> (32 * upper)) as u32
}
