//! `batch load`: streams newline-delimited JSON into the cluster.
//!
//! A thread reads lines into batches; several batches are under way at a time ([`send`] says what keeps two
//! lines of one key in order). Memory is bounded by the number of batches, whatever the file's size. The
//! place before which everything is acknowledged moves forward as the oldest batches complete, and is
//! remembered beside the file ([`checkpoint`]).

mod batch;
mod checkpoint;
mod lines;
mod progress;
mod send;

pub(crate) use self::lines::LINE_BYTES_MAX;

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use paddock_client::Client;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::batch::Batch;
use self::checkpoint::{Checkpoint, Found};
use self::lines::Position;
use self::progress::Progress;
use self::send::{Acknowledged, LastProgress};
use crate::arguments::{Connection, Load};
use crate::exit::Interrupted;
use crate::output;
use crate::signals::Signals;

/// How many batches are under way at a time.
const BATCHES_IN_FLIGHT_MAX: usize = 8;

/// How many batches wait between the reading thread and the sending.
const BATCHES_QUEUED_MAX: usize = 2;

/// The size of the reads from the input.
const READ_BYTES: usize = 256 * 1024;

/// Runs the command.
pub(crate) async fn run(connection: &Connection, load: Load) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let from_stdin = load.file == Path::new("-");
    let file = if from_stdin { None } else { Some(open(&load.file)?) };
    // One attempt each: the loader repeats by its own rules, record by record.
    let client = connection.builder().attempts_max(1).connect().await?;
    let cluster = connection.connect().await?.cluster().await?;

    let checkpoint = match &file {
        Some(file) if file.metadata()?.is_file() => {
            Some(Checkpoint::of(&load.file, file, cluster.cluster_id)?)
        }
        _ => {
            output::note("this input cannot be resumed: after an interruption, load it from its beginning");
            None
        }
    };
    let from = checkpoint.as_ref().map_or(Ok(Position::default()), begin_at)?;
    let size_bytes = match (&file, &checkpoint) {
        (Some(file), Some(_)) => Some(file.metadata()?.len()),
        _ => None,
    };
    let batches = read(file, from, load.skip_bad_lines)?;
    let progress = Progress::begin(size_bytes, from, checkpoint);
    let loader = Loader {
        client,
        patience: Duration::from_secs(load.retry_seconds),
        batches,
        ended: None,
        waiting: None,
        keys_in_flight: HashSet::new(),
        in_flight: JoinSet::new(),
        last_progress: Arc::new(LastProgress::new()),
        progress,
    };
    loader.run(&mut signals, &load).await
}

fn open(path: &Path) -> anyhow::Result<File> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    anyhow::ensure!(!file.metadata()?.is_dir(), "{}: a directory, not a file", path.display());
    Ok(file)
}

/// Where an interrupted load of the same file goes on.
fn begin_at(checkpoint: &Checkpoint) -> anyhow::Result<Position> {
    match checkpoint.find()? {
        Found::Nothing => Ok(Position::default()),
        Found::Interrupted(position) => {
            output::note(format_args!(
                "going on after line {}, as far as all is acknowledged",
                position.lines
            ));
            Ok(position)
        }
        Found::Other(why) => {
            let path = checkpoint.path().display();
            output::note(format_args!("{path} is of no use ({why}): loading from the beginning"));
            Ok(Position::default())
        }
    }
}

/// Starts the reading thread. It is a plain thread, since a read of stdin may never return: the process
/// must be able to end all the same.
fn read(
    file: Option<File>,
    from: Position,
    skip_bad_lines: bool,
) -> anyhow::Result<mpsc::Receiver<anyhow::Result<Batch>>> {
    let (sender, receiver) = mpsc::channel(BATCHES_QUEUED_MAX);
    let reading: Box<dyn FnOnce() + Send> = match file {
        Some(mut file) => {
            if from.offset > 0 {
                file.seek(SeekFrom::Start(from.offset))?;
            }
            let input = BufReader::with_capacity(READ_BYTES, file);
            Box::new(move || batch::read(input, from, skip_bad_lines, &sender))
        }
        None => {
            let input = BufReader::with_capacity(READ_BYTES, std::io::stdin());
            Box::new(move || batch::read(input, from, skip_bad_lines, &sender))
        }
    };
    std::thread::Builder::new().name("load-reader".to_owned()).spawn(reading)?;
    Ok(receiver)
}

struct Loader {
    client: Client,
    patience: Duration,
    batches: mpsc::Receiver<anyhow::Result<Batch>>,
    /// Set when the input has no more batches: how it ended.
    ended: Option<anyhow::Result<()>>,
    /// The next batch, held back while a batch under way holds one of its keys.
    waiting: Option<Batch>,
    /// The keys of all batches under way, each in one of them only.
    keys_in_flight: HashSet<Bytes>,
    in_flight: JoinSet<anyhow::Result<Acknowledged>>,
    last_progress: Arc<LastProgress>,
    progress: Progress,
}

impl Loader {
    async fn run(mut self, signals: &mut Signals, load: &Load) -> anyhow::Result<()> {
        let outcome = tokio::select! {
            biased;
            () = signals.received() => None,
            outcome = self.send_all() => Some(outcome),
        };
        let resumable = self.progress.pause();
        match outcome {
            Some(Ok(())) => self.progress.finish(load.output),
            Some(Err(error)) => {
                self.progress.summary(load.output)?;
                Err(error)
            }
            None => {
                self.progress.summary(load.output)?;
                let hint = if resumable {
                    format!("run the same command again to go on ({} is loaded in part)", load.file.display())
                } else {
                    "the input was loaded in part, and cannot be resumed".to_owned()
                };
                Err(Interrupted { hint }.into())
            }
        }
    }

    /// Sends until the input has ended and everything of it is acknowledged. What stands before a bad line
    /// is loaded before the line is reported.
    async fn send_all(&mut self) -> anyhow::Result<()> {
        loop {
            self.begin_waiting();
            let may_read = self.ended.is_none() && self.waiting.is_none();
            tokio::select! {
                biased;
                Some(done) = self.in_flight.join_next() => {
                    let acknowledged = done.context("a sending task ended by itself")??;
                    for key in &acknowledged.keys {
                        self.keys_in_flight.remove(key);
                    }
                    self.progress.acknowledged(&acknowledged);
                }
                next = self.batches.recv(), if may_read => match next {
                    Some(Ok(batch)) => self.waiting = Some(batch),
                    Some(Err(error)) => self.ended = Some(Err(error)),
                    None => self.ended = Some(Ok(())),
                },
                // Neither branch is open: nothing is under way, and nothing is left to read.
                else => return self.ended.take().unwrap_or(Ok(())),
            }
        }
    }

    /// Sends the waiting batch, if there is room and no key of it is under way.
    fn begin_waiting(&mut self) {
        if self.in_flight.len() >= BATCHES_IN_FLIGHT_MAX {
            return;
        }
        let Some(batch) =
            self.waiting.take_if(|batch| batch.places.keys().all(|key| !self.keys_in_flight.contains(key)))
        else {
            return;
        };
        self.keys_in_flight.extend(batch.places.keys().cloned());
        let client = self.client.clone();
        let last_progress = Arc::clone(&self.last_progress);
        let patience = self.patience;
        self.in_flight.spawn(async move { send::send(&client, batch, &last_progress, patience).await });
    }
}
