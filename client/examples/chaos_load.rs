//! A load that remembers everything it was told, for scripts/chaos.py: `chaos_load ENDPOINT SEED WRITERS READERS`.
//!
//! Each key has one writer, whose values only grow, so that what a read may show follows from what that writer
//! was told: every acknowledged write (with its version), every write that certainly did not happen, and every
//! write of unknown outcome, which may show up late. Writers put, compare-and-set, delete and write batches;
//! readers read strongly, all the while.
//!
//! It says `READY`, loads until its standard input ends, then reads every key, strongly and from any replica, and prints one line
//! of JSON. A violation is a line `VIOLATION ...`, at once, and exit code 1.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says so by failing")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use paddock_client::{Client, Consistency, Error, Mutation, Precondition, WriteOutcome};

const KEYS_PER_WRITER: u64 = 8;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);

/// Within this time after the faults every key must be readable.
const HEAL_TIMEOUT: Duration = Duration::from_secs(30);

/// How often each key is read from whichever replica is asked, in the end.
const EVENTUAL_READS: usize = 6;

/// How many connections (and so, streams) the load is spread over.
const CLIENTS: usize = 4;

/// A wait after a failure, so that a cluster that is down is not answered with a storm.
const PAUSE: Duration = Duration::from_millis(20);

/// What a write was to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Intent {
    Put(u64),
    Delete,
}

/// What the writer of a key knows, and what readers have seen.
#[derive(Debug, Default)]
struct History {
    /// The last acknowledged write and its version.
    acknowledged: Option<(Intent, u64)>,
    /// The version of each acknowledged value.
    versions: BTreeMap<u64, u64>,
    /// The values that certainly were not written.
    refused: BTreeSet<u64>,
    /// The values that may have been written.
    unknown: BTreeSet<u64>,
    /// Deletes that may have been done, and may still be: those under way included.
    deletes_open: u64,
    /// The version of the last acknowledged delete.
    deleted_at: u64,
    /// The last value that was tried.
    last: u64,
    /// The version of every value that was read.
    seen: BTreeMap<u64, u64>,
}

#[derive(Default)]
struct Figures {
    acknowledged: AtomicU64,
    refused: AtomicU64,
    unknown: AtomicU64,
    reads: AtomicU64,
    reads_failed: AtomicU64,
    late: AtomicU64,
    violations: AtomicU64,
    gap_ms_max: AtomicU64,
}

struct Shared {
    clients: Vec<Client>,
    keys: Vec<(String, Mutex<History>)>,
    figures: Figures,
    stopping: AtomicBool,
    started: Instant,
}

