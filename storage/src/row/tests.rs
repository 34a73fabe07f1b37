//! Rows as they are stored: encoded, stamped, found damaged.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::error::Error;

/// A row that owns what it says.
#[derive(Clone, Debug)]
enum Owned {
    Put(Vec<u8>, Vec<u8>, Option<u64>, Option<String>),
    Delete(Vec<u8>),
    Marker(Vec<u8>),
}

impl Owned {
    fn borrowed(&self) -> RowRef<'_> {
        match self {
            Owned::Put(key, value, expires_at_ms, content_type) => RowRef::Put {
                key,
                value,
                expires_at_ms: *expires_at_ms,
                content_type: content_type.as_deref(),
            },
            Owned::Delete(key) => RowRef::Delete { key },
            Owned::Marker(payload) => RowRef::Marker { payload },
        }
    }

    /// How long the row is, by FORMAT.md.
    fn encoded_bytes(&self) -> usize {
        16 + match self {
            Owned::Put(key, value, expiry, content_type) => {
                let content_type = content_type.as_ref().map_or(0, |text| 1 + text.len());
                key.len() + value.len() + expiry.map_or(0, |_| 8) + content_type
            }
            Owned::Delete(bytes) | Owned::Marker(bytes) => bytes.len(),
        }
    }
}

fn encode(rows: &[Owned]) -> Rows {
    let mut builder = RowsBuilder::new();
    for row in rows {
        match row {
            Owned::Put(key, value, expires_at_ms, content_type) => {
                let content_type = content_type.as_deref();
                builder.put_with(key, value, &PutOptions { expires_at_ms: *expires_at_ms, content_type })
            }
            Owned::Delete(key) => builder.delete(key),
            Owned::Marker(payload) => builder.marker(payload),
        }
        .unwrap();
    }
    builder.finish()
}

fn row() -> impl Strategy<Value = Owned> {
    let key = || vec(any::<u8>(), 1..40);
    let value = || prop_oneof![9 => vec(any::<u8>(), 0..200), 1 => vec(any::<u8>(), 4_000..5_000)];
    let content_type = prop::option::of("[ -~]{1,255}");
    prop_oneof![
        2 => (key(), value(), any::<Option<u64>>(), content_type)
            .prop_map(|(key, value, expiry, text)| Owned::Put(key, value, expiry, text)),
        2 => (key(), value()).prop_map(|(key, value)| Owned::Put(key, value, None, None)),
        1 => key().prop_map(Owned::Delete),
        1 => value().prop_map(Owned::Marker),
    ]
}

fn sequence() -> impl Strategy<Value = Sequence> {
    prop_oneof![1_u64..1_000, 1..=Sequence::MAX.0, Sequence::MAX.0 - 20..=Sequence::MAX.0].prop_map(Sequence)
}

fn stamped(rows: &Rows, first: Sequence) -> (Bytes, u32) {
    let mut bytes = Vec::new();
    let checksum = rows.stamp_into(first, &mut bytes);
    (bytes.into(), checksum)
}

/// One row of each shape.
fn shapes() -> Vec<Owned> {
    let text = || Some("text/plain".to_string());
    vec![
        Owned::Put(b"key".to_vec(), b"value".to_vec(), None, None),
        Owned::Put(b"key".to_vec(), Vec::new(), None, None),
        Owned::Put(b"key".to_vec(), b"value".to_vec(), Some(1_800_000_000_000), None),
        Owned::Put(b"key".to_vec(), b"value".to_vec(), None, text()),
        Owned::Put(vec![0xff; 300], vec![0; 1_000], Some(0), text()),
        Owned::Delete(b"key".to_vec()),
        Owned::Marker(b"epoch 7".to_vec()),
        Owned::Marker(Vec::new()),
    ]
}

proptest! {
    #[test]
    fn stored_rows_come_back_as_they_went(rows in vec(row(), 1..8), first in sequence(), cut in 0_u32..9) {
        let first = Sequence(first.0.min(Sequence::MAX.0 - rows.len() as u64));
        let canonical = encode(&rows);
        let (bytes, checksum) = stamped(&canonical, first);
        prop_assert_eq!(bytes.len(), rows.iter().map(Owned::encoded_bytes).sum::<usize>());

        let count = canonical.count();
        let read = StampedRows::verified(bytes.clone(), count, first, checksum).unwrap();
        prop_assert_eq!(&read.canonical(), &canonical);
        prop_assert_eq!(read.take(cut).canonical(), canonical.take(cut));
        for ((frame, row), sequence) in canonical.frames().zip(&rows).zip(first.0..) {
            let stored = verified(&bytes[frame.offset..]).unwrap();
            prop_assert_eq!(stored.row, row.borrowed());
            prop_assert_eq!(stored.sequence, Sequence(sequence));
            prop_assert_eq!(stored.bytes.len(), row.encoded_bytes());
            prop_assert_eq!(decode_stored(stored.bytes), Some(stored));
        }
        // Each row only in its place, and only as many as there are.
        let other = first.previous();
        prop_assert!(StampedRows::verified(bytes.clone(), count, other, checksum).is_err());
        prop_assert!(StampedRows::verified(bytes.clone(), count + 1, first, checksum).is_err());
        prop_assert!(StampedRows::verified(bytes.clone(), count, first, !checksum).is_err());
        // A peer's rows are of no log.
        let error = Rows::from_encoded(bytes, count).unwrap_err();
        prop_assert!(error.to_string().contains("of another log"), "{}", error);
    }

    #[test]
    fn a_row_that_was_cut_is_none(row in row(), at in any::<Index>()) {
        let (bytes, _) = stamped(&encode(&[row]), Sequence(9));
        prop_assert_eq!(decode_stored(&bytes[..at.index(bytes.len())]), None);
    }
}

