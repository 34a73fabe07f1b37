//! What an operation's error says when the service is away, or loses something.

use std::sync::Arc;

use bytes::Bytes;
use paddock_coordination::{Coordinator, Error};

use super::values::{add_one, assert_conflict};
use crate::support::{Client, DEADLINE, Faults, Fixture, shows, text};

/// Waits until the client answers again after a fault that cost it its connection.
async fn reachable(client: &Client) {
    let mut watch = client.watch("/");
    shows(&mut watch, "a connection", |tree| tree.connected).await;
}

pub async fn unreachable_is_unavailable_and_writes_nothing<F: Fixture>() {
    let fixture = F::start(false).await;
    let (client, other) = (fixture.client().await, fixture.client().await);
    let version = client.create("/a", Bytes::from_static(b"1")).await.unwrap();
    let mut watch = client.watch("/");
    shows(&mut watch, "a connection", |tree| tree.connected).await;
    client.faults.disconnect().await;
    // The client knows that it is cut off.
    shows(&mut watch, "the loss", |tree| !tree.connected && text(tree, "/a") == Some("1")).await;
    for outcome in [
        client.create("/b", Bytes::new()).await.map(|_| ()),
        client.get("/a").await.map(|_| ()),
        client.compare_and_set("/a", Bytes::from_static(b"2"), version).await.map(|_| ()),
        client.delete("/a", None).await,
    ] {
        assert!(matches!(outcome, Err(Error::Unavailable { .. })), "{outcome:?}");
    }
    client.faults.reconnect().await;
    shows(&mut watch, "the way back", |tree| tree.connected).await;
    // Whatever of the client's was queued would have come before this.
    client.create("/c", Bytes::new()).await.unwrap();
    assert_eq!(other.get("/a").await.unwrap().unwrap().version, version);
    assert_eq!(other.get("/b").await.unwrap(), None);
}

pub async fn a_lost_request_is_unknown_and_not_done<F: Fixture>() {
    let fixture = F::start(false).await;
    let client = fixture.client().await;
    let version = client.create("/a", Bytes::from_static(b"1")).await.unwrap();
    client.faults.lose_next_request().await;
    let value = Bytes::from_static(b"2");
    let outcome = client.compare_and_set("/a", value.clone(), version).await;
    assert!(matches!(outcome, Err(Error::UnknownOutcome { .. })), "{outcome:?}");
    reachable(&client).await;
    assert_eq!(
        client.get("/a").await.unwrap().unwrap().version,
        version,
        "the read shows that it was not done"
    );
    client.compare_and_set("/a", value.clone(), version).await.unwrap();
    assert_eq!(client.get("/a").await.unwrap().unwrap().value, value);
}

pub async fn a_lost_answer_is_unknown_and_done<F: Fixture>() {
    let fixture = F::start(false).await;
    let client = fixture.client().await;
    let version = client.create("/a", Bytes::from_static(b"1")).await.unwrap();
    client.faults.lose_next_answer().await;
    let value = Bytes::from_static(b"2");
    let outcome = client.compare_and_set("/a", value.clone(), version).await;
    assert!(matches!(outcome, Err(Error::UnknownOutcome { .. })), "{outcome:?}");
    reachable(&client).await;
    let found = client.get("/a").await.unwrap().unwrap();
    assert_eq!(found.value, value, "the read shows that it was done");
    assert_ne!(found.version, version);
    // Issued again, the same write can do no harm.
    assert_conflict(client.compare_and_set("/a", value, version).await, "/a");
    client.faults.lose_next_answer().await;
    let outcome = client.create("/b", Bytes::new()).await;
    assert!(matches!(outcome, Err(Error::UnknownOutcome { .. })), "{outcome:?}");
    reachable(&client).await;
    assert!(client.get("/b").await.unwrap().is_some());
}

