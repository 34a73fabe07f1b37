//! The hash index against a model: random operations must answer exactly as a HashMap does, whatever the hash
//! function is worth, and through growth, deletes and checkpoints.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;

use paddock_index::{HashFunction, HashIndex, InsertError, PackedLocator, xxh3};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

#[derive(Clone, Debug)]
enum Operation {
    /// Inserts or overwrites a run of keys.
    Insert(u16, u16),
    /// Removes a run of keys.
    Remove(u16, u16),
    Get(u16),
    /// Moves a key's row as compaction does, once from where it is and once from where it is not.
    ReplaceIf(u16),
    RemoveIf(u16),
    /// A row that cannot be read.
    Failure(u16),
    /// Goes on with an index that was written and read again.
    Checkpoint(u64),
}

/// Few keys, so that they meet again; runs long enough that the table grows (from 1,024 keys on).
fn operation() -> impl Strategy<Value = Operation> {
    let key = 0..3000_u16;
    prop_oneof![
        6 => (key.clone(), 0..400_u16).prop_map(|(key, count)| Operation::Insert(key, count)),
        3 => (key.clone(), 0..400_u16).prop_map(|(key, count)| Operation::Remove(key, count)),
        4 => key.clone().prop_map(Operation::Get),
        4 => key.clone().prop_map(Operation::ReplaceIf),
        2 => key.clone().prop_map(Operation::RemoveIf),
        2 => key.prop_map(Operation::Failure),
        1 => any::<u64>().prop_map(Operation::Checkpoint),
    ]
}

/// The index, the model, and the rows that both point at.
struct Tested {
    index: HashIndex,
    function: HashFunction,
    model: HashMap<u16, PackedLocator>,
    /// Every row ever written, by its locator. Locators are not used twice.
    rows: Vec<u16>,
}

impl Tested {
    fn new(function: HashFunction) -> Self {
        Self { index: HashIndex::with_hash(7, function), function, model: HashMap::new(), rows: Vec::new() }
    }

    fn write_row(&mut self, key: u16) -> PackedLocator {
        self.rows.push(key);
        PackedLocator::new(9, u32::try_from(self.rows.len() - 1).unwrap(), 20).unwrap()
    }

    fn run(&mut self, operation: Operation) -> Result<(), TestCaseError> {
        match operation {
            Operation::Insert(first, count) => (first..first + count).try_for_each(|key| self.insert(key)),
            Operation::Remove(first, count) => (first..first + count).try_for_each(|key| self.remove(key)),
            Operation::Get(key) => self.get(key),
            Operation::ReplaceIf(key) => self.replace_if(key),
            Operation::RemoveIf(key) => self.remove_if(key),
            Operation::Failure(key) => self.failure(key),
            Operation::Checkpoint(position) => self.checkpoint(position),
        }
    }

    fn insert(&mut self, key: u16) -> Result<(), TestCaseError> {
        let locator = self.write_row(key);
        let before = self.index.insert(&key.to_le_bytes(), locator, is(&self.rows, key)).unwrap();
        prop_assert_eq!(before, self.model.insert(key, locator));
        Ok(())
    }

    fn remove(&mut self, key: u16) -> Result<(), TestCaseError> {
        let before = self.index.remove(&key.to_le_bytes(), is(&self.rows, key)).unwrap();
        prop_assert_eq!(before, self.model.remove(&key));
        Ok(())
    }

    fn get(&self, key: u16) -> Result<(), TestCaseError> {
        let found = self.index.get(&key.to_le_bytes(), is(&self.rows, key)).unwrap();
        prop_assert_eq!(found, self.model.get(&key).copied());
        Ok(())
    }

    fn replace_if(&mut self, key: u16) -> Result<(), TestCaseError> {
        let (stale, new) = (self.write_row(key), self.write_row(key));
        prop_assert!(!self.index.replace_if(&key.to_le_bytes(), stale, new));
        self.get(key)?;
        if let Some(current) = self.model.get_mut(&key) {
            prop_assert!(self.index.replace_if(&key.to_le_bytes(), *current, new));
            *current = new;
        }
        self.get(key)
    }

