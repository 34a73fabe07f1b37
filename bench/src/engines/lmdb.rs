//! LMDB, through heed. It has no checksums: nothing is verified.

use std::path::Path;

use anyhow::{Result, bail};
use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions};

use crate::engine::{Durability, Engine, Options};

/// Address space, not memory and not disk; more than any run needs.
const MAP_BYTES: usize = 256 << 30;
const READERS_MAX: u32 = 512;

/// An open environment with its unnamed database.
pub struct Lmdb {
    environment: Env,
    rows: Database<'static, Bytes, Bytes>,
}

impl Lmdb {
    /// It has no cache but the page cache, so there is no budget to set.
    pub fn open(directory: &Path, options: Options) -> Result<Lmdb> {
        let mut settings = EnvOpenOptions::new();
        settings.map_size(MAP_BYTES).max_readers(READERS_MAX);
        let environment = open_environment(&mut settings, directory, options.durability)?;
        let created =
            environment.create_databases_and_commit(environment.write_txn()?, |opener, transaction| {
                opener.create_database(transaction, None).map(CommitOrAbort::<_, ()>::Commit)
            })?;
        let CommitOrAbort::Commit(rows) = created else { bail!("LMDB gave up its transaction") };
        Ok(Lmdb { environment, rows })
    }
}

#[allow(unsafe_code, reason = "heed's way of saying that nobody else may change the files")]
fn open_environment(settings: &mut EnvOpenOptions, directory: &Path, durability: Durability) -> Result<Env> {
    // Reading ahead of random reads makes data larger than memory many times slower.
    let mut flags = EnvFlags::NO_READ_AHEAD;
    if durability == Durability::Buffered {
        flags |= EnvFlags::NO_SYNC;
    }
    // SAFETY: NO_SYNC gives up durability in a power cut, not the soundness of the map.
    unsafe { settings.flags(flags) };
    // SAFETY: the directory is this process's own, and nothing else writes to it while the map lives.
    Ok(unsafe { settings.open(directory)? })
}

impl Engine for Lmdb {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let mut transaction = self.environment.write_txn()?;
        self.rows.put(&mut transaction, key, value)?;
        Ok(transaction.commit()?)
    }

    fn get(&self, key: &[u8], read: &mut dyn FnMut(&[u8])) -> Result<bool> {
        let transaction = self.environment.read_txn()?;
        let value = self.rows.get(&transaction, key)?;
        if let Some(value) = value {
            read(value);
        }
        Ok(value.is_some())
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        let mut transaction = self.environment.write_txn()?;
        self.rows.delete(&mut transaction, key)?;
        Ok(transaction.commit()?)
    }

    fn scan(&self, start: &[u8], rows_max: usize, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<usize> {
        let transaction = self.environment.read_txn()?;
        let bounds = (std::ops::Bound::Included(start), std::ops::Bound::Unbounded);
        let mut rows = 0;
        for row in self.rows.range(&transaction, &bounds)?.take(rows_max) {
            let (key, value) = row?;
            each(key, value);
            rows += 1;
        }
        Ok(rows)
    }

    fn write(&self, rows: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        let mut transaction = self.environment.write_txn()?;
        for (key, value) in rows {
            self.rows.put(&mut transaction, key, value)?;
        }
        Ok(transaction.commit()?)
    }

    fn flush(&self) -> Result<()> {
        Ok(self.environment.force_sync()?)
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.flush()?;
        self.environment.prepare_for_closing().wait();
        Ok(())
    }
}
