//! [`Freshness`]: as of when this replica has applied everything that was committed, by its own clock.
//!
//! A follower's grant says when it was sent, by the follower's clock. A later heartbeat of the leader repeats that, with the
//! leader's commit, as long as the leader holds the lease: so nobody had committed anything beyond that commit when the
//! heartbeat was sent, which was after the follower asked. Once the follower has applied that commit, it has all that
//! was committed when it asked. Both times are of one clock, so no two clocks are compared.
//!
//! What was true as of a moment stays true, whoever leads later: committed entries stay.

use std::collections::VecDeque;

use paddock_storage::Sequence;

use super::mutation::broken;
use super::timestamp::Timestamp;

/// The bits of an ask that are its time; the others tell this life of the process from others, in which the same clock
/// may have meant another moment.
const TIME_BITS: u32 = 44;
/// How many answers wait to be applied. With more, the newest is passed over: the oldest comes true first.
const BEHIND_MAX: usize = 32;

/// What is known of how fresh a replica is.
#[derive(Debug)]
pub(super) struct Freshness {
    life: u64,
    /// The moment, and what has to be applied for it: a snapshot may take a replica back behind that for a while.
    as_of: Option<(Timestamp, Sequence)>,
    /// Answers whose commit is not applied yet, in their order.
    behind: VecDeque<(Timestamp, Sequence)>,
}

impl Freshness {
    /// Nothing is known yet. `random` differs from one life of the process to the next.
    pub(super) fn new(random: u128) -> Self {
        // Never 0, so that an ask never is: 0 is no answer.
        let life = u64::try_from(random & ((1 << (u64::BITS - TIME_BITS)) - 1)).unwrap_or(0) | 1;
        Freshness { life, as_of: None, behind: VecDeque::new() }
    }

    /// Whoever has applied this entry has everything that was committed before this moment, by the replica's own clock.
    pub(super) fn as_of(&self) -> Option<(Timestamp, Sequence)> {
        self.as_of
    }

    /// What a grant that is sent now asks.
    pub(super) fn ask(&self, now: Timestamp) -> u64 {
        self.life << TIME_BITS | (now.0 & ((1 << TIME_BITS) - 1))
    }

    /// A leader that holds the lease answers: when it was asked, no more than this was committed.
    pub(super) fn answered(&mut self, now: Timestamp, echo: u64, commit: Sequence, applied: Sequence) {
        let asked_at = Timestamp(echo & ((1 << TIME_BITS) - 1));
        let is_ours = echo >> TIME_BITS == self.life && asked_at <= now;
        let asked_at = if broken!(StalenessFromTheAnswer) { now } else { asked_at };
        if is_ours && self.behind.len() < BEHIND_MAX {
            self.behind.push_back((asked_at, commit));
            self.applied(applied);
        }
    }

    /// What was known says nothing any more.
    pub(super) fn forget(&mut self) {
        self.as_of = None;
        self.behind.clear();
    }

    /// The index has advanced.
    pub(super) fn applied(&mut self, applied: Sequence) {
        while let Some(answer) = self.behind.pop_front_if(|(_, commit)| *commit <= applied) {
            self.as_of = self.as_of.max(Some(answer));
        }
    }

    /// The replica leads, holds the lease, and has applied all that is committed.
    pub(super) fn is_fresh(&mut self, now: Timestamp, applied: Sequence) {
        self.as_of = self.as_of.max(Some((now, applied)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_as_fresh_as_the_question_once_the_answer_is_applied() {
        let mut freshness = Freshness::new(6);
        let ask = freshness.ask(Timestamp(1_000));
        freshness.answered(Timestamp(1_300), ask, Sequence(7), Sequence(6));
        assert_eq!(freshness.as_of(), None, "entry 7 is not applied");
        freshness.applied(Sequence(7));
        assert_eq!(
            freshness.as_of(),
            Some((Timestamp(1_000), Sequence(7))),
            "by the question, not by the answer"
        );
        // Doubled and overtaken, as messages are.
        let later = freshness.ask(Timestamp(1_100));
        freshness.answered(Timestamp(1_400), later, Sequence(7), Sequence(7));
        freshness.answered(Timestamp(1_500), ask, Sequence(7), Sequence(7));
        assert_eq!(freshness.as_of(), Some((Timestamp(1_100), Sequence(7))));
    }

    #[test]
    fn an_answer_to_another_life_or_of_the_future_counts_for_nothing() {
        let mut freshness = Freshness::new(6);
        let former = Freshness::new(9).ask(Timestamp(1_000));
        for echo in [0, former, freshness.ask(Timestamp(1_001))] {
            freshness.answered(Timestamp(1_000), echo, Sequence(1), Sequence(1));
            assert_eq!(freshness.as_of(), None);
        }
    }

    #[test]
    fn a_replica_that_is_behind_gathers_no_end_of_answers_and_still_gets_on() {
        let mut freshness = Freshness::new(6);
        for time in 1..1_000 {
            let ask = freshness.ask(Timestamp(time));
            freshness.answered(Timestamp(time), ask, Sequence(time), Sequence(0));
        }
        assert_eq!(freshness.behind.len(), BEHIND_MAX);
        freshness.applied(Sequence(3));
        assert_eq!(freshness.as_of(), Some((Timestamp(3), Sequence(3))));
    }
}
