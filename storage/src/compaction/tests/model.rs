//! Random histories, step by step, against a map.

use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn reads_are_the_same_whatever_was_compacted(
        seed: u64,
        rounds in 1..40_usize,
        keys in 1..400_u32,
        file_bytes in 500..8_000_u64,
        hash_entries_max in prop_oneof![Just(u64::MAX), 0..200_u64],
    ) {
        let mut dice = dice(seed);
        let plan = Plan { hash_entries_max, file_bytes, ..Plan::default() };
        let mut workshop = Workshop::new(plan);
        for _ in 0..rounds {
            let count = dice(60) as usize;
            let writes = writes(count, keys, 200, &mut dice);
            workshop.write(&writes).unwrap();
            match dice(6) {
                0 | 1 => workshop.freeze(),
                2 => {
                    workshop.freeze();
                    let mut steps = dice(4);
                    workshop.compaction.work_while(|| { steps = steps.saturating_sub(1); steps > 0 }).unwrap();
                }
                3 => workshop.rest().unwrap(),
                4 if dice(5) == 0 => {
                    workshop.freeze();
                    workshop.compaction.compact().unwrap();
                }
                _ => {
                    let (disk, history) = (workshop.disk.clone(), workshop.history().to_vec());
                    drop(workshop);
                    disk.crash(crate::disk::Unsynced::Lost);
                    workshop = Workshop::open(disk, plan, history).unwrap();
                }
            }
            workshop.check();
            prop_assert!(workshop.compaction.stats().runs <= 2 * TUNING.runs_max as u64);
        }
        workshop.freeze();
        workshop.compaction.compact().unwrap();
        workshop.check();
        let stats = workshop.compaction.stats();
        prop_assert!(stats.runs <= 1, "{stats:?}");
        prop_assert_eq!(workshop.run_files().1 as u64, stats.run_files, "files are left behind");
    }
}

/// Of each row of a file in the making there is a note in memory, so no file has many of them, however short they are.
#[test]
fn files_have_as_many_rows_as_memory_allows() {
    let mut workshop = Workshop::new(Plan { file_bytes: 1 << 20, file_rows_max: 100, ..Plan::default() });
    let mut dice = dice(15);
    for round in 0..6 {
        workshop.write(&writes(400, 2_000, 20, &mut dice)).unwrap();
        workshop.freeze();
        workshop.rest().unwrap();
        if round % 3 == 2 {
            workshop.compaction.compact().unwrap();
        }
        let view = workshop.contents.view();
        let rows = |file: &crate::view::RunFile| file.run.summary().statistics.rows;
        assert!(view.runs.iter().flat_map(|run| &run.files).all(|file| rows(file) <= 100));
        workshop.check();
    }
    assert!(workshop.compaction.stats().run_files >= 8);
}

/// The key of a snapshot is what it was, however much is compacted and removed afterwards.
#[test]
fn a_capture_keeps_what_it_shows() {
    let mut dice = dice(5);
    let mut workshop = Workshop::new(Plan::default());
    let mut captures = Vec::new();
    for _ in 0..12 {
        workshop.write(&writes(100, 150, 100, &mut dice)).unwrap();
        captures.push((workshop.contents.capture(), workshop.history().len()));
        workshop.freeze();
        captures.push((workshop.contents.capture(), workshop.history().len()));
        workshop.rest().unwrap();
        for (capture, length) in &captures {
            let model = model(&workshop.history()[..*length]);
            for key in 0..150 {
                let key = format!("key {key:05}").into_bytes();
                let found = workshop.contents.read_as_of(capture, &key, shown).unwrap().flatten();
                assert_eq!(found.as_ref(), model.get(&key));
            }
        }
    }
    workshop.compaction.compact().unwrap();
    assert_eq!(workshop.compaction.stats().runs, 1);
    assert!(captures.iter().all(|(capture, length)| {
        let model = model(&workshop.history()[..*length]);
        model.iter().all(|(key, value)| {
            workshop.contents.read_as_of(capture, key, shown).unwrap().flatten().as_ref() == Some(value)
        })
    }));
}

#[test]
fn tombstones_go_with_what_they_hide() {
    let mut workshop = Workshop::new(Plan::default());
    let put = |key: &str| (key.as_bytes().to_vec(), Some((b"value".to_vec(), None)));
    let delete = |key: &str| (key.as_bytes().to_vec(), None);
    workshop.write(&[put("a"), put("b")]).unwrap();
    workshop.freeze();
    workshop.rest().unwrap();
    workshop.write(&[delete("a"), put("c")]).unwrap();
    workshop.freeze();
    workshop.rest().unwrap();
    assert_eq!(workshop.contents.hash_keys(), 3, "the tombstone hides something");
    workshop.compaction.compact().unwrap();
    assert_eq!(workshop.contents.hash_keys(), 2);
    assert_eq!(workshop.contents.view().runs[0].files[0].run.summary().statistics.tombstones, 0);
    workshop.check();
}

