//! Admission: the leader decides what each write comes to, before it enters the log.
//!
//! Conditions are evaluated here, once, and the log carries their outcome: a write that passed is a plain
//! row, one that failed leaves no trace. So followers, recovery and every later reader of the log apply
//! rows without deciding anything, and cannot come to differ.
//!
//! A write is judged against the applied state, overlaid with the writes that were admitted before it and
//! are still on their way ([`Overlay`]). A refusal that rests on such a write is not given until that write
//! has committed: were it lost, the caller would have been told of a state that never was. So each refusal
//! names the sequence that it rests on, and the runtime answers it like a read: when that is applied, and
//! under the leader's lease.
//!
//! A write with a request id that was decided before is not judged again: it gets the first answer, when the entry that
//! carries it is applied. Otherwise what is decided is recorded in the same batch, a refusal too: had it left no trace, a
//! second sending of it might do after all what the caller was told did not happen. See [`retries`](crate::retries). That
//! comes before everything that speaks against a write that is to be decided now, such as a full disk: what was decided
//! was decided, and its sender is told so.
//!
//! This requires that everything in the log which is not applied is in the overlay. It holds because the
//! leader admits nothing before its epoch's first entry is applied, and that entry stands behind every
//! entry of earlier epochs.

use std::collections::HashMap;
use std::path::Path;

use bytes::Bytes;
use paddock_storage::{Readable, Reader, RowsBuilder, Sequence};

use crate::operation::{Answer, Failure, Precondition, Request, Write};
use crate::retries::{Batch, Known, Recorded};

/// What a pending write will make of its key.
#[derive(Debug)]
struct Pending {
    /// Its place in the log.
    sequence: Sequence,
    /// The value that it sets; `None` deletes.
    value: Option<Bytes>,
}

/// The keys of writes that are in the log and not yet applied.
#[derive(Debug, Default)]
pub struct Overlay {
    pending: HashMap<Bytes, Pending>,
}

impl Overlay {
    /// Forgets a write that has been applied. A later write of the same key stays.
    pub fn applied(&mut self, key: &Bytes, sequence: Sequence) {
        if self.pending.get(key).is_some_and(|pending| pending.sequence <= sequence) {
            self.pending.remove(key);
        }
    }

    /// Forgets everything: leadership is over, and what becomes of these writes is another's to say.
    pub fn clear(&mut self) {
        self.pending.clear();
    }
}

/// What a write comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is in the batch: as this entry of the log, or recorded in the batch, which is committed whole.
    Admitted {
        /// Its place in the log, or where it would have been.
        sequence: Sequence,
        /// What to answer when it has committed.
        answer: Answer,
    },
    /// It changes nothing, and this is the answer once the log is applied up to `after`.
    Settled {
        /// The entry that the answer rests on.
        after: Sequence,
        /// The answer.
        answer: Answer,
    },
    /// It fails, whatever the log holds.
    Failed(Failure),
}

/// What of a batch the disk has room for.
#[derive(Clone, Copy, Debug)]
pub struct Room<'a> {
    /// All of it, and for the record of a write that changes nothing.
    pub for_all: bool,
    /// What deletes.
    pub for_deletes: bool,
    /// Which disk.
    pub path: &'a Path,
}

impl Room<'_> {
    /// Whether there is room for one write.
    fn check(&self, write: &Write) -> Result<(), Failure> {
        let has_room = if write.value.is_some() { self.for_all } else { self.for_deletes };
        if has_room {
            return Ok(());
        }
        Err(Failure::DiskFull(format!("the leader's disk is full: {}", self.path.display())))
    }
}

/// One batch of writes on its way into the log.
pub struct Admission<'a> {
    reader: &'a Reader,
    overlay: &'a mut Overlay,
    retries: Batch<'a>,
    room: Room<'a>,
    rows: RowsBuilder,
    next: Sequence,
}

/// A key's record as the next write will find it.
struct Current {
    /// The record's version; 0 where there is none.
    version: Sequence,
    /// The entry that this rests on; 0 where it is applied.
    rests_on: Sequence,
}

