//! What goes wrong in the safety phase.

use std::io::ErrorKind;

use paddock_storage::Error;
use paddock_storage::disk::{Fault as DiskFault, FaultyDisk, Unsynced};

use crate::invariants::Violation;
use crate::node::Node;
use crate::plan::Fault;
use crate::queue::{MS, Time};
use crate::simulation::{Happening, Phase, Simulation};

impl Simulation {
    /// Something goes wrong, and the next time is set.
    pub(crate) fn fault(&mut self) {
        if self.phase != Phase::Safety {
            return;
        }
        let next = self.now + 1 + self.random.below(self.plan.fault_interval_max);
        self.queue.at(next, Happening::Fault);
        let node = self.random.index(self.nodes.len());
        let Some(fault) = self.random.one_of(&self.plan.faults) else { return };
        self.trace.note(self.now, "fault: which, node", &[fault as u64, node as u64]);
        self.trace.say(self.now, || format!("    {fault:?} at node {node}"));
        self.report.faults += 1;
        match fault {
            Fault::Kill => self.end(node, None),
            Fault::PowerLoss => self.end(node, Some(false)),
            Fault::PowerLossEverywhere => {
                for node in 0..self.nodes.len() {
                    self.end(node, Some(false));
                }
            }
            Fault::KillAtDiskCall => self.arm(node, true),
            Fault::DiskError => self.arm(node, false),
            Fault::Pause => {
                let until = self.some_time();
                if let Some(node) = self.nodes.get_mut(node) {
                    node.paused_until = until;
                }
            }
            Fault::DiskStall => {
                let until = self.some_time();
                if let Some(node) = self.nodes.get_mut(node) {
                    node.disk_stalled_until = until;
                }
            }
            Fault::DiskFull => self.fill(node),
            Fault::DiskLost => self.lose_disk(node),
            Fault::LinkCut => {
                let (to, until) = (self.random.index(self.nodes.len()), self.some_time());
                self.cut(node, to, until);
            }
            Fault::Isolation => {
                let until = self.some_time();
                for other in 0..self.nodes.len() {
                    self.cut(node, other, until);
                    self.cut(other, node, until);
                }
            }
            Fault::CoordinationLost => {
                let until = self.some_time();
                self.lose_coordination(node, until);
            }
            Fault::Estrangement => {
                let (other, until) = (self.random.index(self.nodes.len()), self.some_time());
                self.lose_coordination(node, until);
                self.cut(node, other, until);
                self.cut(other, node, until);
            }
            Fault::CoordinationDown => {
                self.coordination_down_until = self.some_time();
                for node in 0..self.nodes.len() {
                    self.watch_at(node, self.coordination_down_until);
                }
            }
            Fault::Stop => {
                let process = self.nodes.get(node).and_then(|node| node.process.as_ref());
                for hosted in process.iter().flat_map(|process| process.replicas.iter().flatten()) {
                    hosted.inbox.stop();
                }
                for partition in 0..self.assignments.len() {
                    self.wake(node, partition, self.now);
                }
            }
        }
    }

    /// A time in the near future: mostly less than a lease from now, sometimes several.
    fn some_time(&mut self) -> Time {
        let lease = self.plan.lease_ms * MS;
        let leases = self.random.one_of(&[1, 1, 2, 5]).unwrap_or(1);
        self.now + self.random.between(MS, leases * lease)
    }

