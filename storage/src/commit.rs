//! Turns gathered requests into one batch of the log: conditions first, then one append, one fsync if anybody waits for
//! one, one apply.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::batch::LogEntries;
use crate::durability::Durability;
use crate::error::{Error, Result};
use crate::position::Sequence;
use crate::reader::{Readable, Reader};
use crate::record::Record;
use crate::replicated::ReplicatedStore;
use crate::row::{RowRef, Rows, RowsBuilder};

/// What must hold of a key for a request to be carried out.
#[derive(Clone, Debug)]
pub(crate) enum Expectation {
    Absent,
    Present,
    Version(Sequence),
    Value(Bytes),
}

/// A caller's write: all of its rows, or none.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) rows: Rows,
    /// All must hold before the first of the rows.
    pub(crate) conditions: Vec<(Bytes, Expectation)>,
    pub(crate) durability: Durability,
}

/// What became of a request. Both are told only once everything that they rest on is as durable as the request asks for.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Carried out; its last row has this sequence.
    Written(Sequence),
    /// A condition did not hold: its key, and the key's record.
    Refused(Bytes, Option<Record>),
}

/// Carries requests out, in order and as one batch. One answer for each.
pub(crate) fn commit(store: &mut ReplicatedStore, requests: Vec<Request>) -> VecDeque<Result<Outcome>> {
    let reader = store.reader();
    let durability = requests.iter().map(|request| request.durability).max().unwrap_or_default();
    let mut draft = Draft::new(&reader, store.last().sequence, &requests);
    let answers: VecDeque<Result<Outcome>> = requests.iter().map(|request| draft.add(request)).collect();
    match write(store, draft.rows.finish(), durability) {
        Ok(()) => answers,
        // A full disk refuses the batch as a whole. Alone, deletes still find room, and nobody suffers from another's
        // large value.
        Err(Error::DiskFull { .. }) if requests.len() > 1 => {
            requests.into_iter().map(|request| commit_alone(store, request)).collect()
        }
        Err(error) => share(error, requests.len()),
    }
}

/// Carries one request out. Its rows are not gathered with others, so they are not copied.
pub(crate) fn commit_alone(store: &mut ReplicatedStore, request: Request) -> Result<Outcome> {
    if !request.conditions.is_empty() {
        let reader = store.reader();
        let draft = Draft::new(&reader, store.last().sequence, &[]);
        if let Some(refused) = draft.refusal(&request)? {
            write(store, Rows::default(), request.durability)?;
            return Ok(refused);
        }
    }
    write(store, request.rows, request.durability)?;
    Ok(Outcome::Written(store.last().sequence))
}

fn write(store: &mut ReplicatedStore, rows: Rows, durability: Durability) -> Result<()> {
    if rows.count() > 0 {
        let first = store.last().sequence.next();
        let entries = LogEntries { epoch: 0, first, log_time_ms: store.now_ms(), rows };
        store.append(&entries, Sequence(0))?;
    }
    // Also without rows: an answer may rest on what others wrote and did not wait for.
    if durability == Durability::Sync {
        store.sync()?;
    } else if store.wants_sync() {
        store.board().sync_within(Duration::ZERO);
    }
    store.apply(store.last().sequence)
}

/// The same error for several callers: the first gets it with its source.
fn share(error: Error, count: usize) -> VecDeque<Result<Outcome>> {
    let again = || match &error {
        Error::DiskFull { path } => Error::DiskFull { path: path.clone() },
        Error::Poisoned { reason } => Error::Poisoned { reason: reason.clone() },
        Error::TooLarge { what, actual, limit } => Error::TooLarge { what, actual: *actual, limit: *limit },
        other => Error::Poisoned { reason: other.to_string() },
    };
    let mut answers: VecDeque<Result<Outcome>> = (1..count).map(|_| Err(again())).collect();
    answers.push_front(Err(error));
    answers
}

/// The batch in the making, and what it will have changed: a request's condition sees the requests before it.
struct Draft<'a> {
    reader: &'a Reader,
    rows: RowsBuilder,
    last: Sequence,
    /// Only kept when there is a condition to ask it.
    overlay: Option<HashMap<Bytes, Option<Record>>>,
}

