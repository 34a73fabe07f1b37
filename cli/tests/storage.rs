//! `storage`: what it prints of a stopped server's files, how it ends, and that it changes nothing.
//!
//! What is expected stands in tests/storage/; `DIR` in it is the directory. With `PADDOCK_UPDATE_EXPECTED=1` the files
//! are written anew.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::SystemTime;

use paddock_partition::node::NodeDirectory;
use paddock_storage::{Options, ReplicatedStore, Store};
use support::{assert_code, paddock, stderr, stdout};

/// The storage crate's golden store: two segments, nine entries, four of them known to be committed.
fn golden_store(to: &Path) {
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../storage/tests/golden/format-2"), to);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

fn run(arguments: &[&str], directory: &Path) -> Output {
    let directory = directory.to_str().unwrap();
    let arguments: Vec<&str> = ["storage"].iter().chain(arguments).copied().chain([directory]).collect();
    paddock(&arguments).output().unwrap()
}

/// Everything below a directory: names, times, bytes.
fn seen(directory: &Path) -> BTreeMap<PathBuf, (SystemTime, Vec<u8>)> {
    let mut seen = BTreeMap::new();
    let mut left = vec![directory.to_path_buf()];
    while let Some(path) = left.pop() {
        let is_dir = path.is_dir();
        let bytes = if is_dir { Vec::new() } else { fs::read(&path).unwrap() };
        if is_dir {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        seen.insert(path.clone(), (fs::metadata(&path).unwrap().modified().unwrap(), bytes));
    }
    seen
}

/// Runs it on a directory that must not change, and holds everything that it says against the file of this name.
fn check(name: &str, arguments: &[&str], directory: &Path, code: i32) {
    let before = seen(directory);
    let output = run(arguments, directory);
    assert_code(&output, code);
    assert!(seen(directory) == before, "{name}: something was changed");
    let text = format!(
        "$ paddock storage {} DIR\n{}--- stderr\n{}",
        arguments.join(" "),
        stdout(&output),
        stderr(&output)
    );
    let text = text.replace(directory.to_str().unwrap(), "DIR");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/storage").join(name);
    if std::env::var_os("PADDOCK_UPDATE_EXPECTED").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap();
    assert!(text == expected, "{name}: expected\n{expected}\nfound\n{text}");
}

/// Flips a bit in the second batch of the first segment's, or wherever else.
fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

const FIRST: &str = "log/00000000000000000001.log";
const LAST: &str = "log/00000000000000000003.log";

#[test]
fn a_store_is_inspected_verified_and_dumped() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path();
    golden_store(store);
    check("inspect", &["inspect"], store, 0);
    check("inspect.json", &["inspect", "-o", "json"], store, 0);
    check("verify", &["verify"], store, 0);
    check("verify.json", &["verify", "-o", "json"], store, 0);
    check("dump", &["dump"], store, 0);
    check("dump.uncommitted", &["dump", "--uncommitted"], store, 0);
}

#[test]
fn a_torn_tail_is_no_damage() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path();
    golden_store(store);
    // Behind the last batch: what a write leaves that never got as far as an fsync.
    let path = store.join(LAST);
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 9;
    bytes.resize(bytes.len().max(end + 100), 0);
    bytes[end..end + 40].fill(7);
    fs::write(&path, bytes).unwrap();
    fs::write(store.join("log/00000000000000000010.log.tmp"), "half").unwrap();
    check("torn", &["verify"], store, 0);
    check("torn.json", &["inspect", "-o", "json"], store, 0);
    let opened = ReplicatedStore::open(store, Options::new()).unwrap();
    assert!(opened.recovery().torn_bytes > 0);
}

#[test]
fn damage_is_told_with_its_place_and_has_its_exit_code() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path();
    golden_store(store);
    flip(&store.join(FIRST), 160);
    flip(&store.join(LAST), 150);
    check("damaged", &["verify"], store, 7);
    check("damaged.json", &["verify", "-o", "json"], store, 7);
    check("damaged.dump", &["dump"], store, 7);
    flip(&store.join("MANIFEST"), 20);
    check("damaged.manifest", &["inspect"], store, 7);
    fs::remove_file(store.join("MANIFEST")).unwrap();
    check("lost.manifest", &["inspect"], store, 7);
}

#[test]
fn a_node_is_all_of_its_stores() {
    let directory = tempfile::tempdir().unwrap();
    let node = directory.path();
    drop(NodeDirectory::open(node).unwrap());
    check("node.empty", &["inspect"], node, 0);
    for name in ["0-01M7Z1HXKTR6HQ50WHRE4KKJGT", "1-01M7Z1HXKRYWBB0K307TARGJVB"] {
        golden_store(&node.join("partitions").join(name));
    }
    check("node", &["inspect"], node, 0);
    check("node.dump", &["dump"], node, 0);
    // Damage in one does not hide the other.
    flip(&node.join("partitions/0-01M7Z1HXKTR6HQ50WHRE4KKJGT/MANIFEST"), 20);
    check("node.damaged", &["verify"], node, 7);

    // As `paddock dev` keeps its nodes.
    let dev = tempfile::tempdir().unwrap();
    copy(node, &dev.path().join("nodes/node-1"));
    check("dev", &["verify"], dev.path(), 7);
}

