//! Seeded random walks: messages are lost, doubled and overtaken, processes crash with unsynced tails or stand still
//! beyond their leases, disks are wiped, logs are cut at
//! the front, snapshots are fetched and their transfers break, the coordination service loses answers and does old writes late, watches lag, clocks drift, and in some
//! walks run as they like, or stand still: there only reads behind barriers are to be trusted. The checker
//! looks on at every step; then everything is mended, and the cluster has to come together again.
//!
//! `PADDOCK_WALK_SEED=n` runs one walk, `PADDOCK_WALKS=n` so many.

use paddock_coordination::Member;
use paddock_partition::replica::{Event, ObservedState, RoleName, WriteOutcome};

use crate::cluster::{CONTINUED, Cluster, Link, Request, apply, puts, sync};

const WALKS: u64 = 150;
const STEPS: u64 = 1500;

/// SplitMix64: the same seed gives the same walk, for ever.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap()
    }

    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

struct Walk {
    chance: Chance,
    cluster: Cluster,
    /// What each watch has shown: an index into the states.
    watched: Vec<usize>,
    /// Writes whose connection broke: they may still be done.
    strays: Vec<Request>,
    proposals: u64,
    keeps_batches_whole: bool,
    /// Nothing but messages goes wrong: so there is more time for what takes its time, such as hand-overs.
    is_calm: bool,
    /// Clocks run at any rate, and change it.
    is_wild: bool,
    /// Which nodes' processes are about to stop, as they say.
    leaving: Vec<bool>,
}

impl Walk {
    fn new(seed: u64) -> Self {
        let mut chance = Chance(seed);
        let is_calm = chance.percent(40);
        let names = ['A', 'B', 'C', 'D'];
        let count = 2 + chance.index(3);
        let min_in_sync =
            if chance.percent(50) { None } else { Some(1 + u32::try_from(chance.below(2)).unwrap()) };
        let mut cluster = Cluster::new(&names[..count], min_in_sync, 200, false);
        for node in &mut cluster.nodes {
            node.is_slow = true;
            node.clock_offset = 1_000_000 + chance.below(1_000_000);
            // Within what the lease allows for.
            node.clock_rate = 970 + chance.below(60);
        }
        for index in 0..count {
            cluster.start(index);
        }
        let keeps_batches_whole = chance.percent(50);
        let is_wild = chance.percent(25);
        cluster.checker.clocks_are_wild = is_wild;
        Walk {
            is_wild,
            chance,
            cluster,
            watched: vec![0; count],
            is_calm,
            leaving: vec![false; count],
            strays: Vec::new(),
            proposals: 0,
            keeps_batches_whole,
        }
    }

    fn step(&mut self) {
        let index = self.chance.index(self.cluster.nodes.len());
        if self.is_paused(index) {
            let duration_ms = 1 + self.chance.below(5);
            return self.cluster.advance(duration_ms, false);
        }
        match self.chance.below(1000) {
            880.. if self.is_calm => self.watch(index),
            0..350 => self.deliver(),
            350..375 => drop(self.take_message()),
            375..400 => self.duplicate(),
            400..412 => self.snapshot(index),
            412..417 => self.release(index),
            417..436 => self.transfer(),
            436 => self.place(),
            437 => self.drain(),
            438 if !self.is_calm && self.chance.percent(30) => self.leave(index),
            439..447 => self.barrier_read(index),
            447..452 if self.is_wild => self.drift(index),
            452..454 if !self.is_calm => self.damage(index),
            454 if self.chance.percent(15) => self.cluster.step(index, Event::DiskStalled),
            438..560 => {
                let duration_ms = 1 + self.chance.below(15);
                self.cluster.advance(duration_ms, false);
            }
            560..680 => self.propose(),
            680..790 => self.disk(index),
            790..880 => self.serve(index),
            880..905 => self.break_connection(index),
            905..915 => self.stray(),
            915..965 => self.watch(index),
            965..973 => self.crash(index),
            973..990 => self.restart(index),
            990..994 => self.cluster.nodes[index].is_isolated = true,
            994..997 => self.cluster.nodes[index].is_isolated = false,
            997 if self.chance.percent(25) => self.recover(),
            998 => self.cluster.nodes[index].paused_until = self.cluster.now + self.chance.below(400),
            _ => self.wipe(index),
        }
    }

