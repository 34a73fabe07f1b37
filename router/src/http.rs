//! The HTTP side: health and metrics.
//!
//! - `/livez`: 200 as long as the process answers. It depends on nothing else, so that a lost quorum does
//!   not make a supervisor restart routers that are well.
//! - `/readyz`: 200 once the map was read and every partition's leader can be reached, else 503; each check
//!   is named, as JSON. A lost coordination service is shown, but takes nothing away from readiness.
//! - `/metrics`: Prometheus text.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::map::{View, Views};
use crate::metrics::Metrics;
use crate::recovery;

/// The content type of Prometheus text, as prometheus-client writes it.
const METRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the handlers look at.
#[derive(Clone)]
pub struct HttpState {
    /// The views.
    pub views: Arc<Views>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
}

/// One named check of readiness.
#[derive(Debug, serde::Serialize)]
struct Check {
    name: String,
    ok: bool,
    /// False if the check is shown only.
    required: bool,
    /// Why it fails, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

#[derive(Debug, serde::Serialize)]
struct Readiness {
    ready: bool,
    checks: Vec<Check>,
}

/// The routes.
pub fn routes(state: HttpState) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(state)
}

async fn readyz(State(state): State<HttpState>) -> Response {
    let readiness = readiness(&state.views.load());
    let code = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    match serde_json::to_string(&readiness) {
        Ok(json) => (code, [(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn metrics(State(state): State<HttpState>) -> Response {
    match state.metrics.encode(&state.views.load()) {
        Ok(text) => ([(header::CONTENT_TYPE, METRICS_CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn readiness(view: &View) -> Readiness {
    let check = |name: &str, ok| Check { name: name.to_owned(), ok, required: true, why: None };
    let mut checks = vec![
        Check { required: false, ..check("coordination-connected", view.map.connected) },
        check("map-read", view.has_map()),
        check("partitions-placed", view.map.is_placed()),
    ];
    checks.extend(view.map.partitions.keys().map(|partition| {
        let is_reachable = view.reaches_leader(*partition);
        let why = if is_reachable { None } else { recovery::offline_by_map(view, *partition) };
        Check { why, ..check(&format!("partition-{partition}-leader-reachable"), is_reachable) }
    }));
    let ready = checks.iter().all(|check| check.ok || !check.required);
    Readiness { ready, checks }
}
