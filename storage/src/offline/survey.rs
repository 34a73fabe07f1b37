//! Goes over all files of a store, and goes on where one is damaged.

use std::sync::Arc;

use paddock_index::HashIndex;

use super::report::{FileReport, Report, SegmentReport, TornTail, Verified};
use crate::contents::Contents;
use crate::directory::Directory;
use crate::error::{Error, Result};
use crate::file_table::Files;
use crate::files::Catalogue;
use crate::header::FORMAT;
use crate::manifest::{Kind, Manifest};
use crate::memory::Memory;
use crate::options::{Mapping, Options};
use crate::position::{Position, Sequence};
use crate::recovery::Walk;
use crate::segment::{Chain, Segment};

/// How much is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// What files say of themselves, and how the log ends.
    Headers,
    /// Every byte.
    Everything,
}

pub(super) fn survey(
    directory: &Directory,
    options: &Options,
    manifest: &Manifest,
    depth: Depth,
) -> Result<Report> {
    let mut report = Report {
        path: directory.path.clone(),
        store_id: manifest.store_id,
        kind: manifest.kind.name(),
        format: FORMAT,
        metadata_bytes: manifest.metadata.len() as u64,
        last: Position::default(),
        known_commit: Sequence(0),
        log_first: Sequence(1),
        flushed: Sequence(0),
        segments: Vec::new(),
        runs: Vec::new(),
        checkpoints: Vec::new(),
        torn_tail: None,
        leftovers: Vec::new(),
        damages: Vec::new(),
        verified: (depth == Depth::Everything).then(Verified::default),
    };
    // By system calls: a disk that fails answers them with an error, and a mapping with a signal.
    let memory = Memory::new(&options.clone().mapping(Mapping::Never));
    let catalogue = report.note(Catalogue::load(directory, manifest.store_id))?;
    if let Some(catalogue) = &catalogue {
        report.flushed = catalogue.flushed;
        report.log_first = catalogue.log_first;
        super::survey_runs::runs(&mut report, directory, &memory, catalogue, depth)?;
    }
    let begins = catalogue.as_ref().map(|catalogue| catalogue.log_first);
    // Nothing is looked up here: segments only have to be entered somewhere.
    let contents = Contents::new(Files::default(), HashIndex::new(0), true);
    LogSurvey { directory, manifest, depth, contents, memory: &memory, report: &mut report }
        .segments(begins)?;
    report.checkpoints = checkpoints(directory)?;
    // Without FILES nobody can say what is not needed.
    report.leftovers = directory.leftovers(
        |first| begins.is_none_or(|begins| first >= begins),
        |number| catalogue.as_ref().is_none_or(|catalogue| catalogue.has(number)),
    )?;
    Ok(report)
}

/// The checkpoints of the index, oldest first. One that is damaged is no loss: opening passes over it.
fn checkpoints(directory: &Directory) -> Result<Vec<FileReport>> {
    let mut numbers = directory.checkpoint_numbers()?;
    numbers.sort_unstable();
    let report = |number| {
        let path = directory.index_path(number);
        let bytes = directory.disk.open_read(&path).and_then(|file| file.len()).map_err(Error::io(&path))?;
        Ok(FileReport { path, bytes })
    };
    numbers.into_iter().map(report).collect()
}

/// The log's part of it.
struct LogSurvey<'a> {
    directory: &'a Directory,
    manifest: &'a Manifest,
    depth: Depth,
    contents: Contents,
    memory: &'a Arc<Memory>,
    report: &'a mut Report,
}

