//! Keys of users, and keys of our own, in one store.
//!
//! A replica keeps a little beside its users' records: what became of writes that carried an id (see
//! [`retries`](crate::retries)). It lies in the same store, so that it is written in the same batch as the write, and
//! travels wherever the records travel: through compaction, restarts and copies.
//!
//! Users may name any key of 1 to 4,096 bytes. So that none of theirs can be one of ours, a key of theirs that begins with a
//! zero byte gets a one behind it in the store:
//!
//! ```text
//! user's key    in the store
//! 61 62 63      61 62 63
//! 00            00 01
//! 00 00 07      00 01 00 07
//! (none)        00 00 ...      reserved
//! ```
//!
//! That keeps their order, and puts everything of ours before the first of theirs. Keys are turned at the wire's edge, both
//! ways: all else in this crate knows keys as the store has them.

use bytes::{BufMut, Bytes, BytesMut};

/// What begins a reserved key.
const RESERVED: [u8; 2] = [0, 0];
/// What a zero byte at the beginning of a user's key becomes.
const ESCAPED: [u8; 2] = [0, 1];

/// Every user's key is behind this one in the store, and every reserved key before it.
pub const BEFORE_USERS: &[u8] = &[0, 0, 0xff];

/// The store's key for a user's.
#[must_use]
pub fn stored(key: Bytes) -> Bytes {
    match key.split_first() {
        Some((0, rest)) => {
            let mut stored = BytesMut::with_capacity(ESCAPED.len() + rest.len());
            stored.put_slice(&ESCAPED);
            stored.put_slice(rest);
            stored.freeze()
        }
        _ => key,
    }
}

/// The user's key for the store's; `None`: it is no user's.
#[must_use]
pub fn of_user(stored: Bytes) -> Option<Bytes> {
    match stored.strip_prefix(&ESCAPED) {
        Some(rest) => {
            let mut key = BytesMut::with_capacity(1 + rest.len());
            key.put_u8(0);
            key.put_slice(rest);
            Some(key.freeze())
        }
        None => (stored.first() != Some(&0)).then_some(stored),
    }
}

/// Whether a key of the store is one of ours.
#[must_use]
pub fn is_reserved(stored: &[u8]) -> bool {
    stored.starts_with(&RESERVED)
}

/// A reserved key, of a kind below 0xff and a number within it.
#[must_use]
pub(crate) fn reserved(kind: u8, number: u64) -> [u8; 11] {
    let [a, b, c, d, e, f, g, h] = number.to_be_bytes();
    let [first, second] = RESERVED;
    [first, second, kind, a, b, c, d, e, f, g, h]
}

/// The number of a reserved key of this kind; `None` if it is none.
#[must_use]
pub(crate) fn number_of(kind: u8, stored: &[u8]) -> Option<u64> {
    let (found, number) = stored.strip_prefix(&RESERVED)?.split_first()?;
    (*found == kind).then_some(u64::from_be_bytes(number.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keys_come_back_keep_their_order_and_are_never_reserved(
            one in prop::collection::vec(0_u8..3, 1..6),
            other in prop::collection::vec(0_u8..3, 1..6),
            number: u64,
        ) {
            let (one, other) = (Bytes::from(one), Bytes::from(other));
            let (stored_one, stored_other) = (stored(one.clone()), stored(other.clone()));
            prop_assert_eq!(one.cmp(&other), stored_one.cmp(&stored_other));
            prop_assert!(!is_reserved(&stored_one));
            prop_assert!(&stored_one[..] > BEFORE_USERS && &reserved(0xfe, number)[..] < BEFORE_USERS);
            prop_assert_eq!(of_user(stored_one), Some(one));
        }
    }

    #[test]
    fn a_reserved_key_is_no_users() {
        let key = reserved(1, 7);
        assert!(is_reserved(&key));
        assert_eq!((number_of(1, &key), number_of(2, &key)), (Some(7), None));
        assert_eq!(of_user(Bytes::copy_from_slice(&key)), None);
        assert_eq!(stored(Bytes::from_static(b"abc")), Bytes::from_static(b"abc"));
        // What no build of ours writes is no user's key either.
        assert_eq!(of_user(Bytes::from_static(&[0, 2])), None);
    }
}
