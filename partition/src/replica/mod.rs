//! The replica core: one replica of one partition, as a pure state machine.
//!
//! [`Replica::step`] takes what happened and returns what is to be done about it. There is no I/O in here, no
//! clock, no lock and no randomness: the same events give the same effects, which is what makes the golden
//! scripts and the random walks of the tests possible. `PROTOCOL.md` beside this crate tells the whole
//! protocol; in short:
//!
//! * The coordination service holds each partition's state: epoch, leader, in-sync set. A replica leads an
//!   epoch because its own compare-and-set of that state succeeded, and for no other reason.
//! * The [`leader`] appends, streams to its followers and commits what every in-sync member has made durable.
//! * A [`follower`] holds the leader's log, acknowledges what is durable, and grants the leader's heartbeats.
//! * A [`candidate`] has asked for the next epoch and keeps silent until it knows the answer.
//! * A [`quarantined`] replica has seen what cannot be, and takes no further part.
//! * One whose store is damaged leads only where no other can, and gives its store up for an empty one, as another life of it, once
//!   another leads.
//!
//! What it does not do: choose where replicas are. It obeys the list that it is shown.

mod barrier;
mod candidate;
pub mod config;
mod configuration;
mod core;
mod effect;
mod epochs;
mod event;
mod fault;
mod fetching;
mod follower;
mod freshness;
mod leader;
mod message;
pub mod mutation;
mod progress;
mod quarantined;
mod status;
mod timestamp;

use paddock_coordination::{Epoch, Member, NodeId};
use paddock_storage::{Position, Sequence};

pub use barrier::Barrier;
pub use config::{DurableState, ReplicaConfig};
pub use effect::Effect;
pub use event::{Event, ObservedState, WriteOutcome};
pub use fault::Fault;
pub use message::{Message, Readiness};
pub use status::{FollowerStatus, Refusal, ReplicaStatus, RoleName};
pub use timestamp::Timestamp;

use self::candidate::Candidate;
use self::configuration::{Observation, Settled};
use self::core::Core;
use self::follower::Follower;
use self::leader::Leader;
use self::mutation::broken;
use self::quarantined::Quarantined;

/// One replica of one partition.
#[derive(Debug)]
pub struct Replica {
    core: Core,
    role: Role,
}

/// What a replica is at the moment. A role turns into another by being consumed.
#[derive(Debug)]
enum Role {
    Follower(Follower),
    Candidate(Candidate),
    Leader(Leader),
    Quarantined(Quarantined),
}

impl Default for Role {
    fn default() -> Self {
        Role::Follower(Follower::default())
    }
}

impl Replica {
    /// A replica at the start of its process, with what its log and manifest say.
    #[must_use]
    pub fn new(config: ReplicaConfig, state: DurableState, now: Timestamp) -> Self {
        let fault = state.fault.clone();
        let (core, problem) = Core::new(config, state, now);
        let role = match (fault, problem) {
            (Some(Fault::Contradiction(reason)), _) => Quarantined::still_because(reason),
            (_, Some(problem)) => Quarantined::of_unsound_store(problem),
            _ => Role::default(),
        };
        Replica { core, role }
    }

    /// Takes in what happened, and says what is to be done, in this order.
    pub fn step(&mut self, now: Timestamp, event: Event) -> Vec<Effect> {
        self.core.now = self.core.now.max(now);
        let was_installing = self.installing().is_some();
        let role = std::mem::take(&mut self.role);
        self.role = role.step(&mut self.core, event);
        if self.core.now >= self.next_deadline() {
            let role = std::mem::take(&mut self.role);
            self.role = role.tick(&mut self.core);
        }
        if let Role::Quarantined(quarantined) = &mut self.role
            && !quarantined.is_reported
        {
            quarantined.is_reported = true;
            if !std::mem::replace(&mut quarantined.is_persisted, true) {
                let fault = Fault::Contradiction(quarantined.reason.clone());
                self.core.effects.push(Effect::PersistFault(fault));
            }
            self.core.effects.push(Effect::Quarantined { reason: quarantined.reason.clone() });
        }
        let is_install = |effect: &Effect| matches!(effect, Effect::InstallSnapshot { .. });
        if was_installing && self.installing().is_none() && !self.core.effects.iter().any(is_install) {
            self.core.effects.push(Effect::DiscardSnapshot);
        }
        self.core.check();
        std::mem::take(&mut self.core.effects)
    }

