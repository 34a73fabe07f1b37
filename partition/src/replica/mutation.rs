//! The protocol's rules, each as a switch that breaks it: so that the simulation can be tested itself. A rule whose breach
//! nobody notices is not tested.
//!
//! The switches exist with the feature `mutations` alone, which only the simulation's own test asks for; a build without
//! assertions, as released ones are, refuses it.

#[cfg(all(feature = "mutations", not(debug_assertions)))]
compile_error!("the feature `mutations` breaks the protocol on request: it has no place in a release build");

/// A rule that is broken.
#[cfg(feature = "mutations")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// Commits wait for the confirmed in-sync set alone, not for a proposed one.
    ProposedSetIsNotWaitedFor,
    /// `min_in_sync` is counted on every set that may be in force, not on the confirmed one.
    MinInSyncCountsProposals,
    /// `min_in_sync` does not matter.
    MinInSyncIsIgnored,
    /// Reads are served before the epoch's first entry is committed and applied.
    ReadsBeforeTheEpochsFirstEntry,
    /// Writes are taken before the epoch's first entry is committed and applied.
    WritesBeforeTheEpochsFirstEntry,
    /// An acknowledgement counts for whatever generation answers at its node.
    AcknowledgementsOfAnyGeneration,
    /// An acknowledgement of an earlier epoch counts.
    AcknowledgementsOfOlderEpochs,
    /// A follower acknowledges what it has written and not synced.
    AcknowledgedBeforeItsSync,
    /// A follower joins before it holds what is committed.
    JoinsBeforeItHoldsTheCommit,
    /// Who left the set below `min_in_sync` stays eligible when commits go on without it.
    TheEligibleStay,
    /// A candidate goes on acknowledging.
    CandidateAcknowledges,
    /// Logs are compared by sequence alone.
    MatchesBySequenceAlone,
    /// A follower of a new leader first cuts its log to what it knows to be committed.
    CutsToItsOwnCommit,
    /// A heartbeat of a lower epoch is granted.
    GrantsLowerEpochs,
    /// A candidate does not wait until its promise is over.
    PromisesAreBroken,
    /// A candidate does not wait for a lease after its start.
    BootWaitIsSkipped,
    /// A replica leads because the state says so.
    LeadsBecauseTheStateSaysSo,
    /// A replica gives a damaged store up as soon as it hears of the damage.
    GivesItsStoreUpAtOnce,
    /// A replica gives a damaged store up for a leader that says that its own is damaged, too.
    GivesItsStoreUpForADamagedLeader,
    /// Who is in neither set may stand.
    AnyReplicaStands,
    /// Reads need no grants.
    ReadsWithoutGrants,
    /// Reads need the grants of a majority.
    ReadsByMajority,
    /// Reads need no grants of those who are eligible.
    ReadsWithoutTheEligible,
    /// A grant counts from when it arrives.
    GrantsCountFromTheirArrival,
    /// A leader counts its own log before its fsync.
    CommitsBeforeItsOwnSync,
    /// A follower that acknowledges nothing stays, as long as it grants.
    StalledFollowersStay,
    /// Whatever the coordination service shows is believed, however old it is.
    OlderStatesAreBelieved,
    /// A leader that has released its target goes on counting the grants of before.
    ReadsAfterTheRelease,
    /// A leader that hands over goes on taking writes.
    WritesDuringTheHandover,
    /// The target of a hand-over is released before it has everything.
    ReleasedBeforeItHasEverything,
    /// A release is followed after a later heartbeat was granted.
    FollowsOldReleases,
    /// A follower acknowledges a snapshot as soon as it hears of it.
    AcknowledgesWhatItFetches,
    /// A follower takes any snapshot, whatever it holds and knows.
    InstallsAnySnapshot,
    /// Word of a copy that a leader made before is taken for word of the one that it makes.
    SnapshotOfAnyAttempt,
    /// A leader keeps its log for a follower that fails again and again.
    FailuresHoldTheLog,
    /// A leader's log is not kept for a follower that is being rebuilt.
    LogIsNotKeptForTheRebuilt,
    /// What became of a write with an id does not go into the log.
    ResultsAreNotLogged,
    /// What became of writes with an id is not read from a store that is opened, or was fetched.
    ResultsAreNotLoaded,
    /// An id from before the horizon is taken for a new one.
    ExpiredIdsAreNew,
    /// A session's read sees whatever is applied.
    SessionsAreIgnored,
    /// A follower is as fresh as the answer, not as its question.
    StalenessFromTheAnswer,
    /// A leader vouches for a follower's freshness without the lease.
    VouchesWithoutTheLease,
    /// A barrier is passed by grants of heartbeats that were sent before the read came.
    OlderGrantsPassABarrier,
    /// A replica takes a higher lineage over before it knows that its log is of it.
    LineageIsTakenOverUnseen,
}

#[cfg(feature = "mutations")]
std::thread_local! {
    static BROKEN: std::cell::Cell<Option<Mutation>> = const { std::cell::Cell::new(None) };
}

/// Breaks a rule for all replicas that this thread runs, or none.
#[cfg(feature = "mutations")]
pub fn break_rule(mutation: Option<Mutation>) {
    BROKEN.set(mutation);
}

/// Whether a rule is broken.
#[cfg(feature = "mutations")]
pub(crate) fn is_broken(mutation: Mutation) -> bool {
    BROKEN.get() == Some(mutation)
}

/// Without the feature no rule is broken.
#[cfg(not(feature = "mutations"))]
pub(crate) const fn none_is_broken() -> bool {
    false
}

/// Whether a rule is broken; never, without the feature.
#[cfg(feature = "mutations")]
macro_rules! broken {
    ($rule:ident) => {
        crate::replica::mutation::is_broken(crate::replica::mutation::Mutation::$rule)
    };
}
#[cfg(not(feature = "mutations"))]
macro_rules! broken {
    ($rule:ident) => {
        crate::replica::mutation::none_is_broken()
    };
}

pub(crate) use broken;
