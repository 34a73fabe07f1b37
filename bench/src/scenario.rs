//! One scenario of one engine in one round, in a process of its own.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::budget::Budget;
use crate::distribution::Random;
use crate::driver::{Driver, Outcome};
use crate::engine::{Durability, Engine, Name, Options};
use crate::measure;
use crate::mix::{Mix, READ_UNIFORM, READ_ZIPFIAN, UPDATE_HALF, UPDATE_UNIFORM, YCSB};
use crate::plan::{Plan, Scenario};
use crate::record::{Cost, Line, Measurement, Unit};

/// Rows in each batch of a load.
const LOAD_BATCH_ROWS: u64 = 100;
/// Rows in each synced batch.
const SYNCED_BATCH_ROWS: u64 = 1_000;
const SYNCED_ROWS: u64 = 10_000;
const DELETES: u64 = 50;
const CHECKED_ROWS: u64 = 1_000;
const SMALL_VALUE_BYTES: usize = 100;
const LARGE_VALUE_BYTES: usize = 1_024;
/// The steady load, as a part of the most that the engine did just before.
const STEADY_LOAD: f64 = 0.8;
/// How many times longer it lasts than a mix: what goes on behind the scenes does so now and then.
const STEADY_FACTOR: u32 = 4;
/// The key of the mixes that scan.
const SCANS: &str = "E";

/// What a crash leaves to its child to say: everything is durable that will be counted.
pub const READY: &str = "ready";

/// What a process is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    /// Which part.
    pub part: Part,
    /// With which engine.
    pub engine: Name,
    /// Counted from 0.
    pub round: u32,
    /// The engine's directory, which exists.
    pub directory: PathBuf,
    /// The members file of the memory budget to join.
    pub budget: Option<PathBuf>,
    /// Sizes and times.
    pub plan: Plan,
}

/// A scenario, or the half of one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Part {
    /// All of it in one process.
    Whole(Scenario),
    /// Loads, says [`READY`], and writes until it is killed.
    CrashLoad,
    /// Starts on what that left.
    CrashStart,
    /// Loads what is to be larger than memory, before there is a budget.
    BeyondLoad,
    /// Works on that, so many times larger than the budget.
    Beyond(f64),
}

impl Task {
    /// Does it, and writes measurements to standard output.
    pub fn perform(&self) -> Result<()> {
        // Whoever waits for this process may be killed: nobody would end it then.
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        if let Some(members) = &self.budget {
            Budget::join(members)?;
        }
        let plan = &self.plan;
        match self.part {
            Part::Whole(Scenario::Small) => self.mixes("100 B", SMALL_VALUE_BYTES, plan.small_rows),
            Part::Whole(Scenario::Large) => self.mixes("1 KiB", LARGE_VALUE_BYTES, plan.large_rows),
            Part::Whole(Scenario::Synced) => self.synced(),
            Part::Whole(Scenario::Steady) => self.steady(),
            Part::Whole(Scenario::Overwrite) => self.overwrite(),
            Part::Whole(Scenario::Crash) | Part::CrashLoad => self.crash_load(),
            Part::CrashStart => self.crash_start(),
            Part::Whole(Scenario::Beyond) | Part::BeyondLoad => self.beyond_load(),
            Part::Beyond(factor) => self.beyond(factor),
        }
    }

    /// Loads with each number of threads anew; what the last ones loaded, every mix works on.
    fn mixes(&self, size: &str, value_bytes: usize, rows: u64) -> Result<()> {
        let Some((&most, fewer)) = self.plan.threads.split_last() else { return Ok(()) };
        for &threads in fewer {
            self.loaded(size, value_bytes, rows, threads)?.1.close()?;
        }
        let (driver, mut engine) = self.loaded(size, value_bytes, rows, most)?;
        driver.check_all(&*engine)?;
        driver.check_deletes(&*engine, DELETES)?;
        let wanted = |mix: &Mix| self.plan.mixes.iter().any(|letter| mix.is_called(*letter));
        for mix in std::iter::once(READ_UNIFORM).chain(YCSB).filter(wanted) {
            if mix.name.starts_with(SCANS) {
                engine.compact()?;
            }
            for &threads in &self.plan.threads {
                let outcome = driver.run(&*engine, mix, threads, self.duration())?;
                self.report(&format!("{size}, {}: {}", plural(threads), mix.name), outcome)?;
            }
        }
        self.index_bytes(size, &*engine, driver.rows_now())?;
        engine.close()
    }

