//! A log whose sectors were zeroed, filled or left as they once were, and whose batches were doubled, swapped, moved and
//! taken out: opening gives an exact prefix with everything that the log proves, or says what is corrupt.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what helpers of a test meet unexpectedly fails it")]

mod support;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use paddock_storage::Error;
use paddock_storage::disk::FaultyDisk;
use support::{Entry, append, log, open};

const SECTOR_BYTES: usize = 512;
const BATCHES: usize = 14;
const HEADER_BYTES: usize = 72;

type Log = Vec<(u64, Entry)>;

/// A store of several segments: batches of one sector and of several, each synced. Calls `each` after every one.
fn written(disk: &FaultyDisk, mut each: impl FnMut(&FaultyDisk)) -> Log {
    let mut store = open(disk).unwrap();
    for number in 0..BATCHES {
        let value = |byte: usize| vec![byte as u8 + 1; number * 331 % 1_400];
        let entries = [
            Entry::Put(format!("key {}", number % 5).into_bytes(), value(number)),
            Entry::Delete(b"key 3".to_vec()),
            Entry::Put(b"other".to_vec(), value(number + 100)),
        ];
        append(&mut store, 1 + number as u64 / 4, &entries[..1 + number % 3], number as u64).unwrap();
        store.sync().unwrap();
        each(disk);
    }
    assert!(store.stats().segments > 2);
    log(&store)
}

fn segments(disk: &FaultyDisk) -> Vec<PathBuf> {
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "log");
    disk.paths().into_iter().filter(is_segment).collect()
}

/// A store, what it should hold, and how often what came out when one of its files was damaged.
struct Trial {
    disk: FaultyDisk,
    entries: Log,
    newest: PathBuf,
    /// Of all batches.
    headers: Vec<[u8; HEADER_BYTES]>,
    corrupt: usize,
    whole: usize,
    shorter: usize,
}

impl Trial {
    fn new(disk: FaultyDisk, entries: Log) -> Trial {
        let newest = segments(&disk).pop().unwrap();
        let mut headers = Vec::new();
        for path in segments(&disk) {
            let bytes = disk.bytes(&path).unwrap();
            headers.extend(batches(&bytes).iter().map(|batch| *batch.first_chunk().unwrap()));
        }
        Trial { disk, entries, newest, headers, corrupt: 0, whole: 0, shorter: 0 }
    }

    /// Opens a copy of the store in which one file has other bytes.
    fn open(&mut self, path: &Path, bytes: &[u8], case: &str) {
        let copy = self.disk.copy();
        copy.set_bytes(path, bytes);
        let proven = self.proven(&copy);
        let case = || format!("{}: {case}", path.display());
        match open(&copy) {
            Ok(store) => {
                let found = log(&store);
                assert_eq!(found, self.entries[..found.len()], "{}", case());
                store.verify().unwrap();
                assert!(found.len() >= proven, "{}: {} of {proven} entries", case(), found.len());
                let whole = found.len() == self.entries.len();
                *(if whole { &mut self.whole } else { &mut self.shorter }) += 1;
            }
            Err(Error::Corrupt { path: found, .. }) => {
                // What is wrong with one segment may only show where the next one does not follow.
                assert!(found == path || found.parent() == path.parent(), "{}", case());
                self.corrupt += 1;
            }
            Err(other) => panic!("{}: {other}", case()),
        }
    }

    /// How many entries are proven to have been durable by what is left in the newest segment: by its being there, and
    /// by each header of a batch that is whole, wherever it lies now.
    fn proven(&self, damaged: &FaultyDisk) -> usize {
        let number =
            |bytes: &[u8]| bytes.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte));
        let first: usize = self.newest.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        let left = damaged.bytes(&self.newest).unwrap();
        let places = (64..end_of(&left)).step_by(8).filter_map(|at| left[at..].first_chunk());
        let headers = places.filter(|header| header.starts_with(b"PDKb") && self.headers.contains(header));
        headers.map(|header| number(&header[32..40])).fold(first - 1, usize::max)
    }

    /// What came out: corrupt, all entries, and fewer.
    fn outcomes(&self) -> [usize; 3] {
        [self.corrupt, self.whole, self.shorter]
    }
}