    /// When the next [`Event::Tick`] is due at the latest; another event may bring it forward.
    #[must_use]
    pub fn next_deadline(&self) -> Timestamp {
        let core = &self.core;
        let own = match &self.role {
            Role::Follower(_) => core.stand_at(),
            Role::Leader(leader) => Some(leader.deadline()),
            Role::Candidate(_) | Role::Quarantined(_) => None,
        };
        let idle = core.now.plus_ms(if core.configuration.is_unsettled() {
            core.config.coordination_retry_ms()
        } else {
            core.config.lease_ms()
        });
        own.map_or(idle, |own| own.min(idle))
    }

    /// Its role.
    #[must_use]
    pub fn role(&self) -> RoleName {
        match self.role {
            Role::Follower(_) => RoleName::Follower,
            Role::Candidate(_) => RoleName::Candidate,
            Role::Leader(_) => RoleName::Leader,
            Role::Quarantined(_) => RoleName::Quarantined,
        }
    }

    /// The highest epoch that it knows.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.core.epoch()
    }

    /// What it knows to be committed. Falls never, but where a higher lineage replaces the log.
    #[must_use]
    pub fn commit(&self) -> Sequence {
        self.core.commit()
    }

    /// Whoever has applied this entry has everything that was committed before this moment, by the replica's own clock.
    /// `None`: it does not know, or has not applied it.
    #[must_use]
    pub fn fresh_as_of(&self) -> Option<(Timestamp, Sequence)> {
        self.core.freshness.as_of().filter(|(_, needed)| *needed <= self.core.applied())
    }

    /// The lineage that its contents are of. `None`: the partition's state was not seen yet, or there is a higher one, of which
    /// they are not yet; nobody is to read them then.
    #[must_use]
    pub fn lineage(&self) -> Option<u64> {
        let known = self.core.configuration.latest()?.lineage;
        (known <= self.core.lineage()).then_some(self.core.lineage())
    }

    /// The lineage that its contents are of, whether or not that is the partition's.
    #[must_use]
    pub fn data_lineage(&self) -> u64 {
        self.core.lineage()
    }

    /// Who it is.
    #[must_use]
    pub fn member(&self) -> Member {
        self.core.config.member
    }

    /// The log's last entry.
    #[must_use]
    pub fn last(&self) -> Position {
        self.core.last()
    }

    /// Who leads, as far as it knows: a hint for whoever asked the wrong one.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        let me = self.core.config.member;
        match &self.role {
            Role::Leader(_) => Some(me.node),
            Role::Follower(follower) => {
                follower.leader().filter(|leader| leader.node != me.node).map(|leader| leader.node)
            }
            Role::Candidate(_) | Role::Quarantined(_) => None,
        }
    }

    /// The last entry of the snapshot that it is fetching from its leader.
    #[must_use]
    pub fn installing(&self) -> Option<Position> {
        match &self.role {
            Role::Follower(follower) => follower.installing(),
            Role::Candidate(_) | Role::Leader(_) | Role::Quarantined(_) => None,
        }
    }

    /// How often in a row this replica could not fetch a snapshot that it needs, and when it tries again.
    #[must_use]
    pub fn fetch_failures(&self) -> (u32, Timestamp) {
        self.core.fetching.failures()
    }

    /// On a leader: the first entry of its log that a follower needs which is being rebuilt from a snapshot. From there on the
    /// log is to be kept, whatever its retention is.
    #[must_use]
    pub fn log_needed(&self) -> Option<Sequence> {
        match &self.role {
            Role::Leader(leader) => leader.log_needed(),
            Role::Follower(_) | Role::Candidate(_) | Role::Quarantined(_) => None,
        }
    }

    /// Whether a write may be proposed now.
    ///
    /// # Errors
    /// Why not. Below `min_in_sync` writes are refused, so that the caller knows that nothing was written.
    pub fn may_propose(&self) -> Result<(), Refusal> {
        match &self.role {
            Role::Leader(_) if self.core.stopping => {
                Err(Refusal::Unavailable { why: "the server is stopping".to_owned() })
            }
            Role::Leader(leader) => leader.may_propose(&self.core),
            _ => Err(self.not_leader()),
        }
    }

    /// Whether what is applied now may be read as the latest: ask before reading, and again before answering.
    ///
    /// # Errors
    /// Why not.
    pub fn may_read(&self, now: Timestamp) -> Result<(), Refusal> {
        match &self.role {
            Role::Leader(leader) => leader.may_read(&self.core, now.max(self.core.now)),
            _ => Err(self.not_leader()),
        }
    }

    /// The barrier of a read that comes now. Step [`Event::BarrierRead`] after it, or the read waits for the next heartbeat
    /// that is due anyway.
    ///
    /// # Errors
    /// This replica does not lead.
    pub fn barrier(&self) -> Result<Barrier, Refusal> {
        match &self.role {
            Role::Leader(leader) => Ok(leader.barrier(&self.core)),
            _ => Err(self.not_leader()),
        }
    }

    /// Whether what is applied now may be read as the latest by a read that came when the barrier was taken. Unlike
    /// [`may_read`](Self::may_read) it believes no clock; and what it says holds for good.
    ///
    /// # Errors
    /// Why not.
    pub fn may_read_behind(&self, barrier: Barrier) -> Result<(), Refusal> {
        match &self.role {
            Role::Leader(leader) if barrier.epoch == self.core.epoch() => {
                leader.may_read_behind(&self.core, barrier)
            }
            _ => Err(self.not_leader()),
        }
    }

    /// Its condition, for people.
    #[must_use]
    pub fn status(&self) -> ReplicaStatus {
        let core = &self.core;
        let state = core.configuration.latest();
        ReplicaStatus {
            role: self.role(),
            epoch: core.epoch(),
            leader: self.leader(),
            last: core.last(),
            durable: core.durable(),
            commit: core.commit(),
            applied: core.applied(),
            in_sync: state.map(|state| state.in_sync.clone()).unwrap_or_default(),
            eligible: state.map(|state| state.eligible.clone()).unwrap_or_default(),
            installing: self.installing(),
            followers: match &self.role {
                Role::Leader(leader) => leader.followers(core),
                _ => Vec::new(),
            },
            problem: self.problem(),
        }
    }

    /// What of the store is damaged, as far as is known.
    #[must_use]
    pub fn damage(&self) -> Option<&str> {
        self.core.damage.as_deref()
    }

    /// What is wrong, if anything is.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let core = &self.core;
        if let Role::Quarantined(quarantined) = &self.role {
            return Some(quarantined.reason.clone());
        }
        let Some(state) = core.configuration.latest() else {
            return Some("the partition's state has not been seen yet".to_owned());
        };
        if !state.replicas.contains(&core.config.member.node) {
            return Some("this node is not in the partition's replica list".to_owned());
        }
        if let Some(what) = &core.damage {
            let goes_on = match &self.role {
                Role::Leader(_) => "it leads on, since no other replica can take over",
                _ => "it gives up its store as soon as another replica leads whose store is sound",
            };
            return Some(format!("its store is damaged ({what}): {goes_on}"));
        }
        if core.configuration.is_in_doubt() {
            return Some("the coordination service shows an older state than it did before".to_owned());
        }
        self.lost_its_data()
    }

    /// That its node leads by the coordination service, with data that are no more: until somebody else can lead, nobody does.
    fn lost_its_data(&self) -> Option<String> {
        let me = self.core.config.member;
        let leader = self.core.configuration.latest()?.leader?;
        let is_lost = leader.node == me.node && leader != me;
        is_lost.then(|| {
            "the data that this node led the partition with are gone (its disk was lost, or an older copy came back): another \
             replica that was in sync has to lead, or else an operator to recover the partition"
                .to_owned()
        })
    }

    fn not_leader(&self) -> Refusal {
        if let Some(why) = self.lost_its_data() {
            return Refusal::Unavailable { why };
        }
        Refusal::NotLeader { leader: self.leader(), epoch: self.core.epoch() }
    }
}

