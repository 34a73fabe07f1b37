//! `FetchSnapshot` of `paddock.replication.v1`: the copy that a leader keeps for a follower, in pieces.

use std::sync::Arc;

use bytes::Bytes;
use paddock_coordination::{Epoch, NodeId, PartitionId};
use paddock_proto::replication::v1 as wire;
use paddock_proto::replication::v1::fetch_snapshot_response::Part;
use paddock_storage::CopyFile;
use paddock_storage::disk::DiskFile;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tracing::{debug, info};
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
/// NOT_FOUND: there is no such copy; INVALID_ARGUMENT; UNAVAILABLE: the node is stopping.
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
    let found = found.and_then(|(outgoing, tasks)| Some((outgoing.find(from, epoch, last)?, tasks)));
    let (kept, tasks) = found.ok_or_else(|| Status::not_found("there is no such snapshot for this node"))?;
    let gone = || Status::not_found("the snapshot is not kept any more");
    let turn = tokio::select! {
        turn = host.catch_up().sending().acquire_owned() => turn.map_err(|_| gone())?,
        () = kept.forgotten().cancelled_owned() => return Err(gone()),
        () = host.stopping().cancelled_owned() => return Err(Status::unavailable("this node is stopping")),
    };
    let (sender, parts) = mpsc::channel(PIECES_MAX);
    let sending = Sending { host: Arc::clone(host), kept, sender };
    let cleaning = tasks.clone();
    tasks.spawn(async move {
        let (stopping, forgotten) = (sending.host.stopping(), sending.kept.forgotten());
        let ended = tokio::select! {
            ended = sending.run() => ended,
            () = forgotten.cancelled() => Some(Err(gone())),
            () = stopping.cancelled() => None,
        };
        match ended {
            Some(Ok(bytes)) => info!(%partition, to = %from, bytes, "sent a snapshot"),
            Some(Err(status)) => {
                debug!(%partition, to = %from, error = status.message(), "a snapshot was not sent to its end");
                // Whoever fetches it has to see that it is not whole, though nobody may be there.
                let _ = sending.sender.send(Err(status)).await;
            }
            None => debug!(%partition, to = %from, "a snapshot is not fetched any more"),
        }
        drop(turn);
        // The last who holds a copy removes its files.
        drop(cleaning.spawn_blocking(move || drop(sending)));
    });
    Ok(ReceiverStream::new(parts))
}

/// A copy on its way.
struct Sending {
    host: Arc<Host>,
    kept: Arc<Kept>,
    sender: mpsc::Sender<Result<wire::FetchSnapshotResponse, Status>>,
}

impl Sending {
    /// Sends all of it. `None`: nobody takes it any more.
    async fn run(&self) -> Option<Result<u64, Status>> {
        let _underway = self.host.catch_up().pace().begin();
        self.kept.begin();
        let (files, total_bytes) = (self.kept.copy().files(), self.kept.total_bytes());
        let file_count = u32::try_from(files.len()).unwrap_or(u32::MAX);
        self.send(Part::Beginning(wire::SnapshotBeginning { file_count, total_bytes })).await?;
        for file in files {
            if let Err(status) = self.file(file).await? {
                return Some(Err(status));
            }
        }
        Some(Ok(total_bytes))
    }

    async fn file(&self, file: &CopyFile) -> Option<Result<(), Status>> {
        let CopyFile { name, length_bytes } = file.clone();
        self.send(Part::File(wire::SnapshotFile { name, length_bytes })).await?;
        let opened = match self.kept.copy().open(file) {
            Ok(opened) => opened,
            Err(error) => return Some(Err(Status::internal(error.to_string()))),
        };
        let catch_up = self.host.catch_up();
        let mut offset = 0;
        while offset < length_bytes {
            let left = usize::try_from(length_bytes - offset).unwrap_or(usize::MAX);
            let size = left.min(PIECE_BYTES);
            catch_up.pace().take(size).await;
            let part = match piece(Arc::clone(&opened), offset, size).await {
                Ok(part) => part,
                Err(status) => return Some(Err(status)),
            };
            self.send(Part::Bytes(part)).await?;
            offset += size as u64;
            self.kept.sent(size as u64);
            catch_up.metrics().sent_bytes.inc_by(size as u64);
        }
        Some(Ok(()))
    }

    async fn send(&self, part: Part) -> Option<()> {
        self.sender.send(Ok(wire::FetchSnapshotResponse { part: Some(part) })).await.ok()
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
