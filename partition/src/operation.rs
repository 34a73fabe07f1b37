//! What a caller asks of a replica, and how it is answered: the domain's types, free of the wire's.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use paddock_coordination::{Epoch, NodeId};
use paddock_proto::request_id::RequestId;
use paddock_storage::{Record, Sequence};
use ulid::Ulid;

use crate::clock::Timestamp;
use crate::reply::{Reply, ReplySender};

/// What an operation weighs beside its bytes: a floor for the bookkeeping, so that empty ones cannot fill memory either.
pub const OVERHEAD_BYTES: usize = 128;

/// A guard on one write: it happens only if this holds for the key's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// The key must exist (a strict update), or must not (a strict create).
    Exists(bool),
    /// The record's version must be this one.
    Version(Sequence),
    /// The record's value must be these bytes.
    Value(Bytes),
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The key.
    pub key: Bytes,
    /// The new value; `None` deletes.
    pub value: Option<Bytes>,
    /// Guards the write.
    pub precondition: Option<Precondition>,
    /// Which write it is, however often it is sent.
    pub request: Option<Request>,
}

/// What tells a write that is sent again from another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its id.
    pub id: RequestId,
    /// What it asks for, in 64 bits: another request with the same id is somebody's mistake.
    pub fingerprint: u64,
}

impl Request {
    /// The id of a write of this key, value and precondition.
    #[must_use]
    pub fn new(id: RequestId, key: &[u8], value: Option<&[u8]>, precondition: Option<&Precondition>) -> Self {
        let mut guarded = crc32fast::Hasher::new();
        guarded.update(key);
        match precondition {
            None => guarded.update(&[0]),
            Some(Precondition::Exists(exists)) => guarded.update(&[1, u8::from(*exists)]),
            Some(Precondition::Version(version)) => {
                guarded.update(&[2]);
                guarded.update(&version.0.to_le_bytes());
            }
            Some(Precondition::Value(expected)) => {
                guarded.update(&[3]);
                guarded.update(expected);
            }
        }
        let mut written = crc32fast::Hasher::new();
        written.update(&[u8::from(value.is_some())]);
        written.update(value.unwrap_or_default());
        let fingerprint = u64::from(guarded.finalize()) << 32 | u64::from(written.finalize());
        Request { id, fingerprint }
    }
}

/// What a read of the latest rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// The leader's lease; a read waits for it.
    Lease,
    /// The leader's lease, if it is held: the read is content with less, and is told so otherwise.
    HeldLease,
    /// No clock: the read waits until every replica that could lead has answered since it came.
    Barrier,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Read one key, linearizably.
    Read {
        /// The key.
        key: Bytes,
        /// Return no value.
        omit_value: bool,
        /// What it rests on that this is the latest.
        basis: Basis,
    },
    /// Read one key at this replica, once it has applied what a session has seen.
    ReadAfter {
        /// The key.
        key: Bytes,
        /// Return no value.
        omit_value: bool,
        /// What the session has seen.
        seen: Standing,
    },
    /// Write one key.
    Write(Write),
    /// Read a run of records in key order, linearizably.
    ReadRange {
        /// Begin after this key; `None`: at the first.
        after: Option<Bytes>,
        /// At most so many records.
        records_max: usize,
    },
}

impl Kind {
    /// What the operation weighs in a queue, in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        OVERHEAD_BYTES
            + match self {
                Kind::Read { key, .. } | Kind::ReadAfter { key, .. } => key.len(),
                Kind::Write(write) => {
                    let expected = match &write.precondition {
                        Some(Precondition::Value(expected)) => expected.len(),
                        _ => 0,
                    };
                    write.key.len() + write.value.as_ref().map_or(0, Bytes::len) + expected
                }
                Kind::ReadRange { after, .. } => after.as_ref().map_or(0, Bytes::len),
            }
    }
}

/// An operation as it arrives, not yet accepted.
#[derive(Debug)]
pub struct Arrival {
    /// The caller's number for it.
    pub operation_id: u64,
    /// When it stops mattering.
    pub deadline: Timestamp,
    /// What to do.
    pub kind: Kind,
}

