//! Opening, as far as it does not concern the log: the runs, and the index over them.

mod filling;
mod reading;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use paddock_index::HashIndex;

use self::filling::Filling;
use self::reading::{Unread, for_each_batch};
use crate::contents::{Contents, Loaded};
use crate::directory::Directory;
use crate::error::Result;
use crate::file_table::{Files, Handle, Source};
use crate::files::{Catalogue, CataloguedRun};
use crate::index_checkpoint::Checkpoint;
use crate::memory::Memory;
use crate::run::Run;
use crate::view::{RunFile, SortedRun, View};

/// The runs that a catalogue names, open, with an index over those that are not cold. What a checkpoint covers is taken
/// from there, all else is read. The index has about as many entries as it may have, at most half as many again: a store may
/// be opened with less memory than it was made with, and then more of its runs are cold.
pub(crate) fn load(
    directory: &Directory,
    catalogue: &Catalogue,
    memory: &Arc<Memory>,
    checkpoint: Option<&Checkpoint>,
    hash_entries_max: u64,
) -> Result<Contents> {
    let files = Files::default();
    let mut runs = Vec::with_capacity(catalogue.runs.len());
    for run in &catalogue.runs {
        runs.push(open_run(directory, catalogue, memory, &files, run)?);
    }
    // An index that is loaded from a checkpoint has room for all that was in it: so much is not wanted then.
    let checkpoint = if cool(&mut runs, checkpoint, hash_entries_max)? { None } else { checkpoint };
    let (hash, noted) = begin(catalogue, &runs, checkpoint)?;
    let mut filling = Filling::new(hash, &files, &runs, noted, memory.index_bytes_max());
    let reader = filling.index().reader().clone();
    for_each_batch(&unread(&runs, checkpoint), &reader, |batch| filling.take(&batch))?;
    let contents = filling.finish(files);
    if let Some(checkpoint) = checkpoint {
        contents.set_checkpointed(checkpoint.covered().collect());
        contents.set_index_ahead(checkpoint.applied);
    }
    contents.count_cold(&runs);
    contents.publish(|_| View { frozen: Vec::new(), runs });
    Ok(contents)
}

/// Leaves the oldest runs out of the index, as far as all others may have too many keys for it. FILES need not say so: the
/// next opening decides anew. Returns whether there were any.
///
/// How many keys point into a run is known by the checkpoint that covers it; of any other it is no more than it has rows.
/// That may be too many by those that were overwritten, hence the half: if there are too many entries after all,
/// compaction begins with that.
fn cool(runs: &mut [SortedRun], checkpoint: Option<&Checkpoint>, hash_entries_max: u64) -> Result<bool> {
    let entries_max = hash_entries_max.saturating_add(hash_entries_max / 2);
    let rows =
        |run: &SortedRun| -> u64 { run.files.iter().map(|file| file.run.summary().statistics.rows).sum() };
    let hot = |runs: &[SortedRun], entries: &dyn Fn(&SortedRun) -> u64| -> u64 {
        runs.iter().filter(|run| !run.cold).map(entries).sum()
    };
    if hot(runs, &rows) <= entries_max {
        return Ok(false);
    }
    let counted = checkpoint.map(Checkpoint::count).transpose()?.unwrap_or_default();
    let entries = |run: &SortedRun| -> u64 {
        let of_file = |file: &RunFile| {
            let rows = file.run.summary().statistics.rows;
            // A run that is partly merged is read, whatever the checkpoint says.
            let counted = counted.get(&file.run.number()).filter(|_| run.from.is_none());
            counted.map_or(rows, |count| (*count).min(rows))
        };
        run.files.iter().map(of_file).sum()
    };
    let mut cooled = 0;
    while hot(&runs[cooled..], &entries) > entries_max {
        cooled += 1;
        // What a merge is moving is of one kind with where it moves it.
        while cooled > 0 && runs.get(cooled).is_some_and(|run| run.from.is_some()) {
            cooled += 1;
        }
    }
    runs[..cooled].iter_mut().for_each(|run| run.cold = true);
    Ok(cooled > 0)
}

/// The index that a checkpoint gives, and by handle the rows that it points at; without one an empty index.
///
/// Of a run that a merge has partly moved on, a checkpoint may still know rows that are gone: deleted ones, of which the
/// merge has left nothing. Without their keys nobody can tell them, so such a run is read.
fn begin(
    catalogue: &Catalogue,
    runs: &[SortedRun],
    checkpoint: Option<&Checkpoint>,
) -> Result<(HashIndex, Vec<Loaded>)> {
    let Some(checkpoint) = checkpoint else {
        return Ok((HashIndex::new(catalogue.store_id.seed()), Vec::new()));
    };
    let whole = runs.iter().filter(|run| !run.cold && run.from.is_none()).flat_map(|run| &run.files);
    let handles: HashMap<u32, Handle> = whole.map(|file| (file.run.number(), file.handle)).collect();
    let count = handles.values().map(|handle| handle.0 as usize + 1).max().unwrap_or(0);
    let mut noted = vec![Loaded::default(); count];
    let hash = checkpoint.load(&handles, |place| {
        if let Some(noted) = noted.get_mut(Handle::of(place).0 as usize) {
            noted.note(place, u64::from(place.length_max()));
        }
    })?;
    Ok((hash, noted))
}

/// What a checkpoint does not cover.
fn unread(runs: &[SortedRun], checkpoint: Option<&Checkpoint>) -> Vec<Unread> {
    let mut unread = Vec::new();
    for run in runs.iter().filter(|run| !run.cold) {
        let is_known = |file: &RunFile| {
            run.from.is_none() && checkpoint.is_some_and(|checkpoint| checkpoint.covers(file.run.number()))
        };
        for file in run.files.iter().filter(|file| !is_known(file)) {
            unread.push(Unread { handle: file.handle, run: file.run.clone(), from: run.from.clone() });
        }
    }
    unread
}

fn open_run(
    directory: &Directory,
    catalogue: &Catalogue,
    memory: &Arc<Memory>,
    files: &Files,
    run: &CataloguedRun,
) -> Result<SortedRun> {
    let mut opened = Vec::with_capacity(run.files.len());
    for file in &run.files {
        let run = Run::open(directory, memory, file.number, catalogue.store_id)?;
        opened.push(RunFile { handle: files.add(Source::Run(run.clone()))?, run });
    }
    Ok(SortedRun { files: opened, from: run.from.as_deref().map(Arc::from), cold: run.cold })
}
