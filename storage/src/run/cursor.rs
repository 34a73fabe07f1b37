//! Walking the rows of a run in order, either way.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::block::{Block, Shape, key_of};
use super::codec::Codec;
use super::index::Place;
use super::reader::{Lookup, Run};
use super::window::{Direction, Window};
use crate::error::Result;
use crate::memory::BlockKey;
use crate::row::{StoredRow, decode_stored};

/// A place between two rows of a run: [`RunCursor::next`] gives the row behind it and moves over it, [`RunCursor::prev`]
/// gives the row before it and moves over that. So one after the other gives the same row twice.
///
/// Rows are borrowed: from the mapping, from the block cache, or from the cursor's buffers, which it keeps. Nothing is
/// allocated for a row. Each is verified when it is handed out. After an error `next` and `prev` leave the cursor
/// where it is; a search that fails leaves it at the beginning of the block that it led to.
#[derive(Debug)]
pub(crate) struct RunCursor {
    run: Arc<Run>,
    /// The run's, from when it is needed: for each block it would be looked for anew.
    lookup: Option<Arc<Lookup>>,
    /// The gap is before this row of this block; behind the block's last row it has the number of its rows.
    block: u32,
    row: u32,
    loaded: Option<Loaded>,
    /// The row that was handed out last, in the loaded block.
    current: Option<Current>,
    window: Window,
    decoded: Vec<u8>,
    /// Whether the next block is where a search led.
    jumped: bool,
    /// Read by system calls also where the file is mapped: what is read may be unreadable, and nobody is to die of it.
    avoids_mapping: bool,
}

/// A row that was verified: which of the loaded block, and where in it.
#[derive(Clone, Copy, Debug)]
struct Current {
    row: u32,
    start: usize,
    end: usize,
    /// Where its key is in the block.
    key_start: usize,
    key_end: usize,
}

/// The block that rows are handed out from.
#[derive(Debug)]
struct Loaded {
    block: u32,
    place: Place,
    shape: Shape,
    bytes: BlockBytes,
}

/// Where its bytes are.
#[derive(Debug)]
enum BlockBytes {
    Mapped,
    /// In the window, from here on.
    Window(usize),
    /// In `decoded`.
    Decoded,
    Cached(Bytes),
}

impl RunCursor {
    /// A cursor before the first row.
    pub(super) fn new(run: Arc<Run>) -> RunCursor {
        RunCursor {
            run,
            lookup: None,
            block: 0,
            row: 0,
            loaded: None,
            current: None,
            window: Window::default(),
            decoded: Vec::new(),
            jumped: false,
            avoids_mapping: false,
        }
    }

    /// The same, reading by system calls only.
    pub(super) fn avoiding_the_mapping(run: Arc<Run>) -> RunCursor {
        RunCursor { avoids_mapping: true, ..RunCursor::new(run) }
    }

    /// The run that it walks.
    pub(crate) fn run(&self) -> &Arc<Run> {
        &self.run
    }

    /// Goes before the first row that is not below the bound: `next` gives that one.
    pub(crate) fn seek(&mut self, bound: Bound<&[u8]>) -> Result<()> {
        match bound {
            Bound::Unbounded => {
                self.go(0, 0);
                Ok(())
            }
            Bound::Included(key) => self.go_to(key, false),
            Bound::Excluded(key) => self.go_to(key, true),
        }
    }

    /// Goes behind the last row that is not above the bound: `prev` gives that one.
    pub(crate) fn seek_back(&mut self, bound: Bound<&[u8]>) -> Result<()> {
        match bound {
            Bound::Unbounded => {
                self.go(self.run.blocks, 0);
                Ok(())
            }
            Bound::Included(key) => self.go_to(key, true),
            Bound::Excluded(key) => self.go_to(key, false),
        }
    }

