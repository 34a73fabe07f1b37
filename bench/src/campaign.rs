//! The whole run: round by round, engine by engine, each in a fresh process.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::budget::Budget;
use crate::engine::Name;
use crate::machine::{self, Machine};
use crate::plan::{Plan, Scenario};
use crate::record::{Failure, Line, Run};
use crate::scenario::{Part, READY, Task};

/// How many lines of a child's complaint are kept.
const COMPLAINT_LINES_MAX: usize = 3;

/// Runs a plan, and writes its lines to a new file in `results`. Data lie in `data`, and are removed.
pub fn run(plan: Plan, data: &Path, results: &Path) -> Result<PathBuf> {
    fs::create_dir_all(data).with_context(|| format!("making {}", data.display()))?;
    fs::create_dir_all(results).with_context(|| format!("making {}", results.display()))?;
    let _lock = lock(data)?;
    eprintln!("bench-engines: touching memory, measuring the disk");
    machine::touch_memory()?;
    let budget_enforced = match Budget::new(plan.budget_bytes_min()) {
        Ok(_) => true,
        Err(error) => {
            eprintln!("bench-engines: the memory budget is not enforced: {error:#}");
            false
        }
    };
    let run = Run {
        began_unix_s: machine::now_unix_s(),
        command: command(),
        commit: machine::commit(),
        machine: Machine::describe(data)?,
        engines: plan.engines.iter().map(|engine| (*engine, version(*engine))).collect(),
        plan,
        budget_enforced,
    };
    let path = results.join(format!("{}-{}.jsonl", run.began_unix_s, run.commit.trim_end_matches('+')));
    let file = File::create_new(&path).with_context(|| format!("making {}", path.display()))?;
    Campaign { run, data: data.to_path_buf(), file }.perform()?;
    Ok(path)
}

/// Two that work in one directory would remove each other's files. The lock is held until it is dropped.
fn lock(data: &Path) -> Result<File> {
    let path = data.join("LOCK");
    let file = File::create(&path).with_context(|| format!("making {}", path.display()))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .with_context(|| format!("another bench works in {}: --data says where else", data.display()))?;
    Ok(file)
}

struct Campaign {
    run: Run,
    data: PathBuf,
    file: File,
}

