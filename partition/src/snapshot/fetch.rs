//! Fetching the copy that a leader keeps: one call, whose pieces are written beside the store as they come.

use std::time::{Duration, Instant};

use bytes::Bytes;
use paddock_coordination::Epoch;
use paddock_proto::limits::MESSAGE_BYTES_MAX;
use paddock_proto::replication::v1 as wire;
use paddock_proto::replication::v1::fetch_snapshot_response::Part;
use paddock_proto::replication::v1::replication_service_client::ReplicationServiceClient;
use paddock_storage::{Error as StoreError, IncomingCopy};
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;
use tonic::{Code, Streaming};
use tracing::info;

use super::{CatchUp, FetchedStore, Order, Progress, Served, durable_state};
use crate::peer;
use crate::replica::DurableState;
use crate::retries::Retries;

/// How long to wait before a leader that sends somebody else a snapshot is asked again. Others of this node may have their
/// turn meanwhile.
const BUSY_PAUSE: Duration = Duration::from_secs(1);

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
    /// Nothing came any more.
    #[error("the leader sent nothing for {} s", .0.as_secs_f32())]
    Stalled(Duration),
    /// It ended early.
    #[error("the transfer ended after {done} of {total} bytes")]
    Ended {
        /// Bytes that had come.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// It would take room that others of this node need.
    #[error(
        "no room on the disk: {needed} bytes more of it need room, {free} are free, and of these {reserve} have to stay \
         free for the other writes of this node (--snapshot-reserve-mib)"
    )]
    NoRoom {
        /// Bytes that room is needed for.
        needed: u64,
        /// Bytes that are free.
        free: u64,
        /// Bytes that have to stay so.
        reserve: u64,
    },
    /// It could not be written, or is no whole store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This node is stopping.
    #[error("this node is stopping")]
    Stopping,
}

impl FetchError {
    /// The kind of it, in a word, for whoever counts.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            FetchError::NoRoom { .. } | FetchError::Store(StoreError::DiskFull { .. }) => "no_room",
            FetchError::Stalled(_) => "stalled",
            FetchError::Broken(_) | FetchError::Store(_) => "damaged",
            FetchError::NoAddress
            | FetchError::Connect(_)
            | FetchError::Call(_)
            | FetchError::Ended { .. }
            | FetchError::Stopping => "interrupted",
        }
    }

    /// The leader sends another one, to somebody else.
    fn is_not_our_turn(&self) -> bool {
        matches!(self, FetchError::Call(status) if status.code() == Code::ResourceExhausted)
    }
}

/// Fetches a snapshot, and returns it as a store that is open and verified, with what its log says.
pub(super) async fn fetch(
    shared: &CatchUp,
    served: &Served,
    tasks: &TaskTracker,
    order: Order,
    progress: &Progress,
) -> Result<(FetchedStore, DurableState), FetchError> {
    // Until the leader's turn comes to us, or it keeps the copy no more.
    loop {
        let turn = shared.receiving.acquire().await.map_err(|_| FetchError::Stopping)?;
        let outcome = fetch_in_turn(shared, served, tasks, order, progress).await;
        drop(turn);
        match outcome {
            Err(error) if error.is_not_our_turn() => sleep(BUSY_PAUSE).await,
            outcome => return outcome,
        }
    }
}

async fn fetch_in_turn(
    shared: &CatchUp,
    served: &Served,
    tasks: &TaskTracker,
    order: Order,
    progress: &Progress,
) -> Result<(FetchedStore, DurableState), FetchError> {
    let from = order.from.node;
    let begun = Instant::now();
    let address = shared.addresses.borrow().get(&from).cloned().ok_or(FetchError::NoAddress)?;
    let mut parts = call(shared, served, &order, &address).await?;
    let _underway = shared.pace.begin();
    let Some(Part::Beginning(beginning)) = next(&mut parts, shared.stall_timeout).await? else {
        return Err(FetchError::Broken("no beginning"));
    };
    let (mut files, mut done, total) = (0, 0, beginning.total_bytes);
    progress.begin(total);
    let (place, storage, reserve) = (served.place.clone(), shared.storage.clone(), shared.reserve_bytes);
    let begin = move || IncomingCopy::begin(&place, &storage);
    let mut writing = Writing { copy: Some(blocking(tasks, begin).await??), tasks };
    writing.with(move |copy| leave_room(copy, total, reserve)).await??;
    while let Some(part) = next(&mut parts, shared.stall_timeout).await? {
        match part {
            Part::Beginning(_) => return Err(FetchError::Broken("a second beginning")),
            Part::File(file) => {
                files += 1;
                if file.length_bytes > total - done {
                    return Err(FetchError::Broken("a file of more bytes than it announced"));
                }
                // Its room is taken at once.
                let length_bytes = file.length_bytes;
                writing.with(move |copy| leave_room(copy, length_bytes, reserve)).await??;
                writing.with(move |copy| copy.begin_file(&file.name, file.length_bytes)).await??;
            }
            Part::Bytes(wire::SnapshotBytes { data, crc }) => {
                let bytes = data.len() as u64;
                done += bytes;
                if done > total {
                    return Err(FetchError::Broken("more bytes than it announced"));
                }
                shared.pace.take(data.len()).await;
                writing.with(move |copy| write(copy, &data, crc, reserve)).await??;
                progress.add(bytes);
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
    info!(partition = %served.partition, %from, bytes = done, elapsed_ms, "a snapshot was fetched and verified");
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
        attempt: order.attempt,
    });
    peer::introduce(request.metadata_mut(), shared.cluster, order.from.node, shared.me);
    // It waits for its turn there.
    Ok(client.fetch_snapshot(request).await?.into_inner())
}

async fn next(
    parts: &mut Streaming<wire::FetchSnapshotResponse>,
    stall_timeout: Duration,
) -> Result<Option<Part>, FetchError> {
    match timeout(stall_timeout, parts.message()).await {
        Err(_) => Err(FetchError::Stalled(stall_timeout)),
        Ok(message) => match message? {
            None => Ok(None),
            Some(response) => response.part.map(Some).ok_or(FetchError::Broken("an empty part")),
        },
    }
}

/// Fails if so many more bytes would take what has to stay free.
fn leave_room(copy: &IncomingCopy, needed: u64, reserve: u64) -> Result<(), FetchError> {
    match copy.free_bytes()? {
        Some(free) if free < needed.saturating_add(reserve) => {
            Err(FetchError::NoRoom { needed, free, reserve })
        }
        _ => Ok(()),
    }
}

fn write(copy: &mut IncomingCopy, data: &Bytes, crc: u32, reserve: u64) -> Result<(), FetchError> {
    if crc32fast::hash(data) != crc {
        return Err(FetchError::Broken("bytes that do not fit their checksum"));
    }
    // Room for these was taken with the file. But others write on this disk meanwhile.
    leave_room(copy, 0, reserve)?;
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
            Ok::<_, StoreError>((FetchedStore::new(store, retries, storage), state))
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
