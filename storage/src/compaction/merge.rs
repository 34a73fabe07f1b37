//! Many sorted sources become one: each key once, with its newest row, unless that has to go.
//!
//! # Which rows stay
//!
//! Sources are neighbours in time, oldest first; everything in a later one is newer. So of a key's rows the one in the
//! latest source counts, and the others are in nobody's way any more:
//!
//! - A reader of the new state finds the newest one in the output, in the place of all inputs in the order of runs: what
//!   is newer than the inputs is still asked before it, what is older after it.
//! - A snapshot of an older state has the inputs themselves, which stay as long as it does.
//!
//! A *tombstone* hides what older parts of the store may have of its key. It may go only when there is no older part:
//! when the merge includes the oldest run, and the key's other rows, if any, are in the inputs, where they go with it.
//! Everything newer than the inputs is asked first, and has no need of it. The same holds for an *expired* row: it reads as
//! if it were not there, so it is a tombstone that takes more space. (Nothing that counts is in the log's entries that were
//! flushed: opening reads the log from behind them on.)
//!
//! That a merge is done slice by slice changes nothing of this: a slice has *all* rows of its keys that the inputs have.

use crate::error::Result;

/// Rows in key order, each key once.
pub(crate) trait Source {
    /// The key of the row on which it stands; `None` at the end.
    fn key(&self) -> Option<&[u8]>;
    /// Whether that row says that its key has no value.
    fn is_tombstone(&self) -> bool;
    /// When that row expires, if ever, in milliseconds since 1970.
    fn expires_at_ms(&self) -> Option<u64>;
    /// Goes to the next row.
    fn advance(&mut self) -> Result<()>;
}

/// What goes beside rows that have a newer one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rules {
    /// There is no older part of the store than these sources.
    pub(crate) oldest: bool,
    /// Rows that expire at this time or earlier are as good as none. `None`: the owner of the store decides on expiry.
    pub(crate) now_ms: Option<u64>,
}

/// What becomes of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Its newest row stays.
    Kept,
    /// Nothing of it stays.
    Gone,
}

/// The merge of sources that are given oldest first.
pub(crate) struct Merge<S> {
    sources: Vec<S>,
    rules: Rules,
    /// Sources that are not at their end, by key, of equal keys the newest first. The next one is the last, so that
    /// taking it moves nothing.
    order: Vec<usize>,
    /// The key whose fate was told last, and has to be passed.
    key: Vec<u8>,
    stands: bool,
}

impl<S: Source> Merge<S> {
    /// Each source stands on its first row.
    pub(crate) fn new(sources: Vec<S>, rules: Rules) -> Merge<S> {
        let count = sources.len();
        let mut merge = Merge { sources, rules, order: Vec::new(), key: Vec::new(), stands: false };
        (0..count).for_each(|source| merge.insert(source));
        merge
    }

    /// Goes to the next key. Gives the source that stands on its newest row, and what becomes of it.
    pub(crate) fn next(&mut self) -> Result<Option<(usize, Fate)>> {
        if self.stands {
            self.pass()?;
        }
        let Some(source) = self.order.last().copied() else { return Ok(None) };
        self.stands = true;
        Ok(Some((source, self.fate(&self.sources[source]))))
    }

    /// The key on which it stands, or would with the next step: where another slice can go on.
    pub(crate) fn upcoming(&mut self) -> Result<Option<&[u8]>> {
        if self.stands {
            self.pass()?;
        }
        Ok(self.order.last().and_then(|source| self.sources[*source].key()))
    }

    pub(crate) fn source(&self, source: usize) -> &S {
        &self.sources[source]
    }

    /// Leaves a key behind, in all sources.
    fn pass(&mut self) -> Result<()> {
        self.stands = false;
        self.key.clear();
        if let Some(key) = self.order.last().and_then(|source| self.sources[*source].key()) {
            self.key.extend_from_slice(key);
        }
        while let Some(source) = self.order.last().copied()
            && self.sources[source].key() == Some(&self.key[..])
        {
            // After an error it stays where it is.
            self.sources[source].advance()?;
            self.order.pop();
            self.insert(source);
        }
        Ok(())
    }

    fn insert(&mut self, source: usize) {
        let Some(key) = self.sources[source].key() else { return };
        let is_behind = |other: &usize| match self.sources[*other].key() {
            Some(other_key) => (other_key, source) > (key, *other),
            None => false,
        };
        let place = self.order.partition_point(is_behind);
        self.order.insert(place, source);
    }

