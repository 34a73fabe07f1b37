//! RocksDB. Blocks are verified when they are read from files, not when they come from its cache.

use std::path::Path;

use anyhow::Result;
use rocksdb::{BlockBasedOptions, Cache, DB, DBCompressionType, WriteBatch, WriteOptions};

use crate::engine::{Durability, Engine, Options};

const WRITE_BUFFER_BYTES_MAX: u64 = 64 << 20;
const BLOOM_BITS_PER_KEY: f64 = 10.0;
const BACKGROUND_JOBS: i32 = 2;

/// An open database.
pub struct RocksDb {
    database: DB,
    durability: Durability,
}

impl RocksDb {
    /// Half of the budget is block cache, the other half two write buffers.
    pub fn open(directory: &Path, options: Options) -> Result<RocksDb> {
        let half = options.cache_bytes / 2;
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&Cache::new_lru_cache(usize::try_from(half)?)?);
        table.set_bloom_filter(BLOOM_BITS_PER_KEY, false);
        table.set_format_version(5);

        let mut settings = rocksdb::Options::default();
        settings.create_if_missing(true);
        settings.set_compression_type(DBCompressionType::None);
        settings.set_write_buffer_size(usize::try_from((half / 2).min(WRITE_BUFFER_BYTES_MAX))?);
        settings.set_max_background_jobs(BACKGROUND_JOBS);
        settings.set_block_based_table_factory(&table);
        Ok(RocksDb { database: DB::open(&settings, directory)?, durability: options.durability })
    }

    fn write_options(&self) -> WriteOptions {
        let mut options = WriteOptions::default();
        options.set_sync(self.durability == Durability::Sync);
        options
    }
}

impl Engine for RocksDb {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        Ok(self.database.put_opt(key, value, &self.write_options())?)
    }

    fn get(&self, key: &[u8], read: &mut dyn FnMut(&[u8])) -> Result<bool> {
        let value = self.database.get_pinned(key)?;
        if let Some(value) = &value {
            read(value);
        }
        Ok(value.is_some())
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        Ok(self.database.delete_opt(key, &self.write_options())?)
    }

    fn scan(&self, start: &[u8], rows_max: usize, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<usize> {
        let mut rows = self.database.raw_iterator();
        rows.seek(start);
        let mut count = 0;
        while count < rows_max
            && let Some((key, value)) = rows.item()
        {
            each(key, value);
            count += 1;
            rows.next();
        }
        rows.status()?;
        Ok(count)
    }

    fn write(&self, rows: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        let mut batch = WriteBatch::default();
        for (key, value) in rows {
            batch.put(key, value);
        }
        Ok(self.database.write_opt(batch, &self.write_options())?)
    }

    fn flush(&self) -> Result<()> {
        Ok(self.database.flush_wal(true)?)
    }

    fn compact(&mut self) -> Result<()> {
        self.database.compact_range(None::<&[u8]>, None::<&[u8]>);
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.database.flush_wal(true)?;
        // Stops the background work; dropping closes.
        self.database.cancel_all_background_work(true);
        Ok(())
    }
}
