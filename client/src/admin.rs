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
        ChangeReplicasResponse, GetClusterResponse, LocateKeyResponse, Node, Partition,
        RecoverPartitionResponse, RecoverySource, Replica, ReplicaRole, Router, Scrub, SlotRange,
        SnapshotTransfer, TransferLeadershipResponse,
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

    /// Has a partition's leader hand over to a node, or to the best replica: no request fails by it. Returns when the
    /// other one leads.
    ///
    /// # Errors
    /// [`Error::TransferRefused`] if the leader keeps the partition, [`Error::InvalidArgument`] if there is no such
    /// partition or no such replica, [`Error::Unavailable`] if there is no leader.
    pub async fn transfer_leadership(
        &self,
        partition_id: u32,
        to_node_id: Option<&str>,
    ) -> Result<messages::TransferLeadershipResponse, Error> {
        let to_node_id = to_node_id.unwrap_or_default().to_owned();
        let request = v1::TransferLeadershipRequest { partition_id, to_node_id };
        self.call(Kind::Write, &request, |request| {
            let mut service = self.admin.clone();
            async move { service.transfer_leadership(request).await }
        })
        .await
    }

    /// Says on which nodes a partition's replicas are to be: those to be added come in the place of those to be removed.
    /// Returns when that is written; [`Client::partitions`] shows how far it has come.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if there is no such partition or node, if a node to be added is not live or has a replica, or
    /// one to be removed has none; [`Error::Unavailable`] if the coordination service is away.
    pub async fn change_replicas(
        &self,
        partition_id: u32,
        add_node_ids: &[&str],
        remove_node_ids: &[&str],
    ) -> Result<messages::ChangeReplicasResponse, Error> {
        let owned = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
        let request = v1::ChangeReplicasRequest {
            partition_id,
            add_node_ids: owned(add_node_ids),
            remove_node_ids: owned(remove_node_ids),
        };
        self.call(Kind::Write, &request, |request| {
            let mut service = self.admin.clone();
            async move { service.change_replicas(request).await }
        })
        .await
    }

    /// Shows from which replicas a partition could go on of which everybody who held all that was acknowledged is gone for
    /// good. Changes nothing.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if there is no such partition, or the named node has no live replica of it.
    pub async fn recovery(
        &self,
        partition_id: u32,
        node_id: Option<&str>,
    ) -> Result<messages::RecoverPartitionResponse, Error> {
        let node_id = node_id.unwrap_or_default().to_owned();
        let request = v1::RecoverPartitionRequest { partition_id, node_id, ..Default::default() };
        self.call(Kind::Read, &request, |request| {
            let mut service = self.admin.clone();
            async move { service.recover_partition(request).await }
        })
        .await
    }

    /// Goes on with a partition from what one replica has: **what that lacks is lost**, and session tokens of before are refused.
    /// `expected_epoch` is that of [`Client::recovery`], whose answer is what is consented to. Returns when that is written; the
    /// chosen replica leads in the moments after.
    ///
    /// # Errors
    /// [`Error::RecoveryRefused`] if somebody can lead the partition, or may be able to, or another epoch is in force;
    /// [`Error::Unavailable`] if the coordination service is away.
    pub async fn recover_with_data_loss(
        &self,
        partition_id: u32,
        node_id: &str,
        expected_epoch: u64,
    ) -> Result<messages::RecoverPartitionResponse, Error> {
        let node_id = node_id.to_owned();
        let request =
            v1::RecoverPartitionRequest { partition_id, node_id, accept_data_loss: true, expected_epoch };
        self.call(Kind::Write, &request, |request| {
            let mut service = self.admin.clone();
            async move { service.recover_partition(request).await }
        })
        .await
    }

    /// Says whether a node is to lead nothing. Returns the partitions that it leads now: a drained node hands them over
    /// in the moments after, as far as others can lead them.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if there is no such node, [`Error::Unavailable`] if the coordination service is away.
    pub async fn set_node_drained(&self, node_id: &str, drained: bool) -> Result<Vec<u32>, Error> {
        let request = v1::SetNodeDrainedRequest { node_id: node_id.to_owned(), drained };
        // To say it twice is to say it once.
        let response = self
            .call(Kind::Read, &request, |request| {
                let mut service = self.admin.clone();
                async move { service.set_node_drained(request).await }
            })
            .await?;
        Ok(response.leading_partition_ids)
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
