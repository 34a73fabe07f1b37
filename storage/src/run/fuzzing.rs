//! A run laid open to fuzzers: see [`crate::fuzzing`].
#![allow(clippy::panic, reason = "a broken promise is reported by a panic")]

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use super::block::key_of;
use super::codec::{Codec, Compression};
use super::format::{FOOTER_BYTES, Footer, RUN_START, Salt, Section, TABLE_END_BYTES, TABLE_ROW_BYTES};
use super::index::Entries;
use super::{Run, RunOptions, RunWriter, STORED_CHECKSUM_BYTES};
use crate::directory::Directory;
use crate::disk::FaultyDisk;
use crate::error::{Error, Result};
use crate::header::{FILE_HEADER_BYTES, FileHeader, StoreId, read_u32};
use crate::memory::Memory;
use crate::options::{Mapping, Options};
use crate::position::Sequence;
use crate::row::{RowsBuilder, decode_stored, seal};

const STORE_ID: StoreId = StoreId([7; 16]);
const NUMBER: u32 = 3;

/// A run file: what is read from it is what was verified, or it says what is corrupt. One that verifies as a whole gives
/// the same rows in whatever way they are asked for.
pub(crate) fn run(bytes: &[u8]) {
    look(bytes);
    let mut sealed = bytes.to_vec();
    seal_run(&mut sealed);
    look(&sealed);
}

/// Runs to begin with: of several blocks, in every codec, and an empty one.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let written = |rows, compression| {
        written(rows, compression).unwrap_or_else(|error: Error| panic!("a run to begin with: {error}"))
    };
    vec![
        written(0, Compression::None),
        written(40, Compression::None),
        written(40, Compression::Lz4),
        written(40, Compression::Zstd { level: 3 }),
    ]
}

fn place(disk: &FaultyDisk) -> Result<(Directory, Arc<Memory>)> {
    let directory = Directory::prepare(Path::new("/store"), Arc::new(disk.clone()))?;
    Ok((directory, Memory::new(&Options::new().memory_bytes(8 << 20).mapping(Mapping::Never))))
}

fn written(rows: u64, compression: Compression) -> Result<Vec<u8>> {
    let disk = FaultyDisk::new();
    let (directory, memory) = place(&disk)?;
    let options = RunOptions { block_bytes: 300, compression, expected_rows: rows };
    let mut writer = RunWriter::create(&directory, &memory, NUMBER, STORE_ID, options)?;
    for number in 1..=rows {
        let mut builder = RowsBuilder::new();
        let key = format!("key {number:03}");
        match number % 5 {
            0 => builder.delete(key.as_bytes())?,
            _ => builder.put(key.as_bytes(), key.repeat(number as usize % 7).as_bytes())?,
        }
        let mut bytes = Vec::new();
        builder.finish().stamp_into(Sequence(number * 3), &mut bytes);
        if let Some(row) = decode_stored(&bytes) {
            writer.push(&row)?;
        }
    }
    writer.finish()?;
    Ok(disk.bytes(&directory.run_path(NUMBER)).unwrap_or_default())
}

fn look(bytes: &[u8]) {
    let disk = FaultyDisk::new();
    let (directory, memory) = place(&disk).unwrap_or_else(|error| panic!("{error}"));
    disk.set_bytes(&directory.run_path(NUMBER), bytes);
    let run = match Run::open(&directory, &memory, NUMBER, STORE_ID) {
        Ok(run) => run,
        Err(error) => return damage(&error),
    };
    let verified = run.verify();
    match read(&run) {
        Ok(()) => {}
        Err(error) if verified.is_err() => damage(&error),
        Err(error) => panic!("a run that verifies cannot be read: {error}"),
    }
    if let Err(error) = verified {
        damage(&error);
    }
}

/// Nothing else may be wrong.
fn damage(error: &Error) {
    assert!(matches!(error, Error::Corrupt { .. } | Error::Format { .. }), "{error:?}");
}

