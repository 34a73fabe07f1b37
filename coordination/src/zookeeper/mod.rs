//! The ZooKeeper backend, over the crate `zookeeper-client`.
//!
//! [`ZooKeeper::connect`] returns at once; a task connects, and stays connected, for as long as the handle lives
//! ([`session`] says how a session ends and another begins). An operation waits for a connection for one
//! request timeout and then is [`Error::Unavailable`], without having been sent. Once sent, it waits for its
//! answer for one more; a write whose answer is lost, or late, is [`Error::UnknownOutcome`] and is never sent again
//! from here, since only the caller can tell whether it may be done twice.
//!
//! # Why a read shows the fate of the write before it
//! - Within a connection ZooKeeper answers in order. A write that we gave up on while it was queued is still ahead
//!   of the read in the queue.
//! - Across connections of one session, the server closes the former connection before it takes the session over,
//!   and an ensemble refuses what a former server still forwards (session moved).
//! - Another session is only begun after the server itself has said that the former one is over
//!   ([`session`]), and a session that is over writes nothing.
//! - A server may lag behind the one that took the write, so each read is preceded by a `sync`.
//!
//! What this does not do: TLS and authentication; quotas and access lists are the operator's.

mod errors;
mod registration;
mod session;
mod watching;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use zookeeper_client as zk;

use self::session::Sessions;
use crate::store::{
    Coordinator, Error, Registration, Tree, Version, Versioned, Watch, check_path, check_write, parents,
};

/// For how long a silent client's session lives on, unless [`Options`] say otherwise.
pub const SESSION_TIMEOUT_MS: u64 = 6_000;

/// How long an operation waits for a connection, and then for its answer, unless [`Options`] say otherwise.
pub const REQUEST_TIMEOUT_MS: u64 = 4_000;

/// How often a create makes missing parents: more than once only where somebody deletes them meanwhile.
const PARENT_ATTEMPTS_MAX: u32 = 3;

/// The timeouts of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// For how long a silent client's session lives on; the server has the last word.
    pub session_timeout: Duration,
    /// How long an operation waits for a connection, and then for its answer.
    pub request_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            session_timeout: Duration::from_millis(SESSION_TIMEOUT_MS),
            request_timeout: Duration::from_millis(REQUEST_TIMEOUT_MS),
        }
    }
}

/// A client of ZooKeeper. Dropping it ends its session, its registrations and its watches; to be sure that the
/// server knows before the process ends, await [`Coordinator::close`].
pub struct ZooKeeper {
    link: Link,
    /// The session keeper, the watches and the registrations: aborted with the handle.
    tasks: Mutex<JoinSet<()>>,
}

/// What every task of a handle needs.
#[derive(Clone)]
struct Link {
    sessions: Sessions,
    /// Below which path everything stands: empty, or `/…` without a final slash.
    root: Arc<str>,
    request_timeout: Duration,
}

impl ZooKeeper {
    /// Connects in the background. `hosts` is `host:port,host:port…`; `root` is the path below which
    /// everything stands, which is made where it is missing.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Rejected`] for hosts or a root that can never work.
    pub fn connect(hosts: &str, root: &str) -> Result<ZooKeeper, Error> {
        ZooKeeper::connect_with(hosts, root, Options::default())
    }

    /// As [`ZooKeeper::connect`], with other timeouts.
    ///
    /// # Errors
    /// As there.
    pub fn connect_with(hosts: &str, root: &str, options: Options) -> Result<ZooKeeper, Error> {
        check_hosts(hosts)?;
        check_path(root)?;
        let mut tasks = JoinSet::new();
        let sessions = Sessions::keep(hosts, options.session_timeout, &mut tasks);
        let root = Arc::from(root.strip_suffix('/').unwrap_or(root));
        let link = Link { sessions, root, request_timeout: options.request_timeout };
        Ok(ZooKeeper { link, tasks: Mutex::new(tasks) })
    }

