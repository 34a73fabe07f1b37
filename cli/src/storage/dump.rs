//! `storage dump`: the records of a stopped server, without the server.

use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Context;
use paddock_partition::keys;
use paddock_storage::Options;
use paddock_storage::offline::OfflineStore;

use super::places;
use crate::arguments::StorageDump;
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
    dump(&stores, flags, &mut out)?;
    // The dump may be all that is left of the data one day.
    out.get_ref().sync_all().with_context(|| path.to_string())
}

fn dump(stores: &[OfflineStore], flags: &StorageDump, out: &mut impl Write) -> anyhow::Result<()> {
    let written =
        || if flags.file == Path::new("-") { "stdout".to_owned() } else { flags.file.display().to_string() };
    for store in stores {
        let path = store.path().display();
        let records = store.dump(flags.uncommitted)?;
        let (through, left_out, mut count) = (records.through(), records.left_out(), 0_u64);
        let is_partition = store.inspect()?.kind == "replicated";
        for record in records {
            let mut record =
                record.with_context(|| format!("{}: not complete, {count} records", written()))?;
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
        output::note(format_args!("{path}: {count} records as of entry {through}"));
        if left_out > 0 {
            output::note(format_args!(
                "{path}: {left_out} entries behind it are not known to be committed, and were left out \
                 (--uncommitted takes them in)"
            ));
        }
    }
    Ok(())
}
