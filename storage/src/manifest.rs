//! MANIFEST: what store this is, and a small durable value of its owner's. FORMAT.md, "MANIFEST".

use std::fmt;
use std::io;
use std::path::Path;

use crate::directory::{Directory, Unfinished};
use crate::error::{Error, Result};
use crate::header::{FILE_HEADER_BYTES, FileHeader, Magic, StoreId, read_u32, read_u64};
use crate::position::Sequence;
use crate::segment::{SEGMENT_START, is_zero};

/// The longest value that an owner may keep in the manifest.
pub const METADATA_BYTES_MAX: usize = 4_096;

/// Every manifest is written this long, so that one can be written over another.
const MANIFEST_BYTES: usize = FILE_HEADER_BYTES + METADATA_BYTES_MAX;

/// Which face a store has: who decides what is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The replication protocol, above.
    Replicated,
    /// An fsync: what is durable is committed.
    Standalone,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Replicated => "replicated",
            Kind::Standalone => "standalone",
        }
    }
}

/// What a directory with a MANIFEST is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It is a store.
    Store,
    /// It is none yet, or none any more: a copy that is being written, or a store that is being removed.
    Unfinished,
    /// It is a whole store, and counts at its place only once its owner has given it a value.
    Received,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) store_id: StoreId,
    pub(crate) kind: Kind,
    pub(crate) metadata: Vec<u8>,
    pub(crate) stage: Stage,
    /// The number of the directory that it was received in; 0 where a store was made, and in copies.
    pub(crate) number: u32,
}

impl fmt::Debug for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Manifest({} {}, {} bytes)", self.kind.name(), self.store_id, self.metadata.len())
    }
}

/// Where it says what stage the store is in.
const STAGE_OFFSET: u64 = 49;

/// The log's first sequence: 1 as long as no format reclaims the log's beginning.
const LOG_FIRST: Sequence = Sequence(1);

impl Manifest {
    /// That of a store without an owner's value.
    pub(crate) fn new(store_id: StoreId, kind: Kind) -> Manifest {
        Manifest { store_id, kind, metadata: Vec::new(), stage: Stage::Store, number: 0 }
    }

    /// The same for who wants the store: what is none is corrupt.
    pub(crate) fn load_store(directory: &Directory) -> Result<Option<Manifest>> {
        let manifest = Manifest::load(directory)?;
        if manifest.as_ref().is_some_and(|manifest| manifest.stage == Stage::Unfinished) {
            let what =
                "no whole store is here: a copy that was never finished, or one that was being removed";
            return Err(Error::corrupt(&directory.manifest_path(), STAGE_OFFSET, what));
        }
        Ok(manifest)
    }

    /// Reads the manifest, whatever it says; `None` when the store's making never got so far.
    pub(crate) fn load(directory: &Directory) -> Result<Option<Manifest>> {
        let path = directory.manifest_path();
        match directory.disk.open(&path) {
            Ok(file) => {
                // A byte more than there can be: whatever is too long shows, and only as much of it is read.
                let mut bytes = vec![0; MANIFEST_BYTES + 1];
                let read = file.read_at(&mut bytes, 0).map_err(Error::io(&path))?;
                bytes.truncate(read);
                Manifest::decode(&bytes, &path).map(Some)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(&path)(error)),
        }
    }

    /// That there is no manifest because none was ever made, as in a store whose making was interrupted: otherwise it was lost,
    /// or this is a copy that was never finished.
    pub(crate) fn was_never_made(directory: &Directory) -> Result<()> {
        let lost = |what| Err(Error::corrupt(&directory.manifest_path(), 0, what));
        if directory.disk.open_read(&directory.files_path()).is_ok() {
            return lost("missing, although FILES is there");
        }
        if !directory.run_numbers()?.is_empty() {
            return lost("missing, although there are runs");
        }
        for first in directory.segments()? {
            if !holds_nothing(directory, first)? {
                return lost("missing, although the log was in use");
            }
        }
        Ok(())
    }

    /// Writes a directory's first manifest, durably.
    pub(crate) fn create(&self, directory: &Directory) -> Result<()> {
        let bytes = self.encode()?;
        let path = directory.manifest_path();
        Unfinished::make(&directory.disk, &path, |file| file.write_at(&bytes, 0))?.publish()?;
        Ok(())
    }

    /// Replaces the manifest on the disk by this one, durably. It is written over the spare, and then the two change names:
    /// so this works on a full disk, too, as long as there is a spare.
    pub(crate) fn replace(&self, directory: &Directory) -> Result<()> {
        let bytes = self.encode()?;
        let spare = spare(directory)?;
        spare.overwrite(&bytes)?;
        spare.exchange()
    }

