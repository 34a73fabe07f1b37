//! The scrub: this node reads the files of its replicas again and again, a little at a time, and verifies them, so that damage is found
//! while others still hold what is damaged, and not when somebody asks for it.
//!
//! One replica after the other, at most at the rate that the operator set for the whole node, and slower while fsyncs take longer than
//! they did before ([`Pace`]). A round of a replica begins `every` after its last one began, so a node whose disks hold less than the
//! rate reads in that time sees every byte once in it.
//!
//! What is found the store notes, and the replica's owner loop acts on it. A round that ends with the process begins anew with the next
//! one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use paddock_coordination::PartitionId;
use paddock_storage::{ScrubPosition, Scrubbed, Scrubber};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::Notify;
use tracing::{debug, error, info, warn};
use ulid::Ulid;

use crate::clock;
use crate::snapshot::{Foreground, Pace};

/// How fast a node reads its files if nothing else is said: some 650 GiB a day.
pub const BYTES_PER_SECOND: u64 = 8 << 20;
/// How often every file is read if nothing else is said.
pub const EVERY: Duration = Duration::from_secs(24 * 60 * 60);
/// How much is read at a time.
const STEP_BYTES: u64 = 512 << 10;
/// A replica that was just started has other things to do, and others wait for it.
const START_DELAY: Duration = Duration::from_secs(60);
/// The pause before a round that failed is tried again.
const RETRY: Duration = Duration::from_secs(60);
/// How often it is looked whether there is a new replica.
const LOOK: Duration = Duration::from_secs(1);

/// How a node verifies what it keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubOptions {
    /// How many bytes to read in a second at most; 0: nothing is read but what an operator asks for.
    pub bytes_per_second: u64,
    /// How often every file is read.
    pub every: Duration,
}

impl Default for ScrubOptions {
    fn default() -> Self {
        ScrubOptions { bytes_per_second: BYTES_PER_SECOND, every: EVERY }
    }
}

/// What is counted of it.
#[derive(Clone, Debug, Default)]
pub struct ScrubMetrics {
    /// Bytes that were read.
    pub bytes: Counter,
    /// Rounds that were completed, of any replica.
    pub rounds: Counter,
}

/// How the scrub of one replica stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubStatus {
    /// When the last round was complete, in milliseconds since 1970.
    pub completed_at_ms: Option<u64>,
    /// Bytes that the last complete round read.
    pub completed_bytes: u64,
    /// Bytes that the round under way has read; `None`: none is.
    pub running_bytes: Option<u64>,
    /// How many damaged files were found since the replica was started.
    pub damaged_files: u64,
    /// The one that was found last, and what is wrong with it.
    pub last_damage: Option<String>,
}

/// The same, for those who ask.
#[derive(Debug, Default)]
pub struct ScrubCell {
    status: Mutex<ScrubStatus>,
    /// How far the round is.
    position: Mutex<ScrubPosition>,
    /// When the next round is to begin; `None`: now.
    due: Mutex<Option<Instant>>,
}

impl ScrubCell {
    /// How it stands.
    #[must_use]
    pub fn status(&self) -> ScrubStatus {
        self.status.lock().clone()
    }
}

/// What the scrub of one node shares.
#[derive(Debug)]
pub struct Scrubbing {
    options: ScrubOptions,
    pace: Pace,
    metrics: ScrubMetrics,
    /// By the partition's life, so that a replica that is started again goes on.
    cells: Mutex<BTreeMap<Ulid, Arc<ScrubCell>>>,
    /// Partitions that an operator wants to be read now.
    asked: Mutex<BTreeSet<PartitionId>>,
    bell: Notify,
}

/// A replica as the scrub sees it.
pub struct Subject {
    /// The partition.
    pub partition: PartitionId,
    /// What reads its store, of now.
    pub scrubber: Arc<Scrubber>,
    /// Where it is told of.
    pub cell: Arc<ScrubCell>,
}

impl Scrubbing {
    /// One that reads nothing yet.
    #[must_use]
    pub fn new(options: ScrubOptions, foreground: Arc<Foreground>, metrics: ScrubMetrics) -> Self {
        // What an operator asks for has a rate in any case.
        let bytes_per_second = match options.bytes_per_second {
            0 => BYTES_PER_SECOND,
            bytes => bytes,
        };
        Scrubbing {
            options,
            pace: Pace::new(bytes_per_second, foreground),
            metrics,
            cells: Mutex::default(),
            asked: Mutex::default(),
            bell: Notify::new(),
        }
    }

