//! The owner loop: one thread per replica, which alone touches the replica core and the store.
//!
//! Each round drains what waits into one batch: messages of peers and of the coordination service are
//! stepped through the core, writes are admitted and proposed together, and the effects are performed in
//! order. What was appended is sent to the followers before the round's one fsync begins, so that their
//! disks work while ours does. While the fsync runs, the next batch gathers in the inbox: that is the whole
//! of group commit, and one caller alone waits for nobody.
//!
//! ```text
//! inbox -> control, messages -> step -> effects
//!       -> operations -> admission -> Propose -> [Append, Send...] -> links
//!       -> sync -> Durable -> [Ack | commit rises: Apply -> replies]
//!       -> reads under the lease, and behind barriers -> replies
//! ```
//!
//! Writes that may not go into the log yet keep their place: while the replica is about to lead, while it hands over, and
//! while the store's compaction is behind. All of these end, and the budget of operations under way bounds what waits.
//!
//! A store that fails to write or to sync ends the process, through [`Host`](crate::host::Host): nothing
//! that follows could be trusted, and an fsync is never tried twice. A full disk is no such failure. What can be
//! refused is refused beforehand; what the protocol itself has to write (an epoch, a cut) waits until there is room,
//! and meanwhile this replica is silent, as if its disk had stalled: the others go on without it.

mod damage;
mod handover;
mod reads;
mod room;
mod snapshots;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use paddock_coordination::PartitionId;
use paddock_proto::limits::{KEY_BYTES_MAX, MESSAGE_BYTES_MAX, VALUE_BYTES_MAX};
use paddock_storage::{APPEND_OVERHEAD_BYTES, Need, Reader, ReplicatedStore, Scrubber, Sequence};
use tracing::{error, info, warn};

use crate::admission::{Admission, Overlay, Room, Verdict};
use crate::clock::{Clock, Timestamp};
use crate::configuration::ConfigurationClient;
use crate::facts::Facts;
use crate::inbox::{Delivery, Outlet};
use crate::metrics::ReplicaMetrics;
use crate::operation::{Answer, Basis, Failure, Kind, OVERHEAD_BYTES, Operation, Replies};
use crate::peer::PeerSender;
use crate::replica::config::LOG_READ_BYTES_MAX;
use crate::replica::{Effect, Event, Message, Refusal, Replica, RoleName};
use crate::retries::{self, Retries};
use crate::snapshot::{Courier, Order};
use crate::status::StatusCell;
use crate::transfer::Transfer;
use crate::waiting::{Waiting, WaitingRead};
use crate::watchdog::DiskWatch;

/// The most deliveries of one round.
const ROUND_DELIVERIES_MAX: usize = 1_024;
/// No more operations are taken into a round than fill this many bytes, but for the last message of them.
const ROUND_BYTES_MAX: usize = 4 << 20;
/// Where a batch of the log is cut: with one more write it still fits a message between nodes.
const BATCH_BYTES_MAX: usize = 4 << 20;
const _: () = assert!(2 * (BATCH_BYTES_MAX + VALUE_BYTES_MAX + KEY_BYTES_MAX) <= MESSAGE_BYTES_MAX);
// What an operation weighs beside its key and value is enough for its row, and for the record of its id.
const _: () = assert!(retries::RESULT_BYTES + paddock_storage::ROW_OVERHEAD_BYTES < OVERHEAD_BYTES);
/// The longest wait for a delivery: deadlines of waiting operations are looked at this often.
const WAIT_MAX: Duration = Duration::from_millis(50);
/// How long nothing was appended before the store notes in its log that all of it is durable, in milliseconds.
const MARK_IDLE_AFTER_MS: u64 = 10;
/// How often deadlines of waiting operations are looked at, in milliseconds.
const EXPIRE_INTERVAL_MS: u64 = 10;