/// With something behind the row, since a damaged length may reach into it: zeros, or further rows.
#[test]
fn every_flipped_bit_of_a_stored_row_is_found() {
    for row in shapes() {
        let (behind, _) = stamped(&encode(&shapes()), Sequence(8));
        for behind in [&behind[..], &[0; 3_000], &[]] {
            let (row, _) = stamped(&encode(std::slice::from_ref(&row)), Sequence(0x0102_0304_0506));
            let bytes = [&row[..], behind].concat();
            assert_eq!(verified(&bytes).unwrap().bytes, row);
            for bit in 0..row.len() * 8 {
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(verified(&damaged).is_err(), "bit {bit} of {row:?}");
            }
        }
    }
}

/// The same of a whole batch's rows, among them rows that trade places.
#[test]
fn every_flipped_bit_and_swapped_row_of_a_batch_is_found() {
    let rows = encode(&shapes());
    let (bytes, checksum) = stamped(&rows, Sequence(70));
    let read = |bytes: Vec<u8>| StampedRows::verified(bytes.into(), rows.count(), Sequence(70), checksum);
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(read(damaged).is_err(), "bit {bit}");
    }
    let places: Vec<_> =
        rows.frames().map(|frame| frame.offset..frame.offset + frame.stored.bytes.len()).collect();
    for pair in places.windows(2) {
        let mut swapped = bytes[..pair[0].start].to_vec();
        swapped.extend_from_slice(&bytes[pair[1].clone()]);
        swapped.extend_from_slice(&bytes[pair[0].clone()]);
        swapped.extend_from_slice(&bytes[pair[1].end..]);
        assert!(read(swapped).is_err());
    }
    assert!(read(bytes.to_vec()).is_ok());
}

/// Shapes that no writer makes are refused even with a good checksum: one row has one encoding.
#[test]
fn rows_that_nobody_writes_are_refused() {
    let sealed = |word: u32, key_bytes: u16, body: &[u8]| {
        let mut bytes = vec![0; 10];
        bytes.extend_from_slice(&key_bytes.to_le_bytes());
        bytes.extend_from_slice(&word.to_le_bytes());
        bytes.extend_from_slice(body);
        let checksum = crc32fast::hash(&bytes[10..]) ^ crc32fast::hash(&[0; 6]);
        bytes[..4].copy_from_slice(&checksum.to_le_bytes());
        bytes
    };
    let (put, delete, marker, unknown) = (0, 1 << 27, 2 << 27, 3 << 27);
    let (expiry, content_type, zero) = (1 << 29, 1 << 30, 1 << 31);
    assert!(verified(&sealed(put | 1, 1, b"kv")).is_ok());
    assert!(verified(&sealed(put | content_type | 1, 1, b"\x01tkv")).is_ok());
    let refused = [
        ("a put without a key", sealed(put | 1, 0, b"v")),
        ("a delete without a key", sealed(delete, 0, b"")),
        ("a delete with a value", sealed(delete | 1, 1, b"kv")),
        ("a delete with an expiry", sealed(delete | expiry, 1, b"12345678k")),
        ("a delete with a content type", sealed(delete | content_type, 1, b"\x01tk")),
        ("a marker with a key", sealed(marker | 1, 1, b"kv")),
        ("a marker with an expiry", sealed(marker | expiry, 0, b"12345678")),
        ("an unknown kind", sealed(unknown | 1, 1, b"kv")),
        ("a bit that is zero", sealed(put | zero | 1, 1, b"kv")),
        ("an expiry that is not there", sealed(put | expiry, 1, b"k")),
        ("a content type of nothing", sealed(put | content_type, 1, b"\x00k")),
        ("a content type with a tab", sealed(put | content_type, 1, b"\x01\tk")),
        ("a content type that is no ASCII", sealed(put | content_type, 1, b"\x02\xc3\xa4k")),
        ("a content type that is cut", sealed(put | content_type, 1, b"\x09tk")),
    ];
    for (what, bytes) in refused {
        assert_eq!(decode_stored(&bytes), None, "{what}");
        let refused = Rows::from_encoded(bytes.into(), 1);
        assert!(matches!(refused, Err(Error::DamagedRows { offset: 0, .. })), "{what}: {refused:?}");
    }
    // A value of one byte more than there can be.
    let mut long = sealed(put, 1, b"");
    long[12..16].copy_from_slice(&(VALUE_BYTES_MAX as u32 + 1).to_le_bytes());
    long.resize(ROW_BYTES_MAX + 1, 0);
    assert_eq!(decode_stored(&long), None);
    long[12..16].copy_from_slice(&(VALUE_BYTES_MAX as u32).to_le_bytes());
    assert!(decode_stored(&long).is_some());
}

#[test]
fn content_types_are_checked() {
    let mut rows = RowsBuilder::new();
    let mut put = |content_type: &str| {
        rows.put_with(b"k", b"v", &PutOptions { content_type: Some(content_type), expires_at_ms: None })
    };
    for text in ["", "text/plain\n", "text\0", "naïve"] {
        assert!(matches!(put(text), Err(Error::ContentType)), "{text:?}");
        assert!(matches!(ContentType::try_from(text), Err(Error::ContentType)));
    }
    let error = put(&"x".repeat(256)).unwrap_err();
    assert_eq!(error.to_string(), "content type bytes: 256, the limit is 255");
    put(&"x".repeat(255)).unwrap();
    assert_eq!(rows.count(), 1);
    let content_type = ContentType::try_from("text/html; charset=utf-8").unwrap();
    assert_eq!((content_type.as_str(), format!("{content_type}").len()), ("text/html; charset=utf-8", 24));
}
