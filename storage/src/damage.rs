//! Damage: what was once durable and is not as it was. Whoever comes upon some while it reads tells its caller; here the
//! store remembers that there is some.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use crate::error::{Error, Result};

/// Damage. What was once durable is not as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// What is wrong there.
    pub what: String,
}

impl fmt::Display for Damage {
    /// As [`Error::Corrupt`] says it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: corrupt at byte {}: {}", self.path.display(), self.offset, self.what)
    }
}

impl Damage {
    /// The damage that an error tells of; `None` for an error that tells of something else.
    ///
    /// ```
    /// use paddock_storage::{Damage, Error};
    ///
    /// let error = Error::Corrupt { path: "runs/1".into(), offset: 7, what: "a row".into() };
    /// assert_eq!(Damage::of(&error).map(|damage| damage.offset), Some(7));
    /// assert_eq!(Damage::of(&Error::Closed), None);
    /// ```
    #[must_use]
    pub fn of(error: &Error) -> Option<Damage> {
        match error {
            Error::Corrupt { path, offset, what } => {
                Some(Damage { path: path.clone(), offset: *offset, what: what.clone() })
            }
            _ => None,
        }
    }
}

/// The first damage that anybody came upon in one open store.
#[derive(Clone, Debug, Default)]
pub(crate) struct FirstDamage(Arc<OnceLock<Damage>>);

impl FirstDamage {
    /// Passes the outcome of a read on, and remembers the damage that it met.
    #[inline]
    pub(crate) fn note<T>(&self, outcome: Result<T>) -> Result<T> {
        if let Err(error) = &outcome {
            self.note_error(error);
        }
        outcome
    }

    #[cold]
    fn note_error(&self, error: &Error) {
        if let Some(damage) = Damage::of(error) {
            self.found(damage);
        }
    }

    pub(crate) fn found(&self, damage: Damage) {
        let _ = self.0.set(damage);
    }

    pub(crate) fn get(&self) -> Option<&Damage> {
        self.0.get()
    }
}
