//! Keeps a handle in session with ZooKeeper.
//!
//! The client crate reconnects by itself within a session. When it gives a session up (it has heard nothing for 7/5 of
//! the session's timeout, or the server says so), the crate's client is dead, and this task makes another. It
//! first tries to take the *same* session up again, and begins another one only when the server answers that the
//! former is over: our own clock cannot know that (a server that was away too gives its sessions a fresh timeout), and a
//! request of a session that still lives might yet be done.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use zookeeper_client::{Client, Error, SessionInfo, SessionState};

/// The wait between the first attempts to connect; it doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(50);

/// The longest wait between attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// How often the log says that ZooKeeper is still waited for.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

const _: () = assert!(BACKOFF_MIN.as_millis() < BACKOFF_MAX.as_millis());

/// The session in force, if any: shared by all that a handle does.
#[derive(Clone)]
pub(super) struct Sessions {
    hosts: Arc<str>,
    current: watch::Receiver<Option<Client>>,
}

impl Sessions {
    /// Spawns the task that keeps the session.
    pub(super) fn keep(hosts: &str, timeout: Duration, tasks: &mut JoinSet<()>) -> Sessions {
        let (publish, current) = watch::channel(None);
        let hosts: Arc<str> = Arc::from(hosts);
        let keeper = Keeper { hosts: Arc::clone(&hosts), timeout, former: None };
        tasks.spawn(keeper.run(publish));
        Sessions { hosts, current }
    }

    pub(super) fn hosts(&self) -> &str {
        &self.hosts
    }

    /// The client in force, connected or not.
    pub(super) fn current(&self) -> Option<Client> {
        self.current.borrow().clone()
    }

    /// Waits until there is a client that is connected; `None` when the handle is closed.
    pub(super) async fn connected(&self) -> Option<Client> {
        let mut current = self.current.clone();
        loop {
            let found = current.borrow_and_update().clone();
            let Some(client) = found else {
                current.changed().await.ok()?;
                continue;
            };
            let mut states = client.state_watcher();
            if states.peek_state() == SessionState::SyncConnected {
                return Some(client);
            }
            tokio::select! {
                _ = states.changed() => {}
                changed = current.changed() => changed.ok()?,
            }
        }
    }

    /// Waits until the client is no longer the one in force, or the handle is closed.
    pub(super) async fn replaced(&self, client: &Client) {
        let mut states = client.state_watcher();
        while !states.peek_state().is_terminated() {
            states.changed().await;
        }
        drop(states);
        let mut current = self.current.clone();
        // A terminated client is taken back first thing, and a new one put in its place later.
        let _ = current.wait_for(|found| found.as_ref().is_none_or(|c| !c.state().is_terminated())).await;
    }
}

/// Where the client in force is to be seen. It is taken back when the keeper ends, whichever way: the crate ends the
/// session when the last clone of its client goes, and receivers would keep one.
struct Published(watch::Sender<Option<Client>>);

impl Drop for Published {
    fn drop(&mut self) {
        self.0.send_replace(None);
    }
}

struct Keeper {
    hosts: Arc<str>,
    timeout: Duration,
    /// The session before this one, until the server says that it is over.
    former: Option<SessionInfo>,
}

impl Keeper {
    async fn run(mut self, publish: watch::Sender<Option<Client>>) {
        let published = Published(publish);
        loop {
            let client = self.connect().await;
            self.former = Some(client.session().clone());
            published.0.send_replace(Some(client.clone()));
            self.attend(client).await;
            published.0.send_replace(None);
        }
    }

    /// Connects, however long that takes.
    async fn connect(&mut self) -> Client {
        let hosts = Arc::clone(&self.hosts);
        let mut backoff = BACKOFF_MIN;
        let mut complained: Option<Instant> = None;
        loop {
            // Eagerly: so that the first failure is told at once, not after a session's timeout.
            let connector = Client::connector().with_session_timeout(self.timeout).with_fail_eagerly();
            let connector = match &self.former {
                Some(former) => connector.with_session(former.clone()),
                None => connector,
            };
            match connector.connect(&hosts).await {
                Ok(client) => {
                    let session = client.session_id();
                    tracing::info!(%hosts, %session, "connected to ZooKeeper");
                    return client;
                }
                Err(Error::SessionExpired) if self.former.is_some() => {
                    tracing::warn!(%hosts, "the ZooKeeper session has expired: beginning another");
                    self.former = None;
                    continue;
                }
                Err(error) if complained.is_none_or(|at| at.elapsed() >= COMPLAINT_INTERVAL) => {
                    tracing::warn!(%hosts, %error, "waiting for ZooKeeper");
                    complained = Some(Instant::now());
                }
                Err(_) => {}
            }
            tokio::time::sleep(backoff).await;
            backoff = BACKOFF_MAX.min(backoff * 2);
        }
    }

    /// Tells the log how the connection fares, until the client is dead.
    async fn attend(&self, client: Client) {
        let mut states = client.state_watcher();
        // Not to keep the session alive on its own account.
        drop(client);
        let mut state = states.peek_state();
        while !state.is_terminated() {
            state = states.changed().await;
            let hosts = &self.hosts;
            match state {
                SessionState::SyncConnected => tracing::info!(%hosts, "connected to ZooKeeper again"),
                SessionState::Disconnected => {
                    tracing::warn!(%hosts, "lost the connection to ZooKeeper, waiting for it");
                }
                other => tracing::warn!(%hosts, state = %other, "the ZooKeeper client gave its session up"),
            }
        }
    }
}
