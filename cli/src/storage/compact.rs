//! `storage compact`: what a server does by and by, all at once, while it is stopped.

use std::path::PathBuf;

use paddock_storage::{LogRetention, Options, offline};
use serde::Serialize;

use super::places;
use crate::arguments::{Format, StorageCompact};
use crate::output;

#[derive(Serialize)]
struct Stores {
    stores: Vec<Compacted>,
}

#[derive(Serialize)]
struct Compacted {
    path: PathBuf,
    bytes_before: u64,
    bytes_after: u64,
}

/// Runs the command.
pub(super) fn run(flags: &StorageCompact) -> anyhow::Result<()> {
    let places = places::find(&flags.directory)?;
    let mut stores = Vec::new();
    let options = Options::new().log_retention(LogRetention::Bytes(flags.keep_log_bytes));
    for path in &places.stores {
        let compacted = offline::compact(path, options.clone())?;
        let (bytes_before, bytes_after) = (compacted.bytes_before, compacted.bytes_after);
        stores.push(Compacted { path: path.clone(), bytes_before, bytes_after });
    }
    match flags.output {
        Format::Json => output::print_json(&Stores { stores }),
        Format::Table => {
            let mut table = output::table(["STORE", "BYTES BEFORE", "BYTES AFTER"]);
            for store in &stores {
                let numbers = [store.bytes_before, store.bytes_after].map(|bytes| bytes.to_string());
                let [before, after] = numbers;
                table.add_row([store.path.display().to_string(), before, after]);
            }
            Ok(output::print_table(&table)?)
        }
    }
}
