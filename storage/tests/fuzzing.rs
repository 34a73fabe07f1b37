//! What the fuzzers check, on seeds that were changed a little: so that every test run tries some of it.

use paddock_storage::fuzzing;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn rows_hold_up(seed in any::<Index>(), edits in vec(edit(), 0..6)) {
        let bytes = edited(&fuzzing::row_seeds(), seed, edits);
        fuzzing::row(&bytes);
        fuzzing::rows(&bytes);
    }

    #[test]
    fn segments_hold_up(seed in any::<Index>(), edits in vec(edit(), 0..6)) {
        fuzzing::segment(&edited(&fuzzing::segment_seeds(), seed, edits));
    }

    #[test]
    fn catalogues_hold_up(seed in any::<Index>(), edits in vec(edit(), 0..6)) {
        fuzzing::files(&edited(&fuzzing::files_seeds(), seed, edits));
    }

    #[test]
    fn any_bytes_hold_up(bytes in vec(any::<u8>(), 0..200)) {
        fuzzing::row(&bytes);
        fuzzing::rows(&bytes);
        fuzzing::segment(&bytes);
        fuzzing::manifest(&bytes);
        fuzzing::files(&bytes);
    }
}
