//! Whether one key's history is linearizable: whether all its operations can be put into one order that keeps to the times
//! of their calls and returns, and in which each sees what it saw. The search is Wing and Gong's, with Lowe's memory of
//! what was tried: a set of operations that are done, and the value that they leave, need not be tried twice.
//!
//! It trusts nothing but values: each write of a history has its own.

use std::collections::HashSet;

use crate::history::{Operation, ValueId};

/// So many states are looked at before a history counts as undecided.
pub const STATES_MAX: usize = 400_000;

/// What the search came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is such an order.
    Linearizable,
    /// There is none.
    Violated,
    /// The search was given up.
    Undecided,
}

/// A set of operations, by their numbers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Done(Vec<u64>);

impl Done {
    fn none_of(count: usize) -> Self {
        Done(vec![0; count.div_ceil(64)])
    }

    fn has(&self, index: usize) -> bool {
        self.0.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    fn set(&mut self, index: usize, done: bool) {
        if let Some(word) = self.0.get_mut(index / 64) {
            let bit = 1 << (index % 64);
            *word = if done { *word | bit } else { *word & !bit };
        }
    }
}

/// One step of the search: what may come next here, and how far that was tried.
struct Level {
    choices: Vec<usize>,
    next: usize,
    /// The operation that led here, and the value before it.
    by: Option<(usize, Option<ValueId>)>,
}

struct Search {
    /// In the order of their calls.
    operations: Vec<Operation>,
    done: Done,
    /// How many of the operations that certainly took place are not done.
    left: usize,
    state: Option<ValueId>,
    /// Everything before this is done.
    first: usize,
}

impl Search {
    /// What may come next: whatever was called before anything that is left returned. What may be missing comes last.
    fn choices(&mut self) -> Vec<usize> {
        while self.first < self.operations.len() && self.done.has(self.first) {
            self.first += 1;
        }
        let (mut certain, mut uncertain) = (Vec::new(), Vec::new());
        let mut returned = u64::MAX;
        for (index, operation) in self.operations.iter().enumerate().skip(self.first) {
            if operation.called > returned {
                break;
            }
            if self.done.has(index) {
                continue;
            }
            returned = returned.min(operation.returned);
            if operation.seen.apply(self.state).is_some() {
                let may_be_missing = operation.seen.may_be_missing();
                if may_be_missing { uncertain.push(index) } else { certain.push(index) }
            }
        }
        certain.append(&mut uncertain);
        certain
    }

    fn take(&mut self, index: usize) -> Option<Option<ValueId>> {
        let operation = self.operations.get(index)?;
        let after = operation.seen.apply(self.state)?;
        self.done.set(index, true);
        self.left -= usize::from(!operation.seen.may_be_missing());
        Some(std::mem::replace(&mut self.state, after))
    }

    fn give_back(&mut self, index: usize, before: Option<ValueId>) {
        self.done.set(index, false);
        self.first = self.first.min(index);
        self.state = before;
        if let Some(operation) = self.operations.get(index) {
            self.left += usize::from(!operation.seen.may_be_missing());
        }
    }
}

/// Judges one key, which has no value at first.
#[must_use]
pub fn judge(operations: &[Operation]) -> Verdict {
    let mut operations = operations.to_vec();
    operations.sort_by_key(|operation| operation.called);
    let left = operations.iter().filter(|operation| !operation.seen.may_be_missing()).count();
    let done = Done::none_of(operations.len());
    let mut search = Search { operations, done, left, state: None, first: 0 };
    let mut tried: HashSet<(Done, Option<ValueId>)> = HashSet::new();
    let mut levels = vec![Level { choices: search.choices(), next: 0, by: None }];
    while let Some(level) = levels.last_mut() {
        if search.left == 0 {
            return Verdict::Linearizable;
        }
        let Some(&index) = level.choices.get(level.next) else {
            if let Some((index, before)) = level.by {
                search.give_back(index, before);
            }
            levels.pop();
            continue;
        };
        level.next += 1;
        let Some(before) = search.take(index) else { continue };
        if !tried.insert((search.done.clone(), search.state)) {
            search.give_back(index, before);
            continue;
        }
        if tried.len() > STATES_MAX {
            return Verdict::Undecided;
        }
        levels.push(Level { choices: search.choices(), next: 0, by: Some((index, before)) });
    }
    if search.left == 0 { Verdict::Linearizable } else { Verdict::Violated }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Condition, Seen};

    fn at(called: u64, returned: u64, seen: Seen) -> Operation {
        Operation { called, returned, seen }
    }

    fn put(value: ValueId) -> Seen {
        Seen::Written { condition: Condition::None, value: Some(value), existed: None }
    }

    fn lost(value: ValueId) -> Seen {
        Seen::Unknown { condition: Condition::None, value: Some(value) }
    }

    fn swap(expected: ValueId, value: ValueId) -> Seen {
        Seen::Written { condition: Condition::Is(expected), value: Some(value), existed: None }
    }

