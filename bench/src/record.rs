//! The lines of a results file: one for the run, then one for each measurement or failure.

use serde::{Deserialize, Serialize};

use crate::engine::Name;
use crate::machine::Machine;
use crate::plan::Plan;

/// A line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub enum Line {
    /// The first one.
    Run(Box<Run>),
    /// What was measured once.
    Measurement(Measurement),
    /// What an engine did not get through.
    Failure(Failure),
}

/// What all lines have in common.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// When it began, in seconds since 1970.
    pub began_unix_s: u64,
    /// What was typed.
    pub command: String,
    /// The commit that was measured; ends with "+" if there were changes not committed.
    pub commit: String,
    /// Where.
    pub machine: Machine,
    /// The engines with their versions, in the table's order.
    pub engines: Vec<(Name, String)>,
    /// Sizes and times.
    pub plan: Plan,
    /// Whether data larger than memory was held to its budget by the kernel.
    pub budget_enforced: bool,
}

/// One row of one engine in one round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measurement {
    /// The row of the table.
    pub row: String,
    /// Whose.
    pub engine: Name,
    /// Counted from 0.
    pub round: u32,
    /// The result.
    pub value: f64,
    /// What it is.
    pub unit: Unit,
    /// What it took.
    pub cost: Cost,
}

/// What a figure is, and whether more of it is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    /// Operations per second: more is better.
    PerSecond,
    /// Seconds: less is better.
    Seconds,
    /// A multiple of what is necessary: less is better.
    Times,
    /// Thousandths of a second: less is better.
    Milliseconds,
    /// Bytes: less is better.
    Bytes,
}

/// What a measurement took.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Cost {
    /// How many operations it was.
    pub operations: u64,
    /// Processor time of all threads per operation, background work included.
    pub processor_us_per_operation: Option<f64>,
    /// Half of the sampled operations took no longer.
    pub p50_us: Option<f64>,
    /// Of 100 sampled operations 99 took no longer.
    pub p99_us: Option<f64>,
    /// Of 1000 sampled operations 999 took no longer.
    #[serde(default)]
    pub p999_us: Option<f64>,
    /// The longest of the sampled operations.
    #[serde(default)]
    pub longest_us: Option<f64>,
    /// The largest resident size of the process so far.
    pub resident_bytes_max: Option<u64>,
    /// Bytes given to the disk during it.
    pub written_bytes: Option<u64>,
}

/// An engine that did not get through.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// Through what.
    pub scenario: String,
    /// Which engine.
    pub engine: Name,
    /// Counted from 0.
    pub round: u32,
    /// Why.
    pub reason: String,
}
