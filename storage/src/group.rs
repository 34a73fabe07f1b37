//! Group commit: callers that come while an fsync runs share the next one.
//!
//! There is no thread and no timer. A caller puts its request in the queue; if nobody is at the disk, it goes itself,
//! with everything that is queued, and comes back with everybody's answer. So one caller alone waits for nothing but
//! its own fsync, and many share one.

use std::collections::{HashMap, VecDeque};

use parking_lot::{Condvar, Mutex};

use crate::commit::{Outcome, Request, commit};
use crate::error::{Error, Result};
use crate::replicated::ReplicatedStore;

/// The most requests in one turn at the disk.
const TURN_REQUESTS_MAX: usize = 4_096;

/// The most bytes of rows in one turn, unless one request alone has more.
const TURN_BYTES_MAX: usize = 4 << 20;

const WRITER_ENDED: &str = "the thread that wrote the batch ended";

#[derive(Debug)]
pub(crate) struct Group {
    queue: Mutex<Queue>,
    /// Told when a turn is over.
    turn_over: Condvar,
    /// `None` once it is closed. Locked by whoever has the turn.
    store: Mutex<Option<ReplicatedStore>>,
}

/// Bounded by the callers: each waits for its one request.
#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(Ticket, Request)>,
    answers: HashMap<Ticket, Result<Outcome>>,
    next: Ticket,
    /// Whether someone is at the disk.
    busy: bool,
}

type Ticket = u64;

impl Group {
    pub(crate) fn new(store: ReplicatedStore) -> Group {
        Group { queue: Mutex::default(), turn_over: Condvar::new(), store: Mutex::new(Some(store)) }
    }

    /// Carries a request out, durably.
    pub(crate) fn submit(&self, request: Request) -> Result<Outcome> {
        let mut queue = self.queue.lock();
        let ticket = queue.next;
        queue.next += 1;
        queue.waiting.push_back((ticket, request));
        loop {
            if let Some(answer) = queue.answers.remove(&ticket) {
                return answer;
            }
            if queue.busy {
                self.turn_over.wait(&mut queue);
                continue;
            }
            queue.busy = true;
            let (tickets, requests) = queue.take();
            drop(queue);
            let turn = Turn { group: self, tickets, answers: Vec::new() };
            turn.run(&requests);
            queue = self.queue.lock();
        }
    }

    /// Runs something on the store between two turns.
    pub(crate) fn with<T>(&self, run: impl FnOnce(&mut ReplicatedStore) -> Result<T>) -> Result<T> {
        self.store.lock().as_mut().ok_or(Error::Closed).and_then(run)
    }

    /// Closes the store; whoever comes later is told.
    pub(crate) fn close(&self) -> Result<()> {
        let store = self.store.lock().take().ok_or(Error::Closed)?;
        store.close()
    }
}

impl Queue {
    fn take(&mut self) -> (Vec<Ticket>, Vec<Request>) {
        let (mut tickets, mut requests, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some((_, request)) = self.waiting.front() {
            bytes += request.rows.encoded().len();
            if tickets.len() == TURN_REQUESTS_MAX || bytes > TURN_BYTES_MAX && !tickets.is_empty() {
                break;
            }
            let Some((ticket, request)) = self.waiting.pop_front() else { break };
            tickets.push(ticket);
            requests.push(request);
        }
        (tickets, requests)
    }
}

/// A turn at the disk. However it ends, its drop answers everybody in it and lets the next one go.
struct Turn<'a> {
    group: &'a Group,
    tickets: Vec<Ticket>,
    answers: Vec<Result<Outcome>>,
}

impl Turn<'_> {
    fn run(mut self, requests: &[Request]) {
        self.answers = match self.group.store.lock().as_mut() {
            Some(store) => commit(store, requests),
            None => requests.iter().map(|_| Err(Error::Closed)).collect(),
        };
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let unanswered = || Error::Poisoned { reason: WRITER_ENDED.to_string() };
        if self.answers.len() < self.tickets.len()
            && let Some(store) = self.group.store.lock().as_mut()
        {
            // It panicked half-way: what the store knows in memory need not be what it has written.
            store.poison(WRITER_ENDED);
        }
        let mut answers = self.answers.drain(..);
        let mut queue = self.group.queue.lock();
        for ticket in &self.tickets {
            queue.answers.insert(*ticket, answers.next().unwrap_or_else(|| Err(unanswered())));
        }
        queue.busy = false;
        self.group.turn_over.notify_all();
    }
}
