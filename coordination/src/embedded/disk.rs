//! The embedded backend's file: the whole tree, written anew with every persistent change.
//!
//! The tree of a cluster is some kilobytes and changes rarely, so there is no log: write `tree.new`, fsync
//! it, rename it over `tree`, fsync the directory. A crash leaves the old tree or the new one.
//!
//! ```text
//! tree  := "PADDOCK-TREE" format:u32 count:u64 node{count} crc32:u32      (all integers little-endian)
//! node  := path_bytes:u32 path version:i64 value_bytes:u32 value
//! ```
//! The checksum (CRC-32/ISO-HDLC) is over everything before it. Nodes ascend by path.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use crc::{CRC_32_ISO_HDLC, Crc, Table};

use super::OpenError;
use crate::store::{Version, Versioned};

const MAGIC: &[u8] = b"PADDOCK-TREE";

/// The format that this build writes.
pub(super) const FORMAT: u32 = 1;

const CRC32: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISO_HDLC);

/// The persistent part of a tree.
pub(super) type Nodes = BTreeMap<String, Versioned>;

/// A directory that this process holds the lock of.
pub(super) struct Directory {
    path: PathBuf,
    /// The lock ends when the file is closed.
    _lock: File,
}

/// How a write failed.
pub(super) enum WriteError {
    /// The old tree is in place: nothing was changed.
    Unchanged(io::Error),
    /// The disk no longer says what it holds: nothing more may be acknowledged.
    Poisoned(io::Error),
}

impl Directory {
    /// Makes the directory where it is missing, and locks it.
    pub(super) fn lock(path: &Path) -> Result<Directory, OpenError> {
        let failed = |source| OpenError::Io { path: path.to_owned(), source };
        make_durably(path).map_err(failed)?;
        let lock_path = path.join("LOCK");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|source| OpenError::Io { path: lock_path.clone(), source })?;
        match lock.try_lock() {
            Ok(()) => Ok(Directory { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(OpenError::Locked { path: lock_path }),
            Err(TryLockError::Error(source)) => Err(OpenError::Io { path: lock_path, source }),
        }
    }

    fn tree_path(&self) -> PathBuf {
        self.path.join("tree")
    }

    /// Reads the tree; an empty one where there is none yet.
    pub(super) fn read(&self) -> Result<Nodes, OpenError> {
        let path = self.tree_path();
        match fs::read(&path) {
            Ok(bytes) => decode(&bytes, &path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Nodes::new()),
            Err(source) => Err(OpenError::Io { path, source }),
        }
    }

    /// Puts a tree in place of the former one, durably.
    pub(super) fn write<'a>(
        &self,
        count: usize,
        nodes: impl Iterator<Item = (&'a String, &'a Versioned)>,
    ) -> Result<(), WriteError> {
        let new_path = self.path.join("tree.new");
        let mut file = File::create(&new_path).map_err(WriteError::Unchanged)?;
        file.write_all(&encode(count, nodes)).map_err(WriteError::Unchanged)?;
        file.sync_all().map_err(WriteError::Poisoned)?;
        fs::rename(&new_path, self.tree_path()).map_err(WriteError::Poisoned)?;
        File::open(&self.path).and_then(|directory| directory.sync_all()).map_err(WriteError::Poisoned)
    }
}

