//! `paddock.v1.ExchangeService`: operations of routers, to and from the wire.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use paddock_coordination::PartitionId;
use paddock_proto::limits::{BATCH_ITEMS_MAX, KEY_BYTES_MAX, MESSAGE_BYTES_MAX, VALUE_BYTES_MAX};
use paddock_proto::request_id::InvalidRequestId;
use paddock_proto::v1 as wire;
use paddock_proto::v1::exchange_service_server::ExchangeService;
use paddock_proto::v1::read_consistency::Requirement;
use paddock_storage::{Record, Sequence};
use prost::Message;
use tonic::{Request, Response, Status, Streaming};
use ulid::Ulid;

use crate::clock;
use crate::host::Host;
use crate::host::anywhere::Here;
use crate::keys;
use crate::operation::{
    Answer, Arrival, Basis, Failure, Freshness, Kind, Precondition, Request as OperationRequest, Standing,
    Write,
};
use crate::replica::Timestamp;
use crate::reply::{self, Reply, ReplyReceiver, ReplySender};
use crate::service::handshake;

/// The most operations of one message.
const OPERATIONS_MAX: usize = 4 * BATCH_ITEMS_MAX;

/// Where a message of answers is cut. The largest single answer is a run of records, of some 5 MiB.
const RESPONSE_BYTES: usize = 4 << 20;
const _: () = assert!(RESPONSE_BYTES + 6 * VALUE_BYTES_MAX < MESSAGE_BYTES_MAX);

/// The service.
#[derive(Clone)]
pub struct Exchange {
    /// Whose replicas the operations are for.
    pub host: Arc<Host>,
}

type Outcomes = Pin<Box<dyn Stream<Item = Result<wire::ExchangeResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ExchangeService for Exchange {
    type ExchangeStream = Outcomes;

    async fn exchange(
        &self,
        request: Request<Streaming<wire::ExchangeRequest>>,
    ) -> Result<Response<Outcomes>, Status> {
        handshake::check(request.metadata(), &self.host)?;
        let (sender, receiver) = reply::channel(self.host.answers_waiting());
        let host = Arc::clone(&self.host);
        tokio::spawn(receive(host, request.into_inner(), sender));
        let next = async |mut receiver: ReplyReceiver| Some((receiver.receive().await?, receiver));
        let outcomes = futures_util::stream::unfold(receiver, next)
            .flat_map(|replies| futures_util::stream::iter(responses(replies).into_iter().map(Ok)));
        Ok(Response::new(Box::pin(outcomes)))
    }
}

/// Hands over a stream's operations until it ends. The answers' side ends when the last operation that is
/// still under way has been answered, and with this task.
async fn receive(host: Arc<Host>, mut requests: Streaming<wire::ExchangeRequest>, sender: ReplySender) {
    let _open = host.exchange_opened();
    let draining = host.draining();
    loop {
        let message = tokio::select! {
            // Whoever does not read the answers is not asked for more.
            message = async { sender.room().await; requests.message().await } => message,
            () = draining.cancelled() => return,
            () = sender.closed() => return,
        };
        let Ok(Some(request)) = message else { return };
        tokio::select! {
            () = accept(&host, request, &sender) => {}
            () = draining.cancelled() => return,
        }
    }
}

