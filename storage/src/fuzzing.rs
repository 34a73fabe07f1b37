//! The decoders, laid open to fuzzers and property tests (feature `fuzzing`; no part of the API, and may change any day).
//!
//! Each function takes whatever bytes come, and panics where a promise is broken: that is what a fuzzer looks for. Bytes
//! that hold nothing are no broken promise.
//!
//! A fuzzer hardly ever guesses a checksum. So the functions also try the bytes *sealed*: with the checksums and links made
//! right, as somebody would who means to harm. What a checksum does not cover must hold up by itself.
#![allow(clippy::panic, reason = "a broken promise is reported by a panic")]

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::batch::{BATCH_ALIGNMENT, BATCH_HEADER_BYTES, BatchHeader, LogEntries};
use crate::disk::{Disk as _, FaultyDisk};
use crate::error::Error;
use crate::files::{Catalogue, CataloguedFile, CataloguedRun};
use crate::header::{FILE_HEADER_BYTES, FORMAT, FileHeader, Magic, StoreId};
use crate::manifest::{Kind, Manifest};
use crate::options::Options;
use crate::position::{EpochStart, Sequence};
use crate::replicated::ReplicatedStore;
use crate::row::{PutOptions, RowRef, Rows, RowsBuilder, StoredRow, decode_stored, seal, verified};

const STORE_ID: StoreId = StoreId([7; 16]);
const DIRECTORY: &str = "/store";
const SEGMENT: &str = "/store/log/00000000000000000001.log";

/// The row that `bytes` begin with: it lies within them, and encoding it anew gives the same bytes.
pub fn row(bytes: &[u8]) {
    if let Ok(stored) = verified(bytes) {
        check_row(bytes, &stored);
    }
    let mut sealed = bytes.to_vec();
    if seal(&mut sealed).is_some() {
        match verified(&sealed) {
            Ok(stored) => check_row(&sealed, &stored),
            Err(what) => panic!("a sealed row is refused: {what}"),
        }
    }
}

/// Canonical rows, as a peer sends them.
pub fn rows(bytes: &[u8]) {
    check_rows(bytes);
    let mut sealed = bytes.to_vec();
    let mut offset = 0;
    while let Some(length) = seal(&mut sealed[offset..]) {
        offset += length;
    }
    check_rows(&sealed);
    check_rows(&sealed[..offset]);
}

/// The batches of a log's only segment, behind its file header: opening gives a log that is whole and stays as it is, or
/// says what is corrupt and changes nothing.
pub fn segment(batches: &[u8]) {
    open(batches);
    let mut sealed = batches.to_vec();
    seal_batches(&mut sealed);
    open(&sealed);
}

/// A manifest, file header included.
pub fn manifest(bytes: &[u8]) {
    let path = Path::new(DIRECTORY);
    let mut sealed = bytes.to_vec();
    FileHeader::seal(&mut sealed);
    for bytes in [bytes, &sealed] {
        if let Ok(manifest) = Manifest::decode(bytes, path) {
            let again = manifest.encode().unwrap_or_default();
            assert_eq!(Manifest::decode(&again, path).ok(), Some(manifest));
        }
    }
}

/// The catalogue of the runs, file header included: what is taken has one way to be written.
pub fn files(bytes: &[u8]) {
    let path = Path::new(DIRECTORY);
    let mut sealed = bytes.to_vec();
    if let Some(body) = sealed.get(FILE_HEADER_BYTES..) {
        let (length, checksum) = (body.len() as u32, crc32fast::hash(body));
        sealed[32..36].copy_from_slice(&length.to_le_bytes());
        sealed[36..40].copy_from_slice(&checksum.to_le_bytes());
    }
    FileHeader::seal(&mut sealed);
    for bytes in [bytes, &sealed] {
        if let Ok(catalogue) = Catalogue::decode(bytes, path) {
            assert_eq!(catalogue.encode(), bytes);
        }
    }
}

/// A file of rows in key order: what is read from it is right, or it says what is corrupt.
pub fn run(bytes: &[u8]) {
    crate::run::fuzzing::run(bytes);
}

/// Files of rows in key order to begin with: of several blocks, in every codec, and one without rows.
#[must_use]
pub fn run_seeds() -> Vec<Vec<u8>> {
    crate::run::fuzzing::seeds()
}

/// Rows to begin with.
#[must_use]
pub fn row_seeds() -> Vec<Vec<u8>> {
    let mut encoded = Vec::new();
    example().stamp_into(Sequence(0x0102_0304), &mut encoded);
    let (mut seeds, mut rest) = (vec![example().encoded().to_vec()], &encoded[..]);
    while let Some(stored) = decode_stored(rest) {
        seeds.push(stored.bytes.to_vec());
        rest = &rest[stored.bytes.len()..];
    }
    seeds
}

