//! A cluster of partition servers in one process, and a bare Exchange stream to speak to them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use paddock_coordination::bootstrap::NewCluster;
use paddock_coordination::cluster_map::ClusterMap;
use paddock_coordination::embedded::Embedded;
use paddock_coordination::{
    ClusterId, Coordinator, NodeId, NodeRecord, PartitionId, PartitionState, ReplicaTarget, leaders, paths,
    records,
};
use paddock_partition::controller::ControllerOptions;
use paddock_partition::host::{CareOptions, FatalError};
use paddock_partition::scrub::ScrubOptions;
use paddock_partition::server::{PartitionServer, ServerConfig, StartError};
use paddock_partition::snapshot::CatchUpOptions;
use paddock_proto::admin::v1::node_service_client::NodeServiceClient;
use paddock_proto::admin::v1::{
    GetNodeStatusRequest, Replica, TransferNodeLeadershipRequest, TransferNodeLeadershipResponse,
};
use paddock_proto::metadata;
use paddock_proto::replication::v1::replication_service_client::ReplicationServiceClient;
use paddock_proto::replication::v1::{FetchSnapshotRequest, FetchSnapshotResponse, Position};
use paddock_proto::request_id::RequestId;
use paddock_proto::v1::exchange_service_client::ExchangeServiceClient;
use paddock_proto::v1::precondition::Condition;
use paddock_proto::v1::{
    ErrorReason, ExchangeRequest, ExchangeResponse, Mutation, Operation, Outcome, Precondition,
    ReadConsistency, ReadOperation, ReadRangeOperation, mutation, operation, outcome, read_consistency,
};
use paddock_storage::Options;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// How long anything may take before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// So that it is seen.
const REMOVE_DEPARTED_AFTER: Duration = Duration::from_millis(200);
/// A short lease, so that failures are noticed soon.
const LEASE_MS: u64 = 300;

struct Running {
    server: PartitionServer,
    data: PathBuf,
    /// Its session: dropped, its registrations vanish.
    _session: Arc<dyn Coordinator>,
}

/// A node that was stopped.
#[derive(Clone)]
pub struct Parked {
    data: PathBuf,
    shape: NewCluster,
}

/// Copies a folder.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
        }
    }
}

impl Parked {
    /// Its data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Starts it on another coordination service.
    pub async fn start_in(self, coordination: &Path) -> Result<(), StartError> {
        let embedded = Embedded::open(coordination).expect("a coordination service");
        let session = Arc::new(embedded.session());
        let kept = (CatchUpOptions::default(), CareOptions::default());
        let config = config(&self.data, &self.shape, Options::new(), ControllerOptions::default(), kept);
        PartitionServer::start(config, session).await.map(drop)
    }
}

/// Partition servers over one embedded coordination service.
pub struct Cluster {
    root: TempDir,
    embedded: Embedded,
    observer: Arc<dyn Coordinator>,
    shape: NewCluster,
    storage: Options,
    controller: ControllerOptions,
    catch_up: CatchUpOptions,
    care: CareOptions,
    nodes: HashMap<NodeId, Running>,
    id: Option<ClusterId>,
}

fn config(
    data: &Path,
    shape: &NewCluster,
    storage: Options,
    controller: ControllerOptions,
    (catch_up, care): (CatchUpOptions, CareOptions),
) -> ServerConfig {
    ServerConfig {
        data: data.to_owned(),
        replace_node: None,
        grpc_address: "127.0.0.1:0".parse().expect("an address"),
        advertise_address: None,
        http_address: Some("127.0.0.1:0".parse().expect("an address")),
        cluster_name: "test".into(),
        new_cluster: shape.clone(),
        storage,
        controller,
        remove_departed_after: Some(REMOVE_DEPARTED_AFTER),
        catch_up,
        care,
    }
}

/// Everything again and again, so that damage is found soon.
pub fn eager_scrub() -> CareOptions {
    let scrub = ScrubOptions { bytes_per_second: 256 << 20, every: Duration::from_millis(100) };
    CareOptions { scrub, ..CareOptions::default() }
}

impl Cluster {
    /// So many nodes, each with a replica of each partition.
    pub async fn start(nodes: u32, partitions: u32) -> Cluster {
        Cluster::start_with(nodes, partitions, Options::new()).await
    }

