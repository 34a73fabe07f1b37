//! [`Handover`]: the planned end of a reign, in which nothing fails.
//!
//! ```text
//! settling: propose nothing, go on serving reads, until all that was proposed is committed and applied here
//!     |      and the target holds it durably: nobody waits for anything of this reign any more
//!     v
//! released: Release(sent_at) has left. No read is served on a grant that answers a heartbeat of before
//!     |      sent_at or of that very moment, so none at all for now; nothing is proposed
//!     |-- a higher epoch is heard of -> the reign is over, as planned
//!     |-- the target grants a later heartbeat: it will never follow that release -> settle again, or give up
//!     '-- the target has left the sets of those that may lead -> give up
//! ```
//!
//! Giving up is going on: proposals at once, reads when every member has granted a heartbeat sent after the release.
//! `PROTOCOL.md` says why a release may be lost, doubled or late.

use paddock_coordination::{Member, NodeId, PartitionState};

use super::Leader;
use crate::replica::config::{RELEASES_MAX, YIELD_RETRY_LEASES};
use crate::replica::core::Core;
use crate::replica::effect::Effect;
use crate::replica::message::{Message, Readiness};
use crate::replica::mutation::broken;
use crate::replica::timestamp::Timestamp;

/// A hand-over under way.
#[derive(Debug)]
pub(super) struct Handover {
    target: Member,
    /// Before this the release has left, or the leader gives up.
    deadline: Timestamp,
    releases: u32,
    /// When the last release left, as long as the target may follow it.
    released: Option<Timestamp>,
}

impl Handover {
    /// When a tick is due to give up.
    pub(super) fn due(&self) -> Option<Timestamp> {
        self.released.is_none().then_some(self.deadline)
    }
}

impl Leader {
    /// Begins to hand over, to this node or to whoever is the best.
    pub(in crate::replica) fn transfer(&mut self, core: &mut Core, to: Option<NodeId>, deadline: Timestamp) {
        match self.choose_target(core, to) {
            Ok(target) => self.begin_handover(core, target, deadline),
            Err(why) => {
                let nobody_stays = !self.somebody_stays(core);
                core.effects.push(Effect::TransferFailed { why, nobody_stays });
            }
        }
    }

    /// Hands over by itself, if its store is damaged, or its disk stands still now and then, and somebody is there who can take over. While it tries, writes wait: so what
    /// does not come about is not tried again soon.
    pub(in crate::replica) fn yield_leadership(&mut self, core: &mut Core) {
        if !core.is_reluctant() || self.handover.is_some() || core.now < self.yield_at {
            return;
        }
        if let Ok(target) = self.choose_target(core, None) {
            let lease_ms = core.config.lease_ms();
            self.yield_at = core.now.plus_ms(lease_ms * YIELD_RETRY_LEASES);
            self.begin_handover(core, target, core.now.plus_ms(lease_ms));
        }
    }

    fn begin_handover(&mut self, core: &mut Core, target: Member, deadline: Timestamp) {
        self.handover = Some(Handover { target, deadline, releases: 0, released: None });
        // Nobody is taken in meanwhile, so nothing waits for who was about to be.
        self.joining = None;
        self.advance_handover(core);
    }

    /// Releases the target, if all that it takes is there; gives up what takes too long.
    pub(in crate::replica) fn advance_handover(&mut self, core: &mut Core) {
        let Some(handover) = &self.handover else { return };
        let target = handover.target;
        if !core.configuration.latest().is_some_and(|state| may_take_over(state, target)) {
            return self.give_up(core, "its target has left the in-sync set".to_owned());
        }
        if handover.released.is_some() {
            return;
        }
        if core.now >= handover.deadline {
            return self.give_up(core, "its time is over".to_owned());
        }
        if self.is_settled(core, target) {
            self.release(core);
        }
    }

    /// The target granted a heartbeat that was sent then.
    pub(super) fn target_granted(&mut self, core: &mut Core, from: Member, sent_at: Timestamp) {
        let Some(handover) = &mut self.handover else { return };
        if handover.target.node != from.node || handover.released.is_none_or(|released| sent_at <= released) {
            return;
        }
        // It has promised anew, and will not follow the release any more.
        handover.released = None;
        if handover.releases >= RELEASES_MAX || handover.target != from {
            return self.give_up(core, format!("{from} was released and did not take over"));
        }
        self.advance_handover(core);
    }

