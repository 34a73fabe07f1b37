//! What happened, in order: hashed always, so that two runs of a seed can be compared, and kept in words where somebody
//! wants to read the end of it.

use std::collections::VecDeque;
use std::fmt::Write as _;

/// One run's trace.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    events: u64,
    lines: VecDeque<String>,
    lines_max: usize,
}

impl Trace {
    /// An empty trace, which keeps so many of its last lines.
    #[must_use]
    pub fn new(lines_max: usize) -> Self {
        Trace { hash: 0xcbf2_9ce4_8422_2325, events: 0, lines: VecDeque::new(), lines_max }
    }

    /// Notes what happened, when, and the figures that tell it from others of its kind.
    pub fn note(&mut self, now_us: u64, what: &str, figures: &[u64]) {
        self.events += 1;
        let mut hash = self.hash ^ now_us;
        for byte in what.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        for figure in figures {
            hash = (hash ^ figure).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            hash ^= hash >> 29;
        }
        self.hash = hash;
        if self.lines_max > 0 {
            let mut line = what.to_owned();
            for figure in figures {
                let _ = write!(line, " {figure}");
            }
            self.say(now_us, || line);
        }
    }

    /// Adds words, if anybody wants them. They are not part of the hash.
    pub fn say(&mut self, now_us: u64, words: impl FnOnce() -> String) {
        if self.lines_max > 0 {
            if self.lines.len() == self.lines_max {
                self.lines.pop_front();
            }
            self.lines.push_back(format!("{:>10.3} ms  {}", now_us as f64 / 1_000.0, words()));
        }
    }

    /// The hash of all that happened.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How much happened.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The last lines.
    #[must_use]
    pub fn last_lines(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }
}