impl Shared {
    fn violation(&self, key: &str, what: &str) {
        self.figures.violations.fetch_add(1, Ordering::Relaxed);
        println!("VIOLATION at {} ms: {key}: {what}", self.started.elapsed().as_millis());
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

/// SplitMix64: the same seed, the same choices.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// A value that says whose it is, and takes some room.
fn value(key: &str, number: u64) -> String {
    format!("{key}={number}={}", "x".repeat((number % 300) as usize))
}

fn number_of(key: &str, value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    let number = text.strip_prefix(key)?.strip_prefix('=')?.split('=').next()?.parse().ok()?;
    (text == self::value(key, number)).then_some(number)
}

impl History {
    fn begin(&mut self, is_delete: bool) -> Intent {
        if is_delete {
            self.deletes_open += 1;
            return Intent::Delete;
        }
        self.last += 1;
        self.unknown.insert(self.last);
        Intent::Put(self.last)
    }

    /// Takes in how a write ended. Everything under way counts as unknown until then.
    fn end(&mut self, intent: Intent, outcome: &Result<u64, Error>) -> Result<(), String> {
        match outcome {
            Ok(version) => {
                let former = self.acknowledged;
                // A delete that found nothing has no version.
                let is_real = *version != 0 || matches!(intent, Intent::Put(_));
                if is_real {
                    self.acknowledged = Some((intent, *version));
                }
                match intent {
                    Intent::Put(number) => {
                        self.unknown.remove(&number);
                        self.versions.insert(number, *version);
                    }
                    Intent::Delete => {
                        self.deletes_open -= 1;
                        self.deleted_at = self.deleted_at.max(*version);
                    }
                }
                match former {
                    Some((_, before)) if is_real && *version <= before => {
                        return Err(format!("{intent:?} got version {version} after {before}"));
                    }
                    Some((Intent::Put(_), _)) if !is_real && self.deletes_open == 0 && !self.deleted() => {
                        return Err(format!("a delete found nothing after {former:?}"));
                    }
                    _ => {}
                }
            }
            Err(error) if error.write_outcome() == WriteOutcome::NotApplied => match intent {
                Intent::Put(number) => {
                    self.unknown.remove(&number);
                    self.refused.insert(number);
                }
                Intent::Delete => self.deletes_open -= 1,
            },
            // An open delete stays open.
            Err(_) => {}
        }
        Ok(())
    }

    fn deleted(&self) -> bool {
        matches!(self.acknowledged, None | Some((Intent::Delete, _)))
    }

    /// Judges a read by what was acknowledged before it began.
    fn judge(&mut self, before: Option<(Intent, u64)>, found: Option<(u64, u64)>) -> Result<bool, String> {
        let Some((number, version)) = found else {
            let floor = match before {
                Some((Intent::Put(_), version)) => version,
                _ => 0,
            };
            // A delete may have come and gone while the read was under way.
            let may_be_absent = floor == 0 || self.deletes_open > 0 || self.deleted_at > floor;
            if may_be_absent {
                return Ok(false);
            }
            return Err(format!("no record, after {before:?}"));
        };
        if number > self.last || number == 0 {
            return Err(format!("value {number} was never written"));
        }
        if let Some(known) = self.versions.get(&number).or(self.seen.get(&number))
            && *known != version
        {
            return Err(format!("value {number} has version {version}, and had {known}"));
        }
        self.seen.insert(number, version);
        if let Some((intent, floor)) = before {
            if version < floor {
                return Err(format!("value {number} version {version}, after {intent:?} version {floor}"));
            }
            if version == floor && intent != Intent::Put(number) {
                return Err(format!("value {number} version {version}, but {intent:?} had that version"));
            }
        }
        if self.refused.contains(&number) {
            return Err(format!("value {number} was refused, and is there with version {version}"));
        }
        // Written by a request whose outcome was unknown, after a later one was acknowledged.
        Ok(matches!(before, Some((Intent::Put(last), _)) if number < last))
    }
}

fn parse(
    shared: &Shared,
    key: &str,
    outcome: Result<paddock_client::Record, Error>,
) -> Result<Option<(u64, u64)>, Error> {
    match outcome {
        Ok(record) => match number_of(key, &record.value) {
            Some(number) => Ok(Some((number, record.version))),
            None => {
                shared.violation(key, &format!("a value that nobody wrote: {:?}", record.value));
                Ok(None)
            }
        },
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads a key strongly, and judges what it shows. `None`: it could not be read.
async fn read(shared: &Shared, client: &Client, index: usize) -> Option<Option<(u64, u64)>> {
    let (key, history) = &shared.keys[index];
    let (before, seen_max) = {
        let history = history.lock().unwrap();
        (history.acknowledged, history.seen.values().copied().max())
    };
    let found = match parse(shared, key, client.get(key.clone()).await) {
        Ok(found) => found,
        Err(_) => {
            count(&shared.figures.reads_failed);
            return None;
        }
    };
    count(&shared.figures.reads);
    let judged = history.lock().unwrap().judge(before, found);
    match judged {
        Ok(false) => {}
        Ok(true) => count(&shared.figures.late),
        Err(what) => shared.violation(key, &what),
    }
    if let (Some((number, version)), Some(seen)) = (found, seen_max)
        && version < seen
    {
        shared
            .violation(key, &format!("value {number} version {version}, after version {seen} had been read"));
    }
    Some(found)
}

/// One writer: its keys in random order, one operation (or batch) at a time.
async fn write(shared: Arc<Shared>, writer: u64, seed: u64) {
    let mut random = Random(seed.wrapping_add(writer << 32));
    let mut last_success = Instant::now();
    while !shared.stopping() {
        let index = (writer * KEYS_PER_WRITER + random.below(KEYS_PER_WRITER)) as usize;
        let client = &shared.clients[random.below(CLIENTS as u64) as usize];
        let succeeded = match random.below(10) {
            0 => write_batch(&shared, client, writer).await,
            1 | 2 => write_one(&shared, client, index, Precondition::None, true).await,
            3..=5 => compare_and_set(&shared, client, index).await,
            _ => write_one(&shared, client, index, Precondition::None, false).await,
        };
        if succeeded {
            let gap = last_success.elapsed().as_millis() as u64;
            shared.figures.gap_ms_max.fetch_max(gap, Ordering::Relaxed);
            last_success = Instant::now();
        } else {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn settle(shared: &Shared, index: usize, intent: Intent, outcome: &Result<u64, Error>) -> bool {
    let figures = &shared.figures;
    match outcome {
        Ok(_) => count(&figures.acknowledged),
        Err(error) if error.write_outcome() == WriteOutcome::NotApplied => count(&figures.refused),
        Err(_) => count(&figures.unknown),
    }
    let (key, history) = &shared.keys[index];
    if let Err(what) = history.lock().unwrap().end(intent, outcome) {
        shared.violation(key, &what);
    }
    outcome.is_ok()
}

async fn write_one(
    shared: &Shared,
    client: &Client,
    index: usize,
    precondition: Precondition,
    is_delete: bool,
) -> bool {
    let (key, history) = &shared.keys[index];
    let intent = history.lock().unwrap().begin(is_delete);
    let outcome = match intent {
        Intent::Put(number) => client.put_with(key.clone(), value(key, number), precondition).await,
        Intent::Delete => client.delete_with(key.clone(), precondition).await.map(|deleted| deleted.version),
    };
    settle(shared, index, intent, &outcome)
}

/// A compare-and-set on what a read shows: it may only fail if something of unknown outcome came between.
async fn compare_and_set(shared: &Shared, client: &Client, index: usize) -> bool {
    let Some(found) = read(shared, client, index).await else { return false };
    let precondition = found.map_or(Precondition::Absent, |(_, version)| Precondition::Version(version));
    let (key, history) = &shared.keys[index];
    let (intent, was_settled) = {
        let mut history = history.lock().unwrap();
        let was_settled = history.unknown.is_empty() && history.deletes_open == 0;
        (history.begin(false), was_settled)
    };
    let Intent::Put(number) = intent else { return false };
    let outcome = client.put_with(key.clone(), value(key, number), precondition).await;
    if let Err(error @ (Error::PreconditionFailed { .. } | Error::AlreadyExists { .. })) = &outcome
        && was_settled
    {
        shared.violation(
            key,
            &format!("a compare-and-set on {found:?} failed, nothing was under way: {error}"),
        );
    }
    settle(shared, index, intent, &outcome)
}

/// All keys of a writer at once.
async fn write_batch(shared: &Shared, client: &Client, writer: u64) -> bool {
    let first = (writer * KEYS_PER_WRITER) as usize;
    let indices = first..first + KEYS_PER_WRITER as usize;
    let mut intents = Vec::new();
    let mutations = indices.clone().map(|index| {
        let (key, history) = &shared.keys[index];
        let intent = history.lock().unwrap().begin(false);
        intents.push(intent);
        let Intent::Put(number) = intent else { panic!("a put was begun") };
        Mutation::put(key.clone(), value(key, number))
    });
    let mutations = mutations.collect::<Vec<_>>();
    let outcomes = match client.batch_write(mutations).await {
        Ok(outcomes) => outcomes,
        Err(error) => intents.iter().map(|_| Err(error.clone())).collect(),
    };
    let settled = indices.zip(intents).zip(&outcomes);
    settled.filter(|((index, intent), outcome)| !settle(shared, *index, *intent, outcome)).count() == 0
}

async fn read_all_the_while(shared: Arc<Shared>, reader: u64, seed: u64) {
    let mut random = Random(!seed.wrapping_add(reader << 32));
    while !shared.stopping() {
        let index = random.below(shared.keys.len() as u64) as usize;
        let client = &shared.clients[random.below(CLIENTS as u64) as usize];
        if read(&shared, client, index).await.is_none() {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Reads every key until it can be read, then from any replica: all must show the same.
async fn verify(shared: &Shared) {
    let deadline = Instant::now() + HEAL_TIMEOUT;
    for index in 0..shared.keys.len() {
        let (key, history) = &shared.keys[index];
        let found = loop {
            if let Some(found) = read(shared, &shared.clients[0], index).await {
                break found;
            }
            if Instant::now() > deadline {
                shared.violation(key, &format!("not readable within {HEAL_TIMEOUT:?} after the last fault"));
                return;
            }
            tokio::time::sleep(PAUSE).await;
        };
        agree(shared, key, found, deadline).await;
        let history = history.lock().unwrap();
        if let Some(number) = history.refused.iter().find(|number| history.seen.contains_key(number)) {
            shared.violation(key, &format!("value {number} was read, and was refused later"));
        }
    }
}

/// Reads from any replica, until so many reads in a row show what the leader does.
async fn agree(shared: &Shared, key: &str, found: Option<(u64, u64)>, deadline: Instant) {
    let mut agreeing = 0;
    while agreeing < EVENTUAL_READS {
        let outcome = shared.clients[1].get_with(key.to_owned(), Consistency::Eventual).await;
        match parse(shared, key, outcome) {
            Ok(other) if other == found => agreeing += 1,
            // A follower hears of the last commit a little later.
            _ if Instant::now() < deadline => {
                agreeing = 0;
                tokio::time::sleep(PAUSE).await;
            }
            other => {
                shared.violation(key, &format!("a replica shows {other:?}, the leader {found:?}"));
                return;
            }
        }
    }
}

#[tokio::main]
async fn main() {
    let arguments = std::env::args().skip(1).collect::<Vec<_>>();
    let [endpoint, seed, writers, readers] = &arguments[..] else {
        eprintln!("usage: chaos_load ENDPOINT SEED WRITERS READERS");
        std::process::exit(2);
    };
    let (seed, writers, readers): (u64, u64, u64) =
        (seed.parse().unwrap(), writers.parse().unwrap(), readers.parse().unwrap());
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let builder = Client::builder(endpoint.clone()).request_timeout(REQUEST_TIMEOUT);
        clients.push(builder.connect().await.expect("the router answers"));
    }
    let keys =
        (0..writers * KEYS_PER_WRITER).map(|number| (format!("chaos/{seed}/{number}"), Mutex::default()));
    let shared = Arc::new(Shared {
        clients,
        keys: keys.collect(),
        figures: Figures::default(),
        stopping: AtomicBool::new(false),
        started: Instant::now(),
    });
    println!("READY");
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..writers {
        tasks.spawn(write(Arc::clone(&shared), writer, seed));
    }
    for reader in 0..readers {
        tasks.spawn(read_all_the_while(Arc::clone(&shared), reader, seed));
    }
    let until_end = || std::io::stdin().read_to_end(&mut Vec::new());
    let _ = tokio::task::spawn_blocking(until_end).await;
    shared.stopping.store(true, Ordering::Relaxed);
    tasks.join_all().await;
    verify(&shared).await;
    let figures = &shared.figures;
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "{{\"acknowledged\":{},\"refused\":{},\"unknown\":{},\"reads\":{},\"reads_failed\":{},\"late\":{},\"gap_ms_max\":{},\"violations\":{}}}",
        get(&figures.acknowledged),
        get(&figures.refused),
        get(&figures.unknown),
        get(&figures.reads),
        get(&figures.reads_failed),
        get(&figures.late),
        get(&figures.gap_ms_max),
        get(&figures.violations),
    );
    std::process::exit(i32::from(get(&figures.violations) > 0));
}
