//! What compaction works on, and the one way in which its results come to count.
//!
//! # Publishing
//!
//! 1. New run files are complete and durable under their names.
//! 2. FILES names them instead of what they replace: from here on they count after a crash.
//! 3. Readers get a view with them.
//! 4. The hash index points at the rows where they are now, a few hundred at a time. Until then it points at the same
//!    rows where they were.
//! 5. What was replaced leaves the table of files; and its name the disk, once nobody reads it any more.
//!
//! A crash before 2 leaves files that FILES does not name, after it files that it does not name any more: opening removes
//! both. When 2 fails, nobody knows which FILES there is, so both old and new files stay, and nothing is written any more;
//! but for a full disk, which is certain to have left the old one.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::beginning::Beginning;
use super::flow::Flow;
use super::pace::Brake;
use super::policy::{FileState, RunState, Tuning};
use crate::clock::Expiry;
use crate::contents::{Contents, Moved};
use crate::directory::Directory;
use crate::durability::SyncGate;
use crate::error::Result;
use crate::file_table::{FileTable, Source};
use crate::files::{Catalogue, CataloguedFile, CataloguedRun};
use crate::header::StoreId;
use crate::index_checkpoint::{When, write_if_due};
use crate::memory::Memory;
use crate::names::Names;
use crate::position::{EpochStart, Sequence};
use crate::run::{Compression, Run, expired_bytes};
use crate::view::{FrozenTail, RunFile, SortedRun, View};

use paddock_index::PackedLocator;

pub(crate) const FILE_BYTES_MAX: u64 = 256 << 20;
const FILE_BYTES_MIN: u64 = 8 << 20;

/// However little memory there is, files may have so many rows: else they would grow many.
const FILE_ROWS_MIN: u64 = 16 << 10;

/// What an entry of the hash index takes at most, with what is free around it: some 20 bytes where there are many, more in
/// small indexes.
const HASH_ENTRY_BYTES: u64 = 24;

/// How compaction is done in a store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) compression: Compression,
    pub(crate) tuning: Tuning,
    /// No file is made much longer than this. A merge takes at most some of these beside what it replaces.
    pub(crate) file_bytes_max: u64,
    /// A store that merges little makes shorter ones, but none shorter than this.
    pub(crate) file_bytes_min: u64,
    /// No file has more rows than this, and no slice drops more: of each one there is a note in memory meanwhile.
    pub(crate) file_rows_max: u64,
    /// How many entries the hash index may have.
    pub(crate) hash_entries_max: u64,
}

/// See the module.
pub(crate) struct Site {
    pub(crate) contents: Arc<Contents>,
    pub(crate) directory: Directory,
    pub(crate) memory: Arc<Memory>,
    pub(crate) store_id: StoreId,
    pub(crate) expiry: Expiry,
    pub(crate) settings: Settings,
    /// What FILES says. Locked while it is replaced, and no longer.
    pub(crate) catalogue: Arc<Mutex<Catalogue>>,
    /// The epochs of the log, as its owner said when it froze a tail last.
    pub(crate) epochs: Mutex<Vec<EpochStart>>,
    /// Through which the log is made durable.
    pub(crate) gate: SyncGate,
    pub(crate) beginning: Beginning,
    /// Through which names leave the disk.
    pub(crate) names: Names,
    pub(crate) brake: Brake,
    pub(crate) flow: Flow,
    pub(crate) figures: Figures,
    /// Told when a tail has been flushed and nothing of it is read from the log any more, and when FILES says so.
    pub(crate) on_settled: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

/// What was done since opening.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) flushes: AtomicU64,
    pub(crate) flushed_bytes: AtomicU64,
    pub(crate) slices: AtomicU64,
    pub(crate) merged_bytes: AtomicU64,
    /// Files that a merge took over as they were.
    pub(crate) kept_files: AtomicU64,
    pub(crate) cooled_runs: AtomicU64,
}

/// A run, with the time that it is of.
#[derive(Clone, Debug)]
pub(crate) struct LiveRun {
    pub(crate) sorted: SortedRun,
    pub(crate) first: Sequence,
    pub(crate) last: Sequence,
}

impl LiveRun {
    fn catalogued(&self) -> CataloguedRun {
        let SortedRun { files, from, cold } = &self.sorted;
        let file = |file: &RunFile| CataloguedFile {
            number: file.run.number(),
            bytes: file.run.summary().file_bytes,
        };
        CataloguedRun {
            first: self.first,
            last: self.last,
            cold: *cold,
            from: from.as_ref().map(|from| Box::from(&**from)),
            files: files.iter().map(file).collect(),
        }
    }
}

/// A file that was written, and where its rows were before: in the same order, `None` for those that the hash index does
/// not know.
pub(crate) struct Written {
    pub(crate) run: Arc<Run>,
    pub(crate) moved_from: Vec<Option<PackedLocator>>,
}

