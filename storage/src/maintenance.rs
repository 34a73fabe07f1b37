//! A store's own thread, for what would only hold its writers up.
//!
//! It waits until something is due: an fsync for writes that did not wait for theirs, a segment that will be needed, the
//! durable marker once nobody has written for a while, or a part of the log that nobody needs any more. None of it is under the
//! writers' lock but for moments. There is
//! no thread before the first such thing.
//!
//! What it does not do: it decides nothing about the log. The store tells it what is due, and takes its results.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// What can be due that needs the store itself.
pub(crate) trait Duties: Send + Sync {
    /// Makes durable what is not yet.
    fn sync(&self);
    /// Writes that everything is durable, if nothing says so yet.
    fn mark_durable(&self);
    /// Lets go of the log's beginning, as far as it was flushed.
    fn release_log(&self);
}

/// The thread, and what it waits for. Dropping it ends the thread.
#[derive(Debug)]
pub(crate) struct Maintenance {
    board: Arc<Board>,
    thread: Option<JoinHandle<()>>,
}

/// Where things that are due are written down, for any thread.
pub(crate) struct Board {
    state: Mutex<State>,
    told: Condvar,
    /// Times are kept as microseconds since here.
    begun: Instant,
    last_write_us: AtomicU64,
    /// Whether an fsync is due at some time already; so that most writes need not take the lock to say so.
    sync_is_due: AtomicBool,
    mark_is_due: AtomicBool,
    idle: Option<Duration>,
}

#[derive(Default)]
struct State {
    stopping: bool,
    sync_at: Option<Instant>,
    mark_at: Option<Instant>,
    release_is_due: bool,
    duties: Option<Weak<dyn Duties>>,
    job: Option<Job>,
}

/// Something to be done once.
type Job = Box<dyn FnOnce() + Send>;

enum Due {
    Job(Job),
    Sync(Arc<dyn Duties>),
    Mark(Arc<dyn Duties>),
    Release(Arc<dyn Duties>),
    End,
}

impl std::fmt::Debug for Board {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Board").finish_non_exhaustive()
    }
}

impl Maintenance {
    /// Nothing is due yet. `idle`: how long nobody writes before the durable marker is.
    pub(crate) fn new(idle: Option<Duration>) -> Maintenance {
        let board = Board {
            state: Mutex::default(),
            told: Condvar::new(),
            begun: Instant::now(),
            last_write_us: AtomicU64::new(0),
            sync_is_due: AtomicBool::new(false),
            mark_is_due: AtomicBool::new(false),
            idle,
        };
        Maintenance { board: Arc::new(board), thread: None }
    }

    pub(crate) fn board(&self) -> Arc<Board> {
        self.board.clone()
    }

    /// Starts the thread, unless it runs.
    pub(crate) fn start(&mut self) -> std::io::Result<()> {
        if self.thread.is_none() {
            let board = self.board.clone();
            let builder = std::thread::Builder::new().name("paddock-upkeep".to_string());
            self.thread = Some(builder.spawn(move || while board.run_next() {})?);
        }
        Ok(())
    }
}

