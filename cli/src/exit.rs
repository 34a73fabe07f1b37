//! Exit codes: what kind of failure it was, for scripts.

use std::io::{self, Write};
use std::process::ExitCode;

use paddock_client::{Error, WriteOutcome};
use paddock_partition::node::NodeError;

use crate::leadership::StillLeads;
use crate::output::StdoutClosed;
use crate::placement::StillMoving;
use crate::recovery::{NotConfirmed, StillOffline};

/// The command was interrupted; its message says how to go on.
#[derive(Debug, thiserror::Error)]
#[error("interrupted: {hint}")]
pub(crate) struct Interrupted {
    /// How to go on.
    pub(crate) hint: String,
}

/// Files are damaged; which ones was printed.
#[derive(Debug, thiserror::Error)]
#[error("{places} damaged {}", if *places == 1 { "place" } else { "places" })]
pub(crate) struct Damaged {
    /// How many places.
    pub(crate) places: usize,
}

/// Anything without a code of its own.
const ERROR: u8 = 1;
/// The command line is wrong; clap ends with the same.
const USAGE: u8 = 2;
/// No record has the key.
const NOT_FOUND: u8 = 3;
/// A precondition did not hold.
const PRECONDITION_FAILED: u8 = 4;
/// Nobody could serve the request, or a server has the files; nothing was written.
const UNAVAILABLE: u8 = 5;
/// The write may have happened.
const OUTCOME_UNKNOWN: u8 = 6;
/// Bytes that were once durable are not what they were.
const DAMAGED: u8 = 7;
/// Interrupted by a signal.
const INTERRUPTED: u8 = 130;

/// Prints the error with its causes and returns its exit code. A closed stdout is no error: whoever read has
/// seen enough.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if is_stdout_closed(error) {
        return ExitCode::SUCCESS;
    }
    // Nothing is left to say if stderr is gone too.
    let _ = writeln!(io::stderr(), "paddock: {}", sentence(error));
    ExitCode::from(code(error))
}

fn code(error: &anyhow::Error) -> u8 {
    if error.chain().any(|cause| cause.is::<Interrupted>()) {
        return INTERRUPTED;
    }
    if error
        .chain()
        .any(|cause| cause.is::<StillLeads>() || cause.is::<StillMoving>() || cause.is::<StillOffline>())
    {
        return UNAVAILABLE;
    }
    if error.chain().any(|cause| cause.is::<NotConfirmed>()) {
        return PRECONDITION_FAILED;
    }
    if let Some(code) = error.chain().find_map(storage_code) {
        return code;
    }
    let Some(error) = error.chain().find_map(|cause| cause.downcast_ref::<Error>()) else {
        return ERROR;
    };
    match error {
        Error::InvalidEndpoint { .. } => USAGE,
        Error::NotFound { .. } => NOT_FOUND,
        Error::AlreadyExists { .. }
        | Error::PreconditionFailed { .. }
        | Error::TransferRefused { .. }
        | Error::RecoveryRefused { .. } => PRECONDITION_FAILED,
        other if other.write_outcome() == WriteOutcome::Unknown => OUTCOME_UNKNOWN,
        other if other.is_transient() => UNAVAILABLE,
        _ => ERROR,
    }
}

/// The code of what happens to files.
fn storage_code(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    use paddock_storage::Error as StorageError;
    if cause.is::<Damaged>() {
        return Some(DAMAGED);
    }
    if let Some(NodeError::Locked { .. }) = cause.downcast_ref() {
        return Some(UNAVAILABLE);
    }
    match cause.downcast_ref()? {
        StorageError::Corrupt { .. } => Some(DAMAGED),
        StorageError::Locked { .. } => Some(UNAVAILABLE),
        StorageError::NotAStore { .. } => Some(NOT_FOUND),
        _ => None,
    }
}

/// The error and its causes in one line. A cause that its effect already quotes is left out.
fn sentence(error: &anyhow::Error) -> String {
    let mut sentence = error.to_string();
    // Not error.is(), which is true of a context's cause as well, and would leave that cause unsaid.
    if error.chain().next().is_some_and(|first| first.is::<Error>()) {
        return sentence;
    }
    for cause in error.chain().skip(1) {
        let words = cause.to_string();
        if !sentence.contains(&words) {
            sentence.push_str(": ");
            sentence.push_str(&words);
        }
        // The client's messages tell their causes already; the transport's below them only repeat.
        if cause.is::<Error>() {
            break;
        }
    }
    sentence
}

/// A broken pipe of anything else, such as the connection to the router, is a failure like others.
fn is_stdout_closed(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        inner.is_some_and(|inner| inner.is::<StdoutClosed>())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_of_a_context_is_told_once() {
        let unavailable = || Error::Unavailable { message: "nobody is there".to_owned(), source: None };
        let alone = anyhow::Error::new(unavailable());
        assert_eq!(sentence(&alone), "unavailable: nobody is there");
        let within = alone.context("partition 0");
        assert_eq!(sentence(&within), "partition 0: unavailable: nobody is there");
        assert_eq!(code(&within), UNAVAILABLE);
    }

    #[test]
    fn only_a_closed_stdout_is_no_failure() {
        let closed = anyhow::Error::new(io::Error::new(io::ErrorKind::BrokenPipe, StdoutClosed));
        assert!(is_stdout_closed(&closed.context("the output")));
        let network = anyhow::Error::new(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(!is_stdout_closed(&network.context("the connection")));
    }
}
