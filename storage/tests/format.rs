//! The format, held in place: golden files of every format are read for good, newer ones are refused, and rows and
//! limits are as FORMAT.md says.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what helpers of a test meet unexpectedly fails it")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use paddock_storage::{
    Error, KEY_BYTES_MAX, Options, Position, Readable, ReplicatedStore, Rows, RowsBuilder, Sequence, Store,
    VALUE_BYTES_MAX,
};
use proptest::collection::vec;
use proptest::prelude::*;
use support::{Entry, append, contents, encode, log};

fn golden(format: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/format-{format}"))
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// The store in tests/golden/format-2, as it was written: two segments, the second behind a cut within a batch.
fn write_golden(path: &Path) {
    let mut store = ReplicatedStore::open(path, Options::new().extent_bytes(4 << 10)).unwrap();
    store.set_metadata(b"golden").unwrap();
    let first = [Entry::put("apple", "red"), Entry::put("pear", "green"), Entry::put("cut", "off")];
    append(&mut store, 1, &first, 1).unwrap();
    store.truncate_after(Sequence(2)).unwrap();
    append(&mut store, 2, &[Entry::Marker(b"epoch 2".to_vec()), Entry::put("apple", "yellow")], 2).unwrap();
    store.sync().unwrap();
    let last = [
        Entry::Delete(b"pear".to_vec()),
        Entry::put("quince", ""),
        Entry::put_with("plum", "blue", Some(1_800_000_000_000), None),
        Entry::put_with("page", "<p>", None, Some("text/html; charset=utf-8")),
        Entry::put_with("fig", "", Some(u64::MAX), Some("a")),
    ];
    append(&mut store, 2, &last, 4).unwrap();
    store.close().unwrap();
}

/// Writes the golden files anew. Only ever for a new format: `cargo test -p paddock-storage --test format -- --ignored`.
#[test]
#[ignore = "writes golden files, which stay as they are for good"]
fn writes_the_golden_files() {
    assert!(!golden(2).exists(), "golden files are never rewritten");
    write_golden(&golden(2));
}

#[test]
fn golden_files_of_format_2_are_read() {
    let directory = tempfile::tempdir().unwrap();
    copy(&golden(2), directory.path());
    let mut store = ReplicatedStore::open(directory.path(), Options::new()).unwrap();
    assert_eq!(store.metadata(), b"golden");
    assert_eq!(store.last(), Position { epoch: 2, sequence: Sequence(9) });
    assert_eq!((store.known_commit(), store.applied()), (Sequence(4), Sequence(4)));
    assert_eq!(store.reader().get(b"pear").unwrap().unwrap(), "green");
    store.apply(Sequence(9)).unwrap();
    let expected = [("apple", "yellow"), ("quince", ""), ("plum", "blue"), ("page", "<p>"), ("fig", "")]
        .map(|(key, value)| (key.into(), value.into()));
    assert_eq!(contents(&store.reader()), support::Map::from(expected));
    assert_eq!(log(&store).len(), 9);
}

/// Written today, the same store has the same bytes, but for the random store id and the checksums over it.
#[test]
fn format_2_is_still_what_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    write_golden(&path);
    for name in ["MANIFEST", "log/00000000000000000001.log", "log/00000000000000000003.log"] {
        let (expected, found) = (fs::read(golden(2).join(name)).unwrap(), fs::read(path.join(name)).unwrap());
        // The golden files were cut within their zeros, to be small.
        let (found, zeros) = found.split_at(expected.len());
        assert!(zeros.iter().all(|byte| *byte == 0), "{name}");
        let different = (0..found.len()).filter(|at| found[*at] != expected[*at]);
        let salted: Vec<usize> = different.filter(|at| !is_salted(&expected, *at)).collect();
        assert_eq!(salted, [], "{name}");
    }
}

/// Whether a byte depends on the store id: in the file header its checksum, the id and the chain; in a batch header the
/// checksum and the chain.
fn is_salted(bytes: &[u8], at: usize) -> bool {
    let in_file_header = matches!(at, 12..32) || (&bytes[..8] == b"PDKSEGMT" && matches!(at, 40..48));
    let batch = bytes[..=at].windows(4).rposition(|window| window == b"PDKb");
    in_file_header || batch.is_some_and(|start| matches!(at - start, 4..8 | 56..64))
}

