//! What compaction does next: a pure function of how the store stands.
//!
//! The store is a short list of sorted runs, oldest first. Flushing adds one at the newest end; merging makes one of
//! several neighbours. [`next_job`] is asked again after each step (a flush, a slice of a merge), so it keeps no plan:
//! a merge that is under way shows in the runs themselves, by the key up to which they have been moved on.
//!
//! What it weighs, in this order:
//!
//! 1. **Memory**: a frozen tail is flushed at once, as long as there may be another run ([`may_flush`]).
//! 2. **Memory of the hash index**: when there are more entries than the budget allows, the oldest run that is hashed
//!    leaves the index.
//! 3. **Reads**: not more than [`Tuning::runs_max`] runs should hold a key. Then a flush waits for the merge that is
//!    cheapest per run that it saves; but not when writers would have to wait for that, too, unless there are
//!    [`Tuning::runs_limit`] runs: these never become more.
//! 4. What was begun is finished, the newest merge first, since it is the smallest.
//! 5. **Space**: when garbage is more than [`Tuning::garbage_permille`] of what is live, the newest runs from some run
//!    on are merged: from where the most garbage goes for each byte written. For a uniform workload that is all of
//!    them; where few keys are overwritten again and again it leaves the large old run alone.
//! 6. **Reads** again: the newest runs are merged when there are more than a few, such that sizes stay geometric.
//! 7. What costs nothing: runs whose files do not overlap become one without writing a row (a load in key order).
//!
//! What has expired is garbage as what was overwritten is (5), as far as the statistics of the files tell.
//!
//! Large values are rewritten when their garbage pays for it (5), and not because runs are many: 3 and 6 count bytes,
//! so a run of large values is the last that they choose.
//!
//! What it does not do: it reads no clock and no file, and does not know how fast anything is (pace.rs does).

mod windows;

use std::ops::Range;

use super::flow::FROZEN_MAX;

pub(crate) use windows::{Drops, Planned, plan, unfinished};
use windows::{Unfinished, cheapest, cost};

/// A file of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FileState<'a> {
    /// The first key in it.
    pub(crate) first: &'a [u8],
    /// The last key in it.
    pub(crate) last: &'a [u8],
    /// Its rows' bytes.
    pub(crate) bytes: u64,
    /// Bytes of the rows that are the newest of their keys, tombstones among them. Unknown in a cold run.
    pub(crate) live_bytes: Option<u64>,
    /// How many rows.
    pub(crate) rows: u64,
    /// How many of them say that a key has no value.
    pub(crate) tombstones: u64,
    /// About how many bytes of its rows have expired.
    pub(crate) expired_bytes: u64,
}

/// A sorted run.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunState<'a> {
    /// By key, disjoint.
    pub(crate) files: Vec<FileState<'a>>,
    /// Keys below were moved on by a merge that is under way.
    pub(crate) from: Option<&'a [u8]>,
    /// Its rows are not in the hash index.
    pub(crate) cold: bool,
}

/// How a store stands.
#[derive(Clone, Debug, Default)]
pub(crate) struct StoreState<'a> {
    /// Oldest first.
    pub(crate) runs: Vec<RunState<'a>>,
    /// How many frozen tails wait to be flushed.
    pub(crate) frozen: usize,
    /// Entries of the hash index, and how many its share of the memory holds.
    pub(crate) hash_entries: u64,
    pub(crate) hash_entries_max: u64,
    /// Nobody is writing: time to tidy up further.
    pub(crate) idle: bool,
    /// Somebody asked for so many of the oldest runs to become one without garbage.
    pub(crate) requested: Option<usize>,
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Job {
    /// Write the oldest frozen tail to a run.
    Flush,
    /// Merge these runs into one, or go on with it.
    Merge {
        /// By place, oldest first.
        runs: Range<usize>,
        /// Whether the result stays out of the hash index.
        cold: bool,
        /// What goes without a newer row.
        drops: Drops,
        /// Why, for logs and tests.
        reason: Reason,
    },
    /// Take the rows of these runs out of the hash index.
    Cool {
        /// By place: one, or those of a merge that is under way.
        runs: Range<usize>,
    },
    /// All is well.
    Nothing,
}

/// Why runs are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// There must be room for the next run.
    Limit,
    /// It had been begun.
    Unfinished,
    /// Somebody asked.
    Requested,
    /// Garbage pays for it.
    Garbage,
    /// Reads look at too many runs.
    Count,
    /// It writes nothing.
    Free,
}

