//! Compaction: the log's entries become runs in key order, and runs become fewer and smaller, while the store is in use.
//!
//! - [`policy`] says what to do next: pure, from sizes and garbage.
//! - [`merge`] says which rows stay, and why that is right: pure.
//! - [`pace`] says how fast, and [`ration`] how fast writers may be when that is too slow for them.
//! - [`worker`] does it, one step after the other: a flush of a frozen tail, a [`mod@slice`] of a merge.
//! - [`site`] is what it works on, and the order in which its results come to count.
//! - [`beginning`] lets the log's beginning go, once nothing needs it any more.
//! - [`flow`] is where it waits for work, and writers for it.
//!
//! A store has one [`Compaction`], with a thread of its own. Without one (tests that must do the same each time) somebody
//! has to ask: [`Compaction::compact`] works on the caller's thread, and so does a writer who finds too many tails waiting.
//!
//! What it does not do: it does not decide when the growing tail is frozen (the log's owner does, [`policy::tail_is_due`]
//! says at which size), nor which segments of the log may go.

mod beginning;
pub(crate) mod flow;
pub(crate) mod merge;
mod output;
pub(crate) mod pace;
pub(crate) mod policy;
mod ration;
pub(crate) mod site;
mod slice;
mod sources;
mod worker;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::data_file::DataFile;
use crate::error::{Error, Result};
use crate::names::Names;
use crate::position::{EpochStart, Sequence};
use site::{LiveRun, Site};
use worker::Worker;

/// While somebody is there but there is nothing to do, it is looked again after this long: then it may be quiet.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Who wants to work and finds somebody at it looks again after this long whether it is still necessary.
const ANOTHER_LOOK: Duration = Duration::from_millis(5);

/// So long it waits at least for rows to expire, which may be many, one after the other.
const EXPIRY_WAIT_MIN: Duration = Duration::from_secs(1);

/// And so long at most: the clock may be set.
const EXPIRY_WAIT_MAX: Duration = Duration::from_secs(60);

/// After a failure that changed nothing it is tried again after this long, or when something happens.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// If everything fails for this long, though the disk is not full, then nothing will come of it any more.
const TROUBLE_MAX: Duration = Duration::from_secs(30);

/// So many runs there may be while merging rests, since one of them is damaged. Reads look at all of them.
const RUNS_WITHOUT_MERGING_MAX: usize = 64;

/// See the module.
pub(crate) struct Compaction {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    site: Site,
    worker: Mutex<Worker>,
    trouble: Mutex<Trouble>,
}

/// What fails, and is tried again.
#[derive(Debug, Default)]
struct Trouble {
    since: Option<Instant>,
    what: Option<String>,
}

/// What compaction has done since the store was opened, and what it has before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactionStats {
    /// Sorted runs: a key that is in no tail is looked for in at most this many places.
    pub runs: u64,
    /// Files that they have.
    pub run_files: u64,
    /// Bytes that these files take on the disk.
    pub run_bytes: u64,
    /// Tails that wait to be flushed.
    pub waiting_tails: u64,
    /// Tails that were flushed.
    pub flushes: u64,
    /// Bytes of files that were written by flushing.
    pub flushed_bytes: u64,
    /// Steps that merges were done in.
    pub merge_slices: u64,
    /// Bytes of files that were written by merging.
    pub merged_bytes: u64,
    /// Files that a merge took over as they were.
    pub kept_files: u64,
    /// Runs that left the hash index, to keep it within its memory.
    pub cooled_runs: u64,
    /// What fails at present, and is tried again, or keeps runs from being merged: writes go on.
    pub trouble: Option<String>,
    /// Why nothing is done any more, if something failed.
    pub failure: Option<String>,
}

impl fmt::Debug for Compaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Compaction({:?})", self.stats())
    }
}

impl Compaction {
    /// Of a store whose view has the runs that its catalogue names, in the same order.
    pub(crate) fn new(site: Site) -> Compaction {
        let view = site.contents.view();
        let (runs, flushed) = {
            let catalogue = site.catalogue.lock();
            let live = view.runs.iter().zip(&catalogue.runs).map(|(sorted, catalogued)| LiveRun {
                sorted: sorted.clone(),
                first: catalogued.first,
                last: catalogued.last,
            });
            (live.collect(), catalogue.flushed)
        };
        let worker = Mutex::new(Worker::new(runs, flushed));
        let shared = Shared { site, worker, trouble: Mutex::default() };
        Compaction { shared: Arc::new(shared), thread: Mutex::default() }
    }

    /// Starts its thread.
    pub(crate) fn start(&self) -> io::Result<()> {
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new().name("paddock-compaction".to_string());
        *self.thread.lock() = Some(thread.spawn(move || shared.run())?);
        Ok(())
    }

    /// `told` is called, on whatever thread, whenever a part of the log may go because it was flushed.
    pub(crate) fn when_settled(&self, told: impl Fn() + Send + Sync + 'static) {
        // There is one owner of the log, and it asks once.
        let _ = self.shared.site.on_settled.set(Box::new(told));
    }

