//! Batches: one result per item, in order, and the limits.

use std::time::Duration;

use bytes::Bytes;
use paddock_proto::google::rpc;
use paddock_proto::limits::{BATCH_BYTES_MAX, VALUE_BYTES_MAX};
use paddock_proto::v1::{
    BatchGetRequest, BatchWriteRequest, ErrorReason, Mutation, PutRequest, ReadOutcome, Record, mutation,
    outcome, read_result, write_result,
};
use paddock_router::{request, scatter};
use tonic::Code;
use tonic_types::StatusExt;

use crate::cluster::{Cluster, key_in, keys_in, put, reason, soon, write_outcome};
use crate::fake::{Reply, failure, key_of, not_leader};

fn put_item(key: &Bytes, value: &'static str) -> Mutation {
    let put = mutation::Put { key: key.clone(), value: Some(value.into()) };
    Mutation { operation: Some(mutation::Operation::Put(put)), ..Mutation::default() }
}

fn written(result: Option<write_result::Outcome>) -> Result<u64, rpc::Status> {
    match result.unwrap() {
        write_result::Outcome::Version(version) => Ok(version),
        write_result::Outcome::Error(error) => Err(error),
    }
}

/// The metadata "write_outcome" of an item's error.
fn fate(error: &rpc::Status) -> String {
    use tonic_types::pb;
    let detail = error.details.iter().find(|any| any.type_url.ends_with("google.rpc.ErrorInfo")).unwrap();
    let info = <pb::ErrorInfo as prost::Message>::decode(detail.value.as_slice()).unwrap();
    info.metadata["write_outcome"].clone()
}

#[tokio::test]
async fn results_keep_the_order_of_the_request() {
    let mut cluster = Cluster::start(2).await;
    let missing = keys_in(1).nth(4).unwrap();
    let unknown_key = missing.clone();
    cluster.nodes[1].script(move |operation| {
        if key_of(operation) == unknown_key {
            Reply::With(outcome::Kind::Read(Default::default()))
        } else {
            Reply::Healthy
        }
    });
    let keys: Vec<Bytes> =
        keys_in(0).zip(keys_in(1)).take(100).flat_map(|(first, second)| [first, second]).collect();
    let request = BatchGetRequest { keys: keys.clone(), ..Default::default() };
    let results = cluster.client.batch_get(request).await.unwrap().into_inner().results;
    assert_eq!(results.len(), 200);
    for (key, result) in keys.iter().zip(results) {
        match result.outcome.unwrap() {
            read_result::Outcome::Record(record) => assert_eq!(record.key, *key),
            read_result::Outcome::Error(error) => {
                assert_eq!((key, error.code), (&missing, Code::NotFound as i32));
            }
        }
    }
}

#[tokio::test]
async fn each_write_has_its_own_result() {
    let mut cluster = Cluster::start(2).await;
    let refused = keys_in(0).nth(1).unwrap();
    let guarded = refused.clone();
    cluster.nodes[0].script(move |operation| {
        if key_of(operation) == guarded {
            Reply::With(failure(ErrorReason::PreconditionFailed, false))
        } else {
            Reply::Healthy
        }
    });
    let mutations = vec![put_item(&key_in(0), "a"), put_item(&refused, "b"), put_item(&key_in(1), "c")];
    let answer = cluster.client.batch_write(BatchWriteRequest { mutations }).await.unwrap();
    let mut results = answer.into_inner().results.into_iter().map(|result| written(result.outcome));
    assert!(results.next().unwrap().unwrap() > 0);
    let error = results.next().unwrap().unwrap_err();
    assert_eq!((error.code, fate(&error).as_str()), (Code::FailedPrecondition as i32, "not_applied"));
    assert!(results.next().unwrap().unwrap() > 0);
    assert!(results.next().is_none());
}

/// The values that were put to a key, in the order of their arrival.
fn values_put(cluster: &Cluster, node: usize) -> Vec<Bytes> {
    use paddock_proto::v1::operation;
    let value_of = |kind| match kind {
        Some(operation::Kind::Write(Mutation { operation: Some(mutation::Operation::Put(put)), .. })) => {
            put.value
        }
        _ => None,
    };
    cluster.nodes[node].arrivals().into_iter().filter_map(|operation| value_of(operation.kind)).collect()
}

