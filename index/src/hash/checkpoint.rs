//! Writing the index to a stream of pages, and making it from one.

use std::io::{self, ErrorKind, Read, Write};

use super::HashIndex;
use super::array::BUCKETS_MAX;
use super::key_hash::{HashFunction, KeyHash};
use super::page::{self, BadHeader, Content, ENTRIES_MAX, FORMAT, Header, Mark, PAGE_BYTES, PROOF_KEY};
use super::state::BUCKETS_MIN;
use super::table::Table;
use super::walk::Walk;
use super::writer::Full;
use crate::locator::PackedLocator;

/// A table that was loaded may take so many bytes, and so many more for each entry, before it is packed: a few keys
/// in the many buckets of a table that has seen better days, or of a header that lies.
const SPARSE_BYTES: usize = 16 << 20;
const SPARSE_BYTES_PER_KEY: usize = 256;

/// Why a checkpoint could not be written or loaded. Whatever is wrong with one: rebuild the index from the rows.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// Reading or writing failed.
    #[error("a checkpoint could not be read or written")]
    Io(#[from] io::Error),
    /// It ends before its end page.
    #[error("the checkpoint is cut off in its page at offset {offset}")]
    Truncated {
        /// Where the page that is not whole begins, in bytes.
        offset: u64,
    },
    /// It is damaged, or none at all.
    #[error("the checkpoint is damaged at offset {offset}: {reason}")]
    Corrupt {
        /// Where the page that is wrong begins, in bytes.
        offset: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// It is intact, but of a format that this build does not read.
    #[error("the checkpoint is of format {found}; this build reads format {supported}")]
    Format {
        /// The checkpoint's format.
        found: u32,
        /// The format that this build reads.
        supported: u32,
    },
    /// Its keys were hashed by another function.
    #[error("the checkpoint was made with another hash function")]
    HashFunction,
    /// It has more entries than the index can hold, or more pages than can be numbered.
    #[error("the checkpoint is too large")]
    TooLarge(#[from] Full),
}

pub(super) fn write(table: &Table, position: u64, output: &mut impl Write) -> Result<(), CheckpointError> {
    let mut walk = Walk::new(table);
    let header = Header {
        seed: table.seed,
        proof: (table.function)(table.seed, PROOF_KEY),
        position,
        keys: table.len.get() as u64,
        buckets: walk.buckets(),
    };
    let (page, mark) = page::encode_header(&header);
    output.write_all(&page)?;
    let (mut number, mut total) = (0_u32, 0_u64);
    let mut entries = Vec::with_capacity(ENTRIES_MAX);
    loop {
        entries.extend(walk.by_ref().take(ENTRIES_MAX));
        // As many pages as can be numbered hold more than the index can.
        number = number.checked_add(1).ok_or(Full { len: table.len.get() })?;
        if entries.is_empty() {
            output.write_all(&page::encode_end(mark, number, total))?;
            return Ok(());
        }
        output.write_all(&page::encode_entries(mark, number, &entries))?;
        total += entries.len() as u64;
        entries.clear();
    }
}

/// `keep` gives, for the locator of each entry, the one to keep.
pub(super) fn read(
    input: &mut impl Read,
    function: HashFunction,
    mut keep: impl FnMut(PackedLocator) -> Option<PackedLocator>,
) -> Result<(HashIndex, u64), CheckpointError> {
    let mut pages = Pages { input, page: [0; PAGE_BYTES], offset: 0 };
    let (header, mark) = pages.header()?;
    if function(header.seed, PROOF_KEY) != header.proof {
        return Err(CheckpointError::HashFunction);
    }
    if !(BUCKETS_MIN..=BUCKETS_MAX).contains(&header.buckets) {
        return Err(CheckpointError::Corrupt { offset: 0, reason: "the number of buckets is none" });
    }
    // As many buckets cost nothing yet: their memory is allocated as entries come, and not much more of it than
    // they are worth.
    let mut index = HashIndex::with_buckets(header.seed, function, header.buckets);
    let mut read = 0;
    for number in 1..=u32::MAX {
        match pages.content(mark, number)? {
            Content::Entries(entries) => {
                read += entries.len() as u64;
                index.add_all(&entries, &mut keep)?;
                if index.memory_bytes() > SPARSE_BYTES + SPARSE_BYTES_PER_KEY * index.len() {
                    index = index.packed()?;
                }
            }
            Content::End(total) if total == read => return Ok((index, header.position)),
            Content::End(_) => return Err(pages.corrupt("it does not hold as many entries as it says")),
        }
    }
    Err(pages.corrupt("it does not end"))
}

/// Verifies a checkpoint page by page, and keeps nothing of it: for who looks at one now and then, a little at a time.
///
/// ```
/// # use std::convert::Infallible;
/// # use paddock_index::{CheckpointVerifier, HashIndex, PackedLocator};
/// # let mut index = HashIndex::new(42);
/// # index.insert(b"robin", PackedLocator::new(1, 0, 80)?, |_| Ok::<_, Infallible>(false))?;
/// # let mut bytes = Vec::new();
/// index.reader().write_checkpoint(1_000, &mut bytes)?;
/// let mut verifier = CheckpointVerifier::default();
/// let mut is_over = false;
/// for page in bytes.chunks_exact(CheckpointVerifier::PAGE_BYTES) {
///     is_over = verifier.page(page)?;
/// }
/// assert!(is_over);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct CheckpointVerifier {
    /// What the header marks its pages with, once that was read.
    mark: Option<Mark>,
    /// The next page's.
    number: u32,
    /// Entries so far.
    read: u64,
}

impl CheckpointVerifier {
    /// How long a page is.
    pub const PAGE_BYTES: usize = PAGE_BYTES;

    /// Takes the next page. Returns whether it is the last one.
    ///
    /// # Errors
    /// As [`HashIndex::read_checkpoint`], but nothing is asked of the hash function.
    pub fn page(&mut self, page: &[u8]) -> Result<bool, CheckpointError> {
        let offset = u64::from(self.number) * PAGE_BYTES as u64;
        let corrupt = |reason| CheckpointError::Corrupt { offset, reason };
        let page: &page::Page = page.try_into().map_err(|_| CheckpointError::Truncated { offset })?;
        let Some(mark) = self.mark else {
            let (_, mark) = page::decode_header(page).map_err(|bad| match bad {
                BadHeader::Damaged(reason) => corrupt(reason),
                BadHeader::Format(found) => CheckpointError::Format { found, supported: FORMAT },
            })?;
            (self.mark, self.number) = (Some(mark), 1);
            return Ok(false);
        };
        let content = page::decode(page, mark, self.number).map_err(corrupt)?;
        self.number = self.number.checked_add(1).ok_or_else(|| corrupt("it does not end"))?;
        match content {
            Content::Entries(entries) => {
                self.read += entries.len() as u64;
                Ok(false)
            }
            Content::End(total) if total == self.read => Ok(true),
            Content::End(_) => Err(corrupt("it does not hold as many entries as it says")),
        }
    }
}

impl HashIndex {
    /// Adds the entries of a page that are kept: no rows are asked, the checkpoint has each key once.
    fn add_all(
        &mut self,
        entries: &[(KeyHash, PackedLocator)],
        keep: &mut impl FnMut(PackedLocator) -> Option<PackedLocator>,
    ) -> Result<(), Full> {
        for (hash, locator) in entries {
            if let Some(locator) = keep(*locator) {
                self.writer.add(&self.reader.table, *hash, locator)?;
            }
        }
        Ok(())
    }

    /// The same entries in as few buckets as they need.
    fn packed(self) -> Result<Self, Full> {
        let table = &*self.reader.table;
        let mut packed = Self::with_buckets(table.seed, table.function, BUCKETS_MIN);
        for home in table.homes.made() {
            for (_, tag, locator) in table.chain(home).flat_map(|(_, bucket)| bucket.entries()) {
                packed.writer.add(&packed.reader.table, KeyHash::of_entry(home, tag), locator)?;
            }
        }
        Ok(packed)
    }
}

/// Reads page after page, and knows where the last one began.
struct Pages<'a, R> {
    input: &'a mut R,
    /// The page read last.
    page: page::Page,
    /// Where it begins.
    offset: u64,
}

impl<R: Read> Pages<'_, R> {
    fn header(&mut self) -> Result<(Header, Mark), CheckpointError> {
        self.fill()?;
        page::decode_header(&self.page).map_err(|bad| match bad {
            BadHeader::Damaged(reason) => self.corrupt(reason),
            BadHeader::Format(found) => CheckpointError::Format { found, supported: FORMAT },
        })
    }

    fn content(&mut self, mark: Mark, number: u32) -> Result<Content, CheckpointError> {
        self.offset = u64::from(number) * PAGE_BYTES as u64;
        self.fill()?;
        page::decode(&self.page, mark, number).map_err(|reason| self.corrupt(reason))
    }

    fn fill(&mut self) -> Result<(), CheckpointError> {
        self.input.read_exact(&mut self.page).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => CheckpointError::Truncated { offset: self.offset },
            _ => CheckpointError::Io(error),
        })
    }

    fn corrupt(&self, reason: &'static str) -> CheckpointError {
        CheckpointError::Corrupt { offset: self.offset, reason }
    }
}
