//! The embedded backend: coordination in this very process, durable in a directory.
//!
//! [`Embedded::open`] takes the directory for this process alone (a lock file keeps a second one out), and
//! [`Embedded::session`] makes handles, each a client of its own: its registrations and watches end when it is
//! dropped, as they do when a process loses its ZooKeeper session.
//!
//! Persistent nodes and their versions are in the file before a write is answered ([`disk`] says how).
//! Ephemeral nodes, and parents that came into being with them, live in memory only. The file is written on a
//! blocking thread, outside the lock that readers take, so a slow disk holds up writes and nothing else.
//!
//! A write that the disk refuses outright (it is full) changes nothing and is [`Error::Rejected`]. If an fsync
//! fails, nobody knows what the disk holds: from then on all operations are refused until the process starts anew.
//!
//! A handle also has the faults of a remote service ([`Session::disconnect`], [`Session::expire`],
//! [`Session::lose_next_request`], [`Session::lose_next_answer`], [`Embedded::reload`]), so that what stands on it can be tested, and
//! simulated, without one.

mod disk;
mod state;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use self::disk::{Directory, WriteError};
use self::state::{Change, NextWrite, Operation, Plan, SessionId, State};
use crate::store::{Coordinator, Error, Registration, Version, Versioned, Watch, check_path, check_write};

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has it.
    #[error("{}: another process uses this directory", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// A newer program wrote it.
    #[error("{}: format {found} is newer than this program, which knows up to {}", path.display(), disk::FORMAT)]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The file is damaged, or not ours.
    #[error("{}: the file is damaged: restore it from a backup, nothing was changed", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
    },
    /// The file system failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// How it failed.
        source: io::Error,
    },
}

/// An open directory. Clones share it; it is closed with the last clone and session.
#[derive(Clone)]
pub struct Embedded {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    /// Held from looking at the state until the change is durable and shown, so that writes take turns.
    directory: Mutex<Directory>,
    /// Never held during I/O. Taken after `directory` where both are.
    state: Mutex<State>,
}

/// One client of an [`Embedded`]. Dropping it ends its registrations and its watches.
pub struct Session {
    inner: Arc<Inner>,
    id: SessionId,
}

impl Embedded {
    /// Opens a directory, which is made where it is missing.
    ///
    /// # Errors
    /// See [`OpenError`]: each names the path.
    pub fn open(path: &Path) -> Result<Embedded, OpenError> {
        let directory = Directory::lock(path)?;
        let state = Mutex::new(State::new(directory.read()?));
        let inner = Inner { path: path.to_owned(), directory: Mutex::new(directory), state };
        Ok(Embedded { inner: Arc::new(inner) })
    }

    /// Makes a client.
    #[must_use]
    pub fn session(&self) -> Session {
        let id = self.inner.state.lock().open_session();
        Session { inner: Arc::clone(&self.inner), id }
    }

    /// A fault: forgets everything and reads the directory again, as a restart of a server would. Sessions
    /// live on; what they registered comes back, as new nodes.
    ///
    /// # Errors
    /// See [`OpenError`]; then nothing has changed.
    pub fn reload(&self) -> Result<(), OpenError> {
        let directory = self.inner.directory.lock();
        let persistent = directory.read()?;
        self.inner.state.lock().reload(persistent);
        Ok(())
    }
}

impl Session {
    /// A fault: the service is out of reach. Operations are [`Error::Unavailable`], and watches stand still.
    pub fn disconnect(&self) {
        self.inner.state.lock().set_connected(self.id, false);
    }

    /// Ends [`Session::disconnect`].
    pub fn reconnect(&self) {
        self.inner.state.lock().set_connected(self.id, true);
    }

    /// A fault: the session ends, and its ephemeral nodes go with it. They come back, as another session's, at
    /// once, or where it is out of reach, when that ends.
    pub fn expire(&self) {
        self.inner.state.lock().expire(self.id);
    }

    /// A fault: the next write is not done, and answered with [`Error::UnknownOutcome`].
    pub fn lose_next_request(&self) {
        self.inner.state.lock().set_next_write(self.id, NextWrite::LosesRequest);
    }

