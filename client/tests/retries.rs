//! What the client sends again and what it does not, counted by a server that fails as it is told.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use paddock_client::{
    Client, Consistency, Error, IdRefusal, Mutation, Precondition, RequestId, WriteOutcome,
};
use paddock_proto::google::rpc;
use paddock_proto::v1::key_value_service_server::{KeyValueService, KeyValueServiceServer};
use paddock_proto::v1::{
    BatchGetRequest, BatchGetResponse, BatchWriteRequest, BatchWriteResponse, DeleteRequest, DeleteResponse,
    GetRequest, GetResponse, PutRequest, PutResponse, Record, WriteResult, write_result,
};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// What the server answers to one call.
enum Answer {
    Fail(Code, &'static str, &'static str),
    Never,
}

/// Answers by a script; well where the script has ended.
#[derive(Clone, Default)]
struct Scripted {
    script: Arc<Mutex<VecDeque<Answer>>>,
    calls: Arc<Mutex<u32>>,
    ids: Arc<Mutex<Vec<String>>>,
    /// What becomes of every item of a batch that is answered.
    items: Arc<Mutex<Option<Answer>>>,
}

/// What the server says of an id that it has forgotten, or never knew.
const OLD: &str = "old";

/// The time that the server judges ids by, where it says so.
const CLOCK_MS: u64 = 5_000_000;

impl Scripted {
    async fn next(&self) -> Result<(), Status> {
        *self.calls.lock().unwrap() += 1;
        let answer = self.script.lock().unwrap().pop_front();
        match answer {
            None => Ok(()),
            Some(Answer::Never) => std::future::pending().await,
            Some(Answer::Fail(code, reason, outcome)) => Err(failure(code, reason, outcome)),
        }
    }
}

fn failure(code: Code, reason: &str, outcome: &str) -> Status {
    let mut details = ErrorDetails::new();
    // Of an id that is too old: nothing of this call, and nobody knows what before.
    let (outcome, of_call) = if outcome == OLD { ("unknown", Some("not_applied")) } else { (outcome, None) };
    let mut metadata = HashMap::from([
        ("write_outcome".to_owned(), outcome.to_owned()),
        ("clock_ms".to_owned(), CLOCK_MS.to_string()),
        ("partition_id".to_owned(), "3".to_owned()),
    ]);
    metadata.extend(of_call.map(|outcome| ("call_outcome".to_owned(), outcome.to_owned())));
    details.set_error_info(reason, "paddockdb", metadata);
    Status::with_error_details(code, "as the script says", details)
}

#[tonic::async_trait]
impl KeyValueService for Scripted {
    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        self.next().await?;
        let record = Record { key: request.into_inner().key, value: "value".into(), version: 1 };
        Ok(Response::new(GetResponse { record: Some(record), meta: None }))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        self.ids.lock().unwrap().push(request.into_inner().request_id);
        self.next().await?;
        Ok(Response::new(PutResponse { version: 7, meta: None }))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        self.ids.lock().unwrap().push(request.into_inner().request_id);
        self.next().await?;
        Ok(Response::new(DeleteResponse { deleted: true, version: 8, meta: None }))
    }

    async fn batch_get(&self, _: Request<BatchGetRequest>) -> Result<Response<BatchGetResponse>, Status> {
        self.next().await?;
        Ok(Response::new(BatchGetResponse::default()))
    }

    async fn batch_write(
        &self,
        request: Request<BatchWriteRequest>,
    ) -> Result<Response<BatchWriteResponse>, Status> {
        self.next().await?;
        let Some(Answer::Fail(code, reason, outcome)) = *self.items.lock().unwrap() else {
            return Ok(Response::new(BatchWriteResponse::default()));
        };
        let error = rpc::Status::decode(failure(code, reason, outcome).details()).unwrap();
        let result = WriteResult { outcome: Some(write_result::Outcome::Error(error)) };
        let results = vec![result; request.into_inner().mutations.len()];
        Ok(Response::new(BatchWriteResponse { results, ..BatchWriteResponse::default() }))
    }
}

