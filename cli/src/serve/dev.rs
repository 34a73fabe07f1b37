//! `dev`: a whole cluster in one process. Two partition servers with two partitions of two replicas each,
//! one router, and the embedded coordination service, all in one directory:
//!
//! ```text
//! DATA/coordination   what ZooKeeper would hold
//! DATA/nodes/a        the first partition server's data
//! DATA/nodes/b        the second one's
//! ```
//!
//! It is the same code as in separate processes, over the same gRPC; only the coordination service differs.
//! Both replicas live on one disk: it survives a kill -9, not the loss of the directory.

use std::fs;
use std::io::{self, ErrorKind, IsTerminal};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use paddock_client::Client;
use paddock_coordination::bootstrap::NewCluster;
use paddock_coordination::embedded::Embedded;
use paddock_partition::controller::ControllerOptions;
use paddock_partition::host::CareOptions;
use paddock_partition::server::{PartitionServer, ServerConfig};
use paddock_partition::snapshot::CatchUpOptions;
use paddock_router::server::{Router, RouterConfig};

use crate::arguments::Dev;
use crate::signals::Signals;
use crate::{output, serve};

/// The lease of a cluster in one process: short, since there is no network to be slow, and since a restart
/// waits for it before a leader may stand.
const LEASE_MS: u64 = 300;

/// The directory of the coordination service; where it is, there is a dev cluster.
const COORDINATION: &str = "coordination";

/// How many partitions there are.
const PARTITIONS: u32 = 2;

/// The partition servers, by the names of their directories.
const NODES: [&str; 2] = ["a", "b"];

/// Runs until a signal comes, or until a part fails for good.
pub(crate) async fn run(flags: Dev) -> anyhow::Result<()> {
    let began = Instant::now();
    serve::log(&flags.log, "warn")?;
    let mut signals = Signals::listen()?;
    claim(&flags.data)?;
    let embedded = Embedded::open(&flags.data.join(COORDINATION)).context("the data directory")?;
    let Some(mut cluster) = serve::start(&mut signals, Cluster::start(&flags, &embedded)).await? else {
        return Ok(());
    };
    tokio::select! {
        () = signals.received() => return serve::stop(&mut signals, cluster.stop()).await,
        error = cluster.nodes.failed() => return Err(error),
        served = serves(&cluster.router) => served?,
    }
    output::print(banner(&cluster, &flags.data, began))?;
    tokio::select! {
        () = signals.received() => {}
        error = cluster.nodes.failed() => return Err(error),
    }
    serve::stop(&mut signals, cluster.stop()).await
}

/// Waits until every partition answers a linearizable read: after a restart the map still names the leaders
/// of before, who have to be elected anew.
async fn serves(router: &Router) -> anyhow::Result<()> {
    router.ready().await;
    let client = Client::connect(format!("http://{}", router.grpc_address())).await?;
    for partition in 0..PARTITIONS {
        // However long that takes: a leader first reads its whole log.
        while let Err(error) = client.list_records(partition, "", 1).await {
            if !error.is_transient() {
                return Err(error.into());
            }
            tracing::warn!(partition, %error, "not ready yet");
        }
    }
    Ok(())
}

/// Refuses a directory that holds something else: a typing error must not scatter a cluster's files over
/// somebody's home. One that is missing is made, durably, with the coordination service's in it.
fn claim(data: &Path) -> anyhow::Result<()> {
    let mut entries = match fs::read_dir(data) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| data.display().to_string()),
    };
    let ours = data.join(COORDINATION).exists();
    anyhow::ensure!(
        ours || entries.next().is_none(),
        "{}: not empty, and not the data of a `paddock dev`",
        data.display()
    );
    Ok(())
}

/// Everything that runs.
struct Cluster {
    router: Router,
    nodes: Nodes,
}

/// The partition servers.
struct Nodes {
    first: PartitionServer,
    second: PartitionServer,
}

