//! Clients at work: what they ask, and what comes of it.

use paddock_coordination::SlotTable;
use paddock_coordination::slots::Slot;
use paddock_partition::inbox::Delivery;
use paddock_partition::operation::{Answer, Arrival, Basis, Kind, Operation};
use paddock_proto::request_id::RequestId;
use paddock_storage::Sequence;

use crate::client::{Meaning, Ongoing, Wish, key_name};
use crate::history::Seen;
use crate::invariants::Violation;
use crate::queue::{MS, Time};
use crate::simulation::{Happening, Phase, Simulation, index_of};

/// An operation is tried for so many leases.
const TRIES_LEASES: u64 = 6;
/// An attempt waits for so many leases for its answer.
const ATTEMPT_LEASES: u64 = 2;
/// Of so many reads one waits behind a barrier.
const BARRIER_EVERY: u64 = 16;
/// What clients' clocks showed in the beginning, in milliseconds: about what those of machines did.
const CLOCK_MS: u64 = 50_000;

impl Simulation {
    /// A client goes on: with the operation that it has, or with a new one.
    pub(crate) fn act(&mut self, client: usize) {
        let is_busy = self.clients.get(client).is_some_and(|client| client.ongoing.is_some());
        if !is_busy && !self.begin(client) {
            return;
        }
        self.attempt(client);
    }

    /// Wants something new. False: nothing more.
    fn begin(&mut self, client: usize) -> bool {
        let (key, wish) = match self.phase {
            Phase::Settling | Phase::Over => return false,
            Phase::Closing => {
                if client != 0 {
                    return false;
                }
                match self.closing.pop() {
                    Some(next) => next,
                    None => {
                        self.phase = Phase::Settling;
                        return false;
                    }
                }
            }
            Phase::Safety | Phase::Liveness => {
                self.values += 1;
                let key = self.random.below(self.plan.keys);
                let Some(who) = self.clients.get(client) else { return false };
                (key, who.wish(&mut self.random, key, self.plan.reads_per_mille, self.values))
            }
        };
        let slot = Slot::of(&key_name(key));
        let table = SlotTable::even(self.plan.partitions).ok();
        let partition = table.and_then(|table| table.lookup(slot)).map_or(0, index_of);
        let called = self.history.moment();
        let until = self.now + TRIES_LEASES * self.plan.lease_ms * MS;
        let is_named = wish != Wish::Get && self.random.per_mille(self.plan.named_per_mille);
        let random = self.random.any_wide();
        let request = is_named.then(|| RequestId::from_parts(CLOCK_MS + self.now / MS, random));
        if let Some(who) = self.clients.get_mut(client) {
            who.ongoing =
                Some(Ongoing { key, partition, wish, called, until, attempt: 0, request, is_sent: false });
        }
        true
    }

    /// Sends the operation to whoever leads, by hearsay, or to anybody.
    fn attempt(&mut self, client: usize) {
        let Some(who) = self.clients.get_mut(client) else { return };
        let Some(ongoing) = &mut who.ongoing else { return };
        if ongoing.is_sent {
            return;
        }
        self.attempts += 1;
        (ongoing.attempt, ongoing.is_sent) = (self.attempts, true);
        let (attempt, partition) = (ongoing.attempt, ongoing.partition);
        let basis = if ongoing.called.is_multiple_of(BARRIER_EVERY) { Basis::Barrier } else { Basis::Lease };
        let kind = ongoing.wish.kind(ongoing.key, ongoing.request, basis);
        let leader = who.leaders.get(&partition).copied();
        let replicas = self.assignments.get(partition).map_or(&[][..], |assignment| &assignment.replicas[..]);
        let target = leader.or_else(|| self.random.one_of(replicas));
        let timeout_ms = ATTEMPT_LEASES * self.plan.lease_ms;
        let at = self.now + self.weather.delay(&mut self.random);
        if let Some(node) = target.and_then(|target| self.place(target))
            && !self.random.per_mille(self.weather.lost_per_mille)
        {
            self.trace.note(self.now, "asks: client, attempt, node", &[client as u64, attempt, node as u64]);
            self.queue.at(at, Happening::Arrive { client, attempt, node, partition, kind, timeout_ms });
        }
        let patience = (timeout_ms + 20) * MS + 2 * self.weather.delay_max;
        self.queue.at(self.now + patience, Happening::GiveUp { client, attempt });
    }

    /// An operation arrives at a node, as at its host.
    pub(crate) fn arrive(
        &mut self,
        client: usize,
        attempt: u64,
        node: usize,
        partition: usize,
        kind: Kind,
        timeout_ms: u64,
    ) {
        let now = self.now;
        let Some(machine) = self.nodes.get(node) else { return };
        let deadline = machine.clock(now).plus_ms(timeout_ms);
        let (Some(process), Some(hosted)) = (&machine.process, machine.hosted(partition)) else { return };
        let operation_id = attempt * 64 + client as u64;
        let Ok(permit) = hosted.budget.acquire(kind.size_bytes()) else { return };
        let arrival = Arrival { operation_id, deadline, kind };
        let operation = Operation::new(arrival, process.sender.clone(), permit);
        // What a stopped replica does not take is dropped, and so answers for itself.
        drop(hosted.inbox.deliver(Delivery::Operations(vec![operation])));
        self.wake(node, partition, now);
    }