/// The figures that decide.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tuning {
    /// No key should be in more runs than this.
    pub(crate) runs_max: usize,
    /// No key may be in more runs than this, even while writers are ahead of compaction.
    pub(crate) runs_limit: usize,
    /// More runs than this are merged although the store is written to.
    pub(crate) runs_busy: usize,
    /// More runs than this are merged when it is idle.
    pub(crate) runs_idle: usize,
    /// So much garbage, in thousandths of the live bytes, is merged away.
    pub(crate) garbage_permille: u64,
    /// Less garbage than this is left alone.
    pub(crate) garbage_bytes_min: u64,
    /// Files shorter than this are not kept as they are by a merge: they would grow many.
    pub(crate) kept_file_bytes_min: u64,
    /// Unless they have so many rows: then they are short because their rows are.
    pub(crate) kept_file_rows_min: u64,
}

impl Tuning {
    /// Measured by `simulation.rs`, which prints its figures: with a flush of a twelfth of the live
    /// bytes, overwriting costs two to three bytes of merging for each byte, and runs stay below one and a half times
    /// the live bytes.
    pub(crate) const DEFAULT: Tuning = Tuning {
        runs_max: 8,
        runs_limit: 12,
        runs_busy: 6,
        runs_idle: 4,
        garbage_permille: 450,
        garbage_bytes_min: 1 << 20,
        kept_file_bytes_min: 4 << 20,
        kept_file_rows_min: 8 << 10,
    };
}

const _: () = assert!(Tuning::DEFAULT.runs_idle <= Tuning::DEFAULT.runs_busy);
// A merge of everything has room for another run beside it.
const _: () = assert!(Tuning::DEFAULT.runs_busy + 1 < Tuning::DEFAULT.runs_max);
const _: () = assert!(Tuning::DEFAULT.runs_max < Tuning::DEFAULT.runs_limit);

/// A tail is flushed when it is this part of the live bytes.
const TAIL_SHARE: u64 = 12;
const TAIL_BYTES_MIN: u64 = 2 << 20;
const TAIL_BYTES_MAX: u64 = 1 << 30;

/// Its memory is at most this part of what the indexes may take: with it and those that wait to be flushed, three tenths. The
/// hash index has five eighths; the rest is for what compaction notes of the rows that it moves.
const TAIL_MEMORY_SHARE: u64 = 20;

/// Whether a tail is to be frozen and flushed: of its bytes in the log, those of its memory, the live bytes of the store,
/// and what its indexes may take in memory.
///
/// In proportion to what is live: so the log's part of the space is bounded, and large stores have fewer, larger runs to
/// merge.
pub(crate) fn tail_is_due(log_bytes: u64, memory_bytes: u64, live_bytes: u64, index_bytes_max: u64) -> bool {
    let log_bytes_max = (live_bytes / TAIL_SHARE).clamp(TAIL_BYTES_MIN, TAIL_BYTES_MAX);
    log_bytes >= log_bytes_max || memory_bytes >= index_bytes_max / TAIL_MEMORY_SHARE
}

impl FileState<'_> {
    /// What tombstones take, by estimation: no more than their part of the rows.
    fn tombstone_bytes(&self) -> u64 {
        const TOMBSTONE_BYTES: u64 = 64;
        self.tombstones * TOMBSTONE_BYTES.min(self.bytes / self.rows.max(1))
    }

    /// What has newer rows elsewhere.
    fn shadowed_bytes(&self) -> u64 {
        self.live_bytes.map_or(0, |live| self.bytes.saturating_sub(live))
    }

    /// What a merge with the oldest run drops without a newer row.
    fn droppable_bytes(&self) -> u64 {
        self.tombstone_bytes() + self.expired_bytes
    }

    /// What would go if everything were merged, as far as it is known of this file alone.
    fn garbage_bytes(&self) -> u64 {
        (self.shadowed_bytes() + self.droppable_bytes()).min(self.bytes)
    }
}

impl RunState<'_> {
    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    fn garbage_bytes(&self) -> u64 {
        self.files.iter().map(FileState::garbage_bytes).sum()
    }

    /// Whether a merge of it, as the oldest run, drops something.
    fn has_droppable(&self) -> bool {
        self.files.iter().any(|file| file.tombstones > 0 || file.expired_bytes > 0)
    }

    fn rows(&self) -> u64 {
        self.files.iter().map(|file| file.rows).sum()
    }
}

impl<'a> StoreState<'a> {
    fn bytes(&self, runs: Range<usize>) -> u64 {
        self.runs[runs].iter().map(RunState::bytes).sum()
    }

