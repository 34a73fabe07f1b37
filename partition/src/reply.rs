//! Answers on their way back to a stream, and the bound on what waits there.
//!
//! A caller that sends operations and never reads the answers must not fill this process's memory. The owner
//! loop cannot wait for it, so the queue itself is unbounded; but what waits in it is counted, and whoever
//! would make more of it looks first: the stream's task takes no more messages, and the owner loop leaves
//! the stream's reads where they wait, until the caller has taken some of what is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use paddock_coordination::Epoch;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{Notify, mpsc};

use crate::operation::{Answer, Failure, Standing};

/// With so many bytes of answers waiting, a stream has no room for more: for what one round of the owner loop
/// adds, it may go beyond.
pub const STREAM_BYTES_MAX: usize = 32 << 20;

/// What an answer weighs beside its keys and values.
const OVERHEAD_BYTES: usize = 128;

/// An answer on its way back.
#[derive(Debug)]
pub struct Reply {
    /// The caller's number for the operation.
    pub operation_id: u64,
    /// The epoch that the replica was in.
    pub epoch: Epoch,
    /// How it went.
    pub answer: Answer,
    /// What was applied then, where anything was looked at.
    pub standing: Option<Standing>,
}

impl Reply {
    /// The failure of an operation that no replica has looked at.
    #[must_use]
    pub fn unheard(operation_id: u64, failure: Failure) -> Self {
        Reply { operation_id, epoch: Epoch(0), answer: Answer::Failed(failure), standing: None }
    }
}

impl Answer {
    /// What the answer weighs in a queue, in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let record = |record: &paddock_storage::Record| record.key.len() + record.value.len();
        OVERHEAD_BYTES
            + match self {
                Answer::Read(found) => found.as_ref().map_or(0, record),
                Answer::Range { records, .. } => records.iter().map(|one| OVERHEAD_BYTES + record(one)).sum(),
                Answer::Failed(
                    Failure::Invalid(text)
                    | Failure::KeyInvalid(text)
                    | Failure::ValueTooLarge(text)
                    | Failure::Unavailable(text)
                    | Failure::Overloaded(text)
                    | Failure::Behind(text)
                    | Failure::SessionInvalid(text)
                    | Failure::DiskFull(text),
                ) => text.len(),
                Answer::Written { .. } | Answer::Failed(_) => 0,
            }
    }
}

#[derive(Debug)]
struct Backlog {
    bytes: AtomicUsize,
    freed: Notify,
    /// The same of all streams of the node, for the metrics.
    node_bytes: Gauge,
}

impl Backlog {
    fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.node_bytes.inc_by(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    fn take(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.node_bytes.dec_by(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.freed.notify_one();
    }
}

/// Where a stream's answers go: in bulk, so that no task is woken for each.
#[derive(Clone, Debug)]
pub struct ReplySender {
    replies: mpsc::UnboundedSender<Vec<Reply>>,
    backlog: Arc<Backlog>,
}

/// The stream's end.
#[derive(Debug)]
pub struct ReplyReceiver {
    replies: mpsc::UnboundedReceiver<Vec<Reply>>,
    backlog: Arc<Backlog>,
}

/// A stream's queue of answers, counted in the gauge of all streams of the node.
#[must_use]
pub fn channel(node_bytes: &Gauge) -> (ReplySender, ReplyReceiver) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let backlog =
        Backlog { bytes: AtomicUsize::new(0), freed: Notify::new(), node_bytes: node_bytes.clone() };
    let backlog = Arc::new(backlog);
    (
        ReplySender { replies: sender, backlog: Arc::clone(&backlog) },
        ReplyReceiver { replies: receiver, backlog },
    )
}

impl ReplySender {
    /// Hands answers over. A caller that has gone needs none.
    pub fn send(&self, replies: Vec<Reply>) {
        let bytes = weigh(&replies);
        self.backlog.add(bytes);
        if self.replies.send(replies).is_err() {
            self.backlog.take(bytes);
        }
    }

    /// Whether more may be put here.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.backlog.bytes.load(Ordering::Relaxed) < STREAM_BYTES_MAX
    }

    /// Waits until there is room, or nobody listens any more. For the one task that serves the stream.
    pub async fn room(&self) {
        while !self.has_room() {
            tokio::select! {
                () = self.backlog.freed.notified() => {}
                () = self.replies.closed() => return,
            }
        }
    }

    /// Resolves when nobody listens any more.
    pub async fn closed(&self) {
        self.replies.closed().await;
    }

    /// Whether both lead to the same stream.
    #[must_use]
    pub fn is_same(&self, other: &ReplySender) -> bool {
        Arc::ptr_eq(&self.backlog, &other.backlog)
    }
}

impl ReplyReceiver {
    /// The next answers; `None` when there will be none.
    pub async fn receive(&mut self) -> Option<Vec<Reply>> {
        let replies = self.replies.recv().await?;
        self.backlog.take(weigh(&replies));
        Some(replies)
    }

    /// The next answers, if there are any now.
    #[must_use]
    pub fn try_receive(&mut self) -> Option<Vec<Reply>> {
        let replies = self.replies.try_recv().ok()?;
        self.backlog.take(weigh(&replies));
        Some(replies)
    }
}

impl Drop for ReplyReceiver {
    fn drop(&mut self) {
        self.replies.close();
        while self.try_receive().is_some() {}
    }
}

fn weigh(replies: &[Reply]) -> usize {
    replies.iter().map(|reply| reply.answer.size_bytes()).sum()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use paddock_storage::{Record, Sequence};

    use super::*;

    fn large(operation_id: u64) -> Reply {
        let record = Record {
            key: Bytes::from_static(b"k"),
            value: Bytes::from(vec![0; STREAM_BYTES_MAX / 2]),
            version: Sequence(1),
            ..Record::default()
        };
        Reply { operation_id, epoch: Epoch(1), answer: Answer::Read(Some(record)), standing: None }
    }

    #[tokio::test]
    async fn a_stream_that_is_not_read_has_no_room_until_it_is() {
        let (sender, mut receiver) = channel(&Gauge::default());
        sender.send(vec![large(1)]);
        assert!(sender.has_room());
        sender.send(vec![large(2)]);
        assert!(!sender.has_room());
        let waiting = tokio::spawn({
            let sender = sender.clone();
            async move { sender.room().await }
        });
        assert_eq!(receiver.receive().await.map(|replies| replies.len()), Some(1));
        tokio::time::timeout(std::time::Duration::from_secs(10), waiting)
            .await
            .expect("there is room again")
            .expect("no panic");
        assert!(receiver.try_receive().is_some() && receiver.try_receive().is_none());
        assert_eq!(sender.backlog.bytes.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_stream_that_has_gone_holds_nobody_up() {
        let node = Gauge::default();
        let (sender, receiver) = channel(&node);
        sender.send(vec![large(1), large(2), large(3)]);
        assert!(!sender.has_room());
        drop(receiver);
        tokio::time::timeout(std::time::Duration::from_secs(10), sender.room()).await.expect("at once");
        assert_eq!(node.get(), 0, "what nobody takes any more is not waiting");
    }
}
