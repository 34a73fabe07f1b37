//! The task behind a link: connects, sends, receives.

use std::sync::Arc;
use std::time::Duration;

use paddock_proto::limits::MESSAGE_BYTES_MAX;
use paddock_proto::metadata;
use paddock_proto::v1::exchange_service_client::ExchangeServiceClient;
use paddock_proto::v1::{ExchangeRequest, ExchangeResponse};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Streaming};
use tracing::{debug, info, warn};

use super::waiters::{Queued, Shared};
use super::{
    BACKOFF_MAX, BACKOFF_MIN, CLOSE_GRACE, CONNECT_TIMEOUT, MESSAGE_BYTES_TARGET, MESSAGE_OPERATIONS_MAX,
    MESSAGES_AHEAD_MAX, Peer,
};

/// An open stream.
struct Stream {
    outgoing: mpsc::Sender<ExchangeRequest>,
    incoming: Streaming<ExchangeResponse>,
    /// Keeps the connection from being wound down.
    _client: ExchangeServiceClient<Channel>,
}

/// How a conversation ended.
enum End {
    /// The link is being closed.
    Closed,
    /// The stream broke.
    Broken(Arc<str>),
}

/// The link's other half: connects, sends, receives.
pub(super) struct Task {
    pub(super) shared: Arc<Shared>,
    pub(super) queue: mpsc::Receiver<Queued>,
    pub(super) closed: watch::Receiver<bool>,
}

