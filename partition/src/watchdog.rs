//! Disks that stand still. A write or an fsync that does not come back answers nothing, so nobody can wait for it: somebody has to watch.
//!
//! Each owner loop notes in its [`DiskWatch`] that it is at its disk, and since when. As long as it is, it does nothing else: it sends no
//! heartbeat and grants none, so no lease is renewed meanwhile. What is left to do is:
//!
//! * One that came back and took longer than [`StallLimits::hand_over_after`] is told to the core: a leader hands over, a follower says
//!   that it cannot take over, both for a while.
//! * One that has not come back after [`StallLimits::abort_after`] ends the process, as a disk that fails does: it may hold locks and
//!   connections for ever, and whoever looks at it would take it for alive.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::{Clock, Timestamp};

/// How long a disk may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StallLimits {
    /// After a write or an fsync that took longer, a leader hands over.
    pub hand_over_after: Duration,
    /// After one that takes longer, the process ends.
    pub abort_after: Duration,
}

impl Default for StallLimits {
    fn default() -> Self {
        StallLimits { hand_over_after: Duration::from_millis(500), abort_after: Duration::from_secs(10) }
    }
}

/// What an owner loop is doing at its disk, for whoever watches it.
#[derive(Debug, Default)]
pub struct DiskWatch {
    /// Since when it is at it, plus one; 0: it is not.
    since: AtomicU64,
    /// The longest that it took since this was taken.
    longest_ms: AtomicU64,
}

impl DiskWatch {
    /// Does something at the disk.
    pub fn during<T>(&self, clock: &Clock, work: impl FnOnce() -> T) -> T {
        let begun = clock.now();
        self.since.store(begun.0.saturating_add(1), Ordering::Release);
        let outcome = work();
        self.since.store(0, Ordering::Release);
        self.longest_ms.fetch_max(clock.now().since(begun), Ordering::Relaxed);
        outcome
    }

    /// For how long it has been at the disk; `None` if it is not.
    #[must_use]
    pub fn busy_ms(&self, now: Timestamp) -> Option<u64> {
        match self.since.load(Ordering::Acquire) {
            0 => None,
            since => Some(now.since(Timestamp(since - 1))),
        }
    }

    /// The longest that anything took since this was asked last.
    #[must_use]
    pub fn take_longest_ms(&self) -> u64 {
        self.longest_ms.swap(0, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_takes_long_is_seen_while_it_does_and_afterwards() {
        let hands = Arc::new(AtomicU64::new(1_000));
        let clock = Clock::turned_by_hand(Arc::clone(&hands));
        let watch = DiskWatch::default();
        assert_eq!(watch.busy_ms(clock.now()), None);
        watch.during(&clock, || {
            hands.store(1_700, Ordering::Relaxed);
            assert_eq!(watch.busy_ms(Timestamp(1_700)), Some(700));
        });
        watch.during(&clock, || {});
        assert_eq!(watch.busy_ms(Timestamp(9_000)), None);
        assert_eq!((watch.take_longest_ms(), watch.take_longest_ms()), (700, 0));
    }
}
