//! The scheduler: what is going to happen, by its time. What is due at the same moment happens in the order in which it was
//! asked for, so that nothing depends on anything but the seed.

use std::collections::BTreeMap;

/// A time of the simulated world, in microseconds since it began.
pub type Time = u64;

/// A millisecond.
pub const MS: Time = 1_000;

/// What is going to happen.
#[derive(Debug)]
pub struct Queue<T> {
    waiting: BTreeMap<(Time, u64), T>,
    asked: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Queue { waiting: BTreeMap::new(), asked: 0 }
    }
}

impl<T> Queue<T> {
    /// Has something happen at a time.
    pub fn at(&mut self, time: Time, what: T) {
        self.asked += 1;
        self.waiting.insert((time, self.asked), what);
    }

    /// What happens next, and when.
    pub fn take_next(&mut self) -> Option<(Time, T)> {
        let ((time, _), what) = self.waiting.pop_first()?;
        Some((time, what))
    }
}
