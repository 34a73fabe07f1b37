//! Newtypes for everything that would otherwise be a bare number or string.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use ulid::Ulid;

/// Makes a newtype over [`Ulid`]: it prints, parses and serializes as the usual 26 characters.
macro_rules! ulid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Ulid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = ulid::DecodeError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Ulid::from_string(text).map($name)
            }
        }
    };
}

ulid_id! {
    /// A partition server: minted when its data directory is made, so a new disk is a new node.
    NodeId
}
ulid_id! {
    /// A cluster: minted when its first record is written to the coordination service.
    ClusterId
}

ulid_id! {
    /// A router: minted at each of its starts, since it keeps nothing.
    RouterId
}

/// Makes a newtype over an unsigned integer.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A partition's number, from 0.
    PartitionId(u32)
}
number! {
    /// One leader's reign over one partition; strictly increasing. 0: nobody has led yet.
    Epoch(u64)
}
number! {
    /// One unbroken life of a replica's durable data, a random number minted when its store is created. A
    /// restart keeps it; a wiped disk gets another, so that the newcomer is not taken for its former self.
    Generation(u64)
}

impl Epoch {
    /// The epoch after this one; the last one stays, so that a broken record cannot make us wrap or panic.
    #[must_use]
    pub fn next(self) -> Self {
        Epoch(self.0.saturating_add(1))
    }
}

/// A replica's identity: whose copy, and which life of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Member {
    /// The node that hosts it.
    pub node: NodeId,
    /// The life of its data.
    pub generation: Generation,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.generation)
    }
}
