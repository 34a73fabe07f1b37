//! [`Timestamp`]: the only time that the core knows.

use std::fmt;

/// Milliseconds of the node's own monotonic clock, which also counts suspend (CLOCK_BOOTTIME). Compared
/// only with others of the same clock: a leader's heartbeat carries one, and the grant brings it back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The moment so many milliseconds later.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Self {
        Timestamp(self.0.saturating_add(ms))
    }

    /// The milliseconds since an earlier moment; 0 if it is not earlier.
    #[must_use]
    pub fn since(self, earlier: Timestamp) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}
