//! Rounds of owner loops, and what leaves them: parcels, requests, answers.

use paddock_coordination::Member;
use paddock_partition::configuration::Request;
use paddock_partition::inbox::Delivery;
use paddock_partition::peer::Parcel;
use paddock_partition::replica::{Message, RoleName};
use ulid::Ulid;

use crate::invariants::Violation;
use crate::queue::{MS, Time};
use crate::simulation::{Asked, Happening, Simulation, index_of};

/// The shortest time between two rounds of a replica.
const ROUND_MIN: Time = 20;

impl Simulation {
    /// A replica's round, if it is still due.
    pub(crate) fn round(
        &mut self,
        node: usize,
        boot: u64,
        partition: usize,
        at: Time,
    ) -> Result<(), Violation> {
        let now = self.now;
        let Some(machine) = self.nodes.get_mut(node) else { return Ok(()) };
        let (clock, paused_until, stalled_until) =
            (machine.clock(now), machine.paused_until, machine.disk_stalled_until);
        if machine.boots != boot {
            return Ok(());
        }
        let Some(process) = &machine.process else { return Ok(()) };
        process.turn(clock);
        let Some(hosted) = machine.hosted_mut(partition) else { return Ok(()) };
        if hosted.round_at != Some(at) {
            return Ok(());
        }
        hosted.round_at = None;
        let resumes = hosted.busy_until.max(paused_until);
        if resumes > now {
            self.wake(node, partition, resumes);
            return Ok(());
        }
        let durable = hosted.owner.store.durable();
        let first = hosted.owner.outlet.try_receive();
        let outcome = hosted.owner.run_round(first);
        let compaction = match &outcome {
            Ok(true) if hosted.owner.store.is_congested() || self.random.per_mille(3) => {
                hosted.owner.store.compact()
            }
            _ => Ok(()),
        };
        let (replica, store) = (&hosted.owner.replica, &hosted.owner.store);
        let figures = [
            node as u64,
            partition as u64,
            replica.epoch().0,
            replica.commit().0,
            store.last().sequence.0,
            store.durable().0,
            replica.role() as u64,
        ];
        self.trace.note(now, "round: node, partition, epoch, commit, last, durable, role", &figures);
        let synced = store.durable() != durable;
        let leads = replica.role() == RoleName::Leader;
        let wait = hosted.owner.wait();
        let cost =
            self.random.between(5, 50) + if synced { self.random.below(self.plan.sync_max) } else { 0 };
        let done = (now + cost).max(if synced { stalled_until } else { 0 });
        hosted.busy_until = done;
        // What a store shows that has failed is nobody's business any more.
        let grown = outcome.is_ok() && self.watch_round(node, boot, partition)?;
        self.collect(node, done);
        let error = match (outcome, compaction) {
            (Ok(false), _) => return self.stopped(node, partition),
            (Ok(true), Ok(())) => None,
            (Err(error), _) | (_, Err(error)) => Some(error),
        };
        if let Some(error) = error {
            self.store_failed(node, &error)?;
        } else if let Some(machine) = self.nodes.get(node) {
            let wait = machine.duration(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
            self.wake(node, partition, done + wait.max(ROUND_MIN));
        }
        if grown || synced || leads { self.check(partition) } else { Ok(()) }
    }

    fn watch_round(&mut self, node: usize, boot: u64, partition: usize) -> Result<bool, Violation> {
        let Some(machine) = self.nodes.get_mut(node) else { return Ok(false) };
        machine.note_held(partition);
        let (Some(hosted), Some(watcher)) = (machine.hosted(partition), self.watchers.get_mut(partition))
        else {
            return Ok(false);
        };
        let grown = watcher.after_round(node, boot, &hosted.owner)?;
        if self.random.per_mille(5) {
            watcher.check_contents(node, &hosted.owner)?;
        }
        Ok(grown)
    }

    /// Takes what has left a node's process, and sends it on its way.
    pub(crate) fn collect(&mut self, node: usize, done: Time) {
        let Some(process) = self.nodes.get_mut(node).and_then(|node| node.process.as_mut()) else { return };
        let parcels = process.take_parcels();
        let mut replies = Vec::new();
        while let Some(batch) = process.replies.try_receive() {
            replies.extend(batch);
        }
        for (to, parcel) in parcels {
            if let Some(to) = self.place(to) {
                self.send(node, to, done, parcel);
            }
        }
        for reply in replies {
            let at = done + self.weather.delay(&mut self.random);
            let (client, attempt) = (reply.operation_id % 64, reply.operation_id / 64);
            if !self.random.per_mille(self.weather.lost_per_mille) {
                let client = usize::try_from(client).unwrap_or(usize::MAX);
                self.queue.at(at, Happening::Reply { client, attempt, answer: reply.answer });
            }
        }
        for partition in 0..self.assignments.len() {
            self.ask(node, partition, done);
        }
    }

    fn send(&mut self, from: usize, to: usize, done: Time, parcel: Parcel) {
        let is_cut = self.cut_until.get(from).and_then(|row| row.get(to)).is_some_and(|until| done < *until);
        let partition = index_of(parcel.partition);
        let Some(sender) = self.nodes.get(from).map(|node| node.id) else { return };
        let member = Member { node: sender, generation: parcel.generation };
        if is_cut || self.random.per_mille(self.weather.lost_per_mille) {
            self.trace.note(self.now, "lost: from, to", &[from as u64, to as u64]);
            return;
        }
        let copies = 1 + u64::from(self.random.per_mille(self.weather.doubled_per_mille));
        for _ in 0..copies {
            let at = done + self.weather.delay(&mut self.random);
            let happening = Happening::Parcel {
                to,
                partition,
                partition_uuid: parcel.partition_uuid,
                from: member,
                messages: parcel.messages.clone(),
            };
            self.queue.at(at, happening);
        }
    }

    /// Messages arrive, as at a node's host.
    pub(crate) fn parcel(
        &mut self,
        to: usize,
        partition: usize,
        partition_uuid: Ulid,
        from: Member,
        messages: Vec<Message>,
    ) {
        let is_ours = self.assignments.get(partition).is_some_and(|one| one.partition_uuid == partition_uuid);
        let Some(hosted) = self.nodes.get(to).and_then(|node| node.hosted(partition)) else { return };
        for message in &messages {
            let sender = u64::try_from(from.node.0.0).unwrap_or(0);
            self.trace.note(self.now, name(message), &[sender, to as u64, message.epoch().0]);
            self.trace.say(self.now, || format!("    {message:?}"));
        }
        let bytes = messages.iter().map(Message::size_bytes).sum();
        if is_ours && let Ok(permit) = hosted.messages_budget.acquire(bytes) {
            // Peers send again what a full inbox did not take.
            let _ = hosted.inbox.deliver(Delivery::Messages { from, messages, permit });
            self.wake(to, partition, self.now);
        }
    }

    /// Sends a replica's next request to the coordination service on its way, if none is under way.
    pub(crate) fn ask(&mut self, node: usize, partition: usize, done: Time) {
        let Some(machine) = self.nodes.get_mut(node) else { return };
        let boot = machine.boots;
        let Some(hosted) = machine.hosted_mut(partition) else { return };
        if hosted.is_asking {
            return;
        }
        let Some(request) = hosted.requests.try_next() else { return };
        hosted.is_asking = true;
        let request = match request {
            Request::Write { expected, state } => Asked::Write { expected, state },
            Request::Read => Asked::Read,
        };
        let at = done + self.weather.delay(&mut self.random).min(200 * MS);
        self.queue.at(at, Happening::Serve { node, boot, partition, request });
    }
}

fn name(message: &Message) -> &'static str {
    match message {
        Message::Heartbeat { .. } => "heartbeat: from, to, epoch",
        Message::Grant { .. } => "grant: from, to, epoch",
        Message::Append { .. } => "append: from, to, epoch",
        Message::Ack { .. } => "ack: from, to, epoch",
        Message::Mismatch { .. } => "mismatch: from, to, epoch",
        Message::Rebuild { .. } => "rebuild: from, to, epoch",
        Message::Snapshot { .. } => "snapshot: from, to, epoch",
        Message::SnapshotFailed { .. } => "snapshot failed: from, to, epoch",
        Message::Release { .. } => "release: from, to, epoch",
        Message::Stale { .. } => "stale: from, to, epoch",
    }
}
