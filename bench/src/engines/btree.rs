//! A map in memory, to test the driver with.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use anyhow::Result;

use crate::engine::Engine;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// The map; `lossy` drops each n-th write, as a wrong engine might.
#[derive(Default)]
pub struct BTree {
    pub rows: RwLock<Rows>,
    pub lossy: Option<usize>,
    /// Answers each read with the value of the first key.
    pub confused: bool,
}

impl BTree {
    fn with<T>(&self, change: impl FnOnce(&mut Rows) -> T) -> T {
        change(&mut self.rows.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Engine for BTree {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.with(|rows| rows.insert(key.to_vec(), value.to_vec()));
        Ok(())
    }

    fn get(&self, key: &[u8], read: &mut dyn FnMut(&[u8])) -> Result<bool> {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        let value = if self.confused { rows.values().next() } else { rows.get(key) };
        if let Some(value) = value {
            read(value);
        }
        Ok(value.is_some())
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        self.with(|rows| rows.remove(key));
        Ok(())
    }

    fn scan(&self, start: &[u8], rows_max: usize, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<usize> {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        Ok(rows.range(start.to_vec()..).take(rows_max).map(|(key, value)| each(key, value)).count())
    }

    fn write(&self, rows: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        for (number, (key, value)) in rows.iter().enumerate() {
            if self.lossy.is_none_or(|nth| (number + 1) % nth != 0) {
                self.put(key, value)?;
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
