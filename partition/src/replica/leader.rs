//! [`Leader`]: appends, streams to its followers, and commits what every one that counts has made durable.
//!
//! Those that count are M: the in-sync set as the coordination service has it, and that of the change under way,
//! because either may be the one in force. An entry is committed when every member of M, this very generation
//! of it, has acknowledged it in this epoch; when the in-sync set that the coordination service *confirmed* is
//! large enough (a proposed member may turn out never to have been one); and when the epoch's own first entry
//! is, too (entries of earlier epochs are committed by being before it, never by being counted themselves).
//!
//! Reads need no log entry: as long as every other member that could be elected has promised not to stand,
//! nobody else can have committed anything. The promise is measured from when the heartbeat was *sent*. A read that trusts
//! no clock waits for promises that were given after it came: see [`Barrier`].

mod handover;

use std::collections::{BTreeMap, BTreeSet};

use paddock_coordination::{Epoch, Member, NodeId, PartitionState};
use paddock_storage::{LogEntries, Position, Rows, RowsBuilder, Sequence};

use self::handover::Handover;
use super::Role;
use super::barrier::Barrier;
use super::configuration::{Configuration, min_in_sync, settle_eligible};
use super::core::Core;
use super::effect::Effect;
use super::follower::Follower;
use super::message::{Message, Readiness};
use super::mutation::broken;
use super::progress::Progress;
use super::quarantined::Quarantined;
use super::status::{FollowerStatus, Refusal};
use super::timestamp::Timestamp;

/// For how many leases a reign below `min_in_sync` counts as one that only waits for its followers to join.
const JOIN_PATIENCE_LEASES: u64 = 2;

/// The leader of the core's epoch.
#[derive(Debug)]
pub(super) struct Leader {
    /// The epoch's first entry; nothing is served before it is committed.
    epoch_start: Sequence,
    since: Timestamp,
    heartbeat_due: Timestamp,
    /// When the last heartbeats were sent.
    heartbeat_sent: Option<Timestamp>,
    /// Reads wait for a heartbeat that is sent later than the last ones.
    barrier_waits: bool,
    /// The commit when the last heartbeats were sent: who holds that much is close enough to join.
    commit_at_heartbeat: Sequence,
    followers: BTreeMap<NodeId, Progress>,
    joining: Option<Joining>,
    handover: Option<Handover>,
    /// How many copies of the store were asked for in this reign.
    snapshots: u64,
    /// A leader with a damaged store does not try to hand over before this.
    yield_at: Timestamp,
    /// When this reign last released somebody: a grant counts only if it answers a heartbeat that was sent later.
    released_at: Option<Timestamp>,
}

/// A follower that is about to be proposed for the in-sync set. Commits wait for it already, so that it can draw
/// level with a commit that would otherwise always be a little ahead of it.
#[derive(Debug)]
struct Joining {
    member: Member,
    since: Timestamp,
}

impl Leader {
    /// Begins the reign that the coordination service has just confirmed.
    pub(super) fn lead(core: &mut Core) -> Role {
        let me = core.config.member;
        let Some(state) = core.configuration.latest().filter(|state| state.leader == Some(me)) else {
            return Role::Follower(Follower::new(None));
        };
        let epoch = state.epoch;
        let marker = match epoch_start_marker(epoch, me) {
            Ok(marker) => marker,
            Err(error) => return Quarantined::because(format!("the epoch's first entry: {error}")),
        };
        if epoch > core.epoch() || !broken!(LeadsBecauseTheStateSaysSo) {
            core.adopt(epoch);
        }
        core.effects.push(Effect::BecameLeader { epoch });
        let epoch_start = Sequence(core.last().sequence.0 + 1);
        let mut leader = Leader {
            epoch_start,
            since: core.now,
            heartbeat_due: core.now,
            heartbeat_sent: None,
            barrier_waits: false,
            commit_at_heartbeat: core.commit(),
            followers: BTreeMap::new(),
            joining: None,
            handover: None,
            snapshots: 0,
            yield_at: core.now,
            released_at: None,
        };
        for node in peers(core) {
            leader.followers.insert(node, Progress::new(core.now, epoch_start));
        }
        // The core has no wall clock, and the marker is no statement: it has no time.
        leader.append(core, marker, 0);
        leader.tick(core);
        Role::Leader(leader)
    }

