//! `paddock dev`: a cluster in one process, from its start to what it leaves behind.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc;

use support::{DEADLINE, assert_code, paddock, stderr, stdout};

/// A running `paddock dev`, killed when dropped.
struct Dev {
    child: Child,
    endpoint: String,
}

impl Dev {
    /// Starts it and waits for the lines that it prints when it is ready.
    fn start(data: &Path) -> Dev {
        let mut child = paddock(&["dev", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data"])
            .arg(data)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some(endpoint) = line.strip_prefix("gRPC  ") {
                    let _ = sender.send(endpoint.to_owned());
                }
            }
        });
        let endpoint = receiver.recv_timeout(DEADLINE);
        let mut dev = Dev { child, endpoint: String::new() };
        dev.endpoint = endpoint.unwrap();
        dev
    }

    fn run(&self, arguments: &[&str]) -> std::process::Output {
        paddock(arguments).env("PADDOCK_ENDPOINT", &self.endpoint).output().unwrap()
    }

    fn terminate(mut self) -> Option<i32> {
        let process = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_restart_and_a_kill_find_everything_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let dev = Dev::start(&data);
    for number in 0..20 {
        assert_code(&dev.run(&["put", &format!("key{number}"), &format!("value {number}")]), 0);
    }
    assert_code(&dev.run(&["delete", "key3"]), 0);
    assert_eq!(dev.terminate(), Some(0));

    let dev = Dev::start(&data);
    assert_eq!(stdout(&dev.run(&["get", "key7"])), "value 7");
    assert_code(&dev.run(&["put", "late", "written before the kill"]), 0);
    // Dropped: SIGKILL.
    drop(dev);

    let dev = Dev::start(&data);
    assert_eq!(stdout(&dev.run(&["get", "late"])), "written before the kill");
    assert_code(&dev.run(&["get", "key3"]), 3);
    let dumped = dev.run(&["batch", "dump"]);
    assert_eq!(stdout(&dumped).lines().count(), 20, "{}", stdout(&dumped));
}

#[test]
fn keys_of_any_bytes_and_preconditions_work_end_to_end() {
    let directory = tempfile::tempdir().unwrap();
    let dev = Dev::start(&directory.path().join("data"));
    for key in ["hex:00", "hex:ff00fe", "a/b//c", "hex:e28282", " "] {
        assert_code(&dev.run(&["put", "--create", key, "1"]), 0);
        assert_code(&dev.run(&["put", "--create", key, "2"]), 4);
        assert_eq!(stdout(&dev.run(&["get", key])), "1", "{key}");
    }
    let empty = dev.run(&["put", "", "1"]);
    assert_code(&empty, 1);
    assert!(stderr(&empty).contains("4096") || stderr(&empty).contains("4,096"), "{}", stderr(&empty));
    let long = "k".repeat(4_097);
    assert_code(&dev.run(&["get", &long]), 1);
    assert_code(&dev.run(&["put", "--update", "missing", "1"]), 3);
    assert_code(&dev.run(&["delete", "--if-version", "99", "a/b//c"]), 4);
    let route: serde_json::Value =
        serde_json::from_slice(&dev.run(&["locate", "-o", "json", "123456789"]).stdout).unwrap();
    assert_eq!(route["slot"], 12_739);
    let status: serde_json::Value =
        serde_json::from_slice(&dev.run(&["status", "-o", "json"]).stdout).unwrap();
    assert_eq!(status["partition_count"], 2);
}

#[test]
fn a_session_reads_its_own_write_and_a_write_with_an_id_happens_once() {
    let directory = tempfile::tempdir().unwrap();
    let dev = Dev::start(directory.path());
    let written = dev.run(&["put", "--print-session", "k", "1"]);
    assert_code(&written, 0);
    let said = stderr(&written);
    let token = said.lines().find_map(|line| line.rsplit_once("session ")).unwrap().1.to_owned();
    let session = format!("session={token}");
    assert_eq!(stdout(&dev.run(&["get", "--consistency", &session, "k"])), "1");
    assert_eq!(stdout(&dev.run(&["get", "--consistency", "staleness=5000", "k"])), "1");
    assert_eq!(stdout(&dev.run(&["get", "--consistency", "eventual", "k"])), "1");
    assert_eq!(stdout(&dev.run(&["get", "--consistency", "barrier", "k"])), "1");
    for nonsense in ["fresh", "staleness=soon", "session=not base64"] {
        assert_code(&dev.run(&["get", "--consistency", nonsense, "k"]), 2);
    }
    let lost = dev.run(&["get", "--consistency", "session=AAAA", "k"]);
    assert_code(&lost, 1);
    assert!(stderr(&lost).contains("no session token"), "{}", stderr(&lost));

    // An id of 2022: nobody remembers what was done under it, so it may have been done.
    let old = ["put", "--request-id", "017f22e2-79b0-7cc3-98c4-dc0c0c07398f", "k", "2"];
    let refused = dev.run(&old);
    assert_code(&refused, 6);
    assert!(stderr(&refused).contains("request id"), "{}", stderr(&refused));
    assert_eq!(stdout(&dev.run(&["get", "k"])), "1");
    assert_code(&dev.run(&["put", "--request-id", "919108f7-52d1-4320-9bac-f847db4148a8", "k", "2"]), 2);
}

#[test]
fn a_port_or_a_directory_in_use_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let dev = Dev::start(&data);
    let address = dev.endpoint.strip_prefix("http://").unwrap().to_owned();
    let other = directory.path().join("other");
    let output = paddock(&["dev", "--http", "127.0.0.1:0", "--grpc", &address, "--data"])
        .arg(&other)
        .output()
        .unwrap();
    assert_code(&output, 1);
    assert!(stderr(&output).contains(&address), "{}", stderr(&output));

    let output = paddock(&["dev", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--data"])
        .arg(&data)
        .output()
        .unwrap();
    assert_code(&output, 1);
    assert!(stderr(&output).contains(data.to_str().unwrap()), "{}", stderr(&output));
}
