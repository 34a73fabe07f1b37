//! [`Message`]: what replicas of one partition say to each other.

use paddock_coordination::Epoch;
use paddock_storage::{LogEntries, Position, Sequence};

use super::timestamp::Timestamp;

/// What a follower says of itself as it grants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Readiness {
    /// It could not stand for election now.
    #[default]
    NotNow,
    /// It would stand at once if it were released.
    CanTakeOver,
    /// Its process is about to stop: the leader is to go on without it.
    Leaving,
}

/// A message. Each may be lost, doubled or reordered without harm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Leader to follower: asks for a promise, and says how far the leader has committed.
    Heartbeat {
        /// The leader's epoch.
        epoch: Epoch,
        /// The leader's clock when it sent this; the grant repeats it.
        sent_at: Timestamp,
        /// The leader's commit.
        commit: Sequence,
        /// From the follower's last grant, while the leader holds the lease; 0: nothing to answer.
        echo: u64,
        /// The lineage of the leader's log.
        lineage: u64,
        /// Whether the leader knows of no damage to its store. Others give theirs up only for a leader that says so.
        is_sound: bool,
    },
    /// Follower to leader: promises not to become a candidate for the lease.
    Grant {
        /// The follower's epoch.
        epoch: Epoch,
        /// From the heartbeat.
        sent_at: Timestamp,
        /// What the follower could do for a leader that wants to hand over.
        readiness: Readiness,
        /// The follower's clock when it sent this, in its own words; a later heartbeat repeats it.
        asked: u64,
    },
    /// Leader to follower: entries.
    Append {
        /// The leader's epoch.
        epoch: Epoch,
        /// The entry before the first one here.
        previous: Position,
        /// Runs of entries, in sequence, each of one epoch. None: a probe.
        entries: Vec<LogEntries>,
        /// The leader's commit.
        commit: Sequence,
    },
    /// Follower to leader: the follower holds the leader's log up to here, durably.
    Ack {
        /// The follower's epoch.
        epoch: Epoch,
        /// The last entry of which that is true.
        sequence: Sequence,
    },
    /// Follower to leader: it does not hold the entry before an append's first.
    Mismatch {
        /// The follower's epoch.
        epoch: Epoch,
        /// The last place at which the follower's log may agree with the leader's.
        hint: Position,
    },
    /// Follower to leader, of a higher lineage: the follower's log differs from the leader's where it is known to be committed by
    /// an earlier lineage, so that it cannot be cut. It needs a copy of the whole store.
    Rebuild {
        /// The follower's epoch.
        epoch: Epoch,
    },
    /// Leader to follower: the log no longer has what the follower lacks. A copy of the whole store waits for it.
    Snapshot {
        /// The leader's epoch.
        epoch: Epoch,
        /// Which copy it is, among those that this leader made for the follower: later ones have higher numbers.
        attempt: u64,
        /// The last entry of the copy's log.
        last: Position,
    },
    /// Follower to leader: the follower could not fetch a copy, and does not try for a while.
    SnapshotFailed {
        /// The follower's epoch.
        epoch: Epoch,
        /// Which copy.
        attempt: u64,
        /// How often in a row it has failed by now, with this copy or others.
        failures: u32,
        /// For how long it does not try, in milliseconds.
        pause_ms: u64,
    },
    /// Leader to follower: the leader serves nothing any more, and the follower is to stand at once, whatever it has
    /// promised.
    Release {
        /// The leader's epoch.
        epoch: Epoch,
        /// The leader's clock when it sent this. It counts no grant for a heartbeat that it sent no later; a follower
        /// that has granted a later one passes the release over.
        sent_at: Timestamp,
    },
    /// To a leader whose epoch is over.
    Stale {
        /// The epoch that the sender knows.
        epoch: Epoch,
    },
}

impl Message {
    /// The sender's epoch, which every message carries.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        match self {
            Message::Heartbeat { epoch, .. }
            | Message::Grant { epoch, .. }
            | Message::Append { epoch, .. }
            | Message::Ack { epoch, .. }
            | Message::Mismatch { epoch, .. }
            | Message::Rebuild { epoch }
            | Message::Snapshot { epoch, .. }
            | Message::SnapshotFailed { epoch, .. }
            | Message::Release { epoch, .. }
            | Message::Stale { epoch } => *epoch,
        }
    }

    /// Whether only a leader says this, and of its own epoch.
    pub(super) fn is_leaders(&self) -> bool {
        matches!(
            self,
            Message::Heartbeat { .. }
                | Message::Append { .. }
                | Message::Snapshot { .. }
                | Message::Release { .. }
        )
    }

    /// What the message weighs in a queue, in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        const OVERHEAD_BYTES: usize = 128;
        let run = |run: &LogEntries| OVERHEAD_BYTES + run.rows.encoded().len();
        OVERHEAD_BYTES
            + match self {
                Message::Append { entries, .. } => entries.iter().map(run).sum(),
                _ => 0,
            }
    }
}
