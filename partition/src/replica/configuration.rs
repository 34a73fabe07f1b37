//! [`Configuration`]: the partition's state as the coordination service last showed it, and the one change
//! of it that may be under way.
//!
//! A write of the state is a compare-and-set on its version and carries a fresh nonce. Its outcome may stay
//! unknown; then the state is read. A version beyond the expected one settles it: with our nonce it was
//! written, with another it was not and never will be. An unchanged version settles nothing, since the
//! write may still be on its way, so the same write, nonce and all, is issued again, until one of them is
//! answered. As long as it is not settled, both configurations count as in force.
//!
//! The rollback guard also stands here. A state that goes back in version or in epoch is a server that
//! lags, or metadata that was rolled back; only time tells them apart. Until the service shows again what it
//! had shown before, nothing is written to it; after [`ROLLBACK_PATIENCE_LEASES`] the replica gives up.
//!
//! [`ROLLBACK_PATIENCE_LEASES`]: super::config::ROLLBACK_PATIENCE_LEASES

use paddock_coordination::{Epoch, Member, PartitionState, Version};
use ulid::Ulid;

use super::config::ReplicaConfig;
use super::effect::Effect;
use super::event::{ObservedState, WriteOutcome};
use super::mutation::broken;
use super::timestamp::Timestamp;

/// The state as last seen, and the change under way.
#[derive(Debug)]
pub(super) struct Configuration {
    latest: Option<ObservedState>,
    change: Option<Change>,
    suspicion: Option<Suspicion>,
    /// No change is proposed before this: the last one met a service that could not be reached.
    retry_at: Timestamp,
    next_nonce: u128,
}

/// A write of the state that is not settled.
#[derive(Debug)]
struct Change {
    expected: Version,
    state: PartitionState,
    phase: Phase,
    /// An earlier issue of the same write had an unknown outcome: a conflict may be with ourselves.
    issued_before: bool,
    /// The version is known to have moved on, so that it can no longer be written: only its answer is awaited.
    moot: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// The answer is awaited.
    Issued,
    /// The outcome is unknown: the state was asked for at this moment.
    Unknown { asked_at: Timestamp },
    /// The version was another: the state was asked for at this moment.
    Conflict { asked_at: Timestamp },
}

/// The service showed an older state than one seen before.
#[derive(Debug)]
struct Suspicion {
    since: Timestamp,
    asked_at: Timestamp,
}

/// How a change ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// It was written.
    Written,
    /// Somebody else's write came first.
    Lost,
    /// It never reached the service.
    NotWritten,
}

/// What an observed state meant.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Observation {
    /// Nothing that was not known.
    Known,
    /// A newer state, which is the latest now.
    Newer,
    /// It cannot have come about by the protocol's rules.
    Impossible(String),
}

impl Configuration {
    pub(super) fn new(nonce_seed: u128) -> Self {
        Configuration {
            latest: None,
            change: None,
            suspicion: None,
            retry_at: Timestamp::default(),
            next_nonce: nonce_seed,
        }
    }

    /// The state as last seen.
    pub(super) fn latest(&self) -> Option<&PartitionState> {
        self.latest.as_ref().map(|latest| &latest.state)
    }

    /// The state that is proposed and not settled.
    pub(super) fn proposed(&self) -> Option<&PartitionState> {
        self.change.as_ref().filter(|change| !change.moot).map(|change| &change.state)
    }

    /// Every state that may be in force: the latest, and the proposed one.
    pub(super) fn in_force(&self) -> impl Iterator<Item = &PartitionState> {
        self.latest().into_iter().chain(self.proposed())
    }

    /// Whether the in-sync set that the coordination service is known to hold is large enough to commit.
    pub(super) fn may_commit(&self) -> bool {
        if broken!(MinInSyncIsIgnored) {
            return true;
        }
        if broken!(MinInSyncCountsProposals) {
            return self.in_force().any(|state| state.in_sync.len() >= min_in_sync(state));
        }
        self.latest().is_some_and(|state| state.in_sync.len() >= min_in_sync(state))
    }

