//! [`History`]: which epoch wrote which stretch of the log. Two logs are compared by it alone.
//!
//! Entries with the same (epoch, sequence) are the same entry, and everything before them is the same too,
//! because each epoch has one leader and every append names the entry before it. So a follower and a leader
//! find the last place at which they agree by exchanging positions, never by anybody's idea of a commit
//! (KIP-101, KIP-279): each answers with the last place of its own log that the other's position allows,
//! which falls in epoch or in sequence with every exchange.

use paddock_storage::{EpochStart, Position, Sequence};

/// The epochs of one log, and its last entry.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Ascending in epoch and in sequence; empty when the log is.
    starts: Vec<EpochStart>,
    last: Position,
}

impl History {
    /// The history of a log, or what is wrong with it.
    pub(super) fn new(starts: Vec<EpochStart>, last: Position) -> Result<Self, &'static str> {
        if !starts.windows(2).all(|pair| pair[0].epoch < pair[1].epoch && pair[0].first < pair[1].first) {
            return Err("the epochs of the log do not ascend");
        }
        let fits = match (starts.first(), starts.last()) {
            (Some(first), Some(end)) => {
                first.first == Sequence(1) && end.epoch == last.epoch && end.first <= last.sequence
            }
            _ => last == Position::default(),
        };
        if fits { Ok(History { starts, last }) } else { Err("the epochs of the log do not fit its entries") }
    }

    /// The last entry; all zero when there is none.
    pub(super) fn last(&self) -> Position {
        self.last
    }

    /// The entry at a sequence, unless it is past the end. Sequence 0, before the first, has epoch 0.
    pub(super) fn position(&self, sequence: Sequence) -> Option<Position> {
        if sequence > self.last.sequence {
            return None;
        }
        let index = self.starts.partition_point(|start| start.first <= sequence);
        let epoch = index.checked_sub(1).map_or(0, |index| self.starts[index].epoch);
        Some(Position { epoch, sequence })
    }

    /// The last entry that is at no higher epoch and at no higher sequence than the bound.
    pub(super) fn floor(&self, bound: Position) -> Position {
        let index = self.starts.partition_point(|start| start.epoch <= bound.epoch);
        let end = match self.starts.get(index) {
            Some(next) => Sequence(next.first.0 - 1),
            None => self.last.sequence,
        };
        self.position(end.min(bound.sequence)).unwrap_or_default()
    }

    /// Through where the log agrees with a run of one epoch's entries that begins at `first`, given that it
    /// agrees with the entry before it: `first - 1` if it does not even hold the first.
    pub(super) fn agrees_through(&self, epoch: u64, first: Sequence, last: Sequence) -> Sequence {
        let none = Sequence(first.0.saturating_sub(1));
        match self.position(first) {
            Some(position) if position.epoch == epoch => {
                self.floor(Position { epoch, sequence: last }).sequence
            }
            _ => none,
        }
    }

    /// Entries were appended.
    pub(super) fn append(&mut self, epoch: u64, first: Sequence, last: Sequence) {
        assert!(first.0 == self.last.sequence.0 + 1 && first <= last, "an append leaves no gap");
        assert!(epoch >= self.last.epoch, "epochs never fall along a log");
        if self.starts.last().is_none_or(|start| start.epoch < epoch) {
            self.starts.push(EpochStart { epoch, first });
        }
        self.last = Position { epoch, sequence: last };
    }

    /// Everything after an entry was cut.
    pub(super) fn truncate(&mut self, last_kept: Sequence) {
        let last = self.position(last_kept).unwrap_or(self.last);
        self.starts.retain(|start| start.first <= last.sequence);
        self.last = last;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: u64, sequence: u64) -> Position {
        Position { epoch, sequence: Sequence(sequence) }
    }

    /// Epoch 1 wrote 1..=3, epoch 3 wrote 4..=5, epoch 7 wrote 6.
    fn history() -> History {
        let mut history = History::default();
        history.append(1, Sequence(1), Sequence(2));
        history.append(1, Sequence(3), Sequence(3));
        history.append(3, Sequence(4), Sequence(5));
        history.append(7, Sequence(6), Sequence(6));
        history
    }

    #[test]
    fn positions_carry_the_epoch_that_wrote_them() {
        let history = history();
        assert_eq!(history.last(), at(7, 6));
        assert_eq!(history.position(Sequence(0)), Some(at(0, 0)));
        assert_eq!(history.position(Sequence(3)), Some(at(1, 3)));
        assert_eq!(history.position(Sequence(4)), Some(at(3, 4)));
        assert_eq!(history.position(Sequence(7)), None);
    }

    #[test]
    fn a_floor_is_bounded_by_epoch_and_by_sequence() {
        let history = history();
        assert_eq!(history.floor(at(9, 9)), at(7, 6));
        assert_eq!(history.floor(at(6, 9)), at(3, 5));
        assert_eq!(history.floor(at(3, 4)), at(3, 4));
        assert_eq!(history.floor(at(2, 4)), at(1, 3));
        assert_eq!(history.floor(at(0, 4)), at(0, 0));
    }

    #[test]
    fn agreement_ends_with_the_epoch_or_the_log() {
        let history = history();
        assert_eq!(history.agrees_through(3, Sequence(4), Sequence(9)), Sequence(5));
        assert_eq!(history.agrees_through(3, Sequence(4), Sequence(4)), Sequence(4));
        assert_eq!(history.agrees_through(5, Sequence(4), Sequence(9)), Sequence(3));
        assert_eq!(history.agrees_through(7, Sequence(7), Sequence(9)), Sequence(6));
    }

    #[test]
    fn truncation_forgets_the_epochs_that_it_cut() {
        let mut history = history();
        history.truncate(Sequence(4));
        assert_eq!(history.last(), at(3, 4));
        history.append(4, Sequence(5), Sequence(5));
        assert_eq!(history.position(Sequence(5)), Some(at(4, 5)));
        history.truncate(Sequence(0));
        assert_eq!(history.last(), at(0, 0));
    }

    #[test]
    fn a_history_that_does_not_fit_its_log_is_refused() {
        let start = |epoch, first| EpochStart { epoch, first: Sequence(first) };
        assert!(History::new(vec![], at(0, 0)).is_ok());
        assert!(History::new(vec![start(1, 1), start(2, 3)], at(2, 5)).is_ok());
        assert!(History::new(vec![], at(1, 1)).is_err());
        assert!(History::new(vec![start(1, 2)], at(1, 3)).is_err());
        assert!(History::new(vec![start(2, 1), start(1, 3)], at(1, 5)).is_err());
        assert!(History::new(vec![start(1, 1), start(2, 6)], at(2, 5)).is_err());
    }
}