/// Catalogues to begin with: an empty one, and one with everything that there is.
#[must_use]
pub fn files_seeds() -> Vec<Vec<u8>> {
    let from = Some(b"from".as_slice().into());
    let file = |number| CataloguedFile { number, bytes: 1000 };
    let run = CataloguedRun { first: Sequence(1), last: Sequence(5), cold: true, from, files: vec![file(1)] };
    let newer =
        CataloguedRun { first: Sequence(6), last: Sequence(9), cold: false, from: None, ..run.clone() };
    let mut catalogue = Catalogue::new(STORE_ID);
    let empty = catalogue.encode();
    catalogue.next_number = 9;
    catalogue.flushed = Sequence(9);
    catalogue.epochs =
        vec![EpochStart { epoch: 1, first: Sequence(1) }, EpochStart { epoch: 7, first: Sequence(4) }];
    catalogue.runs = vec![run, CataloguedRun { files: vec![file(2), file(3)], ..newer }];
    vec![empty, catalogue.encode()]
}

/// Batches of a segment to begin with: none, one, and several of several epochs, of which the last may be torn.
#[must_use]
pub fn segment_seeds() -> Vec<Vec<u8>> {
    [0, 1, 4].map(|batches| written(batches).unwrap_or_else(|error| panic!("{error}"))).into()
}

/// Copies rows as appending does, for benchmarks.
pub fn stamp(rows: &Rows, first: Sequence, buffer: &mut Vec<u8>) -> u32 {
    rows.stamp_into(first, buffer)
}

/// Walks rows without verifying them, for benchmarks. Gives how many there are.
#[must_use]
pub fn walk(bytes: &[u8]) -> usize {
    count(bytes, decode_stored)
}

/// Verifies rows, one after the other, for benchmarks. Gives how many there are.
#[must_use]
pub fn verify(bytes: &[u8]) -> usize {
    count(bytes, |bytes| verified(bytes).ok())
}

fn count(mut bytes: &[u8], read: impl Fn(&[u8]) -> Option<StoredRow<'_>>) -> usize {
    let mut count = 0;
    while let Some(stored) = read(bytes) {
        bytes = &bytes[stored.bytes.len()..];
        count += 1;
    }
    count
}

fn example() -> Rows {
    let mut rows = RowsBuilder::new();
    let options = PutOptions { expires_at_ms: Some(1_800_000_000_000), content_type: Some("text/plain") };
    let added = rows
        .put(b"heron", b"grey")
        .and_then(|()| rows.put_with(b"swift", b"gone in autumn", &options))
        .and_then(|()| rows.delete(b"robin"))
        .and_then(|()| rows.marker(b"epoch 2"));
    added.unwrap_or_else(|error| panic!("{error}"));
    rows.finish()
}

fn check_row(bytes: &[u8], stored: &StoredRow<'_>) {
    assert!(bytes.starts_with(stored.bytes));
    let mut rows = RowsBuilder::new();
    if let Err(error) = add(&mut rows, &stored.row) {
        panic!("a row that was read cannot be written: {error}");
    }
    let mut again = Vec::new();
    rows.finish().stamp_into(stored.sequence, &mut again);
    assert_eq!(again, stored.bytes, "{stored:?}");
}

fn add(rows: &mut RowsBuilder, row: &RowRef<'_>) -> Result<(), Error> {
    match *row {
        RowRef::Put { key, value, expires_at_ms, content_type } => {
            rows.put_with(key, value, &PutOptions { expires_at_ms, content_type })
        }
        RowRef::Delete { key } => rows.delete(key),
        RowRef::Marker { payload } => rows.marker(payload),
    }
}

fn check_rows(bytes: &[u8]) {
    let mut count = 0;
    let mut rest = bytes;
    while let Some(stored) = decode_stored(rest) {
        count += 1;
        rest = &rest[stored.bytes.len()..];
    }
    let bytes = Bytes::copy_from_slice(bytes);
    assert!(Rows::from_encoded(bytes.clone(), count + 1).is_err());
    let Ok(rows) = Rows::from_encoded(bytes, count) else { return };
    let mut again = RowsBuilder::new();
    for row in rows.iter() {
        if let Err(error) = add(&mut again, &row) {
            panic!("a row that was read cannot be written: {error}");
        }
    }
    assert_eq!(again.finish(), rows);
    let half = count / 2;
    assert_eq!(rows.take(half).count() + rows.skip(half).count(), count);
}

