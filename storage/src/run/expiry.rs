//! When the rows of a run expire: a few times, and how many bytes have expired by each. FORMAT.md, "Statistics".
//!
//! The times are such that about as many bytes expire between one and the next. So the answer is never too high and at
//! most one part too low, however the times are spread: a row in ten that lives for an hour shows among others that live for
//! years.

use crate::header::read_u64;

/// At most so many.
const STEPS_MAX: usize = 16;

pub(super) const STEP_BYTES: usize = 16;

/// The next rows that expire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExpiryStep {
    /// When the last of them does.
    pub(crate) at_ms: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
}

/// Gathers what is to become steps.
#[derive(Clone, Debug, Default)]
pub(super) struct Expiries {
    rows: Vec<(u64, u32)>,
}

impl Expiries {
    pub(super) fn note(&mut self, expires_at_ms: Option<u64>, bytes: usize) {
        // No row is longer than what 32 bits hold.
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.rows.extend(expires_at_ms.map(|at_ms| (at_ms, bytes)));
    }

    /// The steps of all that was noted: what they are does not depend on its order.
    pub(super) fn steps(self) -> Vec<ExpiryStep> {
        let mut rows = self.rows;
        rows.sort_unstable();
        let all: u64 = rows.iter().map(|(_, bytes)| u64::from(*bytes)).sum();
        let (mut steps, mut passed, mut step) = (Vec::new(), 0, ExpiryStep { at_ms: 0, bytes: 0 });
        for (place, (at_ms, bytes)) in rows.iter().enumerate() {
            step = ExpiryStep { at_ms: *at_ms, bytes: step.bytes + u64::from(*bytes) };
            let is_last_then = rows.get(place + 1).is_none_or(|(next, _)| next != at_ms);
            let due = (steps.len() as u128 + 1) * u128::from(all);
            if is_last_then
                && (u128::from(passed + step.bytes) * STEPS_MAX as u128 >= due || place + 1 == rows.len())
            {
                passed += step.bytes;
                steps.push(std::mem::replace(&mut step, ExpiryStep { at_ms: 0, bytes: 0 }));
            }
        }
        steps
    }
}

/// Bytes that have expired at a time, at least.
pub(crate) fn expired_bytes(steps: &[ExpiryStep], now_ms: u64) -> u64 {
    steps.iter().take_while(|step| step.at_ms <= now_ms).map(|step| step.bytes).sum()
}

/// When more will have expired than at a time.
pub(crate) fn next_expiry_ms(steps: &[ExpiryStep], now_ms: u64) -> Option<u64> {
    steps.iter().map(|step| step.at_ms).find(|at_ms| *at_ms > now_ms)
}

pub(super) fn encode(steps: &[ExpiryStep], bytes: &mut Vec<u8>) {
    for step in steps {
        bytes.extend_from_slice(&step.at_ms.to_le_bytes());
        bytes.extend_from_slice(&step.bytes.to_le_bytes());
    }
}

/// `None`: no steps that anybody would write of rows of so many bytes, the first of which expires then.
pub(super) fn decode(bytes: &[u8], first_ms: Option<u64>, row_bytes: u64) -> Option<Vec<ExpiryStep>> {
    if !bytes.len().is_multiple_of(STEP_BYTES) || bytes.len() / STEP_BYTES > STEPS_MAX {
        return None;
    }
    let step = |field: &[u8]| ExpiryStep { at_ms: read_u64(field, 0), bytes: read_u64(field, 8) };
    let steps: Vec<ExpiryStep> = bytes.chunks_exact(STEP_BYTES).map(step).collect();
    let bytes = steps.iter().try_fold(0_u64, |sum, step| sum.checked_add(step.bytes));
    let fits = match (first_ms, steps.first()) {
        (None, None) => true,
        (Some(first_ms), Some(step)) => first_ms <= step.at_ms,
        _ => false,
    };
    let ascends = steps.windows(2).all(|pair| pair[0].at_ms < pair[1].at_ms);
    let counts = steps.iter().all(|step| step.bytes > 0) && bytes.is_some_and(|bytes| bytes <= row_bytes);
    (fits && ascends && counts).then_some(steps)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn steps_of(rows: &[(u64, u32)]) -> Vec<ExpiryStep> {
        let mut expiries = Expiries::default();
        rows.iter().for_each(|(at_ms, bytes)| expiries.note(Some(*at_ms), *bytes as usize));
        expiries.note(None, 1_000);
        expiries.steps()
    }

    proptest! {
        #[test]
        fn what_has_expired_is_known_but_for_one_part(
            mut rows in prop::collection::vec((prop_oneof![0..20_u64, 0..1_000_000_u64, Just(u64::MAX)], 1..5_000_u32), 0..200),
            now_ms in prop_oneof![0..20_u64, 0..1_000_000_u64, Just(u64::MAX)],
        ) {
            let steps = steps_of(&rows);
            prop_assert!(steps.len() <= STEPS_MAX);
            let bytes = |rows: &[(u64, u32)]| rows.iter().map(|(_, bytes)| u64::from(*bytes)).sum::<u64>();
            let all = bytes(&rows);
            let expired: u64 = rows.iter().filter(|(at_ms, _)| *at_ms <= now_ms).map(|(_, b)| u64::from(*b)).sum();
            let said = expired_bytes(&steps, now_ms);
            // Rows that expire together are not told apart, and a row is not divided.
            prop_assert!(said <= expired);
            prop_assert!(expired - said <= all / STEPS_MAX as u64 + 1, "{said} of {expired}, in all {all}");
            prop_assert_eq!(expired_bytes(&steps, u64::MAX), all);
            prop_assert_eq!(next_expiry_ms(&steps, u64::MAX), None);
            if let Some(next) = next_expiry_ms(&steps, now_ms) {
                prop_assert!(next > now_ms && expired_bytes(&steps, next) > said);
            }
            let first = rows.iter().map(|(at_ms, _)| *at_ms).min();
            let mut encoded = Vec::new();
            encode(&steps, &mut encoded);
            prop_assert_eq!(decode(&encoded, first, all), Some(steps.clone()));
            prop_assert_eq!(decode(&encoded, first, all.wrapping_sub(1)).is_some(), all == 0);
            rows.reverse();
            prop_assert_eq!(steps_of(&rows), steps);
        }

        #[test]
        fn whatever_bytes_are_given_nothing_panics(
            bytes in prop::collection::vec(any::<u8>(), 0..400), first: Option<u64>, row_bytes: u64,
        ) {
            let _ = decode(&bytes, first, row_bytes);
        }
    }

    #[test]
    fn few_that_expire_soon_show_among_many_that_do_not() {
        let rows: Vec<(u64, u32)> =
            (0..1_000).map(|row| (if row % 10 == 0 { 5 } else { 1_000_000 + row }, 100)).collect();
        assert_eq!(expired_bytes(&steps_of(&rows), 5), 10_000);
    }
}
