//! A client behind a router, made up: it finds leaders by hints, tries again what certainly did not happen, and reads; and
//! it notes what it was told.

use bytes::Bytes;
use paddock_coordination::NodeId;
use paddock_partition::operation::{Answer, Basis, Failure, Kind, Precondition, Request, Write};
use paddock_proto::request_id::RequestId;
use paddock_storage::Sequence;
use std::collections::BTreeMap;

use crate::history::{Condition, Seen, ValueId};
use crate::queue::Time;
use crate::random::Random;

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// A value.
    Get,
    /// A write under a guard.
    Write {
        /// The guard.
        condition: Condition,
        /// The guard is asked by version.
        version: Option<Sequence>,
        /// The new value; `None`: delete.
        value: Option<ValueId>,
    },
}

/// An operation under way.
#[derive(Clone, Debug)]
pub struct Ongoing {
    /// On which key.
    pub key: u64,
    /// Of which partition.
    pub partition: usize,
    /// What is wanted.
    pub wish: Wish,
    /// When it was asked, by the history.
    pub called: u64,
    /// It is given up then.
    pub until: Time,
    /// The number of the present attempt.
    pub attempt: u64,
    /// What tells it from others when it is sent again.
    pub request: Option<RequestId>,
    /// The attempt's answer is waited for.
    pub is_sent: bool,
}

/// One client.
#[derive(Debug, Default)]
pub struct Client {
    /// Who leads each partition, by hearsay.
    pub leaders: BTreeMap<usize, NodeId>,
    /// What it wants now.
    pub ongoing: Option<Ongoing>,
    /// What it last saw of each key.
    known: BTreeMap<u64, (ValueId, Sequence)>,
}

/// What an answer means for an operation.
#[derive(Debug, PartialEq, Eq)]
pub enum Meaning {
    /// It is over.
    Over(Seen, Option<Sequence>),
    /// It certainly did not happen: again, at whom the hint names.
    Again(Option<NodeId>),
}

/// A key's name.
#[must_use]
pub fn key_name(key: u64) -> Bytes {
    Bytes::from(format!("key-{key}"))
}

/// The bytes of a value; some are long.
#[must_use]
pub fn value_bytes(value: ValueId) -> Bytes {
    let padding = if value.is_multiple_of(7) { 300 } else { 0 };
    Bytes::from(format!("{value}{}", " ".repeat(padding)))
}

/// The value of the bytes.
#[must_use]
pub fn value_of(bytes: &[u8]) -> Option<ValueId> {
    std::str::from_utf8(bytes).ok()?.trim_end().parse().ok()
}

impl Client {
    /// What it wants next of a key.
    pub fn wish(&self, random: &mut Random, key: u64, reads_per_mille: u64, fresh: ValueId) -> Wish {
        if random.per_mille(reads_per_mille) {
            return Wish::Get;
        }
        let (value, known) = (Some(fresh), self.known.get(&key).copied());
        let plain = Wish::Write { condition: Condition::None, version: None, value };
        match (random.below(8), known) {
            (0, _) => Wish::Write { condition: Condition::Exists(false), version: None, value },
            (1, _) => Wish::Write { condition: Condition::Exists(true), version: None, value },
            (2, _) => Wish::Write { condition: Condition::None, version: None, value: None },
            (3 | 4, Some((expected, _))) => {
                Wish::Write { condition: Condition::Is(expected), version: None, value }
            }
            (5, Some((expected, version))) => {
                Wish::Write { condition: Condition::Is(expected), version: Some(version), value }
            }
            _ => plain,
        }
    }

    /// Remembers what it saw.
    pub fn remember(&mut self, key: u64, seen: Seen, version: Option<Sequence>) {
        match (seen, version) {
            (Seen::Read(Some(value)) | Seen::Written { value: Some(value), .. }, Some(version)) => {
                self.known.insert(key, (value, version));
            }
            (Seen::Read(None) | Seen::Written { value: None, .. }, _) => {
                self.known.remove(&key);
            }
            _ => {}
        }
    }
}

impl Wish {
    /// The operation that is sent. `basis`: what a read rests on.
    #[must_use]
    pub fn kind(self, key: u64, id: Option<RequestId>, basis: Basis) -> Kind {
        let key = key_name(key);
        match self {
            Wish::Get => Kind::Read { key, omit_value: false, basis },
            Wish::Write { condition, version, value } => {
                let precondition = match (condition, version) {
                    (Condition::None, _) => None,
                    (Condition::Exists(exists), _) => Some(Precondition::Exists(exists)),
                    (Condition::Is(_), Some(version)) => Some(Precondition::Version(version)),
                    (Condition::Is(value), None) => Some(Precondition::Value(value_bytes(value))),
                };
                let value = value.map(value_bytes);
                let request = id.map(|id| Request::new(id, &key, value.as_deref(), precondition.as_ref()));
                Kind::Write(Write { key, value, precondition, request })
            }
        }
    }

    /// What becomes of it if nobody answers; nothing of a read.
    #[must_use]
    pub fn unanswered(self) -> Option<Seen> {
        match self {
            Wish::Get => None,
            Wish::Write { condition, value, .. } => Some(Seen::Unknown { condition, value }),
        }
    }

    /// What an answer means. `None`: it is no answer to this.
    #[must_use]
    pub fn meaning(self, answer: &Answer, is_named: bool) -> Option<Meaning> {
        match (self, answer) {
            (Wish::Get, Answer::Read(found)) => {
                let (value, version) = match found {
                    Some(record) => (Some(value_of(&record.value)?), Some(record.version)),
                    None => (None, None),
                };
                Some(Meaning::Over(Seen::Read(value), version))
            }
            (Wish::Write { condition, value, .. }, Answer::Written { version, deleted }) => {
                let existed = value.is_none().then_some(*deleted);
                Some(Meaning::Over(Seen::Written { condition, value, existed }, Some(*version)))
            }
            (Wish::Write { condition, .. }, Answer::Failed(failure)) if is_refusal(failure) => {
                Some(Meaning::Over(Seen::Refused { condition }, None))
            }
            // Sent again under its id, it happens once.
            (_, Answer::Failed(failure)) if failure.outcome_unknown() && is_named => {
                Some(Meaning::Again(None))
            }
            (wish, Answer::Failed(failure)) if failure.outcome_unknown() => {
                Some(wish.unanswered().map_or(Meaning::Again(None), |seen| Meaning::Over(seen, None)))
            }
            (_, Answer::Failed(Failure::NotLeader { leader })) => Some(Meaning::Again(*leader)),
            (_, Answer::Failed(_)) => Some(Meaning::Again(None)),
            _ => None,
        }
    }
}

fn is_refusal(failure: &Failure) -> bool {
    matches!(failure, Failure::KeyExists { .. } | Failure::KeyNotFound | Failure::PreconditionFailed { .. })
}