#[tokio::test]
async fn writes_of_one_key_keep_their_order_also_when_the_first_is_tried_again() {
    let mut cluster = Cluster::start(1).await;
    let mut first = true;
    cluster.nodes[0].script(move |_| {
        if std::mem::take(&mut first) { Reply::With(not_leader(None)) } else { Reply::Healthy }
    });
    let key = key_in(0);
    let mutations = ["1", "2", "3"].map(|value| put_item(&key, value)).to_vec();
    let answer = cluster.client.batch_write(BatchWriteRequest { mutations }).await.unwrap().into_inner();
    let versions: Vec<u64> =
        answer.results.into_iter().map(|result| written(result.outcome).unwrap()).collect();
    assert!(versions.is_sorted() && versions[0] < versions[2], "{versions:?}");
    assert_eq!(values_put(&cluster, 0), ["1", "1", "2", "3"]);
}

#[tokio::test]
async fn after_a_write_of_unknown_outcome_the_keys_next_one_is_not_begun() {
    let mut cluster = Cluster::start(1).await;
    let (lost, other) = (key_in(0), keys_in(0).nth(1).unwrap());
    let unlucky = lost.clone();
    cluster.nodes[0].script(move |operation| {
        if key_of(operation) == unlucky {
            Reply::With(failure(ErrorReason::LeaderChangedUnknownOutcome, true))
        } else {
            Reply::Healthy
        }
    });
    let mutations = vec![put_item(&lost, "1"), put_item(&other, "2"), put_item(&lost, "3")];
    let answer = cluster.client.batch_write(BatchWriteRequest { mutations }).await.unwrap().into_inner();
    let mut results = answer.results.into_iter().map(|result| written(result.outcome));
    assert_eq!(fate(&results.next().unwrap().unwrap_err()), "unknown");
    assert!(results.next().unwrap().is_ok());
    let skipped = results.next().unwrap().unwrap_err();
    assert_eq!((skipped.code, fate(&skipped).as_str()), (Code::Unavailable as i32, "not_applied"));
    assert!(skipped.message.contains("item 0"), "{}", skipped.message);
    assert_eq!(cluster.nodes[0].arrivals_of(&lost), 1);
}

/// The first was refused for the moment: its sender may well send it again, and must not have it after the second then.
#[tokio::test]
async fn after_a_write_that_was_not_done_the_keys_next_one_is_not_begun() {
    let mut cluster = Cluster::start(1).await;
    let keys: Vec<Bytes> = keys_in(0).take(3).collect();
    let (turned_away, guarded) = (keys[0].clone(), keys[1].clone());
    let mut refusals = vec![
        (turned_away.clone(), failure(ErrorReason::Overloaded, false)),
        // That is a result: to send it again comes to the same.
        (guarded.clone(), failure(ErrorReason::PreconditionFailed, false)),
    ];
    cluster.nodes[0].script(move |operation| {
        match refusals.iter().position(|(key, _)| key_of(operation) == *key) {
            Some(index) => Reply::With(refusals.swap_remove(index).1),
            None => Reply::Healthy,
        }
    });
    let items =
        ["1", "2", "3"].into_iter().flat_map(|value| keys.iter().map(move |key| put_item(key, value)));
    let request = BatchWriteRequest { mutations: items.collect() };
    let answer = cluster.client.batch_write(request).await.unwrap().into_inner();
    let results: Vec<_> = answer.results.into_iter().map(|result| written(result.outcome)).collect();
    let of_key = |index: usize| results.iter().skip(index).step_by(3).collect::<Vec<_>>();
    for (item, result) in of_key(0).into_iter().enumerate() {
        let error = result.as_ref().unwrap_err();
        assert_eq!(fate(error), "not_applied");
        assert_eq!(error.message.contains("item 0"), item > 0, "{}", error.message);
    }
    assert_eq!(of_key(1).iter().map(|result| result.is_ok()).collect::<Vec<_>>(), [false, true, true]);
    assert!(of_key(2).iter().all(|result| result.is_ok()));
    assert_eq!((cluster.nodes[0].arrivals_of(&turned_away), cluster.nodes[0].arrivals_of(&guarded)), (1, 3));
}

