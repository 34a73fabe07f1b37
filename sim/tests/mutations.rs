//! A test of the simulation: each rule of the protocol is broken in turn, and within so many seeds the simulation has to
//! notice. `cargo test --package paddock-sim --features mutations --test mutations`

#![allow(clippy::print_stdout, reason = "which seed notices is worth knowing")]

use paddock_partition::replica::mutation::{Mutation, break_rule};
use paddock_sim::run;
use parking_lot::Mutex;

/// Rules whose breach shows soon, and within how many seeds it must: part of every test run.
const SOON: (u64, &[Mutation]) = (
    500,
    &[
        Mutation::ProposedSetIsNotWaitedFor,
        Mutation::MinInSyncIsIgnored,
        Mutation::ReadsBeforeTheEpochsFirstEntry,
        Mutation::WritesBeforeTheEpochsFirstEntry,
        Mutation::AcknowledgementsOfAnyGeneration,
        Mutation::AcknowledgedBeforeItsSync,
        Mutation::JoinsBeforeItHoldsTheCommit,
        Mutation::TheEligibleStay,
        Mutation::MatchesBySequenceAlone,
        Mutation::CutsToItsOwnCommit,
        Mutation::PromisesAreBroken,
        Mutation::BootWaitIsSkipped,
        Mutation::LeadsBecauseTheStateSaysSo,
        Mutation::AnyReplicaStands,
        Mutation::ReadsWithoutGrants,
        Mutation::ReadsByMajority,
    ],
);

/// Rules whose breach takes a rare turn of events to show: `make sim-rules`.
const RARELY: (u64, &[Mutation]) = (
    6_000,
    &[
        Mutation::GrantsLowerEpochs,
        Mutation::AcknowledgementsOfOlderEpochs,
        Mutation::CandidateAcknowledges,
        Mutation::GrantsCountFromTheirArrival,
        Mutation::MinInSyncCountsProposals,
        Mutation::ReadsWithoutTheEligible,
    ],
);

/// The first seed that notices, and what it says.
fn first_to_notice(mutation: Mutation, seeds: u64) -> Option<(u64, String)> {
    break_rule(Some(mutation));
    let found = (0..seeds).find_map(|seed| run(seed, 0).err().map(|failed| (seed, failed.what)));
    break_rule(None);
    found
}

/// Breaks each rule, on all processors; all have to be noticed.
fn all_are_noticed((seeds, rules): (u64, &[Mutation])) {
    // A panic of what is simulated is one way to notice.
    std::panic::set_hook(Box::new(|_| {}));
    let (left, unnoticed) =
        (Mutex::new(rules.iter().rev().copied().collect::<Vec<_>>()), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let Some(mutation) = left.lock().pop() else { break };
                    match first_to_notice(mutation, seeds) {
                        Some((seed, what)) => {
                            println!(
                                "{mutation:?}: seed {seed}: {}",
                                what.chars().take(120).collect::<String>()
                            );
                        }
                        None => unnoticed.lock().push(mutation),
                    }
                }
            });
        }
    });
    let _ = std::panic::take_hook();
    let unnoticed = unnoticed.into_inner();
    assert!(unnoticed.is_empty(), "in {seeds} seeds nobody noticed {unnoticed:?}");
}

#[test]
fn a_broken_rule_is_noticed_soon() {
    all_are_noticed(SOON);
}

#[test]
#[ignore = "takes thousands of seeds: make sim-rules"]
fn a_broken_rule_is_noticed_however_rarely_it_shows() {
    all_are_noticed(RARELY);
}
