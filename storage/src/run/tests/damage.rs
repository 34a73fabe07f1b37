//! Every bit flipped, every length cut: what is read is what was written, or it is corrupt and says where.

use std::ops::Bound;

use super::*;
use crate::error::Error;

/// A small run with several blocks, and keys next to its own that it does not have.
fn model() -> (Model, Vec<Vec<u8>>) {
    let mut model = Model::new();
    let expiring = PutOptions { expires_at_ms: Some(5), content_type: Some("text/plain") };
    for number in 0..9_u8 {
        let key = format!("key/{number}").into_bytes();
        let row = match number % 4 {
            0 => put(40 - u64::from(number), &key, &[b'v'; 70], &PutOptions::default()),
            1 => delete(u64::from(number), &key),
            2 => put(u64::from(number), &key, b"expires and says what it is", &expiring),
            _ => put(u64::from(number), &key, b"", &PutOptions::default()),
        };
        model.insert(key, row);
    }
    let absent = model.keys().flat_map(|key| [[key, &b"!"[..]].concat(), [&key[..5], b"!"].concat()]);
    let absent = absent.chain([b"a".to_vec(), b"z".to_vec()]).collect();
    (model, absent)
}

fn assert_corrupt(error: &Error, directory: &Directory, length: usize) {
    match error {
        Error::Corrupt { path, offset, .. } => {
            assert_eq!(*path, directory.run_path(NUMBER));
            assert!(*offset <= length as u64);
        }
        other => panic!("not said to be corrupt: {other}"),
    }
}

/// Whatever is asked of a damaged run, it answers as the model does or says that it is corrupt. Returns whether it did.
fn ask(run: &Arc<Run>, model: &Model, offsets: &[u32], absent: &[Vec<u8>], corrupt: &dyn Fn(&Error)) -> bool {
    let mut complained = false;
    let mut complain = |error: Error| {
        corrupt(&error);
        complained = true;
    };
    let mut buffer = Vec::new();
    for ((key, row), offset) in model.iter().zip(offsets) {
        match run.find(key) {
            Ok(answer) => assert_eq!(found(answer).as_ref(), Some(row)),
            Err(error) => complain(error),
        }
        match run.row_at(*offset, row.len(), &mut buffer) {
            // The caller holds it against the key that it looked for.
            Ok(answer) => assert_eq!(answer.bytes, row),
            Err(error) => complain(error),
        }
    }
    for key in absent {
        match run.find(key) {
            Ok(answer) => assert!(answer.is_none()),
            Err(error) => complain(error),
        }
        let mut cursor = run.cursor();
        match cursor.seek(Bound::Included(key)).and_then(|()| cursor.next().map(bytes)) {
            Ok(answer) => assert_eq!(answer.as_ref(), model.range(key.clone()..).next().map(|entry| entry.1)),
            Err(error) => complain(error),
        }
    }
    for forward in [true, false] {
        let mut cursor = run.cursor();
        let mut expected: Vec<&Vec<u8>> = model.values().collect();
        if !forward {
            expected.reverse();
            cursor.seek_back(Bound::Unbounded).unwrap();
        }
        for row in expected.into_iter().map(Some).chain([None]) {
            let next = if forward { cursor.next() } else { cursor.prev() };
            match next {
                Ok(answer) => assert_eq!(bytes(answer).as_ref(), row),
                Err(error) => {
                    complain(error);
                    break;
                }
            }
        }
    }
    complained
}

#[test]
fn every_bit_flip_is_corrupt_or_not_read() {
    let (model, absent) = model();
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd { level: 3 }] {
        let disk = FaultyDisk::new();
        let (directory, memory) = (on(&disk), memory(Mapping::Auto));
        let options = options(300, compression);
        let (_, offsets) = write(&directory, &memory, options, &model).unwrap();
        let path = directory.run_path(NUMBER);
        let bytes = disk.bytes(&path).unwrap();
        let corrupt = |error: &Error| assert_corrupt(error, &directory, bytes.len());
        let mut outcomes = [0, 0];
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            disk.set_bytes(&path, &damaged);
            match open(&directory, &memory) {
                Err(error) => {
                    corrupt(&error);
                    outcomes[0] += 1;
                }
                Ok(run) => {
                    corrupt(&run.verify().expect_err("verifying misses a flipped bit"));
                    assert!(ask(&run, &model, &offsets, &absent, &corrupt), "bit {bit}: all was read");
                    outcomes[1] += 1;
                }
            }
        }
        assert!(outcomes.iter().all(|count| *count > 0), "{outcomes:?}");
    }
}