    /// Whether a change may be proposed now: one at a time, and on a state that is beyond doubt.
    pub(super) fn may_propose(&self, now: Timestamp) -> bool {
        self.latest.is_some() && self.change.is_none() && self.suspicion.is_none() && now >= self.retry_at
    }

    /// The earliest moment at which a change that was turned away for want of a service may be tried again.
    pub(super) fn retry_at(&self) -> Timestamp {
        self.retry_at
    }

    /// Whether ticks are needed to see a change or a doubt through.
    pub(super) fn is_unsettled(&self) -> bool {
        self.change.is_some() || self.suspicion.is_some()
    }

    /// Whether the coordination service shows an older state than it did before.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.suspicion.is_some()
    }

    /// Issues a change of the latest state.
    pub(super) fn propose(&mut self, mut state: PartitionState, effects: &mut Vec<Effect>) {
        assert!(self.change.is_none(), "one change at a time");
        let Some(latest) = &self.latest else { return };
        assert!(state.epoch >= latest.state.epoch, "epochs never fall");
        state.nonce = Ulid(self.next_nonce);
        self.next_nonce = self.next_nonce.wrapping_add(1);
        let expected = latest.version;
        effects.push(Effect::WriteState { expected, state: state.clone() });
        self.change =
            Some(Change { expected, state, phase: Phase::Issued, issued_before: false, moot: false });
    }

    /// The version is known to have moved on: the change can have no effect from now on.
    pub(super) fn abandon(&mut self) {
        match &mut self.change {
            Some(change) if change.phase == Phase::Issued => change.moot = true,
            _ => self.change = None,
        }
    }

    /// The answer to a write.
    pub(super) fn written(
        &mut self,
        now: Timestamp,
        outcome: WriteOutcome,
        config: &ReplicaConfig,
        effects: &mut Vec<Effect>,
    ) -> Option<Settled> {
        let mut change = self.change.take_if(|change| change.phase == Phase::Issued)?;
        if change.moot {
            return None;
        }
        match outcome {
            WriteOutcome::Written(version) => {
                if self.latest.as_ref().is_none_or(|latest| latest.version < version) {
                    self.latest = Some(ObservedState { version, state: change.state });
                }
                return Some(Settled::Written);
            }
            WriteOutcome::NotWritten if !change.issued_before => {
                self.retry_at = now.plus_ms(config.coordination_retry_ms());
                return Some(Settled::NotWritten);
            }
            // An earlier issue may still have been written.
            WriteOutcome::NotWritten | WriteOutcome::Unknown => {
                change.phase = Phase::Unknown { asked_at: now }
            }
            WriteOutcome::Conflict => change.phase = Phase::Conflict { asked_at: now },
        }
        self.change = Some(change);
        let settled = self.settle(false, effects);
        if settled.is_none() && outcome != WriteOutcome::NotWritten {
            effects.push(Effect::ReadState);
        }
        settled
    }

    /// A state was observed.
    pub(super) fn observe(
        &mut self,
        now: Timestamp,
        observed: ObservedState,
        epoch_seen: Epoch,
        config: &ReplicaConfig,
        effects: &mut Vec<Effect>,
    ) -> (Observation, Option<Settled>) {
        if let Some(latest) = self.latest.as_ref().filter(|_| !broken!(OlderStatesAreBelieved)) {
            if let Some(reason) = contradiction(latest, &observed) {
                return (Observation::Impossible(reason), None);
            }
            if observed.version < latest.version {
                let shown = format!("version {} after version {}", observed.version.0, latest.version.0);
                return (self.suspect(now, &shown, config, effects), None);
            }
        }
        let newer = self.latest.as_ref().is_none_or(|latest| latest.version < observed.version);
        let newer = newer || broken!(OlderStatesAreBelieved);
        let epoch = observed.state.epoch;
        self.latest = Some(observed);
        let settled = self.settle(true, effects);
        if epoch < epoch_seen && !broken!(OlderStatesAreBelieved) {
            let shown = format!("epoch {epoch} after epoch {epoch_seen}");
            let doubt = self.suspect(now, &shown, config, effects);
            return (if doubt == Observation::Known && newer { Observation::Newer } else { doubt }, settled);
        }
        self.suspicion = None;
        (if newer { Observation::Newer } else { Observation::Known }, settled)
    }

    /// Time has passed: asks again what was not answered.
    pub(super) fn tick(&mut self, now: Timestamp, config: &ReplicaConfig, effects: &mut Vec<Effect>) {
        let retry_ms = config.coordination_retry_ms();
        let mut ask = false;
        let unanswered = self.change.as_mut().and_then(|change| match &mut change.phase {
            Phase::Unknown { asked_at } | Phase::Conflict { asked_at } => Some(asked_at),
            Phase::Issued => None,
        });
        for asked_at in unanswered.into_iter().chain(self.suspicion.as_mut().map(|doubt| &mut doubt.asked_at))
        {
            if now >= asked_at.plus_ms(retry_ms) {
                *asked_at = now;
                ask = true;
            }
        }
        if ask {
            effects.push(Effect::ReadState);
        }
    }

    /// Settles the change by the latest state, if that tells; issues it again if it may still be written.
    /// `fresh`: the latest state was just observed.
    fn settle(&mut self, fresh: bool, effects: &mut Vec<Effect>) -> Option<Settled> {
        let change = self.change.as_mut().filter(|change| change.phase != Phase::Issued)?;
        let latest = self.latest.as_ref()?;
        if latest.version > change.expected {
            let ours = latest.state.nonce == change.state.nonce;
            self.change = None;
            return Some(if ours { Settled::Written } else { Settled::Lost });
        }
        if fresh && matches!(change.phase, Phase::Unknown { .. }) {
            change.phase = Phase::Issued;
            change.issued_before = true;
            effects.push(Effect::WriteState { expected: change.expected, state: change.state.clone() });
        }
        None
    }

    /// The service shows an older state than one that was seen: it lags, or it lost what it had promised to keep.
    fn suspect(
        &mut self,
        now: Timestamp,
        shown: &str,
        config: &ReplicaConfig,
        effects: &mut Vec<Effect>,
    ) -> Observation {
        let Some(suspicion) = &self.suspicion else {
            self.suspicion = Some(Suspicion { since: now, asked_at: now });
            effects.push(Effect::ReadState);
            return Observation::Known;
        };
        if now.since(suspicion.since) < config.rollback_patience_ms() {
            return Observation::Known;
        }
        Observation::Impossible(format!(
            "the coordination service's metadata was rolled back: it keeps showing {shown}, which this replica \
             has already seen"
        ))
    }
}

