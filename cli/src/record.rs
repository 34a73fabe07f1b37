//! `get`, `put` and `delete`.

use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::ffi::OsStringExt;

use anyhow::Context;
use bytes::Bytes;
use paddock_client::{Client, Consistency, Precondition, Record, SessionToken};
use paddock_proto::limits::MESSAGE_BYTES_MAX;

use crate::arguments::{Connection, Delete, Get, Put, RecordFormat};
use crate::{key, output, record_line};

/// `get`: prints one record.
pub(crate) async fn get(client: &Client, get: Get) -> anyhow::Result<()> {
    let consistency = if get.eventual { Consistency::Eventual } else { get.consistency };
    let read = client.read(get.key.0, consistency).await?;
    print_session(get.print_session, &read.session_token);
    let record = read.result;
    match get.output {
        RecordFormat::Raw => print_raw(&record.value)?,
        RecordFormat::Json => {
            record_line::print(&mut output::stdout(), &record.key, &record.value, Some(record.version))?;
        }
        RecordFormat::Table => print_table(&record)?,
    }
    Ok(())
}

/// What a later read can ask to see at least.
fn print_session(is_wanted: bool, token: &SessionToken) {
    if is_wanted {
        output::note(format_args!("session {token}"));
    }
}

/// The bytes as they are; on a terminal the prompt gets a line of its own.
fn print_raw(value: &[u8]) -> io::Result<()> {
    let mut stdout = output::stdout();
    stdout.write_all(value)?;
    if io::stdout().is_terminal() && !value.ends_with(b"\n") {
        stdout.write_all(b"\n")?;
    }
    stdout.flush()
}

fn print_table(record: &Record) -> io::Result<()> {
    let mut table = output::table(["KEY", "VERSION", "VALUE"]);
    let value = match std::str::from_utf8(&record.value) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("({} bytes, not UTF-8)", record.value.len()),
    };
    table.add_row([key::show(&record.key), record.version.to_string(), value]);
    output::print_table(&table)
}

/// `put`: writes one record and prints its version. The value is read before the connection is made: a
/// person may take their time to type it.
pub(crate) async fn put(connection: &Connection, put: Put) -> anyhow::Result<()> {
    let value = if put.value == "-" { read_stdin()? } else { Bytes::from(put.value.into_vec()) };
    let precondition = match (put.create, put.update, put.if_version) {
        (true, _, _) => Precondition::Absent,
        (_, true, _) => Precondition::Exists,
        (_, _, Some(version)) => Precondition::Version(version),
        _ => Precondition::None,
    };
    let client = connection.connect().await?;
    let written = client.write_put(put.request_id, put.key.0, value, precondition).await?;
    print_session(put.print_session, &written.session_token);
    let version = written.result;
    output::print(format_args!("version {version}"))?;
    Ok(())
}

/// All of stdin, but no more than could ever be sent.
fn read_stdin() -> anyhow::Result<Bytes> {
    let limit = MESSAGE_BYTES_MAX;
    let mut value = Vec::new();
    io::stdin().lock().take(limit as u64 + 1).read_to_end(&mut value).context("stdin")?;
    anyhow::ensure!(value.len() <= limit, "stdin: more than {limit} bytes, the most that one request holds");
    Ok(Bytes::from(value))
}

/// `delete`: removes one record and says whether there was one.
pub(crate) async fn delete(client: &Client, delete: Delete) -> anyhow::Result<()> {
    let precondition = delete.if_version.map_or(Precondition::None, Precondition::Version);
    let written = client.write_delete(delete.request_id, delete.key.0, precondition).await?;
    print_session(delete.print_session, &written.session_token);
    let outcome = written.result;
    if outcome.deleted {
        output::print(format_args!("deleted, version {}", outcome.version))?;
    } else {
        output::print("nothing to delete")?;
    }
    Ok(())
}
