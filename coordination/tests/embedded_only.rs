//! What only a directory can do to us: be used, be damaged, be full, and outlive the process.

#![allow(clippy::unwrap_used, reason = "a test says so by failing")]

use std::fs;

use bytes::Bytes;
use paddock_coordination::embedded::{Embedded, OpenError};
use paddock_coordination::{Coordinator, Error};
use tempfile::TempDir;

#[tokio::test]
async fn persistent_nodes_outlive_the_process_and_ephemeral_ones_do_not() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("deep/coordination");
    let embedded = Embedded::open(&path).unwrap();
    let session = embedded.session();
    let version = session.create("/p/a", Bytes::from_static(b"1")).await.unwrap();
    let version = session.compare_and_set("/p/a", Bytes::from_static(b"2"), version).await.unwrap();
    let registration = session.register("/live/x", Bytes::new());
    assert!(session.get("/live/x").await.unwrap().is_some());
    session.create("/q", Bytes::new()).await.unwrap();
    // As a kill would: nothing is told to end.
    let (session, registration) =
        (std::mem::ManuallyDrop::new(session), std::mem::ManuallyDrop::new(registration));
    let copy = TempDir::new().unwrap();
    fs::copy(path.join("tree"), copy.path().join("tree")).unwrap();
    let again = Embedded::open(copy.path()).unwrap().session();
    let found = again.get("/p/a").await.unwrap().unwrap();
    assert_eq!((found.version, &found.value[..]), (version, &b"2"[..]));
    assert!(again.get("/q").await.unwrap().is_some());
    assert_eq!(again.get("/live/x").await.unwrap(), None);
    drop((std::mem::ManuallyDrop::into_inner(registration), std::mem::ManuallyDrop::into_inner(session)));
}

#[tokio::test]
async fn a_second_user_is_kept_out_until_the_first_is_gone() {
    let directory = TempDir::new().unwrap();
    let first = Embedded::open(directory.path()).unwrap();
    let session = first.session();
    let error = Embedded::open(directory.path()).map(|_| ()).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }));
    assert!(error.to_string().starts_with(&directory.path().display().to_string()), "{error}");
    drop(first);
    assert!(Embedded::open(directory.path()).is_err(), "a session still uses it");
    drop(session);
    Embedded::open(directory.path()).unwrap();
}

#[tokio::test]
async fn damage_is_named_and_left_alone() {
    let directory = TempDir::new().unwrap();
    let tree = directory.path().join("tree");
    let session = Embedded::open(directory.path()).unwrap().session();
    session.create("/a", Bytes::from_static(b"value")).await.unwrap();
    drop(session);
    let mut bytes = fs::read(&tree).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&tree, &bytes).unwrap();
    let error = Embedded::open(directory.path()).map(|_| ()).unwrap_err();
    assert!(matches!(error, OpenError::Corrupt { .. }));
    assert!(error.to_string().starts_with(&tree.display().to_string()), "{error}");
    assert_eq!(fs::read(&tree).unwrap(), bytes);
}

#[tokio::test]
async fn a_path_that_is_no_directory_is_named() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, b"").unwrap();
    let error = Embedded::open(&file).map(|_| ()).unwrap_err();
    assert!(error.to_string().starts_with(&file.display().to_string()), "{error}");
}

#[tokio::test]
async fn a_write_that_the_disk_refuses_changes_nothing() {
    let directory = TempDir::new().unwrap();
    let session = Embedded::open(directory.path()).unwrap().session();
    let version = session.create("/a", Bytes::from_static(b"1")).await.unwrap();
    // Something is in the way of the new file.
    fs::create_dir(directory.path().join("tree.new")).unwrap();
    let outcome = session.compare_and_set("/a", Bytes::from_static(b"2"), version).await;
    assert!(matches!(&outcome, Err(Error::Rejected { .. })), "{outcome:?}");
    let found = session.get("/a").await.unwrap().unwrap();
    assert_eq!((found.version, &found.value[..]), (version, &b"1"[..]));
    fs::remove_dir(directory.path().join("tree.new")).unwrap();
    session.compare_and_set("/a", Bytes::from_static(b"2"), version).await.unwrap();
}

#[tokio::test]
async fn once_the_disk_is_in_doubt_nothing_more_is_answered() {
    let directory = TempDir::new().unwrap();
    let embedded = Embedded::open(directory.path()).unwrap();
    let session = embedded.session();
    let version = session.create("/a", Bytes::from_static(b"1")).await.unwrap();
    // The rename must fail: a directory with something in it stands in its way.
    let tree = directory.path().join("tree");
    let aside = directory.path().join("aside");
    fs::rename(&tree, &aside).unwrap();
    fs::create_dir_all(tree.join("x")).unwrap();
    let outcome = session.compare_and_set("/a", Bytes::from_static(b"2"), version).await;
    assert!(matches!(&outcome, Err(Error::UnknownOutcome { .. })), "{outcome:?}");
    fs::remove_dir_all(&tree).unwrap();
    fs::rename(&aside, &tree).unwrap();
    for outcome in [
        session.get("/a").await.map(|_| ()),
        session.create("/b", Bytes::new()).await.map(|_| ()),
        embedded.session().get("/a").await.map(|_| ()),
    ] {
        assert!(matches!(&outcome, Err(Error::Unavailable { .. })), "{outcome:?}");
    }
    drop((session, embedded));
    let session = Embedded::open(directory.path()).unwrap().session();
    assert_eq!(session.get("/a").await.unwrap().unwrap().version, version);
}
