//! An open run.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use paddock_index::Filter;

use super::STORED_CHECKSUM_BYTES;
use super::block::{Block, Damage, Shape};
use super::codec::{Codec, decompress};
use super::cursor::RunCursor;
use super::format::{FOOTER_BYTES, Footer, RUN_START, Salt, Section, Statistics, check_header_fields};
use super::index::{BlockIndex, Place};
use crate::data_file::DataFile;
use crate::directory::Directory;
use crate::disk::DiskFile;
use crate::error::{Error, Result};
use crate::header::{FILE_HEADER_BYTES, FileHeader, Magic, StoreId, read_u32};
use crate::memory::{BlockKey, Memory};
use crate::names::Names;
use crate::position::Sequence;
use crate::row::{StoredRow, decode_stored, verified};

/// A run, open for reading from any thread.
#[derive(Debug)]
pub(crate) struct Run {
    pub(super) file: DataFile,
    number: u32,
    store_id: StoreId,
    salt: Salt,
    /// Filter and index, if they stay in memory.
    lookup: Option<Arc<Lookup>>,
    /// How many blocks there are.
    pub(super) blocks: u32,
    /// Whether logical offsets are the file's own.
    is_raw: bool,
    pub(super) blocks_end: u32,
    summary: Summary,
    /// Set once nothing needs it but those who read it: through which its name leaves the disk.
    unused: OnceLock<Names>,
}

/// What tells where in a run a key would be, and whether it may be there at all.
#[derive(Debug)]
pub(crate) struct Lookup {
    pub(super) index: BlockIndex,
    pub(super) filter: Filter,
}

impl Lookup {
    /// Memory that it takes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.filter.memory_bytes() + self.index.memory_bytes()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(lookup) = &self.lookup {
            self.file.memory().forget_lookup(lookup.memory_bytes() as u64);
        }
        if let Some(names) = self.unused.get() {
            names.remove(self.path());
        }
    }
}

/// What a run holds, all in all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) statistics: Statistics,
    /// How long the file is.
    pub(crate) file_bytes: u64,
    first_key: Vec<u8>,
}

impl Summary {
    /// Empty in a run without rows.
    pub(crate) fn first_key(&self) -> &[u8] {
        &self.first_key
    }

    /// Empty in a run without rows.
    pub(crate) fn last_key(&self) -> &[u8] {
        &self.statistics.last_key
    }
}

/// A lookup, for whoever needs it now.
#[derive(Debug)]
pub(super) enum Lent<'a> {
    Kept(&'a Arc<Lookup>),
    Lent(Arc<Lookup>),
}

impl Lent<'_> {
    pub(super) fn into_owned(self) -> Arc<Lookup> {
        match self {
            Lent::Kept(lookup) => lookup.clone(),
            Lent::Lent(lookup) => lookup,
        }
    }
}

impl std::ops::Deref for Lent<'_> {
    type Target = Lookup;

    fn deref(&self) -> &Lookup {
        match self {
            Lent::Kept(lookup) => lookup,
            Lent::Lent(lookup) => lookup,
        }
    }
}

/// A row that was searched for, verified, and where it lies.
#[derive(Clone, Debug)]
pub(crate) struct FoundRow {
    pub(crate) logical_offset: u32,
    /// The row and nothing else.
    pub(crate) bytes: Bytes,
}

impl FoundRow {
    /// The row, decoded.
    pub(crate) fn row(&self) -> Option<StoredRow<'_>> {
        decode_stored(&self.bytes)
    }
}

/// What lies in a file behind its blocks, decoded.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) footer: Footer,
    pub(super) index: BlockIndex,
    pub(super) filter: Filter,
    pub(super) statistics: Statistics,
}

