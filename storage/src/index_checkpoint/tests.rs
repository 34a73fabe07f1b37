//! The format, held in place: a checkpoint that was written once is read for good, and still written so. Decoded a second time
//! from FORMAT.md alone, too.

use std::convert::Infallible;
use std::fs;
use std::path::Path;

use super::*;
use crate::disk::FaultyDisk;

const STORE_ID: StoreId = StoreId([7; 16]);
const NUMBER: u32 = 3;
const APPLIED: Sequence = Sequence(0x0000_1234_5678_9abc);

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/index-format-2/00000003.ckpt")
}

fn covered() -> [Covered; 2] {
    [Covered { number: 5, handle: Handle(1) }, Covered { number: 70_000, handle: Handle(3) }]
}

/// A key, the file that its row is in, where, and whether it is a delete.
fn rows() -> Vec<(String, Handle, u64, bool)> {
    let row = |number: u64| {
        let handle = covered()[(number % 2) as usize].handle;
        (format!("key {number}"), handle, 64 + number * 40, number % 5 == 4)
    };
    (0..40).map(row).collect()
}

fn written() -> Vec<u8> {
    let disk = FaultyDisk::new();
    let directory = Directory::prepare(Path::new("/data/store"), Arc::new(disk.clone())).unwrap();
    let mut index = HashIndex::new(11);
    for (key, handle, offset, tombstone) in rows() {
        let place = handle.place(tombstone, offset, 40).unwrap();
        index.insert(key.as_bytes(), place, |_| Ok::<_, Infallible>(false)).unwrap();
    }
    write(&directory, STORE_ID, NUMBER, &covered(), index.reader(), || APPLIED).unwrap();
    disk.bytes(&directory.index_path(NUMBER)).unwrap()
}

#[test]
#[ignore = "writes a golden file, which stays as it is for good"]
fn writes_the_golden_file() {
    assert!(!golden().exists(), "golden files are never rewritten");
    fs::create_dir_all(golden().parent().unwrap()).unwrap();
    fs::write(golden(), written()).unwrap();
}

#[test]
fn what_is_written_is_still_the_same() {
    assert!(written() == fs::read(golden()).unwrap());
}

#[test]
fn the_golden_file_is_read() {
    let disk = FaultyDisk::new();
    let directory = Directory::prepare(Path::new("/data/store"), Arc::new(disk.clone())).unwrap();
    disk.set_bytes(&directory.index_path(NUMBER), &fs::read(golden()).unwrap());
    let checkpoint = Checkpoint::open(&directory, STORE_ID, NUMBER).unwrap();
    assert_eq!(checkpoint.applied, APPLIED);
    assert_eq!(checkpoint.covered().collect::<Vec<_>>(), [5, 70_000]);
    // The first run is there still, under another handle; the second is not.
    let now = Handle(9);
    let mut kept = 0;
    let index = checkpoint.load(&HashMap::from([(5, now)]), |_| kept += 1).unwrap();
    assert_eq!(kept, 20);
    for (key, handle, offset, tombstone) in rows() {
        let expected = now.place(tombstone, offset, 40).filter(|_| handle == Handle(1));
        let is_it = |place: PackedLocator| Ok::<_, Infallible>(u64::from(place.offset()) == offset);
        assert_eq!(index.get(key.as_bytes(), is_it).unwrap(), expected, "{key}");
    }
    assert!(matches!(Checkpoint::open(&directory, StoreId([8; 16]), NUMBER), Err(Error::Corrupt { .. })));
}

/// As FORMAT.md has it, with nothing of this crate.
#[test]
fn the_golden_file_is_as_the_document_says() {
    let bytes = fs::read(golden()).unwrap();
    let number = |from: usize, length: usize| {
        let bytes = &bytes[from..from + length];
        bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
    };
    assert_eq!(&bytes[..8], b"PDKINDEX");
    assert_eq!(number(8, 4), 2);
    let header = [&bytes[..12], &bytes[16..64]].concat();
    assert_eq!(number(12, 4), u64::from(crc32fast::hash(&header)));
    assert_eq!(&bytes[16..32], [7; 16]);
    assert_eq!((number(32, 8), number(40, 4)), (APPLIED.0, 2));
    assert_eq!(number(44, 4), u64::from(crc32fast::hash(&bytes[64..80])));
    assert!(bytes[48..64].iter().all(|byte| *byte == 0));
    let table = [64, 68, 72, 76].map(|at| number(at, 4));
    assert_eq!(table, [5, 1, 70_000, 3]);
    // The rest is the index's own.
    let (index, _) = HashIndex::read_checkpoint(&mut &bytes[80..]).unwrap();
    let mut places: Vec<_> = index.locators().map(|place| (place.offset(), place.file())).collect();
    places.sort_unstable();
    let expected = (0..40_u32).map(|row| {
        let stands_for = [1, 3][row as usize % 2];
        (64 + row * 40, stands_for * 2 + u32::from(row % 5 == 4))
    });
    assert!(places.into_iter().eq(expected));
}