/// How an operation went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A read; `None`: no record has this key.
    Read(Option<Record>),
    /// A write that is durable on every in-sync replica.
    Written {
        /// Its sequence; 0 for a delete that found nothing.
        version: Sequence,
        /// For a delete: whether there was a record.
        deleted: bool,
    },
    /// A run of records.
    Range {
        /// The records, in key order.
        records: Vec<Record>,
        /// True if more follow.
        more: bool,
    },
    /// It failed.
    Failed(Failure),
}

/// Why an operation failed. Each says whether the write may have happened: see
/// [`Failure::outcome_unknown`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The request breaks a rule.
    #[error("{0}")]
    Invalid(String),
    /// The key is empty or too long.
    #[error("{0}")]
    KeyInvalid(String),
    /// The value is too long.
    #[error("{0}")]
    ValueTooLarge(String),
    /// A strict create found a record.
    #[error("the key exists already, at version {current}")]
    KeyExists {
        /// Its version.
        current: Sequence,
    },
    /// A strict update found no record.
    #[error("no record has this key")]
    KeyNotFound,
    /// A compare-and-set lost.
    #[error("the precondition does not hold: the record's version is {current} (0: there is none)")]
    PreconditionFailed {
        /// The record's version; 0: there is none.
        current: Sequence,
    },
    /// This replica does not lead.
    #[error("this node does not lead the partition")]
    NotLeader {
        /// Who does, as far as it knows.
        leader: Option<NodeId>,
    },
    /// Leadership ended while the write was under way.
    #[error("leadership changed while the write was under way: it may have happened")]
    LeaderChanged,
    /// The replica cannot serve now.
    #[error("{0}")]
    Unavailable(String),
    /// A bounded queue is full.
    #[error("{0}")]
    Overloaded(String),
    /// The leader's disk is full.
    #[error("{0}")]
    DiskFull(String),
    /// This replica is not as fresh as the read asks for.
    #[error("{0}")]
    Behind(String),
    /// The session's token is of another life of the partition.
    #[error("{0}")]
    SessionInvalid(String),
    /// The request's id is older than what the partition remembers.
    #[error(
        "the request id is older than what this partition remembers: it is not done now, and whether it was done in its time cannot be told"
    )]
    RequestExpired {
        /// The time by which ids are judged, in milliseconds since 1970.
        clock_ms: u64,
    },
    /// The request's id was made too far in the future.
    #[error(
        "the request id was made in the future of this partition's clock, and nothing was done under it: the clock of who made it is ahead"
    )]
    RequestAhead {
        /// The time by which ids are judged, in milliseconds since 1970.
        clock_ms: u64,
    },
    /// The request's id came before with another request.
    #[error("the request id came before with another request")]
    RequestReused,
    /// The deadline passed.
    #[error("the deadline passed{}", if *.begun { " while the write was under way: it may have happened" } else { " before the operation was begun" })]
    DeadlineExceeded {
        /// True for a write that was begun.
        begun: bool,
    },
}

impl Failure {
    /// True if the write may have happened, or may still.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        matches!(
            self,
            Failure::LeaderChanged
                | Failure::DeadlineExceeded { begun: true }
                // By an earlier sending, of which nobody knows any more.
                | Failure::RequestExpired { .. }
        )
    }
}

/// An operation under way. However it ends, it is answered once: dropped unanswered, it answers that the
/// replica went away.
#[derive(Debug)]
pub struct Operation {
    operation_id: u64,
    /// When it stops mattering.
    pub deadline: Timestamp,
    /// What to do.
    pub kind: Kind,
    /// True once a write was handed to the log: from then on a lost operation may have happened.
    pub begun: bool,
    sender: Option<ReplySender>,
    _permit: Permit,
}