/// Sorts operations by partition, each partition's in order, and hands them over.
async fn accept(host: &Host, request: wire::ExchangeRequest, sender: &ReplySender) {
    let now = clock::now();
    let too_many = request.operations.len() > OPERATIONS_MAX;
    let mut sorted: Vec<(PartitionId, Vec<Arrival>)> = Vec::new();
    let mut failures = Vec::new();
    for operation in request.operations {
        let id = operation.operation_id;
        if too_many {
            let limit = format!("a message of more operations than the limit of {OPERATIONS_MAX}");
            failures.push((id, Failure::Invalid(limit)));
            continue;
        }
        let deadline = Timestamp(now.0 + u64::from(operation.timeout_ms));
        let partition = PartitionId(operation.partition_id);
        match kind(operation.kind) {
            Ok(Parsed::Strong(kind)) => {
                add(&mut sorted, partition, Arrival { operation_id: id, deadline, kind });
            }
            Ok(Parsed::Anywhere { key, omit_value, freshness }) => {
                sender.room().await;
                match host.read_here(partition, id, &key, omit_value, freshness) {
                    Here::Answered(reply) => sender.send(vec![reply]),
                    Here::After(seen) => {
                        let kind = Kind::ReadAfter { key, omit_value, seen };
                        add(&mut sorted, partition, Arrival { operation_id: id, deadline, kind });
                    }
                    Here::Latest => {
                        let kind = Kind::Read { key, omit_value, basis: Basis::HeldLease };
                        add(&mut sorted, partition, Arrival { operation_id: id, deadline, kind });
                    }
                }
            }
            Err(failure) => failures.push((id, failure)),
        }
    }
    for (partition, operations) in sorted {
        host.deliver_operations(partition, operations, sender);
    }
    if !failures.is_empty() {
        sender.send(failures.into_iter().map(|(id, failure)| Reply::unheard(id, failure)).collect());
    }
}

fn add(sorted: &mut Vec<(PartitionId, Vec<Arrival>)>, partition: PartitionId, arrival: Arrival) {
    match sorted.iter_mut().find(|(other, _)| *other == partition) {
        Some((_, arrivals)) => arrivals.push(arrival),
        None => sorted.push((partition, vec![arrival])),
    }
}

/// An operation from the wire, that has passed the limits.
enum Parsed {
    /// For the owner loop.
    Strong(Kind),
    /// A read that any replica may answer.
    Anywhere { key: Bytes, omit_value: bool, freshness: Freshness },
}

fn kind(kind: Option<wire::operation::Kind>) -> Result<Parsed, Failure> {
    match kind {
        Some(wire::operation::Kind::Read(read)) => {
            let key = valid_key(read.key)?;
            let (omit_value, at_least) = (read.omit_value, read.at_least);
            let requirement = read.consistency.and_then(|consistency| consistency.requirement);
            let freshness = match requirement {
                Some(Requirement::Eventual(true)) => Freshness::Any,
                Some(Requirement::MaxStalenessMs(bound_ms)) => Freshness::Within(u64::from(bound_ms)),
                Some(Requirement::SessionToken(_)) => {
                    at_least.map(standing).transpose()?.map_or(Freshness::Any, Freshness::AtLeast)
                }
                Some(Requirement::Barrier(true)) => {
                    return Ok(Parsed::Strong(Kind::Read { key, omit_value, basis: Basis::Barrier }));
                }
                _ => return Ok(Parsed::Strong(Kind::Read { key, omit_value, basis: Basis::Lease })),
            };
            Ok(Parsed::Anywhere { key, omit_value, freshness })
        }
        Some(wire::operation::Kind::Write(mutation)) => Ok(Parsed::Strong(Kind::Write(write(mutation)?))),
        Some(wire::operation::Kind::ReadRange(range)) => {
            let records_max = range.records_max as usize;
            if !(1..=BATCH_ITEMS_MAX).contains(&records_max) {
                return Err(Failure::Invalid(format!(
                    "records_max is {records_max}, the limits are 1 and {BATCH_ITEMS_MAX}"
                )));
            }
            let after = match range.after_key.is_empty() {
                true => Bytes::from_static(keys::BEFORE_USERS),
                false => valid_key(range.after_key)?,
            };
            Ok(Parsed::Strong(Kind::ReadRange { after: Some(after), records_max }))
        }
        None => Err(Failure::Invalid("an operation without a kind".into())),
    }
}

fn standing(position: wire::SessionPosition) -> Result<Standing, Failure> {
    let uuid = position.partition_uuid.as_ref().try_into().map(u128::from_be_bytes);
    let invalid = |_| Failure::SessionInvalid("the session's position names no life of a partition".into());
    Ok(Standing {
        partition_uuid: Ulid(uuid.map_err(invalid)?),
        lineage: position.lineage,
        applied: Sequence(position.sequence),
    })
}