impl Current {
    fn exists(&self) -> bool {
        self.version != Sequence(0)
    }
}

impl<'a> Admission<'a> {
    /// A batch whose first entry will be the one after `last`.
    pub fn new(
        reader: &'a Reader,
        overlay: &'a mut Overlay,
        retries: Batch<'a>,
        room: Room<'a>,
        last: Sequence,
    ) -> Self {
        let next = Sequence(last.0 + 1);
        Admission { reader, overlay, retries, room, rows: RowsBuilder::new(), next }
    }

    /// Judges one write; where it is admitted, adds its row to the batch.
    pub fn admit(&mut self, write: &Write) -> Verdict {
        self.try_admit(write).unwrap_or_else(Verdict::Failed)
    }

    /// The rows of what was admitted, in order.
    ///
    /// # Errors
    /// The store's: the batch is too large.
    pub fn finish(mut self) -> Result<RowsBuilder, paddock_storage::Error> {
        self.retries.finish(&mut self.rows)?;
        Ok(self.rows)
    }

    fn try_admit(&mut self, write: &Write) -> Result<Verdict, Failure> {
        let Some(request) = write.request else { return self.judge(write) };
        match self.retries.find(request.id, self.next) {
            Known::Decided { recorded, .. } if recorded.fingerprint != request.fingerprint => {
                Err(Failure::RequestReused)
            }
            Known::Decided { after, recorded } => Ok(Verdict::Settled { after, answer: recorded.answer() }),
            Known::Expired { clock_ms } => Err(Failure::RequestExpired { clock_ms }),
            Known::Ahead { clock_ms } => Err(Failure::RequestAhead { clock_ms }),
            Known::New => {
                let verdict = self.judge(write)?;
                self.record(request, verdict)
            }
        }
    }

    /// Records what was decided about a write with an id.
    fn record(&mut self, request: Request, verdict: Verdict) -> Result<Verdict, Failure> {
        let verdict = match verdict {
            Verdict::Settled { .. } if !self.room.for_all => {
                return Err(Failure::DiskFull("the disk has no room to record the request".into()));
            }
            // Its record rests on all that is before it in the log, and commits with the batch.
            Verdict::Settled { answer, .. } => Verdict::Admitted { sequence: self.next, answer },
            verdict => verdict,
        };
        if let Verdict::Admitted { answer, .. } = &verdict
            && let Some(recorded) = Recorded::of(request.fingerprint, answer)
        {
            self.retries.record(request.id, recorded);
        }
        Ok(verdict)
    }

    fn judge(&mut self, write: &Write) -> Result<Verdict, Failure> {
        self.room.check(write)?;
        let current = self.current(&write.key)?;
        if let Some(precondition) = &write.precondition
            && let Some(failure) = self.refusal(&write.key, precondition, &current)?
        {
            return Ok(Verdict::Settled { after: current.rests_on, answer: Answer::Failed(failure) });
        }
        let sequence = self.next;
        let answer = match &write.value {
            Some(value) => {
                self.rows.put(&write.key, value).map_err(|error| Failure::Invalid(error.to_string()))?;
                Answer::Written { version: sequence, deleted: false }
            }
            None if current.exists() => {
                self.rows.delete(&write.key).map_err(|error| Failure::Invalid(error.to_string()))?;
                Answer::Written { version: sequence, deleted: true }
            }
            None => {
                let answer = Answer::Written { version: Sequence(0), deleted: false };
                return Ok(Verdict::Settled { after: current.rests_on, answer });
            }
        };
        self.next = Sequence(sequence.0 + 1);
        self.overlay.pending.insert(write.key.clone(), Pending { sequence, value: write.value.clone() });
        Ok(Verdict::Admitted { sequence, answer })
    }

