//! The time, which a store needs for two things: to note it in the log, and to know what has expired.

use std::fmt;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

/// Tells the time. Tests give a store one of their own.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Milliseconds since 1970.
    fn now_ms(&self) -> u64;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place of this crate that asks the machine's clock"
    )]
    fn now_ms(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

/// What decides that a record has expired.
#[derive(Clone, Debug)]
pub(crate) enum Expiry {
    /// Nothing does: the owner of the store sees to it.
    Never,
    /// What has expired at this time, in milliseconds since 1970.
    At(u64),
    /// What has expired by now.
    Now(Arc<dyn Clock>),
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
