//! Every call to the disk fails once, and the power fails at every moment: what was written is there.

use std::io;

use super::*;
use crate::disk::{Fault, Unsynced};
use crate::error::Error;

/// A history with flushes, merges, kept files and a cold run. The first fault ends it.
fn work(workshop: &mut Workshop) -> Result<()> {
    let mut dice = dice(11);
    for round in 0..6 {
        workshop.write(&writes(30, 60, 120, &mut dice))?;
        workshop.freeze();
        workshop.rest()?;
        if round == 3 {
            workshop.compaction.compact()?;
        }
    }
    workshop.compaction.compact()
}

fn plan() -> Plan {
    Plan { hash_entries_max: 30, file_bytes: 1_500, ..Plan::default() }
}

fn calls() -> u64 {
    let mut workshop = Workshop::new(plan());
    work(&mut workshop).unwrap();
    workshop.disk.calls()
}

/// Opens it again after whatever happened, compares, and goes on.
fn survives(disk: &FaultyDisk, history: &[Write], what: &str) {
    let workshop = Workshop::open(disk.clone(), plan(), history.to_vec())
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    workshop.check();
    let files = workshop.compaction.stats().run_files;
    assert_eq!(workshop.run_files().1 as u64, files, "{what}: files are left behind");
    workshop.freeze();
    workshop.compaction.compact().unwrap();
    workshop.check();
}

#[test]
fn the_power_fails_at_every_call() {
    let calls = calls();
    assert!(calls > 100, "{calls} calls");
    for call in 1..=calls {
        // The seeds of what is torn are the calls: enough of them are like each of the others.
        for unsynced in
            [if call % 3 == 0 { Unsynced::Kept } else { Unsynced::Lost }, Unsynced::Torn { seed: call }]
        {
            let mut workshop = Workshop::new(plan());
            let kind = io::ErrorKind::Other;
            workshop.disk.set_fault(Some(Fault { call, kind, lasting: true }));
            let outcome = work(&mut workshop);
            let (disk, history) = (workshop.disk.clone(), workshop.history().to_vec());
            // Readers see everything, whatever became of the disk.
            workshop.check();
            assert!(outcome.is_ok() || workshop.compaction.check().is_err() || !history.is_empty());
            drop(workshop);
            disk.crash(unsynced);
            survives(&disk, &history, &format!("call {call}, {unsynced:?}"));
        }
    }
}

#[test]
fn a_call_that_fails_once_stops_compaction_or_has_changed_nothing() {
    let (mut stopped, mut went_on) = (0, 0);
    for call in 1..=calls() {
        let mut workshop = Workshop::new(plan());
        workshop.disk.set_fault(Some(Fault { call, kind: io::ErrorKind::Other, lasting: false }));
        let outcome = work(&mut workshop);
        workshop.check();
        if outcome.is_err() {
            // A name that could not be removed is no failure; anything else is one for good, or had changed nothing yet.
            match workshop.compaction.check() {
                Ok(()) => {
                    went_on += 1;
                    workshop.compaction.compact().unwrap();
                    workshop.check();
                    assert_eq!(workshop.compaction.stats().trouble, None, "call {call}");
                }
                Err(error) => {
                    stopped += 1;
                    assert!(matches!(error, Error::Poisoned { .. }), "call {call}");
                    assert!(workshop.compaction.compact().is_err(), "call {call}");
                }
            }
        }
        let (disk, history) = (workshop.disk.clone(), workshop.history().to_vec());
        drop(workshop);
        disk.set_fault(None);
        survives(&disk, &history, &format!("call {call}"));
    }
    assert!(stopped > 5 && went_on > 50, "stopped {stopped}, went on {went_on}");
}

#[test]
fn a_full_disk_is_waited_for() {
    let mut workshop = Workshop::new(plan());
    let mut dice = dice(12);
    let mut refused = 0;
    for round in 0..40 {
        workshop.write(&writes(40, 120, 120, &mut dice)).unwrap();
        workshop.freeze();
        let used = workshop.disk.used_bytes();
        workshop.disk.set_capacity_bytes(Some(used + round * 300));
        match workshop.rest() {
            Ok(()) => {}
            Err(Error::DiskFull { .. }) => refused += 1,
            Err(other) => panic!("{other}"),
        }
        workshop.check();
        workshop.compaction.check().unwrap();
        // Writers are not held up by it: the log finds out for itself.
        assert!(!workshop.compaction.shared.site.flow.is_congested());
        workshop.disk.set_capacity_bytes(None);
        workshop.rest().unwrap();
        workshop.check();
        assert_eq!(workshop.run_files().1 as u64, workshop.compaction.stats().run_files);
    }
    assert!(refused > 5, "{refused}");
}
