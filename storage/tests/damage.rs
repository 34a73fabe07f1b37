//! A log with every byte cut and every bit flipped: opening gives an exact prefix with everything that is provably
//! acknowledged, or says what is corrupt.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what helpers of a test meet unexpectedly fails it")]

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use paddock_storage::disk::{Fault, FaultyDisk, Unsynced};
use paddock_storage::{Error, Sequence};
use support::{Entry, append, applied, contents, log, open};

/// A store of a few batches in two segments, each batch synced. The second segment begins behind a cut in the middle of
/// a batch. Returns the entries, and how many the log itself proves to have been durable.
fn written(disk: &FaultyDisk) -> (Vec<(u64, Entry)>, usize) {
    let mut store = open(disk).unwrap();
    let batches = [
        (1, vec![Entry::put("a", "1"), Entry::put("b", "2"), Entry::put("cut", "off")]),
        (2, vec![Entry::Marker(b"epoch 2".to_vec()), Entry::put("c", "3")]),
        (2, vec![Entry::Delete(b"a".to_vec())]),
        (4, vec![Entry::put("d", "four"), Entry::put_with("e", "five", Some(9), Some("text/plain"))]),
    ];
    for (number, (epoch, entries)) in batches.iter().enumerate() {
        if number == 1 {
            store.truncate_after(Sequence(2)).unwrap();
        }
        append(&mut store, *epoch, entries, 1).unwrap();
        store.sync().unwrap();
    }
    let entries = log(&store);
    assert_eq!(store.stats().segments, 2);
    // The last batch has nothing behind it that would prove it.
    (entries, 5)
}

fn segments(disk: &FaultyDisk) -> Vec<PathBuf> {
    disk.paths()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect()
}

/// Opens a damaged store. `Some`: how many entries are left, an exact prefix. `None`: it is corrupt, and says where.
fn open_damaged(disk: &FaultyDisk, path: &Path, entries: &[(u64, Entry)]) -> Option<usize> {
    match open(disk) {
        Ok(store) => {
            let found = log(&store);
            assert_eq!(found, entries[..found.len()]);
            Some(found.len())
        }
        // Damage in one segment may only show where the next one does not follow.
        Err(Error::Corrupt { path: found, .. }) => {
            assert!(found == path || found.parent() == path.parent(), "{}", found.display());
            None
        }
        Err(other) => panic!("{}: {other}", path.display()),
    }
}

#[test]
fn every_bit_flip_leaves_a_prefix_or_is_corrupt() {
    let disk = FaultyDisk::new();
    let (entries, proven) = written(&disk);
    let mut outcomes = [0, 0, 0];
    for path in segments(&disk) {
        let bytes = disk.bytes(&path).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 9;
        for bit in 0..end.min(bytes.len()) * 8 {
            let copy = disk.copy();
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            copy.set_bytes(&path, &damaged);
            match open_damaged(&copy, &path, &entries) {
                None => outcomes[0] += 1,
                Some(left) if left == entries.len() => outcomes[1] += 1,
                Some(left) => {
                    assert!(left >= proven, "bit {bit} of {}: {left} of {proven} entries", path.display());
                    outcomes[2] += 1;
                }
            }
        }
    }
    // All three happen: damage in proven batches, in the zeros behind the log, and in the last batch.
    assert!(outcomes.iter().all(|count| *count > 0), "{outcomes:?}");
}

#[test]
fn after_a_clean_close_every_bit_of_the_log_is_proven() {
    let disk = FaultyDisk::new();
    let (entries, _) = written(&disk);
    open(&disk).unwrap().close().unwrap();
    let path = segments(&disk).pop().unwrap();
    let bytes = disk.bytes(&path).unwrap();
    let marker = bytes.windows(4).rposition(|window| window == b"PDKb").unwrap();
    for bit in 0..marker * 8 {
        let copy = disk.copy();
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        copy.set_bytes(&path, &damaged);
        assert_eq!(open_damaged(&copy, &path, &entries), None, "bit {bit}");
    }
    assert_eq!(open_damaged(&disk, &path, &entries), Some(entries.len()));
}

#[test]
fn every_truncated_file_leaves_a_prefix_or_is_corrupt() {
    let disk = FaultyDisk::new();
    let (entries, _) = written(&disk);
    let paths = segments(&disk);
    for (number, path) in paths.iter().enumerate() {
        let newest = number + 1 == paths.len();
        let bytes = disk.bytes(path).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 9;
        let mut last = 0;
        for length in 0..end.min(bytes.len()) {
            let copy = disk.copy();
            copy.set_bytes(path, &bytes[..length]);
            let left = open_damaged(&copy, path, &entries);
            if newest && length >= 64 {
                // A shorter newest segment is as if less had been written.
                let left = left.unwrap();
                assert!(left >= last, "longer files hold no less");
                last = left;
            } else {
                assert!(
                    left.is_none() || left == Some(entries.len()),
                    "{length} bytes of {}",
                    path.display()
                );
            }
        }
        assert!(!newest || last == entries.len());
    }
}

