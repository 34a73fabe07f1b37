//! How far the load is: for the person at the terminal, for the next run, and for the summary.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::checkpoint::Checkpoint;
use super::lines::Position;
use super::send::Acknowledged;
use crate::arguments::Format;
use crate::output;

/// How often the checkpoint is written, at most.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);

/// What the load did, in one object.
#[derive(Serialize)]
struct Summary {
    records: u64,
    bytes: u64,
    seconds: f64,
    records_per_second: f64,
    retries: u64,
    bad_lines: u64,
}

/// How far the load is.
pub(crate) struct Progress {
    bar: ProgressBar,
    began: Instant,
    records: u64,
    size_bytes: u64,
    retries: u64,
    bad_lines: u64,
    /// Batches that are acknowledged while an earlier one is not: number → where each ends.
    ahead: BTreeMap<u64, Position>,
    /// The oldest batch that is not acknowledged.
    next: u64,
    /// Everything before this place is acknowledged.
    position: Position,
    checkpoint: Option<Checkpoint>,
    checkpointed: Instant,
}

impl Progress {
    /// Begins at a place in an input of so many bytes, if that is known.
    pub(crate) fn begin(size_bytes: Option<u64>, from: Position, checkpoint: Option<Checkpoint>) -> Self {
        let bar = match size_bytes {
            Some(size_bytes) => ProgressBar::new(size_bytes).with_style(style(
                "{wide_bar} {percent:>3}%  {binary_bytes}/{binary_total_bytes}  {msg}  ETA {eta}",
            )),
            None => ProgressBar::no_length().with_style(style("{spinner} {binary_bytes}  {msg}")),
        };
        let bar = bar.with_position(from.offset);
        // The rate and ETA count from here, not from the file's beginning.
        bar.reset_eta();
        let now = Instant::now();
        Progress {
            bar,
            began: now,
            records: 0,
            size_bytes: 0,
            retries: 0,
            bad_lines: 0,
            ahead: BTreeMap::new(),
            next: 0,
            position: from,
            checkpoint,
            checkpointed: now,
        }
    }

    /// Counts a batch that was acknowledged.
    pub(crate) fn acknowledged(&mut self, batch: &Acknowledged) {
        self.records += batch.records;
        self.size_bytes += batch.size_bytes;
        self.retries += batch.retries;
        self.bad_lines += batch.bad_lines;
        self.ahead.insert(batch.number, batch.end);
        while let Some(end) = self.ahead.remove(&self.next) {
            self.next += 1;
            self.position = end;
        }
        self.bar.set_position(self.position.offset);
        self.bar.set_message(format!("{} records, {:.0}/s", self.records, self.rate()));
        if self.checkpointed.elapsed() >= CHECKPOINT_INTERVAL {
            self.save();
        }
    }

    /// Takes the bar away and remembers the place. Returns whether the load can go on from it.
    pub(crate) fn pause(&mut self) -> bool {
        self.bar.finish_and_clear();
        self.save();
        self.checkpoint.is_some()
    }

    /// Forgets the place, since all is done, and prints the summary.
    pub(crate) fn finish(&mut self, format: Format) -> anyhow::Result<()> {
        if let Some(checkpoint) = &self.checkpoint {
            checkpoint.remove()?;
        }
        self.summary(format)
    }

    /// Prints what was done, on stderr.
    pub(crate) fn summary(&self, format: Format) -> anyhow::Result<()> {
        let summary = Summary {
            records: self.records,
            bytes: self.size_bytes,
            seconds: self.began.elapsed().as_secs_f64(),
            records_per_second: self.rate(),
            retries: self.retries,
            bad_lines: self.bad_lines,
        };
        match format {
            Format::Json => output::note(serde_json::to_string(&summary)?),
            Format::Table => output::note(format_args!(
                "loaded {} records, {} bytes in {:.1} s ({:.0}/s); {} sent again, {} bad lines",
                summary.records,
                summary.bytes,
                summary.seconds,
                summary.records_per_second,
                summary.retries,
                summary.bad_lines
            )),
        }
        Ok(())
    }

    fn rate(&self) -> f64 {
        self.records as f64 / self.began.elapsed().as_secs_f64().max(0.001)
    }

    /// Writes the checkpoint. Where that is impossible the load goes on without, and says so once.
    fn save(&mut self) {
        self.checkpointed = Instant::now();
        if let Some(checkpoint) = &self.checkpoint
            && let Err(error) = checkpoint.save(self.position)
        {
            let path = checkpoint.path().display();
            self.bar.suspend(|| {
                output::note(format_args!("{path}: {error}: this load cannot be resumed"));
            });
            self.checkpoint = None;
        }
    }
}

/// A bar without colours. The templates are constants, so a wrong one shows in the first test that loads.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