    /// An answer arrives.
    pub(crate) fn reply(&mut self, client: usize, attempt: u64, answer: &Answer) -> Result<(), Violation> {
        let Some(who) = self.clients.get_mut(client) else { return Ok(()) };
        let Some(ongoing) = &mut who.ongoing else { return Ok(()) };
        if ongoing.attempt != attempt || !ongoing.is_sent {
            return Ok(()); // Too late.
        }
        let (partition, until) = (ongoing.partition, ongoing.until);
        match ongoing.wish.meaning(answer, ongoing.request.is_some()) {
            None => {
                return Err(Violation(format!("{:?} was answered by {answer:?}", ongoing.wish)));
            }
            Some(Meaning::Over(seen, version)) => {
                self.trace.say(self.now, || format!("client {client} was told {seen:?} {version:?}"));
                self.over(client, seen, version)?;
            }
            Some(Meaning::Again(hint)) => {
                ongoing.is_sent = false;
                match hint {
                    Some(leader) => who.leaders.insert(partition, leader),
                    None => who.leaders.remove(&partition),
                };
                if self.now >= until {
                    return self.too_late(client);
                }
                let at = self.now + self.random.between(MS / 2, 20 * MS);
                self.queue.at(at, Happening::Act { client });
            }
        }
        Ok(())
    }

    /// An operation is over.
    fn over(&mut self, client: usize, seen: Seen, version: Option<Sequence>) -> Result<(), Violation> {
        let Some(who) = self.clients.get_mut(client) else { return Ok(()) };
        let Some(ongoing) = who.ongoing.take() else { return Ok(()) };
        let Ongoing { key, partition, called, .. } = ongoing;
        self.history.over(key, called, seen);
        let moments = (called, self.history.moment());
        match (seen, version) {
            (Seen::Written { value, .. }, Some(version)) => {
                self.certificate.written(partition, key, value, version, moments);
            }
            (Seen::Read(found), version) => {
                self.certificate.read(partition, key, found.zip(version), moments);
            }
            _ => {}
        }
        who.remember(key, seen, version);
        self.trace.note(self.now, "over: client, key", &[client as u64, key]);
        let at = self.now + self.random.below(self.plan.think_max);
        self.queue.at(at, Happening::Act { client });
        if seen.may_be_missing() { self.missed(called) } else { Ok(()) }
    }

    /// A client has waited long enough for an answer.
    pub(crate) fn give_up(&mut self, client: usize, attempt: u64) -> Result<(), Violation> {
        let Some(who) = self.clients.get_mut(client) else { return Ok(()) };
        let Some(ongoing) = &mut who.ongoing else { return Ok(()) };
        if ongoing.attempt != attempt || !ongoing.is_sent {
            return Ok(());
        }
        ongoing.is_sent = false;
        who.leaders.remove(&ongoing.partition);
        let may_be_sent_again = ongoing.wish == Wish::Get || ongoing.request.is_some();
        if !may_be_sent_again || self.now >= ongoing.until {
            return self.too_late(client);
        }
        let called = ongoing.called;
        self.queue.at(self.now, Happening::Act { client });
        self.missed(called)
    }

    /// A client gives an operation up: what was sent may have happened.
    fn too_late(&mut self, client: usize) -> Result<(), Violation> {
        let Some(who) = self.clients.get_mut(client) else { return Ok(()) };
        let Some(ongoing) = &who.ongoing else { return Ok(()) };
        let called = ongoing.called;
        match ongoing.wish.unanswered() {
            Some(seen) => self.over(client, seen, None),
            None => {
                who.ongoing = None;
                self.queue.at(self.now, Happening::Act { client });
                self.missed(called)
            }
        }
    }

    /// An operation came to nothing, which must not be if it was asked when the cluster had mended.
    fn missed(&self, called: u64) -> Result<(), Violation> {
        if self.closing_from.is_some_and(|from| called > from) {
            return Err(Violation(
                "invariant 17: an operation failed although nothing is wrong any more".into(),
            ));
        }
        Ok(())
    }

    /// What the closing phase asks of every key: what is there, a write, and what is there then.
    pub(crate) fn close(&mut self) {
        self.phase = Phase::Closing;
        self.closing_from = Some(self.history.moment());
        for key in 0..self.plan.keys {
            self.values += 1;
            let condition = crate::history::Condition::None;
            let write = Wish::Write { condition, version: None, value: Some(self.values) };
            self.closing.extend([(key, Wish::Get), (key, write), (key, Wish::Get)]);
        }
        let at: Time = self.now;
        self.queue.at(at, Happening::Act { client: 0 });
    }
}