impl Role {
    fn step(self, core: &mut Core, event: Event) -> Role {
        if let Role::Quarantined(quarantined) = self {
            return quarantined.step(core, event);
        }
        match event {
            Event::Tick => self.tick(core),
            Event::Propose { rows, log_time_ms } => self.propose(core, rows, log_time_ms),
            Event::Durable { through } => self.durable(core, through),
            Event::Applied { through } => {
                core.note_applied(through);
                self.led(|leader| leader.advance_handover(core))
            }
            Event::Received { from, message } => self.receive(core, from, message),
            Event::StateObserved { state } => self.observe(core, state),
            Event::StateWritten { outcome } => {
                let settled = core.configuration.written(core.now, outcome, &core.config, &mut core.effects);
                self.settled(core, settled)
            }
            Event::LogSent { to, through } => self.led(|leader| leader.log_sent(core, to, through)),
            Event::LogReleased { to } => self.led(|leader| leader.log_released(core, to)),
            Event::SnapshotReady { to, epoch, attempt, last } if epoch == core.epoch() => {
                self.led(|leader| leader.snapshot_ready(core, to, attempt, last))
            }
            Event::SnapshotReady { .. } => self,
            Event::SnapshotFetched { fetch, state } => match self {
                Role::Follower(follower) => follower.fetched(core, fetch, state),
                other => other,
            },
            Event::DiskFull => self.led(|leader| leader.give_rebuilds_up(core)),
            Event::BarrierRead => self.led(|leader| leader.heartbeat_for_barrier(core)),
            Event::TransferLeadership { to, deadline } => self.transfer(core, to, deadline),
            Event::NodesDrained { nodes } => {
                core.drained = nodes;
                self
            }
            Event::Leave => {
                core.leaving = true;
                self
            }
            Event::DiskStalled => {
                core.note_stall();
                self.led(|leader| leader.yield_leadership(core))
            }
            Event::StoreDamaged { what } => {
                core.note_damage(what);
                if broken!(GivesItsStoreUpAtOnce) {
                    return Quarantined::giving_up(core);
                }
                self.led(|leader| leader.yield_leadership(core))
            }
            Event::Stop => {
                core.stopping = true;
                self
            }
        }
    }

