//! The coordination service, made up: each partition's state, with every version that it ever had.

use paddock_coordination::{NodeId, PartitionState, Version};
use paddock_partition::replica::{ObservedState, WriteOutcome};
use ulid::Ulid;

/// What the service holds of one partition.
#[derive(Debug)]
pub struct Record {
    states: Vec<ObservedState>,
    /// How far each node's session has seen.
    seen: Vec<usize>,
}

impl Record {
    /// A partition that nobody has led yet.
    #[must_use]
    pub fn new(partition_uuid: Ulid, replicas: Vec<NodeId>, min_in_sync: Option<u32>, nodes: usize) -> Self {
        let mut state = PartitionState::initial(partition_uuid, replicas, Ulid(1));
        state.min_in_sync = min_in_sync.unwrap_or(state.min_in_sync);
        Record { states: vec![ObservedState { version: Version(1), state }], seen: vec![0; nodes] }
    }

    /// The state in force.
    #[must_use]
    pub fn current(&self) -> &ObservedState {
        // There is always one.
        &self.states[self.newest()]
    }

    fn newest(&self) -> usize {
        self.states.len() - 1
    }

    /// Compare-and-set.
    pub fn write(&mut self, node: usize, expected: Version, state: PartitionState) -> WriteOutcome {
        let version = self.current().version;
        if version != expected {
            return WriteOutcome::Conflict;
        }
        let version = Version(version.0 + 1);
        self.states.push(ObservedState { version, state });
        self.see(node, self.newest());
        WriteOutcome::Written(version)
    }

    /// What a node's session reads: the newest state, or one that it has not seen yet, where a server lags.
    pub fn read(&mut self, node: usize, lag: usize) -> ObservedState {
        let seen = self.seen.get(node).copied().unwrap_or(0);
        let index = self.newest().saturating_sub(lag).max(seen);
        self.see(node, index);
        self.states[index].clone()
    }

    /// Whether a node's session has seen the newest state.
    #[must_use]
    pub fn has_seen_all(&self, node: usize) -> bool {
        self.seen.get(node).is_some_and(|seen| *seen == self.newest())
    }

    /// A session was lost; the next one may be with a server that lags.
    pub fn forget_session(&mut self, node: usize) {
        if let Some(seen) = self.seen.get_mut(node) {
            *seen = seen.saturating_sub(2);
        }
    }

    fn see(&mut self, node: usize, index: usize) {
        if let Some(seen) = self.seen.get_mut(node) {
            *seen = index.max(*seen);
        }
    }
}
