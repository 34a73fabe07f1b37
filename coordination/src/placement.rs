//! Where replicas are to be, and the steps that lead there: what the controller of a cluster does, as a pure function.
//!
//! Each partition has a *target*, the nodes that are to hold its replicas: an operator's wish, or what the controller chose
//! when a node had been gone for too long. [`plan`] compares targets with states, and gives the next step of each
//! partition that has one. A step is one compare-and-set of one record:
//!
//! 1. a replica on a node of the target is added to the partition's replicas, at the end of the list. The leader sends it
//!    the log, and takes it in sync when it has caught up;
//! 2. once *all* nodes of the target are in sync, those that are not in it leave, followers first; `min_in_sync` falls with the
//!    first of them, so that it never asks for more than are left. A leader hands over ([`next_leader`]) before it leaves;
//! 3. the list takes the target's order, and `min_in_sync` becomes that of so many replicas.
//!
//! So a partition never has fewer replicas in sync for being moved, and a step that is not taken, taken late, or planned by
//! two controllers at once does no harm: each is bound to the version of the record that it was planned on. Nothing but
//! `replicas` and `min_in_sync` is ever changed here; who leads and who is in sync is the replicas' own affair, and failover
//! waits for nothing of this.
//!
//! What this does not do: choose a leader among the target's nodes ([`leaders`](crate::leaders) does), move replicas for the sake of balance, or
//! place by anything but the number of replicas on a node. A node that has been replaced and comes back holds nothing
//! that counts, until somebody wants a replica on it.

use std::collections::{BTreeMap, BTreeSet};

use crate::bootstrap::REPLICATION_FACTOR_MAX;
use crate::cluster_map::{ClusterMap, Partition};
use crate::ids::{Epoch, NodeId, PartitionId};
use crate::records::{PartitionState, ReplicaTarget, default_min_in_sync};
use crate::store::Version;

/// So many partitions get a new replica at a time: each of them reads its leader's whole data once.
pub const JOINING_MAX: usize = 2;

/// One compare-and-set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Say where a partition's replicas are to be.
    SetTarget {
        /// Which partition.
        partition: PartitionId,
        /// The version of the target that is there; `None`: there is none yet.
        expected: Option<Version>,
        /// The new target.
        target: ReplicaTarget,
    },
    /// Change a partition's replicas.
    SetState {
        /// Which partition.
        partition: PartitionId,
        /// The version of the state that this was planned on.
        expected: Version,
        /// The new state, to be written as it is: **with the nonce of the old one**. By that a replica finds out whether a
        /// write of its own came about of which it does not know; were it another one, a replica that has won an election
        /// would take it for lost. Whoever changes neither epoch nor in-sync set has no need of a nonce of its own.
        state: PartitionState,
        /// What it does.
        change: Change,
    },
}

/// What a step does to a partition's replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Adds one.
    Add(NodeId),
    /// Takes one away.
    Remove(NodeId),
    /// Puts them in the target's order, and `min_in_sync` right.
    Settle,
}

/// The next steps: for each partition at most one.
///
/// `gone` are the nodes that have been away for so long that their replicas are to be elsewhere; `slow` the replicas that have been
/// [`joining`] for so long that nobody is to wait for them: else two that never arrive (a full disk, a leader that is lost)
/// would keep all others from being placed.
#[must_use]
pub fn plan(map: &ClusterMap, gone: &BTreeSet<NodeId>, slow: &BTreeSet<(PartitionId, NodeId)>) -> Vec<Step> {
    let mut planner = Planner::new(map, gone, slow);
    map.partitions.iter().filter_map(|(id, partition)| planner.step(*id, partition)).collect()
}

/// Where a partition's replicas are to be: the target, or where they are.
#[must_use]
pub fn target_of(map: &ClusterMap, id: PartitionId, state: &PartitionState) -> Vec<NodeId> {
    let target = map.targets.get(&id).map(|known| &known.target);
    match target.filter(|target| target.partition_uuid == state.partition_uuid) {
        Some(target) => target.replicas.clone(),
        None => state.replicas.clone(),
    }
}

