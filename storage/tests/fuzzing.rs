//! What the fuzzers check, on seeds that were changed a little: so that every test run tries some of it.

use std::sync::LazyLock;

use paddock_storage::fuzzing;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

type Seeds = LazyLock<Vec<Vec<u8>>>;

static ROWS: Seeds = LazyLock::new(fuzzing::row_seeds);
static SEGMENTS: Seeds = LazyLock::new(fuzzing::segment_seeds);
static RUNS: Seeds = LazyLock::new(fuzzing::run_seeds);

/// A change that breaks little, so that what comes behind it is reached.
#[derive(Clone, Debug)]
enum Edit {
    Set(Index, u8),
    Flip(Index, u32),
    Cut(Index),
    Insert(Index, Vec<u8>),
    Repeat(Index, Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        (any::<Index>(), 0_u32..8).prop_map(|(at, bit)| Edit::Flip(at, bit)),
        any::<Index>().prop_map(Edit::Cut),
        (any::<Index>(), vec(any::<u8>(), 1..20)).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Edit::Repeat(from, to)),
    ]
}

fn edited(seeds: &[Vec<u8>], seed: Index, edits: Vec<Edit>) -> Vec<u8> {
    let mut bytes = seed.get(seeds).clone();
    for edit in edits {
        let place = |at: Index| at.index(bytes.len() + 1);
        match edit {
            Edit::Cut(at) => bytes.truncate(place(at)),
            Edit::Insert(at, more) => drop(bytes.splice(place(at)..place(at), more)),
            Edit::Repeat(from, to) => {
                let (from, to) = (place(from).min(place(to)), place(from).max(place(to)));
                bytes.extend_from_within(from..to);
            }
            Edit::Set(..) | Edit::Flip(..) if bytes.is_empty() => {}
            Edit::Set(at, byte) => *at.get_mut(&mut bytes) = byte,
            Edit::Flip(at, bit) => *at.get_mut(&mut bytes) ^= 1 << bit,
        }
    }
    bytes
}

/// Numbers at the ends of what they can be, at every place, where a sum or a product may leave them; hardly a fuzzer guesses
/// four bytes at once. Of long files the beginning and the end.
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

proptest! {
    #[test]
    fn rows_hold_up(seed in any::<Index>(), edits in vec(edit(), 0..6)) {
        let bytes = edited(&ROWS, seed, edits);
        fuzzing::row(&bytes);
        fuzzing::rows(&bytes);
    }

    #[test]
    fn segments_hold_up(seed in any::<Index>(), edits in vec(edit(), 0..6)) {
        fuzzing::segment(&edited(&SEGMENTS, seed, edits));
    }

    #[test]
    fn catalogues_hold_up(seed in any::<Index>(), edits in vec(edit(), 0..6)) {
        fuzzing::files(&edited(&fuzzing::files_seeds(), seed, edits));
    }

    #[test]
    fn runs_hold_up(seed in any::<Index>(), edits in vec(edit(), 0..6)) {
        fuzzing::run(&edited(&RUNS, seed, edits));
    }

    #[test]
    fn any_bytes_hold_up(bytes in vec(any::<u8>(), 0..200)) {
        fuzzing::row(&bytes);
        fuzzing::rows(&bytes);
        fuzzing::segment(&bytes);
        fuzzing::run(&bytes);
        fuzzing::manifest(&bytes);
        fuzzing::files(&bytes);
    }
}