impl Run {
    /// Opens the run of this number, which somebody refers to: so it is corrupt if it is not there.
    pub(crate) fn open(
        directory: &Directory,
        memory: &Arc<Memory>,
        number: u32,
        store_id: StoreId,
    ) -> Result<Arc<Run>> {
        let path: Arc<Path> = directory.run_path(number).into();
        let file = directory.disk.open_read(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::corrupt(&path, 0, "the run is not there"),
            _ => Error::io(&path)(error),
        })?;
        let length = file.len().map_err(Error::io(&path))?;
        let parts = Parts::read(&*file, length, number, store_id, &path)?.0;
        let file = memory.open_files().on_demand(directory.disk.clone(), path.clone(), file);
        let file = memory.data_file(path, file, length, length);
        Ok(Arc::new(Run::new(file, number, store_id, parts)))
    }

    pub(super) fn new(file: DataFile, number: u32, store_id: StoreId, parts: Parts) -> Run {
        let Parts { footer, index, filter, statistics } = parts;
        let first_key = index.separator(0).unwrap_or_default();
        let summary = Summary { statistics, file_bytes: footer.file_bytes(), first_key };
        let blocks_end = RUN_START + footer.block_bytes;
        let salt = Salt::new(store_id, number);
        let (blocks, is_raw) = (index.blocks(), index.is_raw());
        let lookup = Lookup { index, filter };
        let stays = file.memory().keep_lookup(lookup.memory_bytes() as u64);
        let lookup = stays.then(|| Arc::new(lookup));
        let unused = OnceLock::new();
        Run { file, number, store_id, salt, lookup, blocks, is_raw, blocks_end, summary, unused }
    }

    /// Reads everything but the blocks once more; and gives the encoded block index, too.
    pub(super) fn read_parts(&self) -> Result<(Parts, Vec<u8>)> {
        let length = self.file.file().len().map_err(Error::io(self.path()))?;
        Parts::read(self.file.file(), length, self.number, self.store_id, self.path())
    }

    /// Nothing needs it any more but those who have it: its name leaves the disk with the last of them, who may have to open
    /// it by that name. What is left by a crash, or by a store that was closed before, is removed by the next opening.
    pub(crate) fn remove_when_unused(&self, names: &Names) {
        let _ = self.unused.set(names.clone());
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    pub(crate) fn summary(&self) -> &Summary {
        &self.summary
    }

    /// The file, for who decides about mapping.
    pub(crate) fn file(&self) -> &DataFile {
        &self.file
    }

    /// Filter and index: in memory, or read for this. Who needs them for long keeps them.
    pub(super) fn lookup(&self) -> Result<Lent<'_>> {
        match &self.lookup {
            Some(lookup) => Ok(Lent::Kept(lookup)),
            None => self.file.memory().lookup(self.file.id(), || self.load_lookup()).map(Lent::Lent),
        }
    }

    /// Memory that filter and index take while they are there.
    pub(crate) fn lookup_bytes(&self) -> usize {
        self.lookup().map_or(0, |lookup| lookup.memory_bytes())
    }

    fn load_lookup(&self) -> Result<Arc<Lookup>> {
        let Parts { index, filter, .. } = self.read_parts()?.0;
        if index.blocks() != self.blocks {
            let what = "the block index is not what it was when the run was opened";
            return Err(Error::corrupt(self.path(), u64::from(self.blocks_end), what));
        }
        Ok(Arc::new(Lookup { index, filter }))
    }

    /// Whether the run may have a row of a key: false is certain.
    pub(crate) fn may_hold(&self, key: &[u8]) -> Result<bool> {
        Ok(self.lookup()?.filter.may_contain(key))
    }

    /// The bytes that begin with the row at a logical offset, at least as many as the row has if that is not longer than
    /// `length_hint`. Nothing is verified but what was compressed.
    pub(crate) fn bytes_at<'a>(
        &'a self,
        logical_offset: u32,
        length_hint: usize,
        buffer: &'a mut Vec<u8>,
    ) -> Result<&'a [u8]> {
        if self.is_raw {
            return self.file.read(u64::from(logical_offset), length_hint, buffer);
        }
        self.bytes_in_block(logical_offset, length_hint, buffer)
    }

    fn bytes_in_block<'a>(
        &'a self,
        logical_offset: u32,
        length_hint: usize,
        buffer: &'a mut Vec<u8>,
    ) -> Result<&'a [u8]> {
        let index = &self.lookup()?.index;
        let located = index.block_at(logical_offset).and_then(|block| Some((block, index.place(block)?)));
        let Some((block, place)) = located else {
            let what = "the place of a row is beyond the blocks";
            return Err(Error::corrupt(self.path(), u64::from(logical_offset), what));
        };
        let start = logical_offset - place.logical_offset;
        let length = length_hint.min((place.decoded_bytes - start) as usize);
        if place.codec == Codec::Raw {
            return self.file.read(u64::from(place.offset + start), length, buffer);
        }
        let decoded = self.decoded(block, &place)?;
        buffer.clear();
        buffer.extend_from_slice(
            decoded.get(start as usize..).unwrap_or_default().get(..length).unwrap_or_default(),
        );
        Ok(buffer)
    }

    /// The row at a logical offset, verified. It is corrupt if it is longer than `length_hint`.
    pub(crate) fn row_at<'a>(
        &'a self,
        logical_offset: u32,
        length_hint: usize,
        buffer: &'a mut Vec<u8>,
    ) -> Result<StoredRow<'a>> {
        let bytes = self.bytes_at(logical_offset, length_hint, buffer)?;
        verified(bytes).map_err(|what| Error::corrupt(self.path(), self.offset_of(logical_offset), what))
    }

    /// Where in the file a logical offset is: of what is compressed, the block.
    pub(super) fn offset_of(&self, logical_offset: u32) -> u64 {
        let lookup = self.lookup().ok();
        let index = lookup.as_ref().map(|lookup| &lookup.index);
        let place = index.and_then(|index| index.place(index.block_at(logical_offset)?));
        place.map_or(u64::from(logical_offset), |place| {
            damaged_at(&place, (logical_offset - place.logical_offset) as usize)
        })
    }

    /// The row of a key. Whatever the answer is, it is certain.
    pub(crate) fn find(&self, key: &[u8]) -> Result<Option<FoundRow>> {
        let lookup = self.lookup()?;
        if !lookup.filter.may_contain(key) {
            return Ok(None);
        }
        let index = &lookup.index;
        let Some((block, place)) = index.block_of(key).and_then(|block| Some((block, index.place(block)?)))
        else {
            return Ok(None);
        };
        if place.codec == Codec::Raw {
            let mut buffer = Vec::new();
            let bytes = self.file.read(u64::from(place.offset), place.stored_bytes as usize, &mut buffer)?;
            self.find_in(&place, bytes, key)
        } else {
            self.find_in(&place, &self.decoded(block, &place)?, key)
        }
    }

    fn find_in(&self, place: &Place, bytes: &[u8], key: &[u8]) -> Result<Option<FoundRow>> {
        let damage = |damage| self.damage(place, damage);
        let shape = self.shape(place, bytes)?;
        let block = Block::new(bytes, shape);
        let (row, equal) = block.search(key).map_err(damage)?;
        if !equal {
            return Ok(None);
        }
        let start = block.start(row);
        let row = block.known_row(row).ok_or_else(|| damage((start, "no row begins here")))?;
        // A block is no longer than what 32 bits hold.
        let logical_offset = place.logical_offset + start as u32;
        Ok(Some(FoundRow { logical_offset, bytes: Bytes::copy_from_slice(row.bytes) }))
    }

    /// Maps its file, if it is not and there is room. Returns whether it is mapped.
    pub(crate) fn map(&self) -> bool {
        self.file.map()
    }

    /// A cursor before the first row.
    pub(crate) fn cursor(self: &Arc<Run>) -> RunCursor {
        RunCursor::new(self.clone())
    }

    /// The same, reading by system calls in large pieces also where the file is mapped: for who reads all of it. A mapping
    /// fetches what is not in memory page by page.
    pub(crate) fn cursor_avoiding_the_mapping(self: &Arc<Run>) -> RunCursor {
        RunCursor::avoiding_the_mapping(self.clone())
    }

    /// Calls `found` for every row, in order, with its key, its sequence, where it lies, how long it is, and whether it
    /// is a delete. The file is read front to back, and every row is verified.
    pub(crate) fn for_each_location(
        self: &Arc<Run>,
        mut found: impl FnMut(&[u8], Sequence, u32, u32, bool),
    ) -> Result<()> {
        let mut cursor = self.cursor_avoiding_the_mapping();
        while let Some(row) = cursor.next()? {
            let (sequence, length) = (row.sequence, row.bytes.len() as u32);
            let tombstone = matches!(row.row, crate::row::RowRef::Delete { .. });
            let offset = cursor.offset().unwrap_or_default();
            found(cursor.key(), sequence, offset, length, tombstone);
        }
        Ok(())
    }

    /// Checks the table of a block that was read and decoded.
    pub(super) fn shape(&self, place: &Place, bytes: &[u8]) -> Result<Shape> {
        if bytes.len() != place.decoded_bytes as usize {
            return Err(self.damage(place, (0, "the file ends within a block")));
        }
        Shape::of(bytes, self.salt, place.logical_offset).map_err(|what| self.damage(place, (0, what)))
    }

    /// A compressed block, decoded, from the cache or for it.
    pub(super) fn decoded(&self, block: u32, place: &Place) -> Result<Bytes> {
        let key = BlockKey { file: self.file.id(), block };
        self.file.memory().block(key, || {
            let mut buffer = Vec::new();
            let stored = self.file.read(u64::from(place.offset), place.stored_bytes as usize, &mut buffer)?;
            let mut decoded = Vec::new();
            self.decode(place, stored, &mut decoded)?;
            Ok(decoded.into())
        })
    }

    /// Decodes what is stored of a compressed block.
    pub(super) fn decode(&self, place: &Place, stored: &[u8], decoded: &mut Vec<u8>) -> Result<()> {
        let damage = |what| self.damage(place, (0, what));
        if stored.len() != place.stored_bytes as usize {
            return Err(damage("the file ends within a block"));
        }
        let (compressed, checksum) = stored
            .split_last_chunk::<STORED_CHECKSUM_BYTES>()
            .ok_or_else(|| damage("the block is shorter than its checksum"))?;
        if read_u32(checksum, 0) != self.salt.checksum(compressed, place.logical_offset) {
            return Err(damage("the block's checksum does not match"));
        }
        // The index said how long it is, and no more than the largest row needs.
        decoded.resize(place.decoded_bytes as usize, 0);
        decompress(place.codec, compressed, decoded).map_err(damage)
    }

    pub(super) fn damage(&self, place: &Place, (offset, what): Damage) -> Error {
        Error::corrupt(self.path(), damaged_at(place, offset), what)
    }
}

