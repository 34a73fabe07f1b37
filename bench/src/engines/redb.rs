//! redb. Pages are not verified when they are read; a crash is followed by a repair that verifies them.
//!
//! Each call is a transaction. Unsynced commits stay in the process (redb has nothing between that and an fsync), so
//! every [`COMMITS_PER_SYNC`]th one is synced: without it the freed pages would never be used again.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use redb::{Database, ReadableDatabase, TableDefinition};

use crate::engine::{Durability, Engine, Options};

const ROWS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("rows");
const COMMITS_PER_SYNC: u64 = 10_000;

/// An open database with one table.
pub struct Redb {
    database: Database,
    durability: Durability,
    commits: AtomicU64,
}

impl Redb {
    /// The whole budget is its cache.
    pub fn open(directory: &Path, options: Options) -> Result<Redb> {
        let database = Database::builder()
            .set_cache_size(usize::try_from(options.cache_bytes)?)
            .create(directory.join("redb"))?;
        let opened =
            Redb { database, durability: options.durability, commits: AtomicU64::new(COMMITS_PER_SYNC) };
        opened.transact(|_| Ok(()))?;
        Ok(opened)
    }

    fn transact(
        &self,
        change: impl FnOnce(&mut redb::Table<'_, &'static [u8], &'static [u8]>) -> Result<()>,
    ) -> Result<()> {
        let commits = self.commits.fetch_add(1, Ordering::Relaxed);
        let sync = self.durability == Durability::Sync || commits.is_multiple_of(COMMITS_PER_SYNC);
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(if sync {
            redb::Durability::Immediate
        } else {
            redb::Durability::None
        })?;
        change(&mut transaction.open_table(ROWS)?)?;
        Ok(transaction.commit()?)
    }
}

impl Engine for Redb {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.transact(|rows| {
            rows.insert(key, value)?;
            Ok(())
        })
    }

    fn get(&self, key: &[u8], read: &mut dyn FnMut(&[u8])) -> Result<bool> {
        let rows = self.database.begin_read()?.open_table(ROWS)?;
        let value = redb::ReadableTable::get(&rows, key)?;
        if let Some(value) = &value {
            read(value.value());
        }
        Ok(value.is_some())
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        self.transact(|rows| {
            rows.remove(key)?;
            Ok(())
        })
    }

    fn scan(&self, start: &[u8], rows_max: usize, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<usize> {
        let table = self.database.begin_read()?.open_table(ROWS)?;
        let mut rows = 0;
        for row in redb::ReadableTable::range::<&[u8]>(&table, start..)?.take(rows_max) {
            let (key, value) = row?;
            each(key.value(), value.value());
            rows += 1;
        }
        Ok(rows)
    }

    fn write(&self, rows: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        self.transact(|table| {
            for (key, value) in rows {
                table.insert(key.as_slice(), value.as_slice())?;
            }
            Ok(())
        })
    }

    fn flush(&self) -> Result<()> {
        Ok(self.database.begin_write()?.commit()?)
    }

    fn compact(&mut self) -> Result<()> {
        self.database.compact()?;
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.flush()?;
        Ok(self.database.close()?)
    }
}
