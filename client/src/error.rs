//! [`Error`]: what went wrong, what to do about it, and whether the write may have happened.
//!
//! A server's status carries a reason and, for a write, its outcome. A status without them comes from the
//! transport, or from something between us and the server; then the write counts as not applied only where
//! that is certain: the connection was never made, or the message was refused before it was looked at.

use std::time::Duration;

use paddock_proto::google::rpc;
use tonic::{Code, Status};
use tonic_types::{ErrorInfo, RpcStatusExt, StatusExt};

use crate::session::SessionToken;

/// The domain of our reasons in `google.rpc.ErrorInfo`.
const DOMAIN: &str = "paddockdb";

/// How long to wait after [`Error::Overloaded`] when the server names no time.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_millis(100);

/// The longest wait that a server may ask of us.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);

/// Whether a failed request changed anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// Certainly nothing was written, and nothing will be.
    NotApplied,
    /// The write may have happened, or may still.
    Unknown,
}

/// Why a server does not take a request id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdRefusal {
    /// It is older than what the partition remembers. Whether a write was done under it in its time can no longer be told.
    Expired,
    /// It was made in the partition's future: no write was done under it.
    Ahead,
}

/// How a request failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No record has this key; or [`Precondition::Exists`](crate::Precondition::Exists) found none.
    #[error("not found: {message}")]
    NotFound {
        /// The server's words.
        message: String,
        /// How far the partition was, where the server told it.
        session_token: Option<SessionToken>,
    },
    /// [`Precondition::Absent`](crate::Precondition::Absent) found a record.
    #[error("already exists: {message}")]
    AlreadyExists {
        /// The record's version, where the server told it.
        current_version: Option<u64>,
        /// How far the partition was, where the server told it.
        session_token: Option<SessionToken>,
        /// The server's words.
        message: String,
    },
    /// A compare-and-set lost.
    #[error("precondition failed: {message}")]
    PreconditionFailed {
        /// The record's version; 0 if there is no record.
        current_version: u64,
        /// How far the partition was, where the server told it.
        session_token: Option<SessionToken>,
        /// The server's words.
        message: String,
    },
    /// A leader keeps the partition that it was to hand over.
    #[error("not handed over: {message}")]
    TransferRefused {
        /// The server's words.
        message: String,
    },
    /// A partition is not to be recovered with data loss: somebody can lead it, or may be able to.
    #[error("not recovered: {message}")]
    RecoveryRefused {
        /// The server's words.
        message: String,
    },
    /// The request can never succeed as it stands: it breaks a rule or a limit, which the message names.
    #[error("{message}")]
    InvalidArgument {
        /// The server's words.
        message: String,
    },
    /// No replica is as fresh as the read asks for.
    #[error("not fresh enough: {message}")]
    ReplicaBehind {
        /// The server's words.
        message: String,
    },
    /// What the session has seen is no more: the partition's data was replaced, or the token is none. Begin another one.
    #[error("session lost: {message}")]
    SessionLost {
        /// The server's words.
        message: String,
    },
    /// The server does not take the write's request id.
    #[error("request id refused: {message}")]
    RequestIdRefused {
        /// Why.
        refusal: IdRefusal,
        /// A time at which the server takes an id that is made now, in milliseconds since 1970, where it told it.
        clock_ms: Option<u64>,
        /// The partition whose time that is, where the server told it.
        partition_id: Option<u32>,
        /// Whether a write may have been done under this id, by whomever and whenever it was sent.
        write_outcome: WriteOutcome,
        /// Whether this call may have done it. For an id that was made for the call that is all there is to know.
        call_outcome: WriteOutcome,
        /// The server's words.
        message: String,
    },
    /// The endpoint is not a URL that can be connected to.
    #[error("{endpoint:?} is not an endpoint: http://HOST:PORT is (there is no TLS yet)")]
    InvalidEndpoint {
        /// What was given.
        endpoint: String,
        /// Why it is not a URL, where it is none.
        source: Option<std::sync::Arc<tonic::transport::Error>>,
    },
    /// Nobody can serve the request now; nothing was written.
    #[error("unavailable: {message}")]
    Unavailable {
        /// The server's words, or the transport's with the endpoint.
        message: String,
        /// What the transport saw.
        source: Option<Box<Status>>,
    },
    /// A bounded queue is full; nothing was written.
    #[error("overloaded: {message}")]
    Overloaded {
        /// The server's words.
        message: String,
        /// When to come back.
        retry_after: Duration,
    },
    /// The leader's disk is full; nothing was written. Deletes still work.
    #[error("disk full: {message}")]
    DiskFull {
        /// The server's words.
        message: String,
    },
    /// The time was up.
    #[error("{message}")]
    DeadlineExceeded {
        /// Whether a write may have happened.
        write_outcome: WriteOutcome,
        /// The server's words, or ours.
        message: String,
    },
    /// The connection or the leadership ended while a write was under way: it may have happened, or may
    /// still. Read the record before deciding what to do.
    #[error("the write's outcome is unknown: {message}")]
    UnknownOutcome {
        /// The server's words, or the transport's with the endpoint.
        message: String,
        /// What the transport saw.
        source: Option<Box<Status>>,
    },
    /// The endpoint does not speak this service, or answered what the protocol does not allow.
    #[error("unexpected answer: {message}")]
    Protocol {
        /// What was wrong.
        message: String,
        /// Whether a write may have happened.
        write_outcome: WriteOutcome,
        /// The answer.
        source: Option<Box<Status>>,
    },
    /// A defect, or a failing disk, at the server.
    #[error("internal error: {message}")]
    Internal {
        /// The server's words.
        message: String,
        /// Whether a write may have happened.
        write_outcome: WriteOutcome,
        /// The answer.
        source: Option<Box<Status>>,
    },
}

