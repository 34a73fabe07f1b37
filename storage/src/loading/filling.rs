//! Filling an index with the rows of runs, in any order.
//!
//! Of a key's rows the one in the newest run counts: everything in a later run is newer than everything in an earlier one.
//! So rows need not be read to tell which is newer, not even one that is damaged; only to tell whose they are.

use std::convert::Infallible;
use std::sync::Arc;

use paddock_index::{HashIndex, PackedLocator};

use super::reading::{Batch, Entry};
use crate::contents::{Contents, Loaded, TOUCHED_TOGETHER};
use crate::file_table::{FileTable, Files, Handle};
use crate::row_buffer::with_buffer;
use crate::view::SortedRun;

/// Rows are gathered, with their keys, and pointed at in the order of the index's buckets: what lies close
/// together in memory is then looked at together. In the order of keys each row would wait for a page of its own. So many
/// bytes at most, however much memory there is.
const GATHERED_BYTES_MAX: u64 = 48 << 20;
/// And at most this part of what the indexes may take.
const GATHERED_SHARE: u64 = 16;

/// An index that is being filled. Nobody else has it yet.
#[derive(Debug)]
pub(super) struct Filling {
    hash: HashIndex,
    files: Arc<FileTable>,
    /// By handle: how many runs are older than the file's.
    ages: Vec<usize>,
    /// By handle: what the index came to point at, and what it does not point at any more.
    gained: Vec<Loaded>,
    lost: Vec<Loaded>,
    /// Whether it has every key.
    is_complete: bool,
    /// Rows that wait to be pointed at, and their keys.
    gathered: Vec<Gathered>,
    keys: Vec<u8>,
    /// How many bytes of both may wait.
    gathered_bytes_max: usize,
}

/// A row that waits.
#[derive(Debug)]
struct Gathered {
    bucket: u32,
    length: u32,
    key_start: u32,
    key_bytes: u32,
    hash: u64,
    place: PackedLocator,
}

impl Filling {
    /// Begins with an index that points into these runs already, at rows that were noted by handle.
    /// There is so much memory for indexes.
    pub(super) fn new(
        hash: HashIndex,
        files: &Files,
        runs: &[SortedRun],
        noted: Vec<Loaded>,
        index_bytes_max: u64,
    ) -> Filling {
        let files = files.load_full();
        let count = files.len();
        let mut ages = vec![0; count];
        for (age, run) in runs.iter().enumerate() {
            for file in &run.files {
                if let Some(known) = ages.get_mut(file.handle.0 as usize) {
                    *known = age;
                }
            }
        }
        let mut gained = noted;
        gained.resize(count, Loaded::default());
        Filling {
            hash,
            files,
            ages,
            gained,
            lost: vec![Loaded::default(); count],
            is_complete: true,
            gathered: Vec::new(),
            keys: Vec::new(),
            gathered_bytes_max: (index_bytes_max / GATHERED_SHARE).min(GATHERED_BYTES_MAX) as usize,
        }
    }

    pub(super) fn index(&self) -> &HashIndex {
        &self.hash
    }

    /// Takes rows in. Their keys point at them once [`Filling::finish`] was called, but for keys that have a row in a newer run.
    pub(super) fn take(&mut self, batch: &Batch) {
        let reader = self.hash.reader();
        for (entry, key) in batch.iter() {
            let key_start = self.keys.len() as u32;
            self.keys.extend_from_slice(key);
            let &Entry { hash, place, length, .. } = entry;
            let bucket = reader.bucket(hash);
            self.gathered.push(Gathered {
                bucket,
                length,
                key_start,
                key_bytes: key.len() as u32,
                hash,
                place,
            });
        }
        let gathered_bytes = self.gathered.len() * size_of::<Gathered>() + self.keys.len();
        if gathered_bytes >= self.gathered_bytes_max {
            self.point_gathered();
        }
    }

    fn point_gathered(&mut self) {
        let mut gathered = std::mem::take(&mut self.gathered);
        gathered.sort_unstable_by_key(|row| row.bucket);
        for together in gathered.chunks(TOUCHED_TOGETHER) {
            together.iter().for_each(|row| self.hash.reader().touch(row.hash));
            together.iter().for_each(|row| self.point(row));
        }
        self.gathered = gathered;
        self.gathered.clear();
        self.keys.clear();
    }

    fn point(&mut self, row: &Gathered) {
        let Filling { hash, files, ages, gained, lost, is_complete, keys, .. } = self;
        let key = keys.get(row.key_start as usize..).unwrap_or_default();
        let key = key.get(..row.key_bytes as usize).unwrap_or_default();
        let mut known_bytes = 0;
        let inserted = hash.insert_hashed(row.hash, row.place, |found| {
            let bytes = with_buffer(|buffer| files.length_of(found, key, buffer));
            known_bytes = bytes.unwrap_or_default();
            Ok::<_, Infallible>(bytes.is_some())
        });
        let age = |place| ages.get(Handle::of(place).0 as usize);
        match inserted {
            Ok(Some(replaced)) if age(replaced) > age(row.place) => {
                hash.replace_if_hashed(row.hash, row.place, replaced);
                return;
            }
            Ok(Some(replaced)) => note(lost, replaced, known_bytes),
            Ok(None) => {}
            Err(_) => {
                *is_complete = false;
                return;
            }
        }
        note(gained, row.place, u64::from(row.length));
    }

    /// The contents of the files with this index. Their runs are not published yet.
    pub(super) fn finish(mut self, files: Files) -> Contents {
        self.point_gathered();
        let Filling { hash, gained, lost, is_complete, .. } = self;
        let contents = Contents::new(files, hash, is_complete);
        for ((number, gained), lost) in (0..).zip(&gained).zip(&lost) {
            contents.count_loaded(Handle(number), &gained.less(lost));
        }
        contents
    }
}

fn note(noted: &mut [Loaded], place: PackedLocator, bytes: u64) {
    if let Some(noted) = noted.get_mut(Handle::of(place).0 as usize) {
        noted.note(place, bytes);
    }
}
