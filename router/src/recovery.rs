//! Partitions that nobody can lead any more, and how an operator goes on with one: from what one replica has, whatever it lacks.
//!
//! Only members of the in-sync and the eligible set hold everything that was acknowledged. Where none of them can lead, the
//! partition stands still until one comes back, or until somebody says that none will ([`recover`]). Nothing here ever decides
//! that by itself, and it is refused as long as one of them is there.
//!
//! What this does not do: look at the files of nodes that are away. Whether those are gone for good is for people to know.

use paddock_coordination::cluster_map::Partition;
use paddock_coordination::{
    Coordinator, Epoch, Error, Generation, Member, NodeId, PartitionId, PartitionState, paths, records,
};
use paddock_proto::admin::v1::{
    RecoverPartitionRequest, RecoverPartitionResponse, RecoverySource, Replica, ReplicaRole,
};
use paddock_proto::v1::ErrorReason;
use ulid::Ulid;

use crate::admin::{Reports, ask_nodes};
use crate::errors::{Failure, WriteFate};
use crate::leadership::{RECORD_ATTEMPTS_MAX, known_node, known_partition, unavailable};
use crate::map::{View, Views};

/// Whether a member that holds everything can lead.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    /// As far as can be seen; or nobody knows.
    Perhaps(String),
    /// Its node is away.
    Away(String),
    /// Its data are gone, or cannot be trusted, as its own node says.
    Never(String),
}

/// Who holds everything that was acknowledged.
fn holders(state: &PartitionState) -> impl Iterator<Item = Member> {
    state.in_sync.iter().chain(&state.eligible).copied()
}

fn standing(view: &View, id: PartitionId, member: Member, reports: &Reports) -> Standing {
    let node = member.node;
    if !view.map.live.contains(&node) {
        return Standing::Away(format!("node {node} is not registered as live"));
    }
    match reports.get(&(node, id)) {
        None => Standing::Perhaps(format!("node {node} is registered as live, and does not say what it has")),
        Some(replica) if replica.role() == ReplicaRole::Quarantined => {
            Standing::Never(format!("node {node} takes no part: {}", replica.problem))
        }
        Some(replica) if replica.generation != member.generation.0 => Standing::Never(format!(
            "node {node} has other data than those that counted: its disk was lost, or an older copy came back"
        )),
        Some(_) => {
            Standing::Perhaps(format!("node {node} is live, and holds everything that was acknowledged"))
        }
    }
}

/// Why nobody can lead a partition, and what to do about that, as far as the map alone tells.
pub(crate) fn offline_by_map(view: &View, id: PartitionId) -> Option<String> {
    let state = &view.map.partitions.get(&id)?.state;
    let is_away = |member: Member| !view.map.live.contains(&member.node);
    let is_offline = state.epoch > Epoch(0) && holders(state).all(is_away);
    is_offline.then(|| offline(view, id, state, &Reports::new())).flatten()
}

/// The same by what the nodes say of their replicas, too.
pub(crate) fn offline(
    view: &View,
    id: PartitionId,
    state: &PartitionState,
    reports: &Reports,
) -> Option<String> {
    if state.epoch == Epoch(0) {
        return None;
    }
    let mut why = Vec::new();
    let mut may_come_back = false;
    for member in holders(state) {
        match standing(view, id, member, reports) {
            Standing::Perhaps(_) => return None,
            Standing::Away(words) => {
                may_come_back = true;
                why.push(words);
            }
            Standing::Never(words) => why.push(words),
        }
    }
    let what_to_do =
        if may_come_back { "start one that is away with its data; if they are gone for good, " } else { "" };
    Some(format!(
        "partition {id} is offline: none of those who hold all that was acknowledged can lead ({}): {what_to_do}paddock \
         recover {id} goes on from what another replica has",
        why.join("; ")
    ))
}

/// Shows from what a partition could go on, and, if that is asked for, goes on.
///
/// # Errors
/// INVALID_REQUEST, RECOVERY_REFUSED, or PARTITION_UNAVAILABLE if the coordination service does not take it.
pub(crate) async fn recover(
    views: &Views,
    coordinator: &dyn Coordinator,
    request: RecoverPartitionRequest,
) -> Result<RecoverPartitionResponse, Failure> {
    let view = views.load();
    let partition = PartitionId(request.partition_id);
    let known = known_partition(&view, partition)?;
    let named = match request.node_id.as_str() {
        "" => None,
        text => Some(known_node(&view, "node_id", text)?),
    };
    let reports = ask_nodes(&view, Some(&known.state)).await;
    let mut shown = look(&view, partition, &known.state, &reports);
    let chosen = match named {
        None => shown.sources.first(),
        Some(node) => {
            let id = node.to_string();
            let source = shown.sources.iter().find(|source| source.node_id == id);
            let missing = || {
                let message =
                    format!("node {node} has no replica of partition {partition} that could be gone on from");
                Failure::invalid(ErrorReason::InvalidRequest, "node_id", message)
            };
            Some(source.ok_or_else(missing)?)
        }
    };
    let Some(chosen) = chosen.cloned() else {
        if request.accept_data_loss {
            return Err(refused(format!("partition {partition}: {}", shown.refusal)));
        }
        return Ok(shown);
    };
    shown.chosen_node_id.clone_from(&chosen.node_id);
    if !request.accept_data_loss {
        return Ok(shown);
    }
    if !shown.refusal.is_empty() {
        return Err(refused(format!("partition {partition}: {}", shown.refusal)));
    }
    if request.expected_epoch != 0 && request.expected_epoch != known.state.epoch.0 {
        let (is, was) = (known.state.epoch, request.expected_epoch);
        return Err(refused(format!("partition {partition} is in epoch {is} now, not in {was}: look again")));
    }
    let node = known_node(&view, "node_id", &chosen.node_id)?;
    let member = Member { node, generation: Generation(chosen.generation) };
    let state = write(coordinator, partition, known, member).await?;
    tracing::warn!(%partition, %node, epoch = %state.epoch, lineage = state.lineage, last = chosen.last_sequence,
        "an operator recovered the partition, with data loss");
    Ok(RecoverPartitionResponse { epoch: state.epoch.0, lineage: state.lineage, recovered: true, ..shown })
}

