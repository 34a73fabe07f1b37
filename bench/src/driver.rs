//! The driver: loads rows, runs a mix of operations from several threads for a while, and checks what comes back.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::distribution::Zipfian;
use crate::engine::Engine;
use crate::measure;
use crate::mix::Mix;
use crate::record::Cost;
use crate::rows::{self, KEY_BYTES, Values};
use crate::statistics::percentile;
use crate::worker::Worker;

/// Samples that a thread has room for before it starts; more are dropped.
const SAMPLES_MAX: usize = 1 << 20;

/// The rows that an engine holds, and what they must be.
pub struct Driver {
    pub(crate) values: Values,
    pub(crate) seed: u64,
    /// Rows with numbers below this are loaded.
    pub(crate) rows: u64,
    /// The number of the next row that a mix inserts.
    pub(crate) next_insert: AtomicU64,
    pub(crate) zipfian: Zipfian,
    /// The last loaded one in the order of keys.
    last_key: [u8; KEY_BYTES],
}

/// How fast it went, and what it took.
#[derive(Debug)]
pub struct Outcome {
    /// Operations per second.
    pub per_second: f64,
    /// What they took.
    pub cost: Cost,
}

/// What one thread did.
#[derive(Debug, Default)]
pub struct Tally {
    /// How many operations.
    pub operations: u64,
    /// How long some of them took, in nanoseconds.
    samples_ns: Vec<u32>,
}

impl Tally {
    /// Notes how long an operation took.
    pub fn sample(&mut self, duration: Duration) {
        if self.samples_ns.len() < SAMPLES_MAX {
            self.samples_ns.push(u32::try_from(duration.as_nanos()).unwrap_or(u32::MAX));
        }
    }
}

impl Driver {
    /// For `rows` rows, two or more.
    pub fn new(rows: u64, value_bytes: usize, seed: u64) -> Result<Driver> {
        ensure!(rows >= 2, "{rows} rows are too few");
        let last_key = (0..rows).map(rows::key).max().context("no rows")?;
        let (values, next_insert) = (Values::new(value_bytes)?, AtomicU64::new(rows));
        Ok(Driver { values, seed, rows, next_insert, zipfian: Zipfian::new(rows), last_key })
    }

    /// The size of all loaded keys and values.
    pub fn bytes(&self) -> u64 {
        self.rows * (KEY_BYTES + self.values.bytes()) as u64
    }

    /// Loaded rows and those that mixes inserted.
    pub fn rows_now(&self) -> u64 {
        self.next_insert.load(Ordering::Relaxed)
    }

    /// Writes every row once, in no order of keys, in batches of `batch_rows`.
    pub fn load(
        &self,
        engine: &dyn Engine,
        threads: u64,
        batch_rows: u64,
        generation: u64,
    ) -> Result<Outcome> {
        let share = self.rows.div_ceil(threads);
        run_threads(threads, |thread, tally| {
            let (mut next, end) = (thread * share, ((thread + 1) * share).min(self.rows));
            while next < end {
                let numbers = next..end.min(next + batch_rows);
                next = numbers.end;
                let batch: Vec<_> = numbers.map(|number| self.row(number, generation)).collect();
                engine.write(&batch)?;
                tally.operations += batch.len() as u64;
            }
            Ok(())
        })
    }

    /// Runs a mix from `threads` threads at a steady `per_second`, whether or not the engine keeps up. Only reads are
    /// sampled, all of them, each from when it was due: an operation that is late because another one was stuck is late.
    pub fn run_steadily(
        &self,
        engine: &dyn Engine,
        mix: Mix,
        threads: u64,
        per_second: f64,
        duration: Duration,
    ) -> Result<Outcome> {
        let interval = Duration::from_secs_f64(threads as f64 / per_second.max(1.0));
        run_threads(threads, |thread, tally| {
            Worker::new(self, engine, mix, thread).run_steadily(interval, duration, tally)
        })
    }

    /// Runs a mix from `threads` threads for a while.
    pub fn run(&self, engine: &dyn Engine, mix: Mix, threads: u64, duration: Duration) -> Result<Outcome> {
        run_threads(threads, |thread, tally| Worker::new(self, engine, mix, thread).run(duration, tally))
    }

    /// Reads every row once, in key order, and checks that it is right and that none is missing. Also brings what
    /// fits into the engine's cache, so that the first measurement does not pay for it.
    pub fn check_all(&self, engine: &dyn Engine) -> Result<()> {
        let found = self.scan(engine, rows::KEY_PREFIX, usize::MAX, true)? as u64;
        ensure!(found == self.rows, "{found} rows where {} were written", self.rows);
        Ok(())
    }