impl Operation {
    /// An operation of a stream, accepted.
    #[must_use]
    pub fn new(arrival: Arrival, sender: ReplySender, permit: Permit) -> Self {
        let Arrival { operation_id, deadline, kind } = arrival;
        Operation { operation_id, deadline, kind, begun: false, sender: Some(sender), _permit: permit }
    }

    /// Whether it was answered already, and only its share of the budget is still held.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.sender.is_none()
    }

    /// Whether its caller takes its answers, so that there is room for a large one.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.sender.as_ref().is_none_or(ReplySender::has_room)
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        if let Some(sender) = self.sender.take() {
            let failure = if self.begun {
                Failure::LeaderChanged
            } else {
                Failure::Unavailable("the replica stopped before the operation was begun".into())
            };
            let reply = Reply::unheard(self.operation_id, failure);
            sender.send(vec![reply]);
        }
    }
}

/// How far a replica was when it answered, for whoever wants to see at least as much the next time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The partition's life.
    pub partition_uuid: Ulid,
    /// Its lineage.
    pub lineage: u64,
    /// What was applied.
    pub applied: Sequence,
}

impl Standing {
    /// Whether a session that has seen this can be served from contents of a life and lineage of the partition.
    ///
    /// # Errors
    /// [`Failure::SessionInvalid`] if what it has seen may no longer be there; [`Failure::Behind`] if the contents are of an
    /// earlier lineage, or of one that is not known (`None`).
    pub fn check(&self, partition_uuid: Ulid, lineage: Option<u64>) -> Result<(), Failure> {
        if self.partition_uuid != partition_uuid || lineage.is_some_and(|lineage| self.lineage < lineage) {
            let lineage = lineage.map_or_else(|| "not known".to_owned(), |lineage| lineage.to_string());
            return Err(Failure::SessionInvalid(format!(
                "the session has seen life {} of the partition, lineage {}; this is life {partition_uuid}, lineage {lineage}: \
                 what it has seen or written may be lost",
                self.partition_uuid, self.lineage
            )));
        }
        match lineage {
            None => Err(earlier_lineage()),
            Some(lineage) if self.lineage > lineage => {
                let seen = self.lineage;
                Err(Failure::Behind(format!(
                    "the session has seen lineage {seen}, this replica knows {lineage}"
                )))
            }
            Some(_) => Ok(()),
        }
    }
}

/// For a read of contents that are not of the partition's present lineage.
#[must_use]
pub fn earlier_lineage() -> Failure {
    Failure::Behind(
        "the partition was recovered, and what this replica holds is not known to count".to_owned(),
    )
}

/// How fresh a read at any replica must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Whatever is applied.
    Any,
    /// Everything that was committed so many milliseconds ago.
    Within(u64),
    /// At least what a session has seen.
    AtLeast(Standing),
}

/// The answers of one round of the owner loop, gathered by stream.
#[derive(Debug, Default)]
pub struct Replies {
    batches: Vec<(ReplySender, Vec<Reply>)>,
    /// What is applied now; `None` before the partition's state was seen.
    pub standing: Option<Standing>,
}

impl Replies {
    /// Answers an operation when the round is flushed.
    pub fn answer(&mut self, mut operation: Operation, epoch: Epoch, answer: Answer) {
        self.answer_early(&mut operation, epoch, answer);
    }

    /// Answers an operation that is not over: it keeps its share of the budget until it is dropped.
    pub fn answer_early(&mut self, operation: &mut Operation, epoch: Epoch, answer: Answer) {
        let Some(sender) = operation.sender.take() else { return };
        let standing = self.standing;
        let reply = Reply { operation_id: operation.operation_id, epoch, answer, standing };
        // A handful of streams reach a partition, so a scan beats a map.
        match self.batches.iter_mut().find(|(other, _)| other.is_same(&sender)) {
            Some((_, replies)) => replies.push(reply),
            None => self.batches.push((sender, vec![reply])),
        }
    }

    /// Sends what was gathered.
    pub fn flush(&mut self) {
        for (sender, replies) in self.batches.drain(..) {
            sender.send(replies);
        }
    }
}

