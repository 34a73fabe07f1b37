//! The cheap certificate: what was acknowledged, held against what is committed, by sequence. It trusts our versions, which
//! the linearizability checker does not; and unlike that one it takes no longer for a tangled history.

use bytes::Bytes;
use paddock_storage::Sequence;

use crate::client::{key_name, value_bytes};
use crate::history::ValueId;
use crate::invariants::{Statement, Violation, Watcher};

/// Something that a client was told.
#[derive(Clone, Debug)]
struct Told {
    partition: usize,
    key: u64,
    value: Option<ValueId>,
    version: Option<Sequence>,
    called: u64,
    returned: u64,
}

/// All that clients were told.
#[derive(Debug, Default)]
pub struct Certificate {
    writes: Vec<Told>,
    reads: Vec<Told>,
}

impl Certificate {
    /// A write was acknowledged as this version.
    pub fn written(
        &mut self,
        partition: usize,
        key: u64,
        value: Option<ValueId>,
        version: Sequence,
        (called, returned): (u64, u64),
    ) {
        self.writes.push(Told { partition, key, value, version: Some(version), called, returned });
    }

    /// A read found this.
    pub fn read(
        &mut self,
        partition: usize,
        key: u64,
        found: Option<(ValueId, Sequence)>,
        (called, returned): (u64, u64),
    ) {
        let (value, version) = (found.map(|found| found.0), found.map(|found| found.1));
        self.reads.push(Told { partition, key, value, version, called, returned });
    }

    /// Invariant 2: what was acknowledged is committed, at its version. And no read missed a write that was acknowledged
    /// before it was asked.
    ///
    /// # Errors
    /// What must not be.
    pub fn check(&self, watchers: &[Watcher]) -> Result<(), Violation> {
        for told in self.writes.iter().chain(&self.reads) {
            let Some(version) = told.version.filter(|version| *version > Sequence(0)) else { continue };
            let committed = watchers.get(told.partition).and_then(|watcher| {
                watcher.committed.get(usize::try_from(version.0 - 1).unwrap_or(usize::MAX))
            });
            let expected = statement(told);
            if committed.map(|entry| &entry.statement) != Some(&expected) {
                return Err(Violation(format!(
                    "invariant 2: {expected:?} was told of as version {version}, where {committed:?} is committed"
                )));
            }
        }
        for read in &self.reads {
            let missed = self.writes.iter().find(|write| {
                write.partition == read.partition
                    && write.key == read.key
                    && write.returned < read.called
                    && write.version > read.version
                    // A read that found nothing may have seen a later delete, of which nobody knows.
                    && read.version.is_some()
            });
            if let Some(missed) = missed {
                return Err(Violation(format!("a stale read: {read:?} missed {missed:?}")));
            }
        }
        Ok(())
    }
}

fn statement(told: &Told) -> Statement {
    let key: Bytes = key_name(told.key);
    match told.value {
        Some(value) => Statement::Put(key, value_bytes(value)),
        None => Statement::Delete(key),
    }
}
