//! [`Follower`]: holds the log that its leader holds, and says how far.
//!
//! It takes part in the highest epoch that it has seen. What comes from a lower one is answered with
//! [`Stale`](Message::Stale). An append names the entry before its first; if the follower holds that very entry,
//! by epoch and sequence, then its log is the leader's up to there. Only an entry that contradicts its own
//! makes it cut its log, and never below what it knows to be committed: that would mean that the protocol was
//! broken somewhere, and it steps aside instead, for people to look at.
//!
//! Where the leader's log no longer has what this replica lacks, the leader announces a snapshot: a copy of its whole
//! store, which is fetched beside this one and then takes its place. Until then this replica lets entries and probes pass,
//! acknowledges nothing and does not stand. No member that counts ever does that: it holds all that can be missing.
//!
//! It acknowledges what is durable here *and* known to be the leader's. A heartbeat of its own epoch makes it
//! promise not to stand for a lease.

use paddock_coordination::{Epoch, Member};
use paddock_storage::{LogEntries, Position, Sequence};

use super::Role;
use super::candidate::{Candidate, Former};
use super::config::DurableState;
use super::core::Core;
use super::effect::Effect;
use super::message::{Message, Readiness};
use super::mutation::broken;
use super::quarantined::Quarantined;
use super::timestamp::Timestamp;

/// A follower of one epoch's leader, or of nobody yet.
#[derive(Debug, Default)]
pub(super) struct Follower {
    /// Who leads this epoch, once somebody said so.
    leader: Option<Member>,
    /// Through where the log is known to be the leader's.
    matched: Sequence,
    /// What was acknowledged in this epoch.
    acknowledged: Sequence,
    /// The snapshot that is being fetched.
    installing: Option<Installing>,
    /// Of which lineage the leader's log is, as it said.
    lineage: Option<u64>,
}

/// A leader's copy of its store that is being fetched.
#[derive(Clone, Copy, Debug)]
struct Installing {
    /// Which one of the leader's in this epoch.
    attempt: u64,
    /// The last entry of its log.
    last: Position,
    /// Which fetch of ours.
    fetch: u64,
}

/// Why a run of entries was not taken over.
enum Contradiction {
    /// It cannot have come about by the protocol's rules.
    Impossible(String),
    /// It differs from what is known to be committed: so says this text, unless another lineage explains it.
    OfCommit(String),
}

impl Follower {
    /// A follower in an epoch that was just taken over.
    pub(super) fn new(leader: Option<Member>) -> Self {
        Follower { leader, ..Follower::default() }
    }

    pub(super) fn leader(&self) -> Option<Member> {
        self.leader
    }

    /// The last entry of the snapshot that is being fetched.
    pub(super) fn installing(&self) -> Option<Position> {
        self.installing.map(|installing| installing.last)
    }

    /// The coordination service names this epoch's leader.
    pub(super) fn learn_leader(mut self, core: &Core, leader: Member) -> Role {
        match self.leader {
            Some(known) if known != leader => {
                Quarantined::because(format!("both {known} and {leader} lead epoch {}", core.epoch()))
            }
            _ => {
                self.leader = Some(leader);
                Role::Follower(self)
            }
        }
    }

    /// A message of this very epoch.
    pub(super) fn receive(mut self, core: &mut Core, from: Member, message: Message) -> Role {
        if core.epoch() == Epoch(0) {
            return Role::Follower(self); // Nobody leads it.
        }
        match message {
            Message::Heartbeat { epoch, is_sound, .. }
                if core.damage.is_some()
                    && (is_sound || broken!(GivesItsStoreUpForADamagedLeader))
                    && core.is_led_elsewhere(from, epoch) =>
            {
                return Quarantined::giving_up(core);
            }
            Message::Heartbeat { sent_at, commit, echo, lineage, .. } if self.is_leader(from) => {
                self.lineage = Some(lineage);
                self.heartbeat(core, from, sent_at, commit, echo);
            }
            Message::Release { sent_at, .. }
                if self.is_leader(from) && self.installing.is_none() && core.may_follow_release(sent_at) =>
            {
                return Candidate::stand(core, Former::StaysInSync);
            }
            Message::Append { previous, entries, commit, .. } if self.is_leader(from) => {
                return self.append(core, from, previous, entries, commit);
            }
            Message::Snapshot { attempt, last, .. } if self.is_leader(from) => {
                self.announced(core, from, attempt, last);
            }
            // Answers to a leader that this replica is not, and claims to lead an epoch that has its leader.
            _ => {}
        }
        Role::Follower(self)
    }

