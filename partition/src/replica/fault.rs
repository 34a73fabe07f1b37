//! [`Fault`]: why a replica's data is not to be relied on.

use serde::{Deserialize, Serialize};

/// Why a replica's data is not to be relied on. It is kept with the replica's facts, so that a restart does not forget it. What ends
/// it is another store, which begins empty, as another generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Bytes of the store are not as they were written. What is sound of it is served: the replica follows, and leads where nobody
    /// else can; once another one leads whose store is sound, it gives its own up.
    Damaged(String),
    /// What the replica holds, and what a leader says, cannot both be right: it takes no part any more, until people have decided.
    Contradiction(String),
}
