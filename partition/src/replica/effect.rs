//! [`Effect`]: everything that a replica may ask of the runtime.

use paddock_coordination::{Epoch, Member, NodeId, PartitionState, Version};
use paddock_storage::{LogEntries, Position, Sequence};

use super::fault::Fault;
use super::message::Message;

/// Something to be done. The runtime performs the effects of one step in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Keep the epoch as the highest one seen: durable before any effect after it is performed.
    PersistEpoch(Epoch),
    /// Keep the lineage as the one that the log is of: durable before any effect after it is performed. Sessions that have
    /// seen an earlier one are over.
    PersistLineage(u64),
    /// Keep with the replica's facts why its data is not to be relied on: durable before any effect after it is performed.
    PersistFault(Fault),
    /// Give the store up: nothing more is done with this replica. Its files are set aside, and the replica begins anew with an empty
    /// store, as another generation. The last effect of all.
    AbandonStore,
    /// Cut every entry after this one, durably.
    Truncate {
        /// The last entry to keep.
        last_kept: Sequence,
    },
    /// Write entries after the log's last. After the round of effects the runtime syncs once and steps
    /// [`Durable`](super::Event::Durable).
    Append {
        /// The entries, of one epoch.
        entries: LogEntries,
        /// What is known to be committed, for the batch's header; below the first of the entries, so that a
        /// log whose tail is torn never claims a commit that it does not hold.
        known_commit: Sequence,
    },
    /// Send a message. It may be lost, doubled, or overtaken by others.
    Send {
        /// To whom.
        to: NodeId,
        /// The message.
        message: Message,
    },
    /// Read the log after `previous` (about [`LOG_READ_BYTES_MAX`](super::config::LOG_READ_BYTES_MAX) bytes),
    /// send it as a [`Message::Append`] with the fields given here, and step
    /// [`LogSent`](super::Event::LogSent), or [`LogReleased`](super::Event::LogReleased) if the log no longer has the entry
    /// after `previous`.
    SendLog {
        /// To whom.
        to: NodeId,
        /// The message's epoch.
        epoch: Epoch,
        /// The entry before the first to be sent.
        previous: Position,
        /// The message's commit.
        commit: Sequence,
    },
    /// Have a copy of the whole store made for a follower, as it is now, and step
    /// [`SnapshotReady`](super::Event::SnapshotReady). It is kept until [`DropSnapshot`](Self::DropSnapshot) or
    /// [`LostLeadership`](Self::LostLeadership).
    SendSnapshot {
        /// For whom.
        to: NodeId,
        /// Which one it is in this epoch: another than any before.
        attempt: u64,
    },
    /// A follower needs its copy no more.
    DropSnapshot {
        /// Whose.
        to: NodeId,
    },
    /// Fetch the copy that a leader keeps for this replica, verify every byte of it, and step
    /// [`SnapshotFetched`](super::Event::SnapshotFetched). In place of any that is being fetched.
    FetchSnapshot {
        /// The leader.
        from: Member,
        /// Its epoch.
        epoch: Epoch,
        /// Which copy of the leader's in that epoch.
        attempt: u64,
        /// The last entry of the copy's log.
        last: Position,
        /// Which fetch of this replica's, for the answer: another than any before.
        fetch: u64,
    },
    /// Put the copy that was fetched in the place of the store, durably, with this replica's own facts: the log that
    /// there was is gone, and the copy's counts before any effect after this one is performed. Nobody reads it before it is
    /// applied as far as is said here: what reads saw does not go back.
    InstallSnapshot {
        /// The last entry of its log.
        last: Position,
        /// What of it is to be applied, at least what was applied of the store before it.
        apply_through: Sequence,
    },
    /// Stop fetching, and forget what was fetched.
    DiscardSnapshot,
    /// Advance the index through here, then step [`Applied`](super::Event::Applied). On a leader the writes up
    /// to here may be answered then.
    Apply {
        /// The last entry to apply.
        through: Sequence,
    },
    /// Write the partition's state if its version is still the expected one, then step
    /// [`StateWritten`](super::Event::StateWritten). There is never a second one before the answer.
    WriteState {
        /// The expected version.
        expected: Version,
        /// The new state, with its nonce.
        state: PartitionState,
    },
    /// Read the partition's state again: answered by [`StateObserved`](super::Event::StateObserved), after
    /// the writes that were asked for earlier. A read that fails needs no answer: it is asked again.
    ReadState,
    /// This replica leads now; it serves nothing before
    /// [`may_propose`](super::Replica::may_propose) says so.
    BecameLeader {
        /// The epoch.
        epoch: Epoch,
    },
    /// This replica no longer leads: the outcome of every write that waits is unknown.
    LostLeadership {
        /// The epoch that it led.
        epoch: Epoch,
    },
    /// The hand-over that was asked for last did not come about: this replica leads on, if it did before.
    TransferFailed {
        /// Why.
        why: String,
        /// True if no other replica was heard of lately that is not about to stop.
        nobody_stays: bool,
    },
    /// This replica takes no further part, until an operator has looked at it.
    Quarantined {
        /// Why.
        reason: String,
    },
}