    /// Takes a few rows away and puts them back, and checks that both happens.
    pub fn check_deletes(&self, engine: &dyn Engine, rows: u64) -> Result<()> {
        for number in 0..rows.min(self.rows) {
            let (key, value) = self.row(number, 0);
            engine.delete(&key)?;
            ensure!(!engine.get(&key, &mut |_| ())?, "key {number} is there after its removal");
            engine.put(&key, &value)?;
            self.read(engine, number, true)?;
        }
        Ok(())
    }

    /// Checks that the first `rows` rows are those of the last load, not of an earlier one.
    pub fn check_generation(&self, engine: &dyn Engine, rows: u64, generation: u64) -> Result<()> {
        for number in 0..rows.min(self.rows) {
            let mut found = None;
            engine.get(&rows::key(number), &mut |value| found = Some(self.values.verify(number, value)))?;
            let found = found.with_context(|| format!("key {number} is lost"))??;
            ensure!(found == generation, "key {number} has its value of load {found}, not of {generation}");
        }
        Ok(())
    }

    /// Reads one row and checks it: every byte (`whole`), or only that the value is of this key.
    pub fn read(&self, engine: &dyn Engine, number: u64, whole: bool) -> Result<()> {
        let mut right = Ok(());
        let found = engine.get(&rows::key(number), &mut |value| {
            right = self.check_value(number, value, whole);
        })?;
        ensure!(found, "key {number} is lost");
        right
    }

    /// Reads rows in key order, and checks that they are in order, and as many as there are. Returns how many.
    pub fn scan(&self, engine: &dyn Engine, start: &[u8], rows_max: usize, whole: bool) -> Result<usize> {
        let mut right = Ok(());
        let mut previous = [0; KEY_BYTES];
        let found = engine.scan(start, rows_max, &mut |key, value| {
            if right.is_ok() {
                right = self.check_scanned(key, value, start, &previous, whole);
            }
            previous[..key.len().min(KEY_BYTES)].copy_from_slice(&key[..key.len().min(KEY_BYTES)]);
        })?;
        right?;
        ensure!(found == rows_max || previous >= self.last_key, "a scan ended before the last key");
        Ok(found)
    }

    /// A row to write.
    pub fn row(&self, number: u64, generation: u64) -> (Vec<u8>, Vec<u8>) {
        let mut value = Vec::with_capacity(self.values.bytes());
        self.values.fill(number, generation, &mut value);
        (rows::key(number).to_vec(), value)
    }

    fn check_value(&self, number: u64, value: &[u8], whole: bool) -> Result<()> {
        if whole {
            self.values.verify(number, value)?;
            return Ok(());
        }
        ensure!(self.values.number(value) == Some(number), "the value of another key than {number}");
        Ok(())
    }

    fn check_scanned(
        &self,
        key: &[u8],
        value: &[u8],
        start: &[u8],
        previous: &[u8],
        whole: bool,
    ) -> Result<()> {
        ensure!(
            key.len() == KEY_BYTES && key >= start && key > previous,
            "a scan is not in the order of keys"
        );
        let number = self.values.number(value).context("a scanned value of a wrong size")?;
        if whole {
            ensure!(key == rows::key(number), "a scan shows key {number} with another's value");
            self.values.verify(number, value)?;
        }
        Ok(())
    }

    /// The number of a row that is new.
    pub(crate) fn take_insert(&self) -> u64 {
        self.next_insert.fetch_add(1, Ordering::Relaxed)
    }
}

/// Runs `work` in several threads that begin together. The first error of any of them is the result.
fn run_threads(threads: u64, work: impl Fn(u64, &mut Tally) -> Result<()> + Sync) -> Result<Outcome> {
    let barrier = Barrier::new(usize::try_from(threads)? + 1);
    let run_one = |thread: u64| -> Result<(Tally, Instant, Instant)> {
        let mut tally = Tally { samples_ns: Vec::with_capacity(SAMPLES_MAX / 16), ..Tally::default() };
        barrier.wait();
        let began = Instant::now();
        work(thread, &mut tally)?;
        Ok((tally, began, Instant::now()))
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|thread| scope.spawn(move_thread(&run_one, thread))).collect();
        let (processor, written) = (measure::processor_time(), measure::written_bytes()?);
        barrier.wait();
        let tallies: Vec<_> = workers
            .into_iter()
            .map(|worker| worker.join().map_err(|_| anyhow!("a thread of the driver panicked"))?)
            .collect::<Result<_>>()?;
        // By the threads' own clocks: this one may come to run long after them.
        let began = tallies.iter().map(|(_, began, _)| *began).min();
        let ended = tallies.iter().map(|(.., ended)| *ended).max();
        let elapsed = ended.zip(began).map_or(Duration::ZERO, |(ended, began)| ended - began);
        outcome(&tallies, elapsed, measure::processor_time() - processor, written)
    })
}

