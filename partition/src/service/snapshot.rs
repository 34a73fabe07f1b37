//! `FetchSnapshot` of `paddock.replication.v1`: the copy that a leader keeps for a follower, in pieces.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use paddock_coordination::{Epoch, NodeId, PartitionId};
use paddock_proto::replication::v1 as wire;
use paddock_proto::replication::v1::fetch_snapshot_response::Part;
use paddock_storage::CopyFile;
use paddock_storage::disk::DiskFile;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tracing::{debug, info, warn};
use ulid::Ulid;

use crate::host::Host;
use crate::service::replication::position_from_wire;
use crate::snapshot::{Kept, PIECE_BYTES};

/// How many pieces wait for the transport.
const PIECES_MAX: usize = 2;

/// The answer: parts of a copy.
pub type Parts = ReceiverStream<Result<wire::FetchSnapshotResponse, Status>>;

/// Begins to send a copy, when it is its turn.
///
/// # Errors
/// NOT_FOUND: there is no such copy; RESOURCE_EXHAUSTED: another one is being sent; INVALID_ARGUMENT; UNAVAILABLE: the node is
/// stopping.
pub async fn fetch(
    host: &Arc<Host>,
    from: NodeId,
    request: wire::FetchSnapshotRequest,
) -> Result<Parts, Status> {
    let uuid = Ulid::from_string(&request.partition_uuid)
        .map_err(|error| Status::invalid_argument(format!("partition_uuid: {error}")))?;
    let partition = PartitionId(request.partition_id);
    let (epoch, last) = (Epoch(request.epoch), position_from_wire(request.last));
    let found = host.outgoing_snapshots(partition, uuid);
    let found =
        found.and_then(|(outgoing, tasks)| Some((outgoing.find(from, epoch, request.attempt, last)?, tasks)));
    let (kept, tasks) = found.ok_or_else(|| Status::not_found("there is no such snapshot for this node"))?;
    let gone = || Status::not_found("the snapshot is not kept any more");
    let stall_timeout = host.catch_up().stall_timeout();
    let turn = tokio::select! {
        turn = timeout(stall_timeout, host.catch_up().sending().acquire_owned()) => match turn {
            Ok(turn) => turn.map_err(|_| gone())?,
            Err(_) => return Err(Status::resource_exhausted("another snapshot is being sent")),
        },
        () = kept.forgotten().cancelled_owned() => return Err(gone()),
        () = host.stopping().cancelled_owned() => return Err(Status::unavailable("this node is stopping")),
    };
    let (sender, parts) = mpsc::channel(PIECES_MAX);
    let sending = Sending { host: Arc::clone(host), kept, parts: Outlet { sender, stall_timeout } };
    let cleaning = tasks.clone();
    tasks.spawn(async move {
        let (stopping, forgotten) = (sending.host.stopping(), sending.kept.forgotten());
        let ended = tokio::select! {
            ended = sending.run() => ended,
            () = forgotten.cancelled() => Err(Broken::Failed(gone())),
            () = stopping.cancelled() => Err(Broken::Gone),
        };
        // Before anything else: nobody waits for what is only told of this one.
        drop(turn);
        match ended {
            Ok(bytes) => info!(%partition, to = %from, bytes, "sent a snapshot"),
            Err(Broken::Gone) => debug!(%partition, to = %from, "a snapshot is not fetched any more"),
            Err(Broken::Stalled) => {
                warn!(%partition, to = %from, ?stall_timeout, "a node took nothing of its snapshot: it is cut off");
                sending.host.catch_up().metrics().failed("receiver_stalled");
                sending.parts.end(Status::deadline_exceeded("the receiver took nothing for too long"));
            }
            Err(Broken::Failed(status)) => {
                debug!(%partition, to = %from, error = status.message(), "a snapshot was not sent to its end");
                sending.parts.end(status);
            }
        }
        // The last who holds a copy removes its files.
        drop(cleaning.spawn_blocking(move || drop(sending)));
    });
    Ok(ReceiverStream::new(parts))
}

/// Why a copy was not sent to its end.
#[derive(Debug)]
enum Broken {
    /// Nobody takes it any more.
    Gone,
    /// Somebody is there, and takes nothing.
    Stalled,
    /// There is something wrong on this side.
    Failed(Status),
}

