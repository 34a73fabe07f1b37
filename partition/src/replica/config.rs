//! What a replica is told at its start, and every duration and bound that follows from it.

use paddock_coordination::{Epoch, Member, PartitionId};
use paddock_storage::{EpochStart, Position, Sequence};
use ulid::Ulid;

use super::fault::Fault;

/// A leader sends this many heartbeats in one lease.
pub const HEARTBEATS_PER_LEASE: u64 = 10;
/// A grant counts for this many percent of the lease, measured from when its heartbeat was sent: the rest is
/// the allowance for clocks that run at different rates.
pub const GRANT_PERCENT: u64 = 90;
/// Candidates stand this far apart, by their place in the replica list.
pub const STAGGER_MS: u64 = 30;
/// A probe, or a window of entries, that stays unanswered for so many heartbeats is sent again.
pub const RESEND_HEARTBEATS: u64 = 2;
/// A leader that hands over releases its target so often; then it goes on itself.
pub const RELEASES_MAX: u32 = 3;
/// A read of the partition's state that stays unanswered for so many heartbeats is asked again, and a
/// configuration change that certainly was not written is not tried sooner.
pub const COORDINATION_RETRY_HEARTBEATS: u64 = 2;
/// For how many leases the coordination service may show an epoch below one that was already seen, before
/// that is taken for rolled back metadata instead of a server that lags.
pub const ROLLBACK_PATIENCE_LEASES: u64 = 10;
/// A follower that is being rebuilt, and says nothing for so many leases (or gets no further with the log, once it has
/// its snapshot), is given up: what was kept for it goes.
pub const REBUILD_PATIENCE_LEASES: u64 = 10;
/// A leader that was told so often in a row that its follower could not fetch a copy keeps no copy and no log for it until the
/// follower tries again.
pub const SNAPSHOT_FAILURES_MAX: u32 = 3;
/// For how many leases a follower does not fetch after a failure, at most; the pause doubles with each, from one lease on.
pub const FETCH_PAUSE_LEASES_MAX: u64 = 32;
/// A follower has at most about so many bytes of entries on their way.
pub const WINDOW_BYTES_MAX: usize = 8 * 1024 * 1024;
/// A follower has at most so many messages with entries on their way.
pub const WINDOW_MESSAGES_MAX: usize = 1024;
/// One [`SendLog`](super::Effect::SendLog) reads at most about so many bytes.
pub const LOG_READ_BYTES_MAX: usize = 1024 * 1024;
/// A leader whose store is damaged, or whose disk stands still, and that could not hand over tries again after so many leases: writes wait while it tries.
pub const YIELD_RETRY_LEASES: u64 = 10;
/// A disk that stood still counts as one that may do so again for so many leases.
pub const STALL_LEASES: u64 = 30;
/// The shortest lease: below it, a heartbeat's interval would round to nothing much.
pub const LEASE_MS_MIN: u64 = 50;

const _: () = assert!(GRANT_PERCENT < 100, "a leader must stop trusting a grant before the promise ends");
const _: () =
    assert!(HEARTBEATS_PER_LEASE > RESEND_HEARTBEATS * 2, "a lost message is sent again within a lease");
const _: () = assert!(HEARTBEATS_PER_LEASE > COORDINATION_RETRY_HEARTBEATS);
const _: () =
    assert!(GRANT_PERCENT * HEARTBEATS_PER_LEASE >= 300, "a lease survives the loss of a heartbeat or two");
const _: () = assert!(LOG_READ_BYTES_MAX <= WINDOW_BYTES_MAX);
const _: () = assert!(LEASE_MS_MIN / HEARTBEATS_PER_LEASE >= 1, "a heartbeat's interval is at least 1 ms");
const _: () = assert!(ROLLBACK_PATIENCE_LEASES >= 1);

/// Who this replica is, and the one duration that the cluster agreed on.
#[derive(Clone, Debug)]
pub struct ReplicaConfig {
    /// The partition.
    pub partition: PartitionId,
    /// The life of the partition that the data belongs to. State that shows another is of another partition.
    pub partition_uuid: Ulid,
    /// This replica: its node, and the generation of its data.
    pub member: Member,
    /// The lease L in milliseconds, from the cluster's record; at least [`LEASE_MS_MIN`].
    pub lease_ms: u64,
    /// 128 random bits, fresh in every start of every replica: the nonces of its state writes count up from
    /// it, so the core needs no source of randomness of its own.
    pub nonce_seed: u128,
}

impl ReplicaConfig {
    /// The lease L, never below [`LEASE_MS_MIN`].
    pub(super) fn lease_ms(&self) -> u64 {
        self.lease_ms.max(LEASE_MS_MIN)
    }

    /// Between two heartbeats.
    pub(super) fn heartbeat_ms(&self) -> u64 {
        self.lease_ms() / HEARTBEATS_PER_LEASE
    }

    /// For how long a grant counts, from when its heartbeat was sent.
    pub(super) fn grant_ms(&self) -> u64 {
        self.lease_ms() * GRANT_PERCENT / 100
    }

    /// After how long an unanswered probe or window is sent again.
    pub(super) fn resend_ms(&self) -> u64 {
        self.heartbeat_ms() * RESEND_HEARTBEATS
    }

    /// After how long the coordination service is asked again.
    pub(super) fn coordination_retry_ms(&self) -> u64 {
        self.heartbeat_ms() * COORDINATION_RETRY_HEARTBEATS
    }

    /// After how long a follower that is being rebuilt, and silent, is given up.
    pub(super) fn rebuild_patience_ms(&self) -> u64 {
        self.lease_ms() * REBUILD_PATIENCE_LEASES
    }

    /// For how long a follower does not fetch, after so many failures in a row. `chance` is any number: half of the pause
    /// depends on it, so that followers that failed together do not come again together.
    pub(super) fn fetch_pause_ms(&self, failures: u32, chance: u64) -> u64 {
        let leases = 1 << failures.saturating_sub(1).min(FETCH_PAUSE_LEASES_MAX.ilog2());
        let half_ms = self.lease_ms() * leases / 2;
        half_ms + chance % (half_ms + 1)
    }

    /// The longest that [`ReplicaConfig::fetch_pause_ms`] is.
    pub(super) fn fetch_pause_ms_max(&self) -> u64 {
        self.lease_ms() * FETCH_PAUSE_LEASES_MAX
    }

    /// For how long a lower epoch than one seen before may be shown.
    pub(super) fn rollback_patience_ms(&self) -> u64 {
        self.lease_ms() * ROLLBACK_PATIENCE_LEASES
    }
}

/// What the log and its manifest say at the start.
#[derive(Clone, Debug, Default)]
pub struct DurableState {
    /// The log's last entry.
    pub last: Position,
    /// Through where the log is durable. Recovery syncs what it keeps, so this is `last.sequence` as a rule.
    pub durable: Sequence,
    /// Through where the index has advanced.
    pub applied: Sequence,
    /// The commit that the log itself proves: a lower bound.
    pub known_commit: Sequence,
    /// Where each epoch of the log begins, ascending.
    pub epochs: Vec<EpochStart>,
    /// The highest epoch that was persisted by [`PersistEpoch`](super::Effect::PersistEpoch); 0 if none was.
    pub epoch_seen: Epoch,
    /// The lineage that was persisted by [`PersistLineage`](super::Effect::PersistLineage): of it is what is known to be
    /// committed. 0 if none was.
    pub lineage: u64,
    /// What was persisted by [`PersistFault`](super::Effect::PersistFault).
    pub fault: Option<Fault>,
}
