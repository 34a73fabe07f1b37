//! Compaction by its own thread, beside readers and a writer.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use super::*;
use crate::error::Error;

/// Readers never miss a key that is always there, and never see an older value than one that they have seen.
#[test]
fn readers_see_every_key_while_runs_are_merged() {
    const KEYS: u32 = 300;
    for hash_entries_max in [u64::MAX, 100] {
        let mut workshop = Workshop::new(Plan { hash_entries_max, file_bytes: 4_000, ..Plan::default() });
        workshop.compaction.start().unwrap();
        let key = |number: u32| format!("key {number:05}").into_bytes();
        let row = |number: u32, version: u32| {
            (key(number), Some((format!("{version:010} padding").into_bytes(), None)))
        };
        workshop.write(&(0..KEYS).map(|number| row(number, 0)).collect::<Vec<_>>()).unwrap();
        let (over, reads) = (AtomicBool::new(false), AtomicUsize::new(0));
        let contents = workshop.contents.clone();
        std::thread::scope(|scope| {
            for reader in 0..2 {
                let (contents, over, reads) = (&contents, &over, &reads);
                scope.spawn(move || {
                    let mut dice = dice(100 + reader);
                    let mut seen = vec![0; KEYS as usize];
                    let version =
                        |value: &[u8]| -> u32 { std::str::from_utf8(&value[..10]).unwrap().parse().unwrap() };
                    while !over.load(Ordering::Relaxed) {
                        for _ in 0..50 {
                            let number = dice(KEYS);
                            let value = get(contents, &key(number))
                                .unwrap_or_else(|| panic!("key {number} is missing"));
                            let found = version(&value);
                            assert!(
                                found >= seen[number as usize],
                                "key {number}: {found} after {}",
                                seen[number as usize]
                            );
                            seen[number as usize] = found;
                        }
                        let all = scan(contents);
                        assert_eq!(all.len(), KEYS as usize);
                        for (number, value) in all.values().enumerate() {
                            assert!(version(value) >= seen[number], "key {number} in a scan");
                        }
                        reads.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let mut dice = dice(9);
            let mut version = 0;
            while version < 6_000 || reads.load(Ordering::Relaxed) < 20 {
                let writes: Vec<Write> = (0..100)
                    .map(|_| {
                        version += 1;
                        row(dice(KEYS), version)
                    })
                    .collect();
                workshop.compaction.admit(1).unwrap();
                workshop.write(&writes).unwrap();
                workshop.freeze();
                assert!(workshop.contents.view().frozen.len() <= 6, "tails pile up");
            }
            over.store(true, Ordering::Relaxed);
        });
        workshop.freeze();
        workshop.compaction.compact().unwrap();
        workshop.check();
        let stats = workshop.compaction.stats();
        assert!(stats.flushes > 40 && stats.merge_slices > 10, "{stats:?}");
        assert_eq!(stats.failure, None);
    }
}

/// Closing does not wait for a merge.
#[test]
fn stopping_ends_everything() {
    let mut workshop = Workshop::new(Plan::default());
    workshop.compaction.start().unwrap();
    let mut dice = dice(10);
    for _ in 0..10 {
        workshop.write(&writes(200, 1_000, 400, &mut dice)).unwrap();
        workshop.freeze();
    }
    workshop.compaction.stop();
    workshop.check();
    workshop.compaction.admit(1).unwrap();
    let (disk, history) = (workshop.disk.clone(), workshop.history().to_vec());
    drop(workshop);
    let workshop = Workshop::open(disk, Plan::default(), history).unwrap();
    workshop.check();
}

/// A writer that comes too soon waits for a flush, and for nothing longer.
#[test]
fn writers_wait_for_tails_to_be_flushed() {
    let mut workshop = Workshop::new(Plan::default());
    let mut dice = dice(13);
    for _ in 0..20 {
        // Without a thread the writer works itself.
        workshop.compaction.admit(1).unwrap();
        workshop.write(&writes(20, 1_000, 100, &mut dice)).unwrap();
        workshop.freeze();
        assert!(workshop.contents.view().frozen.len() as u64 <= crate::compaction::flow::FROZEN_MAX + 1);
    }
    assert!(workshop.compaction.stats().flushes >= 15);
    workshop.check();
}

/// Whoever closes a store lets go of its directory next. So nobody may be in the middle of a step any more, on whatever thread.
#[test]
fn stopping_waits_for_a_step_on_another_thread() {
    let workshop = Workshop::new(Plan::default());
    let (compaction, (begun, has_begun), (end, ends)) = (&workshop.compaction, channel(), channel::<()>());
    let (stopped, has_stopped) = channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            compaction.paused(|| {
                begun.send(()).unwrap();
                ends.recv().unwrap();
            });
        });
        has_begun.recv().unwrap();
        scope.spawn(move || {
            compaction.stop();
            stopped.send(()).unwrap();
        });
        let has_waited = has_stopped.recv_timeout(Duration::from_millis(50)).is_err();
        end.send(()).unwrap();
        assert!(has_waited);
        has_stopped.recv().unwrap();
    });
    assert!(matches!(workshop.compaction.compact(), Err(Error::Closed)));
}

/// The thread may have flushed a tail before it was told of it.
#[test]
fn a_tail_is_counted_once_however_quick_the_thread_is() {
    let mut workshop = Workshop::new(Plan::default());
    let mut dice = dice(14);
    for _ in 0..10 {
        workshop.write(&writes(20, 1_000, 100, &mut dice)).unwrap();
        assert!(workshop.contents.freeze());
        workshop.rest().unwrap();
        workshop.compaction.froze();
        assert_eq!(workshop.compaction.shared.site.flow.frozen(), 0);
    }
    workshop.check();
}

/// A run becomes cold while a delete of one of its keys is on its way into the index: the delete leaves its trace.
#[test]
fn a_delete_meets_a_run_that_is_becoming_cold() {
    let mut workshop = Workshop::new(Plan::default());
    let key = b"key".to_vec();
    workshop.write(&[(key.clone(), Some((b"value".to_vec(), None)))]).unwrap();
    workshop.freeze();
    workshop.rest().unwrap();
    let mut rows = RowsBuilder::new();
    rows.delete(&key).unwrap();
    let mut bytes = Vec::new();
    rows.finish().stamp_into(Sequence(2), &mut bytes);
    let handle = workshop.segment(&bytes);

    let contents = &workshop.contents;
    let (begun, has_begun) = channel();
    std::thread::scope(|scope| {
        let mut index = contents.hold_index();
        let bytes = &bytes;
        scope.spawn(move || {
            begun.send(()).unwrap();
            contents.apply(handle, 0, Sequence(2), &Frames::new(bytes));
        });
        has_begun.recv().unwrap();
        // So that it waits for the index, most likely.
        (0..1_000).for_each(|_| std::thread::yield_now());
        contents.publish(|view| {
            let mut runs = view.runs.clone();
            runs[0].cold = true;
            crate::view::View { frozen: view.frozen.clone(), runs }
        });
        let file = &contents.view().runs[0].files[0];
        let mut forgotten = 0;
        file.run
            .for_each_location(|key, _, offset, length, tombstone| {
                let place = file.handle.place(tombstone, u64::from(offset), length as usize).unwrap();
                forgotten += u32::from(index.remove_if(key, place));
            })
            .unwrap();
        assert_eq!(forgotten, 1);
    });
    contents.set_applied(Sequence(2));
    assert_eq!(get(contents, &key), None);
    assert!(scan(contents).is_empty());
}
