//! Runs held against a map: whatever is written is found, in order, either way, however it is stored and read.

use std::ops::Bound;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::run::RunCursor;
use crate::run::block::key_of;

#[derive(Clone, Debug)]
struct Value {
    sequence: u64,
    /// `None`: a delete.
    bytes: Option<Vec<u8>>,
    expires_at_ms: Option<u64>,
    content_type: Option<String>,
}

fn value() -> impl Strategy<Value = Value> {
    let bytes = prop_oneof![
        6 => vec(prop_oneof![Just(b'x'), any::<u8>()], 0..40),
        1 => (0..2000_usize).prop_map(|length| vec![b'y'; length]),
        1 => vec(any::<u8>(), 300..1200),
    ];
    let content_type = option::weighted(0.1, "[a-z]{1,20}");
    (1..1_u64 << 47, option::weighted(0.8, bytes), option::weighted(0.2, any::<u64>()), content_type)
        .prop_map(|(sequence, bytes, expires_at_ms, content_type)| Value {
            sequence,
            bytes,
            expires_at_ms,
            content_type,
        })
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(prop_oneof![Just(0), Just(b'a'), Just(0xff)], 1..6),
        "user/[a-c]{0,9}".prop_map(String::into_bytes),
        vec(any::<u8>(), 1..20),
    ]
}

fn model() -> impl Strategy<Value = Model> {
    btree_map(key(), value(), 0..60).prop_map(|values| {
        let encode = |(key, value): (Vec<u8>, Value)| {
            let content_type = value.content_type.as_deref();
            let options = PutOptions { expires_at_ms: value.expires_at_ms, content_type };
            let row = match &value.bytes {
                Some(bytes) => put(value.sequence, &key, bytes, &options),
                None => delete(value.sequence, &key),
            };
            (key, row)
        };
        values.into_iter().map(encode).collect()
    })
}

fn compression() -> impl Strategy<Value = Compression> {
    prop_oneof![Just(Compression::None), Just(Compression::Lz4), Just(Compression::Zstd { level: 1 })]
}