    /// An engine in a directory of its own that was just loaded.
    fn loaded(
        &self,
        size: &str,
        value_bytes: usize,
        rows: u64,
        threads: u64,
    ) -> Result<(Driver, Box<dyn Engine>)> {
        let driver = Driver::new(rows, value_bytes, self.plan.seed)?;
        let directory = self.directory.join(threads.to_string());
        std::fs::create_dir(&directory)?;
        let engine = self.engine.open(&directory, self.buffered(self.plan.cache_mib << 20))?;
        let outcome = driver.load(&*engine, threads, LOAD_BATCH_ROWS, 0)?;
        self.report(&format!("{size}, {}: load", plural(threads)), outcome)?;
        engine.flush()?;
        Ok((driver, engine))
    }

    fn index_bytes(&self, what: &str, engine: &dyn Engine, rows: u64) -> Result<()> {
        let Some(bytes) = engine.index_bytes()? else { return Ok(()) };
        let row = format!("{what}: memory of the index per row");
        self.put(&row, bytes as f64 / rows as f64, Unit::Bytes, Cost::default())
    }

    /// First as fast as it goes, then at a steady part of that.
    fn steady(&self) -> Result<()> {
        let plan = &self.plan;
        let threads = plan.threads.last().copied().unwrap_or(1);
        let driver = Driver::new(plan.large_rows, LARGE_VALUE_BYTES, plan.seed)?;
        let engine = self.engine.open(&self.directory, self.buffered(plan.cache_mib << 20))?;
        driver.load(&*engine, threads, LOAD_BATCH_ROWS, 0)?;
        let most = driver.run(&*engine, UPDATE_HALF, threads, STEADY_FACTOR * self.duration())?.per_second;
        let duration = STEADY_FACTOR * self.duration();
        let outcome = driver.run_steadily(&*engine, UPDATE_HALF, threads, STEADY_LOAD * most, duration)?;
        let percent = STEADY_LOAD * 100.0;
        let name = format!("1 KiB, {}, half updates, {percent}% of its own rate", plural(threads));
        let cost = outcome.cost;
        let figure = |what: &str, us: Option<f64>| {
            let us = us.context("no reads")?;
            self.put(&format!("{name}: {what}"), us / 1e3, Unit::Milliseconds, cost.clone())
        };
        figure("reads, 99.9th percentile", cost.p999_us)?;
        figure("reads, longest", cost.longest_us)?;
        driver.check_all(&*engine)?;
        engine.close()
    }

    fn synced(&self) -> Result<()> {
        let driver = Driver::new(SYNCED_ROWS, SMALL_VALUE_BYTES, self.plan.seed)?;
        let engine = self.engine.open(&self.directory, self.synced_options())?;
        driver.load(&*engine, 1, SYNCED_BATCH_ROWS, 0)?;
        for &threads in &self.plan.synced_threads {
            let outcome = driver.run(&*engine, UPDATE_UNIFORM, threads, self.duration())?;
            self.report(&format!("100 B, fsync after each write: {}", plural(threads)), outcome)?;
        }
        driver.check_all(&*engine)?;
        engine.close()
    }

    fn beyond_load(&self) -> Result<()> {
        let driver = Driver::new(self.plan.beyond_rows(), LARGE_VALUE_BYTES, self.plan.seed)?;
        let engine = self.engine.open(&self.directory, self.buffered(self.plan.budget_bytes_min() / 2))?;
        driver.load(&*engine, 1, LOAD_BATCH_ROWS, 0)?;
        engine.close()
    }

    fn beyond(&self, factor: f64) -> Result<()> {
        let plan = &self.plan;
        let driver = Driver::new(plan.beyond_rows(), LARGE_VALUE_BYTES, plan.seed)?;
        // Half for the engine's own caches; the rest is for its index, the page cache and the process itself.
        let engine = self.engine.open(&self.directory, self.buffered(plan.budget_bytes(factor) / 2))?;
        let name = format!("1 KiB, {factor} times the memory");
        for mix in [READ_UNIFORM, READ_ZIPFIAN, YCSB[0]] {
            let outcome = driver.run(&*engine, mix, plan.beyond_threads, 2 * self.duration())?;
            self.report(&format!("{name}, {}: {}", plural(plan.beyond_threads), mix.name), outcome)?;
        }
        self.index_bytes(&name, &*engine, plan.beyond_rows())?;
        // All of it would take longer than what is measured; every read above was checked, too.
        for number in 0..CHECKED_ROWS {
            driver.read(&*engine, number, true)?;
        }
        engine.close()
    }

