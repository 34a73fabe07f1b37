//! What the router counts, as Prometheus text. Never a key as a label.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tonic::{Code, Response, Status};

use crate::map::View;

/// From a fifth of a millisecond to ten seconds.
const LATENCY_BOUNDS_SECONDS: [f64; 15] =
    [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodAndCode {
    method: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Method {
    method: &'static str,
}

/// The counters, gauges and histograms.
pub struct Metrics {
    registry: Registry,
    requests: Family<MethodAndCode, Counter>,
    durations: Family<Method, Histogram, fn() -> Histogram>,
    in_flight: Gauge,
    /// Attempts that were made again: the leader had moved, a link was down.
    pub forward_retries: Counter<u64, AtomicU64>,
    coordination_connected: Gauge,
    live_nodes: Gauge,
    links_up: Gauge,
    partitions: Gauge,
    partitions_reachable: Gauge,
}

/// Counts a request as in flight until dropped, also when its caller goes away.
struct InFlight<'metrics>(&'metrics Gauge);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// All at nought.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let durations: fn() -> Histogram = || Histogram::new(LATENCY_BOUNDS_SECONDS);
        let mut metrics = Metrics {
            registry: Registry::with_prefix("paddock_router"),
            requests: Family::default(),
            durations: Family::new_with_constructor(durations),
            in_flight: Gauge::default(),
            forward_retries: Counter::default(),
            coordination_connected: Gauge::default(),
            live_nodes: Gauge::default(),
            links_up: Gauge::default(),
            partitions: Gauge::default(),
            partitions_reachable: Gauge::default(),
        };
        metrics.register();
        Arc::new(metrics)
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("requests", "Requests answered, by gRPC method and code", self.requests.clone());
        registry.register(
            "request_duration_seconds",
            "From a request's arrival to its answer",
            self.durations.clone(),
        );
        registry.register("in_flight_requests", "Requests under way", self.in_flight.clone());
        registry.register(
            "forward_retries",
            "Attempts that were made again, since the one before certainly changed nothing",
            self.forward_retries.clone(),
        );
        registry.register(
            "coordination_connected",
            "1 while the coordination service can be reached",
            self.coordination_connected.clone(),
        );
        registry.register(
            "live_nodes",
            "Partition servers that are registered and live",
            self.live_nodes.clone(),
        );
        registry.register("links_up", "Streams to partition servers that are open", self.links_up.clone());
        registry.register("partitions", "Partitions in the map", self.partitions.clone());
        registry.register(
            "partitions_reachable",
            "Partitions whose leader this router has a stream to",
            self.partitions_reachable.clone(),
        );
    }

    /// Does a request and counts it.
    ///
    /// # Errors
    /// The request's own.
    pub async fn observe<T>(
        &self,
        method: &'static str,
        request: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<Response<T>, Status> {
        self.in_flight.inc();
        let in_flight = InFlight(&self.in_flight);
        let begun = Instant::now();
        let result = request.await;
        drop(in_flight);
        self.durations.get_or_create(&Method { method }).observe(begun.elapsed().as_secs_f64());
        let code = code_name(result.as_ref().map_or_else(Status::code, |_| Code::Ok));
        self.requests.get_or_create(&MethodAndCode { method, code }).inc();
        result
    }

    /// Everything as Prometheus text; the gauges of the map are taken from the view.
    ///
    /// # Errors
    /// None that writing to a string can meet.
    pub fn encode(&self, view: &View) -> Result<String, std::fmt::Error> {
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.coordination_connected.set(i64::from(view.map.connected));
        self.live_nodes.set(count(view.nodes.len()));
        self.links_up.set(count(view.nodes.values().map(|node| node.links_up()).sum()));
        self.partitions.set(count(view.map.partitions.len()));
        let reachable = view.map.partitions.keys().filter(|partition| view.reaches_leader(**partition));
        self.partitions_reachable.set(count(reachable.count()));
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// A code's name as gRPC writes it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
