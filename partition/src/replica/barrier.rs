//! [`Barrier`]: what a read waits for that trusts no clock.
//!
//! A read under the lease believes that promises last for as long as their clocks say. One behind a barrier asks again: every
//! other member that could be elected has to grant a heartbeat that was sent after the read came. Who grants has not taken
//! over a higher epoch, durably; so when the read came none of them was of one, and whoever leads a later epoch is one of them
//! or was elected after one of them. So nobody had committed anything then that this leader has not.
//!
//! *After the read came* is told by the order of this leader's own heartbeats, and not by how much time went by between them: a
//! clock that stands still makes a read wait, and nothing worse.

use paddock_coordination::Epoch;

use super::timestamp::Timestamp;

/// A place in the order of a leader's heartbeats. Whoever reads takes it when the read comes, and may read what is applied
/// once everyone who could be elected has granted a heartbeat that was sent behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Barrier {
    /// The leader's epoch.
    pub(super) epoch: Epoch,
    /// When the last heartbeat was sent, if one was: one that counts shows a later time.
    pub(super) behind: Option<Timestamp>,
}

impl Barrier {
    /// One of a reign that has sent no heartbeat yet.
    #[cfg(test)]
    pub(crate) fn of_no_heartbeat(epoch: Epoch) -> Self {
        Barrier { epoch, behind: None }
    }
}
