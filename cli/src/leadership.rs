//! `transfer` and `drain`: who leads, as the operator wants it.

use std::time::{Duration, Instant};

use paddock_client::Client;
use serde::Serialize;

use crate::arguments::{Drain, Format, Transfer};
use crate::output;

/// How often is looked whether a drained node still leads something.
const DRAIN_POLL: Duration = Duration::from_millis(50);

#[derive(Serialize)]
struct Transferred {
    partition_id: u32,
    from_node_id: String,
    leader_node_id: String,
    epoch: u64,
    duration_ms: f64,
}

#[derive(Serialize)]
struct Drained {
    node_id: String,
    drained: bool,
    leading_partition_ids: Vec<u32>,
}

/// The node is drained, and still leads something: nobody else could take that over in the time that there was.
#[derive(Debug, thiserror::Error)]
#[error(
    "node {node_id} is drained, and still leads {}: no other replica has taken over yet",
    partitions(leading)
)]
pub(crate) struct StillLeads {
    node_id: String,
    leading: Vec<u32>,
}

/// `transfer`.
pub(crate) async fn transfer(client: &Client, transfer: Transfer) -> anyhow::Result<()> {
    let ended = client.transfer_leadership(transfer.partition, transfer.to.as_deref()).await?;
    let transferred = Transferred {
        partition_id: transfer.partition,
        from_node_id: ended.from_node_id,
        leader_node_id: ended.leader_node_id,
        epoch: ended.epoch,
        duration_ms: ended.duration_us as f64 / 1_000.0,
    };
    match transfer.output {
        Format::Json => output::print_json(&transferred),
        Format::Table => Ok(output::print(sentence(&transferred))?),
    }
}

/// `drain`. Waits until the node leads nothing, for as long as one request may take.
pub(crate) async fn drain(client: &Client, drain: Drain, timeout: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + timeout;
    let drained = !drain.off;
    let mut leading = client.set_node_drained(&drain.node, drained).await?;
    while drained && !leading.is_empty() && Instant::now() < deadline {
        tokio::time::sleep(DRAIN_POLL).await;
        let partitions = client.partitions().await?;
        let led = partitions.iter().filter(|partition| partition.leader_node_id == drain.node);
        leading = led.map(|partition| partition.partition_id).collect();
    }
    let result = Drained { node_id: drain.node, drained, leading_partition_ids: leading };
    match drain.output {
        Format::Json => output::print_json(&result)?,
        Format::Table if drained && result.leading_partition_ids.is_empty() => {
            output::print(format_args!("node {} is drained, and leads nothing", result.node_id))?;
        }
        Format::Table if drained => {}
        Format::Table => {
            output::print(format_args!("node {} is drained no more", result.node_id))?;
        }
    }
    if drained && !result.leading_partition_ids.is_empty() {
        let Drained { node_id, leading_partition_ids: leading, .. } = result;
        return Err(StillLeads { node_id, leading }.into());
    }
    Ok(())
}

fn sentence(transferred: &Transferred) -> String {
    let Transferred { partition_id, from_node_id, leader_node_id, epoch, duration_ms } = transferred;
    if from_node_id == leader_node_id {
        return format!("partition {partition_id}: node {leader_node_id} leads already (epoch {epoch})");
    }
    let leader = if leader_node_id.is_empty() { "somebody else" } else { leader_node_id };
    format!(
        "partition {partition_id}: from node {from_node_id} to node {leader}, epoch {epoch}, in {duration_ms:.1} ms"
    )
}

fn partitions(ids: &[u32]) -> String {
    let list = ids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    format!("{} {list}", if ids.len() == 1 { "partition" } else { "partitions" })
}
