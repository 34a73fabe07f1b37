//! The runs' part of a survey.

use std::sync::Arc;

use super::report::{Report, RowsReport, RunReport};
use super::survey::Depth;
use crate::directory::Directory;
use crate::error::{Error, Result};
use crate::files::{Catalogue, CataloguedFile, CataloguedRun};
use crate::memory::Memory;
use crate::run::Run;

/// Surveys the runs that FILES names.
pub(super) fn runs(
    report: &mut Report,
    directory: &Directory,
    memory: &Arc<Memory>,
    catalogue: &Catalogue,
    depth: Depth,
) -> Result<()> {
    for run in &catalogue.runs {
        let mut before: Option<Arc<Run>> = None;
        for file in &run.files {
            let found = file.check(directory).and_then(|()| {
                let opened = Run::open(directory, memory, file.number, catalogue.store_id)?;
                fits(&opened, run, before.as_deref())?;
                Ok(opened)
            });
            let opened = report.note(found)?;
            report.runs.push(describe(directory, run, file, opened.as_deref()));
            let Some(opened) = opened else { continue };
            if depth == Depth::Everything && report.note(opened.verify())?.is_some() {
                let rows = opened.summary().statistics.rows;
                report.verified.get_or_insert_default().rows += rows;
            }
            before = Some(opened);
        }
    }
    Ok(())
}

/// Whether a file holds what FILES says of its run: rows of its time, above those of the file before.
fn fits(file: &Run, run: &CataloguedRun, before: Option<&Run>) -> Result<()> {
    let (summary, path) = (file.summary(), file.path());
    let statistics = &summary.statistics;
    if statistics.rows == 0 {
        return Ok(());
    }
    if statistics.sequence_min < run.first || statistics.sequence_max > run.last {
        let what = format!(
            "rows of entries {} to {}, FILES says {} to {}",
            statistics.sequence_min, statistics.sequence_max, run.first, run.last
        );
        return Err(Error::corrupt(path, 0, what));
    }
    if before.is_some_and(|before| before.summary().last_key() >= summary.first_key()) {
        return Err(Error::corrupt(path, 0, "its keys are not above those of the file before it"));
    }
    Ok(())
}

fn describe(
    directory: &Directory,
    run: &CataloguedRun,
    file: &CataloguedFile,
    opened: Option<&Run>,
) -> RunReport {
    RunReport {
        path: directory.run_path(file.number),
        bytes: file.bytes,
        first: run.first,
        last: run.last,
        cold: run.cold,
        from: run.from.as_deref().map(<[u8]>::to_vec),
        rows: opened.map(|opened| {
            let statistics = &opened.summary().statistics;
            RowsReport {
                rows: statistics.rows,
                tombstones: statistics.tombstones,
                logical_bytes: statistics.row_bytes,
            }
        }),
    }
}
