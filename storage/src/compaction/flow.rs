//! Who waits for whom: compaction for something to do, writers for tails to be flushed.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::error::{Error, Result};

/// More frozen tails than this, and writers wait. Beside them there is the growing one.
pub(crate) const FROZEN_MAX: u64 = 4;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    state: Mutex<State>,
    /// Told of every change.
    told: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Tails that wait to be flushed.
    frozen: u64,
    /// There may be something to do.
    due: bool,
    /// The disk had no room for the last thing that was tried.
    disk_full: bool,
    failure: Option<String>,
    closed: bool,
}

impl Flow {
    /// A tail was frozen. `frozen` counts those that are waiting now: this one may have been flushed already.
    pub(crate) fn froze(&self, frozen: impl FnOnce() -> usize) {
        let mut state = self.state.lock();
        state.frozen = frozen() as u64;
        state.due = true;
        self.told.notify_all();
    }

    /// The oldest frozen tail was flushed.
    pub(crate) fn flushed(&self, frozen: impl FnOnce() -> usize) {
        let mut state = self.state.lock();
        state.frozen = frozen() as u64;
        self.told.notify_all();
    }

    pub(crate) fn frozen(&self) -> u64 {
        self.state.lock().frozen
    }

    /// Whether a writer has to wait. A full disk is no reason: there the log itself cannot grow, and deletes must get
    /// through.
    pub(crate) fn is_congested(&self) -> bool {
        self.state.lock().is_congested()
    }

    /// Waits until a writer may go on.
    pub(crate) fn wait_for_room(&self) -> Result<()> {
        let mut state = self.state.lock();
        while state.is_congested() {
            self.told.wait(&mut state);
        }
        state.check()
    }

    /// [`Error::Poisoned`] after a failure.
    pub(crate) fn check(&self) -> Result<()> {
        self.state.lock().check()
    }

    /// Waits for something to do, so long at most. False: it is over.
    pub(crate) fn wait_for_work(&self, length: Option<Duration>) -> bool {
        let mut state = self.state.lock();
        let until = length.map(|length| Instant::now() + length);
        while !state.due && !state.closed {
            let timed_out = match until {
                Some(until) => self.told.wait_until(&mut state, until).timed_out(),
                None => {
                    self.told.wait(&mut state);
                    false
                }
            };
            if timed_out {
                break;
            }
        }
        state.due = false;
        !state.closed
    }

    pub(crate) fn set_disk_full(&self, disk_full: bool) {
        let mut state = self.state.lock();
        if state.disk_full != disk_full {
            state.disk_full = disk_full;
            self.told.notify_all();
        }
    }

    /// Nobody knows what is on the disk: no more writing.
    pub(crate) fn fail(&self, reason: &str) {
        let mut state = self.state.lock();
        state.failure.get_or_insert_with(|| reason.to_string());
        self.told.notify_all();
    }

    pub(crate) fn failure(&self) -> Option<String> {
        self.state.lock().failure.clone()
    }

    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.told.notify_all();
    }
}

impl State {
    fn is_congested(&self) -> bool {
        self.frozen > FROZEN_MAX && !self.disk_full && self.failure.is_none() && !self.closed
    }

    fn check(&self) -> Result<()> {
        match &self.failure {
            Some(reason) => Err(Error::Poisoned { reason: reason.clone() }),
            None => Ok(()),
        }
    }
}
