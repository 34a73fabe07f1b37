//! The gRPC interfaces of PaddockDB: generated types, clients and servers, and their descriptor set.
//!
//! - [`v1`]: what users speak (`KeyValueService`), and the stream between routers and partition servers
//!   (`ExchangeService`).
//! - [`admin::v1`]: the cluster as it sees itself.
//! - [`replication::v1`]: between partition servers.
//!
//! The `.proto` files beside this crate are the documentation of every message and field. Nothing here
//! converts: each server and client turns wire types into its own, once, at its edge.

#![forbid(unsafe_code)]
// Generated code: documented in the .proto files, and not ours to style.
#![allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, rustdoc::all)]

pub mod limits;
pub mod request_id;
mod session;

// Nested as the packages are, since the generated code refers to other packages by relative paths.
mod paddock {
    pub mod v1 {
        tonic::include_proto!("paddock.v1");
    }
    pub mod admin {
        pub mod v1 {
            tonic::include_proto!("paddock.admin.v1");
        }
    }
    pub mod replication {
        pub mod v1 {
            tonic::include_proto!("paddock.replication.v1");
        }
    }
}
pub use paddock::{admin, replication, v1};

/// `google.rpc.Status`, which each item of a batch carries.
pub mod google {
    /// `google.rpc`.
    pub mod rpc {
        tonic::include_proto!("google.rpc");
    }
}

/// Every file's descriptor with its imports and comments, as an encoded `FileDescriptorSet`: what gRPC
/// reflection and the REST transcoders read.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor_set.binpb"));

/// The metadata keys with which the opener of a stream names whom it means to reach, and who it is.
pub mod metadata {
    /// The cluster's id.
    pub const CLUSTER_ID: &str = "paddock-cluster-id";
    /// The node that the caller means to reach.
    pub const NODE_ID: &str = "paddock-node-id";
    /// The node that calls.
    pub const FROM_NODE_ID: &str = "paddock-from-node-id";
}
