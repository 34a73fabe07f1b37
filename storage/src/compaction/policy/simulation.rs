//! The policy on simulated stores: what it writes, how many runs there are, how much space is taken. Rows are numbers here,
//! and a merge is done slice by slice while writing goes on, at a few times the speed of the writer.

use std::collections::BTreeMap;
use std::fmt;

use proptest::prelude::*;

use super::{Drops, FileState, Job, Planned, RunState, StoreState, Tuning, next_job, plan};

const TUNING: Tuning = Tuning { garbage_bytes_min: 10_000, kept_file_bytes_min: 5_000, ..Tuning::DEFAULT };
const FROZEN_MAX: usize = crate::compaction::flow::FROZEN_MAX as usize;
/// Writers are rationed to this part of what compaction gets done, while it is behind.
const SPEED_BEHIND: u64 = 8;
const SLICE_BYTES: u64 = 25_000;

#[derive(Clone, Copy)]
struct Row {
    key: u32,
    version: u32,
    bytes: u32,
    tombstone: bool,
}

/// Rows by key, and the first and last key as bytes.
struct File {
    rows: Vec<Row>,
    ends: [[u8; 4]; 2],
}

#[derive(Default)]
struct Run {
    files: Vec<File>,
    from: Option<[u8; 4]>,
}

/// A workload's write: a key, and its value's bytes, or none for a delete.
type Write = (u32, Option<u32>);

#[derive(Default)]
struct Simulation {
    runs: Vec<Run>,
    frozen: Vec<BTreeMap<u32, Row>>,
    tail: BTreeMap<u32, Row>,
    tail_bytes: u64,
    /// The newest row of each key.
    newest: Vec<Option<Row>>,
    live_bytes: u64,
    version: u32,
    figures: Figures,
}

#[derive(Clone, Default)]
struct Figures {
    logged_bytes: u64,
    flushed_bytes: u64,
    merged_bytes: u64,
    stalls: u64,
    overlap_max: usize,
    /// Bytes of runs and log when nothing is left to do but perhaps a flush, against live bytes, at most; while merging.
    space_at_rest: f64,
    space_busy: f64,
    merges: BTreeMap<String, u64>,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_logged = |bytes: u64| bytes as f64 / self.logged_bytes as f64;
        write!(
            f,
            "per byte written: log 1 + flush {:.2} + merge {:.2} = {:.2}; at most {} runs; space {:.2} at rest, {:.2} while merging; {} stalls; slices {:?}",
            per_logged(self.flushed_bytes),
            per_logged(self.merged_bytes),
            self.amplification(),
            self.overlap_max,
            self.space_at_rest,
            self.space_busy,
            self.stalls,
            self.merges
        )
    }
}

impl Figures {
    fn amplification(&self) -> f64 {
        1.0 + (self.flushed_bytes + self.merged_bytes) as f64 / self.logged_bytes as f64
    }
}

impl File {
    fn new(rows: Vec<Row>) -> File {
        let ends = [rows.first(), rows.last()].map(|row| row.map_or(0, |row| row.key).to_be_bytes());
        File { rows, ends }
    }

    fn bytes(&self) -> u64 {
        self.rows.iter().map(|row| u64::from(row.bytes)).sum()
    }
}

impl Simulation {
    fn write(&mut self, (key, value): Write) {
        self.version += 1;
        let bytes = value.map_or(24, |value| value + 24);
        let row = Row { key, version: self.version, bytes, tombstone: value.is_none() };
        self.figures.logged_bytes += u64::from(bytes);
        self.tail_bytes += u64::from(bytes);
        self.tail.insert(key, row);
        let size = |row: &Row| if row.tombstone { 0 } else { u64::from(row.bytes) };
        self.live_bytes += size(&row);
        self.newest.resize(self.newest.len().max(key as usize + 1), None);
        self.live_bytes -= self.newest[key as usize].replace(row).as_ref().map_or(0, size);
    }

    fn space_bytes(&self) -> u64 {
        let runs: u64 = self.runs.iter().flat_map(|run| &run.files).map(File::bytes).sum();
        let frozen: u64 = self.frozen.iter().flat_map(BTreeMap::values).map(|row| u64::from(row.bytes)).sum();
        runs + frozen + self.tail_bytes
    }

    fn freeze(&mut self) {
        self.frozen.push(std::mem::take(&mut self.tail));
        self.tail_bytes = 0;
    }

