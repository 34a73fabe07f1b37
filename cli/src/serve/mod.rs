//! The servers: each a process of its own (`router`, `partition`), or all in one (`dev`).
//!
//! They end gracefully on SIGTERM and SIGINT; a second signal does not wait. A server that fails for good
//! (a store that can no longer be trusted) says why and ends the process with exit code 1.

pub(crate) mod dev;
pub(crate) mod partition;
pub(crate) mod router;

use std::future::Future;
use std::io::{self, IsTerminal};
use std::sync::Arc;

use anyhow::Context;
use paddock_coordination::Coordinator;
use paddock_coordination::zookeeper::ZooKeeper;
use tracing_subscriber::EnvFilter;

use crate::arguments::{CoordinationFlags, LogFlags, LogFormat};
use crate::exit::Interrupted;
use crate::signals::Signals;

/// Begins to log to stderr; coloured only on a terminal, and not where NO_COLOR forbids it.
pub(crate) fn log(flags: &LogFlags, filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(flags.log.as_deref().unwrap_or(filter)).context("--log")?;
    let colours =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let subscriber =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colours);
    match flags.log_format {
        LogFormat::Text => subscriber.init(),
        LogFormat::Json => subscriber.json().init(),
    }
    Ok(())
}

/// A client of the real coordination service. It connects in the background: a server starts without it,
/// waits, and says so.
pub(crate) fn zookeeper(flags: &CoordinationFlags) -> anyhow::Result<Arc<dyn Coordinator>> {
    let root = format!("/paddock/{}", flags.cluster);
    let zookeeper = ZooKeeper::connect(&flags.zookeeper, &root)
        .with_context(|| format!("--zookeeper {}", flags.zookeeper))?;
    Ok(Arc::new(zookeeper))
}

/// Awaits a start; `None` if a signal came first.
pub(crate) async fn start<T>(
    signals: &mut Signals,
    starting: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<Option<T>> {
    tokio::select! {
        biased;
        () = signals.received() => Ok(None),
        started = starting => started.map(Some),
    }
}

/// Awaits a graceful stop, unless a second signal asks not to.
pub(crate) async fn stop(signals: &mut Signals, stopping: impl Future<Output = ()>) -> anyhow::Result<()> {
    tracing::info!("stopping; a second signal does not wait");
    tokio::select! {
        biased;
        () = signals.received() => {
            Err(Interrupted { hint: "stopped without waiting for what was under way".to_owned() }.into())
        }
        () = stopping => Ok(()),
    }
}
