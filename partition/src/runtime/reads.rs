//! Reads under the lease, and the answers that rest on it; reads behind a barrier; reads of sessions.

use paddock_storage::Readable;
use tracing::error;

use super::{OwnerLoop, refused};
use crate::admission::read_failure;
use crate::operation::{Answer, Failure, Kind, Operation, Standing};
use crate::replica::{Event, Refusal, RoleName};
use crate::waiting::{BARRIER_WAIT_MS, BarrierRead, SESSION_WAIT_MS};

/// No more answers of reads are made in one round than fill this many bytes, but for the last one.
const ROUND_ANSWERS_BYTES_MAX: usize = 16 << 20;
/// The most bytes of values in one run of records.
const RANGE_BYTES_MAX: usize = 4 << 20;

impl OwnerLoop {
    /// Serves the reads that wait, if the lease lets us: it is looked at before, and again when they are
    /// done, since the thread may have stood still in between.
    pub(super) fn serve_reads(&mut self) {
        self.round.more_reads = false;
        if self.round.waiting.reads.is_empty() {
            return;
        }
        match self.replica.may_read(self.clock.now()) {
            Ok(()) => {}
            // A lease that is missing comes back with the next grants, or when a silent follower has left.
            Err(Refusal::NotReady | Refusal::Unavailable { .. }) => return,
            Err(refusal @ Refusal::NotLeader { .. }) => {
                for read in self.round.waiting.reads.drain(..) {
                    self.round.replies.answer(read.operation, self.replica.epoch(), refused(&refusal));
                }
                return;
            }
        }
        let applied = self.store.applied();
        let reads = std::mem::take(&mut self.round.waiting.reads);
        let mut served = Vec::with_capacity(reads.len());
        let mut bytes = 0;
        for read in reads {
            // A caller that does not take its answers gets no more of them, until it does or its deadline passes.
            let is_full = bytes >= ROUND_ANSWERS_BYTES_MAX;
            if read.after > applied || is_full || !read.operation.has_room() {
                self.round.more_reads |= is_full;
                self.round.waiting.reads.push_back(read);
            } else {
                let answer = read.answer.clone().unwrap_or_else(|| self.read(&read.operation.kind));
                bytes += answer.size_bytes();
                served.push((read, answer));
            }
        }
        if self.replica.may_read(self.clock.now()).is_ok() {
            for (read, answer) in served {
                self.round.replies.answer(read.operation, self.replica.epoch(), answer);
            }
        } else {
            self.round.waiting.reads.extend(served.into_iter().map(|(read, _)| read));
        }
    }

    /// Has reads wait behind a barrier: all that came with one round behind the same one.
    pub(super) fn raise_barrier(&mut self, reads: Vec<Operation>) -> Result<(), paddock_storage::Error> {
        if reads.is_empty() {
            return Ok(());
        }
        match self.replica.barrier() {
            Ok(barrier) => {
                let since = self.clock.now();
                let waiting = |operation| BarrierRead { since, barrier, operation };
                self.round.waiting.barriers.extend(reads.into_iter().map(waiting));
                self.step(Event::BarrierRead)
            }
            Err(refusal) => {
                for read in reads {
                    self.round.replies.answer(read, self.replica.epoch(), refused(&refusal));
                }
                Ok(())
            }
        }
    }

    /// Serves the reads whose barrier is passed, and tells those that have waited for long who keeps them waiting. What lets a
    /// read pass holds for good, so nothing has to be looked at again once it is done.
    pub(super) fn serve_barriers(&mut self) {
        if self.round.waiting.barriers.is_empty() {
            return;
        }
        let now = self.clock.now();
        let mut bytes = 0;
        for read in std::mem::take(&mut self.round.waiting.barriers) {
            let is_full = bytes >= ROUND_ANSWERS_BYTES_MAX;
            let answer = match self.replica.may_read_behind(read.barrier) {
                Ok(()) if !is_full && read.operation.has_room() => self.read(&read.operation.kind),
                Err(refusal @ Refusal::NotLeader { .. }) => refused(&refusal),
                Err(refusal) if now.since(read.since) >= BARRIER_WAIT_MS => stuck(&refusal),
                passed => {
                    self.round.more_reads |= passed.is_ok() && is_full;
                    self.round.waiting.barriers.push_back(read);
                    continue;
                }
            };
            bytes += answer.size_bytes();
            self.round.replies.answer(read.operation, self.replica.epoch(), answer);
        }
    }

