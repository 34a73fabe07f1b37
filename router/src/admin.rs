//! `paddock.admin.v1.AdminService`: the cluster as this router sees it, who is to lead, and where
//! replicas are to be.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use paddock_coordination::placement::target_of;
use paddock_coordination::slots::{Slot, hashed_part};
use paddock_coordination::{Coordinator, NodeId, PartitionId, PartitionState};
use paddock_proto::admin::v1::admin_service_server::AdminService;
use paddock_proto::admin::v1::{
    self as admin, ChangeReplicasRequest, ChangeReplicasResponse, GetClusterRequest, GetClusterResponse,
    ListPartitionsRequest, ListPartitionsResponse, ListRecordsRequest, ListRecordsResponse, LocateKeyRequest,
    LocateKeyResponse, Partition, RecoverPartitionRequest, RecoverPartitionResponse, Replica,
    SetNodeDrainedRequest, SetNodeDrainedResponse, TransferLeadershipRequest, TransferLeadershipResponse,
};
use paddock_proto::limits::KEY_BYTES_MAX;
use paddock_proto::v1::{ErrorReason, ReadRangeOperation, operation, outcome};
use prost::Message;
use tokio::task::JoinSet;
use tonic::{Request, Response, Status};

use crate::errors::Failure;
use crate::map::View;
use crate::memory::{Memory, holding};
use crate::metrics::Metrics;
use crate::route::{Job, Place, Routes, Server};
use crate::{deadline, leadership, placement, problems, recovery, request};

/// Records of a page that names no size.
const PAGE_SIZE_DEFAULT: u32 = 500;

/// The most records of a page.
const PAGE_SIZE_MAX: u32 = 1_000;

/// The service.
pub struct Admin {
    routes: Arc<Routes>,
    metrics: Arc<Metrics>,
    memory: Arc<Memory>,
    cluster_name: String,
    coordinator: Arc<dyn Coordinator>,
}

/// What the live nodes say of their replicas.
pub(crate) type Reports = HashMap<(NodeId, PartitionId), Replica>;

impl Admin {
    /// Over these routes.
    #[must_use]
    pub fn new(
        routes: Arc<Routes>,
        metrics: Arc<Metrics>,
        memory: Arc<Memory>,
        cluster_name: String,
        coordinator: Arc<dyn Coordinator>,
    ) -> Self {
        Admin { routes, metrics, memory, cluster_name, coordinator }
    }

    async fn do_get_cluster(&self) -> GetClusterResponse {
        let view = self.routes.views().load();
        let map = &view.map;
        let reported = problems::reported(&view, &ask_nodes(&view, None).await);
        let healthy = problems::is_healthy(&view) && reported.is_empty();
        let mut problems = problems::of(&view);
        problems.extend(reported);
        let nodes = map.nodes.iter().map(|(id, record)| admin::Node {
            node_id: id.to_string(),
            grpc_address: record.grpc_address.clone(),
            version: record.build_version.clone(),
            live: map.live.contains(id),
            boot_count: record.boot_count,
            drained: record.drained,
        });
        let routers = map.routers.iter().map(|(id, record)| admin::Router {
            router_id: id.to_string(),
            grpc_address: record.grpc_address.clone(),
            http_address: record.http_address.clone(),
        });
        GetClusterResponse {
            cluster_id: map.cluster.as_ref().map(|record| record.id.to_string()).unwrap_or_default(),
            cluster_name: self.cluster_name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            healthy,
            problems,
            nodes: nodes.collect(),
            routers: routers.collect(),
            partition_count: u32::try_from(map.partitions.len()).unwrap_or(u32::MAX),
            coordination_connected: map.connected,
        }
    }

    async fn do_list_partitions(&self) -> ListPartitionsResponse {
        let view = self.routes.views().load();
        let mut reports = ask_nodes(&view, None).await;
        let partitions = view.map.partitions.iter();
        let partitions =
            partitions.map(|(id, known)| describe(&view, *id, &known.state, &mut reports)).collect();
        ListPartitionsResponse { partitions }
    }