impl Campaign {
    fn perform(&mut self) -> Result<()> {
        self.write(&Line::Run(Box::new(self.run.clone())))?;
        let plan = self.run.plan.clone();
        for &scenario in &plan.scenarios {
            // Who failed is not waited for again and again.
            let mut failed = BTreeSet::new();
            for round in 0..plan.rounds {
                for turn in 0..plan.engines.len() {
                    // Each round begins with another engine, so that none always follows the same one.
                    let engine = plan.engines[(turn + round as usize) % plan.engines.len()];
                    if !failed.contains(&engine) && !self.measure(scenario, engine, round)? {
                        failed.insert(engine);
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns whether the engine got through.
    fn measure(&mut self, scenario: Scenario, engine: Name, round: u32) -> Result<bool> {
        let directory = self.data.join(engine.label());
        clear(&directory)?;
        fs::create_dir_all(&directory)?;
        // What others left to be written must not be written during this one.
        rustix::fs::sync();
        let began = Instant::now();
        let result = self.attempt(scenario, engine, round, &directory);
        clear(&directory)?;
        let scenario = format!("{scenario:?}").to_lowercase();
        let seconds = began.elapsed().as_secs_f64();
        match &result {
            Ok(lines) => {
                eprintln!(
                    "bench-engines: round {}, {scenario}, {}: {seconds:.1} s",
                    round + 1,
                    engine.label()
                );
                lines.iter().try_for_each(|line| self.write(line))?;
                Ok(true)
            }
            Err(error) => {
                let reason = format!("{error:#}");
                eprintln!(
                    "bench-engines: round {}, {scenario}, {}: FAILED: {reason}",
                    round + 1,
                    engine.label()
                );
                self.write(&Line::Failure(Failure { scenario, engine, round, reason }))?;
                Ok(false)
            }
        }
    }

    fn attempt(&self, scenario: Scenario, engine: Name, round: u32, directory: &Path) -> Result<Vec<Line>> {
        let plan = self.run.plan.clone();
        let part = Part::Whole(scenario);
        let task = Task { part, engine, round, directory: directory.into(), budget: None, plan };
        match scenario {
            Scenario::Beyond => self.beyond(&task),
            Scenario::Crash => self.crash(&task),
            _ => self.process(&task)?.finish(),
        }
    }

    fn process(&self, task: &Task) -> Result<Process> {
        Process::start(task, Duration::from_secs(self.run.plan.timeout_seconds))
    }

    /// Loads once, and measures under each budget.
    fn beyond(&self, task: &Task) -> Result<Vec<Line>> {
        let loading = Task { part: Part::BeyondLoad, ..task.clone() };
        self.process(&loading)?.finish().context("while loading, without a budget")?;
        let mut lines = Vec::new();
        for &factor in &self.run.plan.beyond_factors {
            cool(&task.directory)?;
            let budget = match self.run.budget_enforced {
                true => Some(Budget::new(self.run.plan.budget_bytes(factor))?),
                false => None,
            };
            let members = budget.as_ref().map(Budget::members);
            let measuring = Task { part: Part::Beyond(factor), budget: members, ..task.clone() };
            let name = || format!("at {factor} times the memory");
            lines.extend(self.process(&measuring)?.finish().with_context(name)?);
        }
        Ok(lines)
    }

    fn crash(&self, task: &Task) -> Result<Vec<Line>> {
        match &self.run.plan.crash_kept {
            None => self.load_and_kill(task)?,
            Some(kept) => {
                let kept = kept.join(task.engine.label());
                if !kept.exists() {
                    // Its name says that it is whole.
                    let unfinished = kept.with_extension("unfinished");
                    clear(&unfinished)?;
                    fs::create_dir_all(&unfinished)?;
                    self.load_and_kill(&Task { directory: unfinished.clone(), ..task.clone() })?;
                    fs::rename(&unfinished, &kept)?;
                }
                copy(&kept, &task.directory)?;
                evict(&kept)?;
            }
        }
        cool(&task.directory)?;
        self.process(&Task { part: Part::CrashStart, ..task.clone() })?.finish()
    }

    fn load_and_kill(&self, task: &Task) -> Result<()> {
        let mut loading = self.process(&Task { part: Part::CrashLoad, ..task.clone() })?;
        loading.wait_for(READY)?;
        loading.kill()
    }

    fn write(&mut self, line: &Line) -> Result<()> {
        writeln!(self.file, "{}", serde_json::to_string(line)?).context("writing the results")
    }
}

/// A child at work.
struct Process {
    child: Child,
    lines: Receiver<String>,
    complaints: Receiver<String>,
    end: Instant,
}

impl Process {
    fn start(task: &Task, timeout: Duration) -> Result<Process> {
        let mut child = Command::new(std::env::current_exe()?)
            .env("RUST_BACKTRACE", "0")
            .arg("child")
            .arg(serde_json::to_string(task)?)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting a child")?;
        let lines = forward(child.stdout.take());
        let complaints = forward(child.stderr.take());
        Ok(Process { child, lines, complaints, end: Instant::now() + timeout })
    }

    /// The next line, or `None` when it has closed its output.
    fn line(&mut self) -> Result<Option<String>> {
        match self.lines.recv_timeout(self.end.saturating_duration_since(Instant::now())) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => {
                self.kill()?;
                bail!("took too long")
            }
        }
    }

    fn wait_for(&mut self, wanted: &str) -> Result<()> {
        while let Some(line) = self.line()? {
            if line == wanted {
                return Ok(());
            }
        }
        bail!("{}", self.complaint()?)
    }

    /// All measurements; an error if it failed.
    fn finish(mut self) -> Result<Vec<Line>> {
        let mut lines = Vec::new();
        while let Some(line) = self.line()? {
            lines.push(serde_json::from_str(&line).with_context(|| format!("a child said {line:?}"))?);
        }
        let complaint = self.complaint()?;
        ensure!(complaint.is_empty(), "{complaint}");
        Ok(lines)
    }

    /// How it ended, if it did not end well.
    fn complaint(&mut self) -> Result<String> {
        let status = self.child.wait()?;
        if status.success() {
            return Ok(String::new());
        }
        let mut said: Vec<String> = self.complaints.iter().collect();
        said.truncate(COMPLAINT_LINES_MAX);
        Ok(format!("{status} {}", said.join(" / ")).trim_end().to_owned())
    }

    /// As a crash would.
    fn kill(&mut self) -> Result<()> {
        self.child.kill().context("killing a child")?;
        self.child.wait().context("waiting for a killed child")?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Left early: nothing more can be done if even this fails.
        let _ = self.kill();
    }
}

/// Reads lines in a thread of its own, so that one can wait for them with a deadline.
fn forward(output: Option<impl std::io::Read + Send + 'static>) -> Receiver<String> {
    let (sender, receiver) = channel();
    if let Some(output) = output {
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
    }
    receiver
}

fn clear(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// Takes the files of a directory out of the page cache, once they are on the disk.
fn cool(directory: &Path) -> Result<()> {
    rustix::fs::sync();
    evict(directory)
}

/// Copies what a directory has into another one. Files stay sparse where they are: maps of LMDB's are.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut command = Command::new("cp");
    command.args(["--archive", "--sparse=always", "--no-target-directory", "--"]).arg(from).arg(to);
    let status = command.status().context("starting cp")?;
    ensure!(status.success(), "cp from {} to {}: {status}", from.display(), to.display());
    Ok(())
}

fn evict(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            evict(&path)?;
        } else {
            rustix::fs::fadvise(File::open(&path)?, 0, None, rustix::fs::Advice::DontNeed)?;
        }
    }
    Ok(())
}

fn command() -> String {
    let arguments: Vec<String> = std::env::args().skip(2).collect();
    if arguments.is_empty() {
        return "make bench-engines".to_owned();
    }
    format!("make bench-engines ARGS=\"{}\"", arguments.join(" "))
}

/// The version in our lock file; of RocksDB that of the library, which is not the crate's.
fn version(engine: Name) -> String {
    if let (Name::Rocksdb, Some(version)) = (engine, option_env!("BENCH_ROCKSDB_VERSION")) {
        return version.to_owned();
    }
    let name = format!("name = \"{}\"", engine.crate_name());
    let mut lines = include_str!("../Cargo.lock").lines().skip_while(|line| *line != name);
    let version = lines.nth(1).and_then(|line| line.strip_prefix("version = ")).unwrap_or("unknown");
    format!("{} {}", engine.crate_name(), version.trim_matches('"'))
}