impl Error {
    /// Whether a write that failed so may have happened all the same. Reads change nothing: for them it is
    /// always [`WriteOutcome::NotApplied`].
    #[must_use]
    pub fn write_outcome(&self) -> WriteOutcome {
        match self {
            Error::UnknownOutcome { .. } => WriteOutcome::Unknown,
            Error::DeadlineExceeded { write_outcome, .. }
            | Error::Protocol { write_outcome, .. }
            | Error::RequestIdRefused { write_outcome, .. }
            | Error::Internal { write_outcome, .. } => *write_outcome,
            _ => WriteOutcome::NotApplied,
        }
    }

    /// True if the same request may succeed a little later. It says nothing of whether repeating it is
    /// safe: that is [`write_outcome`](Self::write_outcome).
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Error::Unavailable { .. }
                | Error::ReplicaBehind { .. }
                | Error::Overloaded { .. }
                | Error::DeadlineExceeded { .. }
                | Error::UnknownOutcome { .. }
        )
    }

    /// How far the partition was that told something of a record in failing.
    pub(crate) fn session_token(&self) -> Option<&SessionToken> {
        match self {
            Error::NotFound { session_token, .. }
            | Error::AlreadyExists { session_token, .. }
            | Error::PreconditionFailed { session_token, .. } => session_token.as_ref(),
            _ => None,
        }
    }

    /// The error of the last attempt of several, of which an earlier one may have been done: what this one says of
    /// itself does not hold for all of them, unless it is the request id's result.
    pub(crate) fn after_unknown(self) -> Error {
        let is_refused_id = matches!(self, Error::RequestIdRefused { .. });
        if self.write_outcome() == WriteOutcome::Unknown && !is_refused_id {
            return self;
        }
        let unknown = WriteOutcome::Unknown;
        match self {
            Error::NotFound { .. } | Error::AlreadyExists { .. } | Error::PreconditionFailed { .. } => self,
            Error::DeadlineExceeded { message, .. } => {
                Error::DeadlineExceeded { write_outcome: unknown, message }
            }
            Error::RequestIdRefused { refusal, clock_ms, partition_id, message, .. } => {
                Error::RequestIdRefused {
                    refusal,
                    clock_ms,
                    partition_id,
                    write_outcome: unknown,
                    call_outcome: unknown,
                    message,
                }
            }
            Error::Protocol { message, source, .. } => {
                Error::Protocol { message, write_outcome: unknown, source }
            }
            Error::Internal { message, source, .. } => {
                Error::Internal { message, write_outcome: unknown, source }
            }
            other => {
                let message = format!("an earlier attempt may have been done, the last one failed: {other}");
                Error::UnknownOutcome { message, source: None }
            }
        }
    }

    /// The same of a write whose id was made for this call: nobody else can have sent it.
    pub(crate) fn under_fresh_id(self) -> Error {
        match self {
            Error::RequestIdRefused { refusal, clock_ms, partition_id, call_outcome, message, .. } => {
                let write_outcome = call_outcome;
                Error::RequestIdRefused {
                    refusal,
                    clock_ms,
                    partition_id,
                    write_outcome,
                    call_outcome,
                    message,
                }
            }
            other => other,
        }
    }

    /// The time that the server asked us to wait.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Overloaded { retry_after, .. } => Some(*retry_after),
            _ => None,
        }
    }
}

