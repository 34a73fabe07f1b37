//! The cluster as it sees itself. These calls return the wire's own messages: they are there to be shown,
//! and grow by fields.

use bytes::Bytes;
use paddock_proto::admin::v1;

use crate::client::Client;
use crate::error::{Error, Kind};
use crate::types::Record;

/// The messages that the administrative calls return, documented in `admin_service.proto`.
pub mod messages {
    pub use paddock_proto::admin::v1::{
        GetClusterResponse, LocateKeyResponse, Node, Partition, Replica, ReplicaRole, Router, SlotRange,
        SnapshotTransfer,
    };
}

impl Client {
    /// The cluster's identity, its nodes and routers, and what is wrong with it.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::DeadlineExceeded`].
    pub async fn cluster(&self) -> Result<messages::GetClusterResponse, Error> {
        self.call(Kind::Read, &v1::GetClusterRequest {}, |request| {
            let mut service = self.admin.clone();
            async move { service.get_cluster(request).await }
        })
        .await
    }

    /// Every partition with its replicas, by number.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::DeadlineExceeded`].
    pub async fn partitions(&self) -> Result<Vec<messages::Partition>, Error> {
        let response = self
            .call(Kind::Read, &v1::ListPartitionsRequest {}, |request| {
                let mut service = self.admin.clone();
                async move { service.list_partitions(request).await }
            })
            .await?;
        Ok(response.partitions)
    }

    /// Where a key lives: its slot and partition.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a key out of bounds.
    pub async fn locate(&self, key: impl Into<Bytes>) -> Result<messages::LocateKeyResponse, Error> {
        let request = v1::LocateKeyRequest { key: key.into(), key_text: String::new() };
        self.call(Kind::Read, &request, |request| {
            let mut service = self.admin.clone();
            async move { service.locate_key(request).await }
        })
        .await
    }

    /// A page of one partition's records in key order, and whether more follow. The page begins after
    /// `after_key` (empty: at the first) and has at most `records_max` records, 1 to 1,000. Each page is
    /// linearizable; the pages together are not one moment's view.
    ///
    /// # Errors
    /// [`Error::NotFound`] or [`Error::InvalidArgument`] if there is no such partition.
    pub async fn list_records(
        &self,
        partition_id: u32,
        after_key: impl Into<Bytes>,
        records_max: u32,
    ) -> Result<(Vec<Record>, bool), Error> {
        let request =
            v1::ListRecordsRequest { partition_id, after_key: after_key.into(), page_size: records_max };
        let response = self
            .call(Kind::Read, &request, |request| {
                let mut service = self.admin.clone();
                async move { service.list_records(request).await }
            })
            .await?;
        Ok((response.records.into_iter().map(Record::from).collect(), response.more))
    }
}
