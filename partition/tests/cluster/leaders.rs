//! Leaders that are brought back to an even spread.

use std::time::Duration;

use bytes::Bytes;

use crate::support::{Cluster, put, read};
use crate::{value, version};

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_leaders_are_spread_again_and_a_drained_node_gets_none() {
    let mut cluster = Cluster::start_spreading(2, 4, Duration::from_millis(300)).await;
    for partition in 0..4 {
        cluster.in_sync(partition, 2).await;
    }
    cluster.leads("as many as the other", |counts| counts.values().all(|count| *count == 2)).await;
    let mut stream = cluster.leader_stream(0).await;
    version(&stream.one(put("k", "v")).await);

    let (stopped, stays) = (cluster.leader(0).await, cluster.follower(0).await);
    let parked = cluster.stop_node(stopped).await;
    cluster.leads("all of them", |counts| counts.get(&stays) == Some(&4)).await;

    // It comes back, drained: it is left alone. Then it is not drained any more, and gets its share.
    cluster.set_drained(stopped, true).await;
    assert_eq!(cluster.start_node(parked).await, stopped);
    for partition in 0..4 {
        cluster.in_sync(partition, 2).await;
    }
    let before = cluster.leads("nothing", |counts| !counts.contains_key(&stopped)).await;
    assert_eq!(before.values().sum::<usize>(), 4);
    cluster.set_drained(stopped, false).await;
    cluster.leads("as many as the other", |counts| counts.values().all(|count| *count == 2)).await;
    let mut stream = cluster.leader_stream(0).await;
    assert_eq!(value(&stream.settled(read("k")).await), Some(Bytes::from("v")));
    cluster.stop().await;
}
