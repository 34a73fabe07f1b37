//! FILES: which runs there are, and how far they reach. FORMAT.md, "FILES".
//!
//! A [`Catalogue`] is plain data: who compacts has one, changes a copy of it, puts that on the disk with
//! [`Catalogue::replace`], and from then on goes by the copy. So what FILES says changes at once, or not at all; and that
//! is what makes every step of a compaction safe: files are made before it, and removed after it.
//!
//! What it does not do: it opens no run. That a run is whole is for the run itself to say; here it only has to be there,
//! and as long as it was.

mod encoding;

use std::io;

use crate::directory::{Directory, Unfinished};
use crate::error::{Error, Result};
use crate::header::StoreId;
use crate::position::{EpochStart, Sequence};

/// What FILES says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Catalogue {
    pub(crate) store_id: StoreId,
    /// Above the number of every run that there is or was.
    pub(crate) next_number: u32,
    /// Of every entry up to here, what still counts is in a run.
    pub(crate) flushed: Sequence,
    /// The first sequence of the log's oldest segment.
    pub(crate) log_first: Sequence,
    /// The epochs of entries up to `flushed`.
    pub(crate) epochs: Vec<EpochStart>,
    /// Oldest first.
    pub(crate) runs: Vec<CataloguedRun>,
    /// Whether there is a FILES.
    stored: bool,
}

/// Rows in key order, in one file or in several that follow one another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CataloguedRun {
    /// What it holds was written from `first` to `last`, and of what was written then nothing else counts.
    pub(crate) first: Sequence,
    pub(crate) last: Sequence,
    /// Whether the hash index leaves it out.
    pub(crate) cold: bool,
    /// Only keys from here on count: a merge under way has moved the others on.
    pub(crate) from: Option<Box<[u8]>>,
    /// In the order of their keys, which do not overlap.
    pub(crate) files: Vec<CataloguedFile>,
}

/// A file of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CataloguedFile {
    /// Its name.
    pub(crate) number: u32,
    /// Its length.
    pub(crate) bytes: u64,
}

impl Catalogue {
    /// That of a store without runs.
    pub(crate) fn new(store_id: StoreId) -> Catalogue {
        Catalogue {
            store_id,
            next_number: 1,
            flushed: Sequence(0),
            log_first: Sequence(1),
            epochs: Vec::new(),
            runs: Vec::new(),
            stored: false,
        }
    }

    /// Reads FILES. Without one the store has no runs; runs without it are what is left of a lost one.
    pub(crate) fn load(directory: &Directory, store_id: StoreId) -> Result<Catalogue> {
        let path = directory.files_path();
        let file = match directory.disk.open_read(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return match directory.run_numbers()?.is_empty() {
                    true => Ok(Catalogue::new(store_id)),
                    false => Err(Error::corrupt(&path, 0, "missing, although there are runs")),
                };
            }
            Err(error) => return Err(Error::io(&path)(error)),
        };
        let bytes = encoding::read(&*file, &path)?;
        let catalogue = Catalogue::decode(&bytes, &path)?;
        if catalogue.store_id != store_id {
            let what = format!("of store {}, MANIFEST of {store_id}", catalogue.store_id);
            return Err(Error::corrupt(&path, 16, what));
        }
        Ok(catalogue)
    }

    /// Puts this in the place of what FILES says, durably. [`Error::DiskFull`]: everything is as it was. After any other
    /// failure nobody knows which of the two there is, and only opening finds out.
    pub(crate) fn replace(&mut self, directory: &Directory) -> Result<()> {
        self.write(directory)?.publish()?;
        self.stored = true;
        Ok(())
    }

    /// The same for who has to know whether FILES may have changed: `is_changing` is set before that can be.
    pub(crate) fn replace_telling(&mut self, directory: &Directory, is_changing: &mut bool) -> Result<()> {
        let written = self.write(directory)?;
        *is_changing = true;
        match written.publish() {
            Err(error @ Error::DiskFull { .. }) => {
                *is_changing = false;
                Err(error)
            }
            published => {
                published?;
                self.stored = true;
                Ok(())
            }
        }
    }

    /// Writes it beside FILES.
    fn write(&self, directory: &Directory) -> Result<Unfinished> {
        let path = directory.files_path();
        self.valid().map_err(|what| Error::corrupt(&path, 0, format!("not written: {what}")))?;
        let bytes = self.encode();
        Unfinished::make(&directory.disk, &path, |file| file.write_at(&bytes, 0))
    }

    /// The number for a new run. Before the first one there has to be a FILES, and this makes it: a run without it would
    /// look like one whose FILES was lost.
    pub(crate) fn take_number(&mut self, directory: &Directory) -> Result<u32> {
        if !self.stored {
            self.replace(directory)?;
        }
        let number = self.next_number;
        self.next_number = number.checked_add(1).ok_or(Error::TooLarge {
            what: "runs since the store was made",
            actual: u64::from(number),
            limit: u64::from(number - 1),
        })?;
        Ok(number)
    }

    /// Whether a run of this number belongs to the store.
    pub(crate) fn has(&self, number: u32) -> bool {
        self.files().any(|file| file.number == number)
    }

    /// All files of all runs.
    pub(crate) fn files(&self) -> impl Iterator<Item = &CataloguedFile> {
        self.runs.iter().flat_map(|run| &run.files)
    }

    /// That every run is there, and as long as it was.
    pub(crate) fn check_files(&self, directory: &Directory) -> Result<()> {
        self.files().try_for_each(|file| file.check(directory))
    }

    /// Removes what an earlier process left behind when it ended: runs that FILES does not name, and what was still being
    /// made.
    pub(crate) fn remove_leftovers(&self, directory: &Directory) -> Result<()> {
        directory.remove_unfinished_files()?;
        directory.remove_runs_but(|number| self.has(number))
    }
}

impl CataloguedFile {
    pub(crate) fn check(&self, directory: &Directory) -> Result<()> {
        let path = directory.run_path(self.number);
        let file = match directory.disk.open_read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::corrupt(&path, 0, "missing, although FILES names it"));
            }
            opened => opened.map_err(Error::io(&path))?,
        };
        let bytes = file.len().map_err(Error::io(&path))?;
        if bytes != self.bytes {
            let what = format!("the file has {bytes} bytes, FILES says {}", self.bytes);
            return Err(Error::corrupt(&path, bytes.min(self.bytes), what));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
