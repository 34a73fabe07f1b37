//! Create, read, compare-and-set and delete in fair weather.

use std::sync::Arc;

use bytes::Bytes;
use paddock_coordination::store::VALUE_BYTES_MAX;
use paddock_coordination::{Coordinator, Error, Version};

use crate::support::{Fixture, shows};

#[track_caller]
pub fn assert_conflict<T: std::fmt::Debug>(outcome: Result<T, Error>, path: &str) {
    match outcome {
        Err(Error::Conflict { path: named }) => assert_eq!(named, path),
        other => panic!("expected a conflict at {path}, not {other:?}"),
    }
}

pub async fn versions_and_values<F: Fixture>() {
    let fixture = F::start(false).await;
    let (one, other) = (fixture.client().await, fixture.client().await);
    assert_eq!(one.get("/a").await.unwrap(), None);
    let created = one.create("/a", Bytes::from_static(b"1")).await.unwrap();
    let found = other.get("/a").await.unwrap().unwrap();
    assert_eq!((found.version, &found.value[..]), (created, &b"1"[..]));
    let set = other.compare_and_set("/a", Bytes::new(), created).await.unwrap();
    assert_ne!(set, created, "every write has a version of its own");
    let found = one.get("/a").await.unwrap().unwrap();
    assert_eq!((found.version, found.value.len()), (set, 0), "an empty value is a value");
    one.delete("/a", Some(set)).await.unwrap();
    assert_eq!(other.get("/a").await.unwrap(), None);
    other.create("/a", Bytes::from_static(b"2")).await.unwrap();
    one.delete("/a", None).await.unwrap();
}

pub async fn conflicts_change_nothing<F: Fixture>() {
    let fixture = F::start(false).await;
    let client = fixture.client().await;
    let value = Bytes::from_static(b"x");
    let first = client.create("/a", value.clone()).await.unwrap();
    assert_conflict(client.create("/a", Bytes::from_static(b"y")).await, "/a");
    let second = client.compare_and_set("/a", value.clone(), first).await.unwrap();
    for stale in [first, Version(second.0 + 1), Version(-1), Version(i64::MAX)] {
        assert_conflict(client.compare_and_set("/a", Bytes::from_static(b"z"), stale).await, "/a");
        assert_conflict(client.delete("/a", Some(stale)).await, "/a");
    }
    assert_conflict(client.compare_and_set("/none", value.clone(), first).await, "/none");
    assert_conflict(client.delete("/none", None).await, "/none");
    client.create("/a/b", value.clone()).await.unwrap();
    assert_conflict(client.delete("/a", None).await, "/a");
    let found = client.get("/a").await.unwrap().unwrap();
    assert_eq!((found.version, found.value), (second, value));
}

pub async fn parents_come_into_being<F: Fixture>() {
    let fixture = F::start(false).await;
    let client = fixture.client().await;
    client.create("/p/q/r", Bytes::from_static(b"x")).await.unwrap();
    for parent in ["/p", "/p/q"] {
        let found = client.get(parent).await.unwrap().unwrap();
        assert_eq!(found.value.len(), 0, "{parent}");
        assert_conflict(client.create(parent, Bytes::new()).await, parent);
    }
    client.create("/p/q/s", Bytes::new()).await.unwrap();
}

pub async fn nonsense_is_rejected<F: Fixture>() {
    let fixture = F::start(false).await;
    let client = fixture.client().await;
    for path in ["", "a", "/a/", "/a//b", "/..", "/a\0b"] {
        for outcome in [
            client.create(path, Bytes::new()).await.map(|_| ()),
            client.get(path).await.map(|_| ()),
            client.compare_and_set(path, Bytes::new(), Version(0)).await.map(|_| ()),
            client.delete(path, None).await,
        ] {
            assert!(matches!(outcome, Err(Error::Rejected { .. })), "{path:?}: {outcome:?}");
        }
        let tree = client.watch(path).borrow().clone();
        assert!(tree.nodes.is_empty() && !tree.connected);
        let _refused = client.register(path, Bytes::new());
    }
    let large = Bytes::from(vec![0; VALUE_BYTES_MAX + 1]);
    let outcome = client.create("/large", large).await;
    assert!(outcome.unwrap_err().to_string().contains("524288 bytes, this one 524289"));
    assert_eq!(client.get("/large").await.unwrap(), None);
}

pub async fn the_largest_value<F: Fixture>() {
    let fixture = F::start(false).await;
    let client = fixture.client().await;
    let mut watch = client.watch("/large");
    let value = (0..VALUE_BYTES_MAX).map(|i| (i % 251) as u8).collect::<Bytes>();
    let version = client.create("/large", value.clone()).await.unwrap();
    assert_eq!(client.get("/large").await.unwrap().unwrap().value, value);
    let turned = value.iter().rev().copied().collect::<Bytes>();
    client.compare_and_set("/large", turned.clone(), version).await.unwrap();
    shows(&mut watch, "the second value", |tree| tree.nodes.get("/large").is_some_and(|f| f.value == turned))
        .await;
}

/// Adds one, however often others are quicker.
pub async fn add_one(client: &dyn Coordinator) {
    loop {
        let found = client.get("/counter").await.unwrap().unwrap();
        let count: u32 = std::str::from_utf8(&found.value).unwrap().parse().unwrap();
        match client.compare_and_set("/counter", Bytes::from((count + 1).to_string()), found.version).await {
            Ok(_) => return,
            Err(Error::Conflict { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

pub async fn concurrent_counters_lose_nothing<F: Fixture>() {
    const CLIENTS: u32 = 4;
    const ROUNDS: u32 = 15;
    let fixture = F::start(false).await;
    let reader = fixture.client().await;
    reader.create("/counter", Bytes::from_static(b"0")).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let client = Arc::clone(&fixture.client().await.coordinator);
        tasks.spawn(async move {
            for _ in 0..ROUNDS {
                add_one(&*client).await;
            }
        });
    }
    tasks.join_all().await;
    let found = reader.get("/counter").await.unwrap().unwrap();
    assert_eq!(found.value, Bytes::from((CLIENTS * ROUNDS).to_string()));
}
