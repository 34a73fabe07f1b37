//! What can still be read of a damaged store: every row that verifies by itself, and the names of what could not be read.
//!
//! Opening refuses a store where something is damaged that was durable, since it would serve less than it acknowledged. This is for
//! who has no other copy. It reads the files that FILES names (all that are there, if FILES is damaged) block by block, batch by
//! batch, row by row, goes on behind what is damaged, and takes of each key the row of the highest sequence.
//!
//! So a key whose newest row is damaged comes with an older value, if some file has one still, or comes back though it was
//! deleted. It keeps all keys in memory, and reads values again when they are asked for.

use std::collections::{BTreeMap, btree_map};
use std::path::Path;
use std::sync::Arc;

use crate::batch::{BATCH_ALIGNMENT, BATCH_HEADER_BYTES, BatchHeader};
use crate::damage::Damage;
use crate::data_file::DataFile;
use crate::directory::Directory;
use crate::error::{Error, Result};
use crate::file_table::Source;
use crate::files::{Catalogue, CataloguedFile, CataloguedRun};
use crate::manifest::{Kind, Manifest};
use crate::memory::Memory;
use crate::options::{Mapping, Options};
use crate::position::Sequence;
use crate::record::Record;
use crate::row::{RowRef, verified};
use crate::run::Run;
use crate::segment::{SEGMENT_START, is_zero};
use crate::window::Window;

/// The records of a damaged store, in the order of their keys, as far as they can be read: see
/// [`super::OfflineStore::salvage`].
#[derive(Debug)]
pub struct Salvage {
    records: btree_map::IntoIter<Vec<u8>, Found>,
    files: Vec<Source>,
    damages: Vec<Damage>,
}

/// A key's newest row so far.
#[derive(Debug)]
struct Found {
    sequence: Sequence,
    is_put: bool,
    /// Which of the files.
    file: usize,
    /// Where in it: in a run its logical offset.
    offset: u64,
    length: usize,
}

/// What has been gathered.
struct Gathering<'a> {
    directory: &'a Directory,
    manifest: &'a Manifest,
    memory: Arc<Memory>,
    files: Vec<Source>,
    damages: Vec<Damage>,
    newest: BTreeMap<Vec<u8>, Found>,
    /// Rows of the log, in its order: which of them count, its end says.
    logged: Vec<(Vec<u8>, Found)>,
    known_commit: Sequence,
}

pub(super) fn salvage(
    directory: &Directory,
    options: &Options,
    manifest: &Manifest,
    uncommitted: bool,
) -> Result<Salvage> {
    let mut gathering = Gathering {
        directory,
        manifest,
        // By system calls: what the disk cannot read is an error then.
        memory: Memory::new(&options.clone().mapping(Mapping::Never)),
        files: Vec::new(),
        damages: Vec::new(),
        newest: BTreeMap::new(),
        logged: Vec::new(),
        known_commit: Sequence(0),
    };
    let catalogue = match Catalogue::load(directory, manifest.store_id) {
        Ok(catalogue) => catalogue,
        Err(error) => {
            gathering.note(&directory.files_path(), error)?;
            gathering.all_runs()?
        }
    };
    for run in &catalogue.runs {
        for file in &run.files {
            gathering.run(file.number, run.from.as_deref())?;
        }
    }
    gathering.log(&catalogue)?;
    let counts_through = match manifest.kind {
        Kind::Replicated if !uncommitted => gathering.known_commit.max(catalogue.flushed),
        _ => Sequence(u64::MAX),
    };
    for (key, found) in std::mem::take(&mut gathering.logged) {
        if found.sequence <= counts_through {
            gathering.take(key, found);
        }
    }
    let Gathering { files, damages, newest, .. } = gathering;
    Ok(Salvage { records: newest.into_iter(), files, damages })
}

impl Salvage {
    /// What could not be read. The records lack what was there.
    ///
    /// ```
    /// use paddock_storage::Options;
    /// use paddock_storage::offline::OfflineStore;
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("birds");
    /// # let store = paddock_storage::Store::open(&path)?;
    /// # store.insert("robin", "red")?;
    /// # store.close()?;
    /// let salvage = OfflineStore::open(&path, Options::new())?.salvage(false)?;
    /// assert!(salvage.damages().is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn damages(&self) -> &[Damage] {
        &self.damages
    }

    fn read(&self, found: &Found) -> Result<Option<Record>> {
        let mut buffer = Vec::new();
        let Some(file) = self.files.get(found.file) else { return Ok(None) };
        let row = match file {
            Source::Segment(segment) => {
                let bytes = segment.read(found.offset, found.length, &mut buffer)?;
                verified(bytes).map_err(|what| Error::corrupt(segment.path(), found.offset, what))?
            }
            // No run is longer than what 32 bits hold.
            Source::Run(run) => {
                let offset = u32::try_from(found.offset).unwrap_or(u32::MAX);
                run.row_at(offset, found.length, &mut buffer)?
            }
        };
        Ok(Record::of(&row))
    }
}

impl Iterator for Salvage {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (_, found) = self.records.next()?;
            if found.is_put {
                return self.read(&found).transpose();
            }
        }
    }
}