fn position(standing: Standing) -> wire::SessionPosition {
    wire::SessionPosition {
        partition_uuid: Bytes::copy_from_slice(&standing.partition_uuid.0.to_be_bytes()),
        lineage: standing.lineage,
        sequence: standing.applied.0,
    }
}

fn write(mutation: wire::Mutation) -> Result<Write, Failure> {
    let (key, value) = match mutation.operation {
        Some(wire::mutation::Operation::Put(put)) => {
            let value = put.value.ok_or_else(|| Failure::Invalid("a put without a value".into()))?;
            (put.key, Some(value))
        }
        Some(wire::mutation::Operation::Delete(delete)) => (delete.key, None),
        None => return Err(Failure::Invalid("a mutation without an operation".into())),
    };
    let key = valid_key(key)?;
    let value = value.map(valid_value).transpose()?;
    let precondition = match mutation.precondition {
        None => None,
        Some(precondition) => Some(match precondition.condition {
            Some(wire::precondition::Condition::Exists(exists)) => Precondition::Exists(exists),
            Some(wire::precondition::Condition::Version(version)) => Precondition::Version(Sequence(version)),
            Some(wire::precondition::Condition::Value(value)) => Precondition::Value(valid_value(value)?),
            None => return Err(Failure::Invalid("a precondition without a condition".into())),
        }),
    };
    let request = match mutation.request_id.as_str() {
        "" => None,
        text => {
            let id = text.parse().map_err(|error: InvalidRequestId| Failure::Invalid(error.to_string()))?;
            Some(OperationRequest::new(id, &key, value.as_deref(), precondition.as_ref()))
        }
    };
    Ok(Write { key, value, precondition, request })
}

/// The store's key for a user's.
fn valid_key(key: Bytes) -> Result<Bytes, Failure> {
    match key.len() {
        0 => Err(Failure::KeyInvalid("the key is empty, the shortest is 1 byte".into())),
        1..=KEY_BYTES_MAX => Ok(keys::stored(key)),
        bytes => Err(Failure::KeyInvalid(format!("the key has {bytes} bytes, the limit is {KEY_BYTES_MAX}"))),
    }
}

fn valid_value(value: Bytes) -> Result<Bytes, Failure> {
    match value.len() {
        0..=VALUE_BYTES_MAX => Ok(value),
        bytes => Err(Failure::ValueTooLarge(format!(
            "the value has {bytes} bytes, the limit is {VALUE_BYTES_MAX}"
        ))),
    }
}

fn outcome(reply: Reply) -> wire::Outcome {
    use wire::outcome::Kind as Wire;
    let kind = match reply.answer {
        Answer::Read(found) => Wire::Read(wire::ReadOutcome { record: found.and_then(record) }),
        Answer::Written { version, deleted } => {
            Wire::Write(wire::WriteOutcome { version: version.0, deleted })
        }
        Answer::Range { records, more } => Wire::ReadRange(wire::ReadRangeOutcome {
            records: records.into_iter().filter_map(record).collect(),
            more,
        }),
        Answer::Failed(error) => Wire::Failure(failure(&error)),
    };
    wire::Outcome {
        operation_id: reply.operation_id,
        leader_epoch: reply.epoch.0,
        kind: Some(kind),
        position: reply.standing.map(position),
    }
}

/// A round's answers as messages, none much larger than [`RESPONSE_BYTES`].
fn responses(replies: Vec<Reply>) -> Vec<wire::ExchangeResponse> {
    let mut responses = vec![wire::ExchangeResponse::default()];
    let mut bytes = 0;
    for outcome in replies.into_iter().map(outcome) {
        bytes += outcome.encoded_len();
        if bytes > RESPONSE_BYTES {
            responses.push(wire::ExchangeResponse::default());
            bytes = outcome.encoded_len();
        }
        if let Some(response) = responses.last_mut() {
            response.outcomes.push(outcome);
        }
    }
    responses
}

/// A record under its user's key.
fn record(record: Record) -> Option<wire::Record> {
    let key = keys::of_user(record.key)?;
    Some(wire::Record { key, value: record.value, version: record.version.0 })
}

