//! The one place where this crate reads a wall clock: for log times, which nothing in here depends on, and for expiry.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Where a store takes the time from: the system's clock, or for tests any other.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use paddock_storage::Clock;
///
/// let now_ms = Arc::new(AtomicU64::new(7));
/// let clock = Clock::from_fn({
///     let now_ms = now_ms.clone();
///     move || now_ms.load(Ordering::Relaxed)
/// });
/// assert_eq!(clock.now_ms(), 7);
/// assert!(Clock::system().now_ms() > 1_700_000_000_000);
/// ```
#[derive(Clone, Default)]
pub struct Clock(Option<Arc<NowMs>>);

type NowMs = dyn Fn() -> u64 + Send + Sync;

impl Clock {
    /// The system's clock.
    ///
    /// ```
    /// assert!(paddock_storage::Clock::system().now_ms() > 1_700_000_000_000);
    /// ```
    #[must_use]
    pub fn system() -> Clock {
        Clock(None)
    }

    /// A clock that asks `now_ms` for the milliseconds since 1970. It should not go back: what has expired would return.
    ///
    /// ```
    /// let noon = paddock_storage::Clock::from_fn(|| 43_200_000);
    /// assert_eq!(noon.now_ms(), 43_200_000);
    /// ```
    #[must_use]
    pub fn from_fn(now_ms: impl Fn() -> u64 + Send + Sync + 'static) -> Clock {
        Clock(Some(Arc::new(now_ms)))
    }

    /// Milliseconds since 1970.
    ///
    /// ```
    /// let clock = paddock_storage::Clock::from_fn(|| 7);
    /// assert_eq!(clock.now_ms(), 7);
    /// ```
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.0.as_ref().map_or_else(system_ms, |now_ms| now_ms())
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_none() { "Clock(system)" } else { "Clock(custom)" })
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "this is the named function through which the wall clock enters"
)]
fn system_ms() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

/// What decides that a record has expired.
#[derive(Clone, Debug)]
pub(crate) enum Expiry {
    /// Nothing does: the owner of the store sees to it.
    Never,
    /// What has expired at this time, in milliseconds since 1970.
    At(u64),
    /// What has expired by now.
    Now(Clock),
}

impl Expiry {
    /// The same as of this moment, for what takes a while and should be consistent.
    pub(crate) fn now(&self) -> Expiry {
        match self {
            Expiry::Never => Expiry::Never,
            Expiry::At(now_ms) => Expiry::At(*now_ms),
            Expiry::Now(clock) => Expiry::At(clock.now_ms()),
        }
    }

    /// Whether a record that expires then, if ever, is not to be seen.
    pub(crate) fn hides(&self, expires_at_ms: Option<u64>) -> bool {
        // Almost no record expires: no clock is asked for the others.
        let Some(expires_at_ms) = expires_at_ms else { return false };
        match self {
            Expiry::Never => false,
            Expiry::At(now_ms) => expires_at_ms <= *now_ms,
            Expiry::Now(clock) => expires_at_ms <= clock.now_ms(),
        }
    }
}
