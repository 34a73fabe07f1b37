//! A slice of a merge: from the key where the last one ended, as far as one file goes.
//!
//! What is merged is replaced bit by bit: each slice's file joins the output, and the inputs count from a later key on. So
//! a merge takes no more space than a few files beside what it replaces, and what is done is done, whatever happens.

use std::ops::Range;
use std::sync::Arc;

use super::merge::{Fate, Merge, Rules};
use super::output::{Meter, Output};
use super::policy::{Drops, StoreState, unfinished};
use super::site::{LiveRun, Site, Written};
use super::sources::RunSource;
use crate::contents::Gone;
use crate::error::Result;
use crate::view::{RunFile, SortedRun};

/// Which runs become which.
#[derive(Clone, Debug)]
pub(crate) struct Slice {
    /// By place.
    pub(crate) inputs: Range<usize>,
    /// Whether the result stays out of the hash index.
    pub(crate) cold: bool,
    /// The run that has the results of the slices before.
    begun: Option<usize>,
    drops: Drops,
}

/// What came of it.
pub(crate) struct Done {
    pub(crate) written: Option<Written>,
    /// Keys of which nothing is left, and where the hash index may know them to be.
    pub(crate) gone: Vec<Gone>,
    /// Where the next slice begins; `None`: all is done.
    pub(crate) next: Option<Vec<u8>>,
}

impl Slice {
    pub(crate) fn new(state: &StoreState<'_>, inputs: Range<usize>, cold: bool, drops: Drops) -> Slice {
        let begun =
            unfinished(&state.runs).find(|merge| merge.inputs == inputs).and_then(|merge| merge.output);
        Slice { inputs, cold, begun, drops }
    }

    pub(crate) fn drops_tombstones(&self) -> bool {
        self.drops != Drops::Nothing
    }

    /// Writes the slice. `pause` is told of bytes that were moved, now and then.
    pub(crate) fn write(
        &self,
        site: &Site,
        inputs: &[SortedRun],
        rules: Rules,
        file_bytes: u64,
        before: Option<Vec<u8>>,
        mut pause: impl FnMut(u64) -> Result<()>,
    ) -> Result<Done> {
        let sources = inputs.iter().map(RunSource::new).collect::<Result<Vec<RunSource>>>()?;
        let mut merge = Merge::new(sources, rules);
        let (mut output, mut meter) = (Output::new(site), Meter::default());
        let mut gone = Vec::new();
        let next = loop {
            let Some(key) = merge.upcoming()? else { break None };
            if let Some(before) = before.as_ref().filter(|before| key >= &before[..]) {
                break Some(before.clone());
            }
            // What was dropped is remembered, too, until the hash index has forgotten it.
            if output.is_full(file_bytes) || gone.len() as u64 >= site.settings.file_rows_max {
                break Some(key.to_vec());
            }
            let Some((source, fate)) = merge.next()? else { break None };
            let source = merge.source(source);
            let Some(row) = source.row() else { break None };
            if let Some(bytes) = meter.add(row.bytes.len()) {
                pause(bytes)?;
            }
            match fate {
                Fate::Kept => output.push(&row, source.hashed_place())?,
                Fate::Gone => gone.extend(site.contents.gone(&row, source.hashed_place())),
            }
        };
        Ok(Done { written: output.finish()?, gone, next })
    }
}

impl SortedRun {
    pub(crate) fn has(&self, file: &RunFile) -> bool {
        self.files.iter().any(|other| other.handle == file.handle)
    }
}

/// The runs as a slice leaves them, and the files that nothing needs any more. `files`: what it made, or took over.
pub(crate) fn after_slice(
    runs: &[LiveRun],
    slice: &Slice,
    files: &[RunFile],
    next: Option<&[u8]>,
) -> (Vec<LiveRun>, Vec<RunFile>) {
    let next: Option<Arc<[u8]>> = next.map(Arc::from);
    let (mut after, mut dropped) = (runs[..slice.inputs.start].to_vec(), Vec::new());
    let inputs = &runs[slice.inputs.clone()];
    if slice.begun.is_none() {
        let sorted = SortedRun { files: Vec::new(), from: None, cold: slice.cold };
        let first = inputs.iter().map(|run| run.first).min().unwrap_or_default();
        after.push(LiveRun { sorted, first, last: first });
    }
    if let Some(output) = after.last_mut() {
        output.sorted.files.extend_from_slice(files);
        output.last = inputs.iter().map(|run| run.last).fold(output.last, Ord::max);
        if output.sorted.files.is_empty() {
            after.pop();
        }
    }
    for input in inputs {
        let mut left = input.clone();
        let counts =
            |file: &RunFile| next.as_ref().is_some_and(|next| file.run.summary().last_key() >= &**next);
        left.sorted.files.retain(counts);
        left.sorted.from.clone_from(&next);
        let is_taken = |file: &RunFile| files.iter().any(|taken| taken.handle == file.handle);
        dropped.extend(input.sorted.files.iter().filter(|file| !counts(file) && !is_taken(file)).cloned());
        if !left.sorted.files.is_empty() {
            after.push(left);
        }
    }
    after.extend_from_slice(&runs[slice.inputs.end..]);
    (after, dropped)
}
