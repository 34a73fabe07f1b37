//! Runs the golden scripts in `tests/scripts`: each file's name states its case. `UPDATE_GOLDENFILES=1` writes
//! what the commands put out; read the difference before believing it.
//!
//! ```text
//! nodes A B C [min=N] [lease=MS]      a cluster, every node started; the coordination service is up
//! tick MS                             time passes; what is sent waits in the queue
//! run MS                              time passes, messages arrive at once; tells only what changes roles
//! queue | deliver | drop | duplicate  with [from=A] [to=B] [kind=append]; deliver [last=true] takes the newest
//! transfer A [to=B] [within=MS]       A hands over, by default to the best and within a lease
//! drained A B                         these nodes, and no others, are drained
//! barrier A | read A behind           a read comes that waits behind a barrier; what becomes of it
//! propose A x y | read A | status [A] | log A | state | fresh A
//! crash A [kept=N] | restart A | wipe A | stop A
//! leave A                             A's process is about to stop
//! stall A                             A's disk stood still, and came back
//! damage A words                      somebody comes upon damage to A's store
//! isolate A | join A                  cuts a node's network, mends it
//! slow A | sync A | apply A | fast A  holds back syncing and applying
//! release A N                         the first N entries leave the log of A
//! fetch A | fetch A broken            the snapshot that A fetches arrives, or does not
//! hold A | ready A                    A's copies for followers take their time; the oldest one is ready
//! full A                              the disk of A is full
//! needed A                            from where on A keeps its log for followers that are being rebuilt
//! coordination MODE A                 up, down, hold, written, lost: see `Link`
//! execute A                           what A asked for while on hold happens now, the answers are lost
//! watch off A | watch on A            the watch of a node shows nothing new; then what is in force
//! rollback N                          the coordination service forgets its last N states
//! recover A                           an operator goes on from what A has, whatever is lost by that
//! place BAC                           the controller puts the replicas in this order
//! edit [uuid=N] [replicas=AB]         somebody else writes the state
//! expect quarantine | expect nothing  what the checker should not object to
//! ```

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

use goldenscript::{Argument, Command, Context, Runner};
use paddock_coordination::Version;
use paddock_partition::replica::{Event, Message, ObservedState};
use ulid::Ulid;

use crate::cluster::{Cluster, Envelope, Link, Request, apply, puts, sync};
use crate::describe;

#[derive(Default)]
struct Script {
    cluster: Option<Cluster>,
}

type Output = Result<String, Box<dyn Error>>;

/// Which messages of the queue a command means.
struct Filter {
    from: Option<char>,
    to: Option<char>,
    kind: Option<String>,
    is_last: bool,
}

impl Filter {
    fn takes(&self, envelope: &Envelope) -> bool {
        let kind = match &envelope.message {
            Message::Heartbeat { .. } => "heartbeat",
            Message::Grant { .. } => "grant",
            Message::Append { .. } => "append",
            Message::Ack { .. } => "ack",
            Message::Mismatch { .. } => "mismatch",
            Message::Rebuild { .. } => "rebuild",
            Message::Snapshot { .. } => "snapshot",
            Message::SnapshotFailed { .. } => "failed",
            Message::Release { .. } => "release",
            Message::Stale { .. } => "stale",
        };
        self.from.is_none_or(|from| describe::node(envelope.from.node) == from)
            && self.to.is_none_or(|to| describe::node(envelope.to) == to)
            && self.kind.as_ref().is_none_or(|wanted| wanted == kind)
    }
}

impl Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Output {
        let words: Vec<&str> = command.args.iter().filter_map(positional).collect();
        if command.name == "nodes" {
            return self.nodes(&words, command);
        }
        let cluster = self.cluster.as_mut().ok_or("nodes A B … comes first")?;
        cluster.trace.clear();
        let is_terse = command.name == "run";
        let mut output = run(cluster, command, &words)?;
        for line in &cluster.trace {
            let tells = [
                "LEADS",
                "LOST",
                "NOT HANDED",
                "QUARANTINED",
                "INSTALL",
                "GIVES UP",
                "persist lineage",
                "state ",
            ];
            if !is_terse || tells.iter().any(|word| line.contains(word)) && !line.contains("read the state") {
                writeln!(output, "{line}")?;
            }
        }
        Ok(output)
    }
}

