//! The values that stand in the coordination service, as JSON. PROTOCOL.md of the partition server says
//! what the rules of each are.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::ids::{ClusterId, Epoch, Member, NodeId, PartitionId};

/// The format of the records that this build writes; a higher one in the coordination service is refused.
pub const FORMAT: u32 = 1;

/// `cluster`: written once, by whichever partition server with a fresh data directory comes first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// The cluster's identity: a node that holds data of another refuses to serve.
    pub id: ClusterId,
    /// The format of the records, [`FORMAT`].
    pub format: u32,
    /// Which statements and messages may be used.
    pub feature_level: u32,
    /// When it was created, in milliseconds since 1970.
    pub created_ms: u64,
    /// How many partitions there are.
    pub partitions: u32,
    /// How many replicas each partition gets.
    pub replication_factor: u32,
    /// How many live nodes placement waits for before it places the first replicas.
    pub initial_nodes: u32,
    /// The lease L: for how long a follower's grant keeps it from standing. One value for the whole
    /// cluster, since a leader trusts what its followers promise.
    pub lease_ms: u64,
}

/// `nodes/<node>`: where a partition server is to be found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its gRPC address, host:port.
    pub grpc_address: String,
    /// How often it has started.
    pub boot_count: u64,
    /// The version of its program.
    pub build_version: String,
    /// An operator wants it to lead nothing. It does not lead as long as another one can.
    #[serde(default, skip_serializing_if = "is_false")]
    pub drained: bool,
}

/// For fields that are not written where they say nothing.
fn is_false(value: &bool) -> bool {
    !value
}

/// `routers/<id>`: where a router is to be found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterRecord {
    /// Its gRPC address, host:port.
    pub grpc_address: String,
    /// Its HTTP address, host:port.
    pub http_address: String,
}

/// `partitions/<p>/state`: the sole authority over a partition's configuration. Every write is a
/// compare-and-set with a fresh nonce, so that the writer of an unknown outcome can recognise its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionState {
    /// The partition's life: a deleted and re-created one has another.
    pub partition_uuid: Ulid,
    /// The epoch in force; 0 before the first leader.
    pub epoch: Epoch,
    /// Who leads in that epoch; none before the first.
    pub leader: Option<Member>,
    /// Replicas that hold every committed entry.
    pub in_sync: Vec<Member>,
    /// Replicas that left `in_sync` while it fell below `min_in_sync`: they still hold every committed
    /// entry, because nothing commits below it.
    pub eligible: Vec<Member>,
    /// Every replica, in the order in which they stand for election.
    pub replicas: Vec<NodeId>,
    /// The fewest in-sync replicas that may commit.
    pub min_in_sync: u32,
    /// Fresh in every write.
    pub nonce: Ulid,
    /// Raised by an unclean recovery, so that old tokens fail loudly.
    pub lineage: u64,
}

impl PartitionState {
    /// The state of a partition that nobody has led yet.
    #[must_use]
    pub fn initial(partition_uuid: Ulid, replicas: Vec<NodeId>, nonce: Ulid) -> Self {
        let min_in_sync = default_min_in_sync(replicas.len());
        PartitionState {
            partition_uuid,
            epoch: Epoch(0),
            leader: None,
            in_sync: Vec::new(),
            eligible: Vec::new(),
            replicas,
            min_in_sync,
            nonce,
            lineage: 0,
        }
    }

    /// The state in which an operator has given up whatever only others than this member hold: it alone is in sync, in another
    /// lineage, and a leader of before has lost its epoch. Nobody leads until it is elected.
    #[must_use]
    pub fn recovered(&self, chosen: Member, nonce: Ulid) -> Self {
        PartitionState {
            epoch: self.epoch.next(),
            leader: None,
            in_sync: vec![chosen],
            eligible: Vec::new(),
            nonce,
            lineage: self.lineage.saturating_add(1),
            ..self.clone()
        }
    }

    /// True if the member may be elected: it is known to hold every committed entry. Before the first
    /// leader nothing was ever committed, so every replica may, whatever its generation.
    #[must_use]
    pub fn may_lead(&self, member: Member) -> bool {
        if self.epoch == Epoch(0) {
            return self.replicas.contains(&member.node);
        }
        self.in_sync.contains(&member) || self.eligible.contains(&member)
    }
}

