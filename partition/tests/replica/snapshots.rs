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

fn announce(cluster: &mut Cluster, from: Member, epoch: u64, last: Position) -> Vec<Effect> {
    let message = Message::Snapshot { epoch: Epoch(epoch), last };
    step(cluster, Event::Received { from, message })
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
    assert!(!fetches(&announce(&mut cluster, leader, 1, at(0, 1))), "entry 2 is known to be committed");
    assert!(!fetches(&announce(&mut cluster, leader, 1, at(2, 9))), "no leader of epoch 1 has that");
    assert!(fetches(&announce(&mut cluster, leader, 1, at(1, 9))));
    assert!(!fetches(&announce(&mut cluster, leader, 1, at(1, 9))), "it is fetching that");
    assert!(fetches(&announce(&mut cluster, leader, 1, at(1, 10))), "a newer one takes its place");
}

#[test]
fn who_counts_fetches_nothing() {
    let (mut cluster, leader) = returned();
    cluster.advance(1000, true);
    assert!(cluster.state().state.in_sync.contains(&cluster.nodes[1].member()));
    assert!(!fetches(&announce(&mut cluster, leader, 1, at(1, 90))));
    // And what it was fetching before it counted is not put in its place.
    let (mut cluster, leader) = returned();
    assert!(fetches(&announce(&mut cluster, leader, 1, at(1, 9))));
    let mut state = cluster.state().clone();
    state.version.0 += 1;
    state.state.in_sync.push(cluster.nodes[1].member());
    step(&mut cluster, Event::StateObserved { state });
    let effects =
        step(&mut cluster, Event::SnapshotFetched { last: at(1, 9), state: Some(copy(1, at(1, 9))) });
    assert!(!installs(&effects) && effects.contains(&Effect::DiscardSnapshot), "{effects:?}");
}

#[test]
fn what_was_known_to_be_committed_stays_known_and_is_applied_again() {
    let (mut cluster, leader) = returned();
    let commit = replica(&mut cluster).commit();
    announce(&mut cluster, leader, 1, at(1, 9));
    // Another than was announced is none.
    let other = step(&mut cluster, Event::SnapshotFetched { last: at(1, 9), state: Some(copy(1, at(1, 8))) });
    assert!(!installs(&other));
    announce(&mut cluster, leader, 1, at(1, 9));
    let effects =
        step(&mut cluster, Event::SnapshotFetched { last: at(1, 9), state: Some(copy(1, at(1, 9))) });
    assert_eq!(
        effects.first(),
        Some(&Effect::InstallSnapshot { last: at(1, 9) }),
        "before anything is said of it"
    );
    assert!(effects.contains(&Effect::Apply { through: commit }), "{effects:?}");
    let ack = Message::Ack { epoch: Epoch(1), sequence: Sequence(9) };
    assert!(effects.contains(&Effect::Send { to: leader.node, message: ack }), "{effects:?}");
    assert_eq!((replica(&mut cluster).commit(), replica(&mut cluster).last()), (commit, at(1, 9)));
}

#[test]
fn a_copy_that_contradicts_a_commit_quarantines() {
    let (mut cluster, leader) = returned();
    let heartbeat =
        Message::Heartbeat { epoch: Epoch(2), sent_at: Timestamp(1), commit: Sequence(0), echo: 0 };
    step(&mut cluster, Event::Received { from: leader, message: heartbeat });
    assert!(fetches(&announce(&mut cluster, leader, 2, at(2, 9))));
    let effects =
        step(&mut cluster, Event::SnapshotFetched { last: at(2, 9), state: Some(copy(2, at(2, 9))) });
    assert!(!installs(&effects), "{effects:?}");
    assert_eq!(replica(&mut cluster).role(), RoleName::Quarantined);
}

#[test]
fn a_copy_whose_epochs_do_not_fit_is_not_installed() {
    let (mut cluster, leader) = returned();
    announce(&mut cluster, leader, 1, at(1, 9));
    let broken = DurableState { epochs: Vec::new(), ..copy(1, at(1, 9)) };
    let effects = step(&mut cluster, Event::SnapshotFetched { last: at(1, 9), state: Some(broken) });
    assert!(!installs(&effects), "{effects:?}");
}
