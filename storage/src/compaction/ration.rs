//! How fast writers may go while compaction is behind: as fast as it can follow.
//!
//! Without it they would go on at full speed until there is no room for another tail, and then stand still until a
//! merge is done. So they are held back a little at each write, from when it shows that compaction cannot keep up: by the
//! bytes of the write, and by what compaction was seen to get done.
//!
//! Time is whatever the caller says it is.

use std::time::{Duration, Instant};

/// What compaction moves for each byte that is written then: more than it has to for keeping up, so that it catches up.
const MOVED_PER_WRITTEN: u64 = 4;

/// Writers are never slower than this.
const BYTES_PER_SECOND_MIN: u64 = 256 << 10;

/// A write waits no longer than this, however large it is.
const WAIT_MAX: Duration = Duration::from_millis(100);

/// So little is not waited for, but left to later writes: a short wait takes longer than asked for.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// How fast compaction is, is looked at in windows of this length.
const WINDOW: Duration = Duration::from_millis(50);

/// What compaction gets done.
#[derive(Debug, Default)]
pub(crate) struct Speed {
    window: Duration,
    bytes: u64,
    per_second: Option<u64>,
}

impl Speed {
    /// It begins to work, after a rest that is not to count.
    pub(crate) fn begin(&mut self, now: Duration) {
        self.window = now;
        self.bytes = 0;
    }

    /// Bytes were moved.
    pub(crate) fn moved(&mut self, bytes: u64, now: Duration) {
        self.bytes += bytes;
        let length = now.saturating_sub(self.window);
        if length < WINDOW {
            return;
        }
        let seen = u128::from(self.bytes) * 1_000_000 / length.as_micros();
        let seen = u64::try_from(seen).unwrap_or(u64::MAX);
        // Three quarters old: the end of a file is slow, and more of it follows.
        self.per_second = Some(self.per_second.map_or(seen, |before| before / 4 * 3 + seen / 4));
        self.begin(now);
    }

    /// What writers may write in a second so that compaction catches up. `None`: nobody knows yet.
    pub(crate) fn writers(&self) -> Option<u64> {
        self.per_second.map(|moved| (moved / MOVED_PER_WRITTEN).max(BYTES_PER_SECOND_MIN))
    }
}

/// When what was written should have been written, at the rate that there was.
#[derive(Debug, Default)]
pub(crate) struct Ration {
    due: Option<Instant>,
}

impl Ration {
    /// Somebody writes so many bytes. Until when they have to wait, if at all.
    pub(crate) fn spend(&mut self, bytes: u64, bytes_per_second: u64, now: Instant) -> Option<Instant> {
        let takes = u128::from(bytes) * 1_000_000 / u128::from(bytes_per_second.max(1));
        let takes = Duration::from_micros(u64::try_from(takes).unwrap_or(u64::MAX)).min(WAIT_MAX);
        // What many writers owe together is no reason for one of them to wait for longer.
        let due = (self.due.unwrap_or(now).max(now) + takes).min(now + WAIT_MAX);
        self.due = Some(due);
        (due > now + WAIT_MIN).then_some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_get_a_part_of_what_compaction_does() {
        let mut speed = Speed::default();
        assert_eq!(speed.writers(), None);
        speed.begin(Duration::from_secs(5));
        for piece in 1..=20 {
            speed.moved(1 << 20, Duration::from_secs(5) + Duration::from_millis(10 * piece));
        }
        let moved = 100 << 20;
        let writers = speed.writers().unwrap();
        assert!(
            (moved / MOVED_PER_WRITTEN / 100 * 99..=moved / MOVED_PER_WRITTEN).contains(&writers),
            "{writers}"
        );
        // A rest is not counted as slowness.
        speed.begin(Duration::from_secs(60));
        speed.moved(5 << 20, Duration::from_secs(60) + WINDOW);
        assert!(speed.writers().unwrap() > writers / 100 * 98);
        // However slow it is, writing goes on.
        for second in 61..200 {
            speed.moved(1, Duration::from_secs(second));
        }
        assert_eq!(speed.writers(), Some(BYTES_PER_SECOND_MIN));
    }

    /// Small writes wait now and then, and keep to the rate all in all; a large one waits for a bounded time.
    #[test]
    fn no_write_waits_long_and_together_they_keep_to_the_rate() {
        let begun = Instant::now();
        let (mut now, mut ration, mut waits) = (begun, Ration::default(), 0);
        for _ in 0..100_000 {
            now += Duration::from_micros(2);
            if let Some(until) = ration.spend(200, 10_000_000, now) {
                assert!(until - now <= 2 * WAIT_MIN);
                (now, waits) = (until, waits + 1);
            }
        }
        let seconds = (now - begun).as_secs_f64();
        assert!((1.95..2.05).contains(&seconds), "{seconds}");
        assert!(waits < 3_000, "{waits}");
        assert_eq!(ration.spend(64 << 20, 1, now), Some(now + WAIT_MAX));
        // Forgiven: who comes then waits for as long, and not for the sum.
        assert_eq!(ration.spend(64 << 20, 1, now + WAIT_MAX), Some(now + 2 * WAIT_MAX));
    }
}
