//! A router that is only a map: the command is tested against it without any server of ours, and it can be
//! told to fail in the ways that real ones do.

// Each test file uses its own part of this, and a test that cannot go on fails.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use paddock_proto::admin::v1::admin_service_server::{AdminService, AdminServiceServer};
use paddock_proto::admin::v1::{
    ChangeReplicasRequest, ChangeReplicasResponse, GetClusterRequest, GetClusterResponse,
    ListPartitionsRequest, ListPartitionsResponse, ListRecordsRequest, ListRecordsResponse, LocateKeyRequest,
    LocateKeyResponse, Node, Partition, RecoverPartitionRequest, RecoverPartitionResponse, RecoverySource,
    Replica, ReplicaRole, SetNodeDrainedRequest, SetNodeDrainedResponse, SlotRange, SnapshotTransfer,
    TransferLeadershipRequest, TransferLeadershipResponse,
};
use paddock_proto::google::rpc;
use paddock_proto::v1::key_value_service_server::{KeyValueService, KeyValueServiceServer};
use paddock_proto::v1::{
    BatchGetRequest, BatchGetResponse, BatchWriteRequest, BatchWriteResponse, DeleteRequest, DeleteResponse,
    GetRequest, GetResponse, Precondition, PutRequest, PutResponse, Record, WriteResult, mutation,
    precondition, write_result,
};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// No test waits longer than this for anything.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// How the fake fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// It does not.
    #[default]
    None,
    /// Writes answer that nobody leads; nothing is written.
    Unavailable,
    /// Writes are done, and answered as unknown.
    DoneButUnknown,
    /// Of each batch, every third item of the first attempts fails, in turn without and with effect.
    EveryThirdItem,
    /// Batches after the first are never answered.
    Hang,
}

/// What the fake holds.
#[derive(Default)]
pub struct State {
    pub records: BTreeMap<Vec<u8>, (Vec<u8>, u64)>,
    pub version: u64,
    pub fault: Fault,
    pub batches: u64,
    pub items: u64,
    /// The nodes that are to lead nothing. NODE-S leads partition 0 all the same, once it is one of them.
    pub drained: BTreeSet<String>,
    /// How often each key was written.
    pub writes: HashMap<Vec<u8>, u64>,
}

/// The fake router, and where it listens.
pub struct FakeRouter {
    pub state: Arc<Mutex<State>>,
    pub endpoint: String,
    /// Told when a request hangs.
    pub hanging: Arc<Notify>,
    runtime: tokio::runtime::Runtime,
}

impl FakeRouter {
    pub fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let hanging = Arc::new(Notify::new());
        let service = Fake { state: Arc::clone(&state), hanging: Arc::clone(&hanging) };
        let listener = runtime.block_on(TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_service(KeyValueServiceServer::new(service.clone()).max_decoding_message_size(16 << 20))
                .add_service(AdminServiceServer::new(service))
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        FakeRouter { state, endpoint, hanging, runtime }
    }

    pub fn set_fault(&self, fault: Fault) {
        self.state.lock().unwrap().fault = fault;
    }

    /// Waits until a request hangs.
    pub fn wait_until_hanging(&self) {
        let hanging = Arc::clone(&self.hanging);
        self.runtime
            .block_on(async move { tokio::time::timeout(DEADLINE, hanging.notified()).await })
            .unwrap();
    }

    /// The command, speaking to this router.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = paddock(arguments);
        command.env("PADDOCK_ENDPOINT", &self.endpoint);
        command
    }

    /// Runs the command.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs the command with something on its stdin.
    pub fn run_with_stdin(&self, arguments: &[&str], stdin: &[u8]) -> Output {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(stdin).unwrap();
        child.wait_with_output().unwrap()
    }

    pub fn value(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.state.lock().unwrap().records.get(key).map(|(value, _)| value.clone())
    }
}

/// The command without an endpoint.
pub fn paddock(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_paddock"));
    command.args(arguments).env_remove("PADDOCK_ENDPOINT").stdin(Stdio::null());
    command
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Asserts an exit code, with what was said where it is another.
#[track_caller]
pub fn assert_code(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "stdout: {}\nstderr: {}", stdout(output), stderr(output));
}

#[derive(Clone)]
struct Fake {
    state: Arc<Mutex<State>>,
    hanging: Arc<Notify>,
}

fn failure(code: Code, reason: &str, message: &str, metadata: &[(&str, String)]) -> Status {
    let mut details = ErrorDetails::new();
    let metadata: HashMap<String, String> =
        metadata.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    details.set_error_info(reason, "paddockdb", metadata);
    Status::with_error_details(code, message, details)
}

