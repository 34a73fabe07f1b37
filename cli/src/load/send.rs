//! Sends one batch until every record of it is acknowledged.
//!
//! A record that failed is sent again, also when its outcome is unknown, and under the same request id: it is written
//! once, and no attempt of it that is still on its way can land after a later line of the same key. A batch begins only
//! when no batch under way holds one of its keys: the earlier line is acknowledged by then.
//!
//! An id that the server no longer remembers is replaced: nothing that was sent under it can land any more, and to write
//! the same value twice leaves what writing it once would.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use paddock_client::{Client, Error, Mutation, RequestId};

use super::batch::{Batch, Loaded};
use super::lines::Position;

/// The wait before the first repetition; it doubles with each further one.
const BACKOFF_FIRST: Duration = Duration::from_millis(20);

/// The longest wait between two repetitions.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// A batch that was acknowledged.
pub(crate) struct Acknowledged {
    /// The batch's number.
    pub(crate) number: u64,
    /// The keys that are free again.
    pub(crate) keys: Vec<bytes::Bytes>,
    /// Lines that held a record.
    pub(crate) records: u64,
    /// Bytes of the values and keys that were sent, counted once.
    pub(crate) size_bytes: u64,
    /// Lines that were passed over.
    pub(crate) bad_lines: u64,
    /// How many records were sent again, each time counted.
    pub(crate) retries: u64,
    /// Where it ended.
    pub(crate) end: Position,
}

/// When anything was last acknowledged, by whichever batch.
pub(crate) struct LastProgress(Mutex<Instant>);

impl LastProgress {
    /// As if something had been acknowledged now.
    pub(crate) fn new() -> Self {
        LastProgress(Mutex::new(Instant::now()))
    }

    fn note(&self) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Instant::now();
    }

    /// How long nothing was acknowledged, since `began` at most.
    fn silent_for(&self, began: Instant) -> Duration {
        let last = *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        last.max(began).elapsed()
    }
}

/// Sends a batch until all of it is acknowledged; gives up when nothing at all was for `patience`.
pub(crate) async fn send(
    client: &Client,
    batch: Batch,
    progress: &LastProgress,
    patience: Duration,
) -> anyhow::Result<Acknowledged> {
    let began = Instant::now();
    let mut acknowledged = Acknowledged {
        number: batch.number,
        keys: batch.records.iter().map(|record| record.key.clone()).collect(),
        records: batch.records_read,
        size_bytes: batch.records.iter().map(|record| (record.key.len() + record.value.len()) as u64).sum(),
        bad_lines: batch.bad_lines,
        retries: 0,
        end: batch.end,
    };
    let mut pending: Vec<_> =
        batch.records.into_iter().map(|record| (client.request_id_for(&record.key), record)).collect();
    let mut backoff = BACKOFF_FIRST;
    while !pending.is_empty() {
        let before = pending.len();
        let (left, error) = attempt(client, pending).await?;
        pending = left;
        if pending.len() < before {
            progress.note();
            backoff = BACKOFF_FIRST;
        }
        let Some(error) = error else { continue };
        let silent = progress.silent_for(began);
        if silent >= patience {
            let line = pending.first().map_or(0, |(_, record)| record.line);
            let seconds = silent.as_secs();
            return Err(anyhow::Error::new(error)
                .context(format!("gave up at line {line}: nothing was acknowledged for {seconds} s")));
        }
        acknowledged.retries += pending.len() as u64;
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
    Ok(acknowledged)
}

/// Sends records once. Returns those that must be sent again, and why; fails if one never can succeed.
async fn attempt(
    client: &Client,
    pending: Vec<(RequestId, Loaded)>,
) -> anyhow::Result<(Vec<(RequestId, Loaded)>, Option<Error>)> {
    let mutation =
        |(id, record): &(RequestId, Loaded)| (*id, Mutation::put(record.key.clone(), record.value.clone()));
    let results = match client.batch_write_named(pending.iter().map(mutation).collect::<Vec<_>>()).await {
        Ok(results) => results,
        Err(error) if is_worth_repeating(&error) => return Ok((pending, Some(error))),
        Err(error) => return Err(error.into()),
    };
    let mut left = Vec::new();
    let mut why = None;
    for ((id, record), result) in pending.into_iter().zip(results) {
        match result {
            Ok(_) => {}
            Err(error) if is_worth_repeating(&error) => {
                left.push((id, record));
                why = Some(error);
            }
            Err(error @ Error::RequestIdRefused { clock_ms: Some(_), .. }) => {
                left.push((client.request_id_for(&record.key), record));
                why = Some(error);
            }
            Err(error) => {
                return Err(anyhow::Error::new(error).context(format!("line {}", record.line)));
            }
        }
    }
    Ok((left, why))
}

/// A full disk may be given room while we wait.
fn is_worth_repeating(error: &Error) -> bool {
    error.is_transient() || matches!(error, Error::DiskFull { .. })
}
