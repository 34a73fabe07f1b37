//! A TCP proxy between one client and the ZooKeeper server, which understands just enough of the protocol to be
//! unkind at the right moment.
//!
//! Everything on the wire is a frame: its length (four bytes, big-endian) and its body. The first frame each
//! way opens the session; after it a request begins with its number and kind, an answer with the number.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// Kinds of requests that change something: create, delete, set data, create2, multi.
const WRITES: [i32; 5] = [1, 2, 5, 15, 14];

/// The kind that ends a session.
const CLOSE_SESSION: i32 = -11;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextWrite {
    Passes,
    LosesRequest,
    LosesAnswer,
}

struct State {
    next_write: NextWrite,
    /// Session id and password, as the server last told them.
    session: Option<(i64, Vec<u8>)>,
}

struct Shared {
    server: SocketAddr,
    /// A connection lives as long as the value it began with is the one that stands here.
    open: watch::Sender<(bool, u64)>,
    /// While it is true nothing passes, and nothing is closed either.
    silent: watch::Sender<bool>,
    state: Mutex<State>,
}

pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.set_open(false);
    }
}

impl Proxy {
    pub async fn start(server: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Mutex::new(State { next_write: NextWrite::Passes, session: None });
        let shared = Arc::new(Shared {
            server,
            open: watch::Sender::new((true, 0)),
            silent: watch::Sender::new(false),
            state,
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Proxy { address, shared, accepting }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts what is connected, and lets new connections through or not.
    pub fn set_open(&self, open: bool) {
        self.shared
            .open
            .send_modify(|(is_open, generation)| (*is_open, *generation) = (open, *generation + 1));
    }

    /// Holds everything back, or lets it go on.
    pub fn set_silent(&self, silent: bool) {
        self.shared.silent.send_replace(silent);
    }

    pub fn set_next_write(&self, next_write: NextWrite) {
        self.shared.state.lock().next_write = next_write;
    }

    /// Ends the client's session from another connection, as an expiry would. The client is kept out meanwhile, lest
    /// it take its session back first.
    pub async fn expire_session(&self) {
        let (was_open, _) = *self.shared.open.borrow();
        self.set_open(false);
        self.close_session().await;
        self.set_open(was_open);
    }

    async fn close_session(&self) {
        let (id, password) = self.shared.state.lock().session.clone().expect("a session was opened");
        let (mut reader, mut writer) = TcpStream::connect(self.shared.server).await.unwrap().into_split();
        let mut open = Vec::new();
        open.extend(0_i32.to_be_bytes());
        open.extend(0_i64.to_be_bytes());
        open.extend(2_000_i32.to_be_bytes());
        open.extend(id.to_be_bytes());
        open.extend(i32::try_from(password.len()).unwrap().to_be_bytes());
        open.extend(&password);
        open.push(0);
        write_frame(&mut writer, &open).await.unwrap();
        let opened = read_frame(&mut reader).await.expect("the server answers");
        assert_eq!(long(&opened, 8), Some(id), "the session was over already");
        write_frame(&mut writer, &[1_i32.to_be_bytes(), CLOSE_SESSION.to_be_bytes()].concat()).await.unwrap();
        read_frame(&mut reader).await.expect("the server confirms the end");
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let (is_open, generation) = *shared.open.borrow();
        if is_open {
            tokio::spawn(connection(client, Arc::clone(&shared), generation));
        }
    }
}

async fn connection(client: TcpStream, shared: Arc<Shared>, generation: u64) {
    let mut open = shared.open.subscribe();
    let Ok(server) = TcpStream::connect(shared.server).await else { return };
    let (client_reader, client_writer) = client.into_split();
    let (server_reader, server_writer) = server.into_split();
    // The numbers of the requests whose answers are to be lost.
    let doomed = Arc::new(Mutex::new(HashSet::new()));
    // Whichever ends first ends the connection, both ways.
    tokio::select! {
        _ = requests(client_reader, server_writer, &shared, &doomed) => {}
        _ = answers(server_reader, client_writer, &shared, &doomed) => {}
        _ = open.wait_for(|(is_open, now)| !is_open || *now != generation) => {}
    }
}

/// `None` when the connection is to end.
async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &Shared,
    doomed: &Mutex<HashSet<i32>>,
) -> Option<()> {
    let opening = read_frame(&mut from).await?;
    write_frame(&mut to, &opening).await?;
    loop {
        let request = read_frame(&mut from).await?;
        wait_while_silent(shared).await?;
        if int(&request, 4).is_some_and(|kind| WRITES.contains(&kind)) {
            let mut state = shared.state.lock();
            match std::mem::replace(&mut state.next_write, NextWrite::Passes) {
                NextWrite::Passes => {}
                NextWrite::LosesRequest => return None,
                NextWrite::LosesAnswer => drop(doomed.lock().insert(int(&request, 0)?)),
            }
        }
        write_frame(&mut to, &request).await?;
    }
}

/// `None` when the connection is to end.
async fn answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &Shared,
    doomed: &Mutex<HashSet<i32>>,
) -> Option<()> {
    let opened = read_frame(&mut from).await?;
    if let Some(id) = long(&opened, 8).filter(|id| *id != 0) {
        let length = usize::try_from(int(&opened, 16)?).ok()?;
        let password = opened.get(20..20 + length)?.to_vec();
        shared.state.lock().session = Some((id, password));
    }
    write_frame(&mut to, &opened).await?;
    loop {
        let answer = read_frame(&mut from).await?;
        wait_while_silent(shared).await?;
        // The server has done what this answers.
        if int(&answer, 0).is_some_and(|number| doomed.lock().contains(&number)) {
            return None;
        }
        write_frame(&mut to, &answer).await?;
    }
}

async fn wait_while_silent(shared: &Shared) -> Option<()> {
    shared.silent.subscribe().wait_for(|silent| !silent).await.ok().map(|_| ())
}

async fn read_frame(from: &mut OwnedReadHalf) -> Option<Vec<u8>> {
    let mut body = vec![0; usize::try_from(from.read_i32().await.ok()?).ok()?];
    from.read_exact(&mut body).await.ok()?;
    Some(body)
}

async fn write_frame(to: &mut OwnedWriteHalf, body: &[u8]) -> Option<()> {
    let mut frame = i32::try_from(body.len()).ok()?.to_be_bytes().to_vec();
    frame.extend_from_slice(body);
    to.write_all(&frame).await.ok()
}

fn int(body: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_be_bytes(*body.get(at..)?.first_chunk()?))
}

fn long(body: &[u8], at: usize) -> Option<i64> {
    Some(i64::from_be_bytes(*body.get(at..)?.first_chunk()?))
}