/// Where rows end and zeros begin.
fn end_of(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

fn sectors(bytes: &[u8]) -> impl Iterator<Item = Range<usize>> + use<> {
    let length = bytes.len();
    let count = (end_of(bytes) + 1).div_ceil(SECTOR_BYTES);
    (0..count).map(move |sector| sector * SECTOR_BYTES..length.min((sector + 1) * SECTOR_BYTES))
}

#[test]
fn any_sectors_may_be_zeroed_or_filled() {
    let disk = FaultyDisk::new();
    let entries = written(&disk, |_| ());
    let mut trial = Trial::new(disk.clone(), entries);
    for path in segments(&disk) {
        let bytes = disk.bytes(&path).unwrap();
        for first in sectors(&bytes) {
            for last in sectors(&bytes).filter(|last| last.start >= first.start) {
                let range = first.start..last.end;
                for filling in [0, 0xff] {
                    let mut damaged = bytes.clone();
                    damaged[range.clone()].fill(filling);
                    let case = format!("bytes {range:?} are {filling}");
                    trial.open(&path, &damaged, &case);
                }
            }
        }
    }
    let [corrupt, _, shorter] = trial.outcomes();
    assert!(corrupt > 100 && shorter > 0, "{:?}", trial.outcomes());
}

/// A write that the disk acknowledged and lost: the sector is as it was at some time before.
#[test]
fn any_sector_may_be_as_it_once_was() {
    let disk = FaultyDisk::new();
    let mut past: BTreeMap<PathBuf, Vec<Vec<u8>>> = BTreeMap::new();
    let entries = written(&disk, |disk| {
        for path in segments(disk) {
            let bytes = disk.bytes(&path).unwrap();
            past.entry(path).or_default().push(bytes);
        }
    });
    let mut trial = Trial::new(disk.clone(), entries);
    for (path, versions) in past {
        let bytes = disk.bytes(&path).unwrap();
        for (number, old) in versions.iter().enumerate() {
            for range in sectors(&bytes).filter(|range| range.end <= old.len()) {
                let mut damaged = bytes.clone();
                damaged[range.clone()].copy_from_slice(&old[range.clone()]);
                let case = format!("bytes {range:?} are as after {number} more batches");
                trial.open(&path, &damaged, &case);
            }
        }
    }
    assert!(trial.outcomes().iter().all(|count| *count > 0), "{:?}", trial.outcomes());
}

/// The batches of a segment, each with its padding.
fn batches(bytes: &[u8]) -> Vec<&[u8]> {
    let starts = (64..end_of(bytes)).step_by(8).filter(|at| bytes[*at..].starts_with(b"PDKb"));
    let mut bounds: Vec<usize> = starts.collect();
    bounds.push(end_of(bytes).next_multiple_of(8).min(bytes.len()));
    bounds.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

/// Every way to put the numbers below `count` into another order by one act, with what was done.
fn rearrangements(count: usize) -> Vec<(String, Vec<usize>)> {
    let mut orders = Vec::new();
    for one in 0..count {
        let mut without: Vec<usize> = (0..count).collect();
        without.remove(one);
        for other in 0..=count {
            let mut doubled: Vec<usize> = (0..count).collect();
            doubled.insert(other, one);
            orders.push((format!("batch {one} again at {other}"), doubled));
        }
        for other in 0..count {
            let mut moved = without.clone();
            moved.insert(other, one);
            orders.push((format!("batch {one} moved to {other}"), moved));
            let mut swapped: Vec<usize> = (0..count).collect();
            swapped.swap(one, other);
            orders.push((format!("batches {one} and {other} swapped"), swapped));
            let mut written_over: Vec<usize> = (0..count).collect();
            written_over[other] = one;
            orders.push((format!("batch {one} over {other}"), written_over));
        }
        orders.push((format!("batch {one} taken out"), without));
    }
    orders
}

#[test]
fn batches_may_be_doubled_swapped_moved_and_taken_out() {
    let disk = FaultyDisk::new();
    let entries = written(&disk, |_| ());
    let mut trial = Trial::new(disk.clone(), entries);
    for path in segments(&disk) {
        let bytes = disk.bytes(&path).unwrap();
        let batches = batches(&bytes);
        for (case, order) in rearrangements(batches.len()) {
            let mut rearranged = bytes[..64].to_vec();
            order.iter().for_each(|batch| rearranged.extend_from_slice(batches[*batch]));
            rearranged.resize(rearranged.len().max(bytes.len()), 0);
            trial.open(&path, &rearranged, &case);
        }
    }
    assert!(trial.outcomes().iter().all(|count| *count > 0), "{:?}", trial.outcomes());
}

/// A batch in the place of one of another segment, and whole segments under each other's names.
#[test]
fn batches_and_segments_are_not_taken_for_each_other() {
    let disk = FaultyDisk::new();
    let entries = written(&disk, |_| ());
    let contents: Vec<_> =
        segments(&disk).into_iter().map(|path| (disk.bytes(&path).unwrap(), path)).collect();
    let mut trial = Trial::new(disk.clone(), entries);
    for (bytes, path) in &contents {
        for (foreign, _) in contents.iter().filter(|(foreign, _)| foreign != bytes) {
            trial.open(path, foreign, "another segment's bytes");
            for batch in batches(foreign) {
                for place in batches(bytes) {
                    let at = place.as_ptr() as usize - bytes.as_ptr() as usize;
                    let mut mixed = bytes[..at].to_vec();
                    mixed.extend_from_slice(batch);
                    mixed.extend_from_slice(&bytes[at + place.len()..]);
                    trial.open(path, &mixed, "another segment's batch");
                }
            }
        }
    }
    let [corrupt, _, shorter] = trial.outcomes();
    assert!(corrupt > 20 && shorter > 0, "{:?}", trial.outcomes());
}
