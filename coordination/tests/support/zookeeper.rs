//! The ZooKeeper backend: a real server, and a proxy in front of it for each client.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use paddock_coordination::zookeeper::{Options, ZooKeeper};
use parking_lot::Mutex;

use super::proxy::{NextWrite, Proxy};
use super::server::Server;
use super::{Client, Faults, Fixture};

/// Short, so that a test of its expiry is short; long enough for a busy machine.
pub const SESSION_TIMEOUT: Duration = Duration::from_secs(4);

const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// Each test has a root of its own on the shared server.
static ROOTS: AtomicU64 = AtomicU64::new(0);

pub struct ZooKeeperFixture {
    pub server: Arc<Server>,
    pub root: String,
    /// They end with the test, not with their clients.
    proxies: Mutex<Vec<Arc<Proxy>>>,
}

pub fn options() -> Options {
    Options { session_timeout: SESSION_TIMEOUT, request_timeout: REQUEST_TIMEOUT }
}

#[async_trait]
impl Fixture for ZooKeeperFixture {
    async fn start(may_restart: bool) -> Self {
        let server = if may_restart { Arc::new(Server::start().await) } else { Server::shared().await };
        let root = format!("/paddock/test-{}", ROOTS.fetch_add(1, Ordering::Relaxed));
        ZooKeeperFixture { server, root, proxies: Mutex::default() }
    }

    async fn client(&self) -> Client {
        let proxy = Arc::new(Proxy::start(self.server.address()).await);
        self.proxies.lock().push(Arc::clone(&proxy));
        let client = ZooKeeper::connect_with(&proxy.address().to_string(), &self.root, options()).unwrap();
        Client { coordinator: Arc::new(client), faults: Arc::new(ZooKeeperFaults(proxy)) }
    }

    async fn restart(&mut self) {
        let server = Arc::get_mut(&mut self.server).expect("the test's own server");
        server.kill();
        server.start_again().await;
    }
}

struct ZooKeeperFaults(Arc<Proxy>);

#[async_trait]
impl Faults for ZooKeeperFaults {
    async fn disconnect(&self) {
        self.0.set_open(false);
    }

    async fn reconnect(&self) {
        self.0.set_open(true);
    }

    async fn expire(&self) {
        self.0.expire_session().await;
    }

    async fn lose_next_request(&self) {
        self.0.set_next_write(NextWrite::LosesRequest);
    }

    async fn lose_next_answer(&self) {
        self.0.set_next_write(NextWrite::LosesAnswer);
    }
}