    fn lose_coordination(&mut self, node: usize, until: Time) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.coordination_lost_until = until;
        }
        for record in &mut self.records {
            record.forget_session(node);
        }
        self.watch_at(node, until);
    }

    fn cut(&mut self, from: usize, to: usize, until: Time) {
        if let Some(entry) = self.cut_until.get_mut(from).and_then(|row| row.get_mut(to)) {
            *entry = until;
        }
    }

    /// One of the next calls to a disk fails: and then all, or it alone.
    fn arm(&mut self, node: usize, lasting: bool) {
        let ahead = self.random.between(1, 30);
        if let (Some(node), Some(is_armed)) = (self.nodes.get(node), self.is_armed.get_mut(node)) {
            *is_armed = true;
            let call = node.disk.calls() + ahead;
            node.disk.set_fault(Some(DiskFault { call, kind: ErrorKind::Other, lasting }));
        }
    }

    fn fill(&mut self, node: usize) {
        let (more, until) = (self.random.below(20_000), self.some_time());
        if let (Some(node), Some(has_room)) = (self.nodes.get(node), self.has_room.get_mut(node)) {
            *has_room = false;
            node.disk.set_capacity_bytes(Some(node.disk.used_bytes() + more));
        }
        self.queue.at(until, Happening::Room { node });
    }

    /// A disk has room again.
    pub(crate) fn room(&mut self, node: usize) {
        if let (Some(node), Some(has_room)) = (self.nodes.get(node), self.has_room.get_mut(node)) {
            *has_room = true;
            node.disk.set_capacity_bytes(None);
        }
    }

    /// A disk is lost, where another one surely has all that was committed, and nothing is being changed about who counts.
    fn lose_disk(&mut self, node: usize) {
        let has_heirs = (0..self.records.len()).all(|partition| self.has_heir(partition, node));
        if !has_heirs {
            return;
        }
        self.end(node, Some(true));
        if let Some(node) = self.nodes.get_mut(node) {
            node.disk = FaultyDisk::new();
            node.held.iter_mut().for_each(|held| *held = None);
        }
        if let (Some(has_room), Some(is_armed)) = (self.has_room.get_mut(node), self.is_armed.get_mut(node)) {
            (*has_room, *is_armed) = (true, false);
        }
    }

    fn has_heir(&self, partition: usize, lost: usize) -> bool {
        let is_asking = |node: &Node| node.hosted(partition).is_some_and(|hosted| hosted.is_asking);
        let is_quiet = self.strays.get(partition) == Some(&0) && !self.nodes.iter().any(is_asking);
        let Some(record) = self.records.get(partition) else { return false };
        let state = &record.current().state;
        let counts = |(index, node): (usize, &Node)| {
            let held = node.held.get(partition).and_then(Option::as_ref);
            let mut members = state.in_sync.iter().chain(&state.eligible);
            index != lost
                && held.is_some_and(|held| {
                    members.any(|member| member.node == node.id && member.generation == held.generation)
                })
        };
        is_quiet && state.epoch.0 > 0 && self.nodes.iter().enumerate().any(counts)
    }

    /// A server ends at once: killed, or (`Some`) with its machine's power. It comes back later; at once, if so said.
    pub(crate) fn end(&mut self, node: usize, power_loss: Option<bool>) {
        let (dice, torn) = (self.random.below(4), self.random.any());
        let Some(machine) = self.nodes.get_mut(node) else { return };
        let was_running = machine.process.is_some();
        machine.kill();
        if power_loss.is_some() {
            machine.disk.crash(match dice {
                0 => Unsynced::Lost,
                1 => Unsynced::Kept,
                _ => Unsynced::Torn { seed: torn },
            });
        }
        if let Some(is_armed) = self.is_armed.get_mut(node) {
            *is_armed = false;
        }
        for record in &mut self.records {
            record.forget_session(node);
        }
        if was_running || power_loss == Some(true) {
            let at = if self.random.per_mille(500) { self.some_time() } else { self.now + MS };
            self.queue.at(at, Happening::Restart { node });
        }
    }

    /// A store did not do what it was told: its process ends.
    pub(crate) fn store_failed(&mut self, node: usize, error: &Error) -> Result<(), Violation> {
        let is_full = matches!(error, Error::DiskFull { .. }) && self.has_room.get(node) == Some(&false);
        if !is_full && self.is_armed.get(node) != Some(&true) {
            return Err(Violation(format!("the store of node {node} failed by itself: {error}")));
        }
        self.trace.say(self.now, || format!("    node {node}: {error}"));
        let power_loss = self.random.per_mille(500).then_some(false);
        self.end(node, power_loss);
        Ok(())
    }

    /// A replica has been told to stop, and has come to the end of its last round.
    pub(crate) fn stopped(&mut self, node: usize, partition: usize) -> Result<(), Violation> {
        let Some(process) = self.nodes.get_mut(node).and_then(|node| node.process.as_mut()) else {
            return Ok(());
        };
        let Some(hosted) = process.replicas.get_mut(partition).and_then(Option::take) else { return Ok(()) };
        let is_last = process.replicas.iter().all(Option::is_none);
        let stopped = hosted.owner.stop();
        self.collect(node, self.now);
        if let Err(error) = stopped {
            return self.store_failed(node, &error);
        }
        if is_last {
            self.end(node, None);
        }
        Ok(())
    }

    /// A server is started.
    pub(crate) fn restart(&mut self, node: usize) -> Result<(), Violation> {
        let now = self.now;
        let Some(machine) = self.nodes.get_mut(node) else { return Ok(()) };
        if machine.process.is_some() {
            return Ok(());
        }
        let dies_early = self.phase == Phase::Safety
            && self.plan.faults.contains(&Fault::KillAtDiskCall)
            && self.random.per_mille(100);
        if dies_early {
            let call = machine.disk.calls() + self.random.between(1, 60);
            machine.disk.set_fault(Some(DiskFault { call, kind: ErrorKind::Other, lasting: true }));
            self.is_armed[node] = true;
        }
        let random = &mut self.random;
        let started = machine.start(now, &self.plan, &self.assignments, || random.any_wide(), &self.metrics);
        self.report.boots += 1;
        self.trace.note(now, "starts: node, boot", &[node as u64, machine.boots]);
        if let Err(error) = started {
            let may_fail = self.is_armed.get(node) == Some(&true) || self.has_room.get(node) == Some(&false);
            if !may_fail {
                return Err(Violation(format!("node {node} cannot start: {error}")));
            }
            self.end(node, None);
            self.queue.at(now + 20 * MS, Happening::Restart { node });
            return Ok(());
        }
        for partition in 0..self.assignments.len() {
            self.check(partition)?;
            self.wake(node, partition, now);
        }
        let at = now + self.random.below(self.plan.watch_lag_max);
        self.watch_at(node, at);
        Ok(())
    }
}
