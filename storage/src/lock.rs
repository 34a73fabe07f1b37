//! LOCK: one process has the store open. FORMAT.md, "LOCK".

use std::path::Path;

use crate::directory::Directory;
use crate::disk::{DiskLock, read_small};
use crate::error::{Error, Result};
use crate::header::{FORMAT, StoreId, check_format};

/// More than any format's line will need.
const LINE_BYTES_MAX: u64 = 4_096;

/// The held lock; dropping it lets go.
#[derive(Debug)]
pub(crate) struct Lock {
    locked: Box<dyn DiskLock>,
    /// What the file said when it was opened, if it was complete.
    store: Option<String>,
}

impl Lock {
    /// Takes the lock, and refuses a store of another format before anything else of it is read.
    pub(crate) fn take(directory: &Directory) -> Result<Lock> {
        let path = directory.lock_path();
        let locked = directory.disk.lock(&path).map_err(Error::space(&path))?;
        let locked = locked.ok_or_else(|| Error::Locked { path: path.clone() })?;
        let bytes = read_small(locked.file(), LINE_BYTES_MAX).map_err(Error::io(&path))?;
        let store = parse(&bytes, &path)?;
        Ok(Lock { locked, store })
    }

    /// Writes which store this is, unless it says so already.
    pub(crate) fn confirm(&self, directory: &Directory, store_id: StoreId) -> Result<()> {
        self.check(directory, store_id)?;
        match self.store {
            Some(_) => Ok(()),
            None => self.write(&directory.lock_path(), store_id),
        }
    }

    /// Another store's lock is a mixed-up directory.
    pub(crate) fn check(&self, directory: &Directory, store_id: StoreId) -> Result<()> {
        match &self.store {
            Some(store) if *store != store_id.to_string() => {
                let what = format!("of store {store}, MANIFEST of {store_id}");
                Err(Error::corrupt(&directory.lock_path(), 0, what))
            }
            _ => Ok(()),
        }
    }

    /// Writes which store this is, whatever was there before.
    pub(crate) fn write(&self, path: &Path, store_id: StoreId) -> Result<()> {
        let line = format!("paddock-storage format {FORMAT} store {store_id}\n");
        let file = self.locked.file();
        file.write_at(line.as_bytes(), 0).map_err(Error::space(path))?;
        file.set_len(line.len() as u64).map_err(Error::io(path))?;
        file.sync_all().map_err(Error::io(path))
    }
}

/// The store that a complete line names; `None` for a line that was never finished.
fn parse(bytes: &[u8], path: &Path) -> Result<Option<String>> {
    let Some(line) = bytes.strip_suffix(b"\n") else { return Ok(None) };
    let words: Vec<&str> = str::from_utf8(line).map(|line| line.split(' ').collect()).unwrap_or_default();
    let ["paddock-storage", "format", format, "store", rest @ ..] = words.as_slice() else {
        return Err(Error::corrupt(path, 0, "not the lock of a store"));
    };
    let not_ours = || Error::corrupt(path, 0, "not the lock of a store");
    // What follows the number may be different in another format.
    check_format(format.parse().ok().filter(|format| *format > 0).ok_or_else(not_ours)?, path)?;
    match rest {
        [store] => Ok(Some((*store).to_string())),
        _ => Err(not_ours()),
    }
}