    /// The same, with stores that are kept in another way.
    pub async fn start_with(nodes: u32, partitions: u32, storage: Options) -> Cluster {
        Cluster::start_catching_up(nodes, partitions, storage, CatchUpOptions::default()).await
    }

    /// The same, with replicas that catch up in another way.
    pub async fn start_catching_up(
        nodes: u32,
        partitions: u32,
        storage: Options,
        catch_up: CatchUpOptions,
    ) -> Cluster {
        let shape =
            NewCluster { partitions, replication_factor: nodes, initial_nodes: nodes, lease_ms: LEASE_MS };
        let kept = (catch_up, CareOptions::default());
        Cluster::launch_all(nodes, shape, storage, ControllerOptions::default(), kept).await
    }

    /// The same, with files that are verified in another way.
    pub async fn start_scrubbing(
        nodes: u32,
        partitions: u32,
        storage: Options,
        kept: (CatchUpOptions, CareOptions),
    ) -> Cluster {
        let shape =
            NewCluster { partitions, replication_factor: nodes, initial_nodes: nodes, lease_ms: LEASE_MS };
        Cluster::launch_all(nodes, shape, storage, ControllerOptions::default(), kept).await
    }

    /// The same, with a lease of one's own.
    pub async fn start_leasing(nodes: u32, partitions: u32, lease_ms: u64) -> Cluster {
        let shape = NewCluster { partitions, replication_factor: nodes, initial_nodes: nodes, lease_ms };
        Cluster::launch_quiet(nodes, shape, ControllerOptions::default()).await
    }

    /// So many nodes, two of which have a replica of the one partition; a node that is away for so long loses it to another.
    pub async fn start_with_spares(nodes: u32, replace_after: Option<Duration>) -> Cluster {
        Cluster::start_with_spares_catching_up(
            nodes,
            replace_after,
            Options::new(),
            CatchUpOptions::default(),
        )
        .await
    }

    /// The same, with stores that are kept, and replicas that catch up, in another way.
    pub async fn start_with_spares_catching_up(
        nodes: u32,
        replace_after: Option<Duration>,
        storage: Options,
        catch_up: CatchUpOptions,
    ) -> Cluster {
        let shape =
            NewCluster { partitions: 1, replication_factor: 2, initial_nodes: nodes, lease_ms: LEASE_MS };
        let controller = ControllerOptions { replace_after, ..Default::default() };
        Cluster::launch_all(nodes, shape, storage, controller, (catch_up, CareOptions::default())).await
    }

    /// So many nodes, each with a replica of each partition; leaders are moved for an even spread when all was quiet for so long.
    pub async fn start_spreading(nodes: u32, partitions: u32, quiet_for: Duration) -> Cluster {
        let shape =
            NewCluster { partitions, replication_factor: nodes, initial_nodes: nodes, lease_ms: LEASE_MS };
        let controller = ControllerOptions { spread_leaders_after: Some(quiet_for), ..Default::default() };
        Cluster::launch_quiet(nodes, shape, controller).await
    }

    async fn launch_quiet(nodes: u32, shape: NewCluster, controller: ControllerOptions) -> Cluster {
        Cluster::launch_all(nodes, shape, Options::new(), controller, Default::default()).await
    }

    async fn launch_all(
        nodes: u32,
        shape: NewCluster,
        storage: Options,
        controller: ControllerOptions,
        (catch_up, care): (CatchUpOptions, CareOptions),
    ) -> Cluster {
        let root = tempfile::tempdir().expect("a directory");
        let embedded = Embedded::open(&root.path().join("coordination")).expect("a coordination service");
        let observer: Arc<dyn Coordinator> = Arc::new(embedded.session());
        let running = HashMap::new();
        let mut cluster = Cluster {
            root,
            embedded,
            observer,
            shape,
            storage,
            controller,
            catch_up,
            care,
            nodes: running,
            id: None,
        };
        for number in 0..nodes {
            let data = cluster.root.path().join(format!("node{number}"));
            cluster.launch(data).await;
        }
        cluster.id = Some(cluster.until("a cluster", |map| Some(map.cluster.as_ref()?.id)).await);
        cluster
    }

    /// The partition's replicas, in their order.
    pub async fn replicas(&self, partition: u32) -> Vec<NodeId> {
        let replicas =
            |map: &ClusterMap| Some(map.partitions.get(&PartitionId(partition))?.state.replicas.clone());
        self.until("a partition", replicas).await
    }

