//! The one writer: adding, erasing, growing. The order of its stores is argued in `table.rs`.

use super::array::BUCKETS_MAX;
use super::bucket::{Bucket, SLOTS};
use super::key_hash::{KeyHash, Tag};
use super::table::{Found, Table};
use crate::locator::PackedLocator;

/// One more bucket is made whenever there are more keys than this per bucket, of its five slots. Fuller saves
/// little memory (the overflow grows) and costs cache misses.
const KEYS_PER_BUCKET: usize = 4;
const _: () = assert!(KEYS_PER_BUCKET < SLOTS);

/// The index has no room for another key: every overflow bucket that can be numbered is taken. That is beyond
/// four thousand million keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the hash index is full at {len} keys")]
#[non_exhaustive]
pub struct Full {
    /// How many keys there are.
    pub len: usize,
}

/// What only the writer knows. Each of its methods is given the table that it writes to, always the same.
#[derive(Debug)]
pub(super) struct Writer {
    pool: Pool,
    /// How many entries have been moved, ever.
    pub(super) moved: u64,
}

/// The overflow buckets that are not in any chain.
#[derive(Debug)]
struct Pool {
    /// Taken out of their chains, to be used again.
    free: Vec<u32>,
    /// The lowest number that was never used.
    next: u32,
    /// One above the highest number.
    end: u32,
}

impl Pool {
    /// How many buckets it can still give.
    fn left(&self) -> usize {
        self.free.len() + (self.end - self.next) as usize
    }

    /// An empty overflow bucket with its number. A used one may still be walked by a reader that came before
    /// it was unlinked: the state has changed since, so what the reader does not find there does not count.
    fn take<'a>(&mut self, table: &'a Table) -> Option<(u32, &'a Bucket)> {
        let number = self.free.pop().or_else(|| {
            let fresh = self.next;
            (fresh < self.end).then(|| self.next += 1).map(|()| fresh)
        })?;
        let bucket = table.overflow.get_or_make(number)?;
        bucket.set_link(None);
        Some((number, bucket))
    }
}

impl Writer {
    pub(super) fn new() -> Self {
        Self::with_overflow(BUCKETS_MAX)
    }

    fn with_overflow(end: u32) -> Self {
        Self { pool: Pool { free: Vec::new(), next: 1, end }, moved: 0 }
    }

    /// Adds an entry for a key that has none, and grows the table by a bucket when it is due.
    pub(super) fn add(&mut self, table: &Table, hash: KeyHash, locator: PackedLocator) -> Result<(), Full> {
        let home = table.state.load().home(hash);
        append(table, &mut self.pool, home, hash.tag(), locator)?;
        table.len.set(table.len.get() + 1);
        self.grow(table)
    }

    /// Takes an entry out, and pulls its chain together if that saves a bucket: chains that only ever grew
    /// would in the long run all be as long as they ever were.
    pub(super) fn erase(&mut self, table: &Table, hash: KeyHash, found: Found<'_>) {
        found.bucket.clear(found.slot);
        table.state.note_move();
        table.len.set(table.len.get() - 1);
        self.shorten(table, table.state.load().home(hash));
    }

    /// Parts one bucket in two, if the table is full enough: one bucket per added key at most, which is
    /// enough, as a bucket is due only every fourth key.
    fn grow(&mut self, table: &Table) -> Result<(), Full> {
        let state = table.state.load();
        if table.len.get() <= KEYS_PER_BUCKET * state.buckets() as usize || state.buckets() >= BUCKETS_MAX {
            return Ok(());
        }
        let (source, bit) = state.next_split();
        let moving = entries(table, source, |tag| tag.hash_bit(bit));
        // Where the new chain might not get its overflow, the table stays as it is, and chains get longer. So
        // the appends below cannot fail halfway.
        if self.pool.left() < moving.len().div_ceil(SLOTS) {
            return Ok(());
        }
        for (found, tag) in &moving {
            append(table, &mut self.pool, state.buckets(), *tag, found.locator)?;
        }
        self.moved += moving.len() as u64;
        table.state.note_growth();
        for (found, _) in &moving {
            found.bucket.clear(found.slot);
        }
        table.state.note_move();
        self.shorten(table, source);
        Ok(())
    }

    /// Moves entries forward in a chain and drops the buckets at its end that are not needed any more.
    fn shorten(&mut self, table: &Table, home: u32) {
        if table.chain(home).nth(1).is_none() {
            return;
        }
        let chain: Vec<(u32, &Bucket)> = table.chain(home).collect();
        let len: usize = chain.iter().map(|(_, bucket)| bucket.entries().count()).sum();
        let (kept, dropped) = chain.split_at(len.div_ceil(SLOTS).max(1));
        let (Some((_, last)), false) = (kept.last(), dropped.is_empty()) else { return };
        let leaving = dropped.iter().flat_map(|(_, bucket)| bucket.entries());
        let mut holes = kept.iter().flat_map(|(_, bucket)| bucket.free_slots().map(|slot| (*bucket, slot)));
        for (_, tag, locator) in leaving {
            // There are as many holes as entries: that is how many buckets were kept.
            let Some((bucket, slot)) = holes.next() else { return };
            bucket.fill(slot, tag, locator);
            self.moved += 1;
        }
        table.state.note_move();
        for (_, bucket) in dropped {
            (0..SLOTS).for_each(|slot| bucket.clear(slot));
        }
        last.set_link(None);
        table.state.note_move();
        self.pool.free.extend(dropped.iter().map(|(number, _)| number));
    }
}