    fn delete(existed: bool) -> Seen {
        Seen::Written { condition: Condition::None, value: None, existed: Some(existed) }
    }

    fn read(value: ValueId) -> Seen {
        Seen::Read(Some(value))
    }

    const NOTHING: Seen = Seen::Read(None);

    #[test]
    fn what_one_client_does_in_turn_is_linearizable() {
        let history = [
            at(1, 2, NOTHING),
            at(3, 4, put(1)),
            at(5, 6, read(1)),
            at(7, 8, delete(true)),
            at(9, 10, NOTHING),
        ];
        assert_eq!(judge(&history), Verdict::Linearizable);
        assert_eq!(judge(&[]), Verdict::Linearizable);
    }

    #[test]
    fn a_stale_read_is_found() {
        assert_eq!(judge(&[at(1, 2, put(1)), at(3, 4, put(2)), at(5, 6, read(1))]), Verdict::Violated);
        // Unless the second write may still be on its way.
        assert_eq!(judge(&[at(1, 2, put(1)), at(3, 6, put(2)), at(4, 5, read(1))]), Verdict::Linearizable);
    }

    #[test]
    fn a_lost_write_is_found() {
        assert_eq!(judge(&[at(1, 2, put(1)), at(3, 4, NOTHING)]), Verdict::Violated);
        assert_eq!(judge(&[at(1, 2, put(1)), at(3, 4, delete(false))]), Verdict::Violated);
    }

    #[test]
    fn two_reads_may_not_see_two_writes_in_two_orders() {
        let writes = [at(1, 20, put(1)), at(2, 20, put(2))];
        let one = [at(3, 4, read(1)), at(5, 6, read(2))];
        let other = [at(7, 8, read(1))];
        assert_eq!(judge(&[&writes[..], &one[..]].concat()), Verdict::Linearizable);
        assert_eq!(judge(&[&writes[..], &one[..], &other[..]].concat()), Verdict::Violated);
    }

    #[test]
    fn a_write_of_which_nobody_knows_may_take_place_late_or_never_and_not_twice() {
        let unknown = at(1, u64::MAX, lost(7));
        assert_eq!(judge(&[unknown, at(2, 3, NOTHING), at(4, 5, read(7))]), Verdict::Linearizable);
        assert_eq!(
            judge(&[unknown, at(2, 3, NOTHING), at(4, 5, put(1)), at(6, 7, read(1))]),
            Verdict::Linearizable
        );
        let twice = [unknown, at(2, 3, read(7)), at(4, 5, put(1)), at(6, 7, read(1)), at(8, 9, read(7))];
        assert_eq!(judge(&twice), Verdict::Violated);
    }

    #[test]
    fn one_value_is_swapped_once() {
        let both = [at(1, 2, put(1)), at(3, 9, swap(1, 2)), at(4, 9, swap(1, 3))];
        assert_eq!(judge(&both), Verdict::Violated);
        let refused = Seen::Refused { condition: Condition::Is(1) };
        assert_eq!(judge(&[both[0], both[1], at(4, 9, refused)]), Verdict::Linearizable);
        assert_eq!(judge(&[both[0], at(4, 9, refused)]), Verdict::Violated);
    }

    #[test]
    fn a_refusal_has_to_have_a_reason() {
        let exists = Seen::Refused { condition: Condition::Exists(false) };
        assert_eq!(judge(&[at(1, 2, exists)]), Verdict::Violated);
        assert_eq!(judge(&[at(0, u64::MAX, lost(1)), at(1, 2, exists)]), Verdict::Linearizable);
    }

    /// All histories of a register that really is one are linearizable, whatever the times: each operation takes place at
    /// some moment between its call and its return.
    #[test]
    fn what_a_real_register_does_is_linearizable_and_with_one_read_changed_it_is_not() {
        let mut random = crate::random::Random::new(5);
        let (mut caught, mut changed) = (0, 0);
        for _ in 0..300 {
            let mut state = None;
            let mut operations: Vec<Operation> = Vec::new();
            for place in 1..40_u64 {
                let middle = place * 10;
                let (called, returned) =
                    (middle - random.below(25).min(middle), middle + random.between(1, 25));
                let seen = match random.below(4) {
                    0 => Seen::Read(state),
                    1 => put(place),
                    2 => delete(state.is_some()),
                    _ => match state {
                        Some(value) => swap(value, place),
                        None => Seen::Refused { condition: Condition::Is(1_000) },
                    },
                };
                state = seen.apply(state).expect("it is made to fit");
                operations.push(at(called, returned, seen));
            }
            assert_eq!(judge(&operations), Verdict::Linearizable, "{operations:?}");
            let reads: Vec<usize> =
                (0..operations.len()).filter(|one| matches!(operations[*one].seen, Seen::Read(_))).collect();
            if let Some(index) = random.one_of(&reads) {
                operations[index].seen = read(999);
                changed += 1;
                caught += u64::from(judge(&operations) == Verdict::Violated);
            }
        }
        assert!(changed > 200);
        assert_eq!(caught, changed, "nobody wrote 999");
    }
}