#[test]
fn another_format_is_refused_with_its_number_and_ours() {
    let names = ["MANIFEST", "log/00000000000000000001.log"];
    // Format 1 was never released.
    for (name, format) in names.into_iter().flat_map(|name| [(name, 1), (name, 3)]) {
        let directory = tempfile::tempdir().unwrap();
        copy(&golden(2), directory.path());
        let path = directory.path().join(name);
        let mut bytes = fs::read(&path).unwrap();
        bytes[8] = format;
        let checksum = crc32fast::hash(&[&bytes[..12], &bytes[16..64]].concat());
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        fs::write(&path, bytes).unwrap();
        let error = ReplicatedStore::open(directory.path(), Options::new()).unwrap_err();
        assert!(matches!(error, Error::Format { oldest: 2, newest: 2, .. }), "{error}");
        let text = format!("{name}: format {format}, this build reads format 2");
        assert!(error.to_string().ends_with(&text), "{error}");
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("LOCK");
    for (line, format) in [("3 store 00 and more", 3), ("1 store 0123456789abcdef0123456789abcdef", 1)] {
        fs::write(&path, format!("paddock-storage format {line}\n")).unwrap();
        let error = Store::open(directory.path()).unwrap_err();
        assert!(matches!(error, Error::Format { found, .. } if found == format), "{error}");
    }
}

#[test]
fn a_second_opening_is_refused_by_the_locks_path() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let error = Store::open(directory.path()).unwrap_err();
    assert!(matches!(&error, Error::Locked { path } if path.ends_with("LOCK")), "{error}");
    drop(store);
    Store::open(directory.path()).unwrap();
}

#[test]
fn a_store_is_not_opened_as_the_other_kind() {
    let directory = tempfile::tempdir().unwrap();
    Store::open(directory.path()).unwrap().close().unwrap();
    let error = ReplicatedStore::open(directory.path(), Options::new()).unwrap_err();
    assert!(matches!(error, Error::WrongKind { found: "standalone", wanted: "replicated", .. }), "{error}");
}

#[test]
fn limits_are_named_and_nothing_is_truncated() {
    let mut rows = RowsBuilder::new();
    assert!(matches!(rows.put(b"", b"value"), Err(Error::EmptyKey)));
    assert!(matches!(rows.delete(b""), Err(Error::EmptyKey)));
    let error = rows.put(&vec![1; KEY_BYTES_MAX + 1], b"").unwrap_err();
    assert_eq!(error.to_string(), "key bytes: 65536, the limit is 65535");
    let error = rows.put(b"key", &vec![1; VALUE_BYTES_MAX + 1]).unwrap_err();
    assert_eq!(error.to_string(), "value bytes: 67108865, the limit is 67108864");
    assert_eq!((rows.count(), rows.encoded_bytes()), (0, 0));
    rows.put(&[0; KEY_BYTES_MAX], b"").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    assert!(matches!(store.insert(b"", b"x"), Err(Error::EmptyKey)));
    store.insert(b"any\0bytes/\xff", b"\0").unwrap();
    assert_eq!(store.get(b"any\0bytes/\xff").unwrap().unwrap(), &b"\0"[..]);
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let entry = prop_oneof![
        (vec(any::<u8>(), 1..40), vec(any::<u8>(), 0..200)).prop_map(|(key, value)| Entry::Put(key, value)),
        vec(any::<u8>(), 1..40).prop_map(Entry::Delete),
        vec(any::<u8>(), 0..40).prop_map(Entry::Marker),
    ];
    vec(entry, 0..8)
}

proptest! {
    #[test]
    fn rows_come_back_as_they_went(entries in entries(), parts in 0_u32..9) {
        let rows = encode(&entries);
        let again = Rows::from_encoded(rows.encoded().clone(), rows.count()).unwrap();
        prop_assert_eq!(again.iter().map(Entry::from).collect::<Vec<_>>(), entries.clone());
        let skipped: Vec<_> = rows.skip(parts).iter().map(Entry::from).collect();
        let taken: Vec<_> = rows.take(parts).iter().map(Entry::from).collect();
        let at = entries.len().min(parts as usize);
        prop_assert_eq!((&taken[..], &skipped[..]), entries.split_at(at));
        prop_assert_eq!(rows.take(parts).count() + rows.skip(parts).count(), rows.count());
    }

    /// Bytes from a peer: whatever is wrong with them is an error, and nothing panics.
    #[test]
    fn damaged_rows_are_refused(entries in entries(), at in any::<prop::sample::Index>(), flip in 1_u8..) {
        let rows = encode(&entries);
        let bytes = rows.encoded().to_vec();
        prop_assert!(Rows::from_encoded(rows.encoded().clone(), rows.count() + 1).is_err());
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            prop_assert!(Rows::from_encoded(Bytes::copy_from_slice(&bytes[..at]), rows.count()).is_err());
            let mut damaged = bytes;
            damaged[at] ^= flip;
            prop_assert!(Rows::from_encoded(damaged.into(), rows.count()).is_err());
        }
    }

    #[test]
    fn any_bytes_are_refused_or_rows(bytes in vec(any::<u8>(), 0..100), count in 0_u32..4) {
        if let Ok(rows) = Rows::from_encoded(bytes.into(), count) {
            prop_assert_eq!(rows.iter().count(), count as usize);
        }
    }
}
