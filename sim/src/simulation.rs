//! The simulated world: everything that happens, one thing after another, from one seed.
//!
//! First comes the safety phase: faults, and nothing may be lost, stale or contradictory. Then faults end, and the
//! liveness phase asks that the cluster is whole again within ten seconds. In the end the clients' histories are judged.

use paddock_coordination::{Member, NodeId, PartitionId, PartitionState, Version};
use paddock_partition::metrics::Metrics;
use paddock_partition::operation::{Answer, Kind};
use paddock_partition::replica::{Event, Message};
use ulid::Ulid;

use crate::client::Client;
use crate::coordination::Record;
use crate::history::{History, ValueId};
use crate::invariants::{Violation, Watcher};
use crate::node::{Assignment, Node};
use crate::plan::{Plan, Weather};
use crate::queue::{MS, Queue, Time};
use crate::random::Random;
use crate::trace::Trace;

/// A world of so many events has gone round in circles.
const EVENTS_MAX: u64 = 2_000_000;

/// What happens.
#[derive(Debug)]
pub(crate) enum Happening {
    /// A replica's next round.
    Round { node: usize, boot: u64, partition: usize, at: Time },
    /// Messages arrive at a node.
    Parcel { to: usize, partition: usize, partition_uuid: Ulid, from: Member, messages: Vec<Message> },
    /// A request arrives at the coordination service.
    Serve { node: usize, boot: u64, partition: usize, request: Asked },
    /// Its answer arrives at the replica.
    Served { node: usize, boot: u64, partition: usize, event: Event, was_read: bool },
    /// A write of the partition's state that was thought lost.
    Stray { node: usize, partition: usize, expected: Version, state: PartitionState },
    /// A node's watch catches up.
    Watch { node: usize, partition: usize },
    /// A client goes on.
    Act { client: usize },
    /// An operation arrives at a node.
    Arrive { client: usize, attempt: u64, node: usize, partition: usize, kind: Kind, timeout_ms: u64 },
    /// Its answer arrives at the client.
    Reply { client: usize, attempt: u64, answer: Answer },
    /// A client has waited long enough.
    GiveUp { client: usize, attempt: u64 },
    /// Something goes wrong.
    Fault,
    /// A server is started.
    Restart { node: usize },
    /// A disk has room again.
    Room { node: usize },
    /// The liveness phase looks whether all is well.
    Look,
}

/// A request to the coordination service.
#[derive(Debug)]
pub(crate) enum Asked {
    /// Compare-and-set.
    Write { expected: Version, state: PartitionState },
    /// Read again.
    Read,
}

/// What is going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Faults.
    Safety,
    /// None; the cluster mends.
    Liveness,
    /// It has mended; the last reads and writes.
    Closing,
    /// Every replica gets to know them.
    Settling,
    /// It is over.
    Over,
}

/// What came of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The hash of all that happened.
    pub trace_hash: u64,
    /// How much happened.
    pub events: u64,
    /// Entries committed.
    pub committed: u64,
    /// Reigns.
    pub epochs: u64,
    /// Operations of clients.
    pub operations: u64,
    /// Those of which nobody knows.
    pub unknown: u64,
    /// Starts of servers.
    pub boots: u64,
    /// Faults that were done.
    pub faults: u64,
    /// Keys whose history was too tangled to be judged.
    pub undecided: u64,
    /// How long the cluster took to mend, in simulated milliseconds.
    pub mended_ms: u64,
}

/// Why a run failed.
#[derive(Clone, Debug)]
pub struct Failed {
    /// What must not be.
    pub what: String,
    /// The end of the trace, where it was kept.
    pub lines: Vec<String>,
}

