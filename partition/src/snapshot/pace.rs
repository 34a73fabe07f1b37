//! [`Pace`]: how fast snapshots may go, so that the traffic that somebody waits for does not suffer from those that nobody
//! waits for.
//!
//! There is a limit in bytes per second, and a share of it that is given. The share is judged by the fsyncs of this node's
//! replicas, since it is these that a transfer disturbs, on both ends, by two rules:
//!
//! * **Slow ones.** What people see of a transfer is a few writes that take very long, which no average shows. An fsync is slow if
//!   it takes more than twice as long as 99 of 100 did before the transfer. Where there was one, the share is halved; each
//!   other one gives 0.7 % of it back. The two balance where one in a hundred is slow, whatever the share is
//!   (0.5 · 1.007^99 = 1): that is where the 99th percentile is twice what it was.
//! * **All of them.** Where they take more than twice as long on average as before, the share is halved as well: where most
//!   fsyncs were fast and some always slow, all may become slower without any being slow by the first rule.
//!
//! Where nobody writes, the share grows with time. It never falls to nothing, so every transfer ends.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::spread::Spread;

/// What was not used in so long may be used at once.
const BURST: Duration = Duration::from_millis(20);
/// How often the share is judged.
const REVIEW_INTERVAL: Duration = Duration::from_millis(50);
/// All of it, and the smallest share, in millionths.
const SHARE_MAX: u64 = 1_000_000;
const SHARE_MIN: u64 = 50_000;
/// What the share grows by in a review interval in which nobody wrote, and at most.
const SHARE_STEP: u64 = 50_000;
/// What an fsync that was not slow gives back, in thousandths of the share.
const GAIN: u64 = 7;
/// Fsyncs that are this fast are fast enough, whatever they were before: 1 ms.
const FAST_NANOS: u64 = 1_000_000;
/// How much of an average a new value is, while nothing is transferred and while something is: one part of so many.
const USUAL_PARTS: u64 = 64;
const RECENT_PARTS: u64 = 8;
/// So many fsyncs have to be known before one is called slow.
const KNOWN_MIN: u64 = 100;

/// How long fsyncs take on this node, as its replicas see it.
#[derive(Debug, Default)]
pub struct Foreground {
    fsyncs: Mutex<Fsyncs>,
}

#[derive(Debug, Default)]
struct Fsyncs {
    transfers: u64,
    /// While nothing is transferred: how they are spread, and their average; 0: unknown.
    spread: Spread,
    usual_nanos: u64,
    /// While something is: their average, and how many there were since the last review.
    recent_nanos: u64,
    slow: u64,
    others: u64,
    /// From here on one is slow.
    slow_nanos: u64,
}

/// A transfer is under way, as long as this lives.
#[derive(Debug)]
pub struct Underway(Arc<Foreground>);

impl Foreground {
    /// An fsync took so long.
    pub fn synced(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).max(1);
        let mut fsyncs = self.fsyncs.lock();
        if fsyncs.transfers == 0 {
            fsyncs.spread.add(nanos);
            fsyncs.usual_nanos = averaged(fsyncs.usual_nanos, nanos, USUAL_PARTS);
        } else {
            let is_slow = nanos > fsyncs.slow_nanos;
            *(if is_slow { &mut fsyncs.slow } else { &mut fsyncs.others }) += 1;
            fsyncs.recent_nanos = averaged(fsyncs.recent_nanos, nanos, RECENT_PARTS);
        }
    }

    /// A transfer begins.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> Underway {
        let mut fsyncs = self.fsyncs.lock();
        fsyncs.transfers += 1;
        if fsyncs.transfers == 1 {
            let usual_nanos =
                if fsyncs.spread.count() < KNOWN_MIN { None } else { fsyncs.spread.percentile(99) };
            fsyncs.slow_nanos = usual_nanos.map_or(u64::MAX, |nanos| nanos.saturating_mul(2).max(FAST_NANOS));
            (fsyncs.recent_nanos, fsyncs.slow, fsyncs.others) = (0, 0, 0);
        }
        Underway(Arc::clone(self))
    }

    /// Whether writes suffer, and how many fsyncs there were since this was asked last.
    fn review(&self) -> (bool, u64) {
        let mut fsyncs = self.fsyncs.lock();
        let (slow, others) = (std::mem::take(&mut fsyncs.slow), std::mem::take(&mut fsyncs.others));
        let (usual, recent) = (fsyncs.usual_nanos, fsyncs.recent_nanos);
        let is_slower = usual > 0 && recent > FAST_NANOS && recent > usual.saturating_mul(2);
        (slow > 0 || (is_slower && others > 0), others)
    }
}

