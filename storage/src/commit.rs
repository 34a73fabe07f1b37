//! Turns gathered requests into one batch of the log: conditions first, then one append, one fsync, one apply.

use std::collections::HashMap;

use bytes::Bytes;

use crate::batch::LogEntries;
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
    pub(crate) condition: Option<(Bytes, Expectation)>,
}

/// What became of a request. Both are told only once everything that they rest on is durable.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Carried out; its last row has this sequence.
    Written(Sequence),
    /// The condition did not hold: the key's record.
    Refused(Option<Record>),
}

/// Carries requests out, in order and as one batch. One answer for each.
pub(crate) fn commit(store: &mut ReplicatedStore, requests: &[Request]) -> Vec<Result<Outcome>> {
    let reader = store.reader();
    let mut draft = Draft::new(&reader, store.last().sequence, requests);
    let answers: Vec<Result<Outcome>> = requests.iter().map(|request| draft.add(request)).collect();
    match write(store, draft.rows.finish()) {
        Ok(()) => answers,
        // A full disk refuses the batch as a whole. Alone, deletes still find room, and nobody suffers from another's
        // large value.
        Err(Error::DiskFull { .. }) if requests.len() > 1 => {
            requests.iter().flat_map(|request| commit(store, std::slice::from_ref(request))).collect()
        }
        Err(error) => share(error, requests.len()),
    }
}

fn write(store: &mut ReplicatedStore, rows: Rows) -> Result<()> {
    if rows.count() == 0 {
        return Ok(());
    }
    let first = store.last().sequence.next();
    let entries = LogEntries { epoch: 0, first, log_time_ms: store.now_ms(), rows };
    store.append(&entries, store.durable())?;
    let durable = store.sync()?;
    store.apply(durable)
}

/// The same error for several callers: the first gets it with its source.
fn share(error: Error, count: usize) -> Vec<Result<Outcome>> {
    let again = || match &error {
        Error::DiskFull { path } => Error::DiskFull { path: path.clone() },
        Error::Poisoned { reason } => Error::Poisoned { reason: reason.clone() },
        Error::TooLarge { what, actual, limit } => Error::TooLarge { what, actual: *actual, limit: *limit },
        other => Error::Poisoned { reason: other.to_string() },
    };
    let mut answers: Vec<Result<Outcome>> = (1..count).map(|_| Err(again())).collect();
    answers.insert(0, Err(error));
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
        let overlay = requests.iter().any(|request| request.condition.is_some()).then(HashMap::new);
        Draft { reader, rows: RowsBuilder::new(), last, overlay }
    }

    fn add(&mut self, request: &Request) -> Result<Outcome> {
        if let Some((key, expectation)) = &request.condition
            && !self.holds(key, expectation)?
        {
            return Ok(Outcome::Refused(self.record(key)?));
        }
        self.rows.extend(&request.rows)?;
        for row in request.rows.iter() {
            self.last = self.last.next();
            self.note(row, request.rows.encoded());
        }
        Ok(Outcome::Written(self.last))
    }

    /// Whether a key is as expected. Reads its row only if its value matters: removing a large value reads nothing, and a
    /// damaged one can be removed.
    fn holds(&self, key: &Bytes, expectation: &Expectation) -> Result<bool> {
        Ok(match expectation {
            Expectation::Absent => self.version(key)?.is_none(),
            // A damaged row is there, too, and can be removed.
            Expectation::Present => match self.version(key) {
                Err(Error::Corrupt { .. }) => true,
                version => version?.is_some(),
            },
            Expectation::Version(version) => self.version(key)? == Some(*version),
            Expectation::Value(value) => self.record(key)?.is_some_and(|record| record.value == *value),
        })
    }

    fn pending(&self, key: &Bytes) -> Option<&Option<Record>> {
        self.overlay.as_ref().and_then(|overlay| overlay.get(key))
    }

    fn version(&self, key: &Bytes) -> Result<Option<Sequence>> {
        match self.pending(key) {
            Some(record) => Ok(record.as_ref().map(|record| record.version)),
            None => self.reader.version(key),
        }
    }

    fn record(&self, key: &Bytes) -> Result<Option<Record>> {
        match self.pending(key) {
            Some(record) => Ok(record.clone()),
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
