//! The segments before the newest one: full, and never written to again.
//!
//! They are shared. The log's owner adds to their end and cuts there; whoever flushes them to runs lets go of their
//! beginning, from another thread: [`Trimmer`]. A segment that somebody still reads stays readable, for its file
//! is open.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::contents::Contents;
use crate::directory::Directory;
use crate::error::{Error, Result};
use crate::files::Catalogue;
use crate::options::LogRetention;
use crate::position::Sequence;
use crate::segment::Segment;

/// Clones are the same segments.
#[derive(Clone, Debug)]
pub(crate) struct Sealed {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    /// Ascending. Entries of each end where the next one begins, and of the last where the active one does.
    segments: VecDeque<Segment>,
    active_first: Sequence,
}

impl Sealed {
    pub(crate) fn new(segments: Vec<Segment>, active_first: Sequence) -> Sealed {
        let state = State { segments: segments.into(), active_first };
        Sealed { state: Arc::new(Mutex::new(state)) }
    }

    /// The first sequence of the oldest segment, the active one included.
    pub(crate) fn log_first(&self) -> Sequence {
        let state = self.state.lock();
        state.segments.front().map_or(state.active_first, Segment::first)
    }

    /// Adds one, before an active one that begins there.
    pub(crate) fn push(&self, segment: Segment, active_first: Sequence) {
        let mut state = self.state.lock();
        state.segments.push_back(segment);
        state.active_first = active_first;
    }

    /// Takes the last one back: it is the active one now.
    pub(crate) fn pop(&self) -> Option<Segment> {
        let mut state = self.state.lock();
        let segment = state.segments.pop_back()?;
        state.active_first = segment.first();
        Some(segment)
    }

    /// How many there are, and how many bytes they have.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let state = self.state.lock();
        let bytes = state.segments.iter().map(|segment| segment.allocated).sum();
        (state.segments.len() as u64, bytes)
    }

    /// As they are now, with where the entries of each end.
    pub(crate) fn list(&self) -> Vec<(Segment, Sequence)> {
        let state = self.state.lock();
        state.with_limits().map(|(segment, limit)| (segment.clone(), limit)).collect()
    }

    /// The one that an entry is in, and where its entries end.
    pub(crate) fn holding(&self, sequence: Sequence) -> Option<(Segment, Sequence)> {
        let state = self.state.lock();
        let (segment, limit) = state.with_limits().find(|(_, limit)| sequence < *limit)?;
        (segment.first() <= sequence).then(|| (segment.clone(), limit))
    }
}

#[allow(dead_code, reason = "compaction is about to use it")]
impl State {
    fn with_limits(&self) -> impl Iterator<Item = (&Segment, Sequence)> {
        let limits = self.segments.iter().skip(1).map(Segment::first).chain([self.active_first]);
        self.segments.iter().zip(limits)
    }

    /// Where the log could begin if everything up to `flushed` is in runs: always at a segment.
    fn could_begin(&self, flushed: Sequence, retention: LogRetention) -> Sequence {
        let mut kept: u64 = self.segments.iter().map(|segment| segment.allocated).sum();
        let mut first = self.segments.front().map_or(self.active_first, Segment::first);
        for (segment, limit) in self.with_limits() {
            kept -= segment.allocated;
            let may_go = match retention {
                LogRetention::Nothing => true,
                LogRetention::Bytes(bytes) => kept >= bytes,
                LogRetention::Everything => false,
            };
            if !may_go || limit.previous() > flushed {
                break;
            }
            first = limit;
        }
        first
    }
}

/// Lets go of the log's beginning. For one thread at a time: the one that has the catalogue.
#[derive(Clone, Debug)]
#[allow(dead_code, reason = "compaction is about to use it")]
pub(crate) struct Trimmer {
    pub(crate) sealed: Sealed,
    pub(crate) directory: Directory,
    pub(crate) retention: LogRetention,
}

#[allow(dead_code, reason = "compaction is about to use it")]
impl Trimmer {
    /// Removes the segments that nobody needs, as far as the catalogue says that they are flushed: first FILES says
    /// where the log begins, then the files go. A crash in between leaves some that opening removes. Returns how many went.
    ///
    /// Nothing may point into them any more: neither the index nor a view that is yet to be captured.
    pub(crate) fn trim(&self, catalogue: &mut Catalogue, contents: &Contents) -> Result<u64> {
        let first = self.sealed.state.lock().could_begin(catalogue.flushed, self.retention);
        if first > catalogue.log_first {
            let mut changed = catalogue.clone();
            changed.log_first = first;
            changed.replace(&self.directory)?;
            *catalogue = changed;
        }
        self.remove_before(catalogue.log_first, contents)
    }

    fn remove_before(&self, first: Sequence, contents: &Contents) -> Result<u64> {
        let mut removed = 0;
        while let Some(segment) = self.take_before(first) {
            contents.files().remove(segment.handle);
            let path = segment.file.path();
            self.directory.disk.remove(path).map_err(Error::io(path))?;
            removed += 1;
        }
        Ok(removed)
    }

    fn take_before(&self, first: Sequence) -> Option<Segment> {
        let mut state = self.sealed.state.lock();
        let goes = state.segments.front().is_some_and(|segment| segment.first() < first);
        goes.then(|| state.segments.pop_front())?
    }
}
