//! The log's beginning leaves by this thread, so that its owner does not wait for the disk: FILES is replaced for it, and
//! files are removed.
//!
//! 1. The owner, who knows the segments, says where the log may begin.
//! 2. FILES says so, durably. From here on opening removes what is before.
//! 3. The owner sees that (with its next apply, or its own thread is told), forgets these segments, and hands their files over.
//! 4. Their names leave the disk.
//!
//! A crash in between leaves segments that opening removes. A full disk leaves everything as it was, for another try.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};

use parking_lot::Mutex;

use super::site::Site;
use crate::data_file::DataFile;
use crate::error::Result;
use crate::position::Sequence;

/// What the owner and the thread know of each other. See the module.
#[derive(Debug, Default)]
pub(crate) struct Beginning {
    wanted: AtomicU64,
    published: AtomicU64,
    /// Held while FILES is replaced.
    publishing: Mutex<()>,
    left: Mutex<Vec<Arc<DataFile>>>,
}

impl Beginning {
    /// Step 1.
    pub(super) fn want(&self, first: Sequence) {
        self.wanted.fetch_max(first.0, Release);
    }

    /// Takes back what is wanted, unless it leaves the log from here on. When this returns nothing of that comes about any more;
    /// so it waits for a FILES that is being replaced just now.
    pub(super) fn hold(&self, from: Sequence) {
        let _ = self.wanted.fetch_update(AcqRel, Acquire, |wanted| (wanted > from.0).then_some(0));
        drop(self.publishing.lock());
    }

    /// Where the log begins by FILES, as far as it was this thread that said so; 0 before that.
    pub(super) fn published(&self) -> Sequence {
        Sequence(self.published.load(Acquire))
    }

    /// Step 3.
    pub(super) fn hand_over(&self, files: impl IntoIterator<Item = Arc<DataFile>>) {
        self.left.lock().extend(files);
    }
}

impl Site {
    /// Steps 2 and 4, as far as there is anything to do.
    pub(crate) fn release_log(&self, is_changing: &mut bool) -> Result<()> {
        self.remove_buried();
        let _publishing = self.beginning.publishing.lock();
        let wanted = Sequence(self.beginning.wanted.load(Acquire));
        if wanted > self.beginning.published() {
            let first = self.note_log_first(wanted, is_changing)?;
            self.beginning.published.store(first.0, Release);
            self.tell_owner();
        }
        Ok(())
    }

    /// Step 4.
    pub(super) fn remove_buried(&self) {
        let left = std::mem::take(&mut *self.beginning.left.lock());
        for file in left {
            self.names.remove(file.path());
        }
    }

    /// Has FILES say that the log begins here, unless it says that it begins later. Returns what it says.
    pub(crate) fn note_log_first(&self, log_first: Sequence, is_changing: &mut bool) -> Result<Sequence> {
        let mut catalogue = self.catalogue.lock();
        if log_first > catalogue.log_first {
            let mut changed = catalogue.clone();
            changed.log_first = log_first;
            changed.replace_telling(&self.directory, is_changing)?;
            *is_changing = false;
            *catalogue = changed;
        }
        Ok(catalogue.log_first)
    }
}
