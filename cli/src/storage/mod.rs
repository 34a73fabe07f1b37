//! `storage`: the files of a server that is stopped. Only `compact` changes anything of them.

mod compact;
mod dump;
mod places;
mod show;

use paddock_storage::offline::{OfflineStore, Report};
use paddock_storage::{Error, Options};

use crate::arguments::{Format, Inspect, StorageCommand};
use crate::exit::Damaged;
use crate::output;

/// Runs the command.
pub(crate) fn run(command: StorageCommand) -> anyhow::Result<()> {
    match command {
        StorageCommand::Inspect(flags) => look(&flags, OfflineStore::inspect),
        StorageCommand::Verify(flags) => look(&flags, OfflineStore::verify),
        StorageCommand::Dump(flags) => dump::run(&flags),
        StorageCommand::Compact(flags) => compact::run(&flags),
    }
}

/// Looks at every store, prints what was found, and fails if anything is damaged: but only after all was seen.
fn look(flags: &Inspect, look: impl Fn(&OfflineStore) -> Result<Report, Error>) -> anyhow::Result<()> {
    let places = places::find(&flags.directory)?;
    let mut shown = Vec::new();
    for path in &places.stores {
        let report = OfflineStore::open(path, Options::new()).and_then(|store| look(&store));
        shown.push(match report {
            Ok(report) => show::Store::of(&report),
            Err(Error::Corrupt { path: file, offset, what }) => {
                show::Store::unreadable(path, &file, offset, what)
            }
            Err(error) => return Err(error.into()),
        });
    }
    let damaged = shown.iter().map(show::Store::damages).sum();
    match flags.output {
        Format::Table => show::print_tables(&shown)?,
        Format::Json => output::print_json(&show::Stores { stores: shown })?,
    }
    match damaged {
        0 => Ok(()),
        places => Err(Damaged { places }.into()),
    }
}
