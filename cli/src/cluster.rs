//! `status`, `partitions` and `locate`: the cluster as the router sees it. The messages turn into what is
//! printed here, once, whatever the format.

use paddock_client::{Client, messages};
use serde::Serialize;

use crate::arguments::{Format, Locate, Show};
use crate::{key, output};

#[derive(Serialize)]
struct Status {
    cluster_id: String,
    cluster_name: String,
    version: String,
    healthy: bool,
    coordination_connected: bool,
    partition_count: u32,
    problems: Vec<String>,
    nodes: Vec<Node>,
    routers: Vec<Router>,
}

#[derive(Serialize)]
struct Node {
    node_id: String,
    grpc_address: String,
    version: String,
    live: bool,
    boot_count: u64,
    drained: bool,
}

#[derive(Serialize)]
struct Router {
    router_id: String,
    grpc_address: String,
    http_address: String,
}

#[derive(Serialize)]
struct Partition {
    partition_id: u32,
    slots: Vec<SlotRange>,
    epoch: u64,
    leader_node_id: String,
    min_in_sync: u32,
    replicas: Vec<Replica>,
    target_node_ids: Vec<String>,
    lineage: u64,
    offline: String,
}

/// An object around the list, so that there is room for more beside it.
#[derive(Serialize)]
struct Partitions {
    partitions: Vec<Partition>,
}

#[derive(Serialize)]
struct SlotRange {
    first: u32,
    last: u32,
}

#[derive(Serialize)]
struct Replica {
    node_id: String,
    role: &'static str,
    in_sync: bool,
    live: bool,
    last_sequence: u64,
    committed_sequence: u64,
    applied_sequence: u64,
    record_count: u64,
    disk_bytes: u64,
    problem: String,
    receiving_snapshot: Option<SnapshotTransfer>,
    sending_snapshots: Vec<SnapshotTransfer>,
    generation: u64,
    last_epoch: u64,
    lineage: u64,
    scrub: Option<Scrub>,
}

#[derive(Serialize)]
struct Scrub {
    completed_at_ms: u64,
    completed_bytes: u64,
    running: bool,
    running_bytes: u64,
    damaged_files: u64,
    last_damage: String,
}

#[derive(Serialize)]
struct SnapshotTransfer {
    node_id: String,
    done_bytes: u64,
    total_bytes: u64,
}

#[derive(Serialize)]
struct Route {
    key: String,
    hashed: String,
    slot: u32,
    partition: Option<Partition>,
}

/// `status`.
pub(crate) async fn status(client: &Client, show: Show) -> anyhow::Result<()> {
    let status = Status::from(client.cluster().await?);
    match show.output {
        Format::Json => output::print_json(&status),
        Format::Table => print_status(&status),
    }
}

/// `partitions`.
pub(crate) async fn partitions(client: &Client, show: Show) -> anyhow::Result<()> {
    let partitions: Vec<Partition> = client.partitions().await?.into_iter().map(Partition::from).collect();
    match show.output {
        Format::Json => output::print_json(&Partitions { partitions }),
        Format::Table => print_partitions(&partitions),
    }
}

/// `locate`.
pub(crate) async fn locate(client: &Client, locate: Locate) -> anyhow::Result<()> {
    let answer = client.locate(locate.key.0.clone()).await?;
    let route = Route {
        key: key::show(&locate.key.0),
        hashed: key::show(&answer.hashed),
        slot: answer.slot,
        partition: answer.partition.map(Partition::from),
    };
    match locate.output {
        Format::Json => output::print_json(&route),
        Format::Table => print_route(&route),
    }
}

