//! Keys and values: made from a number alone, so that whatever an engine answers can be checked.

use std::io::Write as _;

use anyhow::{Result, ensure};

use crate::distribution::{Random, mix};

/// "user" and 20 digits.
pub const KEY_BYTES: usize = 24;

/// What all keys begin with. LMDB takes no empty key, not even to begin a range.
pub const KEY_PREFIX: &[u8] = b"user";

/// A value begins with its key's number and with a generation, that is which write of the key it is.
const HEADER_BYTES: usize = 16;
const POOL_BYTES: usize = 64 << 10;
const POOL_SEED: u64 = 0x70ad_d0c4;

/// The key of a number. Numbers that follow each other are far from each other in the order of keys.
pub fn key(number: u64) -> [u8; KEY_BYTES] {
    let mut key = *b"user00000000000000000000";
    // 20 digits hold any u64, so this cannot fail.
    let written = write!(&mut key[4..], "{:020}", mix(number));
    debug_assert!(written.is_ok());
    key
}

/// Makes and checks values of one size: random bytes, which nothing can compress.
#[derive(Debug)]
pub struct Values {
    pool: Vec<u8>,
    bytes: usize,
}

impl Values {
    /// For values of `bytes` bytes: at least 16, at most 32 KiB.
    pub fn new(bytes: usize) -> Result<Values> {
        ensure!((HEADER_BYTES..=POOL_BYTES / 2).contains(&bytes), "no values of {bytes} bytes");
        let mut random = Random::new(POOL_SEED);
        let pool = (0..POOL_BYTES / 8).flat_map(|_| random.next().to_le_bytes()).collect();
        Ok(Values { pool, bytes })
    }

    /// How long each value is.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes a value in `value`, in place of what is there.
    pub fn fill(&self, number: u64, generation: u64, value: &mut Vec<u8>) {
        value.clear();
        value.extend_from_slice(&number.to_le_bytes());
        value.extend_from_slice(&generation.to_le_bytes());
        value.extend_from_slice(self.body(number, generation));
    }

    /// The number that a value says it belongs to; cheap, so that it is asked of every value that is read.
    pub fn number(&self, value: &[u8]) -> Option<u64> {
        (value.len() == self.bytes).then(|| first_u64(value))
    }

    /// Checks every byte of a value. Returns which generation it is.
    pub fn verify(&self, number: u64, value: &[u8]) -> Result<u64> {
        ensure!(self.number(value) == Some(number), "the value of another key than {number}");
        let generation = first_u64(&value[8..]);
        ensure!(value[HEADER_BYTES..] == *self.body(number, generation), "a wrong value of key {number}");
        Ok(generation)
    }

    fn body(&self, number: u64, generation: u64) -> &[u8] {
        let length = self.bytes - HEADER_BYTES;
        let start = mix(number ^ generation.rotate_left(32)) as usize % (POOL_BYTES - length);
        &self.pool[start..start + length]
    }
}

fn first_u64(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_of_its_key_only_and_every_byte_counts() {
        let values = Values::new(100).unwrap();
        let mut value = Vec::new();
        values.fill(42, 7, &mut value);
        assert_eq!(value.len(), 100);
        assert_eq!(values.verify(42, &value).unwrap(), 7);
        assert!(values.verify(43, &value).is_err());
        for position in 0..value.len() {
            let mut damaged = value.clone();
            damaged[position] ^= 1;
            assert!(values.verify(42, &damaged).is_err(), "byte {position}");
        }
    }

    #[test]
    fn keys_have_their_length_and_differ() {
        let keys: std::collections::BTreeSet<_> = (0..10_000).map(key).collect();
        assert_eq!(keys.len(), 10_000);
        assert!(keys.iter().all(|key| key.starts_with(b"user")));
    }
}
