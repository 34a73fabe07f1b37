//! What can go wrong, each kind telling the caller what to do about it.

use std::io;
use std::path::{Path, PathBuf};

/// This crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// A fault of the store. Each variant says, in its documentation, whether the store can go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused something. A read may be tried again; after a failed write or fsync every
    /// later write answers [`Error::Poisoned`].
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// There is no room for this write. Nothing was written and nothing is lost; the store goes on, and takes
    /// writes again once there is room.
    #[error("{}: the disk is full", path.display())]
    DiskFull {
        /// The file that could not grow.
        path: PathBuf,
    },
    /// Bytes that were once durable are damaged. They are never served, and never dropped by themselves.
    #[error("{}: corrupt at byte {offset}: {what}", path.display())]
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// There is no store in the directory, and this call does not make one.
    #[error("{}: no store: there is no MANIFEST in it", path.display())]
    NotAStore {
        /// The directory.
        path: PathBuf,
    },
    /// A checkpoint is made only in a directory that is missing or empty. Nothing was done.
    #[error("{}: not empty, and a checkpoint needs a directory of its own", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// The store is open already, here or in another process.
    #[error("{}: the store is open already, here or in another process", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// Something failed that nobody knows the outcome of (a write, an fsync), or that keeps compaction from going on: the
    /// reason says what. Reads of what is applied still work; to write again, see to the reason, and open the store anew
    /// (recovery then finds out what reached the disk).
    #[error("the store takes no more writes, since something failed earlier: {reason}")]
    Poisoned {
        /// The failure, as text.
        reason: String,
    },
    /// Another version of this software wrote the file: a newer one, or one older than any that was released.
    #[error("{}: format {found}, this build reads {}", path.display(), formats(*oldest, *newest))]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The oldest format that this build reads.
        oldest: u32,
        /// The newest format that this build reads, the one that it writes.
        newest: u32,
    },
    /// The directory holds the other kind of store: a replicated one is not opened as an embedded one, since
    /// that would take entries for committed that may not be; nor the other way round.
    #[error("{}: a {found} store, it cannot be opened as a {wanted} one", path.display())]
    WrongKind {
        /// The store's manifest.
        path: PathBuf,
        /// The kind that it is.
        found: &'static str,
        /// The kind that was asked for.
        wanted: &'static str,
    },
    /// Something exceeds a limit. Nothing was written.
    #[error("{what}: {actual}, the limit is {limit}")]
    TooLarge {
        /// What, and in which unit.
        what: &'static str,
        /// Its size.
        actual: u64,
        /// The largest that is allowed.
        limit: u64,
    },
    /// A content type is text of at least one character of printable ASCII. Nothing was written.
    #[error("the content type is empty, or has other characters than printable ASCII")]
    ContentType,
    /// Keys have at least one byte. Nothing was written.
    #[error("the key is empty, it needs at least 1 byte")]
    EmptyKey,
    /// Encoded rows that do not hold together: a length, a flag or a checksum is wrong. Nothing was written.
    #[error("damaged rows at byte {offset}: {what}")]
    DamagedRows {
        /// Where in the encoded rows.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// A call that does not fit the state of the log: entries that do not follow the last one, an epoch that
    /// falls, a cut below what is applied. Nothing was done.
    #[error("{what}: {actual}, expected {expected}")]
    Misplaced {
        /// What does not fit, and how.
        what: &'static str,
        /// The number given.
        actual: u64,
        /// The number it is held against.
        expected: u64,
    },
    /// A condition of a batch does not hold: a key is not as expected. Nothing was written.
    #[error("the key {} is not as the batch expects it, and nothing was written", key.escape_ascii())]
    Conflict {
        /// The key.
        key: bytes::Bytes,
    },
    /// The log does not reach back that far: what lies before `first` was flushed to runs, and its segments are gone.
    #[error("the log begins with entry {first}, what was before it has been reclaimed")]
    Reclaimed {
        /// The first entry that the log still has.
        first: u64,
    },
    /// The store was closed through another of its handles.
    #[error("the store is closed")]
    Closed,
}

fn formats(oldest: u32, newest: u32) -> String {
    if oldest == newest { format!("format {newest}") } else { format!("formats {oldest} to {newest}") }
}

impl Error {
    /// The error of an operation on a path, for `map_err`.
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
        move |source| Error::Io { path: path.to_path_buf(), source }
    }

    /// The same for an operation that takes new space: here a full disk is a case of its own.
    pub(crate) fn space(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Error::DiskFull { path: path.to_path_buf() }
            }
            _ => Error::Io { path: path.to_path_buf(), source },
        }
    }

    pub(crate) fn corrupt(path: &Path, offset: u64, what: impl Into<String>) -> Error {
        Error::Corrupt { path: path.to_path_buf(), offset, what: what.into() }
    }
}