    /// Sees to it that there is a spare. A full disk is no error yet: perhaps there is room when it matters.
    pub(crate) fn prepare_spare(directory: &Directory) -> Result<()> {
        match spare(directory) {
            Ok(_) | Err(Error::DiskFull { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        if self.metadata.len() > METADATA_BYTES_MAX {
            let (actual, limit) = (self.metadata.len() as u64, METADATA_BYTES_MAX as u64);
            return Err(Error::TooLarge { what: "metadata bytes", actual, limit });
        }
        let length = u32::try_from(self.metadata.len()).unwrap_or(u32::MAX);
        let mut fields = [0; 32];
        fields[..8].copy_from_slice(&LOG_FIRST.0.to_le_bytes());
        fields[8..12].copy_from_slice(&length.to_le_bytes());
        fields[12..16].copy_from_slice(&crc32fast::hash(&self.metadata).to_le_bytes());
        fields[16] = match self.kind {
            Kind::Replicated => 0,
            Kind::Standalone => 1,
        };
        fields[17] = match self.stage {
            Stage::Store => 0,
            Stage::Unfinished => 1,
            Stage::Received => 2,
        };
        fields[20..24].copy_from_slice(&self.number.to_le_bytes());
        let mut bytes = FileHeader { store_id: self.store_id, fields }.encode(Magic::Manifest).to_vec();
        bytes.extend_from_slice(&self.metadata);
        bytes.resize(MANIFEST_BYTES, 0);
        Ok(bytes)
    }

    pub(crate) fn decode(bytes: &[u8], path: &Path) -> Result<Manifest> {
        let FileHeader { store_id, fields } = FileHeader::decode(bytes, Magic::Manifest, path)?;
        let corrupt = |offset, what| Err(Error::corrupt(path, offset, what));
        if read_u64(&fields, 0) != LOG_FIRST.0 {
            return corrupt(32, "the log's first sequence is not 1");
        }
        let body = &bytes[FILE_HEADER_BYTES..];
        let Some((metadata, rest)) = body.split_at_checked(read_u32(&fields, 8) as usize) else {
            return corrupt(40, "the owner's value is not as long as announced");
        };
        if body.len() > METADATA_BYTES_MAX || !is_zero(rest) {
            return corrupt((FILE_HEADER_BYTES + metadata.len()) as u64, "bytes follow the owner's value");
        }
        if read_u32(&fields, 12) != crc32fast::hash(metadata) {
            return corrupt(44, "the checksum of the owner's value does not match");
        }
        for (zeros, offset) in [(18..20, 50), (24..fields.len(), 56)] {
            if !is_zero(&fields[zeros]) {
                return corrupt(offset, "bytes that this format leaves zero are not");
            }
        }
        let kind = match fields[16] {
            0 => Kind::Replicated,
            1 => Kind::Standalone,
            _ => return corrupt(48, "an unknown kind of store"),
        };
        let stage = match fields[17] {
            0 => Stage::Store,
            1 => Stage::Unfinished,
            2 => Stage::Received,
            _ => return corrupt(STAGE_OFFSET, "an unknown stage of a store"),
        };
        let number = read_u32(&fields, 20);
        Ok(Manifest { store_id, kind, metadata: metadata.to_vec(), stage, number })
    }
}

/// Whether a segment is as short as a new store's. It grows only once there is a manifest, so anything longer was in use;
/// and what lies there may be somebody's whole log, or no log at all: it is not read to find out.
fn holds_nothing(directory: &Directory, first: Sequence) -> Result<bool> {
    let path = directory.segment_path(first);
    let file = directory.disk.open_read(&path).map_err(Error::io(&path))?;
    Ok(file.len().map_err(Error::io(&path))? <= SEGMENT_START)
}

/// The file that the next manifest is written to.
fn spare(directory: &Directory) -> Result<Unfinished> {
    let path = directory.manifest_path();
    match Unfinished::adopt(&directory.disk, &path, MANIFEST_BYTES as u64)? {
        Some(spare) => Ok(spare),
        // Only its room matters, and that is taken here and now. What a crash leaves of it is made anew.
        None => Unfinished::make_unsynced(&directory.disk, &path, |file| {
            file.allocate(0, MANIFEST_BYTES as u64)?;
            file.write_at(&[0; MANIFEST_BYTES], 0)
        }),
    }
}