/// Reads all rows, from both ends, by key and by place.
fn read(run: &Arc<Run>) -> Result<()> {
    let mut forward = Vec::new();
    let mut places = Vec::new();
    let mut cursor = run.cursor();
    while let Some(row) = cursor.next()? {
        forward.push(row.bytes.to_vec());
        places.push(cursor.offset());
    }
    let mut backward = Vec::new();
    cursor.seek_back(Bound::Unbounded)?;
    while let Some(row) = cursor.prev()? {
        backward.push(row.bytes.to_vec());
    }
    backward.reverse();
    let whole = run.verify().is_ok();
    assert!(!whole || forward == backward, "the rows are others from the end on");
    let mut buffer = Vec::new();
    for (bytes, place) in forward.iter().zip(places) {
        let Some(row) = decode_stored(bytes) else { panic!("a row that is none") };
        let found = run.find(key_of(&row.row))?;
        assert!(!whole || found.is_some_and(|found| found.bytes == *bytes), "{row:?} is not found");
        if let Some(place) = place {
            assert_eq!(run.row_at(place, bytes.len(), &mut buffer)?.bytes, &bytes[..]);
        }
    }
    run.find(b"key 0205")?;
    run.find(b"~")?;
    Ok(())
}

/// Makes checksums right, as far as the parts are where the footer and the index say.
fn seal_run(bytes: &mut [u8]) {
    FileHeader::seal(bytes);
    let salt = Salt::new(STORE_ID, NUMBER);
    let Some(footer_at) = bytes.len().checked_sub(FOOTER_BYTES).filter(|at| *at >= FILE_HEADER_BYTES) else {
        return;
    };
    let (file, end) = bytes.split_at_mut(footer_at);
    let field = |number: usize| read_u32(end, 12 + number * 4);
    let [blocks, block_bytes, filter, index, statistics] = [0, 1, 2, 3, 4].map(field);
    let parts = (|| {
        let statistics = file.len().checked_sub(statistics as usize)?;
        let index = statistics.checked_sub(index as usize)?;
        let filter = index.checked_sub(filter as usize).filter(|at| *at >= FILE_HEADER_BYTES)?;
        Some((filter, index, statistics))
    })();
    let Some((filter_at, index_at, statistics_at)) = parts else { return };
    let section = |range: &[u8]| Section::of(range).unwrap_or_default();
    let footer = Footer {
        blocks,
        block_bytes,
        filter: section(&file[filter_at..index_at]),
        index: section(&file[index_at..statistics_at]),
        statistics: section(&file[statistics_at..]),
    };
    debug_assert_eq!(footer.filter.bytes, filter);
    end.copy_from_slice(&footer.encode(salt));
    let (file, behind) = file.split_at_mut(filter_at);
    seal_blocks(
        &mut file[FILE_HEADER_BYTES..],
        &behind[index_at - filter_at..statistics_at - filter_at],
        salt,
    );
}

fn seal_blocks(mut blocks: &mut [u8], index: &[u8], salt: Salt) {
    let mut logical = RUN_START;
    for entry in (Entries { bytes: index }).map_while(|entry| entry.ok()) {
        if entry.stored_bytes as usize > blocks.len() {
            return;
        }
        let (block, rest) = std::mem::take(&mut blocks).split_at_mut(entry.stored_bytes as usize);
        match entry.codec {
            Codec::Raw => seal_block(block, logical, salt),
            _ => put_checksum(block, 0, logical, salt),
        }
        logical = logical.wrapping_add(entry.decoded_bytes);
        blocks = rest;
    }
}

/// The rows of a block, and its table.
fn seal_block(block: &mut [u8], logical: u32, salt: Salt) {
    let Some(count_at) = block.len().checked_sub(8) else { return };
    let table_bytes = (read_u32(block, count_at) as usize).saturating_mul(TABLE_ROW_BYTES);
    let Some(table_at) = block.len().checked_sub(table_bytes.saturating_add(TABLE_END_BYTES)) else { return };
    let mut at = 0;
    while let Some(length) = seal(&mut block[at..table_at]) {
        at += length;
    }
    put_checksum(block, table_at, logical, salt);
}

/// Over what lies between `from` and the last four bytes, into those.
fn put_checksum(bytes: &mut [u8], from: usize, logical: u32, salt: Salt) {
    let Some(at) = bytes.len().checked_sub(STORED_CHECKSUM_BYTES).filter(|at| *at >= from) else { return };
    let checksum = salt.checksum(&bytes[from..at], logical);
    bytes[at..].copy_from_slice(&checksum.to_le_bytes());
}
