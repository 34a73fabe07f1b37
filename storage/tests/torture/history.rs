//! What was done and acknowledged, and what a store may hold after that.
//!
//! Of each thread all operations up to some number were acknowledged, and at most one more was under way. A store
//! that is opened again must hold a *prefix* of what happened, in the order of versions: there is a version up to
//! which everything counts, and after which nothing does. Everything that had to survive lies in it. Of an operation under
//! way nobody knows the version, unless it is found: then all of it is there; a batch is never halved.

use std::collections::BTreeMap;

use paddock_storage::{Durability, Readable, Store};

use crate::work::{COUNTER, Kind, Operation, Script, THREADS, keys, operation};

/// A key's value, and the version that it has.
type Contents = BTreeMap<String, (u64, Vec<u8>)>;

/// An operation that was acknowledged, at the version of its last row.
#[derive(Debug)]
struct Done {
    operation: Operation,
    version: u64,
}

/// What one thread did in this round.
#[derive(Debug, Default)]
struct Thread {
    /// Its next operation's number; that one may be under way.
    next: u64,
    done: Vec<Done>,
}

/// What happened, and what is there.
#[derive(Debug)]
pub struct History {
    script: Script,
    /// What was found when the store was opened last.
    settled: Contents,
    threads: Vec<Thread>,
    /// Acknowledged operations of all rounds.
    pub acknowledged: u64,
    /// Operations under way that turned out to have happened, and not to have.
    pub found: u64,
    pub lost: u64,
    /// Acknowledged operations that a power cut took, as it may.
    pub dropped: u64,
}

impl History {
    pub fn new(script: Script) -> History {
        let threads = (0..THREADS).map(|_| Thread::default()).collect();
        History { script, settled: Contents::new(), threads, acknowledged: 0, found: 0, lost: 0, dropped: 0 }
    }

    /// Begins a round: gives the number of each thread's next operation.
    pub fn begin(&mut self, script: Script) -> Vec<u64> {
        self.script = script;
        self.threads.iter().map(|thread| thread.next).collect()
    }

    /// Notes an acknowledgement.
    pub fn acknowledge(&mut self, thread: u64, number: u64, version: u64) -> Result<(), String> {
        let (of, state) = (thread, &mut self.threads[usize::try_from(thread).unwrap()]);
        if number != state.next {
            return Err(format!("thread {of} reported {number}, not {}", state.next));
        }
        state.next += 1;
        state.done.push(Done { operation: operation(self.script, of, number), version });
        self.acknowledged += 1;
        Ok(())
    }

    /// Compares a store with the history, and takes what it holds for what is there from now on. `required`: the version up
    /// to which everything must be there.
    pub fn settle(&mut self, store: &Store, required: u64) -> Result<(), String> {
        let found = contents(store)?;
        let end = self.end_of(&found, required);
        let mut expected = self.expected(end)?;
        self.add_what_was_under_way(&mut expected, &found, end)?;
        compare(&expected, &found)?;
        for thread in &mut self.threads {
            self.dropped += thread.done.iter().filter(|done| done.version > end).count() as u64;
            thread.done.clear();
            // A number is never used twice.
            thread.next += 1;
        }
        self.settled = found;
        Ok(())
    }

    /// That a store still holds what it was found to hold.
    pub fn check_settled(&self, store: &Store) -> Result<(), String> {
        compare(&self.settled, &contents(store)?)
    }

    /// The largest version that was acknowledged in this round, of all writes or only of those that had to be synced.
    pub fn last_acknowledged(&self, synced: bool) -> u64 {
        let done = self.threads.iter().flat_map(|thread| &thread.done);
        let counted = done.filter(|done| !synced || done.operation.durability == Durability::Sync);
        counted.map(|done| done.version).max().unwrap_or(0)
    }

    /// Where the prefix ends: not before what must be there, nor before anything that is. A key that is gone, though
    /// only a later delete explains it, says that this delete is in it as well.
    fn end_of(&self, found: &Contents, required: u64) -> u64 {
        let mut end = found.values().map(|(version, _)| *version).fold(required, u64::max);
        while let Some(later) = self
            .rows()
            .filter(|(key, version, value)| {
                *version > end && value.is_none() && !found.contains_key(*key) && self.is_there(key, end)
            })
            .map(|(_, version, _)| version)
            .min()
        {
            end = later;
        }
        end
    }

    /// Whether a key has a value by the operations up to `end`.
    fn is_there(&self, key: &str, end: u64) -> bool {
        let rows = self.rows().filter(|(of, version, _)| *of == key && *version <= end);
        let last = rows.max_by_key(|(_, version, _)| *version);
        last.map_or_else(|| self.settled.contains_key(key), |(_, _, value)| value.is_some())
    }

    /// All acknowledged writes of this round but those of the counter.
    fn rows(&self) -> impl Iterator<Item = (&str, u64, Option<&Vec<u8>>)> {
        self.threads.iter().flat_map(|thread| &thread.done).flat_map(|Done { operation, version }| {
            let first = version + 1 - operation.changes.len() as u64;
            let numbered = (first..).zip(&operation.changes);
            numbered.map(|(version, change)| (change.key.as_str(), version, change.value.as_ref()))
        })
    }

