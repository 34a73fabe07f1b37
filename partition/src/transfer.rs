//! Hand-overs of leadership, as the rest of the node asks its replicas for them.

use std::time::{Duration, Instant};

use paddock_coordination::{Epoch, NodeId};
use tokio::sync::oneshot;

use crate::clock::Timestamp;

/// How a hand-over ended that came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transferred {
    /// Who leads now, as far as the former leader knows.
    pub leader: Option<NodeId>,
    /// In which epoch.
    pub epoch: Epoch,
    /// How long no write was begun here before that was known.
    pub took: Duration,
}

/// Why leadership was not handed over. The leader, if there was one here, leads on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// The replica does not lead.
    #[error("this node does not lead the partition")]
    NotLeader {
        /// Who does, as far as it knows.
        leader: Option<NodeId>,
    },
    /// The leader kept its leadership.
    #[error("{why}")]
    Refused {
        /// Why.
        why: String,
        /// True if no other replica is there that stays: to try again soon is no use.
        nobody_stays: bool,
    },
    /// Another hand-over of the same partition is under way.
    #[error("another hand-over is under way")]
    Busy,
    /// The replica stopped meanwhile, or there is none.
    #[error("this node has no replica of the partition that runs")]
    Stopped,
    /// It is not known how it ended: the leader waits for what becomes of it, and serves nothing meanwhile.
    #[error("the hand-over has begun, and has not ended in time")]
    TimedOut,
}

/// Where the answer goes.
pub type TransferReply = oneshot::Sender<Result<Transferred, TransferError>>;

/// Where whoever asked waits for it.
pub type TransferAnswer = oneshot::Receiver<Result<Transferred, TransferError>>;

/// A hand-over that somebody asks for.
#[derive(Debug)]
pub struct TransferRequest {
    /// To which node; to the best one if that is left open.
    pub to: Option<NodeId>,
    /// By then the target is told to stand, or the leader goes on.
    pub deadline: Timestamp,
    /// Where the answer goes.
    pub reply: TransferReply,
}

impl TransferRequest {
    /// A request, and where its answer comes.
    #[must_use]
    pub fn new(to: Option<NodeId>, deadline: Timestamp) -> (Self, TransferAnswer) {
        let (reply, answer) = oneshot::channel();
        (TransferRequest { to, deadline, reply }, answer)
    }
}

/// The hand-over that an owner loop is at.
#[derive(Debug)]
pub struct Transfer {
    /// Where the answer goes.
    pub reply: TransferReply,
    /// Since when no write is begun.
    pub began: Instant,
}