/// Makes a directory and the parents that it lacks, and sees to it that a power cut takes none of them away again. Its
/// own entry is synced in any case: whoever made it before us may not have done so.
fn make_durably(path: &Path) -> io::Result<()> {
    let made = path.ancestors().take_while(|ancestor| !ancestor.exists()).count();
    fs::create_dir_all(path)?;
    let path = path.canonicalize()?;
    for parent in path.ancestors().skip(1).take(made.max(1)) {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

fn encode<'a>(count: usize, nodes: impl Iterator<Item = (&'a String, &'a Versioned)>) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(FORMAT.to_le_bytes());
    bytes.extend((count as u64).to_le_bytes());
    for (path, node) in nodes {
        put_sized(&mut bytes, path.as_bytes());
        bytes.extend(node.version.0.to_le_bytes());
        put_sized(&mut bytes, &node.value);
    }
    let checksum = CRC32.checksum(&bytes);
    bytes.extend(checksum.to_le_bytes());
    bytes
}

/// Paths and values are far below 4 GiB: the store checks them before.
fn put_sized(bytes: &mut Vec<u8>, field: &[u8]) {
    bytes.extend((field.len() as u32).to_le_bytes());
    bytes.extend_from_slice(field);
}

fn decode(bytes: &[u8], path: &Path) -> Result<Nodes, OpenError> {
    let corrupt = || OpenError::Corrupt { path: path.to_owned() };
    let mut header = Reader(bytes);
    if header.take(MAGIC.len()) != Some(MAGIC) {
        return Err(corrupt());
    }
    // Before the checksum: a newer format may place that elsewhere.
    match header.array().map(u32::from_le_bytes) {
        Some(FORMAT) => {}
        Some(found) if found > FORMAT => {
            return Err(OpenError::NewerFormat { path: path.to_owned(), found });
        }
        _ => return Err(corrupt()),
    }
    let (body, checksum) = bytes.split_last_chunk::<4>().ok_or_else(corrupt)?;
    if CRC32.checksum(body) != u32::from_le_bytes(*checksum) {
        return Err(corrupt());
    }
    let mut reader = Reader(header.0.strip_suffix(checksum).ok_or_else(corrupt)?);
    let nodes = reader.nodes().ok_or_else(corrupt)?;
    if reader.0.is_empty() { Ok(nodes) } else { Err(corrupt()) }
}

/// Takes fields off the front; `None` where they end too early.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (field, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(field)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn sized(&mut self) -> Option<&'a [u8]> {
        let length = self.array().map(u32::from_le_bytes)?;
        self.take(usize::try_from(length).ok()?)
    }

    fn nodes(&mut self) -> Option<Nodes> {
        let count = self.array().map(u64::from_le_bytes)?;
        let mut nodes = Nodes::new();
        for _ in 0..count {
            let path = std::str::from_utf8(self.sized()?).ok()?.to_owned();
            let version = Version(self.array().map(i64::from_le_bytes)?);
            let value = Bytes::copy_from_slice(self.sized()?);
            nodes.insert(path, Versioned { version, value });
        }
        Some(nodes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(path: &str, version: i64, value: &[u8]) -> Nodes {
        let value = Bytes::copy_from_slice(value);
        Nodes::from([(path.to_owned(), Versioned { version: Version(version), value })])
    }

    #[test]
    fn the_format_stays_what_it_is() {
        let nodes = one("/a", 3, b"xy");
        let golden = b"PADDOCK-TREE\x01\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0/a\x03\0\0\0\0\0\0\0\x02\0\0\0xy";
        let bytes = encode(1, nodes.iter());
        let (body, checksum) = bytes.split_last_chunk::<4>().unwrap();
        assert_eq!(body, golden);
        assert_eq!(u32::from_le_bytes(*checksum), CRC32.checksum(golden));
        assert_eq!(CRC32.checksum(b"123456789"), 0xCBF4_3926, "the checksum's published check value");
        assert_eq!(decode(&bytes, Path::new("tree")).unwrap(), nodes);
    }

    #[test]
    fn a_newer_format_and_damage_are_told_apart() {
        let mut bytes = encode(0, std::iter::empty());
        bytes[12] = 2;
        let error = decode(&bytes, Path::new("d/tree")).unwrap_err();
        assert_eq!(error.to_string(), "d/tree: format 2 is newer than this program, which knows up to 1");
        let bytes = encode(1, one("/a", 0, b"value").iter());
        for position in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[position] ^= 0x40;
            assert!(decode(&damaged, Path::new("tree")).is_err(), "byte {position}");
            assert!(decode(&bytes[..position], Path::new("tree")).is_err(), "cut at {position}");
        }
    }

    proptest! {
        #[test]
        fn trees_come_back(nodes in proptest::collection::btree_map(
            "(/[a-z]{1,4}){1,3}", (any::<i64>(), proptest::collection::vec(any::<u8>(), 0..16)), 0..6,
        )) {
            let nodes: Nodes = nodes.into_iter().map(|(path, (version, value))| {
                (path, Versioned { version: Version(version), value: Bytes::from(value) })
            }).collect();
            let bytes = encode(nodes.len(), nodes.iter());
            prop_assert_eq!(decode(&bytes, Path::new("tree")).unwrap(), nodes);
        }

        #[test]
        fn garbage_is_an_error_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(decode(&bytes, Path::new("tree")).is_err());
        }
    }
}
