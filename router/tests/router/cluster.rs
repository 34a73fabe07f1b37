//! A router over fake partition servers and the embedded coordination backend.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use paddock_coordination::embedded::{Embedded, Session};
use paddock_coordination::{
    ClusterId, ClusterRecord, Coordinator, Epoch, Generation, Member, NodeId, NodeRecord, PartitionId,
    PartitionState, Registration, Slot, SlotTable, paths, records,
};
use paddock_proto::admin::v1::ReplicaRole;
use paddock_proto::admin::v1::admin_service_client::AdminServiceClient;
use paddock_proto::limits::MESSAGE_BYTES_MAX;
use paddock_proto::v1::key_value_service_client::KeyValueServiceClient;
use paddock_proto::v1::{GetRequest, PutRequest, ReadConsistency, read_consistency};
use paddock_router::errors::Failure;
use paddock_router::map::View;
use paddock_router::metrics::Metrics;
use paddock_router::route::{Answer, Job, Routes};
use paddock_router::{Router, RouterConfig};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_types::StatusExt;
use ulid::Ulid;

use crate::fake::FakeNode;

/// As few as there can be for a key to be in another one.
pub(crate) const PARTITIONS: u32 = 2;

/// Nothing in a test takes longer, unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Awaits an event, and panics if it does not come.
pub(crate) async fn soon<T>(event: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, event).await.expect("the event came in time")
}

pub(crate) struct Cluster {
    pub(crate) router: Router,
    pub(crate) nodes: Vec<FakeNode>,
    pub(crate) client: KeyValueServiceClient<Channel>,
    pub(crate) admin: AdminServiceClient<Channel>,
    /// The router's session with the coordination service.
    pub(crate) router_session: Arc<Session>,
    /// Everybody else's.
    pub(crate) session: Session,
    live: HashMap<NodeId, Registration>,
    pub(crate) embedded: Embedded,
    pub(crate) id: ClusterId,
    _directory: TempDir,
}

impl Cluster {
    /// Nodes that each replicate every partition; node p leads partition p.
    pub(crate) async fn start(node_count: usize) -> Cluster {
        let cluster = Cluster::start_unready(node_count).await;
        soon(cluster.router.ready()).await;
        cluster
    }

    /// The same, without waiting for the router to be ready.
    pub(crate) async fn start_unready(node_count: usize) -> Cluster {
        let directory = tempfile::tempdir().unwrap();
        let embedded = Embedded::open(directory.path()).unwrap();
        let session = embedded.session();
        let id = ClusterId(Ulid::generate());
        let mut nodes = Vec::new();
        for _ in 0..node_count {
            nodes.push(FakeNode::start(id, NodeId(Ulid::generate())).await);
        }
        found(&session, id, &nodes).await;

        let router_session = Arc::new(embedded.session());
        let config = RouterConfig {
            grpc_address: "127.0.0.1:0".parse().unwrap(),
            http_address: Some("127.0.0.1:0".parse().unwrap()),
            advertise_address: None,
            cluster_name: "test".to_owned(),
        };
        let coordinator: Arc<dyn Coordinator> = Arc::clone(&router_session) as _;
        let router = Router::start(config, coordinator).await.unwrap();
        let endpoint = Endpoint::from_shared(format!("http://{}", router.grpc_address())).unwrap();
        let channel = endpoint.tcp_nodelay(true).connect_lazy();
        let client = KeyValueServiceClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let admin = AdminServiceClient::new(channel);
        let mut cluster = Cluster {
            router,
            nodes,
            client,
            admin,
            router_session,
            session,
            live: HashMap::new(),
            embedded,
            id,
            _directory: directory,
        };
        for node in 0..node_count {
            cluster.set_live(node, true);
        }
        cluster
    }

    /// Registers a node as live, or takes that away.
    pub(crate) fn set_live(&mut self, node: usize, live: bool) {
        let id = self.nodes[node].id;
        if live {
            self.live.insert(id, self.session.register(&paths::live(id), Bytes::new()));
        } else {
            self.live.remove(&id);
        }
    }

    /// Changes a partition's configuration.
    pub(crate) async fn change_state(&self, partition: u32, change: impl FnOnce(&mut PartitionState)) {
        let path = paths::partition_state(PartitionId(partition));
        let read = self.session.get(&path).await.unwrap().unwrap();
        let mut state: PartitionState = records::decode(&read.value).unwrap();
        change(&mut state);
        self.session.compare_and_set(&path, records::encode(&state), read.version).await.unwrap();
    }

