//! The store's directory: names in it, and the care that makes names last.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskFile};
use crate::error::{Error, Result};
use crate::position::Sequence;

/// Files that were being made end in this. Opening a store removes them, but only those of names that a store gives: the
/// directory may be one that its owner keeps other things in.
pub(crate) const UNFINISHED: &str = ".tmp";

/// What the names of segments end in.
const SEGMENT: &str = ".log";

/// What the names of the index's checkpoints end in.
const CHECKPOINT: &str = ".ckpt";

/// What the names of runs end in.
const RUN: &str = ".run";

/// Paths of a store, and the disk that they are on.
#[derive(Clone, Debug)]
pub(crate) struct Directory {
    pub(crate) path: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) runs: PathBuf,
    pub(crate) index: PathBuf,
    pub(crate) disk: Arc<dyn Disk>,
}

impl Directory {
    /// The paths of a store, whether there is one or not.
    pub(crate) fn at(path: &Path, disk: Arc<dyn Disk>) -> Result<Directory> {
        let path = std::path::absolute(path).map_err(Error::io(path))?;
        let (log, runs, index) = (path.join("log"), path.join("runs"), path.join("index"));
        Ok(Directory { path, log, runs, index, disk })
    }

    /// Makes the directory, its parents and those for the log, the runs and the index's checkpoints where they are missing,
    /// and makes the new names durable in their parents.
    pub(crate) fn prepare(path: &Path, disk: Arc<dyn Disk>) -> Result<Directory> {
        let directory = Directory::at(path, disk)?;
        directory.make(&directory.log)?;
        directory.make(&directory.runs)?;
        directory.make(&directory.index)?;
        Ok(directory)
    }

    /// Makes a directory and its parents where they are missing, and the new names durable.
    pub(crate) fn make(&self, path: &Path) -> Result<()> {
        let missing: Vec<&Path> =
            path.ancestors().take_while(|ancestor| !self.disk.dir_exists(ancestor)).collect();
        for ancestor in missing.into_iter().rev() {
            self.disk.create_dir(ancestor).map_err(Error::space(ancestor))?;
            if let Some(parent) = ancestor.parent() {
                self.disk.sync_dir(parent).map_err(Error::io(parent))?;
            }
        }
        Ok(())
    }

    /// Makes the names above the store durable. An earlier process may have made directories and died before
    /// it could see to that. What lies further up and may not be opened is not ours to make durable.
    pub(crate) fn sync_ancestors(&self) -> Result<()> {
        if let Some(parent) = self.path.parent() {
            self.disk.sync_dir(parent).map_err(Error::io(parent))?;
            for ancestor in parent.ancestors().skip(1) {
                let _ = self.disk.sync_dir(ancestor);
            }
        }
        self.sync()
    }

    pub(crate) fn sync(&self) -> Result<()> {
        self.disk.sync_dir(&self.path).map_err(Error::io(&self.path))
    }

    pub(crate) fn sync_log(&self) -> Result<()> {
        self.disk.sync_dir(&self.log).map_err(Error::io(&self.log))
    }

    /// The names in one of its directories: none where that is missing, which is for those to judge who need what was in it.
    pub(crate) fn names(&self, directory: &Path) -> Result<Vec<String>> {
        match self.disk.list(directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            names => names.map_err(Error::io(directory)),
        }
    }

    pub(crate) fn lock_path(&self) -> PathBuf {
        self.path.join("LOCK")
    }

    pub(crate) fn manifest_path(&self) -> PathBuf {
        self.path.join("MANIFEST")
    }

    pub(crate) fn files_path(&self) -> PathBuf {
        self.path.join("FILES")
    }

    pub(crate) fn run_path(&self, number: u32) -> PathBuf {
        self.runs.join(format!("{number:08}{RUN}"))
    }

    /// The numbers of the runs that are there, in any order. What has another name is none of ours.
    pub(crate) fn run_numbers(&self) -> Result<Vec<u32>> {
        Ok(self.names(&self.runs)?.iter().filter_map(|name| run_number(name)).collect())
    }

    /// Removes runs that an earlier process was making when it ended, and those that did not live to be named in FILES.
    pub(crate) fn remove_runs_but(&self, keep: impl Fn(u32) -> bool) -> Result<()> {
        for name in self.names(&self.runs)? {
            let unfinished = name.strip_suffix(UNFINISHED).is_some_and(|name| run_number(name).is_some());
            if unfinished || run_number(&name).is_some_and(|number| !keep(number)) {
                let path = self.runs.join(name);
                self.disk.remove(&path).map_err(Error::io(&path))?;
            }
        }
        Ok(())
    }