/// A store whose log is one segment of these batches.
fn disk_with(batches: &[u8]) -> FaultyDisk {
    let disk = FaultyDisk::new();
    for directory in [DIRECTORY, "/store/log"] {
        disk.create_dir(Path::new(directory)).unwrap_or_else(|error| panic!("{error}"));
    }
    let manifest = Manifest::new(STORE_ID, Kind::Replicated);
    let mut fields = [0; 32];
    fields[..8].copy_from_slice(&1_u64.to_le_bytes());
    let mut segment = FileHeader { store_id: STORE_ID, fields }.encode(Magic::Segment).to_vec();
    segment.extend_from_slice(batches);
    let lock = format!("paddock-storage format {FORMAT} store {STORE_ID}\n");
    disk.set_bytes(Path::new("/store/LOCK"), lock.as_bytes());
    disk.set_bytes(Path::new("/store/MANIFEST"), &manifest.encode().unwrap_or_default());
    disk.set_bytes(Path::new(SEGMENT), &segment);
    disk
}

fn store(disk: &FaultyDisk) -> Result<ReplicatedStore, Error> {
    let options = Options::new().segment_bytes(4 << 10).extent_bytes(4 << 10).disk(Arc::new(disk.clone()));
    ReplicatedStore::open(Path::new(DIRECTORY), options)
}

fn open(batches: &[u8]) {
    let disk = disk_with(batches);
    let before = disk.bytes(Path::new(SEGMENT));
    let store_once = match store(&disk) {
        Ok(store) => store,
        Err(Error::Corrupt { .. } | Error::Format { .. }) => {
            assert_eq!(disk.bytes(Path::new(SEGMENT)), before, "what is corrupt stays as it is");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let log = whole_log(&store_once);
    drop(store_once);
    let again = store(&disk).unwrap_or_else(|error| panic!("opened once, and not again: {error}"));
    assert_eq!(again.recovery().torn_bytes, 0, "a torn tail is dropped once");
    assert_eq!(whole_log(&again), log);
}

/// All entries, which are verified on the way.
fn whole_log(store: &ReplicatedStore) -> Vec<LogEntries> {
    if let Err(error) = store.verify() {
        panic!("what was opened does not verify: {error}");
    }
    let log = store.read_log(Sequence(0), usize::MAX).unwrap_or_else(|error| panic!("{error}"));
    let mut next = Sequence(1);
    for entries in &log {
        assert_eq!(entries.first, next);
        check_rows(entries.rows.encoded());
        next = entries.last().next();
    }
    assert_eq!(store.last().sequence.next(), next);
    log
}

fn written(batches: u64) -> Result<Vec<u8>, Error> {
    let disk = disk_with(&[]);
    let mut store = store(&disk)?;
    for epoch in 1..=batches {
        let (first, rows) = (store.last().sequence.next(), example());
        store.append(&LogEntries { epoch, first, log_time_ms: epoch, rows }, store.known_commit())?;
        store.sync()?;
        store.apply(first)?;
    }
    drop(store);
    let bytes = disk.bytes(Path::new(SEGMENT)).unwrap_or_default();
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    // Some of the zeros behind it, too.
    Ok(bytes[64..(end + 64).min(bytes.len())].to_vec())
}

/// Makes checksums and links right, batch by batch, as far as there are batches.
fn seal_batches(mut bytes: &mut [u8]) {
    let mut link = 0;
    while let Some((header, rest)) = bytes.split_first_chunk_mut::<BATCH_HEADER_BYTES>() {
        let mut sealed = BatchHeader::fields(header);
        if !header.starts_with(b"PDKb") || sealed.rows_bytes as usize > rest.len() {
            return;
        }
        let mut checksums = crc32fast::Hasher::new();
        let mut offset = 0;
        while let Some(length) = seal(&mut rest[offset..sealed.rows_bytes as usize]) {
            checksums.update(&rest[offset..offset + 4]);
            offset += length;
        }
        (sealed.rows_checksum, sealed.previous_chain) = (checksums.finalize(), link);
        header.copy_from_slice(&sealed.encode(STORE_ID));
        if sealed.count > 0 {
            link = sealed.chain(STORE_ID);
        }
        let padded =
            (BATCH_HEADER_BYTES as u64 + u64::from(sealed.rows_bytes)).next_multiple_of(BATCH_ALIGNMENT);
        let behind = usize::try_from(padded).unwrap_or(usize::MAX) - BATCH_HEADER_BYTES;
        bytes = rest.get_mut(behind..).unwrap_or_default();
    }
}