    /// Whether nobody waits for anything of this reign, and the target has all of it.
    fn is_settled(&self, core: &Core, target: Member) -> bool {
        let last = core.last().sequence;
        core.configuration.may_commit()
            && !core.configuration.is_unsettled()
            && self.is_ready(core)
            && (broken!(ReleasedBeforeItHasEverything)
                || (core.commit() == last
                    && core.applied() == last
                    && self.acknowledged_by(core, target) >= last))
    }

    fn release(&mut self, core: &mut Core) {
        let Some(handover) = &mut self.handover else { return };
        let sent_at = core.now;
        handover.releases += 1;
        handover.released = Some(sent_at);
        let node = handover.target.node;
        // From here on no grant from before counts, the target's least of all.
        self.released_at = Some(sent_at);
        core.send(node, Message::Release { epoch: core.epoch(), sent_at });
    }

    /// Goes on with the reign.
    fn give_up(&mut self, core: &mut Core, why: String) {
        self.handover = None;
        // What was released has to be granted anew: soon.
        self.heartbeat_due = core.now;
        let nobody_stays = !self.somebody_stays(core);
        core.effects.push(Effect::TransferFailed { why, nobody_stays });
    }

    /// Whether another replica is there, in sync or not, that is not about to stop.
    fn somebody_stays(&self, core: &Core) -> bool {
        self.followers.values().any(|progress| {
            progress.member().is_some_and(|member| {
                // That it was heard of lately is enough, whatever its grant still counts for.
                progress.is_granted_by(member, core.now, None, &core.config)
                    && progress.readiness(member) != Readiness::Leaving
            })
        })
    }

    fn choose_target(&self, core: &Core, to: Option<NodeId>) -> Result<Member, String> {
        if let Some(handover) = &self.handover {
            return Err(format!("a hand-over to {} is under way", handover.target));
        }
        let Some(state) = core.configuration.latest().filter(|_| self.is_ready(core)) else {
            return Err("the leader is not ready yet".to_owned());
        };
        if let Some(node) = to {
            let member = state.in_sync.iter().find(|member| member.node == node);
            let member = member.ok_or_else(|| format!("node {node} is not in sync"))?;
            self.may_be_target(core, state, *member)?;
            return Ok(*member);
        }
        let mut best: Option<Member> = None;
        let mut problem = "no other replica is in sync".to_owned();
        for member in state.in_sync.iter().filter(|member| **member != core.config.member) {
            match self.may_be_target(core, state, *member) {
                Err(why) => problem = why,
                Ok(()) => {
                    let reach = |member| self.acknowledged_by(core, member);
                    if best.is_none_or(|best| reach(*member) > reach(best)) {
                        best = Some(*member);
                    }
                }
            }
        }
        best.ok_or(problem)
    }

    /// Whether a member of the in-sync set could take over now.
    fn may_be_target(&self, core: &Core, state: &PartitionState, member: Member) -> Result<(), String> {
        let node = member.node;
        if member == core.config.member {
            return Err(format!("node {node} leads already"));
        }
        if !state.replicas.contains(&node) {
            return Err(format!("node {node} is not in the replica list"));
        }
        if core.drained.contains(&node) {
            return Err(format!("node {node} is drained"));
        }
        if !self.is_granted(core, member, core.now) {
            return Err(format!("node {node} has not been heard of lately"));
        }
        match self.readiness(member) {
            Readiness::CanTakeOver => Ok(()),
            Readiness::NotNow => Err(format!("node {node} cannot take over yet, as it says")),
            Readiness::Leaving => Err(format!("node {node} is about to stop")),
        }
    }
}

/// Whether a member may take over. One that has left the in-sync set may still be elected while nothing else can be
/// committed; but to wait for it would be to wait for who is silent, and meanwhile nobody else could join.
fn may_take_over(state: &PartitionState, target: Member) -> bool {
    state.in_sync.contains(&target) && state.replicas.contains(&target.node)
}
