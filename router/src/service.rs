//! `paddock.v1.KeyValueService`: the public data plane. Requests become jobs in
//! [`mod@request`], jobs get done in [`route`](crate::route) and [`scatter`],
//! and answers turn into responses here.

use std::sync::Arc;

use paddock_proto::limits::BATCH_BYTES_MAX;
use paddock_proto::v1::key_value_service_server::KeyValueService;
use paddock_proto::v1::{
    BatchGetRequest, BatchGetResponse, BatchWriteRequest, BatchWriteResponse, DeleteRequest, DeleteResponse,
    ErrorReason, GetRequest, GetResponse, PutRequest, PutResponse, ReadResult, Record, ResponseMeta,
    WriteOutcome, WriteResult, outcome, read_result, write_result,
};
use prost::Message;
use tonic::{Request, Response, Status};

use crate::errors::{Failure, WriteFate};
use crate::memory::{Memory, Room, holding};
use crate::metrics::Metrics;
use crate::route::{Answer, Routes};
use crate::session::Session;
use crate::{deadline, request, scatter};

/// The service.
pub struct KeyValue {
    routes: Arc<Routes>,
    metrics: Arc<Metrics>,
    memory: Arc<Memory>,
}

impl KeyValue {
    /// Over these routes.
    #[must_use]
    pub fn new(routes: Arc<Routes>, metrics: Arc<Metrics>, memory: Arc<Memory>) -> Self {
        KeyValue { routes, metrics, memory }
    }

    /// Room for a request, for as long as it is under way.
    fn admit_read(&self, request: &impl Message) -> Result<Room, Failure> {
        self.memory.request(request.encoded_len())
    }

    fn admit_write(&self, request: &impl Message) -> Result<Room, Failure> {
        self.admit_read(request).map_err(|failure| failure.of_write(WriteFate::NotApplied))
    }

    async fn do_get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let deadline = deadline::of_request(request.metadata());
        let _room = self.admit_read(request.get_ref())?;
        let job = request::get(request.into_inner())?;
        let answer = self.routes.perform(&job, deadline).await?;
        let meta = Some(meta_of(&answer, job.session.as_deref()));
        let response = GetResponse { record: Some(record_of(answer)?), meta };
        let room = self.memory.answer(response.encoded_len())?;
        Ok(holding(response, room))
    }

    async fn do_put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let deadline = deadline::of_request(request.metadata());
        let _room = self.admit_write(request.get_ref())?;
        let job = request::put(request.into_inner())?;
        let answer = self.routes.perform(&job, deadline).await?;
        let meta = Some(meta_of(&answer, None));
        Ok(Response::new(PutResponse { version: written(&answer)?.version, meta }))
    }

    async fn do_delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        let deadline = deadline::of_request(request.metadata());
        let _room = self.admit_write(request.get_ref())?;
        let job = request::delete(request.into_inner())?;
        let answer = self.routes.perform(&job, deadline).await?;
        let meta = Some(meta_of(&answer, None));
        let WriteOutcome { version, deleted } = written(&answer)?;
        Ok(Response::new(DeleteResponse { deleted, version, meta }))
    }

    async fn do_batch_get(
        &self,
        request: Request<BatchGetRequest>,
    ) -> Result<Response<BatchGetResponse>, Status> {
        let deadline = deadline::of_request(request.metadata());
        let _room = self.admit_read(request.get_ref())?;
        let jobs = request::batch_get(request.into_inner())?;
        let mut session = jobs.first().and_then(|job| job.session.as_deref()).cloned().unwrap_or_default();
        let mut answers = Answers { memory: &self.memory, room: self.memory.answer(0)?, bytes: 0 };
        let results =
            scatter::read_each(&self.routes, jobs, deadline, |answer| answers.count(answer)).await?;
        results.iter().flatten().for_each(|answer| see(&mut session, answer));
        let results = results.into_iter().map(|result| {
            let outcome = match result.and_then(record_of) {
                Ok(record) => read_result::Outcome::Record(record),
                Err(failure) => read_result::Outcome::Error(failure.to_item()),
            };
            ReadResult { outcome: Some(outcome) }
        });
        let response = BatchGetResponse { results: results.collect(), session_token: session.encode() };
        Ok(holding(response, answers.room))
    }

    async fn do_batch_write(
        &self,
        request: Request<BatchWriteRequest>,
    ) -> Result<Response<BatchWriteResponse>, Status> {
        let deadline = deadline::of_request(request.metadata());
        let _room = self.admit_write(request.get_ref())?;
        let jobs = request::batch_write(request.into_inner())?;
        let results = scatter::perform_in_key_order(&self.routes, jobs, deadline).await;
        let mut session = Session::default();
        results.iter().flatten().for_each(|answer| see(&mut session, answer));
        let results = results.into_iter().map(|result| {
            let outcome = match result.and_then(|answer| written(&answer)) {
                Ok(written) => write_result::Outcome::Version(written.version),
                Err(failure) => write_result::Outcome::Error(failure.to_item()),
            };
            WriteResult { outcome: Some(outcome) }
        });
        let results = results.collect();
        Ok(Response::new(BatchWriteResponse { results, session_token: session.encode() }))
    }
}

