//! Snapshots, as far as the owner of the store has to do with them.

use paddock_coordination::NodeId;
use paddock_storage::{Error, Position, Sequence};
use tracing::{info, warn};

use super::OwnerLoop;
use crate::replica::Event;

impl OwnerLoop {
    /// Has a copy of the store made for a follower. Here it costs the fsyncs of a new segment.
    pub(super) fn send_snapshot(&mut self, to: NodeId, attempt: u64) -> Result<Option<Event>, Error> {
        let (epoch, last) = (self.replica.epoch(), self.store.last());
        match self.store.checkpointer() {
            Ok(checkpointer) => {
                self.courier.make(to, epoch, attempt, last, checkpointer);
                Ok(None)
            }
            Err(error @ (Error::DiskFull { .. } | Error::Corrupt { .. })) => {
                warn!(partition = %self.partition, %to, %error, "no snapshot for a follower");
                Ok(Some(Event::SnapshotReady { to, epoch, attempt, last: None }))
            }
            Err(error) => Err(error),
        }
    }

    /// Puts the store that was fetched in the place of this one. It counts once it has this replica's facts, and is read once
    /// it is applied as far as this one was, at least.
    pub(super) fn install_snapshot(&mut self, last: Position, apply_through: Sequence) -> Result<(), Error> {
        let fetched = self.courier.take().and_then(crate::snapshot::FetchedStore::into_store);
        let Some((store, retries)) = fetched.filter(|(store, _)| store.last() == last) else {
            return Err(Error::Poisoned { reason: "the snapshot to be installed is not there".into() });
        };
        // Should its facts not be written, this process ends, and nobody has seen it.
        let former = std::mem::replace(&mut self.store, store);
        self.facts.fault = None;
        self.round.damage_told = false;
        let facts = self.facts.encode();
        self.when_there_is_room(|store| store.set_metadata(&facts))?;
        self.store.apply(apply_through)?;
        info!(partition = %self.partition, last = %last.sequence, was = %former.last().sequence,
            path = %self.store.path().display(), "a snapshot took the store's place");
        self.retries = retries;
        self.retries.applied(apply_through);
        self.reader = self.store.reader();
        self.shared_reader.store(self.reader.clone().into());
        self.shared_scrubber.store(self.store.scrubber().into());
        self.courier.bury(former);
        // All of it is durable.
        self.round.unsynced = false;
        self.round.unmarked_since = None;
        Ok(())
    }
}
