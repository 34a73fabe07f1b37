//! A node's data directory, looked at while no process serves it. Nothing is changed.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use paddock_coordination::NodeId;
use paddock_storage::{Options, ReplicatedStore};

use super::{NodeError, NodeFile, decode};

/// A data directory that nobody serves, and nobody begins to serve while this lives.
#[derive(Debug)]
pub struct OfflineNode {
    file: NodeFile,
    stores: Vec<PathBuf>,
    /// Held for its drop. A directory that was copied without its LOCK has none.
    _lock: Option<File>,
}

impl OfflineNode {
    /// Locks the directory and lists the stores of its replicas. `None`: it is not a node's.
    ///
    /// # Errors
    /// [`NodeError::Locked`], [`NodeError::Unreadable`], [`NodeError::Format`], [`NodeError::Io`].
    pub fn open(path: &Path) -> Result<Option<OfflineNode>, NodeError> {
        let identity = path.join("NODE");
        let bytes = match fs::read(&identity) {
            Ok(bytes) => bytes,
            Err(error) if is_missing(&error) => return Ok(None),
            Err(source) => return Err(NodeError::Io { path: identity, source }),
        };
        let file = decode(&identity, &bytes)?;
        let lock = lock(path)?;
        let stores = stores(&path.join("partitions"))?;
        Ok(Some(OfflineNode { file, stores, _lock: lock }))
    }

    /// Which node it is.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.file.node
    }

    /// The directories of its replicas' stores, sorted by name.
    #[must_use]
    pub fn stores(&self) -> &[PathBuf] {
        &self.stores
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn lock(path: &Path) -> Result<Option<File>, NodeError> {
    let lock_path = path.join("LOCK");
    let file = match File::open(&lock_path) {
        Ok(file) => file,
        Err(error) if is_missing(&error) => return Ok(None),
        Err(source) => return Err(NodeError::Io { path: lock_path, source }),
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(NodeError::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(NodeError::Io { path: lock_path, source }),
    }
}

fn stores(partitions: &Path) -> Result<Vec<PathBuf>, NodeError> {
    let io_error = |source| NodeError::Io { path: partitions.to_owned(), source };
    let entries = match fs::read_dir(partitions) {
        Ok(entries) => entries,
        Err(error) if is_missing(&error) => return Ok(Vec::new()),
        Err(source) => return Err(io_error(source)),
    };
    // By their places: of the directories at one place one counts, and the next start removes the others.
    let mut places = BTreeSet::new();
    for entry in entries {
        let path = entry.map_err(io_error)?.path();
        let is_gone = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(super::GONE));
        if path.is_dir() && !is_gone {
            places.insert(place(&path));
        }
    }
    let options = Options::new();
    let current = places.into_iter().map(|place| match ReplicatedStore::find(&place, &options) {
        Ok(current) => current,
        // Looking at the one that cannot be judged says what is wrong with it.
        Err(_) => place,
    });
    Ok(current.collect())
}

/// The place that a replica's directory is at: its path, without what is behind the dot of a copy's name.
fn place(path: &Path) -> PathBuf {
    let name = path.file_name().and_then(|name| name.to_str());
    match name.and_then(|name| name.split_once('.')) {
        Some((place, _)) if !place.is_empty() => path.with_file_name(place),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::NodeDirectory;
    use super::*;

    #[test]
    fn a_node_is_looked_at_only_while_nobody_serves_it() {
        let root = tempfile::tempdir().expect("a directory");
        assert!(OfflineNode::open(root.path()).expect("nothing there").is_none());
        assert!(OfflineNode::open(&root.path().join("missing")).expect("nothing there").is_none());

        let served = NodeDirectory::open(root.path()).expect("a new node");
        let node = served.node();
        assert!(matches!(OfflineNode::open(root.path()), Err(NodeError::Locked { .. })));
        drop(served);
        // A copy that is not received to its end, and one that is kept for a follower, are no replicas.
        for name in ["1-B", "0-A", "0-A.1", "1-B.to-C"] {
            fs::create_dir_all(root.path().join("partitions").join(name)).expect("a folder");
        }
        fs::write(root.path().join("partitions/notes"), "mine").expect("a file");
        let offline = OfflineNode::open(root.path()).expect("opens").expect("a node");
        assert_eq!(offline.node(), node);
        let names: Vec<_> = offline.stores().iter().filter_map(|path| path.file_name()).collect();
        assert_eq!(names, ["0-A", "1-B"]);
        assert!(matches!(NodeDirectory::open(root.path()), Err(NodeError::Locked { .. })));
    }
}
