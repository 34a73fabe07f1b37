//! What ZooKeeper's errors say of a request's effect.

use std::time::Duration;

use tokio::time::Instant;
use zookeeper_client as zk;

use crate::store::Error;

/// How often the log says that something still fails.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

/// Tells the log of what keeps failing in the background, but not with every attempt.
#[derive(Default)]
pub(super) struct Complaints {
    last: Option<Instant>,
}

impl Complaints {
    /// `what` is tried again. Where the connection is to blame, the log has that from the session's keeper.
    pub(super) fn take(&mut self, what: &str, path: &str, error: &zk::Error) {
        let is_refused = !matches!(
            error,
            zk::Error::ConnectionLoss
                | zk::Error::Timeout
                | zk::Error::SessionExpired
                | zk::Error::SessionMoved
                | zk::Error::ClientClosed
        );
        if is_refused && self.last.is_none_or(|at| at.elapsed() >= COMPLAINT_INTERVAL) {
            self.last = Some(Instant::now());
            tracing::warn!(path, %error, "{what} fails, and is tried again");
        } else {
            tracing::debug!(path, %error, "{what} fails, and is tried again");
        }
    }
}

/// A read changes nothing, so it may always be tried again.
pub(super) fn of_read(path: &str, error: &zk::Error) -> Error {
    match refusal(path, error) {
        Some(refused) => refused,
        None => Error::Unavailable { reason: error.to_string() },
    }
}

/// A write that was not refused may have happened.
pub(super) fn of_write(path: &str, error: &zk::Error) -> Error {
    use zk::Error as Z;
    match error {
        Z::NoNode | Z::NodeExists | Z::BadVersion | Z::NotEmpty => Error::Conflict { path: path.to_owned() },
        Z::NotReadOnly | Z::Throttled | Z::SessionMoved => Error::Unavailable { reason: error.to_string() },
        error => match refusal(path, error) {
            Some(refused) => refused,
            // Connection loss, a timeout, an expired session, and whatever may come: better one read too many.
            None => Error::UnknownOutcome { reason: error.to_string() },
        },
    }
}

/// The server, or the client before it sent anything, said no for good.
fn refusal(path: &str, error: &zk::Error) -> Option<Error> {
    use zk::Error as Z;
    match error {
        Z::NoAuth
        | Z::InvalidAcl
        | Z::BadArguments(_)
        | Z::NoChildrenForEphemerals
        | Z::QuotaExceeded
        | Z::MarshallingError
        | Z::Unimplemented => Some(Error::Rejected { path: path.to_owned(), reason: error.to_string() }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubt_is_never_taken_for_certainty() {
        for doubtful in [
            zk::Error::ConnectionLoss,
            zk::Error::Timeout,
            zk::Error::SessionExpired,
            zk::Error::ClientClosed,
            zk::Error::UnexpectedErrorCode(-7),
            zk::Error::UnexpectedError("x".to_owned()),
        ] {
            let error = of_write("/a", &doubtful);
            assert!(matches!(error, Error::UnknownOutcome { .. }), "{error}");
            let error = of_read("/a", &doubtful);
            assert!(matches!(error, Error::Unavailable { .. }), "{error}");
        }
    }

    #[test]
    fn refusals_are_certain() {
        for refused in [zk::Error::NoNode, zk::Error::NodeExists, zk::Error::BadVersion, zk::Error::NotEmpty]
        {
            assert!(matches!(of_write("/a", &refused), Error::Conflict { .. }));
        }
        assert!(matches!(of_write("/a", &zk::Error::NoAuth), Error::Rejected { .. }));
        assert!(matches!(of_write("/a", &zk::Error::Throttled), Error::Unavailable { .. }));
    }
}
