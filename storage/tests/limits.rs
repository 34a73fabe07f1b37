//! The operating system's limits on a process, on a real disk: files that may not grow, and no more open files. The error
//! names the file and the reason, and what was acknowledged stays.
//!
//! A limit is for a whole process, so the store runs in a child: this test, called again.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what helpers of a test meet unexpectedly fails it")]

use std::path::Path;
use std::process::Command;

use paddock_storage::{Compression, Mapping, Options, Readable, Store, WriteBatch};

const DIRECTORY: &str = "PADDOCK_TEST_LIMITS_DIRECTORY";
const SEGMENT_BYTES: &str = "PADDOCK_TEST_LIMITS_SEGMENT_BYTES";

/// More than any limit here lets through.
const WRITES_MAX: u32 = 4_000;

/// Writes until something fails, and says how far it came.
#[test]
#[ignore = "the child of the other tests"]
fn child() {
    let directory = std::env::var_os(DIRECTORY).unwrap();
    let segment_bytes = std::env::var(SEGMENT_BYTES).unwrap().parse().unwrap();
    let options = Options::new().segment_bytes(segment_bytes).extent_bytes(16 << 10);
    let store = match Store::builder(Path::new(&directory)).options(options).open() {
        Ok(store) => store,
        Err(error) => return println!("\nwritten 0, then {error}"),
    };
    for number in 0..WRITES_MAX {
        if let Err(error) = store.insert(number.to_be_bytes(), [7; 500]) {
            // Reading goes on.
            for written in 0..number {
                assert_eq!(store.get(&written.to_be_bytes()).unwrap().unwrap(), &[7; 500][..]);
            }
            return println!("\nwritten {number}, then {error}");
        }
    }
    println!("\nwritten all");
}

/// Runs the child under a limit of the shell's, and returns how much it wrote and the error that ended it.
fn run_child(limit: &str, segment_bytes: u64, directory: &Path) -> (u32, String) {
    // A file that may not grow is signalled, too: a server ignores that, and so does the child.
    let script = format!("trap '' XFSZ; {limit}; exec \"$0\" \"$@\"");
    let output = Command::new("sh")
        .args(["-c", &script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .env(SEGMENT_BYTES, segment_bytes.to_string())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("written "));
    let found = line.and_then(|line| line.split_once(", then "));
    let Some((written, error)) = found else { panic!("{text}\n{}", String::from_utf8_lossy(&output.stderr)) };
    (written.parse().unwrap(), error.to_owned())
}

/// Without the limit everything is there, and the store takes writes again.
fn check_opened(directory: &Path, written: u32) {
    let store = Store::open(directory).unwrap();
    for number in 0..written {
        assert_eq!(store.get(&number.to_be_bytes()).unwrap().unwrap(), &[7; 500][..], "{number}");
    }
    // The one that failed may be there; nothing else is.
    assert!(store.len() == u64::from(written) || store.len() == u64::from(written) + 1);
    store.verify().unwrap();
    store.insert("next", "1").unwrap();
    store.close().unwrap();
}

#[test]
fn files_that_may_not_grow() {
    let mut most = 0;
    // In blocks of 512 bytes (or of 1,024, as some shells have it). A segment is made with room for what must go on.
    for blocks in [0, 3, 100, 600, 900] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let (written, error) = run_child(&format!("ulimit -f {blocks}"), 64 << 20, &path);
        assert!(error.contains(path.to_str().unwrap()), "no file is named: {error}");
        assert!(error.to_lowercase().contains("file too large"), "no reason is given: {error}");
        check_opened(&path, written);
        most = most.max(written);
    }
    assert!(most > 10, "no case came as far as writing");
}

#[test]
fn no_more_open_files() {
    let mut most = 0;
    for files in [4, 6, 8, 10, 12, 16] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let (written, error) = run_child(&format!("ulimit -n {files}"), 64 << 10, &path);
        assert!(error.contains(path.to_str().unwrap()), "no file is named: {error}");
        assert!(error.contains("open files"), "no reason is given: {error}");
        check_opened(&path, written);
        most = most.max(written);
    }
    assert!(most > 100, "no case came as far as writing");
}

/// So many keys, in files of some forty rows: several times as many files as the process may open.
const MANY_KEYS: u32 = 12_000;

fn many_key(number: u32) -> Vec<u8> {
    format!("key {number:08}").into_bytes()
}

/// Run by [`more_files_than_may_be_open`].
#[test]
#[ignore = "the child of another test"]
fn child_with_many_files() {
    let directory = std::env::var_os(DIRECTORY).unwrap();
    let options = Options::new()
        .run_bytes(4 << 10)
        .flush_bytes(256 << 10)
        .memory_bytes(16 << 20)
        .mapping(Mapping::Never)
        .compression(Compression::None);
    let open = || Store::builder(Path::new(&directory)).options(options.clone()).open().unwrap();
    let fill = |store: &Store, version: u8| {
        for first in (0..MANY_KEYS).step_by(100) {
            let mut batch = WriteBatch::new();
            for number in first..first + 100 {
                batch.insert(many_key(number), [version; 80]).unwrap();
            }
            store.write(batch).unwrap();
        }
        store.compact().unwrap();
    };
    let open_files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let store = open();
    fill(&store, 1);
    let snapshot = store.snapshot();
    // All files are replaced, and the snapshot reads those that were there before.
    fill(&store, 2);
    let run_files = store.stats().unwrap().compaction.run_files;
    assert!(run_files > 200, "{run_files} files");
    for number in 0..MANY_KEYS {
        assert_eq!(snapshot.get(&many_key(number)).unwrap().unwrap(), &[1; 80][..], "{number}");
        assert_eq!(store.get(&many_key(number)).unwrap().unwrap(), &[2; 80][..], "{number}");
    }
    assert!(store.stats().unwrap().memory.open_run_files <= 8);
    assert!(open_files() < 40, "{} open files", open_files());
    let on_the_disk = || std::fs::read_dir(Path::new(&directory).join("runs")).unwrap().count() as u64;
    assert!(on_the_disk() > run_files);
    drop(snapshot);
    assert_eq!(on_the_disk(), run_files, "what the snapshot needed is gone with it");
    store.verify().unwrap();
    store.close().unwrap();
    let store = open();
    assert_eq!(
        store.iter().map(|record| record.unwrap().value).filter(|value| *value == [2; 80][..]).count() as u32,
        MANY_KEYS
    );
    store.insert("next", "1").unwrap();
    println!("\nwritten all");
}

/// A store does not need more file descriptors the more files it has.
#[test]
fn more_files_than_may_be_open() {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new("sh")
        .args(["-c", "ulimit -n 64; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "child_with_many_files", "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory.path().join("store"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("\nwritten all"), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
}