fn item_failure(code: Code, message: &str) -> WriteResult {
    let error = rpc::Status { code: code as i32, message: message.to_owned(), details: Vec::new() };
    WriteResult { outcome: Some(write_result::Outcome::Error(error)) }
}

impl State {
    fn check(&self, key: &[u8], precondition: Option<&Precondition>) -> Result<(), Status> {
        use precondition::Condition;
        let current = self.records.get(key);
        let version = current.map_or(0, |(_, version)| *version);
        let condition = precondition.and_then(|precondition| precondition.condition.as_ref());
        let current_version = [("current_version", version.to_string())];
        match condition {
            Some(Condition::Exists(true)) if current.is_none() => {
                Err(failure(Code::NotFound, "KEY_NOT_FOUND", "no record has this key", &[]))
            }
            Some(Condition::Exists(false)) if current.is_some() => {
                Err(failure(Code::AlreadyExists, "KEY_EXISTS", "the key has a record", &current_version))
            }
            Some(Condition::Version(wanted)) if *wanted != version => Err(failure(
                Code::FailedPrecondition,
                "PRECONDITION_FAILED",
                "another version",
                &current_version,
            )),
            _ => Ok(()),
        }
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> u64 {
        self.version += 1;
        *self.writes.entry(key.to_vec()).or_default() += 1;
        self.records.insert(key.to_vec(), (value.to_vec(), self.version));
        self.version
    }

    /// Fails whole writes as the fault says; `done` does the write where the fault lets it through.
    fn write<T>(&mut self, done: impl FnOnce(&mut State) -> T) -> Result<T, Status> {
        match self.fault {
            Fault::Unavailable => Err(failure(
                Code::Unavailable,
                "PARTITION_UNAVAILABLE",
                "nobody leads partition 0",
                &[("write_outcome", "not_applied".to_owned())],
            )),
            Fault::DoneButUnknown => {
                done(self);
                Err(failure(
                    Code::Unknown,
                    "LEADER_CHANGED_UNKNOWN_OUTCOME",
                    "leadership ended",
                    &[("write_outcome", "unknown".to_owned())],
                ))
            }
            _ => Ok(done(self)),
        }
    }
}

fn key_check(key: &[u8]) -> Result<(), Status> {
    if key.is_empty() || key.len() > 4_096 {
        let message = format!("a key of {} bytes: 1 to 4096 are allowed", key.len());
        return Err(failure(Code::InvalidArgument, "KEY_INVALID", &message, &[]));
    }
    Ok(())
}

/// Keys with an even first byte live in partition 0, the others in 1.
fn partition_of(key: &[u8]) -> u32 {
    u32::from(key.first().copied().unwrap_or(0) % 2)
}

fn partition(partition_id: u32, record_count: u64) -> Partition {
    let replica = |node: &str, role: ReplicaRole| Replica {
        node_id: node.to_owned(),
        role: role.into(),
        in_sync: true,
        live: true,
        record_count,
        ..Default::default()
    };
    let snapshot =
        |node: &str| SnapshotTransfer { node_id: node.to_owned(), done_bytes: 300, total_bytes: 400 };
    let (mut leader, mut follower) =
        (replica("NODE-A", ReplicaRole::Leader), replica("NODE-B", ReplicaRole::Follower));
    leader.sending_snapshots.push(snapshot("NODE-B"));
    follower.receiving_snapshot = Some(snapshot("NODE-A"));
    Partition {
        partition_id,
        slots: vec![SlotRange { first: partition_id * 8_192, last: partition_id * 8_192 + 8_191 }],
        epoch: 3,
        leader_node_id: "NODE-A".to_owned(),
        min_in_sync: 1,
        replicas: vec![leader, follower],
        target_node_ids: vec!["NODE-A".to_owned(), "NODE-B".to_owned()],
        ..Default::default()
    }
}

#[tonic::async_trait]
impl KeyValueService for Fake {
    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let key = request.into_inner().key;
        key_check(&key)?;
        let state = self.state.lock().unwrap();
        let Some((value, version)) = state.records.get(&key[..]) else {
            return Err(failure(Code::NotFound, "KEY_NOT_FOUND", "no record has this key", &[]));
        };
        let record = Record { key, value: value.clone().into(), version: *version };
        Ok(Response::new(GetResponse { record: Some(record), meta: None }))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let request = request.into_inner();
        key_check(&request.key)?;
        let mut state = self.state.lock().unwrap();
        state.check(&request.key, request.precondition.as_ref())?;
        let value = request.value.unwrap_or_default();
        let version = state.write(|state| state.set(&request.key, &value))?;
        Ok(Response::new(PutResponse { version, meta: None }))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.state.lock().unwrap();
        state.check(&request.key, request.precondition.as_ref())?;
        let deleted = state.records.remove(&request.key[..]).is_some();
        let version = if deleted { state.version + 1 } else { 0 };
        state.version += u64::from(deleted);
        Ok(Response::new(DeleteResponse { deleted, version, meta: None }))
    }

