//! Encoded rows, as a peer sends them.

use bytes::Bytes;
use paddock_storage::{PutOptions, RowRef, Rows, RowsBuilder};

use super::repair;

/// The first byte is how many rows there should be, the second whether checksums are made right; then the rows.
pub fn rows(input: &[u8]) {
    let Some((&[count, repaired], encoded)) = input.split_first_chunk() else { return };
    let mut encoded = encoded.to_vec();
    if repaired & 1 == 1 {
        repair::rows(&mut encoded);
    }
    let Ok(rows) = Rows::from_encoded(Bytes::from(encoded.clone()), count.into()) else { return };
    // What is taken means the same when it is written down again, and is written down in one way only.
    let mut again = RowsBuilder::new();
    for row in rows.iter() {
        match row {
            RowRef::Put { key, value, expires_at_ms, content_type } => {
                again.put_with(key, value, &PutOptions { expires_at_ms, content_type }).unwrap();
            }
            RowRef::Delete { key } => again.delete(key).unwrap(),
            RowRef::Marker { payload } => again.marker(payload).unwrap(),
        }
    }
    let again = again.finish();
    assert_eq!((again.count(), &again.encoded()[..]), (rows.count(), &encoded[..]));
    for part in 0..=rows.count() {
        let (taken, skipped) = (rows.take(part), rows.skip(part));
        assert_eq!(taken.count() + skipped.count(), rows.count());
        assert_eq!([&taken.encoded()[..], skipped.encoded()].concat(), encoded);
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut rows = RowsBuilder::new();
    rows.put(b"key", b"value").unwrap();
    rows.delete(b"key").unwrap();
    rows.marker(b"epoch 7").unwrap();
    let options = PutOptions { expires_at_ms: Some(1_700_000_000_000), content_type: Some("text/plain") };
    rows.put_with(b"with everything", &[7; 40], &options).unwrap();
    let options = PutOptions { content_type: None, ..options };
    rows.put_with(b"expires", b"", &options).unwrap();
    let all = rows.finish();
    let parts = [all.clone(), all.take(1), all.take(2).skip(1), all.skip(3), all.take(0)];
    let seed = |rows: &Rows, repaired| [&[rows.count() as u8, repaired], &rows.encoded()[..]].concat();
    parts.iter().flat_map(|rows| [seed(rows, 0), seed(rows, 1)]).collect()
}
