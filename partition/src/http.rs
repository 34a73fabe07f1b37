//! The HTTP side of a partition server: liveness, readiness, metrics.

use std::sync::{Arc, OnceLock};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::{Router, routing};

use crate::host::Host;
use crate::replica::RoleName;

/// The host, once the node has joined its cluster.
pub type HostCell = Arc<OnceLock<Arc<Host>>>;

/// `/livez`, `/readyz`, `/metrics`.
pub fn router(host: HostCell) -> Router {
    Router::new()
        .route("/livez", routing::get(|| async { "ok\n" }))
        .route("/readyz", routing::get(readiness))
        .route("/metrics", routing::get(metrics))
        .with_state(host)
}

/// Ready when the node has joined its cluster, is not about to stop, and none of its replicas refuses to take part.
/// Each check is named, with what is wrong. It does not ask for a quorum: a node that waits for its peers is ready.
/// Nor does it ask for the coordination service, without which data is served all the same; but it says how that is.
async fn readiness(State(host): State<HostCell>) -> impl IntoResponse {
    let mut checks = vec![("joined", host.get().is_some().then_some(()).ok_or_else(|| "not yet".to_owned()))];
    if let Some(host) = host.get() {
        let problems: Vec<_> = host
            .statuses()
            .iter()
            .filter(|status| status.role == RoleName::Quarantined)
            .map(|status| {
                format!("partition {}: {}", status.partition, status.problem.clone().unwrap_or_default())
            })
            .collect();
        let serving = if host.draining().is_cancelled() {
            Err("the node is stopping".to_owned())
        } else if host.is_leaving() {
            Err("the node is draining: it hands over what it leads, and stops then".to_owned())
        } else {
            Ok(())
        };
        checks.push(("serving", serving));
        let trusted = if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) };
        checks.push(("replicas", trusted));
    }
    let ready = checks.iter().all(|(_, result)| result.is_ok());
    let mut text: String = checks
        .into_iter()
        .map(|(name, result)| match result {
            Ok(()) => format!("{name}: ok\n"),
            Err(why) => format!("{name}: {why}\n"),
        })
        .collect();
    if let Some(host) = host.get() {
        let coordination = if host.is_connected() { "connected" } else { "away, configuration is frozen" };
        text += &format!("coordination: {coordination}\n");
    }
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, text)
}

async fn metrics(State(host): State<HostCell>) -> impl IntoResponse {
    const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let text = host.get().and_then(|host| host.metrics().ok()).unwrap_or_else(|| "# EOF\n".to_owned());
    ([(header::CONTENT_TYPE, TEXT)], text)
}
