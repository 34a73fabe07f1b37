//! [`Progress`]: what a leader knows about one follower, and how far it has sent it the log.

use std::collections::VecDeque;

use paddock_coordination::Member;
use paddock_storage::{Position, Sequence};

use super::config::{
    LOG_READ_BYTES_MAX, ReplicaConfig, SNAPSHOT_FAILURES_MAX, WINDOW_BYTES_MAX, WINDOW_MESSAGES_MAX,
};
use super::message::Readiness;
use super::mutation::broken;
use super::timestamp::Timestamp;

/// One follower in one reign.
#[derive(Debug)]
pub(super) struct Progress {
    /// Who answers at that node: another generation begins from nothing.
    member: Option<Member>,
    member_since: Timestamp,
    /// What the member acknowledged as durable in this epoch.
    acknowledged: Sequence,
    /// When the heartbeat was sent that the member's last grant answers, on the leader's own clock.
    granted: Option<Timestamp>,
    /// What the member said of itself with its last grant.
    readiness: Readiness,
    /// What the member's last grant asked; 0: it never did.
    asked: u64,
    /// When the last grant came.
    heard_at: Timestamp,
    /// Since when there are entries that the member has not acknowledged, without any progress.
    stalled_since: Option<Timestamp>,
    /// The next entry to send.
    next: Sequence,
    flow: Flow,
    /// A read of the log for this follower has not been answered yet.
    log_read_open: bool,
    /// The runtime keeps a copy of the store for this follower.
    snapshot_open: bool,
    /// The last entry of the copy that the follower is rebuilt from, until it is in sync: the log after it is kept.
    rebuilt_from: Option<Sequence>,
}

/// How entries reach the follower.
#[derive(Debug)]
enum Flow {
    /// One empty append at a time, to learn whether the follower holds the entry before the next.
    Probe {
        /// When the last one was sent, if one was.
        sent_at: Option<Timestamp>,
    },
    /// New entries are sent as they are proposed, as far as the window allows.
    Replicate(Window),
    /// The follower is behind: the runtime reads the log for it.
    LogRead(Window),
    /// The log no longer has what the follower lacks: it fetches a copy of the store.
    Snapshot(Announcement),
    /// It could not have a copy: nothing is kept for it, and nothing sent to it, until then.
    Paused {
        /// When it is probed again.
        until: Timestamp,
    },
}

/// What a follower is told of the copy that is made for it.
#[derive(Debug)]
struct Announcement {
    /// Which copy it is in this reign.
    attempt: u64,
    /// The last entry of its log; `None` while it is being made.
    last: Option<Position>,
    /// When it was said last.
    sent_at: Option<Timestamp>,
}

/// What is on its way.
#[derive(Debug)]
struct Window {
    messages: VecDeque<InFlight>,
    bytes: usize,
    /// The last time that the follower got further, or that an empty window was filled.
    since: Timestamp,
}

#[derive(Debug)]
struct InFlight {
    last: Sequence,
    bytes: usize,
}

impl Window {
    fn new(now: Timestamp) -> Self {
        Window { messages: VecDeque::new(), bytes: 0, since: now }
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.messages.is_empty()
            || (self.messages.len() < WINDOW_MESSAGES_MAX
                && self.bytes.saturating_add(bytes) <= WINDOW_BYTES_MAX)
    }

    fn push(&mut self, now: Timestamp, last: Sequence, bytes: usize) {
        if self.messages.is_empty() {
            self.since = now;
        }
        self.messages.push_back(InFlight { last, bytes });
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn acknowledge(&mut self, now: Timestamp, through: Sequence) {
        while let Some(message) = self.messages.pop_front_if(|message| message.last <= through) {
            self.bytes -= message.bytes;
        }
        self.since = now;
    }

    fn is_overdue(&self, now: Timestamp, config: &ReplicaConfig) -> bool {
        !self.messages.is_empty() && now.since(self.since) >= config.resend_ms()
    }
}

impl Progress {
    /// A follower at the start of a reign: taken to hold all that the leader does, until it says otherwise.
    pub(super) fn new(now: Timestamp, next: Sequence) -> Self {
        Progress {
            member: None,
            member_since: now,
            acknowledged: Sequence(0),
            granted: None,
            readiness: Readiness::NotNow,
            asked: 0,
            heard_at: now,
            stalled_since: None,
            next,
            flow: Flow::Replicate(Window::new(now)),
            log_read_open: false,
            snapshot_open: false,
            rebuilt_from: None,
        }
    }