    /// Spawns a task that ends with the handle at the latest.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock();
        // Those that ended since: a set would otherwise remember them for ever.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    async fn create_at(&self, client: &zk::Client, path: &str, value: &[u8]) -> Result<Version, Error> {
        let full = self.link.full(path);
        for _ in 0..PARENT_ATTEMPTS_MAX {
            let options = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
            match self.link.ask(client.create(&full, value, &options)).await {
                Ok((stat, _)) => return Ok(version_of(&stat)),
                // Nothing of ours is written yet, so the parents' failure leaves no doubt about that.
                Err(zk::Error::NoNode) => {
                    self.link
                        .make_parents(client, &full)
                        .await
                        .map_err(|error| errors::of_read(path, &error))?;
                }
                Err(error) => return Err(errors::of_write(path, &error)),
            }
        }
        Err(Error::Unavailable { reason: format!("the parents of {path} keep vanishing") })
    }
}

#[async_trait]
impl Coordinator for ZooKeeper {
    async fn create(&self, path: &str, value: Bytes) -> Result<Version, Error> {
        check_write(path, &value)?;
        let client = self.link.client().await?;
        self.create_at(&client, path, &value).await
    }

    async fn get(&self, path: &str) -> Result<Option<Versioned>, Error> {
        check_path(path)?;
        let client = self.link.client().await?;
        self.link.sync_and_get(&client, path).await.map_err(|error| errors::of_read(path, &error))
    }

    async fn compare_and_set(&self, path: &str, value: Bytes, expected: Version) -> Result<Version, Error> {
        check_write(path, &value)?;
        let expected = to_zookeeper(path, expected)?;
        let client = self.link.client().await?;
        let full = self.link.full(path);
        let answer = self.link.ask(client.set_data(&full, &value, Some(expected))).await;
        answer.map(|stat| version_of(&stat)).map_err(|error| errors::of_write(path, &error))
    }

    async fn delete(&self, path: &str, expected: Option<Version>) -> Result<(), Error> {
        check_write(path, b"")?;
        let expected = expected.map(|version| to_zookeeper(path, version)).transpose()?;
        let client = self.link.client().await?;
        let full = self.link.full(path);
        self.link.ask(client.delete(&full, expected)).await.map_err(|error| errors::of_write(path, &error))
    }

    fn register(&self, path: &str, value: Bytes) -> Registration {
        if let Err(error) = check_write(path, &value) {
            tracing::error!(%error, "a registration is refused");
            return Registration { _guard: Box::new(()) };
        }
        let (stop, stopped) = oneshot::channel::<()>();
        self.spawn(registration::hold(self.link.clone(), path.to_owned(), value, stopped));
        Registration { _guard: Box::new(stop) }
    }

    fn watch(&self, path: &str) -> Watch {
        let (sender, receiver) = watch::channel(Arc::new(Tree::default()));
        match check_path(path) {
            Ok(()) => self.spawn(watching::follow(self.link.clone(), path.to_owned(), sender)),
            Err(error) => tracing::error!(%error, "a watch is refused"),
        }
        receiver
    }

    async fn close(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        let current = self.link.sessions.current();
        tasks.shutdown().await;
        let Some(mut states) = current.map(|client| client.state_watcher()) else { return };
        // The last clone of the client is gone now: its own task takes leave of the server.
        let closed = async {
            while !states.peek_state().is_terminated() && !states.changed().await.is_terminated() {}
        };
        if tokio::time::timeout(self.link.request_timeout, closed).await.is_err() {
            tracing::warn!("ZooKeeper did not confirm the end of the session: it will time out");
        }
    }
}

impl Link {
    /// A client that is connected now.
    async fn client(&self) -> Result<zk::Client, Error> {
        let waited = tokio::time::timeout(self.request_timeout, self.sessions.connected()).await;
        match waited {
            Ok(Some(client)) => Ok(client),
            Ok(None) => Err(Error::Unavailable { reason: "the client is closed".to_owned() }),
            Err(_) => {
                Err(Error::Unavailable { reason: format!("no connection to {}", self.sessions.hosts()) })
            }
        }
    }

