//! Files of rows in key order.

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use super::{DIRECTORY, STORE_ID, example};
use crate::directory::Directory;
use crate::disk::FaultyDisk;
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::options::Options;
use crate::position::Sequence;
use crate::row::{PutOptions, RowRef, Rows, RowsBuilder, decode_stored};
use crate::run::{Compression, Run, RunOptions, RunWriter, seal};

const NUMBER: u32 = 7;

/// A run's file: it is corrupt, or all ways of reading it agree.
pub fn run(bytes: &[u8]) {
    check(bytes);
    let mut sealed = bytes.to_vec();
    seal(&mut sealed, STORE_ID, NUMBER);
    check(&sealed);
}

/// Runs to begin with: an empty one, and one of several blocks in each form that a block may have.
#[must_use]
pub fn run_seeds() -> Vec<Vec<u8>> {
    let forms = [Compression::None, Compression::Lz4, Compression::Zstd { level: 1 }];
    let full = forms.map(|compression| (compression, many()));
    let small = [(Compression::None, Rows::default()), (Compression::None, few())];
    let seeds = small.into_iter().chain(full).map(|(compression, rows)| written(compression, &rows));
    seeds.map(|seed| seed.unwrap_or_else(|error| panic!("{error}"))).collect()
}

/// Those of the example's rows that have keys.
fn few() -> Rows {
    example().take(2)
}

/// Rows of several blocks, which compress well.
fn many() -> Rows {
    let mut rows = RowsBuilder::new();
    for number in 0..40_u64 {
        let (key, value) = (format!("birds/{number:03}"), vec![b'x'; number as usize * 3]);
        let options = PutOptions { expires_at_ms: (number % 5 == 0).then_some(number), content_type: None };
        let added = match number % 7 {
            3 => rows.delete(key.as_bytes()),
            _ => rows.put_with(key.as_bytes(), &value, &options),
        };
        added.unwrap_or_else(|error| panic!("{error}"));
    }
    rows.finish()
}

fn written(compression: Compression, rows: &Rows) -> Result<Vec<u8>> {
    let (directory, memory) = place(&FaultyDisk::new());
    let options = RunOptions { block_bytes: 256, compression, expected_rows: u64::from(rows.count()) };
    let mut writer = RunWriter::create(&directory, &memory, NUMBER, STORE_ID, options)?;
    let mut stamped = Vec::new();
    rows.stamp_into(Sequence(9), &mut stamped);
    let mut rest = &stamped[..];
    while let Some(row) = decode_stored(rest) {
        writer.push(&row)?;
        rest = &rest[row.bytes.len()..];
    }
    let run = writer.finish()?;
    let mut bytes = vec![0; usize::try_from(run.summary().file_bytes).unwrap_or_default()];
    let read = run.file().file().read_at(&mut bytes, 0).map_err(Error::io(run.path()))?;
    bytes.truncate(read);
    Ok(bytes)
}

fn place(disk: &FaultyDisk) -> (Directory, Arc<Memory>) {
    let directory = Directory::prepare(Path::new(DIRECTORY), Arc::new(disk.clone()));
    let directory = directory.unwrap_or_else(|error| panic!("{error}"));
    (directory, Memory::new(&Options::new().memory_bytes(8 << 20)))
}

fn check(bytes: &[u8]) {
    let disk = FaultyDisk::new();
    let (directory, memory) = place(&disk);
    disk.set_bytes(&directory.run_path(NUMBER), bytes);
    let Some(run) = good(Run::open(&directory, &memory, NUMBER, STORE_ID)) else { return };
    let whole = good(run.verify()).is_some();
    let Some(forwards) = good(rows(&run, true)) else {
        assert!(!whole, "it was verified, and cannot be read");
        return;
    };
    let backwards = good(rows(&run, false));
    for (key, bytes) in &forwards {
        let found = good(run.find(key)).flatten().map(|found| found.bytes.to_vec());
        assert!(!whole || found.as_ref() == Some(bytes), "it was verified, and lacks {}", key.escape_ascii());
    }
    if whole {
        assert!(forwards.is_sorted_by(|left, right| left.0 < right.0));
        assert_eq!(forwards.len() as u64, run.summary().statistics.rows);
        let backwards = backwards.map(|rows| rows.into_iter().rev().collect());
        assert_eq!(backwards, Some(forwards));
    }
}

/// What it gives, unless it says that something is wrong.
fn good<T>(outcome: Result<T>) -> Option<T> {
    match outcome {
        Ok(value) => Some(value),
        Err(Error::Corrupt { .. } | Error::Format { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

/// All rows, with their keys.
fn rows(run: &Arc<Run>, forwards: bool) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut cursor = run.cursor();
    if !forwards {
        cursor.seek_back(Bound::Unbounded)?;
    }
    let mut rows = Vec::new();
    while let Some(row) = if forwards { cursor.next()? } else { cursor.prev()? } {
        let (RowRef::Put { key, .. } | RowRef::Delete { key }) = row.row else {
            panic!("a marker in a run");
        };
        rows.push((key.to_vec(), row.bytes.to_vec()));
    }
    Ok(rows)
}