/// A world.
pub struct Simulation {
    pub(crate) plan: Plan,
    pub(crate) random: Random,
    pub(crate) now: Time,
    pub(crate) queue: Queue<Happening>,
    pub(crate) trace: Trace,
    pub(crate) phase: Phase,
    pub(crate) weather: Weather,
    pub(crate) nodes: Vec<Node>,
    pub(crate) assignments: Vec<Assignment>,
    pub(crate) records: Vec<Record>,
    pub(crate) watchers: Vec<Watcher>,
    /// Nothing gets from the first to the second until then.
    pub(crate) cut_until: Vec<Vec<Time>>,
    pub(crate) coordination_down_until: Time,
    /// Writes of states that may yet be done, by partition.
    pub(crate) strays: Vec<u64>,
    /// Nodes with a fault waiting in their disk.
    pub(crate) is_armed: Vec<bool>,
    pub(crate) has_room: Vec<bool>,
    pub(crate) clients: Vec<Client>,
    pub(crate) history: History,
    pub(crate) certificate: crate::certificate::Certificate,
    pub(crate) attempts: u64,
    pub(crate) values: ValueId,
    /// What the closing phase still has to do, last first.
    pub(crate) closing: Vec<(u64, crate::client::Wish)>,
    /// The moment of the history at which the cluster had mended.
    pub(crate) closing_from: Option<u64>,
    pub(crate) report: Report,
    pub(crate) metrics: Metrics,
}

/// Runs a seed. A failure carries so many of the last lines of its trace.
///
/// # Errors
/// What must not be; a panic of what is simulated is one, too.
pub fn run(seed: u64, lines_max: usize) -> Result<Report, Failed> {
    let mut simulation = Simulation::new(seed, lines_max);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| simulation.run_to_the_end()));
    let what = match outcome {
        Ok(Ok(report)) => return Ok(report),
        Ok(Err(Violation(what))) => what,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            format!("it panicked: {}", text.unwrap_or("without a word"))
        }
    };
    let mut lines = simulation.trace.last_lines();
    if lines_max > 0 {
        lines.insert(0, format!("{:#?}", simulation.plan));
    }
    Err(Failed { what, lines })
}

impl Simulation {
    fn new(seed: u64, lines_max: usize) -> Self {
        let mut random = Random::new(seed);
        let plan = Plan::new(&mut random);
        let ids: Vec<NodeId> = (1..=plan.nodes).map(|number| NodeId(Ulid(number as u128))).collect();
        let drift = plan.drift_per_mille * 1_000;
        let node = |id: &NodeId, random: &mut Random| {
            let rate = 1_000_000 - drift + random.below(2 * drift + 1);
            Node::new(*id, &plan, rate, random.between(1_000, 100_000))
        };
        let nodes: Vec<Node> = ids.iter().map(|id| node(id, &mut random)).collect();
        let mut assignments = Vec::new();
        for partition in 0..plan.partitions as usize {
            let replicas =
                (0..plan.replicas).filter_map(|place| ids.get((partition + place) % ids.len())).copied();
            assignments.push(Assignment {
                partition_uuid: Ulid(0xFACADE + partition as u128),
                replicas: replicas.collect(),
            });
        }
        let record = |assignment: &Assignment| {
            Record::new(assignment.partition_uuid, assignment.replicas.clone(), plan.min_in_sync, plan.nodes)
        };
        Simulation {
            random,
            now: 0,
            queue: Queue::default(),
            trace: Trace::new(lines_max),
            phase: Phase::Safety,
            weather: plan.weather,
            records: assignments.iter().map(record).collect(),
            watchers: assignments.iter().map(|_| Watcher::new(plan.nodes)).collect(),
            cut_until: vec![vec![0; plan.nodes]; plan.nodes],
            coordination_down_until: 0,
            strays: vec![0; assignments.len()],
            is_armed: vec![false; plan.nodes],
            has_room: vec![true; plan.nodes],
            clients: (0..plan.clients).map(|_| Client::default()).collect(),
            history: History::default(),
            certificate: crate::certificate::Certificate::default(),
            attempts: 0,
            values: 0,
            closing: Vec::new(),
            closing_from: None,
            report: Report::default(),
            metrics: Metrics::default(),
            nodes,
            assignments,
            plan,
        }
    }

