//! The coordination service's side: requests, answers that get lost, writes that come late, watches that lag.

use paddock_coordination::{PartitionState, Version};
use paddock_partition::replica::{Event, WriteOutcome};

use crate::invariants::Violation;
use crate::queue::{MS, Time};
use crate::simulation::{Asked, Happening, Phase, Simulation};

/// How long a read that failed waits, as the real client's does.
const READ_RETRY: Time = 200 * MS;
/// A write whose answer was lost may be done so much later.
const STRAY_MAX: Time = 1_500 * MS;

impl Simulation {
    fn is_served(&self, node: usize) -> bool {
        let lost_until = self.nodes.get(node).map_or(0, |node| node.coordination_lost_until);
        self.now >= lost_until.max(self.coordination_down_until)
    }

    /// A request arrives.
    pub(crate) fn serve(
        &mut self,
        node: usize,
        boot: u64,
        partition: usize,
        request: Asked,
    ) -> Result<(), Violation> {
        let is_alive = self.nodes.get(node).is_some_and(|node| node.boots == boot && node.process.is_some());
        let is_served = self.is_served(node);
        let answer = |event, was_read| Happening::Served { node, boot, partition, event, was_read };
        let delay = self.weather.delay(&mut self.random).min(200 * MS);
        match request {
            Asked::Read if !is_alive => {}
            Asked::Read if !is_served => {
                self.queue.at(self.now + READ_RETRY, Happening::Serve { node, boot, partition, request });
            }
            Asked::Read => {
                let lag = if self.random.per_mille(100) { self.random.index(3) } else { 0 };
                if let Some(record) = self.records.get_mut(partition) {
                    let state = record.read(node, lag);
                    self.queue.at(self.now + delay, answer(Event::StateObserved { state }, true));
                }
            }
            Asked::Write { expected, state } => {
                let is_lost = !is_alive || self.random.per_mille(self.plan.answers_lost_per_mille);
                let is_faulty = self.phase == Phase::Safety && (is_lost || !is_served);
                let outcome = if !is_faulty {
                    self.write_state(node, partition, expected, state)?
                } else if !is_served && self.random.per_mille(500) {
                    WriteOutcome::NotWritten
                } else {
                    self.lose(node, partition, expected, state, is_served)?;
                    WriteOutcome::Unknown
                };
                self.trace.note(self.now, "state written: node, outcome", &[node as u64, code(outcome)]);
                self.queue.at(self.now + delay, answer(Event::StateWritten { outcome }, false));
            }
        }
        Ok(())
    }

    /// A write whose answer nobody gets: done now, later or never.
    fn lose(
        &mut self,
        node: usize,
        partition: usize,
        expected: Version,
        state: PartitionState,
        is_served: bool,
    ) -> Result<(), Violation> {
        match self.random.below(3) {
            0 if is_served => {
                self.write_state(node, partition, expected, state)?;
            }
            0 | 1 => {
                if let Some(strays) = self.strays.get_mut(partition) {
                    *strays += 1;
                }
                let at = self.now + self.random.below(STRAY_MAX);
                self.queue.at(at, Happening::Stray { node, partition, expected, state });
            }
            _ => {}
        }
        Ok(())
    }

    /// A write that was thought lost arrives after all.
    pub(crate) fn stray(
        &mut self,
        node: usize,
        partition: usize,
        expected: Version,
        state: PartitionState,
    ) -> Result<(), Violation> {
        if let Some(strays) = self.strays.get_mut(partition) {
            *strays -= 1;
        }
        let outcome = self.write_state(node, partition, expected, state)?;
        self.trace.note(self.now, "stray write: node, outcome", &[node as u64, code(outcome)]);
        Ok(())
    }

    fn write_state(
        &mut self,
        node: usize,
        partition: usize,
        expected: Version,
        state: PartitionState,
    ) -> Result<WriteOutcome, Violation> {
        self.trace.say(self.now, || format!("    node {node} writes after {}: {state:?}", expected.0));
        let Some(record) = self.records.get_mut(partition) else { return Ok(WriteOutcome::NotWritten) };
        let before = record.current().state.epoch;
        let after = state.epoch;
        let outcome = record.write(node, expected, state);
        if let WriteOutcome::Written(_) = outcome {
            if after < before {
                return Err(Violation(format!("invariant 5: the epoch fell from {before} to {after}")));
            }
            for node in 0..self.nodes.len() {
                let at = self.now + self.random.below(self.plan.watch_lag_max);
                self.queue.at(at, Happening::Watch { node, partition });
            }
            self.check(partition)?;
        }
        Ok(outcome)
    }

    /// The answer arrives.
    pub(crate) fn served(&mut self, node: usize, boot: u64, partition: usize, event: Event, was_read: bool) {
        let Some(machine) = self.nodes.get_mut(node) else { return };
        if machine.boots != boot {
            return;
        }
        let Some(hosted) = machine.hosted_mut(partition) else { return };
        if was_read {
            hosted.requests.read_succeeded();
        }
        hosted.is_asking = false;
        hosted.inbox.control(event);
        self.wake(node, partition, self.now);
        self.ask(node, partition, self.now);
    }

    /// A node's watch catches up, perhaps not all the way; its host tells the replica what it has not been told.
    pub(crate) fn watch(&mut self, node: usize, partition: usize) {
        if !self.is_served(node) {
            return; // It comes back with the connection.
        }
        let lag = if self.random.per_mille(200) { self.random.index(3) } else { 0 };
        let Some(record) = self.records.get_mut(partition) else { return };
        let Some(hosted) = self.nodes.get_mut(node).and_then(|node| node.hosted_mut(partition)) else {
            return;
        };
        let state = record.read(node, lag);
        let identity = Some((state.version, state.state.nonce));
        if hosted.told != identity {
            hosted.told = identity;
            hosted.inbox.control(Event::StateObserved { state });
        }
        if !record.has_seen_all(node) {
            let at = self.now + self.random.below(self.plan.watch_lag_max);
            self.queue.at(at, Happening::Watch { node, partition });
        }
        self.wake(node, partition, self.now);
    }

    /// All watches of a node look again at this time: its connection is back, or it has started.
    pub(crate) fn watch_at(&mut self, node: usize, at: Time) {
        for partition in 0..self.records.len() {
            self.queue.at(at, Happening::Watch { node, partition });
        }
    }
}

fn code(outcome: WriteOutcome) -> u64 {
    match outcome {
        WriteOutcome::Written(version) => version.0.unsigned_abs(),
        WriteOutcome::Conflict => 1_000_001,
        WriteOutcome::Unknown => 1_000_002,
        WriteOutcome::NotWritten => 1_000_003,
    }
}
