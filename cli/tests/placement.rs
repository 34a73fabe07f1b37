//! `add-replica` and `remove-replica`: what they print, and how they end.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use support::{FakeRouter, assert_code, stderr, stdout};

#[test]
fn a_replica_is_added_and_said_where_all_are_to_be() {
    let router = FakeRouter::start();
    let added = router.run(&["add-replica", "0", "NODE-C"]);
    assert_code(&added, 0);
    assert_eq!(stdout(&added), "partition 0: its replicas are to be on NODE-A, NODE-B, NODE-C\n");
    let replaced = router.run(&["remove-replica", "0", "NODE-A", "--replace-with", "NODE-C", "-o", "json"]);
    assert_code(&replaced, 0);
    let expected = r#"{
  "partition_id": 0,
  "replica_node_ids": [
    "NODE-A",
    "NODE-B"
  ],
  "target_node_ids": [
    "NODE-B",
    "NODE-C"
  ],
  "settled": false
}
"#;
    assert_eq!(stdout(&replaced), expected);
}

#[test]
fn what_does_not_come_about_in_time_is_told_of() {
    let router = FakeRouter::start();
    let waited = router.run(&["--timeout-seconds", "1", "add-replica", "0", "NODE-C", "--wait"]);
    assert_code(&waited, 5);
    assert_eq!(stdout(&waited), "partition 0: its replicas are to be on NODE-A, NODE-B, NODE-C\n");
    let expected = "paddock: partition 0: the replicas are not where they are to be yet, and go on moving: see \
                    paddock partitions\n";
    assert_eq!(stderr(&waited), expected);
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let router = FakeRouter::start();
    let refused = router.run(&["remove-replica", "0", "NODE-X"]);
    assert_code(&refused, 1);
    assert_eq!(stdout(&refused), "");
    assert_eq!(stderr(&refused), "paddock: partition 0: node [\"NODE-X\"] has no replica of the partition\n");
    assert_code(&router.run(&["add-replica", "0"]), 2);
    assert_code(&router.run(&["add-replica", "zero", "NODE-C"]), 2);
}
