//! What must hold at every moment, whatever happens: the watcher sees all nodes at once, which nobody in the real world
//! can. The numbers are those of the invariants in the protocol's document.

use std::collections::BTreeMap;

use bytes::Bytes;
use paddock_coordination::{Epoch, PartitionState};
use paddock_partition::replica::RoleName;
use paddock_partition::runtime::OwnerLoop;
use paddock_storage::{Position, RowRef, Sequence};

use crate::node::Node;
use crate::queue::Time;

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub String);

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// A key has a value.
    Put(Bytes, Bytes),
    /// A key has none.
    Delete(Bytes),
    /// Nothing about any key.
    Marker(Bytes),
}

impl Statement {
    fn of(row: RowRef<'_>) -> Self {
        match row {
            RowRef::Put { key, value, .. } => {
                Statement::Put(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value))
            }
            RowRef::Delete { key } => Statement::Delete(Bytes::copy_from_slice(key)),
            RowRef::Marker { payload } => Statement::Marker(Bytes::copy_from_slice(payload)),
        }
    }
}

/// One committed entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Who wrote it.
    pub epoch: u64,
    /// What it says.
    pub statement: Statement,
}

/// Watches one partition.
#[derive(Debug)]
pub struct Watcher {
    /// By any replica's word: sequence − 1 → entry.
    pub committed: Vec<Committed>,
    leaders: BTreeMap<Epoch, (usize, u64)>,
    /// What each node was seen to know, in its present life.
    commits: Vec<(u64, u64)>,
}

fn check(holds: bool, what: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation(what())) }
}

impl Watcher {
    /// A watcher of so many nodes.
    #[must_use]
    pub fn new(nodes: usize) -> Self {
        Watcher { committed: Vec::new(), leaders: BTreeMap::new(), commits: vec![(0, 0); nodes] }
    }

    /// The last committed entry.
    #[must_use]
    pub fn last(&self) -> Position {
        let epoch = self.committed.last().map_or(0, |entry| entry.epoch);
        Position { epoch, sequence: Sequence(self.committed.len() as u64) }
    }

    /// How many epochs had a leader that was seen.
    #[must_use]
    pub fn epochs(&self) -> u64 {
        self.leaders.len() as u64
    }

    /// After a round of a node's replica. Returns whether more is committed now.
    ///
    /// # Errors
    /// What must not be.
    pub fn after_round(&mut self, node: usize, boot: u64, owner: &OwnerLoop) -> Result<bool, Violation> {
        let (replica, before) = (&owner.replica, self.committed.len());
        check(replica.role() != RoleName::Quarantined, || {
            format!("node {node} quarantined itself: {}", replica.problem().unwrap_or_default())
        })?;
        self.compare_log(node, boot, owner)?;
        if replica.role() == RoleName::Leader {
            let life = (node, boot);
            let leader = *self.leaders.entry(replica.epoch()).or_insert(life);
            let epoch = replica.epoch();
            check(leader == life, || {
                format!("invariant 5: epoch {epoch} is led by {leader:?} and by {life:?}")
            })?;
        }
        Ok(self.committed.len() > before)
    }

    /// Invariants 1 and 7: what is committed here is what is committed everywhere. A commit never falls.
    fn compare_log(&mut self, node: usize, boot: u64, owner: &OwnerLoop) -> Result<(), Violation> {
        let commit = owner.replica.commit().0;
        let Some(seen) = self.commits.get_mut(node) else { return Ok(()) };
        if seen.0 != boot {
            *seen = (boot, owner.store.log_first().0.saturating_sub(1));
        }
        check(commit >= seen.1, || format!("commit fell from {} to {commit} on node {node}", seen.1))?;
        let mut next = seen.1 + 1;
        seen.1 = commit;
        while next <= commit {
            let runs = owner.store.read_log(Sequence(next - 1), 1 << 20).map_err(|error| {
                Violation(format!("node {node} cannot read its log from {next} on: {error}"))
            })?;
            check(!runs.is_empty(), || {
                format!("node {node}: {commit} is committed, its log ends at {next}")
            })?;
            for run in runs {
                for row in run.rows.iter() {
                    if next <= commit {
                        self.compare_entry(node, next, run.epoch, Statement::of(row))?;
                    }
                    next += 1;
                }
            }
        }
        Ok(())
    }

    fn compare_entry(
        &mut self,
        node: usize,
        sequence: u64,
        epoch: u64,
        statement: Statement,
    ) -> Result<(), Violation> {
        let entry = Committed { epoch, statement };
        let index = usize::try_from(sequence - 1).unwrap_or(usize::MAX);
        match self.committed.get(index) {
            Some(known) => check(*known == entry, || {
                format!(
                    "invariants 1 and 7: entry {sequence} was committed as {known:?}, node {node} has {entry:?}"
                )
            }),
            None => {
                self.committed.push(entry);
                Ok(())
            }
        }
    }

    /// After anything: the whole cluster.
    ///
    /// # Errors
    /// What must not be.
    pub fn check(
        &self,
        now: Time,
        partition: usize,
        nodes: &[Node],
        state: &PartitionState,
    ) -> Result<(), Violation> {
        let last = self.last();
        for (index, node) in nodes.iter().enumerate() {
            let Some(held) = node.held.get(partition).and_then(Option::as_ref) else { continue };
            let members = || state.in_sync.iter().chain(&state.eligible);
            let counts =
                members().any(|member| member.node == node.id && member.generation == held.generation);
            check(!counts || held.has(last), || {
                format!(
                    "invariants 3 and 10: node {index} is in sync or eligible in partition {partition}, and lacks \
                     entry {last:?} that is committed: {held:?}"
                )
            })?;
            let Some(hosted) = node.hosted(partition) else { continue };
            let owner = &hosted.owner;
            let is_stale = owner.store.applied() < last.sequence;
            check(!is_stale || owner.replica.may_read(node.clock(now)).is_err(), || {
                format!(
                    "invariant 8: node {index} would serve a stale read of partition {partition}: it has applied \
                     {}, {} is committed",
                    owner.store.applied(),
                    last.sequence
                )
            })?;
        }
        Ok(())
    }

    /// Invariant 11: what a replica shows is what the committed entries say, up to where it has applied them.
    ///
    /// # Errors
    /// What must not be.
    pub fn check_contents(&self, node: usize, owner: &OwnerLoop) -> Result<(), Violation> {
        let applied = usize::try_from(owner.store.applied().0).unwrap_or(usize::MAX);
        let mut expected: BTreeMap<&[u8], (u64, &[u8])> = BTreeMap::new();
        for (index, entry) in self.committed.iter().take(applied).enumerate() {
            match &entry.statement {
                Statement::Put(key, value) => {
                    expected.insert(key, (index as u64 + 1, value));
                }
                Statement::Delete(key) => {
                    expected.remove(&key[..]);
                }
                Statement::Marker(_) => {}
            }
        }
        let shown = owner.reader.page(None, usize::MAX, usize::MAX);
        let (records, _) =
            shown.map_err(|error| Violation(format!("node {node} cannot read its contents: {error}")))?;
        let shown: BTreeMap<&[u8], (u64, &[u8])> =
            records.iter().map(|record| (&record.key[..], (record.version.0, &record.value[..]))).collect();
        check(shown == expected, || {
            format!("invariant 11: node {node} shows {shown:?} at entry {applied}, the log says {expected:?}")
        })
    }
}