    fn run_to_the_end(&mut self) -> Result<Report, Violation> {
        for node in 0..self.nodes.len() {
            let at = self.random.below(20 * MS);
            self.queue.at(at, Happening::Restart { node });
        }
        for client in 0..self.clients.len() {
            let at = self.random.below(self.plan.think_max);
            self.queue.at(at, Happening::Act { client });
        }
        if !self.plan.faults.is_empty() {
            self.queue.at(self.plan.lease_ms * MS, Happening::Fault);
        }
        while self.phase != Phase::Over {
            let Some((time, happening)) = self.queue.take_next() else {
                return Err(Violation("nothing happens any more".to_owned()));
            };
            if self.phase == Phase::Safety && time >= self.plan.safety {
                self.now = self.plan.safety;
                self.calm();
            }
            self.now = self.now.max(time);
            self.happen(happening)?;
            if self.trace.events() > EVENTS_MAX {
                return Err(Violation("it goes round in circles".to_owned()));
            }
        }
        self.judge()
    }

    fn happen(&mut self, happening: Happening) -> Result<(), Violation> {
        match happening {
            Happening::Round { node, boot, partition, at } => self.round(node, boot, partition, at),
            Happening::Parcel { to, partition, partition_uuid, from, messages } => {
                self.parcel(to, partition, partition_uuid, from, messages);
                Ok(())
            }
            Happening::Serve { node, boot, partition, request } => self.serve(node, boot, partition, request),
            Happening::Served { node, boot, partition, event, was_read } => {
                self.served(node, boot, partition, event, was_read);
                Ok(())
            }
            Happening::Stray { node, partition, expected, state } => {
                self.stray(node, partition, expected, state)
            }
            Happening::Watch { node, partition } => {
                self.watch(node, partition);
                Ok(())
            }
            Happening::Act { client } => {
                self.act(client);
                Ok(())
            }
            Happening::Arrive { client, attempt, node, partition, kind, timeout_ms } => {
                self.arrive(client, attempt, node, partition, kind, timeout_ms);
                Ok(())
            }
            Happening::Reply { client, attempt, answer } => self.reply(client, attempt, &answer),
            Happening::GiveUp { client, attempt } => self.give_up(client, attempt),
            Happening::Fault => {
                self.fault();
                Ok(())
            }
            Happening::Restart { node } => self.restart(node),
            Happening::Room { node } => {
                self.room(node);
                Ok(())
            }
            Happening::Look => self.look(),
        }
    }

    /// Holds a partition to what must hold at every moment.
    pub(crate) fn check(&self, partition: usize) -> Result<(), Violation> {
        match (self.watchers.get(partition), self.records.get(partition)) {
            (Some(watcher), Some(record)) => {
                watcher.check(self.now, partition, &self.nodes, &record.current().state)
            }
            _ => Ok(()),
        }
    }

    /// Has a replica's next round take place at this time at the latest.
    pub(crate) fn wake(&mut self, node: usize, partition: usize, at: Time) {
        let Some(machine) = self.nodes.get_mut(node) else { return };
        let (boot, paused_until) = (machine.boots, machine.paused_until);
        let Some(hosted) = machine.hosted_mut(partition) else { return };
        let at = at.max(hosted.busy_until).max(paused_until).max(self.now);
        if hosted.round_at.is_none_or(|round_at| at < round_at) {
            hosted.round_at = Some(at);
            self.queue.at(at, Happening::Round { node, boot, partition, at });
        }
    }

    /// The place of a node among all.
    pub(crate) fn place(&self, id: NodeId) -> Option<usize> {
        self.nodes.iter().position(|node| node.id == id)
    }
}

/// A partition's place among all.
pub(crate) fn index_of(partition: PartitionId) -> usize {
    usize::try_from(partition.0).unwrap_or(usize::MAX)
}