/// The replicas that are being made: on live nodes of a target, and not in sync, of partitions whose leaders live.
pub fn joining(map: &ClusterMap) -> impl Iterator<Item = (PartitionId, NodeId)> + '_ {
    let of = |(id, partition): (&PartitionId, &'_ Partition)| {
        joining_in(map, *id, &partition.state).map(|node| (*id, node)).collect::<Vec<_>>()
    };
    map.partitions.iter().flat_map(of)
}

fn joining_in<'a>(
    map: &'a ClusterMap,
    id: PartitionId,
    state: &'a PartitionState,
) -> impl Iterator<Item = NodeId> + 'a {
    let target = target_of(map, id, state);
    let is_led = state.leader.is_some_and(|leader| map.live.contains(&leader.node));
    let replicas = state.replicas.iter().copied().filter(move |_| is_led);
    replicas.filter(move |node| target.contains(node) && map.live.contains(node) && !is_in_sync(state, *node))
}

/// To whom a partition's leader is to hand over, because it is the last that keeps the partition from its target; `None` if it may
/// stay.
#[must_use]
pub fn next_leader(map: &ClusterMap, id: PartitionId) -> Option<NodeId> {
    let state = &map.partitions.get(&id)?.state;
    let target = target_of(map, id, state);
    let stays = state.leader.is_none_or(|leader| target.contains(&leader.node));
    let is_there = |node: &NodeId| is_in_sync(state, *node) && map.live.contains(node);
    if stays || !target.iter().all(is_there) {
        return None;
    }
    let may_lead = |node: &&NodeId| map.nodes.get(node).is_some_and(|record| !record.drained);
    target.iter().find(may_lead).or(target.first()).copied()
}

/// Why replicas cannot be placed as somebody wants them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// It is to have one already.
    #[error("node {0} has a replica of the partition already, or is to have one")]
    AlreadyThere(NodeId),
    /// It is to have none.
    #[error("node {0} has no replica of the partition, and is to have none")]
    NotThere(NodeId),
    /// None would be left.
    #[error("a partition has one replica at least")]
    None,
    /// Too many.
    #[error("a partition has at most {REPLICATION_FACTOR_MAX} replicas, this would be {found}")]
    TooMany {
        /// How many it would be.
        found: usize,
    },
}

/// A target with other nodes: those to be added come in the place of those to be removed, as far as there are any, the others at the
/// end.
///
/// # Errors
/// [`TargetError`].
pub fn changed_target(
    target: &[NodeId],
    add: &[NodeId],
    remove: &[NodeId],
) -> Result<Vec<NodeId>, TargetError> {
    let mut changed = target.to_vec();
    let mut added = add.iter();
    for node in remove {
        let place = changed.iter().position(|other| other == node).ok_or(TargetError::NotThere(*node))?;
        match added.next() {
            Some(other) if changed.contains(other) => return Err(TargetError::AlreadyThere(*other)),
            Some(other) => changed[place] = *other,
            None => drop(changed.remove(place)),
        }
    }
    for node in added {
        if changed.contains(node) {
            return Err(TargetError::AlreadyThere(*node));
        }
        changed.push(*node);
    }
    match changed.len() {
        0 => Err(TargetError::None),
        found if found > REPLICATION_FACTOR_MAX as usize => Err(TargetError::TooMany { found }),
        _ => Ok(changed),
    }
}

struct Planner<'a> {
    map: &'a ClusterMap,
    gone: &'a BTreeSet<NodeId>,
    /// How many replicas each node has, or is to have.
    load: BTreeMap<NodeId, usize>,
    joining: usize,
}

