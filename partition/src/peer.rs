//! Links to other partition servers: one stream for each, shared by every partition that both host.
//!
//! A link promises nothing. While a peer cannot be reached, what is meant for it is dropped at once rather
//! than kept: the protocol sends again what is still wanted, and an old heartbeat is worth nothing. The
//! address is looked up in the cluster's map for every attempt, and the stream's opening metadata names
//! the node that is meant, so that a message never reaches whoever has taken over an address.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use paddock_coordination::{ClusterId, Generation, NodeId, PartitionId};
use paddock_proto::limits::MESSAGE_BYTES_MAX;
use paddock_proto::metadata;
use paddock_proto::replication::v1::replication_service_client::ReplicationServiceClient;
use paddock_proto::replication::v1::{DeliverRequest, Envelope};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tracing::{debug, info};
use ulid::Ulid;

use crate::assignment::Addresses;
use crate::replica::Message;
use crate::service::replication::to_envelope;

/// The most parcels that wait for one link; one round of an owner loop sends one. What is over it is
/// dropped.
const PARCELS_MAX: usize = 256;
/// Where a message on the wire is cut; one batch of the log fits twice.
const REQUEST_BYTES: usize = MESSAGE_BYTES_MAX / 2;
/// The most envelopes of one message on the wire.
const ENVELOPES_MAX: usize = 512;
/// The most messages on the wire that wait for the transport.
const REQUESTS_MAX: usize = 2;
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long to wait after a failed attempt, and after each next one, up to the last.
const BACKOFF_FIRST: Duration = Duration::from_millis(20);
const BACKOFF_LAST: Duration = Duration::from_millis(500);
/// A stream that lasted so long was a good one: the next attempt is made soon.
const SERVED_MIN: Duration = Duration::from_secs(1);
/// A peer that does not answer a ping within the timeout is gone.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(1);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Messages of one replica to its copy on another node.
#[derive(Debug)]
pub struct Parcel {
    /// Which partition.
    pub partition: PartitionId,
    /// Which life of it.
    pub partition_uuid: Ulid,
    /// Which life of the sender's data.
    pub generation: Generation,
    /// The messages, in order.
    pub messages: Vec<Message>,
}

/// The far end of a link, for whoever carries its parcels.
pub type Parcels = mpsc::Receiver<Parcel>;

/// This node's links to all others.
#[derive(Clone)]
pub struct PeerNetwork {
    shared: Arc<Shared>,
}

struct Shared {
    /// Has somebody carry the parcels of a new link.
    carry: Box<dyn Fn(NodeId, Parcels) + Send + Sync>,
    links: Mutex<HashMap<NodeId, mpsc::Sender<Parcel>>>,
}

impl PeerNetwork {
    /// The links of one node. To be called inside the async runtime that is to serve them.
    #[must_use]
    pub fn new(cluster: ClusterId, me: NodeId, addresses: watch::Receiver<Addresses>) -> Self {
        let runtime = tokio::runtime::Handle::current();
        PeerNetwork::carried_by(move |node, parcels| {
            let link = Link { cluster, me, node, addresses: addresses.clone(), parcels };
            runtime.spawn(link.run());
        })
    }

    /// Links whose parcels somebody else carries; told of each link once, when it is first used.
    #[must_use]
    pub fn carried_by(carry: impl Fn(NodeId, Parcels) + Send + Sync + 'static) -> Self {
        PeerNetwork { shared: Arc::new(Shared { carry: Box::new(carry), links: Mutex::default() }) }
    }

    /// The sender of one replica.
    #[must_use]
    pub fn sender(&self, partition: PartitionId, partition_uuid: Ulid, generation: Generation) -> PeerSender {
        PeerSender {
            network: self.clone(),
            partition,
            partition_uuid,
            generation,
            outgoing: Vec::new(),
            links: HashMap::new(),
        }
    }

