//! What we want of our engine, as ratios to its peers in the same run, or as figures that must not be exceeded.

use std::fmt;

use crate::engine::Name;

/// What ours is held against.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// So many times better than one peer.
    Peer(f64, Name),
    /// So many times better than whichever peer is best.
    Best(f64),
    /// At most so much, whatever the peers do.
    AtMost(f64),
}

use Target::{AtMost, Best, Peer};

/// A row's targets, by how its name begins and ends.
type Wanted = (&'static str, &'static str, &'static [Target]);

/// The first that fits counts.
const WANTED: &[Wanted] = &[
    ("1 KiB, 2.5 times the memory", "reads, uniform", &[Peer(2.2, Name::Rocksdb)]),
    ("1 KiB, 2.5 times the memory", "reads, zipfian", &[Peer(3.0, Name::Rocksdb)]),
    ("1 KiB, 2.5 times the memory", "half updates", &[Peer(4.0, Name::Rocksdb), Peer(2.5, Name::Fjall)]),
    ("1 KiB, 4 times the memory", "per row", &[AtMost(28.0)]),
    ("1 KiB, 4 times the memory", "", &[]),
    ("", ": load", &[Peer(3.0, Name::Rocksdb), Best(2.7)]),
    ("", ": A: half reads, half updates", &[Peer(4.0, Name::Rocksdb), Best(3.5)]),
    ("", ": B: 95% reads, 5% updates", &[Peer(5.0, Name::Rocksdb), Best(3.0)]),
    ("", ": C: reads", &[Peer(8.0, Name::Rocksdb), Best(1.7)]),
    ("", ": D: 95% reads of the latest, 5% inserts", &[Peer(4.0, Name::Rocksdb), Best(3.2)]),
    ("", ": F: half reads, half read-modify-writes", &[Peer(4.0, Name::Rocksdb), Best(3.0)]),
    ("1 KiB", ": E: 95% scans, 5% inserts", &[Peer(3.0, Name::Rocksdb), Peer(0.9, Name::Lmdb)]),
    ("100 B", ": E: 95% scans, 5% inserts", &[Peer(3.0, Name::Rocksdb), Peer(0.8, Name::Redb)]),
    ("", "fsync after each write: 1 thread", &[Peer(1.6, Name::Rocksdb), Best(1.3)]),
    (
        "",
        "fsync after each write: 64 threads",
        &[Peer(3.0, Name::Rocksdb), Peer(12.0, Name::Fjall), Peer(25.0, Name::Redb), Peer(25.0, Name::Lmdb)],
    ),
    ("", "reads, 99.9th percentile", &[Peer(3.0, Name::Rocksdb)]),
    ("", "reads, longest", &[AtMost(50.0)]),
    ("100 B, 10000000 rows", "from a crash to the first read", &[AtMost(1.0)]),
    ("", "memory of the index per row", &[AtMost(28.0)]),
    ("", "space after closing / live data", &[AtMost(1.6)]),
    ("", "bytes written / bytes stored", &[Peer(2.0, Name::Rocksdb)]),
];

/// The targets of a row of the table.
pub fn targets(row: &str) -> &'static [Target] {
    let fits = |(begin, end, _): &&Wanted| row.starts_with(begin) && row.ends_with(end);
    WANTED.iter().find(fits).map_or(&[], |(_, _, targets)| targets)
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer(times, peer) => write!(f, "{times}x {}", peer.label()),
            Best(times) => write!(f, "{times}x the best"),
            AtMost(most) => write!(f, "at most {most}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_the_targets_of_their_workload() {
        assert_eq!(targets("100 B, 2 threads: C: reads"), [Peer(8.0, Name::Rocksdb), Best(1.7)]);
        assert_eq!(targets("100 B, 2 threads: reads, uniform"), []);
        assert_eq!(targets("1 KiB, 1 thread: E: 95% scans, 5% inserts")[1], Peer(0.9, Name::Lmdb));
        let beyond = "1 KiB, 2.5 times the memory, 32 threads: A: half reads, half updates";
        assert_eq!(targets(beyond)[1], Peer(2.5, Name::Fjall));
        assert_eq!(targets(&beyond.replace("2.5", "4")), []);
        assert_eq!(targets("100 B, 200000 rows: from a crash to the first read"), []);
        assert_eq!(targets("100 B, 10000000 rows: from a crash to the first read"), [AtMost(1.0)]);
    }
}
