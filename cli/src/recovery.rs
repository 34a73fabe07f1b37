//! `recover`: a partition that is offline for good goes on from what one replica has. Shown first, and never done silently.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use paddock_client::{Client, messages};
use serde::Serialize;

use crate::arguments::{Format, Recover};
use crate::output;

/// How often is looked whether the chosen replica leads.
const POLL: Duration = Duration::from_millis(100);

#[derive(Serialize)]
struct Recovery {
    partition_id: u32,
    epoch: u64,
    lineage: u64,
    chosen_node_id: String,
    sources: Vec<Source>,
    lost: Vec<String>,
    refusal: String,
    recovered: bool,
    /// Who leads; empty: nobody yet.
    leader_node_id: String,
}

#[derive(Serialize)]
struct Source {
    node_id: String,
    generation: u64,
    lineage: u64,
    last_epoch: u64,
    last_sequence: u64,
    committed_sequence: u64,
    record_count: u64,
}

/// Nothing was done, since nobody has consented to it.
#[derive(Debug, thiserror::Error)]
#[error("nothing was changed: {why}")]
pub(crate) struct NotConfirmed {
    why: String,
}

/// It is written, and the chosen replica does not lead yet.
#[derive(Debug, thiserror::Error)]
#[error(
    "partition {partition_id} was recovered, and node {node_id} does not lead it yet: see paddock partitions"
)]
pub(crate) struct StillOffline {
    partition_id: u32,
    node_id: String,
}

/// `recover`.
pub(crate) async fn recover(client: &Client, recover: Recover, timeout: Duration) -> anyhow::Result<()> {
    let Recover { partition, node, accept_data_loss, output: format } = recover;
    let found = Recovery::new(partition, client.recovery(partition, node.as_deref()).await?);
    let consent = consent(&found, accept_data_loss, format);
    if format == Format::Table {
        show(&found)?;
    } else if consent.is_err() {
        output::print_json(&found)?;
    }
    match consent {
        Ok(Consent::Given) => {}
        Ok(Consent::Asked) => ask(partition)?,
        Err(why) => return Err(NotConfirmed { why }.into()),
    }
    let done = client.recover_with_data_loss(partition, &found.chosen_node_id, found.epoch).await?;
    let mut done = Recovery::new(partition, done);
    done.leader_node_id = wait_for_leader(client, partition, Instant::now() + timeout).await?;
    match format {
        Format::Json => output::print_json(&done)?,
        Format::Table => output::print(format_args!(
            "partition {partition} goes on from node {}, in lineage {}: what that lacked is lost",
            done.chosen_node_id, done.lineage
        ))?,
    }
    if done.leader_node_id.is_empty() {
        return Err(StillOffline { partition_id: partition, node_id: done.chosen_node_id }.into());
    }
    Ok(())
}

/// How the operator consents.
enum Consent {
    /// By the flag.
    Given,
    /// At the terminal.
    Asked,
}

fn consent(found: &Recovery, accept_data_loss: bool, format: Format) -> Result<Consent, String> {
    if !found.refusal.is_empty() {
        return Err(format!("partition {}: {}", found.partition_id, found.refusal));
    }
    if accept_data_loss {
        Ok(Consent::Given)
    } else if format == Format::Table && io::stdin().is_terminal() {
        Ok(Consent::Asked)
    } else {
        Err("to go on, and lose what the chosen replica lacks, say --accept-data-loss".to_owned())
    }
}

fn ask(partition: u32) -> anyhow::Result<()> {
    let mut stderr = io::stderr();
    write!(stderr, "To go on and lose what that replica lacks, type the partition's number: ")?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    if answer.trim() == partition.to_string() {
        return Ok(());
    }
    Err(NotConfirmed { why: "that is not the partition's number".to_owned() }.into())
}

fn show(found: &Recovery) -> anyhow::Result<()> {
    let Recovery { partition_id, epoch, lineage, .. } = found;
    output::print(format_args!("partition {partition_id}, epoch {epoch}, lineage {lineage}"))?;
    for lost in &found.lost {
        output::print(format_args!("held all that was acknowledged: {lost}"))?;
    }
    let header = ["NODE", "LINEAGE", "LAST EPOCH", "LAST SEQUENCE", "COMMITTED", "RECORDS", "GENERATION", ""];
    let mut table = output::table(header);
    for source in &found.sources {
        let is_chosen = source.node_id == found.chosen_node_id;
        table.add_row([
            source.node_id.clone(),
            source.lineage.to_string(),
            source.last_epoch.to_string(),
            source.last_sequence.to_string(),
            source.committed_sequence.to_string(),
            source.record_count.to_string(),
            source.generation.to_string(),
            if is_chosen { "to go on from" } else { "" }.to_owned(),
        ]);
    }
    output::print_table(&table)?;
    if found.refusal.is_empty() {
        output::print(
            "Every write that was acknowledged and is not in that replica WILL BE LOST, also if a server that is away comes \
             back: what it has beyond is discarded then. How much that is nobody can say here.",
        )?;
    }
    Ok(())
}

/// Who leads, by the deadline.
async fn wait_for_leader(client: &Client, partition: u32, deadline: Instant) -> anyhow::Result<String> {
    loop {
        let partitions = client.partitions().await?;
        let leads = |replica: &&messages::Replica| replica.role() == messages::ReplicaRole::Leader;
        let found = partitions.iter().find(|known| known.partition_id == partition);
        if let Some(leader) = found.and_then(|known| known.replicas.iter().find(leads)) {
            return Ok(leader.node_id.clone());
        }
        if Instant::now() >= deadline {
            return Ok(String::new());
        }
        tokio::time::sleep(POLL).await;
    }
}

impl Recovery {
    fn new(partition_id: u32, wire: messages::RecoverPartitionResponse) -> Self {
        let source = |source: messages::RecoverySource| Source {
            node_id: source.node_id,
            generation: source.generation,
            lineage: source.lineage,
            last_epoch: source.last_epoch,
            last_sequence: source.last_sequence,
            committed_sequence: source.committed_sequence,
            record_count: source.record_count,
        };
        Recovery {
            partition_id,
            epoch: wire.epoch,
            lineage: wire.lineage,
            chosen_node_id: wire.chosen_node_id,
            sources: wire.sources.into_iter().map(source).collect(),
            lost: wire.lost,
            refusal: wire.refusal,
            recovered: wire.recovered,
            leader_node_id: String::new(),
        }
    }
}
