//! The one place where this crate reads a wall clock: for the log time of an embedded store, which nothing in here
//! depends on.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970.
#[allow(
    clippy::disallowed_methods,
    reason = "this is the named function through which the wall clock enters"
)]
pub(crate) fn log_time_ms() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}
