//! A real ZooKeeper server, started by scripts/zookeeper and killed with the test.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::DEADLINE;

/// How often a server that found its port taken is started on another one.
const PORT_ATTEMPTS_MAX: u32 = 5;

/// How often a starting server is asked whether it serves: it tells nobody of its own accord.
const PROBE_INTERVAL: Duration = Duration::from_millis(30);

/// How long it may take to answer: one that is only starting may take a connection and be silent.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// The server that tests share which leave it alone; it ends with the last of them.
static SHARED: Mutex<Weak<Server>> = Mutex::const_new(Weak::new());

pub struct Server {
    port: u16,
    process: Child,
    directory: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Server {
    pub async fn shared() -> Arc<Server> {
        let mut shared = SHARED.lock().await;
        if let Some(server) = shared.upgrade() {
            return server;
        }
        let server = Arc::new(Server::start().await);
        *shared = Arc::downgrade(&server);
        server
    }

    pub async fn start() -> Server {
        for _ in 0..PORT_ATTEMPTS_MAX {
            let (directory, port) = (TempDir::new().unwrap(), free_port());
            let mut server = Server { port, process: spawn(&directory, port), directory };
            if server.serves().await {
                return server;
            }
            let log = server.log();
            let port_was_taken = log.contains("Address already in use");
            assert!(port_was_taken, "scripts/zookeeper failed ('make setup' installs what it needs):\n{log}");
        }
        panic!("no free port in {PORT_ATTEMPTS_MAX} attempts");
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Starts a killed server again, on the same data and port.
    pub async fn start_again(&mut self) {
        self.process = spawn(&self.directory, self.port);
        assert!(self.serves().await, "the server did not come back:\n{}", self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("server.log")).unwrap_or_default()
    }

    /// False if the process ended instead.
    async fn serves(&mut self) -> bool {
        let deadline = Instant::now() + DEADLINE;
        let mut probes = tokio::time::interval(PROBE_INTERVAL);
        loop {
            probes.tick().await;
            if self.process.try_wait().unwrap().is_some() {
                return false;
            }
            // `ruok` answers before it serves, `srvr` tells its mode only then.
            let answer = tokio::time::timeout(PROBE_TIMEOUT, ask(self.address(), "srvr")).await;
            if answer.ok().flatten().is_some_and(|answer| answer.contains("Mode:")) {
                return true;
            }
            assert!(Instant::now() < deadline, "the server does not serve:\n{}", self.log());
        }
    }
}

fn spawn(directory: &TempDir, port: u16) -> Child {
    let script = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/zookeeper"));
    let log = std::fs::File::create(directory.path().join("server.log")).unwrap();
    Command::new(&script)
        .arg(directory.path().join("data"))
        .arg(port.to_string())
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", script.display()))
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// One of ZooKeeper's four-letter questions; `None` if nobody answers.
async fn ask(address: SocketAddr, question: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream.write_all(question.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    Some(answer)
}