    /// Runs a workload: for each byte written, compaction may write so many.
    fn run(&mut self, writes: impl Iterator<Item = Write>, speed: u64) {
        let (mut allowance, mut is_behind) = (0, false);
        for (number, write) in writes.enumerate() {
            let before = self.figures.logged_bytes;
            self.write(write);
            // Writers are held back where compaction cannot follow: so it does more for each byte of theirs.
            if number % 100 == 0 && speed < SPEED_BEHIND {
                is_behind = self.state(false, false).is_behind(&TUNING);
            }
            let speed = if is_behind { SPEED_BEHIND } else { speed };
            allowance += (self.figures.logged_bytes - before) * speed;
            if self.tail_bytes >= (self.live_bytes / super::TAIL_SHARE).max(20_000) {
                self.freeze();
            }
            while allowance >= SLICE_BYTES || self.frozen.len() > FROZEN_MAX {
                self.figures.stalls += u64::from(self.frozen.len() > FROZEN_MAX);
                let before = self.figures.flushed_bytes + self.figures.merged_bytes;
                if !self.step(false, false) {
                    allowance = 0;
                    break;
                }
                let written = self.figures.flushed_bytes + self.figures.merged_bytes - before;
                allowance = allowance.saturating_sub(written);
            }
        }
        self.rest(false, false);
    }

    /// Lets compaction come to its end.
    fn rest(&mut self, idle: bool, requested: bool) {
        for _ in 0..10_000 {
            if !self.step(idle, requested) {
                return;
            }
        }
        let state = self.state(idle, requested);
        let sizes: Vec<_> = state.runs.iter().map(|run| (run.bytes(), run.files.len(), run.from)).collect();
        panic!("compaction does not come to an end: {:?} of {sizes:?}", next_job(&state, &TUNING));
    }

    fn step(&mut self, idle: bool, requested: bool) -> bool {
        let state = self.state(idle, requested);
        let (job, overlap) = (next_job(&state, &TUNING), state.overlap());
        let planned = match &job {
            Job::Merge { runs, cold, drops, .. } => plan(&state.runs[runs.clone()], *cold, *drops, &TUNING),
            _ => Planned::Done,
        };
        self.figures.overlap_max = self.figures.overlap_max.max(overlap);
        let space = self.space_bytes() as f64 / self.live_bytes.max(200_000) as f64;
        match job {
            Job::Nothing => {
                self.figures.space_at_rest = self.figures.space_at_rest.max(space);
                return false;
            }
            Job::Flush => self.flush(),
            Job::Merge { runs, drops, reason, .. } => {
                *self.figures.merges.entry(format!("{reason:?} of {}", runs.len())).or_default() += 1;
                self.figures.space_busy = self.figures.space_busy.max(space);
                self.merge(runs, drops, planned);
            }
            Job::Cool { .. } => unreachable!("there is no budget here"),
        }
        true
    }

