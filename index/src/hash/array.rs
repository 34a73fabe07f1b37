//! An array of buckets that grows without moving: three levels of 1,024.
//!
//! A bucket stays where it is for as long as the array lives, so growing publishes no new pointer to readers
//! and nothing is ever copied. The most that one write allocates is a chunk and the two levels above it.
//!
//! Each level's slots are `OnceLock`s: filled once by the writer, and read with one Acquire load that never
//! waits (only two threads that *fill* the same slot could wait for each other, and there is one writer).

use std::sync::OnceLock;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use super::bucket::Bucket;

const FAN_OUT_BITS: u32 = 10;
const FAN_OUT: usize = 1 << FAN_OUT_BITS;

/// How many buckets an array can hold: 2^30, which is 64 GiB of them.
pub(super) const BUCKETS_MAX: u32 = 1 << (3 * FAN_OUT_BITS);

type Chunk = [Bucket; FAN_OUT];
type Chunks = [OnceLock<Box<Chunk>>; FAN_OUT];

/// Buckets by number. See the module.
#[derive(Debug)]
pub(super) struct BucketArray {
    root: Box<[OnceLock<Box<Chunks>>; FAN_OUT]>,
    /// Bytes allocated. Relaxed: a figure for reports, on which nothing else depends.
    bytes: AtomicUsize,
}

impl BucketArray {
    pub(super) fn new() -> Self {
        Self {
            root: Box::new([const { OnceLock::new() }; FAN_OUT]),
            bytes: AtomicUsize::new(size_of::<OnceLock<Box<Chunks>>>() * FAN_OUT),
        }
    }

    /// A bucket, if its chunk was ever written to: one that was not is empty.
    pub(super) fn get(&self, number: u32) -> Option<&Bucket> {
        let [upper, middle, lower] = path(number);
        let chunk = self.root.get(upper)?.get()?[middle].get()?;
        Some(&chunk[lower])
    }

    /// A bucket, whose chunk is allocated if it was not: the writer's way. `None` beyond the array's end.
    pub(super) fn get_or_make(&self, number: u32) -> Option<&Bucket> {
        let [upper, middle, lower] = path(number);
        let chunks = self.root.get(upper)?.get_or_init(|| {
            self.bytes.fetch_add(size_of::<Chunks>(), Relaxed);
            Box::new([const { OnceLock::new() }; FAN_OUT])
        });
        let chunk = chunks[middle].get_or_init(|| {
            self.bytes.fetch_add(size_of::<Chunk>(), Relaxed);
            Box::new([const { Bucket::new() }; FAN_OUT])
        });
        Some(&chunk[lower])
    }

    /// The numbers of all buckets whose chunk was ever written to.
    pub(super) fn made(&self) -> impl Iterator<Item = u32> + '_ {
        // As many as there are buckets at most, which is 2^30.
        let numbers = |chunk: usize| (chunk << FAN_OUT_BITS) as u32..((chunk + 1) << FAN_OUT_BITS) as u32;
        let chunks = self.root.iter().zip(0..).filter_map(|(chunks, upper)| Some((chunks.get()?, upper)));
        chunks.flat_map(move |(chunks, upper): (_, usize)| {
            let made = chunks.iter().zip(0..).filter(|(chunk, _)| chunk.get().is_some());
            made.flat_map(move |(_, middle): (_, usize)| numbers(upper << FAN_OUT_BITS | middle))
        })
    }

    /// Bytes of memory that it takes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }
}

/// The places of a bucket in the three levels. The first may be beyond the end, the others are below 1,024.
fn path(number: u32) -> [usize; 3] {
    let level = |index: u32| number as usize >> (index * FAN_OUT_BITS);
    [level(2), level(1) % FAN_OUT, level(0) % FAN_OUT]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_stay_where_they_are_and_cost_only_their_chunks() {
        let array = BucketArray::new();
        let empty = array.memory_bytes();
        assert!(array.get(5).is_none() && array.get_or_make(BUCKETS_MAX).is_none());
        array.get_or_make(5).unwrap().set_link(Some(9));
        let first = std::ptr::from_ref(array.get(5).unwrap());
        array.get_or_make(BUCKETS_MAX - 1).unwrap().set_link(Some(8));
        assert_eq!(std::ptr::from_ref(array.get(5).unwrap()), first);
        assert_eq!(array.get(5).unwrap().link(), Some(9));
        assert_eq!(array.get(BUCKETS_MAX - 1).unwrap().link(), Some(8));
        let all: Vec<u32> = array.made().collect();
        let chunk = FAN_OUT as u32;
        assert_eq!(all, (0..chunk).chain(BUCKETS_MAX - chunk..BUCKETS_MAX).collect::<Vec<_>>());
        assert_eq!(array.memory_bytes() - empty, 2 * (size_of::<Chunk>() + size_of::<Chunks>()));
    }
}
