//! A second decoder, written from FORMAT.md alone and sharing nothing with the crate, its CRC included: what it reads in
//! golden files, and in files of today, is what the store reads. Where the two differ, the document or the code is wrong.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what helpers of a test meet unexpectedly fails it")]

mod support;

use std::fs;
use std::path::Path;

use paddock_storage::{Options, ReplicatedStore, Sequence};
use support::{Entry, append, log};

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

/// A little-endian number of any length.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn zeros(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// "File header": checks it, and gives the store id.
fn file_header(bytes: &[u8], magic: &[u8; 8]) -> Vec<u8> {
    assert_eq!(&bytes[..8], magic);
    assert_eq!(number(&bytes[8..12]), 2);
    assert_eq!(number(&bytes[12..16]), u64::from(crc(&[&bytes[..12], &bytes[16..64]])));
    bytes[16..32].to_vec()
}

struct Manifest {
    store_id: Vec<u8>,
    value: Vec<u8>,
    standalone: bool,
}

fn manifest(bytes: &[u8]) -> Manifest {
    let store_id = file_header(bytes, b"PDKMANIF");
    assert_eq!(number(&bytes[32..40]), 1);
    let length = number(&bytes[40..44]) as usize;
    let value = bytes[64..64 + length].to_vec();
    assert_eq!(number(&bytes[44..48]), u64::from(crc(&[&value])));
    assert!(zeros(&bytes[49..64]) && zeros(&bytes[64 + length..]) && bytes.len() <= 4_160);
    Manifest { store_id, value, standalone: bytes[48] == 1 }
}

/// What the decoder has found so far.
#[derive(Default)]
struct Found {
    entries: Vec<(u64, Entry)>,
    epoch: u64,
    chain: u64,
    known_commit: u64,
    proven: u64,
    batches_without_rows: usize,
}

impl Found {
    fn next(&self) -> u64 {
        self.entries.len() as u64 + 1
    }

    /// "Segment": `end` is the next one's first sequence.
    fn segment(&mut self, bytes: &[u8], store_id: &[u8], first: u64, end: u64) {
        assert_eq!(file_header(bytes, b"PDKSEGMT"), store_id);
        let fields = [first, self.chain, self.epoch, 0];
        for (field, expected) in bytes[32..64].chunks(8).zip(fields) {
            assert_eq!(number(field), expected);
        }
        assert_eq!(first, self.next());
        let mut at = 64;
        while self.next() < end && !zeros(&bytes[at..]) {
            at += self.batch(&bytes[at..], store_id, end);
            assert_eq!(at % 8, 0);
        }
        assert!(end == u64::MAX || self.next() == end, "entries are missing before the next segment");
    }

    /// "Batch": gives its length.
    fn batch(&mut self, bytes: &[u8], store_id: &[u8], end: u64) -> usize {
        assert_eq!(&bytes[..4], b"PDKb");
        let header_crc = number(&bytes[4..8]);
        assert_eq!(header_crc, u64::from(crc(&[store_id, &bytes[8..72]])));
        let (length, count) = (number(&bytes[8..12]) as usize, number(&bytes[12..16]));
        let (epoch, first) = (number(&bytes[16..24]), number(&bytes[24..32]));
        let (durable, commit) = (number(&bytes[32..40]), number(&bytes[40..48]));
        assert!(epoch >= self.epoch && first == self.next() && durable < first && commit < first + count);
        assert_eq!(number(&bytes[56..64]), self.chain);
        assert!(zeros(&bytes[68..72]));
        let rows = self.rows(&bytes[72..72 + length], epoch, first, count, end);
        assert_eq!(number(&bytes[64..68]), u64::from(crc(&[&rows])));
        if count > 0 {
            self.epoch = epoch;
            self.chain = header_crc << 32 | u64::from(crc(&[&rows]));
            assert_eq!(number(&bytes[48..56]), 7, "the log time that the tests write");
        } else {
            self.batches_without_rows += 1;
        }
        self.known_commit = self.known_commit.max(commit);
        self.proven = self.proven.max(durable);
        let padded = (72 + length).next_multiple_of(8);
        assert!(zeros(&bytes[72 + length..padded]));
        padded
    }

