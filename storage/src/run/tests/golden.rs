//! The format, held in place: run files that were written once are read for good, and still written so. Decoded a second
//! time from FORMAT.md alone, too.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::row::RowRef;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/runs-format-2").join(name)
}

const RAW: &str = "raw.run";
const LZ4: &str = "lz4.run";
const ZSTD: &str = "zstd.run";

/// Three blocks: plain rows; one that a row has for itself; one of all kinds of rows.
fn model() -> Model {
    let plain = PutOptions::default();
    let all = PutOptions { expires_at_ms: Some(1_800_000_000_000), content_type: Some("text/plain") };
    let text = b"of birds, and of what they sing ".repeat(12);
    let rows: [(&[u8], Vec<u8>); 6] = [
        (b"apple", put(12, b"apple", b"red, red, red, red, red, red, red, red, red, red", &plain)),
        (b"pear", put(3, b"pear", b"green, green, green, green, green, green, green", &plain)),
        (b"plum", put(4, b"plum", &text, &plain)),
        (b"quince", delete(7, b"quince")),
        (b"quinoa", put(8, b"quinoa", b"all of it: expiry, type, key, value, value, value", &all)),
        (b"swede", put(281_474_976_710_655, b"swede", b"", &plain)),
    ];
    rows.into_iter().map(|(key, row)| (key.to_vec(), row)).collect()
}

fn written(compression: Compression) -> Vec<u8> {
    let disk = FaultyDisk::new();
    let directory = on(&disk);
    write(&directory, &memory(Mapping::Auto), options(256, compression), &model()).unwrap();
    disk.bytes(&directory.run_path(NUMBER)).unwrap()
}

/// Writes the golden files anew. Only ever for a new format: `cargo test -p paddock-storage golden -- --ignored`.
#[test]
#[ignore = "writes golden files, which stay as they are for good"]
fn writes_the_golden_files() {
    let files = [(RAW, Compression::None), (LZ4, Compression::Lz4), (ZSTD, Compression::Zstd { level: 3 })];
    for (name, compression) in files {
        assert!(!golden(name).exists(), "golden files are never rewritten");
        fs::create_dir_all(golden(name).parent().unwrap()).unwrap();
        fs::write(golden(name), written(compression)).unwrap();
    }
}

#[test]
fn golden_files_are_read() {
    for name in [RAW, LZ4, ZSTD] {
        let disk = FaultyDisk::new();
        let (directory, memory) = (on(&disk), memory(Mapping::Auto));
        disk.create(&directory.run_path(NUMBER)).unwrap();
        disk.set_bytes(&directory.run_path(NUMBER), &fs::read(golden(name)).unwrap());
        let run = open(&directory, &memory).unwrap();
        run.verify().unwrap();
        let mut cursor = run.cursor();
        for (key, row) in model() {
            assert_eq!(bytes(cursor.next().unwrap()), Some(row.clone()));
            assert_eq!(found(run.find(&key).unwrap()), Some(row));
        }
        assert!(cursor.next().unwrap().is_none());
        let statistics = &run.summary().statistics;
        assert_eq!((statistics.rows, statistics.tombstones, statistics.expiring), (6, 1, 1));
        assert_eq!(statistics.expires_at_ms_min, Some(1_800_000_000_000));
        assert_eq!((statistics.sequence_min, statistics.sequence_max), (Sequence(3), Sequence::MAX));
    }
}

#[test]
fn what_is_written_is_still_the_same() {
    assert_eq!(written(Compression::None), fs::read(golden(RAW)).unwrap());
    // Another version of a compressor may find other bytes for the same block. What must not change is how they are read.
    for (name, compression) in [(LZ4, Compression::Lz4), (ZSTD, Compression::Zstd { level: 3 })] {
        assert_eq!(written(compression)[..64], fs::read(golden(name)).unwrap()[..64]);
    }
}

