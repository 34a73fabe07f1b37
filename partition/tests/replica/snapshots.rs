//! What a follower makes of snapshots that no honest leader would announce, or that know less than it does.

use paddock_coordination::{Epoch, Member};
use paddock_partition::replica::{DurableState, Effect, Event, Message, Replica, RoleName, Timestamp};
use paddock_storage::{EpochStart, Position, Sequence};

use crate::cluster::{Cluster, puts};

fn at(epoch: u64, sequence: u64) -> Position {
    Position { epoch, sequence: Sequence(sequence) }
}

/// A leader, A, and a follower, B, that was away, is not in sync, and knows some of its entries to be committed.
fn returned() -> (Cluster, Member) {
    let mut cluster = Cluster::new(&['A', 'B'], None, 1000, true);
    cluster.start(0);
    cluster.start(1);
    cluster.advance(300, true);
    for statement in ["x", "y", "z"] {
        cluster.step(0, Event::Propose { rows: puts([statement]), log_time_ms: 0 });
        cluster.advance(200, true);
    }
    cluster.crash(1, 0);
    cluster.advance(1500, true);
    cluster.start(1);
    let leader = cluster.nodes[0].member();
    let follower = replica(&mut cluster);
    assert!(follower.commit() > Sequence(1) && follower.commit() <= follower.last().sequence);
    (cluster, leader)
}

fn replica(cluster: &mut Cluster) -> &mut Replica {
    cluster.nodes[1].replica.as_mut().unwrap()
}

/// Steps B alone: what it asks for is looked at, and not done.
fn step(cluster: &mut Cluster, event: Event) -> Vec<Effect> {
    let now = cluster.nodes[1].clock(cluster.now);
    replica(cluster).step(now, event)
}

fn announce(cluster: &mut Cluster, from: Member, epoch: u64, attempt: u64, last: Position) -> Vec<Effect> {
    let message = Message::Snapshot { epoch: Epoch(epoch), attempt, last };
    step(cluster, Event::Received { from, message })
}

/// The number of the fetch that is asked for.
fn fetch(effects: &[Effect]) -> u64 {
    let fetch = |effect: &Effect| match effect {
        Effect::FetchSnapshot { fetch, .. } => Some(*fetch),
        _ => None,
    };
    effects.iter().find_map(fetch).unwrap()
}

fn fetches(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::FetchSnapshot { .. }))
}

fn installs(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::InstallSnapshot { .. }))
}

fn copy(epoch: u64, last: Position) -> DurableState {
    DurableState {
        last,
        durable: last.sequence,
        epochs: vec![EpochStart { epoch, first: Sequence(1) }],
        ..DurableState::default()
    }
}

#[test]
fn a_copy_without_a_known_commit_or_of_a_later_epoch_is_not_fetched() {
    let (mut cluster, leader) = returned();
    assert!(!fetches(&announce(&mut cluster, leader, 1, 1, at(0, 1))), "entry 2 is known to be committed");
    assert!(!fetches(&announce(&mut cluster, leader, 1, 2, at(2, 9))), "no leader of epoch 1 has that");
    assert!(fetches(&announce(&mut cluster, leader, 1, 3, at(1, 9))));
    assert!(!fetches(&announce(&mut cluster, leader, 1, 3, at(1, 9))), "it is fetching that");
    assert!(fetches(&announce(&mut cluster, leader, 1, 4, at(1, 9))), "a newer one takes its place");
    assert!(!fetches(&announce(&mut cluster, leader, 1, 3, at(1, 9))), "word of the former was delayed");
}

#[test]
fn who_counts_fetches_nothing() {
    let (mut cluster, leader) = returned();
    cluster.advance(1000, true);
    assert!(cluster.state().state.in_sync.contains(&cluster.nodes[1].member()));
    assert!(!fetches(&announce(&mut cluster, leader, 1, 1, at(1, 90))));
    // And what it was fetching before it counted is not put in its place.
    let (mut cluster, leader) = returned();
    let fetch = fetch(&announce(&mut cluster, leader, 1, 1, at(1, 9)));
    let mut state = cluster.state().clone();
    state.version.0 += 1;
    state.state.in_sync.push(cluster.nodes[1].member());
    step(&mut cluster, Event::StateObserved { state });
    let effects = step(&mut cluster, Event::SnapshotFetched { fetch, state: Some(copy(1, at(1, 9))) });
    assert!(!installs(&effects) && effects.contains(&Effect::DiscardSnapshot), "{effects:?}");
}

