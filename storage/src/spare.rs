//! A segment that is made before it is needed, so that who appends does not wait for a file to be made, given room and filled.
//!
//! It has the temporary name of a segment that begins with entry 0, which no segment does: so opening removes what a crash leaves
//! of it, as of any file that was being made. All of it is on the disk but for its header, which says where the segment
//! begins, and is written when that is known.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::directory::{Directory, Unfinished};
use crate::error::{Error, Result};
use crate::header::StoreId;
use crate::position::Sequence;
use crate::segment::{Chain, UnfinishedSegment, filled, segment_header, write_zeros};

/// A segment without a beginning.
#[derive(Debug)]
pub(crate) struct Spare {
    unfinished: Unfinished,
    allocated: u64,
}

/// Where a spare waits for its use. Clones are the same place. There is one at a time, since all have one name.
#[derive(Clone, Debug, Default)]
pub(crate) struct SparePlace(Arc<Mutex<State>>);

#[derive(Debug, Default)]
enum State {
    #[default]
    Nothing,
    Making,
    Ready(Spare),
}

impl Spare {
    /// Makes one of so many bytes. When that fails nothing is left behind.
    pub(crate) fn make(directory: &Directory, allocated: u64) -> Result<Spare> {
        let unfinished = Unfinished::make(&directory.disk, &directory.segment_path(Sequence(0)), |file| {
            file.allocate(0, allocated)?;
            write_zeros(file, 0, filled(allocated))
        })?;
        Ok(Spare { unfinished, allocated })
    }

    /// Turns it into the segment that begins here, of `allocated` bytes at least. On a full disk it is gone afterwards, and
    /// there is room for a shorter one.
    pub(crate) fn begin(
        self,
        directory: &Directory,
        store_id: StoreId,
        start: Chain,
        allocated: u64,
    ) -> Result<UnfinishedSegment> {
        let path = directory.segment_path(start.next);
        let file = self.unfinished.file();
        let longer = allocated.max(self.allocated);
        let more = if longer > self.allocated {
            file.allocate(self.allocated, longer - self.allocated)
        } else {
            Ok(())
        };
        let header = segment_header(store_id, start);
        let begun = more.and_then(|()| file.write_at(&header, 0)).and_then(|()| file.sync_data());
        match begun {
            Ok(()) => Ok(UnfinishedSegment::new(self.unfinished.renamed(&path), start, longer)),
            Err(error) => {
                self.unfinished.discard();
                Err(Error::space(&path)(error))
            }
        }
    }
}

impl SparePlace {
    /// Whether one is to be made: then [`SparePlace::make`] must follow. Not while there is one, or is about to be.
    pub(crate) fn claim(&self) -> bool {
        let mut state = self.0.lock();
        let is_free = matches!(*state, State::Nothing);
        if is_free {
            *state = State::Making;
        }
        is_free
    }

    /// Makes one. Where that fails there is none, and the segment is made when it is needed.
    pub(crate) fn make(&self, directory: &Directory, allocated: u64) {
        let made = Spare::make(directory, allocated);
        *self.0.lock() = made.map_or(State::Nothing, State::Ready);
    }

    /// The spare, if it is ready. Who takes it gives it a name before another one is made.
    pub(crate) fn take(&self) -> Option<Spare> {
        let mut state = self.0.lock();
        match std::mem::take(&mut *state) {
            State::Ready(spare) => Some(spare),
            other => {
                *state = other;
                None
            }
        }
    }

    /// Gives its room back.
    pub(crate) fn discard(&self) {
        if let Some(spare) = self.take() {
            spare.unfinished.discard();
        }
    }

    #[cfg(test)]
    pub(crate) fn is_ready(&self) -> bool {
        matches!(*self.0.lock(), State::Ready(_))
    }
}
