//! [`Router`]: the router as a running server.
//!
//! Starting binds the ports first, so that a port in use is the first thing that is said; then the
//! coordination service is followed in the background, for however long it takes to be there. Requests that
//! come before the map was read wait for it, within their deadlines.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use paddock_coordination::{Coordinator, Registration, RouterId, RouterRecord, paths, records};
use paddock_proto::DESCRIPTOR_SET;
use paddock_proto::admin::v1::admin_service_server::{AdminServiceServer, SERVICE_NAME as ADMIN_SERVICE};
use paddock_proto::limits::MESSAGE_BYTES_MAX;
use paddock_proto::v1::key_value_service_server::{KeyValueServiceServer, SERVICE_NAME as KEY_VALUE_SERVICE};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tonic_reflection::server as reflection;
use tracing::{error, info, warn};
use ulid::Ulid;

use crate::admin::Admin;
use crate::http::{self, HttpState};
use crate::map::Views;
use crate::memory::{HoldLayer, Memory};
use crate::message_size::MessageSizeLayer;
use crate::metrics::Metrics;
use crate::route::Routes;
use crate::service::KeyValue;

/// How long a stopping router waits for the requests under way.
pub const STOP_GRACE: Duration = Duration::from_secs(5);

/// Requests that one connection may have under way; more wait in the caller's HTTP/2.
const CONCURRENT_REQUESTS_PER_CONNECTION_MAX: u32 = 1_024;

/// Idle connections are probed this often, so that callers that died do not hold theirs for ever.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// The name under which health stands for the whole server.
const WHOLE_SERVER: &str = "";

/// How to start a router.
#[derive(Clone, Debug)]
pub struct RouterConfig {
    /// Where to listen for gRPC; port 0 takes any that is free.
    pub grpc_address: SocketAddr,
    /// Where to listen for HTTP (health and metrics), if at all.
    pub http_address: Option<SocketAddr>,
    /// The gRPC address that others are told, host:port; the one that is bound where `None`.
    pub advertise_address: Option<String>,
    /// The cluster's name, for people: the coordinator was opened at its root already.
    pub cluster_name: String,
}

/// Why a router did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Somebody else listens there, or may not.
    #[error("cannot listen on {address} for {what}: {source}")]
    Bind {
        /// What the address is for.
        what: &'static str,
        /// The address.
        address: SocketAddr,
        /// How it failed.
        source: io::Error,
    },
    /// The descriptor set that reflection serves cannot be read.
    #[error("the interfaces' descriptors cannot be read: {0}")]
    Descriptors(#[from] reflection::Error),
}

/// A running router. [`Router::stop`] ends it gracefully; dropping it ends it at once.
pub struct Router {
    id: RouterId,
    grpc_address: SocketAddr,
    http_address: Option<SocketAddr>,
    views: Arc<Views>,
    health: HealthReporter,
    registration: Option<Registration>,
    stopping: watch::Sender<bool>,
    servers: Vec<JoinHandle<()>>,
    /// Aborted when dropped.
    background: JoinSet<()>,
}

impl Router {
    /// Binds, and serves from then on.
    ///
    /// # Errors
    /// [`StartError`], which names the address.
    pub async fn start(
        config: RouterConfig,
        coordinator: Arc<dyn Coordinator>,
    ) -> Result<Router, StartError> {
        let (grpc_listener, grpc_address) = bind("gRPC", config.grpc_address).await?;
        let http = match config.http_address {
            Some(address) => Some(bind("HTTP", address).await?),
            None => None,
        };
        let http_address = http.as_ref().map(|(_, address)| *address);

        let views = Arc::new(Views::new());
        let metrics = Metrics::new();
        let routes = Arc::new(Routes::new(Arc::clone(&views), Arc::clone(&metrics)));
        let (stopping, stop) = watch::channel(false);
        let (health, grpc) =
            serve_grpc(grpc_listener, &config, &routes, &metrics, &coordinator, stop.clone()).await?;
        let mut servers = vec![grpc];
        if let Some((listener, _)) = http {
            servers.push(serve_http(listener, Arc::clone(&views), metrics, stop));
        }

        let id = RouterId(Ulid::generate());
        let registration = register(&*coordinator, id, &config, grpc_address, http_address);
        let mut background = JoinSet::new();
        background.spawn(report_health(Arc::clone(&views), health.clone()));
        background.spawn({
            let views = Arc::clone(&views);
            async move { views.follow(&*coordinator).await }
        });
        info!(router = %id, %grpc_address, ?http_address, cluster = %config.cluster_name, "router listens");
        let registration = Some(registration);
        Ok(Router {
            id,
            grpc_address,
            http_address,
            views,
            health,
            registration,
            stopping,
            servers,
            background,
        })
    }

