//! Disks that fail and fill up while a run is written.

use std::io::ErrorKind;

use super::*;
use crate::disk::{Fault, Unsynced};
use crate::error::Error;

fn model() -> Model {
    let key = |number: u32| number.to_be_bytes().to_vec();
    let row = |number| put(1 + u64::from(number), &key(number), &[b'v'; 500], &PutOptions::default());
    (0..2000).map(|number| (key(number), row(number))).collect()
}

/// On a disk that has room for so much beside the directory.
fn write_within(capacity_bytes: u64) -> (FaultyDisk, Directory, Result<Written>) {
    let disk = FaultyDisk::new();
    let directory = on(&disk);
    disk.set_capacity_bytes(Some(capacity_bytes));
    let options = RunOptions { compression: Compression::None, ..RunOptions::default() };
    let outcome = write(&directory, &memory(Mapping::Auto), options, &model());
    (disk, directory, outcome)
}

#[test]
fn a_full_disk_leaves_nothing_behind() {
    let (disk, _, outcome) = write_within(u64::MAX);
    let needed = outcome.unwrap().0.summary().file_bytes;
    assert_eq!(disk.used_bytes(), needed);
    for capacity in [0, 100, needed / 3, needed / 2, needed - 64, needed - 1] {
        let (disk, directory, outcome) = write_within(capacity);
        assert!(matches!(outcome.unwrap_err(), Error::DiskFull { .. }), "{capacity} of {needed}");
        assert_eq!((names(&directory), disk.used_bytes()), (vec![], 0));
    }
    write_within(needed).2.unwrap();
}

#[test]
fn a_writer_that_is_dropped_leaves_nothing_behind() {
    let disk = FaultyDisk::new();
    let directory = on(&disk);
    let mut writer =
        RunWriter::create(&directory, &memory(Mapping::Auto), NUMBER, STORE, RunOptions::default()).unwrap();
    let row = put(1, b"key", b"value", &PutOptions::default());
    writer.push(&decode_stored(&row).unwrap()).unwrap();
    assert_eq!(names(&directory), ["00000007.run.tmp"]);
    drop(writer);
    assert_eq!(names(&directory), Vec::<String>::new());
}

/// Whichever call fails, and whatever a crash then takes: under the run's name there is all of the run, or nothing.
#[test]
fn a_run_has_its_name_only_once_it_is_complete() {
    let model = model();
    let count = {
        let disk = FaultyDisk::new();
        let before = (on(&disk), disk.calls()).1;
        write(&on(&disk), &memory(Mapping::Auto), RunOptions::default(), &model).unwrap();
        disk.calls() - before
    };
    let mut finished = 0;
    for call in 1..=count {
        for unsynced in [Unsynced::Lost, Unsynced::Kept, Unsynced::Torn { seed: call }] {
            let disk = FaultyDisk::new();
            let directory = on(&disk);
            let fault = Fault { call: disk.calls() + call, kind: ErrorKind::Other, lasting: true };
            disk.set_fault(Some(fault));
            let outcome = write(&directory, &memory(Mapping::Auto), RunOptions::default(), &model);
            assert!(outcome.is_err(), "call {call}");
            disk.crash(unsynced);
            if names(&directory).contains(&"00000007.run".to_owned()) {
                open(&directory, &memory(Mapping::Auto)).unwrap().verify().unwrap();
                finished += 1;
            }
        }
    }
    assert!(finished > 0, "only the last call, of the directory, comes after the name is given");
}

#[test]
fn what_was_finished_survives() {
    let disk = FaultyDisk::new();
    let model = model();
    write(&on(&disk), &memory(Mapping::Auto), RunOptions::default(), &model).unwrap();
    disk.crash(Unsynced::Lost);
    let run = open(&on(&disk), &memory(Mapping::Auto)).unwrap();
    run.verify().unwrap();
    assert_eq!(run.summary().statistics.rows, model.len() as u64);
}

/// What would break the order is a mistake of the caller's, and nothing to go on from.
#[test]
fn rows_out_of_order_are_not_taken() {
    for (first, second) in [("b", "a"), ("a", "a")] {
        let outcome = std::panic::catch_unwind(|| {
            let directory = on(&FaultyDisk::new());
            let memory = memory(Mapping::Auto);
            let mut writer =
                RunWriter::create(&directory, &memory, NUMBER, STORE, RunOptions::default()).unwrap();
            for key in [first, second] {
                let row = put(1, key.as_bytes(), b"", &PutOptions::default());
                writer.push(&decode_stored(&row).unwrap()).unwrap();
            }
        });
        assert!(outcome.is_err(), "{first} and {second}");
    }
}

/// Rows of a file whose checksums are right can still be in no order. Whoever merges it is told, and does not panic.
#[test]
fn rows_that_have_no_place_in_a_run_are_refused() {
    let disk = FaultyDisk::new();
    let (directory, memory) = (on(&disk), memory(Mapping::Never));
    let options = options(300, Compression::None);
    let unnamed = {
        let mut rows = RowsBuilder::new();
        rows.marker(b"payload").unwrap();
        stamped(rows, 9)
    };
    let value = PutOptions::default();
    for row in
        [put(8, b"key 1", b"", &value), put(8, b"key 0", b"", &value), put(0, b"key 2", b"", &value), unnamed]
    {
        let mut writer = RunWriter::create(&directory, &memory, NUMBER, STORE, options).unwrap();
        writer.push(&decode_stored(&put(7, b"key 1", b"value", &value)).unwrap()).unwrap();
        let refused = writer.push(&decode_stored(&row).unwrap());
        assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
        drop(writer);
        assert!(names(&directory).is_empty());
    }
}
