//! A node's identity: who this data directory is, and which cluster its data belongs to.
//!
//! ```text
//! DIR/LOCK                    held by the one process that serves the directory
//! DIR/NODE                    JSON: format, node id, cluster, boot count, life; replaced by write-new, fsync, rename
//! DIR/partitions/<p>-<uuid>/  the store of one replica
//! DIR/partitions/gone-...     what is being removed; the next start goes on with it
//! ```

mod offline;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use paddock_coordination::{ClusterId, NodeId, PartitionId};
use serde::{Deserialize, Serialize};
use ulid::Ulid;

pub use offline::OfflineNode;

/// The format of the directory that this build writes.
const FORMAT: u32 = 1;

/// What `NODE` holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct NodeFile {
    format: u32,
    node: NodeId,
    cluster: Option<ClusterId>,
    boot_count: u64,
    /// Which life of the directory this is: another one begins when it is found to be an older copy of itself. What a replica
    /// has from an earlier life is data, and no claim.
    #[serde(default)]
    life: u64,
}

/// That a data directory is an older copy: the node has started since, from another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OldCopy {
    /// The last start that the directory knew of.
    pub ours: u64,
    /// The last start that the cluster has seen.
    pub seen: u64,
}

/// What the names of directories begin with that are being removed.
const GONE: &str = "gone-";

/// Where the files of one replica are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The partition.
    pub partition: PartitionId,
    /// Its life.
    pub partition_uuid: Ulid,
}

impl Place {
    /// The place that a directory's name says, with or without what a copy's has behind a dot.
    fn of(name: &str) -> Option<Place> {
        let place = name.split_once('.').map_or(name, |(place, _)| place);
        let (partition, uuid) = place.split_once('-')?;
        let partition = PartitionId(partition.parse().ok()?);
        Some(Place { partition, partition_uuid: Ulid::from_string(uuid).ok()? })
    }
}

/// Why a data directory cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// Another process serves it.
    #[error("{path}: another process serves this data directory")]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// A newer build wrote it.
    #[error("{path}: format {found}, this build reads up to {supported}: start the newer build")]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest that this build knows.
        supported: u32,
    },
    /// Its data belongs to another cluster.
    #[error(
        "{path}: the data belongs to cluster {found}, not to {expected}: give the node of another cluster a \
         data directory of its own"
    )]
    OtherCluster {
        /// The directory.
        path: PathBuf,
        /// Whose data it is.
        found: ClusterId,
        /// Which cluster it was asked to serve.
        expected: ClusterId,
    },
    /// It is another node's.
    #[error(
        "{path}: the data directory of node {found}, it cannot take the place of node {expected}'s: give it an empty one"
    )]
    OtherNode {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// Whose place it was to take.
        expected: NodeId,
    },
    /// The identity file cannot be read.
    #[error("{path}: not a node's identity: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The directory holds something else.
    #[error("{path}: not empty, and not the data directory of a partition server")]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
    /// The disk.
    #[error("{path}: {source}")]
    Io {
        /// The path.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
}

/// A data directory that this process holds.
#[derive(Debug)]
pub struct NodeDirectory {
    path: PathBuf,
    file: NodeFile,
    _lock: File,
}

impl NodeDirectory {
    /// Opens or makes a data directory, and locks it.
    ///
    /// # Errors
    /// Why it cannot be served; nothing was changed.
    pub fn open(path: &Path) -> Result<Self, NodeError> {
        Self::open_as(path, None)
    }

