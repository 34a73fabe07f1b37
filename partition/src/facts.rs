//! What a replica must remember for ever, kept in its store's manifest.

use paddock_coordination::{Epoch, Generation};
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::replica::Fault;

/// The durable facts of one replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The partition's life that this data belongs to.
    pub partition_uuid: Ulid,
    /// This life of the data.
    pub generation: Generation,
    /// The highest epoch that the replica has seen: it never follows a lower one.
    pub epoch_seen: Epoch,
    /// The life of the node's data directory that this generation is of: in another one it is over.
    #[serde(default)]
    pub life: u64,
    /// The lineage that the data is of; it is raised when an operator recovers the partition with data loss.
    #[serde(default)]
    pub lineage: u64,
    /// Since when the store tells users' keys from its own: see [`keys`](crate::keys). 0: not yet.
    #[serde(default)]
    pub key_format: u32,
    /// Why this data is not to be relied on, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// What [`Facts::key_format`] is in a store that tells users' keys from its own.
pub const KEY_FORMAT: u32 = 1;

fn generation(random: u128) -> Generation {
    Generation(u64::try_from(random & u128::from(u64::MAX >> 1)).unwrap_or(1))
}

impl Facts {
    /// The facts of a store that was just made. Of the random bits the lower 63 name its generation: unlike every other
    /// life's, but for one chance in 2^63.
    #[must_use]
    pub fn new(partition_uuid: Ulid, life: u64, random: u128) -> Self {
        Facts {
            partition_uuid,
            generation: generation(random),
            epoch_seen: Epoch(0),
            life,
            lineage: 0,
            key_format: KEY_FORMAT,
            fault: None,
        }
    }

    /// Begins a new generation, in another life of the node's data directory: what is here is data, and no claim.
    pub fn begin_generation(&mut self, life: u64, random: u128) {
        self.life = life;
        self.generation = generation(random);
    }

    /// As bytes for the manifest.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        paddock_coordination::records::encode(self).to_vec()
    }

    /// From the manifest's bytes.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        paddock_coordination::records::decode(bytes)
    }
}
