//! [`Candidate`]: has asked the coordination service for the next epoch.
//!
//! From the moment that it asks until it certainly knows the answer it neither acknowledges nor grants anything:
//! an acknowledgement given now could complete a commit of the old leader's that the new one, itself, would
//! have to know about. It leads if its own compare-and-set was written, and only then; a state that merely
//! names it as the leader means nothing (it may be of an earlier life, whose promises nobody remembers).

use paddock_coordination::{Member, PartitionState};

use super::Role;
use super::configuration::{Settled, settle_eligible};
use super::core::Core;
use super::follower::Follower;
use super::leader::Leader;
use super::mutation::broken;

/// A candidate; the epoch that it asked for stands in the configuration's change under way.
#[derive(Debug)]
pub(super) struct Candidate {
    _private: (),
}

/// What becomes of the leader before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Former {
    /// It is silent.
    IsSuspected,
    /// It has asked for this election.
    StaysInSync,
}

impl Candidate {
    /// Asks for the next epoch.
    pub(super) fn stand(core: &mut Core, former: Former) -> Role {
        let me = core.config.member;
        let (true, Some(state)) = (core.configuration.may_propose(core.now), core.configuration.latest())
        else {
            return Role::Follower(Follower::new(None));
        };
        assert!(
            state.may_lead(me) || broken!(AnyReplicaStands),
            "only a replica that holds every commit stands"
        );
        assert!(state.epoch == core.epoch(), "a candidate has seen no later epoch than the state's");
        let proposal = elected(state, me, former);
        core.configuration.propose(proposal, &mut core.effects);
        Role::Candidate(Candidate { _private: () })
    }

    /// The answer is certain.
    pub(super) fn settled(self, core: &mut Core, settled: Settled) -> Role {
        match settled {
            Settled::Written => Leader::lead(core),
            // Whoever came first is alive.
            Settled::Lost => {
                core.be_patient();
                Role::Follower(Follower::new(None))
            }
            Settled::NotWritten => Role::Follower(Follower::new(None)),
        }
    }
}

/// The state in which a member is elected. A leader before it that is suspected dead leaves the in-sync set, and stays
/// eligible only if nothing can be committed without it. One that hands over lives, and holds all that it committed.
fn elected(state: &PartitionState, me: Member, former: Former) -> PartitionState {
    let mut next = state.clone();
    next.epoch = state.epoch.next();
    next.leader = Some(me);
    if former == Former::IsSuspected {
        next.in_sync.retain(|member| Some(*member) != state.leader || *member == me);
    }
    if !next.in_sync.contains(&me) {
        next.in_sync.push(me);
    }
    let left: Vec<Member> =
        state.in_sync.iter().filter(|member| !next.in_sync.contains(member)).copied().collect();
    settle_eligible(&mut next, &left);
    next
}
