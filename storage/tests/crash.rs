//! Random work on a disk that crashes: what was synced survives, and what survives is an exact prefix of what was
//! written.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what helpers of a test meet unexpectedly fails it")]

mod support;

use paddock_storage::disk::{FaultyDisk, Unsynced};
use paddock_storage::{ReplicatedStore, Sequence};
use proptest::collection::vec;
use proptest::prelude::*;
use support::{Entry, append, applied, contents, log, open};

#[derive(Clone, Debug)]
enum Step {
    Append {
        entries: Vec<Entry>,
        epoch_more: u64,
        commit_fraction: f64,
    },
    Sync,
    Apply {
        fraction: f64,
    },
    Truncate {
        fraction: f64,
    },
    /// The power fails.
    Crash(Unsynced),
    /// The process ends without a word.
    Kill,
    Close,
}

fn entry() -> impl Strategy<Value = Entry> {
    let key = || vec(prop_oneof![Just(b'a'), Just(b'b'), Just(0)], 1..3);
    prop_oneof![
        6 => (key(), vec(any::<u8>(), 0..40)).prop_map(|(key, value)| Entry::Put(key, value)),
        1 => (key(), (0_usize..3000)).prop_map(|(key, length)| Entry::Put(key, vec![7; length])),
        3 => key().prop_map(Entry::Delete),
        1 => vec(any::<u8>(), 0..9).prop_map(Entry::Marker),
    ]
}

fn unsynced() -> impl Strategy<Value = Unsynced> {
    prop_oneof![
        Just(Unsynced::Lost),
        Just(Unsynced::Kept),
        any::<u64>().prop_map(|seed| Unsynced::Torn { seed })
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (vec(entry(), 1..6), 0_u64..2, 0.0..1.0_f64)
            .prop_map(|(entries, epoch_more, commit_fraction)| Step::Append { entries, epoch_more, commit_fraction }),
        5 => Just(Step::Sync),
        3 => (0.0..1.0_f64).prop_map(|fraction| Step::Apply { fraction }),
        3 => (0.0..1.0_f64).prop_map(|fraction| Step::Truncate { fraction }),
        3 => unsynced().prop_map(Step::Crash),
        1 => Just(Step::Kill),
        1 => Just(Step::Close),
    ]
}

/// What should be.
#[derive(Debug, Default)]
struct Model {
    entries: Vec<(u64, Entry)>,
    durable: usize,
    applied: usize,
    /// The largest commit that the log may know of.
    commit: usize,
}

fn between(low: usize, high: usize, fraction: f64) -> usize {
    low + ((high - low) as f64 * fraction).round() as usize
}

struct World {
    disk: FaultyDisk,
    store: Option<ReplicatedStore>,
    model: Model,
}

impl World {
    fn store(&mut self) -> &mut ReplicatedStore {
        self.store.as_mut().unwrap()
    }

    fn run(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Append { entries, epoch_more, commit_fraction } => {
                self.append(&entries, epoch_more, commit_fraction);
            }
            Step::Sync => {
                self.store().sync().unwrap();
                self.model.durable = self.model.entries.len();
            }
            Step::Apply { fraction } => {
                let through = between(self.model.applied, self.model.entries.len(), fraction);
                self.store().apply(Sequence(through as u64)).unwrap();
                self.model.applied = through;
                self.model.commit = self.model.commit.max(through);
            }
            Step::Truncate { fraction } => {
                let kept = between(self.model.commit, self.model.entries.len(), fraction);
                self.store().truncate_after(Sequence(kept as u64)).unwrap();
                if kept < self.model.entries.len() {
                    self.model.entries.truncate(kept);
                    self.model.durable = kept;
                }
            }
            Step::Crash(unsynced) => {
                self.store = None;
                self.disk.crash(unsynced);
                self.reopen(false)?;
            }
            Step::Kill => {
                self.store = None;
                self.reopen(true)?;
            }
            Step::Close => {
                self.store.take().unwrap().close().unwrap();
                self.reopen(true)?;
            }
        }
        self.check()
    }

    fn append(&mut self, entries: &[Entry], epoch_more: u64, commit_fraction: f64) {
        let epoch = self.store().last().epoch + epoch_more;
        let commit = between(self.model.commit, self.model.entries.len(), commit_fraction);
        append(self.store(), epoch, entries, commit as u64).unwrap();
        self.model.commit = commit;
        self.model.entries.extend(entries.iter().map(|entry| (epoch, entry.clone())));
        // A roll to the next segment makes what was before durable.
        self.model.durable = self.store().durable().0 as usize;
    }

    fn reopen(&mut self, all_written: bool) -> Result<(), TestCaseError> {
        let mut store = open(&self.disk).unwrap();
        let last = store.last().sequence.0 as usize;
        prop_assert!(last >= self.model.durable, "{last} of {} durable", self.model.durable);
        prop_assert!(last <= self.model.entries.len());
        if all_written {
            prop_assert_eq!(last, self.model.entries.len());
        }
        self.model.entries.truncate(last);
        self.model.durable = last;
        prop_assert_eq!(store.durable().0 as usize, last);
        let commit = store.known_commit().0 as usize;
        prop_assert!(commit <= self.model.commit);
        prop_assert_eq!(store.applied().0 as usize, commit.min(last));
        self.model.applied = store.applied().0 as usize;
        self.model.commit = commit;
        // An epoch is taken from the entries that are left.
        let epoch = self.model.entries.last().map_or(0, |(epoch, _)| *epoch);
        prop_assert_eq!(store.last().epoch, epoch);
        store.set_metadata(&last.to_le_bytes()).unwrap();
        self.store = Some(store);
        Ok(())
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        let store = self.store.as_ref().unwrap();
        prop_assert_eq!(&log(store), &self.model.entries);
        let reader = store.reader();
        prop_assert_eq!(contents(&reader), applied(&self.model.entries[..self.model.applied]));
        let mut epochs: Vec<(u64, u64)> = Vec::new();
        for (sequence, (epoch, _)) in (1..).zip(&self.model.entries) {
            if epochs.last().is_none_or(|(last, _)| last < epoch) {
                epochs.push((*epoch, sequence));
            }
        }
        let found: Vec<(u64, u64)> =
            store.epochs().iter().map(|start| (start.epoch, start.first.0)).collect();
        prop_assert_eq!(found, epochs);
        store.verify().unwrap();
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn what_was_synced_survives(steps in vec(step(), 1..40)) {
        let disk = FaultyDisk::new();
        let store = Some(open(&disk).unwrap());
        let mut world = World { disk, store, model: Model::default() };
        for step in steps {
            world.run(step)?;
        }
    }
}
