//! Opening, as far as it does not concern the log: the runs, and the index over them.

use std::collections::HashMap;
use std::sync::Arc;

use paddock_index::HashIndex;

use crate::contents::{Contents, Loaded};
use crate::directory::Directory;
use crate::error::{Error, Result};
use crate::file_table::{Files, Handle, Source};
use crate::files::{Catalogue, CataloguedRun};
use crate::index_checkpoint::Checkpoint;
use crate::memory::Memory;
use crate::run::Run;
use crate::view::{RunFile, SortedRun, View};

/// The runs that a catalogue names, open, with an index over those that are not cold. What a checkpoint covers is taken
/// from there, all else is read.
pub(crate) fn load(
    directory: &Directory,
    catalogue: &Catalogue,
    memory: &Arc<Memory>,
    checkpoint: Option<&Checkpoint>,
) -> Result<Contents> {
    let files = Files::default();
    let mut runs = Vec::with_capacity(catalogue.runs.len());
    for run in &catalogue.runs {
        runs.push(open_run(directory, catalogue, memory, &files, run)?);
    }
    // Of a run that a merge has partly moved on, a checkpoint may still know rows that are gone: deleted ones, of which the
    // merge has left nothing. Without their keys nobody can tell them, so such a run is read.
    let whole = || runs.iter().filter(|run| !run.cold && run.from.is_none()).flat_map(|run| &run.files);
    let handles: HashMap<u32, Handle> = whole().map(|file| (file.run.number(), file.handle)).collect();
    let mut loaded: HashMap<Handle, Loaded> = HashMap::new();
    let hash = match checkpoint {
        Some(checkpoint) => {
            checkpoint.load(&handles, |place| loaded.entry(Handle::of(place)).or_default().note(place))?
        }
        None => HashIndex::new(catalogue.store_id.seed()),
    };
    let contents = Contents::new(files, hash);
    for (handle, loaded) in &loaded {
        contents.count_loaded(*handle, loaded);
    }
    // From the oldest to the newest, though a checkpoint may know a newer row than a run that it does not cover.
    for run in runs.iter().filter(|run| !run.cold) {
        let is_known = |file: &&RunFile| {
            run.from.is_none() && checkpoint.is_some_and(|checkpoint| checkpoint.covers(file.run.number()))
        };
        for file in run.files.iter().filter(|file| !is_known(file)) {
            load_file(&contents, run, file)?;
        }
    }
    if let Some(checkpoint) = checkpoint {
        contents.set_checkpointed(checkpoint.covered().collect());
        contents.set_index_ahead(checkpoint.applied);
    }
    contents.count_cold(&runs);
    contents.publish(|_| View { frozen: Vec::new(), runs });
    Ok(contents)
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

/// Points the index at the rows of a file, but for those that a merge has moved on and those that are newer elsewhere.
fn load_file(contents: &Contents, sorted: &SortedRun, file: &RunFile) -> Result<()> {
    let mut unplaceable = false;
    file.run.for_each_location(|key, sequence, offset, length, tombstone| {
        if sorted.from.as_ref().is_some_and(|from| key < &**from) {
            return;
        }
        match file.handle.place(tombstone, u64::from(offset), length as usize) {
            Some(place) => contents.load_row(key, sequence, place, u64::from(length)),
            None => unplaceable = true,
        }
    })?;
    // Said of files that no place can name: Files::add refuses to take them in.
    if unplaceable {
        return Err(Error::corrupt(file.run.path(), 0, "a row lies beyond what an index can point at"));
    }
    Ok(())
}
