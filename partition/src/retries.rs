//! [`Retries`]: what became of writes that carried an id, so that each of them happens once.
//!
//! Whatever is decided about such a write, that it was done or that a condition spoke against it, is recorded in the very
//! batch of the log that does it. A batch is committed whole or not at all, so there is no write without its record, nor a
//! record without its write; and the records are rows of the store, so they stay through restarts, compaction and copies.
//! Whoever leads finds the record and gives the same answer again.
//!
//! # Forgetting
//!
//! An id carries the time when it was made. The *horizon* is such a time: ids before it are refused, those from it on are
//! remembered, every one of them. It only rises, and it is stored with the results, so it rises for every later leader too. So
//! an id that was forgotten is refused: a retry that comes too late gets an error, never a second execution. This rests on no
//! clock. Clocks only decide how soon ids are refused:
//!
//! - The horizon follows behind the leader's clock by [`RETENTION_MS`], but also behind the newest id: a leader whose clock is
//!   far ahead does not refuse everybody.
//! - An id too far ahead of the leader's clock would be remembered for too long, and push others out: it is refused. Ids
//!   themselves move that limit by nothing, or a client whose clock is ahead would push it before itself, step by step. Only a
//!   leader whose clock is behind takes from the ids that it finds what its predecessors' clocks must have shown at least.
//! - At most [`RECORDS_MAX`] ids are remembered: beyond that the horizon rises by as much as it takes.
//!
//! A row whose ids are all before the horizon is removed by the next batches, a few in each, whatever is still needed of the
//! rows before it.
//!
//! What it does not do: it is no promise across partitions, and it does not know who sends.

mod record;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ops::Bound;

use paddock_proto::request_id::RequestId;
use paddock_storage::{LogEntries, Readable, ReplicatedStore, RowRef, RowsBuilder, Sequence};

use crate::clock::Timestamp;
use crate::keys;
use crate::replica::config::LOG_READ_BYTES_MAX;
use crate::replica::mutation::broken;
use record::Row;

pub use record::Recorded;

/// For how long ids are remembered, in milliseconds, unless there are too many of them.
pub const RETENTION_MS: u64 = 10 * 60 * 1_000;
/// How far ahead of the leader's clock an id may have been made, in milliseconds. A client that was refused goes by the
/// leader's clock from then on, so this need not be generous; and ids that are ahead push others out.
pub const AHEAD_MS_MAX: u64 = 60 * 1_000;
const _: () = assert!(AHEAD_MS_MAX < RETENTION_MS);
/// The most ids that are remembered: of some 80 bytes of memory each.
pub const RECORDS_MAX: usize = 1 << 19;
/// How many rows one batch removes at most. More than one, so that they fall behind nothing.
const REMOVED_PER_BATCH_MAX: usize = 16;
/// The most bytes that a batch's row takes beside its results, with the rows that it removes.
pub const BATCH_BYTES: usize = record::ROW_BYTES + REMOVED_PER_BATCH_MAX * record::REMOVAL_BYTES;
/// The most bytes that one result takes.
pub const RESULT_BYTES: usize = record::RESULT_BYTES;

/// What the log does beyond what is applied.
#[derive(Debug)]
enum Ahead {
    /// A batch's row.
    Results {
        /// The batch's first entry.
        batch: Sequence,
        /// Its results.
        row: Row,
        /// The time of the newest id in it.
        newest_ms: u64,
    },
    /// The row of an earlier batch is removed.
    Removal(Sequence),
    /// A row that this build cannot read.
    Unreadable(String),
}

/// What is known of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing: the write has not been decided.
    New,
    /// This is its result, once the log is applied up to `after`.
    Decided {
        /// The entry that carries the result; 0 where it is applied.
        after: Sequence,
        /// The result.
        recorded: Recorded,
    },
    /// It is older than what is remembered: it may have been decided before, or not.
    Expired {
        /// The time that whoever made it should go by, in milliseconds since 1970.
        clock_ms: u64,
    },
    /// It was made too far in the future. It has not been decided.
    Ahead {
        /// The same.
        clock_ms: u64,
    },
}