/// Everything that an owner loop owns.
pub struct OwnerLoop {
    /// Which partition.
    pub partition: PartitionId,
    /// The pure core.
    pub replica: Replica,
    /// The log and the rows.
    pub store: ReplicatedStore,
    /// A read handle on the store.
    pub reader: Reader,
    /// The same for others, replaced with the store.
    pub shared_reader: Arc<ArcSwap<Reader>>,
    /// What verifies the store in the background, replaced with the store.
    pub shared_scrubber: Arc<ArcSwap<Scrubber>>,
    /// What the store keeps for the core.
    pub facts: Facts,
    /// What arrives.
    pub outlet: Outlet,
    /// Where messages leave.
    pub peers: PeerSender,
    /// Who carries snapshots.
    pub courier: Box<dyn Courier>,
    /// Where writes of the partition's state leave.
    pub configuration: ConfigurationClient,
    /// What became of writes that carried an id.
    pub retries: Retries,
    /// What others may know of this replica.
    pub status: StatusCell,
    /// Counters.
    pub metrics: Arc<ReplicaMetrics>,
    /// What tells it the time.
    pub clock: Clock,
    /// What it is doing at its disk.
    pub watch: Arc<DiskWatch>,
    /// After a write or an fsync that took longer, it hands over.
    pub stalled_after_ms: u64,
    /// The rest.
    pub round: Round,
}

/// What lasts from round to round, and begins empty.
#[derive(Default)]
pub struct Round {
    overlay: Overlay,
    waiting: Waiting,
    arrivals: Vec<Operation>,
    arrivals_bytes: usize,
    /// Writes that are not in the log yet, in the order of their arrival.
    postponed: VecDeque<Operation>,
    /// The last round left writes for the next one.
    more_writes: bool,
    replies: Replies,
    unsynced: bool,
    /// When the log's last entries became durable, until the store has noted that.
    unmarked_since: Option<Timestamp>,
    /// The last round left reads for the next one.
    more_reads: bool,
    /// The disk was full in this round: what is kept for others goes.
    disk_is_full: bool,
    disk_full_noticed: Option<Timestamp>,
    congestion_noticed: Option<Timestamp>,
    transfer: Option<Transfer>,
    expired_at: Timestamp,
    /// The core was told of the store's damage.
    damage_told: bool,
    /// The core has given the store up.
    abandoned: bool,
}

/// How an owner loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to stop.
    Stopped,
    /// Its store is given up: it is to be set aside, and the replica to begin anew with an empty one.
    Abandoned,
}

impl OwnerLoop {
    /// Runs until it is told to stop.
    ///
    /// # Errors
    /// The store's: it can no longer be trusted, and nothing more was acknowledged.
    pub fn run(mut self) -> Result<Ended, paddock_storage::Error> {
        self.publish();
        while self.run_round(self.outlet.receive(self.wait()))? {}
        if self.has_abandoned_its_store() {
            return Ok(Ended::Abandoned);
        }
        self.stop().map(|()| Ended::Stopped)
    }

    /// Whether the store is given up: then nothing more is to be done with this replica.
    #[must_use]
    pub fn has_abandoned_its_store(&self) -> bool {
        self.round.abandoned
    }

    /// Ends in an orderly way, after the last round.
    ///
    /// # Errors
    /// The store's.
    pub fn stop(mut self) -> Result<(), paddock_storage::Error> {
        self.step(Event::Stop)?;
        self.flush();
        self.store.close()
    }

