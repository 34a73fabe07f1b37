//! `make sim`: runs seeds, says how fast, and how to run a failed one again.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a command's output")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use paddock_sim::campaign::run_all;
use paddock_sim::{Failed, run};
use parking_lot::Mutex;

/// How often progress is printed.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// Simulates clusters, one for each seed.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 2_000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Only this one, with the end of its trace.
    #[arg(long)]
    seed: Option<u64>,
    /// How much of a failed seed's trace is printed.
    #[arg(long, default_value_t = 100)]
    lines: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // What panics is simulated, and said in the end with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    if let Some(seed) = arguments.seed {
        return match run(seed, arguments.lines) {
            Ok(report) => {
                println!("{report:#?}");
                ExitCode::SUCCESS
            }
            Err(failed) => say(seed, &failed),
        };
    }
    match run_seeds(&arguments) {
        None => ExitCode::SUCCESS,
        Some(seed) => match run(seed, arguments.lines) {
            Err(failed) => say(seed, &failed),
            Ok(_) => {
                println!(
                    "seed {seed} failed, and did not when it was run again: the simulation is not deterministic"
                );
                ExitCode::FAILURE
            }
        },
    }
}

/// Runs all seeds, and gives the first that failed.
fn run_seeds(arguments: &Arguments) -> Option<u64> {
    let begun = Instant::now();
    let said = Mutex::new(begun);
    let (sums, failed) = run_all(arguments.first, arguments.seeds, |done| {
        let mut said = said.lock();
        if said.elapsed() >= PROGRESS_INTERVAL {
            *said = Instant::now();
            println!("{done} seeds");
        }
    });
    let seconds = begun.elapsed().as_secs_f64();
    let per_second = sums.seeds as f64 / seconds.max(0.001);
    println!("{} seeds in {seconds:.1} s, {per_second:.1} seeds per second", sums.seeds);
    println!("{sums:?}");
    failed
}

fn say(seed: u64, failed: &Failed) -> ExitCode {
    for line in &failed.lines {
        println!("{line}");
    }
    println!("seed {seed} failed: {}", failed.what);
    println!("again: make sim SEED={seed}");
    ExitCode::FAILURE
}