    pub(crate) fn index_path(&self, number: u32) -> PathBuf {
        self.index.join(format!("{number:08}{CHECKPOINT}"))
    }

    /// The numbers of the index's checkpoints, in any order.
    pub(crate) fn checkpoint_numbers(&self) -> Result<Vec<u32>> {
        Ok(self.names(&self.index)?.iter().filter_map(|name| checkpoint_number(name)).collect())
    }

    /// Removes checkpoints, finished or not, but for one. That they are gone lasts when this returns: also of those that an
    /// earlier process removed, which was killed before it had seen to that. One that comes back may be too old.
    pub(crate) fn remove_checkpoints_but(&self, keep: Option<u32>) -> Result<()> {
        for name in self.names(&self.index)? {
            let number = checkpoint_number(name.strip_suffix(UNFINISHED).unwrap_or(&name));
            if number.is_some_and(|number| keep != Some(number) || name.ends_with(UNFINISHED)) {
                let path = self.index.join(name);
                self.disk.remove(&path).map_err(Error::io(&path))?;
            }
        }
        self.disk.sync_dir(&self.index).map_err(Error::io(&self.index))
    }

    /// Removes a FILES that an earlier process was making when it ended.
    pub(crate) fn remove_unfinished_files(&self) -> Result<()> {
        let path = temporary(&self.files_path());
        match self.disk.remove(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(Error::io(&path)),
        }
    }

    pub(crate) fn segment_path(&self, first: Sequence) -> PathBuf {
        self.log.join(format!("{:020}{SEGMENT}", first.0))
    }

    /// The first sequences of the segments, ascending.
    pub(crate) fn segments(&self) -> Result<Vec<Sequence>> {
        let mut firsts = Vec::new();
        for name in self.names(&self.log)? {
            if !name.ends_with(SEGMENT) {
                continue;
            }
            match segment_first(&name) {
                Some(first) => firsts.push(first),
                None => return Err(Error::corrupt(&self.log.join(name), 0, "not the name of a segment")),
            }
        }
        firsts.sort_unstable();
        Ok(firsts)
    }

    /// What an earlier process left behind when it ended, and the next opening removes: files that were being made, and
    /// runs and segments that are not needed.
    pub(crate) fn leftovers(
        &self,
        needs_segment: impl Fn(Sequence) -> bool,
        needs_run: impl Fn(u32) -> bool,
    ) -> Result<Vec<PathBuf>> {
        let mut leftovers = Vec::new();
        for name in self.names(&self.log)? {
            let unfinished = name.strip_suffix(UNFINISHED).is_some_and(|name| segment_first(name).is_some());
            if unfinished || segment_first(&name).is_some_and(|first| !needs_segment(first)) {
                leftovers.push(self.log.join(name));
            }
        }
        for name in self.names(&self.runs)? {
            let unfinished = name.strip_suffix(UNFINISHED).is_some_and(|name| run_number(name).is_some());
            if unfinished || run_number(&name).is_some_and(|number| !needs_run(number)) {
                leftovers.push(self.runs.join(name));
            }
        }
        let files = temporary(&self.files_path());
        if self.disk.open_read(&files).is_ok() {
            leftovers.push(files);
        }
        leftovers.sort();
        Ok(leftovers)
    }

    /// Removes segments that an earlier process was making when it ended.
    pub(crate) fn remove_unfinished_segments(&self) -> Result<()> {
        for name in self.names(&self.log)? {
            if name.strip_suffix(UNFINISHED).is_some_and(|name| segment_first(name).is_some()) {
                let path = self.log.join(name);
                self.disk.remove(&path).map_err(Error::io(&path))?;
            }
        }
        Ok(())
    }
}

/// The first sequence of the segment of this name; `None` when no segment has such a name.
pub(crate) fn segment_first(name: &str) -> Option<Sequence> {
    let number = name.strip_suffix(SEGMENT)?;
    // Digits alone: a number's own parser would take a sign, too.
    let digits = number.len() == 20 && number.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| number.parse().ok().map(Sequence))?
}

/// The number of the run of this name; `None` when no run has such a name.
pub(crate) fn run_number(name: &str) -> Option<u32> {
    number_of(name, RUN)
}

/// The number of the checkpoint of this name.
pub(crate) fn checkpoint_number(name: &str) -> Option<u32> {
    number_of(name, CHECKPOINT)
}