/// The newest id when a reign began, and when that was.
#[derive(Clone, Copy, Debug, Default)]
struct Inherited {
    newest_ms: u64,
    since: Timestamp,
}

/// The results of one replica's partition.
#[derive(Debug)]
pub struct Retries {
    /// Of applied rows, from the horizon on.
    results: BTreeMap<RequestId, Recorded>,
    /// That of the applied rows.
    horizon_ms: u64,
    /// Rows in the store: the batch, and the time of the newest id in it.
    rows: HashMap<Sequence, u64>,
    /// The same, those first that are needed no more first.
    rows_by_time: BTreeSet<(u64, Sequence)>,
    /// What the log holds that is not applied, in its order.
    ahead: VecDeque<(Sequence, Ahead)>,
    /// The results in it.
    results_ahead: HashMap<RequestId, (Sequence, Recorded)>,
    /// The rows that are removed in it.
    removals_ahead: HashSet<Sequence>,
    inherited: Inherited,
    unreadable: Option<String>,
    records_max: usize,
}

impl Default for Retries {
    /// Those of an empty store.
    fn default() -> Self {
        Retries {
            results: BTreeMap::new(),
            horizon_ms: 0,
            rows: HashMap::new(),
            rows_by_time: BTreeSet::new(),
            ahead: VecDeque::new(),
            results_ahead: HashMap::new(),
            removals_ahead: HashSet::new(),
            inherited: Inherited::default(),
            unreadable: None,
            records_max: RECORDS_MAX,
        }
    }
}

impl Retries {
    /// Reads the results that a store holds: what is applied of it, and what its log has beyond that.
    ///
    /// # Errors
    /// The store's.
    pub fn load(store: &ReplicatedStore) -> Result<Self, paddock_storage::Error> {
        let mut retries = Retries::default();
        if broken!(ResultsAreNotLoaded) {
            return Ok(retries);
        }
        let reader = store.reader();
        for row in reader.range::<&[u8]>((Bound::Unbounded, Bound::Excluded(keys::BEFORE_USERS))) {
            let row = row?;
            if let Some(batch) = record::batch_of(&row.key) {
                match Row::decode(&row.value) {
                    Ok(found) => retries.remember(batch, found),
                    Err(what) => retries.unreadable = Some(what),
                }
            }
        }
        retries.forget();
        let mut read = store.applied();
        while read < store.last().sequence {
            let log = store.read_log(read, LOG_READ_BYTES_MAX)?;
            let Some(last) = log.last() else { break };
            read = last.last();
            log.iter().for_each(|entries| retries.appended(entries));
        }
        Ok(retries)
    }

    /// Entries were appended to the log.
    pub fn appended(&mut self, entries: &LogEntries) {
        for (sequence, row) in (entries.first.0..).map(Sequence).zip(entries.rows.iter()) {
            let Some(batch) = row.key().and_then(record::batch_of) else { continue };
            let ahead = match row {
                RowRef::Put { value, .. } => match Row::decode(value) {
                    Ok(row) => {
                        let results = row.results.iter().map(|(id, result)| (*id, (sequence, *result)));
                        self.results_ahead.extend(results);
                        Ahead::Results { batch, newest_ms: row.newest_ms(), row }
                    }
                    Err(what) => Ahead::Unreadable(what),
                },
                _ => {
                    self.removals_ahead.insert(batch);
                    Ahead::Removal(batch)
                }
            };
            self.ahead.push_back((sequence, ahead));
        }
    }

    /// The log was cut after an entry.
    pub fn truncated(&mut self, last_kept: Sequence) {
        while let Some((sequence, _)) = self.ahead.back()
            && *sequence > last_kept
            && let Some((_, ahead)) = self.ahead.pop_back()
        {
            if let Ahead::Removal(batch) = ahead {
                self.removals_ahead.remove(&batch);
            }
        }
        self.results_ahead.retain(|_, (sequence, _)| *sequence <= last_kept);
    }