    fn overwrite(&self) -> Result<()> {
        let plan = &self.plan;
        let driver = Driver::new(plan.overwrite_rows, LARGE_VALUE_BYTES, plan.seed)?;
        let written_before = measure::written_bytes()?;
        let engine = self.engine.open(&self.directory, self.synced_options())?;
        driver.load(&*engine, 1, SYNCED_BATCH_ROWS, 0)?;
        let mut space_max = 0;
        let (processor, began) = (measure::processor_time(), Instant::now());
        for pass in 0..plan.overwrite_passes {
            driver.load(&*engine, 1, SYNCED_BATCH_ROWS, pass + 1)?;
            space_max = space_max.max(measure::disk_bytes(&self.directory)?);
        }
        let (elapsed, processor) = (began.elapsed(), measure::processor_time() - processor);
        driver.check_all(&*engine)?;
        driver.check_generation(&*engine, CHECKED_ROWS, plan.overwrite_passes)?;
        engine.close()?;
        let written = measure::written_bytes()? - written_before;

        let live = driver.bytes() as f64;
        let stored = live * (1 + plan.overwrite_passes) as f64;
        let operations = plan.overwrite_rows * plan.overwrite_passes;
        let cost = Cost {
            operations,
            processor_us_per_operation: Some(processor.as_secs_f64() * 1e6 / operations as f64),
            resident_bytes_max: Some(measure::resident_bytes_max()?),
            written_bytes: Some(written),
            ..Cost::default()
        };
        let name = format!("1 KiB, everything overwritten {} times", plan.overwrite_passes);
        self.put(
            &format!("{name}, fsync per 1000 rows"),
            operations as f64 / elapsed.as_secs_f64(),
            Unit::PerSecond,
            cost,
        )?;
        let figure =
            |what: &str, value| self.put(&format!("{name}: {what}"), value, Unit::Times, Cost::default());
        figure("most space / live data", space_max as f64 / live)?;
        figure("space after closing / live data", measure::disk_bytes(&self.directory)? as f64 / live)?;
        figure("bytes written / bytes stored", written as f64 / stored)
    }

    fn crash_load(&self) -> Result<()> {
        let driver = Driver::new(self.plan.crash_rows, SMALL_VALUE_BYTES, self.plan.seed)?;
        let engine = self.engine.open(&self.directory, self.synced_options())?;
        driver.load(&*engine, 1, SYNCED_BATCH_ROWS, 0)?;
        let mut output = std::io::stdout().lock();
        writeln!(output, "{READY}")?;
        output.flush()?;
        // Until the kill.
        loop {
            driver.run(&*engine, UPDATE_UNIFORM, 1, self.duration())?;
        }
    }

    fn crash_start(&self) -> Result<()> {
        let driver = Driver::new(self.plan.crash_rows, SMALL_VALUE_BYTES, self.plan.seed)?;
        let number = Random::new(self.plan.seed).below(self.plan.crash_rows);
        let (processor, began) = (measure::processor_time(), Instant::now());
        let engine = self.engine.open(&self.directory, self.synced_options())?;
        driver.read(&*engine, number, true)?;
        let elapsed = began.elapsed();
        let cost = Cost {
            operations: 1,
            processor_us_per_operation: Some((measure::processor_time() - processor).as_secs_f64() * 1e6),
            resident_bytes_max: Some(measure::resident_bytes_max()?),
            ..Cost::default()
        };
        // What was acknowledged before the crash is there, and right.
        driver.check_all(&*engine)?;
        let row = format!("100 B, {} rows: from a crash to the first read", self.plan.crash_rows);
        self.put(&row, elapsed.as_secs_f64(), Unit::Seconds, cost)?;
        engine.close()
    }

    fn report(&self, row: &str, outcome: Outcome) -> Result<()> {
        self.put(row, outcome.per_second, Unit::PerSecond, outcome.cost)
    }

    fn put(&self, row: &str, value: f64, unit: Unit, cost: Cost) -> Result<()> {
        let (engine, round) = (self.engine, self.round);
        let line = Line::Measurement(Measurement { row: row.to_owned(), engine, round, value, unit, cost });
        let mut output = std::io::stdout().lock();
        writeln!(output, "{}", serde_json::to_string(&line)?).context("writing a measurement")
    }

    fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.plan.seconds)
    }

    fn buffered(&self, cache_bytes: u64) -> Options {
        Options { durability: Durability::Buffered, cache_bytes }
    }

    fn synced_options(&self) -> Options {
        Options { durability: Durability::Sync, cache_bytes: self.plan.cache_mib << 20 }
    }
}

fn plural(threads: u64) -> String {
    if threads == 1 { "1 thread".to_owned() } else { format!("{threads} threads") }
}