    /// Appends rows, and sends them to every follower that keeps up.
    pub(super) fn propose(&mut self, core: &mut Core, rows: Rows, log_time_ms: u64) {
        if rows.count() > 0 {
            self.append(core, rows, log_time_ms);
        }
    }

    /// A message of this very epoch.
    pub(super) fn receive(mut self, core: &mut Core, from: Member, message: &Message) -> Role {
        let (now, last) = (core.now, core.last().sequence);
        if message.is_leaders() {
            let epoch = core.epoch();
            core.effects.push(Effect::LostLeadership { epoch });
            return Quarantined::because(format!(
                "{from} leads epoch {epoch}, which this replica has won itself"
            ));
        }
        let Some(progress) = self.followers.get_mut(&from.node) else { return Role::Leader(self) };
        progress.identify(now, from, last);
        match message {
            Message::Grant { sent_at, readiness, asked, .. } if *sent_at <= now => {
                progress.grant(now, *sent_at, *readiness, *asked);
                self.target_granted(core, from, *sent_at);
                if *readiness == Readiness::Leaving {
                    self.reconfigure(core);
                }
            }
            Message::Ack { sequence, .. } if *sequence <= last => {
                progress.acknowledge(now, *sequence, last);
                self.advance_commit(core);
                self.reconfigure(core);
                self.advance_handover(core);
            }
            Message::Mismatch { hint, .. } => progress.mismatch(core.history.floor(*hint).sequence),
            Message::SnapshotFailed { attempt, failures, pause_ms, .. } => {
                progress.snapshot_failed(now, *attempt, *failures, *pause_ms, &core.config);
            }
            Message::Rebuild { .. } => self.rebuild(core, from.node),
            _ => {}
        }
        self.drive(core, from.node);
        Role::Leader(self)
    }

    /// The local log has become durable further.
    pub(super) fn durable(&mut self, core: &mut Core) {
        self.advance_commit(core);
        self.advance_handover(core);
    }

    /// A read of the log for a follower is done.
    pub(super) fn log_sent(&mut self, core: &mut Core, to: NodeId, through: Sequence) {
        if let Some(progress) = self.followers.get_mut(&to) {
            progress.log_sent(core.now, through.min(core.last().sequence));
            self.drive(core, to);
        }
    }

    /// The log no longer has what was to be read for a follower.
    pub(super) fn log_released(&mut self, core: &mut Core, to: NodeId) {
        let counts = self.counts(core, to);
        if let Some(progress) = self.followers.get_mut(&to) {
            let attempt = self.snapshots + 1;
            if progress.log_released(core.now, core.last().sequence, counts, attempt) {
                self.snapshots = attempt;
                core.effects.push(Effect::SendSnapshot { to, attempt });
            }
            self.drive(core, to);
        }
    }

    /// A follower has entries that an earlier lineage committed, and this one did not: no log brings it here.
    fn rebuild(&mut self, core: &mut Core, node: NodeId) {
        let counts = self.counts(core, node);
        let attempt = self.snapshots + 1;
        if let Some(progress) = self.followers.get_mut(&node)
            && progress.needs_copy(core.last().sequence, counts, attempt)
        {
            self.snapshots = attempt;
            core.effects.push(Effect::SendSnapshot { to: node, attempt });
        }
    }

    /// The copy for a follower was made, or could not be.
    pub(super) fn snapshot_ready(
        &mut self,
        core: &mut Core,
        to: NodeId,
        attempt: u64,
        last: Option<Position>,
    ) {
        if let Some(progress) = self.followers.get_mut(&to) {
            progress.snapshot_ready(core.now, attempt, last, &core.config);
            self.drive(core, to);
        }
    }

    /// The disk is full: what is kept for followers that are being rebuilt goes, so that writes go on.
    pub(super) fn give_rebuilds_up(&mut self, core: &mut Core) {
        let until = core.now.plus_ms(core.config.fetch_pause_ms_max());
        for progress in self.followers.values_mut() {
            progress.give_rebuild_up(until);
        }
        for node in peers(core) {
            self.drive(core, node);
        }
    }