/// Bounds the bytes of operations under way in one replica.
#[derive(Debug)]
pub struct Budget {
    limit_bytes: usize,
    used_bytes: AtomicUsize,
}

impl Budget {
    /// A budget of so many bytes.
    #[must_use]
    pub fn new(limit_bytes: usize) -> Arc<Self> {
        Arc::new(Budget { limit_bytes, used_bytes: AtomicUsize::new(0) })
    }

    /// Takes a share, given back when the permit is dropped.
    ///
    /// # Errors
    /// [`Failure::Overloaded`] where the budget is spent.
    pub fn acquire(self: &Arc<Self>, size_bytes: usize) -> Result<Permit, Failure> {
        let before = self.used_bytes.fetch_add(size_bytes, Ordering::Relaxed);
        if before + size_bytes > self.limit_bytes {
            self.used_bytes.fetch_sub(size_bytes, Ordering::Relaxed);
            return Err(Failure::Overloaded(format!(
                "the replica has {before} bytes of operations under way, the limit is {}",
                self.limit_bytes
            )));
        }
        Ok(Permit { budget: Arc::clone(self), size_bytes })
    }

    /// The bytes under way.
    #[must_use]
    pub fn used_bytes(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed)
    }
}

/// A share of a [`Budget`].
#[derive(Debug)]
pub struct Permit {
    budget: Arc<Budget>,
    size_bytes: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.used_bytes.fetch_sub(self.size_bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(id: u64, begun: bool, sender: &ReplySender, budget: &Arc<Budget>) -> Operation {
        let kind = Kind::Read { key: Bytes::from_static(b"k"), omit_value: false, basis: Basis::Lease };
        let permit = budget.acquire(kind.size_bytes()).expect("budget");
        let arrival = Arrival { operation_id: id, deadline: Timestamp(0), kind };
        let mut operation = Operation::new(arrival, sender.clone(), permit);
        operation.begun = begun;
        operation
    }

    #[test]
    fn a_dropped_operation_is_answered_and_gives_its_budget_back() {
        let (sender, mut receiver) =
            crate::reply::channel(&prometheus_client::metrics::gauge::Gauge::default());
        let budget = Budget::new(1_000);
        drop(operation(7, true, &sender, &budget));
        drop(operation(8, false, &sender, &budget));
        let unknown: Vec<_> = std::iter::from_fn(|| receiver.try_receive())
            .flatten()
            .map(|reply| match reply.answer {
                Answer::Failed(failure) => (reply.operation_id, failure.outcome_unknown()),
                answer => panic!("{answer:?}"),
            })
            .collect();
        assert_eq!(unknown, [(7, true), (8, false)]);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn a_spent_budget_refuses_and_names_the_limit() {
        let budget = Budget::new(100);
        let held = budget.acquire(60).expect("room");
        let refusal = budget.acquire(41).expect_err("no room").to_string();
        assert!(refusal.contains("60") && refusal.contains("100"), "{refusal}");
        drop(held);
        budget.acquire(100).expect("room again");
    }

    #[test]
    fn replies_are_gathered_by_stream() {
        let (one, mut from_one) = crate::reply::channel(&prometheus_client::metrics::gauge::Gauge::default());
        let (two, mut from_two) = crate::reply::channel(&prometheus_client::metrics::gauge::Gauge::default());
        let budget = Budget::new(10_000);
        let mut replies = Replies::default();
        for (id, sender) in [(1, &one), (2, &two), (3, &one)] {
            replies.answer(operation(id, false, sender, &budget), Epoch(4), Answer::Read(None));
        }
        replies.flush();
        let ids = |replies: Vec<Reply>| replies.into_iter().map(|r| r.operation_id).collect::<Vec<_>>();
        assert_eq!(ids(from_one.try_receive().expect("a batch")), [1, 3]);
        assert_eq!(ids(from_two.try_receive().expect("a batch")), [2]);
        assert!(from_one.try_receive().is_none());
    }
}
