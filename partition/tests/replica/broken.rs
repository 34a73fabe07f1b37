//! A test of the scripts: the rule that a script is about is broken, and the script has to notice, by another output or by
//! the checker. `cargo test --package paddock-partition --features mutations --test replica broken`

use std::panic::{AssertUnwindSafe, catch_unwind};

use paddock_partition::replica::mutation::{Mutation, break_rule};

use crate::scripts;
use crate::walk::walk;

/// Scripts, and the rules of which each shows the breach.
const SCRIPTS: &[(&str, &[Mutation])] = &[
    ("published_kip_101_a_restart_cuts_nothing", &[Mutation::CutsToItsOwnCommit]),
    ("published_kip_101_other_entries_at_the_same_sequence", &[Mutation::MatchesBySequenceAlone]),
    ("published_kafka_6361_two_fast_fail_overs", &[Mutation::MatchesBySequenceAlone]),
    ("published_kafka_7235_what_a_former_life_asked_for", &[Mutation::LeadsBecauseTheStateSaysSo]),
    ("published_kafka_14617_a_new_disk_is_not_its_former_self", &[Mutation::AcknowledgementsOfAnyGeneration]),
    ("published_kafka_13916_a_fenced_replica_does_not_join", &[Mutation::AcknowledgementsOfOlderEpochs]),
    ("published_etcd_14370_one_replica_acknowledges_after_its_fsync", &[Mutation::CommitsBeforeItsOwnSync]),
    (
        "published_redis_6062_nothing_is_taken_after_the_release",
        &[
            Mutation::WritesDuringTheHandover,
            Mutation::ReadsAfterTheRelease,
            Mutation::ReleasedBeforeItHasEverything,
        ],
    ),
    ("published_redis_4819_the_one_behind_is_not_elected", &[Mutation::AnyReplicaStands]),
    ("published_curator_1211_a_lost_session_makes_no_second_leader", &[Mutation::ReadsWithoutGrants]),
    ("published_nats_2_12_1_the_power_fails_everywhere", &[Mutation::AcknowledgedBeforeItsSync]),
    ("published_cockroachdb_107060_a_stalled_disk_is_not_alive", &[Mutation::StalledFollowersStay]),
    ("published_tikv_964_a_grant_counts_from_its_heartbeat", &[Mutation::GrantsCountFromTheirArrival]),
    ("published_zookeeper_4925_commits_that_it_forgot", &[Mutation::OlderStatesAreBelieved]),
    ("recovered_lineage_replaces_what_an_earlier_one_committed", &[Mutation::LineageIsTakenOverUnseen]),
    ("damaged_and_alone_it_goes_on", &[Mutation::GivesItsStoreUpAtOnce]),
    ("damaged_stores_are_not_given_up_for_each_other", &[Mutation::GivesItsStoreUpForADamagedLeader]),
    ("handover_release_is_late", &[Mutation::FollowsOldReleases]),
    ("snapshot_ready_of_an_earlier_attempt_counts_for_nothing", &[Mutation::SnapshotOfAnyAttempt]),
    ("snapshot_that_fails_again_and_again_holds_no_log", &[Mutation::FailuresHoldTheLog]),
    ("snapshot_when_the_log_no_longer_reaches", &[Mutation::AcknowledgesWhatItFetches]),
    ("barrier_read_waits_for_answers_since_it_came", &[Mutation::OlderGrantsPassABarrier]),
    ("staleness_is_measured_by_what_the_leader_echoes", &[Mutation::StalenessFromTheAnswer]),
];

/// What the script puts out while a rule is broken; `None` where the checker objects.
fn output(script: &str, mutation: Option<Mutation>) -> Option<String> {
    break_rule(mutation);
    let output = catch_unwind(AssertUnwindSafe(|| scripts::output_of(script)));
    break_rule(None);
    output.ok()
}

#[test]
fn a_broken_rule_changes_what_its_script_puts_out() {
    // A panic is one way to notice.
    std::panic::set_hook(Box::new(|_| {}));
    let mut unnoticed = Vec::new();
    for (script, mutations) in SCRIPTS {
        let golden = output(script, None);
        if golden.is_none() {
            unnoticed.push(format!("{script} fails by itself"));
        }
        for mutation in *mutations {
            if output(script, Some(*mutation)) == golden {
                unnoticed.push(format!("{script} does not notice {mutation:?}"));
            }
        }
    }
    let _ = std::panic::take_hook();
    assert!(unnoticed.is_empty(), "{unnoticed:#?}");
}

/// Nobody recovers a partition in the simulation, so the walks have to notice this one.
#[test]
fn a_lineage_that_is_taken_over_unseen_is_noticed_by_walks() {
    const WALKS: u64 = 150;
    std::panic::set_hook(Box::new(|_| {}));
    break_rule(Some(Mutation::LineageIsTakenOverUnseen));
    let found = (0..WALKS).find(|seed| catch_unwind(|| walk(*seed)).is_err());
    break_rule(None);
    let _ = std::panic::take_hook();
    assert!(found.is_some(), "in {WALKS} walks nobody noticed");
}