impl<'a> Planner<'a> {
    fn new(
        map: &'a ClusterMap,
        gone: &'a BTreeSet<NodeId>,
        slow: &BTreeSet<(PartitionId, NodeId)>,
    ) -> Planner<'a> {
        let mut load: BTreeMap<NodeId, usize> = map.live.iter().map(|node| (*node, 0)).collect();
        let mut joining = 0;
        for (id, Partition { state, .. }) in &map.partitions {
            let target = target_of(map, *id, state);
            for node in target.iter().chain(state.replicas.iter().filter(|node| !target.contains(node))) {
                *load.entry(*node).or_default() += 1;
            }
            joining += usize::from(joining_in(map, *id, state).any(|node| !slow.contains(&(*id, node))));
        }
        Planner { map, gone, load, joining }
    }

    fn step(&mut self, id: PartitionId, partition: &Partition) -> Option<Step> {
        let state = &partition.state;
        // Before its first leader nobody could say what a replica holds.
        if state.epoch == Epoch(0) {
            return None;
        }
        let target = target_of(self.map, id, state);
        if let Some(replicas) = self.replace_gone(&target) {
            let known = self.map.targets.get(&id);
            let target = ReplicaTarget { partition_uuid: state.partition_uuid, replicas };
            return Some(Step::SetTarget {
                partition: id,
                expected: known.map(|known| known.version),
                target,
            });
        }
        let (change, state) = self.change(state, &target)?;
        Some(Step::SetState { partition: id, expected: partition.version, state, change })
    }

    /// The target with other nodes in the place of those that are gone; `None` if there is nothing to replace, or nothing to
    /// replace it with.
    fn replace_gone(&mut self, target: &[NodeId]) -> Option<Vec<NodeId>> {
        let mut replicas = target.to_vec();
        for place in 0..replicas.len() {
            if self.gone.contains(&replicas[place])
                && let Some(other) = self.least_loaded(&replicas)
            {
                *self.load.entry(other).or_default() += 1;
                replicas[place] = other;
            }
        }
        (replicas != target).then_some(replicas)
    }

    /// The live node with the fewest replicas that is none of these, and not drained.
    fn least_loaded(&self, but: &[NodeId]) -> Option<NodeId> {
        let is_fit = |node: &&NodeId| self.map.nodes.get(node).is_some_and(|record| !record.drained);
        let live = self.map.live.iter().filter(|node| !but.contains(node)).filter(is_fit);
        live.min_by_key(|node| (self.load.get(node).copied().unwrap_or(0), **node)).copied()
    }

    fn change(&mut self, state: &PartitionState, target: &[NodeId]) -> Option<(Change, PartitionState)> {
        let missing =
            target.iter().find(|node| !state.replicas.contains(node) && self.map.live.contains(node));
        if let Some(node) = missing {
            if self.joining >= JOINING_MAX {
                return None;
            }
            self.joining += 1;
            let mut changed = state.clone();
            changed.replicas.push(*node);
            return Some((Change::Add(*node), changed));
        }
        if target.is_empty() || !target.iter().all(|node| is_in_sync(state, *node)) {
            return None;
        }
        // Whoever is eligible holds every committed entry because nothing was committed below min_in_sync: so that stays
        // what it is until nobody is.
        if !state.eligible.is_empty() {
            return None;
        }
        let settled = default_min_in_sync(target.len());
        let leads = |node: &NodeId| state.leader.is_some_and(|leader| leader.node == *node);
        let leaving =
            state.replicas.iter().filter(|node| !target.contains(node)).min_by_key(|node| leads(node));
        if let Some(node) = leaving {
            // It is about to hand over: see `next_leader`.
            if leads(node) && self.map.live.contains(node) {
                return None;
            }
            let mut changed = state.clone();
            changed.replicas.retain(|other| other != node);
            // Before those are gone who are needed for more.
            changed.min_in_sync = settled.min(state.min_in_sync);
            return Some((Change::Remove(*node), changed));
        }
        let changed = PartitionState { replicas: target.to_vec(), min_in_sync: settled, ..state.clone() };
        (changed != *state).then_some((Change::Settle, changed))
    }
}

