//! [`RequestId`]: the name of one write, by which it happens once however often it is sent.
//!
//! It is a UUID of version 7: its first 48 bits are the milliseconds since 1970 when it was made. That time is what
//! lets a partition forget old ids safely: it refuses every id that is older than the oldest that it remembers, so an id
//! that it has forgotten is an id that it refuses.
//!
//! It does not make random numbers: whoever makes an id brings them.

use std::fmt;
use std::str::FromStr;

const TIME_SHIFT: u32 = 80;
const VERSION_SHIFT: u32 = 76;
const VARIANT_SHIFT: u32 = 62;
const VERSION: u128 = 7;
const VARIANT: u128 = 0b10;

/// The digits of a UUID's text, and where its four hyphens stand.
const TEXT_BYTES: usize = 36;
const HYPHENS: [usize; 4] = [8, 13, 18, 23];

/// A UUID of version 7. In the order of the times when they were made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(u128);

/// A text that is no request id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no request id: it must be a UUID of version 7, such as 0190163d-8694-7e93-8d6a-6b9ec6d8f1d5"
)]
pub struct InvalidRequestId {
    /// The text, cut short where it is long.
    text: String,
}

impl RequestId {
    /// An id that was made at this time, in milliseconds since 1970. Of the random bits 74 are used.
    #[must_use]
    pub fn from_parts(time_ms: u64, random: u128) -> Self {
        let time = u128::from(time_ms) & ((1 << 48) - 1);
        let high = (random >> VARIANT_SHIFT) & ((1 << 12) - 1);
        let low = random & ((1 << VARIANT_SHIFT) - 1);
        let random = high << (VARIANT_SHIFT + 2) | low;
        RequestId(time << TIME_SHIFT | VERSION << VERSION_SHIFT | VARIANT << VARIANT_SHIFT | random)
    }

    /// The id of these bytes; `None` if they are none.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
        let bits = u128::from_be_bytes(bytes);
        let is_one = (bits >> VERSION_SHIFT) & 0xf == VERSION && (bits >> VARIANT_SHIFT) & 0b11 == VARIANT;
        is_one.then_some(RequestId(bits))
    }

    /// Its bytes, in an order that keeps the order of ids.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// When it was made, in milliseconds since 1970.
    #[must_use]
    pub fn time_ms(self) -> u64 {
        u64::try_from(self.0 >> TIME_SHIFT).unwrap_or(u64::MAX)
    }
}

impl FromStr for RequestId {
    type Err = InvalidRequestId;

    fn from_str(text: &str) -> Result<Self, InvalidRequestId> {
        let invalid = || InvalidRequestId { text: text.chars().take(2 * TEXT_BYTES).collect() };
        if text.len() != TEXT_BYTES {
            return Err(invalid());
        }
        let mut bits = 0_u128;
        for (at, character) in text.chars().enumerate() {
            if HYPHENS.contains(&at) {
                if character != '-' {
                    return Err(invalid());
                }
                continue;
            }
            bits = bits << 4 | u128::from(character.to_digit(16).ok_or_else(invalid)?);
        }
        RequestId::from_bytes(bits.to_be_bytes()).ok_or_else(invalid)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = |from: u32, digits: u32| (self.0 >> from) & ((1 << (4 * digits)) - 1);
        let (a, b, c, d, e) = (field(96, 8), field(80, 4), field(64, 4), field(48, 4), field(0, 12));
        write!(f, "{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:012x}")
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    #[test]
    fn the_example_of_the_standard_is_read_and_written() {
        // RFC 9562, appendix A.6: 2022-02-22 14:22:22 in New York.
        let text = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f";
        let id: RequestId = text.parse().unwrap();
        assert_eq!((id.time_ms(), id.to_string().as_str()), (1_645_557_742_000, text));
        assert_eq!(RequestId::from_parts(id.time_ms(), (0xcc3 << 62) | 0x18c4_dc0c_0c07_398f), id);
        assert_eq!(RequestId::from_bytes(id.to_bytes()), Some(id));
        assert_eq!(text.to_uppercase().parse(), Ok(id));
    }

    #[test]
    fn what_carries_no_time_is_refused() {
        for text in [
            "",
            "919108f7-52d1-4320-9bac-f847db4148a8",
            "017f22e2-79b0-7cc3-d8c4-dc0c0c07398f",
            "017f22e279b07cc398c4dc0c0c07398f",
            "017f22e2-79b0-7cc3-98c4-dc0c0c07398",
            "017f22e2-79b0-7cc3-98c4-dc0c0c07398g",
            "017f22e2_79b0-7cc3-98c4-dc0c0c07398f",
            "017f22e2-79b0-7cc3-98c4-dc0c0c0739\u{e4}",
        ] {
            assert!(text.parse::<RequestId>().is_err(), "{text}");
        }
    }

    #[test]
    fn ids_are_in_the_order_of_their_times_and_random_bits_cannot_reach_the_others() {
        let (early, late) = (RequestId::from_parts(7, u128::MAX), RequestId::from_parts(8, 0));
        assert!(early < late && early.time_ms() == 7 && late.time_ms() == 8);
        assert!(RequestId::from_bytes(early.to_bytes()).is_some());
    }
}
