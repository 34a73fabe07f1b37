//! A cluster of replica cores in memory: disks that lose what was not synced, a network whose messages are
//! all visible, one znode, and nothing that happens by itself unless asked to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use paddock_coordination::{Epoch, Generation, Member, NodeId, PartitionId, PartitionState, Version};
use paddock_partition::replica::{
    Barrier, DurableState, Effect, Event, Fault, Message, ObservedState, Replica, ReplicaConfig, Timestamp,
    WriteOutcome,
};
use paddock_storage::{EpochStart, LogEntries, Position, RowRef, Rows, RowsBuilder, Sequence};
use ulid::Ulid;

use crate::checker::Checker;
use crate::describe;

/// One entry as a disk holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) epoch: u64,
    pub(crate) statement: String,
    /// From the header of its batch.
    known_commit: u64,
}

/// What survives a crash: the entries through `durable`, the epoch, and what of the index was checkpointed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) entries: Vec<Entry>,
    pub(crate) durable: usize,
    pub(crate) applied: usize,
    epoch_seen: Epoch,
    pub(crate) lineage: u64,
    fault: Option<Fault>,
    /// So many of the first entries are in the store, and no longer in its log. What they were is kept here, to compare.
    pub(crate) released: usize,
}

/// What ends a statement that others of its batch follow.
pub(crate) const CONTINUED: char = '+';

impl Entry {
    /// Whether the next entry is of the same batch.
    pub(crate) fn is_continued(&self) -> bool {
        self.statement.ends_with(CONTINUED)
    }
}

impl Disk {
    fn position(&self, sequence: usize) -> Position {
        let epoch = sequence.checked_sub(1).map_or(0, |index| self.entries[index].epoch);
        Position { epoch, sequence: Sequence(sequence as u64) }
    }

    fn recover(&self) -> DurableState {
        let mut epochs: Vec<EpochStart> = Vec::new();
        for (index, entry) in self.entries.iter().enumerate() {
            if epochs.last().is_none_or(|start| start.epoch < entry.epoch) {
                epochs.push(EpochStart { epoch: entry.epoch, first: Sequence(index as u64 + 1) });
            }
        }
        let known_commit = self.entries.iter().map(|entry| entry.known_commit).max().unwrap_or(0);
        DurableState {
            last: self.position(self.entries.len()),
            durable: Sequence(self.durable as u64),
            applied: Sequence(self.applied as u64),
            known_commit: Sequence(known_commit.max(self.applied as u64)),
            epochs,
            epoch_seen: self.epoch_seen,
            lineage: self.lineage,
            fault: self.fault.clone(),
        }
    }
}

/// How the coordination service treats a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// Writes, reads and the watch work at once.
    Up,
    /// Writes are not written, reads and the watch stay unanswered.
    Down,
    /// Requests wait.
    Hold,
    /// Writes are written, but the answer is lost; reads and the watch stay unanswered.
    Written,
    /// Writes are lost, and nobody knows; reads and the watch stay unanswered.
    Lost,
}

/// Something asked of the coordination service.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    Write { expected: Version, state: PartitionState },
    Read,
}

/// A copy of a store, as a leader keeps it for a follower.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    epoch: Epoch,
    attempt: u64,
    disk: Disk,
}

/// A copy that a follower fetches.
#[derive(Clone, Debug)]
struct Fetch {
    from: Member,
    epoch: Epoch,
    attempt: u64,
    last: Position,
    fetch: u64,
}