    /// The next row, verified.
    pub(crate) fn next(&mut self) -> Result<Option<StoredRow<'_>>> {
        if !self.is_before_loaded_row() && !self.load_next()? {
            self.current = None;
            return Ok(None);
        }
        self.hand_out(self.row)?;
        self.row += 1;
        Ok(self.current())
    }

    /// After an error of [`RunCursor::next`]: goes behind the row that it is about, or behind the block if that cannot be read.
    pub(crate) fn skip_damage(&mut self) {
        if self.is_before_loaded_row() {
            self.row += 1;
        } else {
            (self.block, self.row, self.loaded) = (self.block + 1, 0, None);
            self.window.jump();
        }
    }

    /// The row before, verified.
    pub(crate) fn prev(&mut self) -> Result<Option<StoredRow<'_>>> {
        if self.row == 0 {
            let Some(block) = self.block.checked_sub(1) else {
                self.current = None;
                return Ok(None);
            };
            self.load(block, Direction::Backward)?;
            self.block = block;
            self.row = self.loaded_rows();
        } else {
            self.load(self.block, Direction::Backward)?;
        }
        self.hand_out(self.row - 1)?;
        self.row -= 1;
        Ok(self.current())
    }

    /// The row that was handed out last, again; `None` after a seek and behind the ends.
    #[inline]
    pub(crate) fn current(&self) -> Option<StoredRow<'_>> {
        let (loaded, Current { start, end, .. }) = (self.loaded.as_ref()?, self.current?);
        decode_stored(self.bytes(&loaded.place, &loaded.bytes).get(start..end)?)
    }

    /// Its key; `None` where there is no such row.
    #[inline]
    pub(crate) fn current_key(&self) -> Option<&[u8]> {
        let (loaded, Current { key_start, key_end, .. }) = (self.loaded.as_ref()?, self.current?);
        self.bytes(&loaded.place, &loaded.bytes).get(key_start..key_end)
    }

    /// Its key; empty where there is no such row.
    pub(crate) fn key(&self) -> &[u8] {
        self.current_key().unwrap_or_default()
    }

    /// Its logical offset.
    pub(crate) fn offset(&self) -> Option<u32> {
        let place = self.loaded.as_ref()?.place;
        // A block is no longer than what 32 bits hold.
        Some(place.logical_offset + self.current?.start as u32)
    }

    /// How many rows of its block come before it.
    pub(super) fn number_in_block(&self) -> Option<u32> {
        Some(self.current?.row)
    }

    /// Whether the table of the loaded block is that of its rows, all of which were handed out.
    pub(super) fn heads_are_right(&self) -> bool {
        self.block_of_rows().is_some_and(|block| block.heads_are_right())
    }

    fn go(&mut self, block: u32, row: u32) {
        (self.block, self.row, self.current) = (block, row, None);
        self.jumped = true;
        self.window.jump();
    }

    /// Goes before a key's row or the place where it would be; or behind its row.
    fn go_to(&mut self, key: &[u8], behind: bool) -> Result<()> {
        let Some(block) = self.lookup()?.index.block_of(key) else {
            self.go(0, 0);
            return Ok(());
        };
        self.go(block, 0);
        self.load(block, Direction::Forward)?;
        if let (Some(rows), Some(loaded)) = (self.block_of_rows(), &self.loaded) {
            let found = rows.search(key).map_err(|damage| self.run.damage(&loaded.place, damage));
            let (row, equal) = found?;
            self.row = row + u32::from(equal && behind);
        }
        Ok(())
    }

    /// Whether the row behind the gap is in the loaded block.
    #[inline]
    fn is_before_loaded_row(&self) -> bool {
        self.loaded.as_ref().is_some_and(|loaded| loaded.block == self.block && self.row < loaded.shape.rows)
    }

    /// Loads the block of the row behind the gap. Returns whether there is one.
    fn load_next(&mut self) -> Result<bool> {
        while self.block < self.run.blocks {
            self.load(self.block, Direction::Forward)?;
            if self.row < self.loaded_rows() {
                return Ok(true);
            }
            self.block += 1;
            self.row = 0;
        }
        Ok(false)
    }

    /// Verifies a row of the loaded block, and makes it the current one.
    #[inline]
    fn hand_out(&mut self, row: u32) -> Result<()> {
        let Some(loaded) = &self.loaded else { return Ok(()) };
        let block = Block::new(self.bytes(&loaded.place, &loaded.bytes), loaded.shape);
        match block.row(row) {
            Ok(stored) => {
                let (start, key) = (block.start(row), key_of(&stored.row));
                let end = start + stored.bytes.len();
                // A put's value and nothing else follows its key.
                let key_end = end - stored.value().map_or(0, <[u8]>::len);
                self.current = Some(Current { row, start, end, key_start: key_end - key.len(), key_end });
                Ok(())
            }
            Err(damage) => Err(self.run.damage(&loaded.place, damage)),
        }
    }

    fn loaded_rows(&self) -> u32 {
        self.loaded.as_ref().map_or(0, |loaded| loaded.shape.rows)
    }

    #[inline]
    fn block_of_rows(&self) -> Option<Block<'_>> {
        let loaded = self.loaded.as_ref()?;
        Some(Block::new(self.bytes(&loaded.place, &loaded.bytes), loaded.shape))
    }

    #[inline]
    fn bytes<'a>(&'a self, place: &Place, bytes: &'a BlockBytes) -> &'a [u8] {
        match bytes {
            BlockBytes::Mapped => self.mapped(place).unwrap_or_default(),
            BlockBytes::Window(start) => self.window.bytes(*start, place.stored_bytes as usize),
            BlockBytes::Decoded => &self.decoded,
            BlockBytes::Cached(bytes) => bytes,
        }
    }

    #[inline]
    fn mapped(&self, place: &Place) -> Option<&[u8]> {
        self.run.file.mapped(u64::from(place.offset), place.stored_bytes as usize)
    }

    #[inline]
    fn load(&mut self, block: u32, direction: Direction) -> Result<()> {
        match &self.loaded {
            Some(loaded) if loaded.block == block => Ok(()),
            _ => self.load_anew(block, direction),
        }
    }

    fn load_anew(&mut self, block: u32, direction: Direction) -> Result<()> {
        (self.loaded, self.current) = (None, None);
        let Some(place) = self.lookup()?.index.place(block) else { return Ok(()) };
        let bytes = match place.codec {
            Codec::Raw => self.stored(&place, direction)?,
            Codec::Lz4 | Codec::Zstd => self.decode(block, &place, direction)?,
        };
        let shape = self.run.shape(&place, self.bytes(&place, &bytes))?;
        self.loaded = Some(Loaded { block, place, shape, bytes });
        self.jumped = false;
        Ok(())
    }

    fn lookup(&mut self) -> Result<&Lookup> {
        Ok(match &mut self.lookup {
            Some(lookup) => lookup,
            none => none.insert(self.run.lookup()?.into_owned()),
        })
    }

    /// The bytes of a block as they are in the file.
    fn stored(&mut self, place: &Place, direction: Direction) -> Result<BlockBytes> {
        if !self.avoids_mapping && self.mapped(place).is_some() {
            return Ok(BlockBytes::Mapped);
        }
        let run = &self.run;
        let bounds = (super::format::RUN_START, run.blocks_end);
        let start = self.window.fill(&run.file, (place.offset, place.stored_bytes), bounds, direction)?;
        Ok(BlockBytes::Window(start))
    }

    /// A compressed block. The one that a search led to is kept in the cache: searches come again. Those that a long walk
    /// passes would only drive others out.
    fn decode(&mut self, block: u32, place: &Place, direction: Direction) -> Result<BlockBytes> {
        if !self.avoids_mapping {
            let key = BlockKey { file: self.run.file.id(), block };
            if self.jumped {
                return self.run.decoded(block, place).map(BlockBytes::Cached);
            }
            if let Some(bytes) = self.run.file.memory().cached_block(key) {
                return Ok(BlockBytes::Cached(bytes));
            }
        }
        let stored = self.stored(place, direction)?;
        let mut decoded = std::mem::take(&mut self.decoded);
        let outcome = self.run.decode(place, self.bytes(place, &stored), &mut decoded);
        self.decoded = decoded;
        outcome.map(|()| BlockBytes::Decoded)
    }
}