    fn state(&self, idle: bool, requested: bool) -> StoreState<'_> {
        let live =
            |row: &&Row| self.newest[row.key as usize].is_some_and(|newest| newest.version == row.version);
        let file = |file: &'_ File| -> (u64, u64) {
            let live = file.rows.iter().filter(live).map(|row| u64::from(row.bytes)).sum();
            (live, file.rows.iter().filter(|row| row.tombstone).count() as u64)
        };
        let run = |run: &'_ Run| -> Vec<(u64, u64)> { run.files.iter().map(file).collect() };
        let counted: Vec<Vec<(u64, u64)>> = self.runs.iter().map(run).collect();
        let requested = requested.then_some(usize::MAX);
        let mut state = StoreState { frozen: self.frozen.len(), idle, requested, ..StoreState::default() };
        for (run, counted) in self.runs.iter().zip(counted) {
            let files = run.files.iter().zip(counted).map(|(file, (live, tombstones))| FileState {
                first: &file.ends[0],
                last: &file.ends[1],
                bytes: file.bytes(),
                live_bytes: Some(live),
                rows: file.rows.len() as u64,
                tombstones,
                expired_bytes: 0,
            });
            let from = run.from.as_ref().map(|from| &from[..]);
            state.runs.push(RunState { files: files.collect(), from, cold: false });
        }
        state
    }

    fn flush(&mut self) {
        let rows: Vec<Row> = self.frozen.remove(0).into_values().collect();
        let file = File::new(rows);
        self.figures.flushed_bytes += file.bytes();
        self.runs.push(Run { files: vec![file], from: None });
    }

    /// One slice of a merge, as `job.rs` does it: an output before the inputs, which go on from a later key.
    fn merge(&mut self, window: std::ops::Range<usize>, drops: Drops, planned: Planned) {
        let from = self.runs[window.start].from;
        let begun = window.start.checked_sub(1).filter(|_| from.is_some()).filter(|before| {
            let last = self.runs[*before].files.last().map(|file| file.ends[1]);
            self.runs[*before].from.is_none() && last < from
        });
        let mut inputs: Vec<Run> = self.runs.drain(window.clone()).collect();
        let (file, next) = match planned {
            Planned::Done => (None, None),
            Planned::Keep { run, file } => {
                let file = inputs[run].files.remove(file);
                let next = (u32::from_be_bytes(file.ends[1]) + 1).to_be_bytes();
                (Some(file), Some(next))
            }
            Planned::Rewrite { before } => {
                let (rows, next) = self.rewritten(&inputs, before.as_deref(), drops != Drops::Nothing);
                (Some(File::new(rows)).filter(|file| !file.rows.is_empty()), next)
            }
        };
        let place = begun.unwrap_or_else(|| {
            self.runs.insert(window.start, Run::default());
            window.start
        });
        self.runs[place].files.extend(file);
        if let Some(next) = next {
            for input in &mut inputs {
                input.files.retain(|file| file.ends[1] >= next);
                input.from = Some(next);
            }
            inputs.retain(|input| !input.files.is_empty());
            self.runs.splice(place + 1..place + 1, inputs);
        }
        if self.runs[place].files.is_empty() {
            self.runs.remove(place);
        }
    }

    /// The rows of a slice, and the key from which the next one goes on.
    fn rewritten(
        &mut self,
        inputs: &[Run],
        before: Option<&[u8]>,
        oldest: bool,
    ) -> (Vec<Row>, Option<[u8; 4]>) {
        let mut rows: BTreeMap<u32, Row> = BTreeMap::new();
        for input in inputs {
            for row in input.files.iter().flat_map(|file| &file.rows) {
                let key = row.key.to_be_bytes();
                if input.from.is_none_or(|from| from <= key) && before.is_none_or(|before| &key[..] < before)
                {
                    rows.insert(row.key, *row);
                }
            }
        }
        let (mut kept, mut bytes) = (Vec::new(), 0);
        for row in rows.into_values() {
            if bytes >= SLICE_BYTES {
                self.figures.merged_bytes += bytes;
                return (kept, Some(row.key.to_be_bytes()));
            }
            if !(oldest && row.tombstone) {
                bytes += u64::from(row.bytes);
                kept.push(row);
            }
        }
        self.figures.merged_bytes += bytes;
        (kept, before.map(|before| before.try_into().unwrap()))
    }

    /// Every key's newest row is what is found first, from the newest run on.
    fn check(&self) {
        for newest in self.newest.iter().flatten() {
            let key = &newest.key;
            let tails = self.frozen.iter().chain([&self.tail]).rev().find_map(|tail| tail.get(key).copied());
            let in_run = |run: &Run| {
                let moved = run.from.is_some_and(|from| key.to_be_bytes() < from);
                let rows = || run.files.iter().flat_map(|file| &file.rows);
                (!moved).then(|| rows().find(|row| row.key == *key).copied()).flatten()
            };
            let found = tails.or_else(|| self.runs.iter().rev().find_map(in_run));
            let alive = |row: &Row| (!row.tombstone).then_some(row.version);
            assert_eq!(found.as_ref().and_then(alive), alive(newest), "key {key}");
        }
    }
}

/// Numbers that look random and are the same each time.
fn dice(seed: u64) -> impl FnMut(u32) -> u32 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 33) % u64::from(below.max(1))) as u32
    }
}

const KEYS: u32 = 4_000;
const VALUE: Option<u32> = Some(76);

fn loaded() -> Simulation {
    let mut simulation = Simulation::default();
    let mut dice = dice(1);
    let mut keys: Vec<u32> = (0..KEYS).collect();
    (1..KEYS).rev().for_each(|last| keys.swap(last as usize, dice(last + 1) as usize));
    simulation.run(keys.into_iter().map(|key| (key, VALUE)), 6);
    simulation
}

#[test]
fn a_load_in_any_order() {
    let simulation = loaded();
    println!("load in random order: {}", simulation.figures);
    assert!(simulation.figures.amplification() < 5.0);
    assert!(simulation.figures.overlap_max <= TUNING.runs_limit);
    assert!(simulation.figures.space_at_rest < 1.1);
    simulation.check();
}

