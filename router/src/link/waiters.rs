//! Who waits for what: the state that a link's callers and its task share.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use paddock_proto::v1::{ExchangeResponse, Operation, Outcome};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

use super::{LINK_BYTES_MAX, LINK_OPERATIONS_MAX, LinkError, Peer};
use crate::bell::Bell;

pub(super) type Reply = oneshot::Sender<Result<Outcome, LinkError>>;

/// Room in the link; given back when dropped.
pub(super) struct Room {
    pub(super) _operations: OwnedSemaphorePermit,
    pub(super) _bytes: OwnedSemaphorePermit,
}

/// An operation on its way to the task.
pub(super) struct Queued {
    pub(super) operation: Operation,
    pub(super) deadline: Instant,
    pub(super) size_bytes: usize,
    pub(super) room: Room,
}

/// Who waits for an operation's outcome.
pub(super) struct Waiter {
    pub(super) reply: Reply,
    pub(super) is_write: bool,
    /// Set when the operation is handed to the stream: from then on a write may have happened.
    pub(super) handed: Option<Room>,
}

/// What callers and the task share.
pub(super) struct Shared {
    pub(super) peer: Peer,
    pub(super) operations: Arc<Semaphore>,
    pub(super) bytes: Arc<Semaphore>,
    pub(super) next_operation_id: AtomicU64,
    pub(super) waiters: Mutex<HashMap<u64, Waiter>>,
    pub(super) up: AtomicBool,
    pub(super) bell: Arc<Bell>,
}

impl Shared {
    pub(super) fn new(peer: Peer, bell: Arc<Bell>) -> Self {
        Shared {
            peer,
            operations: Arc::new(Semaphore::new(LINK_OPERATIONS_MAX)),
            bytes: Arc::new(Semaphore::new(LINK_BYTES_MAX)),
            next_operation_id: AtomicU64::new(1),
            waiters: Mutex::new(HashMap::new()),
            up: AtomicBool::new(false),
            bell,
        }
    }

    pub(super) fn take_room(&self, size_bytes: usize) -> Result<Room, LinkError> {
        let node = self.peer.node;
        let size = u32::try_from(size_bytes).unwrap_or(u32::MAX);
        let operations = Arc::clone(&self.operations).try_acquire_owned();
        let operations = operations.map_err(|_| self.full_of_operations())?;
        let bytes = Arc::clone(&self.bytes)
            .try_acquire_many_owned(size)
            .map_err(|_| LinkError::Overloaded { node, what: "bytes", limit: LINK_BYTES_MAX })?;
        Ok(Room { _operations: operations, _bytes: bytes })
    }

    /// Takes a waiter out. A queued operation without one is not sent.
    pub(super) fn withdraw(&self, operation_id: u64) -> Option<Waiter> {
        self.waiters.lock().remove(&operation_id)
    }

    pub(super) fn full_of_operations(&self) -> LinkError {
        LinkError::Overloaded { node: self.peer.node, what: "operations", limit: LINK_OPERATIONS_MAX }
    }

    pub(super) fn gone(&self) -> LinkError {
        LinkError::NotSent(format!("the link to node {} is closed", self.peer.node).into())
    }

    /// For a reply that was dropped unsent. No code path does that; if one ever did, nothing would be
    /// known of the write.
    pub(super) fn unanswered(&self) -> LinkError {
        LinkError::Lost(format!("the link to node {} ended", self.peer.node).into())
    }

    /// Marks a batch as handed to the stream, and returns what is to be sent: without what was withdrawn,
    /// and without what is past its deadline.
    pub(super) fn hand_over(&self, batch: Vec<Queued>) -> Vec<Operation> {
        let now = Instant::now();
        let mut waiters = self.waiters.lock();
        let mut operations = Vec::with_capacity(batch.len());
        for Queued { mut operation, deadline, room, .. } in batch {
            let Some(waiter) = waiters.get_mut(&operation.operation_id) else { continue };
            let left = deadline.saturating_duration_since(now);
            if left.is_zero() {
                // Its caller's timer is about to find it unhanded and say so.
                continue;
            }
            waiter.handed = Some(room);
            operation.timeout_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1);
            operations.push(operation);
        }
        operations
    }

    /// Gives outcomes to those who wait for them; nobody may.
    pub(super) fn deliver(&self, response: ExchangeResponse) {
        let mut answered = Vec::with_capacity(response.outcomes.len());
        {
            let mut waiters = self.waiters.lock();
            for outcome in response.outcomes {
                // An outcome of what was never handed over is a lie: it is passed over.
                if waiters.get(&outcome.operation_id).is_some_and(|waiter| waiter.handed.is_some())
                    && let Some(waiter) = waiters.remove(&outcome.operation_id)
                {
                    answered.push((waiter, outcome));
                }
            }
        }
        for (waiter, outcome) in answered {
            let _ = waiter.reply.send(Ok(outcome));
        }
    }

    /// Turns away what is queued no longer and was never handed over.
    pub(super) fn turn_away(&self, queued: &Queued, reason: &Arc<str>) {
        if let Some(waiter) = self.withdraw(queued.operation.operation_id) {
            let _ = waiter.reply.send(Err(LinkError::NotSent(Arc::clone(reason))));
        }
    }

    /// Answers what was handed over and will not be answered any more: all of it, or the reads only.
    pub(super) fn lose(&self, reason: &Arc<str>, writes_too: bool) {
        let lost: Vec<Waiter> = self
            .waiters
            .lock()
            .extract_if(|_, waiter| waiter.handed.is_some() && (writes_too || !waiter.is_write))
            .map(|(_, waiter)| waiter)
            .collect();
        for waiter in lost {
            let _ = waiter.reply.send(Err(LinkError::Lost(Arc::clone(reason))));
        }
    }

    pub(super) fn awaits_outcomes(&self) -> bool {
        self.waiters.lock().values().any(|waiter| waiter.handed.is_some())
    }

    pub(super) fn set_up(&self, up: bool) {
        if self.up.swap(up, Ordering::AcqRel) != up {
            self.bell.ring();
        }
    }
}
