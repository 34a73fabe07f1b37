use std::collections::BTreeSet;

use super::*;
use crate::disk::Disk as _;

fn bytes(disk: &FaultyDisk, path: &str) -> Vec<u8> {
    disk.bytes(Path::new(path)).unwrap_or_default()
}

/// Within a file, across files, and of names: what came later may be there without what came before.
#[test]
fn unsynced_writes_reach_the_disk_in_any_order() {
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let disk = FaultyDisk::new();
        let (one, other) = (disk.create(Path::new("/1")).unwrap(), disk.create(Path::new("/2")).unwrap());
        one.write_at(&[b'-'; 1024], 0).unwrap();
        other.write_at(b"-", 0).unwrap();
        one.sync_all().unwrap();
        other.sync_all().unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        one.write_at(b"a", 0).unwrap();
        one.write_at(b"b", 512).unwrap();
        other.write_at(b"c", 0).unwrap();
        disk.create(Path::new("/3")).unwrap();
        disk.rename(Path::new("/2"), Path::new("/4")).unwrap();
        disk.crash(Unsynced::Torn { seed });
        let (one, names) = (bytes(&disk, "/1"), disk.paths().len());
        let other = [bytes(&disk, "/2"), bytes(&disk, "/4")].concat();
        seen.insert((one[0], one[512], other.first().copied(), names));
    }
    for (a, b, c) in [(b'a', b'-', b'-'), (b'-', b'b', b'-'), (b'-', b'-', b'c'), (b'-', b'b', b'c')] {
        assert!(seen.iter().any(|found| (found.0, found.1, found.2) == (a, b, Some(c))), "{seen:?}");
    }
    assert!(seen.iter().map(|found| found.3).collect::<BTreeSet<_>>().len() >= 3, "{seen:?}");
}

#[test]
fn a_linked_file_is_one_file_also_after_a_crash() {
    for unsynced in [Unsynced::Kept, Unsynced::Lost, Unsynced::Torn { seed: 3 }] {
        let disk = FaultyDisk::new();
        let (one, two) = (Path::new("/1"), Path::new("/2"));
        let file = disk.create(one).unwrap();
        file.write_at(b"first", 0).unwrap();
        file.sync_all().unwrap();
        disk.link(one, two).unwrap();
        assert_eq!(disk.link(one, two).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(disk.link(Path::new("/0"), Path::new("/3")).unwrap_err().kind(), io::ErrorKind::NotFound);
        disk.sync_dir(Path::new("/")).unwrap();
        assert_eq!(disk.used_bytes(), 5, "it takes its room once");
        let copy = disk.copy();
        for disk in [&disk, &copy] {
            disk.crash(unsynced);
            assert_eq!(disk.used_bytes(), 5, "{unsynced:?}");
            disk.open(one).unwrap().write_at(b"later", 0).unwrap();
            assert_eq!(bytes(disk, "/2"), b"later", "{unsynced:?}");
        }
        disk.remove(one).unwrap();
        assert_eq!(bytes(&disk, "/2"), b"later");
    }
}

#[test]
fn files_opened_for_reading_refuse_to_change() {
    let disk = FaultyDisk::new();
    disk.set_bytes(Path::new("/1"), b"one");
    let calls = disk.calls();
    let file = disk.open_read(Path::new("/1")).unwrap();
    assert!(file.write_at(b"x", 0).is_err() && file.set_len(0).is_err() && file.allocate(0, 9).is_err());
    assert_eq!((disk.calls(), bytes(&disk, "/1")), (calls, b"one".to_vec()));
    assert!(disk.open_read(Path::new("/2")).is_err() && disk.lock_existing(Path::new("/2")).is_err());
    assert_eq!(disk.paths().len(), 1, "nothing is made");
}

#[test]
fn looking_fails_when_told_to() {
    let disk = FaultyDisk::new();
    disk.set_bytes(Path::new("/1"), b"one");
    let file = disk.open(Path::new("/1")).unwrap();
    let fault = Fault { call: disk.looks() + 2, kind: io::ErrorKind::Other, lasting: false };
    disk.set_look_fault(Some(fault));
    assert!(file.len().is_ok() && file.read_at(&mut [0], 0).is_err() && file.read_at(&mut [0], 0).is_ok());
    file.write_at(b"two", 0).unwrap();
}
