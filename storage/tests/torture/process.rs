//! The child as its parent sees it: a process, and the lines that it writes.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::child::{TASK_VARIABLE, Task};
use crate::work::Random;

/// A child that says nothing for so long is stuck.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const ACKNOWLEDGEMENTS_MAX: u64 = 400;
const SIGKILL: i32 = 9;

/// What a child says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// The store is open.
    Ready,
    /// A write was acknowledged: the thread, the operation's number, the version of its last row.
    Acknowledged(u64, u64, u64),
    /// A thread met an error, and ended.
    Fault(String),
}

impl Line {
    /// `None`: not one of the child's; the test harness writes a few of its own.
    fn parse(text: &str) -> Option<Line> {
        let mut words = text.split(' ');
        match words.next()? {
            "ready" => Some(Line::Ready),
            "fault" => Some(Line::Fault(text.to_owned())),
            "ok" => {
                let mut number = || words.next()?.parse().ok();
                Some(Line::Acknowledged(number()?, number()?, number()?))
            }
            _ => None,
        }
    }
}

/// When a child is to end.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// After so many acknowledgements.
    acknowledgements: u64,
    /// And so long after them, or after its start.
    delay: Duration,
}

impl Moment {
    /// One in five comes before the first acknowledgement: while the store is being opened.
    pub fn random(random: &mut Random) -> Moment {
        if random.below(5) == 0 {
            return Moment { acknowledgements: 0, delay: Duration::from_micros(random.below(25_000)) };
        }
        // Mostly few: their size is as random as their number.
        let most = ACKNOWLEDGEMENTS_MAX >> random.below(6);
        let acknowledgements = 1 + random.below(most);
        let delay = if random.below(2) == 0 { 0 } else { random.below(4_000) };
        Moment { acknowledgements, delay: Duration::from_micros(delay) }
    }
}

/// A child at work. Dropped, it is killed.
pub struct Process {
    child: Child,
    lines: Receiver<Line>,
    said: Vec<Line>,
}

impl Process {
    pub fn start(path: &Path, task: &Task) -> Process {
        // By this name the file is there even after a build has put another in its place.
        let linux = PathBuf::from("/proc/self/exe");
        let program = if linux.exists() { linux } else { std::env::current_exe().unwrap() };
        let mut child = Command::new(program)
            .args(["--exact", "writer", "--nocapture", "--test-threads=1"])
            .env(TASK_VARIABLE, task.encode(path))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let lines = output.lines().map_while(Result::ok).filter_map(|text| Line::parse(&text));
            lines.take_while(|line| sender.send(line.clone()).is_ok()).count()
        });
        Process { child, lines, said: Vec::new() }
    }

    /// Listens until the moment has come, or the child ends by itself.
    pub fn listen_until(&mut self, moment: Moment) -> Result<(), String> {
        let mut acknowledgements = 0;
        while acknowledgements < moment.acknowledgements {
            match self.lines.recv_timeout(SILENCE_MAX) {
                Ok(line) => {
                    acknowledgements += u64::from(matches!(line, Line::Acknowledged(..)));
                    self.said.push(line);
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) => return Err("the child is stuck".to_owned()),
            }
        }
        self.listen_for(moment.delay);
        Ok(())
    }

    fn listen_for(&mut self, duration: Duration) {
        let end = Instant::now() + duration;
        while let Ok(line) = self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            self.said.push(line);
        }
    }

    /// Kills it, and gives how it ended and all that it had said.
    pub fn kill(mut self) -> (ExitStatus, Vec<Line>) {
        // It may have ended by itself: then this fails, and its status says how.
        let _ = self.child.kill();
        let status = self.child.wait().unwrap();
        let mut said = std::mem::take(&mut self.said);
        said.extend(self.lines.iter());
        (status, said)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether SIGKILL ended it, and not itself.
pub fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(SIGKILL)
}
