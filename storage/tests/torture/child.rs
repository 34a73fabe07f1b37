//! The child: opens the store, writes from several threads until it is killed, and says what was acknowledged.
//!
//! Beside the writers a reader goes over one snapshot after the other: what it finds must be of its key, in order, the same
//! from both ends, not newer than the snapshot, and never older than in the snapshot before.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use paddock_storage::{
    Builder, Readable, Record, Result, Sequence, Snapshot, Store, WriteBatch, WriteOptions,
};

use crate::work::{self, COUNTER, Change, Kind, Script, THREADS};

pub const TASK_VARIABLE: &str = "PADDOCK_TORTURE_TASK";
/// A bound that no round reaches.
const OPERATIONS_MAX: u64 = 1_000_000;
/// Small, so that files are sealed and made all the time.
const SEGMENT_BYTES: u64 = 256 << 10;
const EXTENT_BYTES: u64 = 64 << 10;
/// Small, so that rows are flushed to runs, and runs merged, several times in a round.
const FLUSH_BYTES: u64 = 96 << 10;
const RUN_BYTES: u64 = 64 << 10;
/// One thread asks for a whole compaction after so many operations.
const OPERATIONS_PER_COMPACTION: u64 = 61;
/// Short, so that some of what is not synced at once is synced in a round, and some is not.
const SYNC_INTERVAL: Duration = Duration::from_millis(20);

/// What a child is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    pub script: Script,
    /// The number of each thread's first operation.
    pub first: Vec<u64>,
}

impl Task {
    pub fn encode(&self, path: &Path) -> String {
        let first: Vec<String> = self.first.iter().map(u64::to_string).collect();
        format!("{};{};{};{}", self.script.seed, self.script.lax, first.join(","), path.display())
    }

    fn decode(text: &str) -> (Task, PathBuf) {
        let mut parts = text.splitn(4, ';');
        let mut part = || parts.next().unwrap();
        let script = Script { seed: part().parse().unwrap(), lax: part().parse().unwrap() };
        let first = part().split(',').map(|number| number.parse().unwrap()).collect();
        (Task { script, first }, PathBuf::from(part()))
    }
}

/// The task of this process, if it is a child.
pub fn task() -> Option<String> {
    std::env::var(TASK_VARIABLE).ok()
}

/// How both sides open the store.
pub fn builder(path: &Path) -> Builder {
    let builder = Store::builder(path).segment_bytes(SEGMENT_BYTES).extent_bytes(EXTENT_BYTES);
    builder.flush_bytes(FLUSH_BYTES).run_bytes(RUN_BYTES).sync_interval(SYNC_INTERVAL)
}

/// Writes until it is killed. Ends by itself only where the disk fails.
pub fn perform(task: &str) {
    // Whoever waits for this process may be killed: nobody would end it then.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).unwrap();
    let (Task { script, first }, path) = Task::decode(task);
    let store = match builder(&path).durability(script.durability()).open() {
        Ok(store) => store,
        Err(error) => return say(&format!("fault opening: {error}")),
    };
    say("ready");
    std::thread::scope(|scope| {
        for (thread, first) in (0..THREADS).zip(first) {
            let store = &store;
            scope.spawn(move || {
                for number in first..first + OPERATIONS_MAX {
                    match carry_out(store, script, thread, number) {
                        Ok(version) => say(&format!("ok {thread} {number} {version}")),
                        Err(error) => return say(&format!("fault of thread {thread}: {error}")),
                    }
                }
            });
        }
        scope.spawn(|| read_all_the_time(&store));
    });
}

/// One line, in one write.
fn say(line: &str) {
    let mut output = std::io::stdout().lock();
    // The harness may have begun a line.
    let newline = if line.starts_with("ok") { "" } else { "\n" };
    output.write_all(format!("{newline}{line}\n").as_bytes()).unwrap();
    output.flush().unwrap();
}

/// Gives the version of the last row that it wrote.
fn carry_out(store: &Store, script: Script, thread: u64, number: u64) -> Result<Sequence> {
    if thread == 0 && number % OPERATIONS_PER_COMPACTION == OPERATIONS_PER_COMPACTION - 1 {
        store.compact()?;
    }
    let operation = work::operation(script, thread, number);
    let options = WriteOptions::new().durability(operation.durability);
    match operation.kind {
        Kind::Single => single(store, &operation.changes[0], options),
        Kind::Swap => swap(store, &operation.changes[0]),
        Kind::Batch => {
            let mut batch = WriteBatch::new();
            for Change { key, value } in &operation.changes {
                match value {
                    Some(value) => batch.insert_with(key, value, options.clone())?,
                    None => batch.remove_with(key, options.clone())?,
                };
            }
            store.write(batch)
        }
        Kind::Count => count(store),
    }
}

fn single(store: &Store, Change { key, value }: &Change, options: WriteOptions) -> Result<Sequence> {
    let outcome = match value {
        Some(value) => store.insert_with(key, value, options)?,
        None => store.remove_with(key, options)?,
    };
    // Nothing was expected of the key.
    Ok(outcome.unwrap())
}

/// No race is lost: the key is this thread's.
fn swap(store: &Store, Change { key, value }: &Change) -> Result<Sequence> {
    let current = store.get(key.as_bytes())?;
    Ok(store.compare_and_swap(key, current.as_deref(), value.as_deref())?.unwrap())
}

/// Tries until nobody was faster.
fn count(store: &Store) -> Result<Sequence> {
    let mut current = store.get(COUNTER.as_bytes())?;
    loop {
        let number: u64 =
            current.as_deref().map_or(0, |bytes| str::from_utf8(bytes).unwrap().parse().unwrap());
        let raised = (number + 1).to_string();
        match store.compare_and_swap(COUNTER, current.as_deref(), Some(raised.as_bytes()))? {
            Ok(version) => return Ok(version),
            Err(conflict) => current = conflict.current.map(|record| record.value),
        }
    }
}

fn read_all_the_time(store: &Store) {
    let mut seen = HashMap::new();
    loop {
        let snapshot = store.snapshot();
        let outcome = read_twice(&snapshot).map(|records| {
            for record in records {
                check(&record, &snapshot, &mut seen);
            }
        });
        if let Err(error) = outcome {
            return say(&format!("fault of the reader: {error}"));
        }
    }
}

/// Everything, in order; read back from the end it is the same, whatever was written meanwhile.
fn read_twice(snapshot: &Snapshot) -> Result<Vec<Record>> {
    let forward: Vec<Record> = snapshot.iter().collect::<Result<_>>()?;
    assert!(forward.is_sorted_by(|left, right| left.key < right.key), "records are out of order");
    let mut backward: Vec<Record> = snapshot.iter().rev().collect::<Result<_>>()?;
    backward.reverse();
    assert_eq!(forward, backward, "a snapshot changed at {}", snapshot.sequence());
    Ok(forward)
}

fn check(record: &Record, snapshot: &Snapshot, seen: &mut HashMap<Bytes, Sequence>) {
    let key = String::from_utf8_lossy(&record.key);
    assert!(work::is_of(&record.key, &record.value), "{key} has another's value");
    assert!(record.version <= snapshot.sequence(), "{key} is newer than its snapshot");
    let last = seen.insert(record.key.clone(), record.version).unwrap_or_default();
    assert!(last <= record.version, "{key} went from {last} back to {}", record.version);
}
