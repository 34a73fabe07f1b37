//! `partition`: one partition server, over a ZooKeeper.

use std::sync::Arc;
use std::time::Duration;

use paddock_coordination::bootstrap::NewCluster;
use paddock_partition::controller::ControllerOptions;
use paddock_partition::host::CareOptions;
use paddock_partition::scrub::ScrubOptions;
use paddock_partition::server::{PartitionServer, ServerConfig};
use paddock_partition::snapshot::CatchUpOptions;
use paddock_partition::watchdog::StallLimits;

use crate::arguments;
use crate::serve;
use crate::signals::Signals;

/// The flags' unit.
const MIB: u64 = 1 << 20;

/// After 0 seconds is never.
fn after_seconds(seconds: u64) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// Runs until a signal comes, or until it fails for good.
pub(crate) async fn run(flags: arguments::Partition) -> anyhow::Result<()> {
    serve::log(&flags.log, "info")?;
    let mut signals = Signals::listen()?;
    let session = serve::zookeeper(&flags.coordination)?;
    let config = ServerConfig {
        data: flags.data,
        replace_node: flags.replace_node,
        grpc_address: flags.grpc,
        advertise_address: flags.advertise,
        http_address: flags.http,
        cluster_name: flags.coordination.cluster,
        storage: paddock_storage::Options::new(),
        controller: ControllerOptions {
            replace_after: after_seconds(flags.replace_after_seconds),
            spread_leaders_after: after_seconds(flags.spread_leaders_after_seconds),
        },
        remove_departed_after: match flags.remove_departed_after_minutes {
            0 => None,
            minutes => Some(Duration::from_secs(minutes.saturating_mul(60))),
        },
        catch_up: CatchUpOptions {
            log_retention_bytes: flags.log_retention_mib.saturating_mul(MIB),
            snapshot_bytes_per_second: flags.snapshot_mib_per_second.saturating_mul(MIB),
            snapshot_reserve_bytes: flags.snapshot_reserve_mib.saturating_mul(MIB),
            ..CatchUpOptions::default()
        },
        care: CareOptions {
            scrub: ScrubOptions {
                bytes_per_second: flags.scrub_mib_per_second.saturating_mul(MIB),
                every: Duration::from_secs(flags.scrub_every_seconds),
            },
            stalls: StallLimits {
                hand_over_after: Duration::from_millis(flags.disk_stall_ms),
                abort_after: Duration::from_secs(flags.disk_abort_seconds),
            },
        },
        new_cluster: NewCluster {
            partitions: flags.partitions,
            replication_factor: flags.replication_factor,
            initial_nodes: flags.initial_nodes.unwrap_or(flags.replication_factor),
            lease_ms: flags.lease_ms,
        },
    };
    let starting = async { Ok(PartitionServer::start(config, Arc::clone(&session)).await?) };
    let Some(mut server) = serve::start(&mut signals, starting).await? else { return Ok(()) };
    tokio::select! {
        () = signals.received() => {}
        error = server.failed() => return Err(error.into()),
    }
    let stopping = async {
        server.stop().await;
        session.close().await;
    };
    serve::stop(&mut signals, stopping).await
}