impl Script {
    fn nodes(&mut self, words: &[&str], command: &Command) -> Output {
        let names: Vec<char> = words.iter().filter_map(|word| word.chars().next()).collect();
        let min_in_sync = value(command, "min").map(str::parse).transpose()?;
        let lease_ms = value(command, "lease").map_or(Ok(1000), str::parse)?;
        let mut cluster = Cluster::new(&names, min_in_sync, lease_ms, true);
        for index in 0..names.len() {
            cluster.start(index);
        }
        cluster.settle_watches();
        let output = cluster.trace.iter().map(|line| format!("{line}\n")).collect();
        self.cluster = Some(cluster);
        Ok(output)
    }
}

fn value<'a>(command: &'a Command, key: &str) -> Option<&'a str> {
    command.args.iter().find_map(|argument| match argument {
        Argument::KeyValue(found, value) if found == key => Some(value.as_str()),
        _ => None,
    })
}

fn positional(argument: &Argument) -> Option<&str> {
    match argument {
        Argument::Positional(value) => Some(value.as_str()),
        _ => None,
    }
}

fn run(cluster: &mut Cluster, command: &Command, words: &[&str]) -> Output {
    let number = |key: &str| value(command, key).map(str::parse::<u64>).transpose();
    let first = words.first().copied().unwrap_or_default();
    match command.name.as_str() {
        "tick" => cluster.advance(first.parse()?, false),
        "run" => cluster.advance(first.parse()?, true),
        "queue" | "deliver" | "drop" | "duplicate" => return queue(cluster, command),
        "status" => return status(cluster, words),
        "state" => {
            let state = cluster.state();
            return Ok(format!("state {}: {}\n", state.version.0, describe::state(&state.state)));
        }
        "rollback" => {
            let keep = cluster.states.len() - first.parse::<usize>()?;
            cluster.states.truncate(keep);
            cluster.checker.is_blind = true;
            cluster.settle_watches();
        }
        "edit" => edit(cluster, command)?,
        "place" => place(cluster, first),
        "drained" => drained(cluster, words),
        "expect" => cluster.checker.quarantine_is_expected = first == "quarantine",
        name => {
            let node = if matches!(name, "coordination" | "watch") { words.get(1) } else { words.first() };
            let node = node.and_then(|word| word.chars().next()).ok_or("which node?")?;
            let index = cluster.nodes.iter().position(|one| one.name == node).ok_or("no such node")?;
            if name == "transfer" {
                return transfer(cluster, index, value(command, "to"), number("within")?);
            }
            return on_node(cluster, index, name, words, number("kept")?);
        }
    }
    Ok(String::new())
}

fn transfer(cluster: &mut Cluster, index: usize, to: Option<&str>, within_ms: Option<u64>) -> Output {
    let to = to.and_then(|word| word.chars().next());
    let to = to.and_then(|name| cluster.nodes.iter().find(|node| node.name == name)).map(|node| node.id());
    let deadline = cluster.nodes[index].clock(cluster.now).plus_ms(within_ms.unwrap_or(cluster.lease_ms));
    cluster.step(index, Event::TransferLeadership { to, deadline });
    Ok(String::new())
}

fn drained(cluster: &mut Cluster, words: &[&str]) {
    let is_drained = |name: char| words.iter().any(|word| word.starts_with(name));
    let nodes: BTreeSet<_> =
        cluster.nodes.iter().filter(|node| is_drained(node.name)).map(|node| node.id()).collect();
    for index in 0..cluster.nodes.len() {
        cluster.step(index, Event::NodesDrained { nodes: nodes.clone() });
    }
}

