//! When to try again, and after how long.
//!
//! Tried again is only what is safe: a read, a write with a request id, or another write that certainly did not
//! happen. The number of attempts is bounded, and none begins after the request's deadline.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use crate::error::{Error, Kind, WriteOutcome};

/// The wait before the second attempt; it doubles with each further one.
const BACKOFF_FIRST: Duration = Duration::from_millis(10);

/// The longest wait between two attempts.
const BACKOFF_MAX: Duration = Duration::from_millis(500);

const _: () = assert!(BACKOFF_FIRST.as_millis() < BACKOFF_MAX.as_millis());

/// How long to wait before the next attempt; `None`: the error is the answer.
///
/// `attempt` counts from 1, the one that just failed.
pub(crate) fn wait_before_next(
    error: &Error,
    kind: Kind,
    attempt: u32,
    attempts_max: u32,
) -> Option<Duration> {
    let safe = kind != Kind::Write || error.write_outcome() == WriteOutcome::NotApplied;
    if attempt >= attempts_max || !safe || !error.is_transient() {
        return None;
    }
    let doubled = BACKOFF_FIRST.saturating_mul(1 << (attempt - 1).min(16));
    Some(error.retry_after().unwrap_or(Duration::ZERO).max(jittered(doubled.min(BACKOFF_MAX))))
}

/// Between half of the wait and all of it, so that clients which failed together do not return together.
fn jittered(wait: Duration) -> Duration {
    // A fresh RandomState hashes with fresh keys: enough randomness to spread clients out.
    let random = RandomState::new().hash_one(0_u8) % 1_000;
    wait / 2 + wait.mul_f64(random as f64 / 2_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unavailable() -> Error {
        Error::Unavailable { message: "away".into(), source: None }
    }

    #[test]
    fn a_write_of_unknown_outcome_is_never_tried_again() {
        let unknown = Error::UnknownOutcome { message: "lost".into(), source: None };
        assert_eq!(wait_before_next(&unknown, Kind::Write, 1, 10), None);
        let late = Error::DeadlineExceeded { write_outcome: WriteOutcome::Unknown, message: "late".into() };
        assert_eq!(wait_before_next(&late, Kind::Write, 1, 10), None);
    }

    #[test]
    fn a_write_with_a_request_id_is_tried_again_whatever_became_of_it() {
        let unknown = Error::UnknownOutcome { message: "lost".into(), source: None };
        assert!(wait_before_next(&unknown, Kind::NamedWrite, 1, 10).is_some());
        assert_eq!(wait_before_next(&unknown, Kind::NamedWrite, 10, 10), None);
    }

    #[test]
    fn what_did_not_happen_is_tried_again_but_not_for_ever() {
        assert!(wait_before_next(&unavailable(), Kind::Write, 1, 3).is_some());
        assert!(wait_before_next(&unavailable(), Kind::Read, 2, 3).is_some());
        assert_eq!(wait_before_next(&unavailable(), Kind::Read, 3, 3), None);
    }

    #[test]
    fn what_can_never_succeed_is_not_tried_again() {
        let invalid = Error::InvalidArgument { message: "empty key".into() };
        assert_eq!(wait_before_next(&invalid, Kind::Read, 1, 3), None);
    }

    #[test]
    fn waits_grow_to_a_bound_and_respect_the_server() {
        for attempt in 1..100 {
            let wait = wait_before_next(&unavailable(), Kind::Read, attempt, 100).unwrap();
            assert!(wait <= BACKOFF_MAX, "attempt {attempt}: {wait:?}");
        }
        let overloaded = Error::Overloaded { message: "full".into(), retry_after: Duration::from_secs(2) };
        assert_eq!(wait_before_next(&overloaded, Kind::Write, 1, 3), Some(Duration::from_secs(2)));
    }
}