    /// The same, where a new directory takes the place of a node whose own is lost: nothing is served of what it held, but it
    /// is the same node, with replicas that have to be filled. Whoever says so knows that the former process has ended.
    ///
    /// # Errors
    /// As [`NodeDirectory::open`]; [`NodeError::OtherNode`] if the directory is another node's.
    pub fn open_as(path: &Path, replaced: Option<NodeId>) -> Result<Self, NodeError> {
        let io_error = |path: &Path| {
            let path = path.to_owned();
            move |source| NodeError::Io { path, source }
        };
        let made = make_directory(path).map_err(io_error(path))?;
        let identity = path.join("NODE");
        if !made && !is_ours(path).map_err(io_error(path))? {
            return Err(NodeError::Foreign { path: path.to_owned() });
        }
        let lock_path = path.join("LOCK");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(io_error(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(NodeError::Locked { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(io_error(&lock_path)(error)),
        }
        let found = match fs::read(&identity) {
            Ok(bytes) => Some(decode(&identity, &bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(io_error(&identity)(error)),
        };
        let is_new = found.is_none();
        let file = found.unwrap_or_else(|| NodeFile {
            format: FORMAT,
            node: replaced.unwrap_or_else(|| NodeId(Ulid::generate())),
            cluster: None,
            boot_count: 0,
            life: new_life(),
        });
        if let Some(expected) = replaced.filter(|expected| *expected != file.node) {
            return Err(NodeError::OtherNode { path: path.to_owned(), found: file.node, expected });
        }
        let directory = NodeDirectory { path: path.to_owned(), file, _lock: lock };
        if is_new {
            directory.write().map_err(io_error(&identity))?;
        }
        Ok(directory)
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.file.node
    }

    /// The cluster that its data belongs to; `None` for a directory that was just made.
    #[must_use]
    pub fn cluster(&self) -> Option<ClusterId> {
        self.file.cluster
    }

    /// How often it has started and joined its cluster: see [`NodeDirectory::count_start`].
    #[must_use]
    pub fn boot_count(&self) -> u64 {
        self.file.boot_count
    }

    /// Binds the directory to a cluster, for ever.
    ///
    /// # Errors
    /// [`NodeError::OtherCluster`] if it belongs to another.
    pub fn join(&mut self, cluster: ClusterId) -> Result<(), NodeError> {
        match self.file.cluster {
            Some(found) if found != cluster => {
                Err(NodeError::OtherCluster { path: self.path.clone(), found, expected: cluster })
            }
            Some(_) => Ok(()),
            None => {
                self.file.cluster = Some(cluster);
                self.write().map_err(|source| NodeError::Io { path: self.path.join("NODE"), source })
            }
        }
    }

    /// Counts this start, durably; `seen` is the last one that the cluster has seen. Only what passed here is counted, and it
    /// is counted here before the cluster sees it: so a directory whose count is behind is an old copy.
    ///
    /// The replicas in an old copy do not hold what they promised to hold. So the directory begins another life, in the same
    /// write that counts the start: whatever they have is of a new generation from now on, for which nobody waits and which
    /// nobody elects until a leader has filled it up. Returned is that it was one, if there are replicas in it.
    ///
    /// # Errors
    /// [`NodeError::Io`].
    pub fn count_start(&mut self, seen: u64) -> Result<Option<OldCopy>, NodeError> {
        let ours = self.file.boot_count;
        let is_old = seen > ours && self.has_replicas()?;
        if is_old {
            self.file.life = new_life();
        }
        self.file.boot_count = seen.max(ours).saturating_add(1);
        self.write().map_err(|source| NodeError::Io { path: self.path.join("NODE"), source })?;
        Ok(is_old.then_some(OldCopy { ours, seen }))
    }

    /// Which life of the directory this is.
    #[must_use]
    pub fn life(&self) -> u64 {
        self.file.life
    }

    fn has_replicas(&self) -> Result<bool, NodeError> {
        let path = self.path.join("partitions");
        match fs::read_dir(&path) {
            Ok(mut entries) => Ok(entries.next().is_some()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(NodeError::Io { path, source }),
        }
    }

    /// Where the store of one replica lies.
    #[must_use]
    pub fn store(&self, partition: PartitionId, partition_uuid: Ulid) -> PathBuf {
        self.path.join("partitions").join(format!("{partition}-{partition_uuid}"))
    }

    /// The places at which there are files of replicas.
    ///
    /// # Errors
    /// The disk's.
    pub fn places(&self) -> io::Result<Vec<Place>> {
        let names = self.names()?;
        let places: BTreeSet<Place> = names.iter().filter_map(|name| Place::of(name)).collect();
        Ok(places.into_iter().collect())
    }

    /// Removes what is at a place, where nobody has anything of it open; what counts there last, so that what a crash leaves is
    /// that, or nothing.
    ///
    /// # Errors
    /// The disk's: what stays has its name, or goes at the next start.
    pub fn remove_place(&self, place: &Place, current: &Path) -> io::Result<()> {
        let partitions = self.path.join("partitions");
        let mut names = self.names()?;
        names.retain(|name| Place::of(name) == Some(*place));
        names.sort_by_key(|name| partitions.join(name) == current);
        let mut gone = Vec::new();
        for name in names {
            let aside = partitions.join(format!("{GONE}{name}"));
            // From a time when it could not be removed.
            if aside.exists() {
                fs::remove_dir_all(&aside)?;
            }
            fs::rename(partitions.join(&name), &aside)?;
            File::open(&partitions)?.sync_all()?;
            gone.push(aside);
        }
        gone.iter().try_for_each(fs::remove_dir_all)
    }

    /// Removes what was to be removed before: at a start, when nobody else does.
    ///
    /// # Errors
    /// The disk's.
    pub fn finish_removals(&self) -> io::Result<()> {
        for name in self.names()?.iter().filter(|name| name.starts_with(GONE)) {
            fs::remove_dir_all(self.path.join("partitions").join(name))?;
        }
        Ok(())
    }

    /// The names of what is in the folder of replicas.
    fn names(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.path.join("partitions")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        // A name that is not UTF-8 is none of ours.
        let names = entries.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(io::Result::transpose).collect()
    }

    fn write(&self) -> io::Result<()> {
        let next = self.path.join("NODE.new");
        let mut file = File::create(&next)?;
        file.write_all(&serde_json::to_vec_pretty(&self.file)?)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&next, self.path.join("NODE"))?;
        File::open(&self.path)?.sync_all()
    }
}

/// Unlike any other, but for one chance in 2^63.
fn new_life() -> u64 {
    u64::try_from(Ulid::generate().0 & u128::from(u64::MAX >> 1)).unwrap_or(1)
}

fn decode(path: &Path, bytes: &[u8]) -> Result<NodeFile, NodeError> {
    #[derive(Deserialize)]
    struct FormatOnly {
        format: u32,
    }
    let unreadable = |source| NodeError::Unreadable { path: path.to_owned(), source };
    // The format first: a newer one may have other fields.
    let FormatOnly { format: found } = serde_json::from_slice(bytes).map_err(unreadable)?;
    if found > FORMAT {
        return Err(NodeError::Format { path: path.to_owned(), found, supported: FORMAT });
    }
    serde_json::from_slice(bytes).map_err(unreadable)
}

/// Makes a directory and its parents, durably; true if it was not there.
fn make_directory(path: &Path) -> io::Result<bool> {
    if path.is_dir() {
        return Ok(false);
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    make_directory(parent)?;
    match fs::create_dir(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => return Ok(false),
        Err(error) => return Err(error),
    }
    File::open(parent)?.sync_all()?;
    Ok(true)
}

/// True if the directory is a node's, or holds nothing but what a first start leaves that was cut short.
fn is_ours(path: &Path) -> io::Result<bool> {
    if path.join("NODE").exists() {
        return Ok(true);
    }
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if name != "LOCK" && name != "NODE.new" && name != "lost+found" {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_outlives_restarts_and_counts_them() {
        let root = tempfile::tempdir().expect("a directory");
        let path = root.path().join("a/b");
        let mut first = NodeDirectory::open(&path).expect("a new directory");
        let node = first.node();
        assert_eq!((first.boot_count(), first.cluster()), (0, None));
        assert_eq!((first.count_start(0).expect("counts"), first.boot_count()), (None, 1));
        let life = first.life();
        drop(first);
        let mut second = NodeDirectory::open(&path).expect("the same directory");
        assert_eq!((second.node(), second.boot_count()), (node, 1));
        assert_eq!((second.count_start(1).expect("counts"), second.boot_count()), (None, 2));
        assert_eq!(second.life(), life);
    }

    #[test]
    fn an_old_copy_begins_another_life_and_is_none_any_more() {
        let root = tempfile::tempdir().expect("a directory");
        let mut old = NodeDirectory::open(root.path()).expect("a new directory");
        assert_eq!(old.count_start(0).expect("counts"), None);
        let life = old.life();
        drop(old);
        fs::create_dir_all(root.path().join("partitions/0-X")).expect("a folder");
        let mut copy = NodeDirectory::open(root.path()).expect("reopens");
        assert_eq!(copy.count_start(3).expect("counts"), Some(OldCopy { ours: 1, seen: 3 }));
        let next = copy.life();
        assert_eq!(copy.boot_count(), 4);
        assert_ne!(next, life);
        drop(copy);
        let mut again = NodeDirectory::open(root.path()).expect("reopens");
        assert_eq!((again.count_start(4).expect("counts"), again.life()), (None, next));
    }

    #[test]
    fn an_old_copy_without_replicas_is_none() {
        let root = tempfile::tempdir().expect("a directory");
        let mut emptied = NodeDirectory::open(root.path()).expect("a new directory");
        let life = emptied.life();
        assert_eq!((emptied.count_start(3).expect("counts"), emptied.boot_count()), (None, 4));
        assert_eq!(emptied.life(), life);
    }

    #[test]
    fn an_empty_directory_takes_a_lost_nodes_place_and_another_nodes_does_not() {
        let root = tempfile::tempdir().expect("a directory");
        let lost = NodeId(Ulid::generate());
        let mut replacement =
            NodeDirectory::open_as(&root.path().join("new"), Some(lost)).expect("a new directory");
        assert_eq!(replacement.node(), lost);
        replacement.count_start(7).expect("counts");
        assert_eq!(replacement.boot_count(), 8, "it goes on where the lost one was");
        drop(replacement);
        // The flag may stay.
        assert!(NodeDirectory::open_as(&root.path().join("new"), Some(lost)).is_ok());
        let other = root.path().join("other");
        let found = NodeDirectory::open(&other).expect("a new directory").node();
        let error = NodeDirectory::open_as(&other, Some(lost)).expect_err("another's").to_string();
        assert!(error.contains(&found.to_string()) && error.contains(&lost.to_string()), "{error}");
    }

    #[test]
    fn what_is_at_a_place_goes_and_nothing_else() {
        let root = tempfile::tempdir().expect("a directory");
        let directory = NodeDirectory::open(root.path()).expect("a new directory");
        let (gone, stays) = (Ulid(7), Ulid(8));
        let place = Place { partition: PartitionId(3), partition_uuid: gone };
        let partitions = root.path().join("partitions");
        for name in
            [format!("3-{gone}"), format!("3-{gone}.2"), format!("3-{gone}.to-x"), format!("3-{stays}")]
        {
            fs::create_dir_all(partitions.join(name).join("log")).expect("a folder");
        }
        fs::create_dir_all(partitions.join("notes")).expect("somebody else's");
        let other = Place { partition_uuid: stays, ..place };
        assert_eq!(directory.places().expect("lists"), [place, other]);
        let current = partitions.join(format!("3-{gone}.2"));
        directory.remove_place(&place, &current).expect("removes");
        let mut left = directory.names().expect("lists");
        left.sort();
        assert_eq!(left, [format!("3-{stays}"), "notes".to_owned()]);
        // What a crash leaves of it goes at the next start.
        fs::create_dir_all(partitions.join(format!("{GONE}3-{gone}")).join("log")).expect("a folder");
        assert_eq!(directory.places().expect("lists"), [other]);
        directory.finish_removals().expect("removes");
        assert_eq!(directory.names().expect("lists").len(), 2);
    }

    #[test]
    fn a_second_process_is_kept_out() {
        let root = tempfile::tempdir().expect("a directory");
        let held = NodeDirectory::open(root.path()).expect("a new directory");
        let error = NodeDirectory::open(root.path()).expect_err("locked");
        assert!(error.to_string().contains(&root.path().display().to_string()), "{error}");
        drop(held);
    }

    #[test]
    fn another_clusters_data_is_refused_and_both_are_named() {
        let root = tempfile::tempdir().expect("a directory");
        let mine = ClusterId(Ulid::generate());
        let other = ClusterId(Ulid::generate());
        NodeDirectory::open(root.path()).expect("a new directory").join(mine).expect("joins");
        let mut again = NodeDirectory::open(root.path()).expect("reopens");
        again.join(mine).expect("still its own");
        let error = again.join(other).expect_err("refused").to_string();
        assert!(error.contains(&mine.to_string()) && error.contains(&other.to_string()), "{error}");
    }

    #[test]
    fn a_newer_format_and_a_foreign_directory_are_refused() {
        let root = tempfile::tempdir().expect("a directory");
        fs::write(root.path().join("NODE"), r#"{"format": 9, "shape": "unknown"}"#).expect("write");
        let error = NodeDirectory::open(root.path()).expect_err("newer").to_string();
        assert!(error.contains("format 9") && error.contains("up to 1"), "{error}");

        let foreign = tempfile::tempdir().expect("a directory");
        fs::write(foreign.path().join("photo.jpg"), "x").expect("write");
        let error = NodeDirectory::open(foreign.path()).expect_err("foreign").to_string();
        assert!(error.contains("not empty"), "{error}");
        assert!(!foreign.path().join("NODE").exists());
    }
}
