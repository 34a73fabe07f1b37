//! `paddock.replication.v1`: messages of peers, to and from the wire.

use std::sync::Arc;

use paddock_coordination::{Epoch, Generation, Member, NodeId, PartitionId};
use paddock_proto::replication::v1 as wire;
use paddock_proto::replication::v1::envelope::Message as WireMessage;
use paddock_proto::replication::v1::replication_service_server::ReplicationService;
use paddock_storage::{LogEntries, Position, Rows, Sequence};
use tonic::{Request, Response, Status, Streaming};
use tracing::debug;
use ulid::Ulid;

use crate::host::Host;
use crate::replica::{Message, Readiness, Timestamp};
use crate::service::{handshake, snapshot};

/// The service.
#[derive(Clone)]
pub struct Replication {
    /// Whose replicas the messages are for.
    pub host: Arc<Host>,
}

#[tonic::async_trait]
impl ReplicationService for Replication {
    type FetchSnapshotStream = snapshot::Parts;

    async fn fetch_snapshot(
        &self,
        request: Request<wire::FetchSnapshotRequest>,
    ) -> Result<Response<Self::FetchSnapshotStream>, Status> {
        handshake::check(request.metadata(), &self.host)?;
        let from = handshake::caller(request.metadata())?;
        Ok(Response::new(snapshot::fetch(&self.host, from, request.into_inner()).await?))
    }

    async fn deliver(
        &self,
        request: Request<Streaming<wire::DeliverRequest>>,
    ) -> Result<Response<wire::DeliverResponse>, Status> {
        handshake::check(request.metadata(), &self.host)?;
        let from = handshake::caller(request.metadata())?;
        let mut stream = request.into_inner();
        let stopping = self.host.stopping();
        loop {
            let message = tokio::select! {
                message = stream.message() => message?,
                () = stopping.cancelled() => break,
            };
            let Some(request) = message else { break };
            for (address, messages) in parcels(from, request)? {
                self.host.deliver_messages(address.partition, address.uuid, address.member, messages);
            }
        }
        Ok(Response::new(wire::DeliverResponse {}))
    }
}

/// Which replica messages are for, and whose they are.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Address {
    partition: PartitionId,
    uuid: Ulid,
    member: Member,
}

/// Envelopes that follow one another from one replica to its copy here go into one parcel. An envelope that
/// breaks the protocol ends the stream, and names what is wrong.
fn parcels(from: NodeId, request: wire::DeliverRequest) -> Result<Vec<(Address, Vec<Message>)>, Status> {
    let mut parcels: Vec<(Address, Vec<Message>)> = Vec::new();
    for envelope in request.envelopes {
        let uuid = Ulid::from_string(&envelope.partition_uuid)
            .map_err(|error| Status::invalid_argument(format!("partition_uuid: {error}")))?;
        let address = Address {
            partition: PartitionId(envelope.partition_id),
            uuid,
            member: Member { node: from, generation: Generation(envelope.from_generation) },
        };
        let message = from_envelope(Epoch(envelope.epoch), envelope.message)?;
        match parcels.last_mut() {
            Some((last, messages)) if *last == address => messages.push(message),
            _ => parcels.push((address, vec![message])),
        }
    }
    Ok(parcels)
}

/// A message as it goes into an envelope, with its epoch.
pub fn to_envelope(message: Message) -> (Epoch, WireMessage) {
    match message {
        Message::Heartbeat { epoch, sent_at, commit, echo, lineage, is_sound } => {
            let heartbeat =
                wire::Heartbeat { sent_at_ms: sent_at.0, commit: commit.0, echo, lineage, sound: is_sound };
            (epoch, WireMessage::Heartbeat(heartbeat))
        }
        Message::Grant { epoch, sent_at, readiness, asked } => {
            let readiness = match readiness {
                Readiness::NotNow => wire::Readiness::Unspecified,
                Readiness::CanTakeOver => wire::Readiness::CanTakeOver,
                Readiness::Leaving => wire::Readiness::Leaving,
            };
            let grant = wire::Grant { sent_at_ms: sent_at.0, readiness: readiness.into(), asked };
            (epoch, WireMessage::Grant(grant))
        }
        Message::Append { epoch, previous, entries, commit } => {
            let append = wire::Append {
                previous: Some(position_to_wire(previous)),
                entries: entries.into_iter().map(entries_to_wire).collect(),
                commit: commit.0,
            };
            (epoch, WireMessage::Append(append))
        }
        Message::Ack { epoch, sequence } => (epoch, WireMessage::Ack(wire::Ack { sequence: sequence.0 })),
        Message::Mismatch { epoch, hint } => {
            (epoch, WireMessage::Mismatch(wire::Mismatch { hint: Some(position_to_wire(hint)) }))
        }
        Message::Rebuild { epoch } => (epoch, WireMessage::Rebuild(wire::Rebuild {})),
        Message::Snapshot { epoch, attempt, last } => {
            (epoch, WireMessage::Snapshot(wire::Snapshot { last: Some(position_to_wire(last)), attempt }))
        }
        Message::SnapshotFailed { epoch, attempt, failures, pause_ms } => {
            (epoch, WireMessage::SnapshotFailed(wire::SnapshotFailed { attempt, failures, pause_ms }))
        }
        Message::Release { epoch, sent_at } => {
            (epoch, WireMessage::Release(wire::Release { sent_at_ms: sent_at.0 }))
        }
        Message::Stale { epoch } => (epoch, WireMessage::Stale(wire::Stale {})),
    }
}

