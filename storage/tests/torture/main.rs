//! Real processes that write to a real directory and are ended in the middle of it, again and again.
//!
//! A round is this: a child process opens the store and writes from several threads, and reports each acknowledgement
//! over a pipe. At a random moment it ends: by SIGKILL, or because its file system loses power. Then the store is
//! opened here, and compared with what the child was told ([`history`] has the rules). The next child goes on in the same
//! directory.
//!
//! What a child does follows from the seed ([`work`]), so that both sides know it and only outcomes go over the
//! pipe. How threads interleave does not follow from it: the same seed does the same harm at about the same moments.
//!
//! - `cargo test` kills twenty times.
//! - `make torture` kills hundreds of times and cuts the power dozens of times. It takes `ROUNDS`, `CUTS` and `SEED`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what helpers of a test meet unexpectedly fails it")]

mod campaign;
mod child;
mod history;
mod power;
mod process;
mod work;

use campaign::{Campaign, Ending};

const KILLS: u64 = 20;
const CUTS: u64 = 10;

/// The child's entry, which is none for those who run the tests: it does nothing without a task.
#[test]
fn writer() {
    if let Some(task) = child::task() {
        child::perform(&task);
    }
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let mut campaign = Campaign::new(&path, "ROUNDS", KILLS);
    if let Err(failure) = campaign.run(&mut Ending::Kill) {
        let kept = directory.keep();
        panic!("{failure}\nThe store is kept in {}", kept.display());
    }
    println!("{}", campaign.summary());
}

#[test]
#[ignore = "mounts a file system, which takes root: make torture"]
fn what_was_synced_survives_a_power_cut() {
    let disk = match power::Disk::new() {
        Ok(disk) => disk,
        Err(reason) => return println!("SKIPPED, no power cuts here: {reason}"),
    };
    let mut campaign = Campaign::new(&disk.mount_point().join("store"), "CUTS", CUTS);
    if let Err(failure) = campaign.run(&mut Ending::PowerCut(disk)) {
        panic!("{failure}");
    }
    println!("{}", campaign.summary());
}
