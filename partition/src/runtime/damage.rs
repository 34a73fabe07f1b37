//! A store that is not as it was written. What is damaged is never handed out, whoever finds it: a read, the log for a follower,
//! compaction, the scrubber. The store remembers the first damage, and here the core is told of it.

use tracing::{error, warn};

use super::OwnerLoop;
use crate::replica::{Event, Fault};

/// As much is kept of what is wrong with a store: the manifest has little room.
const FAULT_BYTES_MAX: usize = 1_024;

impl OwnerLoop {
    /// Tells the core of damage that somebody has come upon.
    pub(super) fn tell_damage(&mut self) -> Result<(), paddock_storage::Error> {
        if self.round.damage_told {
            return Ok(());
        }
        let Some(damage) = self.store.damage() else { return Ok(()) };
        let mut what = damage.to_string();
        let end = (0..=FAULT_BYTES_MAX.min(what.len())).rev().find(|end| what.is_char_boundary(*end));
        what.truncate(end.unwrap_or(0));
        error!(partition = %self.partition, %what, "the store is damaged: what is damaged is not served");
        self.round.damage_told = true;
        self.metrics.damaged();
        self.step(Event::StoreDamaged { what })
    }

    /// Tells the core of a disk that stood still, now that it does not any more.
    pub(super) fn tell_stall(&mut self) -> Result<(), paddock_storage::Error> {
        let took_ms = self.watch.take_longest_ms();
        if took_ms < self.stalled_after_ms {
            return Ok(());
        }
        warn!(partition = %self.partition, took_ms, path = %self.store.path().display(),
            "the disk stood still: this replica leads only where no other can, for a while");
        self.metrics.stalled();
        self.step(Event::DiskStalled)
    }

    pub(super) fn persist_fault(&mut self, fault: Fault) -> Result<(), paddock_storage::Error> {
        self.facts.fault = Some(fault);
        let facts = self.facts.encode();
        self.when_there_is_room(|store| store.set_metadata(&facts))
    }

    pub(super) fn abandon_store(&mut self) {
        warn!(partition = %self.partition, path = %self.store.path().display(), fault = ?self.facts.fault,
            "another replica leads and has everything: this store is given up, and the replica begins anew");
        self.round.abandoned = true;
    }
}
