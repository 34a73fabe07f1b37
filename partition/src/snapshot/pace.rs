//! [`Pace`]: how fast snapshots may go, so that the traffic that somebody waits for does not suffer from those that nobody
//! waits for.
//!
//! There is a limit in bytes per second, and a share of it that is given. The share is judged by the fsyncs of this node's
//! replicas, since it is these that a transfer disturbs, on both ends: where they take more than twice as long as they did
//! before, the share is halved, and otherwise it grows again. It never falls to nothing, so every transfer ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// What was not used in so long may be used at once.
const BURST: Duration = Duration::from_millis(20);
/// How often the share is judged.
const REVIEW_INTERVAL: Duration = Duration::from_millis(50);
/// The smallest share, in thousandths.
const SHARE_MIN: u64 = 50;
/// All of it.
const SHARE_MAX: u64 = 1_000;
/// What the share grows by at a time.
const SHARE_STEP: u64 = 50;
/// Fsyncs that are this fast are fast enough, whatever they were before: 1 ms.
const FAST_NANOS: u64 = 1_000_000;
/// How much of an average a new value is, while nothing is transferred and while something is: one part of so many.
const USUAL_PARTS: u64 = 64;
const RECENT_PARTS: u64 = 8;

/// How long fsyncs take on this node, as its replicas see it.
#[derive(Debug, Default)]
pub struct Foreground {
    /// While nothing is transferred, on average; 0: unknown.
    usual_nanos: AtomicU64,
    /// While something is.
    recent_nanos: AtomicU64,
    transfers: AtomicU64,
}

/// A transfer is under way, as long as this lives.
#[derive(Debug)]
pub struct Underway(Arc<Foreground>);

impl Foreground {
    /// An fsync took so long.
    pub fn synced(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).max(1);
        let (average, parts) = if self.transfers.load(Ordering::Relaxed) == 0 {
            (&self.usual_nanos, USUAL_PARTS)
        } else {
            (&self.recent_nanos, RECENT_PARTS)
        };
        let before = average.load(Ordering::Relaxed);
        let next = if before == 0 { nanos } else { before - before / parts + nanos / parts };
        average.store(next, Ordering::Relaxed);
    }

    /// A transfer begins.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> Underway {
        if self.transfers.fetch_add(1, Ordering::Relaxed) == 0 {
            self.recent_nanos.store(0, Ordering::Relaxed);
        }
        Underway(Arc::clone(self))
    }

    fn suffers(&self) -> bool {
        let usual = self.usual_nanos.load(Ordering::Relaxed);
        let recent = self.recent_nanos.load(Ordering::Relaxed);
        usual > 0 && recent > FAST_NANOS && recent > usual.saturating_mul(2)
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.transfers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The budget of one node, for what it sends and what it receives.
#[derive(Debug)]
pub struct Pace {
    bytes_per_second: u64,
    foreground: Arc<Foreground>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When the next bytes may go.
    next: Instant,
    reviewed: Instant,
    /// In thousandths.
    share: u64,
}

impl Pace {
    /// So many bytes per second, at least one mebibyte.
    #[must_use]
    pub fn new(bytes_per_second: u64, foreground: Arc<Foreground>) -> Self {
        let now = Instant::now();
        let state = Mutex::new(State { next: now, reviewed: now, share: SHARE_MAX });
        Pace { bytes_per_second: bytes_per_second.max(1 << 20), foreground, state }
    }

    /// A transfer begins.
    #[must_use]
    pub fn begin(&self) -> Underway {
        self.foreground.begin()
    }

    /// Waits until so many bytes may go.
    pub async fn take(&self, bytes: usize) {
        let at = self.state.lock().reserve(bytes, Instant::now(), self.bytes_per_second, &self.foreground);
        tokio::time::sleep_until(at).await;
    }
}

impl State {
    fn reserve(
        &mut self,
        bytes: usize,
        now: Instant,
        bytes_per_second: u64,
        foreground: &Foreground,
    ) -> Instant {
        if now.duration_since(self.reviewed) >= REVIEW_INTERVAL {
            self.reviewed = now;
            self.share = if foreground.suffers() {
                (self.share / 2).max(SHARE_MIN)
            } else {
                (self.share + SHARE_STEP).min(SHARE_MAX)
            };
        }
        let rate = (bytes_per_second.saturating_mul(self.share) / SHARE_MAX).max(1);
        let nanos = (bytes as u128).saturating_mul(1_000_000_000) / u128::from(rate);
        let duration = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let at = self.next.max(now.checked_sub(BURST).unwrap_or(now));
        self.next = at + duration;
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn state(now: Instant) -> State {
        State { next: now, reviewed: now, share: SHARE_MAX }
    }

    #[test]
    fn bytes_go_as_fast_as_the_limit_says() {
        let begin = Instant::now();
        let (mut state, foreground) = (state(begin), Foreground::default());
        let mut now = begin;
        for _ in 0..100 {
            now = now.max(state.reserve(MIB, now, 10 << 20, &foreground));
        }
        let took = now.duration_since(begin);
        assert!(took >= Duration::from_millis(9_800) && took <= Duration::from_millis(10_000), "{took:?}");
    }

    #[test]
    fn slow_fsyncs_take_the_share_away_and_fast_ones_give_it_back() {
        let begin = Instant::now();
        let (mut state, foreground) = (state(begin), Arc::new(Foreground::default()));
        for _ in 0..200 {
            foreground.synced(Duration::from_millis(2));
        }
        let underway = foreground.begin();
        let mut now = begin;
        let mut review = |foreground: &Foreground| {
            now += REVIEW_INTERVAL;
            state.reserve(MIB, now, 100 << 20, foreground);
            state.share
        };
        foreground.synced(Duration::from_millis(3));
        assert_eq!(review(&foreground), SHARE_MAX, "not twice as long");
        for _ in 0..50 {
            foreground.synced(Duration::from_millis(9));
        }
        assert_eq!(review(&foreground), SHARE_MAX / 2);
        for _ in 0..20 {
            assert!(review(&foreground) >= SHARE_MIN, "every transfer ends");
        }
        for _ in 0..50 {
            foreground.synced(Duration::from_millis(2));
        }
        for _ in 0..20 {
            review(&foreground);
        }
        assert_eq!(review(&foreground), SHARE_MAX);
        drop(underway);
        assert_eq!(foreground.transfers.load(Ordering::Relaxed), 0);
    }
}