/// One node.
pub(crate) struct Node {
    pub(crate) name: char,
    pub(crate) generation: u64,
    pub(crate) boots: u64,
    /// Its clock runs this many thousandths faster than the cluster's time, from this offset.
    pub(crate) clock_rate: u64,
    pub(crate) clock_offset: u64,
    pub(crate) disk: Disk,
    pub(crate) replica: Option<Replica>,
    pub(crate) link: Link,
    pub(crate) requests: VecDeque<Request>,
    /// Syncs and applies only when asked to.
    pub(crate) is_slow: bool,
    pub(crate) apply_through: usize,
    pub(crate) is_isolated: bool,
    pub(crate) watch_is_off: bool,
    /// The barrier of the last read that came with one.
    pub(crate) barrier: Option<Barrier>,
    /// It has given its store up in this step.
    gave_up: bool,
    /// Copies for followers.
    snapshots: BTreeMap<NodeId, Snapshot>,
    /// Copies that were made, and the replica does not know yet.
    prepared: VecDeque<Event>,
    /// They are made known when asked to.
    pub(crate) holds_copies: bool,
    fetch: Option<Fetch>,
    fetched: Option<Disk>,
    /// Its process stands still until then: it neither hears nor ticks, while its clock runs on.
    pub(crate) paused_until: u64,
}

impl Node {
    pub(crate) fn id(&self) -> NodeId {
        NodeId(Ulid(u128::from(u32::from(self.name))))
    }

    pub(crate) fn member(&self) -> Member {
        Member { node: self.id(), generation: Generation(self.generation) }
    }

    pub(crate) fn clock(&self, now: u64) -> Timestamp {
        Timestamp(self.clock_offset + now * self.clock_rate / 1000)
    }
}

/// A message on its way.
#[derive(Clone, Debug)]
pub(crate) struct Envelope {
    pub(crate) from: Member,
    pub(crate) to: NodeId,
    pub(crate) message: Message,
}

/// The cluster.
pub(crate) struct Cluster {
    pub(crate) now: u64,
    pub(crate) lease_ms: u64,
    pub(crate) nodes: Vec<Node>,
    /// Every state that ever was; the last one is in force.
    pub(crate) states: Vec<ObservedState>,
    pub(crate) queue: Vec<Envelope>,
    pub(crate) checker: Checker,
    pub(crate) trace: Vec<String>,
    /// Scripts: the coordination service works by itself. Walks: by request.
    pub(crate) is_prompt: bool,
    /// One read of the log takes so many entries.
    pub(crate) log_read_entries: usize,
}

pub(crate) fn partition_uuid() -> Ulid {
    Ulid(0xFACADE)
}

/// Rows that put each statement.
pub(crate) fn puts<'a>(statements: impl IntoIterator<Item = &'a str>) -> Rows {
    let mut rows = RowsBuilder::new();
    for statement in statements {
        rows.put(statement.as_bytes(), b"").unwrap();
    }
    rows.finish()
}

pub(crate) fn statements(rows: &Rows) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let statement = |row| match row {
        RowRef::Put { key, .. } | RowRef::Delete { key } => text(key),
        RowRef::Marker { payload } => format!("<{}>", text(payload)),
    };
    rows.iter().map(statement).collect()
}

impl Cluster {
    pub(crate) fn new(names: &[char], min_in_sync: Option<u32>, lease_ms: u64, is_prompt: bool) -> Self {
        let mut cluster = Cluster {
            now: 0,
            lease_ms,
            nodes: Vec::new(),
            states: Vec::new(),
            queue: Vec::new(),
            checker: Checker::default(),
            trace: Vec::new(),
            is_prompt,
            log_read_entries: 3,
        };
        for name in names {
            cluster.nodes.push(Node {
                name: *name,
                generation: 1,
                boots: 0,
                clock_rate: 1000,
                clock_offset: 0,
                disk: Disk::default(),
                replica: None,
                link: Link::Up,
                requests: VecDeque::new(),
                is_slow: false,
                apply_through: 0,
                is_isolated: false,
                watch_is_off: false,
                barrier: None,
                gave_up: false,
                snapshots: BTreeMap::new(),
                prepared: VecDeque::new(),
                holds_copies: false,
                fetch: None,
                fetched: None,
                paused_until: 0,
            });
        }
        let replicas = cluster.nodes.iter().map(Node::id).collect();
        let mut state = PartitionState::initial(partition_uuid(), replicas, Ulid(1));
        state.min_in_sync = min_in_sync.unwrap_or(state.min_in_sync);
        cluster.states.push(ObservedState { version: Version(1), state });
        cluster
    }

