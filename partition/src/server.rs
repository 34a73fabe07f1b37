//! A partition server: one node, from its ports to its replicas.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use paddock_coordination::bootstrap::{self, BootstrapError, NewCluster};
use paddock_coordination::{
    ClusterRecord, Coordinator, Error, NodeId, NodeRecord, Registration, paths, records,
};
use paddock_proto::DESCRIPTOR_SET;
use paddock_proto::admin::v1::node_service_server::{NodeServiceServer, SERVICE_NAME as NODE_SERVICE};
use paddock_proto::limits::MESSAGE_BYTES_MAX;
use paddock_proto::replication::v1::replication_service_server::{
    ReplicationServiceServer, SERVICE_NAME as REPLICATION_SERVICE,
};
use paddock_proto::v1::exchange_service_server::{ExchangeServiceServer, SERVICE_NAME as EXCHANGE_SERVICE};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::transport::server::TcpIncoming;
use tracing::{error, info, warn};

use crate::clock;
use crate::controller::{Controller, ControllerOptions};
use crate::host::{CareOptions, FatalError, Host};
use crate::http::{self, HostCell};
use crate::node::{NodeDirectory, NodeError, OldCopy};
use crate::service::exchange::Exchange;
use crate::service::replication::Replication;
use crate::service::status::NodeStatus;
use crate::snapshot::CatchUpOptions;

/// How long to wait before the coordination service is asked again.
const COORDINATION_RETRY: Duration = Duration::from_millis(250);
/// How often to say that it is waited for.
const COORDINATION_NOTICE_RETRIES: u32 = 20;
/// How long the servers may take to end their streams.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// A peer that does not answer a ping is gone.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// What health and reflection tell of.
const SERVICES: [&str; 3] = [EXCHANGE_SERVICE, REPLICATION_SERVICE, NODE_SERVICE];

/// What a partition server is told.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Its data directory.
    pub data: PathBuf,
    /// The node whose place it takes, whose own data directory is lost.
    pub replace_node: Option<NodeId>,
    /// Where it listens for gRPC; port 0 picks a free one.
    pub grpc_address: SocketAddr,
    /// The address that others reach it at, host:port; by default the one that it listens on.
    pub advertise_address: Option<String>,
    /// Where it listens for HTTP (health and metrics), if at all.
    pub http_address: Option<SocketAddr>,
    /// Its cluster's name, for the log; the coordinator is rooted there.
    pub cluster_name: String,
    /// The shape of the cluster, should this node be the first.
    pub new_cluster: NewCluster,
    /// How its replicas' stores are kept. What memory each may use is the node's own matter.
    pub storage: paddock_storage::Options,
    /// What the cluster's controller does of its own accord, should it be this node.
    pub controller: ControllerOptions,
    /// For how long files of replicas are kept that are on other nodes by now: see [`Host::remove_departed`]. `None`: for ever.
    pub remove_departed_after: Option<Duration>,
    /// How much log its replicas keep, and how fast snapshots go.
    pub catch_up: CatchUpOptions,
    /// How it treats what it keeps: verifies its files, and watches its disk.
    pub care: CareOptions,
}