/// How the store's parts change.
pub(crate) struct Edit<'a> {
    /// All runs, as they are to be.
    pub(crate) runs: Vec<LiveRun>,
    /// The oldest frozen tail goes: what it had is in the runs.
    pub(crate) flushed: Option<&'a FrozenTail>,
}

impl Settings {
    /// With files of other lengths.
    pub(crate) fn run_bytes(mut self, bytes: u64) -> Settings {
        self.file_bytes_max = bytes;
        self.file_bytes_min = self.file_bytes_min.min(bytes);
        self.tuning.kept_file_bytes_min = self.tuning.kept_file_bytes_min.min(bytes / 4);
        self.tuning.garbage_bytes_min = self.tuning.garbage_bytes_min.min(bytes);
        self
    }

    /// Those of a store with so much memory. Of what the indexes may take the hash index has five eighths; the rest is
    /// for tails ([`super::policy::tail_is_due`]), for what is written while a run becomes cold, and for what is noted of rows
    /// on their way: at most a sixteenth. (A flush may be made in the middle of a slice; it has as many rows as a tail.)
    pub(crate) fn new(compression: Compression, memory: &Memory) -> Settings {
        let index_bytes = memory.index_bytes_max();
        Settings {
            compression,
            tuning: Tuning::DEFAULT,
            file_bytes_max: FILE_BYTES_MAX,
            file_bytes_min: FILE_BYTES_MIN,
            file_rows_max: (index_bytes / 2_048).max(FILE_ROWS_MIN),
            hash_entries_max: hash_entries_max(memory),
        }
    }
}

/// How many entries the hash index may have, in a store with so much memory.
pub(crate) fn hash_entries_max(memory: &Memory) -> u64 {
    memory.index_bytes_max() / 8 * 5 / HASH_ENTRY_BYTES
}

impl Site {
    pub(crate) fn new(
        contents: Arc<Contents>,
        directory: Directory,
        memory: Arc<Memory>,
        expiry: Expiry,
        settings: Settings,
        catalogue: Arc<Mutex<Catalogue>>,
        gate: SyncGate,
    ) -> Site {
        let store_id = catalogue.lock().store_id;
        let epochs = Mutex::default();
        let names = Names::new(directory.disk.clone());
        let (beginning, brake, flow, figures, on_settled) = Default::default();
        Site {
            contents,
            directory,
            memory,
            store_id,
            expiry,
            settings,
            catalogue,
            epochs,
            gate,
            beginning,
            names,
            brake,
            flow,
            figures,
            on_settled,
        }
    }

    /// Takes a file in that was just written. It counts for nobody yet.
    pub(crate) fn take_in(&self, run: &Arc<Run>) -> Result<RunFile> {
        match self.contents.files().add(Source::Run(run.clone())) {
            Ok(handle) => Ok(RunFile { handle, run: run.clone() }),
            Err(error) => {
                self.remove(run);
                Err(error)
            }
        }
    }

    /// Lets a file go: nobody reads it any more who does not have it already.
    pub(crate) fn let_go(&self, file: &RunFile) {
        self.contents.files().remove(file.handle);
        self.remove(&file.run);
    }

    /// With its last reader. What cannot be removed then is removed by the next opening.
    pub(crate) fn remove(&self, run: &Run) {
        run.remove_when_unused(&self.names);
    }

    /// Steps 2 and 3. When it fails before `is_changing` was set, or for want of room, nothing has changed.
    pub(crate) fn publish(&self, edit: &Edit<'_>, is_changing: &mut bool) -> Result<()> {
        let mut catalogue = self.catalogue.lock();
        let mut next = catalogue.clone();
        next.runs = edit.runs.iter().map(LiveRun::catalogued).collect();
        if let Some(tail) = edit.flushed {
            next.flushed = tail.last;
            next.epochs =
                self.epochs.lock().iter().filter(|epoch| epoch.first <= tail.last).copied().collect();
        }
        next.replace_telling(&self.directory, is_changing)?;
        *catalogue = next;
        drop(catalogue);
        let runs: Vec<SortedRun> = edit.runs.iter().map(|run| run.sorted.clone()).collect();
        self.contents.publish(|view| {
            let flushed = usize::from(edit.flushed.is_some());
            View { frozen: view.frozen[flushed..].to_vec(), runs }
        });
        if edit.flushed.is_some() {
            self.flow.flushed(|| self.contents.view().frozen.len());
        }
        Ok(())
    }

