//! Compaction with everything real but the log: rows lie in segments that are only rows.

mod checkpoint;
mod crash;
mod model;
mod threads;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::site::{Settings, Site};
use super::{Compaction, policy::Tuning};
use crate::clock::Expiry;
use crate::contents::Contents;
use crate::directory::Directory;
use crate::disk::{Disk as _, FaultyDisk};
use crate::durability::SyncGate;
use crate::error::Result;
use crate::file_table::{Handle, Source};
use crate::files::Catalogue;
use crate::header::StoreId;
use crate::memory::Memory;
use crate::merge_cursor::{MergeCursor, Place};
use crate::options::Options;
use crate::position::Sequence;
use crate::row::{Frames, RowsBuilder};
use crate::run::Compression;
use crate::sorted_run_cursor::Direction;

/// A key's value, and when it expires.
pub(crate) type Value = (Vec<u8>, Option<u64>);

/// A write: a key and its value, or a delete.
pub(crate) type Write = (Vec<u8>, Option<Value>);

/// The time in tests.
pub(crate) const NOW_MS: u64 = 1_000;

pub(crate) const TUNING: Tuning =
    Tuning { garbage_bytes_min: 2_000, kept_file_bytes_min: 1_000, ..Tuning::DEFAULT };

/// A store without a log. What was written and is not flushed is in memory here, and survives every crash.
pub(crate) struct Workshop {
    pub(crate) disk: FaultyDisk,
    pub(crate) contents: Arc<Contents>,
    pub(crate) compaction: Compaction,
    pub(crate) memory: Arc<Memory>,
    pub(crate) directory: Directory,
    /// Everything that was ever written, by sequence from 1 on.
    history: Vec<Write>,
    segments: u32,
}

/// How a workshop is to be.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) hash_entries_max: u64,
    pub(crate) file_bytes: u64,
    pub(crate) file_rows_max: u64,
    pub(crate) expiry: bool,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan { hash_entries_max: u64::MAX, file_bytes: 4 << 10, file_rows_max: u64::MAX, expiry: true }
    }
}

impl Workshop {
    pub(crate) fn new(plan: Plan) -> Workshop {
        let disk = FaultyDisk::new();
        Workshop::open(disk, plan, Vec::new()).unwrap()
    }

    /// Opens what is on a disk, as a store does: runs that FILES names, and the log behind them.
    pub(crate) fn open(disk: FaultyDisk, plan: Plan, history: Vec<Write>) -> Result<Workshop> {
        let options = Options::new().memory_bytes(8 << 20).disk(Arc::new(disk.clone()));
        let memory = Memory::new(&options);
        let directory = Directory::prepare(Path::new("/store"), Arc::new(disk.clone()))?;
        let catalogue = Catalogue::load(&directory, StoreId([7; 16]))?;
        catalogue.check_files(&directory)?;
        catalogue.remove_leftovers(&directory)?;
        let contents =
            Arc::new(crate::loading::load(&directory, &catalogue, &memory, None, plan.hash_entries_max)?);
        let flushed = catalogue.flushed;
        contents.set_applied(flushed);
        let settings = Settings {
            tuning: TUNING,
            file_bytes_max: plan.file_bytes,
            file_bytes_min: plan.file_bytes,
            file_rows_max: plan.file_rows_max,
            hash_entries_max: plan.hash_entries_max,
            ..Settings::new(Compression::default(), &memory)
        };
        let expiry = if plan.expiry { Expiry::At(NOW_MS) } else { Expiry::Never };
        let catalogue = Arc::new(Mutex::new(catalogue));
        let gate = SyncGate::default();
        let site =
            Site::new(contents.clone(), directory.clone(), memory.clone(), expiry, settings, catalogue, gate);
        let compaction = Compaction::new(site);
        let mut workshop =
            Workshop { disk, contents, compaction, memory, directory, history: Vec::new(), segments: 0 };
        let (flushed, left) = history.split_at(flushed.0 as usize);
        workshop.history = flushed.to_vec();
        workshop.write(left)?;
        Ok(workshop)
    }

    /// Everything that was written.
    pub(crate) fn history(&self) -> &[Write] {
        &self.history
    }

    /// Writes into a segment of its own, and applies.
    pub(crate) fn write(&mut self, writes: &[Write]) -> Result<()> {
        if writes.is_empty() {
            return Ok(());
        }
        let mut rows = RowsBuilder::new();
        for (key, value) in writes {
            match value {
                Some((value, expires_at_ms)) => {
                    let options =
                        crate::row::PutOptions { expires_at_ms: *expires_at_ms, ..Default::default() };
                    rows.put_with(key, value, &options)?;
                }
                None => rows.delete(key)?,
            };
        }
        let first = Sequence(self.history.len() as u64 + 1);
        let mut bytes = Vec::new();
        rows.finish().stamp_into(first, &mut bytes);
        let handle = self.segment(&bytes);
        self.contents.apply(handle, 0, first, &Frames::new(&bytes));
        self.history.extend_from_slice(writes);
        self.contents.set_applied(Sequence(self.history.len() as u64));
        Ok(())
    }