    fn current(&self, key: &Bytes) -> Result<Current, Failure> {
        if let Some(pending) = self.overlay.pending.get(key) {
            let version = if pending.value.is_some() { pending.sequence } else { Sequence(0) };
            return Ok(Current { version, rests_on: pending.sequence });
        }
        let version = self.reader.version(key).map_err(read_failure)?.unwrap_or_default();
        Ok(Current { version, rests_on: Sequence(0) })
    }

    /// Why the precondition does not hold; `None` if it does.
    fn refusal(
        &self,
        key: &Bytes,
        precondition: &Precondition,
        current: &Current,
    ) -> Result<Option<Failure>, Failure> {
        let version = current.version;
        let lost = Failure::PreconditionFailed { current: version };
        Ok(match precondition {
            Precondition::Exists(true) => (!current.exists()).then_some(Failure::KeyNotFound),
            Precondition::Exists(false) => {
                current.exists().then_some(Failure::KeyExists { current: version })
            }
            // Version 0 would be a create by another name; say it with `exists`.
            Precondition::Version(expected) => (!current.exists() || *expected != version).then_some(lost),
            Precondition::Value(expected) => (self.value(key)?.as_ref() != Some(expected)).then_some(lost),
        })
    }

    fn value(&self, key: &Bytes) -> Result<Option<Bytes>, Failure> {
        match self.overlay.pending.get(key) {
            Some(pending) => Ok(pending.value.clone()),
            None => self.reader.get(key).map_err(read_failure),
        }
    }
}

/// A read that the store could not do. Nothing was written.
pub fn read_failure(error: paddock_storage::Error) -> Failure {
    Failure::Unavailable(format!("the leader cannot read its store: {error}"))
}

#[cfg(test)]
mod tests {
    use paddock_storage::{LogEntries, Options, ReplicatedStore};

    use paddock_proto::request_id::RequestId;

    use super::*;
    use crate::clock::Timestamp;
    use crate::retries::Retries;