fn on_node(cluster: &mut Cluster, index: usize, name: &str, words: &[&str], kept: Option<u64>) -> Output {
    let version = cluster.state().version;
    match name {
        "propose" => {
            let Some(replica) = &cluster.nodes[index].replica else { return Err("it is down".into()) };
            if let Err(refusal) = replica.may_propose() {
                return Ok(describe::refusal(&refusal) + "\n");
            }
            let rows = puts(words[1..].iter().copied());
            cluster.step(index, Event::Propose { rows, log_time_ms: 0 });
        }
        "barrier" => {
            let Some(replica) = &cluster.nodes[index].replica else { return Err("it is down".into()) };
            match replica.barrier() {
                Ok(barrier) => cluster.nodes[index].barrier = Some(barrier),
                Err(refusal) => return Ok(describe::refusal(&refusal) + "\n"),
            }
            cluster.step(index, Event::BarrierRead);
        }
        "read" => {
            let node = &cluster.nodes[index];
            let Some(replica) = &node.replica else { return Err("it is down".into()) };
            let may_read = match words.get(1) {
                Some(_) => replica.may_read_behind(node.barrier.ok_or("no read has come to wait")?),
                None => replica.may_read(node.clock(cluster.now)),
            };
            return Ok(match may_read {
                Ok(()) => format!("reads what is applied through {}\n", node.disk.applied),
                Err(refusal) => describe::refusal(&refusal) + "\n",
            });
        }
        "fresh" => {
            let node = &cluster.nodes[index];
            let Some(replica) = &node.replica else { return Err("it is down".into()) };
            let now = node.clock(cluster.now);
            return Ok(match replica.fresh_as_of() {
                Some((as_of, _)) => format!("at {now} fresh as of {as_of}: {} ms ago\n", now.since(as_of)),
                None => "does not know how fresh it is\n".to_owned(),
            });
        }
        "log" => return Ok(log(cluster, index)),
        "needed" => {
            let Some(replica) = &cluster.nodes[index].replica else { return Err("it is down".into()) };
            return Ok(match replica.log_needed() {
                Some(first) => format!("keeps its log from {first} on\n"),
                None => "keeps no log for anybody\n".to_owned(),
            });
        }
        "crash" => cluster.crash(index, usize::try_from(kept.unwrap_or(0))?),
        "restart" => cluster.start(index),
        "wipe" => cluster.wipe(index),
        "stop" => cluster.step(index, Event::Stop),
        "recover" => cluster.recover(index),
        "release" => {
            let released = words.get(1).ok_or("how many?")?.parse()?;
            let disk = &mut cluster.nodes[index].disk;
            assert!(released <= disk.applied, "only what is in the store leaves the log");
            disk.released = released;
        }
        "fetch" => {
            if !cluster.finish_fetch(index, words.get(1) != Some(&"broken")) {
                return Err("it fetches nothing".into());
            }
        }
        "hold" => cluster.nodes[index].holds_copies = true,
        "ready" => cluster.prepare(index),
        "full" => cluster.step(index, Event::DiskFull),
        "damage" => cluster.step(index, Event::StoreDamaged { what: words[1..].join(" ") }),
        "stall" => cluster.step(index, Event::DiskStalled),
        "leave" => cluster.step(index, Event::Leave),
        "isolate" => cluster.nodes[index].is_isolated = true,
        "join" => cluster.nodes[index].is_isolated = false,
        "slow" => cluster.nodes[index].is_slow = true,
        "sync" | "fast" => {
            cluster.nodes[index].is_slow &= name == "sync";
            let durable = sync(&mut cluster.nodes[index]);
            cluster.step(index, durable);
            if name == "fast" {
                let applied = apply(&mut cluster.nodes[index]);
                cluster.step(index, applied);
            }
        }
        "apply" => {
            let applied = apply(&mut cluster.nodes[index]);
            cluster.step(index, applied);
        }
        "coordination" => coordination(cluster, index, words[0])?,
        "execute" => execute(cluster, index),
        "watch" => cluster.nodes[index].watch_is_off = words[0] == "off",
        _ => return Err(format!("no such command: {name}").into()),
    }
    if cluster.state().version != version || matches!(name, "coordination" | "watch") {
        cluster.settle_watches();
    }
    Ok(String::new())
}

fn coordination(cluster: &mut Cluster, index: usize, mode: &str) -> Result<(), Box<dyn Error>> {
    cluster.nodes[index].link = match mode {
        "up" => Link::Up,
        "down" => Link::Down,
        "hold" => Link::Hold,
        "written" => Link::Written,
        "lost" => Link::Lost,
        _ => return Err(format!("no such mode: {mode}").into()),
    };
    // What was on hold happens now, in its order.
    while cluster.nodes[index].link == Link::Up
        && let Some(request) = cluster.nodes[index].requests.pop_front()
    {
        let event = match request {
            Request::Write { expected, state } => {
                Event::StateWritten { outcome: cluster.write(expected, state) }
            }
            Request::Read => Event::StateObserved { state: cluster.state().clone() },
        };
        cluster.step(index, event);
    }
    Ok(())
}

/// What a node asked for happens, and the connection breaks before the answer.
fn execute(cluster: &mut Cluster, index: usize) {
    let requests = std::mem::take(&mut cluster.nodes[index].requests);
    for request in requests {
        if let Request::Write { expected, state } = request {
            cluster.write(expected, state);
            cluster.step(
                index,
                Event::StateWritten { outcome: paddock_partition::replica::WriteOutcome::Unknown },
            );
        }
    }
}