/// Puts an entry into the first free slot of a chain, which gets one more bucket when it has none.
fn append(table: &Table, pool: &mut Pool, home: u32, tag: Tag, locator: PackedLocator) -> Result<(), Full> {
    let full = Full { len: table.len.get() };
    let mut tail = table.homes.get_or_make(home).ok_or(full)?;
    for (_, bucket) in table.chain(home) {
        if let Some(slot) = bucket.free_slots().next() {
            bucket.fill(slot, tag, locator);
            return Ok(());
        }
        tail = bucket;
    }
    let (number, bucket) = pool.take(table).ok_or(full)?;
    bucket.fill(0, tag, locator);
    // Readers come to the bucket by this link only, so they find its entry in it.
    tail.set_link(Some(number));
    Ok(())
}

/// The entries of a chain whose tag fits.
fn entries(table: &Table, home: u32, fits: impl Fn(Tag) -> bool) -> Vec<(Found<'_>, Tag)> {
    let all = table.chain(home).flat_map(|(_, bucket)| {
        let entries = bucket.entries();
        entries.map(move |(slot, tag, locator)| (Found { bucket, slot, locator }, tag))
    });
    all.filter(|(_, tag)| fits(*tag)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::state::BUCKETS_MIN;

    fn nothing(_: u64, _: &[u8]) -> u64 {
        0
    }

    fn locator(number: u32) -> PackedLocator {
        PackedLocator::new(0, number, 1).unwrap()
    }

    fn offsets(table: &Table) -> Vec<u32> {
        let chain = table.chain(0).flat_map(|(_, bucket)| bucket.entries());
        let mut offsets: Vec<u32> = chain.map(|(_, _, locator)| locator.offset()).collect();
        offsets.sort_unstable();
        offsets
    }

    #[test]
    fn a_full_pool_refuses_the_key_and_changes_nothing() {
        let table = Table::new(0, nothing, BUCKETS_MIN);
        let mut writer = Writer::with_overflow(3);
        let hash = table.hash(b"");
        for number in 0..15 {
            writer.add(&table, hash, locator(number)).unwrap();
        }
        assert_eq!(writer.add(&table, hash, locator(15)), Err(Full { len: 15 }));
        assert_eq!(offsets(&table), (0..15).collect::<Vec<_>>());
        assert_eq!(table.len.get(), 15);
    }

    #[test]
    fn a_chain_gives_its_buckets_back_as_it_empties() {
        let table = Table::new(0, nothing, BUCKETS_MIN);
        let mut writer = Writer::new();
        let hash = table.hash(b"");
        for round in 0..3 {
            for number in 0..100 {
                writer.add(&table, hash, locator(number)).unwrap();
            }
            for number in 0..100 {
                assert_eq!(offsets(&table), (number..100).collect::<Vec<_>>());
                assert_eq!(table.chain(0).count(), (100 - number as usize).div_ceil(SLOTS));
                let moved = writer.moved;
                let is_it = |found| Ok::<_, ()>(found == locator(number));
                let found = table.find(table.state.load(), hash, is_it).unwrap().unwrap();
                writer.erase(&table, hash, found);
                assert!(writer.moved - moved <= SLOTS as u64, "one erased, one bucket's entries moved");
            }
            assert_eq!(writer.pool.next, 20, "round {round} used the buckets of the first");
        }
    }

    /// Growth says twice that something moved: that entries are in both places, and that their old slots are free. Without
    /// the second a walk could take the locator of one that has left with the tag of one that came: so rarely that
    /// interleavings by chance do not find it.
    #[test]
    fn growth_is_noted_before_and_after_slots_are_emptied() {
        let table = Table::new(0, nothing, BUCKETS_MIN);
        let mut writer = Writer::new();
        let full = KEYS_PER_BUCKET as u32 * BUCKETS_MIN;
        for number in 0..full {
            // The lowest bit above the bucket's is that by which growth goes.
            let hash = KeyHash::new(u64::from((number % BUCKETS_MIN) | ((number / BUCKETS_MIN % 2) << 8)));
            writer.add(&table, hash, locator(number)).unwrap();
        }
        assert_eq!(table.state.load().version(), 0);
        writer.add(&table, KeyHash::new(1), locator(full)).unwrap();
        assert_eq!((table.state.load().buckets(), table.state.load().version()), (BUCKETS_MIN + 1, 2));
        assert_eq!(writer.moved, 2);
    }
}