    /// The running nodes without a replica of the partition.
    pub async fn spares(&self, partition: u32) -> Vec<NodeId> {
        let replicas = self.replicas(partition).await;
        self.nodes.keys().copied().filter(|node| !replicas.contains(node)).collect()
    }

    /// Says where a partition's replicas are to be.
    pub async fn set_target(&self, partition: u32, replicas: &[NodeId]) {
        let id = PartitionId(partition);
        let uuid = |map: &ClusterMap| Some(map.partitions.get(&id)?.state.partition_uuid);
        let target = ReplicaTarget {
            partition_uuid: self.until("a partition", uuid).await,
            replicas: replicas.to_vec(),
        };
        let (path, value) = (paths::partition_target(id), records::encode(&target));
        match self.observer.get(&path).await.expect("the target is read") {
            Some(known) => self.observer.compare_and_set(&path, value, known.version).await,
            None => self.observer.create(&path, value).await,
        }
        .expect("the target is written");
    }

    /// Waits until these are the partition's replicas, in whatever order, and all of them in sync.
    pub async fn settled_on(&self, partition: u32, replicas: &[NodeId]) {
        let wanted: BTreeSet<NodeId> = replicas.iter().copied().collect();
        self.until("replicas on these nodes", |map| {
            let state = &map.partitions.get(&PartitionId(partition))?.state;
            let in_sync = state.in_sync.iter().map(|member| member.node).collect();
            (state.replicas.iter().copied().collect::<BTreeSet<_>>() == wanted && wanted == in_sync)
                .then_some(())
        })
        .await;
    }

    fn config(&self, data: &Path) -> ServerConfig {
        config(data, &self.shape, self.storage.clone(), self.controller, (self.catch_up, self.care))
    }

    async fn launch(&mut self, data: PathBuf) -> NodeId {
        let session: Arc<dyn Coordinator> = Arc::new(self.embedded.session());
        let server =
            PartitionServer::start(self.config(&data), Arc::clone(&session)).await.expect("the node starts");
        let node = server.node_id();
        self.nodes.insert(node, Running { server, data, _session: session });
        node
    }

