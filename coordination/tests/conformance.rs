//! One suite for both backends: what [`paddock_coordination::Coordinator`] promises, in fair weather and foul.
//!
//! The ZooKeeper half runs against a real server, which the tests start through scripts/zookeeper.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says so by failing")]
#![allow(unreachable_pub, dead_code, reason = "the support is shared with the other tests")]

mod suite;
mod support;

/// Makes a test of each case, on one fixture.
macro_rules! conformance {
    ($fixture:ty: $($module:ident :: {$($case:ident),+ $(,)?}),+ $(,)?) => {
        $($(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                crate::suite::$module::$case::<$fixture>().await;
            }
        )+)+
    };
}

/// The cases, listed once.
macro_rules! all_cases {
    ($fixture:ty) => {
        conformance! {
            $fixture:
            values::{
                versions_and_values,
                conflicts_change_nothing,
                parents_come_into_being,
                nonsense_is_rejected,
                the_largest_value,
                concurrent_counters_lose_nothing,
            },
            faults::{
                unreachable_is_unavailable_and_writes_nothing,
                a_lost_request_is_unknown_and_not_done,
                a_lost_answer_is_unknown_and_done,
                counters_survive_lost_answers_by_their_nonces,
                values_and_versions_survive_a_restart,
                operations_go_on_after_expiry,
            },
            watches::{
                a_watch_sees_every_kind_of_change,
                a_watch_keeps_to_its_subtree,
                a_watch_sees_what_was_missed_and_what_follows_a_reconnect,
                a_watch_survives_expiry,
                a_watch_survives_a_restart,
                many_watches_of_one_path,
            },
            registrations::{
                a_registration_stands_until_it_is_dropped,
                a_registration_returns_when_deleted,
                a_registration_returns_after_expiry,
                a_registration_returns_after_a_restart,
                a_registration_survives_a_reconnect,
                registrations_end_with_the_handle,
                registrations_end_with_close,
                a_former_sessions_node_is_replaced_and_the_newest_holds,
                an_ephemeral_node_has_no_children,
                a_persistent_node_is_not_replaced,
            },
            bootstrap::{
                everyone_agrees_on_one_cluster,
                a_node_of_a_cluster_never_creates_one,
                contenders_with_different_views_place_one_plan,
                placement_is_finished_by_others,
                a_lost_answer_does_not_hurt_bootstrap,
                nothing_is_placed_for_a_cluster_that_is_gone,
            },
        }
    };
}

mod embedded {
    all_cases!(crate::support::embedded::EmbeddedFixture);
}

mod zookeeper {
    all_cases!(crate::support::zookeeper::ZooKeeperFixture);
}
