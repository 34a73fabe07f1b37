//! Writes with a request id: each happens once, however often it is sent, and whoever leads.

use bytes::Bytes;
use paddock_coordination::NodeId;
use paddock_partition::clock::wall_clock_ms;
use paddock_partition::retries::RETENTION_MS;
use paddock_proto::request_id::RequestId;
use paddock_proto::v1::precondition::Condition;
use paddock_proto::v1::{ErrorReason, Operation, Outcome, outcome};

use crate::support::{Cluster, named, put, put_if, range, read, remove};
use crate::{failure, value, version};

/// The n-th id of a test, made now.
fn id(number: u128) -> RequestId {
    RequestId::from_parts(wall_clock_ms(), number)
}

fn deleted(outcome: &Outcome) -> (bool, u64) {
    match &outcome.kind {
        Some(outcome::Kind::Write(write)) => (write.deleted, write.version),
        other => panic!("not written: {other:?}"),
    }
}

/// Writes of every kind of result, each with an id, and what they came to.
async fn first_results(cluster: &Cluster) -> Vec<(Operation, Outcome)> {
    let mut leader = cluster.leader_stream(0).await;
    version(&leader.one(put("taken", "0")).await);
    version(&leader.one(put("gone", "0")).await);
    let writes = [
        put("plain", "1"),
        put_if("created", "1", Condition::Exists(false)),
        put_if("taken", "1", Condition::Exists(false)),
        put_if("missing", "1", Condition::Exists(true)),
        put_if("taken", "1", Condition::Value(Bytes::from("9"))),
        remove("gone"),
        remove("never"),
    ];
    let writes: Vec<Operation> = (1..).zip(writes).map(|(number, write)| named(id(number), write)).collect();
    let results = leader.call(writes.clone()).await;
    // Whatever was decided, the state of things has moved on since: to decide again would come to something else.
    for write in [put("plain", "2"), remove("created"), remove("taken"), put("missing", "2")] {
        version(&leader.one(write).await);
    }
    for write in [put("gone", "2"), put("never", "2")] {
        version(&leader.one(write).await);
    }
    writes.into_iter().zip(results).collect()
}