    /// A message came from this member: another generation than before begins from nothing, and is never taken
    /// for its former self.
    pub(super) fn identify(&mut self, now: Timestamp, from: Member, leader_last: Sequence) {
        match self.member {
            None => self.member = Some(from),
            Some(member) if member == from => {}
            Some(_) if broken!(AcknowledgementsOfAnyGeneration) => self.member = Some(from),
            Some(_) => {
                let (log_read_open, snapshot_open) = (self.log_read_open, self.snapshot_open);
                *self = Progress::new(now, Sequence(leader_last.0 + 1));
                self.member = Some(from);
                self.flow = Flow::Probe { sent_at: None };
                self.log_read_open = log_read_open;
                self.snapshot_open = snapshot_open;
            }
        }
    }

    /// Who answers at that node.
    pub(super) fn member(&self) -> Option<Member> {
        self.member
    }

    /// What a member acknowledged as durable in this epoch; nothing, unless it is this very generation.
    pub(super) fn acknowledged_by(&self, member: Member) -> Sequence {
        let is_same = self.member == Some(member) || broken!(AcknowledgementsOfAnyGeneration);
        if is_same { self.acknowledged } else { Sequence(0) }
    }

    /// Whether a grant of this very member still counts. One for a heartbeat that was sent before the leader last
    /// released somebody, or at that moment, does not.
    pub(super) fn is_granted_by(
        &self,
        member: Member,
        now: Timestamp,
        released_at: Option<Timestamp>,
        config: &ReplicaConfig,
    ) -> bool {
        self.member == Some(member)
            && self.granted > released_at
            && self.granted.is_some_and(|sent_at| now.since(sent_at) < config.grant_ms())
    }

    /// Whether this very member has granted a heartbeat that was sent later than that.
    pub(super) fn has_granted_behind(&self, member: Member, behind: Option<Timestamp>) -> bool {
        let is_later = self.granted > behind || (broken!(OlderGrantsPassABarrier) && self.granted.is_some());
        self.member == Some(member) && is_later
    }

    /// Whether a member was silent for a lease: no grant, or entries to acknowledge and no progress with them.
    pub(super) fn is_silent(&self, member: Member, now: Timestamp, config: &ReplicaConfig) -> bool {
        let silent_since = match self.member {
            Some(current) if current != member => self.member_since,
            _ if broken!(StalledFollowersStay) => self.heard_at,
            _ => self.heard_at.min(self.stalled_since.unwrap_or(now)),
        };
        now.since(silent_since) >= config.lease_ms()
    }

    /// What a member said of itself with its last grant.
    pub(super) fn readiness(&self, member: Member) -> Readiness {
        if self.member == Some(member) { self.readiness } else { Readiness::NotNow }
    }

    /// The member granted a heartbeat.
    pub(super) fn grant(&mut self, now: Timestamp, sent_at: Timestamp, readiness: Readiness, asked: u64) {
        self.asked = asked;
        if self.granted <= Some(sent_at) {
            self.readiness = readiness;
        }
        let since = if broken!(GrantsCountFromTheirArrival) { now } else { sent_at };
        self.granted = self.granted.max(Some(since));
        self.heard_at = now;
    }

    /// What the member's last grant asked.
    pub(super) fn asked(&self) -> u64 {
        self.asked
    }

    /// The member acknowledged entries, which also answers a probe.
    pub(super) fn acknowledge(&mut self, now: Timestamp, through: Sequence, leader_last: Sequence) {
        let advanced = through > self.acknowledged;
        self.acknowledged = self.acknowledged.max(through);
        self.next = self.next.max(Sequence(self.acknowledged.0 + 1));
        if self.acknowledged == leader_last {
            self.stalled_since = None;
        } else if advanced {
            self.stalled_since = Some(now);
        }
        match &mut self.flow {
            Flow::Probe { .. } => {
                let mut window = Window::new(now);
                // It holds what comes before `next`, and may still be making some of it durable.
                if Sequence(self.acknowledged.0 + 1) < self.next {
                    window.push(now, Sequence(self.next.0 - 1), 0);
                }
                self.flow = Flow::Replicate(window);
            }
            Flow::Replicate(window) | Flow::LogRead(window) if advanced => window.acknowledge(now, through),
            Flow::Snapshot(Announcement { last: Some(last), .. }) if through >= last.sequence => {
                self.flow = Flow::Replicate(Window::new(now));
            }
            Flow::Replicate(_) | Flow::LogRead(_) | Flow::Snapshot(_) | Flow::Paused { .. } => {}
        }
    }

