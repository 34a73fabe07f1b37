//! One watch: a persistent recursive watch of ZooKeeper's, and what was read under it.
//!
//! First the watch, then the tree: what changes meanwhile comes as an event. An event only says *where* to look
//! again. The client crate loses persistent watches whenever it reconnects, and ZooKeeper never repeats what was
//! missed, so whenever the connection was away, all of it is done anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use zookeeper_client as zk;

use super::Link;
use super::errors::Complaints;
use crate::store::{Tree, Versioned};

/// The wait before another attempt when reading failed although the connection stands.
const RETRY_DELAY: Duration = Duration::from_millis(100);

type Nodes = BTreeMap<String, Versioned>;

/// Keeps the tree below a path up to date, until nobody looks at it any more.
pub(super) async fn follow(link: Link, path: String, tree: watch::Sender<Arc<Tree>>) {
    tokio::select! {
        () = tree.closed() => {}
        () = keep_following(&link, &path, &tree) => {}
    }
}

/// Returns only when the handle is closed.
async fn keep_following(link: &Link, path: &str, tree: &watch::Sender<Arc<Tree>>) {
    let mut complaints = Complaints::default();
    while let Some(client) = link.sessions.connected().await {
        let outcome = follow_connection(link, &client, path, tree).await;
        // Let go of it: a client that is kept keeps its session.
        drop(client);
        let nodes = tree.borrow().nodes.clone();
        publish(tree, nodes, false);
        if let Err(error) = outcome {
            complaints.take("a watch", path, &error);
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }
}

/// Returns when the connection was lost.
async fn follow_connection(
    link: &Link,
    client: &zk::Client,
    path: &str,
    tree: &watch::Sender<Arc<Tree>>,
) -> Result<(), zk::Error> {
    let full = link.full(path);
    let mut watcher = link.ask(client.watch(&full, zk::AddWatchMode::PersistentRecursive)).await?;
    link.ask(client.sync(&full)).await?;
    let mut nodes = read_tree(link, client, full).await?;
    publish(tree, nodes.clone(), true);
    loop {
        let mut changed = BTreeSet::new();
        let mut event = watcher.changed().await;
        loop {
            // After the last event of a session the watcher must not be asked again: it panics.
            if event.event_type == zk::EventType::Session {
                return Ok(());
            }
            changed.insert(event.path);
            // Whatever else has come already, so that a burst is shown once.
            event = tokio::select! {
                biased;
                next = watcher.changed() => next,
                () = std::future::ready(()) => break,
            };
        }
        for full in changed {
            read_again(link, client, &full, &mut nodes).await?;
        }
        publish(tree, nodes.clone(), true);
    }
}

async fn read_again(
    link: &Link,
    client: &zk::Client,
    full: &str,
    nodes: &mut Nodes,
) -> Result<(), zk::Error> {
    let Some(local) = link.local(full) else { return Ok(()) };
    match link.answer(client.get_data(full)).await? {
        Some(found) => drop(nodes.insert(local, found)),
        None => drop(nodes.remove(&local)),
    }
    Ok(())
}

/// Reads a node and all below it. What vanishes meanwhile is left out: its event is on the way.
async fn read_tree(link: &Link, client: &zk::Client, full: String) -> Result<Nodes, zk::Error> {
    let mut nodes = Nodes::new();
    let mut pending = vec![full];
    while let Some(full) = pending.pop() {
        // Both are sent before the first is awaited.
        let (children, value) = (client.list_children(&full), client.get_data(&full));
        let children = match link.ask(children).await {
            Ok(children) => children,
            Err(zk::Error::NoNode) => Vec::new(),
            Err(error) => return Err(error),
        };
        if let (Some(local), Some(found)) = (link.local(&full), link.answer(value).await?) {
            nodes.insert(local, found);
        }
        let base = if full == "/" { "" } else { &full };
        pending.extend(children.into_iter().map(|child| format!("{base}/{child}")));
    }
    Ok(nodes)
}

fn publish(tree: &watch::Sender<Arc<Tree>>, nodes: Nodes, connected: bool) {
    let next = Tree { nodes, connected };
    tree.send_if_modified(|shown| {
        let is_news = **shown != next;
        if is_news {
            *shown = Arc::new(next);
        }
        is_news
    });
}
