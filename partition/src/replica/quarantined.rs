//! [`Quarantined`]: has seen what cannot be, and takes no further part, so that it can do no harm.

use super::Role;

/// A replica that neither leads nor follows, until its process starts again.
#[derive(Debug)]
pub(super) struct Quarantined {
    pub(super) reason: String,
    /// The runtime was told.
    pub(super) is_reported: bool,
}

impl Quarantined {
    /// The role, for a reason.
    pub(super) fn because(reason: String) -> Role {
        Role::Quarantined(Quarantined { reason, is_reported: false })
    }
}