#[test]
fn a_torn_tail_is_dropped_reported_and_overwritten() {
    let disk = FaultyDisk::new();
    let (entries, _) = written(&disk);
    let path = segments(&disk).pop().unwrap();
    let mut bytes = disk.bytes(&path).unwrap();
    let last = bytes.windows(4).rposition(|window| window == b"PDKb").unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[end] ^= 1;
    disk.set_bytes(&path, &bytes);
    let mut store = open(&disk).unwrap();
    assert_eq!(store.recovery().torn_bytes, (end + 1 - last) as u64);
    assert_eq!(store.last().sequence.0, entries.len() as u64 - 2);
    assert!(disk.bytes(&path).unwrap()[last..].iter().all(|byte| *byte == 0));
    append(&mut store, 4, &[Entry::put("f", "6")], 1).unwrap();
    store.sync().unwrap();
    drop(store);
    let store = open(&disk).unwrap();
    assert_eq!((store.recovery().torn_bytes, store.last().sequence.0), (0, entries.len() as u64 - 1));
}

#[test]
fn a_missing_segment_or_manifest_is_corrupt() {
    let disk = FaultyDisk::new();
    let (entries, _) = written(&disk);
    let first = segments(&disk).remove(0);
    for path in [first, PathBuf::from("/data/store/MANIFEST")] {
        let copy = disk.copy();
        copy.remove_durably(&path);
        assert_eq!(open_damaged(&copy, &path, &entries), None);
    }
}

#[test]
fn every_bit_flip_of_the_manifest_is_corrupt() {
    let disk = FaultyDisk::new();
    let (entries, _) = written(&disk);
    open(&disk).unwrap().set_metadata(b"epoch 7").unwrap();
    let path = PathBuf::from("/data/store/MANIFEST");
    let bytes = disk.bytes(&path).unwrap();
    // All of what it says, and one bit of each byte of the zeros behind it.
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for bit in (0..end * 8).chain((end * 8..bytes.len() * 8).step_by(9)) {
        let copy = disk.copy();
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        copy.set_bytes(&path, &damaged);
        assert_eq!(open_damaged(&copy, &path, &entries), None, "bit {bit}");
    }
}

/// The power fails in the middle of cutting off several segments: whatever names reached the disk, there is no gap.
#[test]
fn a_crash_while_segments_are_removed_leaves_no_gap() {
    let disk = FaultyDisk::new();
    let mut store = open(&disk).unwrap();
    for number in 0..5 {
        append(&mut store, 1, &[Entry::Put(vec![number], vec![number; 3000])], 0).unwrap();
    }
    store.sync().unwrap();
    let (entries, before) = (log(&store), disk.calls());
    drop(store);
    for call in before + 1.. {
        let mut left = BTreeSet::new();
        let mut failed = false;
        for seed in 0..16 {
            let copy = disk.copy();
            let mut store = open(&copy).unwrap();
            let call = copy.calls() + call - before;
            copy.set_fault(Some(Fault { call, kind: std::io::ErrorKind::Other, lasting: true }));
            failed = store.truncate_after(Sequence(1)).is_err();
            // What the store still says to have can be applied, and read: nothing points at a file that is gone.
            let last = store.last().sequence;
            store.apply(last).unwrap();
            let kept = usize::try_from(last.0).unwrap();
            assert_eq!(contents(&store.reader()), applied(&entries[..kept]), "call {call}");
            drop(store);
            copy.crash(Unsynced::Torn { seed });
            let found = log(&open(&copy).unwrap());
            assert_eq!(found, entries[..found.len()]);
            assert!(!found.is_empty(), "call {call}, seed {seed}");
            left.insert(found.len());
        }
        if !failed {
            assert_eq!(left, BTreeSet::from([1]), "done means done");
            assert!(call > before + 8, "several segments were removed");
            break;
        }
    }
}

/// A batch that fits its place by its numbers, but followed another batch when it was written, is not taken.
#[test]
fn a_batch_of_another_history_is_not_taken() {
    let disk = FaultyDisk::new();
    drop(open(&disk).unwrap());
    let write = |first: &str| {
        let copy = disk.copy();
        let mut store = open(&copy).unwrap();
        for value in [first, "second"] {
            append(&mut store, 1, &[Entry::put("key", value)], 0).unwrap();
            store.sync().unwrap();
        }
        drop(store);
        copy
    };
    let (ours, other) = (write("ours"), write("else"));
    let path = segments(&ours).remove(0);
    let (mut bytes, foreign) = (ours.bytes(&path).unwrap(), other.bytes(&path).unwrap());
    let second = bytes.windows(4).rposition(|window| window == b"PDKb").unwrap();
    bytes[second..].copy_from_slice(&foreign[second..]);
    ours.set_bytes(&path, &bytes);
    let store = open(&ours).unwrap();
    assert_eq!(log(&store), [(1, Entry::put("key", "ours"))]);
    assert!(store.recovery().torn_bytes > 0);
}

