//! How fast compaction may go: a budget of bytes that refills with time, and yields to those whom the store serves.
//!
//! - **Nobody is there**: it goes as fast as it can.
//! - **Somebody reads or writes**: it gets [`BUSY_BYTES_PER_SECOND`], or a few times what is being written if that is
//!   more. For each byte that is written compaction has to write a few; slower, and it would never catch up.
//! - **Debt**: the more is waiting to be flushed, the more it gets, up to all there is. So writers are slowed down by
//!   sharing the disk before they have to wait.
//! - **It never starves**: whatever happens it has the first of these rates, and no wait is longer than [`WAIT_MAX`].
//!
//! Time is whatever the caller says it is; [`Brake`] is the waiting itself, which closing a store ends at once.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// What compaction gets beside reads and writes, at least.
pub(crate) const BUSY_BYTES_PER_SECOND: u64 = 32 << 20;

/// For each byte that is written to the log it may move so many: more than it has to (flush and merge write three,
/// policy/simulation.rs, and read as much).
const BYTES_PER_WRITTEN: u64 = 8;

/// Bytes that may be used at once after a rest: short enough not to be felt.
const BURST_BYTES: u64 = 1 << 20;

/// The longest wait: then it is looked again at who is there.
const WAIT_MAX: Duration = Duration::from_millis(50);

/// Foreground work is looked at in windows of this length.
const WINDOW: Duration = Duration::from_millis(20);

/// Fewer operations in a window than this are nobody to yield to.
const OPERATIONS_MIN: u64 = 16;

/// From so many waiting tails on nothing holds compaction back.
const DEBT_MAX: u64 = 2;

thread_local! {
    static UNTOLD_READS: Cell<u32> = const { Cell::new(0) };
}

const READS_TOLD_AT_ONCE: u32 = 16;

/// What the store's callers do, counted by them. Cheap: two relaxed additions for each batch, one for some reads.
#[derive(Debug, Default)]
pub(crate) struct Foreground {
    written_bytes: AtomicU64,
    operations: AtomicU64,
}

impl Foreground {
    /// Notes a batch of so many bytes.
    pub(crate) fn wrote(&self, bytes: u64) {
        self.written_bytes.fetch_add(bytes, Relaxed);
        self.operations.fetch_add(1, Relaxed);
    }

    /// Notes a read. Each thread tells of its own by the few, so that they do not fight for one counter. (Which store they
    /// were of is not told apart: whoever reads wants the disk.)
    #[inline]
    pub(crate) fn read_one(&self) {
        let untold = UNTOLD_READS.get() + 1;
        if untold < READS_TOLD_AT_ONCE {
            UNTOLD_READS.set(untold);
        } else {
            UNTOLD_READS.set(0);
            self.operations.fetch_add(u64::from(untold), Relaxed);
        }
    }

    #[cfg(test)]
    fn read(&self, operations: u64) {
        self.operations.fetch_add(operations, Relaxed);
    }

    fn counts(&self) -> (u64, u64) {
        (self.written_bytes.load(Relaxed), self.operations.load(Relaxed))
    }
}

/// The budget.
#[derive(Debug)]
pub(crate) struct Pace {
    /// What may be used now; below zero what was used too early.
    bytes: i64,
    at: Duration,
    /// The window's beginning, and what had been counted then.
    window: Duration,
    counted: (u64, u64),
    /// What the last window came to.
    bytes_per_second: u64,
    is_busy: bool,
}

impl Pace {
    /// A full budget at a time, which is counted from some beginning.
    pub(crate) fn new(now: Duration) -> Pace {
        let counted = (0, 0);
        Pace { bytes: BURST_BYTES as i64, at: now, window: now, counted, bytes_per_second: 0, is_busy: false }
    }

    /// Uses bytes, and says how long to wait before using more. `debt`: how many tails wait to be flushed.
    pub(crate) fn spend(
        &mut self,
        bytes: u64,
        now: Duration,
        foreground: &Foreground,
        debt: u64,
    ) -> Duration {
        self.look(now, foreground);
        let passed = now.saturating_sub(self.at);
        self.at = now.max(self.at);
        let Some(rate) = self.rate(debt) else {
            self.bytes = BURST_BYTES as i64;
            return Duration::ZERO;
        };
        let refilled =
            (u128::from(rate) * passed.as_micros() / 1_000_000).min(u128::from(BURST_BYTES)) as i64;
        self.bytes = (self.bytes + refilled).min(BURST_BYTES as i64);
        self.bytes = self.bytes.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        if self.bytes >= 0 {
            return Duration::ZERO;
        }
        let missing = self.bytes.unsigned_abs();
        let wait = Duration::from_micros((u128::from(missing) * 1_000_000 / u128::from(rate)) as u64);
        if wait > WAIT_MAX {
            // What it does not wait for is forgiven: one large value is no reason to stand still afterwards.
            let waited = u128::from(rate) * WAIT_MAX.as_micros() / 1_000_000;
            self.bytes = -i64::try_from(waited).unwrap_or(i64::MAX);
        }
        wait.min(WAIT_MAX)
    }

    /// Whether somebody is there, as far as is known.
    pub(crate) fn is_busy(&self) -> bool {
        self.is_busy
    }

    /// Bytes per second; `None`: as many as it can.
    fn rate(&self, debt: u64) -> Option<u64> {
        if !self.is_busy || debt >= DEBT_MAX {
            return None;
        }
        let needed = self.bytes_per_second.saturating_mul(BYTES_PER_WRITTEN);
        Some(needed.max(BUSY_BYTES_PER_SECOND).saturating_mul(1 + debt))
    }