    /// Its id, new at each start.
    #[must_use]
    pub fn router_id(&self) -> RouterId {
        self.id
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

    /// The cluster as this router sees it.
    #[must_use]
    pub fn views(&self) -> &Arc<Views> {
        &self.views
    }

    /// Resolves when every partition has a leader that this router has a stream to.
    pub async fn ready(&self) {
        loop {
            let seen = self.views.bell().seen();
            if self.views.load().is_ready() {
                return;
            }
            self.views.bell().rung_since(seen).await;
        }
    }

    /// Stops: takes itself off the list of routers, takes no more requests, and finishes those under way
    /// for at most [`STOP_GRACE`].
    pub async fn stop(mut self) {
        self.registration = None;
        // Ends before the reporter of health may say otherwise again.
        self.background.shutdown().await;
        for service in [WHOLE_SERVER, KEY_VALUE_SERVICE, ADMIN_SERVICE] {
            self.health.set_service_status(service, ServingStatus::NotServing).await;
        }
        self.stopping.send_replace(true);
        for mut server in std::mem::take(&mut self.servers) {
            if timeout(STOP_GRACE, &mut server).await.is_err() {
                warn!("requests were still under way after {STOP_GRACE:?}; they are cut off");
                server.abort();
            }
        }
        info!(router = %self.id, "router stopped");
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        for server in &self.servers {
            server.abort();
        }
        self.background.abort_all();
        self.views.close();
    }
}

async fn bind(what: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bound.await.map_err(|source| StartError::Bind { what, address, source })
}

/// Puts `/routers/<id>` in place for as long as the registration is held.
fn register(
    coordinator: &dyn Coordinator,
    id: RouterId,
    config: &RouterConfig,
    grpc_address: SocketAddr,
    http_address: Option<SocketAddr>,
) -> Registration {
    let grpc_address = match &config.advertise_address {
        Some(advertised) => advertised.clone(),
        None => {
            if grpc_address.ip().is_unspecified() {
                warn!(%grpc_address, "no address to advertise was given: others cannot reach this one");
            }
            grpc_address.to_string()
        }
    };
    let http_address = http_address.map(|address| address.to_string()).unwrap_or_default();
    coordinator.register(&paths::router(id), records::encode(&RouterRecord { grpc_address, http_address }))
}

/// Starts the gRPC server: both services, health and reflection.
async fn serve_grpc(
    listener: TcpListener,
    config: &RouterConfig,
    routes: &Arc<Routes>,
    metrics: &Arc<Metrics>,
    coordinator: &Arc<dyn Coordinator>,
    stop: watch::Receiver<bool>,
) -> Result<(HealthReporter, JoinHandle<()>), StartError> {
    let memory = Arc::new(Memory::new());
    let key_value = KeyValue::new(Arc::clone(routes), Arc::clone(metrics), Arc::clone(&memory));
    let (routes, metrics, coordinator) = (Arc::clone(routes), Arc::clone(metrics), Arc::clone(coordinator));
    let admin = Admin::new(routes, metrics, memory, config.cluster_name.clone(), coordinator);
    let (health, health_service) = tonic_health::server::health_reporter();
    for service in [WHOLE_SERVER, KEY_VALUE_SERVICE] {
        health.set_service_status(service, ServingStatus::NotServing).await;
    }
    // It explains what is wrong, so it serves always.
    health.set_service_status(ADMIN_SERVICE, ServingStatus::Serving).await;

    let router = Server::builder()
        .max_concurrent_streams(CONCURRENT_REQUESTS_PER_CONNECTION_MAX)
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .layer(HoldLayer)
        .layer(MessageSizeLayer)
        .add_service(
            KeyValueServiceServer::new(key_value)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(
            AdminServiceServer::new(admin)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(health_service)
        .add_service(reflected().build_v1()?)
        .add_service(reflected().build_v1alpha()?);

    // Server::tcp_nodelay does not reach sockets that are accepted elsewhere.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let serving = router.serve_with_incoming_shutdown(incoming, stopped(stop));
    let server = tokio::spawn(async move {
        if let Err(error) = serving.await {
            error!(%error, "the gRPC server ended");
        }
    });
    Ok((health, server))
}

/// What reflection shows: the services that a router serves, not all that the descriptors tell of.
fn reflected() -> reflection::Builder<'static> {
    reflection::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name(KEY_VALUE_SERVICE)
        .with_service_name(ADMIN_SERVICE)
        .with_service_name("grpc.health.v1.Health")
}

fn serve_http(
    listener: TcpListener,
    views: Arc<Views>,
    metrics: Arc<Metrics>,
    stop: watch::Receiver<bool>,
) -> JoinHandle<()> {
    let routes = http::routes(HttpState { views, metrics });
    tokio::spawn(async move {
        let serving = axum::serve(listener, routes).with_graceful_shutdown(stopped(stop));
        if let Err(error) = serving.await {
            error!(%error, "the HTTP server ended");
        }
    })
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that the router has gone, which stops the servers too.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Keeps gRPC health up to date: the data plane serves once a usable map was read. One partition without a
/// leader does not take the router out, since it serves the others; `/readyz` is the stricter one.
async fn report_health(views: Arc<Views>, health: HealthReporter) {
    let mut reported = false;
    loop {
        let seen = views.bell().seen();
        let serving = views.load().has_map();
        if serving != reported {
            let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
            for service in [WHOLE_SERVER, KEY_VALUE_SERVICE] {
                health.set_service_status(service, status).await;
            }
            reported = serving;
        }
        views.bell().rung_since(seen).await;
    }
}