fn from_envelope(epoch: Epoch, message: Option<WireMessage>) -> Result<Message, Status> {
    let message = message.ok_or_else(|| Status::invalid_argument("an envelope without a message"))?;
    Ok(match message {
        WireMessage::Heartbeat(heartbeat) => Message::Heartbeat {
            epoch,
            sent_at: Timestamp(heartbeat.sent_at_ms),
            commit: Sequence(heartbeat.commit),
            echo: heartbeat.echo,
            lineage: heartbeat.lineage,
            is_sound: heartbeat.sound,
        },
        WireMessage::Grant(grant) => Message::Grant {
            epoch,
            sent_at: Timestamp(grant.sent_at_ms),
            asked: grant.asked,
            readiness: match grant.readiness() {
                wire::Readiness::Unspecified => Readiness::NotNow,
                wire::Readiness::CanTakeOver => Readiness::CanTakeOver,
                wire::Readiness::Leaving => Readiness::Leaving,
            },
        },
        WireMessage::Append(append) => Message::Append {
            epoch,
            previous: position_from_wire(append.previous),
            entries: append.entries.into_iter().map(entries_from_wire).collect::<Result<_, _>>()?,
            commit: Sequence(append.commit),
        },
        WireMessage::Ack(ack) => Message::Ack { epoch, sequence: Sequence(ack.sequence) },
        WireMessage::Mismatch(mismatch) => {
            Message::Mismatch { epoch, hint: position_from_wire(mismatch.hint) }
        }
        WireMessage::Rebuild(wire::Rebuild {}) => Message::Rebuild { epoch },
        WireMessage::Snapshot(snapshot) => {
            Message::Snapshot { epoch, attempt: snapshot.attempt, last: position_from_wire(snapshot.last) }
        }
        WireMessage::SnapshotFailed(failed) => {
            let wire::SnapshotFailed { attempt, failures, pause_ms } = failed;
            Message::SnapshotFailed { epoch, attempt, failures, pause_ms }
        }
        WireMessage::Release(release) => Message::Release { epoch, sent_at: Timestamp(release.sent_at_ms) },
        WireMessage::Stale(wire::Stale {}) => Message::Stale { epoch },
    })
}

fn position_to_wire(position: Position) -> wire::Position {
    wire::Position { epoch: position.epoch, sequence: position.sequence.0 }
}

/// An absent position is the place before the first entry, as in any message of defaults.
pub(super) fn position_from_wire(position: Option<wire::Position>) -> Position {
    let position = position.unwrap_or_default();
    Position { epoch: position.epoch, sequence: Sequence(position.sequence) }
}

fn entries_to_wire(entries: LogEntries) -> wire::LogEntries {
    wire::LogEntries {
        epoch: entries.epoch,
        first_sequence: entries.first.0,
        log_time_ms: entries.log_time_ms,
        row_count: entries.rows.count(),
        rows: entries.rows.encoded().clone(),
    }
}

/// Every checksum is verified here, before the replica sees the rows.
fn entries_from_wire(entries: wire::LogEntries) -> Result<LogEntries, Status> {
    let rows = Rows::from_encoded(entries.rows, entries.row_count).map_err(|error| {
        debug!(%error, "a peer sent rows that cannot be read");
        Status::data_loss(format!("rows from sequence {}: {error}", entries.first_sequence))
    })?;
    if entries.first_sequence == 0 || rows.count() == 0 {
        return Err(Status::invalid_argument("a run of entries is empty, or begins at sequence 0"));
    }
    let last = entries.first_sequence.checked_add(u64::from(rows.count()) - 1);
    if last.is_none_or(|last| last > Sequence::MAX.0) {
        return Err(Status::invalid_argument("a run of entries ends beyond the last sequence"));
    }
    Ok(LogEntries {
        epoch: entries.epoch,
        first: Sequence(entries.first_sequence),
        log_time_ms: entries.log_time_ms,
        rows,
    })
}
