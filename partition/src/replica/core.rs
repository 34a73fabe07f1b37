//! [`Core`]: what every role of a replica shares.

use std::collections::BTreeSet;

use paddock_coordination::{Epoch, Member, NodeId, PartitionState};
use paddock_storage::{LogEntries, Position, Sequence};

use super::config::{DurableState, ReplicaConfig, STAGGER_MS, STALL_LEASES};
use super::configuration::Configuration;
use super::effect::Effect;
use super::epochs::History;
use super::fault::Fault;
use super::fetching::Fetching;
use super::freshness::Freshness;
use super::message::Message;
use super::mutation::broken;
use super::timestamp::Timestamp;

/// The log, the clock, the epoch and the configuration.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) config: ReplicaConfig,
    pub(super) now: Timestamp,
    booted_at: Timestamp,
    /// The highest epoch seen, always persisted before anything is done in it.
    epoch: Epoch,
    /// The lineage that the log is of: what is known to be committed was committed in it. Always persisted.
    lineage: u64,
    pub(super) history: History,
    durable: Sequence,
    /// What is known to be committed; never falls.
    commit: Sequence,
    apply_asked: Sequence,
    applied: Sequence,
    /// No candidacy before this: promised to a leader.
    promise_until: Timestamp,
    /// When the newest heartbeat of this epoch was sent that was granted, on the leader's clock.
    granted: Option<Timestamp>,
    /// No candidacy before this: a new leader has the time to make itself heard.
    patience_until: Timestamp,
    /// As of when everything committed is applied here.
    pub(super) freshness: Freshness,
    /// Snapshots of leaders that this replica fetches.
    pub(super) fetching: Fetching,
    pub(super) configuration: Configuration,
    pub(super) stopping: bool,
    /// The process is about to stop.
    pub(super) leaving: bool,
    /// The nodes that are to lead nothing.
    pub(super) drained: BTreeSet<NodeId>,
    /// What of the store is damaged.
    pub(super) damage: Option<String>,
    /// Until then the disk counts as one that stands still now and then.
    stalls_until: Timestamp,
    /// What the step asks of the runtime.
    pub(super) effects: Vec<Effect>,
}

