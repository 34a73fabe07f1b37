//! A partition server that answers as a test tells it to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use paddock_coordination::{ClusterId, NodeId};
use paddock_proto::admin::v1::node_service_server::{NodeService, NodeServiceServer};
use paddock_proto::admin::v1::{
    GetNodeStatusRequest, GetNodeStatusResponse, NodeReplica, Replica, ReplicaRole,
    TransferNodeLeadershipRequest, TransferNodeLeadershipResponse,
};
use paddock_proto::limits::MESSAGE_BYTES_MAX;
use paddock_proto::metadata;
use paddock_proto::v1::exchange_service_server::{ExchangeService, ExchangeServiceServer};
use paddock_proto::v1::{
    ErrorReason, ExchangeRequest, ExchangeResponse, Failure, Operation, Outcome, ReadOutcome,
    ReadRangeOutcome, Record, SessionPosition, WriteOutcome, mutation, operation, outcome,
};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

/// What the fake does with an operation.
pub(crate) enum Reply {
    /// Answers as a healthy leader would.
    Healthy,
    /// Answers this.
    With(outcome::Kind),
    /// Answers as a healthy leader would, once the sender fires.
    After(oneshot::Receiver<()>),
    /// Never answers.
    Never,
    /// Breaks the stream without an answer.
    Break,
}

type Script = Box<dyn FnMut(&Operation) -> Reply + Send>;

type Transfers =
    Box<dyn FnMut(TransferNodeLeadershipRequest) -> Result<TransferNodeLeadershipResponse, Status> + Send>;

struct Inner {
    cluster: ClusterId,
    id: NodeId,
    script: Mutex<Script>,
    arrivals: watch::Sender<Vec<Operation>>,
    handshakes_refused: watch::Sender<u64>,
    next_version: AtomicU64,
    replicas: Mutex<Vec<NodeReplica>>,
    transfers: Mutex<Transfers>,
}

/// A fake partition server on a port of its own.
pub(crate) struct FakeNode {
    pub(crate) id: NodeId,
    pub(crate) address: SocketAddr,
    inner: Arc<Inner>,
}

impl FakeNode {
    pub(crate) async fn start(cluster: ClusterId, id: NodeId) -> FakeNode {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let inner = Arc::new(Inner {
            cluster,
            id,
            script: Mutex::new(Box::new(|_| Reply::Healthy)),
            arrivals: watch::Sender::default(),
            handshakes_refused: watch::Sender::default(),
            next_version: AtomicU64::new(1),
            replicas: Mutex::new(Vec::new()),
            transfers: Mutex::new(Box::new(|_| Err(Status::failed_precondition("nobody is in sync")))),
        });
        let exchange = ExchangeServiceServer::new(Service(Arc::clone(&inner)))
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let status = NodeServiceServer::new(Service(Arc::clone(&inner)));
        let server = Server::builder().add_service(exchange).add_service(status);
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        tokio::spawn(server.serve_with_incoming(incoming));
        FakeNode { id, address, inner }
    }

    /// From now on operations are answered so.
    pub(crate) fn script(&self, script: impl FnMut(&Operation) -> Reply + Send + 'static) {
        *self.inner.script.lock() = Box::new(script);
    }

    /// The next operation breaks its stream; those after it are answered.
    pub(crate) fn break_once(&self) {
        let mut broken = false;
        self.script(move |_| {
            if broken {
                Reply::Healthy
            } else {
                broken = true;
                Reply::Break
            }
        });
    }

    /// What it says of its replica of a partition from now on.
    pub(crate) fn report(&self, partition_id: u32, role: ReplicaRole, record_count: u64) {
        let replica = Replica { role: role.into(), record_count, generation: 1, ..Replica::default() };
        self.report_replica(partition_id, replica);
    }

    /// The same, with all that there is to say.
    pub(crate) fn report_replica(&self, partition_id: u32, replica: Replica) {
        let replica = Replica { node_id: self.id.to_string(), ..replica };
        let mut replicas = self.inner.replicas.lock();
        replicas.retain(|known| known.partition_id != partition_id);
        replicas.push(NodeReplica { partition_id, replica: Some(replica) });
    }

    /// From now on it answers so when it is told to hand over.
    pub(crate) fn transfers(
        &self,
        answer: impl FnMut(TransferNodeLeadershipRequest) -> Result<TransferNodeLeadershipResponse, Status>
        + Send
        + 'static,
    ) {
        *self.inner.transfers.lock() = Box::new(answer);
    }

    /// Everything that arrived, in order.
    pub(crate) fn arrivals(&self) -> Vec<Operation> {
        self.inner.arrivals.borrow().clone()
    }

    /// How often an operation on this key arrived.
    pub(crate) fn arrivals_of(&self, key: &[u8]) -> usize {
        self.inner.arrivals.borrow().iter().filter(|operation| key_of(operation) == key).count()
    }

    /// Waits until this many operations have arrived.
    pub(crate) async fn arrived(&self, count: usize) {
        let mut arrivals = self.inner.arrivals.subscribe();
        arrivals.wait_for(|arrivals| arrivals.len() >= count).await.unwrap();
    }

    /// Waits until so many handshakes were refused.
    pub(crate) async fn refused(&self, count: u64) {
        let mut refused = self.inner.handshakes_refused.subscribe();
        refused.wait_for(|refused| *refused >= count).await.unwrap();
    }
}

