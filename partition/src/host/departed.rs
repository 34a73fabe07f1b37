//! What is left of replicas that this node has no more, because their partitions are on other nodes by now: removed after a
//! grace time, and only where that certainly loses nothing.
//!
//! The coordination service alone cannot tell that. Its records may have been rolled back to a time before this node's replica
//! was made, and then what looks like a left-over is in truth one of the copies that count. So files go only when all of this
//! holds, as it is read afresh, at the beginning of the grace time and at its end:
//!
//! * the partition's state is of the same life (`partition_uuid`) as the files;
//! * it lists this node neither in `replicas` nor in `in_sync` nor in `eligible`, and no target of an operator's names it;
//! * every replica that it lists is in sync, nobody else is eligible, and somebody leads;
//! * **its epoch is higher than any that the replica has seen.** A replica is taken into `in_sync` for what it acknowledged in the
//!   epoch of that moment or a later one, and it persists an epoch before it acknowledges anything in it. One that never saw
//!   the state's epoch has thus not been taken in since that state, in whatever came after it and may have been rolled back.
//!   Nor does it count in that state, so it counts nowhere.
//!
//! So the files of a replica that was taken from the list stay until the partition has had another leader (a planned hand-over
//! will do), and for the grace time.
//!
//! They are removed in the partition's lane, while nothing can open them: first each directory gets another name, then what
//! has that name goes. Files of partitions that are no more, or began anew, stay: people remove them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use paddock_coordination::{NodeId, PartitionId, PartitionState, ReplicaTarget, paths, records};
use paddock_storage::{Options, ReplicatedStore};
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};
use ulid::Ulid;

use super::Host;
use super::lanes::Want;
use crate::facts::Facts;
use crate::node::Place;

/// How often a node looks, at most; the grace time is divided into so many parts where it is short.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
const LOOKS_IN_GRACE: u32 = 8;

/// Why files of a replica stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    /// The state is of another life of the partition.
    OtherLife,
    /// This node is to have a replica, or its replica counts.
    Counts,
    /// Not all replicas that there are to be have everything.
    OthersIncomplete,
    /// The replica has seen the state's epoch: see the module.
    EpochSeen,
}

/// Whether files of a replica may go, as far as the coordination service's records tell.
fn may_go(
    state: &PartitionState,
    target: Option<&ReplicaTarget>,
    uuid: Ulid,
    node: NodeId,
    facts: &Facts,
) -> Result<(), Kept> {
    if state.partition_uuid != uuid || facts.partition_uuid != uuid {
        return Err(Kept::OtherLife);
    }
    let mut members = state.in_sync.iter().chain(&state.eligible);
    let is_wanted = target.is_some_and(|target| target.replicas.contains(&node));
    if state.replicas.contains(&node) || members.any(|member| member.node == node) || is_wanted {
        return Err(Kept::Counts);
    }
    let is_in_sync = |node: &NodeId| state.in_sync.iter().any(|member| member.node == *node);
    let is_whole = state.leader.is_some() && state.eligible.is_empty() && !state.replicas.is_empty();
    if !is_whole || !state.replicas.iter().all(is_in_sync) {
        return Err(Kept::OthersIncomplete);
    }
    if state.epoch <= facts.epoch_seen {
        return Err(Kept::EpochSeen);
    }
    Ok(())
}

impl Host {
    /// Removes what is left of replicas that left this node so long ago, again and again, until the node stops.
    pub async fn remove_departed(self: Arc<Self>, grace: Duration) {
        let mut since: BTreeMap<Place, Instant> = BTreeMap::new();
        let interval = LOOK_INTERVAL.min(grace / LOOKS_IN_GRACE).max(Duration::from_millis(10));
        loop {
            tokio::select! {
                () = self.stopping.cancelled() => return,
                () = sleep(interval) => {}
            }
            let departed = match self.departed() {
                Ok(departed) => departed,
                Err(error) => {
                    warn!(%error, "what is left of replicas that are on other nodes cannot be looked for");
                    continue;
                }
            };
            // Whatever spoke against it in between begins the time anew.
            let mut still = BTreeMap::new();
            for place in departed {
                if self.may_remove(&place).await {
                    let from = since.get(&place).copied().unwrap_or_else(Instant::now);
                    if from.elapsed() >= grace {
                        self.want(place.partition, Want::Removed(place));
                    } else {
                        still.insert(place, from);
                    }
                }
            }
            since = still;
        }
    }

    /// The places with files of replicas that do not run, and are not about to be started or removed.
    fn departed(&self) -> std::io::Result<Vec<Place>> {
        let mut places = self.directory.places()?;
        let running = self.replicas.load();
        places.retain(|place| !running.contains_key(&place.partition));
        self.metrics.departed().set(i64::try_from(places.len()).unwrap_or(i64::MAX));
        let busy = self.hosted_or_busy();
        places.retain(|place| !busy.contains(&place.partition));
        Ok(places)
    }

    /// Whether what is at a place may go, by what the coordination service says now.
    async fn may_remove(&self, place: &Place) -> bool {
        let Some(facts) = self.facts_at(&self.directory.store(place.partition, place.partition_uuid)).await
        else {
            return false;
        };
        let Some((state, target)) = self.records_of(place.partition).await else { return false };
        match may_go(&state, target.as_ref(), place.partition_uuid, self.node(), &facts) {
            Ok(()) => true,
            Err(why) => {
                debug!(partition = %place.partition, ?why, "what is left of a replica stays");
                false
            }
        }
    }

