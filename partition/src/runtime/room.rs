//! A full disk, and a compaction that is behind: what the owner loop refuses, and what it waits for.

use std::time::Duration;

use paddock_coordination::PartitionId;
use paddock_storage::{APPEND_OVERHEAD_BYTES, Need, ReplicatedStore, RowRef};
use tracing::warn;

use super::{OwnerLoop, Round};
use crate::clock::Timestamp;
use crate::keys;
use crate::replica::Message;

/// How often a full disk, or a compaction that is behind, is mentioned in the log, in milliseconds.
const NOTICE_MS: u64 = 10_000;
/// How soon a write that has to be done is tried again on a full disk.
const DISK_FULL_RETRY: Duration = Duration::from_millis(100);

impl OwnerLoop {
    /// Whether there is room for what a peer sends: on the disk, and in memory for what compaction has to do. A follower
    /// that has none lets the entries pass, so it acknowledges nothing, and the leader sends them again, or goes on
    /// without it. What is in its log already it commits and applies all the same.
    pub(super) fn has_room_for(&mut self, message: &Message) -> Result<bool, paddock_storage::Error> {
        let Message::Append { entries, .. } = message else { return Ok(true) };
        if !entries.is_empty() && self.is_congested() {
            return Ok(false);
        }
        let rows = entries.iter().flat_map(|run| run.rows.iter());
        let need = if rows
            .into_iter()
            .any(|row| matches!(row, RowRef::Put { key, .. } if !keys::is_reserved(key)))
        {
            Need::Growth
        } else {
            Need::Control
        };
        let bytes = entries.iter().map(|run| run.rows.encoded().len() as u64 + APPEND_OVERHEAD_BYTES).sum();
        self.reserve(bytes, need)
    }

    /// Whether the store's compaction is so far behind that nothing more should go into the log. The store wakes this loop
    /// when that is over.
    pub(super) fn is_congested(&mut self) -> bool {
        let is_congested = self.store.is_congested();
        if is_congested && is_due(&mut self.round.congestion_noticed, self.clock.now()) {
            let waiting = self.store.stats().compaction.waiting_tails;
            warn!(partition = %self.partition, waiting, "writes wait for compaction, which is behind");
        }
        is_congested
    }

    /// False if the disk is full.
    pub(super) fn reserve(&mut self, bytes: u64, need: Need) -> Result<bool, paddock_storage::Error> {
        match self.store.reserve(bytes, need) {
            Ok(()) => Ok(true),
            Err(error @ paddock_storage::Error::DiskFull { .. }) => {
                self.round.notice_full_disk(self.partition, &error, self.clock.now());
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Does what the protocol cannot go on without, and waits for room where the disk is full.
    pub(super) fn when_there_is_room<T>(
        &mut self,
        mut write: impl FnMut(&mut ReplicatedStore) -> Result<T, paddock_storage::Error>,
    ) -> Result<T, paddock_storage::Error> {
        let Self { store, outlet, round, partition, clock, watch, .. } = self;
        until_there_is_room(
            || watch.during(clock, || write(store)),
            |error| {
                round.notice_full_disk(*partition, error, clock.now());
                !outlet.is_stopping() && clock.wait(DISK_FULL_RETRY)
            },
        )
    }
}

impl Round {
    /// Says in the log that the disk is full, now and then.
    fn notice_full_disk(&mut self, partition: PartitionId, error: &paddock_storage::Error, now: Timestamp) {
        self.disk_is_full = true;
        if is_due(&mut self.disk_full_noticed, now) {
            warn!(%partition, %error, "the disk is full");
        }
    }
}

/// Whether something that goes on is to be mentioned again.
fn is_due(noticed: &mut Option<Timestamp>, now: Timestamp) -> bool {
    let is_due = noticed.is_none_or(|last| now.0.saturating_sub(last.0) >= NOTICE_MS);
    if is_due {
        *noticed = Some(now);
    }
    is_due
}

/// Tries a write again for as long as nothing but a full disk speaks against it, and `go_on`, which waits, says so.
fn until_there_is_room<T>(
    mut write: impl FnMut() -> Result<T, paddock_storage::Error>,
    mut go_on: impl FnMut(&paddock_storage::Error) -> bool,
) -> Result<T, paddock_storage::Error> {
    loop {
        match write() {
            Err(error @ paddock_storage::Error::DiskFull { .. }) if go_on(&error) => {}
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use paddock_storage::Error;

    use super::*;

    fn full() -> Error {
        Error::DiskFull { path: "/data".into() }
    }

    #[test]
    fn a_full_disk_is_waited_for_and_nothing_else_is() {
        let mut outcomes = vec![Ok(7), Err(full()), Err(full())];
        let mut asked = 0;
        let written = until_there_is_room(
            || outcomes.pop().expect("not asked again"),
            |_| {
                asked += 1;
                true
            },
        );
        assert_eq!((written.expect("there is room"), asked), (7, 2));
        let stopping = until_there_is_room(|| Err::<(), _>(full()), |_| false);
        assert!(matches!(stopping, Err(Error::DiskFull { .. })));
        let poisoned = || Err::<(), _>(Error::Poisoned { reason: "an fsync failed".into() });
        assert!(matches!(until_there_is_room(poisoned, |_| true), Err(Error::Poisoned { .. })));
    }
}