    /// A tail is about to be frozen; these are the epochs of the log.
    pub(crate) fn note_epochs(&self, epochs: &[EpochStart]) {
        *self.shared.site.epochs.lock() = epochs.to_vec();
    }

    /// A tail was frozen.
    pub(crate) fn froze(&self) {
        let site = &self.shared.site;
        site.flow.froze(|| site.contents.view().frozen.len());
    }

    /// Whether there is a thread that lets the log's beginning go. Without, its owner does that: [`Site::note_log_first`].
    pub(crate) fn has_thread(&self) -> bool {
        self.thread.lock().is_some()
    }

    /// The log may begin here from now on. Once it does, [`Compaction::log_first`] says so.
    pub(crate) fn let_log_begin(&self, first: Sequence) {
        self.shared.site.beginning.want(first);
        self.shared.site.flow.nudge();
    }

    /// Where the log begins by FILES: segments before it may be forgotten.
    pub(crate) fn log_first(&self) -> Sequence {
        self.shared.site.beginning.published()
    }

    /// Through which names of files leave the disk that FILES does not need any more.
    pub(crate) fn names(&self) -> &Names {
        &self.shared.site.names
    }

    /// Whether the store is larger than what it may map.
    pub(crate) fn has_unmapped_files(&self) -> bool {
        self.shared.site.memory.has_unmapped()
    }

    /// Takes back that the log may begin behind this, and waits until that is certain.
    pub(crate) fn hold_log(&self, from: Sequence) {
        self.shared.site.beginning.hold(from);
    }

    /// These segments are forgotten.
    pub(crate) fn bury(&self, files: impl IntoIterator<Item = Arc<DataFile>>) {
        self.shared.site.beginning.hand_over(files);
        self.shared.site.flow.nudge();
    }

    /// Has FILES say at once where the log begins, at least.
    pub(crate) fn note_log_first(&self, first: Sequence) -> Result<()> {
        self.shared.site.note_log_first(first, &mut false).map(|_| ())
    }

    /// What the thread does for the log's beginning.
    #[cfg(test)]
    pub(crate) fn release_log(&self) -> Result<bool> {
        self.shared.release_log(&mut self.shared.worker.lock())
    }

    /// Removes the files of segments that are forgotten, if the thread did not come to it.
    pub(crate) fn remove_buried(&self) {
        self.shared.site.remove_buried();
    }

    /// Waits until so few tails are waiting that so many bytes may be written. [`Error::Poisoned`] when compaction has failed.
    pub(crate) fn admit(&self, bytes: u64) -> Result<()> {
        let flow = &self.shared.site.flow;
        if flow.is_congested() && self.thread.lock().is_none() {
            match self.flush_one() {
                // Whether there is room for a write, the log knows: there is for a delete. What fails and changes nothing
                // is no reason either.
                Err(error) if flow.failure().is_some() => return Err(error),
                _ => {}
            }
        }
        flow.wait_for_room(bytes)
    }

    /// Works until a writer may go on. Whoever else works sees to waiting tails, too: they are not waited for to their end.
    fn flush_one(&self) -> Result<()> {
        let flow = &self.shared.site.flow;
        while flow.is_congested() {
            let Some(mut worker) = self.shared.worker.try_lock_for(ANOTHER_LOOK) else { continue };
            let stepped = worker.step(&self.shared.site);
            if !self.let_go_on(self.shared.note(&worker, stepped))? {
                break;
            }
        }
        // Nobody goes on working, so there is nothing to wait for either.
        flow.set_rate(None);
        Ok(())
    }

    /// Whether a writer should wait. Where nobody compacts by itself it is so until somebody does.
    pub(crate) fn is_congested(&self) -> bool {
        self.shared.site.flow.is_congested()
    }

    /// See [`flow::Flow::when_relieved`].
    pub(crate) fn when_relieved(&self, call: impl Fn() + Send + Sync + 'static) {
        self.shared.site.flow.when_relieved(call);
    }

    /// Makes one run, without garbage, of all that is in frozen tails and runs now: what is written meanwhile is another one's.
    /// Works on the caller's thread.
    pub(crate) fn compact(&self) -> Result<()> {
        self.shared.site.flow.check()?;
        let mut worker = self.shared.worker.lock();
        let outcome = worker.compact(&self.shared.site);
        self.let_go_on(self.shared.note(&worker, outcome))
    }

    /// Where no thread tries again what failed, nobody waits for it.
    fn let_go_on<T>(&self, outcome: Result<T>) -> Result<T> {
        if outcome.is_err() && !self.has_thread() {
            self.shared.site.flow.set_stuck(true);
        }
        outcome
    }

    /// Does what there is to do, on the caller's thread.
    #[cfg(test)]
    pub(crate) fn work_while(&self, mut more: impl FnMut() -> bool) -> Result<()> {
        let mut worker = self.shared.worker.lock();
        while more() {
            let stepped = worker.step(&self.shared.site);
            if !self.shared.note(&worker, stepped)? {
                break;
            }
        }
        Ok(())
    }

    /// Waits for the step that is under way, and keeps the next one from beginning meanwhile.
    #[cfg(test)]
    pub(crate) fn paused<T>(&self, run: impl FnOnce() -> T) -> T {
        let _worker = self.shared.worker.lock();
        run()
    }

