//! What is stored of writes that carried an id: one row for each batch of the log, in the batch itself.
//!
//! ```text
//! key      00 00 01, then the number of the batch's first entry (8 bytes, big-endian)
//! value    1 (the format), then the horizon in milliseconds since 1970 (8 bytes), then the results, 33 bytes each:
//!            the id (16 bytes), the request's fingerprint (8), the kind of result (1), a version (8)
//! ```
//!
//! Numbers in the value are little-endian.

use bytes::{Buf, BufMut};
use paddock_proto::request_id::RequestId;
use paddock_storage::Sequence;

use crate::keys;
use crate::operation::{Answer, Failure};

/// The kind of reserved key.
const KEY_KIND: u8 = 1;
/// The first byte of a value. A build that finds another one cannot tell what was done, and says so.
const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 1 + 8;
/// What one result takes.
pub(crate) const RESULT_BYTES: usize = 16 + 8 + 1 + 8;
/// What the row of a batch takes beside its results.
pub(crate) const ROW_BYTES: usize = KEY_BYTES + HEADER_BYTES + paddock_storage::ROW_OVERHEAD_BYTES;
/// What the row that removes such a row takes.
pub(crate) const REMOVAL_BYTES: usize = KEY_BYTES + paddock_storage::ROW_OVERHEAD_BYTES;
const KEY_BYTES: usize = 11;

const KINDS: [Kind; 6] = [
    Kind::Written,
    Kind::Deleted,
    Kind::NothingToDelete,
    Kind::KeyExists,
    Kind::KeyNotFound,
    Kind::PreconditionFailed,
];

/// What a write came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Written = 1,
    Deleted = 2,
    NothingToDelete = 3,
    KeyExists = 4,
    KeyNotFound = 5,
    PreconditionFailed = 6,
}

/// The first result of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Tells the request from another one with the same id.
    pub fingerprint: u64,
    kind: Kind,
    /// The version that was made, or the one that spoke against it.
    version: u64,
}

impl Recorded {
    /// What an answer leaves behind; `None` for one that decides nothing.
    #[must_use]
    pub fn of(fingerprint: u64, answer: &Answer) -> Option<Self> {
        let (kind, version) = match answer {
            Answer::Written { version: Sequence(0), .. } => (Kind::NothingToDelete, 0),
            Answer::Written { version, deleted: true } => (Kind::Deleted, version.0),
            Answer::Written { version, deleted: false } => (Kind::Written, version.0),
            Answer::Failed(Failure::KeyExists { current }) => (Kind::KeyExists, current.0),
            Answer::Failed(Failure::KeyNotFound) => (Kind::KeyNotFound, 0),
            Answer::Failed(Failure::PreconditionFailed { current }) => (Kind::PreconditionFailed, current.0),
            _ => return None,
        };
        Some(Recorded { fingerprint, kind, version })
    }

    /// The first answer, again.
    #[must_use]
    pub fn answer(&self) -> Answer {
        let version = Sequence(self.version);
        match self.kind {
            Kind::Written => Answer::Written { version, deleted: false },
            Kind::Deleted => Answer::Written { version, deleted: true },
            Kind::NothingToDelete => Answer::Written { version: Sequence(0), deleted: false },
            Kind::KeyExists => Answer::Failed(Failure::KeyExists { current: version }),
            Kind::KeyNotFound => Answer::Failed(Failure::KeyNotFound),
            Kind::PreconditionFailed => Answer::Failed(Failure::PreconditionFailed { current: version }),
        }
    }
}

/// The row of one batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Row {
    /// The horizon when the batch was made: older ids were refused from then on.
    pub(crate) horizon_ms: u64,
    /// The results of the batch.
    pub(crate) results: Vec<(RequestId, Recorded)>,
}

/// The row's key, by the batch's first entry.
pub(crate) fn key(first: Sequence) -> [u8; KEY_BYTES] {
    keys::reserved(KEY_KIND, first.0)
}

/// Which batch's row has this key; `None`: it is no such key.
pub(crate) fn batch_of(key: &[u8]) -> Option<Sequence> {
    keys::number_of(KEY_KIND, key).map(Sequence)
}