/// A server with a script, and its endpoint.
async fn serve(script: impl IntoIterator<Item = Answer>) -> (Scripted, String) {
    let service =
        Scripted { script: Arc::new(Mutex::new(script.into_iter().collect())), ..Scripted::default() };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(KeyValueServiceServer::new(service.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    (service, endpoint)
}

fn calls(service: &Scripted) -> u32 {
    *service.calls.lock().unwrap()
}

#[tokio::test]
async fn a_write_that_did_not_happen_is_sent_again() {
    let away = || Answer::Fail(Code::Unavailable, "PARTITION_UNAVAILABLE", "not_applied");
    let (service, endpoint) = serve([away(), away()]).await;
    let client = Client::connect(endpoint).await.unwrap();
    assert_eq!(client.put("key", "value").await.unwrap(), 7);
    assert_eq!(calls(&service), 3);
}

#[tokio::test]
async fn a_write_of_unknown_outcome_is_sent_again_under_its_id() {
    let unknown = || Answer::Fail(Code::Unknown, "LEADER_CHANGED_UNKNOWN_OUTCOME", "unknown");
    let (service, endpoint) = serve([unknown(), unknown()]).await;
    let client = Client::connect(endpoint).await.unwrap();
    assert_eq!(client.put("key", "value").await.unwrap(), 7);
    assert!(client.delete("key").await.unwrap().deleted);
    let ids = service.ids.lock().unwrap().clone();
    assert!(ids[0] == ids[1] && ids[1] == ids[2], "{ids:?}");
    assert!(
        ids[3] != ids[0] && ids[3].parse::<RequestId>().is_ok(),
        "another write has an id of its own: {ids:?}"
    );
}

#[tokio::test]
async fn a_refusal_after_an_unknown_outcome_leaves_it_unknown_unless_it_is_the_result() {
    for (code, reason, outcome) in [
        (Code::ResourceExhausted, "DISK_FULL", WriteOutcome::Unknown),
        (Code::OutOfRange, "REQUEST_ID_EXPIRED", WriteOutcome::Unknown),
        (Code::FailedPrecondition, "PRECONDITION_FAILED", WriteOutcome::NotApplied),
    ] {
        let unknown = Answer::Fail(Code::Unknown, "LEADER_CHANGED_UNKNOWN_OUTCOME", "unknown");
        let (service, endpoint) = serve([unknown, Answer::Fail(code, reason, "not_applied")]).await;
        let client = Client::connect(endpoint).await.unwrap();
        let error = client.put("key", "value").await.unwrap_err();
        assert_eq!(error.write_outcome(), outcome, "{error:?}");
        assert_eq!(calls(&service), 2);
    }
}

/// Each item of a batch says of itself what the last attempt did with it, and knows nothing of the one before.
#[tokio::test]
async fn an_item_refused_after_an_unknown_outcome_leaves_it_unknown_unless_that_is_the_result() {
    for (code, reason, attempts, outcome) in [
        (Code::ResourceExhausted, "OVERLOADED", 1, WriteOutcome::NotApplied),
        (Code::ResourceExhausted, "OVERLOADED", 2, WriteOutcome::Unknown),
        (Code::OutOfRange, "REQUEST_ID_EXPIRED", 2, WriteOutcome::Unknown),
        (Code::FailedPrecondition, "PRECONDITION_FAILED", 2, WriteOutcome::NotApplied),
    ] {
        let unknown = || Answer::Fail(Code::Unknown, "LEADER_CHANGED_UNKNOWN_OUTCOME", "unknown");
        let (service, endpoint) = serve((1..attempts).map(|_| unknown())).await;
        *service.items.lock().unwrap() = Some(Answer::Fail(code, reason, "not_applied"));
        let client = Client::connect(endpoint).await.unwrap();
        let put = |key: &'static str| Mutation::Put {
            key: key.into(),
            value: "value".into(),
            precondition: Precondition::default(),
        };
        let results = client.batch_write([put("a"), put("b")]).await.unwrap();
        for result in results {
            let error = result.unwrap_err();
            assert_eq!(error.write_outcome(), outcome, "{reason}, {attempts} attempts: {error:?}");
        }
        assert_eq!(calls(&service), attempts);
    }
}

#[tokio::test]
async fn a_client_whose_clock_is_wrong_goes_by_the_servers() {
    let (service, endpoint) = serve([Answer::Fail(Code::OutOfRange, "REQUEST_ID_EXPIRED", OLD)]).await;
    let client = Client::connect(endpoint).await.unwrap();
    assert_eq!(client.put("key", "value").await.unwrap(), 7);
    let times: Vec<u64> =
        service.ids.lock().unwrap().iter().map(|id| id.parse::<RequestId>().unwrap().time_ms()).collect();
    assert!(times[1] >= CLOCK_MS && times[1] < CLOCK_MS + 60_000, "{times:?}");
    // An id of the caller's own is not replaced behind their back.
    // Whether it was written under it long ago nobody knows; under one of the future it was not.
    for (reason, said, expected, outcome) in [
        ("REQUEST_ID_EXPIRED", OLD, IdRefusal::Expired, WriteOutcome::Unknown),
        ("REQUEST_ID_AHEAD", "not_applied", IdRefusal::Ahead, WriteOutcome::NotApplied),
    ] {
        let (service, endpoint) = serve([Answer::Fail(Code::OutOfRange, reason, said)]).await;
        let client = Client::connect(endpoint).await.unwrap();
        let named = client.put_named(client.request_id(), "key", "value", Precondition::None).await;
        let Err(Error::RequestIdRefused { refusal, clock_ms, partition_id, write_outcome, .. }) = named
        else {
            panic!("{named:?}")
        };
        assert_eq!((refusal, clock_ms, partition_id), (expected, Some(CLOCK_MS), Some(3)));
        assert_eq!(write_outcome, outcome);
        assert_eq!(calls(&service), 1);
    }
    // Of an id that was made for the call nobody else knows: nothing was done.
    let refused = || Answer::Fail(Code::OutOfRange, "REQUEST_ID_EXPIRED", OLD);
    let (service, endpoint) = serve([refused(), refused()]).await;
    let client = Client::connect(endpoint).await.unwrap();
    let error = client.put("key", "value").await.unwrap_err();
    assert_eq!((error.write_outcome(), calls(&service)), (WriteOutcome::NotApplied, 2), "{error:?}");
}

#[tokio::test]
async fn items_whose_ids_were_refused_are_written_under_others() {
    let (service, endpoint) = serve([]).await;
    *service.items.lock().unwrap() = Some(Answer::Fail(Code::OutOfRange, "REQUEST_ID_AHEAD", "not_applied"));
    let client = Client::connect(endpoint).await.unwrap();
    let results = client.batch_write([Mutation::put("a", "1"), Mutation::put("b", "2")]).await.unwrap();
    let refused = |result: &Result<u64, Error>| matches!(result, Err(Error::RequestIdRefused { .. }));
    assert!(results.len() == 2 && results.iter().all(refused), "{results:?}");
    // All of them once more, and no further; and by the server's time.
    assert_eq!(calls(&service), 2);
    let learned = client.request_id_for("a").time_ms();
    assert!((CLOCK_MS..CLOCK_MS + 60_000).contains(&learned), "{learned}");
}

#[tokio::test]
async fn a_write_without_an_id_is_never_sent_again_when_its_outcome_is_unknown() {
    let (service, endpoint) =
        serve([Answer::Fail(Code::Unknown, "LEADER_CHANGED_UNKNOWN_OUTCOME", "unknown")]).await;
    let client = Client::builder(endpoint).request_ids(false).connect().await.unwrap();
    let error = client.put("key", "value").await.unwrap_err();
    assert!(matches!(error, Error::UnknownOutcome { .. }), "{error:?}");
    assert_eq!(calls(&service), 1);
}

#[tokio::test]
async fn a_read_is_sent_again_whatever_became_of_it_but_not_for_ever() {
    let lost = || Answer::Fail(Code::Unknown, "CONNECTION_LOST_UNKNOWN_OUTCOME", "unknown");
    let (service, endpoint) = serve([lost(), lost()]).await;
    let client = Client::connect(endpoint).await.unwrap();
    assert_eq!(client.get("key").await.unwrap().value, "value");
    assert_eq!(calls(&service), 3);

    let (service, endpoint) = serve([lost(), lost(), lost(), lost()]).await;
    let client = Client::builder(endpoint).attempts_max(3).connect().await.unwrap();
    assert!(client.get("key").await.is_err());
    assert_eq!(calls(&service), 3);
}

#[tokio::test]
async fn what_can_never_succeed_is_sent_once() {
    let (service, endpoint) =
        serve([Answer::Fail(Code::InvalidArgument, "KEY_INVALID", "not_applied")]).await;
    let client = Client::connect(endpoint).await.unwrap();
    let error = client.get_with("", Consistency::Eventual).await.unwrap_err();
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error:?}");
    assert_eq!(calls(&service), 1);
}

