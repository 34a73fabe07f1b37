//! Numbers at the ends of what they can be, at every place of every file, with the checksums made right: hardly a fuzzer
//! guesses four bytes at once, and whoever means harm does not have to. What is checked is what the fuzz targets check.

use std::sync::LazyLock;

use paddock_storage::fuzzing;

type Seeds = LazyLock<Vec<Vec<u8>>>;

static ROWS: Seeds = LazyLock::new(fuzzing::row_seeds);
static SEGMENTS: Seeds = LazyLock::new(fuzzing::segment_seeds);
static RUNS: Seeds = LazyLock::new(fuzzing::run_seeds);

/// Of long files the beginning and the end.
fn with_extreme_numbers(seeds: &[Vec<u8>], check: fn(&[u8])) {
    for seed in seeds {
        let far = |at: &usize| *at < 300 || *at + 300 >= seed.len();
        for at in (0..seed.len()).step_by(4).filter(far) {
            for (length, first, others) in
                [(4, 0xff, 0xff), (8, 0xff, 0xff), (4, 0x7f, 0xff), (4, 0, 0), (8, 0, 0)]
            {
                let mut bytes = seed.clone();
                let end = (at + length).min(bytes.len());
                bytes[at..end].fill(others);
                // Little-endian: the last byte decides about the size.
                bytes[end - 1] = first;
                check(&bytes);
            }
        }
    }
}

#[test]
fn rows_may_hold_any_number() {
    with_extreme_numbers(&ROWS, fuzzing::row);
    with_extreme_numbers(&ROWS, fuzzing::rows);
}

#[test]
fn segments_may_hold_any_number() {
    with_extreme_numbers(&SEGMENTS, fuzzing::segment);
}

#[test]
fn catalogues_may_hold_any_number() {
    with_extreme_numbers(&fuzzing::files_seeds(), fuzzing::files);
}

#[test]
fn runs_may_hold_any_number() {
    with_extreme_numbers(&RUNS, fuzzing::run);
}

/// Several of a run's statistics at once, since they are added up.
#[test]
fn statistics_may_say_anything() {
    for seed in RUNS.iter() {
        let footer = seed.len() - 64;
        let length = u32::from_le_bytes([28, 29, 30, 31].map(|at| seed[footer + at]));
        let statistics = footer - length as usize;
        for fields in 0..1 << 7 {
            let mut bytes = seed.clone();
            for field in (0..7).filter(|field| fields >> field & 1 == 1) {
                bytes[statistics + field * 8..][..8].fill(0xff);
            }
            fuzzing::run(&bytes);
        }
    }
}
