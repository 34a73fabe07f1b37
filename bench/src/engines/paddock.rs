//! Ours. Only the public face of `Store` is used, so that its inside may change.
//!
//! Each read verifies the row's checksum.

use std::path::Path;

use anyhow::Result;
use paddock_storage::{Readable, Store, WriteBatch};

use crate::engine::{Durability, Engine, Options};

/// An open store.
pub struct Paddock {
    store: Store,
}

impl Paddock {
    /// The budget is for its index, its blocks, and the files that it maps.
    pub fn open(directory: &Path, options: Options) -> Result<Paddock> {
        let durability = match options.durability {
            Durability::Sync => paddock_storage::Durability::Sync,
            Durability::Buffered => paddock_storage::Durability::Buffered,
        };
        let builder = Store::builder(directory).memory_bytes(options.cache_bytes).durability(durability);
        Ok(Paddock { store: builder.open()? })
    }
}

impl Engine for Paddock {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.store.insert(key, value)?;
        Ok(())
    }

    fn get(&self, key: &[u8], read: &mut dyn FnMut(&[u8])) -> Result<bool> {
        // Lent, as those of RocksDB, redb and LMDB are.
        Ok(self.store.get_with(key, |record| read(record.value))?.is_some())
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        self.store.remove(key)?;
        Ok(())
    }

    fn scan(&self, start: &[u8], rows_max: usize, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<usize> {
        let mut rows = 0;
        let mut range = self.store.range(start..);
        while rows < rows_max
            && let Some(record) = range.next_lent()
        {
            let record = record?;
            each(record.key, record.value);
            rows += 1;
        }
        Ok(rows)
    }

    fn write(&self, rows: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        let mut batch = WriteBatch::new();
        for (key, value) in rows {
            batch.insert(key, value)?;
        }
        self.store.write(batch)?;
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.store.sync()?;
        Ok(())
    }

    fn compact(&mut self) -> Result<()> {
        Ok(self.store.compact()?)
    }

    fn index_bytes(&self) -> Result<Option<u64>> {
        Ok(Some(self.store.stats()?.index_bytes))
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.store.close()?;
        Ok(())
    }
}