fn failure(error: &Failure) -> wire::Failure {
    use wire::ErrorReason;
    let mut failure = wire::Failure {
        message: error.to_string(),
        outcome_unknown: error.outcome_unknown(),
        ..wire::Failure::default()
    };
    let reason = match error {
        Failure::Invalid(_) => ErrorReason::InvalidRequest,
        Failure::KeyInvalid(_) => ErrorReason::KeyInvalid,
        Failure::ValueTooLarge(_) => ErrorReason::ValueTooLarge,
        Failure::KeyExists { current } => {
            failure.current_version = current.0;
            ErrorReason::KeyExists
        }
        Failure::KeyNotFound => ErrorReason::KeyNotFound,
        Failure::PreconditionFailed { current } => {
            failure.current_version = current.0;
            ErrorReason::PreconditionFailed
        }
        Failure::NotLeader { leader } => {
            failure.leader_node_id = leader.map(|node| node.to_string()).unwrap_or_default();
            ErrorReason::NotLeader
        }
        Failure::LeaderChanged => ErrorReason::LeaderChangedUnknownOutcome,
        Failure::Unavailable(_) => ErrorReason::PartitionUnavailable,
        Failure::Overloaded(_) => ErrorReason::Overloaded,
        Failure::DiskFull(_) => ErrorReason::DiskFull,
        Failure::DeadlineExceeded { .. } => ErrorReason::DeadlineExceeded,
        Failure::RequestExpired { clock_ms } => {
            failure.clock_ms = *clock_ms;
            ErrorReason::RequestIdExpired
        }
        Failure::RequestAhead { clock_ms } => {
            failure.clock_ms = *clock_ms;
            ErrorReason::RequestIdAhead
        }
        Failure::Behind(_) => ErrorReason::ReplicaBehind,
        Failure::SessionInvalid(_) => ErrorReason::SessionTokenInvalid,
        Failure::RequestReused => ErrorReason::RequestIdReused,
    };
    failure.set_reason(reason);
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &[u8], value: Option<&[u8]>) -> Option<wire::operation::Kind> {
        let put = wire::mutation::Put {
            key: Bytes::copy_from_slice(key),
            value: value.map(Bytes::copy_from_slice),
        };
        Some(wire::operation::Kind::Write(wire::Mutation {
            operation: Some(wire::mutation::Operation::Put(put)),
            precondition: None,
            request_id: String::new(),
        }))
    }

    fn refusal(wire: Option<wire::operation::Kind>) -> String {
        match kind(wire) {
            Ok(_) => panic!("it was let through"),
            Err(failure) => failure.to_string(),
        }
    }

    #[test]
    fn what_breaks_a_limit_is_refused_by_name() {
        assert_eq!(refusal(put(b"", Some(b"v"))), "the key is empty, the shortest is 1 byte");
        assert_eq!(refusal(put(&[b'k'; 4_097], Some(b"v"))), "the key has 4097 bytes, the limit is 4096");
        let oversized = vec![0; VALUE_BYTES_MAX + 1];
        assert_eq!(refusal(put(b"k", Some(&oversized))), "the value has 1048577 bytes, the limit is 1048576");
        assert_eq!(refusal(put(b"k", None)), "a put without a value");
        let Some(wire::operation::Kind::Write(mut guarded)) = put(b"k", Some(b"v")) else {
            panic!("a write")
        };
        let expected = wire::precondition::Condition::Value(oversized.into());
        guarded.precondition = Some(wire::Precondition { condition: Some(expected) });
        let guarded = Some(wire::operation::Kind::Write(guarded));
        assert_eq!(refusal(guarded), "the value has 1048577 bytes, the limit is 1048576");
        assert_eq!(refusal(None), "an operation without a kind");
        let range = wire::ReadRangeOperation { after_key: Bytes::new(), records_max: 1_001 };
        assert!(refusal(Some(wire::operation::Kind::ReadRange(range))).contains("1000"));
    }

    #[test]
    fn any_bytes_make_a_key() {
        for key in [&b"a\0b"[..], b"\xff\xfe", b"/a//b/../c", &[0; 4_096]] {
            assert!(kind(put(key, Some(b""))).is_ok());
        }
    }
}
