//! `batch load` and `batch dump`: bad lines, failures on the way, interruptions, and what they leave.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::fs;
use std::io::Read;
use std::process::Stdio;

use support::{FakeRouter, Fault, assert_code, stderr, stdout};

fn lines(count: usize) -> String {
    (0..count)
        .map(|number| format!("{{\"key\":\"key{number:05}\",\"value\":\"value {number}\"}}\n"))
        .collect()
}

fn summary(stderr: &str) -> serde_json::Value {
    serde_json::from_str(stderr.lines().find(|line| line.starts_with('{')).unwrap()).unwrap()
}

#[test]
fn what_was_loaded_is_dumped() {
    let router = FakeRouter::start();
    let mut input = lines(2_500);
    input.push_str("{\"key_b64\":\"/w==\",\"value_b64\":\"/v0=\"}\n\n{\"key\":\"\\u0000\",\"value\":\"\"}");
    let output = router.run_with_stdin(&["batch", "load", "-o", "json", "-"], input.as_bytes());
    assert_code(&output, 0);
    assert!(stderr(&output).contains("cannot be resumed"));
    assert_eq!(summary(&stderr(&output))["records"], 2_502);
    assert_eq!(router.value(b"\xff"), Some(b"\xfe\xfd".to_vec()));
    assert_eq!(router.value(b"\0"), Some(Vec::new()));

    let dumped = router.run(&["batch", "dump"]);
    assert_code(&dumped, 0);
    let mut expected: Vec<&str> = input.lines().filter(|line| !line.is_empty()).collect();
    let text = stdout(&dumped);
    let mut actual: Vec<&str> = text.lines().collect();
    expected.sort_unstable();
    actual.sort_unstable();
    assert_eq!(actual, expected);
}

#[test]
fn items_that_fail_are_sent_until_acknowledged_and_a_later_line_wins() {
    let router = FakeRouter::start();
    router.set_fault(Fault::EveryThirdItem);
    // The same 700 keys again and again, within batches and across them.
    let input: String = (0..7_000)
        .map(|number| format!("{{\"key\":\"key{}\",\"value\":\"{number}\"}}\n", number % 700))
        .collect();
    let output = router.run_with_stdin(&["batch", "load", "-o", "json", "-"], input.as_bytes());
    assert_code(&output, 0);
    let summary = summary(&stderr(&output));
    assert_eq!(summary["records"], 7_000);
    assert!(summary["retries"].as_u64().unwrap() > 0);
    for key in 0..700 {
        let expected = (6_300 + key).to_string().into_bytes();
        assert_eq!(router.value(format!("key{key}").as_bytes()), Some(expected), "key{key}");
    }
}

#[test]
fn bad_lines_stop_the_load_or_are_counted() {
    let router = FakeRouter::start();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("input");
    let long = format!("{{\"key\":\"{}\",\"value\":\"\"}}\n", "k".repeat(5_000));
    fs::write(&file, format!("{}nonsense\n{long}{{\"key\":\"last\",\"value\":\"1\"}}\n", lines(3))).unwrap();
    let file = file.to_str().unwrap();

    let output = router.run(&["batch", "load", file]);
    assert_code(&output, 1);
    assert!(stderr(&output).contains("line 4: not a record"), "{}", stderr(&output));
    assert!(router.value(b"key00002").is_some(), "what stands before the bad line is loaded");
    assert!(router.value(b"last").is_none());

    let output = router.run(&["batch", "load", "--skip-bad-lines", "-o", "json", file]);
    assert_code(&output, 0);
    assert!(stderr(&output).contains("line 5: a key of 5000 bytes (1 to 4096"), "{}", stderr(&output));
    assert_eq!(summary(&stderr(&output))["bad_lines"], 2);
    assert!(router.value(b"last").is_some());
}

#[test]
fn a_load_gives_up_when_nothing_is_acknowledged() {
    let router = FakeRouter::start();
    router.set_fault(Fault::Unavailable);
    let input = lines(5);
    let output = router.run_with_stdin(&["batch", "load", "--retry-seconds", "1", "-"], input.as_bytes());
    assert_code(&output, 5);
    assert!(stderr(&output).contains("gave up at line 1"), "{}", stderr(&output));
}

