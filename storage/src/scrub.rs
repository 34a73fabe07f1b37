//! Reading a store that is in use, to find damage before somebody needs what is damaged.
//!
//! A [`Scrubber`] goes over all files that do not change any more: segments of the log but for the newest, runs, checkpoints of
//! the index, and the two small files that say what there is. It reads them by system calls, a few bytes in each step, on whatever
//! thread asks for a step, and holds no lock meanwhile: neither writers nor readers nor compaction wait for it, and a file that they
//! need no more is passed over.
//!
//! Every checksum is verified, and whatever else tells a file from another one, as [`crate::ReplicatedStore::verify`] does it. What
//! does not match is read once more before it is called damage, since a file may have been on its way out as it was read.
//!
//! What it does not do: it repairs nothing, and it does not choose its speed: its caller waits between steps. What the kernel has in
//! its cache is verified as it is there, whatever the disk holds by now; and the newest segment is verified when it is opened, or once
//! it is not the newest any more.

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use paddock_index::CheckpointVerifier;

use crate::contents::Contents;
use crate::damage::Damage;
use crate::data_file::DataFile;
use crate::directory::{Directory, segment_first};
use crate::disk::DiskFile;
use crate::error::{Error, Result};
use crate::file_table::{Handle, Source};
use crate::files::Catalogue;
use crate::header::{FILE_HEADER_BYTES, StoreId};
use crate::index_checkpoint::Checkpoint;
use crate::manifest::Manifest;
use crate::position::Sequence;
use crate::recovery::Walk;
use crate::run::{Run, RunVerifier};
use crate::segment::{SEGMENT_START, Segment};

/// Reads a store that is in use, file by file, and verifies it. See [`crate::ReplicatedStore::scrubber`].
pub struct Scrubber {
    contents: Arc<Contents>,
    directory: Directory,
    store_id: StoreId,
    /// What is left of this round; `None` between two rounds.
    round: Option<VecDeque<Unit>>,
    work: Option<(Unit, Work)>,
    /// The file at hand did not match, and is read once more.
    in_doubt: bool,
    position: ScrubPosition,
}

/// How far a round has come: which files are behind it. Kept by who wants to go on after a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScrubPosition(pub u64);

/// What a step came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Scrubbed {
    /// The file that was read; `None` at the end of a round.
    pub path: Option<PathBuf>,
    /// So many bytes of it, about.
    pub bytes: u64,
    /// What was found in it, for certain. The rest of the file is passed over.
    pub damage: Option<Damage>,
    /// Whether the damage is in a checkpoint of the index: nothing is lost with that, opening only takes longer.
    pub is_spare: bool,
    /// Whether every file that was there when the round began has been read.
    pub is_complete: bool,
}

/// A file that is to be read; in the order of the round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Unit {
    /// MANIFEST and FILES.
    Records,
    Segment(Sequence),
    Run(u32),
    Checkpoint(u32),
}

/// The file that is being read.
enum Work {
    Records,
    Segment(Box<SegmentWork>),
    Run(Box<RunVerifier>),
    Checkpoint(CheckpointWork),
}

struct SegmentWork {
    segment: Segment,
    walk: Walk,
    offset: u64,
    /// The first entry of the next segment.
    limit: Sequence,
}

struct CheckpointWork {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    verifier: CheckpointVerifier,
    start: u64,
    offset: u64,
}

impl fmt::Debug for Scrubber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scrubber({}, at {:?})", self.directory.path.display(), self.position)
    }
}

impl Clone for Scrubber {
    /// Another one, which begins a round of its own behind the files that this one has read.
    fn clone(&self) -> Self {
        Scrubber::new(self.contents.clone(), self.directory.clone(), self.store_id).resume(self.position)
    }
}

impl Unit {
    /// What is above that of every unit before it.
    fn position(self) -> ScrubPosition {
        const KIND_SHIFT: u32 = 60;
        ScrubPosition(match self {
            Unit::Records => 1,
            Unit::Segment(first) => (1 << KIND_SHIFT) + first.0,
            Unit::Run(number) => (2 << KIND_SHIFT) + u64::from(number),
            Unit::Checkpoint(number) => (3 << KIND_SHIFT) + u64::from(number),
        })
    }
}

impl Scrubber {
    pub(crate) fn new(contents: Arc<Contents>, directory: Directory, store_id: StoreId) -> Scrubber {
        Scrubber {
            contents,
            directory,
            store_id,
            round: None,
            work: None,
            in_doubt: false,
            position: ScrubPosition::default(),
        }
    }