    /// The cell of a replica.
    #[must_use]
    pub fn replica(&self, partition_uuid: Ulid) -> Arc<ScrubCell> {
        let due = Instant::now() + self.options.every.min(START_DELAY);
        let begin = || Arc::new(ScrubCell { due: Mutex::new(Some(due)), ..ScrubCell::default() });
        Arc::clone(self.cells.lock().entry(partition_uuid).or_insert_with(begin))
    }

    /// Has a partition's files read now, in place of the round that would be next.
    pub fn ask(&self, partition: PartitionId) {
        self.asked.lock().insert(partition);
        self.bell.notify_one();
    }

    /// Reads for ever; `subjects` says which replicas there are. To be dropped when the node stops.
    pub async fn run(&self, subjects: impl Fn() -> Vec<Subject>) {
        loop {
            let next = subjects().into_iter().filter(|subject| self.is_due(subject)).min_by_key(|subject| {
                (!self.asked.lock().contains(&subject.partition), *subject.cell.due.lock())
            });
            match next {
                Some(subject) => self.round(&subject, &subjects).await,
                None => {
                    tokio::select! {
                        () = tokio::time::sleep(LOOK) => {}
                        () = self.bell.notified() => {}
                    }
                }
            }
        }
    }

    fn is_due(&self, subject: &Subject) -> bool {
        let is_asked = self.asked.lock().contains(&subject.partition);
        let is_time = subject.cell.due.lock().is_none_or(|due| due <= Instant::now());
        is_asked || (self.options.bytes_per_second > 0 && is_time)
    }

    /// Reads all files of a replica.
    async fn round(&self, subject: &Subject, subjects: &impl Fn() -> Vec<Subject>) {
        let Subject { partition, scrubber: origin, cell } = subject;
        let is_asked = self.asked.lock().remove(partition);
        let position = if is_asked { ScrubPosition::default() } else { *cell.position.lock() };
        let mut scrubber = Scrubber::clone(origin).resume(position);
        let begun = Instant::now();
        *cell.due.lock() = Some(begun + self.options.every);
        let mut bytes = 0;
        cell.status.lock().running_bytes = Some(0);
        debug!(%partition, "verifying all files");
        loop {
            let step = tokio::task::spawn_blocking(move || {
                let stepped = scrubber.step(STEP_BYTES);
                (scrubber, stepped)
            });
            let underway = self.pace.begin();
            let (returned, stepped) = match step.await {
                Ok(done) => done,
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            };
            drop(underway);
            scrubber = returned;
            let scrubbed = match stepped {
                Ok(scrubbed) => scrubbed,
                Err(error) => {
                    warn!(%partition, %error, "the files could not be verified: later again");
                    *cell.due.lock() = Some(Instant::now() + RETRY);
                    break;
                }
            };
            bytes += scrubbed.bytes;
            self.metrics.bytes.inc_by(scrubbed.bytes);
            *cell.position.lock() = scrubber.position();
            note(*partition, cell, bytes, &scrubbed);
            if scrubbed.is_complete {
                self.metrics.rounds.inc();
                let mut status = cell.status.lock();
                (status.completed_at_ms, status.completed_bytes) = (Some(clock::wall_clock_ms()), bytes);
                info!(%partition, bytes, seconds = begun.elapsed().as_secs(), "all files were verified");
                break;
            }
            self.pace.take(usize::try_from(scrubbed.bytes).unwrap_or(usize::MAX)).await;
            let now = subjects().into_iter().find(|subject| subject.partition == *partition);
            if now.is_none_or(|now| !Arc::ptr_eq(&now.scrubber, origin)) {
                // Another store is in its place, or none: its files are others.
                (*cell.position.lock(), *cell.due.lock()) = (ScrubPosition::default(), None);
                break;
            }
        }
        cell.status.lock().running_bytes = None;
    }
}

fn note(partition: PartitionId, cell: &ScrubCell, bytes: u64, scrubbed: &Scrubbed) {
    let mut status = cell.status.lock();
    status.running_bytes = Some(bytes);
    let Some(damage) = &scrubbed.damage else { return };
    if scrubbed.is_spare {
        warn!(%partition, %damage, "a checkpoint of the index is damaged: nothing is lost, the next start takes longer");
        return;
    }
    // The owner loop hears of it by the store.
    error!(%partition, %damage, "the scrub has found damage");
    status.damaged_files += 1;
    status.last_damage = Some(damage.to_string());
}