    async fn batch_get(&self, _: Request<BatchGetRequest>) -> Result<Response<BatchGetResponse>, Status> {
        Err(Status::unimplemented("the command does not use it"))
    }

    async fn batch_write(
        &self,
        request: Request<BatchWriteRequest>,
    ) -> Result<Response<BatchWriteResponse>, Status> {
        let hangs = {
            let mut state = self.state.lock().unwrap();
            state.batches += 1;
            state.fault == Fault::Hang && state.batches > 1
        };
        if hangs {
            self.hanging.notify_one();
            std::future::pending::<()>().await;
        }
        let mut state = self.state.lock().unwrap();
        let mut results = Vec::new();
        for mutation in request.into_inner().mutations {
            let Some(mutation::Operation::Put(put)) = mutation.operation else {
                return Err(Status::unimplemented("the command only puts"));
            };
            state.items += 1;
            if state.fault == Fault::EveryThirdItem && state.items.is_multiple_of(3) {
                if state.items.is_multiple_of(2) {
                    results.push(item_failure(Code::Unavailable, "nobody leads"));
                } else {
                    state.set(&put.key, &put.value.unwrap_or_default());
                    results.push(item_failure(Code::Unknown, "leadership ended"));
                }
                continue;
            }
            let version = state.write(|state| state.set(&put.key, &put.value.unwrap_or_default()))?;
            results.push(WriteResult { outcome: Some(write_result::Outcome::Version(version)) });
        }
        Ok(Response::new(BatchWriteResponse { results, ..BatchWriteResponse::default() }))
    }
}

#[tonic::async_trait]
impl AdminService for Fake {
    async fn get_cluster(
        &self,
        _: Request<GetClusterRequest>,
    ) -> Result<Response<GetClusterResponse>, Status> {
        Ok(Response::new(GetClusterResponse {
            cluster_id: "CLUSTER".to_owned(),
            cluster_name: "fake".to_owned(),
            version: "1.2.3".to_owned(),
            healthy: false,
            problems: vec!["node NODE-B is not live".to_owned()],
            nodes: vec![Node {
                node_id: "NODE-A".to_owned(),
                live: true,
                drained: self.state.lock().unwrap().drained.contains("NODE-A"),
                ..Default::default()
            }],
            routers: Vec::new(),
            partition_count: 2,
            coordination_connected: true,
        }))
    }

    async fn list_partitions(
        &self,
        _: Request<ListPartitionsRequest>,
    ) -> Result<Response<ListPartitionsResponse>, Status> {
        let state = self.state.lock().unwrap();
        let count = state.records.len() as u64;
        // Out of order: the command must not rely on it.
        let mut partitions = vec![partition(1, count), partition(0, count)];
        for partition in &mut partitions {
            if state.drained.contains("NODE-A") {
                partition.leader_node_id = "NODE-B".to_owned();
            }
            if state.drained.contains("NODE-S") && partition.partition_id == 0 {
                partition.leader_node_id = "NODE-S".to_owned();
            }
        }
        Ok(Response::new(ListPartitionsResponse { partitions }))
    }

    async fn transfer_leadership(
        &self,
        request: Request<TransferLeadershipRequest>,
    ) -> Result<Response<TransferLeadershipResponse>, Status> {
        let TransferLeadershipRequest { partition_id, to_node_id } = request.into_inner();
        let response = |leader: &str, epoch, duration_us| TransferLeadershipResponse {
            from_node_id: "NODE-A".to_owned(),
            leader_node_id: leader.to_owned(),
            epoch,
            duration_us,
        };
        match (partition_id, to_node_id.as_str()) {
            (0, "" | "NODE-B") => Ok(Response::new(response("NODE-B", 4, 12_345))),
            (0, "NODE-A") => Ok(Response::new(response("NODE-A", 3, 0))),
            (1, _) => Err(failure(
                Code::FailedPrecondition,
                "TRANSFER_REFUSED",
                "partition 1: node NODE-B is not in sync",
                &[("write_outcome", "not_applied".to_owned())],
            )),
            (_, node) => {
                let message = format!("there is no partition {partition_id}, or no node {node}");
                Err(failure(Code::InvalidArgument, "INVALID_REQUEST", &message, &[]))
            }
        }
    }