/// Why a partition server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The data directory.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// A port.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What happened.
        source: std::io::Error,
    },
    /// The address to advertise.
    #[error("{address} cannot be reached by others: say which address they are to use (advertise)")]
    Advertise {
        /// The address that it listens on.
        address: SocketAddr,
    },
    /// The cluster.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// The coordination service refused this node's record.
    #[error("this node cannot be registered: {0}")]
    Register(#[source] Error),
    /// gRPC reflection.
    #[error("the descriptors of the services cannot be read: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// A running partition server. It is to be stopped; dropped, it just goes on until the process ends.
pub struct PartitionServer {
    host: Arc<Host>,
    grpc_address: SocketAddr,
    http_address: Option<SocketAddr>,
    fatal: mpsc::UnboundedReceiver<FatalError>,
    servers: Vec<JoinHandle<()>>,
    following: JoinHandle<()>,
    live: Registration,
}

impl PartitionServer {
    /// Starts a node: takes its data directory and its ports, then waits for the coordination service (and
    /// says so in the log), joins or makes the cluster, and serves.
    ///
    /// # Errors
    /// Why it did not start.
    pub async fn start(config: ServerConfig, coordinator: Arc<dyn Coordinator>) -> Result<Self, StartError> {
        config.new_cluster.validate()?;
        let mut directory = NodeDirectory::open_as(&config.data, config.replace_node)?;
        let grpc = listen(config.grpc_address).await?;
        let grpc_address = local_address(&grpc, config.grpc_address)?;
        let advertise_address = match config.advertise_address {
            Some(address) => address,
            None if grpc_address.ip().is_unspecified() => {
                return Err(StartError::Advertise { address: grpc_address });
            }
            None => grpc_address.to_string(),
        };
        let cell = HostCell::default();
        let mut servers = Vec::new();
        let stopping = tokio_util::sync::CancellationToken::new();
        let http_address = match config.http_address {
            None => None,
            Some(address) => {
                let listener = listen(address).await?;
                let bound = local_address(&listener, address)?;
                servers.push(serve_http(listener, Arc::clone(&cell), stopping.clone()));
                Some(bound)
            }
        };
        let cluster = join(&*coordinator, &config.new_cluster, &directory).await?;
        directory.join(cluster.id)?;
        if let Err(error) = directory.finish_removals() {
            warn!(%error, "what is left of replicas that are on other nodes stays for now");
        }
        register_node(&*coordinator, &mut directory, &advertise_address).await?;
        let (fatal_sender, fatal) = mpsc::unbounded_channel();
        let (storage, catch_up, care) = (config.storage, &config.catch_up, config.care);
        let coordination = Arc::clone(&coordinator);
        let host = Host::new(directory, cluster, storage, catch_up, care, coordination, fatal_sender);
        let _ = cell.set(Arc::clone(&host));
        servers.push(serve_grpc(grpc, &host).await?);
        tokio::spawn(forward_stop(Arc::clone(&host), stopping));
        let live = coordinator.register(&paths::live(host.node()), records::encode(&host.boot_count()));
        let tree = coordinator.watch("/");
        let following = tokio::spawn(Arc::clone(&host).follow(tree.clone()));
        let controller =
            Controller::new(Arc::clone(&coordinator), host.cluster(), host.node(), config.controller);
        tokio::spawn(controller.run(tree, host.stopping()));
        tokio::spawn(Arc::clone(&host).do_duties());
        if let Some(grace) = config.remove_departed_after {
            tokio::spawn(Arc::clone(&host).remove_departed(grace));
        }
        tokio::spawn(Arc::clone(&host).scrub());
        tokio::spawn(Arc::clone(&host).watch_disks());
        info!(node = %host.node(), %grpc_address, cluster = %config.cluster_name, "serving");
        Ok(PartitionServer { host, grpc_address, http_address, fatal, servers, following, live })
    }

    /// Where it listens for gRPC.
    #[must_use]
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc_address
    }

    /// Where it listens for HTTP.
    #[must_use]
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http_address
    }

    /// Which node it is.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.host.node()
    }

    /// Resolves when something happened that the node cannot go on from: the process is to end, and to say
    /// what it was.
    pub async fn failed(&mut self) -> FatalError {
        match self.fatal.recv().await {
            Some(error) => error,
            // The host, which we hold, holds a sender.
            None => std::future::pending().await,
        }
    }

    /// Bytes of answers that wait for the streams of this node to take them.
    #[must_use]
    pub fn answers_waiting_bytes(&self) -> i64 {
        self.host.answers_waiting().get()
    }

    /// Stops gracefully, and nobody who uses the cluster notices: hands over what it leads, has its other leaders go on
    /// without it, and leaves the list of live nodes; then, as [`PartitionServer::stop_without_handover`]. Each step is
    /// bounded in time.
    pub async fn stop(self) {
        self.host.leave().await;
        self.close().await;
    }

    /// Stops without handing anything over, for when everybody stops: no more operations, those under way are
    /// finished (bounded), files are synced and closed.
    pub async fn stop_without_handover(self) {
        self.close().await;
    }

    async fn close(self) {
        drop(self.live);
        self.host.routers_have_left().await;
        self.host.drain().await;
        // It ends by itself, now that the host is stopping; if it panicked, it has said so.
        let _ = self.following.await;
        self.host.stop_replicas().await;
        for mut server in self.servers {
            if tokio::time::timeout(STOP_TIMEOUT, &mut server).await.is_err() {
                warn!("a server had to be cut off");
                server.abort();
            }
        }
        info!(node = %self.host.node(), "stopped");
    }
}

async fn forward_stop(host: Arc<Host>, stopping: tokio_util::sync::CancellationToken) {
    host.stopping().cancelled().await;
    stopping.cancel();
}

async fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, source })
}

fn local_address(listener: &TcpListener, address: SocketAddr) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|source| StartError::Listen { address, source })
}

