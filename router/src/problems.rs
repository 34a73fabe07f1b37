//! What is wrong with the cluster, in words.

use paddock_coordination::{NodeId, PartitionId, PartitionState};
use paddock_proto::admin::v1::{Replica, ReplicaRole};

use crate::admin::Reports;
use crate::map::View;
use crate::recovery;

/// True if every slot has a partition, and every partition a reachable leader and all its replicas in sync.
#[must_use]
pub fn is_healthy(view: &View) -> bool {
    view.has_map()
        && view.is_ready()
        && view.map.partitions.values().all(|partition| {
            let state = &partition.state;
            state.replicas.iter().all(|node| is_in_sync(state, *node))
        })
}

/// What is wrong, a line each; nothing if all is well. A lost coordination service is listed, though the
/// data plane goes on without it.
#[must_use]
pub fn of(view: &View) -> Vec<String> {
    let mut problems = Vec::new();
    if !view.map.connected {
        problems.push(
            "the coordination service cannot be reached: the map may be out of date, and no leader can change"
                .to_owned(),
        );
    }
    problems.extend(view.refusal.clone());
    problems.extend(view.map.problems.iter().map(|problem| format!("broken record: {problem}")));
    if view.refusal.is_none() && !view.map.is_placed() {
        problems.push(not_placed(view));
    }
    for (id, partition) in &view.map.partitions {
        of_partition(view, *id, &partition.state, &mut problems);
    }
    problems
}

/// What the live nodes say is wrong, a line each: the map names who won an epoch, which may have restarted
/// since, and a replica may refuse to take part.
#[must_use]
pub(crate) fn reported(view: &View, reports: &Reports) -> Vec<String> {
    let mut problems = Vec::new();
    for (id, partition) in &view.map.partitions {
        problems.extend(recovery::offline(view, *id, &partition.state, reports));
        let leader = partition.state.leader.map(|leader| leader.node);
        for node in partition.state.replicas.iter().filter(|node| view.nodes.contains_key(*node)) {
            let report = reports.get(&(*node, *id));
            if let Some(problem) = report.map(|report| &report.problem).filter(|problem| !problem.is_empty())
            {
                let state = match report.map(Replica::role) {
                    Some(ReplicaRole::Leader) => "leads",
                    _ => "does not serve",
                };
                problems.push(format!("partition {id}: the replica on node {node} {state}: {problem}"));
            } else if leader == Some(*node)
                && report.is_none_or(|report| report.role() != ReplicaRole::Leader)
            {
                problems.push(format!("partition {id}: its leader, node {node}, does not lead yet"));
            }
        }
    }
    problems
}

fn not_placed(view: &View) -> String {
    let live = view.map.live.len();
    match &view.map.cluster {
        Some(cluster) => format!(
            "the partitions are not placed yet: {live} of the {} nodes that placement waits for are live",
            cluster.initial_nodes
        ),
        None => "the partitions are not placed yet".to_owned(),
    }
}

fn of_partition(view: &View, id: PartitionId, state: &PartitionState, problems: &mut Vec<String>) {
    match state.leader {
        None => problems.push(format!("partition {id} has no leader")),
        Some(leader) if !view.map.live.contains(&leader.node) => {
            problems.push(format!("partition {id}: its leader, node {}, is not live", leader.node));
        }
        Some(leader) if !view.reaches_leader(id) => {
            problems
                .push(format!("partition {id}: this router cannot reach its leader, node {}", leader.node));
        }
        Some(_) => {}
    }
    let in_sync = state.in_sync.len();
    if state.leader.is_some() && u32::try_from(in_sync).is_ok_and(|count| count < state.min_in_sync) {
        problems.push(format!(
            "partition {id} takes no writes: {in_sync} of its replicas are in sync, {} are needed",
            state.min_in_sync
        ));
    }
    for node in state.replicas.iter().filter(|node| !is_in_sync(state, **node)) {
        let live = if view.map.live.contains(node) { "" } else { ", and it is not live" };
        problems.push(format!("partition {id}: its replica on node {node} is not in sync{live}"));
    }
}

fn is_in_sync(state: &PartitionState, node: NodeId) -> bool {
    state.in_sync.iter().any(|member| member.node == node)
}
