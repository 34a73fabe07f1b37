//! The n-th look at the disk fails, for every n: an open, a list, a read. What cannot be read is said to be unreadable; it is
//! never taken for damaged, for missing or for the end of the log, and nothing is lost over it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what helpers of a test meet unexpectedly fails it")]

mod support;

use std::io::ErrorKind;
use std::path::Path;

use paddock_storage::disk::{Fault, FaultyDisk};
use paddock_storage::offline::OfflineStore;
use paddock_storage::{Error, Readable, Result, Sequence};
use support::{Entry, Map, append, applied, log, open, small};

/// A store of several segments, closed.
fn written(disk: &FaultyDisk) -> Vec<(u64, Entry)> {
    let mut store = open(disk).unwrap();
    for batch in 0..3 {
        let large = Entry::Put(b"large".to_vec(), vec![batch; 2500]);
        let entries = [Entry::put(&format!("key {batch}"), "value"), large];
        let committed = store.last().sequence.0;
        append(&mut store, 1, &entries, committed).unwrap();
        store.sync().unwrap();
    }
    let written = log(&store);
    store.apply(Sequence(written.len() as u64)).unwrap();
    store.close().unwrap();
    written
}

/// Does all that reads, and goes on after errors as a caller would. Returns whether one was met.
fn read_all(disk: &FaultyDisk, expected: &Map, case: &str) -> bool {
    fn seen<T>(outcome: Result<T>, case: &str) -> Option<T> {
        match outcome {
            Ok(value) => Some(value),
            Err(Error::Io { source, .. }) => {
                assert_eq!(source.kind(), ErrorKind::Other, "{case}");
                None
            }
            Err(error) => panic!("{case}: {error}"),
        }
    }
    let Some(mut store) = seen(open(disk), case) else { return true };
    store.apply(store.last().sequence).unwrap();
    let (reader, mut met) = (store.reader(), false);
    for (key, value) in expected {
        match seen(reader.get(key), case) {
            Some(found) => assert_eq!(found.as_deref(), Some(&value[..]), "{case}"),
            None => met = true,
        }
    }
    let mut records = 0;
    for record in reader.iter() {
        match seen(record, case) {
            Some(record) => assert_eq!(expected.get(&*record.key), Some(&record.value.to_vec()), "{case}"),
            None => met = true,
        }
        records += 1;
    }
    assert!(records == expected.len() || met, "{case}: {records} records");
    met |= seen(store.verify(), case).is_none();
    met | seen(store.read_log(Sequence(0), usize::MAX), case).is_none()
}

#[test]
fn what_cannot_be_read_is_not_lost() {
    for lasting in [false, true] {
        for call in 1.. {
            let disk = FaultyDisk::new();
            let entries = written(&disk);
            let expected = applied(&entries);
            let case = format!("look {call} fails, lasting: {lasting}");
            let fault = Fault { call: disk.looks() + call, kind: ErrorKind::Other, lasting };
            disk.set_look_fault(Some(fault));
            let met = read_all(&disk, &expected, &case);
            disk.set_look_fault(None);
            assert!(!read_all(&disk, &expected, &case), "{case}: it is over");
            assert_eq!(log(&open(&disk).unwrap()), entries, "{case}");
            if !met && disk.looks() < fault.call {
                panic!("{case}: nobody looked so often");
            }
            if !met {
                assert!(call > 10, "there is more to look at");
                break;
            }
        }
    }
}

/// The same for who looks at a store offline.
#[test]
fn offline_what_cannot_be_read_is_no_damage() {
    let disk = FaultyDisk::new();
    let entries = written(&disk);
    for call in 1.. {
        let before = disk.looks();
        disk.set_look_fault(Some(Fault { call: before + call, kind: ErrorKind::Other, lasting: true }));
        let looked = OfflineStore::open(Path::new("/data/store"), small(&disk)).and_then(|offline| {
            let report = offline.verify()?;
            assert!(report.damages.is_empty(), "look {call}: {:?}", report.damages);
            assert_eq!(report.last.sequence.0, entries.len() as u64, "look {call}");
            Ok(report)
        });
        disk.set_look_fault(None);
        match looked {
            Ok(_) if disk.looks() - before < call => break,
            Ok(_) => {}
            Err(error) => assert!(matches!(error, Error::Io { .. }), "look {call}: {error}"),
        }
    }
}
