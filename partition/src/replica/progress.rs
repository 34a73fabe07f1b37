//! [`Progress`]: what a leader knows about one follower, and how far it has sent it the log.

use std::collections::VecDeque;

use paddock_coordination::Member;
use paddock_storage::Sequence;

use super::config::{LOG_READ_BYTES_MAX, ReplicaConfig, WINDOW_BYTES_MAX, WINDOW_MESSAGES_MAX};
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
    /// When the last grant came.
    heard_at: Timestamp,
    /// Since when there are entries that the member has not acknowledged, without any progress.
    stalled_since: Option<Timestamp>,
    /// The next entry to send.
    next: Sequence,
    flow: Flow,
    /// A read of the log for this follower has not been answered yet.
    log_read_open: bool,
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
            heard_at: now,
            stalled_since: None,
            next,
            flow: Flow::Replicate(Window::new(now)),
            log_read_open: false,
        }
    }

    /// A message came from this member: another generation than before begins from nothing, and is never taken
    /// for its former self.
    pub(super) fn identify(&mut self, now: Timestamp, from: Member, leader_last: Sequence) {
        match self.member {
            None => self.member = Some(from),
            Some(member) if member == from => {}
            Some(_) => {
                let log_read_open = self.log_read_open;
                *self = Progress::new(now, Sequence(leader_last.0 + 1));
                self.member = Some(from);
                self.flow = Flow::Probe { sent_at: None };
                self.log_read_open = log_read_open;
            }
        }
    }

    /// Who answers at that node.
    pub(super) fn member(&self) -> Option<Member> {
        self.member
    }

    /// What a member acknowledged as durable in this epoch; nothing, unless it is this very generation.
    pub(super) fn acknowledged_by(&self, member: Member) -> Sequence {
        if self.member == Some(member) { self.acknowledged } else { Sequence(0) }
    }

    /// Whether a grant of this very member still counts.
    pub(super) fn is_granted_by(&self, member: Member, now: Timestamp, config: &ReplicaConfig) -> bool {
        self.member == Some(member)
            && self.granted.is_some_and(|sent_at| now.since(sent_at) < config.grant_ms())
    }

    /// Whether a member was silent for a lease: no grant, or entries to acknowledge and no progress with them.
    pub(super) fn is_silent(&self, member: Member, now: Timestamp, config: &ReplicaConfig) -> bool {
        let silent_since = match self.member {
            Some(current) if current != member => self.member_since,
            _ => self.heard_at.min(self.stalled_since.unwrap_or(now)),
        };
        now.since(silent_since) >= config.lease_ms()
    }

    /// The member granted a heartbeat.
    pub(super) fn grant(&mut self, now: Timestamp, sent_at: Timestamp) {
        self.granted = self.granted.max(Some(sent_at));
        self.heard_at = now;
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
            Flow::Replicate(_) | Flow::LogRead(_) => {}
        }
    }

    /// The member does not hold the entry before an append's first; `agrees` is the last one that it may hold.
    /// Never goes below what it acknowledged, nor forward.
    pub(super) fn mismatch(&mut self, agrees: Sequence) {
        let next = Sequence(agrees.max(self.acknowledged).0 + 1);
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

    /// The flow's name, for people.
    pub(super) fn flow_name(&self) -> &'static str {
        match self.flow {
            Flow::Probe { .. } => "probing",
            Flow::Replicate(_) => "replicating",
            Flow::LogRead(_) => "reading the log",
        }
    }

    /// What was acknowledged in this epoch by whoever answers at that node.
    pub(super) fn acknowledged(&self) -> Sequence {
        self.acknowledged
    }
}