    /// What a replica that does not run has to remember; `None`: that is not to be known.
    async fn facts_at(&self, place: &Path) -> Option<Facts> {
        let (place, options): (PathBuf, Options) = (place.to_owned(), self.storage.clone());
        let find = move || ReplicatedStore::find_metadata(&place, &options);
        let metadata = tokio::task::spawn_blocking(find).await.ok()?.ok()??;
        Facts::decode(&metadata).ok()
    }

    /// A partition's state and target, read now; `None` while that cannot be, or if they are not this cluster's.
    async fn records_of(&self, partition: PartitionId) -> Option<(PartitionState, Option<ReplicaTarget>)> {
        let cluster = self.coordinator.get(paths::CLUSTER).await.ok()??;
        let cluster: paddock_coordination::ClusterRecord = records::decode(&cluster.value).ok()?;
        if cluster.id != self.cluster.id {
            return None;
        }
        let target = match self.coordinator.get(&paths::partition_target(partition)).await.ok()? {
            Some(found) => Some(records::decode(&found.value).ok()?),
            None => None,
        };
        // The state last: a target that it does not obey yet was seen.
        let state = self.coordinator.get(&paths::partition_state(partition)).await.ok()??;
        Some((records::decode(&state.value).ok()?, target))
    }

    /// Removes what is at a place, in its partition's lane.
    pub(super) async fn remove_files(&self, place: Place) {
        if self.replicas.load().contains_key(&place.partition) || !self.may_remove(&place).await {
            return;
        }
        let Place { partition, partition_uuid } = place;
        let directory = Arc::clone(&self.directory);
        let path = directory.store(partition, partition_uuid);
        let options = self.storage.clone();
        let remove = move || {
            let current = ReplicatedStore::find(&path, &options).map_err(std::io::Error::other)?;
            directory.remove_place(&place, &current)
        };
        match tokio::task::spawn_blocking(remove).await {
            Ok(Ok(())) => {
                info!(%partition, %partition_uuid, "removed what was left of a replica that is on other nodes");
            }
            Ok(Err(error)) => warn!(%partition, %error, "what is left of a replica stays for now"),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use paddock_coordination::{Epoch, Generation, Member};

    use super::*;

    fn node(number: u128) -> NodeId {
        NodeId(Ulid(number))
    }

    fn member(number: u128) -> Member {
        Member { node: node(number), generation: Generation(1) }
    }

    /// Partition life 9 on nodes 1 and 2, in epoch 5; and a replica of node 3 that saw epoch 4.
    fn left() -> (PartitionState, Facts) {
        let mut state = PartitionState::initial(Ulid(9), vec![node(1), node(2)], Ulid(1));
        state.epoch = Epoch(5);
        state.leader = Some(member(1));
        state.in_sync = vec![member(1), member(2)];
        let facts = Facts { epoch_seen: Epoch(4), ..Facts::new(Ulid(9), 0, 7) };
        (state, facts)
    }

    fn judged(change: impl FnOnce(&mut PartitionState, &mut Facts)) -> Result<(), Kept> {
        let (mut state, mut facts) = left();
        change(&mut state, &mut facts);
        may_go(&state, None, Ulid(9), node(3), &facts)
    }

    #[test]
    fn files_go_only_where_everything_speaks_for_it() {
        assert_eq!(judged(|_, _| {}), Ok(()));
        assert_eq!(judged(|state, _| state.partition_uuid = Ulid(8)), Err(Kept::OtherLife));
        assert_eq!(judged(|_, facts| facts.partition_uuid = Ulid(8)), Err(Kept::OtherLife));
        assert_eq!(judged(|state, _| state.replicas.push(node(3))), Err(Kept::Counts));
        assert_eq!(judged(|state, _| state.in_sync.push(member(3))), Err(Kept::Counts));
        assert_eq!(judged(|state, _| state.eligible.push(member(3))), Err(Kept::Counts));
        assert_eq!(judged(|state, _| state.eligible.push(member(4))), Err(Kept::OthersIncomplete));
        assert_eq!(judged(|state, _| state.leader = None), Err(Kept::OthersIncomplete));
        assert_eq!(judged(|state, _| state.in_sync.truncate(1)), Err(Kept::OthersIncomplete));
        assert_eq!(judged(|state, _| state.replicas.clear()), Err(Kept::OthersIncomplete));
        let target = ReplicaTarget { partition_uuid: Ulid(9), replicas: vec![node(1), node(3)] };
        let (state, facts) = left();
        assert_eq!(may_go(&state, Some(&target), Ulid(9), node(3), &facts), Err(Kept::Counts));
    }

    #[test]
    fn what_saw_the_states_epoch_stays_for_that_state_may_be_an_old_one() {
        assert_eq!(judged(|_, facts| facts.epoch_seen = Epoch(5)), Err(Kept::EpochSeen));
        assert_eq!(judged(|_, facts| facts.epoch_seen = Epoch(6)), Err(Kept::EpochSeen), "rolled back");
    }
}
