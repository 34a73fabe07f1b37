//! [`Builder`]: the client's settings.

use std::sync::Arc;
use std::time::Duration;

use tonic::transport::Endpoint;

use crate::client::Client;
use crate::error::Error;

/// Within this time a connection must be made.
const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

/// Within this time a request must be answered, all its attempts together.
const REQUEST_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// How often a request is tried, the first time included.
const ATTEMPTS_MAX_DEFAULT: u32 = 5;

/// How often a silent connection is asked whether it still lives, and how long it may take to say so.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Settings of a [`Client`], and the way to make one.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until connect is called"]
pub struct Builder {
    pub(crate) endpoint: String,
    connect_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) attempts_max: u32,
    pub(crate) request_ids: bool,
}

impl Builder {
    /// Settings for a router's URL, such as `http://127.0.0.1:7700`.
    pub fn new(endpoint: impl Into<String>) -> Self {
        Builder {
            endpoint: endpoint.into(),
            connect_timeout: CONNECT_TIMEOUT_DEFAULT,
            request_timeout: REQUEST_TIMEOUT_DEFAULT,
            attempts_max: ATTEMPTS_MAX_DEFAULT,
            request_ids: true,
        }
    }

    /// Within this time a connection must be made. Default: 5 seconds.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Within this time a request must be answered, all its attempts together; the servers drop what they
    /// have not begun by then. Default: 10 seconds.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// How often a request is tried, the first time included; 0 counts as 1. Only what is safe is tried
    /// again: reads, writes with a request id, and other writes that certainly did not happen. Default: 5.
    pub fn attempts_max(mut self, attempts: u32) -> Self {
        self.attempts_max = attempts.max(1);
        self
    }

    /// Whether each write gets a request id, by which it happens once however often it is sent. Without one a write of
    /// unknown outcome is not tried again; it saves the servers 33 bytes of log for each write. Default: true.
    pub fn request_ids(mut self, request_ids: bool) -> Self {
        self.request_ids = request_ids;
        self
    }

    /// Connects. The connection comes back by itself when it is lost later.
    ///
    /// # Errors
    /// [`Error::InvalidEndpoint`] if the URL is not one; [`Error::Unavailable`] if nobody answers there.
    pub async fn connect(self) -> Result<Client, Error> {
        let endpoint = self.endpoint()?;
        let channel = endpoint.connect().await.map_err(|error| Error::Unavailable {
            message: format!("{}: {}", self.endpoint, innermost(&error)),
            source: Some(Box::new(tonic::Status::from_error(Box::new(error)))),
        })?;
        Ok(Client::over(channel, &self))
    }

    fn endpoint(&self) -> Result<Endpoint, Error> {
        let invalid = |source| Error::InvalidEndpoint { endpoint: self.endpoint.clone(), source };
        let endpoint =
            Endpoint::from_shared(self.endpoint.clone()).map_err(|error| invalid(Some(Arc::new(error))))?;
        // Whatever the scheme, the connection is a plain one: who writes https must not believe otherwise.
        let uri = endpoint.uri();
        if uri.scheme_str() != Some("http") || uri.host().is_none_or(str::is_empty) {
            return Err(invalid(None));
        }
        Ok(endpoint
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE))
    }
}

/// The innermost cause in words: it names what the system said, such as "Connection refused".
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_http_is_an_endpoint() {
        for endpoint in ["http://127.0.0.1:7700", "http://[::1]:7700", "http://router"] {
            assert!(Builder::new(endpoint).endpoint().is_ok(), "{endpoint}");
        }
        for endpoint in
            ["", "garbage", "127.0.0.1:7700", "https://127.0.0.1:7700", "ftp://there:1", "http://"]
        {
            let error = Builder::new(endpoint).endpoint().unwrap_err();
            assert!(matches!(error, Error::InvalidEndpoint { .. }), "{endpoint}: {error}");
            assert!(error.to_string().contains("http://HOST:PORT"), "{error}");
        }
    }
}