/// A row is verified each time that it is read, not only when the store is opened.
#[test]
fn a_row_that_rots_while_the_store_is_open_is_not_served() {
    use paddock_storage::Readable;
    let disk = FaultyDisk::new();
    let (entries, _) = written(&disk);
    let mut store = open(&disk).unwrap();
    store.apply(Sequence(entries.len() as u64)).unwrap();
    let path = segments(&disk).pop().unwrap();
    let mut bytes = disk.bytes(&path).unwrap();
    let value = bytes.windows(4).rposition(|window| window == b"four").unwrap();
    bytes[value] = b'F';
    disk.set_bytes(&path, &bytes);
    let error = store.reader().get(b"d").unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    assert!(matches!(store.verify(), Err(Error::Corrupt { .. })));
    assert!(matches!(store.read_log(Sequence(5), 1000), Err(Error::Corrupt { .. })));
    assert_eq!(store.reader().get(b"e").unwrap().unwrap(), "five");
}

/// A row with a good checksum in the place of another of its key: a write that the disk did elsewhere. Its sequence gives it
/// away, to a scan as to recovery. (A point read has the place from the hash index, which keeps no sequences. A file is
/// never written twice at one place, so that there is an older row is not what a lost write looks like: that is zeros.)
#[test]
fn an_older_row_in_the_place_of_a_newer_one_is_found() {
    use paddock_storage::Readable;
    let disk = FaultyDisk::new();
    let mut store = open(&disk).unwrap();
    for value in ["older", "newer"] {
        append(&mut store, 1, &[Entry::put("key", value)], 0).unwrap();
        store.sync().unwrap();
    }
    store.apply(Sequence(2)).unwrap();
    let path = segments(&disk).remove(0);
    let mut bytes = disk.bytes(&path).unwrap();
    // 16 bytes of header, the key and the value.
    let row = |text: &[u8]| {
        let end = bytes.windows(8).position(|window| window == [b"key", text].concat()).unwrap() + 8;
        end - 24..end
    };
    let (older, newer) = (row(b"older"), row(b"newer"));
    bytes.copy_within(older, newer.start);
    disk.set_bytes(&path, &bytes);
    let error = store.reader().iter().next().unwrap().unwrap_err();
    assert!(error.to_string().contains("not the one that was written here"), "{error}");
    assert!(matches!(store.verify(), Err(Error::Corrupt { .. })));
    drop(store);
    let store = open(&disk).unwrap();
    assert_eq!(log(&store), [(1, Entry::put("key", "older"))], "the newer one was not proven");
    assert!(store.recovery().torn_bytes > 0);
}

/// Sequences that are not those of the batch's header are refused even where every checksum is right.
#[test]
fn rows_must_carry_the_sequences_of_their_batch() {
    let disk = FaultyDisk::new();
    let (entries, proven) = written(&disk);
    open(&disk).unwrap().close().unwrap();
    let path = segments(&disk).remove(0);
    let mut bytes = disk.bytes(&path).unwrap();
    let store_id = bytes[16..32].to_vec();
    // The first batch begins at 64, its only row that matters behind its header of 72 bytes.
    let row = 64 + 72;
    let crc = |parts: &[&[u8]]| crc32fast::hash(&parts.concat());
    let (old, new) = (bytes[row + 4..row + 10].to_vec(), [9, 0, 0, 0, 0, 0]);
    let checksum = u32::from_le_bytes(bytes[row..row + 4].try_into().unwrap()) ^ crc(&[&old]) ^ crc(&[&new]);
    bytes[row..row + 4].copy_from_slice(&checksum.to_le_bytes());
    bytes[row + 4..row + 10].copy_from_slice(&new);
    let (mut checksums, mut at) = (Vec::new(), row);
    for _ in 0..3 {
        checksums.extend_from_slice(&bytes[at..at + 4]);
        let (key, value) = (bytes[at + 10], bytes[at + 12]);
        at += 16 + usize::from(key) + usize::from(value);
    }
    let rows_checksum = crc(&[&checksums]);
    bytes[64 + 64..64 + 68].copy_from_slice(&rows_checksum.to_le_bytes());
    let header_checksum = crc(&[&store_id, &bytes[64 + 8..64 + 72]]);
    bytes[64 + 4..64 + 8].copy_from_slice(&header_checksum.to_le_bytes());
    disk.set_bytes(&path, &bytes);
    match open(&disk) {
        Err(Error::Corrupt { offset: 64, what, .. }) => {
            assert!(what.contains("carries the sequence of another entry"), "{what}");
        }
        other => panic!("{other:?}: {} entries, {proven} proven", entries.len()),
    }
}
