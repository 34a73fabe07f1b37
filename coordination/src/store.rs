//! [`Coordinator`]: what PaddockDB asks of a coordination service, and nothing more.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

/// The largest value, in bytes: ZooKeeper's own default limit is 1 MiB for a whole request.
pub const VALUE_BYTES_MAX: usize = 512 * 1024;

/// The longest path, root included, in bytes.
pub const PATH_BYTES_MAX: usize = 1024;

/// The version of one value: it changes with every write of it. A deleted and re-created path may show an
/// old version again, so callers compare an identity inside the value too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub i64);

/// A value with its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// The version.
    pub version: Version,
    /// The value.
    pub value: Bytes,
}

/// A subtree as it was last read: absolute path → value. Each value was true at some moment since the one
/// before it; the tree as a whole need not be one moment's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// Every node below the watched path, and that path itself where it exists.
    pub nodes: BTreeMap<String, Versioned>,
    /// False while the service cannot be reached: the nodes are those that were read last.
    pub connected: bool,
}

/// How an operation failed, and what that says of its effect.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The value had another version, or the path already existed, or did not exist: nothing was written.
    #[error("{path}: the version is no longer the expected one")]
    Conflict {
        /// The path.
        path: String,
    },
    /// The service did not get the request: nothing was written.
    #[error("the coordination service cannot be reached: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
    /// The connection or the time ran out while the request was under way: it may have been done, and may
    /// still be.
    #[error("the coordination service did not answer, the write may have happened: {reason}")]
    UnknownOutcome {
        /// Why.
        reason: String,
    },
    /// The request can never succeed: a bad path, no permission, a value that is too large, a full disk.
    #[error("{path}: {reason}")]
    Rejected {
        /// The path.
        path: String,
        /// Why.
        reason: String,
    },
}

/// A subtree that keeps itself up to date, across reconnects and expired sessions: whatever was missed is
/// read again. Dropping the last clone ends it.
pub type Watch = watch::Receiver<Arc<Tree>>;

/// Keeps an ephemeral node in place for as long as it is held, in as many sessions as that takes: the
/// backend creates it again whenever it has gone. Dropping it deletes the node (at the latest when the
/// session ends).
///
/// Of two that hold the same path, the newer has it: an older one waits until the path is free again, so
/// that the two do not take turns in deleting each other's node.
#[must_use = "dropping it deletes the node"]
pub struct Registration {
    /// Dropped, it tells the backend to take the node away.
    pub(crate) _guard: Box<dyn Send + Sync>,
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").finish_non_exhaustive()
    }
}

/// The coordination service.
///
/// Paths are absolute, `/`-separated, below the root that the backend was opened with; parents come into
/// being with their children, with empty values. Values are at most [`VALUE_BYTES_MAX`].
///
/// One handle is one client: dropping it ends its session, its registrations and its watches.
///
/// # Order
/// An operation that is called after another one of the same handle has returned takes effect after it, also
/// across reconnects and new sessions, and also where that other one returned [`Error::UnknownOutcome`]: a
/// read after it shows its fate, or it never happens. The backend sees to that on a best effort which has no
/// known gap with one server, and with an ensemble relies on ZooKeeper fencing a moved session. So do as
/// the partition server does: put a fresh nonce in the value, read again after an unknown outcome, compare the nonce,
/// and where the version is still the old one, issue *the same* compare-and-set again (same value, same
/// version), which is harmless even if the first one arrives late after all.
///
/// Operations under way at the same time take effect in any order. Dropping an operation's future does not
/// take the operation back.
#[async_trait]
pub trait Coordinator: Send + Sync + 'static {
    /// Creates a persistent node, with empty parents where they are missing.
    ///
    /// # Errors
    /// [`Error::Conflict`] if it exists.
    async fn create(&self, path: &str, value: Bytes) -> Result<Version, Error>;

    /// Reads a value; `None` if there is no such node. Never older than what any operation of this handle
    /// has shown.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    async fn get(&self, path: &str) -> Result<Option<Versioned>, Error>;

    /// Writes a value if its version is the expected one.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the version is another, or there is no such node.
    async fn compare_and_set(&self, path: &str, value: Bytes, expected: Version) -> Result<Version, Error>;

    /// Deletes a node without children, if its version is the expected one (any, where `None`).
    ///
    /// # Errors
    /// [`Error::Conflict`] if the version is another, or there is no such node, or it has children.
    async fn delete(&self, path: &str, expected: Option<Version>) -> Result<(), Error>;

    /// Keeps an ephemeral node in place: see [`Registration`]. Returns at once; the node comes into being
    /// when the service can be reached. A node of a former session at the same path is replaced; a
    /// persistent one is not, but waited for and complained of in the log, as is a path or value that is refused.
    fn register(&self, path: &str, value: Bytes) -> Registration;

    /// Watches the subtree below a path. The first value is an empty tree with `connected: false`, until
    /// the tree was read once. A path that cannot be (see the errors of the other operations) stays at that.
    ///
    /// Changes may be shown together, but the last of them is always shown.
    fn watch(&self, path: &str) -> Watch;

    /// Ends the session now: registrations vanish, watches end, and operations are [`Error::Unavailable`] from
    /// here on. A process that just ends is only missed when its session times out.
    async fn close(&self);
}

