//! Group commit: callers that come while an fsync runs share the next one.
//!
//! There is no timer. A caller that finds nobody at the disk goes itself, with its own request. One that comes
//! meanwhile takes a seat. When a turn is over, the first of those who wait gets the next one, with everything that
//! has gathered by then: it is told first, so that the disk is busy again before all others have their answers.
//! So one caller alone waits for nothing but its own fsync, and many share one.
//!
//! Writes that need not wait for an fsync take the same way and the same turns, without one; and since such a turn is short,
//! whoever had it carries out what has gathered meanwhile, too, before the next one gets it. The store's own thread
//! ([`crate::maintenance`]) makes them durable later: it fsyncs beside the turns, not in one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::commit::{Outcome, Request, commit, commit_alone};
use crate::durability::{Durability, SyncTicket};
use crate::error::{Error, Result};
use crate::maintenance::{Board, Duties};
use crate::replicated::ReplicatedStore;

/// The most requests in one turn at the disk.
const TURN_REQUESTS_MAX: usize = 4_096;

/// The most bytes of rows in one turn, unless one request alone has more.
const TURN_BYTES_MAX: usize = 4 << 20;

/// How often somebody who waits looks before going to sleep: some microseconds. Two threads that wrote and read by halves did
/// a tenth more with it.
const SPINS: u32 = 500;

const WRITER_ENDED: &str = "the thread that wrote the batch ended";

/// All handles of a store have one. Dropping it ends the store as a process's end would, but for writes that were promised
/// an fsync soon: they get it.
#[derive(Debug)]
pub(crate) struct Group {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// `None` once it is closed. Locked by whoever has the turn.
    store: Mutex<Option<ReplicatedStore>>,
    board: Arc<Board>,
    sync_interval: Duration,
}

/// Bounded by the callers: each waits for its one request.
#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(Arc<Seat>, Request)>,
    /// Whether someone is at the disk. Nobody waits while nobody is.
    busy: bool,
    /// Whether whoever is there waits for an fsync.
    syncing: bool,
}

/// Where a thread waits. A thread waits for one thing at a time, so it has one seat, for all stores.
#[derive(Debug, Default)]
struct Seat {
    /// Whether there is something in `told`: to look at without taking its lock.
    is_told: AtomicBool,
    told: Mutex<Option<Told>>,
    bell: Condvar,
}

#[derive(Debug)]
enum Told {
    /// The next turn is yours, and your request the first in it.
    YourTurn,
    Answer(Result<Outcome>),
}

thread_local! {
    static SEAT: Arc<Seat> = Arc::default();
}

impl Seat {
    fn tell(&self, what: Told) {
        let mut told = self.told.lock();
        *told = Some(what);
        self.is_told.store(true, Ordering::Release);
        self.bell.notify_one();
    }

    /// `spin`: it will not be long. To be put to sleep and woken takes longer than a turn without an fsync.
    fn wait(&self, spin: bool) -> Told {
        for _ in 0..if spin { SPINS } else { 0 } {
            if self.is_told.load(Ordering::Acquire) {
                break;
            }
            std::hint::spin_loop();
        }
        let mut told = self.told.lock();
        loop {
            match told.take() {
                Some(what) => {
                    self.is_told.store(false, Ordering::Relaxed);
                    return what;
                }
                None => self.bell.wait(&mut told),
            }
        }
    }
}

impl Group {
    pub(crate) fn new(store: ReplicatedStore, sync_interval: Duration) -> Group {
        let board = store.board();
        let store = Mutex::new(Some(store));
        let shared = Arc::new(Shared { queue: Mutex::default(), store, board, sync_interval });
        let duties: Arc<dyn Duties> = shared.clone();
        shared.board.set_duties(Arc::downgrade(&duties));
        Group { shared }
    }

    /// Carries a request out, as durably as it asks for.
    pub(crate) fn submit(&self, request: Request) -> Result<Outcome> {
        let shared = &*self.shared;
        let mut queue = shared.queue.lock();
        let sync = request.durability == Durability::Sync;
        if !queue.busy {
            (queue.busy, queue.syncing) = (true, sync);
            drop(queue);
            return shared.turn_alone(request);
        }
        // The next turn is this request's, unless there are too many for one; so only what is at the disk now is waited
        // for. More than one who spins would keep the one who works from a processor.
        let spin = !queue.syncing && !sync && queue.waiting.is_empty();
        let seat = SEAT.with(Arc::clone);
        queue.waiting.push_back((seat.clone(), request));
        drop(queue);
        match seat.wait(spin) {
            Told::Answer(answer) => answer,
            Told::YourTurn => shared.turn(),
        }
    }