    fn is_paused(&self, index: usize) -> bool {
        self.cluster.now < self.cluster.nodes[index].paused_until
    }

    fn take_message(&mut self) -> Option<crate::cluster::Envelope> {
        let len = self.cluster.queue.len();
        // Mostly in order, sometimes not.
        let reach = if self.chance.percent(80) { len.min(3) } else { len };
        (len > 0).then(|| self.cluster.queue.remove(self.chance.index(reach)))
    }

    fn deliver(&mut self) {
        for _ in 0..1 + self.chance.below(4) {
            let Some(envelope) = self.take_message() else { return };
            let to = self.cluster.nodes.iter().position(|node| node.id() == envelope.to);
            if to.is_some_and(|to| self.is_paused(to)) {
                // It waits in the socket.
                self.cluster.queue.push(envelope);
            } else {
                self.cluster.deliver(envelope);
            }
        }
    }

    fn duplicate(&mut self) {
        if !self.cluster.queue.is_empty() {
            let index = self.chance.index(self.cluster.queue.len());
            let copy = self.cluster.queue[index].clone();
            self.cluster.queue.push(copy);
        }
    }

    /// A statement of a proposal. Where this walk keeps batches whole, as the real log does, each but the last of a batch
    /// says that the batch goes on.
    fn statement(&self, number: u64, is_last: bool) -> String {
        let is_continued = self.keeps_batches_whole && !is_last;
        if is_continued { format!("s{number}{CONTINUED}") } else { format!("s{number}") }
    }

    fn ready_leaders(&self) -> Vec<usize> {
        let leads =
            |node: &crate::cluster::Node| node.replica.as_ref().is_some_and(|one| one.may_propose().is_ok());
        (0..self.cluster.nodes.len())
            .filter(|index| !self.is_paused(*index) && leads(&self.cluster.nodes[*index]))
            .collect()
    }

    fn propose(&mut self) {
        let leaders = self.ready_leaders();
        if !leaders.is_empty() {
            let index = leaders[self.chance.index(leaders.len())];
            let count = 1 + self.chance.below(3);
            let statements: Vec<String> =
                (0..count).map(|one| self.statement(self.proposals + one, one + 1 == count)).collect();
            self.proposals += count;
            let rows = puts(statements.iter().map(String::as_str));
            self.cluster.step(index, Event::Propose { rows, log_time_ms: 0 });
        }
    }

    /// A leader is told to hand over, to somebody or to the best, within more or less time.
    fn transfer(&mut self) {
        let leaders = self.ready_leaders();
        if !leaders.is_empty() {
            let index = leaders[self.chance.index(leaders.len())];
            let other = self.chance.index(self.cluster.nodes.len());
            let to = self.chance.percent(40).then(|| self.cluster.nodes[other].id());
            let within_ms = self.chance.below(400);
            let deadline = self.cluster.nodes[index].clock(self.cluster.now).plus_ms(within_ms);
            self.cluster.step(index, Event::TransferLeadership { to, deadline });
        }
    }

    /// A read comes that waits behind a barrier, perhaps to a leader that was replaced long ago.
    fn barrier_read(&mut self, index: usize) {
        let node = &self.cluster.nodes[index];
        let Some(Ok(barrier)) = node.replica.as_ref().map(|replica| replica.barrier()) else { return };
        self.cluster.checker.barrier_raised(node.name, barrier);
        self.cluster.step(index, Event::BarrierRead);
    }

    /// A clock runs at another rate from now on: up to five times too fast, or not at all.
    fn drift(&mut self, index: usize) {
        let now = self.cluster.now;
        let node = &mut self.cluster.nodes[index];
        let shown = node.clock(now).0;
        node.clock_rate = if self.chance.percent(30) { 0 } else { self.chance.below(5_000) };
        // It goes on from what it shows.
        node.clock_offset = shown - now * node.clock_rate / 1000;
    }