    pub(crate) fn check(&self) -> Result<()> {
        self.shared.site.flow.check()
    }

    pub(crate) fn stats(&self) -> CompactionStats {
        let site = &self.shared.site;
        let view = site.contents.view();
        let files = || view.runs.iter().flat_map(|run| &run.files);
        let figures = &site.figures;
        CompactionStats {
            runs: view.runs.len() as u64,
            run_files: files().count() as u64,
            run_bytes: files().map(|file| file.run.summary().file_bytes).sum(),
            waiting_tails: view.frozen.len() as u64,
            flushes: figures.flushes.load(Relaxed),
            flushed_bytes: figures.flushed_bytes.load(Relaxed),
            merge_slices: figures.slices.load(Relaxed),
            merged_bytes: figures.merged_bytes.load(Relaxed),
            kept_files: figures.kept_files.load(Relaxed),
            cooled_runs: figures.cooled_runs.load(Relaxed),
            trouble: self.shared.trouble.lock().what.clone(),
            failure: site.flow.failure(),
        }
    }

    /// Stops at once, in the middle of a step if need be, and waits until it has, on whatever thread that was.
    pub(crate) fn stop(&self) {
        self.shared.site.brake.stop();
        self.shared.site.flow.close();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            // It has noted its own panic.
            let _ = thread.join();
        }
        // Somebody else's thread may be in the middle of a step, too; no other begins.
        drop(self.shared.worker.lock());
    }
}

impl Drop for Compaction {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    /// The thread.
    fn run(&self) {
        let _guard = FailOnPanic(self);
        let mut wait = Some(Duration::ZERO);
        while self.site.flow.wait_for_work(wait) {
            wait = match self.work() {
                Ok(wait) => wait,
                Err(Error::Closed) => return,
                Err(_) if self.site.flow.failure().is_some() => return,
                Err(_) => Some(TRY_AGAIN),
            };
        }
    }

    /// Does all there is to do. Says when there may be more, if nothing happens before: once nobody is there, when something has
    /// expired, and after a full disk.
    fn work(&self) -> Result<Option<Duration>> {
        loop {
            // Let go of between steps: others may want something done at once.
            let mut worker = self.worker.lock();
            // First: it may be what makes room.
            let is_released = self.release_log(&mut worker)?;
            let stepped = worker.step(&self.site);
            if !self.note(&worker, stepped)? {
                let expiry = worker.until_next_expiry(&self.site);
                let expiry = expiry.map(|wait| wait.clamp(EXPIRY_WAIT_MIN, EXPIRY_WAIT_MAX));
                return Ok(match is_released {
                    false => Some(TRY_AGAIN),
                    true if worker.is_busy() => Some(LOOK_AGAIN),
                    true => expiry,
                });
            }
            self.site.checkpoint_index();
        }
    }

    /// Lets the log's beginning go. False: the disk is too full even for that, and it is for another time.
    fn release_log(&self, worker: &mut Worker) -> Result<bool> {
        if self.site.brake.is_stopped() {
            return Err(Error::Closed);
        }
        match worker.release_log(&self.site) {
            Ok(()) => Ok(true),
            Err(Error::DiskFull { .. }) => Ok(false),
            Err(error) => self.note(worker, Err(error)),
        }
    }

    /// Notes how a step went. What failed before it changed anything is tried again, for a while; a merge that met damage is
    /// not, and nothing else is hindered by it. After anything else nobody knows.
    fn note<T>(&self, worker: &Worker, outcome: Result<T>) -> Result<T> {
        let outcome = self.site.contents.damage().note(outcome);
        let flow = &self.site.flow;
        match &outcome {
            Ok(_) => {
                flow.set_stuck(false);
                let mut trouble = self.trouble.lock();
                trouble.since = None;
                if !worker.rests() {
                    trouble.what = None;
                } else if worker.runs() > RUNS_WITHOUT_MERGING_MAX {
                    flow.fail(trouble.what.as_deref().unwrap_or("a run is damaged, and there are too many"));
                }
            }
            Err(Error::DiskFull { .. }) => flow.set_stuck(true),
            Err(Error::Closed) => {}
            Err(error) if !worker.is_in_doubt() && self.is_bearable(worker, error) => {}
            Err(error) => flow.fail(&error.to_string()),
        }
        outcome
    }

    /// Whether it can go on after a failure that changed nothing.
    fn is_bearable(&self, worker: &Worker, error: &Error) -> bool {
        let mut trouble = self.trouble.lock();
        let is_bearable = match error {
            Error::Corrupt { .. } => worker.met_damage() && worker.runs() <= RUNS_WITHOUT_MERGING_MAX,
            Error::Io { .. } => trouble.since.get_or_insert_with(Instant::now).elapsed() < TROUBLE_MAX,
            _ => false,
        };
        if is_bearable {
            trouble.what = Some(error.to_string());
        }
        is_bearable
    }
}

/// A panic in the thread ends all writing, like one of a writer.
struct FailOnPanic<'a>(&'a Shared);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.site.flow.fail("the thread that compacts ended");
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
