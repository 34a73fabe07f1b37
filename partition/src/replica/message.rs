//! [`Message`]: what replicas of one partition say to each other.

use paddock_coordination::Epoch;
use paddock_storage::{LogEntries, Position, Sequence};

use super::timestamp::Timestamp;

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
    },
    /// Follower to leader: promises not to become a candidate for the lease.
    Grant {
        /// The follower's epoch.
        epoch: Epoch,
        /// From the heartbeat.
        sent_at: Timestamp,
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
    /// Leader to follower: the log no longer has what the follower lacks. A copy of the whole store waits for it.
    Snapshot {
        /// The leader's epoch.
        epoch: Epoch,
        /// The last entry of the copy's log.
        last: Position,
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
            | Message::Snapshot { epoch, .. }
            | Message::Stale { epoch } => *epoch,
        }
    }

    /// Whether only a leader says this, and of its own epoch.
    pub(super) fn is_leaders(&self) -> bool {
        matches!(self, Message::Heartbeat { .. } | Message::Append { .. } | Message::Snapshot { .. })
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
