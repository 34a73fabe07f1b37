//! What several commands print in the same way.

use std::io::{self, Write};

use comfy_table::{Table, presets};
use serde::Serialize;

/// A table without lines: it pastes and greps well.
pub(crate) fn table<const COLUMNS: usize>(header: [&str; COLUMNS]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
}

/// Stdout, whose broken pipe is told from every other one: a network's is a failure.
pub(crate) struct Stdout(io::Stdout);

/// Whoever read stdout has closed it.
#[derive(Debug, thiserror::Error)]
#[error("stdout is closed")]
pub(crate) struct StdoutClosed;

/// Stdout.
pub(crate) fn stdout() -> Stdout {
    Stdout(io::stdout())
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(marked)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(marked)
    }
}

fn marked(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return io::Error::new(io::ErrorKind::BrokenPipe, StdoutClosed);
    }
    error
}

/// Prints lines to stdout.
pub(crate) fn print(text: impl std::fmt::Display) -> io::Result<()> {
    let mut stdout = stdout();
    writeln!(stdout, "{text}")?;
    stdout.flush()
}

/// Prints a table to stdout, without the spaces around its first and last column.
pub(crate) fn print_table(table: &Table) -> io::Result<()> {
    let text = table.to_string();
    let lines = text.lines().map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end());
    print(lines.collect::<Vec<_>>().join("\n"))
}

/// Prints JSON to stdout, indented.
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(serde_json::to_string_pretty(value)?)?;
    Ok(())
}

/// Tells something to the person at the terminal, or to the log that stderr goes to.
pub(crate) fn note(text: impl std::fmt::Display) {
    // There is nobody to tell if stderr is closed.
    let _ = writeln!(io::stderr(), "{text}");
}
