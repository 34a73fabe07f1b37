//! One thread that runs a mix.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::distribution::{Chosen, Random};
use crate::driver::{Driver, Tally};
use crate::engine::Engine;
use crate::mix::Mix;
use crate::rows;

/// One operation in so many is timed, and its value checked byte by byte; of the others only the key's number is.
const SAMPLE_EVERY: u64 = 16;
/// Scans read 1 to this many rows.
const SCAN_ROWS_MAX: u64 = 100;

/// A thread's own state.
pub struct Worker<'a> {
    driver: &'a Driver,
    engine: &'a dyn Engine,
    mix: Mix,
    random: Random,
    /// What it inserted itself, and may therefore expect to find.
    inserted: Vec<u64>,
    value: Vec<u8>,
}

impl<'a> Worker<'a> {
    /// Each thread of each mix has random numbers of its own.
    pub fn new(driver: &'a Driver, engine: &'a dyn Engine, mix: Mix, thread: u64) -> Worker<'a> {
        let name: u64 = mix.name.bytes().fold(0, |hash, byte| hash.wrapping_mul(31) + u64::from(byte));
        let random = Random::new(driver.seed ^ name.rotate_left(32) ^ thread);
        Worker { driver, engine, mix, random, inserted: Vec::new(), value: Vec::new() }
    }

    /// Goes on for `duration`. The clock is read only for sampled operations.
    pub fn run(mut self, duration: Duration, tally: &mut Tally) -> Result<()> {
        let end = Instant::now() + duration;
        // A slow operation must not wait fifteen others for the clock.
        let every = if self.mix.update == 100 { 1 } else { SAMPLE_EVERY };
        loop {
            let began = tally.operations.is_multiple_of(every).then(Instant::now);
            self.step(began.is_some())?;
            tally.operations += 1;
            if let Some(began) = began {
                let now = Instant::now();
                tally.sample(now - began);
                if now >= end {
                    return Ok(());
                }
            }
        }
    }

    /// An operation every `interval`, for `duration`; or for twice as long, where it cannot keep up.
    pub fn run_steadily(mut self, interval: Duration, duration: Duration, tally: &mut Tally) -> Result<()> {
        let began = Instant::now();
        loop {
            let after = interval.mul_f64(tally.operations as f64);
            if after >= duration || began.elapsed() > 2 * duration {
                return Ok(());
            }
            // Others may have the processor meanwhile.
            while began.elapsed() < after {
                std::thread::yield_now();
            }
            let is_read = self.step(false)?;
            tally.operations += 1;
            if is_read {
                tally.sample(began.elapsed() - after);
            }
        }
    }

    /// One operation. Returns whether it only read one row.
    fn step(&mut self, whole: bool) -> Result<bool> {
        let Mix { read, update, insert, scan, .. } = self.mix;
        let percent = self.random.below(100);
        if percent < read {
            let number = self.choose();
            self.driver.read(self.engine, number, whole)?;
            return Ok(true);
        }
        if percent < read + update {
            let number = self.choose();
            self.write(number)?;
        } else if percent < read + update + insert {
            let number = self.driver.take_insert();
            self.write(number)?;
            self.inserted.push(number);
        } else if percent < read + update + insert + scan {
            let start = rows::key(self.choose());
            let rows_max = 1 + self.random.below(SCAN_ROWS_MAX) as usize;
            self.driver.scan(self.engine, &start, rows_max, whole)?;
        } else {
            let number = self.choose();
            self.driver.read(self.engine, number, whole)?;
            self.write(number)?;
        }
        Ok(false)
    }

    fn write(&mut self, number: u64) -> Result<()> {
        self.driver.values.fill(number, self.random.next(), &mut self.value);
        self.engine.put(&rows::key(number), &self.value)
    }

    fn choose(&mut self) -> u64 {
        let rows = self.driver.rows;
        match self.mix.chosen {
            Chosen::Uniform => self.random.below(rows),
            // Spread, so that frequent keys are not neighbours.
            Chosen::Zipfian => crate::distribution::mix(self.driver.zipfian.rank(&mut self.random)) % rows,
            Chosen::Latest => {
                let rank = self.driver.zipfian.rank(&mut self.random);
                self.latest(rank)
            }
        }
    }

    /// The row that was inserted `rank` inserts ago: by this thread, and before those by the load.
    fn latest(&self, rank: u64) -> u64 {
        let own = self.inserted.len() as u64;
        match rank.checked_sub(own) {
            Some(before) => self.driver.rows.saturating_sub(1 + before),
            None => self.inserted[(own - 1 - rank) as usize],
        }
    }
}