/// `partitions/<p>/target`: on which nodes a partition's replicas are to be. Where there is none, they are to stay where they are.
/// Who wants a replica elsewhere writes this; the controller changes the partition's state step by step until it agrees
/// ([`crate::placement`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaTarget {
    /// The partition's life, so that the target of a former one is passed over.
    pub partition_uuid: Ulid,
    /// The nodes, the preferred leader first.
    pub replicas: Vec<NodeId>,
}

/// Half the replicas, rounded up: 1, 1, 2, 2, 3 for 1 to 5 replicas.
#[must_use]
pub fn default_min_in_sync(replicas: usize) -> u32 {
    u32::try_from(replicas.div_ceil(2)).unwrap_or(u32::MAX)
}

/// A run of slots, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRange {
    /// The first slot.
    pub first: u16,
    /// The last slot.
    pub last: u16,
    /// Whose they are.
    pub partition: PartitionId,
}

/// `slots`: which partition holds which slots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotTable {
    /// Rises with every change.
    pub map_version: u64,
    /// Ranges that cover 0..=16,383 once each, ascending.
    pub ranges: Vec<SlotRange>,
}

/// `placement`: on which nodes the first replicas are placed. The first contender's proposal wins, and all
/// contenders carry out that one: see [`crate::bootstrap`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The nodes, ascending.
    pub nodes: Vec<NodeId>,
}

/// The record as JSON.
///
/// # Panics
/// Never: these records have no map keys that JSON cannot express.
#[must_use]
#[expect(clippy::expect_used, reason = "the records are plain structs, which always serialize")]
pub fn encode<T: Serialize>(record: &T) -> Bytes {
    Bytes::from(serde_json::to_vec(record).expect("a record serializes"))
}

