//! The one who works: it looks at how the store stands, asks the policy, and does one step after the other.
//!
//! A step is a flush, a slice of a merge, or a run that becomes cold. Each ends with a consistent store on the disk and
//! for readers, so there is nothing to undo: what ends in the middle of a step leaves a file that nobody knows.
//!
//! Where a step changes what counts it says so first. What fails before that (a file that could not be made or read) has changed
//! nothing, so the step is tried again later, with files of other names: what was written to a file whose fsync
//! failed is never fsynced again. A merge that meets damage is not tried again by itself: merging rests then, and tails
//! are flushed all the same.
//!
//! A flush does not wait for a slice: where a slice would pause, the tails that are waiting are flushed first. The
//! slice does not mind: a flush only adds a run behind all others.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::merge::Rules;
use super::output::{Meter, Output};
use super::pace::Pace;
use super::policy::{Job, Planned, StoreState, may_flush, next_job, plan, requested_job};
use super::ration::Speed;
use super::site::{Edit, LiveRun, Site, Written, describe};
use super::slice::{Slice, after_slice};
use crate::error::{Error, Result};
use crate::file_table::{Source, is_tombstone};
use crate::position::Sequence;
use crate::row_buffer::with_buffer;
use crate::run::next_expiry_ms;
use crate::view::{FrozenTail, RunFile, SortedRun};

/// See the module. There is one, behind a lock: whoever has it is the one.
pub(crate) struct Worker {
    runs: Vec<LiveRun>,
    /// Everything up to here is in the runs.
    flushed: Sequence,
    pace: Pace,
    speed: Speed,
    /// Whether the last step brought something about.
    is_working: bool,
    /// The most runs that may hold a key, as of the last step and the flushes since.
    overlap: usize,
    /// Whether writers were too fast for it, as of the last step.
    is_behind: bool,
    begun: Instant,
    /// What somebody asked for has to become one run without garbage.
    request: Option<Request>,
    /// From the moment when a step changes what counts to the moment when it has.
    is_changing: bool,
    /// A run is damaged: nothing is merged by itself any more.
    rests: bool,
    /// That was found by the last step.
    met_damage: bool,
}

#[derive(Clone, Copy, Debug)]
struct Request {
    /// What has expired when it was made has to go.
    now_ms: Option<u64>,
    /// What was written up to here, which was flushed or frozen when it was made. What is written later is not waited for.
    through: Sequence,
}

impl Worker {
    /// `runs`: those of the store's view, in their order.
    pub(crate) fn new(runs: Vec<LiveRun>, flushed: Sequence) -> Worker {
        let pace = Pace::new(Duration::ZERO);
        Worker {
            runs,
            flushed,
            pace,
            speed: Speed::default(),
            is_working: false,
            overlap: 0,
            is_behind: false,
            begun: Instant::now(),
            request: None,
            is_changing: false,
            rests: false,
            met_damage: false,
        }
    }