#[tonic::async_trait]
impl KeyValueService for KeyValue {
    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        self.metrics.observe("Get", self.do_get(request)).await
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        self.metrics.observe("Put", self.do_put(request)).await
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        self.metrics.observe("Delete", self.do_delete(request)).await
    }

    async fn batch_get(
        &self,
        request: Request<BatchGetRequest>,
    ) -> Result<Response<BatchGetResponse>, Status> {
        self.metrics.observe("BatchGet", self.do_batch_get(request)).await
    }

    async fn batch_write(
        &self,
        request: Request<BatchWriteRequest>,
    ) -> Result<Response<BatchWriteResponse>, Status> {
        self.metrics.observe("BatchWrite", self.do_batch_write(request)).await
    }
}

/// What a batch has read so far.
struct Answers<'memory> {
    memory: &'memory Memory,
    room: Room,
    bytes: usize,
}

impl Answers<'_> {
    /// Counts one more. Small keys can name a thousand large values: the batch is refused, and the rest of it
    /// not waited for, as soon as it is over the limit.
    fn count(&mut self, answer: &Answer) -> Result<(), Failure> {
        let outcome::Kind::Read(read) = &answer.outcome else { return Ok(()) };
        let bytes = read.record.as_ref().map_or(0, |record| record.key.len() + record.value.len());
        self.bytes += bytes;
        if self.bytes > BATCH_BYTES_MAX {
            let message = format!(
                "the records of the batch have more bytes of keys and values than the limit of \
                 {BATCH_BYTES_MAX}: read fewer keys at a time"
            );
            let failure = Failure::invalid(ErrorReason::BatchTooLarge, "keys", message);
            return Err(failure.with("limit", &BATCH_BYTES_MAX));
        }
        self.room.add(self.memory.answer(bytes)?);
        Ok(())
    }
}

/// Who answered, and what the session has seen with this.
fn meta_of(answer: &Answer, session: Option<&Session>) -> ResponseMeta {
    let mut session = session.cloned().unwrap_or_default();
    see(&mut session, answer);
    ResponseMeta {
        partition_id: answer.partition.0,
        leader_epoch: answer.leader_epoch,
        served_by: answer.served_by.to_string(),
        session_token: session.encode(),
    }
}

/// The session has seen this answer.
fn see(session: &mut Session, answer: &Answer) {
    if let Some(position) = &answer.position {
        session.add(answer.partition, position.clone());
    }
}

/// The record that a read found.
fn record_of(answer: Answer) -> Result<Record, Failure> {
    match answer.outcome {
        outcome::Kind::Read(read) => {
            let session = answer.position.map(|position| Session::at(answer.partition, position));
            read.record.ok_or_else(|| {
                let missing = Failure::new(ErrorReason::KeyNotFound, "no record has this key");
                session.map_or(missing.clone(), |session| missing.seen_at(&session))
            })
        }
        _ => Err(mismatch(&answer)),
    }
}

/// The outcome of a write.
fn written(answer: &Answer) -> Result<WriteOutcome, Failure> {
    match answer.outcome {
        outcome::Kind::Write(written) => Ok(written),
        _ => Err(mismatch(answer).of_write(WriteFate::Unknown)),
    }
}

/// For a partition server that answers something else than it was asked.
fn mismatch(answer: &Answer) -> Failure {
    let message = format!("node {} answered another question than it was asked", answer.served_by);
    Failure::new(ErrorReason::Internal, message)
}