    /// One round, which begins with what has arrived, if anything has; false when it is time to stop. It waits for
    /// nothing. To be called again when something arrives, and after [`OwnerLoop::wait`] at the latest.
    ///
    /// # Errors
    /// The store's: as for [`OwnerLoop::run`].
    pub fn run_round(&mut self, first: Option<Delivery>) -> Result<bool, paddock_storage::Error> {
        self.store.hold_log(self.replica.log_needed());
        let control = self.outlet.take_control();
        for event in control.events {
            self.step(event)?;
        }
        if let Some(request) = control.transfer {
            self.begin_transfer(request)?;
        }
        if std::mem::take(&mut self.round.disk_is_full) {
            self.step(Event::DiskFull)?;
        }
        self.tell_damage()?;
        self.tell_stall()?;
        self.stand();
        self.drain(first)?;
        if self.clock.now() >= self.replica.next_deadline() {
            self.step(Event::Tick)?;
        }
        self.admit()?;
        self.peers.flush();
        if std::mem::take(&mut self.round.unsynced) {
            let Self { watch, clock, store, metrics, .. } = self;
            let through = watch.during(clock, || metrics.time_sync(|| store.sync()))?;
            self.round.unmarked_since = Some(self.clock.now());
            self.step(Event::Durable { through })?;
        }
        self.mark_when_idle()?;
        self.serve_reads();
        self.serve_barriers();
        self.serve_sessions();
        self.expire();
        self.flush();
        Ok(!control.stop && !self.round.abandoned)
    }

    /// Once nobody has written for a while, the store notes that its log is durable: so that later damage to its last
    /// entries cannot pass for an end that a crash tore.
    fn mark_when_idle(&mut self) -> Result<(), paddock_storage::Error> {
        let due = |since: Timestamp| self.clock.now().0 >= since.0 + MARK_IDLE_AFTER_MS;
        if self.round.unmarked_since.is_some_and(due) {
            self.round.unmarked_since = None;
            let Self { watch, clock, store, .. } = self;
            watch.during(clock, || store.mark_durable())?;
        }
        Ok(())
    }

    /// Answers what has waited past its deadline; looked at now and then, since it passes over all.
    fn expire(&mut self) {
        let now = self.clock.now();
        if now.0 >= self.round.expired_at.0 + EXPIRE_INTERVAL_MS {
            self.round.expired_at = now;
            self.round.waiting.expire(now, self.replica.epoch(), &mut self.round.replies);
            if self.round.postponed.iter().any(|write| write.deadline <= now) {
                for write in std::mem::take(&mut self.round.postponed) {
                    if write.deadline <= now {
                        self.answer_late(write);
                    } else {
                        self.round.postponed.push_back(write);
                    }
                }
            }
        }
    }

    /// How long the next round may be waited with, if nothing arrives.
    #[must_use]
    pub fn wait(&self) -> Duration {
        if self.round.more_reads || self.round.more_writes {
            return Duration::ZERO;
        }
        let (now, leads) = (self.clock.now(), self.replica.role() == RoleName::Leader);
        let mark = self.round.unmarked_since.map(|since| since.plus_ms(MARK_IDLE_AFTER_MS));
        let waiting = self.round.waiting.due(now, leads);
        let due = [mark, waiting].into_iter().flatten().fold(self.replica.next_deadline(), Timestamp::min);
        Duration::from_millis(due.since(now)).min(WAIT_MAX)
    }

    fn flush(&mut self) {
        self.peers.flush();
        self.round.replies.flush();
        self.publish();
    }

    fn publish(&mut self) {
        let Self { status, clock, replica, store, retries, courier, .. } = self;
        status.publish(clock.now(), replica, store, retries, &**courier);
    }

    /// Takes what waits in the inbox, up to a round's fill.
    fn drain(&mut self, first: Option<Delivery>) -> Result<(), paddock_storage::Error> {
        let mut next = first;
        for _ in 0..ROUND_DELIVERIES_MAX {
            match next {
                Some(Delivery::Messages { from, messages, permit: _permit }) => {
                    for message in messages {
                        if self.has_room_for(&message)? {
                            self.step(Event::Received { from, message })?;
                        }
                    }
                }
                Some(Delivery::Operations(operations)) => {
                    self.round.arrivals_bytes +=
                        operations.iter().map(|operation| operation.kind.size_bytes()).sum::<usize>();
                    self.round.arrivals.extend(operations);
                }
                Some(Delivery::Wake) => {}
                None => break,
            }
            if self.round.arrivals_bytes >= ROUND_BYTES_MAX {
                break;
            }
            next = self.outlet.try_receive();
        }
        self.round.arrivals_bytes = 0;
        Ok(())
    }