    /// Some nodes are drained, others no longer; a replica hears of it now, or much later.
    fn drain(&mut self) {
        let nodes: std::collections::BTreeSet<_> = self
            .cluster
            .nodes
            .iter()
            .map(crate::cluster::Node::id)
            .filter(|_| self.chance.percent(20))
            .collect();
        let index = self.chance.index(self.cluster.nodes.len());
        self.cluster.step(index, Event::NodesDrained { nodes });
    }

    /// The controller puts the replicas in another order. It elects nobody, and keeps the nonce that it finds.
    fn place(&mut self) {
        let ObservedState { version, mut state } = self.cluster.state().clone();
        let count = state.replicas.len();
        let (one, other) = (self.chance.index(count), self.chance.index(count));
        state.replicas.swap(one, other);
        self.cluster.write(version, state);
    }

    fn leave(&mut self, index: usize) {
        self.leaving[index] |= self.cluster.nodes[index].replica.is_some();
        self.cluster.step(index, Event::Leave);
    }

    /// Somebody comes upon damage to a store.
    fn damage(&mut self, index: usize) {
        self.cluster.step(index, Event::StoreDamaged { what: "a row".to_owned() });
    }

    fn disk(&mut self, index: usize) {
        if self.cluster.nodes[index].replica.is_some() {
            let event = if self.chance.percent(60) {
                sync(&mut self.cluster.nodes[index])
            } else if self.cluster.nodes[index].apply_through <= self.cluster.nodes[index].disk.durable {
                apply(&mut self.cluster.nodes[index])
            } else {
                return;
            };
            self.cluster.step(index, event);
        }
    }

    /// A snapshot is ready, or was fetched, or its transfer breaks.
    fn snapshot(&mut self, index: usize) {
        let is_whole = self.chance.percent(80);
        if self.cluster.nodes[index].replica.is_some() {
            self.cluster.prepare(index);
            self.cluster.finish_fetch(index, is_whole);
        }
    }

    /// Entries at the front leave the log: those that were applied, and nobody needs who is being rebuilt.
    fn release(&mut self, index: usize) {
        let node = &mut self.cluster.nodes[index];
        if let Some(replica) = &node.replica {
            let needed = replica.log_needed().map_or(u64::MAX, |first| first.0 - 1);
            let through = node.disk.applied.min(usize::try_from(needed).unwrap_or(usize::MAX));
            if through > node.disk.released {
                let more = 1 + self.chance.index(through - node.disk.released);
                node.disk.released += more;
            }
        }
    }

    /// The coordination service does the next thing that a node asked for.
    fn serve(&mut self, index: usize) {
        let Some(request) = self.cluster.nodes[index].requests.pop_front() else { return };
        let event = match request {
            Request::Read => {
                self.watched[index] = self.cluster.states.len() - 1;
                Event::StateObserved { state: self.cluster.state().clone() }
            }
            Request::Write { expected, state } => {
                if self.chance.percent(3) {
                    Event::StateWritten { outcome: WriteOutcome::NotWritten }
                } else {
                    Event::StateWritten { outcome: self.cluster.write(expected, state) }
                }
            }
        };
        self.cluster.step(index, event);
    }

    /// A node's connection breaks: its requests are answered with a shrug, and may be done now, later or never.
    fn break_connection(&mut self, index: usize) {
        let requests = std::mem::take(&mut self.cluster.nodes[index].requests);
        for request in requests {
            if let Request::Write { expected, state } = &request {
                if self.chance.percent(40) {
                    self.cluster.write(*expected, state.clone());
                } else {
                    self.strays.push(request);
                }
                self.cluster.step(index, Event::StateWritten { outcome: WriteOutcome::Unknown });
            }
        }
    }

    fn stray(&mut self) {
        if !self.strays.is_empty() {
            let index = self.chance.index(self.strays.len());
            if let Request::Write { expected, state } = self.strays.swap_remove(index) {
                self.cluster.write(expected, state);
            }
        }
    }

    /// A watch catches up, by one state or by all, or shows something old once more.
    fn watch(&mut self, index: usize) {
        let newest = self.cluster.states.len() - 1;
        let shown = if self.chance.percent(10) {
            newest.saturating_sub(self.chance.index(3))
        } else if self.chance.percent(30) {
            (self.watched[index] + 1).min(newest)
        } else {
            newest
        };
        self.watched[index] = self.watched[index].max(shown);
        self.cluster.observe(index, shown);
    }

