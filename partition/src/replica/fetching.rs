//! [`Fetching`]: the fetches of snapshots of one replica: their numbers, and the pauses between those that fail.

use super::config::ReplicaConfig;
use super::timestamp::Timestamp;

/// What outlasts a single fetch, and an epoch: a disk that has no room has none for the next leader's copy either.
#[derive(Debug)]
pub(super) struct Fetching {
    /// The number of the last fetch.
    last: u64,
    /// How many have failed in a row.
    failures: u32,
    /// None is begun before this.
    paused_until: Timestamp,
    /// Changes with every pause.
    chance: u64,
}

impl Fetching {
    pub(super) fn new(now: Timestamp, nonce_seed: u128) -> Self {
        // Any 64 of its bits will do, and whoever reads it knows no other use of these.
        let chance = u64::try_from((nonce_seed >> 64) ^ (nonce_seed & u128::from(u64::MAX))).unwrap_or(0);
        Fetching { last: 0, failures: 0, paused_until: now, chance }
    }

    /// The number of a fetch that begins: an answer to any other one counts for nothing.
    pub(super) fn begin(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// A fetch has failed: a pause begins.
    pub(super) fn failed(&mut self, now: Timestamp, config: &ReplicaConfig) {
        self.failures = self.failures.saturating_add(1);
        // A step of a linear congruential generator (Knuth's MMIX), whose upper bits are the better ones.
        self.chance =
            self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.paused_until = now.plus_ms(config.fetch_pause_ms(self.failures, self.chance >> 33));
    }

    /// The replica has what it lacked, by whatever way.
    pub(super) fn is_over(&mut self, now: Timestamp) {
        if self.failures > 0 {
            self.failures = 0;
            self.paused_until = now;
        }
    }

    /// How long the pause goes on, if it does.
    pub(super) fn pause_ms(&self, now: Timestamp) -> Option<u64> {
        (now < self.paused_until).then(|| self.paused_until.since(now))
    }

    /// How many have failed in a row, and when the next one may begin.
    pub(super) fn failures(&self) -> (u32, Timestamp) {
        (self.failures, self.paused_until)
    }
}

#[cfg(test)]
mod tests {
    use paddock_coordination::{Generation, Member, NodeId, PartitionId};
    use ulid::Ulid;

    use super::*;
    use crate::replica::config::FETCH_PAUSE_LEASES_MAX;

    #[test]
    fn pauses_grow_to_a_bound_are_spread_and_end_when_all_is_well() {
        let member = Member { node: NodeId(Ulid(1)), generation: Generation(1) };
        let config = ReplicaConfig {
            partition: PartitionId(0),
            partition_uuid: Ulid(1),
            member,
            lease_ms: 1_000,
            nonce_seed: 0,
        };
        let now = Timestamp(5_000);
        let pauses = |seed: u128| {
            let mut fetching = Fetching::new(now, seed);
            let pause = |_| {
                fetching.failed(now, &config);
                fetching.pause_ms(now).expect("a pause")
            };
            let pauses: Vec<u64> = (0..12).map(pause).collect();
            fetching.is_over(now);
            assert_eq!((fetching.pause_ms(now), fetching.failures().0), (None, 0));
            pauses
        };
        for seed in 0..50 {
            for (failures, pause_ms) in pauses(seed << 70).into_iter().enumerate() {
                let longest_ms = 1_000 * (1_u64 << failures).min(FETCH_PAUSE_LEASES_MAX);
                assert!(pause_ms >= longest_ms / 2 && pause_ms <= longest_ms, "{failures}: {pause_ms}");
            }
        }
        assert_ne!(pauses(1), pauses(2), "two that fail together do not come again together");
    }
}