/// The fewest in-sync members that may commit; at least one.
pub(super) fn min_in_sync(state: &PartitionState) -> usize {
    usize::try_from(state.min_in_sync).unwrap_or(usize::MAX).max(1)
}

/// The eligible set that goes with a changed in-sync set, which some have left: nobody, as soon as commits are
/// possible without them.
pub(super) fn settle_eligible(state: &mut PartitionState, left: &[Member]) {
    if state.in_sync.len() >= min_in_sync(state) && !broken!(TheEligibleStay) {
        state.eligible.clear();
        return;
    }
    for member in left {
        if !state.eligible.contains(member) {
            state.eligible.push(*member);
        }
    }
    let PartitionState { in_sync, eligible, .. } = state;
    eligible.retain(|member| !in_sync.contains(member));
}

/// Why both states cannot be of one history.
fn contradiction(latest: &ObservedState, observed: &ObservedState) -> Option<String> {
    let what = if observed.version == latest.version && observed.state != latest.state {
        format!("version {} has changed its content", latest.version.0)
    } else if observed.version > latest.version && observed.state.epoch < latest.state.epoch {
        format!("epoch {} came after epoch {}", observed.state.epoch, latest.state.epoch)
    } else if observed.version > latest.version && observed.state.lineage < latest.state.lineage {
        format!("lineage {} came after lineage {}", observed.state.lineage, latest.state.lineage)
    } else {
        return None;
    };
    Some(format!("the coordination service's metadata was rolled back: {what}"))
}
