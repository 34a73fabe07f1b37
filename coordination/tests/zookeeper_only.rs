//! What only a remote service can do to us: be away at the start, and be away for longer than a session lasts.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says so by failing")]
#![allow(unreachable_pub, dead_code, reason = "shared with the conformance suite, which uses all of it")]

mod support;

use std::sync::Arc;

use bytes::Bytes;
use paddock_coordination::zookeeper::ZooKeeper;
use paddock_coordination::{Coordinator, Error};
use support::proxy::Proxy;
use support::server::Server;
use support::zookeeper::options;
use support::{DEADLINE, log, shows, text};
use zookeeper_client as zk;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_waits_for_a_server_that_is_not_there_yet() {
    log::listen();
    let mut server = Server::start().await;
    let address = server.address().to_string();
    server.kill();
    let client =
        ZooKeeper::connect_with(&server.address().to_string(), "/deep/root/of/ours", options()).unwrap();
    let mut watch = client.watch("/");
    let _registration = client.register("/live/x", Bytes::from_static(b"here"));
    let outcome = client.create("/a", Bytes::new()).await;
    let Err(Error::Unavailable { reason }) = outcome else { panic!("{outcome:?}") };
    assert!(reason.contains(&server.address().to_string()), "{reason}");
    assert!(!watch.borrow().connected);
    log::says(&[&address, "waiting for ZooKeeper"]).await;
    server.start_again().await;
    log::says(&[&address, "connected to ZooKeeper"]).await;
    shows(&mut watch, "the registration", |t| t.connected && text(t, "/live/x") == Some("here")).await;
    assert_eq!(client.get("/a").await.unwrap(), None, "what was unavailable was never sent");
    client.create("/a", Bytes::new()).await.unwrap();
    let plain = zk::Client::connect(&server.address().to_string()).await.unwrap();
    assert!(
        plain.check_stat("/deep/root/of/ours/a").await.unwrap().is_some(),
        "below the root, which was made"
    );
}

/// Our clock says that the session is over, the server's does not: it was away, and gave all sessions a fresh timeout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_outlived_our_patience_is_taken_up_again() {
    log::listen();
    let mut server = Server::start().await;
    let address = server.address().to_string();
    let client = ZooKeeper::connect_with(&address, "/r", options()).unwrap();
    let _registration = client.register("/live/x", Bytes::from_static(b"here"));
    let mut watch = client.watch("/live");
    shows(&mut watch, "the node", |t| text(t, "/live/x").is_some()).await;
    let plain = zk::Client::connect(&address).await.unwrap();
    let before = plain.check_stat("/r/live/x").await.unwrap().unwrap();
    drop(plain);
    server.kill();
    shows(&mut watch, "the loss", |t| !t.connected).await;
    log::says(&[&address, "gave its session up"]).await;
    server.start_again().await;
    shows(&mut watch, "the node still", |t| t.connected && text(t, "/live/x") == Some("here")).await;
    let plain = zk::Client::connect(&address).await.unwrap();
    let after = plain.check_stat("/r/live/x").await.unwrap().unwrap();
    assert_eq!(
        (after.ephemeral_owner, after.czxid),
        (before.ephemeral_owner, before.czxid),
        "the same session's"
    );
}

/// Silence without a closed connection: the proxy holds everything back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_server_is_noticed_and_a_late_answer_is_unknown() {
    let server = Arc::new(Server::start().await);
    let proxy = Proxy::start(server.address()).await;
    let client = ZooKeeper::connect_with(&proxy.address().to_string(), "/r", options()).unwrap();
    let version = client.create("/a", Bytes::from_static(b"1")).await.unwrap();
    let mut watch = client.watch("/");
    shows(&mut watch, "a connection", |t| t.connected).await;
    proxy.set_silent(true);
    let outcome = client.compare_and_set("/a", Bytes::from_static(b"2"), version).await;
    assert!(matches!(outcome, Err(Error::UnknownOutcome { .. })), "{outcome:?}");
    shows(&mut watch, "that nobody is there", |t| !t.connected).await;
    proxy.set_silent(false);
    shows(&mut watch, "the way back", |t| t.connected).await;
    let found = client.get("/a").await.unwrap().unwrap();
    match client.compare_and_set("/a", Bytes::from_static(b"2"), version).await {
        Ok(_) => assert_eq!(found.version, version, "the read showed that it was not done"),
        Err(Error::Conflict { .. }) => assert_eq!(&found.value[..], b"2", "the read showed that it was done"),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn hosts_and_roots_that_can_never_work_are_told_at_once() {
    for (hosts, root) in [("", "/r"), ("h:x", "/r"), ("h:1", "r"), ("h:1", "/r/"), ("h:1", "/a//b")] {
        let outcome = ZooKeeper::connect(hosts, root).map(|_| ());
        assert!(matches!(outcome, Err(Error::Rejected { .. })), "{hosts:?} {root:?}: {outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_root_may_be_the_services_own() {
    let server = Server::start().await;
    let client = ZooKeeper::connect_with(&server.address().to_string(), "/", options()).unwrap();
    let mut watch = client.watch("/p");
    client.create("/p/a", Bytes::from_static(b"1")).await.unwrap();
    shows(&mut watch, "the node", |t| text(t, "/p/a") == Some("1")).await;
    tokio::time::timeout(DEADLINE, client.close()).await.unwrap();
}

/// What the server refuses is waited for, since somebody may mend it; but the log must say so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_refuses_is_complained_of() {
    log::listen();
    let server = Server::start().await;
    let address = server.address().to_string();
    let plain = zk::Client::connect(&address).await.unwrap();
    let read_only = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_read());
    plain.create("/refused", b"", &read_only).await.unwrap();
    let client = ZooKeeper::connect_with(&address, "/refused", options()).unwrap();
    let _registration = client.register("/live/refused", Bytes::new());
    log::says(&["/live/refused", "not authorized", "a registration fails"]).await;
    let outcome = client.create("/a", Bytes::new()).await;
    assert!(matches!(outcome, Err(Error::Rejected { .. })), "{outcome:?}");
}