    /// The first entry of the log that a follower needs which is being rebuilt.
    pub(super) fn log_needed(&self) -> Option<Sequence> {
        if broken!(LogIsNotKeptForTheRebuilt) {
            return None;
        }
        self.followers.values().filter_map(Progress::log_needed).min()
    }

    /// Whether a node's member holds every committed entry, by any configuration that may be in force or is about to be.
    fn counts(&self, core: &Core, node: NodeId) -> bool {
        let states = core.configuration.in_force();
        let mut members = states.flat_map(|state| state.in_sync.iter().chain(&state.eligible));
        let member = self.followers.get(&node).and_then(Progress::member);
        members.any(|other| Some(*other) == member)
            || self.joining.as_ref().is_some_and(|joining| Some(joining.member) == member)
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, core: &mut Core) {
        let (now, last) = (core.now, core.last().sequence);
        if now >= self.heartbeat_due {
            self.heartbeat_due = now.plus_ms(core.config.heartbeat_ms());
            self.send_heartbeats(core);
            if self.may_read(core, now).is_ok() {
                core.freshness.is_fresh(now, core.applied());
            }
            let in_sync = core.configuration.latest().map(|state| state.in_sync.as_slice());
            for progress in self.followers.values_mut() {
                progress.note_outstanding(now, last);
                let member = progress.member();
                let is_in_sync = in_sync.is_some_and(|all| all.iter().any(|one| Some(*one) == member));
                progress.review_rebuild(now, &core.config, is_in_sync);
            }
            self.reconfigure(core);
            self.commit_at_heartbeat = core.commit();
            self.yield_leadership(core);
        }
        self.heartbeat_for_waiting(core);
        for node in peers(core) {
            self.drive(core, node);
        }
        self.advance_handover(core);
    }

    fn send_heartbeats(&mut self, core: &mut Core) {
        let (now, epoch, commit, lineage) = (core.now, core.epoch(), core.commit(), core.lineage());
        self.heartbeat_sent = Some(now);
        let holds_lease = self.holds_lease(core, now).is_ok() || broken!(VouchesWithoutTheLease);
        for (node, progress) in &self.followers {
            // A leader that was replaced may not know what was committed: it vouches for nothing.
            let echo = if holds_lease { progress.asked() } else { 0 };
            let is_sound = core.damage.is_none();
            core.send(*node, Message::Heartbeat { epoch, sent_at: now, commit, echo, lineage, is_sound });
        }
    }

    /// A read has come that waits for heartbeats which are sent from now on.
    pub(super) fn heartbeat_for_barrier(&mut self, core: &mut Core) {
        self.barrier_waits = true;
        self.heartbeat_for_waiting(core);
    }

    /// Sends the heartbeats that reads wait for, as soon as the clock tells them from the last ones. They are extra: nothing
    /// else is done that goes with a heartbeat.
    fn heartbeat_for_waiting(&mut self, core: &mut Core) {
        if self.barrier_waits && self.heartbeat_sent < Some(core.now) {
            self.barrier_waits = false;
            self.send_heartbeats(core);
        }
    }

    /// The configuration of this epoch has changed, or a change of it was settled.
    pub(super) fn configured(mut self, core: &mut Core) -> Role {
        let (me, epoch) = (core.config.member, core.epoch());
        let Some(state) = core.configuration.latest() else { return Role::Leader(self) };
        let problem = if state.leader != Some(me) {
            "names another leader for it"
        } else if !state.in_sync.contains(&me) {
            "no longer has this replica in sync"
        } else if !state.replicas.contains(&me.node) {
            // Not wrong, but the end of this reign: another replica has to be elected.
            core.configuration.abandon();
            core.effects.push(Effect::LostLeadership { epoch });
            return Role::Follower(Follower::new(Some(me)));
        } else {
            let peers = peers(core);
            self.followers.retain(|node, progress| {
                let stays = peers.contains(node);
                if !stays && progress.has_snapshot() {
                    core.effects.push(Effect::DropSnapshot { to: *node });
                }
                stays
            });
            for node in peers {
                let next = Sequence(core.last().sequence.0 + 1);
                self.followers.entry(node).or_insert_with(|| Progress::new(core.now, next));
            }
            self.advance_commit(core);
            self.reconfigure(core);
            self.advance_handover(core);
            return Role::Leader(self);
        };
        core.effects.push(Effect::LostLeadership { epoch });
        Quarantined::because(format!(
            "this replica leads epoch {epoch}, but the coordination service {problem}"
        ))
    }

