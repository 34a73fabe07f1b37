//! Who waits for whom: compaction for something to do, writers for tails to be flushed, and for what they are rationed to while
//! compaction is behind.
//!
//! A writer who may block waits here. One who may not asks whether there is room, goes away, and is called when there is again.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::ration::Ration;
use crate::error::{Error, Result};

/// More frozen tails than this, and writers wait. Beside them there is the growing one.
pub(crate) const FROZEN_MAX: u64 = 4;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    state: Mutex<State>,
    /// Told of every change.
    told: Condvar,
    relieved: Mutex<Option<Bell>>,
    /// Whether there may be a reason to look closer before a write.
    hinders: AtomicBool,
}

/// Who is called when a writer no longer has to wait.
#[derive(Clone)]
struct Bell(Arc<dyn Fn() + Send + Sync>);

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bell")
    }
}

#[derive(Debug, Default)]
struct State {
    /// Tails that wait to be flushed.
    frozen: u64,
    /// There may be something to do.
    due: bool,
    /// The last thing that was tried could not be done, since the disk is full, say: nothing comes of waiting.
    stuck: bool,
    failure: Option<String>,
    closed: bool,
    /// Bytes per second for all writers, while compaction is behind.
    rate: Option<u64>,
    ration: Ration,
}

impl Flow {
    /// A tail was frozen. `frozen` counts those that are waiting now: this one may have been flushed already.
    pub(crate) fn froze(&self, frozen: impl FnOnce() -> usize) {
        self.change(|state| {
            state.frozen = frozen() as u64;
            state.due = true;
        });
    }

    /// The oldest frozen tail was flushed.
    pub(crate) fn flushed(&self, frozen: impl FnOnce() -> usize) {
        self.change(|state| state.frozen = frozen() as u64);
    }

    /// Holds writers to so many bytes per second, or to nothing.
    pub(crate) fn set_rate(&self, bytes_per_second: Option<u64>) {
        let mut state = self.state.lock();
        let ends = state.rate.is_some() && bytes_per_second.is_none();
        state.rate = bytes_per_second;
        self.hinders.store(state.hinders(), Release);
        if ends {
            self.told.notify_all();
        }
    }

    /// From now on this is called whenever a writer no longer has to wait, on the thread that brought it about. It must not
    /// block.
    pub(crate) fn when_relieved(&self, call: impl Fn() + Send + Sync + 'static) {
        *self.relieved.lock() = Some(Bell(Arc::new(call)));
    }

    /// Every change of the state, and whoever has to hear of it.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let relieved = {
            let mut state = self.state.lock();
            let was_congested = state.is_congested();
            change(&mut state);
            self.hinders.store(state.hinders(), Release);
            self.told.notify_all();
            was_congested && !state.is_congested()
        };
        // Under no lock: what is called may ask.
        let bell = if relieved { self.relieved.lock().clone() } else { None };
        if let Some(Bell(call)) = bell {
            call();
        }
    }

    pub(crate) fn frozen(&self) -> u64 {
        self.state.lock().frozen
    }

    /// Whether a writer has to wait. A full disk is no reason: there the log itself cannot grow, and deletes must get
    /// through.
    pub(crate) fn is_congested(&self) -> bool {
        self.state.lock().is_congested()
    }

    /// Waits until a writer of so many bytes may go on.
    pub(crate) fn wait_for_room(&self, bytes: u64) -> Result<()> {
        if !self.hinders.load(Acquire) {
            return Ok(());
        }
        let mut state = self.state.lock();
        while state.is_congested() {
            self.told.wait(&mut state);
        }
        if let Some(rate) = state.rate_in_force()
            && let Some(until) = state.ration.spend(bytes, rate, Instant::now())
        {
            while state.rate_in_force().is_some() && !self.told.wait_until(&mut state, until).timed_out() {}
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

    /// There may be something to do.
    pub(crate) fn nudge(&self) {
        self.change(|state| state.due = true);
    }

    pub(crate) fn set_stuck(&self, stuck: bool) {
        if self.state.lock().stuck != stuck {
            self.change(|state| state.stuck = stuck);
        }
    }

    /// Nobody knows what is on the disk: no more writing.
    pub(crate) fn fail(&self, reason: &str) {
        self.change(|state| {
            state.failure.get_or_insert_with(|| reason.to_string());
        });
    }

    pub(crate) fn failure(&self) -> Option<String> {
        self.state.lock().failure.clone()
    }

    pub(crate) fn close(&self) {
        self.change(|state| state.closed = true);
    }
}

impl State {
    fn is_congested(&self) -> bool {
        self.frozen > FROZEN_MAX && self.has_effect()
    }

    fn rate_in_force(&self) -> Option<u64> {
        self.rate.filter(|_| self.has_effect())
    }

    /// Whether anything comes of waiting.
    fn has_effect(&self) -> bool {
        !self.stuck && self.failure.is_none() && !self.closed
    }

    /// Whether a writer has to wait, or to be told of a failure.
    fn hinders(&self) -> bool {
        self.is_congested() || self.rate_in_force().is_some() || self.failure.is_some()
    }

    fn check(&self) -> Result<()> {
        match &self.failure {
            Some(reason) => Err(Error::Poisoned { reason: reason.clone() }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;

    /// Whatever ends it, who was sent away is called: once, and only then.
    #[test]
    fn whoever_may_not_wait_is_called_when_there_is_room_again() {
        let full = FROZEN_MAX as usize + 1;
        let ends: [fn(&Flow); 4] = [
            |flow| flow.flushed(|| FROZEN_MAX as usize),
            |flow| flow.set_stuck(true),
            |flow| flow.fail("a run is damaged"),
            Flow::close,
        ];
        for end in ends {
            let (flow, called) = (Flow::default(), Arc::new(AtomicU64::new(0)));
            let counter = called.clone();
            flow.when_relieved(move || {
                counter.fetch_add(1, Relaxed);
            });
            flow.froze(|| FROZEN_MAX as usize);
            flow.flushed(|| 0);
            assert_eq!(called.load(Relaxed), 0, "nobody had to wait");
            flow.froze(|| full);
            assert!(flow.is_congested());
            assert_eq!(called.load(Relaxed), 0);
            end(&flow);
            assert!(!flow.is_congested());
            assert_eq!(called.load(Relaxed), 1);
        }
    }

    /// A rate holds nobody back where nothing would come of it.
    #[test]
    fn a_rate_is_in_force_while_compaction_can_catch_up() {
        let flow = Flow::default();
        let in_force = || (flow.hinders.load(Acquire), flow.state.lock().rate_in_force().is_some());
        assert_eq!(in_force(), (false, false));
        flow.set_rate(Some(1 << 30));
        assert_eq!(in_force(), (true, true));
        flow.wait_for_room(1).unwrap();
        flow.set_stuck(true);
        assert_eq!(in_force(), (false, false));
        flow.set_stuck(false);
        assert_eq!(in_force(), (true, true));
        flow.set_rate(None);
        assert_eq!(in_force(), (false, false));
        // A failure is told to whoever writes, and rations nobody.
        flow.set_rate(Some(1));
        flow.fail("broken");
        assert_eq!(in_force(), (true, false));
        assert!(matches!(flow.wait_for_room(1 << 30), Err(Error::Poisoned { .. })));
        let closed = Flow::default();
        closed.set_rate(Some(1));
        closed.close();
        closed.wait_for_room(1 << 30).unwrap();
    }
}
