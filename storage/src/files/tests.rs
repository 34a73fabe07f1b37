use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::disk::{Fault, FaultyDisk, Unsynced};

const STORE: StoreId = StoreId([7; 16]);

/// As FORMAT.md has it; written when the format was made, and never again.
const GOLDEN: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/files-2/FILES"));

fn directory(disk: &FaultyDisk) -> Directory {
    Directory::prepare(Path::new("/store"), Arc::new(disk.clone())).unwrap()
}

fn path() -> PathBuf {
    Path::new("/store/FILES").to_path_buf()
}

fn run(first: u64, last: u64, from: Option<&str>, files: &[(u32, u64)]) -> CataloguedRun {
    CataloguedRun {
        first: Sequence(first),
        last: Sequence(last),
        cold: false,
        from: from.map(|from| from.as_bytes().into()),
        files: files
            .iter()
            .map(|(number, bytes)| CataloguedFile { number: *number, bytes: *bytes })
            .collect(),
    }
}

/// A merge of the two oldest runs is under way, and a cold run is there, too.
fn example() -> Catalogue {
    let epoch = |epoch, first| EpochStart { epoch, first: Sequence(first) };
    Catalogue {
        next_number: 17,
        flushed: Sequence(900),
        log_first: Sequence(450),
        epochs: vec![epoch(1, 1), epoch(4, 300)],
        runs: vec![
            run(1, 400, None, &[(11, 1 << 30)]),
            run(1, 250, Some("heron"), &[(3, 5000), (2, 70_000)]),
            CataloguedRun { cold: true, ..run(251, 400, Some("heron"), &[(5, 1000)]) },
            run(401, 900, None, &[(16, 128)]),
        ],
        stored: true,
        ..Catalogue::new(STORE)
    }
}

/// Writes the golden file anew. Only ever for a new format.
#[test]
#[ignore = "writes a golden file, which stays as it is for good"]
fn writes_the_golden_file() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/files-2/FILES");
    assert!(std::fs::metadata(&path).is_ok_and(|file| file.len() == 0), "golden files are never rewritten");
    std::fs::write(path, example().encode()).unwrap();
}

#[test]
fn the_golden_file_is_read_and_would_be_written_the_same() {
    assert_eq!(Catalogue::decode(GOLDEN, &path()).unwrap(), example());
    assert_eq!(example().encode(), GOLDEN);
}

#[test]
fn every_flipped_bit_and_every_length_is_noticed() {
    let decode = |bytes: &[u8]| Catalogue::decode(bytes, Path::new("/store/FILES"));
    for at in 0..GOLDEN.len() * 8 {
        let mut bytes = GOLDEN.to_vec();
        bytes[at / 8] ^= 1 << (at % 8);
        let error = decode(&bytes).unwrap_err();
        assert!(
            matches!(&error, Error::Corrupt { path, .. } if path.ends_with("FILES")),
            "bit {at}: {error}"
        );
    }
    for length in 0..GOLDEN.len() {
        assert!(matches!(decode(&GOLDEN[..length]), Err(Error::Corrupt { .. })), "{length} bytes");
    }
    for more in [&[0][..], &[1], &[0; 100]] {
        assert!(matches!(decode(&[GOLDEN, more].concat()), Err(Error::Corrupt { offset: 32, .. })));
    }
}

/// Makes the checksums right, as only the maker of a file could.
fn repair(bytes: &mut [u8]) {
    if bytes.len() < 64 {
        return;
    }
    let (header, body) = bytes.split_at_mut(64);
    header[32..36].copy_from_slice(&(body.len() as u32).to_le_bytes());
    header[36..40].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    let checksum = crc32fast::hash(&[&header[..12], &header[16..]].concat());
    header[12..16].copy_from_slice(&checksum.to_le_bytes());
}