/// Sends the writes again: the answers are the first ones, and nothing has changed.
async fn are_replayed(cluster: &Cluster, writes: &[(Operation, Outcome)]) {
    let mut leader = cluster.leader_stream(0).await;
    for (write, first) in writes {
        let again = leader.settled_write(write.clone()).await;
        assert_eq!(again.kind, first.kind, "{write:?}");
    }
    for (key, expected) in [
        ("plain", Some("2")),
        ("created", None),
        ("taken", None),
        ("missing", Some("2")),
        ("gone", Some("2")),
        ("never", Some("2")),
    ] {
        let found = value(&leader.settled(read(key)).await);
        assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_gets_the_first_result_from_the_same_leader_from_the_next_and_after_a_restart() {
    let mut cluster = Cluster::start(2, 1).await;
    cluster.in_sync(0, 2).await;
    let writes = first_results(&cluster).await;
    assert_eq!(failure(&writes[2].1).reason(), ErrorReason::KeyExists);
    assert_eq!(failure(&writes[3].1).reason(), ErrorReason::KeyNotFound);
    assert_eq!(failure(&writes[4].1).reason(), ErrorReason::PreconditionFailed);
    assert!(deleted(&writes[5].1).0);
    assert_eq!(deleted(&writes[6].1), (false, 0));
    are_replayed(&cluster, &writes).await;

    let former = cluster.leader(0).await;
    let parked = cluster.stop_node(former).await;
    assert_ne!(cluster.next_leader(0, former).await, former);
    are_replayed(&cluster, &writes).await;

    cluster.start_node(parked).await;
    cluster.in_sync(0, 2).await;
    cluster.restart_all().await;
    cluster.in_sync(0, 2).await;
    are_replayed(&cluster, &writes).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_counts_once_in_one_message_and_on_several_streams() {
    let cluster = Cluster::start(2, 1).await;
    cluster.in_sync(0, 2).await;
    let mut leader = cluster.leader_stream(0).await;
    let write = named(id(1), put("k", "1"));
    let mut versions: Vec<u64> = Vec::new();
    versions.extend(leader.call(vec![write.clone(), write.clone(), write.clone()]).await.iter().map(version));
    let mut other = cluster.leader_stream(0).await;
    let (one, two) = tokio::join!(leader.call(vec![write.clone()]), other.call(vec![write.clone()]));
    versions.extend(one.iter().chain(&two).map(version));
    assert!(versions.iter().all(|version| *version == versions[0]), "{versions:?}");
    // One entry of a user, and one of the result.
    assert_eq!(version(&leader.one(put("k", "2")).await), versions[0] + 2);

    let reused = leader.one(named(id_of(&write), put("k", "3"))).await;
    assert_eq!(failure(&reused).reason(), ErrorReason::RequestIdReused);
    assert!(!failure(&reused).outcome_unknown);
    cluster.stop().await;
}

fn id_of(operation: &Operation) -> RequestId {
    match &operation.kind {
        Some(paddock_proto::v1::operation::Kind::Write(mutation)) => {
            mutation.request_id.parse().expect("an id")
        }
        other => panic!("no write: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_out_of_its_time_is_refused_and_told_the_time() {
    let cluster = Cluster::start(1, 1).await;
    let mut leader = cluster.leader_stream(0).await;
    let now = wall_clock_ms();
    version(&leader.one(named(RequestId::from_parts(now, 1), put("k", "1"))).await);
    let old = RequestId::from_parts(now - RETENTION_MS - 1, 1);
    let ahead = RequestId::from_parts(now + RETENTION_MS, 1);
    for (id, reason) in [(old, ErrorReason::RequestIdExpired), (ahead, ErrorReason::RequestIdAhead)] {
        let refused = leader.one(named(id, put("k", "2"))).await;
        assert_eq!(failure(&refused).reason(), reason);
        assert!((now..now + 60_000).contains(&failure(&refused).clock_ms), "{refused:?}");
        // What was done under an old id in its time nobody remembers; under one of the future nothing was.
        assert_eq!(failure(&refused).outcome_unknown, reason == ErrorReason::RequestIdExpired);
    }
    let Some(paddock_proto::v1::operation::Kind::Write(mut mutation)) = put("k", "2").kind else {
        panic!("a write")
    };
    mutation.request_id = "919108f7-52d1-4320-9bac-f847db4148a8".into();
    let kind = Some(paddock_proto::v1::operation::Kind::Write(mutation));
    let random = leader.one(Operation { kind, ..put("k", "2") }).await;
    assert_eq!(failure(&random).reason(), ErrorReason::InvalidRequest);
    assert_eq!(value(&leader.settled(read("k")).await), Some(Bytes::from("1")));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_counter_counts_right_although_answers_are_lost_in_fail_overs() {
    let mut cluster = Cluster::start(2, 1).await;
    cluster.in_sync(0, 2).await;
    let mut leader = cluster.leader_stream(0).await;
    let mut counted = version(&leader.one(put("counter", "0")).await);
    for round in 1..=4_u32 {
        let (before, after) = (round - 1, round);
        // Every increment rests on the version before it: done twice it would fail, left out the next one would.
        let condition = Condition::Version(counted);
        let increment = named(id(u128::from(round)), put_if("counter", &after.to_string(), condition));
        let former = cluster.leader(0).await;
        let mut stream = cluster.stream(former).await;
        assert!(stream.cast(vec![increment.clone()], std::time::Duration::from_secs(10)).await);
        // Nobody takes the answer; what the leader has done by then, if anything, the next one knows.
        drop(stream);
        let parked = cluster.stop_node(former).await;
        cluster.next_leader(0, former).await;
        let mut stream = cluster.leader_stream(0).await;
        counted = version(&stream.settled_write(increment).await);
        let found = value(&stream.settled(read("counter")).await);
        assert_eq!(found, Some(Bytes::from(after.to_string())), "after {before}");
        cluster.start_node(parked).await;
        cluster.in_sync(0, 2).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_see_nothing_of_it_and_may_name_any_key() {
    let cluster = Cluster::start(2, 1).await;
    cluster.in_sync(0, 2).await;
    let mut leader = cluster.leader_stream(0).await;
    let keys = ["\0", "\0\0", "\0\0\u{1}\0\0\0\0\0\0\0\u{1}", "\0\u{1}", "\0\u{7f}", "\u{1}", "a"];
    let first = named(id(1), put(keys[0], "v"));
    let created = version(&leader.one(first.clone()).await);
    for (number, key) in (2..).zip(keys) {
        version(&leader.one(named(id(number), put(key, "v"))).await);
        assert_eq!(value(&leader.settled(read(key)).await), Some(Bytes::from("v")), "{key:?}");
    }
    let mut after = Bytes::new();
    let mut found = Vec::new();
    loop {
        let page = leader.settled(range(&after, 2)).await;
        let Some(outcome::Kind::ReadRange(page)) = page.kind else { panic!("no page: {page:?}") };
        found.extend(page.records.iter().map(|record| record.key.clone()));
        let Some(last) = page.records.last().filter(|_| page.more) else { break };
        after = last.key.clone();
    }
    assert_eq!(found, keys.map(Bytes::from));
    cluster.records(0, keys.len() as u64).await;
    // To delete all that a user can name leaves the results.
    for key in keys {
        assert!(deleted(&leader.one(remove(key)).await).0, "{key:?}");
    }
    assert_eq!(version(&leader.one(first).await), created);
    cluster.stop().await;
}

/// What a node has appended: entries, and bytes of their rows.
async fn appended(cluster: &Cluster, node: NodeId) -> (u64, u64) {
    let metrics = cluster.metrics(node).await;
    let value = |name: &str| {
        let line = metrics.lines().find(|line| line.starts_with(name)).expect("the metric is there");
        line.rsplit_once(' ').and_then(|(_, value)| value.parse::<u64>().ok()).expect("a number")
    };
    (value("paddock_partition_log_entries_total"), value("paddock_partition_log_appended_bytes_total"))
}

/// What request ids cost: the time of a write, and what is appended for it. `PADDOCK_IDS_WRITES` says how many are written each
/// time (20,000).
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures for a while, and prints figures: see docs/guarantees.md"]
async fn measure_request_ids() {
    let writes = std::env::var("PADDOCK_IDS_WRITES").map_or(20_000, |text| text.parse().expect("a number"));
    let cluster = Cluster::start(2, 1).await;
    cluster.in_sync(0, 2).await;
    let node = cluster.leader(0).await;
    let mut stream = cluster.leader_stream(0).await;
    let mut number = 0_u128;
    // In turns, so that what else the machine does hits both.
    for round in 1..=3 {
        for at_once in [1, 64] {
            for is_named in [false, true] {
                // One at a time takes its time.
                let count = if at_once == 1 { writes / 10 } else { writes };
                let before = appended(&cluster, node).await;
                let (mut micros, began) = (Vec::new(), std::time::Instant::now());
                for _ in 0..count / at_once {
                    let batch = (0..at_once).map(|_| {
                        number += 1;
                        let write = put(&format!("{:016}", number % 10_000), "0123456789abcdef");
                        if is_named { named(id(number), write) } else { write }
                    });
                    let batch = batch.collect();
                    let sent = std::time::Instant::now();
                    for outcome in stream.call(batch).await {
                        version(&outcome);
                    }
                    micros.push(sent.elapsed().as_micros());
                }
                let elapsed = began.elapsed();
                let after = appended(&cluster, node).await;
                micros.sort_unstable();
                let at = |percent: usize| micros[(micros.len() - 1) * percent / 100];
                let done = (micros.len() * usize::try_from(at_once).expect("fits")) as f64;
                println!(
                    "round {round}, {at_once} at once, {}: {:.0} writes/s, answered in p50 {} us, p99 {} us; \
                     {:.2} rows and {:.1} bytes of rows a write",
                    if is_named { "with ids" } else { "without" },
                    done / elapsed.as_secs_f64(),
                    at(50),
                    at(99),
                    (after.0 - before.0) as f64 / done,
                    (after.1 - before.1) as f64 / done,
                );
            }
        }
    }
    cluster.stop().await;
}
