//! What a router shows of itself and of the cluster, and how it starts and stops.

use std::sync::Arc;
use std::time::Duration;

use paddock_coordination::embedded::Embedded;
use paddock_coordination::{Coordinator, paths};
use paddock_proto::admin::v1::ReplicaRole;
use paddock_proto::admin::v1::admin_service_client::AdminServiceClient;
use paddock_proto::admin::v1::{
    GetClusterRequest, ListPartitionsRequest, ListRecordsRequest, LocateKeyRequest,
};
use paddock_proto::v1::key_value_service_client::KeyValueServiceClient;
use paddock_router::{Router, RouterConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::StreamExt;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::cluster::{Cluster, get, key_in, put, soon, within, write_outcome};
use crate::fake::Reply;

async fn channel(router: &Router) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", router.grpc_address())).unwrap();
    endpoint.connect().await.unwrap()
}

/// An HTTP/1.1 GET: the status line's code, and the body.
async fn http_get(router: &Router, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(router.http_address().unwrap()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test]
async fn the_cluster_is_shown_with_its_problems_in_words() {
    let mut cluster = Cluster::start(2).await;
    let id = cluster.router.router_id();
    cluster.view_is(|view| view.map.routers.contains_key(&id)).await;
    let shown = cluster.admin.get_cluster(GetClusterRequest {}).await.unwrap().into_inner();
    assert_eq!((shown.cluster_id, shown.cluster_name.as_str()), (cluster.id.to_string(), "test"));
    assert!(shown.healthy && shown.coordination_connected, "{:?}", shown.problems);
    assert_eq!((shown.problems.len(), shown.partition_count), (0, 2));
    assert!(shown.nodes.len() == 2 && shown.nodes.iter().all(|node| node.live));
    assert_eq!(shown.routers[0].router_id, id.to_string());
    assert_eq!(shown.routers[0].grpc_address, cluster.router.grpc_address().to_string());

    // The map names a leader that has restarted and was not elected again yet.
    cluster.nodes[1].report(1, ReplicaRole::Follower, 0);
    let shown = cluster.admin.get_cluster(GetClusterRequest {}).await.unwrap().into_inner();
    assert!(!shown.healthy);
    let second = cluster.nodes[1].id;
    assert_eq!(shown.problems, [format!("partition 1: its leader, node {second}, does not lead yet")]);
    cluster.nodes[1].report(1, ReplicaRole::Leader, 0);

    let (gone, kept) = (cluster.nodes[0].id, cluster.member(1));
    cluster.set_live(0, false);
    cluster.change_state(1, |state| state.in_sync = vec![kept]).await;
    let is_known = |view: &paddock_router::map::View| {
        !view.map.live.contains(&gone)
            && view.map.partitions.values().any(|partition| partition.state.in_sync.len() == 1)
    };
    cluster.view_is(is_known).await;
    let shown = cluster.admin.get_cluster(GetClusterRequest {}).await.unwrap().into_inner();
    assert!(!shown.healthy);
    let expected = [
        format!("partition 0: its leader, node {gone}, is not live"),
        format!("partition 1: its replica on node {gone} is not in sync, and it is not live"),
    ];
    assert_eq!(shown.problems, expected);
}

#[tokio::test]
async fn partitions_are_shown_as_the_map_and_their_nodes_see_them() {
    let mut cluster = Cluster::start(2).await;
    cluster.nodes[0].report(0, ReplicaRole::Leader, 1_234);
    let listed = cluster.admin.list_partitions(ListPartitionsRequest {}).await.unwrap().into_inner();
    assert_eq!(listed.partitions.len(), 2);
    let partition = &listed.partitions[0];
    assert_eq!((partition.partition_id, partition.epoch, partition.min_in_sync), (0, 7, 1));
    assert_eq!(partition.leader_node_id, cluster.nodes[0].id.to_string());
    assert_eq!((partition.slots[0].first, partition.slots[0].last), (0, 8_191));
    let replicas = &partition.replicas;
    assert_eq!((replicas[0].record_count, replicas[0].problem.as_str()), (1_234, ""));
    assert!(replicas.iter().all(|replica| replica.live && replica.in_sync));
    assert!(replicas[1].problem.contains("did not say"), "{}", replicas[1].problem);
}

#[tokio::test]
async fn a_key_is_located() {
    let mut cluster = Cluster::start(2).await;
    let request = LocateKeyRequest { key_text: "a{123456789}b".to_owned(), ..Default::default() };
    let located = cluster.admin.locate_key(request).await.unwrap().into_inner();
    assert_eq!((located.hashed.as_ref(), located.slot), (&b"123456789"[..], 12_739));
    assert_eq!(located.partition.unwrap().partition_id, 1);
    let status = cluster.admin.locate_key(LocateKeyRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn records_are_listed_by_the_leader_page_by_page() {
    let mut cluster = Cluster::start(2).await;
    let page = |partition_id, page_size| ListRecordsRequest { partition_id, page_size, ..Default::default() };
    let listed = cluster.admin.list_records(page(1, 3)).await.unwrap().into_inner();
    assert_eq!((listed.records.len(), listed.more), (3, true));
    assert_eq!(cluster.nodes[1].arrivals().len(), 1);
    let listed = cluster.admin.list_records(page(1, 0)).await.unwrap().into_inner();
    assert_eq!(listed.records.len(), 500);
    for bad in [page(1, 1_001), page(2, 1)] {
        let status = cluster.admin.list_records(bad).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
}

#[tokio::test]
async fn health_and_metrics_over_http() {
    let mut cluster = Cluster::start(2).await;
    assert_eq!(http_get(&cluster.router, "/livez").await, (200, "ok\n".to_owned()));
    let (code, body) = http_get(&cluster.router, "/readyz").await;
    let readiness: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, &readiness["ready"]), (200, &serde_json::Value::Bool(true)));
    assert!(body.contains("partition-1-leader-reachable"), "{body}");

    cluster.client.put(put(&key_in(0))).await.unwrap();
    let (code, text) = http_get(&cluster.router, "/metrics").await;
    assert_eq!(code, 200);
    for line in [
        "paddock_router_requests_total{method=\"Put\",code=\"OK\"} 1",
        "paddock_router_request_duration_seconds_count{method=\"Put\"} 1",
        "paddock_router_in_flight_requests 0",
        "paddock_router_forward_retries_total 0",
        "paddock_router_coordination_connected 1",
        "paddock_router_live_nodes 2",
        "paddock_router_partitions_reachable 2",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }

    let node = cluster.nodes[1].id;
    cluster.set_live(1, false);
    cluster.view_is(|view| !view.nodes.contains_key(&node)).await;
    let (code, body) = http_get(&cluster.router, "/readyz").await;
    assert_eq!(code, 503, "{body}");
    assert_eq!(http_get(&cluster.router, "/livez").await.0, 200);
}

#[tokio::test]
async fn health_and_reflection_over_grpc() {
    let cluster = Cluster::start(1).await;
    let channel = channel(&cluster.router).await;
    let mut health = HealthClient::new(channel.clone());
    let request = HealthCheckRequest { service: "paddock.v1.KeyValueService".to_owned() };
    let mut states = health.watch(request).await.unwrap().into_inner();
    let serving = async { while states.next().await.unwrap().unwrap().status() != ServingStatus::Serving {} };
    soon(serving).await;

    let mut reflection = ServerReflectionClient::new(channel);
    let mut ask = async |question| {
        let ask = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
        let answers = reflection.server_reflection_info(tokio_stream::once(ask)).await.unwrap();
        soon(answers.into_inner().next()).await.unwrap().unwrap().message_response.unwrap()
    };
    // Without these a client that works by reflection could show no error, nor a batch with one in it.
    for detail in ["ErrorInfo", "RetryInfo", "BadRequest"] {
        let answer = ask(MessageRequest::FileContainingSymbol(format!("google.rpc.{detail}"))).await;
        assert!(matches!(answer, MessageResponse::FileDescriptorResponse(_)), "{answer:?}");
    }
    let answer = ask(MessageRequest::ListServices(String::new())).await;
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
    let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    assert!(names.contains(&"paddock.v1.KeyValueService"), "{names:?}");
    assert!(names.contains(&"paddock.admin.v1.AdminService"), "{names:?}");
    assert!(!names.contains(&"paddock.v1.ExchangeService"), "routers do not serve it: {names:?}");
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let cluster = Cluster::start_unready(1).await;
    let free = "127.0.0.1:0".parse().unwrap();
    for (grpc_address, http_address) in [(address, None), (free, Some(address))] {
        let config = RouterConfig {
            grpc_address,
            http_address,
            advertise_address: None,
            cluster_name: "test".to_owned(),
        };
        let session: Arc<dyn Coordinator> = Arc::new(cluster.embedded.session());
        let error = Router::start(config, session).await.err().unwrap().to_string();
        assert!(error.contains(&address.to_string()) && error.contains("in use"), "{error}");
    }
}

#[tokio::test]
async fn stopping_finishes_what_is_under_way() {
    let cluster = Cluster::start(1).await;
    let (open, gate) = tokio::sync::oneshot::channel();
    let mut gate = Some(gate);
    cluster.nodes[0].script(move |_| gate.take().map_or(Reply::Healthy, Reply::After));
    let mut client = cluster.client.clone();
    let reading = tokio::spawn(async move { client.get(get(&key_in(0))).await });
    soon(cluster.nodes[0].arrived(1)).await;

    let (address, id) = (cluster.router.grpc_address(), cluster.router.router_id());
    let mut tree = cluster.session.watch("/routers");
    let mut stopping = tokio::spawn(cluster.router.stop());
    soon(tree.wait_for(|tree| !tree.nodes.contains_key(&paths::router(id)))).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(50), &mut stopping).await;
    assert!(early.is_err(), "it waits for the read");
    open.send(()).unwrap();
    soon(reading).await.unwrap().unwrap();
    soon(stopping).await.unwrap();
    TcpListener::bind(address).await.expect("the port is free again");
}

#[tokio::test]
async fn a_cluster_that_is_not_there_or_newer_is_explained() {
    let directory = tempfile::tempdir().unwrap();
    let embedded = Embedded::open(directory.path()).unwrap();
    let free = "127.0.0.1:0".parse().unwrap();
    let config = RouterConfig {
        grpc_address: free,
        http_address: None,
        advertise_address: None,
        cluster_name: "test".to_owned(),
    };
    let router = Router::start(config, Arc::new(embedded.session())).await.unwrap();
    let channel = channel(&router).await;
    let mut client = KeyValueServiceClient::new(channel.clone());
    let request = within(Duration::from_millis(500), put(&key_in(0)));
    let status = soon(client.put(request)).await.unwrap_err();
    assert_eq!(
        (status.code(), write_outcome(&status).as_deref()),
        (Code::DeadlineExceeded, Some("not_applied"))
    );
    assert!(status.message().contains("founded"), "{status}");

    let newer = r#"{"format":999}"#.into();
    embedded.session().create(paths::CLUSTER, newer).await.unwrap();
    let mut admin = AdminServiceClient::new(channel);
    let told = async {
        loop {
            let seen = router.views().bell().seen();
            let shown = admin.get_cluster(GetClusterRequest {}).await.unwrap().into_inner();
            if shown.problems.iter().any(|problem| problem.contains("format 999")) {
                return shown.healthy;
            }
            router.views().bell().rung_since(seen).await;
        }
    };
    assert!(!soon(told).await);
}
