//! What the tests share: a model of a log, and ways to look at a store.
#![allow(dead_code, reason = "each test uses a part of it")]

pub mod failing;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use paddock_storage::disk::FaultyDisk;
use paddock_storage::{
    LogEntries, Options, PutOptions, Readable, ReplicatedStore, Result, RowRef, Rows, RowsBuilder, Sequence,
};

/// An entry as the tests write it down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    Put(Vec<u8>, Vec<u8>),
    /// With an expiry, a content type, or both.
    PutWith(Vec<u8>, Vec<u8>, Option<u64>, Option<String>),
    Delete(Vec<u8>),
    Marker(Vec<u8>),
}

impl Entry {
    pub fn put(key: &str, value: &str) -> Entry {
        Entry::Put(key.into(), value.into())
    }

    pub fn put_with(key: &str, value: &str, expires_at_ms: Option<u64>, content_type: Option<&str>) -> Entry {
        Entry::PutWith(key.into(), value.into(), expires_at_ms, content_type.map(Into::into))
    }
}

impl From<RowRef<'_>> for Entry {
    fn from(row: RowRef<'_>) -> Entry {
        match row {
            RowRef::Put { key, value, expires_at_ms: None, content_type: None } => {
                Entry::Put(key.into(), value.into())
            }
            RowRef::Put { key, value, expires_at_ms, content_type } => {
                Entry::PutWith(key.into(), value.into(), expires_at_ms, content_type.map(Into::into))
            }
            RowRef::Delete { key } => Entry::Delete(key.into()),
            RowRef::Marker { payload } => Entry::Marker(payload.into()),
        }
    }
}

pub fn encode(entries: &[Entry]) -> Rows {
    let mut rows = RowsBuilder::new();
    for entry in entries {
        match entry {
            Entry::Put(key, value) => rows.put(key, value),
            Entry::PutWith(key, value, expires_at_ms, content_type) => {
                let content_type = content_type.as_deref();
                rows.put_with(key, value, &PutOptions { expires_at_ms: *expires_at_ms, content_type })
            }
            Entry::Delete(key) => rows.delete(key),
            Entry::Marker(payload) => rows.marker(payload),
        }
        .unwrap();
    }
    rows.finish()
}

/// Small files, so that a few writes need several.
pub fn small(disk: &FaultyDisk) -> Options {
    Options::new().segment_bytes(4 << 10).extent_bytes(4 << 10).disk(Arc::new(disk.clone()))
}

pub fn open(disk: &FaultyDisk) -> Result<ReplicatedStore> {
    ReplicatedStore::open(Path::new("/data/store"), small(disk))
}

/// Appends entries behind the last one.
pub fn append(store: &mut ReplicatedStore, epoch: u64, entries: &[Entry], known_commit: u64) -> Result<()> {
    let first = store.last().sequence.next();
    let entries = LogEntries { epoch, first, log_time_ms: 7, rows: encode(entries) };
    store.append(&entries, Sequence(known_commit))
}

/// The whole log, entry by entry, with epochs.
pub fn log(store: &ReplicatedStore) -> Vec<(u64, Entry)> {
    let mut found = Vec::new();
    let mut after = Sequence(0);
    loop {
        // Little at a time, so that many calls are needed.
        let batches = store.read_log(after, 100).unwrap();
        let Some(last) = batches.last() else { return found };
        for batch in &batches {
            assert_eq!(batch.first.0, found.len() as u64 + 1);
            found.extend(batch.rows.iter().map(|row| (batch.epoch, Entry::from(row))));
        }
        after = last.last();
    }
}

pub type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// What a reader sees.
pub fn contents(readable: &impl Readable) -> Map {
    let records: Map =
        readable.iter().map(|record| record.unwrap()).map(|r| (r.key.into(), r.value.into())).collect();
    assert_eq!(records.len() as u64, readable.len());
    records
}

/// What the entries come to.
pub fn applied<'a>(entries: impl IntoIterator<Item = &'a (u64, Entry)>) -> Map {
    let mut map = Map::new();
    for (_, entry) in entries {
        match entry {
            Entry::Put(key, value) | Entry::PutWith(key, value, ..) => {
                drop(map.insert(key.clone(), value.clone()));
            }
            Entry::Delete(key) => drop(map.remove(key)),
            Entry::Marker(_) => {}
        }
    }
    map
}

/// Numbers below what is asked that look random and are the same for the same seed.
pub fn dice(seed: u64) -> impl FnMut(u32) -> u32 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 33) % u64::from(below.max(1))) as u32
    }
}