    /// Serves the sessions' reads for which enough is applied. At a follower they do not wait for long: the leader has
    /// what a session has seen, or will have it first.
    pub(super) fn serve_sessions(&mut self) {
        if self.round.waiting.sessions.is_empty() {
            return;
        }
        let (now, applied, role) = (self.clock.now(), self.store.applied(), self.replica.role());
        let (uuid, lineage) = (self.facts.partition_uuid, self.replica.lineage());
        let mut bytes = 0;
        for (since, read) in std::mem::take(&mut self.round.waiting.sessions) {
            let is_full = bytes >= ROUND_ANSWERS_BYTES_MAX;
            let answer = if role == RoleName::Quarantined {
                Answer::Failed(Failure::Unavailable(self.replica.problem().unwrap_or_default()))
            } else if let Kind::ReadAfter { seen, .. } = &read.operation.kind
                && let Err(failure) = seen.check(uuid, lineage)
            {
                // Another lineage came after the read.
                Answer::Failed(failure)
            } else if read.after <= applied && !is_full && read.operation.has_room() {
                self.read(&read.operation.kind)
            } else if read.after > applied && role != RoleName::Leader && now.since(since) >= SESSION_WAIT_MS
            {
                let why = format!("the session has seen entry {}, this replica has {applied}", read.after);
                Answer::Failed(Failure::Behind(why))
            } else {
                self.round.more_reads |= is_full;
                self.round.waiting.sessions.push_back((since, read));
                continue;
            };
            bytes += answer.size_bytes();
            self.metrics.read_anywhere(matches!(answer, Answer::Failed(Failure::Behind(_))));
            self.round.replies.answer(read.operation, self.replica.epoch(), answer);
        }
    }

    /// Notes how far this replica is, for its answers to say.
    pub(super) fn stand(&mut self) {
        let (partition_uuid, applied) = (self.facts.partition_uuid, self.store.applied());
        let standing = |lineage| Standing { partition_uuid, lineage, applied };
        self.round.replies.standing = self.replica.lineage().map(standing);
    }

    fn read(&self, kind: &Kind) -> Answer {
        let answer = match kind {
            Kind::Read { key, omit_value: false, .. } | Kind::ReadAfter { key, omit_value: false, .. } => {
                self.reader.get_record(key).map(Answer::Read)
            }
            Kind::Read { key, omit_value: true, .. } | Kind::ReadAfter { key, omit_value: true, .. } => {
                self.reader.version(key).map(|version| {
                    let record = |version| paddock_storage::Record {
                        key: key.clone(),
                        version,
                        ..paddock_storage::Record::default()
                    };
                    Answer::Read(version.map(record))
                })
            }
            Kind::ReadRange { after, records_max } => self
                .reader
                .page(after.as_deref(), *records_max, RANGE_BYTES_MAX)
                .map(|(records, more)| Answer::Range { records, more }),
            Kind::Write(_) => return Answer::Failed(Failure::Invalid("a write is no read".into())),
        };
        answer.unwrap_or_else(|error| {
            error!(partition = %self.partition, %error, "a read failed");
            Answer::Failed(read_failure(error))
        })
    }
}

/// Why a read is not let past its barrier.
fn stuck(refusal: &Refusal) -> Answer {
    let why = match refusal {
        Refusal::Unavailable { why } => why,
        Refusal::NotReady | Refusal::NotLeader { .. } => "the leader is not ready yet",
    };
    Answer::Failed(Failure::Unavailable(format!(
        "the read has waited behind its barrier for {BARRIER_WAIT_MS} ms: {why}"
    )))
}