    /// A fault: the next write that succeeds is answered with [`Error::UnknownOutcome`].
    pub fn lose_next_answer(&self) {
        self.inner.state.lock().set_next_write(self.id, NextWrite::LosesAnswer);
    }

    /// Does a write on a thread that may block.
    async fn write(&self, path: &str, operation: Operation) -> Result<Version, Error> {
        let (inner, id, path) = (Arc::clone(&self.inner), self.id, path.to_owned());
        tokio::task::spawn_blocking(move || inner.write(id, &path, operation))
            .await
            .unwrap_or_else(|error| Err(Error::UnknownOutcome { reason: error.to_string() }))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.inner.state.lock().close_session(self.id);
    }
}

#[async_trait]
impl Coordinator for Session {
    async fn create(&self, path: &str, value: Bytes) -> Result<Version, Error> {
        check_write(path, &value)?;
        self.write(path, Operation::Create { value }).await
    }

    async fn get(&self, path: &str) -> Result<Option<Versioned>, Error> {
        check_path(path)?;
        self.inner.state.lock().get(self.id, path)
    }

    async fn compare_and_set(&self, path: &str, value: Bytes, expected: Version) -> Result<Version, Error> {
        check_write(path, &value)?;
        self.write(path, Operation::CompareAndSet { value, expected }).await
    }

    async fn delete(&self, path: &str, expected: Option<Version>) -> Result<(), Error> {
        check_write(path, b"")?;
        self.write(path, Operation::Delete { expected }).await.map(|_| ())
    }

    fn register(&self, path: &str, value: Bytes) -> Registration {
        if let Err(error) = check_write(path, &value) {
            tracing::error!(%error, "a registration is refused");
            return Registration { _guard: Box::new(()) };
        }
        let number = self.inner.state.lock().register(self.id, path, value);
        let inner = Arc::clone(&self.inner);
        Registration { _guard: Box::new(Unregister { inner, number }) }
    }

    fn watch(&self, path: &str) -> Watch {
        self.inner.state.lock().watch(self.id, path, check_path(path).is_ok())
    }

    async fn close(&self) {
        self.inner.state.lock().close_session(self.id);
    }
}

/// Ends a registration when dropped.
struct Unregister {
    inner: Arc<Inner>,
    number: u64,
}

impl Drop for Unregister {
    fn drop(&mut self) {
        self.inner.state.lock().unregister(self.number);
    }
}

impl Inner {
    fn write(&self, session: SessionId, path: &str, operation: Operation) -> Result<Version, Error> {
        let directory = self.directory.lock();
        let Plan { changes, file, version } = {
            let mut state = self.state.lock();
            if state.takes_fault(session, NextWrite::LosesRequest) {
                return Err(Error::UnknownOutcome { reason: "the request was lost".to_owned() });
            }
            state.plan(session, path, operation)?
        };
        if let Some(nodes) = file {
            directory.write(nodes.len(), nodes.iter()).map_err(|error| self.refused(error))?;
        }
        self.finish(session, changes, version)
    }

    /// Shows a durable change.
    fn finish(&self, session: SessionId, changes: Vec<Change>, version: Version) -> Result<Version, Error> {
        let mut state = self.state.lock();
        state.apply(changes);
        if state.takes_fault(session, NextWrite::LosesAnswer) {
            return Err(Error::UnknownOutcome { reason: "the answer was lost".to_owned() });
        }
        Ok(version)
    }

    fn refused(&self, error: WriteError) -> Error {
        let path = self.path.display().to_string();
        match error {
            WriteError::Unchanged(error) => Error::Rejected { path, reason: error.to_string() },
            WriteError::Poisoned(error) => {
                let reason =
                    format!("{path}: {error}: what the disk holds is unknown, start the process anew");
                tracing::error!(reason, "the embedded coordination store stops");
                self.state.lock().poison(reason.clone());
                Error::UnknownOutcome { reason }
            }
        }
    }
}
