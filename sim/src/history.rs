//! What clients asked and what they were told, key by key: the only thing that the linearizability checker sees. It holds
//! values alone; no version, epoch or sequence of ours is in it.

use std::collections::BTreeMap;

/// A value; every write of a run has its own.
pub type ValueId = u64;

/// What guards a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    None,
    /// The key has, or has not, a value.
    Exists(bool),
    /// The key has this very value.
    Is(ValueId),
}

impl Condition {
    /// Whether it holds for what the key has.
    #[must_use]
    pub fn holds(self, state: Option<ValueId>) -> bool {
        match self {
            Condition::None => true,
            Condition::Exists(expected) => state.is_some() == expected,
            Condition::Is(expected) => state == Some(expected),
        }
    }
}

/// What became of an operation, as its client knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A read, and what it found.
    Read(Option<ValueId>),
    /// A write that was done. For a delete: whether there was something.
    Written {
        /// Its guard.
        condition: Condition,
        /// The new value; `None`: a delete.
        value: Option<ValueId>,
        /// What a delete said of what was there.
        existed: Option<bool>,
    },
    /// A write whose guard did not hold.
    Refused {
        /// Its guard.
        condition: Condition,
    },
    /// A write of which nobody knows.
    Unknown {
        /// Its guard.
        condition: Condition,
        /// The new value; `None`: a delete.
        value: Option<ValueId>,
    },
}

impl Seen {
    /// What the key has after the operation, if it may take place now.
    #[must_use]
    pub fn apply(self, state: Option<ValueId>) -> Option<Option<ValueId>> {
        match self {
            Seen::Read(found) => (found == state).then_some(state),
            Seen::Written { condition, value, existed } => {
                let fits = condition.holds(state) && existed.is_none_or(|existed| existed == state.is_some());
                fits.then_some(value)
            }
            Seen::Refused { condition } => (!condition.holds(state)).then_some(state),
            Seen::Unknown { condition, value } => condition.holds(state).then_some(value),
        }
    }

    /// Whether the operation need not have taken place.
    #[must_use]
    pub fn may_be_missing(self) -> bool {
        matches!(self, Seen::Unknown { .. })
    }
}

/// One operation. Moments are numbered in their order over the whole history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// When it was asked.
    pub called: u64,
    /// When it was answered; [`u64::MAX`] if it never was, since it may yet take place.
    pub returned: u64,
    /// What became of it.
    pub seen: Seen,
}

/// All operations of a run.
#[derive(Debug, Default)]
pub struct History {
    moment: u64,
    keys: BTreeMap<u64, Vec<Operation>>,
    unknown: u64,
}

impl History {
    /// The next moment.
    pub fn moment(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }

    /// An operation is over: it was answered at this moment, or given up.
    pub fn over(&mut self, key: u64, called: u64, seen: Seen) {
        let now = self.moment();
        let returned = if seen.may_be_missing() { u64::MAX } else { now };
        self.unknown += u64::from(seen.may_be_missing());
        self.keys.entry(key).or_default().push(Operation { called, returned, seen });
    }

    /// Each key's operations.
    pub fn keys(&self) -> impl Iterator<Item = (u64, &[Operation])> {
        self.keys.iter().map(|(key, operations)| (*key, operations.as_slice()))
    }

    /// How many operations there are, and of how many nobody knows what became of them.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.keys.values().map(|operations| operations.len() as u64).sum(), self.unknown)
    }
}
