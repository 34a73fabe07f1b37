//! Effects, messages and states in the scripts' words.

use paddock_coordination::{Member, NodeId, PartitionState};
use paddock_partition::replica::{Effect, Fault, Message, Readiness, Refusal};
use paddock_storage::{LogEntries, Position};

use crate::cluster::{Envelope, statements};

pub(crate) fn node(id: NodeId) -> char {
    u32::try_from(id.0.0).ok().and_then(char::from_u32).unwrap()
}

pub(crate) fn member(member: Member) -> String {
    match member.generation.0 {
        1 => node(member.node).to_string(),
        generation => format!("{}/{generation}", node(member.node)),
    }
}

fn members(list: &[Member]) -> String {
    list.iter().map(|one| member(*one)).collect::<Vec<_>>().join(" ")
}

pub(crate) fn state(state: &PartitionState) -> String {
    let leader = state.leader.map_or("none".to_owned(), member);
    let (in_sync, eligible) = (members(&state.in_sync), members(&state.eligible));
    let lineage = if state.lineage == 0 { String::new() } else { format!(" lineage {}", state.lineage) };
    format!("epoch {} leader {leader} in_sync [{in_sync}] eligible [{eligible}]{lineage}", state.epoch)
}

/// Node ids in the core's own texts.
pub(crate) fn text(text: &str) -> String {
    let mut text = text.to_owned();
    for name in 'A'..='E' {
        let id = NodeId(ulid::Ulid(u128::from(u32::from(name))));
        text = text.replace(&id.to_string(), &name.to_string());
    }
    text
}

fn position(position: Position) -> String {
    format!("{}@{}", position.sequence, position.epoch)
}

fn run(entries: &LogEntries) -> String {
    let first = entries.first.0;
    let statements = statements(&entries.rows);
    let entry = |(index, statement): (usize, &String)| {
        format!("{}@{} {}", first + index as u64, entries.epoch, text(statement))
    };
    statements.iter().enumerate().map(entry).collect::<Vec<_>>().join(", ")
}

pub(crate) fn message(message: &Message) -> String {
    let epoch = message.epoch();
    let body = match message {
        Message::Heartbeat { sent_at, commit, lineage, is_sound, .. } => {
            let lineage = if *lineage == 0 { String::new() } else { format!(" lineage {lineage}") };
            let soundness = if *is_sound { "" } else { ", not sound" };
            format!("heartbeat at {} commit {commit}{lineage}{soundness}", sent_at.0)
        }
        Message::Grant { sent_at, readiness: Readiness::Leaving, .. } => {
            format!("grant for {}, leaving", sent_at.0)
        }
        Message::Grant { sent_at, .. } => format!("grant for {}", sent_at.0),
        Message::Append { previous, entries, commit, .. } if entries.is_empty() => {
            format!("probe {} commit {commit}", position(*previous))
        }
        Message::Append { previous, entries, commit, .. } => {
            let runs = entries.iter().map(run).collect::<Vec<_>>().join(", ");
            format!("append after {}: {runs}; commit {commit}", position(*previous))
        }
        Message::Ack { sequence, .. } => format!("ack {sequence}"),
        Message::Mismatch { hint, .. } => format!("mismatch hint {}", position(*hint)),
        Message::Rebuild { .. } => "rebuild".to_owned(),
        Message::Snapshot { attempt, last, .. } => format!("snapshot {attempt} through {}", position(*last)),
        Message::SnapshotFailed { attempt, failures, pause_ms, .. } => {
            format!("snapshot {attempt} failed, {failures} in a row, pause of {pause_ms} ms")
        }
        Message::Release { sent_at, .. } => format!("release at {}", sent_at.0),
        Message::Stale { .. } => "stale".to_owned(),
    };
    format!("[{epoch}] {body}")
}

pub(crate) fn envelope(envelope: &Envelope) -> String {
    format!("{} -> {} {}", member(envelope.from), node(envelope.to), message(&envelope.message))
}

pub(crate) fn delivery(delivered: &Envelope) -> String {
    format!("deliver {}", envelope(delivered))
}

pub(crate) fn effect(name: char, effect: &Effect) -> String {
    let what = match effect {
        Effect::PersistEpoch(epoch) => format!("persist epoch {epoch}"),
        Effect::PersistLineage(lineage) => format!("persist lineage {lineage}"),
        Effect::Truncate { last_kept } => format!("truncate after {last_kept}"),
        Effect::Append { entries, .. } => format!("write {}", run(entries)),
        Effect::Send { to, message: sent } => return format!("{name} -> {} {}", node(*to), message(sent)),
        Effect::SendLog { to, previous, .. } => {
            format!("send the log to {} after {}", node(*to), position(*previous))
        }
        Effect::SendSnapshot { to, attempt } => format!("make snapshot {attempt} for {}", node(*to)),
        Effect::DropSnapshot { to } => format!("drop the snapshot for {}", node(*to)),
        Effect::FetchSnapshot { from, attempt, last, fetch, .. } => {
            format!("fetch {fetch}: snapshot {attempt} of {} through {}", member(*from), position(*last))
        }
        Effect::InstallSnapshot { last, apply_through } => {
            format!("INSTALL the snapshot through {}, apply through {apply_through}", position(*last))
        }
        Effect::DiscardSnapshot => "discard the snapshot".to_owned(),
        Effect::Apply { through } => format!("apply through {through}"),
        Effect::WriteState { expected, state: written } => {
            format!("compare and set {}: {}", expected.0, state(written))
        }
        Effect::ReadState => "read the state".to_owned(),
        Effect::BecameLeader { epoch } => format!("LEADS epoch {epoch}"),
        Effect::LostLeadership { epoch } => format!("LOST epoch {epoch}"),
        Effect::TransferFailed { why, nobody_stays } => {
            let rest = if *nobody_stays { ", and nobody else stays" } else { "" };
            format!("NOT HANDED OVER: {}{rest}", text(why))
        }
        Effect::PersistFault(Fault::Damaged(what)) => format!("persist that it is damaged: {what}"),
        Effect::PersistFault(Fault::Contradiction(_)) => "persist the contradiction".to_owned(),
        Effect::AbandonStore => "GIVES UP its store".to_owned(),
        Effect::Quarantined { reason } => format!("QUARANTINED: {}", text(reason)),
    };
    format!("{name}: {what}")
}

pub(crate) fn refusal(refusal: &Refusal) -> String {
    match refusal {
        Refusal::NotLeader { leader, epoch } => {
            let leader = leader.map_or("nobody known".to_owned(), |leader| node(leader).to_string());
            format!("refused: not the leader, epoch {epoch} leader {leader}")
        }
        Refusal::NotReady => "refused: not ready".to_owned(),
        Refusal::Unavailable { why } => format!("refused: {}", text(why)),
    }
}
