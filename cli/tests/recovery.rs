//! `recover`: what it shows before it does anything, and that it does nothing without a word.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use support::{FakeRouter, assert_code, stderr, stdout};

const SHOWN: &str = "\
partition 0, epoch 7, lineage 0
held all that was acknowledged: node NODE-A is not registered as live
NODE    LINEAGE  LAST EPOCH  LAST SEQUENCE  COMMITTED  RECORDS  GENERATION
NODE-B  0        6           90             80         70       5           to go on from
Every write that was acknowledged and is not in that replica WILL BE LOST, also if a server that is away comes back: what it \
has beyond is discarded then. How much that is nobody can say here.
";

#[test]
fn without_consent_it_shows_what_there_is_and_changes_nothing() {
    let router = FakeRouter::start();
    let shown = router.run(&["recover", "0"]);
    assert_code(&shown, 4);
    assert_eq!(stdout(&shown), SHOWN);
    let expected = "paddock: nothing was changed: to go on, and lose what the chosen replica lacks, say \
                    --accept-data-loss\n";
    assert_eq!(stderr(&shown), expected);
}

#[test]
fn with_consent_it_goes_on_and_says_from_what() {
    let router = FakeRouter::start();
    let done = router.run(&["recover", "0", "--accept-data-loss"]);
    assert_code(&done, 0);
    let expected = "partition 0 goes on from node NODE-B, in lineage 1: what that lacked is lost\n";
    assert_eq!(stdout(&done), format!("{SHOWN}{expected}"));
    let done = router.run(&["recover", "0", "--accept-data-loss", "-o", "json"]);
    assert_code(&done, 0);
    assert!(stdout(&done).contains("\"recovered\": true"), "{}", stdout(&done));
}

#[test]
fn what_somebody_can_lead_is_refused() {
    let router = FakeRouter::start();
    for consent in [&["recover", "1"][..], &["recover", "1", "--accept-data-loss"]] {
        let refused = router.run(consent);
        assert_code(&refused, 4);
        let expected = "paddock: nothing was changed: partition 1: node NODE-A is live, and holds everything that was \
                        acknowledged\n";
        assert_eq!(stderr(&refused), expected);
        assert!(!stdout(&refused).contains("WILL BE LOST"), "{}", stdout(&refused));
    }
    assert_code(&router.run(&["recover"]), 2);
}