/// Checks a path: absolute, no empty, `.` or `..` part, no control characters, and nothing else that
/// ZooKeeper refuses. `/` alone is a path to watch, not one to write.
pub(crate) fn check_path(path: &str) -> Result<(), Error> {
    let refuse = |reason: String| Err(Error::Rejected { path: path.to_owned(), reason });
    if path.len() > PATH_BYTES_MAX {
        return refuse(format!("a path has at most {PATH_BYTES_MAX} bytes, this one {}", path.len()));
    }
    let Some(rest) = path.strip_prefix('/') else {
        return refuse("a path begins with '/'".to_owned());
    };
    if !rest.is_empty() && rest.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return refuse("a path has no empty, '.' or '..' part".to_owned());
    }
    let unprintable = |c: char| {
        c.is_control() || ('\u{e000}'..='\u{f8ff}').contains(&c) || ('\u{fff0}'..='\u{ffff}').contains(&c)
    };
    if path.contains(unprintable) {
        return refuse("a path has no control or private characters".to_owned());
    }
    Ok(())
}

/// Checks the path and the value of a write.
pub(crate) fn check_write(path: &str, value: &[u8]) -> Result<(), Error> {
    check_path(path)?;
    if path == "/" {
        return Err(Error::Rejected { path: path.to_owned(), reason: "the root holds no value".to_owned() });
    }
    if value.len() > VALUE_BYTES_MAX {
        let reason = format!("a value has at most {VALUE_BYTES_MAX} bytes, this one {}", value.len());
        return Err(Error::Rejected { path: path.to_owned(), reason });
    }
    Ok(())
}

/// The parents of a path, the topmost first, without the root: `/a` and `/a/b` for `/a/b/c`.
pub(crate) fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').skip(1).filter_map(|(end, _)| path.get(..end))
}

/// True if the path is `below` or under it.
pub(crate) fn is_within(path: &str, below: &str) -> bool {
    below == "/" || path.strip_prefix(below).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_checked() {
        for path in ["/", "/a", "/a/b", "/a/...", "/\u{e4}"] {
            assert!(check_path(path).is_ok(), "{path}");
        }
        let long = format!("/{}", "x".repeat(PATH_BYTES_MAX));
        for path in ["", "a", "/a/", "//", "/a//b", "/.", "/../a", "/a\0", "/\u{7f}", "/\u{fffe}", &long] {
            let error = check_path(path).unwrap_err();
            assert!(matches!(&error, Error::Rejected { path: named, .. } if named == path), "{error}");
        }
        assert!(check_write("/", b"").is_err());
        assert!(check_write("/a", &vec![0; VALUE_BYTES_MAX]).is_ok());
        let error = check_write("/a", &vec![0; VALUE_BYTES_MAX + 1]).unwrap_err();
        assert_eq!(error.to_string(), "/a: a value has at most 524288 bytes, this one 524289");
    }

    #[test]
    fn parents_and_subtrees() {
        assert_eq!(parents("/a/b/c").collect::<Vec<_>>(), ["/a", "/a/b"]);
        assert_eq!(parents("/a").count(), 0);
        assert!(is_within("/a", "/a") && is_within("/a/b", "/a") && is_within("/a", "/"));
        assert!(!is_within("/ab", "/a") && !is_within("/", "/a"));
    }
}
