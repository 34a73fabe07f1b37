//! One row: encoding, decoding, its checksum and its stamp.

use super::content_type;
use super::{
    EXPIRY_BYTES, KEY_BYTES_MAX, PutOptions, ROW_OVERHEAD_BYTES, RowRef, StoredRow, VALUE_BYTES_MAX,
};
use crate::error::{Error, Result};
use crate::position::Sequence;

const SEQUENCE_AT: usize = 4;
const SEQUENCE_BYTES: usize = 6;

/// From here on the first part of the checksum goes.
pub(super) const BODY_AT: usize = SEQUENCE_AT + SEQUENCE_BYTES;

const _: () = assert!(Sequence::MAX.0 == (1 << (8 * SEQUENCE_BYTES)) - 1);

// The bits of a header's last word.
const KIND_SHIFT: u32 = 27;
const VALUE_BYTES_MASK: u32 = (1 << KIND_SHIFT) - 1;
const KIND_MASK: u32 = 0b11;
const HAS_EXPIRY: u32 = 1 << 29;
const HAS_CONTENT_TYPE: u32 = 1 << 30;
const MUST_BE_ZERO: u32 = 1 << 31;

const _: () = assert!(VALUE_BYTES_MAX as u32 <= VALUE_BYTES_MASK);

const KIND_PUT: u32 = 0;
const KIND_DELETE: u32 = 1;
const KIND_MARKER: u32 = 2;

/// How many bytes a put takes, encoded.
pub(super) fn put_bytes(key: &[u8], value: &[u8], options: &PutOptions<'_>) -> usize {
    let expiry = options.expires_at_ms.map_or(0, |_| EXPIRY_BYTES);
    let content_type = options.content_type.map_or(0, |text| 1 + text.len());
    ROW_OVERHEAD_BYTES + expiry + content_type + key.len() + value.len()
}

/// Adds a canonical put. Its limits are checked; those of what it is added to are the caller's.
pub(super) fn encode_put(
    bytes: &mut Vec<u8>,
    key: &[u8],
    value: &[u8],
    options: &PutOptions<'_>,
) -> Result<()> {
    check_key(key)?;
    let value_bytes = value_bytes(value)?;
    let mut word = KIND_PUT << KIND_SHIFT | value_bytes;
    if options.expires_at_ms.is_some() {
        word |= HAS_EXPIRY;
    }
    if let Some(text) = options.content_type {
        content_type::check(text)?;
        word |= HAS_CONTENT_TYPE;
    }
    bytes.reserve(put_bytes(key, value, options));
    let start = begin(bytes, key, word);
    if let Some(expires_at_ms) = options.expires_at_ms {
        bytes.extend_from_slice(&expires_at_ms.to_le_bytes());
    }
    if let Some(text) = options.content_type {
        // It was checked against CONTENT_TYPE_BYTES_MAX, which is what a byte holds.
        bytes.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(text.as_bytes());
    }
    end(bytes, start, key, value);
    Ok(())
}

/// Adds a canonical delete.
pub(super) fn encode_delete(bytes: &mut Vec<u8>, key: &[u8]) -> Result<()> {
    check_key(key)?;
    let start = begin(bytes, key, KIND_DELETE << KIND_SHIFT);
    end(bytes, start, key, &[]);
    Ok(())
}

/// Adds a canonical marker.
pub(super) fn encode_marker(bytes: &mut Vec<u8>, payload: &[u8]) -> Result<()> {
    let value_bytes = value_bytes(payload)?;
    let start = begin(bytes, &[], KIND_MARKER << KIND_SHIFT | value_bytes);
    end(bytes, start, &[], payload);
    Ok(())
}

/// Writes the header, but for the checksum; returns where it begins.
fn begin(bytes: &mut Vec<u8>, key: &[u8], word: u32) -> usize {
    let start = bytes.len();
    // The key was checked against KEY_BYTES_MAX, which is what two bytes hold.
    let key_bytes = u16::try_from(key.len()).unwrap_or(u16::MAX);
    bytes.extend_from_slice(&[0; BODY_AT]);
    bytes.extend_from_slice(&key_bytes.to_le_bytes());
    bytes.extend_from_slice(&word.to_le_bytes());
    start
}

fn end(bytes: &mut Vec<u8>, start: usize, key: &[u8], value: &[u8]) {
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(value);
    let checksum = crc32fast::hash(&bytes[start + BODY_AT..]) ^ sequence_checksum(Sequence(0));
    bytes[start..start + SEQUENCE_AT].copy_from_slice(&checksum.to_le_bytes());
}

