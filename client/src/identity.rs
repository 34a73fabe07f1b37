//! Ids for writes, so that each happens once however often it is sent.
//!
//! An id carries the time when it was made, and a partition refuses one that is too old or too far in the future. Where
//! our clock is wrong by so much, the refusal says what time it is there, and from then on ids are made by that.

use std::sync::atomic::{AtomicI64, Ordering};

use paddock_proto::request_id::RequestId;
use ulid::Ulid;

/// Makes ids. Shared by the clones of a client.
#[derive(Debug, Default)]
pub(crate) struct Identities {
    /// What is added to our clock, in milliseconds.
    correction_ms: AtomicI64,
}

impl Identities {
    /// An id that nobody else has.
    pub(crate) fn next(&self) -> RequestId {
        // Its time and its random bits are what an id is made of.
        let ulid = Ulid::generate();
        let time_ms = ulid.timestamp_ms().saturating_add_signed(self.correction_ms.load(Ordering::Relaxed));
        RequestId::from_parts(time_ms, ulid.random())
    }

    /// Learns the time by which a partition judges ids.
    pub(crate) fn learn(&self, clock_ms: u64) {
        let ours = i64::try_from(Ulid::generate().timestamp_ms()).unwrap_or(i64::MAX);
        let theirs = i64::try_from(clock_ms).unwrap_or(i64::MAX);
        self.correction_ms.store(theirs.saturating_sub(ours), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_are_made_by_the_time_that_was_learned() {
        let identities = Identities::default();
        assert_ne!(identities.next(), identities.next());
        identities.learn(5_000_000);
        let learned = identities.next().time_ms();
        assert!((5_000_000..5_060_000).contains(&learned), "{learned}");
    }
}