#[test]
fn an_answer_to_an_earlier_fetch_counts_for_nothing() {
    let (mut cluster, leader) = returned();
    let former = fetch(&announce(&mut cluster, leader, 1, 1, at(1, 9)));
    // The leader made it anew, as of the same entry: what was fetched of the first one is gone by now.
    let newer = fetch(&announce(&mut cluster, leader, 1, 2, at(1, 9)));
    let late = Event::SnapshotFetched { fetch: former, state: Some(copy(1, at(1, 9))) };
    assert!(!installs(&step(&mut cluster, late)), "it would be put in its place, and is not there");
    assert!(replica(&mut cluster).installing().is_some());
    let event = Event::SnapshotFetched { fetch: newer, state: Some(copy(1, at(1, 9))) };
    assert!(installs(&step(&mut cluster, event)));
}

#[test]
fn what_was_applied_stays_applied_also_where_the_copy_knows_less() {
    let (mut cluster, leader) = returned();
    let (commit, applied) = {
        let status = replica(&mut cluster).status();
        (status.commit, status.applied)
    };
    assert!(applied > Sequence(0));
    let number = fetch(&announce(&mut cluster, leader, 1, 1, at(1, 9)));
    // Another than was announced is none.
    let other = Event::SnapshotFetched { fetch: number, state: Some(copy(1, at(1, 8))) };
    assert!(!installs(&step(&mut cluster, other)));
    cluster.now += 1_000;
    let number = fetch(&announce(&mut cluster, leader, 1, 1, at(1, 9)));
    // One that says of itself that nothing is committed, and has nothing applied.
    let effects =
        step(&mut cluster, Event::SnapshotFetched { fetch: number, state: Some(copy(1, at(1, 9))) });
    let install = Effect::InstallSnapshot { last: at(1, 9), apply_through: commit };
    assert_eq!(effects.first(), Some(&install), "before anything is said of it");
    let ack = Message::Ack { epoch: Epoch(1), sequence: Sequence(9) };
    assert!(effects.contains(&Effect::Send { to: leader.node, message: ack }), "{effects:?}");
    let status = replica(&mut cluster).status();
    assert_eq!((status.commit, status.applied, status.last), (commit, commit, at(1, 9)));
}

#[test]
fn a_fetch_that_fails_is_tried_again_after_a_pause_that_grows() {
    let (mut cluster, leader) = returned();
    let mut pauses = Vec::new();
    for failures in 1..=8 {
        let number = fetch(&announce(&mut cluster, leader, 1, failures, at(1, 9)));
        let effects = step(&mut cluster, Event::SnapshotFetched { fetch: number, state: None });
        let pause_of = |effects: &[Effect]| {
            let pause = |effect: &Effect| match effect {
                Effect::Send { to, message: Message::SnapshotFailed { failures: said, pause_ms, .. } } => {
                    assert_eq!((*to, u64::from(*said)), (leader.node, failures));
                    Some(*pause_ms)
                }
                _ => None,
            };
            effects.iter().find_map(pause).expect("the leader is told")
        };
        let pause_ms = pause_of(&effects);
        // Until it is over every announcement is answered so, and nothing is fetched.
        cluster.now += pause_ms - 1;
        let early = announce(&mut cluster, leader, 1, failures + 1, at(1, 9));
        assert!(!fetches(&early));
        assert_eq!(pause_of(&early), 1);
        cluster.now += 1;
        pauses.push(pause_ms);
    }
    assert!(pauses[0] <= 1_000 && pauses[2] > 1_000, "{pauses:?}");
    assert!(pauses.iter().all(|pause_ms| *pause_ms <= 32_000) && pauses[7] >= 16_000, "{pauses:?}");
}

#[test]
fn a_copy_that_contradicts_a_commit_quarantines() {
    let (mut cluster, leader) = returned();
    let heartbeat = Message::Heartbeat {
        epoch: Epoch(2),
        sent_at: Timestamp(1),
        commit: Sequence(0),
        echo: 0,
        lineage: 0,
        is_sound: true,
    };
    step(&mut cluster, Event::Received { from: leader, message: heartbeat });
    let number = fetch(&announce(&mut cluster, leader, 2, 1, at(2, 9)));
    let effects =
        step(&mut cluster, Event::SnapshotFetched { fetch: number, state: Some(copy(2, at(2, 9))) });
    assert!(!installs(&effects), "{effects:?}");
    assert_eq!(replica(&mut cluster).role(), RoleName::Quarantined);
}

#[test]
fn a_copy_whose_epochs_do_not_fit_or_that_is_not_durable_is_not_installed() {
    for broken in [
        DurableState { epochs: Vec::new(), ..copy(1, at(1, 9)) },
        DurableState { durable: Sequence(8), ..copy(1, at(1, 9)) },
    ] {
        let (mut cluster, leader) = returned();
        let number = fetch(&announce(&mut cluster, leader, 1, 1, at(1, 9)));
        let effects = step(&mut cluster, Event::SnapshotFetched { fetch: number, state: Some(broken) });
        assert!(!installs(&effects), "{effects:?}");
    }
}
