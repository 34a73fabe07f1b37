//! Who leads how many partitions: after failovers and restarts leaderships gather on few nodes, and are handed back, one at a time,
//! until no node leads two more than another one could. A pure function: [`next_move`].
//!
//! Where a node that leads many shares no partition with one that leads few, others in between pass one on each. The step that is
//! returned is the last of such a chain, so that no node ever leads more than the one that has most.
//!
//! Only what is at rest is moved: from a live node to a live one, neither of them drained, of a partition whose replicas are all
//! where they are to be and all in sync.
//!
//! What this does not do: it knows no time (the controller waits until nothing has changed for a while), does not weigh one
//! partition against another, and does not count who holds replicas.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::cluster_map::ClusterMap;
use crate::ids::{Epoch, NodeId, PartitionId};
use crate::placement::target_of;
use crate::records::PartitionState;

/// A hand-over that brings the leaders nearer to an even spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Which partition.
    pub partition: PartitionId,
    /// Who leads it.
    pub from: NodeId,
    /// Who is to.
    pub to: NodeId,
}

/// The next hand-over, or `None` where leaders are spread as evenly as the replicas allow.
#[must_use]
pub fn next_move(map: &ClusterMap) -> Option<Move> {
    let counts = leaders(map);
    let moves = possible_moves(map, &counts);
    let mut sources: Vec<NodeId> = counts.keys().copied().collect();
    sources.sort_by_key(|node| (std::cmp::Reverse(counts.get(node)), *node));
    sources.into_iter().find_map(|source| shortest(source, &counts, &moves))
}

/// How many partitions each node leads that may lead at all.
#[must_use]
pub fn leaders(map: &ClusterMap) -> BTreeMap<NodeId, usize> {
    let may_lead = |node: &&NodeId| map.nodes.get(node).is_some_and(|record| !record.drained);
    let mut counts: BTreeMap<NodeId, usize> =
        map.live.iter().filter(may_lead).map(|node| (*node, 0)).collect();
    for leader in map.partitions.values().filter_map(|partition| partition.state.leader) {
        if let Some(count) = counts.get_mut(&leader.node) {
            *count += 1;
        }
    }
    counts
}

/// What each node could hand over, and to whom.
fn possible_moves(map: &ClusterMap, counts: &BTreeMap<NodeId, usize>) -> BTreeMap<NodeId, Vec<Move>> {
    let mut moves: BTreeMap<NodeId, Vec<Move>> = BTreeMap::new();
    for (id, partition) in &map.partitions {
        let state = &partition.state;
        let Some(leader) = state.leader.filter(|leader| counts.contains_key(&leader.node)) else { continue };
        if !is_at_rest(map, *id, state) {
            continue;
        }
        // The preferred ones first: where several would do, the order of the target decides.
        for to in target_of(map, *id, state) {
            if to != leader.node && counts.contains_key(&to) {
                moves.entry(leader.node).or_default().push(Move { partition: *id, from: leader.node, to });
            }
        }
    }
    moves
}

fn is_at_rest(map: &ClusterMap, id: PartitionId, state: &PartitionState) -> bool {
    let target: BTreeSet<NodeId> = target_of(map, id, state).into_iter().collect();
    let replicas: BTreeSet<NodeId> = state.replicas.iter().copied().collect();
    let in_sync: BTreeSet<NodeId> = state.in_sync.iter().map(|member| member.node).collect();
    state.epoch > Epoch(0) && state.eligible.is_empty() && target == replicas && replicas == in_sync
}