fn print_status(status: &Status) -> anyhow::Result<()> {
    let health = if status.healthy { "healthy" } else { "not healthy" };
    output::print(format_args!(
        "cluster {} ({}), {health}, {} partitions, router version {}",
        status.cluster_name, status.cluster_id, status.partition_count, status.version
    ))?;
    if !status.coordination_connected {
        output::print("the router has lost the coordination service and goes by the last map it read")?;
    }
    for problem in &status.problems {
        output::print(format_args!("problem: {problem}"))?;
    }
    let mut table = output::table(["NODE", "GRPC", "LIVE", "DRAINED", "STARTS", "VERSION"]);
    for node in &status.nodes {
        let starts = node.boot_count.to_string();
        let (live, drained) = (yes_no(node.live), yes_no(node.drained));
        table.add_row([&node.node_id, &node.grpc_address, live, drained, &starts, &node.version]);
    }
    output::print_table(&table)?;
    let mut table = output::table(["ROUTER", "GRPC", "HTTP"]);
    for router in &status.routers {
        table.add_row([&router.router_id, &router.grpc_address, &router.http_address]);
    }
    output::print_table(&table)?;
    Ok(())
}

fn print_partitions(partitions: &[Partition]) -> anyhow::Result<()> {
    let mut table = output::table([
        "PARTITION",
        "SLOTS",
        "EPOCH",
        "NODE",
        "ROLE",
        "IN SYNC",
        "LIVE",
        "SEQUENCE",
        "COMMITTED",
        "RECORDS",
        "BYTES",
        "SNAPSHOT",
        "PROBLEM",
    ]);
    for partition in partitions {
        let slots =
            partition.slots.iter().map(|range| format!("{}-{}", range.first, range.last)).collect::<Vec<_>>();
        for replica in &partition.replicas {
            table.add_row([
                partition.partition_id.to_string(),
                slots.join(","),
                partition.epoch.to_string(),
                replica.node_id.clone(),
                replica.role.to_owned(),
                yes_no(replica.in_sync).to_owned(),
                yes_no(replica.live).to_owned(),
                replica.last_sequence.to_string(),
                replica.committed_sequence.to_string(),
                replica.record_count.to_string(),
                replica.disk_bytes.to_string(),
                snapshots(replica),
                replica.problem.clone(),
            ]);
        }
    }
    output::print_table(&table)?;
    for offline in partitions.iter().map(|partition| &partition.offline).filter(|why| !why.is_empty()) {
        output::print(offline)?;
    }
    for Partition { partition_id, replicas, target_node_ids, .. } in partitions {
        let is_there = |node: &String| replicas.iter().any(|replica| replica.node_id == *node);
        if replicas.len() != target_node_ids.len() || !target_node_ids.iter().all(is_there) {
            let nodes = target_node_ids.join(", ");
            output::print(format_args!("partition {partition_id}: its replicas are to be on {nodes}"))?;
        }
    }
    Ok(())
}

/// What of a replica is on its way, in words.
fn snapshots(replica: &Replica) -> String {
    let line = |what: &str, transfer: &SnapshotTransfer| {
        let SnapshotTransfer { node_id, done_bytes, total_bytes } = transfer;
        match total_bytes {
            0 => format!("{what} {node_id}: waiting"),
            _ => {
                let percent = u128::from(*done_bytes) * 100 / u128::from(*total_bytes);
                format!("{what} {node_id}: {percent}% of {total_bytes} bytes")
            }
        }
    };
    let receiving = replica.receiving_snapshot.iter().map(|transfer| line("from", transfer));
    let sending = replica.sending_snapshots.iter().map(|transfer| line("to", transfer));
    receiving.chain(sending).collect::<Vec<_>>().join("; ")
}

fn print_route(route: &Route) -> anyhow::Result<()> {
    output::print(format_args!("key        {}", route.key))?;
    if route.hashed != route.key {
        output::print(format_args!("hash tag   {}", route.hashed))?;
    }
    output::print(format_args!("slot       {}", route.slot))?;
    if let Some(partition) = &route.partition {
        let leader = &partition.leader_node_id;
        let leader = if leader.is_empty() { "none yet" } else { leader };
        output::print(format_args!("partition  {}", partition.partition_id))?;
        output::print(format_args!("leader     {leader} (epoch {})", partition.epoch))?;
        for replica in partition.replicas.iter().filter(|replica| replica.node_id != *leader) {
            let in_sync = if replica.in_sync { "in sync" } else { "not in sync" };
            output::print(format_args!("replica    {} ({in_sync})", replica.node_id))?;
        }
    }
    Ok(())
}

fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

impl From<messages::GetClusterResponse> for Status {
    fn from(wire: messages::GetClusterResponse) -> Self {
        Status {
            cluster_id: wire.cluster_id,
            cluster_name: wire.cluster_name,
            version: wire.version,
            healthy: wire.healthy,
            coordination_connected: wire.coordination_connected,
            partition_count: wire.partition_count,
            problems: wire.problems,
            nodes: wire.nodes.into_iter().map(Node::from).collect(),
            routers: wire.routers.into_iter().map(Router::from).collect(),
        }
    }
}

impl From<messages::Node> for Node {
    fn from(wire: messages::Node) -> Self {
        Node {
            node_id: wire.node_id,
            grpc_address: wire.grpc_address,
            version: wire.version,
            live: wire.live,
            boot_count: wire.boot_count,
            drained: wire.drained,
        }
    }
}

impl From<messages::Router> for Router {
    fn from(wire: messages::Router) -> Self {
        Router { router_id: wire.router_id, grpc_address: wire.grpc_address, http_address: wire.http_address }
    }
}

impl From<messages::Partition> for Partition {
    fn from(wire: messages::Partition) -> Self {
        Partition {
            partition_id: wire.partition_id,
            slots: wire
                .slots
                .into_iter()
                .map(|range| SlotRange { first: range.first, last: range.last })
                .collect(),
            epoch: wire.epoch,
            leader_node_id: wire.leader_node_id,
            min_in_sync: wire.min_in_sync,
            replicas: wire.replicas.into_iter().map(Replica::from).collect(),
            target_node_ids: wire.target_node_ids,
            lineage: wire.lineage,
            offline: wire.offline,
        }
    }
}

impl From<messages::Replica> for Replica {
    fn from(wire: messages::Replica) -> Self {
        let role = match wire.role() {
            messages::ReplicaRole::Unspecified => "unknown",
            messages::ReplicaRole::Leader => "leader",
            messages::ReplicaRole::Follower => "follower",
            messages::ReplicaRole::Candidate => "candidate",
            messages::ReplicaRole::Quarantined => "quarantined",
        };
        Replica {
            role,
            node_id: wire.node_id,
            in_sync: wire.in_sync,
            live: wire.live,
            last_sequence: wire.last_sequence,
            committed_sequence: wire.committed_sequence,
            applied_sequence: wire.applied_sequence,
            record_count: wire.record_count,
            disk_bytes: wire.disk_bytes,
            problem: wire.problem,
            receiving_snapshot: wire.receiving_snapshot.map(SnapshotTransfer::from),
            sending_snapshots: wire.sending_snapshots.into_iter().map(SnapshotTransfer::from).collect(),
            generation: wire.generation,
            last_epoch: wire.last_epoch,
            lineage: wire.lineage,
            scrub: wire.scrub.map(Scrub::from),
        }
    }
}

impl From<messages::Scrub> for Scrub {
    fn from(wire: messages::Scrub) -> Self {
        let messages::Scrub {
            completed_at_ms,
            completed_bytes,
            running,
            running_bytes,
            damaged_files,
            last_damage,
        } = wire;
        Scrub { completed_at_ms, completed_bytes, running, running_bytes, damaged_files, last_damage }
    }
}

impl From<messages::SnapshotTransfer> for SnapshotTransfer {
    fn from(wire: messages::SnapshotTransfer) -> Self {
        let messages::SnapshotTransfer { node_id, done_bytes, total_bytes } = wire;
        SnapshotTransfer { node_id, done_bytes, total_bytes }
    }
}
