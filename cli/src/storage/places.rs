//! Which stores a directory means.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use paddock_partition::node::OfflineNode;

/// Stores, and the locks of the nodes that they belong to.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// Their directories.
    pub(super) stores: Vec<PathBuf>,
    _nodes: Vec<OfflineNode>,
}

/// The stores of a partition server's data directory, of that of `paddock dev`, or the directory itself as that of a store:
/// whether it is one is for the store to say.
pub(super) fn find(directory: &Path) -> anyhow::Result<Places> {
    let mut places = Places::default();
    if places.add_node(directory)? {
        return Ok(places);
    }
    let mut found = false;
    for path in folders(&directory.join("nodes")).with_context(|| directory.display().to_string())? {
        found |= places.add_node(&path)?;
    }
    if !found {
        places.stores.push(directory.to_path_buf());
    }
    Ok(places)
}

impl Places {
    fn add_node(&mut self, directory: &Path) -> anyhow::Result<bool> {
        let Some(node) = OfflineNode::open(directory)? else { return Ok(false) };
        self.stores.extend_from_slice(node.stores());
        self._nodes.push(node);
        Ok(true)
    }
}

/// The folders in a folder, sorted; none where there is no such folder.
fn folders(path: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        entries => entries?,
    };
    let mut folders = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}
