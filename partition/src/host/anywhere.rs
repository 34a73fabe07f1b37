//! Reads at any replica, without its owner loop: of whatever is applied, of what is fresh enough, of what a session has
//! seen.
//!
//! Each looks at one moment of the store, so that its answer can say which: whoever reads next, anywhere, and wants to see at
//! least as much, names that. A session's read that must wait for more to be applied goes to the owner loop; and so does, at a
//! leader, a read of a small staleness: what the leader knows of itself here is as old as its last heartbeat, while the owner
//! loop can tell at once.
//!
//! A quarantined replica serves none of them.

use arc_swap::ArcSwap;
use bytes::Bytes;
use paddock_coordination::PartitionId;
use paddock_storage::{Readable, Reader, Sequence};
use ulid::Ulid;

use super::Host;
use crate::admission::read_failure;
use crate::clock::{self, Timestamp};
use crate::operation::{Answer, Failure, Freshness, Standing, earlier_lineage};
use crate::replica::RoleName;
use crate::replica::mutation::broken;
use crate::reply::Reply;
use crate::status::{ReplicaStatus, StatusCell};

/// What becomes of a read where it arrives.
#[derive(Debug)]
pub enum Here {
    /// It is answered.
    Answered(Reply),
    /// It is for the owner loop, which waits until this is applied.
    After(Standing),
    /// It is for the owner loop, which leads and can tell whether this is the latest.
    Latest,
}

impl Host {
    /// Reads at this node's replica, as fresh as asked for.
    #[must_use]
    pub fn read_here(
        &self,
        partition: PartitionId,
        operation_id: u64,
        key: &Bytes,
        omit_value: bool,
        freshness: Freshness,
    ) -> Here {
        let replicas = self.replicas.load();
        let Some(hosted) = replicas.get(&partition) else {
            return Here::Answered(Reply::unheard(operation_id, Failure::NotLeader { leader: None }));
        };
        let window = Window { uuid: hosted.uuid, status: &hosted.status, reader: &hosted.reader };
        let here = window.read(clock::now, operation_id, key, omit_value, freshness);
        if let Here::Answered(reply) = &here {
            hosted.metrics.read_anywhere(matches!(reply.answer, Answer::Failed(Failure::Behind(_))));
        }
        here
    }
}

/// What is to be seen of a replica without its owner loop.
pub struct Window<'a> {
    /// The partition's life.
    pub uuid: Ulid,
    /// What the replica says of itself.
    pub status: &'a StatusCell,
    /// Its store.
    pub reader: &'a ArcSwap<Reader>,
}

/// What a look at the replica came to.
enum Look {
    Found(Answer, Standing),
    After(Standing),
    Latest,
}

impl Window<'_> {
    /// Reads at the replica, as fresh as asked for; `now` is asked when it is done.
    pub fn read(
        &self,
        now: impl Fn() -> Timestamp,
        operation_id: u64,
        key: &Bytes,
        omit_value: bool,
        freshness: Freshness,
    ) -> Here {
        let status = self.status.load();
        let (answer, standing) = match self.look(now, &status, key, omit_value, freshness) {
            Ok(Look::Found(answer, standing)) => (answer, Some(standing)),
            Ok(Look::After(seen)) => return Here::After(seen),
            Ok(Look::Latest) => return Here::Latest,
            Err(failure) => (Answer::Failed(failure), None),
        };
        Here::Answered(Reply { operation_id, epoch: status.epoch, answer, standing })
    }

    fn look(
        &self,
        now: impl Fn() -> Timestamp,
        status: &ReplicaStatus,
        key: &Bytes,
        omit_value: bool,
        freshness: Freshness,
    ) -> Result<Look, Failure> {
        if status.role == RoleName::Quarantined {
            return Err(Failure::Unavailable(status.problem.clone().unwrap_or_default()));
        }
        if let Freshness::AtLeast(seen) = freshness {
            seen.check(self.uuid, status.lineage)?;
        }
        let lineage = status.lineage.ok_or_else(earlier_lineage)?;
        let (answer, applied) = read(&self.reader.load(), key, omit_value);
        // By what was looked at, whatever the replica has come to meanwhile: a snapshot may have taken its store's place.
        match freshness {
            Freshness::Any => {}
            Freshness::AtLeast(seen) if applied < seen.applied && !broken!(SessionsAreIgnored) => {
                return Ok(Look::After(seen));
            }
            Freshness::AtLeast(_) => {}
            Freshness::Within(bound_ms) => {
                let fresh_as_of = self.status.fresh_as_of().filter(|(_, needed)| *needed <= applied);
                let fresh = check_staleness(now(), fresh_as_of.map(|(as_of, _)| as_of), bound_ms);
                if fresh.is_err() && status.role == RoleName::Leader {
                    return Ok(Look::Latest);
                }
                fresh?;
            }
        }
        Ok(Look::Found(answer, Standing { partition_uuid: self.uuid, lineage, applied }))
    }
}

/// One moment of the store, and which it was.
fn read(reader: &Reader, key: &Bytes, omit_value: bool) -> (Answer, Sequence) {
    let snapshot = reader.snapshot();
    let answer = match snapshot.get_record(key) {
        Ok(mut record) => {
            if omit_value && let Some(record) = &mut record {
                record.value = Bytes::new();
            }
            Answer::Read(record)
        }
        Err(error) => Answer::Failed(read_failure(error)),
    };
    (answer, snapshot.sequence())
}

/// Whether what was just read is no older than the bound. Judged after the read: it may have taken its time.
fn check_staleness(now: Timestamp, fresh_as_of: Option<Timestamp>, bound_ms: u64) -> Result<(), Failure> {
    let Some(as_of) = fresh_as_of else {
        return Err(Failure::Behind("this replica does not know yet how fresh it is".into()));
    };
    let staleness_ms = now.since(as_of);
    if staleness_ms <= bound_ms {
        return Ok(());
    }
    Err(Failure::Behind(format!("this replica may be {staleness_ms} ms behind, the bound is {bound_ms} ms")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staleness_is_counted_from_when_everything_was_applied_and_unknown_is_too_much() {
        let at = |now, as_of, bound| check_staleness(Timestamp(now), as_of, bound);
        assert!(at(1_500, Some(Timestamp(1_000)), 500).is_ok());
        let behind = at(1_501, Some(Timestamp(1_000)), 500).expect_err("it is too old").to_string();
        assert!(behind.contains("501") && behind.contains("500"), "{behind}");
        assert!(matches!(at(1, None, u64::MAX), Err(Failure::Behind(_))));
    }
}