    /// Runs something on the store between two turns.
    pub(crate) fn with<T>(&self, run: impl FnOnce(&mut ReplicatedStore) -> Result<T>) -> Result<T> {
        self.shared.store.lock().as_mut().ok_or(Error::Closed).and_then(run)
    }

    /// Closes the store; whoever comes later is told.
    pub(crate) fn close(&self) -> Result<()> {
        let store = self.shared.store.lock().take().ok_or(Error::Closed)?;
        store.close()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Taken out first: the store waits for its thread to end, and that may wait for this lock.
        let store = self.shared.store.lock().take();
        if let Some(mut store) = store
            && self.shared.board.is_sync_due()
        {
            // Nobody is left to be told of a failure.
            let _ = store.sync();
        }
    }
}

impl Shared {
    /// A turn of one request only: nobody else is there.
    fn turn_alone(&self, request: Request) -> Result<Outcome> {
        let durability = request.durability;
        let mut turn = Turn { shared: self, others: Vec::new(), answers: Vec::new(), done: false };
        let answer = match self.store.lock().as_mut() {
            Some(store) => commit_alone(store, request),
            None => Err(Error::Closed),
        };
        self.note(durability);
        turn.done = true;
        if durability != Durability::Sync {
            turn.serve();
        }
        answer
    }

    /// A turn of all that has gathered. The first of them is the caller.
    fn turn(&self) -> Result<Outcome> {
        let (mut others, requests) = self.queue.lock().take();
        // The caller itself.
        drop(others.drain(..1.min(others.len())));
        // What one of them waits for, all get.
        let durability = requests.iter().map(|request| request.durability).max().unwrap_or_default();
        self.queue.lock().syncing = durability == Durability::Sync;
        let mut turn = Turn { shared: self, others, answers: Vec::new(), done: false };
        let mut answers = self.commit(requests);
        let own = answers.pop_front().unwrap_or_else(unanswered);
        turn.answers = answers.into();
        turn.done = true;
        if durability != Durability::Sync {
            turn.serve();
        }
        own
    }

    /// Carries requests out, and sees to their durability.
    fn commit(&self, requests: Vec<Request>) -> VecDeque<Result<Outcome>> {
        // What one of them waits for, all get.
        let durability = requests.iter().map(|request| request.durability).max().unwrap_or_default();
        let answers = match self.store.lock().as_mut() {
            Some(store) => commit(store, requests),
            None => requests.iter().map(|_| Err(Error::Closed)).collect(),
        };
        self.note(durability);
        answers
    }

    /// Sees to it that what was written becomes durable, or known to be, in time.
    fn note(&self, durability: Durability) {
        match durability {
            Durability::Sync => self.board.wrote_durably(),
            Durability::Interval => self.board.sync_within(self.sync_interval),
            Durability::Buffered => {}
        }
    }

    /// An fsync beside the turns.
    fn sync_beside(&self, begin: impl FnOnce(&mut ReplicatedStore) -> Result<Option<SyncTicket>>) {
        let ticket = match self.store.lock().as_mut().map(begin) {
            // A failed write has poisoned the store; the next caller is told.
            None | Some(Ok(None) | Err(_)) => return,
            Some(Ok(Some(ticket))) => ticket,
        };
        let synced = ticket.run();
        if let Some(store) = self.store.lock().as_mut() {
            store.finish_sync(&ticket, synced);
        }
    }
}

impl Duties for Shared {
    fn sync(&self) {
        let _guard = PoisonOnPanic(self);
        self.sync_beside(|store| {
            self.board.sync_begins();
            Ok(store.begin_sync())
        });
    }

    fn mark_durable(&self) {
        let _guard = PoisonOnPanic(self);
        self.sync_beside(ReplicatedStore::begin_mark);
    }

    fn release_log(&self) {
        let _guard = PoisonOnPanic(self);
        if let Some(store) = self.store.lock().as_mut() {
            // A failure has poisoned the store; the next caller is told.
            let _ = store.let_log_go();
        }
    }
}

/// A panic beside the turns, in the disk's code, ends all writing like one in a turn.
struct PoisonOnPanic<'a>(&'a Shared);

impl Drop for PoisonOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(store) = self.0.store.lock().as_mut()
        {
            store.poison("the store's own thread ended");
        }
    }
}

