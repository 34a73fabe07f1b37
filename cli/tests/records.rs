//! `get`, `put`, `delete`, `status`, `partitions` and `locate`: what they print, and how they end.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use support::{FakeRouter, Fault, assert_code, paddock, stderr, stdout};

#[test]
fn a_record_comes_back_byte_for_byte() {
    let router = FakeRouter::start();
    assert_eq!(stdout(&router.run(&["put", "a/b c", "hello"])), "version 1\n");
    let output = router.run(&["get", "a/b c"]);
    assert_code(&output, 0);
    assert_eq!(output.stdout, b"hello");
    assert_eq!(stderr(&output), "");

    let bytes: Vec<u8> = (0..=255).collect();
    assert_code(&router.run_with_stdin(&["put", "hex:00ff", "-"], &bytes), 0);
    assert_eq!(router.run(&["get", "b64:AP8="]).stdout, bytes);
    assert_eq!(router.value(&[0x00, 0xff]), Some(bytes));
}

#[test]
fn json_says_what_is_text_and_what_is_not() {
    let router = FakeRouter::start();
    router.run(&["put", "key", "value"]);
    router.run_with_stdin(&["put", "hex:ff", "-"], b"\xfe");
    let text = router.run(&["get", "-o", "json", "key"]);
    assert_eq!(stdout(&text), "{\"key\":\"key\",\"value\":\"value\",\"version\":1}\n");
    let bytes = router.run(&["get", "-o", "json", "hex:ff"]);
    assert_eq!(stdout(&bytes), "{\"key_b64\":\"/w==\",\"value_b64\":\"/g==\",\"version\":2}\n");
    let table = stdout(&router.run(&["get", "-o", "table", "key"]));
    assert!(table.contains("KEY") && table.contains("value"), "{table}");
}

#[test]
fn every_kind_of_failure_has_its_exit_code() {
    let router = FakeRouter::start();
    router.run(&["put", "there", "1"]);

    assert_code(&router.run(&["get", "missing"]), 3);
    assert_code(&router.run(&["put", "--update", "missing", "x"]), 3);
    assert_code(&router.run(&["put", "--create", "there", "x"]), 4);
    assert_code(&router.run(&["put", "--if-version", "9", "there", "x"]), 4);
    assert_code(&router.run(&["delete", "--if-version", "9", "there"]), 4);
    assert_code(&router.run(&["get", "--frobnicate", "there"]), 2);
    assert_code(&router.run(&["get", "hex:0"]), 2);
    assert_code(&router.run(&["put", "--create", "--update", "there", "x"]), 2);

    let empty = router.run(&["get", ""]);
    assert_code(&empty, 1);
    assert!(stderr(&empty).contains("1 to 4096"), "{}", stderr(&empty));

    router.set_fault(Fault::Unavailable);
    assert_code(&router.run(&["put", "there", "x"]), 5);
    router.set_fault(Fault::DoneButUnknown);
    assert_code(&router.run(&["put", "there", "2"]), 6);
    assert_eq!(router.value(b"there"), Some(b"2".to_vec()));
    assert_eq!(
        router.state.lock().unwrap().writes[&b"there"[..]],
        1 + 5,
        "what is unknown is sent again under its request id (which this router does not know), five times in all"
    );
}

#[test]
fn what_is_no_endpoint_is_a_usage_error() {
    for endpoint in ["garbage", "not a url", "https://127.0.0.1:7700"] {
        let output = paddock(&["--endpoint", endpoint, "get", "key"]).output().unwrap();
        assert_code(&output, 2);
        let told = stderr(&output);
        assert!(told.contains(endpoint) && told.contains("http://HOST:PORT"), "{told}");
    }
}

#[test]
fn an_unreachable_endpoint_is_named() {
    // A port that was free a moment ago.
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", holder.local_addr().unwrap());
    drop(holder);
    let output = paddock(&["--endpoint", &endpoint, "get", "key"]).output().unwrap();
    assert_code(&output, 5);
    assert!(stderr(&output).contains(&endpoint), "{}", stderr(&output));
}

#[test]
fn deleting_says_whether_there_was_anything() {
    let router = FakeRouter::start();
    router.run(&["put", "key", "value"]);
    assert_eq!(stdout(&router.run(&["delete", "key"])), "deleted, version 2\n");
    let again = router.run(&["delete", "key"]);
    assert_code(&again, 0);
    assert_eq!(stdout(&again), "nothing to delete\n");
}

#[test]
fn a_cluster_is_shown_to_people_and_to_programs() {
    let router = FakeRouter::start();
    let status: serde_json::Value =
        serde_json::from_slice(&router.run(&["status", "-o", "json"]).stdout).unwrap();
    assert_eq!(status["cluster_name"], "fake");
    assert_eq!(status["problems"][0], "node NODE-B is not live");
    let partitions: serde_json::Value =
        serde_json::from_slice(&router.run(&["partitions", "-o", "json"]).stdout).unwrap();
    assert_eq!(partitions["partitions"][0]["replicas"][0]["role"], "leader");
    assert_eq!(partitions["partitions"][0]["leader_node_id"], "NODE-A");
    let replicas = &partitions["partitions"][0]["replicas"];
    let snapshot = |node: &str| serde_json::json!({ "node_id": node, "done_bytes": 300, "total_bytes": 400 });
    assert_eq!(replicas[0]["sending_snapshots"], serde_json::json!([snapshot("NODE-B")]));
    assert_eq!(replicas[0]["receiving_snapshot"], serde_json::Value::Null);
    assert_eq!(replicas[1]["receiving_snapshot"], snapshot("NODE-A"));
    let table = stdout(&router.run(&["partitions"]));
    assert!(table.contains("from NODE-A: 75% of 400 bytes"), "{table}");
    assert!(table.contains("to NODE-B: 75% of 400 bytes"), "{table}");
    let route: serde_json::Value =
        serde_json::from_slice(&router.run(&["locate", "-o", "json", "123456789"]).stdout).unwrap();
    assert_eq!(route["slot"], 12_739);
    for arguments in [&["status"][..], &["partitions"], &["locate", "123456789"]] {
        let output = router.run(arguments);
        assert_code(&output, 0);
        assert!(stdout(&output).contains("NODE-A"), "{}", stdout(&output));
    }
}