    /// When a tick is due.
    pub(super) fn deadline(&self) -> Timestamp {
        let handover = self.handover.as_ref().and_then(Handover::due);
        let barrier = self.heartbeat_sent.filter(|_| self.barrier_waits).map(|sent| sent.plus_ms(1));
        [handover, barrier].into_iter().flatten().fold(self.heartbeat_due, Timestamp::min)
    }

    /// Whether a write may be proposed.
    pub(super) fn may_propose(&self, core: &Core) -> Result<(), Refusal> {
        if let Some(state) = core.configuration.latest()
            && !core.configuration.may_commit()
            && core.now.since(self.since) >= core.config.lease_ms() * JOIN_PATIENCE_LEASES
        {
            let (is, min) = (state.in_sync.len(), min_in_sync(state));
            return Err(Refusal::Unavailable {
                why: format!("{is} of the replicas in sync, {min} are needed to commit"),
            });
        }
        let is_ready = self.is_ready(core) || broken!(WritesBeforeTheEpochsFirstEntry);
        let stays = self.handover.is_none() || broken!(WritesDuringTheHandover);
        if core.configuration.may_commit() && is_ready && stays { Ok(()) } else { Err(Refusal::NotReady) }
    }

    /// Whether what is applied now is all that anybody can have committed.
    pub(super) fn may_read(&self, core: &Core, now: Timestamp) -> Result<(), Refusal> {
        if core.applied() < core.commit() {
            return Err(Refusal::NotReady);
        }
        self.holds_lease(core, now)
    }

    /// Whether nobody else can have committed anything that this leader has not.
    fn holds_lease(&self, core: &Core, now: Timestamp) -> Result<(), Refusal> {
        if !(self.is_ready(core) || broken!(ReadsBeforeTheEpochsFirstEntry)) {
            return Err(Refusal::NotReady);
        }
        let me = core.config.member;
        if broken!(ReadsWithoutGrants) || (broken!(ReadsByMajority) && self.has_majority(core, now)) {
            return Ok(());
        }
        for state in core.configuration.in_force() {
            let eligible = if broken!(ReadsWithoutTheEligible) { &[] } else { &state.eligible[..] };
            for member in state.in_sync.iter().chain(eligible).filter(|member| **member != me) {
                if !self.is_granted(core, *member, now) {
                    return Err(Refusal::Unavailable {
                        why: format!("{member} could be elected, and has not promised lately not to stand"),
                    });
                }
            }
        }
        Ok(())
    }

    /// The barrier of a read that comes now.
    pub(super) fn barrier(&self, core: &Core) -> Barrier {
        Barrier { epoch: core.epoch(), behind: self.heartbeat_sent }
    }

    /// Whether what is applied now is all that anybody can have committed before the barrier was taken.
    pub(super) fn may_read_behind(&self, core: &Core, barrier: Barrier) -> Result<(), Refusal> {
        if !self.is_ready(core) || core.applied() < core.commit() {
            return Err(Refusal::NotReady);
        }
        let could_lead =
            core.configuration.in_force().flat_map(|state| state.in_sync.iter().chain(&state.eligible));
        let has_granted = |member: &Member| {
            let progress = self.followers.get(&member.node);
            progress.is_some_and(|progress| progress.has_granted_behind(*member, barrier.behind))
        };
        match could_lead.filter(|member| **member != core.config.member).find(|member| !has_granted(member)) {
            None => Ok(()),
            Some(member) => Err(Refusal::Unavailable {
                why: format!("{member} could be elected, and has not answered since the read came"),
            }),
        }
    }

    /// The followers, for people.
    pub(super) fn followers(&self, core: &Core) -> Vec<FollowerStatus> {
        let describe = |(node, progress): (&NodeId, &Progress)| FollowerStatus {
            node: *node,
            generation: progress.member().map(|member| member.generation),
            acknowledged: progress.acknowledged(),
            state: progress.flow_name(),
            granted: progress.member().is_some_and(|member| self.is_granted(core, member, core.now)),
        };
        self.followers.iter().map(describe).collect()
    }

