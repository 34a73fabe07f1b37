//! Every engine behind the trait that they share, against one model: the standard library's map.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::convert::Infallible;

use paddock_index::{HashIndex, Index, Lookup, OrderedTail, PackedLocator, prefix_end};
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Operation {
    Point(Vec<u8>),
    Forget(Vec<u8>),
    /// All keys are looked up.
    Look,
}

/// Few keys, which come again: short ones of few letters, and some that have much in common.
fn key() -> impl Strategy<Value = Vec<u8>> {
    let letters = vec(prop_oneof![Just(0_u8), Just(b'a'), Just(0xff)], 0..3);
    (prop_oneof![Just(""), Just("customer/0000")], letters)
        .prop_map(|(prefix, end)| [prefix.as_bytes(), &end].concat())
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        6 => key().prop_map(Operation::Point),
        3 => key().prop_map(Operation::Forget),
        1 => Just(Operation::Look),
    ]
}

/// The rows: the number of an operation is the offset of the row that it wrote.
fn check(index: &mut impl Index, operations: &[Operation]) -> Result<(), TestCaseError> {
    let mut rows: Vec<Vec<u8>> = Vec::new();
    let mut model: BTreeMap<Vec<u8>, PackedLocator> = BTreeMap::new();
    for operation in operations {
        let place = PackedLocator::new(1, u32::try_from(rows.len()).unwrap(), 9).unwrap();
        match operation {
            Operation::Point(key) => {
                rows.push(key.clone());
                let is_key =
                    |found: PackedLocator| Ok::<_, Infallible>(rows[found.offset() as usize] == *key);
                index.point(key, place, is_key).unwrap();
                model.insert(key.clone(), place);
            }
            Operation::Forget(key) => {
                let is_key =
                    |found: PackedLocator| Ok::<_, Infallible>(rows[found.offset() as usize] == *key);
                index.forget(key, is_key).unwrap();
                model.remove(key);
            }
            Operation::Look => {
                let lookup = index.lookup();
                for key in rows.iter().chain([&b"customer".to_vec()]) {
                    let is_key =
                        |found: PackedLocator| Ok::<_, Infallible>(rows[found.offset() as usize] == *key);
                    prop_assert_eq!(lookup.locate(key, is_key).unwrap(), model.get(key).copied());
                }
            }
        }
    }
    prop_assert!(index.memory_bytes() > 0);
    Ok(())
}

proptest! {
    #[test]
    fn every_engine_answers_as_the_model_does(operations in vec(operation(), 0..150)) {
        check(&mut HashIndex::new(1), &operations)?;
        check(&mut OrderedTail::new(), &operations)?;
    }
}

proptest! {
    /// The bound of a prefix parts the keys that start with it from those that come after.
    #[test]
    fn prefix_end_is_the_first_key_after_the_prefix(prefix in key(), other in key()) {
        let inside = other >= prefix && prefix_end(&prefix).is_none_or(|end| other < end);
        prop_assert_eq!(inside, other.starts_with(&prefix));
    }
}
