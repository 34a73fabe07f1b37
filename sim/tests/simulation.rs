//! The simulation as part of every test run: some seeds, and that a seed is a seed.

#![allow(clippy::panic, reason = "a test that cannot go on fails")]

use paddock_sim::campaign::run_all;
use paddock_sim::run;

/// So many seeds; `make sim` runs others, and more.
const SEEDS: u64 = 400;

#[test]
fn every_seed_keeps_what_was_promised() {
    let (sums, failed) = run_all(0, SEEDS, |_| {});
    if let Some(seed) = failed {
        match run(seed, 60) {
            Err(failed) => panic!("{}\nseed {seed}: {}", failed.lines.join("\n"), failed.what),
            Ok(_) => panic!("seed {seed} failed, and did not when it was run again"),
        }
    }
    println!("{sums:?}");
    assert!(sums.committed > SEEDS * 20 && sums.epochs > SEEDS * 2, "too little was done to say anything");
    assert!(sums.faults > SEEDS && sums.unknown > SEEDS, "too little went wrong to say anything");
    assert!(sums.undecided * 200 <= SEEDS, "too many histories that nobody judged");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let mut hashes = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let (one, other) = (run(seed, 0), run(seed, 0));
        assert_eq!(one.as_ref().ok(), other.as_ref().ok(), "seed {seed}");
        hashes.extend(one.ok().map(|report| report.trace_hash));
    }
    assert_eq!(hashes.len(), 40, "each seed gives another one");
}