    fn crash(&mut self, index: usize) {
        let node = &mut self.cluster.nodes[index];
        if node.replica.is_some() {
            let unsynced = node.disk.entries.len() - node.disk.durable;
            let requests = std::mem::take(&mut node.requests);
            self.strays
                .extend(requests.into_iter().filter(|request| matches!(request, Request::Write { .. })));
            let kept = self.chance.index(unsynced + 1);
            self.cluster.crash(index, kept);
        }
    }

    fn restart(&mut self, index: usize) {
        if self.cluster.nodes[index].replica.is_none() {
            self.leaving[index] = false;
            self.watched[index] = self.cluster.states.len().saturating_sub(1 + self.chance.index(2));
            self.cluster.start(index);
        }
    }

    /// A disk is lost, where another one surely has all that was committed.
    fn wipe(&mut self, index: usize) {
        let is_writing = |node: &crate::cluster::Node| !node.requests.is_empty();
        let is_quiet = self.strays.is_empty() && !self.cluster.nodes.iter().any(is_writing);
        let state = &self.cluster.state().state;
        let mut others = self.cluster.nodes.iter().enumerate().filter(|(other, _)| *other != index);
        let has_heir = others.any(|(_, node)| state.may_lead(node.member()));
        if is_quiet && has_heir && state.epoch.0 > 0 {
            self.crash(index);
            self.cluster.wipe(index);
        }
    }

    /// An operator goes on from what one node has. Mostly because all that held everything is lost, and then from whoever has most;
    /// but operators err, too.
    fn recover(&mut self) {
        if self.cluster.state().state.epoch.0 == 0 {
            return;
        }
        let is_true = self.chance.percent(60);
        for index in 0..self.cluster.nodes.len() {
            if is_true && self.cluster.state().state.may_lead(self.cluster.nodes[index].member()) {
                self.crash(index);
                self.cluster.wipe(index);
            }
        }
        let nodes = &self.cluster.nodes;
        let reach = |index: &usize| {
            let entries = &nodes[*index].disk.entries;
            (entries.last().map_or(0, |entry| entry.epoch), entries.len())
        };
        let most = (0..nodes.len()).max_by_key(reach).unwrap_or(0);
        let chosen = if self.chance.percent(50) { most } else { self.chance.index(nodes.len()) };
        self.cluster.recover(chosen);
    }

    /// Ends all faults: within ten seconds the cluster leads, follows, commits and is complete.
    fn mend(&mut self) {
        self.cluster.is_prompt = true;
        for index in 0..self.cluster.nodes.len() {
            if self.leaving[index] {
                self.crash(index);
            }
            let node = &mut self.cluster.nodes[index];
            node.is_isolated = false;
            node.is_slow = false;
            node.link = Link::Up;
            // It goes on from what it shows: no clock ever goes back.
            node.clock_offset = node.clock(self.cluster.now).0.saturating_sub(self.cluster.now);
            node.clock_rate = 1000;
            node.paused_until = 0;
            if node.replica.is_none() {
                self.cluster.start(index);
            } else {
                while !self.cluster.nodes[index].requests.is_empty() {
                    self.serve(index);
                }
                let event = sync(&mut self.cluster.nodes[index]);
                self.cluster.step(index, event);
                let event = apply(&mut self.cluster.nodes[index]);
                self.cluster.step(index, event);
            }
        }
        self.cluster.settle_watches();
        self.cluster.advance(10_000, true);
        let before = self.cluster.checker.committed.len();
        self.propose();
        self.cluster.advance(1000, true);
        let state = &self.cluster.state().state;
        let all: Vec<Member> = self.cluster.nodes.iter().map(crate::cluster::Node::member).collect();
        assert!(
            all.iter().all(|member| state.in_sync.contains(member)),
            "invariant 17: not all are in sync: {state:?}"
        );
        assert!(state.eligible.is_empty(), "with everybody in sync nobody else is eligible");
        assert!(self.cluster.checker.committed.len() > before, "invariant 17: nothing is committed any more");
        let committed = self.cluster.checker.committed.len();
        for node in &self.cluster.nodes {
            assert_eq!(node.disk.applied, committed, "invariant 17: {} lags", node.name);
        }
        let leads = |node: &&crate::cluster::Node| {
            node.replica.as_ref().is_some_and(|one| one.role() == RoleName::Leader)
        };
        assert_eq!(self.cluster.nodes.iter().filter(leads).count(), 1, "invariant 17: one leader");
    }
}