fn queue(cluster: &mut Cluster, command: &Command) -> Output {
    let letter = |key| value(command, key).and_then(|word| word.chars().next());
    let filter = Filter {
        from: letter("from"),
        to: letter("to"),
        kind: value(command, "kind").map(str::to_owned),
        is_last: value(command, "last").is_some(),
    };
    let (mut taken, rest): (Vec<_>, Vec<_>) =
        std::mem::take(&mut cluster.queue).into_iter().partition(|envelope| filter.takes(envelope));
    cluster.queue = rest;
    if filter.is_last {
        let last = taken.pop();
        cluster.queue.append(&mut taken);
        taken.extend(last);
    }
    match command.name.as_str() {
        "deliver" => {
            let version = cluster.state().version;
            for envelope in taken {
                cluster.deliver(envelope);
            }
            if cluster.state().version != version {
                cluster.settle_watches();
            }
            return Ok(String::new());
        }
        "duplicate" => cluster.queue.extend(taken.iter().chain(&taken).cloned()),
        "queue" => cluster.queue.extend(taken.iter().cloned()),
        _ => {}
    }
    Ok(taken.iter().map(|envelope| describe::envelope(envelope) + "\n").collect())
}

/// The controller puts the replicas in another order, and keeps the nonce.
fn place(cluster: &mut Cluster, order: &str) {
    let ObservedState { version, mut state } = cluster.state().clone();
    let id = |name| cluster.nodes.iter().find(|node| node.name == name).map(|node| node.id());
    state.replicas = order.chars().filter_map(id).collect();
    cluster.write(version, state);
    cluster.settle_watches();
}

fn edit(cluster: &mut Cluster, command: &Command) -> Result<(), Box<dyn Error>> {
    let ObservedState { version, mut state } = cluster.state().clone();
    if let Some(uuid) = value(command, "uuid") {
        state.partition_uuid = Ulid(uuid.parse()?);
        cluster.checker.is_blind = true;
    }
    if let Some(replicas) = value(command, "replicas") {
        let chosen = cluster.nodes.iter().filter(|node| replicas.contains(node.name));
        state.replicas = chosen.map(crate::cluster::Node::id).collect();
    }
    state.nonce = Ulid(u128::MAX - u128::from(version.0.unsigned_abs()));
    cluster.write(Version(version.0), state);
    cluster.settle_watches();
    Ok(())
}

fn status(cluster: &Cluster, words: &[&str]) -> Output {
    let mut output = String::new();
    let chosen = |name: char| words.is_empty() || words.iter().any(|word| word.starts_with(name));
    for node in cluster.nodes.iter().filter(|node| chosen(node.name)) {
        let Some(replica) = &node.replica else {
            writeln!(output, "{}: down", node.name)?;
            continue;
        };
        let status = replica.status();
        let leader = status.leader.map_or("nobody".to_owned(), |leader| describe::node(leader).to_string());
        write!(output, "{}: {} of epoch {}, leader {leader}, ", node.name, status.role, status.epoch)?;
        let (last, durable) = (status.last, status.durable);
        write!(output, "last {}@{} durable {durable} ", last.sequence, last.epoch)?;
        writeln!(output, "commit {} applied {}", status.commit, status.applied)?;
        for follower in &status.followers {
            let (name, acknowledged) = (describe::node(follower.node), follower.acknowledged);
            let granted = if follower.granted { "granted" } else { "no grant" };
            writeln!(output, "   {name}: {}, acknowledged {acknowledged}, {granted}", follower.state)?;
        }
        if let Some(problem) = &status.problem {
            writeln!(output, "   {}", describe::text(problem))?;
        }
    }
    Ok(output)
}

fn log(cluster: &Cluster, index: usize) -> String {
    let disk = &cluster.nodes[index].disk;
    let entry = |(index, entry): (usize, &crate::cluster::Entry)| {
        let unsynced = if index >= disk.durable { " (not durable)" } else { "" };
        format!("{}@{} {}{unsynced}\n", index + 1, entry.epoch, describe::text(&entry.statement))
    };
    disk.entries.iter().enumerate().map(entry).collect()
}

/// What a script puts out now.
#[cfg(feature = "mutations")]
pub(crate) fn output_of(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts").join(name);
    let input = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    goldenscript::generate(&mut Script::default(), &input).unwrap()
}

/// Runs one script.
fn script(path: &Path) {
    goldenscript::run(&mut Script::default(), path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

#[test]
fn golden_scripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "there are scripts to run");
    for path in paths {
        println!("{}", path.display());
        script(&path);
    }
}
