//! What a replica says about itself.

use paddock_coordination::{Epoch, Generation, Member, NodeId};
use paddock_storage::{Position, Sequence};

use std::fmt;

/// The name of a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleName {
    /// Follows whoever leads, or waits for somebody to.
    Follower,
    /// Has asked the coordination service for an epoch, and does not know the answer yet.
    Candidate,
    /// Leads.
    Leader,
    /// Takes no part.
    Quarantined,
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RoleName::Follower => "follower",
            RoleName::Candidate => "candidate",
            RoleName::Leader => "leader",
            RoleName::Quarantined => "quarantined",
        })
    }
}

/// Why a replica does not take a write or a read now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It does not lead.
    NotLeader {
        /// Who does, as far as this replica knows.
        leader: Option<NodeId>,
        /// The epoch that it knows.
        epoch: Epoch,
    },
    /// It leads, and will serve in a moment: its epoch's first entry is not committed and applied yet.
    NotReady,
    /// It leads, and cannot serve as things are.
    Unavailable {
        /// Why, in words.
        why: String,
    },
}

/// A replica's condition, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// Its role.
    pub role: RoleName,
    /// The highest epoch that it knows.
    pub epoch: Epoch,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// Its log's last entry.
    pub last: Position,
    /// Through where its log is durable.
    pub durable: Sequence,
    /// What it knows to be committed.
    pub commit: Sequence,
    /// What its index has.
    pub applied: Sequence,
    /// The in-sync set, as the coordination service last showed it.
    pub in_sync: Vec<Member>,
    /// The eligible set, as the coordination service last showed it.
    pub eligible: Vec<Member>,
    /// The last entry of the snapshot that it is fetching from its leader.
    pub installing: Option<Position>,
    /// On a leader: its followers.
    pub followers: Vec<FollowerStatus>,
    /// What is wrong, if anything is.
    pub problem: Option<String>,
}

/// How far a follower is, as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FollowerStatus {
    /// The node.
    pub node: NodeId,
    /// The generation that it answered with, if it answered.
    pub generation: Option<Generation>,
    /// What it acknowledged in this epoch.
    pub acknowledged: Sequence,
    /// Probing, replicating, reading from the log, or installing a snapshot.
    pub state: &'static str,
    /// Whether its last grant still counts.
    pub granted: bool,
}
