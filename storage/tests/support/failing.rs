//! Disks whose n-th call fails, for every n.

use std::io::ErrorKind;

use paddock_storage::disk::{Fault, FaultyDisk, Unsynced};

/// Makes the n-th changing call from now on fail, and perhaps all after it.
pub fn fail_at(disk: &FaultyDisk, call: u64, kind: ErrorKind, lasting: bool) {
    disk.set_fault(Some(Fault { call: disk.calls() + call, kind, lasting }));
}

/// Makes the n-th call from now on fail that only looks at something.
pub fn fail_look_at(disk: &FaultyDisk, call: u64, kind: ErrorKind) {
    disk.set_look_fault(Some(Fault { call: disk.looks() + call, kind, lasting: false }));
}

/// How many changing calls something makes.
pub fn calls_of<T>(disk: &FaultyDisk, run: impl FnOnce() -> T) -> u64 {
    let before = disk.calls();
    run();
    disk.calls() - before
}

/// What happens at each call of something: how it fails, and in which of some ways it then ends.
pub struct EveryCall<'a> {
    /// How many calls there are.
    pub calls: u64,
    pub kind: ErrorKind,
    pub lasting: bool,
    /// `None`: the process ends, and the power stays.
    pub endings: &'a dyn Fn(u64) -> Vec<Option<Unsynced>>,
}

impl EveryCall<'_> {
    /// Returns how often `run` has said that the failure was seen: at some calls one is no matter.
    pub fn fails(&self, mut run: impl FnMut(Fault, Option<Unsynced>) -> bool) -> u64 {
        let EveryCall { calls, kind, lasting, endings } = *self;
        let mut seen = 0;
        for call in 1..=calls {
            for ending in endings(call) {
                seen += u64::from(run(Fault { call, kind, lasting }, ending));
            }
        }
        seen
    }
}