    /// The local log has become durable further.
    pub(super) fn durable(&mut self, core: &mut Core) {
        if let Some(leader) = self.leader
            && self.installing.is_none()
            && self.holds(core) > self.acknowledged
        {
            self.acknowledge(core, leader);
        }
    }

    /// Time has passed: stands for election when nothing speaks against it.
    pub(super) fn tick(mut self, core: &mut Core) -> Role {
        match core.stand_at() {
            // It counts after all, and so lacks nothing.
            Some(_) if self.installing.take().is_some() => Role::Follower(self),
            Some(stand_at) if core.now >= stand_at => Candidate::stand(core, Former::IsSuspected),
            _ => Role::Follower(self),
        }
    }

    /// Whether the sender leads this epoch; the first to say so is believed, since only the winner of the
    /// epoch's compare-and-set ever speaks in it as its leader.
    fn is_leader(&mut self, from: Member) -> bool {
        *self.leader.get_or_insert(from) == from
    }

    fn heartbeat(&mut self, core: &mut Core, from: Member, sent_at: Timestamp, commit: Sequence, echo: u64) {
        core.promise(sent_at);
        let readiness = if core.leaving {
            Readiness::Leaving
        } else if self.installing.is_none() && core.may_follow_release(sent_at) {
            Readiness::CanTakeOver
        } else {
            Readiness::NotNow
        };
        let asked = core.freshness.ask(core.now);
        core.send(from.node, Message::Grant { epoch: core.epoch(), sent_at, readiness, asked });
        self.review_lineage(core);
        // Of another lineage's commit it says nothing what is applied here.
        if self.lineage == Some(core.lineage()) {
            core.freshness.answered(core.now, echo, commit, core.applied());
        }
        core.learn_commit(commit.min(self.matched));
        // Entries are here that are committed, and not known to be this leader's.
        let is_unsure = self.matched < commit.min(core.last().sequence);
        if (is_unsure || (self.matched == Sequence(0) && commit > Sequence(0))) && self.installing.is_none() {
            // Restarted in the middle of a reign: the leader may have nothing to send, and would never ask. An append that
            // was long on its way may have told of some of it.
            core.send(from.node, Message::Mismatch { epoch: core.epoch(), hint: core.last() });
        }
    }

    fn append(
        mut self,
        core: &mut Core,
        from: Member,
        previous: Position,
        entries: Vec<LogEntries>,
        commit: Sequence,
    ) -> Role {
        if self.installing.is_some() || !is_well_formed(previous, &entries, core.epoch()) {
            return Role::Follower(self);
        }
        if self.matched == Sequence(0) && broken!(CutsToItsOwnCommit) && core.commit() < core.last().sequence
        {
            core.truncate(core.commit().max(core.applied()));
        }
        let is_held = match core.history.position(previous.sequence) {
            Some(position) => position == previous || broken!(MatchesBySequenceAlone),
            None => false,
        };
        if !is_held {
            let hint = core.history.floor(previous);
            core.send(from.node, Message::Mismatch { epoch: core.epoch(), hint });
            return Role::Follower(self);
        }
        let end = entries.last().map_or(previous.sequence, LogEntries::last);
        if !entries.is_empty() {
            // The log reaches this replica: it needs no snapshot any more.
            core.fetching.is_over(core.now);
        }
        let mut is_new = false;
        for run in entries {
            match self.append_run(core, run) {
                Ok(appended) => is_new |= appended,
                Err(Contradiction::Impossible(reason)) => return Quarantined::because(reason),
                Err(Contradiction::OfCommit(reason)) => return self.contradicted(core, from, reason),
            }
        }
        self.matched = self.matched.max(end);
        self.review_lineage(core);
        // New entries are acknowledged when they are durable; with nothing new, the leader still waits for a word.
        if !is_new || broken!(AcknowledgedBeforeItsSync) {
            self.acknowledge(core, from);
        }
        core.learn_commit(commit.min(self.matched));
        Role::Follower(self)
    }