impl Row {
    /// The time of the newest id in it.
    pub(crate) fn newest_ms(&self) -> u64 {
        self.results.iter().map(|(id, _)| id.time_ms()).max().unwrap_or_default()
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(HEADER_BYTES + self.results.len() * RESULT_BYTES);
        value.put_u8(FORMAT);
        value.put_u64_le(self.horizon_ms);
        for (id, recorded) in &self.results {
            value.put_slice(&id.to_bytes());
            value.put_u64_le(recorded.fingerprint);
            value.put_u8(recorded.kind as u8);
            value.put_u64_le(recorded.version);
        }
        value
    }

    /// From a stored value, or why not.
    pub(crate) fn decode(mut value: &[u8]) -> Result<Row, String> {
        let cut_short = || "the results of request ids are cut short".to_owned();
        let format = value.try_get_u8().map_err(|_| cut_short())?;
        if format != FORMAT {
            return Err(format!(
                "results of request ids in format {format}; this build knows format {FORMAT}"
            ));
        }
        let horizon_ms = value.try_get_u64_le().map_err(|_| cut_short())?;
        if !value.len().is_multiple_of(RESULT_BYTES) {
            return Err(cut_short());
        }
        let mut results = Vec::with_capacity(value.len() / RESULT_BYTES);
        while value.has_remaining() {
            let mut id = [0; 16];
            value.try_copy_to_slice(&mut id).map_err(|_| cut_short())?;
            let fingerprint = value.try_get_u64_le().map_err(|_| cut_short())?;
            let kind = value.try_get_u8().map_err(|_| cut_short())?;
            let version = value.try_get_u64_le().map_err(|_| cut_short())?;
            let id = RequestId::from_bytes(id).ok_or("a result of something that is no request id")?;
            let known = KINDS.into_iter().find(|known| *known as u8 == kind);
            let kind =
                known.ok_or_else(|| format!("a result of kind {kind}, which this build does not know"))?;
            results.push((id, Recorded { fingerprint, kind, version }));
        }
        Ok(Row { horizon_ms, results })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Peers send rows, and disks keep them: any bytes may come.
        #[test]
        fn any_bytes_are_a_row_that_is_written_the_same_or_none(
            header in prop::sample::select(vec![0_u8, 1, 1, 1, 2]),
            rest in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let bytes = [vec![header], rest].concat();
            if let Ok(row) = Row::decode(&bytes) {
                prop_assert_eq!(row.encode(), bytes);
            }
        }
    }

    fn answers() -> Vec<Answer> {
        let (version, current) = (Sequence(7), Sequence(6));
        vec![
            Answer::Written { version, deleted: false },
            Answer::Written { version, deleted: true },
            Answer::Written { version: Sequence(0), deleted: false },
            Answer::Failed(Failure::KeyExists { current }),
            Answer::Failed(Failure::KeyNotFound),
            Answer::Failed(Failure::PreconditionFailed { current }),
        ]
    }

    fn row() -> Row {
        let recorded = |answer: &Answer| Recorded::of(9, answer).expect("it decides");
        let ids = (0_u64..).map(|time| RequestId::from_parts(time, 3));
        Row { horizon_ms: 5, results: ids.zip(answers().iter().map(recorded)).collect() }
    }

    #[test]
    fn every_result_comes_back_as_the_same_answer() {
        let decoded = Row::decode(&row().encode()).expect("it is a row");
        assert_eq!(decoded, row());
        assert_eq!(decoded.results.iter().map(|(_, one)| one.answer()).collect::<Vec<_>>(), answers());
        assert_eq!(row().encode().len(), HEADER_BYTES + 6 * RESULT_BYTES);
        assert_eq!(Recorded::of(9, &Answer::Failed(Failure::LeaderChanged)), None);
        assert_eq!(batch_of(&key(Sequence(7))), Some(Sequence(7)));
    }

    #[test]
    fn what_is_no_row_is_refused() {
        let whole = row().encode();
        for cut in 1..RESULT_BYTES {
            assert!(Row::decode(&whole[..whole.len() - cut]).is_err());
        }
        let refusal = |at: usize, byte: u8| {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            Row::decode(&bytes).expect_err("it was let through")
        };
        assert!(refusal(0, 2).contains("format 2"));
        assert!(refusal(HEADER_BYTES + 24, 7).contains("kind 7"));
        assert!(refusal(HEADER_BYTES + 6, 0x40).contains("no request id"));
        assert!(Row::decode(&[]).is_err());
    }
}
