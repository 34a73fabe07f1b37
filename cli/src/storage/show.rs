//! What looking at a store found, as it is printed. The report turns into this here, once, whatever the format.

use std::io;
use std::path::{Path, PathBuf};

use paddock_storage::offline::{Report, RunReport, SegmentReport};
use serde::Serialize;

use crate::{key, output};

/// An object around the list, so that there is room for more beside it.
#[derive(Serialize)]
pub(super) struct Stores {
    pub(super) stores: Vec<Store>,
}

/// A store. Paths of its files are relative to its own.
#[derive(Serialize)]
pub(super) struct Store {
    path: PathBuf,
    /// Missing when LOCK or MANIFEST is damaged.
    #[serde(flatten)]
    known: Option<Known>,
    torn_tail: Option<TornTail>,
    leftovers: Vec<PathBuf>,
    damages: Vec<Damage>,
}

#[derive(Serialize)]
struct Known {
    store_id: String,
    kind: &'static str,
    format: u32,
    metadata_bytes: u64,
    log: Log,
    flushed_sequence: u64,
    runs: Vec<Run>,
    index_checkpoints: Vec<File>,
    /// Only where all was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    verified: Option<Verified>,
}

#[derive(Serialize)]
struct Log {
    first_sequence: u64,
    last_sequence: u64,
    last_epoch: u64,
    known_commit: u64,
    bytes: u64,
    segments: Vec<Segment>,
}

#[derive(Serialize)]
struct Segment {
    file: PathBuf,
    bytes: u64,
    first_sequence: u64,
    last_sequence: u64,
}

#[derive(Serialize)]
struct Run {
    file: PathBuf,
    bytes: u64,
    first_sequence: u64,
    last_sequence: u64,
    cold: bool,
    from_key: Option<String>,
    rows: Option<u64>,
    tombstones: Option<u64>,
    logical_bytes: Option<u64>,
}

#[derive(Serialize)]
struct File {
    file: PathBuf,
    bytes: u64,
}

#[derive(Serialize)]
struct Verified {
    batches: u64,
    entries: u64,
    run_rows: u64,
}

#[derive(Serialize)]
struct TornTail {
    file: PathBuf,
    offset: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct Damage {
    file: PathBuf,
    offset: u64,
    what: String,
}

impl Store {
    pub(super) fn of(report: &Report) -> Store {
        let file = |path: &Path| within(&report.path, path);
        Store {
            path: report.path.clone(),
            known: Some(Known::of(report)),
            torn_tail: report.torn_tail.as_ref().map(|tail| TornTail {
                file: file(&tail.path),
                offset: tail.offset,
                bytes: tail.bytes,
            }),
            leftovers: report.leftovers.iter().map(|path| file(path)).collect(),
            damages: report
                .damages
                .iter()
                .map(|damage| Damage {
                    file: file(&damage.path),
                    offset: damage.offset,
                    what: damage.what.clone(),
                })
                .collect(),
        }
    }

    /// A store of which nothing can be told, but where it is damaged.
    pub(super) fn unreadable(path: &Path, file: &Path, offset: u64, what: String) -> Store {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        let damage = Damage { file: within(&path, file), offset, what };
        Store { path, known: None, torn_tail: None, leftovers: Vec::new(), damages: vec![damage] }
    }

