//! Golden scripts: how a store stands, and what compaction does next. `UPDATE_GOLDENFILES=1 cargo test` writes the
//! answers anew. Sizes are small numbers: garbage below 10 is left alone, files of 20 and more may be kept.

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

use goldenscript::{Argument, ArgumentConsumer, Command, Context};

use super::{Drops, FileState, Job, Planned, RunState, StoreState, Tuning, next_job, plan, unfinished};

type Answer = Result<String, Box<dyn Error>>;

const TUNING: Tuning = Tuning { garbage_bytes_min: 10, kept_file_bytes_min: 20, ..Tuning::DEFAULT };

#[derive(Default)]
struct Runner {
    state: StoreState<'static>,
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(&mut self, command: &Command, _context: &Context) -> Answer {
        let mut arguments = command.consume_args();
        match command.name.as_str() {
            "store" => self.state = StoreState { hash_entries_max: 1_000, ..StoreState::default() },
            "run" => self.run(command)?,
            "file" => {
                let file = file(&mut arguments)?;
                self.state.runs.last_mut().ok_or("no run")?.files.push(file);
            }
            "frozen" => self.state.frozen = number(&mut arguments)? as usize,
            "hash" => self.state.hash_entries = number(&mut arguments)?,
            "idle" => self.state.idle = true,
            "request" => {
                self.state.requested = Some(arguments.next_pos().map_or(Ok(usize::MAX), str::parse)?);
            }
            "next" => return Ok(self.next()),
            "behind" => return Ok(format!("{}\n", self.state.is_behind(&TUNING))),
            "plan" => return self.plan(&mut arguments),
            other => return Err(format!("unknown command {other}").into()),
        }
        Ok(String::new())
    }
}

impl Runner {
    /// run FIRST..LAST bytes=N [live=N] [rows=N] [tombstones=N] [expired=N] [from=KEY] [cold]
    fn run(&mut self, command: &Command) -> Result<(), Box<dyn Error>> {
        let mut arguments = command.consume_args();
        let cold = command
            .args
            .iter()
            .any(|argument| matches!(argument, Argument::Positional(name) if name == "cold"));
        let from = arguments.take_key("from").map(leak);
        let mut file = file(&mut arguments)?;
        if cold {
            file.live_bytes = None;
        }
        self.state.runs.push(RunState { files: vec![file], from, cold });
        Ok(())
    }

    fn next(&self) -> String {
        let sizes: Vec<u64> = self.state.runs.iter().map(RunState::bytes).collect();
        let job = match next_job(&self.state, &TUNING) {
            Job::Merge { runs, cold, reason, .. } => {
                let merged: Vec<String> = sizes[runs].iter().map(u64::to_string).collect();
                let cold = if cold { ", cold" } else { "" };
                format!("merge {} ({reason:?}{cold})", merged.join("+"))
            }
            Job::Cool { runs } => format!("cool {:?}", &sizes[runs]),
            job => format!("{job:?}").to_lowercase(),
        };
        let (garbage, overlap) = (self.state.garbage_bytes(), self.state.overlap());
        format!("{job}; garbage {garbage}, at most {overlap} runs hold a key\n")
    }

    /// plan FROM..TO [nothing|many|all]: every slice of a merge, as if each rewriting came as far as it may.
    fn plan(&self, arguments: &mut ArgumentConsumer<'_>) -> Answer {
        let (start, end) =
            arguments.next_pos().and_then(|range| range.split_once("..")).ok_or("which runs?")?;
        let drops = match arguments.next_pos() {
            None | Some("nothing") => Drops::Nothing,
            Some("many") => Drops::Many,
            Some("all") => Drops::All,
            Some(other) => return Err(format!("drops {other}?").into()),
        };
        let mut runs = self.state.runs[start.parse()?..end.parse()?].to_vec();
        let cold = runs.iter().any(|run| run.cold);
        let mut answer = String::new();
        loop {
            let from: &[u8] = match plan(&runs, cold, drops, &TUNING) {
                Planned::Done => return Ok(answer),
                Planned::Keep { run, file } => {
                    let file = runs[run].files.remove(file);
                    writeln!(answer, "keep {}..{}", file.first.escape_ascii(), file.last.escape_ascii())?;
                    continue;
                }
                Planned::Rewrite { before: None } => {
                    writeln!(answer, "rewrite to the end")?;
                    return Ok(answer);
                }
                Planned::Rewrite { before: Some(before) } => {
                    writeln!(answer, "rewrite before {}", before.escape_ascii())?;
                    before.leak()
                }
            };
            runs.iter_mut().for_each(|run| run.from = Some(from));
        }
    }
}

fn file(arguments: &mut ArgumentConsumer<'_>) -> Result<FileState<'static>, Box<dyn Error>> {
    let (first, last) = arguments.next_pos().and_then(|keys| keys.split_once("..")).ok_or("which keys?")?;
    let bytes = arguments.take_key("bytes").ok_or("how many bytes?")?.parse()?;
    let mut take = |name, otherwise| arguments.take_key(name).map_or(Ok(otherwise), str::parse::<u64>);
    Ok(FileState {
        first: leak(first),
        last: leak(last),
        bytes,
        live_bytes: Some(take("live", bytes)?),
        rows: take("rows", bytes)?,
        tombstones: take("tombstones", 0)?,
        expired_bytes: take("expired", 0)?,
    })
}

fn leak(key: &str) -> &'static [u8] {
    key.as_bytes().to_vec().leak()
}

fn number(arguments: &mut ArgumentConsumer<'_>) -> Result<u64, Box<dyn Error>> {
    Ok(arguments.next_pos().ok_or("a number is missing")?.parse()?)
}

fn run(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/policy").join(name);
    goldenscript::run(&mut Runner::default(), path).unwrap();
}

macro_rules! scripts {
    ($($name:ident)*) => {
        $(#[test] fn $name() { run(stringify!($name)); })*

        #[test]
        fn every_script_is_run() {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/policy");
            let found = std::fs::read_dir(folder).unwrap().count();
            assert_eq!(found, [$(stringify!($name)),*].len());
        }
    };
}

scripts! {
    cold_runs_are_taken_for_garbage
    flushing_comes_first
    garbage_is_merged_where_it_pays
    large_values_stay_out_of_small_merges
    loads_in_key_order_write_nothing
    runs_stay_few
    the_hash_index_keeps_its_budget
    tombstones_pile_up
    what_was_begun_is_finished
    writers_are_held_back
}

#[test]
fn a_merge_whose_output_lies_before_it_is_one_with_it() {
    let file = |first: &str, last: &str| FileState { first: leak(first), last: leak(last), ..EMPTY };
    let run = |first, last, from: Option<&str>| RunState {
        files: vec![file(first, last)],
        from: from.map(leak),
        cold: false,
    };
    let runs = [run("a", "z", None), run("a", "k", None), run("a", "z", Some("m")), run("c", "p", Some("m"))];
    let found: Vec<_> = unfinished(&runs).map(|window| (window.inputs, window.output)).collect();
    assert_eq!(found, [(2..4, Some(1))]);
    // The output takes keys from where the inputs begin; a run that reaches beyond is another one.
    let runs = [run("a", "m", None), run("a", "z", Some("m"))];
    assert_eq!(unfinished(&runs).next().unwrap().output, None);
}

const EMPTY: FileState<'static> =
    FileState { first: b"", last: b"", bytes: 0, live_bytes: None, rows: 0, tombstones: 0, expired_bytes: 0 };
