//! [`ClusterMap`]: what a router or a node knows of the cluster, made from a [`Tree`] that it watches.
//!
//! The map is made anew from each tree: it has no memory, so it holds nothing that is no longer there. A
//! broken record (another program wrote there, or a hand did) is named in [`ClusterMap::problems`] and left
//! out; it takes nobody else down. Only records of a newer format are refused altogether, since their
//! meaning is unknown.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;

use crate::ids::{Member, NodeId, PartitionId, RouterId};
use crate::paths::{self, Place};
use crate::records::{
    self, ClusterRecord, FORMAT, NodeRecord, PartitionState, ReplicaTarget, RouterRecord, SlotTable,
};
use crate::slots::Slot;
use crate::store::{Tree, Version, Versioned};

/// The cluster, as one tree shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterMap {
    /// The cluster's record; none before it is created.
    pub cluster: Option<ClusterRecord>,
    /// Every node that ever introduced itself.
    pub nodes: BTreeMap<NodeId, NodeRecord>,
    /// The nodes with a session: a hint that they live, never a proof.
    pub live: BTreeSet<NodeId>,
    /// The routers that run.
    pub routers: BTreeMap<RouterId, RouterRecord>,
    /// The partitions' configurations.
    pub partitions: BTreeMap<PartitionId, Partition>,
    /// Where the partitions' replicas are to be, for those of which somebody has said it.
    pub targets: BTreeMap<PartitionId, Target>,
    /// Which partition holds which slots; none before placement is done. Always valid.
    pub slots: Option<SlotTable>,
    /// False while the coordination service cannot be reached: this is what was read last.
    pub connected: bool,
    /// Records that were left out, each with its path and what is wrong with it.
    pub problems: Vec<String>,
}

/// A partition's configuration, with the version that a compare-and-set of it expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// The version of the value.
    pub version: Version,
    /// The value.
    pub state: PartitionState,
}

/// Where a partition's replicas are to be, with the version that a compare-and-set of it expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The version of the value.
    pub version: Version,
    /// The value.
    pub target: ReplicaTarget,
}

/// Why there can be no map.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// A newer program wrote the records.
    #[error("the cluster's records have format {found}, this program knows up to {FORMAT}: upgrade it")]
    NewerFormat {
        /// The format that was found.
        found: u32,
    },
}

/// Where a key lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location<'map> {
    /// Its slot.
    pub slot: Slot,
    /// The partition that holds the slot.
    pub partition: PartitionId,
    /// The partition's configuration; none where its record is missing or broken.
    pub configuration: Option<&'map Partition>,
    /// Who leads it; none before the first leader.
    pub leader: Option<Member>,
    /// Where the leader is to be found; none where it has not introduced itself.
    pub leader_node: Option<&'map NodeRecord>,
}

impl ClusterMap {
    /// Makes the map of a tree that was watched at `/`.
    ///
    /// # Errors
    /// [`MapError::NewerFormat`].
    pub fn from_tree(tree: &Tree) -> Result<ClusterMap, MapError> {
        let mut map = ClusterMap { connected: tree.connected, ..ClusterMap::default() };
        if let Some(versioned) = tree.nodes.get(paths::CLUSTER) {
            refuse_newer_format(&versioned.value)?;
        }
        for (path, versioned) in &tree.nodes {
            map.read(path, versioned);
        }
        map.check_slots();
        Ok(map)
    }

    /// Where a key lies; `None` before placement is done.
    #[must_use]
    pub fn lookup(&self, key: &[u8]) -> Option<Location<'_>> {
        let slot = Slot::of(key);
        let partition = self.slots.as_ref()?.lookup(slot)?;
        let configuration = self.partitions.get(&partition);
        let leader = configuration.and_then(|found| found.state.leader);
        let leader_node = leader.and_then(|member| self.nodes.get(&member.node));
        Some(Location { slot, partition, configuration, leader, leader_node })
    }

    /// True once every partition is placed: the slots are there, and each of their partitions.
    #[must_use]
    pub fn is_placed(&self) -> bool {
        self.slots.as_ref().is_some_and(|slots| {
            slots.ranges.iter().all(|range| self.partitions.contains_key(&range.partition))
        })
    }

    /// Takes one node of the tree in.
    fn read(&mut self, path: &str, versioned: &Versioned) {
        let Some(place) = paths::parse(path) else {
            self.problems.push(format!("{path}: not a path of PaddockDB's"));
            return;
        };
        let value = &versioned.value;
        match place {
            Place::Cluster => self.cluster = self.decode(path, value),
            Place::Slots => self.slots = self.decode(path, value),
            Place::Node(id) => {
                if let Some(record) = self.decode(path, value) {
                    self.nodes.insert(id, record);
                }
            }
            Place::Router(id) => {
                if let Some(record) = self.decode(path, value) {
                    self.routers.insert(id, record);
                }
            }
            Place::PartitionState(id) => {
                if let Some(state) = self.decode(path, value) {
                    self.partitions.insert(id, Partition { version: versioned.version, state });
                }
            }
            Place::PartitionTarget(id) => {
                if let Some(target) = self.decode(path, value) {
                    self.targets.insert(id, Target { version: versioned.version, target });
                }
            }
            Place::Live(id) => {
                self.live.insert(id);
            }
            // Read by bootstrap alone, which takes nobody's word for it but the service's.
            Place::Placement | Place::Controller | Place::Folder => {}
        }
    }

    /// Reads one record, or writes down what is wrong with it.
    fn decode<T: DeserializeOwned>(&mut self, path: &str, value: &[u8]) -> Option<T> {
        records::decode(value).map_err(|error| self.problems.push(format!("{path}: {error}"))).ok()
    }

    /// Drops a slot table that does not cover each slot once: half a map would send keys astray.
    fn check_slots(&mut self) {
        let Some(slots) = &self.slots else { return };
        if let Err(error) = slots.validate() {
            self.problems.push(format!("{}: {error}", paths::SLOTS));
            self.slots = None;
        }
    }
}