    /// After a step that failed: whether nobody knows what it has changed.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.is_changing
    }

    /// How many runs there are.
    pub(crate) fn runs(&self) -> usize {
        self.runs.len()
    }

    /// Whether merging rests, since a run is damaged.
    pub(crate) fn rests(&self) -> bool {
        self.rests
    }

    /// Whether the last step was a merge that met damage, and has changed nothing.
    pub(crate) fn met_damage(&self) -> bool {
        self.met_damage
    }

    /// Lets the log's beginning go.
    pub(crate) fn release_log(&mut self, site: &Site) -> Result<()> {
        site.release_log(&mut self.is_changing)
    }

    /// Does the next step. False: there is nothing to do. Once compaction was stopped there is none: the directory may be
    /// somebody else's by now. Nor after a failure: the index may still point at what is not in the runs any more.
    pub(crate) fn step(&mut self, site: &Site) -> Result<bool> {
        if self.rests {
            return self.step_of(site, flush_alone);
        }
        self.step_of(site, |state| next_job(state, &site.settings.tuning))
    }

    fn step_of(&mut self, site: &Site, choose: impl FnOnce(&StoreState<'_>) -> Job) -> Result<bool> {
        if site.brake.is_stopped() {
            return Err(Error::Closed);
        }
        site.flow.check()?;
        self.met_damage = false;
        self.pace.look(self.begun.elapsed(), site.contents.foreground());
        let files = site.contents.files().load_full();
        site.map_files(&files);
        let now_ms = self.request.map_or_else(|| site.now_ms(), |request| request.now_ms);
        let state = self.state(site, describe(&self.runs, &files, now_ms));
        let job = choose(&state);
        // While merging rests there is nothing that writers could be behind of.
        let (overlap, is_behind) = (state.overlap(), !self.rests && state.is_behind(&site.settings.tuning));
        let planned = match &job {
            Job::Merge { runs, cold, drops, .. } => {
                let planned = plan(&state.runs[runs.clone()], *cold, *drops, &site.settings.tuning);
                Some((planned, Slice::new(&state, runs.clone(), *cold, *drops)))
            }
            _ => None,
        };
        drop(state);
        self.begin(site, job != Job::Nothing, overlap, is_behind);
        match job {
            Job::Nothing => return Ok(false),
            Job::Flush => self.flush(site)?,
            Job::Cool { runs } => self.cool(site, runs)?,
            Job::Merge { .. } => {
                if let Some((planned, slice)) = planned {
                    let merged = self.merge(site, &slice, planned);
                    self.met_damage = !self.is_changing && matches!(merged, Err(Error::Corrupt { .. }));
                    self.rests |= self.met_damage;
                    merged?;
                }
            }
        }
        Ok(true)
    }

    /// Notes how things stand as a step begins, if there is one.
    fn begin(&mut self, site: &Site, is_working: bool, overlap: usize, is_behind: bool) {
        if is_working && !self.is_working {
            self.speed.begin(self.begun.elapsed());
        }
        self.is_working = is_working;
        self.overlap = overlap;
        self.is_behind = is_working && is_behind;
        self.ration(site);
    }

    /// Says how fast writers may be.
    fn ration(&self, site: &Site) {
        let too_many = !self.rests && self.overlap >= site.settings.tuning.runs_max;
        let is_behind = self.is_behind || self.is_working && too_many;
        site.flow.set_rate(self.speed.writers().filter(|_| is_behind));
    }

    /// Makes one run of everything that is flushed or frozen now.
    pub(crate) fn compact(&mut self, site: &Site) -> Result<()> {
        let through = site.contents.view().frozen.last().map_or(self.flushed, |tail| tail.last);
        self.request = Some(Request { now_ms: site.now_ms(), through });
        let outcome = self.fulfil(site, through);
        self.request = None;
        site.flow.set_rate(None);
        outcome
    }

    /// In turn: a step of what is urgent, if something is, and one of what was asked for. So neither waits for long,
    /// and what was asked for comes to its end, however much is written meanwhile.
    fn fulfil(&mut self, site: &Site, through: Sequence) -> Result<()> {
        loop {
            let is_urgent = !site.contents.view().frozen.is_empty()
                || site.contents.hash_keys() > site.settings.hash_entries_max;
            if is_urgent {
                self.step(site)?;
            }
            let is_flushed = self.flushed >= through;
            if is_flushed && !self.step_of(site, |state| requested_job(state).unwrap_or(Job::Nothing))? {
                return Ok(());
            }
        }
    }

    /// How long until more of the runs has expired than now, as far as they say.
    pub(crate) fn until_next_expiry(&self, site: &Site) -> Option<Duration> {
        let now_ms = site.now_ms()?;
        let files = self.runs.iter().flat_map(|run| &run.sorted.files);
        let next_ms =
            files.filter_map(|file| next_expiry_ms(&file.run.summary().statistics.expiry_steps, now_ms));
        next_ms.min().map(|next_ms| Duration::from_millis(next_ms - now_ms))
    }

    /// Whether somebody reads or writes, as far as is known.
    pub(crate) fn is_busy(&self) -> bool {
        self.pace.is_busy()
    }

    fn state<'r>(&self, site: &Site, runs: Vec<super::policy::RunState<'r>>) -> StoreState<'r> {
        StoreState {
            runs,
            frozen: site.contents.view().frozen.len(),
            hash_entries: site.contents.hash_keys(),
            hash_entries_max: site.settings.hash_entries_max,
            idle: !self.pace.is_busy(),
            requested: self.request.map(|request| self.runs_through(request.through)),
        }
    }

    /// How many of the oldest runs have something that was written up to a sequence.
    fn runs_through(&self, through: Sequence) -> usize {
        self.runs.iter().take_while(|run| run.first <= through).count()
    }

    /// Accounts for bytes that were moved: waits as long as the pace says, and sees to it that no tail waits meanwhile.
    fn pause(&mut self, site: &Site, bytes: u64, in_flush: bool) -> Result<()> {
        self.speed.moved(bytes, self.begun.elapsed());
        self.ration(site);
        let tuning = &site.settings.tuning;
        while !in_flush && may_flush(self.overlap, site.contents.view().frozen.len(), tuning) {
            self.flush(site)?;
        }
        // Who asked for everything waits for it, and so does who writes while it is behind.
        let unbounded = self.request.is_some() || self.is_behind;
        let debt = if unbounded { u64::MAX } else { site.flow.frozen() };
        let wait = self.pace.spend(bytes, self.begun.elapsed(), site.contents.foreground(), debt);
        if site.brake.wait(wait) { Ok(()) } else { Err(Error::Closed) }
    }

    /// Writes the oldest frozen tail to a run.
    fn flush(&mut self, site: &Site) -> Result<()> {
        let view = site.contents.view();
        let Some(tail) = view.frozen.first() else { return Ok(()) };
        // What FILES says to be flushed must not be lost from the log, or that would seem to have been cut.
        if let Source::Segment(segment) = &tail.segment.source {
            self.is_changing = true;
            site.gate.sync(segment)?;
            self.is_changing = false;
        }
        // Without an older part there is nothing that a tombstone could hide.
        let oldest = self.runs.is_empty();
        let file_bytes = site.settings.file_bytes_max;
        let (mut output, mut written, mut meter) = (Output::new(site), Vec::new(), Meter::default());
        let mut gone = Vec::new();
        let outcome = each_newest(site, tail, |row, place| {
            if oldest && !row.row.is_put() {
                gone.extend(site.contents.gone(row, Some(place)));
                return Ok(());
            }
            output.push(row, Some(place))?;
            if output.is_full(file_bytes) {
                written.extend(output.finish()?);
            }
            meter.add(row.bytes.len()).map_or(Ok(()), |bytes| self.pause(site, bytes, true))
        });
        let outcome = outcome.and_then(|()| {
            written.extend(output.finish()?);
            Ok(())
        });
        let files = site.take_in_all(&written, outcome)?;
        let mut runs = self.runs.clone();
        if !files.is_empty() {
            let sorted = SortedRun { files: files.clone(), from: None, cold: false };
            runs.push(LiveRun { sorted, first: self.flushed.next(), last: tail.last });
            self.overlap += 1;
        }
        self.publish(site, Edit { runs, flushed: Some(tail) }, &files)?;
        self.flushed = tail.last;
        for (file, written) in files.iter().zip(&written) {
            site.move_rows(file, &written.moved_from, false)?;
            site.count(|figures| &figures.flushed_bytes, file.run.summary().file_bytes);
        }
        site.contents.forget_rows(&gone);
        self.is_changing = false;
        site.settled(tail.last);
        site.count(|figures| &figures.flushes, 1);
        Ok(())
    }

    /// Does a slice of a merge.
    fn merge(&mut self, site: &Site, slice: &Slice, planned: Planned) -> Result<()> {
        match planned {
            Planned::Done => {
                self.replace(site, slice, Vec::new(), None)?;
                self.is_changing = false;
                Ok(())
            }
            Planned::Keep { run, file } => {
                let kept = self.runs[slice.inputs.start + run].sorted.files[file].clone();
                // Nobody else has this key, so that the next slice begins behind it.
                let mut next = kept.run.summary().last_key().to_vec();
                next.push(0);
                self.replace(site, slice, vec![kept], Some(next))?;
                self.is_changing = false;
                site.count(|figures| &figures.kept_files, 1);
                Ok(())
            }
            Planned::Rewrite { before } => self.rewrite(site, slice, before),
        }
    }

    fn rewrite(&mut self, site: &Site, slice: &Slice, before: Option<Vec<u8>>) -> Result<()> {
        let inputs: Vec<SortedRun> =
            self.runs[slice.inputs.clone()].iter().map(|run| run.sorted.clone()).collect();
        let bytes = inputs.iter().flat_map(|run| &run.files).map(|file| file.run.summary().file_bytes).sum();
        let now_ms = self.request.map_or_else(|| site.now_ms(), |request| request.now_ms);
        let rules = Rules { oldest: slice.drops_tombstones(), now_ms };
        let file_bytes = site.file_bytes(bytes);
        let done =
            slice.write(site, &inputs, rules, file_bytes, before, |bytes| self.pause(site, bytes, false))?;
        let written: Vec<Written> = done.written.into_iter().collect();
        let files = site.take_in_all(&written, Ok(()))?;
        let dropped = self.replace(site, slice, files.clone(), done.next)?;
        for (file, written) in files.iter().zip(&written) {
            site.move_rows(file, &written.moved_from, slice.cold)?;
            site.count(|figures| &figures.merged_bytes, file.run.summary().file_bytes);
        }
        site.contents.forget_rows(&done.gone);
        self.is_changing = false;
        dropped.iter().for_each(|file| site.let_go(file));
        site.count(|figures| &figures.slices, 1);
        Ok(())
    }

    /// Puts the result of a slice in the place of what it was made of. Returns the files that nothing needs any more.
    fn replace(
        &mut self,
        site: &Site,
        slice: &Slice,
        files: Vec<RunFile>,
        next: Option<Vec<u8>>,
    ) -> Result<Vec<RunFile>> {
        let (runs, dropped) = after_slice(&self.runs, slice, &files, next.as_deref());
        let is_kept = |file: &RunFile| self.runs.iter().any(|run| run.sorted.has(file));
        let new: Vec<RunFile> = files.into_iter().filter(|file| !is_kept(file)).collect();
        self.publish(site, Edit { runs, flushed: None }, &new)?;
        Ok(dropped)
    }

    /// Takes the rows of runs out of the hash index.
    fn cool(&mut self, site: &Site, which: Range<usize>) -> Result<()> {
        let mut runs = self.runs.clone();
        runs[which.clone()].iter_mut().for_each(|run| run.sorted.cold = true);
        self.publish(site, Edit { runs, flushed: None }, &[])?;
        for file in self.runs[which.clone()].iter().flat_map(|run| &run.sorted.files) {
            site.cool(file)?;
        }
        self.is_changing = false;
        site.count(|figures| &figures.cooled_runs, which.len() as u64);
        Ok(())
    }

    /// Publishes an edit. `new`: files that go again if it certainly did not come about.
    fn publish(&mut self, site: &Site, edit: Edit<'_>, new: &[RunFile]) -> Result<()> {
        if let Err(error) = site.publish(&edit, &mut self.is_changing) {
            if !self.is_changing {
                new.iter().for_each(|file| site.let_go(file));
            }
            return Err(error);
        }
        self.runs = edit.runs;
        Ok(())
    }
}