    async fn do_locate_key(
        &self,
        request: Request<LocateKeyRequest>,
    ) -> Result<Response<LocateKeyResponse>, Status> {
        let LocateKeyRequest { key, key_text } = request.into_inner();
        let key = request::one_key(key, key_text)?;
        let view = self.routes.views().load();
        let slot = Slot::of(&key);
        let not_placed = || {
            let why = view.refusal.clone();
            let why = why.unwrap_or_else(|| "the cluster's partitions are not placed yet".to_owned());
            Failure::new(ErrorReason::PartitionUnavailable, why)
        };
        let id = view.map.slots.as_ref().and_then(|slots| slots.lookup(slot)).ok_or_else(not_placed)?;
        let known = view.map.partitions.get(&id).ok_or_else(not_placed)?;
        let mut reports = ask_nodes(&view, Some(&known.state)).await;
        Ok(Response::new(LocateKeyResponse {
            hashed: Bytes::copy_from_slice(hashed_part(&key)),
            slot: u32::from(slot.number()),
            partition: Some(describe(&view, id, &known.state, &mut reports)),
        }))
    }

    async fn do_list_records(
        &self,
        request: Request<ListRecordsRequest>,
    ) -> Result<Response<ListRecordsResponse>, Status> {
        let deadline = deadline::of_request(request.metadata());
        let job = self.list_job(request.into_inner())?;
        let answer = self.routes.perform(&job, deadline).await?;
        match answer.outcome {
            outcome::Kind::ReadRange(range) => {
                let response = ListRecordsResponse { records: range.records, more: range.more };
                let room = self.memory.answer(response.encoded_len())?;
                Ok(holding(response, room))
            }
            _ => {
                let message = format!("node {} did not answer with records", answer.served_by);
                Err(Failure::new(ErrorReason::Internal, message).into())
            }
        }
    }

    fn list_job(&self, request: ListRecordsRequest) -> Result<Job, Failure> {
        let ListRecordsRequest { partition_id, after_key, page_size } = request;
        let invalid = |field, message| Failure::invalid(ErrorReason::InvalidRequest, field, message);
        if page_size > PAGE_SIZE_MAX {
            return Err(invalid(
                "page_size",
                format!("page_size is {page_size}, the limit is {PAGE_SIZE_MAX}"),
            ));
        }
        if after_key.len() > KEY_BYTES_MAX {
            let what = "the length in bytes";
            let (reason, actual) = (ErrorReason::KeyInvalid, after_key.len());
            return Err(Failure::over_limit(reason, "after_key", what, KEY_BYTES_MAX, actual));
        }
        let partition = PartitionId(partition_id);
        let view = self.routes.views().load();
        if view.map.is_placed() && !view.map.partitions.contains_key(&partition) {
            let count = view.map.partitions.len();
            return Err(invalid(
                "partition_id",
                format!("there is no partition {partition}: there are {count}"),
            ));
        }
        let records_max = if page_size == 0 { PAGE_SIZE_DEFAULT } else { page_size };
        let kind = operation::Kind::ReadRange(ReadRangeOperation { after_key, records_max });
        Ok(Job { place: Place::Partition(partition), server: Server::Leader, session: None, kind })
    }
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn get_cluster(
        &self,
        _request: Request<GetClusterRequest>,
    ) -> Result<Response<GetClusterResponse>, Status> {
        let shown = async { Ok(Response::new(self.do_get_cluster().await)) };
        self.metrics.observe("GetCluster", shown).await
    }

    async fn list_partitions(
        &self,
        _request: Request<ListPartitionsRequest>,
    ) -> Result<Response<ListPartitionsResponse>, Status> {
        let listed = async { Ok(Response::new(self.do_list_partitions().await)) };
        self.metrics.observe("ListPartitions", listed).await
    }

    async fn locate_key(
        &self,
        request: Request<LocateKeyRequest>,
    ) -> Result<Response<LocateKeyResponse>, Status> {
        self.metrics.observe("LocateKey", self.do_locate_key(request)).await
    }

    async fn list_records(
        &self,
        request: Request<ListRecordsRequest>,
    ) -> Result<Response<ListRecordsResponse>, Status> {
        self.metrics.observe("ListRecords", self.do_list_records(request)).await
    }

