//! What a value is, in the words of whoever wrote it.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;

use super::CONTENT_TYPE_BYTES_MAX;
use crate::error::{Error, Result};

/// What a value is, as its writer said: text of 1 to [`CONTENT_TYPE_BYTES_MAX`] bytes of printable ASCII, such as
/// `text/html; charset=utf-8`. The store keeps it and does not look into it. Cheap to clone; reads as a `str`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ContentType(Bytes);

impl ContentType {
    /// Shares the bytes of a row, in which it was checked already.
    pub(crate) fn shared(encoded: &Bytes, content_type: &str) -> ContentType {
        ContentType(encoded.slice_ref(content_type.as_bytes()))
    }

    /// Copies what was checked already in a verified row.
    pub(crate) fn copied(content_type: &str) -> ContentType {
        ContentType(Bytes::copy_from_slice(content_type.as_bytes()))
    }

    /// The text.
    ///
    /// ```
    /// let content_type = paddock_storage::ContentType::try_from("text/html; charset=utf-8")?;
    /// assert_eq!(content_type.as_str(), "text/html; charset=utf-8");
    /// assert!(content_type.starts_with("text/"));
    /// # Ok::<(), paddock_storage::Error>(())
    /// ```
    #[must_use]
    pub fn as_str(&self) -> &str {
        // It is ASCII; to find that out again costs less than a row's checksum.
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl Deref for ContentType {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Debug for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.as_str(), f)
    }
}

impl TryFrom<&str> for ContentType {
    type Error = Error;

    fn try_from(text: &str) -> Result<ContentType> {
        check(text)?;
        Ok(ContentType(Bytes::copy_from_slice(text.as_bytes())))
    }
}

/// Refuses what the format does not hold.
pub(super) fn check(text: &str) -> Result<()> {
    if text.len() > CONTENT_TYPE_BYTES_MAX {
        let (actual, limit) = (text.len() as u64, CONTENT_TYPE_BYTES_MAX as u64);
        return Err(Error::TooLarge { what: "content type bytes", actual, limit });
    }
    parse(text.as_bytes()).map(drop).ok_or(Error::ContentType)
}

/// The text that a row holds, if it is one.
pub(super) fn parse(bytes: &[u8]) -> Option<&str> {
    let printable = bytes.iter().all(|byte| matches!(byte, b' '..=b'~'));
    if bytes.is_empty() || !printable { None } else { str::from_utf8(bytes).ok() }
}
