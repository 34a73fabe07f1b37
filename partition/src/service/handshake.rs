//! Who is meant: the opening metadata of every stream between nodes.

use paddock_coordination::NodeId;
use paddock_proto::metadata;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::host::Host;

/// Refuses a stream that was meant for another node, or another cluster: whoever dialled it goes by an
/// address that has changed hands.
///
/// # Errors
/// FAILED_PRECONDITION, naming both.
pub fn check(metadata: &MetadataMap, host: &Host) -> Result<(), Status> {
    for (key, mine) in
        [(metadata::CLUSTER_ID, host.cluster().to_string()), (metadata::NODE_ID, host.node().to_string())]
    {
        let meant = text(metadata, key)?;
        if meant != mine {
            return Err(Status::failed_precondition(format!("WRONG_NODE: {key} is {mine}, not {meant}")));
        }
    }
    Ok(())
}

/// The node that calls.
///
/// # Errors
/// INVALID_ARGUMENT where it does not say.
pub fn caller(metadata: &MetadataMap) -> Result<NodeId, Status> {
    text(metadata, metadata::FROM_NODE_ID)?
        .parse()
        .map_err(|error| Status::invalid_argument(format!("{}: {error}", metadata::FROM_NODE_ID)))
}

fn text<'a>(map: &'a MetadataMap, key: &str) -> Result<&'a str, Status> {
    map.get(key)
        .and_then(|value| value.to_str().ok())
        .ok_or_else(|| Status::invalid_argument(format!("the metadata {key} is missing")))
}
