//! Where a row lies, in one word.

use std::num::NonZeroU64;

/// How many bits each part of a [`PackedLocator`] has: file, offset, length class. One word in all.
const FILE_BITS: u32 = 24;
const OFFSET_BITS: u32 = 32;
const CLASS_BITS: u32 = 8;
const _: () = assert!(FILE_BITS + OFFSET_BITS + CLASS_BITS == u64::BITS);

const OFFSET_SHIFT: u32 = CLASS_BITS;
const FILE_SHIFT: u32 = CLASS_BITS + OFFSET_BITS;

/// The highest file number: the file is kept plus one, so that no locator is the empty word.
const FILE_MAX: u32 = (1 << FILE_BITS) - 2;

/// Lengths below this are their own class.
const EXACT_LENGTHS: u32 = 16;

/// Above, each power of two is parted into this many classes.
const CLASSES_PER_DOUBLING: u32 = 8;

/// The highest class: a length of 2^32, which only lengths above 15 * 2^28 are rounded up to.
const CLASS_MAX: u32 = EXACT_LENGTHS + (32 - EXACT_LENGTHS.ilog2()) * CLASSES_PER_DOUBLING;
const _: () = assert!(CLASS_MAX < 1 << CLASS_BITS);

/// Where the row of a key lies, in one 64-bit word, so that a reader gets an old one or a new one and never
/// a mix of the two.
///
/// | bits | part | values |
/// |---|---|---|
/// | 40 to 63 | file, plus one | files 0 to [`PackedLocator::FILE_MAX`] |
/// | 8 to 39 | offset | every `u32`: files of up to 4 GiB |
/// | 0 to 7 | length class | lengths 0 to 15 exactly; longer ones rounded up by at most an eighth |
///
/// The length is there to read a row with one call. It may say a little more than the row has (the row itself
/// knows), never less. The numbers of files are yours: the index only hands them back.
///
/// ```
/// use paddock_index::PackedLocator;
///
/// let place = PackedLocator::new(7, 4096, 140)?;
/// assert_eq!((place.file(), place.offset(), place.length_max()), (7, 4096, 144));
/// # Ok::<(), paddock_index::LocatorError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PackedLocator(NonZeroU64);

/// Why a place does not fit a [`PackedLocator`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LocatorError {
    /// The file's number is too high.
    #[error("file {file} is beyond the highest that a locator can point at, {FILE_MAX}")]
    File {
        /// The number asked for.
        file: u32,
    },
    /// A word that no locator packs to.
    #[error("{bits:#018x} is no packed locator")]
    Bits {
        /// The word.
        bits: u64,
    },
}

impl PackedLocator {
    /// The highest file number.
    pub const FILE_MAX: u32 = FILE_MAX;

    /// Packs a place: a file's number, the offset of the row in it, and the row's length, both in bytes.
    ///
    /// # Errors
    ///
    /// [`LocatorError::File`] for a file beyond [`Self::FILE_MAX`].
    pub fn new(file: u32, offset: u32, length: u32) -> Result<Self, LocatorError> {
        if file > FILE_MAX {
            return Err(LocatorError::File { file });
        }
        let word = u64::from(file + 1) << FILE_SHIFT
            | u64::from(offset) << OFFSET_SHIFT
            | u64::from(length_class(length));
        Self::from_bits(word)
    }

    /// The locator of a word that [`Self::to_bits`] gave.
    ///
    /// # Errors
    ///
    /// [`LocatorError::Bits`] for any other word.
    pub fn from_bits(bits: u64) -> Result<Self, LocatorError> {
        let known = bits >> FILE_SHIFT != 0 && bits & ((1 << CLASS_BITS) - 1) <= u64::from(CLASS_MAX);
        NonZeroU64::new(bits).filter(|_| known).map(Self).ok_or(LocatorError::Bits { bits })
    }

    /// The word itself: never zero, and the same in every version of this crate.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        self.0.get()
    }

    /// The word of a slot, which is 0 when it is empty and was packed by [`Self::new`] otherwise.
    pub(crate) fn from_slot(word: u64) -> Option<Self> {
        NonZeroU64::new(word).map(Self)
    }

    /// The file's number.
    #[must_use]
    pub fn file(self) -> u32 {
        // The shift leaves 24 bits, and they are never 0.
        (self.to_bits() >> FILE_SHIFT) as u32 - 1
    }

    /// The offset of the row in its file, in bytes.
    #[must_use]
    pub fn offset(self) -> u32 {
        // The cast keeps exactly the 32 bits that the offset has.
        (self.to_bits() >> OFFSET_SHIFT) as u32
    }

    /// The row's length in bytes, rounded up by at most an eighth. As many bytes may be more than the file
    /// has behind the offset.
    #[must_use]
    pub fn length_max(self) -> u32 {
        class_length((self.to_bits() & ((1 << CLASS_BITS) - 1)) as u32)
    }
}

/// The least class whose length is not below this one.
fn length_class(length: u32) -> u32 {
    if length < EXACT_LENGTHS {
        return length;
    }
    let doubling = length.ilog2();
    let step = 1_u64 << (doubling - CLASSES_PER_DOUBLING.ilog2());
    let above = u64::from(length) - (1 << doubling);
    // At most 8: then it is the first class of the next doubling, whose number follows.
    let part = above.div_ceil(step) as u32;
    EXACT_LENGTHS + (doubling - EXACT_LENGTHS.ilog2()) * CLASSES_PER_DOUBLING + part
}

fn class_length(class: u32) -> u32 {
    let Some(above) = class.checked_sub(EXACT_LENGTHS) else { return class };
    let doubling = above / CLASSES_PER_DOUBLING + EXACT_LENGTHS.ilog2();
    let step = 1_u64 << (doubling - CLASSES_PER_DOUBLING.ilog2());
    let length = (1_u64 << doubling) + u64::from(above % CLASSES_PER_DOUBLING) * step;
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_place_comes_back(file in 0..=FILE_MAX, offset: u32, shift in 0..32_u32, length: u32) {
            let length = length >> shift;
            let packed = PackedLocator::new(file, offset, length).unwrap();
            prop_assert_eq!((packed.file(), packed.offset()), (file, offset));
            prop_assert!(packed.length_max() >= length);
            prop_assert!(packed.length_max() - length <= length / 8);
            prop_assert_eq!(PackedLocator::from_bits(packed.to_bits()), Ok(packed));
        }
    }

    #[test]
    fn the_ends_fit_and_what_is_beyond_is_refused() {
        let last = PackedLocator::new(FILE_MAX, u32::MAX, u32::MAX).unwrap();
        assert_eq!((last.file(), last.offset(), last.length_max()), (FILE_MAX, u32::MAX, u32::MAX));
        assert_eq!(PackedLocator::new(FILE_MAX + 1, 0, 0), Err(LocatorError::File { file: FILE_MAX + 1 }));
        for bits in [0, 5, (1 << FILE_SHIFT) - 1, 1 << FILE_SHIFT | u64::from(CLASS_MAX + 1)] {
            assert_eq!(PackedLocator::from_bits(bits), Err(LocatorError::Bits { bits }));
        }
    }
}