impl LogSurvey<'_> {
    /// Surveys all segments. `begins`: where the log begins, if that is known.
    fn segments(&mut self, begins: Option<Sequence>) -> Result<()> {
        let Some(mut firsts) = self.report.note(self.directory.segments())? else { return Ok(()) };
        if let Some(begins) = begins {
            firsts.retain(|first| *first >= begins);
        }
        let begins = begins.or(firsts.first().copied()).unwrap_or(Chain::START.next);
        self.report.log_first = begins;
        let lost = match firsts.first() {
            None => Some((self.directory.log.clone(), "the log has no segment, though MANIFEST is there")),
            Some(first) if *first == begins => None,
            Some(_) => Some((self.directory.segment_path(begins), "the log's oldest segment is missing")),
        };
        if let Some((path, what)) = lost {
            self.report.note::<()>(Err(Error::corrupt(&path, 0, what)))?;
        }
        let mut walk = None;
        for (index, first) in firsts.iter().enumerate() {
            self.segment(*first, firsts.get(index + 1).copied(), &mut walk)?;
        }
        Ok(())
    }

    /// Surveys one segment. `walk` is what is known before it: nothing, if that was not read or is damaged.
    fn segment(&mut self, first: Sequence, next: Option<Sequence>, walk: &mut Option<Walk>) -> Result<()> {
        let store_id = self.manifest.store_id;
        let opened = Segment::open(self.directory, &self.contents, self.memory, store_id, first, 0);
        let Some(segment) = self.report.note(opened)? else {
            *walk = None;
            return Ok(());
        };
        self.report.segments.push(SegmentReport {
            path: segment.file.path().to_path_buf(),
            bytes: segment.allocated,
            first,
            // What the next one cuts off does not count.
            last: next.unwrap_or(first).previous(),
            epoch_before: segment.start.epoch,
        });
        if next.is_some() && self.depth == Depth::Headers {
            return Ok(());
        }
        let mut current =
            walk.take().unwrap_or_else(|| Walk::new(self.manifest.store_id, self.start_of(&segment)));
        // Everything that was flushed had been durable before.
        current.proven = current.proven.max(self.report.flushed);
        let read = self.read(&segment, next, &mut current);
        let whole = self.report.note(read)?.is_some();
        if next.is_none() {
            self.note_end(&current);
        }
        *walk = whole.then_some(current);
        Ok(())
    }

    /// What the segment has to follow: the beginning of a whole log is known, any other is taken from the segment.
    fn start_of(&self, segment: &Segment) -> Chain {
        if segment.first() == Chain::START.next { Chain::START } else { segment.start }
    }

    /// Reads a segment's batches, and finds out how it ends.
    fn read(&mut self, segment: &Segment, next: Option<Sequence>, walk: &mut Walk) -> Result<()> {
        let mut verified = Verified::default();
        let end = walk.segment(segment, next, |batch, _| {
            verified.batches += 1;
            verified.entries += u64::from(batch.rows.count());
        })?;
        if let Some(total) = &mut self.report.verified {
            total.batches += verified.batches;
            total.entries += verified.entries;
        }
        let path = segment.file.path();
        let durable = |missing: &str| {
            let what = format!("{missing}, and entry {} was durable", walk.chain.next);
            Err(Error::corrupt(path, end.offset, what))
        };
        match (next, end.missing) {
            (_, None) => Ok(()),
            (Some(_), Some(missing)) => durable(missing),
            (None, Some(missing)) if walk.chain.next <= self.report.flushed => durable(missing),
            (None, Some(_)) => {
                let bytes = walk.torn_bytes(segment, &end)?;
                let tail = TornTail { path: path.to_path_buf(), offset: end.offset, bytes };
                self.report.torn_tail = (bytes > 0).then_some(tail);
                Ok(())
            }
        }
    }

    fn note_end(&mut self, walk: &Walk) {
        let last = walk.chain.next.previous();
        self.report.last = Position { epoch: walk.chain.epoch, sequence: last };
        self.report.known_commit = match self.manifest.kind {
            // What was flushed was committed.
            Kind::Replicated => walk.known_commit.max(self.report.flushed).min(last),
            Kind::Standalone => last,
        };
        if let Some(segment) = self.report.segments.last_mut() {
            segment.last = last;
        }
    }
}
