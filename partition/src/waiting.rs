//! Operations that wait: writes for their commit, reads for the lease.

use std::collections::VecDeque;

use paddock_coordination::{Epoch, NodeId};
use paddock_storage::Sequence;

use crate::admission::Overlay;
use crate::clock::Timestamp;
use crate::operation::{Answer, Failure, Kind, Operation, Replies, Write};
use crate::replica::Barrier;

/// A write in the log that has not committed.
#[derive(Debug)]
struct WaitingWrite {
    sequence: Sequence,
    /// Once its deadline has passed it is answered, but its row is in the log and in the overlay all the same: so it
    /// keeps its share of the budget, which thereby bounds what is in the log without being committed.
    operation: Operation,
    answer: Answer,
}

/// A read, or a write that changed nothing, whose answer needs the lease.
#[derive(Debug)]
pub struct WaitingRead {
    /// Whose it is.
    pub operation: Operation,
    /// The entry that must be applied first.
    pub after: Sequence,
    /// The answer, where it is known already.
    pub answer: Option<Answer>,
}

impl WaitingRead {
    /// A read of whatever is applied when it is served.
    #[must_use]
    pub fn fresh(operation: Operation) -> Self {
        WaitingRead { operation, after: Sequence(0), answer: None }
    }

    /// An answer that rests on the log up to an entry.
    #[must_use]
    pub fn settled(operation: Operation, after: Sequence, answer: Answer) -> Self {
        WaitingRead { operation, after, answer: Some(answer) }
    }
}

/// A read that waits for answers to heartbeats that were sent after it came.
#[derive(Debug)]
pub struct BarrierRead {
    /// When it came.
    pub since: Timestamp,
    /// What it waits for.
    pub barrier: Barrier,
    /// Whose it is.
    pub operation: Operation,
}

/// How long a session's read waits at a follower for more to be applied, in milliseconds.
pub const SESSION_WAIT_MS: u64 = 20;

/// How long a read waits behind its barrier, in milliseconds. Whoever asked hears then who keeps it waiting, and asks again.
pub const BARRIER_WAIT_MS: u64 = 500;

/// What waits in one replica. Bounded by the budget of operations under way.
#[derive(Debug, Default)]
pub struct Waiting {
    /// In the order of their sequences.
    writes: VecDeque<WaitingWrite>,
    /// In the order of arrival.
    pub reads: VecDeque<WaitingRead>,
    /// Reads that any replica may answer once it has applied enough, with when they came.
    pub sessions: VecDeque<(Timestamp, WaitingRead)>,
    /// In the order of arrival, and so of their barriers.
    pub barriers: VecDeque<BarrierRead>,
}

impl Waiting {
    /// When the next one will have waited for long enough, if nothing else happens. A leader's sessions wait until their
    /// deadlines.
    #[must_use]
    pub fn due(&self, now: Timestamp, leads: bool) -> Option<Timestamp> {
        let mut sessions = self.sessions.iter().map(|(since, _)| since.plus_ms(SESSION_WAIT_MS));
        let mut barriers = self.barriers.iter().map(|read| read.since.plus_ms(BARRIER_WAIT_MS));
        // One that is overdue waits for something else: for its caller to take answers.
        let session = sessions.find(|due| !leads && *due > now);
        let barrier = barriers.find(|due| *due > now);
        session.into_iter().chain(barrier).min()
    }

    /// A write was admitted to the log.
    pub fn admitted(&mut self, sequence: Sequence, operation: Operation, answer: Answer) {
        debug_assert!(self.writes.back().is_none_or(|last| last.sequence <= sequence));
        self.writes.push_back(WaitingWrite { sequence, operation, answer });
    }

    /// The log is applied up to here: what waited for that is answered.
    pub fn applied(&mut self, through: Sequence, epoch: Epoch, overlay: &mut Overlay, replies: &mut Replies) {
        while self.writes.front().is_some_and(|write| write.sequence <= through) {
            let Some(write) = self.writes.pop_front() else { break };
            if let Kind::Write(Write { key, .. }) = &write.operation.kind {
                overlay.applied(key, write.sequence);
            }
            replies.answer(write.operation, epoch, write.answer);
        }
    }

