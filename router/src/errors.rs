//! Failures, and the one place where they turn into gRPC statuses.
//!
//! A [`Failure`] says why a request, or one item of a batch, failed, and (for a write) whether it may have
//! happened all the same. As a status it carries `google.rpc.ErrorInfo` with the reason, the domain
//! "paddockdb" and metadata, `RetryInfo` where waiting helps, and `BadRequest` where a field is at fault.
//! `types.proto` says which code belongs to which reason.

use std::collections::HashMap;
use std::time::Duration;

use paddock_proto::google::rpc;
use paddock_proto::v1::{self, ErrorReason};
use prost::Message;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::session::Session;

/// The domain of every `ErrorInfo`.
pub const DOMAIN: &str = "paddockdb";

/// Of a write whose id was refused: whether this request may have done it, whatever earlier ones under the id did.
const CALL_OUTCOME: &str = "call_outcome";

/// How long a caller that met a full queue is asked to wait.
pub const OVERLOADED_RETRY_AFTER: Duration = Duration::from_millis(100);

/// What is known of a write that did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteFate {
    /// It certainly did not happen, and never will.
    NotApplied,
    /// It may have happened, or may still.
    Unknown,
}

impl WriteFate {
    /// As it stands in the error's metadata.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            WriteFate::NotApplied => "not_applied",
            WriteFate::Unknown => "unknown",
        }
    }
}

/// Why a request, or one item of a batch, failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The machine-readable reason; it decides the code.
    pub reason: ErrorReason,
    /// For a person: names what is wrong, the limit and the actual figure.
    pub message: String,
    /// For writes: what became of it. `None` for reads.
    pub write_fate: Option<WriteFate>,
    /// The field of the request that is at fault.
    pub field: Option<String>,
    /// More for `ErrorInfo`'s metadata: "current_version", "leader", "epoch", "limit", "actual",
    /// "clock_ms", "partition_id", "call_outcome", "session_token".
    pub metadata: Vec<(&'static str, String)>,
}

impl Failure {
    /// A failure with a reason and a message.
    #[must_use]
    pub fn new(reason: ErrorReason, message: impl Into<String>) -> Self {
        Failure { reason, message: message.into(), write_fate: None, field: None, metadata: Vec::new() }
    }

    /// A request that breaks a rule in one of its fields.
    #[must_use]
    pub fn invalid(reason: ErrorReason, field: impl Into<String>, message: impl Into<String>) -> Self {
        Failure { field: Some(field.into()), ..Failure::new(reason, message) }
    }

    /// A limit that was passed: names both figures.
    #[must_use]
    pub fn over_limit(
        reason: ErrorReason,
        field: impl Into<String>,
        what: &str,
        limit: usize,
        actual: usize,
    ) -> Self {
        let field = field.into();
        let message = format!("{field}: {what} is {actual}, the limit is {limit}");
        Failure::invalid(reason, field, message).with("limit", &limit).with("actual", &actual)
    }

    /// A failure that a partition server reported.
    #[must_use]
    pub fn from_partition(failure: v1::Failure, leader_epoch: u64, is_write: bool) -> Self {
        let reason = match failure.reason() {
            ErrorReason::Unspecified => ErrorReason::Internal,
            reason => reason,
        };
        let unknown = failure.outcome_unknown;
        let mut result = Failure::new(reason, failure.message);
        if is_write {
            result.write_fate = Some(if unknown { WriteFate::Unknown } else { WriteFate::NotApplied });
        }
        match reason {
            ErrorReason::KeyExists | ErrorReason::PreconditionFailed | ErrorReason::KeyNotFound => {
                result = result.with("current_version", &failure.current_version);
            }
            ErrorReason::RequestIdExpired | ErrorReason::RequestIdAhead => {
                result = result
                    .with("clock_ms", &failure.clock_ms)
                    .with(CALL_OUTCOME, &WriteFate::NotApplied.name());
            }
            ErrorReason::NotLeader => {
                if !failure.leader_node_id.is_empty() {
                    result = result.with("leader", &failure.leader_node_id);
                }
                if leader_epoch > 0 {
                    result = result.with("epoch", &leader_epoch);
                }
            }
            _ => {}
        }
        result
    }