    /// A file of another disk: that of the log, which does not fail here.
    fn segment(&mut self, bytes: &[u8]) -> Handle {
        self.segments += 1;
        let path = Path::new("/segment");
        let file = FaultyDisk::new().create(path).unwrap();
        file.write_at(bytes, 0).unwrap();
        let length = bytes.len() as u64;
        let file = self.memory.data_file(path.into(), file, length, length);
        self.contents.files().add(Source::Segment(Arc::new(file))).unwrap()
    }

    /// Freezes the tail, as the log's owner does.
    pub(crate) fn freeze(&self) {
        if self.contents.freeze() {
            self.compaction.froze();
        }
    }

    /// Does all there is to do.
    pub(crate) fn rest(&self) -> Result<()> {
        self.compaction.work_while(|| true)
    }

    /// What everything written comes to.
    pub(crate) fn model(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        model(&self.history)
    }

    /// Compares all ways of reading with the model.
    pub(crate) fn check(&self) {
        let model = self.model();
        // What pointed elsewhere would point into another file some day: handles are used again.
        let (files, mut places) = (self.contents.files().load_full(), self.contents.index().locators());
        assert!(places.all(|place| files.of(place).is_some()), "the index points into a file that is gone");
        assert_eq!(scan(&self.contents), model, "a scan");
        let keys: BTreeSet<&Vec<u8>> = self.history.iter().map(|(key, _)| key).collect();
        for key in keys {
            assert_eq!(get(&self.contents, key), model.get(key).cloned(), "key {}", key.escape_ascii());
        }
        assert_eq!(get(&self.contents, b"never written"), None);
    }

    /// Bytes of the files of runs on the disk, and how many there are.
    pub(crate) fn run_files(&self) -> (u64, usize) {
        let paths = self.disk.paths();
        let runs: Vec<_> = paths.iter().filter(|path| path.starts_with(&self.directory.runs)).collect();
        (runs.iter().map(|path| self.disk.bytes(path).unwrap().len() as u64).sum(), runs.len())
    }
}

pub(crate) fn model(history: &[Write]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut model = BTreeMap::new();
    for (key, value) in history {
        match value {
            Some((value, expires)) if expires.is_none_or(|expires| expires > NOW_MS) => {
                model.insert(key.clone(), value.clone());
            }
            _ => drop(model.remove(key)),
        }
    }
    model
}

/// As a reader of a standalone store sees it.
fn shown(row: &crate::row::StoredRow<'_>) -> Option<Vec<u8>> {
    (!Expiry::At(NOW_MS).hides(row.expires_at_ms())).then(|| row.value().map(<[u8]>::to_vec)).flatten()
}

pub(crate) fn get(contents: &Contents, key: &[u8]) -> Option<Vec<u8>> {
    contents.read(key, shown).unwrap().flatten()
}

/// All records, by the ordered parts alone.
pub(crate) fn scan(contents: &Contents) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let capture = contents.capture();
    let mut cursor = MergeCursor::new(&capture, Direction::Forward, Bound::Unbounded).unwrap();
    let mut found = BTreeMap::new();
    while let Some(key) = cursor.key().map(<[u8]>::to_vec) {
        let value = match cursor.place().unwrap() {
            Place::Row(row) => shown(&row),
            Place::Entry(entry) if entry.tombstone => None,
            Place::Entry(entry) => capture.read_entry(&key, &entry, shown).unwrap(),
        };
        if let Some(value) = value {
            found.insert(key, value);
        }
        cursor.advance().unwrap();
    }
    found
}

/// Numbers that look random and are the same each time.
pub(crate) fn dice(seed: u64) -> impl FnMut(u32) -> u32 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 33) % u64::from(below.max(1))) as u32
    }
}

/// So many writes over so many keys: a fifth deletes, some with an expiry that has passed or has not.
pub(crate) fn writes(
    count: usize,
    keys: u32,
    value_bytes: u32,
    dice: &mut impl FnMut(u32) -> u32,
) -> Vec<Write> {
    let mut write = |_| {
        let key = format!("key {:05}", dice(keys)).into_bytes();
        let value = (dice(5) > 0).then(|| {
            let expires = [None, None, None, Some(NOW_MS - 1), Some(NOW_MS + 1)][dice(5) as usize];
            let byte = dice(256) as u8;
            (vec![byte; dice(value_bytes) as usize], expires)
        });
        (key, value)
    };
    (0..count).map(&mut write).collect()
}
