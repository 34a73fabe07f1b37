//! `add-replica` and `remove-replica`: where replicas are, as the operator wants it.

use std::time::{Duration, Instant};

use paddock_client::{Client, messages};
use serde::Serialize;

use crate::arguments::{AddReplica, Format, RemoveReplica, ReplicaChange};
use crate::output;

/// How often is looked whether the replicas are where they are to be.
const POLL: Duration = Duration::from_millis(100);

#[derive(Serialize)]
struct Placed {
    partition_id: u32,
    replica_node_ids: Vec<String>,
    target_node_ids: Vec<String>,
    settled: bool,
}

/// The target is written, and not reached yet.
#[derive(Debug, thiserror::Error)]
#[error(
    "partition {partition_id}: the replicas are not where they are to be yet, and go on moving: see paddock partitions"
)]
pub(crate) struct StillMoving {
    partition_id: u32,
}

/// `add-replica`.
pub(crate) async fn add(client: &Client, add: AddReplica, timeout: Duration) -> anyhow::Result<()> {
    let AddReplica { partition, node, change } = add;
    let deadline = Instant::now() + timeout;
    let changed = client.change_replicas(partition, &[&node], &[]).await?;
    finish(client, partition, changed, change, deadline).await
}

/// `remove-replica`.
pub(crate) async fn remove(client: &Client, remove: RemoveReplica, timeout: Duration) -> anyhow::Result<()> {
    let RemoveReplica { partition, node, replace_with, change } = remove;
    let deadline = Instant::now() + timeout;
    let added: Vec<&str> = replace_with.as_deref().into_iter().collect();
    let changed = client.change_replicas(partition, &added, &[&node]).await?;
    finish(client, partition, changed, change, deadline).await
}

async fn finish(
    client: &Client,
    partition_id: u32,
    changed: messages::ChangeReplicasResponse,
    change: ReplicaChange,
    deadline: Instant,
) -> anyhow::Result<()> {
    let mut placed = Placed {
        partition_id,
        replica_node_ids: changed.replica_node_ids,
        target_node_ids: changed.target_node_ids,
        settled: false,
    };
    while change.wait && !placed.settled && Instant::now() < deadline {
        look(client, &mut placed).await?;
        if !placed.settled {
            tokio::time::sleep(POLL).await;
        }
    }
    match change.output {
        Format::Json => output::print_json(&placed)?,
        Format::Table => {
            let (are, nodes) =
                (if placed.settled { "are" } else { "are to be" }, placed.target_node_ids.join(", "));
            output::print(format_args!("partition {partition_id}: its replicas {are} on {nodes}"))?;
        }
    }
    if change.wait && !placed.settled {
        return Err(StillMoving { partition_id }.into());
    }
    Ok(())
}

/// How far it has come.
async fn look(client: &Client, placed: &mut Placed) -> anyhow::Result<()> {
    let partitions = client.partitions().await?;
    let known = partitions.into_iter().find(|partition| partition.partition_id == placed.partition_id);
    let Some(known) = known else { return Ok(()) };
    placed.settled = known.replicas.len() == placed.target_node_ids.len()
        && placed
            .target_node_ids
            .iter()
            .all(|node| known.replicas.iter().any(|replica| replica.node_id == *node && replica.in_sync));
    placed.replica_node_ids = known.replicas.into_iter().map(|replica| replica.node_id).collect();
    Ok(())
}