/// What a request does, which decides what a lost answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Changes nothing.
    Read,
    /// May change something, and would do it again.
    Write,
    /// May change something, once: it has a request id.
    NamedWrite,
}

impl Kind {
    /// What is known of a request of this kind when nothing is known of its fate.
    pub(crate) fn outcome_of_lost(self) -> WriteOutcome {
        match self {
            Kind::Read => WriteOutcome::NotApplied,
            Kind::Write | Kind::NamedWrite => WriteOutcome::Unknown,
        }
    }
}

/// The error of a whole call.
pub(crate) fn from_status(status: Status, kind: Kind, endpoint: &str) -> Error {
    let answer = Answer {
        code: status.code(),
        message: status.message().to_owned(),
        info: status.get_details_error_info().filter(|info| info.domain == DOMAIN),
        retry_after: status.get_details_retry_info().and_then(|info| info.retry_delay),
        kind,
    };
    if answer.info.is_some() {
        return answer.into_error(Some(Box::new(status)));
    }
    from_transport(status, kind, endpoint)
}

/// The error of one item of a batch of writes or reads.
pub(crate) fn from_item(status: rpc::Status, kind: Kind) -> Error {
    let rich =
        tonic_types::Status { code: status.code, message: status.message.clone(), details: status.details };
    let answer = Answer {
        code: Code::from_i32(status.code),
        message: status.message,
        info: rich.get_details_error_info().filter(|info| info.domain == DOMAIN),
        retry_after: rich.get_details_retry_info().and_then(|info| info.retry_delay),
        kind,
    };
    answer.into_error(None)
}

/// A status of our servers, taken apart.
struct Answer {
    code: Code,
    message: String,
    info: Option<ErrorInfo>,
    retry_after: Option<Duration>,
    kind: Kind,
}

impl Answer {
    fn metadata(&self, name: &str) -> Option<&str> {
        self.info.as_ref()?.metadata.get(name).map(String::as_str)
    }

    fn current_version(&self) -> Option<u64> {
        self.metadata("current_version")?.parse().ok()
    }

    /// What the server says of the write; where it says nothing, only codes that are given before anything
    /// is done mean that nothing was.
    fn write_outcome(&self) -> WriteOutcome {
        match self.metadata("write_outcome") {
            Some("not_applied") => WriteOutcome::NotApplied,
            Some("unknown") => self.kind.outcome_of_lost(),
            _ => match self.code {
                Code::Unknown | Code::DeadlineExceeded | Code::Internal | Code::Cancelled => {
                    self.kind.outcome_of_lost()
                }
                _ => WriteOutcome::NotApplied,
            },
        }
    }

