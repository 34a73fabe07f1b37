//! Places in a log.

use std::fmt;

/// Position in the log: 1 is the first entry, 0 stands before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

impl Sequence {
    /// The last one that there can be: rows hold it in 48 bits. A write beyond it is refused
    /// ([`crate::Error::TooLarge`]).
    pub const MAX: Sequence = Sequence((1 << 48) - 1);

    /// The one after this.
    ///
    /// ```
    /// use paddock_storage::Sequence;
    ///
    /// assert_eq!(Sequence(1).next(), Sequence(2));
    /// ```
    #[must_use]
    pub fn next(self) -> Sequence {
        Sequence(self.0.saturating_add(1))
    }

    /// The one before this; 0 stays 0.
    ///
    /// ```
    /// use paddock_storage::Sequence;
    ///
    /// assert_eq!(Sequence(2).previous(), Sequence(1));
    /// assert_eq!(Sequence(0).previous(), Sequence(0));
    /// ```
    #[must_use]
    pub fn previous(self) -> Sequence {
        Sequence(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A place in a replicated log: an entry's sequence, and the epoch in which it was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The caller's number, which never decreases along the log.
    pub epoch: u64,
    /// The entry's sequence.
    pub sequence: Sequence,
}

/// Where an epoch of the log begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: u64,
    /// Its first entry.
    pub first: Sequence,
}
