//! A registration stands while it is held, and no longer.

use bytes::Bytes;
use paddock_coordination::Error;

use crate::support::{DEADLINE, Fixture, shows, text};

const PATH: &str = "/live/x";

pub async fn a_registration_stands_until_it_is_dropped<F: Fixture>() {
    let fixture = F::start(false).await;
    let (client, observer) = (fixture.client().await, fixture.client().await);
    let mut watch = observer.watch("/live");
    let registration = client.register(PATH, Bytes::from_static(b"here"));
    shows(&mut watch, "the node", |t| text(t, PATH) == Some("here")).await;
    drop(registration);
    shows(&mut watch, "its end", |t| t.connected && text(t, PATH).is_none()).await;
    let _again = client.register(PATH, Bytes::from_static(b"again"));
    shows(&mut watch, "another", |t| text(t, PATH) == Some("again")).await;
}

pub async fn a_registration_returns_when_deleted<F: Fixture>() {
    let fixture = F::start(false).await;
    let (client, other) = (fixture.client().await, fixture.client().await);
    let mut watch = other.watch("/live");
    let _registration = client.register(PATH, Bytes::from_static(b"here"));
    for _ in 0..3 {
        let tree = shows(&mut watch, "the node", |t| text(t, PATH) == Some("here")).await;
        other.delete(PATH, Some(tree.nodes[PATH].version)).await.unwrap();
        // Another node has the same path and version: only the writer's own read tells them apart.
        tokio::time::timeout(DEADLINE, async { while other.get(PATH).await.unwrap().is_none() {} })
            .await
            .expect("it returns");
    }
}

pub async fn a_registration_returns_after_expiry<F: Fixture>() {
    let fixture = F::start(false).await;
    let (client, observer) = (fixture.client().await, fixture.client().await);
    let mut watch = observer.watch("/live");
    let registration = client.register(PATH, Bytes::from_static(b"here"));
    shows(&mut watch, "the node", |t| text(t, PATH) == Some("here")).await;
    for _ in 0..2 {
        client.faults.disconnect().await;
        let mut own = client.watch("/live");
        shows(&mut own, "nothing yet", |t| !t.connected).await;
        client.faults.expire().await;
        shows(&mut watch, "the session's end", |t| t.connected && text(t, PATH).is_none()).await;
        client.faults.reconnect().await;
        shows(&mut watch, "the node again", |t| text(t, PATH) == Some("here")).await;
    }
    drop(registration);
    shows(&mut watch, "its end", |t| t.connected && text(t, PATH).is_none()).await;
}

pub async fn a_registration_returns_after_a_restart<F: Fixture>() {
    let mut fixture = F::start(true).await;
    let client = fixture.client().await;
    let registration = client.register(PATH, Bytes::from_static(b"here"));
    let mut own = client.watch("/live");
    shows(&mut own, "the node", |t| text(t, PATH) == Some("here")).await;
    fixture.restart().await;
    let observer = fixture.client().await;
    let mut watch = observer.watch("/live");
    shows(&mut watch, "the node", |t| t.connected && text(t, PATH) == Some("here")).await;
    drop(registration);
    shows(&mut watch, "its end", |t| t.connected && text(t, PATH).is_none()).await;
}

pub async fn a_registration_survives_a_reconnect<F: Fixture>() {
    let fixture = F::start(false).await;
    let (client, observer) = (fixture.client().await, fixture.client().await);
    let mut watch = observer.watch("/live");
    let registration = client.register(PATH, Bytes::from_static(b"here"));
    shows(&mut watch, "the node", |t| text(t, PATH) == Some("here")).await;
    let mut own = client.watch("/live");
    shows(&mut own, "the node", |t| text(t, PATH) == Some("here")).await;
    client.faults.disconnect().await;
    shows(&mut own, "the loss", |t| !t.connected).await;
    assert!(observer.get(PATH).await.unwrap().is_some(), "the session lives on");
    client.faults.reconnect().await;
    shows(&mut own, "the way back", |t| t.connected && text(t, PATH) == Some("here")).await;
    // It is still watched over, and can still be taken away.
    observer.delete(PATH, None).await.unwrap();
    tokio::time::timeout(DEADLINE, async { while observer.get(PATH).await.unwrap().is_none() {} })
        .await
        .expect("it returns");
    drop(registration);
    shows(&mut watch, "its end", |t| t.connected && text(t, PATH).is_none()).await;
}