#[tokio::test]
async fn limits_are_named_and_nothing_is_sent() {
    let mut cluster = Cluster::start(1).await;
    let many = BatchWriteRequest { mutations: vec![put_item(&key_in(0), "v"); 1_001] };
    let status = cluster.client.batch_write(many).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "BATCH_TOO_LARGE"));
    assert!(status.message().contains("1001") && status.message().contains("1000"), "{status}");

    let bad_item =
        BatchWriteRequest { mutations: vec![put_item(&key_in(0), "v"), put_item(&Bytes::new(), "v")] };
    let status = cluster.client.batch_write(bad_item).await.unwrap_err();
    let violation = &status.get_details_bad_request().unwrap().field_violations[0];
    assert_eq!(violation.field, "mutations[1].key");

    let long = vec![b'k'; 4_097];
    let status = cluster.client.put(put(&long.into())).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "KEY_INVALID"));
    assert_eq!(write_outcome(&status).as_deref(), Some("not_applied"));

    let no_value = PutRequest { key: "k".into(), ..PutRequest::default() };
    let status = cluster.client.put(no_value).await.unwrap_err();
    assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "value");
    assert_eq!(cluster.nodes[0].arrivals().len(), 0);
}

#[tokio::test]
async fn a_message_over_the_framing_limit_names_it_too() {
    let mut cluster = Cluster::start(1).await;
    let value = Some(vec![0_u8; 16 << 20].into());
    let huge = PutRequest { key: "k".into(), value, ..PutRequest::default() };
    let status = soon(cluster.client.put(huge)).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "VALUE_TOO_LARGE"));
    assert!(status.message().contains("16777216"), "{status}");
    // The connection is still good.
    cluster.client.put(put(&key_in(0))).await.unwrap();
}

#[tokio::test]
async fn a_batch_whose_deadline_passes_says_so_per_item() {
    let cluster = Cluster::start(2).await;
    cluster.nodes[0].script(|_| Reply::Never);
    let mutations = vec![put_item(&key_in(0), "a"), put_item(&key_in(1), "b"), put_item(&key_in(0), "c")];
    let jobs = request::batch_write(BatchWriteRequest { mutations }).unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(1);
    let results = soon(scatter::perform_in_key_order(&cluster.routes(), jobs, deadline)).await;
    let [first, second, third] = &results[..] else { panic!("{results:?}") };
    let first = first.as_ref().unwrap_err().to_item();
    assert_eq!(first.code, Code::DeadlineExceeded as i32);
    // Unless this machine had no time to send it within the deadline.
    let was_sent = fate(&first) == "unknown";
    if was_sent {
        soon(cluster.nodes[0].arrived(1)).await;
    }
    assert_eq!(cluster.nodes[0].arrivals().len(), usize::from(was_sent), "{first:?}");
    assert!(second.is_ok() || !was_sent);
    assert_eq!(fate(&third.as_ref().unwrap_err().to_item()), "not_applied");
}

#[tokio::test]
async fn a_batch_that_finds_too_much_is_refused_with_the_limit() {
    let mut cluster = Cluster::start(2).await;
    for node in &cluster.nodes {
        node.script(|operation| {
            let (key, value) = (Bytes::copy_from_slice(key_of(operation)), vec![0; VALUE_BYTES_MAX].into());
            let record = Some(Record { key, value, version: 1 });
            Reply::With(outcome::Kind::Read(ReadOutcome { record }))
        });
    }
    let mut get = async |count| {
        let request = BatchGetRequest { keys: keys_in(0).take(count).collect(), ..Default::default() };
        soon(cluster.client.batch_get(request)).await.map(|response| response.into_inner().results.len())
    };
    assert_eq!(get(3).await.unwrap(), 3);
    let refused = get(1_000).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "BATCH_TOO_LARGE"));
    assert!(refused.message().contains(&BATCH_BYTES_MAX.to_string()), "{refused}");
    let asked: usize = cluster.nodes.iter().map(|node| node.arrivals().len()).sum();
    assert!(asked < 100, "most of the batch was not asked for at all: {asked}");
    // The link is none the worse for the answers that nobody waits for.
    assert_eq!(get(1).await.unwrap(), 1);
}