    /// The member does not hold the entry before an append's first; `agrees` is the last one that it may hold.
    /// Never goes below what it acknowledged, nor forward.
    pub(super) fn mismatch(&mut self, agrees: Sequence) {
        let next = Sequence(agrees.max(self.acknowledged).0 + 1);
        if let Flow::Snapshot(announcement) = &self.flow {
            // It lacks what the log has no more: nothing new. Or it is that far already, by whatever way.
            if announcement.last.is_some_and(|last| agrees >= last.sequence) {
                self.next = next;
                self.flow = Flow::Probe { sent_at: None };
            }
            return;
        }
        if matches!(self.flow, Flow::Paused { .. }) {
            return;
        }
        let is_idle = matches!(&self.flow, Flow::Replicate(window) if window.messages.is_empty());
        // At the same place, with nothing under way, the follower wants to be asked.
        if next < self.next || (is_idle && next == self.next) {
            self.next = next;
            self.flow = Flow::Probe { sent_at: None };
        }
    }

    /// Time has passed: what was overdue is probed for. Returns the entry whose holding is to be asked for now.
    pub(super) fn probe_due(&mut self, now: Timestamp, config: &ReplicaConfig) -> Option<Sequence> {
        if let Flow::Replicate(window) | Flow::LogRead(window) = &self.flow
            && window.is_overdue(now, config)
        {
            self.flow = Flow::Probe { sent_at: None };
        }
        if let Flow::Paused { until } = self.flow
            && now >= until
        {
            self.flow = Flow::Probe { sent_at: None };
        }
        let Flow::Probe { sent_at } = &mut self.flow else { return None };
        if sent_at.is_some_and(|sent_at| now.since(sent_at) < config.resend_ms()) {
            return None;
        }
        *sent_at = Some(now);
        Some(Sequence(self.next.0 - 1))
    }

    /// Notes since when there are entries to acknowledge.
    pub(super) fn note_outstanding(&mut self, now: Timestamp, leader_last: Sequence) {
        if self.acknowledged < leader_last && self.stalled_since.is_none() {
            self.stalled_since = Some(now);
        }
    }

    /// Whether new entries may be sent to the follower as they are; if so, they count as sent.
    pub(super) fn send_new(&mut self, now: Timestamp, first: Sequence, last: Sequence, bytes: usize) -> bool {
        let Flow::Replicate(window) = &mut self.flow else { return false };
        if self.next != first || !window.has_room(bytes) {
            return false;
        }
        window.push(now, last, bytes);
        self.next = Sequence(last.0 + 1);
        true
    }

    /// Whether the log is to be read for the follower now; if so, after which entry.
    pub(super) fn begin_log_read(&mut self, now: Timestamp, leader_last: Sequence) -> Option<Sequence> {
        let Flow::Replicate(window) = &mut self.flow else { return None };
        if self.log_read_open || self.next > leader_last || !window.has_room(LOG_READ_BYTES_MAX) {
            return None;
        }
        let window = std::mem::replace(window, Window::new(now));
        self.flow = Flow::LogRead(window);
        self.log_read_open = true;
        Some(Sequence(self.next.0 - 1))
    }

    /// The log was read and sent through an entry.
    pub(super) fn log_sent(&mut self, now: Timestamp, through: Sequence) {
        self.log_read_open = false;
        let Flow::LogRead(window) = &mut self.flow else { return };
        if through < self.next {
            // Nothing was there to send: find out where the follower is, after a pause.
            self.flow = Flow::Probe { sent_at: Some(now) };
            return;
        }
        let mut window = std::mem::replace(window, Window::new(now));
        window.push(now, through, LOG_READ_BYTES_MAX);
        self.next = Sequence(through.0 + 1);
        self.flow = Flow::Replicate(window);
    }

    /// The log has no longer what was to be read for the follower. True if a copy of the store is to be made for it:
    /// not for a member that counts, which holds all that can have been released. It is the copy of that number.
    pub(super) fn log_released(
        &mut self,
        now: Timestamp,
        leader_last: Sequence,
        counts: bool,
        attempt: u64,
    ) -> bool {
        self.log_read_open = false;
        if !matches!(self.flow, Flow::LogRead(_)) {
            return false;
        }
        if counts {
            self.flow = Flow::Probe { sent_at: Some(now) };
        }
        self.needs_copy(leader_last, counts, attempt)
    }