/// Where in the file it is damaged: of what is compressed, the block.
fn damaged_at(place: &Place, offset_in_block: usize) -> u64 {
    let within = if place.codec == Codec::Raw { offset_in_block as u64 } else { 0 };
    u64::from(place.offset) + within
}

impl Parts {
    /// Reads everything of a file but its blocks; and gives the encoded block index, too.
    pub(super) fn read(
        file: &dyn DiskFile,
        length: u64,
        number: u32,
        store_id: StoreId,
        path: &Path,
    ) -> Result<(Parts, Vec<u8>)> {
        let source = Source { file, path };
        let header = source.read(0, length.min(FILE_HEADER_BYTES as u64))?;
        let FileHeader { store_id: found, fields } = FileHeader::decode(&header, Magic::Run, path)?;
        if found != store_id {
            return Err(Error::corrupt(path, 16, format!("of store {found}, MANIFEST of {store_id}")));
        }
        check_header_fields(&fields, number).map_err(|(offset, what)| Error::corrupt(path, offset, what))?;
        let footer = source.footer(length, Salt::new(store_id, number))?;

        let mut offset = u64::from(RUN_START) + u64::from(footer.block_bytes);
        let corrupt = |offset| move |what: &'static str| Error::corrupt(path, offset, what);
        let filter = source.section(&mut offset, footer.filter)?;
        let filter = Filter::from_bytes(&filter).map_err(|error| {
            Error::corrupt(path, offset - u64::from(footer.filter.bytes), error.to_string())
        })?;
        let index_bytes = source.section(&mut offset, footer.index)?;
        let index = BlockIndex::decode(&index_bytes, footer.blocks, footer.block_bytes)
            .map_err(corrupt(offset - u64::from(footer.index.bytes)))?;
        let statistics = source.section(&mut offset, footer.statistics)?;
        let statistics =
            Statistics::decode(&statistics).map_err(corrupt(offset - u64::from(footer.statistics.bytes)))?;
        Ok((Parts { footer, index, filter, statistics }, index_bytes))
    }
}