impl<'a> Draft<'a> {
    fn new(reader: &'a Reader, last: Sequence, requests: &[Request]) -> Draft<'a> {
        let overlay = requests.iter().any(|request| !request.conditions.is_empty()).then(HashMap::new);
        Draft { reader, rows: RowsBuilder::new(), last, overlay }
    }

    fn add(&mut self, request: &Request) -> Result<Outcome> {
        if let Some(refused) = self.refusal(request)? {
            return Ok(refused);
        }
        self.rows.extend(&request.rows)?;
        for row in request.rows.iter() {
            self.last = self.last.next();
            self.note(row, request.rows.encoded());
        }
        Ok(Outcome::Written(self.last))
    }

    /// What is answered if a condition does not hold.
    fn refusal(&self, request: &Request) -> Result<Option<Outcome>> {
        for (key, expectation) in &request.conditions {
            if !self.holds(key, expectation)? {
                return Ok(Some(Outcome::Refused(key.clone(), self.record(key)?)));
            }
        }
        Ok(None)
    }

    /// Whether a key is as expected. A version and a value are verified, so they take the whole row; that there is one takes
    /// none of its value: a large one is removed unread.
    fn holds(&self, key: &Bytes, expectation: &Expectation) -> Result<bool> {
        Ok(match expectation {
            Expectation::Absent => self.version(key)?.is_none(),
            Expectation::Present if self.pending(key).is_none() && self.reader.surely_has(key) => true,
            // A damaged row is there, too, and can be removed.
            Expectation::Present => match self.version(key) {
                Err(Error::Corrupt { .. }) => true,
                version => version?.is_some(),
            },
            Expectation::Version(version) => self.version(key)? == Some(*version),
            Expectation::Value(value) => self.record(key)?.is_some_and(|record| record.value == *value),
        })
    }

    /// What a request before has made of a key. It may have expired already.
    fn pending(&self, key: &Bytes) -> Option<Option<&Record>> {
        let record = self.overlay.as_ref()?.get(key)?;
        Some(record.as_ref().filter(|record| !self.reader.hides(record.expires_at_ms)))
    }

    fn version(&self, key: &Bytes) -> Result<Option<Sequence>> {
        match self.pending(key) {
            Some(record) => Ok(record.map(|record| record.version)),
            None => self.reader.version(key),
        }
    }

    fn record(&self, key: &Bytes) -> Result<Option<Record>> {
        match self.pending(key) {
            Some(record) => Ok(record.cloned()),
            None => self.reader.get_record(key),
        }
    }

    /// Keeps a row for the conditions to come, without a copy of the `encoded` bytes that it is in.
    fn note(&mut self, row: RowRef<'_>, encoded: &Bytes) {
        let Some(overlay) = &mut self.overlay else { return };
        match row {
            RowRef::Put { key, .. } => {
                overlay.insert(encoded.slice_ref(key), Record::of_row(encoded, row, self.last));
            }
            RowRef::Delete { key } => {
                overlay.insert(encoded.slice_ref(key), None);
            }
            RowRef::Marker { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::clock::Clock;
    use crate::disk::FaultyDisk;
    use crate::manifest::Kind;
    use crate::options::Options;
    use crate::row::PutOptions;

    fn request(expires_at_ms: Option<u64>, expectation: Expectation) -> Request {
        let mut rows = RowsBuilder::new();
        rows.put_with(b"lease", b"mine", &PutOptions { expires_at_ms, content_type: None }).unwrap();
        let conditions = vec![(Bytes::from_static(b"lease"), expectation)];
        Request { rows: rows.finish(), conditions, durability: Durability::Sync }
    }

    /// Gathered into one batch or not, a condition sees no record that has expired.
    #[test]
    fn what_expired_is_absent_to_the_requests_behind_it() {
        let options = Options::new().disk(Arc::new(FaultyDisk::new())).clock(Clock::from_fn(|| 1_000));
        let mut store = ReplicatedStore::open_kind(Path::new("/data"), options, Kind::Standalone).unwrap();
        let requests = vec![
            request(Some(999), Expectation::Absent),
            request(Some(1_001), Expectation::Absent),
            request(None, Expectation::Absent),
            request(Some(1_000), Expectation::Present),
            request(None, Expectation::Present),
        ];
        let answers = commit(&mut store, requests);
        let written = |answer: &Result<Outcome>| match answer {
            Ok(Outcome::Written(sequence)) => Some(sequence.0),
            _ => None,
        };
        assert_eq!(answers.iter().map(written).collect::<Vec<_>>(), [Some(1), Some(2), None, Some(3), None]);
        assert!(
            matches!(&answers[2], Ok(Outcome::Refused(_, Some(current))) if current.version == Sequence(2))
        );
        assert!(matches!(&answers[4], Ok(Outcome::Refused(_, None))));
        assert_eq!(store.reader().get(b"lease").unwrap(), None);
    }
}