    pub(crate) fn state(&self) -> &ObservedState {
        self.states.last().unwrap()
    }

    /// Starts a node's process on what its disk holds.
    pub(crate) fn start(&mut self, index: usize) {
        let clock = self.nodes[index].clock(self.now);
        let node = &mut self.nodes[index];
        node.boots += 1;
        // What recovery kept, it has synced.
        node.disk.durable = node.disk.entries.len();
        let seed = (u128::from(u32::from(node.name)) << 64) | (u128::from(node.boots) << 32);
        let config = ReplicaConfig {
            partition: PartitionId(0),
            partition_uuid: partition_uuid(),
            member: node.member(),
            lease_ms: self.lease_ms,
            nonce_seed: seed,
        };
        let durable = node.disk.recover();
        node.disk.applied = usize::try_from(durable.applied.0).unwrap();
        node.apply_through = node.disk.applied;
        node.replica = Some(Replica::new(config, durable, clock));
        self.checker.started(&self.nodes[index]);
        if self.is_prompt && node_watches(&self.nodes[index]) {
            self.observe(index, self.states.len() - 1);
        }
    }

    /// Ends a node's process; of what was not synced only the first `kept` entries are on the disk afterwards.
    pub(crate) fn crash(&mut self, index: usize, kept: usize) {
        let node = &mut self.nodes[index];
        node.replica = None;
        node.requests.clear();
        node.snapshots.clear();
        node.prepared.clear();
        (node.fetch, node.fetched) = (None, None);
        node.disk.entries.truncate(node.disk.durable + kept);
        // A batch that was torn is dropped whole.
        while node.disk.entries.len() > node.disk.durable
            && node.disk.entries.last().is_some_and(Entry::is_continued)
        {
            node.disk.entries.pop();
        }
        let recovered = node.disk.entries.iter().map(|entry| entry.known_commit).max().unwrap_or(0);
        node.disk.applied = usize::try_from(recovered).unwrap().min(node.disk.entries.len());
    }

    /// A new disk generation with nothing on it.
    pub(crate) fn wipe(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        assert!(node.replica.is_none(), "crash it first");
        node.generation += 1;
        node.disk = Disk::default();
    }

    /// A replica has given its store up: it begins anew with an empty one, as another generation.
    fn begin_anew(&mut self, index: usize) {
        self.checker.gives_up(&self.nodes, index, &self.states.last().unwrap().state);
        self.crash(index, 0);
        self.wipe(index);
        self.start(index);
    }

