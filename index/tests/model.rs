//! The engines against a model: random operations must answer exactly as the standard B-tree does.

use std::collections::BTreeMap;
use std::ops::Bound;

use paddock_index::{BTreeIndex, Locator, OrderedIndex, prefix_end};
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Operation {
    Insert(Vec<u8>, Locator),
    Remove(Vec<u8>),
    Get(Vec<u8>),
    Range(Bound<Vec<u8>>, Bound<Vec<u8>>, Vec<bool>),
    Clear,
}

/// Short keys of few letters, so that they collide, nest and share prefixes.
fn key() -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![Just(0_u8), Just(b'a'), Just(b'b'), Just(0xff)], 0..4)
}

fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
    prop_oneof![Just(Bound::Unbounded), key().prop_map(Bound::Included), key().prop_map(Bound::Excluded)]
}

fn locator() -> impl Strategy<Value = Locator> {
    (any::<u32>(), any::<u32>(), any::<u32>(), any::<u64>()).prop_map(|(file, offset, length, tag)| Locator {
        file,
        offset,
        length,
        tag,
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        8 => (key(), locator()).prop_map(|(key, locator)| Operation::Insert(key, locator)),
        4 => key().prop_map(Operation::Remove),
        4 => key().prop_map(Operation::Get),
        4 => (bound(), bound(), vec(any::<bool>(), 0..20)).prop_map(|(a, b, ends)| Operation::Range(a, b, ends)),
        1 => Just(Operation::Clear),
    ]
}

fn as_slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    match bound {
        Bound::Included(key) => Bound::Included(key),
        Bound::Excluded(key) => Bound::Excluded(key),
        Bound::Unbounded => Bound::Unbounded,
    }
}

fn within(key: &[u8], start: Bound<&[u8]>, end: Bound<&[u8]>) -> bool {
    let after_start = match start {
        Bound::Included(start) => key >= start,
        Bound::Excluded(start) => key > start,
        Bound::Unbounded => true,
    };
    let before_end = match end {
        Bound::Included(end) => key <= end,
        Bound::Excluded(end) => key < end,
        Bound::Unbounded => true,
    };
    after_start && before_end
}

fn check(operations: Vec<Operation>) -> Result<(), TestCaseError> {
    let mut index = BTreeIndex::new();
    let mut model: BTreeMap<Vec<u8>, Locator> = BTreeMap::new();
    for operation in operations {
        match operation {
            Operation::Insert(key, locator) => {
                prop_assert_eq!(index.insert(&key, locator), model.insert(key, locator));
            }
            Operation::Remove(key) => prop_assert_eq!(index.remove(&key), model.remove(&key)),
            Operation::Get(key) => prop_assert_eq!(index.get(&key), model.get(&key).copied()),
            Operation::Clear => {
                index.clear();
                model.clear();
            }
            Operation::Range(start, end, ends) => {
                let (start, end) = (as_slice(&start), as_slice(&end));
                // The model filters instead of asking for a range, so that odd bounds need no rule.
                let expected: Vec<(&[u8], Locator)> = model
                    .iter()
                    .map(|(k, l)| (k.as_slice(), *l))
                    .filter(|(k, _)| within(k, start, end))
                    .collect();
                let mut expected = expected.into_iter();
                let mut actual = index.range((start, end));
                for from_back in ends {
                    if from_back {
                        prop_assert_eq!(actual.next_back(), expected.next_back());
                    } else {
                        prop_assert_eq!(actual.next(), expected.next());
                    }
                }
                prop_assert_eq!(actual.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
            }
        }
        prop_assert_eq!(index.len(), model.len());
        prop_assert_eq!(index.is_empty(), model.is_empty());
    }
    Ok(())
}

proptest! {
    #[test]
    fn answers_as_the_model_does(operations in vec(operation(), 0..120)) {
        check(operations)?;
    }

    /// The bound of a prefix parts the keys that start with it from those that come after.
    #[test]
    fn prefix_end_is_the_first_key_after_the_prefix(prefix in key(), other in key()) {
        let inside = other >= prefix && prefix_end(&prefix).is_none_or(|end| other < end);
        prop_assert_eq!(inside, other.starts_with(&prefix));
    }
}

#[test]
fn memory_grows_with_keys_and_falls_when_they_go() {
    let mut index = BTreeIndex::new();
    assert_eq!(index.memory_bytes(), 0);
    index.insert(&[7; 100], Locator::default());
    let one = index.memory_bytes();
    assert!(one > 100);
    index.insert(&[7; 100], Locator { tag: 9, ..Locator::default() });
    assert_eq!(index.memory_bytes(), one, "an overwritten key takes no more");
    index.insert(&[8; 100], Locator::default());
    assert_eq!(index.memory_bytes(), 2 * one);
    index.remove(&[7; 100]);
    index.remove(&[8; 100]);
    assert_eq!(index.memory_bytes(), 0);
}
