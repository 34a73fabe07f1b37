//! The end of the faults, the liveness phase, and the judgement.

use paddock_partition::replica::RoleName;

use crate::invariants::Violation;
use crate::linearizability::{Verdict, judge};
use crate::plan::Weather;
use crate::queue::{MS, Time};
use crate::simulation::{Happening, Phase, Report, Simulation};

/// The cluster has so long to mend, and to answer the last operations.
const MEND_MAX: Time = 10_000 * MS;
/// It is looked at this often.
const LOOK_INTERVAL: Time = 50 * MS;

impl Simulation {
    /// Ends all faults.
    pub(crate) fn calm(&mut self) {
        self.phase = Phase::Liveness;
        self.trace.note(self.now, "all faults are over", &[]);
        self.weather = Weather::FAIR;
        self.plan.answers_lost_per_mille = 0;
        self.plan.watch_lag_max = 5 * MS;
        self.plan.think_max = self.plan.think_max.max(20 * MS);
        self.cut_until.iter_mut().flatten().for_each(|until| *until = 0);
        self.coordination_down_until = 0;
        for node in 0..self.nodes.len() {
            self.room(node);
            if let Some(node) = self.nodes.get_mut(node) {
                (node.paused_until, node.disk_stalled_until, node.coordination_lost_until) = (0, 0, 0);
                node.disk.set_fault(None);
            }
            self.queue.at(self.now, Happening::Restart { node });
            self.watch_at(node, self.now);
            for partition in 0..self.assignments.len() {
                // Whoever was in a long round, or stood still, goes on.
                if let Some(hosted) = self.nodes.get_mut(node).and_then(|node| node.hosted_mut(partition)) {
                    hosted.busy_until = self.now;
                }
                self.wake(node, partition, self.now);
            }
        }
        self.queue.at(self.now, Happening::Look);
    }

    /// Looks whether the cluster has mended.
    pub(crate) fn look(&mut self) -> Result<(), Violation> {
        let problem = (0..self.records.len()).find_map(|partition| self.problem(partition));
        match (&problem, self.phase) {
            (None, Phase::Liveness) => {
                self.report.mended_ms = (self.now - self.plan.safety) / MS;
                self.trace.note(self.now, "the cluster has mended", &[]);
                self.close();
            }
            (None, Phase::Settling) => self.phase = Phase::Over,
            _ => {}
        }
        if self.now > self.plan.safety + MEND_MAX {
            let what = problem.unwrap_or_else(|| "an operation is not answered".to_owned());
            return Err(Violation(format!("invariant 17: ten seconds after the last fault {what}")));
        }
        if self.phase != Phase::Over {
            self.queue.at(self.now + LOOK_INTERVAL, Happening::Look);
        }
        Ok(())
    }

    /// Why a partition has not mended, if it has not.
    fn problem(&self, partition: usize) -> Option<String> {
        let (record, watcher) = (self.records.get(partition)?, self.watchers.get(partition)?);
        let state = &record.current().state;
        let assignment = self.assignments.get(partition)?;
        let mut leaders = 0;
        for id in &assignment.replicas {
            let node = self.place(*id)?;
            let Some(hosted) = self.nodes.get(node).and_then(|node| node.hosted(partition)) else {
                return Some(format!("node {node} does not run"));
            };
            let generation = hosted.owner.facts.generation;
            if !state.in_sync.iter().any(|member| member.node == *id && member.generation == generation) {
                return Some(format!("node {node} is not in sync in partition {partition}: {state:?}"));
            }
            leaders += u64::from(hosted.owner.replica.role() == RoleName::Leader);
            let (applied, last) = (hosted.owner.store.applied(), watcher.last().sequence);
            if self.phase != Phase::Liveness && applied != last {
                return Some(format!(
                    "node {node} has applied {applied} of partition {partition}, {last} is committed"
                ));
            }
        }
        if !state.eligible.is_empty() {
            return Some(format!("somebody is eligible beside all who are in sync: {state:?}"));
        }
        (leaders != 1).then(|| format!("partition {partition} has {leaders} leaders"))
    }

    /// The last word: contents, certificate, histories.
    pub(crate) fn judge(&mut self) -> Result<Report, Violation> {
        for (partition, watcher) in self.watchers.iter().enumerate() {
            for (index, node) in self.nodes.iter().enumerate() {
                if let Some(hosted) = node.hosted(partition) {
                    watcher.check_contents(index, &hosted.owner)?;
                }
            }
        }
        // What is still on its way may have happened.
        for ongoing in self.clients.iter_mut().filter_map(|client| client.ongoing.take()) {
            if let Some(seen) = ongoing.wish.unanswered() {
                self.history.over(ongoing.key, ongoing.called, seen);
            }
        }
        self.certificate.check(&self.watchers)?;
        let mut report = std::mem::take(&mut self.report);
        for (key, operations) in self.history.keys() {
            match judge(operations) {
                Verdict::Linearizable => {}
                Verdict::Undecided => report.undecided += 1,
                Verdict::Violated => {
                    return Err(Violation(format!("key {key} is not linearizable: {operations:?}")));
                }
            }
        }
        (report.operations, report.unknown) = self.history.counts();
        report.trace_hash = self.trace.hash();
        report.events = self.trace.events();
        report.committed = self.watchers.iter().map(|watcher| watcher.committed.len() as u64).sum();
        report.epochs = self.watchers.iter().map(crate::invariants::Watcher::epochs).sum();
        Ok(report)
    }
}
