//! The partition's state in the coordination service, on behalf of one replica: one request at a time, in
//! order, each answered with an event.
//!
//! The core asks again for what is not answered soon, and the coordination service may be away for hours. So a
//! read that waits stands for all that were asked for meanwhile: else they would all have to be done, one by one,
//! when the service comes back, with the write that the replica needs behind them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use paddock_coordination::{Coordinator, Error, PartitionId, PartitionState, Version, paths, records};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::inbox::Inbox;
use crate::replica::{Event, ObservedState, WriteOutcome};

/// How long to wait before a read that failed is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// What the core asks of the coordination service.
#[derive(Debug)]
pub enum Request {
    /// Compare-and-set.
    Write {
        /// The version that it must still have.
        expected: Version,
        /// The new state.
        state: PartitionState,
    },
    /// Read it again.
    Read,
}

/// The owner loop's side. The core has at most one write under way, and here at most one read waits, so the queue
/// is short although it is unbounded.
#[derive(Clone, Debug)]
pub struct ConfigurationClient {
    requests: mpsc::UnboundedSender<Request>,
    /// A read has been asked for, and has not succeeded yet.
    reading: Arc<AtomicBool>,
}

/// The requests of one replica, in their order, for whoever does them.
#[derive(Debug)]
pub struct Requests {
    requests: mpsc::UnboundedReceiver<Request>,
    reading: Arc<AtomicBool>,
}

impl Requests {
    /// The next one, if there is one now.
    #[must_use]
    pub fn try_next(&mut self) -> Option<Request> {
        self.requests.try_recv().ok()
    }

    /// To be called when a read has succeeded, before its answer is given: what is asked for from now on is another one.
    pub fn read_succeeded(&self) {
        self.reading.store(false, Ordering::SeqCst);
    }
}

impl ConfigurationClient {
    /// Starts the task that serves one replica; it ends with the last client.
    pub fn start(coordinator: Arc<dyn Coordinator>, partition: PartitionId, inbox: Inbox) -> Self {
        let (client, requests) = ConfigurationClient::channel();
        tokio::spawn(serve(coordinator, partition, inbox, requests));
        client
    }

    /// A client whose requests somebody else does.
    #[must_use]
    pub fn channel() -> (Self, Requests) {
        let (sender, requests) = mpsc::unbounded_channel();
        let reading = Arc::new(AtomicBool::new(false));
        (
            ConfigurationClient { requests: sender, reading: Arc::clone(&reading) },
            Requests { requests, reading },
        )
    }

    /// Compare-and-set; answered by [`Event::StateWritten`].
    pub fn write(&self, expected: Version, state: PartitionState) {
        // The task lives as long as we do, but for a runtime that is shutting down.
        let _ = self.requests.send(Request::Write { expected, state });
    }

    /// Re-reads the state; answered by [`Event::StateObserved`], one for all reads that were asked for before it
    /// succeeded. Whoever asks after the answer to a write sees at least what that write left: requests are done in
    /// their order, so no earlier read is still on its way by then.
    pub fn read(&self) {
        if !self.reading.swap(true, Ordering::SeqCst) {
            let _ = self.requests.send(Request::Read);
        }
    }
}

async fn serve(
    coordinator: Arc<dyn Coordinator>,
    partition: PartitionId,
    inbox: Inbox,
    mut requests: Requests,
) {
    let path = paths::partition_state(partition);
    while let Some(request) = requests.requests.recv().await {
        let event = match request {
            Request::Write { expected, state } => {
                let value = records::encode(&state);
                let outcome = outcome(coordinator.compare_and_set(&path, value, expected).await);
                debug!(%partition, ?outcome, epoch = %state.epoch, "wrote the partition's state");
                Event::StateWritten { outcome }
            }
            Request::Read => match read(&*coordinator, &path, &requests.requests).await {
                Some(state) => {
                    requests.read_succeeded();
                    Event::StateObserved { state }
                }
                None => return,
            },
        };
        inbox.control(event);
    }
}