#[test]
fn an_interrupted_load_goes_on_where_all_was_acknowledged() {
    let router = FakeRouter::start();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("input");
    fs::write(&file, lines(3_000)).unwrap();
    let progress = directory.path().join("input.paddock-progress");

    router.set_fault(Fault::Hang);
    let mut child = router
        .command(&["batch", "load", file.to_str().unwrap()])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    router.wait_until_hanging();
    // The first batch's answer is on its way; that it has arrived shows in nothing outside, so a run that
    // is interrupted before must be right too: only the count of repeated writes differs.
    interrupt(child.id());
    let status = child.wait().unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(status.code(), Some(130), "{said}");
    assert!(said.contains("run the same command again"), "{said}");
    assert!(progress.exists());

    router.set_fault(Fault::None);
    let output = router.run(&["batch", "load", file.to_str().unwrap()]);
    assert_code(&output, 0);
    assert!(stderr(&output).contains("going on after line"), "{}", stderr(&output));
    assert!(!progress.exists());
    assert_eq!(router.state.lock().unwrap().records.len(), 3_000);
}

#[test]
fn a_checkpoint_is_where_the_load_begins() {
    let router = FakeRouter::start();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("input");
    let input = lines(10);
    fs::write(&file, &input).unwrap();
    let modified = fs::metadata(&file).unwrap().modified().unwrap();
    let modified_ns = modified.duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let offset: usize = input.lines().take(4).map(|line| line.len() + 1).sum();
    let checkpoint = serde_json::json!({
        "format": 1, "cluster_id": "CLUSTER", "file_bytes": input.len(),
        "file_modified_ns": u64::try_from(modified_ns).unwrap(), "offset": offset, "lines": 4,
    });
    fs::write(directory.path().join("input.paddock-progress"), checkpoint.to_string()).unwrap();
    let output = router.run(&["batch", "load", file.to_str().unwrap()]);
    assert_code(&output, 0);
    assert!(stderr(&output).contains("going on after line 4"), "{}", stderr(&output));
    assert_eq!(router.state.lock().unwrap().records.len(), 6);
    assert!(router.value(b"key00003").is_none() && router.value(b"key00004").is_some());
}

#[test]
fn an_interrupted_dump_goes_on_after_its_last_whole_line() {
    let router = FakeRouter::start();
    assert_code(&router.run_with_stdin(&["batch", "load", "-"], lines(40).as_bytes()), 0);
    let odd: String =
        (0..40).map(|number| format!("{{\"key\":\"a{number:02}\",\"value\":\"{number}\"}}\n")).collect();
    assert_code(&router.run_with_stdin(&["batch", "load", "-"], odd.as_bytes()), 0);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("dump");
    let path = file.to_str().unwrap();
    assert_code(&router.run(&["batch", "dump", path]), 0);
    let whole = fs::read(&file).unwrap();
    assert_eq!(whole.iter().filter(|byte| **byte == b'\n').count(), 80);

    let refused = router.run(&["batch", "dump", path]);
    assert_code(&refused, 1);
    assert!(stderr(&refused).contains("--resume"), "{}", stderr(&refused));

    for length in [0, 1, 20, whole.len() / 3, whole.len() / 2, whole.len() - 1, whole.len()] {
        fs::write(&file, &whole[..length]).unwrap();
        assert_code(&router.run(&["batch", "dump", "--resume", path]), 0);
        assert!(fs::read(&file).unwrap() == whole, "cut at {length}");
    }
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let router = FakeRouter::start();
    let value = "x".repeat(100_000);
    let input: String =
        (0..50).map(|number| format!("{{\"key\":\"k{number}\",\"value\":\"{value}\"}}\n")).collect();
    assert_code(&router.run_with_stdin(&["batch", "load", "-"], input.as_bytes()), 0);
    let mut child =
        router.command(&["batch", "dump"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_code(&output, 0);
    assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
}

fn interrupt(process: u32) {
    let process = rustix::process::Pid::from_raw(process.try_into().unwrap()).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::INT).unwrap();
}