    /// Of which lineage the leader's log is, once that is known: by its own word, or by the state that it was elected in.
    fn lineage_of_leader(&self, core: &Core) -> Option<u64> {
        let elected_in = core.configuration.latest().filter(|state| state.epoch == core.epoch());
        self.lineage.max(elected_in.map(|state| state.lineage))
    }

    /// Takes the leader's lineage over once all that this replica knows to be committed is known to be in the leader's log.
    fn review_lineage(&self, core: &mut Core) {
        if let Some(lineage) = self.lineage_of_leader(core)
            && lineage > core.lineage()
            && (self.matched >= core.commit() || broken!(LineageIsTakenOverUnseen))
        {
            core.adopt_lineage(lineage);
        }
    }

    /// The leader's log differs from what is known to be committed here. If it is of a higher lineage, an operator has given up
    /// what this replica holds; it keeps that until a copy of the leader's store is there to take its place.
    fn contradicted(self, core: &mut Core, leader: Member, reason: String) -> Role {
        match self.lineage_of_leader(core) {
            Some(lineage) if lineage > core.lineage() => {
                core.send(leader.node, Message::Rebuild { epoch: core.epoch() });
                Role::Follower(self)
            }
            Some(_) => Quarantined::because(reason),
            // The next heartbeat tells.
            None => Role::Follower(self),
        }
    }

    /// The leader has a snapshot for this replica: fetches it, if it needs it, in place of an earlier one.
    fn announced(&mut self, core: &mut Core, from: Member, attempt: u64, last: Position) {
        let is_known = self.installing.is_some_and(|installing| attempt <= installing.attempt);
        if last.epoch > core.epoch().0 || is_known {
            return;
        }
        let is_held = core.history.position(last.sequence) == Some(last);
        if is_held && !broken!(InstallsAnySnapshot) {
            // As for a probe: the log is the leader's up to there.
            self.installing = None;
            self.matched = self.matched.max(last.sequence);
            self.review_lineage(core);
            self.acknowledge(core, from);
        } else if core.may_install(last, self.lineage_of_leader(core)) {
            if core.fetching.pause_ms(core.now).is_some() {
                report_failure(core, from, attempt);
                return;
            }
            let fetch = core.fetching.begin();
            self.installing = Some(Installing { attempt, last, fetch });
            core.effects.push(Effect::FetchSnapshot { from, epoch: core.epoch(), attempt, last, fetch });
            if broken!(AcknowledgesWhatItFetches) {
                core.send(from.node, Message::Ack { epoch: core.epoch(), sequence: last.sequence });
            }
        }
    }