    /// A disk with room for everything.
    fn room() -> Room<'static> {
        Room { for_all: true, for_deletes: true, path: Path::new("/disk") }
    }

    fn at(retries: &Retries, first: u64, wall_clock_ms: u64) -> Batch<'_> {
        retries.batch(Sequence(first), wall_clock_ms, Timestamp(0))
    }

    fn put(key: &str, value: &str, precondition: Option<Precondition>) -> Write {
        let value = Some(Bytes::copy_from_slice(value.as_bytes()));
        Write { key: Bytes::copy_from_slice(key.as_bytes()), value, precondition, request: None }
    }

    fn delete(key: &str) -> Write {
        Write { key: Bytes::copy_from_slice(key.as_bytes()), value: None, precondition: None, request: None }
    }

    fn admitted(version: u64, deleted: bool) -> Verdict {
        let sequence = Sequence(version);
        Verdict::Admitted { sequence, answer: Answer::Written { version: sequence, deleted } }
    }

    fn refused(after: u64, failure: Failure) -> Verdict {
        Verdict::Settled { after: Sequence(after), answer: Answer::Failed(failure) }
    }

    /// A store whose entry 1 put `old`, applied.
    fn store(directory: &Path) -> ReplicatedStore {
        let mut store = ReplicatedStore::open(directory, Options::default()).expect("opens");
        let mut rows = RowsBuilder::new();
        rows.put(b"old", b"0").expect("fits");
        let entries = LogEntries { epoch: 1, first: Sequence(1), log_time_ms: 0, rows: rows.finish() };
        store.append(&entries, Sequence(0)).expect("appends");
        store.sync().expect("syncs");
        store.apply(Sequence(1)).expect("applies");
        store
    }

    #[test]
    fn writes_are_judged_by_what_those_before_them_will_have_made() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = store(directory.path());
        let (reader, retries) = (store.reader(), Retries::default());
        let mut overlay = Overlay::default();
        let mut batch = Admission::new(&reader, &mut overlay, at(&retries, 2, 0), room(), Sequence(1));
        let exists = |expected| Some(Precondition::Exists(expected));
        let version = |expected| Some(Precondition::Version(Sequence(expected)));

        // Against what is applied: the refusal rests on nothing that is still under way.
        let current = Sequence(1);
        assert_eq!(batch.admit(&put("old", "1", exists(false))), refused(0, Failure::KeyExists { current }));
        assert_eq!(batch.admit(&put("new", "1", exists(true))), refused(0, Failure::KeyNotFound));
        assert_eq!(batch.admit(&put("old", "1", version(1))), admitted(2, false));
        // Against what is under way: the refusal waits for it.
        let current = Sequence(2);
        assert_eq!(
            batch.admit(&put("old", "2", version(1))),
            refused(2, Failure::PreconditionFailed { current })
        );
        let value = |expected: &str| Some(Precondition::Value(Bytes::copy_from_slice(expected.as_bytes())));
        assert_eq!(batch.admit(&put("old", "2", value("1"))), admitted(3, false));
        assert_eq!(batch.admit(&delete("old")), admitted(4, true));
        assert_eq!(batch.admit(&put("old", "3", exists(true))), refused(4, Failure::KeyNotFound));
        let nothing = Answer::Written { version: Sequence(0), deleted: false };
        assert_eq!(batch.admit(&delete("old")), Verdict::Settled { after: Sequence(4), answer: nothing });
        assert_eq!(batch.admit(&put("old", "4", exists(false))), admitted(5, false));
        assert_eq!(batch.finish().expect("fits").count(), 4);
    }

    #[test]
    fn the_overlay_forgets_a_write_when_it_is_applied_and_not_before_the_last_of_its_key() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = store(directory.path());
        let (reader, retries) = (store.reader(), Retries::default());
        let mut overlay = Overlay::default();
        let mut batch = Admission::new(&reader, &mut overlay, at(&retries, 2, 0), room(), Sequence(1));
        assert_eq!(batch.admit(&put("k", "1", None)), admitted(2, false));
        assert_eq!(batch.admit(&put("k", "2", None)), admitted(3, false));
        overlay.applied(&Bytes::from_static(b"k"), Sequence(2));
        let current = |overlay: &mut Overlay| {
            let mut batch = Admission::new(&reader, overlay, at(&retries, 4, 0), room(), Sequence(3));
            batch.admit(&put("k", "3", Some(Precondition::Exists(false))))
        };
        let rests_on_three = refused(3, Failure::KeyExists { current: Sequence(3) });
        assert_eq!(current(&mut overlay), rests_on_three);
        // From here on the store would know, had it applied them; this one has not, so the key is free.
        overlay.applied(&Bytes::from_static(b"k"), Sequence(3));
        assert_eq!(current(&mut overlay), admitted(4, false));
    }

    #[test]
    fn a_write_with_an_id_is_decided_once_whatever_came_of_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = store(directory.path());
        let (reader, retries) = (store.reader(), Retries::default());
        let mut overlay = Overlay::default();
        let mut batch = Admission::new(&reader, &mut overlay, at(&retries, 2, 1_000), room(), Sequence(1));
        let named = |number: u128, write: Write| {
            let id = RequestId::from_parts(1_000, number);
            let request = Request::new(id, &write.key, write.value.as_deref(), write.precondition.as_ref());
            Write { request: Some(request), ..write }
        };
        let create = named(1, put("new", "1", Some(Precondition::Exists(false))));
        let refused = named(2, put("new", "2", Some(Precondition::Exists(false))));
        let nothing = named(3, delete("none"));

        assert_eq!(batch.admit(&create), admitted(2, false));
        // Recorded with the batch, whose next entry is 3: so it is not answered before that is committed.
        let exists = Answer::Failed(Failure::KeyExists { current: Sequence(2) });
        let missing = Answer::Written { version: Sequence(0), deleted: false };
        let recorded = |answer: &Answer| Verdict::Admitted { sequence: Sequence(3), answer: answer.clone() };
        assert_eq!(batch.admit(&refused), recorded(&exists));
        assert_eq!(batch.admit(&nothing), recorded(&missing));

        // Now the other way round: neither what was done nor what was refused is done again.
        assert_eq!(batch.admit(&delete("new")), admitted(3, true));
        assert_eq!(batch.admit(&put("none", "x", None)), admitted(4, false));
        let settled = |answer: Answer| Verdict::Settled { after: Sequence(5), answer };
        let created = Answer::Written { version: Sequence(2), deleted: false };
        assert_eq!(batch.admit(&create), settled(created));
        assert_eq!(batch.admit(&refused), settled(exists));
        assert_eq!(batch.admit(&nothing), settled(missing));

        // The same id for something else is somebody's mistake.
        for other in [
            put("new", "2", Some(Precondition::Exists(false))),
            put("new", "1", None),
            put("newer", "1", Some(Precondition::Exists(false))),
            delete("new"),
        ] {
            let request = named(1, other.clone());
            assert_eq!(batch.admit(&request), Verdict::Failed(Failure::RequestReused), "{other:?}");
        }
        assert_eq!(batch.finish().expect("fits").count(), 4, "three entries of users, and one of results");
    }

    #[test]
    fn on_a_full_disk_a_write_that_changes_nothing_is_not_decided() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = store(directory.path());
        let (reader, retries) = (store.reader(), Retries::default());
        let mut overlay = Overlay::default();
        let full = Room { for_all: false, ..room() };
        let mut batch = Admission::new(&reader, &mut overlay, at(&retries, 2, 1_000), full, Sequence(1));
        let named = |write: Write| {
            let request = Request { id: RequestId::from_parts(1_000, 1), fingerprint: 0 };
            Write { request: Some(request), ..write }
        };
        assert!(matches!(batch.admit(&named(delete("none"))), Verdict::Failed(Failure::DiskFull(_))));
        assert_eq!(batch.admit(&named(delete("old"))), admitted(2, true));
    }

    #[test]
    fn on_a_full_disk_what_was_decided_before_is_answered_all_the_same() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut store = store(directory.path());
        let (reader, mut retries) = (store.reader(), Retries::default());
        let named = |number: u128, write: Write| {
            let id = RequestId::from_parts(1_000, number);
            let request = Request::new(id, &write.key, write.value.as_deref(), write.precondition.as_ref());
            Write { request: Some(request), ..write }
        };
        let (create, gone) =
            (named(1, put("new", "1", Some(Precondition::Exists(false)))), named(2, delete("old")));

        let mut overlay = Overlay::default();
        let mut batch = Admission::new(&reader, &mut overlay, at(&retries, 2, 1_000), room(), Sequence(1));
        assert_eq!(batch.admit(&create), admitted(2, false));
        assert_eq!(batch.admit(&gone), admitted(3, true));
        let rows = batch.finish().expect("fits").finish();
        let entries = LogEntries { epoch: 1, first: Sequence(2), log_time_ms: 0, rows };
        store.append(&entries, Sequence(1)).expect("appends");
        retries.appended(&entries);

        let full = Room { for_all: false, for_deletes: false, ..room() };
        let mut batch = Admission::new(&reader, &mut overlay, at(&retries, 5, 1_000), full, Sequence(4));
        let settled = |version: u64, deleted| Verdict::Settled {
            after: Sequence(4),
            answer: Answer::Written { version: Sequence(version), deleted },
        };
        assert_eq!(batch.admit(&create), settled(2, false));
        assert_eq!(batch.admit(&gone), settled(3, true));
        // What speaks against an id speaks against it on a full disk too, and what was not decided is not decided now.
        assert_eq!(batch.admit(&named(1, put("new", "2", None))), Verdict::Failed(Failure::RequestReused));
        for new in [named(3, put("newer", "1", None)), named(4, delete("new")), put("newer", "1", None)] {
            let refused = batch.admit(&new);
            assert!(matches!(refused, Verdict::Failed(Failure::DiskFull(_))), "{refused:?}");
        }
        assert_eq!(batch.finish().expect("fits").count(), 0);
    }
}