/// Where a cursor is told to go.
#[derive(Clone, Debug)]
enum Step {
    Next,
    Prev,
    Seek(Bound<Vec<u8>>),
    SeekBack(Bound<Vec<u8>>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let bound = || {
        prop_oneof![Just(Bound::Unbounded), key().prop_map(Bound::Included), key().prop_map(Bound::Excluded)]
    };
    let step = prop_oneof![
        5 => Just(Step::Next),
        5 => Just(Step::Prev),
        1 => bound().prop_map(Step::Seek),
        1 => bound().prop_map(Step::SeekBack),
    ];
    vec(step, 0..120)
}

/// Walks cursor and model side by side. The model's gap is before the row of this number.
fn walk(cursor: &mut RunCursor, model: &Model, steps: &[Step]) {
    let rows: Vec<(&Vec<u8>, &Vec<u8>)> = model.iter().collect();
    let mut gap = 0;
    for step in steps {
        match step {
            Step::Next => {
                let expected = rows.get(gap).map(|row| row.1.clone());
                gap = (gap + 1).min(rows.len());
                assert_eq!(bytes(cursor.next().unwrap()), expected);
                assert_eq!(bytes(cursor.current()), expected);
            }
            Step::Prev => {
                let before = gap.checked_sub(1);
                gap = before.unwrap_or(0);
                assert_eq!(bytes(cursor.prev().unwrap()), before.map(|row| rows[row].1.clone()));
            }
            Step::Seek(bound) => {
                gap = rows.partition_point(|(key, _)| match bound {
                    Bound::Unbounded => false,
                    Bound::Included(bound) => *key < bound,
                    Bound::Excluded(bound) => *key <= bound,
                });
                cursor.seek(bound.as_ref().map(Vec::as_slice)).unwrap();
            }
            Step::SeekBack(bound) => {
                gap = rows.partition_point(|(key, _)| match bound {
                    Bound::Unbounded => true,
                    Bound::Included(bound) => *key <= bound,
                    Bound::Excluded(bound) => *key < bound,
                });
                cursor.seek_back(bound.as_ref().map(Vec::as_slice)).unwrap();
            }
        }
    }
}

fn check(run: &Arc<Run>, model: &Model, offsets: &[u32], absent: &[Vec<u8>], steps: &[Step]) {
    run.verify().unwrap();
    let mut buffer = Vec::new();
    for ((key, row), offset) in model.iter().zip(offsets) {
        let found = run.find(key).unwrap().unwrap();
        assert_eq!((found.logical_offset, &found.bytes[..]), (*offset, &row[..]));
        assert_eq!(found.row().map(|row| key_of(&row.row)), Some(&key[..]));
        for hint in [row.len(), row.len() + 100] {
            assert_eq!(run.row_at(*offset, hint, &mut buffer).unwrap().bytes, row);
        }
        assert!(run.bytes_at(*offset, row.len(), &mut buffer).unwrap().starts_with(row));
    }
    for key in absent {
        assert_eq!(found(run.find(key).unwrap()).as_ref(), model.get(key));
    }
    let mut rows = model.iter().zip(offsets);
    run.for_each_location(|key, sequence, offset, length, tombstone| {
        let ((expected, row), expected_offset) = rows.next().unwrap();
        let stored = decode_stored(row).unwrap();
        assert_eq!((key, sequence, offset), (&expected[..], stored.sequence, *expected_offset));
        let is_delete = matches!(stored.row, crate::row::RowRef::Delete { .. });
        assert_eq!((length as usize, tombstone), (row.len(), is_delete));
    })
    .unwrap();
    assert!(rows.next().is_none());
    let mut cursor = run.cursor();
    walk(&mut cursor, model, &vec![Step::Next; model.len() + 2]);
    walk(&mut run.cursor(), model, steps);
    let backward = [vec![Step::SeekBack(Bound::Unbounded)], vec![Step::Prev; model.len() + 2]].concat();
    walk(&mut cursor, model, &backward);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_found(
        model in model(),
        absent in vec(key(), 0..20),
        steps in steps(),
        block_bytes in 0..1500_usize,
        compression in compression(),
        mapping in prop_oneof![Just(Mapping::Always), Just(Mapping::Never)],
    ) {
        // Only the system's disk can map, and only the other one costs no time.
        let temporary = tempfile::tempdir().unwrap();
        let directory = if mapping == Mapping::Always { at(temporary.path()) } else { on(&FaultyDisk::new()) };
        let memory = memory(mapping);
        let (run, offsets) = write(&directory, &memory, options(block_bytes, compression), &model).unwrap();
        check(&run, &model, &offsets, &absent, &steps);
        let again = open(&directory, &memory).unwrap();
        prop_assert_eq!(again.summary(), run.summary());
        prop_assert_eq!(again.summary().first_key(), model.keys().next().map_or(&[][..], Vec::as_slice));
        prop_assert_eq!(again.summary().last_key(), model.keys().next_back().map_or(&[][..], Vec::as_slice));
        check(&again, &model, &offsets, &absent, &steps);
    }
}

/// Enough for several windows of the cursor, in both directions, and blocks that a row has for itself.
#[test]
fn long_walks_go_through_many_windows() {
    let disk = FaultyDisk::new();
    let mut model = Model::new();
    for number in 0..4000_u32 {
        let key = number.wrapping_mul(0x9e37_79b1).to_be_bytes();
        let length = if number % 1000 == 5 { 300_000 } else { 200 };
        model.insert(
            key.to_vec(),
            put(u64::from(number) + 1, &key, &vec![number as u8; length], &PutOptions::default()),
        );
    }
    for compression in [Compression::None, Compression::Lz4] {
        let options = RunOptions { compression, ..RunOptions::default() };
        let (run, offsets) = write(&on(&disk), &memory(Mapping::Auto), options, &model).unwrap();
        check(&run, &model, &offsets, &[], &[]);
    }
}

#[test]
fn incompressible_blocks_are_raw_and_others_are_small() {
    let disk = FaultyDisk::new();
    let mut dice = 1_u64;
    let mut random = move || {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        dice.to_le_bytes()
    };
    let mut noise = Model::new();
    let mut text = Model::new();
    for number in 0..2000_u32 {
        let key = number.to_be_bytes().to_vec();
        let value: Vec<u8> = (0..20).flat_map(|_| random()).collect();
        noise.insert(key.clone(), put(1, &key, &value, &PutOptions::default()));
        text.insert(key.clone(), put(1, &key, &b"the quick brown fox ".repeat(8), &PutOptions::default()));
    }
    let bytes = |model, compression| {
        let options = RunOptions { compression, ..RunOptions::default() };
        let (run, _) = write(&on(&disk), &memory(Mapping::Auto), options, model).unwrap();
        run.summary().file_bytes
    };
    let raw = bytes(&noise, Compression::None);
    assert_eq!(bytes(&text, Compression::None), raw);
    for compression in [Compression::Lz4, Compression::Zstd { level: 3 }] {
        assert_eq!(bytes(&noise, compression), raw, "{compression:?}");
        assert!(bytes(&text, compression) < raw / 4, "{compression:?}");
    }
}
