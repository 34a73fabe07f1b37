//! What must hold at every moment, whatever happens. The numbers are those of the invariants in PROTOCOL.md.

use std::collections::BTreeMap;

use paddock_coordination::{Epoch, PartitionState};
use paddock_partition::replica::{Barrier, Refusal, RoleName, Timestamp};

use crate::cluster::{Disk, Node};

/// Remembers what was promised, and compares.
#[derive(Default)]
pub(crate) struct Checker {
    /// Committed entries, by any replica's word: sequence − 1 → (epoch, statement). In the newest lineage.
    pub(crate) committed: Vec<(u64, String)>,
    /// The newest lineage.
    lineage: u64,
    /// What earlier lineages committed.
    former: BTreeMap<u64, Vec<(u64, String)>>,
    leaders: BTreeMap<Epoch, (char, u64)>,
    /// In which lineage each replica was seen to know how much to be committed.
    commits: BTreeMap<char, (u64, u64)>,
    /// How often a snapshot took the place of a store.
    pub(crate) installs: u64,
    /// How often a replica gave up its store.
    pub(crate) gave_up: u64,
    /// How much was committed in which lineage when the nodes' clocks showed what.
    history: Vec<(Vec<Timestamp>, u64, usize)>,
    /// Reads that wait behind a barrier: at which node, and how much was committed when they came.
    barrier_reads: Vec<(char, Barrier, usize)>,
    /// How many of them were let through.
    pub(crate) barriers_passed: u64,
    /// Clocks run as they like: what trusts them is not to be trusted.
    pub(crate) clocks_are_wild: bool,
    /// A quarantine is what the case is about.
    pub(crate) quarantine_is_expected: bool,
    /// Metadata was rolled back, or disks were: only replicas that notice are to be trusted.
    pub(crate) is_blind: bool,
}

impl Checker {
    pub(crate) fn started(&mut self, node: &Node) {
        self.commits.remove(&node.name);
    }

    /// An operator goes on from what a replica has: of what was committed, what it holds durably still is.
    pub(crate) fn recovered(&mut self, lineage: u64, chosen: &Disk) {
        let held = chosen.entries.iter().take(chosen.durable);
        let kept = self.committed.iter().zip(held);
        let kept = kept
            .take_while(|((epoch, statement), entry)| *epoch == entry.epoch && *statement == entry.statement);
        let kept: Vec<_> = kept.map(|(known, _)| known.clone()).collect();
        self.former.insert(self.lineage, std::mem::replace(&mut self.committed, kept));
        self.lineage = lineage;
    }

    /// What was committed in a lineage.
    fn committed_in(&self, lineage: u64) -> &[(u64, String)] {
        if lineage == self.lineage {
            &self.committed
        } else {
            self.former.get(&lineage).map_or(&[], Vec::as_slice)
        }
    }

    /// Invariant 5: epochs have at most one leader each. Invariant 2: it holds all that was committed before.
    pub(crate) fn became_leader(&mut self, node: &Node, epoch: Epoch) {
        if self.is_blind {
            return;
        }
        let life = (node.name, node.boots);
        if let Some(other) = self.leaders.insert(epoch, life) {
            panic!("invariant 5: epoch {epoch} is led by {other:?} and by {life:?}");
        }
        assert!(
            self.holds_committed(node.disk.lineage, &node.disk, node.disk.entries.len()),
            "invariant 2: {} leads epoch {epoch} without every committed entry\n{:?}\n{:?}",
            node.name,
            self.committed,
            node.disk,
        );
    }

    /// A copy of a leader's store took the place of a replica's: it has all that is committed, and nobody counted on what
    /// was there before.
    pub(crate) fn installed(&mut self, node: &Node, state: &PartitionState) {
        if self.is_blind {
            return;
        }
        self.installs += 1;
        let member = node.member();
        let counts = state.in_sync.contains(&member) || state.eligible.contains(&member);
        assert!(!counts, "invariant 3: {} counts, and its log was replaced", node.name);
        let (_, commit) = self.commits.get(&node.name).copied().unwrap_or_default();
        let commit = usize::try_from(commit).unwrap();
        assert!(
            node.disk.entries.len() >= commit || state.lineage > node.disk.lineage,
            "invariant 6: {} lost what it knew to be committed",
            node.name
        );
    }

    /// A read came to a leader, and waits behind a barrier.
    pub(crate) fn barrier_raised(&mut self, node: char, barrier: Barrier) {
        self.barrier_reads.push((node, barrier, self.committed.len()));
    }

    /// Invariant 8, without clocks: whoever is let past a barrier reads all that was committed when it came.
    fn check_barriers(&mut self, nodes: &[Node]) {
        self.barrier_reads.retain(|(name, barrier, committed)| {
            let node = nodes.iter().find(|node| node.name == *name).unwrap();
            let Some(replica) = &node.replica else { return false };
            let answer = replica.may_read_behind(*barrier);
            if answer.is_ok() {
                self.barriers_passed += 1;
                assert!(
                    node.disk.applied >= *committed,
                    "invariant 8: {name} lets a read past its barrier: applied {}, {committed} were committed when it came",
                    node.disk.applied,
                );
            }
            matches!(answer, Err(Refusal::NotReady | Refusal::Unavailable { .. }))
        });
    }

