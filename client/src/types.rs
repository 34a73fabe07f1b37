//! The client's own types, and the one place where they turn into wire types and back.

use std::time::Duration;

use bytes::Bytes;
use paddock_proto::v1;

use crate::session::SessionToken;

/// One stored record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The log sequence of the key's last write: for one key it only grows, even across a delete.
    pub version: u64,
}

/// How fresh a read must be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// Linearizable: served by the partition's leader under a lease, which assumes that the servers' clocks run at about
    /// the same rate.
    #[default]
    Strong,
    /// Linearizable, and no clock is trusted: the leader first hears from every replica that could lead. It takes a round trip
    /// between the servers.
    Barrier,
    /// Any replica, whatever it has applied: no promise of freshness.
    Eventual,
    /// Any replica that has applied everything that was committed so long ago. Counted in milliseconds; at most 49 days.
    MaxStaleness(Duration),
    /// Any replica that has applied all that a session has seen: see [`Session`](crate::Session).
    Session(SessionToken),
}

/// Guards one write: it happens only if the condition holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Precondition {
    /// No condition: create or replace.
    #[default]
    None,
    /// The key must have no record, else [`Error::AlreadyExists`](crate::Error::AlreadyExists).
    Absent,
    /// The key must have a record, else [`Error::NotFound`](crate::Error::NotFound).
    Exists,
    /// The record must have this version, else
    /// [`Error::PreconditionFailed`](crate::Error::PreconditionFailed).
    Version(u64),
    /// The record must have this value, else
    /// [`Error::PreconditionFailed`](crate::Error::PreconditionFailed).
    Value(Bytes),
}

/// One write of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// Set a value.
    Put {
        /// The key, 1 to 4,096 bytes.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// What must hold.
        precondition: Precondition,
    },
    /// Remove a record.
    Delete {
        /// The key, 1 to 4,096 bytes.
        key: Bytes,
        /// What must hold.
        precondition: Precondition,
    },
}

impl Mutation {
    /// Sets a value, whatever was there.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Mutation::Put { key: key.into(), value: value.into(), precondition: Precondition::None }
    }

    /// The key that it writes.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        match self {
            Mutation::Put { key, .. } | Mutation::Delete { key, .. } => key,
        }
    }

    /// Removes a record, if there is one.
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Mutation::Delete { key: key.into(), precondition: Precondition::None }
    }
}

/// What a delete did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// True if there was a record.
    pub deleted: bool,
    /// The log sequence of the delete; 0 if there was nothing to delete.
    pub version: u64,
}

/// What came of a request, and what a session has seen with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen<T> {
    /// What came of it.
    pub result: T,
    /// For a later read that must see at least as much: [`Consistency::Session`].
    pub session_token: SessionToken,
}

impl From<v1::Record> for Record {
    fn from(wire: v1::Record) -> Self {
        Record { key: wire.key, value: wire.value, version: wire.version }
    }
}

impl Consistency {
    /// The wire's form: unset means strong.
    pub(crate) fn into_wire(self) -> Option<v1::ReadConsistency> {
        use v1::read_consistency::Requirement;
        let requirement = match self {
            Consistency::Strong => return None,
            Consistency::Barrier => Requirement::Barrier(true),
            Consistency::Eventual => Requirement::Eventual(true),
            Consistency::MaxStaleness(bound) => {
                Requirement::MaxStalenessMs(u32::try_from(bound.as_millis()).unwrap_or(u32::MAX))
            }
            Consistency::Session(token) => Requirement::SessionToken(token.0),
        };
        Some(v1::ReadConsistency { requirement: Some(requirement) })
    }
}

impl Precondition {
    /// The wire's form: unset means no condition.
    pub(crate) fn into_wire(self) -> Option<v1::Precondition> {
        use v1::precondition::Condition;
        let condition = match self {
            Precondition::None => return None,
            Precondition::Absent => Condition::Exists(false),
            Precondition::Exists => Condition::Exists(true),
            Precondition::Version(version) => Condition::Version(version),
            Precondition::Value(value) => Condition::Value(value),
        };
        Some(v1::Precondition { condition: Some(condition) })
    }
}

impl From<Mutation> for v1::Mutation {
    fn from(mutation: Mutation) -> Self {
        use v1::mutation::{Delete, Operation, Put};
        let (operation, precondition) = match mutation {
            Mutation::Put { key, value, precondition } => {
                (Operation::Put(Put { key, value: Some(value) }), precondition)
            }
            Mutation::Delete { key, precondition } => (Operation::Delete(Delete { key }), precondition),
        };
        v1::Mutation {
            operation: Some(operation),
            precondition: precondition.into_wire(),
            request_id: String::new(),
        }
    }
}