fn check_key(key: &[u8]) -> Result<()> {
    if key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if key.len() > KEY_BYTES_MAX {
        let (actual, limit) = (key.len() as u64, KEY_BYTES_MAX as u64);
        return Err(Error::TooLarge { what: "key bytes", actual, limit });
    }
    Ok(())
}

fn value_bytes(value: &[u8]) -> Result<u32> {
    match u32::try_from(value.len()) {
        Ok(bytes) if value.len() <= VALUE_BYTES_MAX => Ok(bytes),
        _ => {
            let (actual, limit) = (value.len() as u64, VALUE_BYTES_MAX as u64);
            Err(Error::TooLarge { what: "value bytes", actual, limit })
        }
    }
}

/// The row that `bytes` begin with. Checks its shape, not its checksum.
// Returned from a call, the parts of a row go through memory in pieces of one size and come back in pieces of another, which
// stalls: inlined, a walk over rows of 140 bytes in a run takes a fifth less time.
#[inline(always)]
pub(crate) fn decode_stored(bytes: &[u8]) -> Option<StoredRow<'_>> {
    let (header, rest) = bytes.split_first_chunk::<ROW_OVERHEAD_BYTES>()?;
    let [_, _, _, _, s0, s1, s2, s3, s4, s5, k0, k1, w0, w1, w2, w3] = *header;
    let sequence = Sequence(u64::from_le_bytes([s0, s1, s2, s3, s4, s5, 0, 0]));
    let word = u32::from_le_bytes([w0, w1, w2, w3]);
    let (expires_at_ms, content_type, rest) = match word & (HAS_EXPIRY | HAS_CONTENT_TYPE) {
        0 => (None, None, rest),
        _ => decode_options(word, rest)?,
    };
    let key_bytes = usize::from(u16::from_le_bytes([k0, k1]));
    let value_bytes = usize::try_from(word & VALUE_BYTES_MASK).ok()?;
    if value_bytes > VALUE_BYTES_MAX || word & MUST_BE_ZERO != 0 {
        return None;
    }
    let (key, rest) = rest.split_at_checked(key_bytes)?;
    let (value, rest) = rest.split_at_checked(value_bytes)?;
    let plain = expires_at_ms.is_none() && content_type.is_none();
    let row = match word >> KIND_SHIFT & KIND_MASK {
        KIND_PUT if !key.is_empty() => RowRef::Put { key, value, expires_at_ms, content_type },
        KIND_DELETE if plain && !key.is_empty() && value.is_empty() => RowRef::Delete { key },
        KIND_MARKER if plain && key.is_empty() => RowRef::Marker { payload: value },
        _ => return None,
    };
    Some(StoredRow { sequence, row, bytes: &bytes[..bytes.len() - rest.len()] })
}

/// So much of a row is looked at for its key, beside the key itself.
pub(crate) const HEAD_BYTES_MAX: usize = ROW_OVERHEAD_BYTES + EXPIRY_BYTES + 1 + u8::MAX as usize;

/// What a row says before its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head<'a> {
    pub(crate) key: &'a [u8],
    /// How long the row is.
    pub(crate) length: u64,
    pub(crate) expires: bool,
}

/// The head of the row that `bytes` begin with: its value need not be there. Nothing is verified; but what lies before a key
/// that is the right one is as it was, or the key would not be in its place.
pub(crate) fn decode_head(bytes: &[u8]) -> Option<Head<'_>> {
    let (header, rest) = bytes.split_first_chunk::<ROW_OVERHEAD_BYTES>()?;
    let [.., k0, k1, w0, w1, w2, w3] = *header;
    let word = u32::from_le_bytes([w0, w1, w2, w3]);
    let (expires_at_ms, _, rest) = decode_options(word, rest)?;
    let (key, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes([k0, k1])))?;
    let length = (bytes.len() - rest.len()) as u64 + u64::from(word & VALUE_BYTES_MASK);
    Some(Head { key, length, expires: expires_at_ms.is_some() })
}

type Options<'a> = (Option<u64>, Option<&'a str>, &'a [u8]);

/// What lies between a header and the key, and what follows it.
fn decode_options(word: u32, mut rest: &[u8]) -> Option<Options<'_>> {
    let (mut expires_at_ms, mut content_type) = (None, None);
    if word & HAS_EXPIRY != 0 {
        let (expiry, behind) = rest.split_first_chunk::<EXPIRY_BYTES>()?;
        (expires_at_ms, rest) = (Some(u64::from_le_bytes(*expiry)), behind);
    }
    if word & HAS_CONTENT_TYPE != 0 {
        let (length, behind) = rest.split_first()?;
        let (text, behind) = behind.split_at_checked(usize::from(*length))?;
        (content_type, rest) = (Some(content_type::parse(text)?), behind);
    }
    Some((expires_at_ms, content_type, rest))
}