    /// A replica gives its store up: somebody else who may lead has all that was committed, on a disk whose damage nobody knows of.
    pub(crate) fn gives_up(&mut self, nodes: &[Node], index: usize, state: &PartitionState) {
        self.gave_up += 1;
        if self.is_blind {
            return;
        }
        let mut others = nodes.iter().enumerate().filter(|(other, _)| *other != index);
        assert!(
            others.any(|(_, node)| state.may_lead(node.member())
                && self.holds_committed(state.lineage, &node.disk, node.disk.durable)),
            "invariant 18: {} gave its store up, and nobody else who may lead has every committed entry",
            nodes[index].name
        );
    }

    /// After each step of a replica.
    pub(crate) fn stepped(&mut self, node: &Node) {
        let Some(replica) = &node.replica else { return };
        if replica.role() == RoleName::Quarantined {
            assert!(
                self.quarantine_is_expected,
                "{} quarantined itself: {:?}",
                node.name,
                replica.status().problem
            );
        }
        if self.is_blind {
            return;
        }
        let (commit, lineage) = (replica.commit().0, node.disk.lineage);
        let before = self.commits.insert(node.name, (lineage, commit));
        let before = before.filter(|(former, _)| *former == lineage).map_or(0, |(_, before)| before);
        assert!(before <= commit, "commit fell from {before} to {commit} on {}", node.name);
        self.check_batches(node, usize::try_from(commit).unwrap());
        let committed = match self.former.get_mut(&lineage) {
            Some(former) => former,
            None => &mut self.committed,
        };
        for index in 0..usize::try_from(commit).unwrap() {
            let entry = &node.disk.entries[index];
            let entry = (entry.epoch, entry.statement.clone());
            match committed.get(index) {
                // What a crash can take back here is durable with whoever counts; unless they are gone, and it was lost.
                None if index >= node.disk.durable => break,
                None => committed.push(entry),
                Some(known) => assert_eq!(
                    known,
                    &entry,
                    "invariants 1 and 7: entry {} was committed otherwise than {} has it",
                    index + 1,
                    node.name
                ),
            }
        }
    }

    /// After each event: the whole cluster.
    pub(crate) fn check(&mut self, now: u64, nodes: &[Node], state: &PartitionState) {
        if self.is_blind {
            return;
        }
        let clocks: Vec<Timestamp> = nodes.iter().map(|node| node.clock(now)).collect();
        let (lineage, count) = (self.lineage, self.committed.len());
        match self.history.last_mut() {
            Some((shown, of, committed)) if *shown == clocks => (*of, *committed) = (lineage, count),
            _ => self.history.push((clocks, lineage, count)),
        }
        self.check_barriers(nodes);
        if !self.clocks_are_wild {
            for (index, node) in nodes.iter().enumerate() {
                self.check_freshness(index, node);
            }
        }
        for node in nodes {
            let member = node.member();
            let counts = state.in_sync.contains(&member) || state.eligible.contains(&member);
            assert!(
                !counts || self.holds_committed(state.lineage, &node.disk, node.disk.durable),
                "invariants 3 and 10: {} is in sync or eligible, and lacks a committed entry\n{:?}\n{:?}",
                node.name,
                self.committed,
                node.disk,
            );
            let Some(replica) = &node.replica else { continue };
            if !self.clocks_are_wild && replica.may_read(node.clock(now)).is_ok() {
                let committed = self.committed_in(node.disk.lineage).len();
                assert!(
                    node.disk.applied >= committed,
                    "invariant 8: {} would serve a stale read: applied {}, committed {committed}",
                    node.name,
                    node.disk.applied,
                );
            }
            // Contents that are shown are of the lineage that they are said to be of.
            if let Some(lineage) = replica.lineage() {
                let committed =
                    self.committed_in(lineage).iter().zip(&node.disk.entries[..node.disk.applied]);
                let mut differs = committed.filter(|((epoch, statement), entry)| {
                    *epoch != entry.epoch || *statement != entry.statement
                });
                assert!(
                    differs.next().is_none(),
                    "{} shows what lineage {lineage} did not commit",
                    node.name
                );
            }
        }
    }

    /// Invariant 15: a replica that says how fresh it is has applied all that was committed then.
    fn check_freshness(&self, index: usize, node: &Node) {
        let as_of = node.replica.as_ref().and_then(|replica| replica.fresh_as_of());
        let Some((as_of, _)) = as_of else { return };
        // At a time itself more may be committed after the replica asked: what counts is what was committed before.
        let before = self.history.partition_point(|(clocks, _, _)| clocks[index] < as_of);
        let seen = before.checked_sub(1).map(|index| &self.history[index]);
        let seen = seen.filter(|(_, lineage, _)| *lineage == node.disk.lineage);
        let committed = seen.map_or(0, |(_, _, committed)| *committed);
        assert!(
            node.disk.applied >= committed,
            "invariant 15: {} says that it is fresh as of {as_of}, when {committed} were committed; it applied {}",
            node.name,
            node.disk.applied
        );
    }

    /// A batch is committed whole or not at all, and so is each replica's log.
    fn check_batches(&self, node: &Node, commit: usize) {
        for end in [commit, node.disk.entries.len(), node.disk.durable, node.disk.applied] {
            let is_cut = end.checked_sub(1).and_then(|last| node.disk.entries.get(last));
            assert!(
                !is_cut.is_some_and(crate::cluster::Entry::is_continued),
                "a batch was divided at {end} on {}\n{:?}",
                node.name,
                node.disk
            );
        }
    }

    fn holds_committed(&self, lineage: u64, disk: &Disk, through: usize) -> bool {
        let committed = self.committed_in(lineage);
        through >= committed.len()
            && committed
                .iter()
                .zip(&disk.entries)
                .all(|((epoch, statement), entry)| *epoch == entry.epoch && *statement == entry.statement)
    }
}