    /// How far the round has come. At its end, and before the first one, [`ScrubPosition::default`].
    ///
    /// ```
    /// # use paddock_storage::{Options, ReplicatedStore, ScrubPosition};
    /// # let directory = tempfile::tempdir()?;
    /// # let store = ReplicatedStore::open(directory.path(), Options::new())?;
    /// assert_eq!(store.scrubber().position(), ScrubPosition::default());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn position(&self) -> ScrubPosition {
        self.position
    }

    /// Begins its round behind the files that an earlier one had read.
    ///
    /// ```
    /// # use paddock_storage::{Options, ReplicatedStore};
    /// # let directory = tempfile::tempdir()?;
    /// # let store = ReplicatedStore::open(directory.path(), Options::new())?;
    /// let mut scrubber = store.scrubber();
    /// scrubber.step(1 << 20)?;
    /// let position = scrubber.position();
    /// // Another day:
    /// let mut scrubber = store.scrubber().resume(position);
    /// scrubber.step(1 << 20)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn resume(mut self, position: ScrubPosition) -> Self {
        self.position = position;
        self
    }

    /// Reads about so many bytes, of one file, on this thread. Behind the last file the round is complete, and the next step
    /// begins another one. Damage is no error here: it is told, the store remembers it ([`crate::ReplicatedStore::damage`]), and the
    /// next step goes on with the next file.
    ///
    /// ```
    /// # use paddock_storage::{Options, ReplicatedStore};
    /// # let directory = tempfile::tempdir()?;
    /// # let store = ReplicatedStore::open(directory.path(), Options::new())?;
    /// let mut scrubber = store.scrubber();
    /// loop {
    ///     let scrubbed = scrubber.step(1 << 20)?;
    ///     assert_eq!(scrubbed.damage, None);
    ///     if scrubbed.is_complete {
    ///         break;
    ///     }
    ///     // Wait here, for as long as that many bytes are to take.
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`] when a directory cannot be listed. What cannot be read of a file is damage.
    pub fn step(&mut self, bytes_max: u64) -> Result<Scrubbed> {
        let (unit, mut work) = match self.work.take() {
            Some(work) => work,
            None => match self.next()? {
                Some(unit) => match self.begin(unit) {
                    Ok(Some(work)) => (unit, work),
                    // It is needed no more.
                    Ok(None) => return Ok(self.pass(unit, Scrubbed::default())),
                    Err(error) => return Ok(self.doubt(unit, error)),
                },
                None => {
                    (self.round, self.position) = (None, ScrubPosition::default());
                    return Ok(Scrubbed { is_complete: true, ..Scrubbed::default() });
                }
            },
        };
        let path = Some(self.path(unit));
        match work.step(bytes_max.max(1), self) {
            Ok((bytes, true)) => Ok(self.pass(unit, Scrubbed { path, bytes, ..Scrubbed::default() })),
            Ok((bytes, false)) => {
                self.work = Some((unit, work));
                Ok(Scrubbed { path, bytes, ..Scrubbed::default() })
            }
            Err(error) => Ok(self.doubt(unit, error)),
        }
    }

    /// The next file of the round, which begins if none is under way.
    fn next(&mut self) -> Result<Option<Unit>> {
        if self.round.is_none() {
            self.round = Some(self.plan()?);
        }
        Ok(self.round.as_ref().and_then(|round| round.front().copied()))
    }

    /// The files that there are, behind the position.
    fn plan(&self) -> Result<VecDeque<Unit>> {
        let mut units = vec![Unit::Records];
        units.extend(self.segments().iter().map(|(first, ..)| Unit::Segment(*first)));
        let view = self.contents.view();
        let runs = view.runs.iter().flat_map(|run| &run.files);
        units.extend(runs.map(|file| Unit::Run(file.run.number())));
        units.extend(self.directory.checkpoint_numbers()?.into_iter().map(Unit::Checkpoint));
        units.retain(|unit| unit.position() > self.position);
        units.sort_unstable();
        Ok(units.into())
    }

    /// This file is done with.
    fn pass(&mut self, unit: Unit, scrubbed: Scrubbed) -> Scrubbed {
        self.in_doubt = false;
        self.position = unit.position();
        if let Some(round) = &mut self.round {
            round.pop_front();
        }
        scrubbed
    }

    /// Something does not match: the file is read once more, and if it still does not, it is damaged.
    fn doubt(&mut self, unit: Unit, error: Error) -> Scrubbed {
        let path = Some(self.path(unit));
        if !std::mem::replace(&mut self.in_doubt, true) {
            return Scrubbed { path, ..Scrubbed::default() };
        }
        let damage = Damage::of(&error).unwrap_or_else(|| Damage {
            path: self.path(unit),
            offset: 0,
            what: format!("it cannot be read: {error}"),
        });
        let is_spare = matches!(unit, Unit::Checkpoint(_));
        if !is_spare {
            self.contents.damage().found(damage.clone());
        }
        self.pass(unit, Scrubbed { path, damage: Some(damage), is_spare, ..Scrubbed::default() })
    }

    fn path(&self, unit: Unit) -> PathBuf {
        match unit {
            Unit::Records => self.directory.manifest_path(),
            Unit::Segment(first) => self.directory.segment_path(first),
            Unit::Run(number) => self.directory.run_path(number),
            Unit::Checkpoint(number) => self.directory.index_path(number),
        }
    }

    /// Opens a file; `None` if it is not there any more, or may still change.
    fn begin(&self, unit: Unit) -> Result<Option<Work>> {
        Ok(match unit {
            Unit::Records => Some(Work::Records),
            Unit::Segment(first) => self.begin_segment(first)?.map(|work| Work::Segment(Box::new(work))),
            Unit::Run(number) => match self.run(number) {
                Some(run) => Some(Work::Run(Box::new(RunVerifier::new(run)?))),
                None => None,
            },
            Unit::Checkpoint(number) => match Checkpoint::open(&self.directory, self.store_id, number) {
                Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => None,
                opened => Some(Work::Checkpoint(CheckpointWork::new(opened?))),
            },
        })
    }

    fn begin_segment(&self, first: Sequence) -> Result<Option<SegmentWork>> {
        let segments = self.segments();
        let Some(at) = segments.iter().position(|(other, ..)| *other == first) else { return Ok(None) };
        // The newest one still grows.
        let (Some((_, handle, file)), Some((limit, ..))) = (segments.get(at), segments.get(at + 1)) else {
            return Ok(None);
        };
        // And what is not applied may be cut off: while that is done the table has segments of before and of afterwards.
        if limit.previous() > self.contents.applied() {
            return Ok(None);
        }
        let segment = Segment::to_verify(*handle, file.clone(), self.store_id, first)?;
        let walk = Walk::new(self.store_id, segment.start);
        Ok(Some(SegmentWork { segment, walk, offset: SEGMENT_START, limit: *limit }))
    }

    /// The segments of the log, in their order. A cut may leave two of one name for a moment, of which nothing is applied.
    fn segments(&self) -> Vec<(Sequence, Handle, Arc<DataFile>)> {
        let files = self.contents.files().load_full();
        let mut segments = Vec::new();
        for (handle, file) in files.with_handles() {
            if let Source::Segment(data) = &file.source
                && let Some(first) = file.path().file_name().and_then(|name| segment_first(name.to_str()?))
            {
                segments.push((first, handle, data.clone()));
            }
        }
        segments.sort_by_key(|(first, ..)| *first);
        segments.dedup_by_key(|(first, ..)| *first);
        segments
    }

    fn run(&self, number: u32) -> Option<Arc<Run>> {
        let view = self.contents.view();
        let mut files = view.runs.iter().flat_map(|run| &run.files);
        files.find(|file| file.run.number() == number).map(|file| file.run.clone())
    }

    /// Reads the files that say what there is. Each is replaced as a whole, so any moment will do.
    fn records(&self) -> Result<u64> {
        match Manifest::load(&self.directory)? {
            Some(manifest) if manifest.store_id == self.store_id => {}
            _ => {
                return Err(Error::corrupt(
                    &self.directory.manifest_path(),
                    0,
                    "missing, or of another store",
                ));
            }
        }
        let catalogue = Catalogue::load(&self.directory, self.store_id)?;
        Ok((FILE_HEADER_BYTES * (2 + catalogue.files().count())) as u64)
    }
}

impl Work {
    /// Reads so many bytes, about. Returns how many, and whether it is over.
    fn step(&mut self, bytes_max: u64, scrubber: &Scrubber) -> Result<(u64, bool)> {
        match self {
            Work::Records => scrubber.records().map(|bytes| (bytes, true)),
            Work::Segment(work) => work.step(bytes_max),
            Work::Run(verifier) => Ok(verifier.step(bytes_max)?.map_or((0, true), |bytes| (bytes, false))),
            Work::Checkpoint(work) => work.step(bytes_max),
        }
    }
}

impl SegmentWork {
    fn step(&mut self, bytes_max: u64) -> Result<(u64, bool)> {
        let SegmentWork { segment, walk, offset, limit } = self;
        let start = *offset;
        let end = walk.batches(segment, offset, bytes_max, Some(*limit), |_, _| {})?;
        match end {
            Some(end) => match end.missing {
                Some(what) => Err(Error::corrupt(segment.file.path(), end.offset, what)),
                None => Ok((*offset - start, true)),
            },
            None => Ok((*offset - start, false)),
        }
    }
}

impl CheckpointWork {
    fn new(checkpoint: Checkpoint) -> CheckpointWork {
        let start = checkpoint.index_start();
        let (path, file) = checkpoint.into_file();
        CheckpointWork { file, path, verifier: CheckpointVerifier::default(), start, offset: start }
    }

    fn step(&mut self, bytes_max: u64) -> Result<(u64, bool)> {
        const PAGES_AT_ONCE: usize = 64;
        let begun = self.offset;
        let mut buffer = vec![0; PAGES_AT_ONCE * CheckpointVerifier::PAGE_BYTES];
        while self.offset - begun < bytes_max {
            let read = self.file.read_at(&mut buffer, self.offset).map_err(Error::io(&self.path))?;
            let pages = buffer.get(..read).unwrap_or_default().chunks(CheckpointVerifier::PAGE_BYTES);
            if read == 0 {
                return Err(Error::corrupt(&self.path, self.offset, "it is cut off"));
            }
            for page in pages {
                let corrupt = |error| Error::corrupt(&self.path, self.start, format!("{error}"));
                let is_over = self.verifier.page(page).map_err(corrupt)?;
                self.offset += page.len() as u64;
                if is_over {
                    return Ok((self.offset - begun, true));
                }
            }
        }
        Ok((self.offset - begun, false))
    }
}
