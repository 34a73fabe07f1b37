//! [`Client`]: the data plane.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use paddock_proto::admin::v1::admin_service_client::AdminServiceClient;
use paddock_proto::limits::MESSAGE_BYTES_MAX;
use paddock_proto::request_id::RequestId;
use paddock_proto::v1::{self, key_value_service_client::KeyValueServiceClient};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::builder::Builder;
use crate::error::{self, Error, Kind, WriteOutcome};
use crate::identity::Identities;
use crate::retry;
use crate::session::{Session, SessionToken};
use crate::types::{Consistency, Deleted, Mutation, Precondition, Record, Seen};

/// A client of one router. Cheap to clone; clones share the connection.
#[derive(Clone, Debug)]
pub struct Client {
    key_value: KeyValueServiceClient<Channel>,
    pub(crate) admin: AdminServiceClient<Channel>,
    endpoint: Arc<str>,
    request_timeout: Duration,
    attempts_max: u32,
    request_ids: bool,
    identities: Arc<Identities>,
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
            request_ids: builder.request_ids,
            identities: Arc::default(),
        }
    }

    /// A session, whose reads any replica may answer that has applied what the session has written and read.
    #[must_use]
    pub fn session(&self) -> Session {
        Session::new(self.clone(), SessionToken::default())
    }

    /// A session that goes on where another one was.
    #[must_use]
    pub fn resume_session(&self, token: SessionToken) -> Session {
        Session::new(self.clone(), token)
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

    /// Reads one record, as fresh as asked for, and says what a session has seen with it.
    ///
    /// # Errors
    /// [`Error::NotFound`] if no record has this key.
    pub async fn read(&self, key: impl Into<Bytes>, consistency: Consistency) -> Result<Seen<Record>, Error> {
        let (result, session_token) = self.get_seen(key.into(), consistency).await?;
        Ok(Seen { result, session_token })
    }

    /// Writes one record if the precondition holds, under this request id or a fresh one, and says what a session has
    /// seen with it.
    ///
    /// # Errors
    /// As [`put_with`](Self::put_with) and [`put_named`](Self::put_named).
    pub async fn write_put(
        &self,
        id: Option<RequestId>,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        precondition: Precondition,
    ) -> Result<Seen<u64>, Error> {
        let (key, value) = (key.into(), value.into());
        let (result, session_token) = match id {
            Some(_) => {
                self.fits(key.len() + value.len())?;
                self.put_as(id, key, value, precondition).await?
            }
            None => self.put_seen(key, value, precondition).await?,
        };
        Ok(Seen { result, session_token })
    }

    /// Removes one record if the precondition holds, under this request id or a fresh one, and says what a session has
    /// seen with it.
    ///
    /// # Errors
    /// As [`delete_with`](Self::delete_with) and [`delete_named`](Self::delete_named).
    pub async fn write_delete(
        &self,
        id: Option<RequestId>,
        key: impl Into<Bytes>,
        precondition: Precondition,
    ) -> Result<Seen<Deleted>, Error> {
        let (result, session_token) = match id {
            Some(_) => self.delete_as(id, key.into(), precondition).await?,
            None => self.delete_seen(key.into(), precondition).await?,
        };
        Ok(Seen { result, session_token })
    }

    /// Reads one record, as fresh as asked for.
    ///
    /// # Errors
    /// [`Error::NotFound`] if no record has this key.
    pub async fn get_with(&self, key: impl Into<Bytes>, consistency: Consistency) -> Result<Record, Error> {
        Ok(self.get_seen(key.into(), consistency).await?.0)
    }

    /// The same, and what a session has seen with it.
    pub(crate) async fn get_seen(
        &self,
        key: Bytes,
        consistency: Consistency,
    ) -> Result<(Record, SessionToken), Error> {
        let request = v1::GetRequest { key, consistency: consistency.into_wire(), ..Default::default() };
        let response = self
            .call(Kind::Read, &request, |request| {
                let mut service = self.key_value.clone();
                async move { service.get(request).await }
            })
            .await?;
        let record = response.record.map(Record::from);
        let record = record.ok_or_else(|| protocol("a read without a record", Kind::Read))?;
        Ok((record, seen(response.meta)))
    }

    /// Writes one record, whatever was there. Returns the version that it made.
    ///
    /// # Errors
    /// Any [`Error`] but those of preconditions; its [`write_outcome`](Error::write_outcome) says whether
    /// the write may have happened.
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<u64, Error> {
        self.put_with(key, value, Precondition::None).await
    }

    /// An id for a write, to name it with, so that it happens once however often it is sent.
    #[must_use]
    pub fn request_id(&self) -> RequestId {
        self.identities.next()
    }

    /// The same for a write of this key: made by the time of its partition, where a refusal has told that.
    #[must_use]
    pub fn request_id_for(&self, key: impl AsRef<[u8]>) -> RequestId {
        self.identities.next_for(key.as_ref())
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
        Ok(self.put_seen(key.into(), value.into(), precondition).await?.0)
    }

    /// The same, and what a session has seen with it.
    pub(crate) async fn put_seen(
        &self,
        key: Bytes,
        value: Bytes,
        precondition: Precondition,
    ) -> Result<(u64, SessionToken), Error> {
        self.fits(key.len() + value.len())?;
        let id = self.fresh_id(&key);
        let first = self.put_as(id, key.clone(), value.clone(), precondition.clone()).await;
        let result = match first {
            Err(error) if self.learned_from(&key, &error) => {
                self.put_as(self.fresh_id(&key), key, value, precondition).await
            }
            result => result,
        };
        result.map_err(Error::under_fresh_id)
    }

    /// The same under an id of the caller's, who may repeat it later, in another process too: what was decided first
    /// is answered again.
    ///
    /// # Errors
    /// As [`put_with`](Self::put_with); [`Error::RequestIdRefused`] when the id is too old: then it may have been written
    /// under it long ago, and its [`write_outcome`](Error::write_outcome) says so.
    pub async fn put_named(
        &self,
        id: RequestId,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        precondition: Precondition,
    ) -> Result<u64, Error> {
        let (key, value) = (key.into(), value.into());
        self.fits(key.len() + value.len())?;
        Ok(self.put_as(Some(id), key, value, precondition).await?.0)
    }

    async fn put_as(
        &self,
        id: Option<RequestId>,
        key: Bytes,
        value: Bytes,
        precondition: Precondition,
    ) -> Result<(u64, SessionToken), Error> {
        let request = v1::PutRequest {
            key,
            value: Some(value),
            precondition: precondition.into_wire(),
            request_id: text_of(id),
            ..Default::default()
        };
        let response = self
            .call(kind_of(id), &request, |request| {
                let mut service = self.key_value.clone();
                async move { service.put(request).await }
            })
            .await?;
        self.note(&request.key, response.meta.as_ref());
        Ok((response.version, seen(response.meta)))
    }

    /// An id for a write, where ids are in use.
    fn fresh_id(&self, key: &[u8]) -> Option<RequestId> {
        self.request_ids.then(|| self.identities.next_for(key))
    }

    /// True if a write under a fresh id was refused because our clock is wrong, or the leader's is, and another id will do:
    /// nothing was done under the first one, and ids for that partition are made by the server's time now.
    fn learned_from(&self, key: &[u8], error: &Error) -> bool {
        let Error::RequestIdRefused { clock_ms: Some(clock_ms), partition_id, call_outcome, .. } = error
        else {
            return false;
        };
        self.identities.learn(key, *partition_id, *clock_ms);
        *call_outcome == WriteOutcome::NotApplied
    }

    /// A key's partition has answered.
    fn note(&self, key: &[u8], meta: Option<&v1::ResponseMeta>) {
        if let Some(meta) = meta {
            self.identities.note(key, meta.partition_id);
        }
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
        Ok(self.delete_seen(key.into(), precondition).await?.0)
    }

    /// The same, and what a session has seen with it.
    pub(crate) async fn delete_seen(
        &self,
        key: Bytes,
        precondition: Precondition,
    ) -> Result<(Deleted, SessionToken), Error> {
        let id = self.fresh_id(&key);
        let result = match self.delete_as(id, key.clone(), precondition.clone()).await {
            Err(error) if self.learned_from(&key, &error) => {
                self.delete_as(self.fresh_id(&key), key, precondition).await
            }
            result => result,
        };
        result.map_err(Error::under_fresh_id)
    }

    /// The same under an id of the caller's, as [`put_named`](Self::put_named).
    ///
    /// # Errors
    /// As [`put_named`](Self::put_named).
    pub async fn delete_named(
        &self,
        id: RequestId,
        key: impl Into<Bytes>,
        precondition: Precondition,
    ) -> Result<Deleted, Error> {
        Ok(self.delete_as(Some(id), key.into(), precondition).await?.0)
    }

    async fn delete_as(
        &self,
        id: Option<RequestId>,
        key: Bytes,
        precondition: Precondition,
    ) -> Result<(Deleted, SessionToken), Error> {
        let request = v1::DeleteRequest {
            key,
            precondition: precondition.into_wire(),
            request_id: text_of(id),
            ..Default::default()
        };
        let response = self
            .call(kind_of(id), &request, |request| {
                let mut service = self.key_value.clone();
                async move { service.delete(request).await }
            })
            .await?;
        self.note(&request.key, response.meta.as_ref());
        let deleted = Deleted { deleted: response.deleted, version: response.version };
        Ok((deleted, seen(response.meta)))
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
        let keys = keys.into_iter().map(Into::into).collect();
        Ok(self.batch_get_seen(keys, consistency).await?.0)
    }

    /// The same, and what a session has seen with it.
    pub(crate) async fn batch_get_seen(
        &self,
        keys: Vec<Bytes>,
        consistency: Consistency,
    ) -> Result<(Vec<Result<Record, Error>>, SessionToken), Error> {
        let expected = keys.len();
        let request = v1::BatchGetRequest { keys, consistency: consistency.into_wire(), omit_value: false };
        let response = self
            .call(Kind::Read, &request, |request| {
                let mut service = self.key_value.clone();
                async move { service.batch_get(request).await }
            })
            .await?;
        counted(response.results.len(), expected, Kind::Read)?;
        let records = response.results.into_iter().map(read_result).collect();
        Ok((records, SessionToken(response.session_token)))
    }

    /// Does many independent writes, at most 1,000 and 4 MiB, across partitions. It is not atomic: each has
    /// its own result (the version that it made; 0 for a delete that found nothing), in the order of the
    /// mutations. Two writes of one key happen in the order given.
    ///
    /// The call as a whole is tried again, under the same request ids. Of single items only those are whose id was refused,
    /// under other ones: nothing was done of them, nor of what follows them of the same key.
    ///
    /// # Errors
    /// Those of the call as a whole; after one of unknown outcome any of the writes may have happened.
    pub async fn batch_write(
        &self,
        mutations: impl IntoIterator<Item = Mutation>,
    ) -> Result<Vec<Result<u64, Error>>, Error> {
        Ok(self.batch_write_seen(mutations).await?.0)
    }

    /// The same, and what a session has seen with it.
    pub(crate) async fn batch_write_seen(
        &self,
        mutations: impl IntoIterator<Item = Mutation>,
    ) -> Result<(Vec<Result<u64, Error>>, SessionToken), Error> {
        let mutations: Vec<Mutation> = mutations.into_iter().collect();
        let named = |mutation: &Mutation| (self.fresh_id(mutation.key()), mutation.clone());
        let (mut results, mut token) = self.batch_write_as(mutations.iter().map(named)).await?;
        let refused = |(index, result): (usize, &Result<u64, Error>)| {
            let call_outcome = match result {
                Err(Error::RequestIdRefused { call_outcome, clock_ms: Some(_), .. }) => *call_outcome,
                _ => return None,
            };
            (call_outcome == WriteOutcome::NotApplied).then_some(index)
        };
        let again: Vec<usize> = results.iter().enumerate().filter_map(refused).collect();
        if !again.is_empty() {
            let items = again.iter().filter_map(|index| mutations.get(*index)).map(named);
            let (second, seen) = self.batch_write_as(items).await.unwrap_or_else(|error| {
                (again.iter().map(|_| Err(error.clone())).collect(), SessionToken::default())
            });
            token = token.merged(&seen);
            for (index, result) in again.into_iter().zip(second) {
                if let Some(place) = results.get_mut(index) {
                    *place = result;
                }
            }
        }
        let results = results.into_iter().map(|result| result.map_err(Error::under_fresh_id));
        Ok((results.collect(), token))
    }

    /// The same under ids of the caller's, one for each mutation, as [`put_named`](Self::put_named): a batch that is
    /// written again does what was not decided before, and answers the rest with the first results.
    ///
    /// # Errors
    /// As [`batch_write`](Self::batch_write).
    pub async fn batch_write_named(
        &self,
        mutations: impl IntoIterator<Item = (RequestId, Mutation)>,
    ) -> Result<Vec<Result<u64, Error>>, Error> {
        let named = mutations.into_iter().map(|(id, mutation)| (Some(id), mutation));
        Ok(self.batch_write_as(named).await?.0)
    }

    async fn batch_write_as(
        &self,
        mutations: impl Iterator<Item = (Option<RequestId>, Mutation)>,
    ) -> Result<(Vec<Result<u64, Error>>, SessionToken), Error> {
        let (mut size_bytes, mut kind) = (0, Kind::NamedWrite);
        let mutations: Vec<v1::Mutation> = mutations
            .map(|(id, mutation)| {
                size_bytes += mutation.key().len()
                    + match &mutation {
                        Mutation::Put { value, .. } => value.len(),
                        Mutation::Delete { .. } => 0,
                    };
                if id.is_none() {
                    kind = Kind::Write;
                }
                v1::Mutation { request_id: text_of(id), ..mutation.into() }
            })
            .collect();
        self.fits(size_bytes)?;
        let expected = mutations.len();
        let request = v1::BatchWriteRequest { mutations };
        let (response, perhaps_done) = self
            .call_noting(kind, &request, |request| {
                let mut service = self.key_value.clone();
                async move { service.batch_write(request).await }
            })
            .await?;
        counted(response.results.len(), expected, Kind::Write)?;
        let settle = |error: Error| if perhaps_done { error.after_unknown() } else { error };
        let results: Vec<_> =
            response.results.into_iter().map(|result| write_result(result).map_err(settle)).collect();
        for (mutation, result) in request.mutations.iter().zip(&results) {
            if let Err(error) = result {
                self.learned_from(key_of(mutation), error);
            }
        }
        Ok((results, SessionToken(response.session_token)))
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
        Ok(self.call_noting(kind, message, send).await?.0)
    }

    /// The same, and whether an attempt before the one that was answered may have been done: for an answer that speaks of
    /// several writes, each of which may say that it was not.
    async fn call_noting<Q, R, F, A>(&self, kind: Kind, message: &Q, send: F) -> Result<(R, bool), Error>
    where
        Q: Clone,
        F: Fn(Request<Q>) -> A,
        A: Future<Output = Result<Response<R>, Status>>,
    {
        let deadline = Instant::now() + self.request_timeout;
        let mut attempt = 1;
        let mut perhaps_done = false;
        loop {
            let error = match self.attempt(kind, message.clone(), &send, deadline).await {
                Ok(response) => return Ok((response, perhaps_done)),
                Err(error) => error,
            };
            match retry::wait_before_next(&error, kind, attempt, self.attempts_max) {
                Some(wait) if Instant::now() + wait < deadline => {
                    perhaps_done |= error.write_outcome() == WriteOutcome::Unknown;
                    sleep(wait).await;
                }
                _ if perhaps_done => return Err(error.after_unknown()),
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

fn seen(meta: Option<v1::ResponseMeta>) -> SessionToken {
    SessionToken(meta.map(|meta| meta.session_token).unwrap_or_default())
}

fn kind_of(id: Option<RequestId>) -> Kind {
    if id.is_some() { Kind::NamedWrite } else { Kind::Write }
}

fn key_of(mutation: &v1::Mutation) -> &[u8] {
    match &mutation.operation {
        Some(v1::mutation::Operation::Put(put)) => &put.key,
        Some(v1::mutation::Operation::Delete(delete)) => &delete.key,
        None => &[],
    }
}

/// As it travels: empty where there is none.
fn text_of(id: Option<RequestId>) -> String {
    id.map(|id| id.to_string()).unwrap_or_default()
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
        Kind::Write | Kind::NamedWrite => WriteOutcome::Unknown,
    };
    Error::Protocol { message: message.to_owned(), write_outcome, source: None }
}
