//! [`Memory`]: what requests and answers may weigh, all together.
//!
//! A request holds its room from its arrival to its answer: while a partition has no leader, requests wait
//! for one, each with its value. An answer holds its room until HTTP/2 has sent it: a caller that asks and
//! does not read leaves its answers with us. What finds no room is refused with OVERLOADED and was not begun
//! (a request), or changed nothing (an answer of records belongs to a read).
//!
//! The room travels with the response as an extension, [`Held`]; [`HoldLayer`] ties it to the bytes that
//! the response is encoded to.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use paddock_proto::v1::ErrorReason;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Response;
use tonic::codegen::http;
use tower::{Layer, Service};

use crate::errors::Failure;

/// The most bytes of all requests under way.
pub const REQUESTS_BYTES_MAX: usize = 256 << 20;

/// The most bytes of all answers that are not sent yet.
pub const ANSWERS_BYTES_MAX: usize = 256 << 20;

const _: () = assert!(REQUESTS_BYTES_MAX >= 4 * paddock_proto::limits::MESSAGE_BYTES_MAX);
const _: () = assert!(ANSWERS_BYTES_MAX >= 4 * paddock_proto::limits::MESSAGE_BYTES_MAX);

/// The room that all requests and answers share.
#[derive(Debug)]
pub struct Memory {
    requests: Arc<Semaphore>,
    answers: Arc<Semaphore>,
}

/// A share, given back when dropped.
#[derive(Debug)]
pub struct Room(OwnedSemaphorePermit);

impl Room {
    /// Joins two shares into one.
    pub fn add(&mut self, other: Room) {
        self.0.merge(other.0);
    }
}

impl Memory {
    /// All of it free.
    #[must_use]
    pub fn new() -> Self {
        Memory {
            requests: Arc::new(Semaphore::new(REQUESTS_BYTES_MAX)),
            answers: Arc::new(Semaphore::new(ANSWERS_BYTES_MAX)),
        }
    }

    /// Room for a request.
    ///
    /// # Errors
    /// OVERLOADED, with the limit.
    pub fn request(&self, size_bytes: usize) -> Result<Room, Failure> {
        take(&self.requests, size_bytes, "requests under way", REQUESTS_BYTES_MAX)
    }

    /// Room for an answer, or for a part of one.
    ///
    /// # Errors
    /// OVERLOADED, with the limit.
    pub fn answer(&self, size_bytes: usize) -> Result<Room, Failure> {
        take(&self.answers, size_bytes, "answers that their callers have not taken yet", ANSWERS_BYTES_MAX)
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

fn take(room: &Arc<Semaphore>, size_bytes: usize, what: &str, limit: usize) -> Result<Room, Failure> {
    let size = u32::try_from(size_bytes).unwrap_or(u32::MAX);
    Arc::clone(room).try_acquire_many_owned(size).map(Room).map_err(|_| {
        let message =
            format!("this router has no room for {size_bytes} bytes more of {what}: the limit is {limit}");
        Failure::new(ErrorReason::Overloaded, message).with("limit", &limit)
    })
}

/// A response's room, on its way from the service to [`HoldLayer`].
#[derive(Clone, Debug)]
struct Held {
    _room: Arc<Room>,
}

/// A response that holds its room until it is sent.
pub fn holding<T>(message: T, room: Room) -> Response<T> {
    let mut response = Response::new(message);
    response.extensions_mut().insert(Held { _room: Arc::new(room) });
    response
}

/// Puts [`Hold`] around a service.
#[derive(Clone, Copy, Debug, Default)]
pub struct HoldLayer;

impl<S> Layer<S> for HoldLayer {
    type Service = Hold<S>;

    fn layer(&self, inner: S) -> Hold<S> {
        Hold { inner }
    }
}

/// Ties the room of a response to its bytes.
#[derive(Clone, Debug)]
pub struct Hold<S> {
    inner: S,
}

impl<S, B, R> Service<http::Request<B>> for Hold<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
{
    type Response = http::Response<HeldBody<R>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let answered = self.inner.call(request);
        Box::pin(async move {
            let mut response = answered.await?;
            let held = response.extensions_mut().remove::<Held>();
            Ok(response.map(|body| HeldBody { body, held }))
        })
    }
}

/// A body whose bytes keep a room until the last of them is dropped, which is when it was sent.
#[derive(Debug)]
pub struct HeldBody<B> {
    body: B,
    held: Option<Held>,
}

/// Bytes with the room that they take.
struct HeldBytes {
    bytes: Bytes,
    _held: Held,
}

impl AsRef<[u8]> for HeldBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for HeldBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let held = self.held.clone();
        Poll::Ready(frame.map(|frame| {
            frame.map(|frame| match held {
                Some(held) => frame.map_data(|bytes| Bytes::from_owner(HeldBytes { bytes, _held: held })),
                None => frame,
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_refused_with_the_limit() {
        let memory = Memory::new();
        let mut first = memory.answer(ANSWERS_BYTES_MAX - 1).unwrap();
        first.add(memory.answer(1).unwrap());
        let refusal = memory.answer(1).unwrap_err();
        assert_eq!(refusal.reason, ErrorReason::Overloaded);
        assert!(refusal.message.contains(&ANSWERS_BYTES_MAX.to_string()), "{refusal}");
        let _request = memory.request(REQUESTS_BYTES_MAX).unwrap();
        drop(first);
        memory.answer(ANSWERS_BYTES_MAX).unwrap();
    }

    #[tokio::test]
    async fn an_answer_keeps_its_room_until_its_bytes_are_gone() {
        let memory = Memory::new();
        let room = memory.answer(ANSWERS_BYTES_MAX).unwrap();
        let held = Some(Held { _room: Arc::new(room) });
        let mut body = HeldBody { body: axum::body::Body::from("answer"), held };
        let frame = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
        let bytes = frame.unwrap().unwrap().into_data().unwrap();
        assert_eq!(bytes, "answer");
        drop(body);
        assert!(memory.answer(1).is_err(), "HTTP/2 has not sent it yet");
        drop(bytes);
        memory.answer(1).unwrap();
    }
}