fn outcome(result: Result<Version, Error>) -> WriteOutcome {
    match result {
        Ok(version) => WriteOutcome::Written(version),
        Err(Error::Conflict { .. }) => WriteOutcome::Conflict,
        Err(Error::UnknownOutcome { .. }) => WriteOutcome::Unknown,
        Err(error) => {
            warn!(%error, "the partition's state was not written");
            WriteOutcome::NotWritten
        }
    }
}

/// Reads until it succeeds, since the core cannot go on without it; `None` when the replica has stopped.
async fn read(
    coordinator: &dyn Coordinator,
    path: &str,
    requests: &mpsc::UnboundedReceiver<Request>,
) -> Option<ObservedState> {
    while !requests.is_closed() {
        match coordinator.get(path).await {
            Ok(Some(versioned)) => match records::decode(&versioned.value) {
                Ok(state) => return Some(ObservedState { version: versioned.version, state }),
                Err(error) => warn!(%path, %error, "the partition's state cannot be read"),
            },
            Ok(None) => warn!(%path, "the partition's state is missing"),
            Err(error) => debug!(%path, %error, "the partition's state was not read"),
        }
        tokio::time::sleep(RETRY).await;
    }
    None
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use bytes::Bytes;
    use paddock_coordination::embedded::Embedded;
    use paddock_coordination::{NodeId, Registration, Versioned, Watch};
    use tokio::sync::Semaphore;
    use ulid::Ulid;

    use super::*;
    use crate::inbox::inbox;

    /// Answers as many reads as it has permits; the next one waits.
    struct Slow {
        inner: Box<dyn Coordinator>,
        reads: Semaphore,
    }

    #[async_trait]
    impl Coordinator for Slow {
        async fn create(&self, path: &str, value: Bytes) -> Result<Version, Error> {
            self.inner.create(path, value).await
        }

        async fn get(&self, path: &str) -> Result<Option<Versioned>, Error> {
            self.reads.acquire().await.expect("never closed").forget();
            self.inner.get(path).await
        }

        async fn compare_and_set(
            &self,
            path: &str,
            value: Bytes,
            expected: Version,
        ) -> Result<Version, Error> {
            self.inner.compare_and_set(path, value, expected).await
        }

        async fn delete(&self, path: &str, expected: Option<Version>) -> Result<(), Error> {
            self.inner.delete(path, expected).await
        }

        fn register(&self, path: &str, value: Bytes) -> Registration {
            self.inner.register(path, value)
        }

        fn watch(&self, path: &str) -> Watch {
            self.inner.watch(path)
        }

        async fn close(&self) {
            self.inner.close().await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn reads_that_nobody_answers_do_not_pile_up_before_the_next_write() {
        let directory = tempfile::tempdir().expect("a directory");
        let embedded = Embedded::open(directory.path()).expect("opens");
        let slow = Arc::new(Slow { inner: Box::new(embedded.session()), reads: Semaphore::new(0) });
        let state = PartitionState::initial(Ulid(1), vec![NodeId(Ulid(2))], Ulid(3));
        let path = paths::partition_state(PartitionId(0));
        let version = slow.create(&path, records::encode(&state)).await.expect("creates");

        let (inbox, outlet) = inbox();
        let client = ConfigurationClient::start(slow.clone(), PartitionId(0), inbox);
        for _ in 0..1_000 {
            client.read();
        }
        client.write(version, PartitionState { nonce: Ulid(4), ..state });
        // The service is back, for one read.
        slow.reads.add_permits(1);
        let mut events = Vec::new();
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while !events.iter().any(|event| matches!(event, Event::StateWritten { .. })) {
            assert!(std::time::Instant::now() < deadline, "the write waits behind the reads: {events:?}");
            let _ = outlet.receive(Duration::from_millis(100));
            events.extend(outlet.take_control().events);
        }
        assert_eq!(events.len(), 2, "one read, one write: {events:?}");
    }
}
