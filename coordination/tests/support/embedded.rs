//! The embedded backend on a directory that goes with the test.

use std::sync::Arc;

use async_trait::async_trait;
use paddock_coordination::embedded::{Embedded, Session};
use tempfile::TempDir;

use super::{Client, Faults, Fixture};

pub struct EmbeddedFixture {
    embedded: Embedded,
    _directory: TempDir,
}

#[async_trait]
impl Fixture for EmbeddedFixture {
    async fn start(_may_restart: bool) -> Self {
        let directory = TempDir::new().unwrap();
        EmbeddedFixture { embedded: Embedded::open(directory.path()).unwrap(), _directory: directory }
    }

    async fn client(&self) -> Client {
        let session = Arc::new(self.embedded.session());
        let faults = Arc::new(EmbeddedFaults(Arc::downgrade(&session)));
        Client { coordinator: session, faults }
    }

    async fn restart(&mut self) {
        self.embedded.reload().unwrap();
    }
}

/// Does not keep the session: the client's owner decides when that ends.
struct EmbeddedFaults(std::sync::Weak<Session>);

impl EmbeddedFaults {
    fn session(&self) -> Arc<Session> {
        self.0.upgrade().expect("the client is still there")
    }
}

#[async_trait]
impl Faults for EmbeddedFaults {
    async fn disconnect(&self) {
        self.session().disconnect();
    }

    async fn reconnect(&self) {
        self.session().reconnect();
    }

    async fn expire(&self) {
        self.session().expire();
    }

    async fn lose_next_request(&self) {
        self.session().lose_next_request();
    }

    async fn lose_next_answer(&self) {
        self.session().lose_next_answer();
    }
}
