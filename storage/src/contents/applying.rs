//! How the writer takes rows in: the index first, for a whole batch under one hold of its lock, then the tail.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use arc_swap::Guard;
use paddock_index::{HashIndex, HashReader, PackedLocator};
use parking_lot::MutexGuard;

use super::{Contents, take};
use crate::file_table::{FileTable, Handle, is_tombstone};
use crate::position::Sequence;
use crate::row::Frames;
use crate::row_buffer::with_buffer;
use crate::view::View;

/// The places in the index of so many rows are touched before the first of them is needed, in a loop that does nothing else:
/// a processor waits for as many at once as it has instructions in view.
pub(crate) const TOUCHED_TOGETHER: usize = 32;

impl Contents {
    /// Takes rows in that lie in a file from `offset` on, the first of them with sequence `first`. They are seen from
    /// [`Contents::set_applied`] on.
    pub(crate) fn apply(&self, handle: Handle, offset: u64, first: Sequence, frames: &Frames<'_>) {
        let hash = self.hash.lock();
        // Under the lock: a run whose rows have left the index is known to be cold by then.
        let cold = self.has_cold.load(Acquire).then(|| self.view());
        let keep_deletes = !self.complete.load(Acquire) || first.0 <= self.index_ahead.load(Acquire);
        let mut places = Vec::new();
        let files = self.files.load();
        let mut pointing = Pointing { contents: self, cold: cold.as_deref(), keep_deletes, hash, files };
        let mut hashes = Hashes::new(&self.lookup, frames.clone());
        for (sequence, frame) in (first.0..).zip(frames.clone()) {
            self.indexed.store(sequence, Release);
            let hash = hashes.next();
            let Some((key, hash)) = frame.stored.row.key().zip(hash) else {
                places.push(None);
                continue;
            };
            let length = frame.stored.bytes.len();
            let place = handle.place(!frame.stored.row.is_put(), offset + frame.offset as u64, length);
            places.push(place.filter(|place| pointing.point(key, hash, *place, length as u64)));
        }
        drop(pointing);
        let mut parts = self.parts.lock();
        parts.last_segment = Some(handle);
        for ((sequence, frame), place) in (first.0..).zip(frames.clone()).zip(places) {
            if let (Some(place), Some(key)) = (place, frame.stored.row.key()) {
                parts.tail.push(key, sequence, place, is_tombstone(place));
            }
        }
    }

    /// Keeps count when a key's newest row changes.
    fn count(
        &self,
        files: &FileTable,
        replaced: Option<(PackedLocator, u64)>,
        place: PackedLocator,
        length: u64,
    ) {
        if let Some((replaced, replaced_bytes)) = replaced {
            if let Some(file) = files.of(replaced) {
                file.take_live_bytes(replaced_bytes);
            }
            if !is_tombstone(replaced) {
                self.records.fetch_sub(1, Relaxed);
                take(&self.live_bytes, replaced_bytes);
            }
        }
        if let Some(file) = files.of(place) {
            file.add_live_bytes(length);
        }
        if !is_tombstone(place) {
            self.records.fetch_add(1, Relaxed);
            self.live_bytes.fetch_add(length, Relaxed);
        }
    }
}

/// The writer's hold on the index, for one batch.
struct Pointing<'a> {
    contents: &'a Contents,
    cold: Option<&'a View>,
    /// Whether a key may have a row though the index does not know it.
    keep_deletes: bool,
    hash: MutexGuard<'a, HashIndex>,
    files: Guard<Arc<FileTable>>,
}

impl Pointing<'_> {
    /// Points a key at its newest row. False: a delete of a key that has no row anywhere, which leaves no trace.
    ///
    /// Where some run is cold, whether a key that the index does not know is new is answered by the runs' filters: the
    /// count of records is then right but for their errors, about one in a hundred.
    fn point(&mut self, key: &[u8], key_hash: u64, place: PackedLocator, length: u64) -> bool {
        let Pointing { contents, cold, keep_deletes, hash, files } = self;
        let mut known_bytes = 0;
        let mut is_key = |found| {
            let bytes = with_buffer(|buffer| files.length_of(found, key, buffer));
            known_bytes = bytes.unwrap_or_default();
            Ok::<_, Infallible>(bytes.is_some())
        };
        if is_tombstone(place) && cold.is_none() && !*keep_deletes {
            let Ok(Some(found)) = hash.reader().get_hashed(key_hash, &mut is_key) else { return false };
            hash.replace_if_hashed(key_hash, found, place);
            contents.count(files, Some((found, known_bytes)), place, length);
            return true;
        }
        match hash.insert_hashed(key_hash, place, is_key) {
            Ok(Some(replaced)) => contents.count(files, Some((replaced, known_bytes)), place, length),
            Ok(None) => {
                contents.count(files, None, place, length);
                if cold.is_some_and(|view| view.may_be_cold(key)) {
                    let _ = contents.records.fetch_update(Relaxed, Relaxed, |count| count.checked_sub(1));
                }
            }
            // Beyond four thousand million keys. From here on what it does not know is searched for.
            Err(_) => contents.complete.store(false, Release),
        }
        true
    }
}

/// The hashes of rows' keys; of a marker, of nothing. The places of many in the index are brought into the processor's cache
/// before they are needed: waiting for memory would be most of the work.
struct Hashes<'a> {
    lookup: &'a HashReader,
    frames: Frames<'a>,
    /// Those that were touched together, how many they are, and how many of them were given.
    together: [u64; TOUCHED_TOGETHER],
    touched: usize,
    given: usize,
}

impl<'a> Hashes<'a> {
    fn new(lookup: &'a HashReader, frames: Frames<'a>) -> Hashes<'a> {
        Hashes { lookup, frames, together: [0; TOUCHED_TOGETHER], touched: 0, given: 0 }
    }

    fn touch_on(&mut self) {
        let Hashes { lookup, frames, together, touched, given } = self;
        (*touched, *given) = (0, 0);
        for (hash, frame) in together.iter_mut().zip(frames) {
            *hash = lookup.hash(frame.stored.row.key().unwrap_or_default());
            *touched += 1;
        }
        together[..*touched].iter().for_each(|hash| lookup.touch(*hash));
    }
}

impl Iterator for Hashes<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        if self.given == self.touched {
            self.touch_on();
        }
        let hash = self.together[..self.touched].get(self.given).copied();
        self.given += usize::from(hash.is_some());
        hash
    }
}
