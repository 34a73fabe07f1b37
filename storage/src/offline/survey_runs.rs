//! The runs' part of a survey.

use super::report::{Report, RunReport};
use super::survey::Depth;
use crate::directory::Directory;
use crate::error::Result;
use crate::files::Catalogue;
use crate::options::Options;

/// Surveys the runs that FILES names.
pub(super) fn runs(
    report: &mut Report,
    directory: &Directory,
    _options: &Options,
    catalogue: &Catalogue,
    _depth: Depth,
) -> Result<()> {
    for run in &catalogue.runs {
        for file in &run.files {
            let path = directory.run_path(file.number);
            report.note(file.check(directory))?;
            report.runs.push(RunReport {
                path,
                bytes: file.bytes,
                first: run.first,
                last: run.last,
                cold: run.cold,
                from: run.from.as_deref().map(<[u8]>::to_vec),
                rows: None,
            });
        }
    }
    Ok(())
}