#[test]
fn every_truncation_and_extension_is_corrupt() {
    let (model, _) = model();
    let disk = FaultyDisk::new();
    let (directory, memory) = (on(&disk), memory(Mapping::Auto));
    write(&directory, &memory, options(300, Compression::Lz4), &model).unwrap();
    let path = directory.run_path(NUMBER);
    let bytes = disk.bytes(&path).unwrap();
    for length in 0..bytes.len() {
        disk.set_bytes(&path, &bytes[..length]);
        assert_corrupt(&open(&directory, &memory).unwrap_err(), &directory, bytes.len());
    }
    disk.set_bytes(&path, &[&bytes[..], &[0]].concat());
    assert_corrupt(&open(&directory, &memory).unwrap_err(), &directory, bytes.len() + 1);
    disk.remove(&path).unwrap();
    assert_corrupt(&open(&directory, &memory).unwrap_err(), &directory, 0);
}

/// A file that shrinks while it is open, as no store's does.
#[test]
fn a_file_that_ends_early_is_corrupt() {
    let (model, absent) = model();
    for compression in [Compression::None, Compression::Lz4] {
        let disk = FaultyDisk::new();
        let (directory, memory) = (on(&disk), memory(Mapping::Auto));
        let (run, offsets) = write(&directory, &memory, options(300, compression), &model).unwrap();
        let path = directory.run_path(NUMBER);
        let bytes = disk.bytes(&path).unwrap();
        let file = disk.open(&path).unwrap();
        for length in (0..run.blocks_end as usize).rev() {
            file.set_len(length as u64).unwrap();
            let corrupt = |error: &Error| assert_corrupt(error, &directory, bytes.len());
            // What is in the cache can still be read, so that not all complain.
            ask(&run, &model, &offsets, &absent, &corrupt);
            corrupt(&run.verify().unwrap_err());
        }
    }
}

#[test]
fn a_run_of_another_store_or_number_is_refused() {
    let (model, _) = model();
    let disk = FaultyDisk::new();
    let (directory, memory) = (on(&disk), memory(Mapping::Auto));
    write(&directory, &memory, options(300, Compression::None), &model).unwrap();
    let bytes = disk.bytes(&directory.run_path(NUMBER)).unwrap();
    let error = Run::open(&directory, &memory, NUMBER, StoreId([1; 16])).unwrap_err();
    assert!(error.to_string().contains("of store"), "{error}");
    disk.create(&directory.run_path(8)).unwrap();
    disk.set_bytes(&directory.run_path(8), &bytes);
    let error = Run::open(&directory, &memory, 8, STORE).unwrap_err();
    assert!(error.to_string().contains("its name says 8"), "{error}");
}

/// Rows are good wherever they lie; that they lie elsewhere, only the block's table can tell.
#[test]
fn blocks_that_changed_places_are_corrupt() {
    let disk = FaultyDisk::new();
    let (directory, memory) = (on(&disk), memory(Mapping::Auto));
    for compression in [Compression::None, Compression::Lz4] {
        let keys: Vec<Vec<u8>> = (0..6_u8).map(|number| vec![b'k', number]).collect();
        let value = b"0123456789".repeat(30);
        let rows = keys.iter().map(|key| (key.clone(), put(9, key, &value, &PutOptions::default())));
        let model: Model = rows.collect();
        let (run, _) = write(&directory, &memory, options(256, compression), &model).unwrap();
        let places = [0, 1].map(|block| run.lookup().unwrap().index.place(block).unwrap());
        assert_eq!(places[0].stored_bytes, places[1].stored_bytes);
        let [first, second] = places.map(|place| place.offset as usize);
        let mut bytes = disk.bytes(&directory.run_path(NUMBER)).unwrap();
        for at in 0..places[0].stored_bytes as usize {
            bytes.swap(first + at, second + at);
        }
        disk.set_bytes(&directory.run_path(NUMBER), &bytes);
        let run = open(&directory, &memory).unwrap();
        assert_corrupt(&run.find(&keys[0]).unwrap_err(), &directory, bytes.len());
        assert_corrupt(&run.cursor().next().unwrap_err(), &directory, bytes.len());
        assert_corrupt(&run.verify().unwrap_err(), &directory, bytes.len());
    }
}