/// The file that parts are read from.
struct Source<'a> {
    file: &'a dyn DiskFile,
    path: &'a Path,
}

impl Source<'_> {
    /// Exactly these bytes; the caller has seen to it that the file is as long.
    fn read(&self, offset: u64, length: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        let read = self.file.read_at(&mut bytes, offset).map_err(Error::io(self.path))?;
        bytes.truncate(read);
        Ok(bytes)
    }

    fn footer(&self, length: u64, salt: Salt) -> Result<Footer> {
        let smallest = u64::from(RUN_START) + FOOTER_BYTES as u64;
        if length < smallest {
            return Err(Error::corrupt(self.path, length, "the file is shorter than an empty run"));
        }
        let offset = length - FOOTER_BYTES as u64;
        let bytes = self.read(offset, FOOTER_BYTES as u64)?;
        let bytes = bytes
            .first_chunk()
            .ok_or_else(|| Error::corrupt(self.path, offset, "the file ends within its footer"))?;
        let footer = Footer::decode(bytes, salt).map_err(|what| Error::corrupt(self.path, offset, what))?;
        if footer.file_bytes() != length {
            let what = format!("the file has {length} bytes, its footer says {}", footer.file_bytes());
            return Err(Error::corrupt(self.path, offset, what));
        }
        Ok(footer)
    }

    /// A part of the file, verified. Moves `offset` behind it.
    fn section(&self, offset: &mut u64, section: Section) -> Result<Vec<u8>> {
        let bytes = self.read(*offset, u64::from(section.bytes))?;
        if crc32fast::hash(&bytes) != section.checksum || bytes.len() != section.bytes as usize {
            return Err(Error::corrupt(self.path, *offset, "the checksum of this part does not match"));
        }
        *offset += u64::from(section.bytes);
        Ok(bytes)
    }
}
