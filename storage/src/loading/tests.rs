use std::collections::BTreeSet;
use std::path::Path;

use paddock_index::HashIndex;

use super::filling::Filling;
use super::reading::{Batch, read};
use super::{open_run, unread};
use crate::compaction::tests::{Plan, Workshop, dice, writes};
use crate::error::Error;
use crate::file_table::Files;
use crate::files::Catalogue;
use crate::header::StoreId;
use crate::view::SortedRun;

const ID: StoreId = StoreId([7; 16]);

/// The runs that FILES names, newly opened.
fn reopen(workshop: &Workshop) -> (Files, Vec<SortedRun>) {
    let catalogue = Catalogue::load(&workshop.directory, ID).unwrap();
    let files = Files::default();
    let open = |run| open_run(&workshop.directory, &catalogue, &workshop.memory, &files, run).unwrap();
    let runs = catalogue.runs.iter().map(open).collect();
    (files, runs)
}

/// All rows of some runs, batch by batch.
fn batches(runs: &[SortedRun], threads: usize, index: &HashIndex) -> Vec<Batch> {
    let mut batches = Vec::new();
    read(&unread(runs, None), threads, index.reader(), |batch| batches.push(batch)).unwrap();
    batches
}

#[test]
fn threads_find_what_one_finds_alone() {
    let mut workshop = Workshop::new(Plan { file_bytes: 64 << 10, ..Plan::default() });
    workshop.write(&writes(20_000, 8_000, 100, &mut dice(1))).unwrap();
    workshop.freeze();
    workshop.rest().unwrap();
    let (_, runs) = reopen(&workshop);
    let index = HashIndex::new(ID.seed());
    let rows = |threads| {
        let mut rows = BTreeSet::new();
        for batch in batches(&runs, threads, &index) {
            for (entry, key) in batch.iter() {
                assert_eq!(entry.hash, index.reader().hash(key));
                assert!(rows.insert((key.to_vec(), entry.place, entry.length)), "a row was found twice");
            }
        }
        rows
    };
    let alone = rows(0);
    assert!(runs.iter().map(|run| run.files.len()).sum::<usize>() > 3 && alone.len() > 5_000);
    for threads in 1..=3 {
        assert_eq!(rows(threads), alone);
    }
}

/// A file that cannot be read to its end is named, whoever reads it, and nobody waits for the others for ever.
#[test]
fn a_damaged_row_fails_the_reading() {
    let mut workshop = Workshop::new(Plan { file_bytes: 16 << 10, ..Plan::default() });
    workshop.write(&writes(20_000, 8_000, 100, &mut dice(2))).unwrap();
    workshop.freeze();
    workshop.rest().unwrap();
    let (_, runs) = reopen(&workshop);
    let path = runs[0].files[1].run.path().to_owned();
    damage(&workshop, &path, 300);
    let index = HashIndex::new(ID.seed());
    for threads in 0..=3 {
        match read(&unread(&runs, None), threads, index.reader(), |_| {}) {
            Err(Error::Corrupt { path: found, .. }) => assert_eq!(found, path),
            other => panic!("{other:?}"),
        }
    }
}

/// A checkpoint knows a row that cannot be read any more, and a run that it does not cover has an older one of the same key.
/// That one must not be served in its place.
#[test]
fn a_damaged_row_gives_way_to_no_older_one() {
    let mut workshop = Workshop::new(Plan::default());
    for value in [1, 2] {
        workshop.write(&[(b"key".to_vec(), Some((vec![value; 50], None)))]).unwrap();
        workshop.freeze();
        workshop.rest().unwrap();
    }
    let (_, runs) = reopen(&workshop);
    assert_eq!(runs.len(), 2, "two runs have the key");
    let index = HashIndex::new(ID.seed());
    let [older, newer] = [0, 1].map(|run| batches(&runs[run..=run], 0, &index));
    for (order, is_damaged) in
        [([&newer, &older], false), ([&older, &newer], false), ([&newer, &older], true)]
    {
        let (files, runs) = reopen(&workshop);
        if is_damaged {
            damage(&workshop, runs[1].files[0].run.path(), 100);
        }
        let mut filling = Filling::new(HashIndex::new(ID.seed()), &files, &runs, Vec::new(), u64::MAX);
        order.into_iter().flatten().for_each(|batch| filling.take(batch));
        let contents = filling.finish(files);
        contents.set_applied(crate::position::Sequence(2));
        let read = contents.read(b"key", |row| row.value().map(<[u8]>::to_vec));
        match is_damaged {
            false => assert_eq!(read.unwrap().flatten(), Some(vec![2; 50])),
            true => assert!(matches!(read, Err(Error::Corrupt { .. })), "{read:?}"),
        }
        assert_eq!(contents.hash_keys(), 1);
    }
}

fn damage(workshop: &Workshop, path: &Path, offset: usize) {
    let mut bytes = workshop.disk.bytes(path).unwrap();
    bytes[offset] ^= 0x10;
    workshop.disk.set_bytes(path, &bytes);
}