/// The work of one thread, by value, so that it can be sent there.
fn move_thread<'a, T>(run: &'a (impl Fn(u64) -> T + Sync), thread: u64) -> impl FnOnce() -> T + Send + 'a {
    move || run(thread)
}

fn outcome(
    tallies: &[(Tally, Instant, Instant)],
    elapsed: Duration,
    processor: Duration,
    written: u64,
) -> Result<Outcome> {
    let operations: u64 = tallies.iter().map(|(tally, ..)| tally.operations).sum();
    let mut samples: Vec<u32> =
        tallies.iter().flat_map(|(tally, ..)| tally.samples_ns.iter().copied()).collect();
    let mut percentile_us = |fraction| percentile(&mut samples, fraction).map(|ns| f64::from(ns) / 1e3);
    let cost = Cost {
        operations,
        processor_us_per_operation: Some(processor.as_secs_f64() * 1e6 / operations.max(1) as f64),
        p50_us: percentile_us(0.5),
        p99_us: percentile_us(0.99),
        p999_us: percentile_us(0.999),
        longest_us: percentile_us(1.0),
        resident_bytes_max: Some(measure::resident_bytes_max()?),
        written_bytes: Some(measure::written_bytes()?.saturating_sub(written)),
    };
    Ok(Outcome { per_second: operations as f64 / elapsed.as_secs_f64(), cost })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engines::btree::BTree;
    use crate::mix::{UPDATE_UNIFORM, YCSB};

    const ROWS: u64 = 2_000;

    fn loaded(engine: &BTree) -> Driver {
        let driver = Driver::new(ROWS, 100, 1).unwrap();
        let outcome = driver.load(engine, 2, 100, 0).unwrap();
        assert_eq!(outcome.cost.operations, ROWS);
        driver
    }

    #[test]
    fn every_mix_runs_and_finds_everything_right() {
        let engine = BTree::default();
        let driver = loaded(&engine);
        driver.check_all(&engine).unwrap();
        driver.check_deletes(&engine, 10).unwrap();
        driver.load(&engine, 1, 100, 5).unwrap();
        driver.check_generation(&engine, ROWS, 5).unwrap();
        assert!(driver.check_generation(&engine, 1, 4).is_err());
        driver.run(&engine, UPDATE_UNIFORM, 3, Duration::from_millis(20)).unwrap();
        driver.check_all(&engine).unwrap();
        for mix in YCSB {
            let outcome = driver.run(&engine, mix, 2, Duration::from_millis(20)).unwrap();
            assert!(outcome.per_second > 0.0 && outcome.cost.p50_us.is_some(), "{}", mix.name);
        }
        let outcome = driver.run_steadily(&engine, YCSB[0], 2, 5_000.0, Duration::from_millis(100)).unwrap();
        assert!((490..=510).contains(&outcome.cost.operations), "{:?}", outcome.cost);
        assert!(outcome.cost.p999_us <= outcome.cost.longest_us && outcome.cost.longest_us.is_some());
        assert!(driver.next_insert.load(Ordering::Relaxed) > ROWS);
    }

    #[test]
    fn lost_rows_are_noticed() {
        let engine = BTree { lossy: Some(50), ..BTree::default() };
        let driver = loaded(&engine);
        let error = driver.check_all(&engine).unwrap_err().to_string();
        assert!(error.starts_with("1960 rows where 2000 were written"), "{error}");
        assert!(driver.run(&engine, YCSB[2], 2, Duration::from_secs(5)).is_err());
    }

    #[test]
    fn wrong_values_are_noticed() {
        let engine = BTree { confused: true, ..BTree::default() };
        let driver = loaded(&engine);
        let error = driver.run(&engine, YCSB[2], 1, Duration::from_secs(5)).unwrap_err().to_string();
        assert!(error.starts_with("the value of another key"), "{error}");
    }
}