    /// The epoch's first entry is committed, and applied with all that came before it.
    fn is_ready(&self, core: &Core) -> bool {
        core.commit() >= self.epoch_start && core.applied() >= self.epoch_start
    }

    fn is_granted(&self, core: &Core, member: Member, now: Timestamp) -> bool {
        let released_at = if broken!(ReadsAfterTheRelease) { None } else { self.released_at };
        self.followers
            .get(&member.node)
            .is_some_and(|progress| progress.is_granted_by(member, now, released_at, &core.config))
    }

    /// What a member said of itself last.
    fn readiness(&self, member: Member) -> Readiness {
        self.followers.get(&member.node).map_or(Readiness::NotNow, |progress| progress.readiness(member))
    }

    /// Whether a majority of the replicas has granted: what reads must not be content with.
    fn has_majority(&self, core: &Core, now: Timestamp) -> bool {
        let granted = self.followers.values().filter_map(Progress::member);
        let granted = granted.filter(|member| self.is_granted(core, *member, now)).count();
        2 * (granted + 1) > self.followers.len() + 1
    }

    fn append(&mut self, core: &mut Core, rows: Rows, log_time_ms: u64) {
        let previous = core.last();
        let entries =
            LogEntries { epoch: core.epoch().0, first: Sequence(previous.sequence.0 + 1), log_time_ms, rows };
        let (first, last, bytes) = (entries.first, entries.last(), entries.rows.encoded().len());
        core.append(entries.clone());
        let (now, epoch, commit) = (core.now, core.epoch(), core.commit());
        for (node, progress) in &mut self.followers {
            if progress.send_new(now, first, last, bytes) {
                core.send(*node, Message::Append { epoch, previous, entries: vec![entries.clone()], commit });
            }
        }
    }

    /// Sends a follower what it is due: a probe, what it lacks of the log, or word of a snapshot.
    fn drive(&mut self, core: &mut Core, node: NodeId) {
        let Some(progress) = self.followers.get_mut(&node) else { return };
        let (epoch, commit) = (core.epoch(), core.commit());
        if progress.snapshot_is_over() {
            core.effects.push(Effect::DropSnapshot { to: node });
        }
        if let Some((attempt, last)) = progress.announcement_due(core.now, &core.config) {
            core.send(node, Message::Snapshot { epoch, attempt, last });
        } else if let Some(sequence) = progress.probe_due(core.now, &core.config) {
            let previous = core.history.position(sequence).unwrap_or_default();
            core.send(node, Message::Append { epoch, previous, entries: Vec::new(), commit });
        } else if let Some(sequence) = progress.begin_log_read(core.now, core.last().sequence) {
            let previous = core.history.position(sequence).unwrap_or_default();
            core.effects.push(Effect::SendLog { to: node, epoch, previous, commit });
        }
    }

    /// M, the maximal in-sync set: every member of any configuration that may be in force, or is about to be
    /// proposed.
    fn maximal_in_sync(&self, configuration: &Configuration) -> BTreeSet<Member> {
        if broken!(ProposedSetIsNotWaitedFor) {
            return configuration.latest().into_iter().flat_map(|state| &state.in_sync).copied().collect();
        }
        let members = configuration.in_force().flat_map(|state| &state.in_sync).copied();
        members.chain(self.joining.as_ref().map(|joining| joining.member)).collect()
    }

    fn acknowledged_by(&self, core: &Core, member: Member) -> Sequence {
        if member == core.config.member {
            return if broken!(CommitsBeforeItsOwnSync) { core.last().sequence } else { core.durable() };
        }
        self.followers.get(&member.node).map_or(Sequence(0), |progress| progress.acknowledged_by(member))
    }

    /// Commits what every member of M has made durable.
    fn advance_commit(&self, core: &mut Core) {
        if !core.configuration.may_commit() {
            return;
        }
        let members = self.maximal_in_sync(&core.configuration);
        assert!(members.contains(&core.config.member), "a leader is in sync with itself");
        let Some(commit) = members.iter().map(|member| self.acknowledged_by(core, *member)).min() else {
            return;
        };
        if commit >= self.epoch_start {
            core.learn_commit(commit);
        }
    }

