//! Many seeds, on all processors.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::simulation::{Report, run};

/// What came of all seeds that went well.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    /// How many seeds.
    pub seeds: u64,
    /// Operations of clients.
    pub operations: u64,
    /// Those of which nobody knows.
    pub unknown: u64,
    /// Entries committed.
    pub committed: u64,
    /// Reigns.
    pub epochs: u64,
    /// Faults that were done.
    pub faults: u64,
    /// Starts of servers.
    pub boots: u64,
    /// Histories that were too tangled to be judged.
    pub undecided: u64,
    /// The longest that a cluster took to mend, in simulated milliseconds.
    pub mended_ms_max: u64,
}

impl Sums {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.operations += report.operations;
        self.unknown += report.unknown;
        self.committed += report.committed;
        self.epochs += report.epochs;
        self.faults += report.faults;
        self.boots += report.boots;
        self.undecided += report.undecided;
        self.mended_ms_max = self.mended_ms_max.max(report.mended_ms);
    }
}

/// Runs seeds until one fails, on as many threads as there are processors. Gives what came of them, and the first that
/// failed. `progress` is called after each, with how many are done.
pub fn run_all(first: u64, seeds: u64, progress: impl Fn(u64) + Sync) -> (Sums, Option<u64>) {
    let (next, end) = (AtomicU64::new(first), first.saturating_add(seeds));
    let (sums, failed) = (Mutex::new(Sums::default()), Mutex::new(None::<u64>));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while failed.lock().is_none() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    match run(seed, 0) {
                        Ok(report) => sums.lock().add(&report),
                        Err(_) => {
                            let mut failed = failed.lock();
                            *failed = Some(failed.map_or(seed, |other| other.min(seed)));
                        }
                    }
                    let done = sums.lock().seeds;
                    progress(done);
                }
            });
        }
    });
    (sums.into_inner(), failed.into_inner())
}