    /// What is there when all operations up to `end` happened, and nothing else did.
    fn expected(&self, end: u64) -> Result<Contents, String> {
        let before = self.settled.values().map(|(version, _)| *version).max().unwrap_or(0);
        let mut expected = self.settled.clone();
        let mut rows: Vec<_> = self.rows().collect();
        rows.sort_by_key(|(_, version, _)| *version);
        for pair in rows.windows(2) {
            if pair[0].1 == pair[1].1 {
                return Err(format!("version {} was given to {} and to {}", pair[0].1, pair[0].0, pair[1].0));
            }
        }
        for (key, version, value) in rows {
            if version <= before {
                return Err(format!("{key} was written at {version}, and {before} was there already"));
            }
            match value {
                _ if version > end => {}
                Some(value) => drop(expected.insert(key.to_owned(), (version, value.clone()))),
                None => drop(expected.remove(key)),
            }
        }
        Ok(expected)
    }

    /// Looks at each operation under way, and expects all of it where it left a trace.
    fn add_what_was_under_way(
        &mut self,
        expected: &mut Contents,
        found: &Contents,
        end: u64,
    ) -> Result<(), String> {
        let mut counting = 0;
        for (thread, state) in (0..).zip(&self.threads) {
            let pending = operation(self.script, thread, state.next);
            if pending.kind == Kind::Count {
                counting += 1;
                continue;
            }
            let happened = pending.changes.iter().any(|change| match &change.value {
                Some(value) => found.get(&change.key).is_some_and(|(_, found)| found == value),
                None => expected.contains_key(&change.key) && !found.contains_key(&change.key),
            });
            if happened {
                self.found += 1;
                for change in pending.changes {
                    match (change.value, found.get(&change.key)) {
                        (Some(value), found) => {
                            let version = found.map_or(0, |(version, _)| *version);
                            expected.insert(change.key, (version, value));
                        }
                        (None, _) => drop(expected.remove(&change.key)),
                    }
                }
            } else {
                self.lost += 1;
            }
        }
        self.check_counter(expected, found, end, counting)
    }

    /// Each raise that counts raised it by one; of those under way any number may.
    fn check_counter(
        &self,
        expected: &mut Contents,
        found: &Contents,
        end: u64,
        counting: u64,
    ) -> Result<(), String> {
        let number = |contents: &Contents| -> u64 {
            contents.get(COUNTER).map_or(0, |(_, value)| String::from_utf8_lossy(value).parse().unwrap_or(0))
        };
        let done = self.threads.iter().flat_map(|thread| &thread.done);
        let raises: Vec<u64> = done
            .filter(|done| done.operation.kind == Kind::Count && done.version <= end)
            .map(|done| done.version)
            .collect();
        let least = number(&self.settled) + raises.len() as u64;
        let counted = number(found);
        if !(least..=least + counting).contains(&counted) {
            return Err(format!("the counter is {counted}, from {least} to {} is right", least + counting));
        }
        let version = found.get(COUNTER).map_or(0, |(version, _)| *version);
        let newest = raises.into_iter().max().unwrap_or(0);
        if version < newest {
            return Err(format!("the counter has version {version}, it was raised at {newest}"));
        }
        match found.get(COUNTER) {
            Some(record) => drop(expected.insert(COUNTER.to_owned(), record.clone())),
            None => drop(expected.remove(COUNTER)),
        }
        Ok(())
    }
}

/// Everything that a store holds, read in order, and each key by itself, too.
fn contents(store: &Store) -> Result<Contents, String> {
    let mut contents = Contents::new();
    for record in store.iter() {
        let record = record.map_err(|error| format!("reading everything: {error}"))?;
        let key = String::from_utf8(record.key.to_vec()).map_err(|_| "a key that nobody wrote")?;
        let again = store.get_record(key.as_bytes()).map_err(|error| format!("reading {key}: {error}"))?;
        if again.as_ref() != Some(&record) {
            return Err(format!("{key} is in the range, and is another by its key"));
        }
        if contents.insert(key.clone(), (record.version.0, record.value.to_vec())).is_some() {
            return Err(format!("{key} is there twice"));
        }
    }
    for key in keys().filter(|key| !contents.contains_key(key)) {
        match store.get_record(key.as_bytes()) {
            Ok(None) => {}
            Ok(Some(found)) => return Err(format!("{key} is read at {}, and in no range", found.version)),
            Err(error) => return Err(format!("reading {key}: {error}")),
        }
    }
    if contents.len() as u64 != store.len() {
        return Err(format!("{} records, and a length of {}", contents.len(), store.len()));
    }
    Ok(contents)
}

fn compare(expected: &Contents, found: &Contents) -> Result<(), String> {
    for (key, (version, value)) in expected {
        match found.get(key) {
            None => return Err(format!("{key} is lost: it was written at {version}")),
            Some((other, _)) if other != version => {
                return Err(format!("{key} has version {other}, it was last written at {version}"));
            }
            Some((_, other)) if other != value => {
                return Err(format!("{key} has another value than was written"));
            }
            Some(_) => {}
        }
    }
    match found.iter().find(|(key, _)| !expected.contains_key(*key)) {
        Some((key, (version, _))) => Err(format!("{key} is there, at {version}, and should not be")),
        None => Ok(()),
    }
}