    /// The log cannot bring the follower on. True if a copy of the store is to be made for it.
    pub(super) fn needs_copy(&mut self, leader_last: Sequence, counts: bool, attempt: u64) -> bool {
        if counts || matches!(self.flow, Flow::Snapshot(_) | Flow::Paused { .. }) {
            return false;
        }
        self.flow = Flow::Snapshot(Announcement { attempt, last: None, sent_at: None });
        self.snapshot_open = true;
        self.rebuilt_from = Some(leader_last);
        true
    }

    /// A copy was made, or could not be. One that was asked for before the last one counts for nothing.
    pub(super) fn snapshot_ready(
        &mut self,
        now: Timestamp,
        attempt: u64,
        last: Option<Position>,
        config: &ReplicaConfig,
    ) {
        if let Flow::Snapshot(announcement) = &mut self.flow
            && (announcement.attempt == attempt || broken!(SnapshotOfAnyAttempt))
            && announcement.last.is_none()
        {
            announcement.last = last;
            if last.is_none() {
                self.give_rebuild_up(now.plus_ms(config.rebuild_patience_ms()));
            }
        }
    }

    /// The follower could not fetch a copy, and pauses. After too many failures nothing is kept for it meanwhile.
    pub(super) fn snapshot_failed(
        &mut self,
        now: Timestamp,
        attempt: u64,
        failures: u32,
        pause_ms: u64,
        config: &ReplicaConfig,
    ) {
        if let Flow::Snapshot(announcement) = &self.flow
            && announcement.attempt == attempt
            && failures >= SNAPSHOT_FAILURES_MAX
            && !broken!(FailuresHoldTheLog)
        {
            self.give_rebuild_up(now.plus_ms(pause_ms.min(config.fetch_pause_ms_max())));
        }
    }

    /// Keeps nothing for the follower that is being rebuilt. One that fetches a copy goes without one until then.
    pub(super) fn give_rebuild_up(&mut self, until: Timestamp) {
        self.rebuilt_from = None;
        if matches!(self.flow, Flow::Snapshot(_)) {
            self.flow = Flow::Paused { until };
        }
    }

    /// Which copy the follower is to be told of now; it is said again until the follower has it.
    pub(super) fn announcement_due(
        &mut self,
        now: Timestamp,
        config: &ReplicaConfig,
    ) -> Option<(u64, Position)> {
        let Flow::Snapshot(announcement) = &mut self.flow else { return None };
        let last = announcement.last?;
        if announcement.sent_at.is_some_and(|sent_at| now.since(sent_at) < config.resend_ms()) {
            return None;
        }
        announcement.sent_at = Some(now);
        Some((announcement.attempt, last))
    }

    /// Whether the copy that was made for the follower is needed no more; says so once.
    pub(super) fn snapshot_is_over(&mut self) -> bool {
        let is_over = self.snapshot_open && !matches!(self.flow, Flow::Snapshot(_));
        self.snapshot_open &= !is_over;
        is_over
    }

    /// Whether the runtime keeps a copy for it.
    pub(super) fn has_snapshot(&self) -> bool {
        self.snapshot_open
    }

    /// Time has passed for a follower that is being rebuilt: one that is in sync is done, and one that says nothing, or gets
    /// no further with the log, is given up, so that nothing is kept for it for ever.
    pub(super) fn review_rebuild(&mut self, now: Timestamp, config: &ReplicaConfig, is_in_sync: bool) {
        let is_fetching = matches!(self.flow, Flow::Snapshot(_));
        let stalled_since = self.stalled_since.filter(|_| !is_fetching).unwrap_or(now);
        let is_lost = now.since(self.heard_at.min(stalled_since)) >= config.rebuild_patience_ms();
        if is_in_sync || is_lost {
            self.rebuilt_from = None;
            if is_fetching {
                self.flow = Flow::Probe { sent_at: Some(now) };
            }
        }
    }

    /// The first entry of the log that the follower, which is being rebuilt, still needs.
    pub(super) fn log_needed(&self) -> Option<Sequence> {
        self.rebuilt_from.map(|last| Sequence(last.max(self.acknowledged).0 + 1))
    }

    /// The flow's name, for people.
    pub(super) fn flow_name(&self) -> &'static str {
        match self.flow {
            Flow::Probe { .. } => "probing",
            Flow::Replicate(_) => "replicating",
            Flow::LogRead(_) => "reading the log",
            Flow::Snapshot(_) => "installing a snapshot",
            Flow::Paused { .. } => "waiting to install a snapshot",
        }
    }

    /// What was acknowledged in this epoch by whoever answers at that node.
    pub(super) fn acknowledged(&self) -> Sequence {
        self.acknowledged
    }
}
