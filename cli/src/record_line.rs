//! One record as one line of JSON: `{"key": ..., "value": ...}`. What is not UTF-8 stands as base64 (the
//! standard alphabet, padded) in `key_b64` or `value_b64` instead; each of the two decides for itself.
//! Fields with other names are passed over, so that what `get -o json` prints can be loaded.

use std::io::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What is wrong with a line.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadLine {
    /// It is not a JSON object with fields of the right types.
    #[error("not a record: {0}")]
    Json(#[from] serde_json::Error),
    /// One of the two is missing, or stands twice.
    #[error("a record has exactly one of {0} and {0}_b64")]
    Field(&'static str),
    /// A `_b64` field is not base64.
    #[error("{0}_b64: {1}")]
    Base64(&'static str, #[source] base64::DecodeError),
}

#[derive(Deserialize)]
struct Parsed {
    key: Option<String>,
    key_b64: Option<String>,
    value: Option<String>,
    value_b64: Option<String>,
}

#[derive(Serialize)]
struct Printed<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_b64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_b64: Option<String>,
    #[serde(flatten)]
    about: About<'a>,
}

/// What is said of a record beside its key and value.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct About<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<u64>,
    /// Milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expires_at_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content_type: Option<&'a str>,
}

/// Reads a line into key and value.
pub(crate) fn parse(line: &[u8]) -> Result<(Bytes, Bytes), BadLine> {
    let parsed: Parsed = serde_json::from_slice(line)?;
    let key = field("key", parsed.key, parsed.key_b64)?;
    let value = field("value", parsed.value, parsed.value_b64)?;
    Ok((key, value))
}

fn field(name: &'static str, text: Option<String>, encoded: Option<String>) -> Result<Bytes, BadLine> {
    match (text, encoded) {
        (Some(text), None) => Ok(Bytes::from(text)),
        (None, Some(encoded)) => {
            STANDARD.decode(encoded).map(Bytes::from).map_err(|error| BadLine::Base64(name, error))
        }
        _ => Err(BadLine::Field(name)),
    }
}

/// Writes a line, with the version where one is given.
pub(crate) fn print(to: &mut impl Write, key: &[u8], value: &[u8], version: Option<u64>) -> io::Result<()> {
    print_about(to, key, value, About { version, ..About::default() })
}

/// Writes a line, with everything that is known.
pub(crate) fn print_about(to: &mut impl Write, key: &[u8], value: &[u8], about: About<'_>) -> io::Result<()> {
    let (key, key_b64) = text_or_base64(key);
    let (value, value_b64) = text_or_base64(value);
    serde_json::to_writer(&mut *to, &Printed { key, key_b64, value, value_b64, about })?;
    to.write_all(b"\n")
}

fn text_or_base64(bytes: &[u8]) -> (Option<&str>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(_) => (None, Some(STANDARD.encode(bytes))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read_back() {
        for (key, value) in [
            (&b"key"[..], &b"value"[..]),
            (b"\x00", b""),
            (b"\xff\xfe", b"line\nbreak \"quoted\" \\"),
            ("\u{1f40e}".as_bytes(), b"\xc3\x28"),
        ] {
            let mut line = Vec::new();
            print(&mut line, key, value, None).unwrap();
            assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            assert_eq!(parse(&line).unwrap(), (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        }
    }

    #[test]
    fn each_field_decides_for_itself_whether_it_is_text() {
        let mut line = Vec::new();
        print(&mut line, b"key", b"\xff", Some(7)).unwrap();
        assert_eq!(line, b"{\"key\":\"key\",\"value_b64\":\"/w==\",\"version\":7}\n");
    }

    #[test]
    fn bad_lines_say_what_is_wrong() {
        for (line, expected) in [
            ("{", "not a record"),
            ("[1]", "not a record"),
            ("{\"key\":1,\"value\":\"\"}", "not a record"),
            ("{\"key\":\"a\"}", "exactly one of value and value_b64"),
            ("{\"key\":\"a\",\"key_b64\":\"YQ==\",\"value\":\"\"}", "exactly one of key and key_b64"),
            ("{\"key_b64\":\"%\",\"value\":\"\"}", "key_b64"),
            ("{\"key\":\"\\ud800\",\"value\":\"\"}", "not a record"),
        ] {
            let error = parse(line.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
