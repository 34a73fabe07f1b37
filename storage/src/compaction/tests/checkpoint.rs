//! Checkpoints of the hash index, beside who applies and who compacts.

use std::io::ErrorKind;

use super::*;
use crate::disk::Fault;
use crate::error::Error;
use crate::index_checkpoint::{Checkpoint, When, write_if_due};

/// Rows that are in the index already, though nobody is to see them yet, may be lost with the log's end like any other: a
/// checkpoint that walked over them must not be taken for one that is older than they are.
#[test]
fn a_checkpoint_notes_rows_that_are_only_being_applied() {
    let mut workshop = Workshop::new(Plan::default());
    let row = |number: u32| (format!("key {number:05}").into_bytes(), Some((vec![7; 200], None)));
    workshop.write(&(0..50).map(row).collect::<Vec<_>>()).unwrap();
    workshop.freeze();
    workshop.rest().unwrap();

    let mut rows = RowsBuilder::new();
    rows.put(b"key 00007", b"not applied yet").unwrap();
    let first = Sequence(workshop.history.len() as u64 + 1);
    let mut bytes = Vec::new();
    rows.finish().stamp_into(first, &mut bytes);
    let handle = workshop.segment(&bytes);
    workshop.contents.apply(handle, 0, first, &Frames::new(&bytes));

    let id = StoreId([7; 16]);
    assert!(write_if_due(&workshop.directory, id, &workshop.contents, When::Closing).unwrap());
    let checkpoint = Checkpoint::newest(&workshop.directory, id).unwrap().unwrap();
    assert_eq!(checkpoint.applied, first);
}

/// Once a step has failed, the index may point at rows where they were, and FILES say where they are: a checkpoint that takes
/// both for the truth has lost keys. The thread does nothing any more, even if it was somebody else's step that failed.
#[test]
fn nothing_is_done_after_a_failure() {
    let row = |number: u32| (format!("key {number:05}").into_bytes(), Some((vec![7; 200], None)));
    for (failed, look) in (1..).enumerate() {
        let mut workshop = Workshop::new(Plan::default());
        for tail in 0..2 {
            workshop.write(&(tail * 25..(tail + 1) * 25).map(row).collect::<Vec<_>>()).unwrap();
            workshop.freeze();
        }
        let call = workshop.disk.looks() + look;
        workshop.disk.set_look_fault(Some(Fault { call, kind: ErrorKind::Other, lasting: false }));
        if workshop.compaction.compact().is_ok() {
            assert!(failed > 2, "too few calls failed to show anything");
            return;
        }
        let calls = workshop.disk.calls();
        assert!(matches!(workshop.rest(), Err(Error::Poisoned { .. })), "look {look}");
        assert_eq!(workshop.disk.calls(), calls, "look {look}");
        workshop.check();
    }
}