/// What came of a walk: for comparing two of them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    digest: u64,
    committed: usize,
    epochs: u64,
    /// Leaders that were followed by one whom they had released.
    handovers: usize,
    /// Snapshots that took the place of a store.
    installs: u64,
    /// Reads that were let past their barriers.
    barriers_passed: u64,
    /// How often an operator recovered the partition.
    lineage: u64,
    /// Stores that were given up because they were damaged.
    gave_up: u64,
}

pub(crate) fn walk(seed: u64) -> Outcome {
    let mut walk = Walk::new(seed);
    let mut digest = 0_u64;
    for _ in 0..STEPS {
        walk.step();
        for line in walk.cluster.trace.drain(..) {
            digest = line.bytes().fold(digest, |digest, byte| digest.rotate_left(5) ^ u64::from(byte));
        }
    }
    walk.mend();
    let is_handover = |pair: &&[ObservedState]| {
        let [before, after] = pair else { return false };
        let former = before.state.leader;
        former != after.state.leader && former.is_some_and(|former| after.state.in_sync.contains(&former))
    };
    Outcome {
        digest,
        committed: walk.cluster.checker.committed.len(),
        epochs: walk.cluster.state().state.epoch.0,
        installs: walk.cluster.checker.installs,
        barriers_passed: walk.cluster.checker.barriers_passed,
        lineage: walk.cluster.state().state.lineage,
        gave_up: walk.cluster.checker.gave_up,
        handovers: walk.cluster.states.windows(2).filter(is_handover).count(),
    }
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

#[test]
fn random_walks_keep_every_invariant() {
    let one = from_environment("PADDOCK_WALK_SEED");
    let walks = from_environment("PADDOCK_WALKS").unwrap_or(WALKS);
    let seeds = one.map_or(0..walks, |seed| seed..seed + 1);
    let (mut committed, mut epochs, mut handovers, mut installs, mut barriers) = (0, 0, 0, 0, 0);
    let (mut lineages, mut gave_up) = (0, 0);
    for seed in seeds {
        let result = std::panic::catch_unwind(|| walk(seed));
        let Ok(outcome) = result else { panic!("PADDOCK_WALK_SEED={seed} breaks an invariant, see above") };
        committed += outcome.committed;
        epochs += outcome.epochs;
        handovers += outcome.handovers;
        installs += outcome.installs;
        barriers += outcome.barriers_passed;
        lineages += outcome.lineage;
        gave_up += outcome.gave_up;
    }
    println!(
        "{committed} entries, {epochs} epochs, {handovers} of them handed over, {installs} snapshots installed, {barriers} \
         reads let past barriers, {lineages} recoveries, {gave_up} stores given up"
    );
    assert!(one.is_some() || committed as u64 > walks * 20, "the walks got too little done to say anything");
    assert!(one.is_some() || epochs > walks * 3, "the walks saw too few leaders to say anything");
    let enough = handovers as u64 * 2 > walks;
    assert!(one.is_some() || enough, "the walks saw too few hand-overs to say anything: {handovers}");
    assert!(one.is_some() || barriers > walks, "the walks saw too few reads behind barriers: {barriers}");
    assert!(
        one.is_some() || gave_up > walks / 4,
        "the walks saw too little damage to say anything: {gave_up}"
    );
    assert!(one.is_some() || installs > walks / 4, "the walks saw too few snapshots to say anything");
    assert!(one.is_some() || lineages > walks / 10, "the walks saw too few recoveries to say anything");
}

#[test]
fn the_same_seed_gives_the_same_walk() {
    assert_eq!(walk(7), walk(7));
    assert_ne!(walk(7).digest, walk(8).digest);
}
