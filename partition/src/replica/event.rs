//! [`Event`]: everything that can happen to a replica.

use std::collections::BTreeSet;

use paddock_coordination::{Epoch, Member, NodeId, PartitionState, Version};
use paddock_storage::{Position, Rows, Sequence};

use super::config::DurableState;
use super::message::Message;
use super::timestamp::Timestamp;

/// Something that happened. The runtime steps the replica with each, one at a time.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time has passed: due at [`Replica::next_deadline`](super::Replica::next_deadline) at the latest,
    /// harmless at any time.
    Tick,
    /// Append rows as the entries after the last one. Only while
    /// [`may_propose`](super::Replica::may_propose) says so; otherwise nothing happens.
    Propose {
        /// One row for each entry.
        rows: Rows,
        /// The leader's wall clock, in milliseconds since 1970.
        log_time_ms: u64,
    },
    /// The log is fsynced through here. A sync that began before a
    /// [`Truncate`](super::Effect::Truncate) must not be reported after it.
    Durable {
        /// The last durable entry.
        through: Sequence,
    },
    /// [`Apply`](super::Effect::Apply) was performed through here.
    Applied {
        /// The last applied entry.
        through: Sequence,
    },
    /// A message from another replica of the same partition (the runtime compares the partition's uuid).
    Received {
        /// Who sent it: its node, and the generation that the envelope carries.
        from: Member,
        /// The message.
        message: Message,
    },
    /// The partition's state as the coordination service shows it: from the watch, or the answer to
    /// [`ReadState`](super::Effect::ReadState). Older ones than those already seen are harmless.
    StateObserved {
        /// The state and its version.
        state: ObservedState,
    },
    /// The answer to [`WriteState`](super::Effect::WriteState). There is exactly one for each.
    StateWritten {
        /// What became of it.
        outcome: WriteOutcome,
    },
    /// The answer to [`SendLog`](super::Effect::SendLog). There is exactly one for each, this or
    /// [`LogReleased`](Event::LogReleased).
    LogSent {
        /// The follower that it was sent to.
        to: NodeId,
        /// The last entry that was sent; `previous.sequence` if there was none to send.
        through: Sequence,
    },
    /// The answer to [`SendLog`](super::Effect::SendLog) where the log begins behind what was to be sent.
    LogReleased {
        /// The follower that it was for.
        to: NodeId,
    },
    /// The answer to [`SendSnapshot`](super::Effect::SendSnapshot), in whatever epoch it comes.
    SnapshotReady {
        /// The follower that the copy is for.
        to: NodeId,
        /// The epoch that it was asked for in.
        epoch: Epoch,
        /// Which one it was in that epoch.
        attempt: u64,
        /// The last entry of its log; `None` if it could not be made.
        last: Option<Position>,
    },
    /// The answer to [`FetchSnapshot`](super::Effect::FetchSnapshot), unless that was discarded.
    SnapshotFetched {
        /// Which fetch it was.
        fetch: u64,
        /// What its log says, every byte of it verified; `None` if it could not be had.
        state: Option<DurableState>,
    },
    /// The disk refuses growth. Comes again for as long as it does.
    DiskFull,
    /// Reads have come that wait behind a [`Barrier`](super::Barrier): a heartbeat is due at once.
    BarrierRead,
    /// Hand leadership over, by plan: so that no write and no read fails. Ends in
    /// [`LostLeadership`](super::Effect::LostLeadership) or in [`TransferFailed`](super::Effect::TransferFailed).
    TransferLeadership {
        /// To which node; to the best one if that is left open.
        to: Option<NodeId>,
        /// By then the target is told to stand, or the leader goes on. On this replica's clock.
        deadline: Timestamp,
    },
    /// Which nodes are drained, as the cluster's map has it: they are handed nothing, and stand only where nobody else
    /// does.
    NodesDrained {
        /// The nodes: all of them, each time.
        nodes: BTreeSet<NodeId>,
    },
    /// Bytes of the store are not as they were written: whoever reads them is told, and gets none of them. Told once or often.
    StoreDamaged {
        /// Where and what, for people.
        what: String,
    },
    /// The disk stood still for longer than it may, and has come back: it may do so again.
    DiskStalled,
    /// The process is about to stop: no more candidacies, and the leader is told to go on without this replica. It may
    /// still lead until it has handed over.
    Leave,
    /// A graceful stop has begun: no more proposals, and no more candidacies.
    Stop,
}

/// A partition's state with the version of the value that it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedState {
    /// The version: rises with every write.
    pub version: Version,
    /// The state.
    pub state: PartitionState,
}

/// What became of a compare-and-set of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// It was written, and this is its version.
    Written(Version),
    /// The version was no longer the expected one.
    Conflict,
    /// Nobody knows: it may have been written, and may still be.
    Unknown,
    /// The service did not get it: it was not written, and will not be.
    NotWritten,
}