    /// "Row", one after the other: gives their checksums.
    fn rows(&mut self, mut bytes: &[u8], epoch: u64, first: u64, count: u64, end: u64) -> Vec<u8> {
        let mut checksums = Vec::new();
        for sequence in first..first + count {
            let (key_length, word) = (number(&bytes[10..12]) as usize, number(&bytes[12..16]));
            let (value_length, kind, flags) = ((word % (1 << 27)) as usize, word >> 27 & 3, word >> 29);
            let (mut at, mut expiry, mut content_type) = (16, None, None);
            if flags & 1 == 1 {
                expiry = Some(number(&bytes[at..at + 8]));
                at += 8;
            }
            if flags & 2 == 2 {
                let text = &bytes[at + 1..at + 1 + usize::from(bytes[at])];
                assert!(!text.is_empty() && text.iter().all(|byte| (0x20..=0x7e).contains(byte)));
                at += 1 + text.len();
                content_type = Some(String::from_utf8(text.to_vec()).unwrap());
            }
            let (row, rest) = bytes.split_at(at + key_length + value_length);
            assert_eq!(number(&row[..4]), u64::from(crc(&[&row[10..]]) ^ crc(&[&row[4..10]])));
            assert_eq!(number(&row[4..10]), sequence);
            let (key, value) = row[at..].split_at(key_length);
            let entry = match (kind, flags) {
                (0, 0) => Entry::Put(key.into(), value.into()),
                (0, 1..=3) => Entry::PutWith(key.into(), value.into(), expiry, content_type),
                (1, 0) if value.is_empty() => Entry::Delete(key.into()),
                (2, 0) if key.is_empty() => Entry::Marker(value.into()),
                other => panic!("a row of kind and flags {other:?}"),
            };
            if self.next() < end {
                self.entries.push((epoch, entry));
            }
            checksums.extend_from_slice(&row[..4]);
            bytes = rest;
        }
        assert!(bytes.is_empty());
        checksums
    }
}

fn decode(directory: &Path) -> (Manifest, Found) {
    let manifest = manifest(&fs::read(directory.join("MANIFEST")).unwrap());
    let id: String = manifest.store_id.iter().map(|byte| format!("{byte:02x}")).collect();
    let lock = fs::read_to_string(directory.join("LOCK")).unwrap();
    assert_eq!(lock, format!("paddock-storage format 2 store {id}\n"));
    let names = fs::read_dir(directory.join("log")).unwrap();
    let mut names: Vec<String> = names.map(|name| name.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let firsts: Vec<u64> =
        names.iter().map(|name| name.strip_suffix(".log").unwrap().parse().unwrap()).collect();
    let mut found = Found::default();
    for (number, name) in names.iter().enumerate() {
        let bytes = fs::read(directory.join("log").join(name)).unwrap();
        let end = firsts.get(number + 1).copied().unwrap_or(u64::MAX);
        found.segment(&bytes, &manifest.store_id, firsts[number], end);
    }
    (manifest, found)
}

#[test]
fn golden_files_are_as_the_document_says() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/format-2");
    let (manifest, found) = decode(&golden);
    assert_eq!((&manifest.value[..], manifest.standalone), (&b"golden"[..], false));
    let expected = [
        (1, Entry::put("apple", "red")),
        (1, Entry::put("pear", "green")),
        (2, Entry::Marker(b"epoch 2".to_vec())),
        (2, Entry::put("apple", "yellow")),
        (2, Entry::Delete(b"pear".to_vec())),
        (2, Entry::put("quince", "")),
        (2, Entry::put_with("plum", "blue", Some(1_800_000_000_000), None)),
        (2, Entry::put_with("page", "<p>", None, Some("text/html; charset=utf-8"))),
        (2, Entry::put_with("fig", "", Some(u64::MAX), Some("a"))),
    ];
    assert_eq!(found.entries, expected);
    assert_eq!((found.known_commit, found.proven, found.batches_without_rows), (4, 9, 1));
}

/// A store that has seen everything: many segments, cuts in the middle of batches and before them, restarts, large rows.
#[test]
fn files_of_today_are_as_the_document_says() {
    let directory = tempfile::tempdir().unwrap();
    let open = || {
        let options = Options::new().segment_bytes(4 << 10).extent_bytes(4 << 10);
        ReplicatedStore::open(directory.path(), options).unwrap()
    };
    let mut store = open();
    for round in 1..30_u64 {
        let value = vec![round as u8; (round * 97 % 1_500) as usize];
        let entries = [
            Entry::Marker(value.clone()),
            Entry::Put(vec![1; round as usize * 9], value),
            Entry::Delete(vec![2]),
            Entry::put_with(
                "dated",
                "x",
                (round % 2 == 0).then_some(round),
                Some(&"t".repeat(round as usize * 8)),
            ),
        ];
        append(&mut store, round / 3, &entries, round).unwrap();
        let last = store.last().sequence.0;
        match round % 5 {
            0 => store.truncate_after(Sequence(last - 2)).unwrap(),
            1 => store.truncate_after(Sequence(last - 5.min(last - store.known_commit().0))).unwrap(),
            2 => drop(store.sync().unwrap()),
            3 => {
                store.close().unwrap();
                store = open();
            }
            _ => store.set_metadata(&round.to_le_bytes()).unwrap(),
        }
        let (manifest, found) = decode(directory.path());
        assert_eq!(manifest.value, store.metadata());
        assert_eq!(found.entries, log(&store), "round {round}");
        assert!(found.proven <= store.durable().0);
        assert!(found.known_commit <= store.known_commit().0);
    }
    assert!(store.stats().segments > 5);
}