impl Site {
    /// Takes files in that were written one after the other; if something went wrong with a later one, none.
    fn take_in_all(&self, written: &[Written], outcome: Result<()>) -> Result<Vec<RunFile>> {
        let mut files = Vec::new();
        let mut outcome = outcome;
        for written in written {
            match outcome.and_then(|()| self.take_in(&written.run)) {
                Ok(file) => {
                    files.push(file);
                    outcome = Ok(());
                }
                Err(error) => {
                    self.remove(&written.run);
                    outcome = Err(error);
                }
            }
        }
        if outcome.is_err() {
            files.iter().for_each(|file| self.let_go(file));
        }
        outcome.map(|()| files)
    }
}

/// What is done while merging rests: without an end, but for [`super::RUNS_WITHOUT_MERGING_MAX`].
fn flush_alone(state: &StoreState<'_>) -> Job {
    if state.frozen > 0 { Job::Flush } else { Job::Nothing }
}

/// Gives each key of a tail with its newest row and the place of that, in order.
fn each_newest(
    site: &Site,
    tail: &FrozenTail,
    mut found: impl FnMut(&crate::row::StoredRow<'_>, paddock_index::PackedLocator) -> Result<()>,
) -> Result<()> {
    let files = site.contents.files().load_full();
    let mut cursor = tail.layers.cursor();
    cursor.seek(std::ops::Bound::Unbounded);
    let mut last: Option<Vec<u8>> = None;
    while let Some(entry) = cursor.entry() {
        // A key's newest entry comes first; the others have been overwritten.
        if last.as_deref() == Some(entry.key) {
            cursor.next();
            continue;
        }
        let place = entry.locator;
        let Some(file) = files.of(place) else {
            return Err(Error::Poisoned { reason: "a row's file is gone before it was flushed".to_string() });
        };
        with_buffer(|buffer| {
            let row = file.row_at(place, buffer)?;
            let is_it = row.row.key() == Some(entry.key)
                && row.sequence.0 == entry.sequence
                && row.row.is_put() != is_tombstone(place);
            if !is_it {
                let offset = u64::from(place.offset());
                return Err(Error::corrupt(
                    file.path(),
                    offset,
                    "the row is not the one that was written here",
                ));
            }
            found(&row, place)
        })?;
        let key = last.get_or_insert_default();
        key.clear();
        key.extend_from_slice(entry.key);
        cursor.next();
    }
    Ok(())
}
