//! Keys on the command line: text, or any bytes as hex or base64.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use bytes::Bytes;

/// The help of every KEY.
pub(crate) const HELP: &str =
    "The key, as text; or hex:… or b64:… for any bytes (text:… for a text that begins like one of these)";

/// A key as bytes. It may be out of bounds: the server says so, and names the limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key(pub(crate) Bytes);

/// Reads a key of the command line.
pub(crate) fn parse(argument: &str) -> Result<Key, String> {
    let bytes = if let Some(digits) = argument.strip_prefix("hex:") {
        hex(digits)?
    } else if let Some(encoded) = argument.strip_prefix("b64:") {
        // Both alphabets, with padding: what JSON output and URLs hold.
        STANDARD
            .decode(encoded)
            .or_else(|_| URL_SAFE.decode(encoded))
            .map_err(|error| format!("not base64: {error}"))?
    } else {
        argument.strip_prefix("text:").unwrap_or(argument).as_bytes().to_vec()
    };
    Ok(Key(Bytes::from(bytes)))
}

fn hex(digits: &str) -> Result<Vec<u8>, String> {
    let digits = digits
        .chars()
        .map(|digit| digit.to_digit(16).and_then(|value| u8::try_from(value).ok()))
        .collect::<Option<Vec<u8>>>()
        .ok_or("not hexadecimal")?;
    if digits.len() % 2 != 0 {
        return Err(format!("an odd number of hexadecimal digits: {}", digits.len()));
    }
    Ok(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// A key for a person: as it could be typed again.
pub(crate) fn show(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) if !text.chars().any(char::is_control) => {
            let prefixed = ["hex:", "b64:", "text:"].iter().any(|prefix| text.starts_with(prefix));
            if prefixed { format!("text:{text}") } else { text.to_owned() }
        }
        _ => {
            let mut shown = String::from("hex:");
            for byte in key {
                shown.push_str(&format!("{byte:02x}"));
            }
            shown
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(argument: &str) -> Vec<u8> {
        parse(argument).unwrap().0.to_vec()
    }

    #[test]
    fn keys_are_text_hex_or_base64() {
        assert_eq!(bytes("a/b c"), b"a/b c");
        assert_eq!(bytes("hex:00fFe1"), [0x00, 0xff, 0xe1]);
        assert_eq!(bytes("b64:AP8="), [0x00, 0xff]);
        assert_eq!(bytes("b64:_-8="), [0xff, 0xef]);
        assert_eq!(bytes("text:hex:00"), b"hex:00");
        assert_eq!(bytes(""), b"");
    }

    #[test]
    fn what_is_not_a_key_is_refused() {
        for argument in ["hex:0", "hex:zz", "hex:+1", "b64:%"] {
            assert!(parse(argument).is_err(), "{argument}");
        }
    }

    #[test]
    fn a_shown_key_can_be_typed_again() {
        for key in [&b"plain"[..], b"hex:00", b"text:", b"\x00\xff", b"line\nbreak", "\u{e9}".as_bytes()] {
            assert_eq!(bytes(&show(key)), key);
        }
    }
}