    fn into_error(self, source: Option<Box<Status>>) -> Error {
        let write_outcome = self.write_outcome();
        let current_version = self.current_version();
        let session_token = self.metadata("session_token").and_then(|text| text.parse().ok());
        let reason = self.info.as_ref().map_or("", |info| info.reason.as_str());
        match (reason, self.code) {
            ("DISK_FULL", _) => Error::DiskFull { message: self.message },
            ("REQUEST_ID_EXPIRED" | "REQUEST_ID_AHEAD", _) => {
                let is_call_harmless = self.metadata("call_outcome") == Some("not_applied");
                Error::RequestIdRefused {
                    refusal: if reason == "REQUEST_ID_AHEAD" { IdRefusal::Ahead } else { IdRefusal::Expired },
                    clock_ms: self.metadata("clock_ms").and_then(|clock_ms| clock_ms.parse().ok()),
                    partition_id: self.metadata("partition_id").and_then(|partition| partition.parse().ok()),
                    call_outcome: if is_call_harmless { WriteOutcome::NotApplied } else { write_outcome },
                    write_outcome,
                    message: self.message,
                }
            }
            ("TRANSFER_REFUSED", _) => Error::TransferRefused { message: self.message },
            ("RECOVERY_REFUSED", _) => Error::RecoveryRefused { message: self.message },
            ("WRONG_NODE", _) => Error::Unavailable { message: self.message, source },
            ("REPLICA_BEHIND", _) => Error::ReplicaBehind { message: self.message },
            ("SESSION_TOKEN_INVALID", _) => Error::SessionLost { message: self.message },
            (_, Code::NotFound) => Error::NotFound { message: self.message, session_token },
            (_, Code::AlreadyExists) => {
                Error::AlreadyExists { current_version, session_token, message: self.message }
            }
            (_, Code::FailedPrecondition) => Error::PreconditionFailed {
                current_version: current_version.unwrap_or(0),
                session_token,
                message: self.message,
            },
            (_, Code::InvalidArgument | Code::OutOfRange) => Error::InvalidArgument { message: self.message },
            (_, Code::DeadlineExceeded) => Error::DeadlineExceeded { write_outcome, message: self.message },
            (_, Code::ResourceExhausted) => Error::Overloaded {
                message: self.message,
                retry_after: self.retry_after.unwrap_or(RETRY_AFTER_DEFAULT).min(RETRY_AFTER_MAX),
            },
            (_, Code::Internal) => Error::Internal { message: self.message, write_outcome, source },
            _ if write_outcome == WriteOutcome::Unknown => {
                Error::UnknownOutcome { message: self.message, source }
            }
            (_, Code::Unavailable | Code::Unknown) => Error::Unavailable { message: self.message, source },
            _ => Error::Protocol { message: self.message, write_outcome, source },
        }
    }
}

/// The error of a status that no server of ours wrote.
fn from_transport(status: Status, kind: Kind, endpoint: &str) -> Error {
    let message = format!("{endpoint}: {}", describe(&status));
    if never_connected(&status) {
        return Error::Unavailable { message, source: Some(Box::new(status)) };
    }
    let write_outcome = kind.outcome_of_lost();
    match status.code() {
        // Refused by its framing, before any handler saw it.
        Code::OutOfRange | Code::InvalidArgument => {
            Error::InvalidArgument { message: status.message().to_owned() }
        }
        Code::Unimplemented | Code::Unauthenticated | Code::PermissionDenied => {
            let write_outcome = WriteOutcome::NotApplied;
            Error::Protocol { message, write_outcome, source: Some(Box::new(status)) }
        }
        // tonic reports an expired timeout of its own as cancelled.
        Code::DeadlineExceeded | Code::Cancelled => {
            Error::DeadlineExceeded { write_outcome, message: format!("the deadline passed: {message}") }
        }
        _ if write_outcome == WriteOutcome::Unknown => {
            Error::UnknownOutcome { message, source: Some(Box::new(status)) }
        }
        _ => Error::Unavailable { message, source: Some(Box::new(status)) },
    }
}