    fn remove_if(&mut self, key: u16) -> Result<(), TestCaseError> {
        let stale = self.write_row(key);
        prop_assert!(!self.index.remove_if(&key.to_le_bytes(), stale));
        self.get(key)?;
        if let Some(current) = self.model.remove(&key) {
            prop_assert!(self.index.remove_if(&key.to_le_bytes(), current));
        }
        self.get(key)
    }

    /// The closure's error comes through, and nothing is changed.
    fn failure(&mut self, key: u16) -> Result<(), TestCaseError> {
        if self.model.contains_key(&key) {
            let locator = self.write_row(key);
            let bytes = key.to_le_bytes();
            prop_assert_eq!(self.index.get(&bytes, |_| Err("unreadable")), Err("unreadable"));
            prop_assert_eq!(self.index.remove(&bytes, |_| Err("unreadable")), Err("unreadable"));
            let inserted = self.index.insert(&bytes, locator, |_| Err("unreadable"));
            prop_assert!(matches!(inserted, Err(InsertError::Rows("unreadable"))));
        }
        self.get(key)
    }

    fn checkpoint(&mut self, position: u64) -> Result<(), TestCaseError> {
        let mut file = Vec::new();
        self.index.reader().write_checkpoint(position, &mut file).unwrap();
        let (index, read) =
            HashIndex::read_checkpoint_with_hash(&mut file.as_slice(), self.function).unwrap();
        prop_assert_eq!(read, position);
        self.index = index;
        Ok(())
    }

    fn check(&self) -> Result<(), TestCaseError> {
        prop_assert_eq!(self.index.len(), self.model.len());
        prop_assert_eq!(self.index.is_empty(), self.model.is_empty());
        let walked: Vec<PackedLocator> = self.index.locators().collect();
        prop_assert_eq!(walked.len(), self.model.len());
        let walked: BTreeSet<PackedLocator> = walked.into_iter().collect();
        prop_assert_eq!(walked, self.model.values().copied().collect::<BTreeSet<_>>());
        Ok(())
    }
}

fn is(rows: &[u16], key: u16) -> impl FnMut(PackedLocator) -> Result<bool, Infallible> + '_ {
    move |locator| Ok(rows[locator.offset() as usize] == key)
}

/// All keys in 64 chains, whose entries look alike but for two bits.
fn few_hashes(_: u64, key: &[u8]) -> u64 {
    let number = u64::from(key[0]) | u64::from(key[1]) << 8;
    (number % 64) | ((number / 64 % 4) << 8)
}

/// Some entries look alike, and the lowest buckets, which growth parts first, are the fullest.
fn skewed(seed: u64, key: &[u8]) -> u64 {
    let hash = xxh3(seed, key);
    if hash.is_multiple_of(3) { hash } else { hash & 0x0030_0f0f }
}

fn check(function: HashFunction, operations: Vec<Operation>) -> Result<(), TestCaseError> {
    let mut tested = Tested::new(function);
    for operation in operations {
        tested.run(operation)?;
        tested.check()?;
    }
    (0..3000).try_for_each(|key| tested.get(key))
}

/// A failing case's seed is printed, and kept here to be run again.
fn cases(cases: u32) -> ProptestConfig {
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hash_model.proptest-regressions");
    let failure_persistence = Some(Box::new(FileFailurePersistence::Direct(seeds)) as _);
    ProptestConfig { cases, failure_persistence, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn answers_as_the_model_does(operations in vec(operation(), 0..40)) {
        check(xxh3, operations)?;
    }

    #[test]
    fn answers_as_the_model_does_with_skewed_hashes(operations in vec(operation(), 0..40)) {
        check(skewed, operations)?;
    }
}

proptest! {
    #![proptest_config(cases(16))]

    #[test]
    fn answers_as_the_model_does_with_few_hashes(operations in vec(operation(), 0..25)) {
        check(few_hashes, operations)?;
    }
}