    /// Steps one event through the core and performs its effects, and those of what they lead to.
    fn step(&mut self, event: Event) -> Result<(), paddock_storage::Error> {
        let mut next = Some(event);
        let mut follow_ups = VecDeque::new();
        while let Some(event) = next {
            for effect in self.replica.step(self.clock.now(), event) {
                if let Some(follow_up) = self.perform(effect)? {
                    follow_ups.push_back(follow_up);
                }
            }
            next = follow_ups.pop_front();
        }
        Ok(())
    }

    /// Performs one effect; what it answers is stepped in turn.
    fn perform(&mut self, effect: Effect) -> Result<Option<Event>, paddock_storage::Error> {
        match effect {
            Effect::PersistEpoch(epoch) => {
                self.facts.epoch_seen = epoch;
                let facts = self.facts.encode();
                self.when_there_is_room(|store| store.set_metadata(&facts))?;
            }
            Effect::PersistLineage(lineage) => {
                warn!(partition = %self.partition, lineage, was = self.facts.lineage,
                    "the partition was recovered: it goes on in another lineage");
                self.facts.lineage = lineage;
                let facts = self.facts.encode();
                self.when_there_is_room(|store| store.set_metadata(&facts))?;
            }
            Effect::Truncate { last_kept } => {
                warn!(partition = %self.partition, %last_kept, last = %self.store.last().sequence,
                    "cutting the end of the log, which the leader does not have");
                self.when_there_is_room(|store| store.truncate_after(last_kept))?;
                self.retries.truncated(last_kept);
            }
            Effect::Append { entries, known_commit } => {
                self.metrics.appended(&entries);
                self.when_there_is_room(|store| store.append(&entries, known_commit))?;
                self.retries.appended(&entries);
                self.round.unsynced = true;
            }
            Effect::Send { to, message } => self.peers.send(to, message),
            Effect::SendLog { to, epoch, previous, commit } => {
                let entries = match self.store.read_log(previous.sequence, LOG_READ_BYTES_MAX) {
                    Err(paddock_storage::Error::Reclaimed { .. }) => {
                        return Ok(Some(Event::LogReleased { to }));
                    }
                    // The store has noted it, and the core is told. Nothing can be sent from there on.
                    Err(paddock_storage::Error::Corrupt { .. }) => {
                        return Ok(Some(Event::LogSent { to, through: previous.sequence }));
                    }
                    read => read?,
                };
                let through = entries.last().map_or(previous.sequence, |run| run.last());
                if !entries.is_empty() {
                    self.peers.send(to, Message::Append { epoch, previous, entries, commit });
                }
                return Ok(Some(Event::LogSent { to, through }));
            }
            Effect::Apply { through } => {
                self.store.apply(through)?;
                self.retries.applied(through);
                self.stand();
                let Round { waiting, overlay, replies, .. } = &mut self.round;
                waiting.applied(through, self.replica.epoch(), overlay, replies);
                return Ok(Some(Event::Applied { through }));
            }
            Effect::WriteState { expected, state } => self.configuration.write(expected, state),
            Effect::ReadState => self.configuration.read(),
            Effect::BecameLeader { epoch } => {
                info!(partition = %self.partition, %epoch, "leading");
                self.retries.reign_began(self.clock.now());
                self.metrics.elected();
            }
            Effect::LostLeadership { epoch } => {
                info!(partition = %self.partition, %epoch, "no longer leading");
                self.courier.forget_all();
                self.round.overlay.clear();
                self.round.waiting.leadership_lost(
                    self.replica.epoch(),
                    self.replica.leader(),
                    &mut self.round.replies,
                );
                self.transferred();
            }
            Effect::SendSnapshot { to, attempt } => return self.send_snapshot(to, attempt),
            Effect::DropSnapshot { to } => self.courier.forget(to),
            Effect::FetchSnapshot { from, epoch, attempt, last, fetch } => {
                self.courier.fetch(Order { from, epoch, attempt, last, fetch });
            }
            Effect::InstallSnapshot { last, apply_through } => self.install_snapshot(last, apply_through)?,
            Effect::DiscardSnapshot => self.courier.discard(),
            Effect::TransferFailed { why, nobody_stays } => self.transfer_failed(why, nobody_stays),
            Effect::PersistFault(fault) => self.persist_fault(fault)?,
            Effect::AbandonStore => self.abandon_store(),
            Effect::Quarantined { reason } => {
                error!(partition = %self.partition, %reason, "this replica takes no part any more");
            }
        }
        Ok(None)
    }

