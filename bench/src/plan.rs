//! How much is run, and for how long.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::engine::Name;

/// A group of measurements that share one process per engine and round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// Load, YCSB A to F and uniform reads with values of 100 B; data in memory, writes not synced.
    Small,
    /// The same with values of 1 KiB.
    Large,
    /// Single writes, each synced.
    Synced,
    /// Start after a crash.
    Crash,
    /// Space and written bytes after overwriting everything.
    Overwrite,
    /// Reads and updates of data larger than memory.
    Beyond,
    /// Latency of reads under a steady load, while whatever goes on behind the scenes goes on.
    Steady,
}

/// Flags of a run; what is not given is as in the default or the full plan.
#[derive(Args, Clone, Debug)]
pub struct PlanFlags {
    /// Sizes for figures to publish: hours instead of minutes
    #[arg(long)]
    full: bool,
    /// How often each measurement is made
    #[arg(long)]
    rounds: Option<u32>,
    /// How long each mix runs, in seconds
    #[arg(long)]
    seconds: Option<f64>,
    /// Rows of 100 B
    #[arg(long)]
    small_rows: Option<u64>,
    /// Rows of 1 KiB
    #[arg(long)]
    large_rows: Option<u64>,
    /// Threads for load and mixes
    #[arg(long, value_delimiter = ',')]
    threads: Option<Vec<u64>>,
    /// Threads that write synced rows
    #[arg(long, value_delimiter = ',')]
    synced_threads: Option<Vec<u64>>,
    /// Caches and write buffers of each engine while data fits into memory
    #[arg(long)]
    cache_mib: Option<u64>,
    /// Data where it is larger than memory
    #[arg(long)]
    beyond_mib: Option<u64>,
    /// How many times larger than the memory for all of an engine it is
    #[arg(long, value_delimiter = ',')]
    beyond_factors: Option<Vec<f64>>,
    /// Threads that read data larger than memory
    #[arg(long)]
    beyond_threads: Option<u64>,
    /// Rows that are there after the crash
    #[arg(long)]
    crash_rows: Option<u64>,
    /// Where to keep what crashed: each engine loads and is killed once only, and every round starts on a copy of that
    #[arg(long)]
    crash_kept: Option<PathBuf>,
    /// Rows that are overwritten
    #[arg(long)]
    overwrite_rows: Option<u64>,
    /// How often they all are
    #[arg(long)]
    overwrite_passes: Option<u64>,
    /// Which mixes of the scenarios small and large, by their first letters: R (uniform reads), A, B, C, D, E, F
    #[arg(long, value_delimiter = ',')]
    mixes: Option<Vec<char>>,
    /// Where all random numbers come from
    #[arg(long)]
    seed: Option<u64>,
    /// How long an engine may take for one scenario, in seconds
    #[arg(long)]
    timeout_seconds: Option<u64>,
    /// Which engines
    #[arg(long, value_enum, value_delimiter = ',')]
    engines: Option<Vec<Name>>,
    /// Which scenarios
    #[arg(long, value_enum, value_delimiter = ',')]
    scenarios: Option<Vec<Scenario>>,
}

/// What is run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "PlanFlags describes each field")]
pub struct Plan {
    pub rounds: u32,
    pub seconds: f64,
    pub small_rows: u64,
    pub large_rows: u64,
    pub threads: Vec<u64>,
    pub synced_threads: Vec<u64>,
    pub cache_mib: u64,
    pub beyond_mib: u64,
    pub beyond_factors: Vec<f64>,
    pub beyond_threads: u64,
    pub crash_rows: u64,
    #[serde(default)]
    pub crash_kept: Option<PathBuf>,
    pub overwrite_rows: u64,
    pub overwrite_passes: u64,
    pub mixes: Vec<char>,
    pub seed: u64,
    pub timeout_seconds: u64,
    pub engines: Vec<Name>,
    pub scenarios: Vec<Scenario>,
}

impl PlanFlags {
    /// The plan that the flags ask for.
    pub fn plan(self) -> Plan {
        let base = if self.full { Plan::full() } else { Plan::default() };
        Plan {
            rounds: self.rounds.unwrap_or(base.rounds).max(1),
            seconds: self.seconds.unwrap_or(base.seconds),
            small_rows: self.small_rows.unwrap_or(base.small_rows),
            large_rows: self.large_rows.unwrap_or(base.large_rows),
            threads: self.threads.unwrap_or(base.threads),
            synced_threads: self.synced_threads.unwrap_or(base.synced_threads),
            cache_mib: self.cache_mib.unwrap_or(base.cache_mib),
            beyond_mib: self.beyond_mib.unwrap_or(base.beyond_mib),
            beyond_factors: self.beyond_factors.unwrap_or(base.beyond_factors),
            beyond_threads: self.beyond_threads.unwrap_or(base.beyond_threads),
            crash_rows: self.crash_rows.unwrap_or(base.crash_rows),
            crash_kept: self.crash_kept,
            overwrite_rows: self.overwrite_rows.unwrap_or(base.overwrite_rows),
            overwrite_passes: self.overwrite_passes.unwrap_or(base.overwrite_passes),
            mixes: self.mixes.unwrap_or(base.mixes),
            seed: self.seed.unwrap_or(base.seed),
            timeout_seconds: self.timeout_seconds.unwrap_or(base.timeout_seconds),
            engines: self.engines.unwrap_or(base.engines),
            scenarios: self.scenarios.unwrap_or(base.scenarios),
        }
    }
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            rounds: 5,
            seconds: 0.3,
            small_rows: 200_000,
            large_rows: 50_000,
            threads: vec![1, 2],
            synced_threads: vec![1, 2, 16, 64],
            cache_mib: 256,
            beyond_mib: 512,
            beyond_factors: vec![4.0, 2.5],
            beyond_threads: 32,
            crash_rows: 200_000,
            crash_kept: None,
            overwrite_rows: 50_000,
            overwrite_passes: 5,
            mixes: "RABCDEF".chars().collect(),
            seed: 1,
            timeout_seconds: 120,
            engines: Name::ALL.into_iter().filter(|engine| engine.is_built()).collect(),
            scenarios: Scenario::value_variants().to_vec(),
        }
    }
}

impl Plan {
    /// For figures to publish.
    fn full() -> Plan {
        Plan {
            seconds: 5.0,
            small_rows: 1_000_000,
            large_rows: 1_000_000,
            cache_mib: 2_048,
            beyond_mib: 4_096,
            crash_rows: 10_000_000,
            overwrite_rows: 1_000_000,
            timeout_seconds: 3_600,
            ..Plan::default()
        }
    }

    /// Rows of 1 KiB where they are larger than memory.
    pub fn beyond_rows(&self) -> u64 {
        (self.beyond_mib << 20) / 1_024
    }

    /// Memory for all of an engine that holds data so many times larger.
    pub fn budget_bytes(&self, factor: f64) -> u64 {
        ((self.beyond_mib << 20) as f64 / factor.max(1.0)) as u64
    }

    /// The smallest of those budgets.
    pub fn budget_bytes_min(&self) -> u64 {
        let budgets = self.beyond_factors.iter().map(|factor| self.budget_bytes(*factor));
        budgets.min().unwrap_or(self.beyond_mib << 20)
    }
}