    /// Steps a node with an event, and performs all that follows.
    pub(crate) fn step(&mut self, index: usize, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let clock = self.nodes[index].clock(self.now);
            let Some(replica) = &mut self.nodes[index].replica else { return };
            let effects = replica.step(clock, event);
            let mut is_dirty = false;
            for effect in effects {
                is_dirty |= matches!(effect, Effect::Append { .. });
                self.perform(index, effect, &mut events);
            }
            let node = &mut self.nodes[index];
            if !node.is_slow && (is_dirty || node.disk.durable < node.disk.entries.len()) {
                events.push_back(sync(node));
            }
            if std::mem::take(&mut self.nodes[index].gave_up) {
                self.begin_anew(index);
                break;
            }
            self.checker.stepped(&self.nodes[index]);
        }
        self.checker.check(self.now, &self.nodes, &self.states.last().unwrap().state);
    }

    fn perform(&mut self, index: usize, effect: Effect, events: &mut VecDeque<Event>) {
        let line = describe::effect(self.nodes[index].name, &effect);
        self.trace.push(line);
        let from = self.nodes[index].member();
        let node = &mut self.nodes[index];
        match effect {
            Effect::PersistEpoch(epoch) => node.disk.epoch_seen = epoch,
            Effect::PersistLineage(lineage) => node.disk.lineage = lineage,
            Effect::Truncate { last_kept } => {
                let kept = usize::try_from(last_kept.0).unwrap();
                assert!(kept >= node.disk.applied, "an applied entry was cut");
                node.disk.entries.truncate(kept);
                node.disk.durable = node.disk.durable.min(kept);
            }
            Effect::Append { entries, known_commit } => {
                assert_eq!(entries.first.0, node.disk.entries.len() as u64 + 1, "an append left a gap");
                for statement in statements(&entries.rows) {
                    node.disk.entries.push(Entry {
                        epoch: entries.epoch,
                        statement,
                        known_commit: known_commit.0,
                    });
                }
            }
            Effect::Send { to, message } => self.send(Envelope { from, to, message }),
            Effect::SendLog { to, epoch, previous, commit } => {
                let after = usize::try_from(previous.sequence.0).unwrap();
                if after < node.disk.released {
                    events.push_back(Event::LogReleased { to });
                    return;
                }
                assert_eq!(
                    node.disk.position(after),
                    previous,
                    "a log read names an entry that is not there"
                );
                let entries = read_log(&node.disk, after, self.log_read_entries);
                let through = entries.last().map_or(previous.sequence, LogEntries::last);
                self.send(Envelope {
                    from,
                    to,
                    message: Message::Append { epoch, previous, entries, commit },
                });
                events.push_back(Event::LogSent { to, through });
            }
            Effect::Apply { through } => {
                node.apply_through = usize::try_from(through.0).unwrap();
                if !node.is_slow {
                    events.push_back(apply(node));
                }
            }
            Effect::WriteState { expected, state } => {
                self.request(index, Request::Write { expected, state }, events);
            }
            Effect::ReadState => self.request(index, Request::Read, events),
            Effect::BecameLeader { epoch } => self.checker.became_leader(&self.nodes[index], epoch),
            Effect::SendSnapshot { to, attempt } => {
                let epoch = node.replica.as_ref().unwrap().epoch();
                let mut disk = node.disk.clone();
                disk.durable = disk.entries.len();
                let last = Some(disk.position(disk.entries.len()));
                node.snapshots.insert(to, Snapshot { epoch, attempt, disk });
                let ready = Event::SnapshotReady { to, epoch, attempt, last };
                if self.is_prompt && !node.holds_copies {
                    events.push_back(ready);
                } else {
                    node.prepared.push_back(ready);
                }
            }
            Effect::DropSnapshot { to } => drop(node.snapshots.remove(&to)),
            Effect::FetchSnapshot { from, epoch, attempt, last, fetch } => {
                let fetch = Fetch { from, epoch, attempt, last, fetch };
                (node.fetch, node.fetched) = (Some(fetch), None);
            }
            Effect::DiscardSnapshot => (node.fetch, node.fetched) = (None, None),
            Effect::InstallSnapshot { last, apply_through } => {
                let copy = node.fetched.take().unwrap();
                assert_eq!(copy.position(copy.entries.len()), last, "the copy ends elsewhere");
                let Disk { epoch_seen, lineage, applied: before, .. } = node.disk;
                let applied = usize::try_from(apply_through.0).unwrap();
                let is_given_up = self.states.last().unwrap().state.lineage > lineage;
                assert!(applied >= before || is_given_up, "what is applied never falls");
                node.disk = Disk { epoch_seen, lineage, applied, fault: None, ..copy };
                node.apply_through = node.disk.applied;
                self.checker.installed(&self.nodes[index], &self.states.last().unwrap().state);
            }
            Effect::PersistFault(fault) => node.disk.fault = Some(fault),
            Effect::AbandonStore => node.gave_up = true,
            Effect::LostLeadership { .. } => node.snapshots.clear(),
            Effect::TransferFailed { .. } | Effect::Quarantined { .. } => {}
        }
    }

    /// The oldest copy that a node was asked for is ready.
    pub(crate) fn prepare(&mut self, index: usize) {
        if let Some(ready) = self.nodes[index].prepared.pop_front() {
            self.step(index, ready);
        }
    }

    /// What a node fetches has arrived, or could not be had. False: it fetches nothing.
    pub(crate) fn finish_fetch(&mut self, index: usize, is_whole: bool) -> bool {
        let Some(Fetch { from, epoch, attempt, last, fetch }) = self.nodes[index].fetch.take() else {
            return false;
        };
        let me = self.nodes[index].id();
        let is_cut = self.nodes[index].is_isolated;
        let sends = |node: &&Node| node.member() == from && node.replica.is_some() && !node.is_isolated;
        let leader = self.nodes.iter().find(sends).filter(|_| is_whole && !is_cut);
        let copy = leader.and_then(|leader| leader.snapshots.get(&me)).cloned();
        let copy = copy.filter(|copy| copy.epoch == epoch && copy.attempt == attempt);
        let copy = copy.map(|copy| copy.disk);
        let copy = copy.filter(|disk| disk.position(disk.entries.len()) == last);
        let state = copy.as_ref().map(Disk::recover);
        self.nodes[index].fetched = copy;
        self.trace.push(format!(
            "{} {}",
            self.nodes[index].name,
            if state.is_some() { "has it" } else { "has nothing" }
        ));
        self.step(index, Event::SnapshotFetched { fetch, state });
        true
    }

    fn finish_fetches(&mut self) {
        for index in 0..self.nodes.len() {
            if !self.nodes[index].holds_copies {
                self.prepare(index);
            }
            self.finish_fetch(index, true);
        }
    }

    fn send(&mut self, envelope: Envelope) {
        let is_cut = |id| self.nodes.iter().any(|node| node.is_isolated && node.id() == id);
        if !is_cut(envelope.from.node) && !is_cut(envelope.to) {
            self.queue.push(envelope);
        }
    }

    fn request(&mut self, index: usize, request: Request, events: &mut VecDeque<Event>) {
        if !self.is_prompt || self.nodes[index].link == Link::Hold {
            self.nodes[index].requests.push_back(request);
            return;
        }
        match (self.nodes[index].link, request) {
            (Link::Up, Request::Read) => {
                events.push_back(Event::StateObserved { state: self.state().clone() });
            }
            (link, Request::Write { expected, state }) => {
                let outcome = match link {
                    Link::Up => self.write(expected, state),
                    Link::Written => {
                        self.write(expected, state);
                        WriteOutcome::Unknown
                    }
                    Link::Lost => WriteOutcome::Unknown,
                    Link::Down | Link::Hold => WriteOutcome::NotWritten,
                };
                events.push_back(Event::StateWritten { outcome });
            }
            (_, Request::Read) => {}
        }
    }

    /// The coordination service takes a compare-and-set.
    pub(crate) fn write(&mut self, expected: Version, state: PartitionState) -> WriteOutcome {
        if self.state().version != expected {
            return WriteOutcome::Conflict;
        }
        let version = Version(expected.0 + 1);
        self.trace.push(format!("state {}: {}", version.0, describe::state(&state)));
        self.states.push(ObservedState { version, state });
        WriteOutcome::Written(version)
    }

    /// An operator gives up what others hold, and goes on from what this node has.
    pub(crate) fn recover(&mut self, index: usize) {
        let ObservedState { version, state } = self.state().clone();
        let nonce = Ulid(u128::MAX - u128::from(version.0.unsigned_abs()));
        let state = state.recovered(self.nodes[index].member(), nonce);
        let lineage = state.lineage;
        self.write(version, state);
        self.checker.recovered(lineage, &self.nodes[index].disk);
    }

    /// A node's watch shows one of the states.
    pub(crate) fn observe(&mut self, index: usize, state: usize) {
        let state = self.states[state].clone();
        self.step(index, Event::StateObserved { state });
    }

    pub(crate) fn deliver(&mut self, envelope: Envelope) {
        if let Some(index) = self.nodes.iter().position(|node| node.id() == envelope.to)
            && self.nodes[index].replica.is_some()
        {
            self.trace.push(describe::delivery(&envelope));
            self.step(index, Event::Received { from: envelope.from, message: envelope.message });
        }
    }

    /// The watches of every node that has one show the state in force, until nothing changes.
    pub(crate) fn settle_watches(&mut self) {
        let mut shown = BTreeSet::new();
        loop {
            let version = self.state().version;
            let todo = self
                .nodes
                .iter()
                .position(|node| node_watches(node) && !shown.contains(&(node.name, version)));
            let Some(index) = todo else { return };
            shown.insert((self.nodes[index].name, version));
            self.observe(index, self.states.len() - 1);
        }
    }

    /// Lets time pass, ticking every replica when it is due. With `is_networked`, messages arrive at once.
    pub(crate) fn advance(&mut self, duration_ms: u64, is_networked: bool) {
        let end = self.now + duration_ms;
        loop {
            if is_networked {
                self.deliver_all();
                self.finish_fetches();
            }
            if self.now == end {
                return;
            }
            self.now += 1;
            for index in 0..self.nodes.len() {
                let clock = self.nodes[index].clock(self.now);
                let is_paused = self.now < self.nodes[index].paused_until;
                let is_due = |replica: &Replica| !is_paused && clock >= replica.next_deadline();
                if self.nodes[index].replica.as_ref().is_some_and(is_due) {
                    let version = self.state().version;
                    self.step(index, Event::Tick);
                    if self.is_prompt && self.state().version != version {
                        self.settle_watches();
                    }
                }
            }
        }
    }

    pub(crate) fn deliver_all(&mut self) {
        while !self.queue.is_empty() {
            let envelope = self.queue.remove(0);
            let version = self.state().version;
            self.deliver(envelope);
            if self.is_prompt && self.state().version != version {
                self.settle_watches();
            }
        }
    }
}