impl Queue {
    /// The requests of a turn, and who waits for them.
    fn take(&mut self) -> (Vec<Arc<Seat>>, Vec<Request>) {
        let count = self.waiting.len().min(TURN_REQUESTS_MAX);
        let (mut seats, mut requests, mut bytes) = (Vec::with_capacity(count), Vec::with_capacity(count), 0);
        while let Some((_, request)) = self.waiting.front() {
            bytes += request.rows.encoded().len();
            if requests.len() == TURN_REQUESTS_MAX || bytes > TURN_BYTES_MAX && !requests.is_empty() {
                break;
            }
            let Some((seat, request)) = self.waiting.pop_front() else { break };
            seats.push(seat);
            requests.push(request);
        }
        (seats, requests)
    }
}

fn unanswered() -> Result<Outcome> {
    Err(Error::Poisoned { reason: WRITER_ENDED.to_string() })
}

/// A turn at the disk. However it ends, its drop lets the next one go and answers everybody in it.
struct Turn<'a> {
    shared: &'a Shared,
    others: Vec<Arc<Seat>>,
    answers: Vec<Result<Outcome>>,
    done: bool,
}

impl Turn<'_> {
    /// Carries out what has gathered meanwhile, once, if none of it waits for an fsync: to do that here takes less time than
    /// to hand everything that writing needs over to another processor.
    fn serve(&mut self) {
        let (seats, requests) = {
            let mut queue = self.shared.queue.lock();
            if queue.waiting.iter().any(|(_, request)| request.durability == Durability::Sync) {
                return;
            }
            queue.take()
        };
        if requests.is_empty() {
            return;
        }
        self.answer();
        self.done = false;
        self.others = seats;
        self.answers = self.shared.commit(requests).into();
        self.done = true;
    }

    /// Tells everybody but the caller.
    fn answer(&mut self) {
        let mut answers = self.answers.drain(..);
        for seat in self.others.drain(..) {
            seat.tell(Told::Answer(answers.next().unwrap_or_else(unanswered)));
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.done
            && let Some(store) = self.shared.store.lock().as_mut()
        {
            // It panicked half-way: what the store knows in memory need not be what it has written.
            store.poison(WRITER_ENDED);
        }
        let next = {
            let mut queue = self.shared.queue.lock();
            let next = queue.waiting.front().map(|(seat, _)| seat.clone());
            queue.busy = next.is_some();
            next
        };
        if let Some(next) = next {
            next.tell(Told::YourTurn);
        }
        self.answer();
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::disk::{FaultyDisk, Unsynced};
    use crate::manifest::Kind;
    use crate::options::Options;
    use crate::row::RowsBuilder;

    fn open(disk: &FaultyDisk) -> ReplicatedStore {
        let options = Options::new().disk(Arc::new(disk.clone())).mark_idle_after(None);
        let options = options.background_compaction(false);
        ReplicatedStore::open_kind(Path::new("/data"), options, Kind::Standalone).unwrap()
    }

    fn insert(group: &Group, key: &[u8]) {
        let mut rows = RowsBuilder::new();
        rows.put(key, b"x").unwrap();
        let request =
            Request { rows: rows.finish(), conditions: Vec::new(), durability: Durability::Interval };
        group.submit(request).unwrap();
    }

    /// Between the moment when the fsync is due and the moment when the thread has the store, the last handle goes.
    #[test]
    fn an_fsync_that_was_promised_is_made_by_whoever_is_left() {
        let disk = FaultyDisk::new();
        let group = Group::new(open(&disk), Duration::ZERO);
        insert(&group, b"heron");
        let (shared, board) = (group.shared.clone(), group.shared.board.clone());
        board.take_due_sync();
        drop(group);
        shared.sync();
        drop(shared);
        disk.crash(Unsynced::Lost);
        assert_eq!(open(&disk).last().sequence.0, 1);
    }

    /// And once an fsync has begun, a write that it may have missed asks for another one.
    #[test]
    fn an_fsync_that_has_begun_is_due_no_more() {
        let disk = FaultyDisk::new();
        let group = Group::new(open(&disk), Duration::ZERO);
        for key in [b"heron", b"robin"] {
            insert(&group, key);
            assert!(group.shared.board.is_sync_due());
            group.shared.board.take_due_sync();
            group.shared.sync();
            assert!(!group.shared.board.is_sync_due());
        }
        drop(group);
        disk.crash(Unsynced::Lost);
        assert_eq!(open(&disk).last().sequence.0, 2);
    }
}
