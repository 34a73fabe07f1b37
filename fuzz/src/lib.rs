//! What is fuzzed: each function takes any bytes, hands them to something that reads what may be damaged or hostile, and
//! holds what comes out against what must be. It panics where that is wrong; it must never hang, nor take much memory.
//!
//! [`TARGETS`] lists them with their seeds. Each has a file in `fuzz_targets/` for cargo-fuzz (`make fuzz`), and the
//! tests of paddock-storage run all of them over their seeds and mutations of those (storage/tests/fuzz.rs).
//!
//! Nearly everything that is stored has a checksum, and random bytes never get past it. So the decoders are tried with
//! checksums made right as well: by themselves where they are in paddock-storage's `fuzzing`, by [`repair`] elsewhere.

mod index;
mod repair;
mod store;

use paddock_storage::fuzzing::{files_seeds, row_seeds, run_seeds, segment_seeds};

pub use index::{filter, hash_index};
pub use paddock_storage::fuzzing::{files, manifest, row, rows, run, segment};
pub use store::{checkpoint, lock, log, stored};

/// Something to fuzz.
pub struct Target {
    /// As cargo-fuzz calls it.
    pub name: &'static str,
    /// Takes any input, and panics if something is wrong.
    pub run: fn(&[u8]),
    /// Inputs that are right, from today's code.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Everything that is fuzzed.
pub const TARGETS: [Target; 12] = [
    Target { name: "row", run: row, seeds: row_seeds },
    Target { name: "rows", run: rows, seeds: row_seeds },
    Target { name: "segment", run: segment, seeds: segment_seeds },
    Target { name: "log", run: log, seeds: || store::seeds("log/") },
    Target { name: "manifest", run: manifest, seeds: || store::contents("MANIFEST") },
    Target { name: "lock", run: lock, seeds: || store::seeds("LOCK") },
    Target { name: "files", run: files, seeds: files_seeds },
    Target { name: "run", run, seeds: run_seeds },
    Target { name: "stored", run: stored, seeds: store::stored_seeds },
    Target { name: "checkpoint", run: checkpoint, seeds: || store::seeds("index/") },
    Target { name: "hash_index", run: hash_index, seeds: index::hash_index_seeds },
    Target { name: "filter", run: filter, seeds: index::filter_seeds },
];