    /// Proposes a change of the in-sync set, if one is called for and none is under way.
    fn reconfigure(&mut self, core: &mut Core) {
        let (Some(state), true) = (core.configuration.latest(), core.configuration.may_propose(core.now))
        else {
            self.joining = None;
            return;
        };
        if state.epoch != core.epoch() {
            return;
        }
        if let Some(next) = self.shrunk(core, state) {
            self.joining = None;
            core.configuration.propose(next, &mut core.effects);
            return;
        }
        // One more to wait for would hold a hand-over up.
        if self.handover.is_none() {
            self.choose_joining(core);
        }
        if let Some(joining) = &self.joining
            && (self.acknowledged_by(core, joining.member) >= core.commit().max(self.epoch_start)
                || broken!(JoinsBeforeItHoldsTheCommit))
            && let Some(state) = core.configuration.latest()
        {
            let next = expanded(state, joining.member);
            self.joining = None;
            core.configuration.propose(next, &mut core.effects);
        } else {
            // A join that was given up may have held a commit back.
            self.advance_commit(core);
        }
    }

    /// The state without the members that were silent for a lease, or are no longer in the replica list; and without
    /// those that are about to stop, if enough are left to commit.
    fn shrunk(&self, core: &Core, state: &PartitionState) -> Option<PartitionState> {
        let me = core.config.member;
        let is_lost = |member: &Member| {
            *member != me
                && (!state.replicas.contains(&member.node)
                    || self
                        .followers
                        .get(&member.node)
                        .is_none_or(|follower| follower.is_silent(*member, core.now, &core.config)))
        };
        let mut left: Vec<Member> = state.in_sync.iter().filter(|member| is_lost(member)).copied().collect();
        for member in &state.in_sync {
            let is_leaving = self.readiness(*member) == Readiness::Leaving && !left.contains(member);
            if is_leaving && state.in_sync.len() - left.len() > min_in_sync(state) {
                left.push(*member);
            }
        }
        if left.is_empty() {
            return None;
        }
        let mut next = state.clone();
        next.in_sync.retain(|member| !left.contains(member));
        settle_eligible(&mut next, &left);
        Some(next)
    }

    /// Gives up a join that takes too long, and looks for another one: a follower that acknowledged, in this
    /// epoch, what was committed a heartbeat ago.
    fn choose_joining(&mut self, core: &Core) {
        if let Some(joining) = &self.joining {
            if core.now.since(joining.since) < core.config.resend_ms() {
                return;
            }
            self.joining = None;
        }
        let Some(state) = core.configuration.latest() else { return };
        let floor = if broken!(JoinsBeforeItHoldsTheCommit) {
            Sequence(0)
        } else {
            self.commit_at_heartbeat.max(self.epoch_start)
        };
        let is_close = |(node, progress): (&NodeId, &Progress)| {
            let member = progress.member()?;
            let is_outside = !state.in_sync.iter().any(|other| other.node == *node);
            let may_join = is_outside
                && state.replicas.contains(node)
                && progress.acknowledged_by(member) >= floor
                && progress.readiness(member) != Readiness::Leaving
                && !progress.is_silent(member, core.now, &core.config);
            may_join.then_some(member)
        };
        let member = self.followers.iter().find_map(is_close);
        self.joining = member.map(|member| Joining { member, since: core.now });
    }
}

/// The state with one more member in sync.
fn expanded(state: &PartitionState, member: Member) -> PartitionState {
    let mut next = state.clone();
    next.in_sync.push(member);
    settle_eligible(&mut next, &[]);
    next
}

/// Every other node that a leader talks to: those of the replica list, and of any member that still counts.
fn peers(core: &Core) -> BTreeSet<NodeId> {
    let me = core.config.member.node;
    let states = core.configuration.in_force();
    let nodes = states.flat_map(|state| {
        let members = state.in_sync.iter().chain(&state.eligible).map(|member| member.node);
        state.replicas.iter().copied().chain(members)
    });
    nodes.filter(|node| *node != me).collect()
}

/// The entry that begins an epoch: who leads it, for whoever reads a log.
fn epoch_start_marker(epoch: Epoch, leader: Member) -> Result<Rows, paddock_storage::Error> {
    let mut rows = RowsBuilder::new();
    rows.marker(format!("epoch {epoch} {leader}").as_bytes())?;
    Ok(rows.finish())
}