    /// Admits what has arrived, and proposes what was admitted as one batch.
    fn admit(&mut self) -> Result<(), paddock_storage::Error> {
        self.round.more_writes = false;
        if self.round.arrivals.is_empty() && self.round.postponed.is_empty() {
            return Ok(());
        }
        let now = self.clock.now();
        let mut barrier_reads = Vec::new();
        for operation in std::mem::take(&mut self.round.arrivals) {
            if operation.deadline <= now {
                self.answer_late(operation);
            } else if matches!(operation.kind, Kind::Read { basis: Basis::Barrier, .. }) {
                barrier_reads.push(operation);
            } else if matches!(operation.kind, Kind::Read { basis: Basis::HeldLease, .. })
                && let Err(refusal) = self.replica.may_read(now)
            {
                self.round.replies.answer(operation, self.replica.epoch(), behind(&refusal));
            } else if matches!(operation.kind, Kind::Write(_)) {
                self.round.postponed.push_back(operation);
            } else if let Kind::ReadAfter { seen, .. } = operation.kind {
                let read = WaitingRead { operation, after: seen.applied, answer: None };
                self.round.waiting.sessions.push_back((now, read));
            } else {
                self.round.waiting.reads.push_back(WaitingRead::fresh(operation));
            }
        }
        self.raise_barrier(barrier_reads)?;
        match self.replica.may_propose() {
            Ok(()) => {
                let writes = self.next_writes(now);
                self.propose_in_batches(writes)
            }
            // It will lead soon, or not: writes wait in their places.
            Err(Refusal::NotReady) => Ok(()),
            Err(refusal) => {
                for write in std::mem::take(&mut self.round.postponed) {
                    self.round.replies.answer(write, self.replica.epoch(), refused(&refusal));
                }
                Ok(())
            }
        }
    }

    /// Takes as many of the writes that wait as fill a round; none while the store's compaction is behind.
    fn next_writes(&mut self, now: Timestamp) -> Vec<Operation> {
        let mut writes = Vec::new();
        if self.round.postponed.is_empty() || self.is_congested() {
            return writes;
        }
        let mut bytes = 0;
        while bytes < ROUND_BYTES_MAX
            && let Some(write) = self.round.postponed.pop_front()
        {
            if write.deadline <= now {
                self.answer_late(write);
            } else {
                bytes += write.kind.size_bytes();
                writes.push(write);
            }
        }
        self.round.more_writes = !self.round.postponed.is_empty();
        writes
    }

    /// Answers what was not begun before its deadline.
    fn answer_late(&mut self, operation: Operation) {
        let answer = Answer::Failed(Failure::DeadlineExceeded { begun: false });
        self.round.replies.answer(operation, self.replica.epoch(), answer);
    }

