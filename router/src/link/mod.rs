//! [`Link`]: one long-lived stream to one partition server, which carries batches of operations.
//!
//! ```text
//! perform ─► bounded queue ─► task: drains whatever waits into one ExchangeRequest ─► stream
//!    ▲                                                                                  │
//!    └──────────── waiter, by operation id ◄──────────── ExchangeResponse ◄─────────────┘
//! ```
//!
//! An operation is *queued* until the task hands it to the stream; from then on it is *handed*. The
//! difference is all that matters when something goes wrong: a queued write certainly did not happen, a
//! handed one may have. Both states live in one map under one short lock, so a caller that gives up and the
//! task that hands over can never both be right.
//!
//! - The stream's opening names the cluster and the node: a stranger at the same address refuses.
//! - While there is no stream, operations wait for a connection attempt under way (it is bounded), and are
//!   turned away at once between attempts: the caller looks at its map and decides.
//! - A stream that breaks answers what was handed with [`LinkError::Lost`].
//! - [`Link::close`] turns away what is queued and every handed read, and gives handed writes a moment, so
//!   that a node whose registration flickers does not leave writes unknown.
//!
//! It does not retry, and does not know who leads: that is [`route`](crate::route)'s.

mod task;
mod waiters;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use paddock_coordination::{ClusterId, NodeId, PartitionId};
use paddock_proto::limits::{BATCH_BYTES_MAX, KEY_BYTES_MAX, MESSAGE_BYTES_MAX, VALUE_BYTES_MAX};
use paddock_proto::v1::{Operation, Outcome, operation};
use prost::Message;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};
use tonic::transport::Endpoint;

use crate::bell::Bell;
use task::Task;
use waiters::{Queued, Shared, Waiter};

/// The most operations that one link holds, queued and handed together.
pub const LINK_OPERATIONS_MAX: usize = 16_384;

/// The most bytes of operations that one link holds.
pub const LINK_BYTES_MAX: usize = 64 << 20;

/// The most operations of one message.
pub const MESSAGE_OPERATIONS_MAX: usize = 1_024;

/// A message is sent once it holds so many bytes: it is at most this and one more operation.
pub const MESSAGE_BYTES_TARGET: usize = BATCH_BYTES_MAX;

/// Messages that wait between the task and HTTP/2's flow control. Few: what is there counts as handed.
const MESSAGES_AHEAD_MAX: usize = 2;

/// What an operation may weigh beside its key and values.
const OPERATION_OVERHEAD_BYTES: usize = 1_024;

/// How long a connection attempt may take, and then the handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The pause after the first failed attempt; it doubles from there.
const BACKOFF_MIN: Duration = Duration::from_millis(20);

/// The longest pause between attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// An idle connection is probed this often, and given up when a probe is not answered within
/// [`KEEP_ALIVE_TIMEOUT`]: a peer that died without a word is noticed.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(1);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the writes under way on a link that is closed may still be answered.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// Flow control windows, so that a batch is not cut into round trips.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

const _: () = assert!(
    MESSAGE_BYTES_TARGET + KEY_BYTES_MAX + 2 * VALUE_BYTES_MAX + OPERATION_OVERHEAD_BYTES
        <= MESSAGE_BYTES_MAX
);
const _: () = assert!(MESSAGE_OPERATIONS_MAX <= LINK_OPERATIONS_MAX);
const _: () = assert!(BATCH_BYTES_MAX <= LINK_BYTES_MAX);

/// Whom a link reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// Where it listens, host:port.
    pub address: String,
}

impl Peer {
    /// How to connect to it.
    ///
    /// # Errors
    /// What is wrong with its address.
    pub fn endpoint(&self) -> Result<Endpoint, tonic::transport::Error> {
        Ok(Endpoint::from_shared(format!("http://{}", self.address))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES))
    }
}

/// Why there is no outcome, and what that says of a write.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LinkError {
    /// It was never handed to a stream: it did not happen.
    #[error("{0}")]
    NotSent(Arc<str>),
    /// The stream broke after it was handed over: a write may have happened.
    #[error("{0}")]
    Lost(Arc<str>),
    /// The link is full: it did not happen.
    #[error("node {node} has {limit} {what} waiting, which is the limit")]
    Overloaded {
        /// The node.
        node: NodeId,
        /// Of what: "operations" or "bytes".
        what: &'static str,
        /// How many are the limit.
        limit: usize,
    },
    /// The deadline passed.
    #[error("the deadline passed")]
    Expired {
        /// True if it had been handed to the stream: a write may have happened.
        handed: bool,
    },
}

/// One stream to one partition server. Dropping the last handle closes it.
pub struct Link {
    queue: mpsc::Sender<Queued>,
    shared: Arc<Shared>,
    closing: watch::Sender<bool>,
}

/// Withdraws an operation whose caller went away.
struct Withdrawal<'link> {
    shared: &'link Shared,
    operation_id: u64,
    armed: bool,
}

impl Drop for Withdrawal<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.shared.withdraw(self.operation_id);
        }
    }
}

impl Link {
    /// Opens a link: its task connects at once, and again whenever the stream breaks. The bell is rung
    /// when the link goes up or down.
    #[must_use]
    pub fn open(peer: Peer, bell: Arc<Bell>) -> Link {
        let (queue, queued) = mpsc::channel(LINK_OPERATIONS_MAX);
        let (closing, closed) = watch::channel(false);
        let shared = Arc::new(Shared::new(peer, bell));
        tokio::spawn(Task { shared: Arc::clone(&shared), queue: queued, closed }.run());
        Link { queue, shared, closing }
    }

    /// True while there is a stream.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.shared.up.load(Ordering::Acquire)
    }

    /// How many operations wait here, or are under way at the node.
    #[must_use]
    pub fn under_way(&self) -> usize {
        LINK_OPERATIONS_MAX.saturating_sub(self.shared.operations.available_permits())
    }

    /// Ends the link, as the module's text says. Returns at once.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Does one operation. Operations of one caller that are awaited one after the other are sent in that
    /// order.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn perform(
        &self,
        partition: PartitionId,
        kind: operation::Kind,
        deadline: Instant,
    ) -> Result<Outcome, LinkError> {
        let shared = &*self.shared;
        let operation_id = shared.next_operation_id.fetch_add(1, Ordering::Relaxed);
        let is_write = matches!(kind, operation::Kind::Write(_));
        let operation =
            Operation { operation_id, partition_id: partition.0, timeout_ms: 0, kind: Some(kind) };
        let size_bytes = operation.encoded_len();
        let room = shared.take_room(size_bytes)?;

        let (reply, mut answer) = oneshot::channel();
        shared.waiters.lock().insert(operation_id, Waiter { reply, is_write, handed: None });
        let mut withdrawal = Withdrawal { shared, operation_id, armed: true };
        match self.queue.try_send(Queued { operation, deadline, size_bytes, room }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => return Err(shared.full_of_operations()),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(shared.gone()),
        }

        let answered = timeout_at(deadline, &mut answer).await;
        withdrawal.armed = false;
        match answered {
            Ok(result) => result.unwrap_or_else(|_| Err(shared.unanswered())),
            // Whoever takes the waiter out of the map decides: if the task did, the answer is there.
            Err(_elapsed) => match shared.withdraw(operation_id) {
                Some(waiter) => Err(LinkError::Expired { handed: waiter.handed.is_some() }),
                None => answer.await.unwrap_or_else(|_| Err(shared.unanswered())),
            },
        }
    }
}