    /// The link to a node, started when it is first asked for. It ends with the network.
    fn link(&self, node: NodeId) -> mpsc::Sender<Parcel> {
        let mut links = self.shared.links.lock();
        let sender = links.entry(node).or_insert_with(|| {
            let (sender, parcels) = mpsc::channel(PARCELS_MAX);
            (self.shared.carry)(node, parcels);
            sender
        });
        sender.clone()
    }
}

/// Where one replica's messages leave; gathered over a round, and sent together.
pub struct PeerSender {
    network: PeerNetwork,
    partition: PartitionId,
    partition_uuid: Ulid,
    generation: Generation,
    outgoing: Vec<(NodeId, Vec<Message>)>,
    links: HashMap<NodeId, mpsc::Sender<Parcel>>,
}

impl PeerSender {
    /// Adds a message to what the next flush sends.
    pub fn send(&mut self, to: NodeId, message: Message) {
        // A partition has a handful of replicas, so a scan beats a map.
        match self.outgoing.iter_mut().find(|(node, _)| *node == to) {
            Some((_, messages)) => messages.push(message),
            None => self.outgoing.push((to, vec![message])),
        }
    }

    /// Hands over what was gathered. What a full link does not take is dropped.
    pub fn flush(&mut self) {
        for (node, messages) in self.outgoing.drain(..) {
            let parcel = Parcel {
                partition: self.partition,
                partition_uuid: self.partition_uuid,
                generation: self.generation,
                messages,
            };
            let link = self.links.entry(node).or_insert_with(|| self.network.link(node));
            if link.try_send(parcel).is_err() {
                debug!(partition = %self.partition, to = %node, "a full link dropped messages");
            }
        }
    }
}

/// One link's task.
struct Link {
    cluster: ClusterId,
    me: NodeId,
    node: NodeId,
    addresses: watch::Receiver<Addresses>,
    parcels: Parcels,
}

impl Link {
    /// Serves until the network is dropped.
    async fn run(mut self) {
        let mut backoff = BACKOFF_FIRST;
        // The first parcel only says that there is a reason to connect; what it held is sent again.
        while self.parcels.recv().await.is_some() {
            let Some(address) = self.addresses.borrow_and_update().get(&self.node).cloned() else {
                continue;
            };
            match connect(&address).await {
                Ok(channel) => {
                    info!(node = %self.node, %address, "connected to a peer");
                    let since = tokio::time::Instant::now();
                    let why = self.serve(channel, &address).await;
                    info!(node = %self.node, %address, %why, "lost a peer");
                    // One that refuses us at once, since the address has changed hands, is not asked ever faster.
                    if since.elapsed() >= SERVED_MIN {
                        backoff = BACKOFF_FIRST;
                    }
                }
                Err(error) => debug!(node = %self.node, %address, %error, "a peer cannot be reached"),
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_LAST);
            while self.parcels.try_recv().is_ok() {}
        }
    }

    /// Sends parcels for as long as the stream stands and the address is the node's; says why it ended.
    async fn serve(&mut self, channel: Channel, address: &str) -> String {
        let (requests, stream) = mpsc::channel(REQUESTS_MAX);
        let mut client = ReplicationServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let mut request = tonic::Request::new(ReceiverStream::new(stream));
        introduce(request.metadata_mut(), self.cluster, self.node, self.me);
        let call = client.deliver(request);
        tokio::pin!(call);
        let mut pending = VecDeque::new();
        loop {
            tokio::select! {
                ended = &mut call => {
                    return match ended {
                        Ok(_) => "it ended the stream".into(),
                        Err(status) => status.message().to_owned(),
                    };
                }
                changed = self.addresses.changed() => {
                    if changed.is_err() {
                        return "this node is stopping".into();
                    }
                    if self.addresses.borrow_and_update().get(&self.node).is_none_or(|now| now != address) {
                        return "its address changed".into();
                    }
                }
                permit = requests.reserve(), if !pending.is_empty() => {
                    match (permit, pending.pop_front()) {
                        (Ok(permit), Some(request)) => permit.send(request),
                        _ => return "the stream was closed".into(),
                    }
                }
                parcel = self.parcels.recv(), if pending.is_empty() => {
                    let Some(parcel) = parcel else { return "this node is stopping".into() };
                    pending = self.gather(parcel);
                }
            }
        }
    }

