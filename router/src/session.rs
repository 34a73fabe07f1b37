//! Session tokens: what a session has seen of each partition.
//!
//! A token is an encoded `paddock.v1.SessionToken`. Answers carry one of the partition that answered; two tokens, one behind
//! the other, are a token of both, so a session's token may name a partition more than once. What counts is the furthest.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use paddock_coordination::PartitionId;
use paddock_proto::v1::{ErrorReason, SessionPosition, SessionToken, session_token};
use prost::Message;

use crate::errors::Failure;

/// The most bytes of a token: of some thousand partitions. A client that only ever appends puts them together in time.
pub const TOKEN_BYTES_MAX: usize = 64 << 10;

/// What a session has seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Session {
    positions: BTreeMap<PartitionId, SessionPosition>,
}

impl Session {
    /// Reads a token.
    ///
    /// # Errors
    /// It is too long, or no token.
    pub fn decode(token: &Bytes) -> Result<Self, Failure> {
        let field = "consistency.session_token";
        if token.len() > TOKEN_BYTES_MAX {
            let what = "the length in bytes";
            return Err(Failure::over_limit(
                ErrorReason::InvalidRequest,
                field,
                what,
                TOKEN_BYTES_MAX,
                token.len(),
            ));
        }
        let invalid = |why: String| Failure::invalid(ErrorReason::SessionTokenInvalid, field, why);
        let decoded = SessionToken::decode(token.as_ref())
            .map_err(|error| invalid(format!("these bytes are no session token: {error}")))?;
        let mut session = Session::default();
        for partition in decoded.partitions {
            let position = partition.position.filter(|position| position.partition_uuid.len() == 16);
            let position =
                position.ok_or_else(|| invalid("the session token names no life of a partition".into()))?;
            session.add(PartitionId(partition.partition_id), position);
        }
        Ok(session)
    }

    /// A session that has seen one partition.
    #[must_use]
    pub fn at(partition: PartitionId, position: SessionPosition) -> Self {
        Session { positions: BTreeMap::from([(partition, position)]) }
    }

    /// As text, for where bytes cannot be.
    #[must_use]
    pub fn to_text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.encode())
    }

    /// The session has seen a partition there.
    pub fn add(&mut self, partition: PartitionId, position: SessionPosition) {
        let known = self.positions.entry(partition).or_insert_with(|| position.clone());
        if known.is_behind(&position) {
            *known = position;
        }
    }

    /// What it has seen of a partition.
    #[must_use]
    pub fn position(&self, partition: PartitionId) -> Option<&SessionPosition> {
        self.positions.get(&partition)
    }

    /// The partitions that it has seen.
    pub fn partitions(&self) -> impl Iterator<Item = PartitionId> {
        self.positions.keys().copied()
    }

    /// As a token.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let partition = |(id, position): (&PartitionId, &SessionPosition)| session_token::Partition {
            partition_id: id.0,
            position: Some(position.clone()),
        };
        SessionToken { partitions: self.positions.iter().map(partition).collect() }.encode_to_vec().into()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    fn at(life: u8, lineage: u64, sequence: u64) -> SessionPosition {
        SessionPosition { partition_uuid: vec![life; 16].into(), lineage, sequence }
    }

    fn session(partition: u32, position: SessionPosition) -> Session {
        Session::at(PartitionId(partition), position)
    }

    #[test]
    fn tokens_one_behind_the_other_are_a_token_of_both() {
        let tokens = [session(0, at(1, 0, 9)), session(3, at(2, 0, 4)), session(0, at(1, 0, 7))];
        let both: Bytes = tokens.iter().flat_map(Session::encode).collect();
        let read = Session::decode(&both).unwrap();
        assert_eq!(read.position(PartitionId(0)), Some(&at(1, 0, 9)), "the furthest counts");
        assert_eq!(read.position(PartitionId(3)), Some(&at(2, 0, 4)));
        assert_eq!(read.position(PartitionId(1)), None);
        assert_eq!(Session::decode(&read.encode()).unwrap(), read);
        assert_eq!(Session::decode(&Bytes::new()).unwrap(), Session::default());
        // After a lineage was raised, sequences of the one before say nothing.
        let raised = [session(0, at(1, 0, 9)), session(0, at(1, 1, 5))];
        let raised: Bytes = raised.iter().flat_map(Session::encode).collect();
        assert_eq!(Session::decode(&raised).unwrap().position(PartitionId(0)), Some(&at(1, 1, 5)));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let garbage = Session::decode(&Bytes::from_static(b"garbage")).unwrap_err();
        assert_eq!(garbage.reason, ErrorReason::SessionTokenInvalid);
        let short = SessionPosition { partition_uuid: vec![1; 15].into(), lineage: 0, sequence: 1 };
        assert!(Session::decode(&session(0, short).encode()).is_err());
        let long = Session::decode(&vec![0; TOKEN_BYTES_MAX + 1].into()).unwrap_err();
        assert!(long.message.contains("65537") && long.message.contains("65536"), "{long}");
    }
}