fn node_watches(node: &Node) -> bool {
    node.replica.is_some() && node.link == Link::Up && !node.watch_is_off
}

/// Makes everything written durable.
pub(crate) fn sync(node: &mut Node) -> Event {
    node.disk.durable = node.disk.entries.len();
    Event::Durable { through: Sequence(node.disk.durable as u64) }
}

/// Applies what was asked for.
pub(crate) fn apply(node: &mut Node) -> Event {
    assert!(node.apply_through <= node.disk.durable, "what a crash could take back was applied");
    node.disk.applied = node.apply_through;
    Event::Applied { through: Sequence(node.disk.applied as u64) }
}

fn read_log(disk: &Disk, after: usize, entries_max: usize) -> Vec<LogEntries> {
    let behind = disk.entries.iter().skip(after + entries_max.max(1) - 1);
    let entries_max = entries_max.max(1) + behind.take_while(|entry| entry.is_continued()).count();
    let mut runs: Vec<(u64, usize, Vec<&str>)> = Vec::new();
    for (index, entry) in disk.entries.iter().enumerate().skip(after).take(entries_max) {
        match runs.last_mut() {
            Some((epoch, _, run)) if *epoch == entry.epoch => run.push(&entry.statement),
            _ => runs.push((entry.epoch, index + 1, vec![&entry.statement])),
        }
    }
    let encode = |(epoch, first, run): (u64, usize, Vec<&str>)| {
        let mut rows = RowsBuilder::new();
        for statement in run {
            match statement.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')) {
                Some(marker) => rows.marker(marker.as_bytes()).unwrap(),
                None => rows.put(statement.as_bytes(), b"").unwrap(),
            }
        }
        LogEntries { epoch, first: Sequence(first as u64), log_time_ms: 0, rows: rows.finish() }
    };
    runs.into_iter().map(encode).collect()
}