/// Looks at the format alone, since nothing else of a newer record can be relied on.
pub(crate) fn refuse_newer_format(cluster: &[u8]) -> Result<(), MapError> {
    #[derive(serde::Deserialize)]
    struct FormatOnly {
        format: u32,
    }
    match records::decode::<FormatOnly>(cluster) {
        Ok(FormatOnly { format }) if format > FORMAT => Err(MapError::NewerFormat { found: format }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use ulid::Ulid;

    use super::*;
    use crate::ids::{Epoch, Generation};

    const NODE: NodeId = NodeId(Ulid::from_parts(0, 1));

    fn tree(entries: &[(&str, &[u8])]) -> Tree {
        let nodes = entries
            .iter()
            .map(|(path, value)| {
                let value = Bytes::copy_from_slice(value);
                ((*path).to_owned(), Versioned { version: Version(4), value })
            })
            .collect();
        Tree { nodes, connected: true }
    }

    fn node_record() -> NodeRecord {
        NodeRecord {
            grpc_address: "h:1".to_owned(),
            boot_count: 1,
            build_version: "0".to_owned(),
            drained: false,
        }
    }

    fn state(leader: Option<Member>) -> PartitionState {
        let initial = PartitionState::initial(Ulid::nil(), vec![NODE], Ulid::nil());
        PartitionState { epoch: Epoch(1), leader, ..initial }
    }

    #[test]
    fn a_key_is_found_with_its_leader() {
        let member = Member { node: NODE, generation: Generation(5) };
        let map = ClusterMap::from_tree(&tree(&[
            ("/nodes", b""),
            (&paths::node(NODE), &records::encode(&node_record())),
            (&paths::live(NODE), b""),
            (paths::SLOTS, &records::encode(&SlotTable::even(2).unwrap())),
            ("/partitions/0/state", &records::encode(&state(None))),
            ("/partitions/1/state", &records::encode(&state(Some(member)))),
        ]))
        .unwrap();
        assert_eq!(map.problems, [""; 0]);
        assert!(map.connected && map.is_placed() && map.live.contains(&NODE));
        let found = map.lookup(b"123456789").unwrap();
        assert_eq!((found.slot.number(), found.partition), (12_739, PartitionId(1)));
        assert_eq!(found.configuration.unwrap().version, Version(4));
        assert_eq!((found.leader, found.leader_node), (Some(member), Some(&node_record())));
        let leaderless = map.lookup(b"").unwrap();
        assert_eq!((leaderless.partition, leaderless.leader), (PartitionId(0), None));
    }

    #[test]
    fn broken_records_are_named_and_left_out() {
        let map = ClusterMap::from_tree(&tree(&[
            (paths::CLUSTER, b"{"),
            (&paths::node(NODE), b"null"),
            ("/nodes/elsewhere", b"{}"),
            ("/partitions/0/state", b"\xff"),
            ("/partitions/1/state", &records::encode(&state(None))),
            (paths::SLOTS, br#"{"map_version":1,"ranges":[{"first":1,"last":16383,"partition":0}]}"#),
        ]))
        .unwrap();
        assert_eq!(map.partitions.keys().copied().collect::<Vec<_>>(), [PartitionId(1)]);
        assert_eq!((&map.cluster, &map.slots), (&None, &None));
        assert!(map.nodes.is_empty() && !map.is_placed());
        assert_eq!(map.lookup(b"x"), None);
        let named =
            ["/cluster: ", &paths::node(NODE), "/nodes/elsewhere: ", "/partitions/0/state: ", "/slots: "];
        for path in named {
            assert!(
                map.problems.iter().any(|problem| problem.starts_with(path)),
                "{path}: {:?}",
                map.problems
            );
        }
        assert_eq!(map.problems.len(), named.len());
    }

    #[test]
    fn slots_without_their_partitions_are_not_placed() {
        let map =
            ClusterMap::from_tree(&tree(&[(paths::SLOTS, &records::encode(&SlotTable::even(2).unwrap()))]))
                .unwrap();
        assert!(!map.is_placed());
        let found = map.lookup(b"foo").unwrap();
        assert_eq!((found.partition, found.configuration, found.leader), (PartitionId(1), None, None));
    }

    #[test]
    fn a_newer_format_is_refused_whatever_else_it_says() {
        let error =
            ClusterMap::from_tree(&tree(&[(paths::CLUSTER, br#"{"format":2,"id":{"new":1}}"#)])).unwrap_err();
        assert_eq!(error, MapError::NewerFormat { found: 2 });
        assert_eq!(
            error.to_string(),
            "the cluster's records have format 2, this program knows up to 1: upgrade it"
        );
    }

    proptest! {
        #[test]
        fn no_tree_panics(entries in proptest::collection::vec((
            prop_oneof![
                Just("/cluster".to_owned()), Just("/slots".to_owned()), Just("/partitions/0/state".to_owned()),
                "/[a-z0-9/]{0,12}", Just("/live/x".to_owned()),
            ],
            proptest::collection::vec(any::<u8>(), 0..32),
        ), 0..8)) {
            let entries = entries.iter().map(|(p, v)| (p.as_str(), v.as_slice())).collect::<Vec<_>>();
            prop_assert!(ClusterMap::from_tree(&tree(&entries)).is_ok());
        }
    }
}
