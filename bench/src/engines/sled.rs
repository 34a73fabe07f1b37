//! sled. Pages are verified when they are read from its file, not when they come from its cache.
//!
//! Its flush calls sync_file_range, which leaves a disk's own cache alone and would lose writes in a power cut: where
//! others fsync, so do we with its file. Unsynced writes stay in the process until one of its buffers is full, or for half a second: its own default.

use std::fs::File;
use std::path::Path;

use anyhow::Result;
use sled::{Batch, Config, Db};

use crate::engine::{Durability, Engine, Options};

/// An open database.
pub struct Sled {
    database: Db,
    /// Its one file of pages, where each write is to be synced.
    synced: Option<File>,
}

impl Sled {
    /// The whole budget is its cache.
    pub fn open(directory: &Path, options: Options) -> Result<Sled> {
        let config = Config::new().path(directory).cache_capacity(options.cache_bytes);
        let config = match options.durability {
            Durability::Sync => config.flush_every_ms(None),
            Durability::Buffered => config,
        };
        let database = config.open()?;
        let synced = match options.durability {
            Durability::Sync => Some(File::open(directory.join("db"))?),
            Durability::Buffered => None,
        };
        Ok(Sled { database, synced })
    }

    fn persist(&self) -> Result<()> {
        if let Some(file) = &self.synced {
            self.database.flush()?;
            file.sync_data()?;
        }
        Ok(())
    }
}

impl Engine for Sled {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.database.insert(key, value)?;
        self.persist()
    }

    fn get(&self, key: &[u8], read: &mut dyn FnMut(&[u8])) -> Result<bool> {
        let value = self.database.get(key)?;
        if let Some(value) = &value {
            read(value);
        }
        Ok(value.is_some())
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        self.database.remove(key)?;
        self.persist()
    }

    fn scan(&self, start: &[u8], rows_max: usize, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<usize> {
        let mut rows = 0;
        for row in self.database.range(start..).take(rows_max) {
            let (key, value) = row?;
            each(&key, &value);
            rows += 1;
        }
        Ok(rows)
    }

    fn write(&self, rows: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        let mut batch = Batch::default();
        for (key, value) in rows {
            batch.insert(key.as_slice(), value.as_slice());
        }
        self.database.apply_batch(batch)?;
        self.persist()
    }

    fn flush(&self) -> Result<()> {
        self.database.flush()?;
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.flush()
    }
}
