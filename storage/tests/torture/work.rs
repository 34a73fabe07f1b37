//! What the threads of the child do: a function of the seed, known to both sides.
//!
//! Each thread has keys of its own, does one operation after the other, and numbers them from 0 on over all
//! rounds. A value says which operation of which thread wrote it, and every byte of it follows from that. One key
//! is everybody's: a counter that all threads raise by compare-and-swap.

use paddock_storage::Durability;

/// Threads that write.
pub const THREADS: u64 = 4;
/// Keys of each of them.
const KEYS: u64 = 48;
/// The one key that all threads write.
pub const COUNTER: &str = "counter";
const BATCH_ROWS_MAX: u64 = 12;
const SMALL_BYTES_MAX: u64 = 300;
const MEDIUM_BYTES_MAX: u64 = 6_000;
/// Larger than several extents of the child's segments.
const LARGE_BYTES_MAX: u64 = 150_000;

/// Seeded random numbers (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The same parts give the same numbers.
    pub fn new(parts: &[u64]) -> Random {
        Random(parts.iter().fold(0, |state, part| mix(state ^ part)))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// One below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// One write of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub key: String,
    /// `None`: it is deleted.
    pub value: Option<Vec<u8>>,
}

/// How an operation is carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One write.
    Single,
    /// One write, on condition that the key still has the value that was just read.
    Swap,
    /// Several writes at once.
    Batch,
    /// The counter goes up by one.
    Count,
}

/// What one call does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    pub kind: Kind,
    /// When it counts as done.
    pub durability: Durability,
    /// Of different keys; none for the counter.
    pub changes: Vec<Change>,
}

/// What decides on the operations of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Script {
    pub seed: u64,
    /// Hardly any operation waits for an fsync, so that a power cut has something to take.
    pub lax: bool,
}

impl Script {
    /// What holds where a write says nothing of it.
    pub fn durability(self) -> Durability {
        if self.lax { Durability::Buffered } else { Durability::Sync }
    }

    fn durability_of_one(self, percent: u64) -> Durability {
        let (sync, interval) = if self.lax { (1, 5) } else { (50, 75) };
        match percent {
            percent if percent < sync => Durability::Sync,
            percent if percent < interval => Durability::Interval,
            _ => Durability::Buffered,
        }
    }
}

/// The operation of a thread with this number.
pub fn operation(script: Script, thread: u64, number: u64) -> Operation {
    let mut random = Random::new(&[script.seed, thread, number]);
    let kind = match random.below(100) {
        0..50 => Kind::Single,
        50..65 => Kind::Swap,
        65..90 => Kind::Batch,
        _ => Kind::Count,
    };
    let count = match kind {
        Kind::Single | Kind::Swap => 1,
        Kind::Batch => 1 + random.below(BATCH_ROWS_MAX),
        Kind::Count => 0,
    };
    let mut changes: Vec<Change> = Vec::new();
    for _ in 0..count {
        let key = key(thread, random.below(KEYS));
        if changes.iter().all(|change| change.key != key) {
            let value = (random.below(5) > 0).then(|| value(&key, number, value_bytes(&mut random)));
            changes.push(Change { key, value });
        }
    }
    let durability = match kind {
        // These take the store's own.
        Kind::Swap | Kind::Count => script.durability(),
        Kind::Single | Kind::Batch => script.durability_of_one(random.below(100)),
    };
    Operation { kind, durability, changes }
}

fn value_bytes(random: &mut Random) -> u64 {
    let most = match random.below(100) {
        0 => LARGE_BYTES_MAX,
        1..10 => MEDIUM_BYTES_MAX,
        _ => SMALL_BYTES_MAX,
    };
    random.below(most)
}

/// Every key that there may be.
pub fn keys() -> impl Iterator<Item = String> {
    let of_threads = (0..THREADS).flat_map(|thread| (0..KEYS).map(move |number| key(thread, number)));
    of_threads.chain([COUNTER.to_owned()])
}

fn key(thread: u64, number: u64) -> String {
    format!("thread {thread} key {number:02}")
}

/// What an operation gives a key: it begins with both, and what follows is made of them.
fn value(key: &str, number: u64, bytes: u64) -> Vec<u8> {
    let mut value = format!("{key} operation {number};").into_bytes();
    let mut random = Random::new(&[number, bytes]);
    for _ in 0..bytes / 8 {
        value.extend_from_slice(&random.next().to_le_bytes());
    }
    value
}

/// Whether a value that some thread wrote is of this key; cheap, for readers of the child.
pub fn is_of(key: &[u8], value: &[u8]) -> bool {
    key == COUNTER.as_bytes() || value.strip_prefix(key).is_some_and(|rest| rest.starts_with(b" operation "))
}