    /// Does what only a leader does.
    fn led(mut self, act: impl FnOnce(&mut Leader)) -> Role {
        if let Role::Leader(leader) = &mut self {
            act(leader);
        }
        self
    }

    fn transfer(mut self, core: &mut Core, to: Option<NodeId>, deadline: Timestamp) -> Role {
        match &mut self {
            Role::Leader(leader) => leader.transfer(core, to, deadline),
            _ => {
                let why = "this replica does not lead".to_owned();
                core.effects.push(Effect::TransferFailed { why, nobody_stays: false });
            }
        }
        self
    }

    fn tick(self, core: &mut Core) -> Role {
        core.apply();
        if let Role::Quarantined(_) = self {
            return self;
        }
        core.configuration.tick(core.now, &core.config, &mut core.effects);
        match self {
            Role::Follower(follower) => follower.tick(core),
            Role::Leader(mut leader) => {
                leader.tick(core);
                Role::Leader(leader)
            }
            other => other,
        }
    }

    fn propose(self, core: &mut Core, rows: paddock_storage::Rows, log_time_ms: u64) -> Role {
        match self {
            Role::Leader(mut leader) => {
                if !core.stopping && leader.may_propose(core).is_ok() {
                    leader.propose(core, rows, log_time_ms);
                }
                Role::Leader(leader)
            }
            other => other,
        }
    }

    fn durable(mut self, core: &mut Core, through: Sequence) -> Role {
        core.note_durable(through);
        match &mut self {
            Role::Follower(follower) => follower.durable(core),
            Role::Leader(leader) => leader.durable(core),
            Role::Candidate(_) | Role::Quarantined(_) => {}
        }
        self
    }

