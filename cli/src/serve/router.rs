//! `router`: one router, over a ZooKeeper.

use std::sync::Arc;

use paddock_router::server::{Router, RouterConfig};

use crate::arguments;
use crate::serve;
use crate::signals::Signals;

/// Runs until a signal comes.
pub(crate) async fn run(flags: arguments::Router) -> anyhow::Result<()> {
    serve::log(&flags.log, "info")?;
    let mut signals = Signals::listen()?;
    let session = serve::zookeeper(&flags.coordination)?;
    let config = RouterConfig {
        grpc_address: flags.grpc,
        http_address: Some(flags.http),
        advertise_address: flags.advertise,
        cluster_name: flags.coordination.cluster,
    };
    let starting = async { Ok(Router::start(config, Arc::clone(&session)).await?) };
    let Some(router) = serve::start(&mut signals, starting).await? else { return Ok(()) };
    tokio::select! {
        () = signals.received() => {}
        // For whoever reads the log: from here on it serves every key.
        () = ready_and_waiting(&router) => {}
    }
    let stopping = async {
        router.stop().await;
        session.close().await;
    };
    serve::stop(&mut signals, stopping).await
}

/// Says when every partition can be reached; never resolves.
async fn ready_and_waiting(router: &Router) {
    router.ready().await;
    tracing::info!("every partition has a leader that can be reached");
    std::future::pending::<()>().await;
}