#[tokio::test]
async fn a_deadline_leaves_a_write_unknown_and_a_read_harmless() {
    let (_, endpoint) = serve([Answer::Never, Answer::Never]).await;
    let client =
        Client::builder(endpoint).request_timeout(Duration::from_millis(50)).connect().await.unwrap();
    let error = client.put("key", "value").await.unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded { .. }), "{error:?}");
    assert_eq!(error.write_outcome(), WriteOutcome::Unknown);
    let error = client.get("key").await.unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded { .. }), "{error:?}");
    assert_eq!(error.write_outcome(), WriteOutcome::NotApplied);
}

#[tokio::test]
async fn an_answer_with_too_few_results_is_no_success() {
    let (_, endpoint) = serve([]).await;
    let client = Client::connect(endpoint).await.unwrap();
    let error = client.batch_write([Mutation::put("key", "value")]).await.unwrap_err();
    assert_eq!(error.write_outcome(), WriteOutcome::Unknown, "{error:?}");
}

#[tokio::test]
async fn nobody_at_the_endpoint_means_that_nothing_was_done() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = Client::connect(&endpoint).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    assert!(error.to_string().contains(&endpoint), "{error}");
}

#[tokio::test]
async fn a_request_that_nobody_would_decode_is_refused_here() {
    let (service, endpoint) = serve([]).await;
    let client = Client::connect(endpoint).await.unwrap();
    let error = client.put("key", vec![0; 17 << 20]).await.unwrap_err();
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error:?}");
    assert_eq!(calls(&service), 0);
}