    /// The bytes of all runs that are not live.
    ///
    /// Of cold runs nobody counts what is overwritten. There the worst is taken to be true, that each newer row replaces
    /// an older one: then the largest run is all that is live.
    pub(crate) fn garbage_bytes(&self) -> u64 {
        self.garbage(FileState::garbage_bytes)
    }

    fn garbage(&self, of: impl Fn(&FileState<'a>) -> u64) -> u64 {
        let known = self.runs.iter().flat_map(|run| &run.files).map(of).sum();
        if !self.runs.iter().any(|run| run.cold) {
            return known;
        }
        let largest = self.runs.iter().map(RunState::bytes).max().unwrap_or(0);
        known.max(self.bytes(0..self.runs.len()) - largest)
    }

    /// The most runs that may hold one key: a merge's result and what is left of its inputs have no key in common.
    pub(crate) fn overlap(&self) -> usize {
        let outputs = unfinished(&self.runs).filter(|window| window.output.is_some()).count();
        self.runs.len() - outputs
    }

    /// Whether compaction cannot keep up with the writers: there are too many runs for another one, or there is
    /// half as much garbage again as that with which a merge begins.
    pub(crate) fn is_behind(&self, tuning: &Tuning) -> bool {
        // What has expired or was deleted is not more the faster they write.
        let garbage = self.garbage(FileState::shadowed_bytes);
        let live = self.bytes(0..self.runs.len()) - garbage;
        let limit = u128::from(live) * u128::from(tuning.garbage_permille);
        let much = garbage >= 4 * tuning.garbage_bytes_min && u128::from(garbage) * 2_000 > 3 * limit;
        much || self.overlap() >= tuning.runs_max
    }
}

/// Whether a tail may become another run, where so many runs may hold a key and so many tails wait.
pub(crate) fn may_flush(overlap: usize, frozen: usize, tuning: &Tuning) -> bool {
    // With one more tail, writers would wait.
    let urgent = frozen as u64 >= FROZEN_MAX;
    frozen > 0 && overlap < if urgent { tuning.runs_limit } else { tuning.runs_max }
}

/// What to do next.
pub(crate) fn next_job(state: &StoreState<'_>, tuning: &Tuning) -> Job {
    let (overlap, count) = (state.overlap(), state.runs.len());
    if may_flush(overlap, state.frozen, tuning) {
        return Job::Flush;
    }
    if let Some(runs) = runs_to_cool(state) {
        return Job::Cool { runs };
    }
    if overlap >= tuning.runs_max
        && let Some(runs) = cheapest(&state.runs, state.requested, tuning)
    {
        return merge(state, runs, Reason::Limit);
    }
    if let Some(Unfinished { inputs, .. }) = unfinished(&state.runs).last() {
        return merge(state, inputs, Reason::Unfinished);
    }
    if let Some(job) = requested_job(state) {
        return job;
    }
    if let Some(runs) = garbage_window(state, tuning) {
        return merge(state, runs, Reason::Garbage);
    }
    let limit = if state.idle { tuning.runs_idle } else { tuning.runs_busy };
    if count > limit {
        return merge(state, geometric_window(state), Reason::Count);
    }
    match free_window(state, tuning) {
        Some(runs) => merge(state, runs, Reason::Free),
        None => Job::Nothing,
    }
}

/// The next step of what somebody asked for, once what they want merged is in runs. `None`: it is done, or nobody asks.
///
/// No merge that begins meanwhile takes runs of both sides, those that were there and those that came later. So what there
/// is to do becomes less with each step, whatever is written and flushed between two.
pub(crate) fn requested_job(state: &StoreState<'_>) -> Option<Job> {
    let count = state.requested?.min(state.runs.len());
    let begun = unfinished(&state.runs).filter(|merge| merge.inputs.start < count).last();
    if let Some(Unfinished { inputs, .. }) = begun {
        return Some(merge(state, inputs, Reason::Unfinished));
    }
    let wanted = count > 1 || state.runs[..count].iter().any(RunState::has_droppable);
    wanted.then(|| merge(state, 0..count, Reason::Requested))
}

fn merge(state: &StoreState<'_>, runs: Range<usize>, reason: Reason) -> Job {
    // What a merge under way has moved already is before its inputs, and has no key in common with them.
    let begun = unfinished(&state.runs).find(|window| window.inputs == runs).and_then(|window| window.output);
    // Rows that are not in the hash index cannot come back into it: their keys may have newer entries, which nobody
    // would compare. So what has a cold part is cold.
    let cold = state.runs[begun.unwrap_or(runs.start)..runs.end].iter().any(|run| run.cold);
    let drops = match (begun.unwrap_or(runs.start), state.requested) {
        (0, Some(_)) => Drops::All,
        (0, None) => Drops::Many,
        _ => Drops::Nothing,
    };
    Job::Merge { runs, cold, drops, reason }
}

/// The oldest run that is in the hash index, when that has too many entries: the rest is newer, and probably hotter. A
/// merge that is under way becomes cold as a whole, for its result must be of one kind.
fn runs_to_cool(state: &StoreState<'_>) -> Option<Range<usize>> {
    if state.hash_entries <= state.hash_entries_max {
        return None;
    }
    let run = state.runs.iter().position(|run| !run.cold && run.rows() > 0)?;
    let whole = |merge: Unfinished| merge.output.unwrap_or(merge.inputs.start)..merge.inputs.end;
    let under_way = unfinished(&state.runs).map(whole).find(|runs| runs.contains(&run));
    Some(under_way.unwrap_or(run..run + 1))
}

/// Which runs to merge to be rid of garbage, when there is too much of it: always the newest ones from some run on, for
/// what shadows a row is newer than it.
fn garbage_window(state: &StoreState<'_>, tuning: &Tuning) -> Option<Range<usize>> {
    let count = state.runs.len();
    let (bytes, garbage) = (state.bytes(0..count), state.garbage_bytes());
    let live = bytes - garbage;
    let limit = u128::from(live) * u128::from(tuning.garbage_permille);
    if garbage < tuning.garbage_bytes_min || u128::from(garbage) * 1_000 <= limit {
        return None;
    }
    if state.runs.iter().any(|run| run.cold) && count > 1 {
        return Some(0..count);
    }
    let (mut best, mut freed) = (0..count, 0);
    let mut best_worth = 0.0;
    if count == 1 {
        // What shadows its rows is in no run yet, so only what needs no newer row would go.
        let droppable: u64 = state.runs[0].files.iter().map(FileState::droppable_bytes).sum();
        return (u128::from(droppable) * 1_000 > limit && droppable >= tuning.garbage_bytes_min)
            .then_some(best);
    }
    for from in (0..count).rev() {
        freed += freed_bytes(&state.runs[from], from == 0);
        let written = cost(&state.runs[from..], tuning).saturating_sub(freed);
        // Bytes freed for each byte written; the one is there for what writes nothing.
        let worth = freed as f64 / (written + 1) as f64;
        // One run alone has nothing that shadows it; too small a part would leave as much to do as before.
        if count - from > 1 && freed >= garbage / 4 && worth >= best_worth {
            (best, best_worth) = (from..count, worth);
        }
    }
    Some(best)
}

/// What merging a run with all newer ones frees of it. Tombstones and expired rows go only with the oldest run.
fn freed_bytes(run: &RunState<'_>, oldest: bool) -> u64 {
    if oldest {
        return run.garbage_bytes();
    }
    run.files.iter().map(FileState::shadowed_bytes).sum()
}

/// Which of the newest runs to merge such that sizes stay geometric: as many as are not larger, one by one, than all
/// newer ones together times a ratio. The ratio is the one that a list of this length and sum would have if it were
/// geometric: so it grows with the store, and a row is rewritten about as often as there are runs.
fn geometric_window(state: &StoreState<'_>) -> Range<usize> {
    let count = state.runs.len();
    let smallest = state.runs.iter().map(RunState::bytes).min().unwrap_or(0).max(1);
    let all = state.bytes(0..count).max(1);
    let ratio = ((all as f64 / smallest as f64).powf(1.0 / count.max(2) as f64) - 1.0).max(1.0);
    let mut from = count.saturating_sub(2);
    while from > 0 && state.runs[from - 1].bytes() as f64 <= ratio * state.bytes(from..count) as f64 {
        from -= 1;
    }
    from..count
}

/// Neighbours whose files do not overlap, and are large enough to stay as they are.
fn free_window(state: &StoreState<'_>, tuning: &Tuning) -> Option<Range<usize>> {
    let pairs = (1..state.runs.len()).map(|newer| newer - 1..newer + 1);
    let one_kind = |pair: &Range<usize>| state.runs[pair.start].cold == state.runs[pair.start + 1].cold;
    pairs.filter(one_kind).find(|pair| cost(&state.runs[pair.clone()], tuning) == 0)
}

#[cfg(test)]
mod scripts;
#[cfg(test)]
mod simulation;