#[test]
fn what_is_in_use_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = Store::open(&path).unwrap();
    for command in ["inspect", "verify", "dump", "compact"] {
        let output = run(&[command], &path);
        assert_code(&output, 5);
        assert!(stderr(&output).contains("is open already"), "{}", stderr(&output));
    }
    drop(store);
    let node_path = directory.path().join("node");
    let node = NodeDirectory::open(&node_path).unwrap();
    for command in ["inspect", "verify", "dump", "compact"] {
        let output = run(&[command], &node_path);
        assert_code(&output, 5);
        assert!(stderr(&output).contains("another process serves"), "{}", stderr(&output));
    }
    drop(node);
}

#[test]
fn what_is_no_store_is_said_to_be_none() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("file"), "mine").unwrap();
    for path in
        [directory.path().to_path_buf(), directory.path().join("missing"), directory.path().join("file")]
    {
        for command in ["inspect", "verify", "dump", "compact"] {
            let output = run(&[command], &path);
            assert_code(&output, 3);
            assert!(stderr(&output).contains("no store"), "{}", stderr(&output));
        }
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing was made");
    assert_code(&paddock(&["storage", "inspect"]).output().unwrap(), 2);
    assert_code(&paddock(&["storage", "frobnicate", "x"]).output().unwrap(), 2);
    assert_code(&paddock(&["storage", "inspect", "-o", "raw", "x"]).output().unwrap(), 2);
}

/// Overwritten a hundred times, it is small afterwards; what it says is the same, its runs are described and verified, and
/// damage in them is found.
#[test]
fn a_store_is_compacted_and_its_runs_are_looked_at() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = Store::open(&path).unwrap();
    for round in 0..100 {
        for key in 0..20 {
            store.insert(format!("key {key}"), format!("{round} {}", "x".repeat(100))).unwrap();
        }
    }
    store.remove("key 7").unwrap();
    store.close().unwrap();
    let dumped = stdout(&run(&["dump"], &path));
    assert_eq!(dumped.lines().count(), 19);

    let output = run(&["compact", "-o", "json"], &path);
    assert_code(&output, 0);
    let compacted: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    let bytes = |name: &str| compacted["stores"][0][name].as_u64().unwrap();
    assert!(bytes("bytes_after") * 2 < bytes("bytes_before"), "{compacted}");
    assert_eq!(stdout(&run(&["dump"], &path)), dumped);

    let output = run(&["verify", "-o", "json"], &path);
    assert_code(&output, 0);
    let report: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    let store = &report["stores"][0];
    assert_eq!(store["runs"].as_array().unwrap().len(), 1, "{report}");
    assert_eq!(
        (&store["runs"][0]["rows"], &store["verified"]["run_rows"]),
        (&19.into(), &19.into()),
        "{report}"
    );
    let table = run(&["inspect"], &path);
    assert!(stdout(&table).contains("runs/0000"), "{}", stdout(&table));

    let run_file = path.join(store["runs"][0]["file"].as_str().unwrap());
    let bytes = fs::read(&run_file).unwrap();
    for at in (0..bytes.len()).step_by(97) {
        flip(&run_file, at);
        let output = run(&["verify"], &path);
        assert_code(&output, 7);
        assert!(stdout(&output).contains("damage     runs/"), "byte {at}: {}", stdout(&output));
        fs::write(&run_file, &bytes).unwrap();
    }
    fs::remove_file(&run_file).unwrap();
    assert_code(&run(&["verify"], &path), 7);
    assert_code(&run(&["dump"], &path), 7);
}

/// What was written before a record that cannot be read stays, since it may be all that is left; that it is not all is said.
#[test]
fn a_dump_that_ends_early_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let (path, file) = (directory.path().join("store"), directory.path().join("dump.ndjson"));
    let store = Store::builder(&path).compression(paddock_storage::Compression::None).open().unwrap();
    for key in 0..200 {
        store.insert(format!("key {key:03}"), "x".repeat(1_000)).unwrap();
    }
    store.compact().unwrap();
    store.close().unwrap();
    // A checkpoint spares opening the rows.
    flip(&path.join("runs/00000001.run"), 100_000);
    let output =
        paddock(&["storage", "dump", path.to_str().unwrap(), file.to_str().unwrap()]).output().unwrap();
    assert_code(&output, 7);
    let records = fs::read_to_string(&file).unwrap().lines().count();
    assert!(records > 50 && records < 200, "{records}");
    let told = stderr(&output);
    let expected = format!("{}: not complete, {records} records: {}", file.display(), path.display());
    assert!(told.contains(&expected) && told.contains("corrupt at byte"), "{told}");
    // What is behind it is asked for.
    let output = run(&["dump", "--skip-damaged"], &path);
    assert_code(&output, 7);
    assert_eq!(stdout(&output).lines().count(), 199);
    let told = stderr(&output);
    assert!(
        told.contains("runs/00000001.run at byte") && told.contains("199 records, 1 damaged place"),
        "{told}"
    );
}

#[test]
fn a_dump_goes_to_a_file_that_is_not_there_yet() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("store");
    golden_store(&store);
    let file = directory.path().join("dump.ndjson");
    let arguments = ["storage", "dump", store.to_str().unwrap(), file.to_str().unwrap()];
    assert_code(&paddock(&arguments).output().unwrap(), 0);
    let dumped = fs::read_to_string(&file).unwrap();
    assert_eq!(dumped, stdout(&run(&["dump"], &store)));
    let again = paddock(&arguments).output().unwrap();
    assert_code(&again, 1);
    assert!(stderr(&again).contains("dump.ndjson"), "{}", stderr(&again));
    assert_eq!(fs::read_to_string(&file).unwrap(), dumped);
}