    async fn change_replicas(
        &self,
        request: Request<ChangeReplicasRequest>,
    ) -> Result<Response<ChangeReplicasResponse>, Status> {
        let ChangeReplicasRequest { partition_id, add_node_ids, remove_node_ids } = request.into_inner();
        let mut target = vec!["NODE-A".to_owned(), "NODE-B".to_owned()];
        if partition_id != 0 || remove_node_ids.iter().any(|node| !target.contains(node)) {
            let message =
                format!("partition {partition_id}: node {remove_node_ids:?} has no replica of the partition");
            return Err(failure(Code::InvalidArgument, "INVALID_REQUEST", &message, &[]));
        }
        let replica_node_ids = target.clone();
        target.retain(|node| !remove_node_ids.contains(node));
        target.extend(add_node_ids);
        Ok(Response::new(ChangeReplicasResponse { replica_node_ids, target_node_ids: target }))
    }

    /// Partition 0 is offline, and node B has something of it; partition 1 is not.
    async fn recover_partition(
        &self,
        request: Request<RecoverPartitionRequest>,
    ) -> Result<Response<RecoverPartitionResponse>, Status> {
        let RecoverPartitionRequest { partition_id, accept_data_loss, expected_epoch, .. } =
            request.into_inner();
        let refusal = match partition_id {
            0 => String::new(),
            _ => "node NODE-A is live, and holds everything that was acknowledged".to_owned(),
        };
        if accept_data_loss && (expected_epoch != 7 || !refusal.is_empty()) {
            let message = format!("partition {partition_id}: {refusal}");
            return Err(failure(Code::FailedPrecondition, "RECOVERY_REFUSED", &message, &[]));
        }
        let source = RecoverySource {
            node_id: "NODE-B".to_owned(),
            generation: 5,
            last_epoch: 6,
            last_sequence: 90,
            committed_sequence: 80,
            record_count: 70,
            ..Default::default()
        };
        Ok(Response::new(RecoverPartitionResponse {
            epoch: if accept_data_loss { 8 } else { 7 },
            lineage: u64::from(accept_data_loss),
            chosen_node_id: "NODE-B".to_owned(),
            sources: vec![source],
            lost: vec!["node NODE-A is not registered as live".to_owned()],
            refusal,
            recovered: accept_data_loss,
        }))
    }

    async fn set_node_drained(
        &self,
        request: Request<SetNodeDrainedRequest>,
    ) -> Result<Response<SetNodeDrainedResponse>, Status> {
        let SetNodeDrainedRequest { node_id, drained } = request.into_inner();
        let led: &[u32] = match node_id.as_str() {
            "NODE-A" => &[0, 1],
            "NODE-B" => &[],
            "NODE-S" => &[0],
            _ => {
                let message = format!("there is no node {node_id}");
                return Err(failure(Code::InvalidArgument, "INVALID_REQUEST", &message, &[]));
            }
        };
        let mut state = self.state.lock().unwrap();
        if drained {
            state.drained.insert(node_id)
        } else {
            state.drained.remove(&node_id)
        };
        Ok(Response::new(SetNodeDrainedResponse { leading_partition_ids: led.to_vec() }))
    }

    async fn locate_key(
        &self,
        request: Request<LocateKeyRequest>,
    ) -> Result<Response<LocateKeyResponse>, Status> {
        let key = request.into_inner().key;
        key_check(&key)?;
        let partition = Some(partition(partition_of(&key), 0));
        Ok(Response::new(LocateKeyResponse { hashed: key, slot: 12_739, partition }))
    }

    async fn list_records(
        &self,
        request: Request<ListRecordsRequest>,
    ) -> Result<Response<ListRecordsResponse>, Status> {
        /// Small, so that every test sees several pages.
        const PAGE_RECORDS: usize = 7;
        let request = request.into_inner();
        let state = self.state.lock().unwrap();
        let mut records: Vec<Record> = state
            .records
            .iter()
            .filter(|(key, _)| partition_of(key) == request.partition_id)
            .filter(|(key, _)| key[..] > request.after_key[..])
            .take(PAGE_RECORDS + 1)
            .map(|(key, (value, version))| Record {
                key: key.clone().into(),
                value: value.clone().into(),
                version: *version,
            })
            .collect();
        let more = records.len() > PAGE_RECORDS;
        records.truncate(PAGE_RECORDS);
        Ok(Response::new(ListRecordsResponse { records, more }))
    }
}