#[test]
fn an_owner_that_decides_on_expiry_finds_what_has_expired() {
    let mut workshop = Workshop::new(Plan { expiry: false, ..Plan::default() });
    workshop.write(&[(b"old".to_vec(), Some((b"value".to_vec(), Some(1))))]).unwrap();
    workshop.freeze();
    workshop.compaction.compact().unwrap();
    let found = workshop.contents.read(b"old", |row| row.expires_at_ms()).unwrap();
    assert_eq!(found, Some(Some(1)));
}

/// Nobody has to write the keys again or ask: what has expired is garbage, and goes when there is enough of it.
#[test]
fn what_has_expired_is_merged_away() {
    let mut workshop = Workshop::new(Plan::default());
    let mut write = |numbers: std::ops::Range<u32>, expires_at_ms| {
        let key = |number: u32| format!("key {number:05}").into_bytes();
        let rows: Vec<Write> =
            numbers.map(|number| (key(number), Some((vec![7; 100], Some(expires_at_ms))))).collect();
        workshop.write(&rows).unwrap();
        workshop.freeze();
        workshop.rest().unwrap();
        let statistics = |workshop: &Workshop| -> u64 {
            let view = workshop.contents.view();
            let files = view.runs.iter().flat_map(|run| &run.files);
            files.map(|file| file.run.summary().statistics.rows).sum()
        };
        workshop.check();
        statistics(&workshop)
    };
    assert_eq!(write(0..100, NOW_MS + 1), 100);
    // A few are not worth it.
    assert_eq!(write(100..110, NOW_MS), 110);
    assert_eq!(write(110..200, NOW_MS), 100);
    assert_eq!(write(200..400, NOW_MS - 1), 100);
}

#[test]
fn a_load_in_key_order_is_not_written_again() {
    let mut workshop = Workshop::new(Plan { file_bytes: 8 << 10, ..Plan::default() });
    for round in 0..12 {
        let key = |number: u32| format!("key {:06}", round * 1_000 + number).into_bytes();
        let writes: Vec<Write> = (0..100).map(|number| (key(number), Some((vec![7; 100], None)))).collect();
        workshop.write(&writes).unwrap();
        workshop.freeze();
        workshop.rest().unwrap();
    }
    let stats = workshop.compaction.stats();
    assert_eq!((stats.runs, stats.merged_bytes), (1, 0), "{stats:?}");
    assert!(stats.kept_files >= 11, "{stats:?}");
    workshop.check();
}

/// With room for few hash entries all older runs are cold, and everything is found.
#[test]
fn the_hash_index_stays_within_its_entries() {
    let plan = Plan { hash_entries_max: 1_000, ..Plan::default() };
    let mut workshop = Workshop::new(plan);
    let mut dice = dice(6);
    for _ in 0..60 {
        workshop.write(&writes(150, 5_000, 40, &mut dice)).unwrap();
        workshop.freeze();
        workshop.rest().unwrap();
        assert!(workshop.contents.hash_keys() <= 1_000 + 150);
    }
    let stats = workshop.compaction.stats();
    assert!(stats.cooled_runs > 0 && workshop.model().len() > 2_500, "{stats:?}");
    workshop.check();
    let (disk, history) = (workshop.disk.clone(), workshop.history().to_vec());
    drop(workshop);
    let workshop = Workshop::open(disk, plan, history).unwrap();
    assert!(workshop.contents.hash_keys() <= 1_000 + 150);
    workshop.check();
}

/// Bytes written for each byte stored, and space, on real files of real rows.
#[test]
fn overwriting_everything_five_times() {
    let keys = 2_000;
    let mut workshop = Workshop::new(Plan { file_bytes: 32 << 10, ..Plan::default() });
    let mut dice = dice(7);
    let row_bytes = 16 + 9 + 100;
    // Values that no compression makes shorter.
    let mut noise = super::dice(8);
    let mut row = |key: u32| {
        (format!("key {key:05}").into_bytes(), Some(((0..100).map(|_| noise(256) as u8).collect(), None)))
    };
    let mut space = 0.0_f64;
    let mut written_before = 0;
    for round in 0..6 {
        for _ in 0..12 {
            let writes: Vec<Write> =
                (0..keys / 12)
                    .map(|number| {
                        if round == 0 { row(dice(keys).wrapping_add(number) % keys) } else { row(dice(keys)) }
                    })
                    .collect();
            workshop.write(&writes).unwrap();
            workshop.freeze();
            workshop.rest().unwrap();
            let live = workshop.model().len() as u64 * row_bytes;
            if round > 0 {
                space = space.max(workshop.run_files().0 as f64 / live as f64);
            }
        }
        if round == 0 {
            let stats = workshop.compaction.stats();
            written_before = stats.flushed_bytes + stats.merged_bytes;
        }
    }
    let stats = workshop.compaction.stats();
    let stored = 5 * u64::from(keys / 12 * 12) * row_bytes;
    let amplification =
        1.0 + (stats.flushed_bytes + stats.merged_bytes - written_before) as f64 / stored as f64;
    println!(
        "overwriting 5 times: {amplification:.2} bytes written for each (log included), runs at most {space:.2} of live"
    );
    assert!(amplification < 5.0, "{amplification}");
    assert!(space <= 1.6, "{space}");
    workshop.check();
}