    /// The log is applied up to an entry.
    pub fn applied(&mut self, through: Sequence) {
        while let Some((sequence, _)) = self.ahead.front()
            && *sequence <= through
            && let Some((_, ahead)) = self.ahead.pop_front()
        {
            match ahead {
                Ahead::Results { batch, row, .. } => {
                    for (id, _) in &row.results {
                        self.results_ahead.remove(id);
                    }
                    self.remember(batch, row);
                    self.forget();
                }
                Ahead::Removal(batch) => {
                    self.removals_ahead.remove(&batch);
                    if let Some(newest_ms) = self.rows.remove(&batch) {
                        self.rows_by_time.remove(&(newest_ms, batch));
                    }
                }
                Ahead::Unreadable(what) => self.unreadable = Some(what),
            }
        }
    }

    /// Why nothing can be said of ids here, if nothing can.
    #[must_use]
    pub fn unreadable(&self) -> Option<&str> {
        self.unreadable.as_deref()
    }

    /// How many ids are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.results.len() + self.results_ahead.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many rows of the store, as it is applied, are no user's.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows.len() as u64
    }

    /// A reign begins here: from now on the leader's clock is ours.
    pub fn reign_began(&mut self, now: Timestamp) {
        self.inherited = Inherited { newest_ms: self.newest_ms(), since: now };
    }

    /// Begins a batch of the log, whose first entry will be this one. `wall_clock_ms` is the leader's, `now` its monotonic
    /// clock's.
    #[must_use]
    pub fn batch(&self, first: Sequence, wall_clock_ms: u64, now: Timestamp) -> Batch<'_> {
        let newest_ms = self.newest_ms();
        let clock_ms = wall_clock_ms.max(self.inherited_clock_ms(now));
        let rows_ahead = self.ahead.iter().filter_map(|(_, ahead)| match ahead {
            Ahead::Results { row, .. } => Some(row.horizon_ms),
            _ => None,
        });
        let horizon_ms = rows_ahead.fold(self.horizon_ms, u64::max).max(horizon_by_time(clock_ms, newest_ms));
        Batch { retries: self, first, horizon_ms, newest_ms, clock_ms, results: BTreeMap::new() }
    }

    /// The time of the newest id that is remembered; 0 if none is.
    fn newest_ms(&self) -> u64 {
        let applied_ms = self.results.keys().next_back().map_or(0, |id| id.time_ms());
        let ahead = self.ahead.iter().map(|(_, ahead)| match ahead {
            Ahead::Results { newest_ms, .. } => *newest_ms,
            _ => 0,
        });
        ahead.fold(applied_ms, u64::max)
    }

    /// What the clocks of earlier leaders must show by now, at least: none took an id that was further ahead of its own.
    fn inherited_clock_ms(&self, now: Timestamp) -> u64 {
        let Inherited { newest_ms, since } = self.inherited;
        match newest_ms.checked_sub(AHEAD_MS_MAX) {
            Some(then_ms) => then_ms.saturating_add(now.since(since)),
            None => 0,
        }
    }

    fn remember(&mut self, batch: Sequence, row: Row) {
        self.horizon_ms = self.horizon_ms.max(row.horizon_ms);
        self.rows.insert(batch, row.newest_ms());
        self.rows_by_time.insert((row.newest_ms(), batch));
        self.results.extend(row.results);
    }

    /// Forgets what is before the horizon: it is refused from now on, here and at every later leader.
    fn forget(&mut self) {
        while let Some(oldest) = self.results.first_entry()
            && oldest.key().time_ms() < self.horizon_ms
        {
            oldest.remove();
        }
    }
}

/// What the passing of time makes of the horizon.
fn horizon_by_time(clock_ms: u64, newest_ms: u64) -> u64 {
    clock_ms.min(newest_ms).saturating_sub(RETENTION_MS)
}

/// The results of one batch on its way into the log.
#[derive(Debug)]
pub struct Batch<'a> {
    retries: &'a Retries,
    first: Sequence,
    horizon_ms: u64,
    newest_ms: u64,
    /// By which it is judged what is ahead.
    clock_ms: u64,
    results: BTreeMap<RequestId, Recorded>,
}