    /// A message: a higher epoch ends whatever this replica was in a lower one; a lower one is over.
    fn receive(self, core: &mut Core, from: Member, message: Message) -> Role {
        let is_leaders = message.is_leaders();
        if from.node == core.config.member.node {
            return self;
        }
        let is_counted = broken!(AcknowledgementsOfOlderEpochs) && matches!(message, Message::Ack { .. });
        if message.epoch() < core.epoch() && !is_counted {
            if let Message::Heartbeat { epoch, sent_at, .. } = message
                && broken!(GrantsLowerEpochs)
            {
                let readiness = Readiness::NotNow;
                core.send(from.node, Message::Grant { epoch, sent_at, readiness, asked: 0 });
                return self;
            }
            if is_leaders {
                core.send(from.node, Message::Stale { epoch: core.epoch() });
            }
            return self;
        }
        let role = if message.epoch() > core.epoch() {
            self.step_down(core, message.epoch(), is_leaders.then_some(from))
        } else {
            self
        };
        match role {
            Role::Follower(follower) => follower.receive(core, from, message),
            Role::Leader(leader) => leader.receive(core, from, &message),
            Role::Candidate(candidate) if is_leaders && broken!(CandidateAcknowledges) => {
                Follower::new(Some(from)).receive(core, from, message);
                Role::Candidate(candidate)
            }
            // A candidate neither acknowledges nor grants.
            other => other,
        }
    }

    fn observe(self, core: &mut Core, observed: ObservedState) -> Role {
        if observed.state.partition_uuid != core.config.partition_uuid {
            let reason = format!(
                "the data is of partition life {}, the coordination service has {}",
                core.config.partition_uuid, observed.state.partition_uuid
            );
            return self.quarantine(core, reason);
        }
        let epoch_seen = core.epoch();
        let (observation, settled) =
            core.configuration.observe(core.now, observed, epoch_seen, &core.config, &mut core.effects);
        match observation {
            Observation::Impossible(reason) => self.quarantine(core, reason),
            Observation::Known if settled.is_none() => self,
            Observation::Known | Observation::Newer => {
                let role = self.settled(core, settled);
                if !matches!(role, Role::Quarantined(_)) {
                    core.adopt_lineage_that_counts_on_us();
                }
                role
            }
        }
    }

    /// A change was settled, or a newer state was seen, or both.
    fn settled(self, core: &mut Core, settled: Option<Settled>) -> Role {
        match (self, settled) {
            (Role::Candidate(candidate), Some(settled)) => candidate.settled(core, settled),
            (role, _) => role,
        }
        .align(core)
    }

    /// Brings the role in line with the latest state of the coordination service.
    fn align(self, core: &mut Core) -> Role {
        let Some(state) = core.configuration.latest() else { return self };
        let (epoch, leader) = (state.epoch, state.leader);
        if broken!(LeadsBecauseTheStateSaysSo)
            && leader == Some(core.config.member)
            && epoch >= core.epoch()
            && matches!(self, Role::Follower(_))
        {
            return Leader::lead(core);
        }
        if epoch > core.epoch() {
            let is_own = core.configuration.proposed().is_some_and(|own| own.nonce == state.nonce);
            if is_own && matches!(self, Role::Candidate(_)) {
                return self; // Elected, it seems. The answer to the write is on its way.
            }
            return self.step_down(core, epoch, leader);
        }
        match (self, leader) {
            (Role::Leader(reign), _) if epoch == core.epoch() => reign.configured(core),
            (Role::Follower(follower), Some(leader)) if epoch == core.epoch() => {
                follower.learn_leader(core, leader)
            }
            (role, _) => role,
        }
    }

    /// A higher epoch exists: follows it. Whatever change was under way can no longer be written, since the state
    /// has moved on to that epoch.
    fn step_down(self, core: &mut Core, epoch: Epoch, leader: Option<Member>) -> Role {
        self.lose_leadership(core);
        core.configuration.abandon();
        core.adopt(epoch);
        Role::Follower(Follower::new(leader))
    }

    fn quarantine(self, core: &mut Core, reason: String) -> Role {
        self.lose_leadership(core);
        core.configuration.abandon();
        Quarantined::for_the_record(reason)
    }

    fn lose_leadership(&self, core: &mut Core) {
        if let Role::Leader(_) = self {
            let epoch = core.epoch();
            core.effects.push(Effect::LostLeadership { epoch });
        }
    }
}