impl Task {
    pub(super) async fn run(mut self) {
        let mut backoff = BACKOFF_MIN;
        loop {
            let opened = tokio::select! {
                biased;
                () = is_closed(&mut self.closed) => break,
                opened = open_stream(&self.shared.peer) => opened,
            };
            let reason = match opened {
                Ok(stream) => {
                    let peer = &self.shared.peer;
                    info!(node = %peer.node, address = %peer.address, "stream to the partition server is open");
                    backoff = BACKOFF_MIN;
                    self.shared.set_up(true);
                    let end = self.converse(stream).await;
                    self.shared.set_up(false);
                    match end {
                        End::Closed => break,
                        End::Broken(reason) => {
                            warn!(node = %self.shared.peer.node, %reason, "stream broke");
                            reason
                        }
                    }
                }
                Err(reason) => {
                    debug!(node = %self.shared.peer.node, %reason, "cannot open a stream");
                    reason
                }
            };
            self.shared.lose(&reason, true);
            if self.turn_away_for(backoff, &reason).await {
                break;
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
        self.end();
    }

    /// Sends and receives until the stream breaks or the link is closed.
    async fn converse(&mut self, mut stream: Stream) -> End {
        loop {
            tokio::select! {
                () = is_closed(&mut self.closed) => {
                    self.wind_down(stream).await;
                    return End::Closed;
                }
                received = stream.incoming.message() => match received {
                    Ok(Some(response)) => self.shared.deliver(response),
                    Ok(None) => return End::Broken(self.broken("the node ended the stream")),
                    Err(status) => return End::Broken(self.broken(&describe(&status))),
                },
                sent = send_batch(&self.shared, &mut self.queue, &stream.outgoing) => match sent {
                    Sent::Yes => {}
                    Sent::StreamEnded => return End::Broken(self.broken("the stream takes no more")),
                    Sent::LinkDropped => return End::Closed,
                },
            }
        }
    }

    fn broken(&self, why: &str) -> Arc<str> {
        let Peer { node, address, .. } = &self.shared.peer;
        format!("the stream to node {node} at {address} broke: {why}").into()
    }

    /// Turns away what is queued and the reads, then gives the writes under way a moment.
    async fn wind_down(&mut self, mut stream: Stream) {
        let reason: Arc<str> = format!("node {} is no longer registered", self.shared.peer.node).into();
        self.queue.close();
        while let Ok(queued) = self.queue.try_recv() {
            self.shared.turn_away(&queued, &reason);
        }
        self.shared.lose(&reason, false);
        let until = Instant::now() + CLOSE_GRACE;
        while self.shared.awaits_outcomes() {
            match timeout_at(until, stream.incoming.message()).await {
                Ok(Ok(Some(response))) => self.shared.deliver(response),
                _ => break,
            }
        }
    }

    /// Turns away whatever is asked for until the pause is over; true if the link was closed meanwhile.
    async fn turn_away_for(&mut self, pause: Duration, reason: &Arc<str>) -> bool {
        let until = Instant::now() + pause;
        loop {
            tokio::select! {
                () = is_closed(&mut self.closed) => return true,
                () = sleep_until(until) => return false,
                queued = self.queue.recv() => match queued {
                    Some(queued) => self.shared.turn_away(&queued, reason),
                    None => return true,
                },
            }
        }
    }

    /// The last thing: nobody is left waiting.
    fn end(mut self) {
        let reason: Arc<str> = format!("the link to node {} is closed", self.shared.peer.node).into();
        self.queue.close();
        while let Ok(queued) = self.queue.try_recv() {
            self.shared.turn_away(&queued, &reason);
        }
        self.shared.lose(&reason, true);
    }
}

/// What became of an attempt to send.
enum Sent {
    Yes,
    StreamEnded,
    LinkDropped,
}

/// Waits for room in the stream and for something to send, then sends whatever waits. Nothing is taken
/// from the queue and lost when the future is dropped: after the queue's `recv` it does not wait again.
async fn send_batch(
    shared: &Shared,
    queue: &mut mpsc::Receiver<Queued>,
    outgoing: &mpsc::Sender<ExchangeRequest>,
) -> Sent {
    let Ok(room) = outgoing.reserve().await else { return Sent::StreamEnded };
    let Some(first) = queue.recv().await else { return Sent::LinkDropped };
    let mut bytes = first.size_bytes;
    let mut batch = vec![first];
    while batch.len() < MESSAGE_OPERATIONS_MAX && bytes < MESSAGE_BYTES_TARGET {
        let Ok(next) = queue.try_recv() else { break };
        bytes += next.size_bytes;
        batch.push(next);
    }
    let operations = shared.hand_over(batch);
    if !operations.is_empty() {
        room.send(ExchangeRequest { operations });
    }
    Sent::Yes
}

/// Resolves when the link is closed.
async fn is_closed(closed: &mut watch::Receiver<bool>) {
    // An error means that the handle has gone, which closes the link too.
    let _ = closed.wait_for(|closed| *closed).await;
}

/// Connects, and names whom we mean to reach.
async fn open_stream(peer: &Peer) -> Result<Stream, Arc<str>> {
    let Peer { node, address, .. } = peer;
    let failed =
        |why: String| -> Arc<str> { format!("node {node} at {address} cannot be reached: {why}").into() };
    let endpoint = peer.endpoint().map_err(|error| failed(describe(&error)))?;
    let channel = timeout(CONNECT_TIMEOUT, endpoint.connect())
        .await
        .map_err(|_| failed(format!("no connection within {CONNECT_TIMEOUT:?}")))?
        .map_err(|error| failed(describe(&error)))?;
    let mut client = ExchangeServiceClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);

    let (outgoing, requests) = mpsc::channel(MESSAGES_AHEAD_MAX);
    let mut request = Request::new(ReceiverStream::new(requests));
    for (name, value) in
        [(metadata::CLUSTER_ID, peer.cluster.to_string()), (metadata::NODE_ID, node.to_string())]
    {
        let value = AsciiMetadataValue::try_from(value).map_err(|error| failed(error.to_string()))?;
        request.metadata_mut().insert(name, value);
    }
    let incoming = timeout(CONNECT_TIMEOUT, client.exchange(request))
        .await
        .map_err(|_| failed(format!("no answer to the handshake within {CONNECT_TIMEOUT:?}")))?
        .map_err(|status| failed(describe(&status)))?
        .into_inner();
    Ok(Stream { outgoing, incoming, _client: client })
}

/// An error with its sources: tonic's own texts say little ("transport error").
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