/// Joins the cluster, or makes it; waits for the coordination service for as long as that takes.
async fn join(
    coordinator: &dyn Coordinator,
    new_cluster: &NewCluster,
    directory: &NodeDirectory,
) -> Result<ClusterRecord, StartError> {
    let mut retries = 0;
    loop {
        let known = directory.cluster();
        match bootstrap::ensure_cluster(coordinator, new_cluster, known, clock::wall_clock_ms()).await {
            Ok(cluster) => return Ok(cluster),
            Err(error) if error.is_transient() => {
                if retries % COORDINATION_NOTICE_RETRIES == 0 {
                    warn!(%error, "waiting for the coordination service");
                }
                retries += 1;
                tokio::time::sleep(COORDINATION_RETRY).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Writes where this node is to be found, over what a former start wrote. What it finds there is also how an old
/// copy of a data directory is told: the cluster has seen a later start of this node than the directory has.
async fn register_node(
    coordinator: &dyn Coordinator,
    directory: &mut NodeDirectory,
    address: &str,
) -> Result<(), StartError> {
    let path = paths::node(directory.node());
    let mut record = None;
    loop {
        let written = match coordinator.get(&path).await {
            Err(error) => Err(error),
            Ok(found) => {
                // A record that cannot be read says nothing, and is written over.
                let seen = found.as_ref().and_then(|found| records::decode::<NodeRecord>(&found.value).ok());
                let mut next = match record.take() {
                    Some(next) => next,
                    None => NodeRecord {
                        boot_count: count_start(directory, seen.as_ref())?,
                        grpc_address: address.to_owned(),
                        build_version: env!("CARGO_PKG_VERSION").to_owned(),
                        drained: false,
                    },
                };
                // That is the operator's word, and outlasts a restart.
                next.drained = seen.is_some_and(|seen| seen.drained);
                let value = records::encode(&next);
                record = Some(next);
                match found {
                    Some(found) if found.value == value => return Ok(()),
                    Some(found) => coordinator.compare_and_set(&path, value, found.version).await,
                    None => coordinator.create(&path, value).await,
                }
            }
        };
        match written {
            Ok(_) => return Ok(()),
            Err(error @ Error::Rejected { .. }) => return Err(StartError::Register(error)),
            // Read again: it may have been written all the same.
            Err(error) => warn!(%error, "this node is not registered yet"),
        }
        tokio::time::sleep(COORDINATION_RETRY).await;
    }
}

/// Counts this start, and says so if the data are an old copy.
fn count_start(directory: &mut NodeDirectory, seen: Option<&NodeRecord>) -> Result<u64, NodeError> {
    if let Some(OldCopy { ours, seen }) = directory.count_start(seen.map_or(0, |seen| seen.boot_count))? {
        error!(
            node = %directory.node(), ours, seen,
            "this data directory is an older copy: it knows of fewer starts than the cluster has seen, and lacks what was \
             acknowledged since. Its replicas begin a new generation: they count for nothing until leaders have filled them up"
        );
    }
    Ok(directory.boot_count())
}

async fn serve_grpc(listener: TcpListener, host: &Arc<Host>) -> Result<JoinHandle<()>, StartError> {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // Only what is served here, not all that the descriptors tell of.
        .with_service_name("grpc.health.v1.Health");
    let reflection = SERVICES.iter().fold(reflection, |reflection, name| reflection.with_service_name(*name));
    let reflection = reflection.build_v1()?;
    let (reporter, health) = tonic_health::server::health_reporter();
    for name in SERVICES {
        reporter.set_service_status(name, tonic_health::ServingStatus::Serving).await;
    }
    let stopping = host.stopping();
    let server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(16 << 20)
        .add_service(health)
        .add_service(reflection)
        .add_service(
            ExchangeServiceServer::new(Exchange { host: Arc::clone(host) })
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(
            ReplicationServiceServer::new(Replication { host: Arc::clone(host) })
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(NodeServiceServer::new(NodeStatus { host: Arc::clone(host) }))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), async move {
            stopping.cancelled().await;
        });
    Ok(tokio::spawn(async move {
        if let Err(error) = server.await {
            warn!(%error, "the gRPC server ended");
        }
    }))
}

fn serve_http(
    listener: TcpListener,
    cell: HostCell,
    stopping: tokio_util::sync::CancellationToken,
) -> JoinHandle<()> {
    let server = axum::serve(listener, http::router(cell))
        .with_graceful_shutdown(async move { stopping.cancelled().await });
    tokio::spawn(async move {
        if let Err(error) = server.await {
            warn!(%error, "the HTTP server ended");
        }
    })
}