    /// The same, with one more entry of metadata.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: &impl ToString) -> Self {
        self.metadata.push((name, value.to_string()));
        self
    }

    /// The same, of a write with this fate.
    #[must_use]
    pub fn of_write(self, fate: WriteFate) -> Self {
        Failure { write_fate: Some(fate), ..self }
    }

    /// The same of a write that may have been done by an earlier sending of the same request, unless it tells what the
    /// request came to.
    #[must_use]
    pub fn perhaps_done_before(mut self) -> Self {
        if self.is_of_record() {
            return self;
        }
        self.metadata.retain(|(name, _)| *name != CALL_OUTCOME);
        self.of_write(WriteFate::Unknown)
    }

    /// True if it tells something of a record: that there is one, or none, or another one than was expected.
    #[must_use]
    pub fn is_of_record(&self) -> bool {
        matches!(
            self.reason,
            ErrorReason::KeyExists | ErrorReason::KeyNotFound | ErrorReason::PreconditionFailed
        )
    }

    /// True if it tells what time it is at a partition.
    #[must_use]
    pub fn is_of_time(&self) -> bool {
        matches!(self.reason, ErrorReason::RequestIdExpired | ErrorReason::RequestIdAhead)
    }

    /// The same with how far the partition was, for reads that must see at least as much.
    #[must_use]
    pub fn seen_at(self, session: &Session) -> Self {
        self.with("session_token", &session.to_text())
    }

    /// The same as item `index` of a repeated field: the message and the field name it.
    #[must_use]
    pub fn at_item(mut self, list: &str, index: usize) -> Self {
        let place = format!("{list}[{index}]");
        self.message = format!("{place}: {}", self.message);
        self.field = Some(match self.field.take() {
            Some(field) => format!("{place}.{field}"),
            None => place,
        });
        self
    }

    /// The gRPC code, as `types.proto` lays down.
    #[must_use]
    pub fn code(&self) -> Code {
        match self.reason {
            ErrorReason::InvalidRequest
            | ErrorReason::KeyInvalid
            | ErrorReason::ValueTooLarge
            | ErrorReason::BatchTooLarge
            | ErrorReason::RequestIdReused => Code::InvalidArgument,
            ErrorReason::RequestIdExpired | ErrorReason::RequestIdAhead => Code::OutOfRange,
            ErrorReason::KeyNotFound => Code::NotFound,
            ErrorReason::KeyExists => Code::AlreadyExists,
            ErrorReason::PreconditionFailed
            | ErrorReason::WrongNode
            | ErrorReason::TransferRefused
            | ErrorReason::RecoveryRefused
            | ErrorReason::SessionTokenInvalid => Code::FailedPrecondition,
            ErrorReason::NotLeader | ErrorReason::PartitionUnavailable | ErrorReason::ReplicaBehind => {
                Code::Unavailable
            }
            ErrorReason::LeaderChangedUnknownOutcome | ErrorReason::ConnectionLostUnknownOutcome => {
                Code::Unknown
            }
            ErrorReason::Overloaded | ErrorReason::DiskFull => Code::ResourceExhausted,
            ErrorReason::DeadlineExceeded => Code::DeadlineExceeded,
            ErrorReason::Internal | ErrorReason::Unspecified => Code::Internal,
        }
    }

    /// As a status with its details.
    #[must_use]
    pub fn to_status(&self) -> Status {
        self.to_status_with_code(self.code())
    }

    fn to_status_with_code(&self, code: Code) -> Status {
        let mut metadata: HashMap<String, String> =
            self.metadata.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        if let Some(fate) = self.write_fate {
            metadata.insert("write_outcome".to_owned(), fate.name().to_owned());
        }
        let mut details = ErrorDetails::with_error_info(reason_name(self.reason), DOMAIN, metadata);
        if self.reason == ErrorReason::Overloaded {
            details.set_retry_info(Some(OVERLOADED_RETRY_AFTER));
        }
        if let Some(field) = &self.field {
            details.add_bad_request_violation(field, &self.message);
        }
        Status::with_error_details(code, self.message.clone(), details)
    }

    /// As a result of one item of a batch.
    #[must_use]
    pub fn to_item(&self) -> rpc::Status {
        let status = self.to_status();
        // The details of a status are an encoded google.rpc.Status, the same message under another name.
        rpc::Status::decode(status.details()).unwrap_or_else(|_| rpc::Status {
            code: status.code() as i32,
            message: status.message().to_owned(),
            details: Vec::new(),
        })
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        failure.to_status()
    }
}

/// The reason as it stands in `ErrorInfo`: without the enum's prefix.
#[must_use]
pub fn reason_name(reason: ErrorReason) -> &'static str {
    let name = reason.as_str_name();
    name.strip_prefix("ERROR_REASON_").unwrap_or(name)
}

/// What stands in for tonic's OUT_OF_RANGE when a request's message is larger than `limit`: a caller has
/// more use for a RESOURCE_EXHAUSTED that names the limit. `detail` is tonic's own account, which names
/// the actual size.
#[must_use]
pub fn message_too_large(is_batch: bool, limit: usize, detail: &str) -> Status {
    let reason = if is_batch { ErrorReason::BatchTooLarge } else { ErrorReason::ValueTooLarge };
    Failure::new(reason, format!("the request's message is over the limit of {limit} bytes ({detail})"))
        .with("limit", &limit)
        .of_write(WriteFate::NotApplied)
        .to_status_with_code(Code::ResourceExhausted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_survive_the_wire() {
        let failure = Failure::new(ErrorReason::PreconditionFailed, "the version is 7")
            .with("current_version", &7)
            .of_write(WriteFate::NotApplied);
        let status = failure.to_status();
        assert_eq!(status.code(), Code::FailedPrecondition);
        let info = status.get_details_error_info().unwrap();
        assert_eq!(info.reason, "PRECONDITION_FAILED");
        assert_eq!(info.domain, "paddockdb");
        assert_eq!(info.metadata["current_version"], "7");
        assert_eq!(info.metadata["write_outcome"], "not_applied");
        assert!(status.get_details_retry_info().is_none());

        let item = failure.to_item();
        assert_eq!(item.code, Code::FailedPrecondition as i32);
        assert_eq!(item.message, "the version is 7");
        assert_eq!(item.details.len(), 1);
    }

    #[test]
    fn overload_says_when_to_come_back() {
        let status = Failure::new(ErrorReason::Overloaded, "full").to_status();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.get_details_retry_info().unwrap().retry_delay, Some(OVERLOADED_RETRY_AFTER));
    }

    #[test]
    fn an_item_is_named_in_message_and_field() {
        let status = Failure::over_limit(ErrorReason::KeyInvalid, "key", "the length in bytes", 4096, 5000)
            .at_item("mutations", 3)
            .to_status();
        assert!(status.message().contains("mutations[3]"), "{}", status.message());
        assert!(status.message().contains("4096") && status.message().contains("5000"));
        let violation = &status.get_details_bad_request().unwrap().field_violations[0];
        assert_eq!(violation.field, "mutations[3].key");
    }
}