impl Maintenance {
    /// Ends the thread, and waits for it.
    pub(crate) fn stop(&mut self) {
        self.board.state.lock().stopping = true;
        self.board.told.notify_one();
        if let Some(thread) = self.thread.take() {
            // One that panicked has poisoned what it had in hand, and said so itself.
            let _ = thread.join();
        }
    }
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Board {
    /// Who is asked once an fsync or the marker is due.
    pub(crate) fn set_duties(&self, duties: Weak<dyn Duties>) {
        self.state.lock().duties = Some(duties);
    }

    /// Something is to be done as soon as nothing more urgent is; in place of what an earlier call asked for and nobody has
    /// begun.
    pub(crate) fn ask(&self, job: impl FnOnce() + Send + 'static) {
        self.state.lock().job = Some(Box::new(job));
        self.told.notify_one();
    }

    /// Something was written and is not durable: an fsync is due after `within`.
    pub(crate) fn sync_within(&self, within: Duration) {
        if !self.sync_is_due.swap(true, Ordering::SeqCst) {
            self.state.lock().sync_at = Some(Instant::now() + within);
            self.told.notify_one();
        }
    }

    /// A tail was flushed: its part of the log may go, though nobody should write any more.
    pub(crate) fn release_log(&self) {
        self.state.lock().release_is_due = true;
        self.told.notify_one();
    }

    /// An fsync begins: from here on a write asks for another one, since this one may miss it. Whoever says so has the writers'
    /// lock until the fsync knows what it is of. Before that it is still due, to whoever takes the store away meanwhile.
    pub(crate) fn sync_begins(&self) {
        self.sync_is_due.store(false, Ordering::SeqCst);
    }

    /// Whether an fsync is still due.
    pub(crate) fn is_sync_due(&self) -> bool {
        self.sync_is_due.load(Ordering::SeqCst)
    }

    /// Something was written and is durable: the marker is due if nothing more comes for a while.
    pub(crate) fn wrote_durably(&self) {
        let Some(idle) = self.idle else { return };
        self.last_write_us.store(self.now_us(), Ordering::SeqCst);
        if !self.mark_is_due.swap(true, Ordering::SeqCst) {
            self.state.lock().mark_at = Some(Instant::now() + idle);
            self.told.notify_one();
        }
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Waits for the next thing, and does it. False: it is time to end.
    fn run_next(&self) -> bool {
        match self.next() {
            Due::Job(job) => job(),
            Due::Sync(duties) => duties.sync(),
            Due::Mark(duties) => duties.mark_durable(),
            Due::Release(duties) => duties.release_log(),
            Due::End => return false,
        }
        true
    }

    /// What the thread does up to the moment when it asks for the store.
    #[cfg(test)]
    pub(crate) fn take_due_sync(&self) {
        assert!(matches!(self.next(), Due::Sync(_)));
    }

    fn next(&self) -> Due {
        let mut state = self.state.lock();
        loop {
            if state.stopping {
                return Due::End;
            }
            let now = Instant::now();
            if state.sync_at.is_some_and(|at| at <= now) {
                // It stays due until somebody begins with it: see `sync_begins`.
                state.sync_at = None;
                if let Some(duties) = state.duties() {
                    return Due::Sync(duties);
                }
            } else if state.mark_at.is_some_and(|at| at <= now) {
                state.mark_at = self.later_mark();
                if state.mark_at.is_none()
                    && let Some(duties) = state.duties()
                {
                    return Due::Mark(duties);
                }
            } else if let Some(job) = state.job.take() {
                return Due::Job(job);
            } else if std::mem::take(&mut state.release_is_due) {
                if let Some(duties) = state.duties() {
                    return Due::Release(duties);
                }
            } else {
                self.wait(&mut state);
            }
        }
    }

    /// When the marker is due instead, because somebody has written since.
    fn later_mark(&self) -> Option<Instant> {
        let idle = self.idle?;
        // First this, then the look: a write in between either sees it and asks anew, or is seen.
        self.mark_is_due.store(false, Ordering::SeqCst);
        let due = self.begun + Duration::from_micros(self.last_write_us.load(Ordering::SeqCst)) + idle;
        if due <= Instant::now() {
            return None;
        }
        self.mark_is_due.store(true, Ordering::SeqCst);
        Some(due)
    }

    fn wait(&self, state: &mut parking_lot::MutexGuard<'_, State>) {
        match state.sync_at.into_iter().chain(state.mark_at).min() {
            Some(at) => drop(self.told.wait_until(state, at)),
            None => self.told.wait(state),
        }
    }
}

impl State {
    fn duties(&self) -> Option<Arc<dyn Duties>> {
        self.duties.as_ref().and_then(Weak::upgrade)
    }
}