/// The key of a read or a write.
pub(crate) fn key_of(operation: &Operation) -> &[u8] {
    match operation.kind.as_ref().unwrap() {
        operation::Kind::Read(read) => &read.key,
        operation::Kind::Write(write) => match write.operation.as_ref().unwrap() {
            mutation::Operation::Put(put) => &put.key,
            mutation::Operation::Delete(delete) => &delete.key,
        },
        operation::Kind::ReadRange(range) => &range.after_key,
    }
}

/// A failure with a reason.
pub(crate) fn failure(reason: ErrorReason, outcome_unknown: bool) -> outcome::Kind {
    let message = format!("the fake says {}", reason.as_str_name());
    outcome::Kind::Failure(Failure { reason: reason as i32, message, outcome_unknown, ..Failure::default() })
}

/// NOT_LEADER, naming a leader.
pub(crate) fn not_leader(leader: Option<NodeId>) -> outcome::Kind {
    outcome::Kind::Failure(Failure {
        reason: ErrorReason::NotLeader as i32,
        message: "not the leader".to_owned(),
        leader_node_id: leader.map(|leader| leader.to_string()).unwrap_or_default(),
        ..Failure::default()
    })
}

struct Service(Arc<Inner>);

impl Inner {
    /// What a leader answers that has a record of every key, whose value is the key.
    fn healthy(&self, operation: &Operation) -> outcome::Kind {
        let record = |key: &[u8]| Record { key: key.to_vec().into(), value: key.to_vec().into(), version: 1 };
        match operation.kind.as_ref().unwrap() {
            operation::Kind::Read(read) => {
                outcome::Kind::Read(ReadOutcome { record: Some(record(&read.key)) })
            }
            operation::Kind::Write(_) => {
                let version = self.next_version.fetch_add(1, Ordering::Relaxed);
                outcome::Kind::Write(WriteOutcome { version, deleted: true })
            }
            operation::Kind::ReadRange(range) => outcome::Kind::ReadRange(ReadRangeOutcome {
                records: (0..range.records_max).map(|n| record(format!("r{n:04}").as_bytes())).collect(),
                more: true,
            }),
        }
    }

    /// How far it says that it is.
    fn position(&self) -> Option<SessionPosition> {
        let partition_uuid = vec![7; 16].into();
        Some(SessionPosition {
            partition_uuid,
            lineage: 0,
            sequence: self.next_version.load(Ordering::Relaxed),
        })
    }

    /// Does one operation; false: the stream is to break.
    async fn perform(
        self: &Arc<Self>,
        operation: Operation,
        answers: &mpsc::Sender<Result<ExchangeResponse, Status>>,
    ) -> bool {
        let reply = (self.script.lock())(&operation);
        self.arrivals.send_modify(|arrivals| arrivals.push(operation.clone()));
        let respond = |kind| {
            let outcome = Outcome {
                operation_id: operation.operation_id,
                leader_epoch: 7,
                kind: Some(kind),
                position: self.position(),
            };
            Ok(ExchangeResponse { outcomes: vec![outcome] })
        };
        match reply {
            Reply::Healthy => drop(answers.send(respond(self.healthy(&operation))).await),
            Reply::With(kind) => drop(answers.send(respond(kind)).await),
            Reply::Never => {}
            Reply::Break => {
                drop(answers.send(Err(Status::unavailable("the fake breaks the stream"))).await);
                return false;
            }
            Reply::After(gate) => {
                let (answer, answers) = (respond(self.healthy(&operation)), answers.clone());
                tokio::spawn(async move {
                    if gate.await.is_ok() {
                        drop(answers.send(answer).await);
                    }
                });
            }
        }
        true
    }
}

#[tonic::async_trait]
impl ExchangeService for Service {
    type ExchangeStream = ReceiverStream<Result<ExchangeResponse, Status>>;

    async fn exchange(
        &self,
        request: Request<Streaming<ExchangeRequest>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let named = |name: &str| request.metadata().get(name).map(|value| value.to_str().unwrap().to_owned());
        let meant = (named(metadata::CLUSTER_ID), named(metadata::NODE_ID));
        if meant != (Some(self.0.cluster.to_string()), Some(self.0.id.to_string())) {
            self.0.handshakes_refused.send_modify(|count| *count += 1);
            return Err(Status::failed_precondition("WRONG_NODE"));
        }
        let (answers, outcomes) = mpsc::channel(64);
        let mut requests = request.into_inner();
        let inner = Arc::clone(&self.0);
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                for operation in request.operations {
                    if !inner.perform(operation, &answers).await {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(outcomes)))
    }
}

#[tonic::async_trait]
impl NodeService for Service {
    async fn get_node_status(
        &self,
        _request: Request<GetNodeStatusRequest>,
    ) -> Result<Response<GetNodeStatusResponse>, Status> {
        let replicas = self.0.replicas.lock().clone();
        Ok(Response::new(GetNodeStatusResponse { node_id: self.0.id.to_string(), replicas }))
    }

    async fn transfer_node_leadership(
        &self,
        request: Request<TransferNodeLeadershipRequest>,
    ) -> Result<Response<TransferNodeLeadershipResponse>, Status> {
        (self.0.transfers.lock())(request.into_inner()).map(Response::new)
    }
}