/// Adds one, as a replica changes its state: with a nonce that tells its own write from another's.
async fn add_one_with_nonce(client: &dyn Coordinator, nonce: &str) {
    let mut unknown = false;
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        assert!(tokio::time::Instant::now() < deadline, "{nonce} gets nowhere");
        let found = match client.get("/counter").await {
            Ok(found) => found.unwrap(),
            Err(Error::Unavailable { .. }) => continue,
            Err(error) => panic!("{error}"),
        };
        let value = String::from_utf8(found.value.to_vec()).unwrap();
        let nonces = value.split(' ').collect::<Vec<_>>();
        if nonces.contains(&nonce) {
            assert!(unknown, "{nonce} was written without anybody asking for it");
            return;
        }
        let next = format!("{value} {nonce}");
        match client.compare_and_set("/counter", Bytes::from(next), found.version).await {
            Ok(_) => return,
            Err(Error::Conflict { .. } | Error::Unavailable { .. }) => {}
            Err(Error::UnknownOutcome { .. }) => unknown = true,
            Err(error) => panic!("{error}"),
        }
    }
}

pub async fn counters_survive_lost_answers_by_their_nonces<F: Fixture>() {
    const CLIENTS: usize = 3;
    const ROUNDS: usize = 4;
    let fixture = F::start(false).await;
    let reader = fixture.client().await;
    reader.create("/counter", Bytes::from_static(b"start")).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        let client = fixture.client().await;
        let (coordinator, faults) = (Arc::clone(&client.coordinator), Arc::clone(&client.faults));
        tasks.spawn(async move {
            for round in 0..ROUNDS {
                if round % 2 == 1 {
                    lose_something(&*faults, number).await;
                }
                add_one_with_nonce(&*coordinator, &format!("{number}-{round}")).await;
            }
        });
    }
    tasks.join_all().await;
    let found = reader.get("/counter").await.unwrap().unwrap();
    let mut nonces = std::str::from_utf8(&found.value).unwrap().split(' ').collect::<Vec<_>>();
    assert_eq!(nonces.len(), 1 + CLIENTS * ROUNDS, "{nonces:?}");
    nonces.sort_unstable();
    nonces.dedup();
    assert_eq!(nonces.len(), 1 + CLIENTS * ROUNDS, "each exactly once");
}

async fn lose_something(faults: &dyn Faults, number: usize) {
    if number.is_multiple_of(2) {
        faults.lose_next_answer().await;
    } else {
        faults.lose_next_request().await;
    }
}

pub async fn values_and_versions_survive_a_restart<F: Fixture>() {
    let mut fixture = F::start(true).await;
    let client = fixture.client().await;
    let version = client.create("/p/a", Bytes::from_static(b"1")).await.unwrap();
    let version = client.compare_and_set("/p/a", Bytes::from_static(b"2"), version).await.unwrap();
    client.create("/gone", Bytes::new()).await.unwrap();
    client.delete("/gone", None).await.unwrap();
    fixture.restart().await;
    reachable(&client).await;
    let found = client.get("/p/a").await.unwrap().unwrap();
    assert_eq!((found.version, &found.value[..]), (version, &b"2"[..]));
    assert_eq!(client.get("/gone").await.unwrap(), None);
    client.compare_and_set("/p/a", Bytes::from_static(b"3"), version).await.unwrap();
}

pub async fn operations_go_on_after_expiry<F: Fixture>() {
    let fixture = F::start(false).await;
    let client = fixture.client().await;
    client.create("/counter", Bytes::from_static(b"0")).await.unwrap();
    for round in 1..=3 {
        client.faults.expire().await;
        let found = tokio::time::timeout(DEADLINE, async {
            loop {
                match client.get("/counter").await {
                    Ok(found) => return found.unwrap(),
                    Err(Error::Unavailable { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        })
        .await
        .expect("another session begins");
        assert_eq!(found.value, Bytes::from((round - 1).to_string()));
        add_one(&*client).await;
    }
}
