//! A layer that gives an oversized request the answer that the API promises.
//!
//! Tonic refuses a message over the decoding limit with OUT_OF_RANGE, before any service sees it. Callers
//! are promised RESOURCE_EXHAUSTED with the limit, so the status is exchanged on its way out. No service of
//! ours answers OUT_OF_RANGE with tonic's text, so nothing else is touched.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use paddock_proto::limits::MESSAGE_BYTES_MAX;
use tonic::codegen::http::{Request, Response};
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::errors::message_too_large;

/// How tonic's text goes on after "Error, ".
const TONIC_TEXT: &str = "decoded message length too large";

/// Puts [`MessageSize`] around a service.
#[derive(Clone, Copy, Debug, Default)]
pub struct MessageSizeLayer;

impl<S> Layer<S> for MessageSizeLayer {
    type Service = MessageSize<S>;

    fn layer(&self, inner: S) -> MessageSize<S> {
        MessageSize { inner }
    }
}

/// Exchanges one status.
#[derive(Clone, Debug)]
pub struct MessageSize<S> {
    inner: S,
}

impl<S, B, R> Service<Request<B>> for MessageSize<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    R: Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let is_batch = request.uri().path().contains("/Batch");
        let answered = self.inner.call(request);
        Box::pin(async move {
            let response = answered.await?;
            Ok(match refusal_in(&response, is_batch) {
                Some(status) => status.into_http(),
                None => response,
            })
        })
    }
}

/// The status to answer with instead.
fn refusal_in<R>(response: &Response<R>, is_batch: bool) -> Option<Status> {
    let status = Status::from_header_map(response.headers())?;
    let refused = status.code() == Code::OutOfRange && status.message().contains(TONIC_TEXT);
    refused.then(|| message_too_large(is_batch, MESSAGE_BYTES_MAX, status.message()))
}
