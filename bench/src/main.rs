//! Our storage engine and its peers, side by side: the same rows, operations, durability and memory for each, measured
//! in fresh processes that take turns. `make bench-engines` runs it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Parser, Subcommand};

mod budget;
mod campaign;
mod distribution;
mod driver;
mod engine;
mod engines;
mod machine;
mod measure;
mod mix;
mod plan;
mod record;
mod report;
mod rows;
mod scenario;
mod statistics;
mod table;
mod target;
mod worker;

/// Compares PaddockDB's storage engine with its peers
#[derive(Parser)]
#[command(name = "bench-engines", version)]
struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Measure, print a table, and keep the results
    Run {
        #[command(flatten)]
        plan: Box<plan::PlanFlags>,
        /// Where the engines keep their files; they are removed
        #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench-engines"))]
        data: PathBuf,
        /// Where the results are kept
        #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
        results: PathBuf,
    },
    /// Print the table of a results file as Markdown, or put it into a document
    Render {
        /// The results file
        results: PathBuf,
        /// The document, between its two markers
        #[arg(long)]
        into: Option<PathBuf>,
    },
    /// One engine's turn; `run` starts it
    #[command(hide = true)]
    Child {
        /// What to do, as JSON
        task: String,
    },
}

fn main() -> Result<()> {
    match Command::parse().action {
        Action::Run { plan, data, results } => run(*plan, &data, &results),
        Action::Render { results, into: None } => {
            print!("{}", report::Report::read(&results)?.markdown());
            Ok(())
        }
        Action::Render { results, into: Some(document) } => {
            report::Report::read(&results)?.put_into(&document)
        }
        Action::Child { task } => serde_json::from_str::<scenario::Task>(&task)?.perform(),
    }
}

fn run(flags: plan::PlanFlags, data: &Path, results: &Path) -> Result<()> {
    let path = campaign::run(flags.plan(), data, results)?;
    println!("{}", report::Report::read(&path)?.terminal());
    println!("Kept in {}", path.display());
    Ok(())
}