/// What there is to go on from, and what speaks against it.
fn look(view: &View, id: PartitionId, state: &PartitionState, reports: &Reports) -> RecoverPartitionResponse {
    let mut shown =
        RecoverPartitionResponse { epoch: state.epoch.0, lineage: state.lineage, ..Default::default() };
    shown.sources = sources(view, id, state, reports);
    if state.epoch == Epoch(0) {
        "nobody has led it yet: there is nothing to recover".clone_into(&mut shown.refusal);
    } else if shown.sources.is_empty() {
        "no replica is there to go on from: give a live node one first (paddock add-replica)"
            .clone_into(&mut shown.refusal);
    }
    for member in holders(state) {
        match standing(view, id, member, reports) {
            Standing::Perhaps(words) => {
                shown.refusal =
                    format!("{words}: nothing need be lost. If it cannot lead, stop it for good first");
            }
            Standing::Away(words) | Standing::Never(words) => shown.lost.push(words),
        }
    }
    if !view.map.connected {
        "this router has lost the coordination service".clone_into(&mut shown.refusal);
    }
    shown
}

/// The live replicas whose data can be gone on from, the furthest log first.
fn sources(view: &View, id: PartitionId, state: &PartitionState, reports: &Reports) -> Vec<RecoverySource> {
    let reported = state.replicas.iter().filter(|node| view.map.live.contains(node));
    let reported = reported.filter_map(|node| Some((node, reports.get(&(*node, id))?)));
    let mut sources: Vec<RecoverySource> = reported
        .filter(|(_, replica)| replica.role() != ReplicaRole::Quarantined)
        .map(|(node, replica)| source(*node, replica))
        .collect();
    // By what they hold of the present lineage first: what an earlier one had beyond it was given up.
    sources
        .sort_by_key(|source| std::cmp::Reverse((source.lineage, source.last_epoch, source.last_sequence)));
    sources
}

fn source(node: NodeId, replica: &Replica) -> RecoverySource {
    RecoverySource {
        node_id: node.to_string(),
        generation: replica.generation,
        lineage: replica.lineage,
        last_epoch: replica.last_epoch,
        last_sequence: replica.last_sequence,
        committed_sequence: replica.committed_sequence,
        record_count: replica.record_count,
    }
}

/// Puts the recovered state in the place of the one that was judged, and of no other.
async fn write(
    coordinator: &dyn Coordinator,
    partition: PartitionId,
    known: &Partition,
    chosen: Member,
) -> Result<PartitionState, Failure> {
    let path = paths::partition_state(partition);
    let state = known.state.recovered(chosen, Ulid::generate());
    let value = records::encode(&state);
    let mut may_be_written = false;
    let mut problem = None;
    for _ in 0..RECORD_ATTEMPTS_MAX {
        // The same write again does no harm, whatever became of the one before.
        match coordinator.compare_and_set(&path, value.clone(), known.version).await {
            Ok(_) => return Ok(state),
            Err(Error::Conflict { .. }) if may_be_written => match coordinator.get(&path).await {
                Ok(Some(found)) if is_ours(&found.value, &state) => return Ok(state),
                Ok(_) => return Err(moved_on(partition)),
                Err(error) => problem = Some(error),
            },
            Err(Error::Conflict { .. }) => return Err(moved_on(partition)),
            Err(error) => {
                may_be_written |= matches!(error, Error::UnknownOutcome { .. });
                problem = Some(error);
            }
        }
    }
    let why = problem.map_or_else(String::new, |error| format!(": {error}"));
    let failure = unavailable(format!(
        "the coordination service did not take the recovery of partition {partition}{why}"
    ));
    Err(if may_be_written { failure.of_write(WriteFate::Unknown) } else { failure })
}

/// Whether a state is what was written, or came of it.
fn is_ours(value: &[u8], written: &PartitionState) -> bool {
    records::decode::<PartitionState>(value).is_ok_and(|found| {
        found.lineage == written.lineage
            && written.in_sync.iter().all(|chosen| found.in_sync.contains(chosen))
    })
}

fn moved_on(partition: PartitionId) -> Failure {
    refused(format!("partition {partition}: its state has changed meanwhile: look again"))
}

fn refused(message: String) -> Failure {
    Failure::new(ErrorReason::RecoveryRefused, message).of_write(WriteFate::NotApplied)
}