/// The row that `bytes` begin with, its checksum verified; or what is wrong with it. `bytes` may be longer.
#[inline]
pub(crate) fn verified(bytes: &[u8]) -> std::result::Result<StoredRow<'_>, &'static str> {
    let stored = decode_stored(bytes).ok_or("no row begins here")?;
    let checksum = crc32fast::hash(&stored.bytes[BODY_AT..]) ^ sequence_checksum(stored.sequence);
    if stored_checksum(stored.bytes) == Some(checksum) {
        Ok(stored)
    } else {
        Err("the row's checksum does not match")
    }
}

pub(super) fn stored_checksum(row: &[u8]) -> Option<u32> {
    row.first_chunk().map(|checksum| u32::from_le_bytes(*checksum))
}

/// Gives an encoded row another sequence than it has, and the checksum that goes with it. Returns that checksum.
pub(super) fn restamp(row: &mut [u8], from: Sequence, to: Sequence) -> u32 {
    let Some(head) = row.first_chunk_mut::<BODY_AT>() else { return 0 };
    let [c0, c1, c2, c3, ..] = *head;
    let checksum = u32::from_le_bytes([c0, c1, c2, c3]) ^ sequence_checksum(from) ^ sequence_checksum(to);
    head[..SEQUENCE_AT].copy_from_slice(&checksum.to_le_bytes());
    head[SEQUENCE_AT..].copy_from_slice(&to.0.to_le_bytes()[..SEQUENCE_BYTES]);
    checksum
}

/// Makes the checksum of the row that `bytes` begin with right, if their shape is that of one. Gives its length.
#[cfg(feature = "fuzzing")]
pub(crate) fn seal(bytes: &mut [u8]) -> Option<usize> {
    let stored = decode_stored(bytes)?;
    let checksum = crc32fast::hash(&stored.bytes[BODY_AT..]) ^ sequence_checksum(stored.sequence);
    let length = stored.bytes.len();
    bytes[..SEQUENCE_AT].copy_from_slice(&checksum.to_le_bytes());
    Some(length)
}

/// The CRC of a sequence's six bytes. A table for each byte: each row needs this, when it is written and when it is read,
/// and the general routine takes as long for six bytes as for sixty.
fn sequence_checksum(sequence: Sequence) -> u32 {
    let bytes = sequence.0.to_le_bytes();
    let tables = TABLES.iter().zip(&bytes);
    tables.fold(ZERO_SEQUENCE_CHECKSUM, |checksum, (table, byte)| checksum ^ table[usize::from(*byte)])
}

/// The CRC of six zero bytes: to this the tables add what each byte changes.
const ZERO_SEQUENCE_CHECKSUM: u32 = {
    let mut crc = u32::MAX;
    let mut at = 0;
    while at < SEQUENCE_BYTES {
        crc = shift_byte(crc);
        at += 1;
    }
    !crc
};

/// What a byte at each place of a sequence changes in its CRC.
static TABLES: [[u32; 256]; SEQUENCE_BYTES] = {
    let mut tables = [[0; 256]; SEQUENCE_BYTES];
    let mut place = 0;
    while place < SEQUENCE_BYTES {
        let mut byte = 0;
        while byte < 256 {
            let mut crc = byte as u32;
            let mut behind = place;
            while behind < SEQUENCE_BYTES {
                crc = shift_byte(crc);
                behind += 1;
            }
            tables[place][byte] = crc;
            byte += 1;
        }
        place += 1;
    }
    tables
};

/// Eight steps of CRC-32 (IEEE, reflected).
const fn shift_byte(mut crc: u32) -> u32 {
    let mut bit = 0;
    while bit < 8 {
        crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        bit += 1;
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequences_checksum_is_the_crc_of_its_bytes() {
        let mut sequence = 1_u64;
        while sequence <= Sequence::MAX.0 {
            for number in [sequence - 1, sequence, sequence | 0x5a] {
                let bytes = &number.to_le_bytes()[..SEQUENCE_BYTES];
                assert_eq!(sequence_checksum(Sequence(number)), crc32fast::hash(bytes), "{number}");
            }
            sequence = sequence * 3 + 1;
        }
    }
}
