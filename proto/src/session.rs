//! How positions of a session compare: the one rule that routers and clients share.

use crate::v1::SessionPosition;

impl SessionPosition {
    /// Whether a session that has seen this of a partition has seen less than one that comes to it with the other. Of two lives
    /// of a partition the one that is named later counts; whether it is the right one is for the partition to say.
    pub fn is_behind(&self, other: &SessionPosition) -> bool {
        self.partition_uuid != other.partition_uuid
            || (self.lineage, self.sequence) < (other.lineage, other.sequence)
    }
}
