//! The two clocks. The system's enter the program through here and nowhere else; a test may put one of its own in
//! their place.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use crate::replica::Timestamp;

/// What tells an owner loop the time: the system, or whoever turns the hands.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// Milliseconds, where somebody turns the hands; `None`: the system's clocks.
    hands: Option<Arc<AtomicU64>>,
    /// By how much the wall clock is ahead of them.
    ahead_ms: Arc<AtomicU64>,
}

impl Clock {
    /// The system's clocks.
    #[must_use]
    pub fn system() -> Self {
        Clock::default()
    }

    /// A clock that shows the milliseconds which somebody else writes there; both clocks are this one.
    #[must_use]
    pub fn turned_by_hand(hands: Arc<AtomicU64>) -> Self {
        Clock { hands: Some(hands), ahead_ms: Arc::default() }
    }

    /// The same clock with another wall clock, by so many milliseconds ahead of the hands: somebody else writes them there.
    #[must_use]
    pub fn ahead_by(self, ahead_ms: Arc<AtomicU64>) -> Self {
        Clock { ahead_ms, ..self }
    }

    /// Milliseconds of a clock that never goes back: see [`now`].
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match &self.hands {
            None => now(),
            Some(hands) => Timestamp(hands.load(Ordering::Relaxed)),
        }
    }

    /// Milliseconds since 1970: see [`wall_clock_ms`].
    #[must_use]
    pub fn wall_clock_ms(&self) -> u64 {
        match &self.hands {
            None => wall_clock_ms(),
            Some(hands) => hands.load(Ordering::Relaxed) + self.ahead_ms.load(Ordering::Relaxed),
        }
    }

    /// Waits so long. False, at once, where the hands are turned by somebody, who would wait for us meanwhile.
    #[must_use]
    pub fn wait(&self, duration: Duration) -> bool {
        if self.hands.is_none() {
            let _ = crossbeam_channel::after(duration).recv();
        }
        self.hands.is_none()
    }
}

/// Milliseconds of CLOCK_BOOTTIME: monotonic, and it goes on while the machine sleeps. A lease measured on
/// a clock that stops in sleep would outlive the promises that it rests on.
#[must_use]
pub fn now() -> Timestamp {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
    Timestamp(seconds * 1_000 + nanoseconds / 1_000_000)
}

/// Milliseconds since 1970: what the leader stamps its entries with. Nothing depends on it being right.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place where the wall clock enters")]
pub fn wall_clock_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_in_somebodys_hands_shows_what_they_say_and_waits_for_nobody() {
        let hands = Arc::new(AtomicU64::new(7));
        let clock = Clock::turned_by_hand(Arc::clone(&hands));
        assert_eq!((clock.now(), clock.wall_clock_ms()), (Timestamp(7), 7));
        hands.store(9, Ordering::Relaxed);
        assert_eq!(clock.now(), Timestamp(9));
        let ahead_ms = Arc::new(AtomicU64::new(5));
        let clock = clock.ahead_by(Arc::clone(&ahead_ms));
        ahead_ms.store(6, Ordering::Relaxed);
        assert_eq!((clock.now(), clock.wall_clock_ms()), (Timestamp(9), 15));
        assert!(!clock.wait(Duration::from_secs(3_600)));
        assert!(Clock::system().wait(Duration::ZERO), "the system's clock has waited");
    }
}