/// True if the request was never sent, since there was no connection to send it on.
fn never_connected(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// A transport's status in words: its message and the innermost cause, which names what the system said.
fn describe(status: &Status) -> String {
    let mut innermost = None;
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        innermost = Some(error.to_string());
        source = error.source();
    }
    match innermost {
        Some(cause) if !status.message().contains(&cause) => format!("{}: {cause}", status.message()),
        _ => status.message().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use tonic_types::ErrorDetails;

    fn status(code: Code, reason: &str, metadata: &[(&str, &str)]) -> Status {
        let metadata: HashMap<String, String> =
            metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut details = ErrorDetails::new();
        details.set_error_info(reason, DOMAIN, metadata);
        Status::with_error_details(code, "words", details)
    }

    #[test]
    fn a_lost_compare_and_set_carries_the_current_version() {
        let status = status(Code::FailedPrecondition, "PRECONDITION_FAILED", &[("current_version", "7")]);
        let error = from_status(status, Kind::Write, "here");
        assert!(matches!(error, Error::PreconditionFailed { current_version: 7, .. }), "{error:?}");
        assert_eq!(error.write_outcome(), WriteOutcome::NotApplied);
        assert!(!error.is_transient());
    }

    #[test]
    fn a_deadline_says_whether_the_write_may_have_happened() {
        for (said, expected) in
            [("not_applied", WriteOutcome::NotApplied), ("unknown", WriteOutcome::Unknown)]
        {
            let status = status(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", &[("write_outcome", said)]);
            let error = from_status(status, Kind::Write, "here");
            assert_eq!(error.write_outcome(), expected);
        }
    }

    #[test]
    fn a_status_of_unknown_origin_leaves_a_write_unknown_and_a_read_harmless() {
        let lost = || Status::unknown("transport error");
        assert!(matches!(from_status(lost(), Kind::Write, "here"), Error::UnknownOutcome { .. }));
        assert!(matches!(from_status(lost(), Kind::Read, "here"), Error::Unavailable { .. }));
    }

    #[test]
    fn an_unavailable_without_our_reason_may_have_been_applied() {
        // A proxy that lost its upstream says UNAVAILABLE too.
        let error = from_status(Status::unavailable("upstream reset"), Kind::Write, "here");
        assert_eq!(error.write_outcome(), WriteOutcome::Unknown);
    }

    #[test]
    fn an_item_of_a_batch_is_understood_like_a_call() {
        let mut details = ErrorDetails::new();
        details.set_error_info("LEADER_CHANGED_UNKNOWN_OUTCOME", DOMAIN, HashMap::new());
        let rich = Status::with_error_details(Code::Unknown, "words", details);
        let info = rich.get_details_error_info();
        assert!(info.is_some());
        let item = rpc::Status { code: Code::Unknown as i32, message: "words".into(), details: Vec::new() };
        assert!(matches!(from_item(item, Kind::Write), Error::UnknownOutcome { .. }));
        let item =
            rpc::Status { code: Code::Unavailable as i32, message: "words".into(), details: Vec::new() };
        assert!(matches!(from_item(item, Kind::Write), Error::Unavailable { .. }));
    }

    #[test]
    fn the_wait_that_a_server_asks_for_is_bounded() {
        let mut details = ErrorDetails::new();
        details.set_error_info("OVERLOADED", DOMAIN, HashMap::new());
        details.set_retry_info(Some(Duration::from_secs(3_600)));
        let status = Status::with_error_details(Code::ResourceExhausted, "full", details);
        let error = from_status(status, Kind::Write, "here");
        assert_eq!(error.retry_after(), Some(RETRY_AFTER_MAX));
    }
}