/// Reads a record from JSON. Unknown fields are passed over, so that a newer writer does not stop us.
///
/// # Errors
/// What is wrong with the JSON.
pub fn decode<T: DeserializeOwned>(value: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(value)
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use proptest::prelude::*;

    use super::*;
    use crate::ids::Generation;

    /// Both ways: what we write today, and what was ever written must still be read.
    #[track_caller]
    fn golden<T: Serialize + DeserializeOwned + PartialEq + Debug>(record: &T, json: &str) {
        assert_eq!(std::str::from_utf8(&encode(record)).unwrap(), json);
        assert_eq!(&decode::<T>(json.as_bytes()).unwrap(), record);
    }

    fn node(number: u128) -> NodeId {
        NodeId(Ulid::from_parts(0, number))
    }

    #[test]
    fn cluster_record() {
        let record = ClusterRecord {
            id: ClusterId(Ulid::from_parts(0, 1)),
            format: 1,
            feature_level: 1,
            created_ms: 1_790_000_000_000,
            partitions: 2,
            replication_factor: 2,
            initial_nodes: 4,
            lease_ms: 1_000,
        };
        golden(
            &record,
            r#"{"id":"00000000000000000000000001","format":1,"feature_level":1,"created_ms":1790000000000,"partitions":2,"replication_factor":2,"initial_nodes":4,"lease_ms":1000}"#,
        );
    }

    #[test]
    fn node_and_router_records() {
        let record = NodeRecord {
            grpc_address: "127.0.0.1:7420".to_owned(),
            boot_count: 3,
            build_version: "0.1.0".to_owned(),
            drained: false,
        };
        golden(&record, r#"{"grpc_address":"127.0.0.1:7420","boot_count":3,"build_version":"0.1.0"}"#);
        golden(
            &NodeRecord { drained: true, ..record },
            r#"{"grpc_address":"127.0.0.1:7420","boot_count":3,"build_version":"0.1.0","drained":true}"#,
        );
        let record =
            RouterRecord { grpc_address: "[::1]:7400".to_owned(), http_address: "[::1]:7401".to_owned() };
        golden(&record, r#"{"grpc_address":"[::1]:7400","http_address":"[::1]:7401"}"#);
    }

    #[test]
    fn partition_state() {
        let initial =
            PartitionState::initial(Ulid::from_parts(0, 7), vec![node(1), node(2)], Ulid::from_parts(0, 8));
        golden(
            &initial,
            r#"{"partition_uuid":"00000000000000000000000007","epoch":0,"leader":null,"in_sync":[],"eligible":[],"replicas":["00000000000000000000000001","00000000000000000000000002"],"min_in_sync":1,"nonce":"00000000000000000000000008","lineage":0}"#,
        );
        let member = Member { node: node(1), generation: Generation(u64::MAX) };
        let led = PartitionState { epoch: Epoch(9), leader: Some(member), in_sync: vec![member], ..initial };
        golden(
            &led,
            r#"{"partition_uuid":"00000000000000000000000007","epoch":9,"leader":{"node":"00000000000000000000000001","generation":18446744073709551615},"in_sync":[{"node":"00000000000000000000000001","generation":18446744073709551615}],"eligible":[],"replicas":["00000000000000000000000001","00000000000000000000000002"],"min_in_sync":1,"nonce":"00000000000000000000000008","lineage":0}"#,
        );
    }

    #[test]
    fn slots_and_placement() {
        golden(
            &SlotTable::even(2).unwrap(),
            r#"{"map_version":1,"ranges":[{"first":0,"last":8191,"partition":0},{"first":8192,"last":16383,"partition":1}]}"#,
        );
        golden(&Placement { nodes: vec![node(1)] }, r#"{"nodes":["00000000000000000000000001"]}"#);
    }

    #[test]
    fn replica_target() {
        golden(
            &ReplicaTarget { partition_uuid: Ulid::from_parts(0, 7), replicas: vec![node(1), node(2)] },
            r#"{"partition_uuid":"00000000000000000000000007","replicas":["00000000000000000000000001","00000000000000000000000002"]}"#,
        );
    }

    #[test]
    fn a_newer_writers_fields_are_passed_over() {
        let json = br#"{"nodes":[],"colour":"red"}"#;
        assert_eq!(decode::<Placement>(json).unwrap(), Placement { nodes: vec![] });
    }

    #[test]
    fn who_may_lead() {
        let member = |n, generation| Member { node: node(n), generation: Generation(generation) };
        let mut state = PartitionState::initial(Ulid::nil(), vec![node(1), node(2), node(3)], Ulid::nil());
        assert!(state.may_lead(member(2, 99)), "before the first leader any replica may");
        assert!(!state.may_lead(member(4, 1)), "but nobody else");
        state.epoch = Epoch(1);
        state.in_sync = vec![member(1, 1)];
        state.eligible = vec![member(2, 1)];
        assert!(state.may_lead(member(1, 1)) && state.may_lead(member(2, 1)));
        assert!(!state.may_lead(member(1, 2)), "a wiped disk has no claim");
        assert!(!state.may_lead(member(3, 1)), "nor has one that fell behind");
    }

    #[test]
    fn a_recovered_partition_rests_on_one_member_in_another_lineage() {
        let member = |n, generation| Member { node: node(n), generation: Generation(generation) };
        let initial = PartitionState::initial(Ulid::nil(), vec![node(1), node(2), node(3)], Ulid::nil());
        let lost = PartitionState {
            epoch: Epoch(4),
            leader: Some(member(1, 1)),
            in_sync: vec![member(1, 1)],
            eligible: vec![member(2, 1)],
            ..initial
        };
        let recovered = lost.recovered(member(3, 7), Ulid(9));
        assert_eq!((recovered.epoch, recovered.leader, recovered.lineage), (Epoch(5), None, 1));
        assert!(recovered.may_lead(member(3, 7)));
        assert!(!recovered.may_lead(member(1, 1)) && !recovered.may_lead(member(2, 1)));
        assert_eq!(recovered.replicas, lost.replicas);
    }

    #[test]
    fn default_min_in_sync_is_half_rounded_up() {
        assert_eq!([1, 2, 3, 4, 5].map(default_min_in_sync), [1, 1, 2, 2, 3]);
    }

    proptest! {
        #[test]
        fn states_come_back(
            epoch in any::<u64>(), lineage in any::<u64>(), nonce in any::<u128>(),
            members in proptest::collection::vec((any::<u128>(), any::<u64>()), 0..4),
        ) {
            let members = members.into_iter().map(|(node, generation)| Member {
                node: NodeId(Ulid::from_bytes(node.to_be_bytes())), generation: Generation(generation),
            }).collect::<Vec<_>>();
            let state = PartitionState {
                partition_uuid: Ulid::from_bytes(nonce.to_be_bytes()),
                epoch: Epoch(epoch),
                leader: members.first().copied(),
                replicas: members.iter().map(|m| m.node).collect(),
                eligible: members.iter().rev().copied().collect(),
                in_sync: members,
                min_in_sync: 1,
                nonce: Ulid::from_bytes(nonce.to_be_bytes()),
                lineage,
            };
            prop_assert_eq!(decode::<PartitionState>(&encode(&state)).unwrap(), state);
        }

        #[test]
        fn garbage_is_an_error_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(decode::<PartitionState>(&bytes).is_err());
        }
    }
}