    /// Says where a node is to be found.
    pub(crate) async fn change_address(&self, node: usize, grpc_address: String) {
        let path = paths::node(self.nodes[node].id);
        let read = self.session.get(&path).await.unwrap().unwrap();
        let mut record: NodeRecord = records::decode(&read.value).unwrap();
        record.grpc_address = grpc_address;
        record.boot_count += 1;
        self.session.compare_and_set(&path, records::encode(&record), read.version).await.unwrap();
    }

    /// The node as a member of a partition.
    pub(crate) fn member(&self, node: usize) -> Member {
        member(&self.nodes[node])
    }

    /// The router's way to the partitions.
    pub(crate) fn routes(&self) -> Arc<Routes> {
        Arc::new(Routes::new(Arc::clone(self.router.views()), Metrics::new()))
    }

    /// What becomes of a job that has so long, as the router says it. Over the wire that would be a question of whether this
    /// machine delivers the answer in the moment which the router leaves for it before the caller gives up.
    pub(crate) async fn perform_within(
        &self,
        timeout: Duration,
        job: Result<Job, Failure>,
    ) -> Result<Answer, Status> {
        let deadline = tokio::time::Instant::now() + timeout;
        Ok(soon(self.routes().perform(&job.unwrap(), deadline)).await?)
    }

    /// Waits until the router's view is so.
    pub(crate) async fn view_is(&self, condition: impl Fn(&View) -> bool) {
        let views = self.router.views();
        soon(async {
            loop {
                let seen = views.bell().seen();
                if condition(&views.load()) {
                    return;
                }
                views.bell().rung_since(seen).await;
            }
        })
        .await;
    }
}

pub(crate) fn member(node: &FakeNode) -> Member {
    Member { node: node.id, generation: Generation(1) }
}

/// Writes the records of a cluster whose nodes all replicate every partition.
async fn found(session: &Session, id: ClusterId, nodes: &[FakeNode]) {
    let node_count = u32::try_from(nodes.len()).unwrap();
    let cluster = ClusterRecord {
        id,
        format: records::FORMAT,
        feature_level: 1,
        created_ms: 0,
        partitions: PARTITIONS,
        replication_factor: node_count,
        initial_nodes: node_count,
        lease_ms: 300,
    };
    session.create(paths::CLUSTER, records::encode(&cluster)).await.unwrap();
    for node in nodes {
        let record = NodeRecord {
            grpc_address: node.address.to_string(),
            boot_count: 1,
            build_version: "fake".to_owned(),
            drained: false,
        };
        session.create(&paths::node(node.id), records::encode(&record)).await.unwrap();
    }
    for partition in 0..PARTITIONS {
        let replicas = nodes.iter().map(|node| node.id).collect();
        let mut state = PartitionState::initial(Ulid::generate(), replicas, Ulid::generate());
        state.epoch = Epoch(7);
        let leader = &nodes[partition as usize % nodes.len()];
        state.leader = Some(member(leader));
        leader.report(partition, ReplicaRole::Leader, 0);
        state.in_sync = nodes.iter().map(member).collect();
        session
            .create(&paths::partition_state(PartitionId(partition)), records::encode(&state))
            .await
            .unwrap();
    }
    session.create(paths::SLOTS, records::encode(&SlotTable::even(PARTITIONS).unwrap())).await.unwrap();
}

/// Distinct keys that lie in a partition.
pub(crate) fn keys_in(partition: u32) -> impl Iterator<Item = Bytes> {
    let table = SlotTable::even(PARTITIONS).unwrap();
    (0..)
        .map(|n| Bytes::from(format!("key-{n}")))
        .filter(move |key| table.lookup(Slot::of(key)) == Some(PartitionId(partition)))
}

/// One key that lies in a partition.
pub(crate) fn key_in(partition: u32) -> Bytes {
    keys_in(partition).next().unwrap()
}

/// A request that is given so long.
pub(crate) fn within<T>(timeout: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

pub(crate) fn put(key: &Bytes) -> PutRequest {
    PutRequest { key: key.clone(), value: Some("value".into()), ..PutRequest::default() }
}

pub(crate) fn get(key: &Bytes) -> GetRequest {
    GetRequest { key: key.clone(), ..GetRequest::default() }
}

pub(crate) fn eventual_get(key: &Bytes) -> GetRequest {
    let requirement = Some(read_consistency::Requirement::Eventual(true));
    GetRequest { consistency: Some(ReadConsistency { requirement }), ..get(key) }
}

/// The reason of an error, by its details.
pub(crate) fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

/// What an error says of the write.
pub(crate) fn write_outcome(status: &Status) -> Option<String> {
    status.get_details_error_info()?.metadata.get("write_outcome").cloned()
}