/// CRC-32 (IEEE), bit by bit.
fn crc(parts: &[&[u8]]) -> u32 {
    let mut crc = u32::MAX;
    for byte in parts.iter().copied().flatten() {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

/// A little-endian number of up to four bytes.
fn number(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// Cuts the first bytes off.
fn take<'a>(bytes: &mut &'a [u8], length: u32) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(length as usize);
    *bytes = rest;
    taken
}

/// The head of the key of a row in the golden file.
fn head(row: &[u8], prefix_bytes: u32) -> [u8; 4] {
    let key = model().into_iter().find(|(_, other)| other == row).unwrap().0;
    let mut rest = key[prefix_bytes as usize..].to_vec();
    rest.resize(4, 0);
    rest.try_into().unwrap()
}

/// A second decoder, written from FORMAT.md alone: blocks of raw files as the rows in them, and their separators.
fn decode(file: &[u8]) -> Vec<(Vec<u8>, Vec<Vec<u8>>)> {
    let salt = crc(&[b"a store of tests", &[7, 0, 0, 0]]);
    let (header, mut rest) = file.split_at(64);
    assert_eq!((&header[..8], number(&header[8..12])), (&b"PDKRUNFL"[..], 2));
    assert_eq!(number(&header[12..16]), crc(&[&header[..12], &header[16..]]));
    assert_eq!((&header[16..32], &header[32..36]), (&b"a store of tests"[..], &[7, 0, 0, 0][..]));
    assert_eq!(header[36..], [0; 28]);

    let footer = rest.split_off(rest.len() - 64..).unwrap();
    assert_eq!((&footer[..8], number(&footer[8..12])), (&b"PDKRUNFT"[..], crc(&[&footer[12..]]) ^ salt));
    let field = |at: usize| number(&footer[at..at + 4]);
    let mut blocks = take(&mut rest, field(16));
    let parts = [20, 24, 28].map(|at| take(&mut rest, field(at)));
    assert!(rest.is_empty() && footer[44..] == [0; 20]);
    assert_eq!(parts.map(|part| crc(&[part])), [32, 36, 40].map(field));
    let [_, mut index, statistics] = parts;

    let mut found = Vec::new();
    let mut logical = 64;
    while !index.is_empty() {
        let entry = take(&mut index, 16);
        let separator = take(&mut index, number(&entry[14..16]));
        let (decoded_bytes, stored_bytes, rows) =
            (number(&entry[..4]), number(&entry[4..8]), number(&entry[8..12]));
        assert_eq!((stored_bytes, entry[12], entry[13]), (decoded_bytes, 0, 0));
        let mut block = take(&mut blocks, stored_bytes);
        let table = block.split_off(block.len() - 10 - 6 * rows as usize..).unwrap();
        let (table, checksum) = table.split_at(table.len() - 4);
        assert_eq!(number(checksum), crc(&[table]) ^ logical ^ salt);
        let (table, end) = table.split_at(6 * rows as usize);
        assert_eq!(number(&end[2..]), rows);
        let (starts, heads) = table.split_at(2 * rows as usize);
        let starts: Vec<usize> = starts.chunks(2).map(|start| number(start) as usize).collect();
        let ends = starts.iter().skip(1).copied().chain([block.len()]);
        let rows: Vec<_> = starts.iter().zip(ends).map(|(start, end)| block[*start..end].to_vec()).collect();
        let expected: Vec<u8> = rows.iter().flat_map(|row| head(row, number(&end[..2]))).collect();
        assert_eq!(heads, expected);
        found.push((separator.to_vec(), rows));
        logical += decoded_bytes;
    }
    assert!(blocks.is_empty());
    assert_eq!(found.len() as u32, field(12));
    assert_eq!(number(&statistics[..4]), found.iter().map(|(_, rows)| rows.len() as u32).sum::<u32>());
    assert_eq!((number(&statistics[56..58]), &statistics[64..69]), (5, &b"swede"[..]));
    // One row expires, so there is one step of its time and its length.
    let expiring: Vec<u32> = found
        .iter()
        .flat_map(|(_, rows)| rows)
        .filter(|row| row[15] >> 5 & 1 == 1)
        .map(|row| row.len() as u32)
        .collect();
    assert_eq!((statistics.len(), expiring.len()), (85, 1));
    assert_eq!(statistics[69..77], 1_800_000_000_000_u64.to_le_bytes());
    assert_eq!(statistics[77..85], u64::from(expiring[0]).to_le_bytes());
    found
}

#[test]
fn a_second_decoder_reads_the_same() {
    let blocks = decode(&fs::read(golden(RAW)).unwrap());
    let rows: Vec<Vec<u8>> = blocks.iter().flat_map(|(_, rows)| rows.clone()).collect();
    assert_eq!(rows, model().into_values().collect::<Vec<_>>());
    let separators: Vec<&[u8]> = blocks.iter().map(|(separator, _)| separator.as_slice()).collect();
    assert_eq!(separators, [&b"apple"[..], b"pl", b"q"]);
    for row in &rows {
        assert!(matches!(decode_stored(row).unwrap().row, RowRef::Put { .. } | RowRef::Delete { .. }));
    }
}
