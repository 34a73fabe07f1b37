//! The operating system's limits on a process, on a real disk: files that may not grow, and no more open files. The error
//! names the file and the reason, and what was acknowledged stays.
//!
//! A limit is for a whole process, so the store runs in a child: this test, called again.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what helpers of a test meet unexpectedly fails it")]

use std::path::Path;
use std::process::Command;

use paddock_storage::{Options, Readable, Store};

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
