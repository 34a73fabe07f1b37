//! A load whose every write must happen exactly once, for scripts/once.py: `once_load ENDPOINT SEED WRITERS`.
//!
//! Each writer has a key of its own, of which every write rests on the one before: it is created, counted up under the version
//! that the write before made, and deleted again. A write that is lost makes the next one fail, and so does one that is done
//! twice. Each has one id, and is sent under it until it is decided; the client's own retries are off, so that every lost answer
//! is seen here. Some writes are sent twice at the same time, and some once more when others have followed: they must get the
//! answer of the first time.
//!
//! It says `READY`, and ends when its standard input does, after every write has been decided. It prints `VIOLATION ...` for
//! what must not be, and one line of JSON in the end; the exit code is 1 if there was any.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says so by failing")]

use std::io::BufRead;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use paddock_client::{Client, Error, Precondition, RequestId, WriteOutcome};
use tokio::task::JoinSet;

/// For how long one sending is waited for. Short, so that many are given up that were done.
const SENDING_TIMEOUT: Duration = Duration::from_millis(700);
/// A write that is not decided after this long never will be.
const DECIDED_WITHIN: Duration = Duration::from_secs(60);
/// Between two sendings of one write.
const PAUSE: Duration = Duration::from_millis(20);
/// So often a key is counted up before it is deleted.
const COUNTS: u64 = 20;
/// One of so many writes is sent twice at the same time, and as many are sent once more later.
const DOUBLED_EVERY: u64 = 5;

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn one_of(&mut self, count: u64) -> bool {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)).is_multiple_of(count)
    }
}

/// One write.
#[derive(Clone)]
struct Write {
    id: RequestId,
    key: String,
    /// `None` deletes.
    value: Option<String>,
    precondition: Precondition,
}

/// What a write came to: its version, and whether it deleted anything.
type Decided = Result<(u64, bool), Error>;

#[derive(Default)]
struct Figures {
    writes: AtomicU64,
    sendings: AtomicU64,
    /// Sendings of which nothing was heard, or of which it is not known what they did.
    unknown: AtomicU64,
    violations: AtomicU64,
    stopping: AtomicBool,
    /// Writes that are sent once more.
    again: Mutex<JoinSet<()>>,
}

impl Figures {
    fn violation(&self, what: &str) {
        self.violations.fetch_add(1, Ordering::Relaxed);
        println!("VIOLATION {what}");
    }
}

struct Writer {
    client: Client,
    figures: Arc<Figures>,
    chance: Chance,
    key: String,
}

impl Writer {
    /// Goes around until it is told to stop.
    async fn run(mut self) {
        while !self.figures.stopping.load(Ordering::Relaxed) {
            let mut version = self.write(Some("0"), Precondition::Absent).await;
            for count in 1..=COUNTS {
                version = self.write(Some(&count.to_string()), Precondition::Version(version)).await;
            }
            self.write(None, Precondition::Version(version)).await;
        }
    }

    /// Writes once. Returns the version that it made.
    async fn write(&mut self, value: Option<&str>, precondition: Precondition) -> u64 {
        let id = self.client.request_id_for(&self.key);
        let write = Write { id, key: self.key.clone(), value: value.map(str::to_owned), precondition };
        let decided = if self.chance.one_of(DOUBLED_EVERY) {
            let (one, two) = tokio::join!(self.decide(&write), self.decide(&write));
            self.compare(&write, &one, &two);
            one
        } else {
            self.decide(&write).await
        };
        self.figures.writes.fetch_add(1, Ordering::Relaxed);
        match decided {
            Ok((version, deleted)) => {
                if deleted != value.is_none() {
                    self.figures
                        .violation(&format!("{}: it says that {deleted} was deleted", describe(&write)));
                }
                if self.chance.one_of(DOUBLED_EVERY) {
                    self.ask_again_later(write, Ok((version, deleted)));
                }
                version
            }
            // Whatever was lost or doubled: from here on it would only be more of the same.
            Err(error) => {
                self.figures.violation(&format!("{}: {error}", describe(&write)));
                std::process::exit(1);
            }
        }
    }

    /// Sends a write under its id until it is known what it came to.
    async fn decide(&self, write: &Write) -> Decided {
        let began = Instant::now();
        loop {
            self.figures.sendings.fetch_add(1, Ordering::Relaxed);
            let sent = self.send(write).await;
            match sent {
                Err(error) if error.is_transient() => {
                    if error.write_outcome() == WriteOutcome::Unknown {
                        self.figures.unknown.fetch_add(1, Ordering::Relaxed);
                    }
                    if began.elapsed() > DECIDED_WITHIN {
                        return Err(error);
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                decided => return decided,
            }
        }
    }

    async fn send(&self, write: &Write) -> Decided {
        let Write { id, key, value, precondition } = write.clone();
        match value {
            Some(value) => {
                let version = self.client.put_named(id, key, value, precondition).await?;
                Ok((version, false))
            }
            None => {
                let deleted = self.client.delete_named(id, key, precondition).await?;
                Ok((deleted.version, deleted.deleted))
            }
        }
    }

    /// Some writes have followed: the answer is the first one.
    fn ask_again_later(&self, write: Write, first: Decided) {
        let (client, figures) = (self.client.clone(), Arc::clone(&self.figures));
        let again = Writer { client, figures, chance: Chance(0), key: write.key.clone() };
        self.figures.again.lock().unwrap().spawn(async move {
            tokio::time::sleep(SENDING_TIMEOUT).await;
            let second = again.decide(&write).await;
            again.compare(&write, &first, &second);
        });
    }

    fn compare(&self, write: &Write, one: &Decided, two: &Decided) {
        let same = matches!((one, two), (Ok(one), Ok(two)) if one == two);
        if !same {
            self.figures.violation(&format!("{}: answered {one:?}, and {two:?}", describe(write)));
        }
    }
}

fn describe(write: &Write) -> String {
    let Write { id, key, value, precondition } = write;
    format!("{key} := {value:?} if {precondition:?} as {id}")
}

#[tokio::main]
async fn main() {
    let arguments = std::env::args().skip(1).collect::<Vec<_>>();
    let [endpoint, seed, writers] = &arguments[..] else {
        eprintln!("usage: once_load ENDPOINT SEED WRITERS");
        std::process::exit(2);
    };
    let (seed, writers): (u64, u64) = (seed.parse().unwrap(), writers.parse().unwrap());
    let builder = Client::builder(endpoint.clone()).request_timeout(SENDING_TIMEOUT).attempts_max(1);
    let client = builder.connect().await.expect("the router answers");
    let figures = Arc::new(Figures::default());
    let mut tasks = JoinSet::new();
    for number in 0..writers {
        let (client, figures) = (client.clone(), Arc::clone(&figures));
        let (chance, key) = (Chance(seed ^ number << 32), format!("once/{number}"));
        tasks.spawn(Writer { client, figures, chance, key }.run());
    }
    println!("READY");
    let _ =
        tokio::task::spawn_blocking(|| std::io::stdin().lock().lines().map_while(Result::ok).count()).await;
    figures.stopping.store(true, Ordering::Relaxed);
    tasks.join_all().await;
    let again = std::mem::take(&mut *figures.again.lock().unwrap());
    again.join_all().await;
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "{{\"writes\":{},\"sendings\":{},\"unknown\":{},\"violations\":{}}}",
        get(&figures.writes),
        get(&figures.sendings),
        get(&figures.unknown),
        get(&figures.violations),
    );
    std::process::exit(i32::from(get(&figures.violations) > 0));
}