impl Batch<'_> {
    /// The latest time of an id that is taken.
    fn latest_ms(&self) -> u64 {
        self.clock_ms.saturating_add(AHEAD_MS_MAX)
    }

    /// A time of which ids are taken. The usual one is not where so many ids were made ahead of the clock that all that
    /// were made by it had to be forgotten.
    fn within_limits(&self, usual_ms: u64) -> u64 {
        let latest_ms = self.latest_ms().max(self.horizon_ms);
        if usual_ms >= self.horizon_ms { usual_ms } else { self.horizon_ms.midpoint(latest_ms) }
    }

    /// What is known of an id. `next` is the entry that the batch would have next: the batch is committed whole, so
    /// whoever waits for any entry of it waits for all of it.
    #[must_use]
    pub fn find(&self, id: RequestId, next: Sequence) -> Known {
        if let Some(recorded) = self.results.get(&id) {
            return Known::Decided { after: next, recorded: *recorded };
        }
        if let Some((after, recorded)) = self.retries.results_ahead.get(&id) {
            return Known::Decided { after: *after, recorded: *recorded };
        }
        if let Some(recorded) = self.retries.results.get(&id) {
            return Known::Decided { after: Sequence(0), recorded: *recorded };
        }
        if id.time_ms() < self.horizon_ms && !broken!(ExpiredIdsAreNew) {
            // No later than ids bear out: a leader whose clock is far ahead leads nobody astray.
            let borne_out_ms = if self.newest_ms == 0 { u64::MAX } else { self.newest_ms };
            Known::Expired { clock_ms: self.within_limits(self.clock_ms.min(borne_out_ms)) }
        } else if id.time_ms() > self.latest_ms() {
            Known::Ahead { clock_ms: self.within_limits(self.clock_ms) }
        } else {
            Known::New
        }
    }

    /// Records the first result of an id.
    pub fn record(&mut self, id: RequestId, recorded: Recorded) {
        self.results.insert(id, recorded);
    }

    /// Adds the batch's results to its rows, and the removal of rows that nobody needs any more.
    ///
    /// # Errors
    /// The store's: the batch is too large.
    pub fn finish(mut self, rows: &mut RowsBuilder) -> Result<(), paddock_storage::Error> {
        if self.results.is_empty() || broken!(ResultsAreNotLogged) {
            return Ok(());
        }
        let newest_ms = self.results.keys().next_back().map_or(0, |id| id.time_ms());
        self.horizon_ms =
            self.horizon_ms.max(horizon_by_time(self.clock_ms, newest_ms)).max(self.horizon_by_count());
        let Batch { retries, first, horizon_ms, results, .. } = self;
        let results = results.into_iter().collect();
        rows.put(&record::key(first), &Row { horizon_ms, results }.encode())?;
        let due = retries.rows_by_time.iter().take_while(|(newest_ms, _)| *newest_ms < horizon_ms);
        let due = due.filter(|(_, batch)| !retries.removals_ahead.contains(batch));
        for (_, batch) in due.take(REMOVED_PER_BATCH_MAX) {
            rows.delete(&record::key(*batch))?;
        }
        Ok(())
    }

    /// The lowest horizon with which no more ids are remembered than may be.
    fn horizon_by_count(&self) -> u64 {
        let count = self.retries.len() + self.results.len();
        // The oldest are in the applied rows: what is under way is a small part of the whole.
        match count
            .checked_sub(self.retries.records_max + 1)
            .and_then(|last| self.retries.results.keys().nth(last))
        {
            Some(last_to_go) => last_to_go.time_ms() + 1,
            None => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use paddock_storage::Options;

    use super::*;
    use crate::operation::Answer;

    fn id(time_ms: u64) -> RequestId {
        RequestId::from_parts(time_ms, 7)
    }

    const EXPIRED: fn(&Known) -> bool = |known| matches!(known, Known::Expired { .. });

    fn written(version: u64) -> Recorded {
        let answer = Answer::Written { version: Sequence(version), deleted: false };
        Recorded::of(9, &answer).expect("it decides")
    }

    /// A replica's store with the results beside it.
    struct Replica {
        store: ReplicatedStore,
        retries: Retries,
        /// Its monotonic clock.
        now: Timestamp,
        directory: tempfile::TempDir,
    }

    impl Replica {
        fn new(records_max: usize) -> Replica {
            let directory = tempfile::tempdir().expect("a directory");
            let store = ReplicatedStore::open(directory.path(), Options::default()).expect("opens");
            let retries = Retries { records_max, ..Retries::default() };
            Replica { store, retries, now: Timestamp(0), directory }
        }

        /// Appends a batch with one put for each id. Returns how many rows of results it removes.
        fn append(&mut self, wall_clock_ms: u64, ids: &[RequestId]) -> usize {
            let first = self.store.last().sequence.next();
            let (mut rows, mut next) = (RowsBuilder::new(), first);
            let mut batch = self.retries.batch(first, wall_clock_ms, self.now);
            for id in ids {
                assert_eq!(batch.find(*id, next), Known::New, "{id}");
                rows.put(b"key", b"value").expect("fits");
                batch.record(*id, written(next.0));
                assert_eq!(batch.find(*id, next), Known::Decided { after: next, recorded: written(next.0) });
                next = next.next();
            }
            batch.finish(&mut rows).expect("fits");
            let entries = LogEntries { epoch: 1, first, log_time_ms: 0, rows: rows.finish() };
            self.store.append(&entries, self.store.applied()).expect("appends");
            self.retries.appended(&entries);
            entries.rows.iter().filter(|row| !row.is_put()).count()
        }

        fn apply(&mut self) {
            let through = self.store.sync().expect("syncs");
            self.store.apply(through).expect("applies");
            self.retries.applied(through);
        }

        fn find(&self, wall_clock_ms: u64, id: RequestId) -> Known {
            let next = self.store.last().sequence.next();
            self.retries.batch(next, wall_clock_ms, self.now).find(id, next)
        }

        fn restart(self) -> Replica {
            let Replica { mut store, retries, directory, .. } = self;
            // So that the log tells what was applied, as the next entries do wherever there are any.
            let (mut rows, first) = (RowsBuilder::new(), store.last().sequence.next());
            rows.marker(b"next").expect("fits");
            let entries = LogEntries { epoch: 1, first, log_time_ms: 0, rows: rows.finish() };
            store.append(&entries, store.applied()).expect("appends");
            store.sync().expect("syncs");
            drop(store);
            let store = ReplicatedStore::open(directory.path(), Options::default()).expect("opens");
            let mut loaded = Retries::load(&store).expect("reads");
            loaded.records_max = retries.records_max;
            loaded.reign_began(Timestamp(0));
            Replica { store, retries: loaded, now: Timestamp(0), directory }
        }
    }

    fn decided(after: u64, version: u64) -> Known {
        Known::Decided { after: Sequence(after), recorded: written(version) }
    }

    #[test]
    fn a_result_is_known_from_its_append_on_and_gone_with_its_entry() {
        let mut replica = Replica::new(100);
        replica.append(1_000, &[id(1_000)]);
        replica.apply();
        assert_eq!(replica.find(1_000, id(1_000)), decided(0, 1));
        // Behind it in the log, not applied: the answer waits for the entry that carries the result.
        replica.append(1_000, &[id(1_001), id(1_002)]);
        assert_eq!(replica.find(1_000, id(1_002)), decided(5, 4));
        // Another leader has something else there.
        replica.store.truncate_after(Sequence(2)).expect("cuts");
        replica.retries.truncated(Sequence(2));
        assert_eq!(replica.find(1_000, id(1_002)), Known::New);
        assert_eq!(replica.find(1_000, id(1_000)), decided(0, 1));
        assert_eq!(replica.retries.len(), 1);
    }

    #[test]
    fn results_outlast_a_restart_applied_or_not() {
        let mut replica = Replica::new(100);
        replica.append(1_000, &[id(1_000)]);
        replica.apply();
        replica.append(1_000, &[id(1_001)]);
        replica.store.sync().expect("syncs");
        let mut replica = replica.restart();
        assert_eq!(replica.find(1_000, id(1_000)), decided(0, 1));
        assert_eq!(replica.find(1_000, id(1_001)), decided(4, 3));
        replica.apply();
        assert_eq!(replica.find(1_000, id(1_001)), decided(0, 3));
        assert_eq!((replica.retries.len(), replica.retries.rows()), (2, 2));
    }

    #[test]
    fn what_is_forgotten_is_refused_for_ever_whatever_the_clock_says() {
        let mut replica = Replica::new(100);
        let (start, late) = (1_000_000, 1_000_000 + RETENTION_MS + 2);
        replica.append(start, &[id(start), id(start + 1)]);
        replica.apply();
        assert_eq!(replica.find(start, id(start - 1)), Known::New, "a client's clock may be a little behind");
        assert_eq!(replica.append(late, &[id(late)]), 1, "the row of the two is not needed any more");
        replica.apply();
        // Also for a leader that starts later, with a clock that is behind.
        let mut replica = replica.restart();
        assert!(EXPIRED(&replica.find(start, id(start))));
        assert!(EXPIRED(&replica.find(start, id(start + 1))));
        assert_eq!(replica.find(start, id(late)), decided(0, 4));
        assert_eq!((replica.retries.len(), replica.retries.rows()), (1, 1));
        replica.append(start, &[id(start + 2)]);
    }

    #[test]
    fn a_leader_whose_clock_is_far_ahead_refuses_nobody_for_it() {
        let mut replica = Replica::new(100);
        replica.append(1_000, &[id(1_000)]);
        replica.apply();
        let year_ms = 365 * 24 * 3_600_000;
        replica.append(year_ms, &[id(2_000)]);
        replica.apply();
        assert_eq!(replica.find(2_000, id(2_000)), decided(0, 3));
        assert_eq!(replica.find(2_000, id(1_999)), Known::New);
        // Whoever is refused by it is not told to go by its clock.
        replica.append(year_ms, &[id(RETENTION_MS * 3)]);
        assert_eq!(replica.find(year_ms, id(2_001)), Known::Expired { clock_ms: RETENTION_MS * 3 });
    }

    #[test]
    fn a_leader_whose_clock_is_behind_takes_who_was_in_time_for_the_one_before() {
        let mut replica = Replica::new(100);
        let start = 1_000_000;
        replica.append(start, &[id(start + AHEAD_MS_MAX)]);
        replica.apply();
        let mut replica = replica.restart();
        // The former leader's clock showed `start` at least.
        assert_eq!(replica.find(0, id(start + AHEAD_MS_MAX + 1)), Known::Ahead { clock_ms: start });
        assert_eq!(replica.find(0, id(start)), Known::New);
        // Its clock may be wrong, but it measures time: whoever goes by it goes on being taken.
        replica.now = Timestamp(7_000);
        assert_eq!(replica.find(0, id(start + AHEAD_MS_MAX + 7_000)), Known::New);
        let too_far = id(start + AHEAD_MS_MAX + 7_001);
        assert_eq!(replica.find(0, too_far), Known::Ahead { clock_ms: start + 7_000 });
        assert_eq!(replica.find(start + 8_000, too_far), Known::New, "its clock was put right");
    }

    #[test]
    fn ids_that_are_ahead_move_the_limit_by_nothing_not_even_from_reign_to_reign() {
        let mut replica = Replica::new(100);
        let start = 1_000_000;
        let latest = start + AHEAD_MS_MAX;
        for number in 0..10 {
            replica.append(start, &[RequestId::from_parts(latest, number)]);
            replica.apply();
            assert_eq!(replica.find(start, id(latest + 1)), Known::Ahead { clock_ms: start });
            replica = replica.restart();
        }
        assert_eq!(replica.find(start, id(start)), Known::New, "whose clock is right is not pushed out");
        // Where there are more of them than can be remembered, others have to be forgotten, and are told where to go on.
        for number in 10..200 {
            replica.append(start, &[RequestId::from_parts(latest, number)]);
            replica.apply();
            if EXPIRED(&replica.find(start, id(latest))) {
                break;
            }
        }
        let Known::Expired { clock_ms } = replica.find(start, id(start)) else { panic!("it is forgotten") };
        assert!((start..=latest + 1).contains(&clock_ms), "{clock_ms}");
        assert_eq!(replica.find(start + 1_000, id(latest + 1_000)), Known::New, "time goes on");
    }

    #[test]
    fn a_row_that_is_needed_for_longer_keeps_no_others() {
        let mut replica = Replica::new(100);
        let start = 1_000_000;
        replica.append(start, &[id(start + AHEAD_MS_MAX)]);
        for time in 1..=3 {
            replica.append(start, &[id(start + time)]);
        }
        replica.apply();
        let late = start + RETENTION_MS + 4;
        assert_eq!(replica.append(late, &[id(late)]), 3, "all but the first");
        // Those are on their way out: nobody removes them twice, unless the removal is taken back.
        assert_eq!(replica.append(late, &[id(late + 1)]), 0);
        let cut = Sequence(replica.store.last().sequence.0 - 7);
        replica.store.truncate_after(cut).expect("cuts");
        replica.retries.truncated(cut);
        assert_eq!(replica.append(late, &[id(late)]), 3);
        replica.apply();
        assert_eq!((replica.retries.len(), replica.retries.rows()), (2, 2));
        let replica = replica.restart();
        assert_eq!((replica.retries.len(), replica.retries.rows()), (2, 2));
    }

    #[test]
    fn the_number_of_ids_is_bounded_and_what_had_to_go_is_refused() {
        let mut replica = Replica::new(10);
        for time in 0..100 {
            replica.append(1_000, &[id(1_000 + time)]);
            replica.apply();
            assert!(replica.retries.len() <= 10, "{} at {time}", replica.retries.len());
            assert!(replica.retries.rows() <= 11, "{} rows at {time}", replica.retries.rows());
        }
        let replica = replica.restart();
        assert!(EXPIRED(&replica.find(1_000, id(1_089))));
        assert!(matches!(replica.find(1_000, id(1_090)), Known::Decided { after: Sequence(0), .. }));
        assert_eq!(replica.retries.len(), 10);
    }

    /// Resident memory of this process, in bytes.
    fn resident_bytes() -> u64 {
        let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
        let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
        pages * 4_096
    }

    /// What remembering ids takes, one by one in rows of their own, as where one caller writes after the other, and many in a
    /// row: memory, and the time to append, to apply and to look one up.
    #[test]
    #[ignore = "prints figures: see docs/guarantees.md"]
    fn measure_the_memory_of_ids() {
        for per_batch in [64, 1] {
            let before = resident_bytes();
            let (mut retries, mut first) = (Retries::default(), Sequence(1));
            let began = std::time::Instant::now();
            for batch_number in 0..(RECORDS_MAX / per_batch) as u64 {
                let mut rows = RowsBuilder::new();
                let mut batch = retries.batch(first, 1_000_000, Timestamp(0));
                for number in 0..per_batch as u128 {
                    let id =
                        RequestId::from_parts(1_000_000 + batch_number / 100, u128::from(first.0) + number);
                    assert_eq!(batch.find(id, first), Known::New);
                    batch.record(id, written(first.0));
                }
                batch.finish(&mut rows).expect("fits");
                let entries = LogEntries { epoch: 1, first, log_time_ms: 0, rows: rows.finish() };
                retries.appended(&entries);
                retries.applied(entries.last());
                first = Sequence(first.0 + 1 + per_batch as u64);
            }
            let (elapsed, bytes) = (began.elapsed(), resident_bytes().saturating_sub(before));
            let count = retries.len();
            println!(
                "{per_batch} in a row: {count} ids, {:.0} bytes of memory each, {:.2} us each",
                bytes as f64 / count as f64,
                elapsed.as_secs_f64() * 1e6 / count as f64,
            );
        }
    }

    #[test]
    fn results_of_another_build_make_nothing_up() {
        let mut replica = Replica::new(10);
        let mut rows = RowsBuilder::new();
        rows.put(&record::key(Sequence(1)), &[9]).expect("fits");
        let entries = LogEntries { epoch: 1, first: Sequence(1), log_time_ms: 0, rows: rows.finish() };
        replica.store.append(&entries, Sequence(0)).expect("appends");
        replica.retries.appended(&entries);
        assert_eq!(replica.retries.unreadable(), None, "another leader may have something else there");
        replica.apply();
        assert!(replica.retries.unreadable().is_some_and(|what| what.contains("format 9")));
        assert!(replica.restart().retries.unreadable().is_some());
    }
}