/// Where the parts leave. The transport takes them as fast as the receiver does.
struct Outlet {
    sender: mpsc::Sender<Result<wire::FetchSnapshotResponse, Status>>,
    stall_timeout: Duration,
}

impl Outlet {
    async fn send(&self, part: Part) -> Result<(), Broken> {
        let response = Ok(wire::FetchSnapshotResponse { part: Some(part) });
        self.sender.send_timeout(response, self.stall_timeout).await.map_err(|error| match error {
            SendTimeoutError::Timeout(_) => Broken::Stalled,
            SendTimeoutError::Closed(_) => Broken::Gone,
        })
    }

    /// Says why it ends, if that can be said without waiting. A receiver that does not hear of it sees that not all came.
    fn end(&self, status: Status) {
        let _ = self.sender.try_send(Err(status));
    }
}

/// A copy on its way.
struct Sending {
    host: Arc<Host>,
    kept: Arc<Kept>,
    parts: Outlet,
}

impl Sending {
    /// Sends all of it; returns how many bytes that were.
    async fn run(&self) -> Result<u64, Broken> {
        let _underway = self.host.catch_up().pace().begin();
        self.kept.begin();
        let (files, total_bytes) = (self.kept.copy().files(), self.kept.total_bytes());
        let file_count = u32::try_from(files.len()).unwrap_or(u32::MAX);
        self.parts.send(Part::Beginning(wire::SnapshotBeginning { file_count, total_bytes })).await?;
        for file in files {
            self.file(file).await?;
        }
        Ok(total_bytes)
    }

    async fn file(&self, file: &CopyFile) -> Result<(), Broken> {
        let CopyFile { name, length_bytes } = file.clone();
        self.parts.send(Part::File(wire::SnapshotFile { name, length_bytes })).await?;
        let opened = self.kept.copy().open(file);
        let opened = opened.map_err(|error| Broken::Failed(Status::internal(error.to_string())))?;
        let catch_up = self.host.catch_up();
        let mut offset = 0;
        while offset < length_bytes {
            let left = usize::try_from(length_bytes - offset).unwrap_or(usize::MAX);
            let size = left.min(PIECE_BYTES);
            catch_up.pace().take(size).await;
            let part = piece(Arc::clone(&opened), offset, size).await.map_err(Broken::Failed)?;
            self.parts.send(Part::Bytes(part)).await?;
            offset += size as u64;
            self.kept.sent(size as u64);
            catch_up.metrics().sent_bytes.inc_by(size as u64);
        }
        Ok(())
    }
}

/// Reads a piece, on a thread that may wait for the disk.
async fn piece(file: Arc<dyn DiskFile>, offset: u64, size: usize) -> Result<wire::SnapshotBytes, Status> {
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; size];
        let read = file.read_at(&mut bytes, offset)?;
        if read < size {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let crc = crc32fast::hash(&bytes);
        Ok(wire::SnapshotBytes { data: Bytes::from(bytes), crc })
    });
    let read: std::io::Result<_> = read.await.map_err(|_| Status::unavailable("this node is stopping"))?;
    read.map_err(|error| Status::internal(format!("the snapshot cannot be read: {error}")))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn a_receiver_that_takes_nothing_is_not_waited_for_for_ever() {
        let (sender, mut parts) = mpsc::channel(PIECES_MAX);
        let stall_timeout = Duration::from_millis(30);
        let outlet = Outlet { sender, stall_timeout };
        let part = || Part::Bytes(wire::SnapshotBytes::default());
        for _ in 0..PIECES_MAX {
            outlet.send(part()).await.expect("there is room");
        }
        let began = Instant::now();
        assert!(matches!(outlet.send(part()).await, Err(Broken::Stalled)));
        assert!(began.elapsed() >= stall_timeout);
        // Nor is it waited for to say so.
        outlet.end(Status::deadline_exceeded("too slow"));
        assert!(parts.recv().await.is_some());
        outlet.send(part()).await.expect("it takes again");
        drop(parts);
        assert!(matches!(outlet.send(part()).await, Err(Broken::Gone)));
    }
}