    /// Waits for an answer, but not for ever: requests queue while the connection is away.
    async fn ask<T>(&self, request: impl Future<Output = Result<T, zk::Error>>) -> Result<T, zk::Error> {
        tokio::time::timeout(self.request_timeout, request).await.unwrap_or(Err(zk::Error::Timeout))
    }

    /// Reads a value as it is at or after this moment.
    async fn sync_and_get(&self, client: &zk::Client, path: &str) -> Result<Option<Versioned>, zk::Error> {
        let full = self.full(path);
        // Sent together, answered in this order.
        let (synced, got) = (client.sync(&full), client.get_data(&full));
        self.ask(synced).await?;
        self.answer(got).await
    }

    async fn answer(
        &self,
        got: impl Future<Output = Result<(Vec<u8>, zk::Stat), zk::Error>>,
    ) -> Result<Option<Versioned>, zk::Error> {
        match self.ask(got).await {
            Ok((value, stat)) => {
                Ok(Some(Versioned { version: version_of(&stat), value: Bytes::from(value) }))
            }
            Err(zk::Error::NoNode) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the parents of a full path, the root included.
    async fn make_parents(&self, client: &zk::Client, full: &str) -> Result<(), zk::Error> {
        for parent in parents(full) {
            let options = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
            match self.ask(client.create(parent, b"", &options)).await {
                Ok(_) | Err(zk::Error::NodeExists) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The path as ZooKeeper knows it.
    fn full(&self, path: &str) -> String {
        match (&*self.root, path) {
            ("", path) => path.to_owned(),
            (root, "/") => root.to_owned(),
            (root, path) => format!("{root}{path}"),
        }
    }

    /// The path as our callers know it; `None` outside the root.
    fn local(&self, full: &str) -> Option<String> {
        match full.strip_prefix(&*self.root)? {
            "" => Some("/".to_owned()),
            path => path.starts_with('/').then(|| path.to_owned()),
        }
    }
}

fn version_of(stat: &zk::Stat) -> Version {
    Version(stat.version.into())
}

/// ZooKeeper takes -1 for "any version", which a caller never means.
fn to_zookeeper(path: &str, version: Version) -> Result<i32, Error> {
    let known = i32::try_from(version.0).ok().filter(|version| *version >= 0);
    known.ok_or_else(|| Error::Conflict { path: path.to_owned() })
}

/// Checks `host:port,host:port`, so that a slip of the pen is told at once and not retried for ever.
fn check_hosts(hosts: &str) -> Result<(), Error> {
    let is_host = |host: &str| match host.rsplit_once(':') {
        Some((name, port)) => !name.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0),
        None => !host.is_empty(),
    };
    let is_plain = |host: &str| !host.contains(|c: char| c.is_whitespace() || c == '/');
    if hosts.split(',').all(|host| is_host(host) && is_plain(host)) {
        return Ok(());
    }
    let reason = "ZooKeeper's hosts are written host:port,host:port (the port defaults to 2181)".to_owned();
    Err(Error::Rejected { path: hosts.to_owned(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_checked() {
        for hosts in ["h", "h:1", "a:1,b:2,c", "127.0.0.1:2181", "[::1]:2181"] {
            assert!(check_hosts(hosts).is_ok(), "{hosts}");
        }
        for hosts in ["", "h:", "h:x", "h:0", "h:65536", ":1", "a,", "a b:1", "h:1/root", "http://h:1"] {
            let error = check_hosts(hosts).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{hosts}: ")) && error.contains("host:port"), "{error}");
        }
    }

    #[test]
    fn the_any_version_of_zookeeper_is_never_meant() {
        assert_eq!(to_zookeeper("/a", Version(3)).unwrap(), 3);
        for version in [-1, i64::from(i32::MIN), i64::MAX] {
            assert!(matches!(to_zookeeper("/a", Version(version)), Err(Error::Conflict { .. })), "{version}");
        }
    }
}