    /// Looks at what the foreground did since the window began, if that is long enough.
    pub(crate) fn look(&mut self, now: Duration, foreground: &Foreground) {
        let length = now.saturating_sub(self.window);
        if length < WINDOW {
            return;
        }
        let (written, operations) = foreground.counts();
        let (before, operations_before) = self.counted;
        let per_second = u128::from(written - before) * 1_000_000 / length.as_micros().max(1);
        // Halfway, so that one quiet window is no rest.
        let per_second = u64::try_from(per_second).unwrap_or(u64::MAX);
        self.bytes_per_second = self.bytes_per_second / 2 + per_second / 2;
        let windows = (length.as_micros() / WINDOW.as_micros()).max(1) as u64;
        self.is_busy = operations - operations_before >= OPERATIONS_MIN.saturating_mul(windows);
        self.counted = (written, operations);
        self.window = now;
    }
}

/// Where compaction waits, and where it is told to stop.
#[derive(Debug, Default)]
pub(crate) struct Brake {
    stopped: Mutex<bool>,
    told: Condvar,
}

impl Brake {
    /// Waits. False: it was told to stop, and there is no time to lose.
    pub(crate) fn wait(&self, length: Duration) -> bool {
        let mut stopped = self.stopped.lock();
        if length.is_zero() || *stopped {
            return !*stopped;
        }
        let until = Instant::now() + length;
        while !*stopped && !self.told.wait_until(&mut stopped, until).timed_out() {}
        !*stopped
    }

    /// Ends every wait, now and later.
    pub(crate) fn stop(&self) {
        *self.stopped.lock() = true;
        self.told.notify_all();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        *self.stopped.lock()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc;

    use proptest::prelude::*;

    use super::*;

    const PIECE: u64 = 64 << 10;

    /// Spends for so long, waiting as told, and says how many bytes per second that were. The foreground writes `written`
    /// bytes in so many operations per millisecond.
    fn spent(length: Duration, written: u64, operations: u64, debt: u64) -> u64 {
        let foreground = Foreground::default();
        let (mut now, mut pace, mut bytes) = (Duration::ZERO, Pace::new(Duration::ZERO), 0);
        let mut told = Duration::ZERO;
        while now < length {
            // Each piece takes some time by itself, too.
            now += Duration::from_micros(100) + pace.spend(PIECE, now, &foreground, debt);
            bytes += PIECE;
            while told < now {
                told += Duration::from_millis(1);
                if operations > 0 {
                    foreground.wrote(written);
                    foreground.read(operations - 1);
                }
            }
        }
        (u128::from(bytes) * 1_000_000 / now.as_micros()) as u64
    }

    const SECONDS: Duration = Duration::from_secs(8);
    /// What 100 µs for each piece allow.
    const UNPACED: u64 = PIECE * 10_000;

    #[test]
    fn alone_it_goes_as_fast_as_it_can() {
        assert!(spent(SECONDS, 0, 0, 0) > UNPACED / 100 * 99);
    }

    #[test]
    fn beside_readers_it_keeps_to_its_rate_and_never_starves() {
        let rate = spent(SECONDS, 0, 400, 0);
        assert!(
            (BUSY_BYTES_PER_SECOND / 100 * 95..BUSY_BYTES_PER_SECOND / 100 * 115).contains(&rate),
            "{rate}"
        );
    }

    #[test]
    fn beside_writers_it_keeps_up() {
        // 20 MB/s are written: it gets a few times that.
        let rate = spent(SECONDS, 20_000, 100, 0);
        assert!((140_000_000..190_000_000).contains(&rate), "{rate}");
    }

    #[test]
    fn debt_makes_it_faster_and_much_debt_unbounded() {
        let without = spent(SECONDS, 0, 400, 0);
        let some = spent(SECONDS, 0, 400, 1);
        assert!(some > without / 100 * 180, "{some} after {without}");
        assert!(spent(SECONDS, 0, 400, DEBT_MAX) > UNPACED / 100 * 99);
    }

    proptest! {
        #[test]
        fn no_wait_is_long_and_no_rate_below_the_floor(
            steps in prop::collection::vec((0..100_000_000_u64, 0..200_000_u64, 0..1_000_u64, 0..3_u64), 1..200),
        ) {
            let foreground = Foreground::default();
            let (mut now, mut pace) = (Duration::ZERO, Pace::new(Duration::ZERO));
            for (bytes, passed, operations, debt) in steps {
                now += Duration::from_micros(passed);
                foreground.read(operations);
                let wait = pace.spend(bytes, now, &foreground, debt);
                prop_assert!(wait <= WAIT_MAX);
                let floor = Duration::from_micros(bytes * 1_000_000 / BUSY_BYTES_PER_SECOND);
                prop_assert!(wait <= floor + WAIT_MAX);
                now += wait;
            }
        }
    }

    #[test]
    fn stopping_ends_a_wait_at_once() {
        let brake = Arc::new(Brake::default());
        assert!(brake.wait(Duration::from_micros(1)));
        let (sender, receiver) = mpsc::channel();
        let waiting = brake.clone();
        let thread =
            std::thread::spawn(move || sender.send(waiting.wait(Duration::from_secs(3_600))).unwrap());
        brake.stop();
        assert!(!receiver.recv_timeout(Duration::from_secs(30)).unwrap());
        thread.join().unwrap();
        assert!(!brake.wait(Duration::ZERO) && brake.is_stopped());
    }
}
