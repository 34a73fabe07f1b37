//! Disks that stand still: for a moment, and for too long.

use std::sync::Arc;
use std::time::Duration;

use paddock_partition::host::{CareOptions, FatalError};
use paddock_partition::snapshot::CatchUpOptions;
use paddock_partition::watchdog::StallLimits;
use paddock_proto::v1::outcome;
use paddock_storage::Options;
use paddock_storage::disk::FaultyDisk;

use crate::support::{Cluster, put, read};
use crate::{value, version};

async fn cluster(disk: &FaultyDisk, nodes: u32, stalls: StallLimits) -> Cluster {
    let storage = Options::new().disk(Arc::new(disk.clone()));
    let care = CareOptions { stalls, ..CareOptions::default() };
    let cluster = Cluster::start_scrubbing(nodes, 1, storage, (CatchUpOptions::default(), care)).await;
    cluster.in_sync(0, usize::try_from(nodes).expect("few")).await;
    cluster
}

/// A leader whose disk does not come back renews no lease: another one leads, and what was acknowledged is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_disk_stands_still_is_replaced_and_its_process_ends() {
    let disk = FaultyDisk::new();
    let stalls = StallLimits { abort_after: Duration::from_secs(2), ..StallLimits::default() };
    let mut cluster = cluster(&disk, 2, stalls).await;
    let leader = cluster.leader(0).await;
    let mut stream = cluster.leader_stream(0).await;
    version(&stream.one(put("before", "the stall")).await);
    disk.stall(Some(cluster.data(leader)));
    let mut writing = cluster.stream(leader).await;
    // Something for the disk to do. It is not acknowledged; whether it happened is not known.
    let write = tokio::spawn(async move { writing.one(put("during", "the stall")).await });
    let next = cluster.next_leader(0, leader).await;
    let mut stream = cluster.leader_stream(0).await;
    assert_eq!(value(&stream.settled(read("before")).await).as_deref(), Some(&b"the stall"[..]));
    version(&stream.one(put("after", "the stall")).await);
    let failed = cluster.failed(leader).await;
    assert!(matches!(failed, FatalError::DiskStalled { seconds: 2.., .. }), "{failed}");
    assert!(failed.to_string().contains("stood still"), "{failed}");
    // The disk comes back, after all: nothing that was not acknowledged is said to be written.
    disk.stall(None);
    let answered = write.await.expect("an answer");
    assert!(!matches!(answered.kind, Some(outcome::Kind::Write(_))), "{answered:?}");
    assert_eq!(cluster.leader(0).await, next);
    cluster.stop().await;
}

/// One that took too long and came back hands over, by plan.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_disk_was_slow_hands_over() {
    let disk = FaultyDisk::new();
    // Shorter than a lease: nobody else would stand by itself.
    let stalls = StallLimits { hand_over_after: Duration::from_millis(50), ..StallLimits::default() };
    let cluster = cluster(&disk, 2, stalls).await;
    let leader = cluster.leader(0).await;
    let mut stream = cluster.leader_stream(0).await;
    version(&stream.one(put("before", "the stall")).await);
    let mut at = cluster.stream(leader).await;
    disk.stall(Some(cluster.data(leader)));
    let write = tokio::spawn(async move { at.one(put("during", "the stall")).await });
    tokio::time::sleep(Duration::from_millis(120)).await;
    disk.stall(None);
    let next = cluster.next_leader(0, leader).await;
    assert_ne!(next, leader);
    version(&write.await.expect("an answer"));
    let mut stream = cluster.leader_stream(0).await;
    for key in ["before", "during"] {
        assert_eq!(value(&stream.settled(read(key)).await).as_deref(), Some(&b"the stall"[..]));
    }
    cluster.stop().await;
}