impl Gathering<'_> {
    /// Takes down what cannot be read, whether its bytes are wrong or the disk has none.
    fn note(&mut self, path: &Path, error: Error) -> Result<()> {
        let damage = match error {
            Error::Corrupt { path, offset, what } => Damage { path, offset, what },
            Error::Io { source, .. } => {
                Damage { path: path.to_path_buf(), offset: 0, what: source.to_string() }
            }
            other => return Err(other),
        };
        self.damages.push(damage);
        Ok(())
    }

    fn take(&mut self, key: Vec<u8>, found: Found) {
        match self.newest.entry(key) {
            btree_map::Entry::Vacant(entry) => drop(entry.insert(found)),
            btree_map::Entry::Occupied(mut entry) if entry.get().sequence < found.sequence => {
                entry.insert(found);
            }
            btree_map::Entry::Occupied(_) => {}
        }
    }

    /// What FILES would say if it named every run that is there.
    fn all_runs(&self) -> Result<Catalogue> {
        let mut numbers = self.directory.run_numbers()?;
        numbers.sort_unstable();
        let mut catalogue = Catalogue::new(self.manifest.store_id);
        catalogue.runs = numbers
            .into_iter()
            .map(|number| CataloguedRun {
                first: Sequence(0),
                last: Sequence(0),
                cold: false,
                from: None,
                files: vec![CataloguedFile { number, bytes: 0 }],
            })
            .collect();
        Ok(catalogue)
    }

    fn run(&mut self, number: u32, from: Option<&[u8]>) -> Result<()> {
        let path = self.directory.run_path(number);
        let run = match Run::open(self.directory, &self.memory, number, self.manifest.store_id) {
            Ok(run) => run,
            Err(error) => return self.note(&path, error),
        };
        let file = self.files.len();
        self.files.push(Source::Run(run.clone()));
        let mut cursor = run.cursor_avoiding_the_mapping();
        loop {
            let (sequence, is_put, length) = match cursor.next() {
                Ok(Some(row)) => (row.sequence, row.row.is_put(), row.bytes.len()),
                Ok(None) => return Ok(()),
                Err(error) => {
                    self.note(&path, error)?;
                    cursor.skip_damage();
                    continue;
                }
            };
            let (key, offset) = (cursor.key(), u64::from(cursor.offset().unwrap_or_default()));
            if from.is_none_or(|from| key >= from) {
                self.take(key.to_vec(), Found { sequence, is_put, file, offset, length });
            }
        }
    }

    fn log(&mut self, catalogue: &Catalogue) -> Result<()> {
        let mut firsts = match self.directory.segments() {
            Ok(firsts) => firsts,
            Err(error) => {
                let log = self.directory.log.clone();
                return self.note(&log, error);
            }
        };
        firsts.retain(|first| *first >= catalogue.log_first);
        for (index, first) in firsts.iter().enumerate() {
            let path = self.directory.segment_path(*first);
            let next = firsts.get(index + 1).copied();
            if let Err(error) = self.segment(&path, *first, next, catalogue.flushed) {
                self.note(&path, error)?;
            }
        }
        Ok(())
    }

    /// Reads a segment's batches, wherever one begins. Entries from `next` on were cut off; those that were flushed are in runs.
    fn segment(
        &mut self,
        path: &Path,
        first: Sequence,
        next: Option<Sequence>,
        flushed: Sequence,
    ) -> Result<()> {
        let opened = self.directory.disk.open_read(path).map_err(Error::io(path))?;
        let length = opened.len().map_err(Error::io(path))?;
        let file = Arc::new(self.memory.data_file(path.into(), opened, length, length));
        self.files.push(Source::Segment(file.clone()));
        let mut window = Window::new(&file, length);
        let (mut offset, mut expected, mut gap) = (SEGMENT_START, first, None);
        while let Some(bytes) = window.get(offset, BATCH_HEADER_BYTES as u64)? {
            let Some(header) = BatchHeader::decode(&bytes, self.manifest.store_id) else {
                if gap.is_none() && !is_zero(&bytes[..BATCH_ALIGNMENT as usize]) {
                    gap = Some(offset);
                }
                offset += BATCH_ALIGNMENT;
                continue;
            };
            if header.first != expected || gap.is_some() {
                let what = format!("entries {expected} to {} cannot be read", header.first.previous());
                self.note(path, Error::corrupt(path, gap.unwrap_or(offset), what))?;
            }
            gap = None;
            self.known_commit = self.known_commit.max(header.known_commit);
            let counts = (flushed, next.unwrap_or(Sequence(u64::MAX)));
            self.batch(&file, &mut window, offset, &header, counts)?;
            expected = header.next();
            offset += header.batch_bytes();
        }
        let is_missing = next.is_some_and(|next| expected < next);
        if is_missing || gap.is_some() {
            let what = format!("what may have followed entry {} cannot be read", expected.previous());
            self.note(path, Error::corrupt(path, gap.unwrap_or(offset), what))?;
        }
        Ok(())
    }

    /// Takes the rows of a batch up to the first that is damaged: behind that nobody knows where one begins.
    fn batch(
        &mut self,
        file: &Arc<DataFile>,
        window: &mut Window<'_>,
        offset: u64,
        header: &BatchHeader,
        (flushed, next): (Sequence, Sequence),
    ) -> Result<()> {
        let start = offset + BATCH_HEADER_BYTES as u64;
        let rows = window.get(start, u64::from(header.rows_bytes))?.unwrap_or_default();
        let (mut at, mut sequence) = (0, header.first);
        while sequence < header.next() {
            let row = match verified(&rows[at.min(rows.len())..]) {
                Ok(row) if row.sequence == sequence => row,
                _ => {
                    let what = format!("entries {sequence} to {} cannot be read", header.next().previous());
                    return self.note(file.path(), Error::corrupt(file.path(), start + at as u64, what));
                }
            };
            if sequence > flushed
                && sequence < next
                && let RowRef::Put { key, .. } | RowRef::Delete { key } = row.row
            {
                let found = Found {
                    sequence,
                    is_put: row.row.is_put(),
                    file: self.files.len() - 1,
                    offset: start + at as u64,
                    length: row.bytes.len(),
                };
                self.logged.push((key.to_vec(), found));
            }
            at += row.bytes.len();
            sequence = sequence.next();
        }
        Ok(())
    }
}
