//! Fetching the copy that a leader keeps: one call, whose pieces are written beside the store as they come.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use paddock_coordination::{Epoch, NodeId};
use paddock_proto::limits::MESSAGE_BYTES_MAX;
use paddock_proto::replication::v1 as wire;
use paddock_proto::replication::v1::fetch_snapshot_response::Part;
use paddock_proto::replication::v1::replication_service_client::ReplicationServiceClient;
use paddock_storage::{IncomingCopy, Position};
use tokio_util::task::TaskTracker;
use tonic::Streaming;
use tracing::info;

use super::{CatchUp, FetchedStore, Progress, Served, durable_state};
use crate::peer;
use crate::replica::DurableState;
use crate::retries::Retries;

/// The longest that a leader may take from one piece to the next.
const PIECE_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a snapshot was not fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// Where the leader is, is not known.
    #[error("the leader's address is not known")]
    NoAddress,
    /// The leader cannot be reached, or refused.
    #[error("{0}")]
    Connect(#[from] tonic::transport::Error),
    /// The call failed.
    #[error("{}", .0.message())]
    Call(#[from] tonic::Status),
    /// What came breaks the protocol, or is damaged.
    #[error("the leader sent {0}")]
    Broken(&'static str),
    /// It ended early, or nothing came any more.
    #[error("the transfer ended after {done} of {total} bytes")]
    Ended {
        /// Bytes that had come.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// It could not be written, or is no whole store.
    #[error(transparent)]
    Store(#[from] paddock_storage::Error),
    /// This node is stopping.
    #[error("this node is stopping")]
    Stopping,
}

/// What to fetch.
pub(super) struct Order {
    pub(super) from: NodeId,
    pub(super) epoch: Epoch,
    pub(super) last: Position,
    pub(super) progress: Arc<Progress>,
}

/// Fetches a snapshot, and returns it as a store that is open and verified, with what its log says.
pub(super) async fn fetch(
    shared: &CatchUp,
    served: &Served,
    tasks: &TaskTracker,
    order: Order,
) -> Result<(FetchedStore, DurableState), FetchError> {
    let _turn = shared.receiving.acquire().await.map_err(|_| FetchError::Stopping)?;
    let begun = Instant::now();
    let address = shared.addresses.borrow().get(&order.from).cloned().ok_or(FetchError::NoAddress)?;
    let mut parts = call(shared, served, &order, &address).await?;
    let _underway = shared.pace.begin();
    let Some(Part::Beginning(beginning)) = next(&mut parts).await? else {
        return Err(FetchError::Broken("no beginning"));
    };
    order.progress.begin(beginning.total_bytes);
    let (place, storage) = (served.place.clone(), shared.storage.clone());
    let begin = move || IncomingCopy::begin(&place, &storage);
    let mut writing = Writing { copy: Some(blocking(tasks, begin).await??), tasks };
    let (mut files, mut done, total) = (0, 0, beginning.total_bytes);
    while let Some(part) = next(&mut parts).await? {
        match part {
            Part::Beginning(_) => return Err(FetchError::Broken("a second beginning")),
            Part::File(file) => {
                files += 1;
                writing.with(move |copy| copy.begin_file(&file.name, file.length_bytes)).await??;
            }
            Part::Bytes(wire::SnapshotBytes { data, crc }) => {
                let bytes = data.len() as u64;
                shared.pace.take(data.len()).await;
                writing.with(move |copy| write(copy, &data, crc)).await??;
                done += bytes;
                order.progress.add(bytes);
                shared.metrics.received_bytes.inc_by(bytes);
            }
        }
    }
    if files != beginning.file_count || done != total {
        return Err(FetchError::Ended { done, total });
    }
    let (fetched, state) = writing.finish(shared).await?;
    if state.last != order.last {
        drop(tasks.spawn_blocking(move || drop(fetched)));
        return Err(FetchError::Broken("another copy than it announced"));
    }
    let elapsed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    info!(partition = %served.partition, from = %order.from, bytes = done, elapsed_ms,
        "a snapshot was fetched and verified");
    Ok((fetched, state))
}

async fn call(
    shared: &CatchUp,
    served: &Served,
    order: &Order,
    address: &str,
) -> Result<Streaming<wire::FetchSnapshotResponse>, FetchError> {
    let channel = peer::connect(address).await?;
    let mut client = ReplicationServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let mut request = tonic::Request::new(wire::FetchSnapshotRequest {
        partition_id: served.partition.0,
        partition_uuid: served.partition_uuid.to_string(),
        epoch: order.epoch.0,
        last: Some(wire::Position { epoch: order.last.epoch, sequence: order.last.sequence.0 }),
    });
    peer::introduce(request.metadata_mut(), shared.cluster, order.from, shared.me);
    // It waits for its turn there, for as long as the connection stands.
    Ok(client.fetch_snapshot(request).await?.into_inner())
}

async fn next(parts: &mut Streaming<wire::FetchSnapshotResponse>) -> Result<Option<Part>, FetchError> {
    match tokio::time::timeout(PIECE_TIMEOUT, parts.message()).await {
        Err(_) => Err(FetchError::Broken("nothing for too long")),
        Ok(message) => match message? {
            None => Ok(None),
            Some(response) => response.part.map(Some).ok_or(FetchError::Broken("an empty part")),
        },
    }
}

fn write(copy: &mut IncomingCopy, data: &Bytes, crc: u32) -> Result<(), FetchError> {
    if crc32fast::hash(data) != crc {
        return Err(FetchError::Broken("bytes that do not fit their checksum"));
    }
    Ok(copy.write(data)?)
}

/// A copy that is written on threads that may wait for the disk, one piece at a time.
struct Writing<'a> {
    copy: Option<IncomingCopy>,
    tasks: &'a TaskTracker,
}

impl Writing<'_> {
    async fn with<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut IncomingCopy) -> T + Send + 'static,
    ) -> Result<T, FetchError> {
        let mut copy = self.copy.take().ok_or(FetchError::Stopping)?;
        let (copy, outcome) = blocking(self.tasks, move || {
            let outcome = work(&mut copy);
            (copy, outcome)
        })
        .await?;
        self.copy = Some(copy);
        Ok(outcome)
    }

    async fn finish(mut self, shared: &CatchUp) -> Result<(FetchedStore, DurableState), FetchError> {
        let copy = self.copy.take().ok_or(FetchError::Stopping)?;
        let storage = shared.storage.clone();
        let finish = move || {
            let store = copy.finish(storage.clone())?;
            let state = durable_state(&store, Epoch(0));
            let retries = match Retries::load(&store) {
                Ok(retries) => retries,
                Err(error) => {
                    drop(FetchedStore::new(store, Retries::default(), storage));
                    return Err(error);
                }
            };
            Ok::<_, paddock_storage::Error>((FetchedStore::new(store, retries, storage), state))
        };
        Ok(blocking(self.tasks, finish).await??)
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if let Some(copy) = self.copy.take() {
            drop(self.tasks.spawn_blocking(move || drop(copy)));
        }
    }
}

async fn blocking<T: Send + 'static>(
    tasks: &TaskTracker,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, FetchError> {
    tasks.spawn_blocking(work).await.map_err(|_| FetchError::Stopping)
}
