//! fjall. Blocks are verified when they are read from files, not when they come from its cache.

use std::path::Path;

use anyhow::Result;
use fjall::config::CompressionPolicy;
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::engine::{Durability, Engine, Options};

const MEMTABLE_BYTES_MAX: u64 = 64 << 20;

/// An open database with one keyspace.
pub struct Fjall {
    rows: Keyspace,
    database: Database,
    durability: Durability,
}

impl Fjall {
    /// Half of the budget is block cache, the other half two memtables.
    pub fn open(directory: &Path, options: Options) -> Result<Fjall> {
        let half = options.cache_bytes / 2;
        let database = Database::builder(directory).cache_size(half).open()?;
        let rows = database.keyspace("rows", || {
            KeyspaceCreateOptions::default()
                .max_memtable_size((half / 2).min(MEMTABLE_BYTES_MAX))
                .data_block_compression_policy(CompressionPolicy::all(CompressionType::None))
                .index_block_compression_policy(CompressionPolicy::all(CompressionType::None))
        })?;
        Ok(Fjall { rows, database, durability: options.durability })
    }

    fn persist(&self) -> Result<()> {
        if self.durability == Durability::Sync {
            self.database.persist(PersistMode::SyncData)?;
        }
        Ok(())
    }
}

impl Engine for Fjall {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.rows.insert(key, value)?;
        self.persist()
    }

    fn get(&self, key: &[u8], read: &mut dyn FnMut(&[u8])) -> Result<bool> {
        let value = self.rows.get(key)?;
        if let Some(value) = &value {
            read(value);
        }
        Ok(value.is_some())
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        self.rows.remove(key)?;
        self.persist()
    }

    fn scan(&self, start: &[u8], rows_max: usize, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<usize> {
        let mut rows = 0;
        for row in self.rows.range(start..).take(rows_max) {
            let (key, value) = row.into_inner()?;
            each(&key, &value);
            rows += 1;
        }
        Ok(rows)
    }

    fn write(&self, rows: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        let durability = match self.durability {
            Durability::Sync => PersistMode::SyncData,
            Durability::Buffered => PersistMode::Buffer,
        };
        let mut batch = self.database.batch().durability(Some(durability));
        for (key, value) in rows {
            batch.insert(&self.rows, key.as_slice(), value.as_slice());
        }
        Ok(batch.commit()?)
    }

    fn flush(&self) -> Result<()> {
        Ok(self.database.persist(PersistMode::SyncData)?)
    }

    fn compact(&mut self) -> Result<()> {
        self.rows.rotate_memtable_and_wait()?;
        Ok(self.rows.major_compact()?)
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.database.persist(PersistMode::SyncAll)?)
    }
}
