//! `transfer` and `drain`: what they print, and how they end.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use support::{FakeRouter, assert_code, stderr, stdout};

#[test]
fn a_transfer_says_from_where_to_where_and_how_long_it_took() {
    let router = FakeRouter::start();
    let done = router.run(&["transfer", "0"]);
    assert_code(&done, 0);
    assert_eq!(stdout(&done), "partition 0: from node NODE-A to node NODE-B, epoch 4, in 12.3 ms\n");
    assert_eq!(stderr(&done), "");
    let done = router.run(&["transfer", "0", "--to", "NODE-B", "-o", "json"]);
    assert_code(&done, 0);
    let expected = r#"{
  "partition_id": 0,
  "from_node_id": "NODE-A",
  "leader_node_id": "NODE-B",
  "epoch": 4,
  "duration_ms": 12.345
}
"#;
    assert_eq!(stdout(&done), expected);
    let already = router.run(&["transfer", "0", "--to", "NODE-A"]);
    assert_code(&already, 0);
    assert_eq!(stdout(&already), "partition 0: node NODE-A leads already (epoch 3)\n");
}

#[test]
fn a_transfer_that_is_refused_has_its_exit_code_and_says_why() {
    let router = FakeRouter::start();
    let refused = router.run(&["transfer", "1"]);
    assert_code(&refused, 4);
    assert_eq!(stdout(&refused), "");
    assert_eq!(stderr(&refused), "paddock: not handed over: partition 1: node NODE-B is not in sync\n");
    let nowhere = router.run(&["transfer", "7", "--to", "NODE-X"]);
    assert_code(&nowhere, 1);
    assert_eq!(stderr(&nowhere), "paddock: there is no partition 7, or no node NODE-X\n");
    assert_code(&router.run(&["transfer", "seven"]), 2);
    assert_code(&router.run(&["transfer"]), 2);
}

#[test]
fn a_drained_node_leads_nothing_and_is_shown() {
    let router = FakeRouter::start();
    let drained = router.run(&["drain", "NODE-A"]);
    assert_code(&drained, 0);
    assert_eq!(stdout(&drained), "node NODE-A is drained, and leads nothing\n");
    let status = stdout(&router.run(&["status"]));
    assert!(status.contains("DRAINED"), "{status}");
    let status: serde_json::Value =
        serde_json::from_slice(&router.run(&["status", "-o", "json"]).stdout).unwrap();
    assert_eq!(status["nodes"][0]["drained"], true);

    let off = router.run(&["drain", "NODE-A", "--off"]);
    assert_code(&off, 0);
    assert_eq!(stdout(&off), "node NODE-A is drained no more\n");
    let shown = router.run(&["drain", "NODE-B", "-o", "json"]);
    assert_code(&shown, 0);
    let expected = r#"{
  "node_id": "NODE-B",
  "drained": true,
  "leading_partition_ids": []
}
"#;
    assert_eq!(stdout(&shown), expected);
}

#[test]
fn a_drained_node_that_still_leads_is_told_of() {
    let router = FakeRouter::start();
    let output = router.run(&["--timeout-seconds", "1", "drain", "NODE-S"]);
    assert_code(&output, 5);
    assert_eq!(stdout(&output), "");
    let expected =
        "paddock: node NODE-S is drained, and still leads partition 0: no other replica has taken over yet\n";
    assert_eq!(stderr(&output), expected);
    let unknown = router.run(&["drain", "NODE-C"]);
    assert_code(&unknown, 1);
    assert_eq!(stderr(&unknown), "paddock: there is no node NODE-C\n");
}