#[test]
fn a_load_in_key_order_is_written_twice() {
    let mut simulation = Simulation::default();
    simulation.run((0..KEYS).map(|key| (key, VALUE)), 6);
    println!("load in key order: {}", simulation.figures);
    assert!(simulation.figures.amplification() < 2.05);
    assert!(simulation.figures.overlap_max <= 3);
    simulation.check();
}

#[test]
fn everything_overwritten_five_times() {
    for speed in [1, 2, 4, 20] {
        let mut simulation = loaded();
        simulation.figures = Figures::default();
        let mut dice = dice(2);
        simulation.run((0..5 * KEYS).map(|_| (dice(KEYS), VALUE)), speed);
        println!("uniform overwriting, speed {speed}: {}", simulation.figures);
        assert!(simulation.figures.amplification() < 5.0);
        assert!(simulation.figures.overlap_max <= TUNING.runs_limit);
        assert!(simulation.figures.space_at_rest <= 1.6);
        assert!(simulation.figures.space_busy <= if speed < 4 { 2.2 } else { 2.0 });
        simulation.check();

        simulation.freeze();
        simulation.rest(false, true);
        assert_eq!(simulation.runs.len(), 1);
        assert_eq!(simulation.space_bytes(), simulation.live_bytes);
        simulation.check();
    }
}

#[test]
fn a_few_keys_overwritten_again_and_again() {
    let mut simulation = loaded();
    simulation.figures = Figures::default();
    let mut dice = dice(3);
    // Below a number below a number: half of all writes go to a fiftieth of the keys.
    let skewed = (0..8 * KEYS).map(|_| {
        let below = dice(KEYS) + 1;
        let below = dice(below) + 1;
        (dice(below).wrapping_mul(7_919) % KEYS, VALUE)
    });
    simulation.run(skewed, 6);
    println!("skewed overwriting: {}", simulation.figures);
    assert!(simulation.figures.amplification() < 4.0);
    assert!(simulation.figures.space_at_rest <= 1.6);
    simulation.check();
}

#[test]
fn a_queue_leaves_no_space_behind() {
    let mut simulation = Simulation::default();
    let queue = (0..6 * KEYS)
        .flat_map(|key| [(key, VALUE)].into_iter().chain((key > 500).then(|| (key - 500, None))));
    simulation.run(queue, 6);
    println!("queue: {}", simulation.figures);
    assert!(simulation.figures.overlap_max <= TUNING.runs_limit);
    // Of a store this small half a megabyte is in the tail and below what is cared for.
    assert!(simulation.figures.space_at_rest <= 1.6);
    simulation.check();
}

#[test]
fn large_values_among_small_ones_are_not_rewritten_for_them() {
    let mut simulation = loaded();
    simulation.figures = Figures::default();
    let mut dice = dice(4);
    // One write in a hundred has a value as large as two hundred others.
    let writes = (0..6 * KEYS).map(|number| match number % 100 {
        0 => (KEYS + number / 100, Some(16_000)),
        _ => (dice(KEYS), VALUE),
    });
    simulation.run(writes, 6);
    println!("large values among small ones: {}", simulation.figures);
    assert!(simulation.figures.amplification() < 4.0);
    assert!(simulation.figures.overlap_max <= TUNING.runs_limit);
    simulation.check();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn any_workload_keeps_the_bounds(
        seed: u64,
        phases in prop::collection::vec((1..2_000_u32, 1..2_500_u32, 0..4_u32, 0..1_000_u32, 0..4_u32), 1..5),
        speed in 3..30_u64,
    ) {
        let mut simulation = Simulation::default();
        let mut dice = dice(seed);
        for (keys, count, deletes, value, order) in phases {
            let writes: Vec<Write> = (0..count).map(|number| {
                let key = if order == 0 { number } else { dice(keys) };
                (key, (dice(10) >= deletes).then(|| dice(value)))
            }).collect();
            simulation.run(writes.into_iter(), speed);
            simulation.check();
        }
        prop_assert!(simulation.figures.overlap_max <= TUNING.runs_limit);
        simulation.rest(true, false);
        prop_assert!(simulation.runs.len() <= TUNING.runs_idle);
        simulation.freeze();
        simulation.rest(false, true);
        simulation.check();
        prop_assert!(simulation.runs.len() <= 1);
        prop_assert_eq!(simulation.space_bytes(), simulation.live_bytes);
    }
}
