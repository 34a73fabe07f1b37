//! [`Session`]: reads that see what the session has written and read before, at any replica.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use bytes::Bytes;
use paddock_proto::v1;
use prost::Message;

use crate::client::Client;
use crate::error::Error;
use crate::types::{Consistency, Deleted, Mutation, Precondition, Record};

/// What a session has seen, for its next read to see at least as much. Opaque; it may be kept, and given to others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionToken(pub(crate) Bytes);

impl SessionToken {
    /// The token of a session that has seen what both have.
    #[must_use]
    pub fn merged(&self, other: &SessionToken) -> SessionToken {
        // One behind the other they are a token of both; the furthest position of each partition is all that counts.
        let both = Bytes::from([self.0.as_ref(), other.0.as_ref()].concat());
        // What is no token stays as it is: the server says so, and it does not grow with every answer.
        let Ok(decoded) = v1::SessionToken::decode(both) else { return self.clone() };
        let mut positions: BTreeMap<u32, v1::SessionPosition> = BTreeMap::new();
        for partition in decoded.partitions {
            let Some(position) = partition.position else { continue };
            match positions.get_mut(&partition.partition_id) {
                Some(known) if !known.is_behind(&position) => {}
                Some(known) => *known = position,
                None => drop(positions.insert(partition.partition_id, position)),
            }
        }
        let partition = |(partition_id, position)| v1::session_token::Partition {
            partition_id,
            position: Some(position),
        };
        let partitions = positions.into_iter().map(partition).collect();
        SessionToken(v1::SessionToken { partitions }.encode_to_vec().into())
    }

    /// True if it has seen nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for SessionToken {
    /// As base64url.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(&self.0))
    }
}

/// A text that is no session token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a session token is base64url: {0}")]
pub struct InvalidSessionToken(base64::DecodeError);

impl FromStr for SessionToken {
    type Err = InvalidSessionToken;

    fn from_str(text: &str) -> Result<Self, InvalidSessionToken> {
        let bytes = URL_SAFE_NO_PAD.decode(text).or_else(|_| URL_SAFE.decode(text));
        bytes.map(|bytes| SessionToken(bytes.into())).map_err(InvalidSessionToken)
    }
}

/// A client whose reads are answered by any replica that has applied what this session has written and read: it reads its
/// own writes, and never sees an older state than before. Others' writes may be missing until they reach the replica.
///
/// Clones of the [`Client`] have sessions of their own.
#[derive(Debug)]
pub struct Session {
    client: Client,
    token: Mutex<SessionToken>,
}

impl Session {
    /// A session that has seen what the token has: none, or where another one ended.
    pub(crate) fn new(client: Client, token: SessionToken) -> Self {
        Session { client, token: Mutex::new(token) }
    }

    /// What it has seen so far.
    #[must_use]
    pub fn token(&self) -> SessionToken {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sees what another session has seen: what was told by its token is read here from now on.
    pub fn see(&self, other: &SessionToken) {
        let mut token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        *token = token.merged(other);
    }

    /// Reads one record.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::SessionLost`] when what it has seen is no more.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Record, Error> {
        let answer = self.client.get_seen(key.into(), Consistency::Session(self.token())).await;
        let (record, token) = self.note(answer)?;
        self.see(&token);
        Ok(record)
    }

    /// Reads many keys, as [`Client::batch_get`].
    ///
    /// # Errors
    /// As [`Client::batch_get`]; [`Error::SessionLost`].
    pub async fn batch_get(
        &self,
        keys: impl IntoIterator<Item = impl Into<Bytes>>,
    ) -> Result<Vec<Result<Record, Error>>, Error> {
        let keys = keys.into_iter().map(Into::into).collect();
        let (records, token) = self.client.batch_get_seen(keys, Consistency::Session(self.token())).await?;
        self.see(&token);
        Ok(records)
    }

    /// Writes one record, as [`Client::put_with`].
    ///
    /// # Errors
    /// As [`Client::put_with`].
    pub async fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        precondition: Precondition,
    ) -> Result<u64, Error> {
        let answer = self.client.put_seen(key.into(), value.into(), precondition).await;
        let (version, token) = self.note(answer)?;
        self.see(&token);
        Ok(version)
    }

    /// Removes one record, as [`Client::delete_with`].
    ///
    /// # Errors
    /// As [`Client::delete_with`].
    pub async fn delete(&self, key: impl Into<Bytes>, precondition: Precondition) -> Result<Deleted, Error> {
        let answer = self.client.delete_seen(key.into(), precondition).await;
        let (deleted, token) = self.note(answer)?;
        self.see(&token);
        Ok(deleted)
    }

    /// Does many independent writes, as [`Client::batch_write`].
    ///
    /// # Errors
    /// As [`Client::batch_write`].
    pub async fn batch_write(
        &self,
        mutations: impl IntoIterator<Item = Mutation>,
    ) -> Result<Vec<Result<u64, Error>>, Error> {
        let (results, token) = self.client.batch_write_seen(mutations).await?;
        self.see(&token);
        Ok(results.into_iter().map(|result| self.note(result)).collect())
    }

    /// Errors see something too: that there is no record, or another one than was expected.
    fn note<T>(&self, answer: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &answer
            && let Some(token) = error.session_token()
        {
            self.see(token);
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    fn token(partition_id: u32, sequence: u64) -> SessionToken {
        let partition_uuid = Bytes::from_static(&[7; 16]);
        let position = Some(v1::SessionPosition { partition_uuid, lineage: 0, sequence });
        let partitions = vec![v1::session_token::Partition { partition_id, position }];
        SessionToken(v1::SessionToken { partitions }.encode_to_vec().into())
    }

    #[test]
    fn a_token_of_two_sessions_has_the_furthest_of_both_and_does_not_grow() {
        let both = token(0, 9).merged(&token(1, 4));
        assert_eq!(both.merged(&token(0, 8)), both);
        assert_eq!(both.merged(&token(1, 5)), token(0, 9).merged(&token(1, 5)));
        assert_eq!(both.merged(&SessionToken::default()), both);
        assert_eq!(SessionToken::default().merged(&both), both);
        let garbage = SessionToken(Bytes::from_static(b"garbage"));
        assert!(!garbage.merged(&both).is_empty(), "the router will say what it is");
    }

    #[test]
    fn tokens_are_text() {
        let token = token(0, 9);
        assert_eq!(token.to_string().parse(), Ok(token));
        assert!("not base64!".parse::<SessionToken>().is_err());
    }
}