impl Core {
    /// The core of a replica at its start, or what is wrong with its log (then without the log).
    pub(super) fn new(config: ReplicaConfig, state: DurableState, now: Timestamp) -> (Self, Option<String>) {
        let last = state.last;
        let epoch = state.epoch_seen.max(Epoch(last.epoch));
        let (history, mut problem) = match History::new(state.epochs, last) {
            Ok(history) => (history, None),
            Err(what) => (History::default(), Some(what.to_owned())),
        };
        let end = history.last().sequence;
        for (what, sequence) in [("applied", state.applied), ("known to be committed", state.known_commit)] {
            if sequence > end && problem.is_none() {
                problem =
                    Some(format!("the log ends at {end}, but {sequence} is {what}: it has lost entries"));
            }
        }
        let applied = state.applied.min(end);
        let damage = match state.fault {
            Some(Fault::Damaged(what)) => Some(what),
            Some(Fault::Contradiction(_)) | None => None,
        };
        let core = Core {
            damage,
            stalls_until: now,
            freshness: Freshness::new(config.nonce_seed),
            fetching: Fetching::new(now, config.nonce_seed),
            configuration: Configuration::new(config.nonce_seed),
            config,
            now,
            booted_at: now,
            epoch,
            lineage: state.lineage,
            history,
            durable: state.durable.min(end),
            commit: state.known_commit.min(end).max(applied),
            apply_asked: applied,
            applied,
            promise_until: now,
            granted: None,
            patience_until: now,
            stopping: false,
            leaving: false,
            drained: BTreeSet::new(),
            effects: Vec::new(),
        };
        (core, problem)
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(super) fn lineage(&self) -> u64 {
        self.lineage
    }

    pub(super) fn last(&self) -> Position {
        self.history.last()
    }

    pub(super) fn durable(&self) -> Sequence {
        self.durable
    }

    pub(super) fn commit(&self) -> Sequence {
        self.commit
    }

    pub(super) fn applied(&self) -> Sequence {
        self.applied
    }

    pub(super) fn send(&mut self, to: NodeId, message: Message) {
        self.effects.push(Effect::Send { to, message });
    }

    /// Takes an epoch over, durably, before anything is done in it. Whoever leads it gets a lease's time to be
    /// heard of.
    pub(super) fn adopt(&mut self, epoch: Epoch) {
        assert!(epoch > self.epoch, "only a higher epoch is taken over");
        self.epoch = epoch;
        self.granted = None;
        self.effects.push(Effect::PersistEpoch(epoch));
        self.be_patient();
    }

    /// The log is of this lineage from now on: all that is known to be committed was, or is, committed in it. How fresh the
    /// replica was in an earlier one says nothing any more.
    pub(super) fn adopt_lineage(&mut self, lineage: u64) {
        assert!(lineage > self.lineage, "only a higher lineage is taken over");
        self.lineage = lineage;
        self.freshness.forget();
        self.effects.push(Effect::PersistLineage(lineage));
    }

    /// Takes over the lineage of a state that counts on this replica. Whoever raised it has chosen this log, or the lineage's
    /// leader has had an acknowledgement from here that it rests on.
    pub(super) fn adopt_lineage_that_counts_on_us(&mut self) {
        let me = self.config.member;
        let Some(state) = self.configuration.latest() else { return };
        let lineage = state.lineage;
        if lineage > self.lineage && (state.in_sync.contains(&me) || state.eligible.contains(&me)) {
            self.adopt_lineage(lineage);
        }
    }

    /// Somebody else is at work: no candidacy for a lease.
    pub(super) fn be_patient(&mut self) {
        self.patience_until = self.now.plus_ms(self.config.lease_ms());
    }

    /// Promises not to become a candidate for a lease, in answer to a heartbeat that was sent then.
    pub(super) fn promise(&mut self, sent_at: Timestamp) {
        self.granted = self.granted.max(Some(sent_at));
        self.promise_until = self.promise_until.max(self.now.plus_ms(self.config.lease_ms()));
    }

    /// When this replica may stand for election, as far as it can tell now: none while it may not at all.
    pub(super) fn stand_at(&self) -> Option<Timestamp> {
        let state = self.standing_in()?;
        let node = self.config.member.node;
        let place = state.replicas.iter().position(|other| *other == node)?;
        // Where another one can lead, it has stood by then.
        let is_last_choice = self.drained.contains(&node) || self.is_reluctant();
        let later_ms = if is_last_choice { self.config.lease_ms() } else { 0 };
        let stagger_ms = STAGGER_MS.saturating_mul(place as u64).saturating_add(later_ms);
        let promise_until = if broken!(PromisesAreBroken) { self.booted_at } else { self.promise_until };
        let earliest = promise_until.max(self.patience_until).max(self.past_promises_until());
        Some(earliest.plus_ms(stagger_ms).max(self.configuration.retry_at()))
    }

    /// Whether this replica may stand right now, its leader having released it when the leader's clock showed that. A
    /// release is passed over once a later heartbeat was granted: the leader relies on that grant. What was promised in a
    /// former life of the process nobody remembers, so a release does not shorten the wait for it.
    pub(super) fn may_follow_release(&self, sent_at: Timestamp) -> bool {
        self.standing_in().is_some()
            && !self.is_reluctant()
            && (self.granted <= Some(sent_at) || broken!(FollowsOldReleases))
            && self.now >= self.past_promises_until()
            && self.now >= self.configuration.retry_at()
    }

    /// The state in which this replica could be elected; none if it could not.
    fn standing_in(&self) -> Option<&PartitionState> {
        let state = self.configuration.latest()?;
        let me = self.config.member;
        if self.stopping
            || self.leaving
            || state.epoch != self.epoch
            // There is none after the last: a record that somebody broke.
            || state.epoch.next() <= state.epoch
            || state.lineage != self.lineage
            || !(state.may_lead(me) || broken!(AnyReplicaStands))
            || self.configuration.is_unsettled()
        {
            return None;
        }
        state.replicas.contains(&me.node).then_some(state)
    }

    /// When promises of a former life of this process are over, which nobody remembers. Before the first leader
    /// nobody can have promised anything.
    fn past_promises_until(&self) -> Timestamp {
        let boot_wait_ms =
            if self.epoch == Epoch(0) || broken!(BootWaitIsSkipped) { 0 } else { self.config.lease_ms() };
        self.booted_at.plus_ms(boot_wait_ms)
    }

    /// Appends entries to the log.
    pub(super) fn append(&mut self, entries: LogEntries) {
        let before = Sequence(entries.first.0 - 1);
        self.history.append(entries.epoch, entries.first, entries.last());
        self.effects.push(Effect::Append { entries, known_commit: self.commit.min(before) });
    }

    /// Cuts the log after an entry.
    pub(super) fn truncate(&mut self, last_kept: Sequence) {
        assert!(last_kept >= self.commit.max(self.apply_asked), "nothing committed is ever cut");
        self.history.truncate(last_kept);
        self.durable = self.durable.min(last_kept);
        self.effects.push(Effect::Truncate { last_kept });
    }

    /// Whether a copy of its store, of a leader whose log is of this lineage, may take the place of this one: everything that
    /// is known to be committed has to be in it, unless that was in an earlier lineage, and nobody may count on what is
    /// here. A member that counts holds all that a leader can have let go.
    pub(super) fn may_install(&self, last: Position, lineage: Option<u64>) -> bool {
        let me = self.config.member;
        if broken!(InstallsAnySnapshot) {
            return true;
        }
        let counts = |state: &PartitionState| state.in_sync.contains(&me) || state.eligible.contains(&me);
        let has_all = self.commit <= last.sequence || lineage > Some(self.lineage);
        has_all && self.configuration.latest().is_some_and(|state| !counts(state))
    }

    /// Puts a leader's copy of its store in the place of this one. If it is of a higher lineage, so is this replica then, and
    /// what it knew to be committed before counts no more: the only way in which that ever falls.
    ///
    /// What is applied never falls, here as everywhere: whoever read something here, and reads again, sees at least as much.
    /// The copy's own index may be behind that (the leader may have made it before it knew of a commit that this
    /// replica knows). But the copy has every entry that is known to be committed, all of it durable, so it is applied through
    /// there before anybody reads it. Another lineage replaces that, too: nobody reads here while a higher one is known.
    ///
    /// # Errors
    /// Why that cannot be right: then nothing was changed.
    pub(super) fn install(
        &mut self,
        last: Position,
        state: DurableState,
        lineage: Option<u64>,
    ) -> Result<(), String> {
        let history = History::new(state.epochs, last)?;
        let raised = lineage.filter(|lineage| *lineage > self.lineage);
        if raised.is_some() {
            (self.commit, self.apply_asked) = (Sequence(0), Sequence(0));
        } else if history.position(self.commit) != self.history.position(self.commit) {
            return Err(format!(
                "the snapshot of the leader of epoch {} contradicts entry {}, which is known to be committed",
                self.epoch, self.commit
            ));
        }
        let commit =
            self.commit.max(state.known_commit.min(last.sequence)).max(state.applied.min(last.sequence));
        assert!(self.commit <= last.sequence, "what lacks a known commit is not installed");
        assert!(self.apply_asked <= commit, "what is applied never falls");
        self.history = history;
        self.durable = last.sequence;
        self.commit = commit;
        self.apply_asked = commit;
        self.applied = commit;
        self.freshness.applied(commit);
        self.fetching.is_over(self.now);
        // Every byte of it was verified.
        self.damage = None;
        self.effects.push(Effect::InstallSnapshot { last, apply_through: commit });
        // After the store: with the old one it would have to be right.
        if let Some(lineage) = raised {
            self.adopt_lineage(lineage);
        }
        Ok(())
    }

    /// The log is durable through an entry.
    pub(super) fn note_durable(&mut self, through: Sequence) {
        self.durable = self.durable.max(through.min(self.last().sequence));
        self.apply();
    }

    /// The index has advanced through an entry.
    pub(super) fn note_applied(&mut self, through: Sequence) {
        self.applied = self.applied.max(through.min(self.apply_asked));
        self.freshness.applied(self.applied);
    }

    /// Entries are known to be committed.
    pub(super) fn learn_commit(&mut self, commit: Sequence) {
        self.commit = self.commit.max(commit);
        self.apply();
    }

    /// Applies what is committed and durable here: what a crash could still take back is never served.
    pub(super) fn apply(&mut self) {
        let through = self.commit.min(self.durable);
        if through > self.apply_asked {
            self.apply_asked = through;
            self.effects.push(Effect::Apply { through });
        }
    }

    /// Whether this replica leads only where no other can.
    pub(super) fn is_reluctant(&self) -> bool {
        self.damage.is_some() || self.now < self.stalls_until
    }

    /// The disk stood still.
    pub(super) fn note_stall(&mut self) {
        self.stalls_until = self.now.plus_ms(self.config.lease_ms() * STALL_LEASES);
    }

    /// Something of the store is not as it was written. The first that was found is what counts.
    pub(super) fn note_damage(&mut self, what: String) {
        if self.damage.is_none() {
            self.effects.push(Effect::PersistFault(Fault::Damaged(what.clone())));
            self.damage = Some(what);
        }
    }

    /// Whether, beyond doubt, this member leads this epoch, and it is no lower than any that this replica took part in. Then that
    /// leader holds everything committed that this replica holds: what was committed before its epoch, since it was elected; what
    /// is committed in its epoch, since it leads it; and in a later one this replica has acknowledged nothing.
    pub(super) fn is_led_elsewhere(&self, from: Member, epoch: Epoch) -> bool {
        let Some(state) = self.configuration.latest() else { return false };
        from.node != self.config.member.node
            && epoch >= self.epoch
            && state.epoch == epoch
            && state.leader == Some(from)
            && !self.configuration.is_unsettled()
    }

    /// What always holds between two steps.
    pub(super) fn check(&self) {
        let last = self.last();
        assert!(self.commit <= last.sequence, "what is committed is in the log");
        assert!(self.durable <= last.sequence, "what is durable is in the log");
        assert!(
            self.applied <= self.apply_asked && self.apply_asked <= self.commit,
            "only commits are applied"
        );
        assert!(last.epoch <= self.epoch.0, "no entry is of an epoch that was not taken over");
    }
}