fn number_of(name: &str, suffix: &str) -> Option<u32> {
    let number = name.strip_suffix(suffix)?;
    // Numbers above 8 digits have as many as they need, and no leading zeros: each has one name.
    let digits = number.len() == 8 || (number.len() > 8 && !number.starts_with('0'));
    (digits && number.bytes().all(|byte| byte.is_ascii_digit())).then(|| number.parse().ok())?
}

/// A file that is made under another name, and gets its own once it is complete and durable.
#[derive(Debug)]
pub(crate) struct Unfinished {
    temporary: PathBuf,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    disk: Arc<dyn Disk>,
}

impl Unfinished {
    /// Makes the file and lets `fill` write it, then fsyncs it. When that fails nothing is left behind.
    pub(crate) fn make(
        disk: &Arc<dyn Disk>,
        path: &Path,
        fill: impl FnOnce(&dyn DiskFile) -> std::io::Result<()>,
    ) -> Result<Unfinished> {
        Self::make_unsynced(disk, path, |file| fill(file).and_then(|()| file.sync_all()))
    }

    /// The same without the fsync.
    pub(crate) fn make_unsynced(
        disk: &Arc<dyn Disk>,
        path: &Path,
        fill: impl FnOnce(&dyn DiskFile) -> std::io::Result<()>,
    ) -> Result<Unfinished> {
        let temporary = temporary(path);
        let file = disk.create(&temporary).map_err(Error::space(path))?;
        let unfinished = Unfinished { temporary, path: path.to_path_buf(), file, disk: disk.clone() };
        match fill(&*unfinished.file) {
            Ok(()) => Ok(unfinished),
            Err(error) => {
                unfinished.discard();
                Err(Error::space(path)(error))
            }
        }
    }

    /// The same, that will get another name in the same directory.
    pub(crate) fn renamed(self, path: &Path) -> Unfinished {
        Unfinished { path: path.to_path_buf(), ..self }
    }

    /// The name that it will get.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file itself, to go on writing it.
    pub(crate) fn file(&self) -> &dyn DiskFile {
        &*self.file
    }

    /// The same, to be read by others.
    pub(crate) fn shared_file(&self) -> Arc<dyn DiskFile> {
        self.file.clone()
    }

    /// Takes up one that was made before, if there is one of this length.
    pub(crate) fn adopt(disk: &Arc<dyn Disk>, path: &Path, length: u64) -> Result<Option<Unfinished>> {
        let temporary = temporary(path);
        let file = match disk.open(&temporary) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(&temporary)(error)),
        };
        if file.len().map_err(Error::io(&temporary))? != length {
            return Ok(None);
        }
        Ok(Some(Unfinished { temporary, path: path.to_path_buf(), file, disk: disk.clone() }))
    }

    /// Replaces what is in it by as many bytes, durably. A full disk leaves it for another try.
    pub(crate) fn overwrite(&self, bytes: &[u8]) -> Result<()> {
        self.file.write_at(bytes, 0).map_err(Error::space(&self.path))?;
        self.file.sync_data().map_err(Error::io(&self.path))
    }

    /// Gives the file its name, durably, and its own name to the file that had that: so that there is one for the next
    /// time. Where the file system cannot do that, the other file is removed.
    pub(crate) fn exchange(self) -> Result<()> {
        match self.disk.exchange(&self.temporary, &self.path) {
            Ok(()) => self.sync_parent(),
            Err(error) if error.kind() == std::io::ErrorKind::Unsupported => self.publish().map(drop),
            Err(error) => Err(Error::io(&self.path)(error)),
        }
    }

    /// Gives the file its name, durably. A full disk may have no room for a name: then nothing is left behind.
    pub(crate) fn publish(self) -> Result<Arc<dyn DiskFile>> {
        if let Err(error) = self.disk.rename(&self.temporary, &self.path) {
            let error = Error::space(&self.path)(error);
            self.discard();
            return Err(error);
        }
        self.sync_parent()?;
        Ok(self.file)
    }

    fn sync_parent(&self) -> Result<()> {
        match self.path.parent() {
            Some(parent) => self.disk.sync_dir(parent).map_err(Error::io(parent)),
            None => Ok(()),
        }
    }

    /// Removes it. If that fails too, the next opening does it.
    pub(crate) fn discard(self) {
        let _ = self.disk.remove(&self.temporary);
    }
}

/// The name that a file is made under.
fn temporary(path: &Path) -> PathBuf {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(UNFINISHED);
    PathBuf::from(temporary)
}
