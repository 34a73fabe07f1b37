//! [`Client`]: the data plane.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use paddock_proto::admin::v1::admin_service_client::AdminServiceClient;
use paddock_proto::limits::MESSAGE_BYTES_MAX;
use paddock_proto::v1::{self, key_value_service_client::KeyValueServiceClient};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::builder::Builder;
use crate::error::{self, Error, Kind, WriteOutcome};
use crate::retry;
use crate::types::{Consistency, Deleted, Mutation, Precondition, Record};

/// A client of one router. Cheap to clone; clones share the connection.
#[derive(Clone, Debug)]
pub struct Client {
    key_value: KeyValueServiceClient<Channel>,
    pub(crate) admin: AdminServiceClient<Channel>,
    endpoint: Arc<str>,
    request_timeout: Duration,
    attempts_max: u32,
}

impl Client {
    /// Connects to a router's URL, such as `http://127.0.0.1:7700`, with the default settings.
    ///
    /// # Errors
    /// As [`Builder::connect`].
    pub async fn connect(endpoint: impl Into<String>) -> Result<Client, Error> {
        Client::builder(endpoint).connect().await
    }

    /// Settings to connect with.
    pub fn builder(endpoint: impl Into<String>) -> Builder {
        Builder::new(endpoint)
    }

    /// A client over a channel that is already there.
    pub(crate) fn over(channel: Channel, builder: &Builder) -> Client {
        Client {
            key_value: KeyValueServiceClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
            admin: AdminServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX),
            endpoint: Arc::from(builder.endpoint.as_str()),
            request_timeout: builder.request_timeout,
            attempts_max: builder.attempts_max,
        }
    }

    /// The URL that this client was connected to.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Reads one record, linearizably.
    ///
    /// # Errors
    /// [`Error::NotFound`] if no record has this key.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Record, Error> {
        self.get_with(key, Consistency::Strong).await
    }

    /// Reads one record, as fresh as asked for.
    ///
    /// # Errors
    /// [`Error::NotFound`] if no record has this key.
    pub async fn get_with(&self, key: impl Into<Bytes>, consistency: Consistency) -> Result<Record, Error> {
        let request =
            v1::GetRequest { key: key.into(), consistency: consistency.into_wire(), ..Default::default() };
        let response = self
            .call(Kind::Read, &request, |request| {
                let mut service = self.key_value.clone();
                async move { service.get(request).await }
            })
            .await?;
        response.record.map(Record::from).ok_or_else(|| protocol("a read without a record", Kind::Read))
    }

    /// Writes one record, whatever was there. Returns the version that it made.
    ///
    /// # Errors
    /// Any [`Error`] but those of preconditions; its [`write_outcome`](Error::write_outcome) says whether
    /// the write may have happened.
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<u64, Error> {
        self.put_with(key, value, Precondition::None).await
    }

    /// Writes one record if the precondition holds. Returns the version that it made.
    ///
    /// # Errors
    /// As the [`Precondition`] says, or as [`put`](Self::put).
    pub async fn put_with(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        precondition: Precondition,
    ) -> Result<u64, Error> {
        let request = v1::PutRequest {
            key: key.into(),
            value: Some(value.into()),
            precondition: precondition.into_wire(),
            ..Default::default()
        };
        self.fits(request.key.len() + request.value.as_ref().map_or(0, Bytes::len))?;
        let response = self
            .call(Kind::Write, &request, |request| {
                let mut service = self.key_value.clone();
                async move { service.put(request).await }
            })
            .await?;
        Ok(response.version)
    }

    /// Removes one record, if there is one.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<Deleted, Error> {
        self.delete_with(key, Precondition::None).await
    }

    /// Removes one record if the precondition holds.
    ///
    /// # Errors
    /// As the [`Precondition`] says, or as [`put`](Self::put).
    pub async fn delete_with(
        &self,
        key: impl Into<Bytes>,
        precondition: Precondition,
    ) -> Result<Deleted, Error> {
        let request = v1::DeleteRequest {
            key: key.into(),
            precondition: precondition.into_wire(),
            ..Default::default()
        };
        let response = self
            .call(Kind::Write, &request, |request| {
                let mut service = self.key_value.clone();
                async move { service.delete(request).await }
            })
            .await?;
        Ok(Deleted { deleted: response.deleted, version: response.version })
    }

    /// Reads many keys, at most 1,000, across partitions. One result per key, in the order of the keys;
    /// a missing key is [`Error::NotFound`] in its place.
    ///
    /// # Errors
    /// Those of the call as a whole: too many keys, or nobody to answer.
    pub async fn batch_get(
        &self,
        keys: impl IntoIterator<Item = impl Into<Bytes>>,
        consistency: Consistency,
    ) -> Result<Vec<Result<Record, Error>>, Error> {
        let keys: Vec<Bytes> = keys.into_iter().map(Into::into).collect();
        let expected = keys.len();
        let request = v1::BatchGetRequest { keys, consistency: consistency.into_wire(), omit_value: false };
        let response = self
            .call(Kind::Read, &request, |request| {
                let mut service = self.key_value.clone();
                async move { service.batch_get(request).await }
            })
            .await?;
        counted(response.results.len(), expected, Kind::Read)?;
        Ok(response.results.into_iter().map(read_result).collect())
    }

    /// Does many independent writes, at most 1,000 and 4 MiB, across partitions. It is not atomic: each has
    /// its own result (the version that it made; 0 for a delete that found nothing), in the order of the
    /// mutations. Two writes of one key happen in the order given.
    ///
    /// Single items are not tried again, since a later write of the same key may have succeeded already.
    ///
    /// # Errors
    /// Those of the call as a whole; after one of unknown outcome any of the writes may have happened.
    pub async fn batch_write(
        &self,
        mutations: impl IntoIterator<Item = Mutation>,
    ) -> Result<Vec<Result<u64, Error>>, Error> {
        let mut size_bytes = 0;
        let mutations: Vec<v1::Mutation> = mutations
            .into_iter()
            .map(|mutation| {
                size_bytes += match &mutation {
                    Mutation::Put { key, value, .. } => key.len() + value.len(),
                    Mutation::Delete { key, .. } => key.len(),
                };
                mutation.into()
            })
            .collect();
        self.fits(size_bytes)?;
        let expected = mutations.len();
        let request = v1::BatchWriteRequest { mutations };
        let response = self
            .call(Kind::Write, &request, |request| {
                let mut service = self.key_value.clone();
                async move { service.batch_write(request).await }
            })
            .await?;
        counted(response.results.len(), expected, Kind::Write)?;
        Ok(response.results.into_iter().map(write_result).collect())
    }

    /// Refuses here what no server would decode: it would answer with less helpful words.
    fn fits(&self, size_bytes: usize) -> Result<(), Error> {
        /// Room for the framing of a message's fields.
        const FRAMING_BYTES_MAX: usize = 64 * 1024;
        let limit = MESSAGE_BYTES_MAX - FRAMING_BYTES_MAX;
        if size_bytes <= limit {
            return Ok(());
        }
        let message =
            format!("keys and values of {size_bytes} bytes are over the limit of one request, {limit} bytes");
        Err(Error::InvalidArgument { message })
    }

    /// Sends a request until it is answered, fails for good, or its time is up.
    pub(crate) async fn call<Q, R, F, A>(&self, kind: Kind, message: &Q, send: F) -> Result<R, Error>
    where
        Q: Clone,
        F: Fn(Request<Q>) -> A,
        A: Future<Output = Result<Response<R>, Status>>,
    {
        let deadline = Instant::now() + self.request_timeout;
        let mut attempt = 1;
        loop {
            let error = match self.attempt(kind, message.clone(), &send, deadline).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            match retry::wait_before_next(&error, kind, attempt, self.attempts_max) {
                Some(wait) if Instant::now() + wait < deadline => sleep(wait).await,
                _ => return Err(error),
            }
            attempt += 1;
        }
    }

    async fn attempt<Q, R, F, A>(
        &self,
        kind: Kind,
        message: Q,
        send: &F,
        deadline: Instant,
    ) -> Result<R, Error>
    where
        F: Fn(Request<Q>) -> A,
        A: Future<Output = Result<Response<R>, Status>>,
    {
        let mut request = Request::new(message);
        // The servers learn how much time is left, and drop what they have not begun by then.
        request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        match timeout_at(deadline, send(request)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(error::from_status(status, kind, &self.endpoint)),
            Err(_) => Err(Error::DeadlineExceeded {
                write_outcome: kind.outcome_of_lost(),
                message: format!(
                    "the deadline passed: {}: no answer within {} ms",
                    self.endpoint,
                    self.request_timeout.as_millis()
                ),
            }),
        }
    }
}