    fn fate(&self, row: &S) -> Fate {
        let expired = match (self.rules.now_ms, row.expires_at_ms()) {
            (Some(now_ms), Some(expires_at_ms)) => expires_at_ms <= now_ms,
            _ => false,
        };
        if self.rules.oldest && (row.is_tombstone() || expired) { Fate::Gone } else { Fate::Kept }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// A value, or none for a tombstone; and when it expires.
    type Row = (Option<u32>, Option<u64>);
    type Run = BTreeMap<Vec<u8>, Row>;

    struct Rows {
        rows: Vec<(Vec<u8>, Row)>,
        next: usize,
    }

    impl Rows {
        fn from(run: &Run, from: &[u8]) -> Rows {
            let rows = run.range(from.to_vec()..).map(|(key, row)| (key.clone(), *row)).collect();
            Rows { rows, next: 0 }
        }

        fn row(&self) -> Option<&(Vec<u8>, Row)> {
            self.rows.get(self.next)
        }
    }

    impl Source for Rows {
        fn key(&self) -> Option<&[u8]> {
            self.row().map(|(key, _)| &key[..])
        }

        fn is_tombstone(&self) -> bool {
            self.row().is_some_and(|(_, (value, _))| value.is_none())
        }

        fn expires_at_ms(&self) -> Option<u64> {
            self.row().and_then(|(_, (_, expires))| *expires)
        }

        fn advance(&mut self) -> Result<()> {
            self.next += 1;
            Ok(())
        }
    }

    /// Merges in slices of so many rows, as a job does.
    fn merged(runs: &[Run], rules: Rules, slice_rows: usize) -> Run {
        let (mut output, mut from) = (Run::new(), Vec::new());
        loop {
            let sources = runs.iter().map(|run| Rows::from(run, &from)).collect();
            let mut merge = Merge::new(sources, rules);
            let mut rows = 0;
            while rows < slice_rows {
                let Some((source, fate)) = merge.next().unwrap() else { return output };
                if fate == Fate::Kept {
                    let (key, row) = merge.source(source).row().unwrap().clone();
                    assert!(output.insert(key, row).is_none(), "a key came twice");
                    rows += 1;
                }
            }
            match merge.upcoming().unwrap() {
                Some(key) => from = key.to_vec(),
                None => return output,
            }
        }
    }

    /// What a reader sees of runs, the newest asked first.
    fn visible(runs: &[Run], now_ms: u64) -> BTreeMap<Vec<u8>, u32> {
        let newest: Run = runs.iter().flatten().map(|(key, row)| (key.clone(), *row)).collect();
        let alive = |(value, expires): Row| value.filter(|_| expires.is_none_or(|expires| expires > now_ms));
        newest.into_iter().filter_map(|(key, row)| Some((key, alive(row)?))).collect()
    }

    const NOW_MS: u64 = 50;

    fn runs() -> impl Strategy<Value = Vec<Run>> {
        let key = prop::collection::vec(0..4_u8, 1..4);
        let row = (prop::option::weighted(0.7, 0..1_000_u32), prop::option::weighted(0.3, 0..100_u64));
        prop::collection::vec(prop::collection::btree_map(key, row, 0..40), 1..8)
    }

    proptest! {
        #[test]
        fn merging_neighbours_changes_nothing_for_readers(
            runs in runs(), start: prop::sample::Index, end: prop::sample::Index, slice_rows in 1..50_usize,
        ) {
            let start = start.index(runs.len());
            let end = start + 1 + end.index(runs.len() - start);
            let rules = Rules { oldest: start == 0, now_ms: Some(NOW_MS) };
            let mut after = runs.clone();
            let output = merged(&runs[start..end], rules, slice_rows);
            after.splice(start..end, [output.clone()]);
            prop_assert_eq!(visible(&after, NOW_MS), visible(&runs, NOW_MS));
            // Later, too, when more has expired.
            prop_assert_eq!(visible(&after, NOW_MS + 20), visible(&runs, NOW_MS + 20));
            if start == 0 {
                let alive = visible(&runs[..end], NOW_MS);
                prop_assert!(output.keys().eq(alive.keys()), "something is left that nobody sees");
            }
        }

        #[test]
        fn an_owner_that_decides_on_expiry_finds_everything(runs in runs(), slice_rows in 1..50_usize) {
            let output = merged(&runs, Rules { oldest: true, now_ms: None }, slice_rows);
            prop_assert_eq!(visible(&[output], 0), visible(&runs, 0));
        }
    }

    #[test]
    fn a_tombstone_stays_while_something_older_may_be_there() {
        let run = |rows: &[(&[u8], Option<u32>)]| -> Run {
            rows.iter().map(|(key, value)| (key.to_vec(), (*value, None))).collect()
        };
        let runs = [run(&[(b"a", Some(1)), (b"b", Some(1))]), run(&[(b"a", None), (b"c", None)])];
        let newer = Rules { oldest: false, now_ms: Some(0) };
        assert_eq!(merged(&runs, newer, 9), run(&[(b"a", None), (b"b", Some(1)), (b"c", None)]));
        let all = Rules { oldest: true, now_ms: Some(0) };
        assert_eq!(merged(&runs, all, 9), run(&[(b"b", Some(1))]));
    }

    #[test]
    fn the_upcoming_key_is_where_another_slice_goes_on() {
        let run: Run = [b"a", b"b"].iter().map(|key| (key.to_vec(), (Some(1), None))).collect();
        let mut merge = Merge::new(vec![Rows::from(&run, b""), Rows::from(&run, b"")], Rules::default());
        assert_eq!(merge.upcoming().unwrap(), Some(&b"a"[..]));
        assert_eq!(merge.next().unwrap(), Some((1, Fate::Kept)));
        assert_eq!(merge.upcoming().unwrap(), Some(&b"b"[..]));
        assert_eq!(merge.next().unwrap(), Some((1, Fate::Kept)));
        assert_eq!(merge.upcoming().unwrap(), None);
        assert_eq!(merge.next().unwrap(), None);
    }
}
