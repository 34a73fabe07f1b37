//! Tests of runs, from the inside: nothing of this module is public. Here is what they share.

mod damage;
mod faults;
mod golden;
mod model;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::{Compression, FoundRow, Run, RunOptions, RunWriter};
use crate::directory::Directory;
use crate::disk::{Disk, FaultyDisk};
use crate::error::Result;
use crate::header::StoreId;
use crate::memory::Memory;
use crate::options::{Mapping, Options};
use crate::position::Sequence;
use crate::row::{PutOptions, RowsBuilder, StoredRow, decode_stored};

const STORE: StoreId = StoreId(*b"a store of tests");
const NUMBER: u32 = 7;

/// A run, and where its rows are.
type Written = (Arc<Run>, Vec<u32>);

/// Encoded rows by key.
type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// A row's bytes, stamped.
fn put(sequence: u64, key: &[u8], value: &[u8], options: &PutOptions<'_>) -> Vec<u8> {
    let mut rows = RowsBuilder::new();
    rows.put_with(key, value, options).unwrap();
    stamped(rows, sequence)
}

fn delete(sequence: u64, key: &[u8]) -> Vec<u8> {
    let mut rows = RowsBuilder::new();
    rows.delete(key).unwrap();
    stamped(rows, sequence)
}

fn stamped(rows: RowsBuilder, sequence: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    rows.finish().stamp_into(Sequence(sequence), &mut bytes);
    bytes
}

fn on(disk: &FaultyDisk) -> Directory {
    Directory::prepare(Path::new("/data/store"), Arc::new(disk.clone())).unwrap()
}

fn at(path: &Path) -> Directory {
    Directory::prepare(path, Arc::new(crate::disk::SystemDisk)).unwrap()
}

fn memory(mapping: Mapping) -> Arc<Memory> {
    Memory::new(&Options::new().memory_bytes(8 << 20).mapping(mapping))
}

fn options(block_bytes: usize, compression: Compression) -> RunOptions {
    RunOptions { block_bytes, compression, expected_rows: 10 }
}

/// Writes the rows of a model; and gives their logical offsets.
fn write(directory: &Directory, memory: &Arc<Memory>, options: RunOptions, model: &Model) -> Result<Written> {
    let mut writer = RunWriter::create(directory, memory, NUMBER, STORE, options)?;
    let mut offsets = Vec::new();
    for row in model.values() {
        offsets.push(writer.push(&decode_stored(row).unwrap())?);
    }
    Ok((writer.finish()?, offsets))
}

fn open(directory: &Directory, memory: &Arc<Memory>) -> Result<Arc<Run>> {
    Run::open(directory, memory, NUMBER, STORE)
}

fn found(found: Option<FoundRow>) -> Option<Vec<u8>> {
    found.map(|found| found.bytes.to_vec())
}

fn bytes(row: Option<StoredRow<'_>>) -> Option<Vec<u8>> {
    row.map(|row| row.bytes.to_vec())
}

/// Names in the directory of runs.
fn names(directory: &Directory) -> Vec<String> {
    directory.disk.list(&directory.runs).unwrap()
}