fn is_in_sync(state: &PartitionState, node: NodeId) -> bool {
    state.in_sync.iter().any(|member| member.node == node)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ulid::Ulid;

    use super::*;
    use crate::cluster_map::Target;
    use crate::ids::{Generation, Member};
    use crate::records::NodeRecord;

    fn node(number: u8) -> NodeId {
        NodeId(Ulid::from_parts(0, u128::from(number)))
    }

    fn nodes(numbers: &[u8]) -> Vec<NodeId> {
        numbers.iter().copied().map(node).collect()
    }

    fn member(node: NodeId) -> Member {
        Member { node, generation: Generation(1) }
    }

    /// A cluster of so many live nodes, and what its partitions' replicas are, the leader first, all in sync.
    fn cluster(count: u8, partitions: &[&[u8]]) -> ClusterMap {
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
        for (id, replicas) in (0..).map(PartitionId).zip(partitions) {
            let initial =
                PartitionState::initial(Ulid::from_parts(9, u128::from(id.0)), nodes(replicas), Ulid::nil());
            let in_sync: Vec<Member> = initial.replicas.iter().copied().map(member).collect();
            let state =
                PartitionState { epoch: Epoch(1), leader: in_sync.first().copied(), in_sync, ..initial };
            map.partitions.insert(id, Partition { version: Version(1), state });
        }
        map
    }

    fn set_target(map: &mut ClusterMap, id: u32, replicas: &[u8]) {
        let partition_uuid = map.partitions[&PartitionId(id)].state.partition_uuid;
        let target = ReplicaTarget { partition_uuid, replicas: nodes(replicas) };
        map.targets.insert(PartitionId(id), Target { version: Version(1), target });
    }

    /// Does what was planned, if it was planned on what is there.
    fn perform(map: &mut ClusterMap, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::SetTarget { partition, expected, target } => {
                    assert_eq!(map.targets.get(&partition).map(|known| known.version), expected);
                    let version = Version(expected.map_or(0, |version| version.0 + 1));
                    map.targets.insert(partition, Target { version, target });
                }
                Step::SetState { partition, expected, state, .. } => {
                    let known = map.partitions.get_mut(&partition).unwrap();
                    assert_eq!(known.version, expected);
                    let before = &known.state;
                    assert_eq!(
                        (&state.in_sync, &state.eligible, state.leader),
                        (&before.in_sync, &before.eligible, before.leader)
                    );
                    assert_eq!((state.epoch, state.lineage), (before.epoch, before.lineage));
                    assert_eq!(state.nonce, before.nonce, "its last writer is to know its own write again");
                    *known = Partition { version: Version(expected.0 + 1), state };
                }
            }
        }
    }

    /// What the replicas of a partition do by themselves: whoever left the list leaves the in-sync set and leads no more, and
    /// who is live gets in sync.
    fn replicate(map: &mut ClusterMap) {
        let ids: Vec<PartitionId> = map.partitions.keys().copied().collect();
        for id in ids {
            let next = next_leader(map, id);
            let Some(Partition { state, .. }) = map.partitions.get_mut(&id) else { continue };
            if !state.in_sync.iter().any(|member| map.live.contains(&member.node)) {
                continue;
            }
            state
                .in_sync
                .retain(|member| state.replicas.contains(&member.node) && map.live.contains(&member.node));
            for node in &state.replicas {
                if map.live.contains(node) && !is_in_sync(state, *node) {
                    state.in_sync.push(member(*node));
                }
            }
            let stays = state.leader.filter(|leader| state.in_sync.contains(leader));
            state.leader = next.map(member).or(stays).or(state.in_sync.first().copied());
        }
    }

    fn replicas(map: &ClusterMap, id: u32) -> Vec<NodeId> {
        map.partitions[&PartitionId(id)].state.replicas.clone()
    }

    fn changes(steps: &[Step]) -> Vec<Change> {
        let change = |step: &Step| match step {
            Step::SetState { change, .. } => Some(*change),
            Step::SetTarget { .. } => None,
        };
        steps.iter().filter_map(change).collect()
    }

    #[test]
    fn nothing_is_done_where_all_is_as_it_should_be() {
        let map = cluster(4, &[&[0, 1], &[2, 3]]);
        assert_eq!(plan(&map, &BTreeSet::new(), &BTreeSet::new()), []);
    }

    #[test]
    fn a_replica_is_moved_by_adding_waiting_and_removing() {
        let mut map = cluster(3, &[&[0, 1]]);
        set_target(&mut map, 0, &[0, 2]);
        let steps = plan(&map, &BTreeSet::new(), &BTreeSet::new());
        assert_eq!(changes(&steps), [Change::Add(node(2))]);
        perform(&mut map, steps);
        assert_eq!(replicas(&map, 0), nodes(&[0, 1, 2]));
        assert_eq!(
            plan(&map, &BTreeSet::new(), &BTreeSet::new()),
            [],
            "it waits until the new one is in sync"
        );
        replicate(&mut map);
        let steps = plan(&map, &BTreeSet::new(), &BTreeSet::new());
        assert_eq!(changes(&steps), [Change::Remove(node(1))]);
        perform(&mut map, steps);
        assert_eq!(plan(&map, &BTreeSet::new(), &BTreeSet::new()), []);
        assert_eq!(replicas(&map, 0), nodes(&[0, 2]));
    }

    #[test]
    fn a_leader_leaves_last() {
        let mut map = cluster(4, &[&[0, 1]]);
        set_target(&mut map, 0, &[2, 3]);
        let mut done = Vec::new();
        for _ in 0..10 {
            let steps = plan(&map, &BTreeSet::new(), &BTreeSet::new());
            done.extend(changes(&steps));
            perform(&mut map, steps);
            replicate(&mut map);
        }
        let expected =
            [Change::Add(node(2)), Change::Add(node(3)), Change::Remove(node(1)), Change::Remove(node(0))];
        assert_eq!(done, expected);
    }

    #[test]
    fn a_leader_that_is_gone_leaves_without_handing_over() {
        let mut map = cluster(3, &[&[0, 1]]);
        set_target(&mut map, 0, &[1, 2]);
        let steps = plan(&map, &BTreeSet::new(), &BTreeSet::new());
        perform(&mut map, steps);
        let state = &mut map.partitions.get_mut(&PartitionId(0)).unwrap().state;
        state.in_sync.push(member(node(2)));
        assert_eq!(next_leader(&map, PartitionId(0)), Some(node(1)));
        assert_eq!(plan(&map, &BTreeSet::new(), &BTreeSet::new()), [], "it hands over first");
        map.live.remove(&node(0));
        assert_eq!(changes(&plan(&map, &BTreeSet::new(), &BTreeSet::new())), [Change::Remove(node(0))]);
    }

    #[test]
    fn targets_are_changed_within_their_limits() {
        let changed =
            |add: &[u8], remove: &[u8]| changed_target(&nodes(&[0, 1]), &nodes(add), &nodes(remove));
        assert_eq!(changed(&[2], &[]), Ok(nodes(&[0, 1, 2])));
        assert_eq!(changed(&[], &[0]), Ok(nodes(&[1])));
        assert_eq!(changed(&[2], &[0]), Ok(nodes(&[2, 1])), "in its place");
        assert_eq!(changed(&[2, 3], &[1]), Ok(nodes(&[0, 2, 3])));
        assert_eq!(changed(&[1], &[]), Err(TargetError::AlreadyThere(node(1))));
        assert_eq!(changed(&[1], &[0]), Err(TargetError::AlreadyThere(node(1))));
        assert_eq!(changed(&[2, 2], &[]), Err(TargetError::AlreadyThere(node(2))));
        assert_eq!(changed(&[], &[2]), Err(TargetError::NotThere(node(2))));
        assert_eq!(changed(&[], &[0, 1]), Err(TargetError::None));
        let error = changed(&[2, 3, 4, 5, 6, 7], &[]).unwrap_err();
        assert_eq!(error.to_string(), "a partition has at most 7 replicas, this would be 8");
    }

    #[test]
    fn who_is_gone_for_too_long_is_replaced_by_the_node_with_the_fewest_replicas() {
        let mut map = cluster(4, &[&[0, 1], &[1, 2], &[2, 0]]);
        map.live.remove(&node(1));
        replicate(&mut map);
        assert_eq!(
            plan(&map, &BTreeSet::new(), &BTreeSet::new()),
            [],
            "not before it has been gone for too long"
        );
        let gone = BTreeSet::from([node(1)]);
        let mut steps = 0;
        loop {
            let planned = plan(&map, &gone, &BTreeSet::new());
            if planned.is_empty() {
                break;
            }
            steps += planned.len();
            assert!(steps < 20);
            perform(&mut map, planned);
            replicate(&mut map);
        }
        assert_eq!(
            [replicas(&map, 0), replicas(&map, 1), replicas(&map, 2)],
            [nodes(&[0, 3]), nodes(&[3, 2]), nodes(&[2, 0])]
        );
    }

    #[test]
    fn without_another_node_a_gone_one_keeps_its_place() {
        let mut map = cluster(2, &[&[0, 1]]);
        map.live.remove(&node(1));
        replicate(&mut map);
        assert_eq!(plan(&map, &BTreeSet::from([node(1)]), &BTreeSet::new()), []);
    }

    #[test]
    fn only_so_many_partitions_are_moved_at_a_time() {
        let mut map = cluster(3, &[&[0, 1][..]; 5]);
        (0..5).for_each(|id| set_target(&mut map, id, &[0, 2]));
        let steps = plan(&map, &BTreeSet::new(), &BTreeSet::new());
        assert_eq!(steps.len(), JOINING_MAX);
        perform(&mut map, steps);
        assert_eq!(plan(&map, &BTreeSet::new(), &BTreeSet::new()), []);
    }

    #[test]
    fn who_never_arrives_keeps_nobody_else_waiting() {
        let mut map = cluster(4, &[&[0, 1][..]; 4]);
        (0..4).for_each(|id| set_target(&mut map, id, &[0, 2]));
        let steps = plan(&map, &BTreeSet::new(), &BTreeSet::new());
        perform(&mut map, steps);
        let slow: BTreeSet<_> = joining(&map).collect();
        assert_eq!(slow, BTreeSet::from([(PartitionId(0), node(2)), (PartitionId(1), node(2))]));
        assert_eq!(plan(&map, &BTreeSet::new(), &BTreeSet::new()), []);
        assert_eq!(changes(&plan(&map, &BTreeSet::new(), &slow)).len(), 2, "they have had their time");
        // Nor does a partition whose leader is lost: it gets nobody in sync.
        for id in [0, 1] {
            map.partitions.get_mut(&PartitionId(id)).unwrap().state.leader = Some(member(node(3)));
        }
        map.live.remove(&node(3));
        assert_eq!(changes(&plan(&map, &BTreeSet::new(), &BTreeSet::new())).len(), 2);
    }

    #[test]
    fn growth_is_bounded_as_moves_are() {
        let mut map = cluster(3, &[&[0, 1][..]; 5]);
        (0..5).for_each(|id| set_target(&mut map, id, &[0, 1, 2]));
        let steps = plan(&map, &BTreeSet::new(), &BTreeSet::new());
        assert_eq!(steps.len(), JOINING_MAX);
        perform(&mut map, steps);
        assert_eq!(plan(&map, &BTreeSet::new(), &BTreeSet::new()), []);
    }

    #[test]
    fn a_drained_node_is_not_handed_to_while_another_may_lead() {
        let mut map = cluster(4, &[&[0, 1]]);
        set_target(&mut map, 0, &[2, 3]);
        let state = &mut map.partitions.get_mut(&PartitionId(0)).unwrap().state;
        state.in_sync.extend([member(node(2)), member(node(3))]);
        assert_eq!(next_leader(&map, PartitionId(0)), Some(node(2)));
        map.nodes.get_mut(&node(2)).unwrap().drained = true;
        assert_eq!(next_leader(&map, PartitionId(0)), Some(node(3)));
    }

    #[test]
    fn the_fewest_in_sync_follow_the_number_of_replicas_once_nobody_is_eligible() {
        let mut map = cluster(3, &[&[0, 1]]);
        set_target(&mut map, 0, &[0, 1, 2]);
        let steps = plan(&map, &BTreeSet::new(), &BTreeSet::new());
        perform(&mut map, steps);
        replicate(&mut map);
        let id = PartitionId(0);
        map.partitions.get_mut(&id).unwrap().state.eligible = vec![member(node(9))];
        assert_eq!(plan(&map, &BTreeSet::new(), &BTreeSet::new()), []);
        map.partitions.get_mut(&id).unwrap().state.eligible.clear();
        let steps = plan(&map, &BTreeSet::new(), &BTreeSet::new());
        assert_eq!(changes(&steps), [Change::Settle]);
        perform(&mut map, steps);
        assert_eq!(map.partitions[&id].state.min_in_sync, 2);
    }

    #[test]
    fn a_partition_without_a_leader_and_a_target_of_a_former_life_are_left_alone() {
        let mut map = cluster(3, &[&[0, 1], &[0, 1]]);
        set_target(&mut map, 0, &[0, 2]);
        set_target(&mut map, 1, &[0, 2]);
        map.partitions.get_mut(&PartitionId(0)).unwrap().state.epoch = Epoch(0);
        map.targets.get_mut(&PartitionId(1)).unwrap().target.partition_uuid = Ulid::nil();
        assert_eq!(plan(&map, &BTreeSet::new(), &BTreeSet::new()), []);
    }

    proptest! {
        /// Whatever is wished for, as long as it can be had: it comes about, and on the way no partition has fewer replicas in
        /// sync than it had or is to have.
        #[test]
        fn targets_are_reached_without_loss(
            wishes in proptest::collection::vec(
                (proptest::sample::subsequence((0..6_u8).collect::<Vec<_>>(), 1..=4), any::<bool>()), 1..6),
            gone in proptest::option::of(0..6_u8),
        ) {
            let mut map = cluster(6, &vec![&[0_u8, 1, 2][..]; wishes.len()]);
            for ((wish, reversed), id) in wishes.iter().zip(0..) {
                let mut wish = wish.clone();
                if *reversed { wish.reverse() }
                set_target(&mut map, id, &wish);
            }
            let gone: BTreeSet<NodeId> = gone.into_iter().map(node).collect();
            gone.iter().for_each(|node| { map.live.remove(node); });
            replicate(&mut map);
            let least: Vec<usize> =
                map.partitions.values().zip(&wishes).map(|(known, (wish, _))| known.state.in_sync.len().min(wish.len())).collect();
            for round in 0.. {
                prop_assert!(round < 200, "it does not end");
                let steps = plan(&map, &gone, &BTreeSet::new());
                let is_idle = steps.is_empty();
                perform(&mut map, steps);
                replicate(&mut map);
                // Perhaps it only waited for a leader to hand over.
                if is_idle && plan(&map, &gone, &BTreeSet::new()).is_empty() { break }
                for (known, least) in map.partitions.values().zip(&least) {
                    prop_assert!(known.state.in_sync.len() >= *least, "{:?}", known.state);
                    prop_assert!(known.state.in_sync.len() >= known.state.min_in_sync as usize);
                }
            }
            for (id, Partition { state, .. }) in &map.partitions {
                prop_assert_eq!(&target_of(&map, *id, state), &state.replicas);
                prop_assert!(state.replicas.iter().all(|node| !gone.contains(node)));
                prop_assert_eq!(state.min_in_sync, default_min_in_sync(state.replicas.len()));
            }
        }
    }
}
