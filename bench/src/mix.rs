//! The mixes of operations, those of YCSB among them.

use crate::distribution::Chosen;

/// What is done how often, in percent, and to which keys. What is missing to 100 are reads of a row that is then written.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// As the table calls it.
    pub name: &'static str,
    /// Reads of one row.
    pub read: u64,
    /// Writes of rows that are there.
    pub update: u64,
    /// Writes of new rows.
    pub insert: u64,
    /// Reads of several rows in key order.
    pub scan: u64,
    /// Which keys.
    pub chosen: Chosen,
}

impl Mix {
    /// Whether its name begins with this letter, large or small.
    pub fn is_called(&self, letter: char) -> bool {
        self.name.chars().next().is_some_and(|first| first.eq_ignore_ascii_case(&letter))
    }
}

const NONE: Mix = Mix { name: "", read: 0, update: 0, insert: 0, scan: 0, chosen: Chosen::Zipfian };

/// YCSB's core workloads. E comes last, behind a compaction.
pub const YCSB: [Mix; 6] = [
    Mix { name: "A: half reads, half updates", read: 50, update: 50, ..NONE },
    Mix { name: "B: 95% reads, 5% updates", read: 95, update: 5, ..NONE },
    Mix { name: "C: reads", read: 100, ..NONE },
    Mix { name: "F: half reads, half read-modify-writes", read: 50, ..NONE },
    Mix {
        name: "D: 95% reads of the latest, 5% inserts",
        read: 95,
        insert: 5,
        chosen: Chosen::Latest,
        ..NONE
    },
    Mix { name: "E: 95% scans, 5% inserts", scan: 95, insert: 5, ..NONE },
];
/// Reads of all keys alike.
pub const READ_UNIFORM: Mix = Mix { name: "reads, uniform", read: 100, chosen: Chosen::Uniform, ..NONE };
/// Reads of some keys more often: C, by a name that tells it from the uniform ones.
pub const READ_ZIPFIAN: Mix = Mix { name: "C: reads, zipfian", read: 100, ..NONE };
/// Writes alone.
pub const UPDATE_UNIFORM: Mix = Mix { name: "updates", update: 100, chosen: Chosen::Uniform, ..NONE };
/// Half reads, half writes, all keys alike: it makes the most of what must be cleaned up behind the scenes.
pub const UPDATE_HALF: Mix =
    Mix { name: "half updates, uniform", read: 50, update: 50, chosen: Chosen::Uniform, ..NONE };