    /// Messages for the wire, of this parcel and of whatever waits behind it. None is much larger than
    /// [`REQUEST_BYTES`], but for a single envelope that is.
    fn gather(&mut self, first: Parcel) -> VecDeque<DeliverRequest> {
        let mut requests = VecDeque::new();
        let mut envelopes = Vec::new();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(parcel) = next {
            for message in parcel.messages {
                let envelope = envelope(parcel.partition, parcel.partition_uuid, parcel.generation, message);
                // As it will be on the wire: a run of one small row weighs several times as much as the row.
                let size = envelope.encoded_len();
                if bytes + size > REQUEST_BYTES && !envelopes.is_empty() {
                    requests.push_back(DeliverRequest { envelopes: std::mem::take(&mut envelopes) });
                    bytes = 0;
                }
                bytes += size;
                envelopes.push(envelope);
            }
            if envelopes.len() >= ENVELOPES_MAX || !requests.is_empty() {
                break;
            }
            next = self.parcels.try_recv().ok();
        }
        requests.push_back(DeliverRequest { envelopes });
        requests
    }
}

fn envelope(
    partition: PartitionId,
    partition_uuid: Ulid,
    generation: Generation,
    message: Message,
) -> Envelope {
    let (epoch, message) = to_envelope(message);
    Envelope {
        partition_id: partition.0,
        partition_uuid: partition_uuid.to_string(),
        from_generation: generation.0,
        epoch: epoch.0,
        message: Some(message),
    }
}

/// Says for whom a stream is, and whose it is.
pub(crate) fn introduce(map: &mut MetadataMap, cluster: ClusterId, to: NodeId, from: NodeId) {
    for (key, value) in [
        (metadata::CLUSTER_ID, cluster.to_string()),
        (metadata::NODE_ID, to.to_string()),
        (metadata::FROM_NODE_ID, from.to_string()),
    ] {
        // A ULID is ASCII.
        if let Ok(value) = value.parse() {
            map.insert(key, value);
        }
    }
}

pub(crate) async fn connect(address: &str) -> Result<Channel, tonic::transport::Error> {
    Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(16 << 20)
        .connect()
        .await
}

#[cfg(test)]
mod tests {
    use paddock_coordination::Epoch;
    use paddock_storage::{LogEntries, Position, RowsBuilder, Sequence};

    use super::*;

    #[test]
    fn a_log_of_single_small_writes_fits_the_messages_that_it_is_cut_into() {
        let (sender, parcels) = mpsc::channel(PARCELS_MAX);
        let (_addresses, addresses) = watch::channel(Addresses::default());
        let node = NodeId(Ulid(2));
        let mut link = Link { cluster: ClusterId(Ulid(1)), me: NodeId(Ulid(1)), node, addresses, parcels };
        let mut rows = RowsBuilder::new();
        rows.delete(b"k").expect("fits");
        let rows = rows.finish();
        let run =
            |first| LogEntries { epoch: 1, first: Sequence(first), log_time_ms: 1 << 40, rows: rows.clone() };
        let append = || Message::Append {
            epoch: Epoch(1),
            previous: Position::default(),
            entries: (1..=30_000).map(run).collect(),
            commit: Sequence(0),
        };
        // A window's worth: some 8 MB of rows.
        let messages = (0..20).map(|_| append()).collect();
        drop(sender);
        let first = Parcel {
            partition: PartitionId(0),
            partition_uuid: Ulid(3),
            generation: Generation(1),
            messages,
        };
        let requests = link.gather(first);
        assert_eq!(requests.iter().map(|request| request.envelopes.len()).sum::<usize>(), 20);
        for request in requests {
            let bytes = request.encoded_len();
            assert!(bytes <= MESSAGE_BYTES_MAX, "{bytes} bytes do not go into one message");
        }
    }
}