/// What has good checksums and makes no sense is refused all the same, and costs no more than it has bytes.
#[test]
fn made_up_bytes_are_refused_or_mean_one_thing() {
    for at in 8..GOLDEN.len() {
        for byte in [0, 1, 2, 3, 4, 0x7f, 0x80, 0xff] {
            let mut bytes = GOLDEN.to_vec();
            bytes[at] = byte;
            repair(&mut bytes);
            if let Ok(catalogue) = Catalogue::decode(&bytes, &path()) {
                assert_eq!(catalogue.encode(), bytes, "byte {at} is {byte}");
            }
        }
    }
    for length in 64..GOLDEN.len() {
        let mut bytes = GOLDEN[..length].to_vec();
        repair(&mut bytes);
        let error = Catalogue::decode(&bytes, &path()).unwrap_err();
        assert!(matches!(error, Error::Corrupt { offset: 64.., .. }), "{length} bytes: {error}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in vec(any::<u8>(), 0..200), repaired: bool) {
        let mut bytes = [&GOLDEN[..32], &bytes[..]].concat();
        if repaired {
            repair(&mut bytes);
        }
        if let Ok(catalogue) = Catalogue::decode(&bytes, &path()) {
            prop_assert_eq!(catalogue.encode(), bytes);
        }
    }

    #[test]
    fn what_is_written_is_read(
        log_first in 1..1000_u64,
        epochs in vec((1..9_u64, 1..9_u64), 0..5),
        lengths in vec((1..50_u64, any::<bool>(), 1..4_usize, any::<u64>()), 0..6),
    ) {
        let mut catalogue = Catalogue { log_first: Sequence(log_first), stored: true, ..Catalogue::new(STORE) };
        catalogue.flushed = Sequence(log_first - 1);
        for (length, cold, files, bytes) in lengths {
            let first = catalogue.flushed.0 + 1;
            let numbers: Vec<_> = (0..files).map(|file| (catalogue.next_number + file as u32, bytes)).collect();
            catalogue.runs.push(CataloguedRun { cold, ..run(first, first + length, None, &numbers) });
            catalogue.next_number += files as u32;
            catalogue.flushed = Sequence(first + length);
        }
        let mut last = (0, 0);
        for (epoch, first) in epochs {
            last = (last.0 + epoch, last.1 + first);
            if last.1 <= catalogue.flushed.0 {
                catalogue.epochs.push(EpochStart { epoch: last.0, first: Sequence(last.1) });
            }
        }
        prop_assert_eq!(catalogue.valid(), Ok(()));
        prop_assert_eq!(Catalogue::decode(&catalogue.encode(), &path()).unwrap(), catalogue);
    }
}

#[test]
fn what_contradicts_itself_is_neither_written_nor_read() {
    type Change = fn(&mut Catalogue);
    let wrong: [(&str, Change); 17] = [
        ("a log that begins nowhere", |c| c.log_first = Sequence(0)),
        ("entries that are nowhere", |c| c.log_first = Sequence(902)),
        ("too much flushed", |c| c.flushed = Sequence(1 << 48)),
        ("a run above what was flushed", |c| c.flushed = Sequence(899)),
        ("equal epochs", |c| c.epochs[1].epoch = 1),
        ("an epoch without entries", |c| c.epochs[1].first = Sequence(1)),
        ("an epoch at 0", |c| c.epochs[0].first = Sequence(0)),
        ("an epoch to come", |c| c.epochs[1].first = Sequence(901)),
        ("a run without files", |c| c.runs[0].files.clear()),
        ("a run from 0", |c| c.runs[0].first = Sequence(0)),
        ("a run backwards", |c| c.runs[3].last = Sequence(400)),
        ("an empty from", |c| c.runs[1].from = Some(Box::default())),
        ("runs in disorder", |c| c.runs.swap(0, 3)),
        ("an input behind what is newer", |c| c.runs.swap(1, 3)),
        ("overlapping runs", |c| c.runs[3].first = Sequence(400)),
        ("one number twice", |c| c.runs[3].files[0].number = 2),
        ("a number to come", |c| c.next_number = 16),
    ];
    let disk = FaultyDisk::new();
    let directory = directory(&disk);
    for (what, change) in wrong {
        let mut catalogue = example();
        change(&mut catalogue);
        assert!(
            matches!(Catalogue::decode(&catalogue.encode(), &path()), Err(Error::Corrupt { .. })),
            "{what}"
        );
        assert!(matches!(catalogue.replace(&directory), Err(Error::Corrupt { .. })), "{what}");
        assert_eq!(disk.paths(), Vec::<PathBuf>::new(), "{what}");
    }
    // A merge's output may stand before its inputs or behind them.
    let mut catalogue = example();
    catalogue.runs.swap(0, 1);
    catalogue.runs.swap(1, 2);
    assert_eq!(catalogue.valid(), Ok(()));
}

#[test]
fn a_store_without_files_has_no_runs() {
    let disk = FaultyDisk::new();
    let directory = directory(&disk);
    let mut catalogue = Catalogue::load(&directory, STORE).unwrap();
    assert_eq!(catalogue, Catalogue::new(STORE));
    // The first number comes with a FILES, and the next do not.
    assert_eq!(catalogue.take_number(&directory).unwrap(), 1);
    assert_eq!(disk.paths(), [path()]);
    let calls = disk.calls();
    assert_eq!((catalogue.take_number(&directory).unwrap(), disk.calls()), (2, calls));

    disk.remove_durably(&path());
    // What is no run, or not finished, is none.
    for name in ["notes", "1.run", "00000001.run.tmp", "000000001.run", "+0000001.run", "99999999999.run"] {
        disk.set_bytes(&directory.runs.join(name), b"mine");
    }
    assert_eq!(Catalogue::load(&directory, STORE).unwrap(), Catalogue::new(STORE));
    disk.set_bytes(&directory.run_path(1), b"");
    let error = Catalogue::load(&directory, STORE).unwrap_err();
    assert!(matches!(&error, Error::Corrupt { path, .. } if path.ends_with("FILES")), "{error}");
}

#[test]
fn files_of_another_store_are_refused() {
    let disk = FaultyDisk::new();
    let directory = directory(&disk);
    example().replace(&directory).unwrap();
    let error = Catalogue::load(&directory, StoreId([8; 16])).unwrap_err();
    assert!(matches!(error, Error::Corrupt { offset: 16, .. }), "{error}");
}

#[test]
fn runs_that_are_missing_or_of_another_length_are_named() {
    let disk = FaultyDisk::new();
    let directory = directory(&disk);
    let catalogue = Catalogue { runs: vec![run(1, 5, None, &[(1, 10), (2, 20)])], ..example() };
    let named = || match catalogue.check_files(&directory) {
        Err(Error::Corrupt { path, offset, .. }) => (path, offset),
        other => panic!("{other:?}"),
    };
    disk.set_bytes(&directory.run_path(1), &[0; 10]);
    assert_eq!(named(), (directory.run_path(2), 0));
    for (length, offset) in [(0, 0), (19, 19), (21, 20)] {
        disk.set_bytes(&directory.run_path(2), &vec![0; length]);
        assert_eq!(named(), (directory.run_path(2), offset));
    }
    disk.set_bytes(&directory.run_path(2), &[0; 20]);
    catalogue.check_files(&directory).unwrap();
}

#[test]
fn leftovers_go_and_what_is_not_ours_stays() {
    let disk = FaultyDisk::new();
    let directory = directory(&disk);
    let mut catalogue = Catalogue { runs: vec![run(1, 5, None, &[(1, 4)])], ..example() };
    catalogue.replace(&directory).unwrap();
    let stay = ["FILES", "FILES.tmp.mine", "other.tmp", "runs/00000001.run", "runs/7.run", "runs/notes.tmp"];
    let go = ["FILES.tmp", "runs/00000002.run", "runs/00000001.run.tmp", "runs/00000009.run.tmp"];
    for name in stay.iter().skip(1).chain(&go) {
        disk.set_bytes(&directory.path.join(name), b"some");
    }
    for _ in 0..2 {
        catalogue.remove_leftovers(&directory).unwrap();
        let mut left = stay.map(|name| directory.path.join(name));
        left.sort();
        assert_eq!(disk.paths(), left);
    }
    assert_eq!(Catalogue::load(&directory, STORE).unwrap(), catalogue);
}

/// Replaces `old` by the example while the n-th call fails, then cuts the power. Returns whether the call was met.
fn fails_at(old: Option<&Catalogue>, call: u64, kind: io::ErrorKind, unsynced: Unsynced) -> bool {
    let disk = FaultyDisk::new();
    let directory = directory(&disk);
    if let Some(old) = old {
        old.clone().replace(&directory).unwrap();
    }
    let before = old.cloned().unwrap_or_else(|| Catalogue::new(STORE));
    let case = format!("{old:?}, call {call}, {kind:?}, {unsynced:?}");
    disk.set_fault(Some(Fault { call: disk.calls() + call, kind, lasting: false }));
    let replaced = example().replace(&directory);
    disk.set_fault(None);
    let seen = Catalogue::load(&directory, STORE).unwrap();
    match &replaced {
        Ok(()) => assert_eq!(seen, example(), "{case}"),
        Err(Error::DiskFull { path }) => {
            assert_eq!((&seen, path.ends_with("FILES")), (&before, true), "{case}");
            assert!(disk.paths().iter().all(|path| path.ends_with("FILES")), "{case}: something is left");
        }
        Err(Error::Io { .. }) => assert!(seen == before || seen == example(), "{case}"),
        Err(error) => panic!("{case}: {error}"),
    }
    disk.crash(unsynced);
    let found = Catalogue::load(&directory, STORE).unwrap();
    assert!(found == example() || (found == before && replaced.is_err()), "{case}");
    found.remove_leftovers(&directory).unwrap();
    assert!(disk.paths().iter().all(|path| path.ends_with("FILES")), "{case}: something is left");
    replaced.is_err()
}

/// FILES is the old or the new one, whatever fails; and a full disk changes nothing.
#[test]
fn a_replacement_is_there_at_once_or_not_at_all() {
    let older = Catalogue { epochs: Vec::new(), ..example() };
    for old in [None, Some(&older)] {
        for kind in [io::ErrorKind::Other, io::ErrorKind::StorageFull] {
            for unsynced in
                [Unsynced::Lost, Unsynced::Kept, Unsynced::Torn { seed: 1 }, Unsynced::Torn { seed: 2 }]
            {
                let met = (1..).take_while(|call| fails_at(old, *call, kind, unsynced)).count();
                assert_eq!(met, 5, "create, write, fsync, rename, fsync of the directory");
            }
        }
    }
}

/// As long as the disk has no room for a new FILES, the old one stays.
#[test]
fn a_full_disk_leaves_everything_as_it_was() {
    let disk = FaultyDisk::new();
    let directory = directory(&disk);
    let mut old = Catalogue { epochs: Vec::new(), ..example() };
    old.replace(&directory).unwrap();
    for room in 0..GOLDEN.len() as u64 {
        disk.set_capacity_bytes(Some(disk.used_bytes() + room));
        assert!(matches!(example().replace(&directory), Err(Error::DiskFull { .. })), "{room}");
        assert_eq!(Catalogue::load(&directory, STORE).unwrap(), old);
        assert_eq!(disk.paths(), [path()]);
    }
    disk.set_capacity_bytes(Some(disk.used_bytes() + GOLDEN.len() as u64));
    example().replace(&directory).unwrap();
    assert_eq!(Catalogue::load(&directory, STORE).unwrap(), example());
}

#[test]
fn a_huge_files_is_not_read() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = Directory::prepare(temporary.path(), Arc::new(crate::disk::SystemDisk)).unwrap();
    std::fs::File::create(directory.files_path()).unwrap().set_len(8 << 40).unwrap();
    assert!(matches!(Catalogue::load(&directory, STORE), Err(Error::Corrupt { .. })));
    let file = directory.disk.open_read(&directory.files_path()).unwrap();
    assert!(file.write_at(b"x", 0).is_err(), "opened for reading alone");
}