fn read_result(result: v1::ReadResult) -> Result<Record, Error> {
    match result.outcome {
        Some(v1::read_result::Outcome::Record(record)) => Ok(record.into()),
        Some(v1::read_result::Outcome::Error(status)) => Err(error::from_item(status, Kind::Read)),
        None => Err(protocol("a result without an outcome", Kind::Read)),
    }
}

fn write_result(result: v1::WriteResult) -> Result<u64, Error> {
    match result.outcome {
        Some(v1::write_result::Outcome::Version(version)) => Ok(version),
        Some(v1::write_result::Outcome::Error(status)) => Err(error::from_item(status, Kind::Write)),
        None => Err(protocol("a result without an outcome", Kind::Write)),
    }
}

fn counted(actual: usize, expected: usize, kind: Kind) -> Result<(), Error> {
    if actual == expected {
        return Ok(());
    }
    Err(protocol(&format!("{actual} results for {expected} items"), kind))
}

/// An answer that the protocol does not allow.
pub(crate) fn protocol(message: &str, kind: Kind) -> Error {
    let write_outcome = match kind {
        Kind::Read => WriteOutcome::NotApplied,
        Kind::Write => WriteOutcome::Unknown,
    };
    Error::Protocol { message: message.to_owned(), write_outcome, source: None }
}
