//! What all engines have in common.

use crate::{HashIndex, HashReader, InsertError, OrderedTail, PackedLocator, TailLayers};

/// An engine, for the one who writes to it: keys are pointed at the places of their rows, and forgotten.
///
/// This is the part that all engines share, for code that shall work with any of them. Each does more by itself:
/// [`HashIndex`] is checkpointed and hands rows over to other places, [`OrderedTail`] knows sequences and scans.
///
/// The closures answer one question: *is the row at this place the key's?* An engine that keeps keys
/// ([`OrderedTail`]) does not ask it.
///
/// ```
/// use std::convert::Infallible;
/// use paddock_index::{HashIndex, Index, Lookup, OrderedTail, PackedLocator};
///
/// fn index_words(text: &str, index: &mut impl Index) -> Result<Option<u32>, Box<dyn std::error::Error>> {
///     let is = |word| move |place: PackedLocator| {
///         let row = &text[place.offset() as usize..][..place.length_max() as usize];
///         Ok::<_, Infallible>(row == word)
///     };
///     let mut offset = 0;
///     for word in text.split(' ') {
///         let place = PackedLocator::new(0, offset, word.len() as u32)?;
///         index.point(word.as_bytes(), place, is(word))?;
///         offset += word.len() as u32 + 1;
///     }
///     Ok(index.lookup().locate(b"pear", is("pear"))?.map(|place| place.offset()))
/// }
///
/// assert_eq!(index_words("apple pear plum", &mut HashIndex::new(42))?, Some(6));
/// assert_eq!(index_words("apple pear plum", &mut OrderedTail::new())?, Some(6));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Index {
    /// What readers on any thread look up in, while the writer goes on.
    type Lookup: Lookup + Clone + Send + Sync + 'static;

    /// Points a key at a place, whether or not it pointed elsewhere before.
    ///
    /// # Errors
    ///
    /// [`InsertError::Rows`] with the closure's error, and [`InsertError::Full`]; nothing was changed then.
    fn point<E>(
        &mut self,
        key: &[u8],
        place: PackedLocator,
        is_key: impl FnMut(PackedLocator) -> Result<bool, E>,
    ) -> Result<(), InsertError<E>>;

    /// Forgets a key, if it is there.
    ///
    /// # Errors
    ///
    /// The closure's; nothing was changed then.
    fn forget<E>(
        &mut self,
        key: &[u8],
        is_key: impl FnMut(PackedLocator) -> Result<bool, E>,
    ) -> Result<(), E>;

    /// For readers. Whether it shows later writes too depends on the engine: that of a [`HashIndex`] does, that of
    /// an [`OrderedTail`] stays as it is.
    fn lookup(&mut self) -> Self::Lookup;

    /// Bytes of memory that it takes.
    fn memory_bytes(&self) -> usize;
}

/// The reading side of an [`Index`].
pub trait Lookup {
    /// Where a key's row lies.
    ///
    /// # Errors
    ///
    /// The closure's.
    fn locate<E>(
        &self,
        key: &[u8],
        is_key: impl FnMut(PackedLocator) -> Result<bool, E>,
    ) -> Result<Option<PackedLocator>, E>;
}

impl Index for HashIndex {
    type Lookup = HashReader;

    fn point<E>(
        &mut self,
        key: &[u8],
        place: PackedLocator,
        is_key: impl FnMut(PackedLocator) -> Result<bool, E>,
    ) -> Result<(), InsertError<E>> {
        self.insert(key, place, is_key).map(drop)
    }

    fn forget<E>(
        &mut self,
        key: &[u8],
        is_key: impl FnMut(PackedLocator) -> Result<bool, E>,
    ) -> Result<(), E> {
        self.remove(key, is_key).map(drop)
    }

    fn lookup(&mut self) -> HashReader {
        self.reader().clone()
    }

    fn memory_bytes(&self) -> usize {
        Self::memory_bytes(self)
    }
}

impl Lookup for HashReader {
    fn locate<E>(
        &self,
        key: &[u8],
        is_key: impl FnMut(PackedLocator) -> Result<bool, E>,
    ) -> Result<Option<PackedLocator>, E> {
        self.get(key, is_key)
    }
}

/// Each write is a version of its own, of the sequence after the highest.
impl Index for OrderedTail {
    type Lookup = TailLayers;

    fn point<E>(
        &mut self,
        key: &[u8],
        place: PackedLocator,
        _: impl FnMut(PackedLocator) -> Result<bool, E>,
    ) -> Result<(), InsertError<E>> {
        self.push(key, self.newest_sequence() + 1, place, false);
        Ok(())
    }

    fn forget<E>(&mut self, key: &[u8], _: impl FnMut(PackedLocator) -> Result<bool, E>) -> Result<(), E> {
        let newest = self.layers().newest(key, u64::MAX);
        if let Some(found) = newest.filter(|found| !found.tombstone) {
            self.push(key, self.newest_sequence() + 1, found.locator, true);
        }
        Ok(())
    }

    fn lookup(&mut self) -> TailLayers {
        self.layers()
    }

    fn memory_bytes(&self) -> usize {
        Self::memory_bytes(self)
    }
}

impl Lookup for TailLayers {
    fn locate<E>(
        &self,
        key: &[u8],
        _: impl FnMut(PackedLocator) -> Result<bool, E>,
    ) -> Result<Option<PackedLocator>, E> {
        Ok(self.newest(key, u64::MAX).filter(|found| !found.tombstone).map(|found| found.locator))
    }
}