pub async fn registrations_end_with_the_handle<F: Fixture>() {
    let fixture = F::start(false).await;
    let (client, observer) = (fixture.client().await, fixture.client().await);
    let mut watch = observer.watch("/live");
    let _first = client.register(PATH, Bytes::from_static(b"1"));
    let _second = client.register("/live/y", Bytes::from_static(b"2"));
    shows(&mut watch, "both", |t| text(t, PATH).is_some() && text(t, "/live/y").is_some()).await;
    drop(client);
    shows(&mut watch, "neither", |t| t.connected && text(t, PATH).is_none() && text(t, "/live/y").is_none())
        .await;
}

pub async fn registrations_end_with_close<F: Fixture>() {
    let fixture = F::start(false).await;
    let (client, observer) = (fixture.client().await, fixture.client().await);
    let _registration = client.register(PATH, Bytes::from_static(b"1"));
    let mut watch = client.watch("/live");
    shows(&mut watch, "the node", |t| text(t, PATH).is_some()).await;
    client.close().await;
    assert_eq!(observer.get(PATH).await.unwrap(), None, "gone by the time that close returns");
    assert!(watch.wait_for(|_| false).await.is_err(), "its watches have ended");
    let outcome = client.get(PATH).await;
    assert!(matches!(outcome, Err(Error::Unavailable { .. })), "{outcome:?}");
    // Nothing begins any more, and nobody waits for it in vain.
    let _late = client.register("/live/late", Bytes::new());
    let mut late = client.watch("/live");
    let ended = tokio::time::timeout(DEADLINE, late.changed()).await.expect("it ends");
    assert!(ended.is_err(), "a watch of a closed handle has ended");
    assert_eq!(observer.get("/live/late").await.unwrap(), None);
}

pub async fn a_former_sessions_node_is_replaced_and_the_newest_holds<F: Fixture>() {
    let fixture = F::start(false).await;
    let (former, newer, observer) = (fixture.client().await, fixture.client().await, fixture.client().await);
    let mut watch = observer.watch("/live");
    let _old = former.register(PATH, Bytes::from_static(b"old"));
    shows(&mut watch, "the former's", |t| text(t, PATH) == Some("old")).await;
    // Its session lives on all the while, so its node does not just vanish.
    let new = newer.register(PATH, Bytes::from_static(b"new"));
    shows(&mut watch, "the newer's", |t| text(t, PATH) == Some("new")).await;
    former.faults.disconnect().await;
    let mut formers = former.watch("/live");
    former.faults.reconnect().await;
    shows(&mut formers, "the newer's", |t| t.connected && text(t, PATH) == Some("new")).await;
    for turn in ["/live/1", "/live/2", "/live/3"] {
        let _turn = former.register(turn, Bytes::new());
        let tree = shows(&mut formers, "that the former is at work", |t| text(t, turn).is_some()).await;
        assert_eq!(text(&tree, PATH), Some("new"), "the former leaves it alone");
    }
    // It waited its turn instead of taking it back.
    drop(new);
    shows(&mut watch, "the former's again", |t| text(t, PATH) == Some("old")).await;
}

pub async fn an_ephemeral_node_has_no_children<F: Fixture>() {
    let fixture = F::start(false).await;
    let client = fixture.client().await;
    let mut watch = client.watch("/live");
    let _registration = client.register(PATH, Bytes::new());
    shows(&mut watch, "the node", |t| text(t, PATH).is_some()).await;
    let outcome = client.create("/live/x/child", Bytes::new()).await;
    assert!(matches!(outcome, Err(Error::Rejected { .. })), "{outcome:?}");
}

pub async fn a_persistent_node_is_not_replaced<F: Fixture>() {
    let fixture = F::start(false).await;
    let client = fixture.client().await;
    client.create(PATH, Bytes::from_static(b"persistent")).await.unwrap();
    let _registration = client.register(PATH, Bytes::from_static(b"ephemeral"));
    let mut watch = client.watch("/live");
    // Registered and watched by one client: a second registration shows that the first one has had its turn.
    let _other = client.register("/live/y", Bytes::new());
    shows(&mut watch, "the other", |t| text(t, "/live/y").is_some()).await;
    assert_eq!(text(&watch.borrow(), PATH), Some("persistent"));
    client.delete(PATH, None).await.unwrap();
    shows(&mut watch, "the registration in its place", |t| text(t, PATH) == Some("ephemeral")).await;
}