    /// How many places are damaged.
    pub(super) fn damages(&self) -> usize {
        self.damages.len()
    }
}

impl Known {
    fn of(report: &Report) -> Known {
        Known {
            store_id: report.store_id.to_string(),
            kind: report.kind,
            format: report.format,
            metadata_bytes: report.metadata_bytes,
            log: Log {
                first_sequence: report.log_first.0,
                last_sequence: report.last.sequence.0,
                last_epoch: report.last.epoch,
                known_commit: report.known_commit.0,
                bytes: report.segments.iter().map(|segment| segment.bytes).sum(),
                segments: report.segments.iter().map(|segment| Segment::of(segment, &report.path)).collect(),
            },
            flushed_sequence: report.flushed.0,
            runs: report.runs.iter().map(|run| Run::of(run, &report.path)).collect(),
            index_checkpoints: report
                .checkpoints
                .iter()
                .map(|file| File { file: within(&report.path, &file.path), bytes: file.bytes })
                .collect(),
            verified: report.verified.map(|verified| Verified {
                batches: verified.batches,
                entries: verified.entries,
                run_rows: verified.rows,
            }),
        }
    }
}

impl Segment {
    fn of(segment: &SegmentReport, store: &Path) -> Segment {
        Segment {
            file: within(store, &segment.path),
            bytes: segment.bytes,
            first_sequence: segment.first.0,
            last_sequence: segment.last.0,
        }
    }
}

impl Run {
    fn of(run: &RunReport, store: &Path) -> Run {
        Run {
            file: within(store, &run.path),
            bytes: run.bytes,
            first_sequence: run.first.0,
            last_sequence: run.last.0,
            cold: run.cold,
            from_key: run.from.as_deref().map(key::show),
            rows: run.rows.map(|rows| rows.rows),
            tombstones: run.rows.map(|rows| rows.tombstones),
            logical_bytes: run.rows.map(|rows| rows.logical_bytes),
        }
    }
}

fn within(store: &Path, file: &Path) -> PathBuf {
    file.strip_prefix(store).unwrap_or(file).to_path_buf()
}

/// Prints each store: lines of a word and what it is, then its files.
pub(super) fn print_tables(stores: &[Store]) -> io::Result<()> {
    for (index, store) in stores.iter().enumerate() {
        if index > 0 {
            output::print("")?;
        }
        store.print_lines()?;
        if let Some(known) = &store.known {
            known.print_files()?;
        }
    }
    if stores.is_empty() {
        output::print("no stores: this node has no replicas")?;
    }
    Ok(())
}

impl Store {
    fn print_lines(&self) -> io::Result<()> {
        let line = |name: &str, what: String| output::print(format_args!("{name:<10} {what}"));
        line("store", self.path.display().to_string())?;
        if let Some(known) = &self.known {
            line("id", known.store_id.clone())?;
            line("kind", format!("{}, format {}", known.kind, known.format))?;
            line("log", known.log.sentence())?;
            line("runs", known.runs_sentence())?;
            line("metadata", format!("{} bytes", known.metadata_bytes))?;
        }
        if let Some(tail) = &self.torn_tail {
            let TornTail { file, offset, bytes } = tail;
            let what = format!(
                "{} at byte {offset}: {bytes} bytes, written and never durable; starting drops them",
                file.display()
            );
            line("torn tail", what)?;
        }
        for file in &self.leftovers {
            line("leftover", format!("{}: starting removes it", file.display()))?;
        }
        for Damage { file, offset, what } in &self.damages {
            line("damage", format!("{} at byte {offset}: {what}", file.display()))?;
        }
        if let Some(Verified { batches, entries, run_rows }) =
            self.known.as_ref().and_then(|k| k.verified.as_ref())
        {
            let what = if self.damages.is_empty() { "no damage" } else { "damaged" };
            line(
                "verified",
                format!("{entries} entries in {batches} batches, {run_rows} rows in runs: {what}"),
            )?;
        }
        Ok(())
    }
}

impl Log {
    fn sentence(&self) -> String {
        let Log { first_sequence, last_sequence, last_epoch, known_commit, bytes, .. } = self;
        if last_sequence < first_sequence {
            return format!("no entries from {first_sequence} on, {bytes} bytes");
        }
        format!(
            "entries {first_sequence} to {last_sequence}, epoch {last_epoch}, committed at least to {known_commit}, {bytes} bytes"
        )
    }
}

impl Known {
    fn runs_sentence(&self) -> String {
        if self.runs.is_empty() {
            return "none".to_owned();
        }
        let bytes: u64 = self.runs.iter().map(|run| run.bytes).sum();
        format!(
            "{} files with what counts of entries 1 to {}, {bytes} bytes",
            self.runs.len(),
            self.flushed_sequence
        )
    }

    fn print_files(&self) -> io::Result<()> {
        let entries =
            |first: u64, last: u64| if last < first { "-".to_owned() } else { format!("{first}-{last}") };
        let number = |number: Option<u64>| number.map_or_else(String::new, |number| number.to_string());
        let nothing = || [const { String::new() }; 3];
        let segments = self.log.segments.iter().map(|segment| {
            let entries = entries(segment.first_sequence, segment.last_sequence);
            (&segment.file, segment.bytes, entries, nothing())
        });
        let runs = self.runs.iter().map(|run| {
            let cold = if run.cold { "cold " } else { "" };
            let from = run.from_key.as_ref().map(|from| format!("from {from}")).unwrap_or_default();
            let about = format!("{cold}{from}").trim_end().to_owned();
            let entries = entries(run.first_sequence, run.last_sequence);
            (&run.file, run.bytes, entries, [number(run.rows), number(run.tombstones), about])
        });
        let checkpoints = self
            .index_checkpoints
            .iter()
            .map(|File { file, bytes }| (file, *bytes, String::new(), nothing()));
        let mut table = output::table(["FILE", "ENTRIES", "BYTES", "ROWS", "TOMBSTONES", ""]);
        for (file, bytes, entries, [rows, tombstones, about]) in segments.chain(runs).chain(checkpoints) {
            let file = file.display().to_string();
            table.add_row([file, entries, bytes.to_string(), rows, tombstones, about]);
        }
        output::print_table(&table)
    }
}