    /// Step 4, for the rows of a file. `cold`: the hash index is to forget them.
    pub(crate) fn move_rows(
        &self,
        file: &RunFile,
        moved_from: &[Option<PackedLocator>],
        cold: bool,
    ) -> Result<()> {
        if moved_from.iter().all(Option::is_none) {
            return Ok(());
        }
        let mut batch = Batch::new(&self.contents);
        let mut origins = moved_from.iter();
        file.run.for_each_location(|key, _, offset, length, tombstone| {
            if let Some(Some(from)) = origins.next() {
                let to = file.handle.place(tombstone, u64::from(offset), length as usize);
                batch.push(key, *from, to.filter(|_| !cold), u64::from(length));
            }
        })?;
        batch.finish();
        Ok(())
    }

    /// Step 4, for the rows of a run that has become cold.
    pub(crate) fn cool(&self, file: &RunFile) -> Result<()> {
        let mut batch = Batch::new(&self.contents);
        file.run.for_each_location(|key, _, offset, length, tombstone| {
            if let Some(place) = file.handle.place(tombstone, u64::from(offset), length as usize) {
                batch.push(key, place, None, u64::from(length));
            }
        })?;
        batch.finish();
        Ok(())
    }

    /// Nothing of what was written up to here is read from the log any more.
    pub(crate) fn settled(&self, through: Sequence) {
        self.contents.set_settled(through);
        self.tell_owner();
    }

    /// A part of the log may go, or has gone: its owner has something to do.
    pub(super) fn tell_owner(&self) {
        if let Some(told) = self.on_settled.get() {
            told();
        }
    }

    /// Notes where rows are now, for the next opening, if much has changed.
    pub(crate) fn checkpoint_index(&self) {
        // Where it fails, opening takes longer, and nothing else.
        let _ = write_if_due(&self.directory, self.store_id, &self.contents, When::Running);
    }

    /// Maps files for which there was no room when they were opened: those that had it may have gone since.
    pub(crate) fn map_files(&self, files: &FileTable) {
        if self.memory.has_unmapped() {
            files.iter().for_each(|entry| entry.map());
        }
    }

    /// How long the files of a merge of so many bytes are made.
    pub(crate) fn file_bytes(&self, all_bytes: u64) -> u64 {
        const FILES: u64 = 16;
        let Settings { file_bytes_min, file_bytes_max, .. } = self.settings;
        (all_bytes / FILES).clamp(file_bytes_min.min(file_bytes_max), file_bytes_max)
    }

    /// The time by which rows expire here; `None`: their owner decides.
    pub(crate) fn now_ms(&self) -> Option<u64> {
        match self.expiry.now() {
            Expiry::At(now_ms) => Some(now_ms),
            Expiry::Never | Expiry::Now(_) => None,
        }
    }

    pub(crate) fn count(&self, figure: impl FnOnce(&Figures) -> &AtomicU64, more: u64) {
        figure(&self.figures).fetch_add(more, Relaxed);
    }
}

/// Rows on their way to [`Contents::move_rows`], which takes them by the few hundred.
struct Batch<'a> {
    contents: &'a Contents,
    rows: Vec<Moved>,
}

const BATCH_ROWS: usize = 256;

impl<'a> Batch<'a> {
    fn new(contents: &'a Contents) -> Batch<'a> {
        Batch { contents, rows: Vec::with_capacity(BATCH_ROWS) }
    }

    fn push(&mut self, key: &[u8], from: PackedLocator, to: Option<PackedLocator>, length: u64) {
        self.rows.push(Moved { hash: self.contents.index().hash(key), from, to, length });
        if self.rows.len() == BATCH_ROWS {
            self.finish();
        }
    }

    fn finish(&mut self) {
        self.contents.move_rows(&self.rows);
        self.rows.clear();
    }
}

/// How runs stand, for the policy.
pub(crate) fn describe<'r>(runs: &'r [LiveRun], files: &FileTable, now_ms: Option<u64>) -> Vec<RunState<'r>> {
    let file = |file: &'r RunFile, cold: bool| -> FileState<'r> {
        let summary = file.run.summary();
        let statistics = &summary.statistics;
        // Asked to drop everything, compaction looks also where it is only known that something has expired.
        let has_expired = statistics.expires_at_ms_min.zip(now_ms).is_some_and(|(min, now)| min <= now);
        let expired = now_ms.map_or(0, |now_ms| expired_bytes(&statistics.expiry_steps, now_ms));
        let mut state = FileState {
            first: summary.first_key(),
            last: summary.last_key(),
            bytes: statistics.row_bytes,
            live_bytes: None,
            rows: statistics.rows,
            tombstones: statistics.tombstones,
            expired_bytes: expired.max(u64::from(has_expired)),
        };
        if let Some(entry) = files.get(file.handle).filter(|_| !cold) {
            state.live_bytes = Some(entry.live_bytes().min(state.bytes));
        }
        state
    };
    let state = |run: &'r LiveRun| {
        let SortedRun { files, from, cold } = &run.sorted;
        RunState {
            files: files.iter().map(|entry| file(entry, *cold)).collect(),
            from: from.as_deref(),
            cold: *cold,
        }
    };
    runs.iter().map(state).collect()
}