    /// Waits until the map fulfils a condition, and returns what it yields.
    async fn until<T>(&self, what: &str, condition: impl Fn(&ClusterMap) -> Option<T>) -> T {
        let mut watch = self.observer.watch("/");
        let wait = async {
            loop {
                let map = ClusterMap::from_tree(&watch.borrow_and_update()).expect("a map");
                if let Some(found) = condition(&map) {
                    return found;
                }
                watch.changed().await.expect("the watch lasts");
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(found) => found,
            Err(_) => {
                let map = ClusterMap::from_tree(&watch.borrow()).expect("a map");
                panic!("{what} did not happen: {map:#?}")
            }
        }
    }

    /// The cluster's id.
    pub fn id(&self) -> ClusterId {
        self.id.expect("set at the start")
    }

    /// The partition's leader, once there is one among the running nodes.
    pub async fn leader(&self, partition: u32) -> NodeId {
        self.until("a leader", |map| {
            let leader = map.partitions.get(&PartitionId(partition))?.state.leader?.node;
            self.nodes.contains_key(&leader).then_some(leader)
        })
        .await
    }

    /// Waits until the numbers of partitions that nodes lead are such, and returns them. Who may not lead is not among them.
    pub async fn leads(
        &self,
        what: &str,
        is_such: impl Fn(&BTreeMap<NodeId, usize>) -> bool,
    ) -> BTreeMap<NodeId, usize> {
        self.until(what, |map| Some(leaders::leaders(map)).filter(|counts| is_such(counts))).await
    }

    /// The leader that comes after one.
    pub async fn next_leader(&self, partition: u32, former: NodeId) -> NodeId {
        self.until("another leader", |map| {
            let leader = map.partitions.get(&PartitionId(partition))?.state.leader?.node;
            (leader != former).then_some(leader)
        })
        .await
    }

    /// A replica that does not lead.
    pub async fn follower(&self, partition: u32) -> NodeId {
        let leader = self.leader(partition).await;
        self.until("a follower", |map| {
            let state = &map.partitions.get(&PartitionId(partition))?.state;
            state.replicas.iter().copied().find(|node| *node != leader)
        })
        .await
    }

    /// Which life of its data a node's replica is, once it is in sync.
    pub async fn generation(&self, partition: u32, node: NodeId) -> u64 {
        self.until("a replica in sync", |map| {
            let state = &map.partitions.get(&PartitionId(partition))?.state;
            Some(state.in_sync.iter().find(|member| member.node == node)?.generation.0)
        })
        .await
    }

    /// Waits until so many replicas are in sync.
    pub async fn in_sync(&self, partition: u32, members: usize) {
        self.until("an in-sync set of that size", |map| {
            (map.partitions.get(&PartitionId(partition))?.state.in_sync.len() == members).then_some(())
        })
        .await;
    }

    /// Waits until a node has applied a sequence.
    pub async fn applied(&self, node: NodeId, partition: u32, sequence: u64) {
        self.replica_until(node, partition, |replica| (replica.applied_sequence >= sequence).then_some(()))
            .await;
    }

    /// Waits until what a node says of its replica yields something.
    pub async fn replica_until<T>(
        &self,
        node: NodeId,
        partition: u32,
        what: impl Fn(&Replica) -> Option<T>,
    ) -> T {
        self.replica_within(PATIENCE, node, partition, what).await
    }

    /// The same, for so long at most.
    pub async fn replica_within<T>(
        &self,
        patience: Duration,
        node: NodeId,
        partition: u32,
        what: impl Fn(&Replica) -> Option<T>,
    ) -> T {
        let endpoint = format!("http://{}", self.address(node));
        let mut client = NodeServiceClient::connect(endpoint).await.expect("the node answers");
        let wait = async {
            loop {
                let status = client.get_node_status(GetNodeStatusRequest {}).await.expect("a status");
                let replicas = status.into_inner().replicas;
                let found = replicas.into_iter().find(|replica| replica.partition_id == partition);
                if let Some(found) = found.and_then(|found| what(&found.replica?)) {
                    return found;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(patience, wait).await.expect("the replica gets there")
    }

    /// Waits until every node counts so many records.
    pub async fn records(&self, partition: u32, records: u64) {
        for node in self.nodes.keys() {
            let endpoint = format!("http://{}", self.address(*node));
            let mut client = NodeServiceClient::connect(endpoint).await.expect("the node answers");
            let wait = async {
                loop {
                    let status = client.get_node_status(GetNodeStatusRequest {}).await.expect("a status");
                    let replicas = status.into_inner().replicas;
                    let found = replicas.iter().find(|replica| replica.partition_id == partition);
                    let replica = found.and_then(|replica| replica.replica.as_ref());
                    if replica.is_some_and(|replica| replica.record_count == records) {
                        return;
                    }
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(PATIENCE, wait).await.expect("so many records");
        }
    }

    /// Bytes of answers that wait in all nodes.
    pub fn answers_waiting_bytes(&self) -> i64 {
        self.nodes.values().map(|running| running.server.answers_waiting_bytes()).sum()
    }

    /// The nodes that run.
    pub fn running(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    /// Where a running node keeps its data.
    pub fn data(&self, node: NodeId) -> &Path {
        &self.nodes[&node].data
    }

    /// Where a node listens.
    pub fn address(&self, node: NodeId) -> String {
        self.nodes[&node].server.grpc_address().to_string()
    }

    /// What a node's `/readyz` says: the status line's code, and the body.
    pub async fn ready(address: SocketAddr) -> std::io::Result<(u16, String)> {
        Cluster::http(address, "/readyz").await
    }

    /// A node's metrics.
    pub async fn metrics(&self, node: NodeId) -> String {
        Cluster::http(self.http_address(node), "/metrics").await.expect("metrics").1
    }

    /// Waits until a node's metrics fulfil a condition.
    pub async fn metrics_until(&self, node: NodeId, condition: impl Fn(&str) -> bool) {
        let wait = async {
            while !condition(&self.metrics(node).await) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the metrics get there");
    }

    async fn http(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        Ok((code, body.to_owned()))
    }

    /// Where a node listens for HTTP.
    pub fn http_address(&self, node: NodeId) -> SocketAddr {
        self.nodes[&node].server.http_address().expect("it listens")
    }

    /// Waits until a node cannot go on, and says why. It is not stopped.
    pub async fn failed(&mut self, node: NodeId) -> FatalError {
        let server = &mut self.nodes.get_mut(&node).expect("a running node").server;
        tokio::time::timeout(PATIENCE, server.failed()).await.expect("it fails")
    }

    /// Takes a node out, to be stopped by the test itself.
    pub fn take(&mut self, node: NodeId) -> PartitionServer {
        self.nodes.remove(&node).expect("a running node").server
    }

    /// What the coordination service knows, when it fulfils a condition.
    pub async fn state(&self, partition: u32, what: &str, condition: impl Fn(&PartitionState) -> bool) {
        self.until(what, |map| condition(&map.partitions.get(&PartitionId(partition))?.state).then_some(()))
            .await;
    }

    /// Has a node hand its partition over.
    pub async fn transfer(
        &self,
        node: NodeId,
        partition_id: u32,
        to: Option<NodeId>,
    ) -> Result<TransferNodeLeadershipResponse, Status> {
        let endpoint = format!("http://{}", self.address(node));
        let mut client = NodeServiceClient::connect(endpoint).await.expect("the node answers");
        let to_node_id = to.map(|to| to.to_string()).unwrap_or_default();
        let request = TransferNodeLeadershipRequest { node_id: node.to_string(), partition_id, to_node_id };
        client.transfer_node_leadership(request).await.map(tonic::Response::into_inner)
    }

    /// Has a node hand its partition over, as soon as another one says that it can take over.
    pub async fn transfer_when_possible(
        &self,
        node: NodeId,
        partition_id: u32,
        to: Option<NodeId>,
    ) -> NodeId {
        let wait = async {
            loop {
                match self.transfer(node, partition_id, to).await {
                    Ok(done) => return done.leader_node_id.parse().expect("a leader that is known"),
                    Err(status) => assert_eq!(status.code(), tonic::Code::FailedPrecondition, "{status}"),
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("it is handed over")
    }

    /// Waits until a leader refuses to hand partition 0 over in these words; until it is ready it has others.
    pub async fn refused(&self, node: NodeId, to: Option<NodeId>, words: &str) {
        let wait = async {
            loop {
                let status = self.transfer(node, 0, to).await.expect_err("it is refused");
                if status.message().contains(words) {
                    return;
                }
                assert!(status.message().contains("not ready"), "{status}");
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("it is refused in these words");
    }

    /// Drains a node, or ends that.
    pub async fn set_drained(&self, node: NodeId, drained: bool) {
        let path = paths::node(node);
        let found = self.observer.get(&path).await.expect("answers").expect("a record");
        let record: NodeRecord = records::decode(&found.value).expect("a record");
        let record = records::encode(&NodeRecord { drained, ..record });
        self.observer.compare_and_set(&path, record, found.version).await.expect("nobody else writes");
    }

    /// Asks a leader for the first snapshot of its reign, which it keeps for a node, in that node's name.
    pub async fn fetch_snapshot(
        &self,
        leader: NodeId,
        as_node: NodeId,
        partition: u32,
        last: u64,
    ) -> Streaming<FetchSnapshotResponse> {
        let (partition_uuid, epoch) = self
            .until("a partition", |map| {
                let state = &map.partitions.get(&PartitionId(partition))?.state;
                Some((state.partition_uuid, state.epoch.0))
            })
            .await;
        let address = format!("http://{}", self.address(leader));
        let mut client = ReplicationServiceClient::connect(address).await.expect("connects");
        let mut request = tonic::Request::new(FetchSnapshotRequest {
            partition_id: partition,
            partition_uuid: partition_uuid.to_string(),
            epoch,
            last: Some(Position { epoch, sequence: last }),
            attempt: 1,
        });
        let header = request.metadata_mut();
        header.insert(metadata::CLUSTER_ID, self.id().to_string().parse().expect("ASCII"));
        header.insert(metadata::NODE_ID, leader.to_string().parse().expect("ASCII"));
        header.insert(metadata::FROM_NODE_ID, as_node.to_string().parse().expect("ASCII"));
        client.fetch_snapshot(request).await.expect("there is one").into_inner()
    }

    /// A stream to a node.
    pub async fn stream(&self, node: NodeId) -> Stream {
        Stream::open(&self.address(node), self.id(), node).await.expect("the stream opens")
    }

    /// A stream to a partition's leader, once that serves.
    pub async fn leader_stream(&self, partition: u32) -> Stream {
        let wait = async {
            loop {
                // Whoever the map names may have led before a restart, and no longer.
                let mut stream = self.stream(self.leader(partition).await).await;
                let outcome = stream.one(on(partition, read("is it there?"))).await;
                if let Some(outcome::Kind::Read(_)) = outcome.kind {
                    return stream;
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("a leader serves")
    }

    /// Stops a node.
    pub async fn stop_node(&mut self, node: NodeId) -> Parked {
        let running = self.nodes.remove(&node).expect("a running node");
        running.server.stop().await;
        Parked { data: running.data, shape: self.shape.clone() }
    }

    /// Stops a node that hands nothing over, nor waits for anybody to whom it could.
    pub async fn stop_node_without_handover(&mut self, node: NodeId) -> Parked {
        let running = self.nodes.remove(&node).expect("a running node");
        running.server.stop_without_handover().await;
        Parked { data: running.data, shape: self.shape.clone() }
    }

    /// Starts it again.
    pub async fn start_node(&mut self, parked: Parked) -> NodeId {
        self.launch(parked.data).await
    }

    /// Starts a node in an empty directory, in the place of one that was lost.
    pub async fn replace_node(&mut self, lost: Parked, node: NodeId) {
        std::fs::remove_dir_all(&lost.data).expect("removed");
        let session: Arc<dyn Coordinator> = Arc::new(self.embedded.session());
        let config = ServerConfig { replace_node: Some(node), ..self.config(&lost.data) };
        let server = PartitionServer::start(config, Arc::clone(&session)).await.expect("the node starts");
        assert_eq!(server.node_id(), node);
        self.nodes.insert(node, Running { server, data: lost.data, _session: session });
    }

    /// Stops all nodes, then starts them.
    pub async fn restart_all(&mut self) {
        let nodes: Vec<_> = self.nodes.keys().copied().collect();
        let mut parked = Vec::new();
        for node in nodes {
            parked.push(self.stop_node(node).await);
        }
        for node in parked {
            self.start_node(node).await;
        }
    }

    /// Stops everything.
    pub async fn stop(self) {
        for running in self.nodes.into_values() {
            running.server.stop().await;
        }
    }
}

/// One Exchange stream.
#[derive(Debug)]
pub struct Stream {
    requests: mpsc::Sender<ExchangeRequest>,
    responses: Streaming<ExchangeResponse>,
    next_id: u64,
}

impl Stream {
    /// Opens a stream that is meant for a node.
    pub async fn open(address: &str, cluster: ClusterId, node: NodeId) -> Result<Stream, Status> {
        let mut client = ExchangeServiceClient::connect(format!("http://{address}")).await.expect("connects");
        let (requests, receiver) = mpsc::channel(4);
        let mut request = tonic::Request::new(ReceiverStream::new(receiver));
        let header = request.metadata_mut();
        header.insert(metadata::CLUSTER_ID, cluster.to_string().parse().expect("ASCII"));
        header.insert(metadata::NODE_ID, node.to_string().parse().expect("ASCII"));
        let responses = client.exchange(request).await?.into_inner();
        Ok(Stream { requests, responses, next_id: 1 })
    }

    /// Sends operations as one message, and returns their outcomes in the same order.
    pub async fn call(&mut self, mut operations: Vec<Operation>) -> Vec<Outcome> {
        let first = self.next_id;
        for operation in &mut operations {
            operation.operation_id = self.next_id;
            self.next_id += 1;
        }
        let mut outcomes = vec![None; operations.len()];
        self.requests.send(ExchangeRequest { operations }).await.expect("the stream stands");
        while outcomes.iter().any(Option::is_none) {
            let message = tokio::time::timeout(PATIENCE, self.responses.message());
            let message = message.await.expect("an answer in time").expect("no error").expect("no end");
            for outcome in message.outcomes {
                let index = usize::try_from(outcome.operation_id - first).expect("small");
                assert!(outcomes[index].replace(outcome).is_none(), "answered twice");
            }
        }
        outcomes.into_iter().flatten().collect()
    }

    /// Sends operations as one message, and does not wait for their outcomes. False: the stream takes no more.
    pub async fn cast(&mut self, mut operations: Vec<Operation>, patience: Duration) -> bool {
        for operation in &mut operations {
            operation.operation_id = self.next_id;
            self.next_id += 1;
        }
        let sent = self.requests.send(ExchangeRequest { operations });
        tokio::time::timeout(patience, sent).await.is_ok()
    }

    /// Takes so many outcomes.
    pub async fn take(&mut self, count: usize) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        while outcomes.len() < count {
            let message = tokio::time::timeout(PATIENCE, self.responses.message());
            let message = message.await.expect("an answer in time").expect("no error").expect("no end");
            outcomes.extend(message.outcomes);
        }
        outcomes
    }

    /// One operation.
    pub async fn one(&mut self, operation: Operation) -> Outcome {
        self.call(vec![operation]).await.remove(0)
    }

    /// One write with a request id, sent again until it is decided.
    pub async fn settled_write(&mut self, operation: Operation) -> Outcome {
        let wait = async {
            loop {
                let outcome = self.one(operation.clone()).await;
                match &outcome.kind {
                    Some(outcome::Kind::Failure(failure))
                        if failure.outcome_unknown
                            || failure.reason() == ErrorReason::PartitionUnavailable
                            || failure.reason() == ErrorReason::NotLeader =>
                    {
                        tokio::task::yield_now().await;
                    }
                    _ => return outcome,
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the partition decides")
    }

    /// One read, asked again for as long as the partition is not ready for it.
    pub async fn settled(&mut self, operation: Operation) -> Outcome {
        let wait = async {
            loop {
                let outcome = self.one(operation.clone()).await;
                match &outcome.kind {
                    Some(outcome::Kind::Failure(failure)) if !failure.outcome_unknown => {
                        tokio::task::yield_now().await;
                    }
                    _ => return outcome,
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the partition serves")
    }
}

fn operation(kind: operation::Kind) -> Operation {
    Operation { operation_id: 0, partition_id: 0, timeout_ms: 10_000, kind: Some(kind) }
}

/// The same on another partition.
pub fn on(partition: u32, operation: Operation) -> Operation {
    Operation { partition_id: partition, ..operation }
}

/// The same with another deadline.
pub fn within(timeout_ms: u32, operation: Operation) -> Operation {
    Operation { timeout_ms, ..operation }
}

fn write(mutation: mutation::Operation, condition: Option<Condition>) -> Operation {
    let precondition = condition.map(|condition| Precondition { condition: Some(condition) });
    operation(operation::Kind::Write(Mutation {
        operation: Some(mutation),
        precondition,
        request_id: String::new(),
    }))
}

fn put_mutation(key: &str, value: &str) -> mutation::Operation {
    mutation::Operation::Put(mutation::Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
    })
}

/// The same under a request id.
pub fn named(id: RequestId, mut operation: Operation) -> Operation {
    if let Some(operation::Kind::Write(mutation)) = &mut operation.kind {
        mutation.request_id = id.to_string();
    }
    operation
}

/// A put.
pub fn put(key: &str, value: &str) -> Operation {
    write(put_mutation(key, value), None)
}

/// A put under a condition.
pub fn put_if(key: &str, value: &str, condition: Condition) -> Operation {
    write(put_mutation(key, value), Some(condition))
}

/// A delete.
pub fn remove(key: &str) -> Operation {
    let key = Bytes::copy_from_slice(key.as_bytes());
    write(mutation::Operation::Delete(mutation::Delete { key }), None)
}

fn read_with(key: &str, consistency: Option<ReadConsistency>) -> Operation {
    let key = Bytes::copy_from_slice(key.as_bytes());
    operation(operation::Kind::Read(ReadOperation { key, consistency, omit_value: false, at_least: None }))
}

/// A strong read.
pub fn read(key: &str) -> Operation {
    read_with(key, None)
}

/// A read of whatever the node has.
pub fn eventual_read(key: &str) -> Operation {
    read_as_fresh(key, read_consistency::Requirement::Eventual(true))
}

/// A read that any node may answer that is fresh enough.
pub fn read_as_fresh(key: &str, requirement: read_consistency::Requirement) -> Operation {
    read_with(key, Some(ReadConsistency { requirement: Some(requirement) }))
}

/// A run of records.
pub fn range(after: &Bytes, records_max: u32) -> Operation {
    operation(operation::Kind::ReadRange(ReadRangeOperation { after_key: after.clone(), records_max }))
}