impl Cluster {
    async fn start(flags: &Dev, embedded: &Embedded) -> anyhow::Result<Cluster> {
        let config = RouterConfig {
            grpc_address: flags.grpc,
            http_address: Some(flags.http),
            advertise_address: None,
            cluster_name: "dev".to_owned(),
        };
        // The router first: a port in use is the likeliest failure, and no node was made by then.
        let router = Router::start(config, Arc::new(embedded.session())).await?;
        let [first, second] =
            NODES.map(|name| PartitionServer::start(node(&flags.data, name), Arc::new(embedded.session())));
        let (first, second) = tokio::try_join!(first, second)?;
        Ok(Cluster { router, nodes: Nodes { first, second } })
    }

    /// The router first, so that what it has accepted still finds its leaders. Then both nodes: there is nobody to hand
    /// over to.
    async fn stop(self) {
        self.router.stop().await;
        tokio::join!(self.nodes.first.stop_without_handover(), self.nodes.second.stop_without_handover());
    }
}

impl Nodes {
    /// Resolves when one of them failed for good.
    async fn failed(&mut self) -> anyhow::Error {
        let error = tokio::select! {
            error = self.first.failed() => error,
            error = self.second.failed() => error,
        };
        error.into()
    }
}

fn node(data: &Path, name: &str) -> ServerConfig {
    ServerConfig {
        // Of one node there is nothing to place.
        controller: ControllerOptions::default(),
        remove_departed_after: None,
        data: data.join("nodes").join(name),
        replace_node: None,
        grpc_address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        advertise_address: None,
        http_address: None,
        cluster_name: "dev".to_owned(),
        storage: paddock_storage::Options::new(),
        catch_up: CatchUpOptions::default(),
        care: CareOptions::default(),
        new_cluster: NewCluster {
            partitions: PARTITIONS,
            replication_factor: 2,
            initial_nodes: 2,
            lease_ms: LEASE_MS,
        },
    }
}

/// What to know and what to try, in a box on a terminal.
fn banner(cluster: &Cluster, data: &Path, began: Instant) -> String {
    let grpc = cluster.router.grpc_address();
    let http =
        cluster.router.http_address().map_or_else(|| "none".to_owned(), |http| format!("http://{http}"));
    let paddock = if grpc == crate::arguments::GRPC_DEFAULT {
        "paddock".to_owned()
    } else {
        format!("paddock --endpoint http://{grpc}")
    };
    let data = fs::canonicalize(data).unwrap_or_else(|_| data.to_owned());
    let lines = [
        format!("PaddockDB {}: a cluster in one process", env!("CARGO_PKG_VERSION")),
        format!("ready in {} ms", began.elapsed().as_millis()),
        String::new(),
        format!("gRPC  http://{grpc}"),
        format!("HTTP  {http}  (/livez, /readyz, /metrics)"),
        format!("data  {}", data.display()),
        String::new(),
        "Try, in another terminal:".to_owned(),
        format!("  {paddock} put greeting hello"),
        format!("  {paddock} get greeting"),
        String::new(),
        "Ctrl-C stops it; the data stays.".to_owned(),
    ];
    if io::stdout().is_terminal() { boxed(&lines) } else { lines.join("\n") }
}

fn boxed(lines: &[String]) -> String {
    let width = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
    let rule = "\u{2500}".repeat(width + 2);
    let rows = lines.iter().map(|line| format!("\u{2502} {line:width$} \u{2502}\n"));
    format!("\u{256d}{rule}\u{256e}\n{}\u{2570}{rule}\u{256f}", rows.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_box_is_as_wide_as_its_longest_line() {
        let text = boxed(&["one".to_owned(), String::new(), "three".to_owned()]);
        let widths: Vec<usize> = text.lines().map(|line| line.chars().count()).collect();
        assert_eq!(widths, [9; 5]);
    }

    #[test]
    fn a_directory_of_something_else_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        claim(&directory.path().join("missing")).unwrap();
        claim(directory.path()).unwrap();
        fs::write(directory.path().join("letter.txt"), "dear").unwrap();
        let error = claim(directory.path()).unwrap_err().to_string();
        assert!(error.contains("not empty"), "{error}");
        fs::create_dir(directory.path().join(COORDINATION)).unwrap();
        claim(directory.path()).unwrap();
    }
}