    /// Leadership is over: writes in the log may commit yet, those that were sent again too; reads and other settled
    /// answers certainly did nothing.
    pub fn leadership_lost(&mut self, epoch: Epoch, leader: Option<NodeId>, replies: &mut Replies) {
        for write in self.writes.drain(..) {
            replies.answer(write.operation, epoch, Answer::Failed(Failure::LeaderChanged));
        }
        for read in self.reads.drain(..) {
            let failure = match read.operation.begun {
                true => Failure::LeaderChanged,
                false => Failure::NotLeader { leader },
            };
            replies.answer(read.operation, epoch, Answer::Failed(failure));
        }
        for read in self.barriers.drain(..) {
            replies.answer(read.operation, epoch, Answer::Failed(Failure::NotLeader { leader }));
        }
    }

    /// Answers what has waited past its deadline.
    pub fn expire(&mut self, now: Timestamp, epoch: Epoch, replies: &mut Replies) {
        for write in &mut self.writes {
            if write.operation.deadline <= now && !write.operation.is_answered() {
                let answer = Answer::Failed(Failure::DeadlineExceeded { begun: true });
                replies.answer_early(&mut write.operation, epoch, answer);
            }
        }
        if self.sessions.iter().any(|(_, read)| read.operation.deadline <= now) {
            for (since, read) in std::mem::take(&mut self.sessions) {
                if read.operation.deadline <= now {
                    let answer = Answer::Failed(Failure::DeadlineExceeded { begun: false });
                    replies.answer(read.operation, epoch, answer);
                } else {
                    self.sessions.push_back((since, read));
                }
            }
        }
        if self.barriers.iter().any(|read| read.operation.deadline <= now) {
            for read in std::mem::take(&mut self.barriers) {
                if read.operation.deadline <= now {
                    let answer = Answer::Failed(Failure::DeadlineExceeded { begun: false });
                    replies.answer(read.operation, epoch, answer);
                } else {
                    self.barriers.push_back(read);
                }
            }
        }
        if self.reads.iter().any(|read| read.operation.deadline <= now) {
            for read in std::mem::take(&mut self.reads) {
                if read.operation.deadline <= now {
                    let begun = read.operation.begun;
                    let answer = Answer::Failed(Failure::DeadlineExceeded { begun });
                    replies.answer(read.operation, epoch, answer);
                } else {
                    self.reads.push_back(read);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::operation::{Arrival, Budget};

    fn write(deadline: Timestamp) -> Arrival {
        let write = Write {
            key: Bytes::from_static(b"k"),
            value: Some(Bytes::from(vec![0; 1_000])),
            precondition: None,
            request: None,
        };
        Arrival { operation_id: 1, deadline, kind: Kind::Write(write) }
    }

    #[test]
    fn a_write_that_waits_past_its_deadline_is_answered_once_and_keeps_its_share_of_the_budget() {
        let (sender, mut receiver) =
            crate::reply::channel(&prometheus_client::metrics::gauge::Gauge::default());
        let (budget, mut waiting, mut overlay) = (Budget::new(2_000), Waiting::default(), Overlay::default());
        let mut replies = Replies::default();
        let arrival = write(Timestamp(10));
        let permit = budget.acquire(arrival.kind.size_bytes()).expect("room");
        let mut operation = Operation::new(arrival, sender, permit);
        operation.begun = true;
        let answer = Answer::Written { version: Sequence(7), deleted: false };
        waiting.admitted(Sequence(7), operation, answer);

        waiting.expire(Timestamp(10), Epoch(1), &mut replies);
        waiting.expire(Timestamp(11), Epoch(1), &mut replies);
        replies.flush();
        let answers = receiver.try_receive().expect("an answer");
        let expired = Answer::Failed(Failure::DeadlineExceeded { begun: true });
        assert_eq!(answers.iter().map(|reply| &reply.answer).collect::<Vec<_>>(), [&expired]);
        // Its row is still in the log: a client that tries again and again cannot fill the memory with such rows.
        assert!(budget.acquire(1_000).is_err(), "its share is still held");

        waiting.applied(Sequence(7), Epoch(1), &mut overlay, &mut replies);
        replies.flush();
        assert!(receiver.try_receive().is_none(), "it was answered already");
        budget.acquire(2_000).expect("all of it is free again");
    }

    #[test]
    fn the_next_look_is_due_when_somebody_has_waited_for_long_enough() {
        let (sender, _receiver) = crate::reply::channel(&prometheus_client::metrics::gauge::Gauge::default());
        let budget = Budget::new(10_000);
        let operation = || {
            let arrival = write(Timestamp(10_000));
            let permit = budget.acquire(arrival.kind.size_bytes()).expect("room");
            Operation::new(arrival, sender.clone(), permit)
        };
        let mut waiting = Waiting::default();
        assert_eq!(waiting.due(Timestamp(100), false), None);
        let session = WaitingRead { operation: operation(), after: Sequence(7), answer: None };
        waiting.sessions.push_back((Timestamp(100), session));
        assert_eq!(waiting.due(Timestamp(101), false), Some(Timestamp(100 + SESSION_WAIT_MS)));
        assert_eq!(waiting.due(Timestamp(101), true), None, "a leader's waits until its deadline");
        // Its caller takes no answers: that is not looked at again and again.
        assert_eq!(waiting.due(Timestamp(100 + SESSION_WAIT_MS), false), None);
        let barrier = Barrier::of_no_heartbeat(Epoch(1));
        waiting.barriers.push_back(BarrierRead { since: Timestamp(100), barrier, operation: operation() });
        assert_eq!(waiting.due(Timestamp(130), true), Some(Timestamp(100 + BARRIER_WAIT_MS)));
        assert_eq!(waiting.due(Timestamp(101), false), Some(Timestamp(100 + SESSION_WAIT_MS)));

        // And whoever waits is answered when the reign ends, and when the deadline passes.
        let mut replies = Replies::default();
        waiting.leadership_lost(Epoch(2), None, &mut replies);
        assert!(waiting.barriers.is_empty() && waiting.sessions.len() == 1);
        waiting.expire(Timestamp(10_000), Epoch(2), &mut replies);
        assert!(waiting.sessions.is_empty());
    }

    /// Its first sending is in the log, and may yet commit: whoever hears that nothing was begun would write it again.
    #[test]
    fn a_write_that_was_sent_again_is_unknown_however_its_waiting_ends() {
        let (sender, mut receiver) =
            crate::reply::channel(&prometheus_client::metrics::gauge::Gauge::default());
        let budget = Budget::new(10_000);
        let waiting_for = |begun: bool| {
            let arrival = write(Timestamp(10));
            let permit = budget.acquire(arrival.kind.size_bytes()).expect("room");
            let mut operation = Operation::new(arrival, sender.clone(), permit);
            operation.begun = begun;
            let mut waiting = Waiting::default();
            let answer = Answer::Written { version: Sequence(7), deleted: false };
            waiting.reads.push_back(WaitingRead::settled(operation, Sequence(7), answer));
            waiting
        };
        let mut replies = Replies::default();
        for begun in [true, false] {
            waiting_for(begun).expire(Timestamp(10), Epoch(1), &mut replies);
            waiting_for(begun).leadership_lost(Epoch(1), None, &mut replies);
            drop(waiting_for(begun));
            replies.flush();
            let answers = std::iter::from_fn(|| receiver.try_receive()).flatten();
            let unknown: Vec<bool> = answers
                .map(|reply| match reply.answer {
                    Answer::Failed(failure) => failure.outcome_unknown(),
                    answer => panic!("{answer:?}"),
                })
                .collect();
            assert_eq!(unknown, [begun; 3]);
        }
    }
}