    async fn transfer_leadership(
        &self,
        request: Request<TransferLeadershipRequest>,
    ) -> Result<Response<TransferLeadershipResponse>, Status> {
        let transfer = async {
            let ended = leadership::transfer(self.routes.views(), request.into_inner()).await?;
            Ok(Response::new(ended))
        };
        self.metrics.observe("TransferLeadership", transfer).await
    }

    async fn change_replicas(
        &self,
        request: Request<ChangeReplicasRequest>,
    ) -> Result<Response<ChangeReplicasResponse>, Status> {
        let change = async {
            let views = self.routes.views();
            let changed = placement::change_replicas(views, &*self.coordinator, request.into_inner());
            Ok(Response::new(changed.await?))
        };
        self.metrics.observe("ChangeReplicas", change).await
    }

    async fn recover_partition(
        &self,
        request: Request<RecoverPartitionRequest>,
    ) -> Result<Response<RecoverPartitionResponse>, Status> {
        let recover = async {
            let views = self.routes.views();
            let recovered = recovery::recover(views, &*self.coordinator, request.into_inner());
            Ok(Response::new(recovered.await?))
        };
        self.metrics.observe("RecoverPartition", recover).await
    }

    async fn set_node_drained(
        &self,
        request: Request<SetNodeDrainedRequest>,
    ) -> Result<Response<SetNodeDrainedResponse>, Status> {
        let set = async {
            let views = self.routes.views();
            let set = leadership::set_drained(views, &*self.coordinator, request.into_inner());
            Ok(Response::new(set.await?))
        };
        self.metrics.observe("SetNodeDrained", set).await
    }
}

/// Asks the live nodes in parallel (those of one partition, or all); who does not answer soon is left out.
pub(crate) async fn ask_nodes(view: &View, only: Option<&PartitionState>) -> Reports {
    let mut asked = JoinSet::new();
    for (id, node) in &view.nodes {
        if only.is_none_or(|state| concerns(state, *id)) {
            let (id, node) = (*id, Arc::clone(node));
            asked.spawn(async move { (id, node.status().await) });
        }
    }
    let mut reports = Reports::new();
    while let Some(answered) = asked.join_next().await {
        let Ok((id, Some(replicas))) = answered else { continue };
        for report in replicas {
            if let Some(replica) = report.replica {
                reports.insert((id, PartitionId(report.partition_id)), replica);
            }
        }
    }
    reports
}

/// Whether a node has, or had, a replica of the partition that counts.
fn concerns(state: &PartitionState, node: NodeId) -> bool {
    let mut members = state.in_sync.iter().chain(&state.eligible);
    state.replicas.contains(&node) || members.any(|member| member.node == node)
}

/// A partition as the map shows it, with what its replicas say of themselves.
fn describe(view: &View, id: PartitionId, state: &PartitionState, reports: &mut Reports) -> Partition {
    let ranges = view.map.slots.iter().flat_map(|slots| &slots.ranges);
    let slots = ranges
        .filter(|range| range.partition == id)
        .map(|range| admin::SlotRange { first: u32::from(range.first), last: u32::from(range.last) });
    let offline = recovery::offline(view, id, state, reports).unwrap_or_default();
    let replicas = state.replicas.iter().map(|node| {
        let live = view.map.live.contains(node);
        let report = reports.remove(&(*node, id)).unwrap_or_else(|| silent(live));
        Replica {
            node_id: node.to_string(),
            in_sync: state.in_sync.iter().any(|member| member.node == *node),
            live,
            ..report
        }
    });
    let target = target_of(&view.map, id, state);
    Partition {
        partition_id: id.0,
        slots: slots.collect(),
        epoch: state.epoch.0,
        leader_node_id: state.leader.map(|leader| leader.node.to_string()).unwrap_or_default(),
        min_in_sync: state.min_in_sync,
        replicas: replicas.collect(),
        target_node_ids: target.iter().map(NodeId::to_string).collect(),
        lineage: state.lineage,
        offline,
    }
}

/// For a replica of which its node said nothing.
fn silent(live: bool) -> Replica {
    let problem =
        if live { "its node did not say anything of it" } else { "its node is not registered as live" };
    Replica { problem: problem.to_owned(), ..Replica::default() }
}
