//! How long a request may take: `grpc-timeout`, bounded.

use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::MetadataMap;

/// For a request that names no timeout.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

/// No request may wait longer than this, whatever it asks for.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// The router gives up this much before the caller does (a tenth of the timeout, where that is less), so
/// that its answer, which says what became of a write, arrives before the caller stops listening. Tonic's
/// own server ends the request at `grpc-timeout` with a bare status.
pub const ANSWER_MARGIN_MAX: Duration = Duration::from_millis(50);

const _: () = assert!(TIMEOUT_DEFAULT.as_millis() <= TIMEOUT_MAX.as_millis());

/// When the router must have answered a request that arrived now.
#[must_use]
pub fn of_request(metadata: &MetadataMap) -> Instant {
    let asked = metadata
        .get("grpc-timeout")
        .and_then(|value| value.to_str().ok())
        .and_then(parse)
        .unwrap_or(TIMEOUT_DEFAULT)
        .min(TIMEOUT_MAX);
    Instant::now() + (asked - ANSWER_MARGIN_MAX.min(asked / 10))
}

/// Reads `grpc-timeout`: one to eight digits and a unit, H, M, S, m, u or n. `None` if it is malformed.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 60 * 60)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        assert_eq!(parse("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(parse("3M"), Some(Duration::from_secs(180)));
        assert_eq!(parse("4S"), Some(Duration::from_secs(4)));
        assert_eq!(parse("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse("9u"), Some(Duration::from_micros(9)));
        assert_eq!(parse("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for bad in ["", "S", "1", "1s", "-1S", "+1S", "123456789S", "1 S", "1\u{e9}"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn bounded_and_ahead_of_the_caller() {
        let deadline_of = |text: Option<&str>| {
            let mut metadata = MetadataMap::new();
            if let Some(text) = text {
                metadata.insert("grpc-timeout", text.parse().unwrap());
            }
            let now = Instant::now();
            of_request(&metadata).saturating_duration_since(now)
        };
        let near = |left: Duration, expected: Duration| {
            assert!(
                left <= expected + Duration::from_secs(1) && left + ANSWER_MARGIN_MAX >= expected,
                "{left:?}"
            );
        };
        near(deadline_of(None), TIMEOUT_DEFAULT);
        near(deadline_of(Some("nonsense")), TIMEOUT_DEFAULT);
        near(deadline_of(Some("99999999H")), TIMEOUT_MAX);
        assert!(deadline_of(Some("0m")) <= Duration::from_millis(1));
    }
}