fn averaged(before: u64, nanos: u64, parts: u64) -> u64 {
    if before == 0 { nanos } else { before - before / parts + nanos / parts }
}

impl Drop for Underway {
    fn drop(&mut self) {
        let mut fsyncs = self.0.fsyncs.lock();
        fsyncs.transfers = fsyncs.transfers.saturating_sub(1);
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
    /// In millionths.
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
            self.share = match foreground.review() {
                (true, _) => (self.share / 2).max(SHARE_MIN),
                (false, 0) => (self.share + SHARE_STEP).min(SHARE_MAX),
                (false, fsyncs) => {
                    let gain = (self.share / 1_000 * GAIN).saturating_mul(fsyncs).min(SHARE_STEP);
                    (self.share + gain).min(SHARE_MAX)
                }
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

    /// A foreground whose fsyncs took 2 ms, but for one in 50, which took 5 ms; and a transfer.
    fn usual() -> (Arc<Foreground>, Underway) {
        let foreground = Arc::new(Foreground::default());
        for number in 0..2_000 {
            foreground.synced(Duration::from_millis(if number % 50 == 0 { 5 } else { 2 }));
        }
        let underway = foreground.begin();
        (foreground, underway)
    }

    /// The share after so many review intervals, each with fsyncs that took so many milliseconds.
    fn share_after(
        state: &mut State,
        foreground: &Foreground,
        reviews: u32,
        fsyncs: impl Fn(u32) -> Vec<u64>,
    ) -> u64 {
        for number in 0..reviews {
            for ms in fsyncs(number) {
                foreground.synced(Duration::from_millis(ms));
            }
            let now = state.reviewed + REVIEW_INTERVAL;
            state.reserve(MIB, now, 100 << 20, foreground);
        }
        state.share
    }

    #[test]
    fn fsyncs_that_are_slower_on_average_take_the_share_away_and_fast_ones_give_it_back() {
        let (mut state, (foreground, underway)) = (state(Instant::now()), usual());
        assert_eq!(share_after(&mut state, &foreground, 1, |_| vec![3]), SHARE_MAX, "not twice as long");
        assert_eq!(share_after(&mut state, &foreground, 1, |_| vec![9; 50]), SHARE_MAX / 2);
        let share = share_after(&mut state, &foreground, 20, |_| vec![9; 5]);
        assert_eq!(share, SHARE_MIN, "every transfer ends");
        assert_eq!(share_after(&mut state, &foreground, 60, |_| vec![2; 20]), SHARE_MAX);
        // Nobody writes: nobody suffers.
        share_after(&mut state, &foreground, 20, |_| vec![9; 5]);
        assert_eq!(share_after(&mut state, &foreground, 20, |_| Vec::new()), SHARE_MAX);
        drop(underway);
        assert_eq!(foreground.fsyncs.lock().transfers, 0);
    }

    #[test]
    fn a_few_very_slow_fsyncs_take_the_share_away_though_the_average_hardly_moves() {
        let (mut state, (foreground, _underway)) = (state(Instant::now()), usual());
        // One in ten takes 20 ms, where one in a hundred took 5: on average, over the last few, less than twice as long.
        let one_in_ten = |number| if number % 2 == 0 { vec![20, 2, 2, 2, 2] } else { vec![2; 5] };
        assert!(share_after(&mut state, &foreground, 100, one_in_ten) < SHARE_MAX / 8);
        // One in five hundred is not worth much.
        let one_in_500 = |number| if number % 100 == 0 { vec![20, 2, 2, 2, 2] } else { vec![2; 5] };
        assert!(share_after(&mut state, &foreground, 400, one_in_500) > SHARE_MAX / 2);
        // What is not known is not judged.
        let foreground = Arc::new(Foreground::default());
        let _underway = foreground.begin();
        assert_eq!(share_after(&mut state, &foreground, 200, |_| vec![20, 2, 2]), SHARE_MAX);
    }
}
