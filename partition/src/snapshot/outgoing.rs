//! [`Outgoing`]: the copies of one replica's store that are kept for followers, shared with those who send them.

use std::collections::HashMap;
use std::sync::Arc;

use paddock_coordination::{Epoch, NodeId};
use paddock_storage::{OutgoingCopy, Position};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{Progress, Transfer};

/// The copies by the followers that they are for: at most one each.
#[derive(Debug, Default)]
pub struct Outgoing {
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    by_follower: HashMap<NodeId, Slot>,
}

#[derive(Debug)]
struct Slot {
    epoch: Epoch,
    attempt: u64,
    /// `None` while it is being made.
    kept: Option<Arc<Kept>>,
}

/// A copy that is kept for a follower. Its files go with the last who holds it.
#[derive(Debug)]
pub struct Kept {
    epoch: Epoch,
    attempt: u64,
    last: Position,
    copy: OutgoingCopy,
    total_bytes: u64,
    progress: Progress,
    forgotten: CancellationToken,
}

impl Kept {
    /// A copy that was just written.
    #[must_use]
    pub fn new(epoch: Epoch, attempt: u64, last: Position, copy: OutgoingCopy) -> Self {
        let total_bytes = copy.files().iter().map(|file| file.length_bytes).sum();
        let progress = Progress::default();
        progress.begin(total_bytes);
        Kept { epoch, attempt, last, copy, total_bytes, progress, forgotten: CancellationToken::new() }
    }

    /// Its files.
    #[must_use]
    pub fn copy(&self) -> &OutgoingCopy {
        &self.copy
    }

    /// The bytes of all its files.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// Somebody begins to fetch it.
    pub fn begin(&self) {
        self.progress.begin(self.total_bytes);
    }

    /// Bytes were sent.
    pub fn sent(&self, bytes: u64) {
        self.progress.add(bytes);
    }

    /// Cancelled when nobody needs it any more.
    #[must_use]
    pub fn forgotten(&self) -> CancellationToken {
        self.forgotten.clone()
    }
}

impl Outgoing {
    /// A copy is being made for a follower, the so-many-th of an epoch.
    pub(super) fn expect(&self, to: NodeId, epoch: Epoch, attempt: u64) {
        let former = self.slots.lock().by_follower.insert(to, Slot { epoch, attempt, kept: None });
        if let Some(Slot { kept: Some(former), .. }) = former {
            former.forgotten.cancel();
        }
    }

    /// Keeps a copy that was made. False: it is not wanted any more.
    pub(super) fn keep(&self, to: NodeId, kept: Kept) -> bool {
        let mut slots = self.slots.lock();
        match slots.by_follower.get_mut(&to) {
            Some(slot) if (slot.epoch, slot.attempt) == (kept.epoch, kept.attempt) => {
                slot.kept = Some(Arc::new(kept));
                true
            }
            _ => false,
        }
    }

    /// The copy that a follower asks for.
    #[must_use]
    pub fn find(&self, to: NodeId, epoch: Epoch, attempt: u64, last: Position) -> Option<Arc<Kept>> {
        let slots = self.slots.lock();
        let kept = slots.by_follower.get(&to)?.kept.as_ref()?;
        let is_it = (kept.epoch, kept.attempt, kept.last) == (epoch, attempt, last);
        is_it.then(|| Arc::clone(kept))
    }

    pub(super) fn forget(&self, to: NodeId) -> Option<Arc<Kept>> {
        let kept = self.slots.lock().by_follower.remove(&to)?.kept?;
        kept.forgotten.cancel();
        Some(kept)
    }

    pub(super) fn forget_all(&self) -> Vec<Arc<Kept>> {
        let all = std::mem::take(&mut self.slots.lock().by_follower);
        let all: Vec<_> = all.into_values().filter_map(|slot| slot.kept).collect();
        for kept in &all {
            kept.forgotten.cancel();
        }
        all
    }

    pub(super) fn transfers(&self) -> Vec<Transfer> {
        let slots = self.slots.lock();
        let all = slots.by_follower.iter();
        all.filter_map(|(node, slot)| Some(slot.kept.as_ref()?.progress.transfer(*node, false))).collect()
    }
}
