//! Where things stand in the coordination service, below the cluster's root.
//!
//! | path | kind | value |
//! |---|---|---|
//! | `/cluster` | persistent | [`ClusterRecord`](crate::ClusterRecord) |
//! | `/nodes/<node>` | persistent | [`NodeRecord`](crate::NodeRecord) |
//! | `/live/<node>` | ephemeral | nothing: a hint that the node lives, never a proof |
//! | `/routers/<id>` | ephemeral | [`RouterRecord`](crate::RouterRecord) |
//! | `/placement` | persistent | [`Placement`](crate::Placement): which nodes get the first replicas |
//! | `/partitions/<p>/state` | persistent | [`PartitionState`](crate::PartitionState) |
//! | `/partitions/<p>/target` | persistent | [`ReplicaTarget`](crate::ReplicaTarget): where its replicas are to be, once somebody wants them elsewhere |
//! | `/slots` | persistent | [`SlotTable`](crate::SlotTable) |
//! | `/controller` | ephemeral | the id of the node that places replicas, for people: nobody obeys it |

use crate::ids::{NodeId, PartitionId, RouterId};

/// Below which path PaddockDB's clusters stand.
pub const PADDOCK: &str = "/paddock";

/// The longest name of a cluster, in bytes.
pub const CLUSTER_NAME_BYTES_MAX: usize = 64;

/// The cluster's record.
pub const CLUSTER: &str = "/cluster";

/// Which nodes get the first replicas.
pub const PLACEMENT: &str = "/placement";

/// Which partition holds which slots.
pub const SLOTS: &str = "/slots";

/// Which node places replicas.
pub const CONTROLLER: &str = "/controller";

/// A cluster's name that cannot be part of a path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no name for a cluster: 1 to {CLUSTER_NAME_BYTES_MAX} letters, digits, '-' and '_'")]
pub struct BadClusterName {
    /// The name.
    pub name: String,
}

/// The root of a cluster, `/paddock/<name>`: what a backend is opened with.
///
/// # Errors
/// A name that is empty, too long or has other than letters, digits, `-` and `_`.
pub fn cluster_root(name: &str) -> Result<String, BadClusterName> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if name.is_empty() || name.len() > CLUSTER_NAME_BYTES_MAX || !name.bytes().all(allowed) {
        return Err(BadClusterName { name: name.to_owned() });
    }
    Ok(format!("{PADDOCK}/{name}"))
}

/// Where a node says where it is to be found.
#[must_use]
pub fn node(id: NodeId) -> String {
    format!("/nodes/{id}")
}

/// Where a node says that it lives.
#[must_use]
pub fn live(id: NodeId) -> String {
    format!("/live/{id}")
}

/// Where a router says where it is to be found.
#[must_use]
pub fn router(id: RouterId) -> String {
    format!("/routers/{id}")
}

/// Where a partition's configuration stands.
#[must_use]
pub fn partition_state(id: PartitionId) -> String {
    format!("/partitions/{id}/state")
}

/// Where it stands where a partition's replicas are to be.
#[must_use]
pub fn partition_target(id: PartitionId) -> String {
    format!("/partitions/{id}/target")
}

/// What a path is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// [`CLUSTER`]
    Cluster,
    /// [`PLACEMENT`]
    Placement,
    /// [`SLOTS`]
    Slots,
    /// [`node`]
    Node(NodeId),
    /// [`live`]
    Live(NodeId),
    /// [`router`]
    Router(RouterId),
    /// [`partition_state`]
    PartitionState(PartitionId),
    /// [`partition_target`]
    PartitionTarget(PartitionId),
    /// [`CONTROLLER`]
    Controller,
    /// A parent without a value of its own.
    Folder,
}

/// Reads a path; `None` if it is none of ours.
#[must_use]
pub fn parse(path: &str) -> Option<Place> {
    let mut parts = path.strip_prefix('/')?.split('/');
    let place = match (parts.next()?, parts.next(), parts.next()) {
        ("cluster", None, _) => Place::Cluster,
        ("placement", None, _) => Place::Placement,
        ("slots", None, _) => Place::Slots,
        ("controller", None, _) => Place::Controller,
        ("" | "nodes" | "live" | "routers" | "partitions", None, _) => Place::Folder,
        ("nodes", Some(id), None) => Place::Node(id.parse().ok()?),
        ("live", Some(id), None) => Place::Live(id.parse().ok()?),
        ("routers", Some(id), None) => Place::Router(id.parse().ok()?),
        ("partitions", Some(id), None) => parse_partition(id).map(|_| Place::Folder)?,
        ("partitions", Some(id), Some("state")) => Place::PartitionState(parse_partition(id)?),
        ("partitions", Some(id), Some("target")) => Place::PartitionTarget(parse_partition(id)?),
        _ => return None,
    };
    parts.next().is_none().then_some(place)
}

/// A partition's number as it is written: `7`, not `07` or `+7`.
fn parse_partition(text: &str) -> Option<PartitionId> {
    let id = PartitionId(text.parse().ok()?);
    (id.to_string() == text).then_some(id)
}

#[cfg(test)]
mod tests {
    use ulid::Ulid;

    use super::*;

    #[test]
    fn what_is_built_is_parsed() {
        let id = NodeId(Ulid::from_parts(1, 2));
        let text = "0000000001000000000000000 2".replace(' ', "");
        assert_eq!(node(id), format!("/nodes/{text}"));
        assert_eq!(parse(&node(id)), Some(Place::Node(id)));
        assert_eq!(parse(&live(id)), Some(Place::Live(id)));
        let id = RouterId(Ulid::from_parts(3, 4));
        assert_eq!(parse(&router(id)), Some(Place::Router(id)));
        let id = PartitionId(u32::MAX);
        assert_eq!(partition_state(id), "/partitions/4294967295/state");
        assert_eq!(parse(&partition_state(id)), Some(Place::PartitionState(id)));
        assert_eq!(parse(&partition_target(id)), Some(Place::PartitionTarget(id)));
        assert_eq!(parse(CONTROLLER), Some(Place::Controller));
        assert_eq!(parse(CLUSTER), Some(Place::Cluster));
        assert_eq!(parse(PLACEMENT), Some(Place::Placement));
        assert_eq!(parse(SLOTS), Some(Place::Slots));
        for folder in ["/", "/nodes", "/live", "/routers", "/partitions", "/partitions/0"] {
            assert_eq!(parse(folder), Some(Place::Folder), "{folder}");
        }
    }

    #[test]
    fn what_is_not_ours_is_not_parsed() {
        for path in [
            "",
            "cluster",
            "/cluster/x",
            "/nodes/x",
            "/nodes/",
            "/live/00000000010000000000000002/x",
            "/partitions/x/state",
            "/partitions/07/state",
            "/partitions/+7/state",
            "/partitions/4294967296/state",
            "/partitions/0/other",
            "/partitions/0/state/x",
            "/else",
        ] {
            assert_eq!(parse(path), None, "{path}");
        }
    }

    #[test]
    fn a_clusters_name_is_checked() {
        assert_eq!(cluster_root("dev-1_A").unwrap(), "/paddock/dev-1_A");
        for name in ["", "a/b", "..", "a b", "\u{e4}", &"x".repeat(65)] {
            assert!(cluster_root(name).unwrap_err().to_string().contains(&format!("{name:?}")));
        }
    }
}
