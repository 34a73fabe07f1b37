//! A watch shows what is there, whatever happened to the connection meanwhile.

use bytes::Bytes;

use crate::support::{Client, Fixture, shows, text};

/// Writes a value, whatever its version.
async fn set(client: &Client, path: &str, value: &'static str) {
    let found = client.get(path).await.unwrap().expect("it was created");
    client.compare_and_set(path, Bytes::from(value), found.version).await.unwrap();
}

async fn create(client: &Client, path: &str, value: &'static str) {
    client.create(path, Bytes::from(value)).await.unwrap();
}

pub async fn a_watch_sees_every_kind_of_change<F: Fixture>() {
    let fixture = F::start(false).await;
    let (watcher, writer) = (fixture.client().await, fixture.client().await);
    let mut watch = watcher.watch("/");
    create(&writer, "/early", "0").await;
    shows(&mut watch, "what came about at the start", |t| t.connected && text(t, "/early") == Some("0"))
        .await;
    create(&writer, "/p/q/r", "1").await;
    shows(&mut watch, "a creation, and the parents", |t| {
        text(t, "/p/q/r") == Some("1") && text(t, "/p") == Some("") && text(t, "/p/q") == Some("")
    })
    .await;
    set(&writer, "/p/q/r", "2").await;
    let tree = shows(&mut watch, "a write", |t| text(t, "/p/q/r") == Some("2")).await;
    let found = writer.get("/p/q/r").await.unwrap().unwrap();
    assert_eq!(tree.nodes["/p/q/r"], found, "with the version that a compare-and-set expects");
    writer.delete("/p/q/r", None).await.unwrap();
    shows(&mut watch, "a deletion", |t| text(t, "/p/q/r").is_none() && text(t, "/p/q") == Some("")).await;
    let mut late = watcher.watch("/");
    shows(&mut late, "what is there", |t| t.connected && text(t, "/early") == Some("0")).await;
}

pub async fn a_watch_keeps_to_its_subtree<F: Fixture>() {
    let fixture = F::start(false).await;
    let (watcher, writer) = (fixture.client().await, fixture.client().await);
    let mut watch = watcher.watch("/p");
    shows(&mut watch, "that there is nothing", |t| t.connected && t.nodes.is_empty()).await;
    create(&writer, "/pq", "other").await;
    create(&writer, "/p/a", "1").await;
    let tree = shows(&mut watch, "what is below it", |t| text(t, "/p/a").is_some()).await;
    assert_eq!(tree.nodes.keys().collect::<Vec<_>>(), ["/p", "/p/a"], "and nothing else");
    let mut leaf = watcher.watch("/p/a");
    shows(&mut leaf, "a single node", |t| text(t, "/p/a") == Some("1")).await;
    set(&writer, "/p/a", "2").await;
    shows(&mut leaf, "a single node's write", |t| text(t, "/p/a") == Some("2")).await;
}

/// Shows that a watch works now: it sees a change that another client makes.
async fn still_sees(watch: &mut paddock_coordination::Watch, writer: &Client, path: &'static str) {
    create(writer, path, "new").await;
    shows(watch, "a later creation", |t| text(t, path) == Some("new")).await;
    set(writer, path, "newer").await;
    shows(watch, "a later write", |t| text(t, path) == Some("newer")).await;
    writer.delete(path, None).await.unwrap();
    shows(watch, "a later deletion", |t| t.connected && text(t, path).is_none()).await;
}

pub async fn a_watch_sees_what_was_missed_and_what_follows_a_reconnect<F: Fixture>() {
    let fixture = F::start(false).await;
    let (watcher, writer) = (fixture.client().await, fixture.client().await);
    create(&writer, "/changed", "1").await;
    create(&writer, "/deleted", "1").await;
    let mut watch = watcher.watch("/");
    shows(&mut watch, "both", |t| text(t, "/changed").is_some() && text(t, "/deleted").is_some()).await;
    for round in ["/later-1", "/later-2"] {
        watcher.faults.disconnect().await;
        let tree = shows(&mut watch, "the loss", |t| !t.connected).await;
        assert_eq!(text(&tree, "/changed"), Some("1"), "what was read last is still shown");
        set(&writer, "/changed", "2").await;
        writer.delete("/deleted", None).await.unwrap();
        create(&writer, "/created", "1").await;
        watcher.faults.reconnect().await;
        shows(&mut watch, "all that was missed", |t| {
            t.connected
                && text(t, "/changed") == Some("2")
                && text(t, "/deleted").is_none()
                && text(t, "/created") == Some("1")
        })
        .await;
        still_sees(&mut watch, &writer, round).await;
        // As it was, for the next round.
        set(&writer, "/changed", "1").await;
        create(&writer, "/deleted", "1").await;
        writer.delete("/created", None).await.unwrap();
        shows(&mut watch, "the beginning", |t| {
            text(t, "/changed") == Some("1") && text(t, "/created").is_none()
        })
        .await;
    }
}

pub async fn a_watch_survives_expiry<F: Fixture>() {
    let fixture = F::start(false).await;
    let (watcher, writer) = (fixture.client().await, fixture.client().await);
    let mut watch = watcher.watch("/");
    create(&writer, "/before", "1").await;
    shows(&mut watch, "a creation", |t| text(t, "/before").is_some()).await;
    for round in ["/later-1", "/later-2"] {
        watcher.faults.expire().await;
        still_sees(&mut watch, &writer, round).await;
    }
}

pub async fn a_watch_survives_a_restart<F: Fixture>() {
    let mut fixture = F::start(true).await;
    let (watcher, writer) = (fixture.client().await, fixture.client().await);
    let mut watch = watcher.watch("/");
    create(&writer, "/before", "1").await;
    shows(&mut watch, "a creation", |t| text(t, "/before").is_some()).await;
    fixture.restart().await;
    let mut writers = writer.watch("/");
    shows(&mut writers, "a connection", |t| t.connected).await;
    still_sees(&mut watch, &writer, "/later").await;
    assert_eq!(text(&watch.borrow(), "/before"), Some("1"));
}

pub async fn many_watches_of_one_path<F: Fixture>() {
    let fixture = F::start(false).await;
    let (watcher, writer) = (fixture.client().await, fixture.client().await);
    let mut watches = (0..3).map(|_| watcher.watch("/p")).collect::<Vec<_>>();
    create(&writer, "/p/a", "1").await;
    for watch in &mut watches {
        shows(watch, "the same", |t| text(t, "/p/a") == Some("1")).await;
    }
    // One that goes takes none of the others with it, also across a reconnect.
    watches.pop();
    watcher.faults.disconnect().await;
    for watch in &mut watches {
        shows(watch, "the loss", |t| !t.connected).await;
    }
    watches.pop();
    watcher.faults.reconnect().await;
    for watch in &mut watches {
        still_sees(watch, &writer, "/p/b").await;
    }
}
