//! The two clocks, each entering the program through one function here, so that nothing else reads one.

use std::time::{SystemTime, UNIX_EPOCH};

pub use crate::replica::Timestamp;

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
