//! `storage dump`: the records of a stopped server, without the server.

use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Context;
use paddock_partition::keys;
use paddock_storage::offline::OfflineStore;
use paddock_storage::{Options, Record};

use super::places;
use crate::arguments::StorageDump;
use crate::exit::Damaged;
use crate::output;
use crate::record_line::{self, About};

/// The size of the writes.
const WRITE_BYTES: usize = 256 * 1024;

/// Runs the command.
pub(super) fn run(flags: &StorageDump) -> anyhow::Result<()> {
    let places = places::find(&flags.directory)?;
    // All of them before the first line: a store that is damaged or in use is better known early.
    let stores: Vec<OfflineStore> = places
        .stores
        .iter()
        .map(|path| OfflineStore::open(path, Options::new()))
        .collect::<Result<_, _>>()?;
    if flags.file == Path::new("-") {
        return dump(&stores, flags, &mut BufWriter::with_capacity(WRITE_BYTES, output::stdout()));
    }
    let path = flags.file.display();
    let file = OpenOptions::new().write(true).create_new(true).open(&flags.file);
    let mut out = BufWriter::with_capacity(WRITE_BYTES, file.with_context(|| path.to_string())?);
    let dumped = dump(&stores, flags, &mut out);
    // The dump may be all that is left of the data one day, also where it is not complete.
    out.get_ref().sync_all().with_context(|| path.to_string())?;
    dumped
}

fn dump(stores: &[OfflineStore], flags: &StorageDump, out: &mut impl Write) -> anyhow::Result<()> {
    let mut damaged = 0;
    for store in stores {
        if flags.skip_damaged {
            damaged += salvage(store, flags, out)?;
        } else {
            dump_whole(store, flags, out)?;
        }
    }
    match damaged {
        0 => Ok(()),
        places => Err(Damaged { places }.into()),
    }
}

fn dump_whole(store: &OfflineStore, flags: &StorageDump, out: &mut impl Write) -> anyhow::Result<()> {
    let path = store.path().display();
    let records = store.dump(flags.uncommitted)?;
    let (through, left_out) = (records.through(), records.left_out());
    let count = write(store, records, flags, out)?;
    output::note(format_args!("{path}: {count} records as of entry {through}"));
    if left_out > 0 {
        output::note(format_args!(
            "{path}: {left_out} entries behind it are not known to be committed, and were left out \
             (--uncommitted takes them in)"
        ));
    }
    Ok(())
}

/// Writes what can be read. Returns how many places cannot.
fn salvage(store: &OfflineStore, flags: &StorageDump, out: &mut impl Write) -> anyhow::Result<usize> {
    let path = store.path().display();
    let records = store.salvage(flags.uncommitted)?;
    let damages = records.damages().to_vec();
    for damage in &damages {
        let file = damage.path.display();
        output::note(format_args!("{file} at byte {}: {}: skipped", damage.offset, damage.what));
    }
    let count = write(store, records, flags, out)?;
    output::note(format_args!("{path}: {count} records, {} damaged places were skipped", damages.len()));
    Ok(damages.len())
}

/// Writes the records of a store. Returns how many.
fn write(
    store: &OfflineStore,
    records: impl Iterator<Item = Result<Record, paddock_storage::Error>>,
    flags: &StorageDump,
    out: &mut impl Write,
) -> anyhow::Result<u64> {
    let written =
        || if flags.file == Path::new("-") { "stdout".to_owned() } else { flags.file.display().to_string() };
    let is_partition = store.inspect()?.kind == "replicated";
    let mut count = 0_u64;
    for record in records {
        let mut record = record.with_context(|| format!("{}: not complete, {count} records", written()))?;
        if is_partition {
            // What a partition keeps for itself is no record of anybody's.
            let Some(key) = keys::of_user(record.key) else { continue };
            record.key = key;
        }
        let about = About {
            version: Some(record.version.0),
            expires_at_ms: record.expires_at_ms,
            content_type: record.content_type.as_deref(),
        };
        record_line::print_about(out, &record.key, &record.value, about).with_context(written)?;
        count += 1;
    }
    out.flush().with_context(written)?;
    Ok(count)
}