    /// The snapshot is here, durable and every byte of it verified, or could not be had: then the leader announces it
    /// again, and the next try is made after a pause.
    pub(super) fn fetched(mut self, core: &mut Core, fetch: u64, state: Option<DurableState>) -> Role {
        let Some(installing) = self.installing.take_if(|installing| installing.fetch == fetch) else {
            return Role::Follower(self);
        };
        let Installing { attempt, last, .. } = installing;
        let Some(leader) = self.leader else { return Role::Follower(self) };
        let state = state.filter(|state| state.last == last && state.durable == last.sequence);
        let Some(state) = state else {
            core.fetching.failed(core.now, &core.config);
            report_failure(core, leader, attempt);
            return Role::Follower(self);
        };
        let lineage = self.lineage_of_leader(core);
        if !core.may_install(last, lineage) {
            return Role::Follower(self);
        }
        match core.install(last, state, lineage) {
            Ok(()) => {
                self.matched = last.sequence;
                self.acknowledged = Sequence(0);
                self.acknowledge(core, leader);
                Role::Follower(self)
            }
            Err(reason) => Quarantined::because(reason),
        }
    }

    /// Takes over what is new of a run, cutting what contradicts it; whether anything was new.
    fn append_run(&self, core: &mut Core, run: LogEntries) -> Result<bool, Contradiction> {
        let agreed = if broken!(MatchesBySequenceAlone) {
            run.last().min(core.last().sequence)
        } else {
            core.history.agrees_through(run.epoch, run.first, run.last())
        };
        if agreed == run.last() {
            return Ok(false);
        }
        if agreed < core.last().sequence {
            self.cut(core, agreed)?;
        }
        let skip = agreed.0 + 1 - run.first.0;
        let skip = u32::try_from(skip)
            .map_err(|_| Contradiction::Impossible("an append is larger than any can be".to_owned()))?;
        let rows = if skip == 0 { run.rows } else { run.rows.skip(skip) };
        core.append(LogEntries { first: Sequence(agreed.0 + 1), rows, ..run });
        Ok(true)
    }

    /// Cuts the divergent tail after an entry, unless that cannot be right.
    fn cut(&self, core: &mut Core, last_kept: Sequence) -> Result<(), Contradiction> {
        let (commit, epoch) = (core.commit().max(core.applied()), core.epoch());
        let next = last_kept.0 + 1;
        if last_kept < self.matched {
            return Err(Contradiction::Impossible(format!(
                "the leader of epoch {epoch} contradicts its own entry {next}"
            )));
        }
        if last_kept < commit {
            return Err(Contradiction::OfCommit(format!(
                "the leader of epoch {epoch} contradicts entry {next}, but {commit} is known to be committed"
            )));
        }
        core.truncate(last_kept);
        Ok(())
    }

    /// What this replica holds of the leader's log, durably.
    fn holds(&self, core: &Core) -> Sequence {
        if broken!(AcknowledgedBeforeItsSync) {
            return core.last().sequence.min(self.matched);
        }
        core.durable().min(self.matched)
    }

    fn acknowledge(&mut self, core: &mut Core, leader: Member) {
        let sequence = self.holds(core);
        self.acknowledged = self.acknowledged.max(sequence);
        core.send(leader.node, Message::Ack { epoch: core.epoch(), sequence });
    }
}

/// Tells the leader that its copy could not be had, and for how long nothing is tried: each time that it announces one.
fn report_failure(core: &mut Core, leader: Member, attempt: u64) {
    let (failures, _) = core.fetching.failures();
    let pause_ms = core.fetching.pause_ms(core.now).unwrap_or(0);
    core.send(leader.node, Message::SnapshotFailed { epoch: core.epoch(), attempt, failures, pause_ms });
}

/// Whether an append's runs follow on each other without a gap, in epochs that a leader of this one can hold.
fn is_well_formed(previous: Position, entries: &[LogEntries], epoch: Epoch) -> bool {
    let mut before = previous;
    for run in entries {
        let follows = before.sequence.0.checked_add(1) == Some(run.first.0);
        let fits = run.first.0.checked_add(u64::from(run.rows.count())).is_some();
        if !follows || !fits || run.rows.count() == 0 || run.epoch < before.epoch || run.epoch > epoch.0 {
            return false;
        }
        before = Position { epoch: run.epoch, sequence: run.last() };
    }
    previous.epoch <= epoch.0
}