    /// Proposes writes in batches that fit a message between nodes.
    fn propose_in_batches(&mut self, writes: Vec<Operation>) -> Result<(), paddock_storage::Error> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        for write in writes {
            bytes += write.kind.size_bytes();
            batch.push(write);
            if bytes >= BATCH_BYTES_MAX {
                self.propose(std::mem::take(&mut batch))?;
                bytes = 0;
            }
        }
        if batch.is_empty() { Ok(()) } else { self.propose(batch) }
    }

    /// Makes room on the disk for a batch of writes: whether there is room for all of them, and whether there is for
    /// those that delete.
    fn make_room(&mut self, writes: &[Operation]) -> Result<(bool, bool), paddock_storage::Error> {
        let (mut deletes_bytes, mut puts_bytes, mut are_named) = (0, 0, false);
        for operation in writes {
            let Kind::Write(write) = &operation.kind else { continue };
            // More than the row takes, by enough for the record of a request id.
            let bytes = operation.kind.size_bytes() as u64;
            *(if write.value.is_none() { &mut deletes_bytes } else { &mut puts_bytes }) += bytes;
            are_named |= write.request.is_some();
        }
        let overhead = APPEND_OVERHEAD_BYTES + if are_named { retries::BATCH_BYTES as u64 } else { 0 };
        let grows = puts_bytes > 0 || are_named;
        let for_all = !grows || self.reserve(puts_bytes + deletes_bytes + overhead, Need::Growth)?;
        let for_deletes = (grows && for_all) || self.reserve(deletes_bytes + overhead, Need::Control)?;
        Ok((for_all, for_deletes))
    }

    fn propose(&mut self, writes: Vec<Operation>) -> Result<(), paddock_storage::Error> {
        let (room_for_all, room_for_deletes) = self.make_room(&writes)?;
        let room = Room { for_all: room_for_all, for_deletes: room_for_deletes, path: self.store.path() };
        let epoch = self.replica.epoch();
        let Round { overlay, waiting, replies, .. } = &mut self.round;
        let last = self.store.last().sequence;
        let named = self.retries.batch(Sequence(last.0 + 1), self.clock.wall_clock_ms(), self.clock.now());
        let mut admission = Admission::new(&self.reader, overlay, named, room, last);
        for mut operation in writes {
            let Kind::Write(write) = &operation.kind else { continue };
            if write.request.is_some()
                && let Some(what) = self.retries.unreadable()
            {
                let failure = Failure::Unavailable(format!("request ids cannot be told apart: {what}"));
                replies.answer(operation, epoch, Answer::Failed(failure));
                continue;
            }
            match admission.admit(write) {
                Verdict::Admitted { sequence, answer } => {
                    operation.begun = true;
                    waiting.admitted(sequence, operation, answer);
                }
                Verdict::Settled { after, answer } => {
                    if write.request.is_some() {
                        self.metrics.replayed();
                        // By its first sending: however this one ends, the write may have happened.
                        operation.begun = true;
                    }
                    waiting.reads.push_back(WaitingRead::settled(operation, after, answer));
                }
                Verdict::Failed(failure) => {
                    if matches!(failure, Failure::RequestExpired { .. } | Failure::RequestAhead { .. }) {
                        self.metrics.refused_id();
                    }
                    replies.answer(operation, epoch, Answer::Failed(failure));
                }
            }
        }
        let rows = admission.finish()?;
        if rows.count() == 0 {
            return Ok(());
        }
        let end = self.store.last().sequence.0 + u64::from(rows.count());
        self.step(Event::Propose { rows: rows.finish(), log_time_ms: self.clock.wall_clock_ms() })?;
        // Writes would wait for entries that are not theirs. What ends a reign on the way has answered them.
        assert!(
            self.replica.role() != RoleName::Leader || self.store.last().sequence.0 == end,
            "what a leader admits, it appends"
        );
        Ok(())
    }
}

/// A leader that does not hold the lease does not know how fresh it is.
fn behind(refusal: &Refusal) -> Answer {
    match refusal {
        Refusal::NotLeader { .. } => refused(refusal),
        Refusal::NotReady => Answer::Failed(Failure::Behind("the leader is not ready yet".into())),
        Refusal::Unavailable { why } => {
            Answer::Failed(Failure::Behind(format!("the leader has no lease: {why}")))
        }
    }
}

/// Why the core does not let the operation through.
fn refused(refusal: &Refusal) -> Answer {
    Answer::Failed(match refusal {
        Refusal::NotLeader { leader, .. } => Failure::NotLeader { leader: *leader },
        Refusal::NotReady => Failure::Unavailable("the leader is not ready yet".into()),
        Refusal::Unavailable { why } => Failure::Unavailable(why.clone()),
    })
}
