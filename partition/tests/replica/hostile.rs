//! A peer that is broken, confused or hostile sends whatever the wire can carry. It may hold a replica up, since
//! peers are trusted, but it must not end its process: no assertion of the core, and no overflow, is in its reach.

use paddock_coordination::{Epoch, Generation, Member, NodeId};
use paddock_partition::replica::{Event, Message, Readiness, RoleName, Timestamp};
use paddock_storage::{LogEntries, Position, Sequence};
use ulid::Ulid;

use crate::cluster::{Cluster, puts};
use crate::walk::Chance;

const ROUNDS: u64 = 400;
const MESSAGES: u64 = 60;

/// A number that a rule may break at: small, near one that is in use, or near the end of the range.
fn number(chance: &mut Chance, near: u64) -> u64 {
    match chance.below(6) {
        0 => chance.below(4),
        1 => u64::MAX - chance.below(3),
        2 => chance.next(),
        _ => near.saturating_add(chance.below(4)).saturating_sub(chance.below(4)),
    }
}

fn entries(chance: &mut Chance, epoch: u64, previous: Position) -> Vec<LogEntries> {
    let mut next = previous.sequence.0.saturating_add(1);
    let mut runs = Vec::new();
    for _ in 0..chance.below(4) {
        let first = if chance.percent(70) { next } else { number(chance, next) };
        let count = 1 + chance.index(3);
        let rows = puts(std::iter::repeat_n("evil", count));
        // The edge refuses these two: see `entries_from_wire`.
        let (first, count) = (first.max(1), count as u64);
        if first.checked_add(count).is_none() {
            continue;
        }
        let epoch = if chance.percent(70) { epoch } else { number(chance, epoch) };
        runs.push(LogEntries { epoch, first: Sequence(first), log_time_ms: number(chance, 0), rows });
        next = first + count;
    }
    runs
}

fn message(chance: &mut Chance, cluster: &Cluster, index: usize) -> Option<Message> {
    let replica = cluster.nodes[index].replica.as_ref()?;
    let (own, last) = (replica.epoch().0, replica.last());
    // Seldom a wild epoch: once adopted, it leaves little to try.
    let epoch = Epoch(if chance.percent(3) { number(chance, own) } else { own });
    let near = if chance.percent(50) { last.sequence.0 } else { replica.commit().0 };
    let sequence = Sequence(number(chance, near));
    let known = [last, Position::default(), Position { epoch: last.epoch, sequence }];
    let position = match chance.index(4) {
        3 => Position { epoch: number(chance, last.epoch), sequence },
        which => known[which],
    };
    let sent_at = Timestamp(number(chance, cluster.nodes[index].clock(cluster.now).0));
    Some(match chance.below(12) {
        0 => {
            // Seldom another lineage, for the same reason.
            let lineage = if chance.percent(3) { number(chance, 0) } else { 0 };
            let (echo, is_sound) = (chance.below(u64::MAX), chance.percent(50));
            Message::Heartbeat { epoch, sent_at, commit: sequence, echo, lineage, is_sound }
        }
        1 => {
            let all = [Readiness::NotNow, Readiness::CanTakeOver, Readiness::Leaving];
            Message::Grant { epoch, sent_at, readiness: all[chance.index(3)], asked: chance.below(u64::MAX) }
        }
        2 => Message::Ack { epoch, sequence },
        3 => Message::Mismatch { epoch, hint: position },
        4 => Message::Stale { epoch },
        5 => Message::Snapshot { epoch, attempt: number(chance, 1), last: position },
        7 => {
            let failures = u32::try_from(chance.below(9)).unwrap_or(0);
            let (attempt, pause_ms) = (number(chance, 1), number(chance, 100));
            Message::SnapshotFailed { epoch, attempt, failures, pause_ms }
        }
        6 => Message::Release { epoch, sent_at },
        8 => Message::Rebuild { epoch },
        _ => {
            let entries = entries(chance, epoch.0, position);
            Message::Append { epoch, previous: position, entries, commit: sequence }
        }
    })
}

#[test]
fn no_message_whatever_ends_a_process() {
    let (mut quarantined, mut led) = (0, 0);
    for seed in 0..ROUNDS {
        let mut chance = Chance(seed);
        let mut cluster = Cluster::new(&['A', 'B', 'C'], None, 200, true);
        cluster.checker.is_blind = true;
        cluster.checker.quarantine_is_expected = true;
        for index in 0..3 {
            cluster.start(index);
        }
        cluster.advance(300, true);
        for _ in 0..MESSAGES {
            let index = chance.index(3);
            let Some(message) = message(&mut chance, &cluster, index) else { continue };
            let from = match chance.below(5) {
                0 => Member { node: NodeId(Ulid(9)), generation: Generation(number(&mut chance, 1)) },
                1 => Member { node: cluster.nodes[chance.index(3)].id(), generation: Generation(7) },
                _ => cluster.nodes[chance.index(3)].member(),
            };
            cluster.step(index, Event::Received { from, message });
            let is_leader =
                cluster.nodes[index].replica.as_ref().is_some_and(|one| one.may_propose().is_ok());
            if is_leader && chance.percent(30) {
                led += 1;
                cluster.step(index, Event::Propose { rows: puts(["x"]), log_time_ms: 0 });
            }
            if chance.percent(20) {
                let duration_ms = chance.below(60);
                cluster.advance(duration_ms, true);
            }
            // What a lie left in a log and in the manifest is what the next start finds.
            if chance.percent(5) {
                cluster.crash(index, 0);
                cluster.start(index);
            }
        }
        let is_quarantined = |node: &&crate::cluster::Node| {
            node.replica.as_ref().is_some_and(|one| one.role() == RoleName::Quarantined)
        };
        quarantined += cluster.nodes.iter().filter(is_quarantined).count();
    }
    assert!(
        led > 100 && quarantined > 10,
        "the lies were not believed often enough to say anything: {led} {quarantined}"
    );
}

#[test]
fn a_record_of_the_last_epoch_elects_nobody() {
    let mut cluster = Cluster::new(&['A', 'B'], None, 200, true);
    cluster.checker.is_blind = true;
    let mut broken = cluster.state().clone();
    broken.state.epoch = Epoch(u64::MAX);
    broken.state.in_sync = cluster.nodes.iter().map(crate::cluster::Node::member).collect();
    cluster.states.push(broken);
    for index in 0..2 {
        cluster.start(index);
    }
    cluster.advance(2_000, true);
    for node in &cluster.nodes {
        assert_eq!(
            node.replica.as_ref().map(paddock_partition::replica::Replica::role),
            Some(RoleName::Follower)
        );
    }
}