/// The last hand-over on the shortest way from a node to one that leads at least two less.
fn shortest(
    source: NodeId,
    counts: &BTreeMap<NodeId, usize>,
    moves: &BTreeMap<NodeId, Vec<Move>>,
) -> Option<Move> {
    let most = counts.get(&source)?;
    let mut seen = BTreeSet::from([source]);
    let mut queue = VecDeque::from([source]);
    while let Some(node) = queue.pop_front() {
        for step in moves.get(&node).into_iter().flatten() {
            if counts.get(&step.to).is_some_and(|count| count + 2 <= *most) {
                return Some(*step);
            }
            if seen.insert(step.to) {
                queue.push_back(step.to);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ulid::Ulid;

    use super::*;
    use crate::cluster_map::{Partition, Target};
    use crate::ids::{Generation, Member};
    use crate::records::{NodeRecord, ReplicaTarget};
    use crate::store::Version;

    fn node(number: u8) -> NodeId {
        NodeId(Ulid::from_parts(0, u128::from(number)))
    }

    fn member(number: u8) -> Member {
        Member { node: node(number), generation: Generation(1) }
    }

    /// A cluster of so many live nodes, and partitions with these replicas, all in sync, each led by the first.
    fn cluster(count: u8, partitions: &[Vec<u8>]) -> ClusterMap {
        let mut map = ClusterMap { connected: true, ..ClusterMap::default() };
        for number in 0..count {
            let record = NodeRecord {
                grpc_address: "h:1".into(),
                boot_count: 1,
                build_version: "0".into(),
                drained: false,
            };
            map.nodes.insert(node(number), record);
            map.live.insert(node(number));
        }
        for (id, replicas) in (0..).zip(partitions) {
            let nodes = replicas.iter().copied().map(node).collect();
            let in_sync: Vec<Member> = replicas.iter().copied().map(member).collect();
            let state = PartitionState {
                epoch: Epoch(1),
                leader: in_sync.first().copied(),
                in_sync,
                ..PartitionState::initial(Ulid::from_parts(9, u128::from(id)), nodes, Ulid::nil())
            };
            map.partitions.insert(PartitionId(id), Partition { version: Version(1), state });
        }
        map
    }

    fn step(partition: u32, from: u8, to: u8) -> Option<Move> {
        Some(Move { partition: PartitionId(partition), from: node(from), to: node(to) })
    }

    fn state(map: &mut ClusterMap, id: u32) -> &mut PartitionState {
        &mut map.partitions.get_mut(&PartitionId(id)).unwrap().state
    }

    #[test]
    fn who_leads_two_more_than_another_hands_one_over() {
        assert_eq!(next_move(&cluster(2, &[vec![0, 1], vec![0, 1]])), step(0, 0, 1));
        assert_eq!(next_move(&cluster(2, &[vec![0, 1], vec![1, 0]])), None);
        assert_eq!(next_move(&cluster(2, &[vec![0, 1]])), None, "one more is no matter");
        assert_eq!(next_move(&cluster(3, &[vec![0, 1], vec![0, 1]])), step(0, 0, 1));
    }

    #[test]
    fn others_in_between_pass_one_on_and_never_hold_more() {
        // 0 leads two, and shares nothing with 2, which leads none.
        let mut map = cluster(3, &[vec![0, 1], vec![0, 1], vec![1, 2]]);
        assert_eq!(next_move(&map), step(2, 1, 2));
        state(&mut map, 2).leader = Some(member(2));
        assert_eq!(next_move(&map), step(0, 0, 1));
        state(&mut map, 0).leader = Some(member(1));
        assert_eq!(next_move(&map), None);
    }

    #[test]
    fn nothing_is_moved_that_is_not_at_rest_and_nobody_leads_who_is_not_to() {
        let uneven = || cluster(2, &[vec![0, 1], vec![0, 1]]);
        let mut drained = uneven();
        drained.nodes.get_mut(&node(1)).unwrap().drained = true;
        assert_eq!(next_move(&drained), None, "to a drained node");
        let mut drained = uneven();
        drained.nodes.get_mut(&node(0)).unwrap().drained = true;
        assert_eq!(next_move(&drained), None, "a drained node hands over by itself");
        let mut away = uneven();
        away.live.remove(&node(1));
        assert_eq!(next_move(&away), None, "to a node that is away");
        let mut behind = uneven();
        for id in 0..2 {
            state(&mut behind, id).in_sync.pop();
        }
        assert_eq!(next_move(&behind), None, "to a replica that is behind");
        let mut moving = uneven();
        for id in 0..2 {
            let partition_uuid = state(&mut moving, id).partition_uuid;
            let target = ReplicaTarget { partition_uuid, replicas: vec![node(0)] };
            moving.targets.insert(PartitionId(id), Target { version: Version(1), target });
        }
        assert_eq!(next_move(&moving), None, "of a partition whose replicas move");
    }

    proptest! {
        /// From wherever it begins it comes to an end, and then nobody leads two more than a node that could take one over. On
        /// the way nobody leads more than who led most.
        #[test]
        fn an_even_spread_is_reached(
            partitions in proptest::collection::vec(
                proptest::sample::subsequence((0..5_u8).collect::<Vec<_>>(), 1..=3).prop_shuffle(), 1..24),
            drained in proptest::option::of(0..5_u8),
        ) {
            let mut map = cluster(5, &partitions);
            if let Some(drained) = drained {
                map.nodes.get_mut(&node(drained)).unwrap().drained = true;
            }
            let most = leaders(&map).into_values().max();
            let mut moves = 0;
            while let Some(Move { partition, from, to }) = next_move(&map) {
                moves += 1;
                prop_assert!(moves <= 24 * 5, "it does not end");
                let state = state(&mut map, partition.0);
                prop_assert_eq!(state.leader.map(|leader| leader.node), Some(from));
                prop_assert!(drained.is_none_or(|drained| to != node(drained) && from != node(drained)));
                state.leader = state.in_sync.iter().copied().find(|member| member.node == to);
                prop_assert!(state.leader.is_some());
                prop_assert!(leaders(&map).into_values().max() <= most);
            }
            let counts = leaders(&map);
            for known in map.partitions.values() {
                let Some(from) = known.state.leader.and_then(|leader| counts.get(&leader.node)) else { continue };
                for to in known.state.replicas.iter().filter_map(|node| counts.get(node)) {
                    prop_assert!(from <= &(to + 1), "{counts:?}");
                }
            }
        }
    }
}
