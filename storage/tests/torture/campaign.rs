//! Round after round in one directory.

use std::hash::{BuildHasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::{fs, io};

use paddock_storage::Store;

use crate::child::{Task, builder};
use crate::history::History;
use crate::power;
use crate::process::{Line, Moment, Process, was_killed};
use crate::work::{Random, Script};

/// How a child ends.
pub enum Ending {
    /// By SIGKILL: whatever was acknowledged, the system has it.
    Kill,
    /// The disk loses power: only what was synced is certain.
    PowerCut(power::Disk),
}

/// The rounds, and what they came to.
pub struct Campaign {
    path: PathBuf,
    seed: u64,
    rounds: u64,
    /// What `make torture` calls the number of rounds.
    variable: &'static str,
    history: History,
    /// Rounds in which a torn end was dropped.
    torn: u64,
}

impl Campaign {
    /// Seed and rounds come from the environment, or are random and `rounds`.
    pub fn new(path: &Path, variable: &'static str, rounds: u64) -> Campaign {
        let number = |name: &str| {
            let text =
                std::env::var(format!("PADDOCK_TORTURE_{name}")).ok().filter(|text| !text.is_empty())?;
            Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
        };
        let seed = number("SEED").unwrap_or_else(|| RandomState::new().hash_one(()) % 1_000_000);
        let rounds = number(variable).unwrap_or(rounds);
        Campaign {
            path: path.into(),
            seed,
            rounds,
            variable,
            history: History::new(Script { seed, lax: false }),
            torn: 0,
        }
    }

    /// Fails with all that one needs to try again.
    pub fn run(&mut self, ending: &mut Ending) -> Result<(), String> {
        for round in 0..self.rounds {
            self.round(round, ending).map_err(|reason| {
                let Campaign { seed, rounds, variable, .. } = self;
                format!("round {round}: {reason}\nAgain: make torture SEED={seed} {variable}={rounds}")
            })?;
        }
        Ok(())
    }

    pub fn summary(&self) -> String {
        let History { acknowledged, found, lost, dropped, .. } = &self.history;
        format!(
            "seed {}: {} rounds, {acknowledged} acknowledged writes; of those under way {found} had happened and \
             {lost} had not or left no trace; {dropped} that were not synced were dropped; {} torn ends",
            self.seed, self.rounds, self.torn
        )
    }

    fn round(&mut self, round: u64, ending: &mut Ending) -> Result<(), String> {
        let mut random = Random::new(&[self.seed, round, u64::MAX]);
        let script = Script { seed: self.seed, lax: random.below(2) == 0 };
        let task = Task { script, first: self.history.begin(script) };
        let mut process = Process::start(&self.path, &task);
        process.listen_until(Moment::random(&mut random))?;
        let said = match ending {
            Ending::Kill => {
                let (status, said) = process.kill();
                if !was_killed(status) {
                    return Err(format!("the child ended by itself: {status}, {:?}", faults(&said)));
                }
                said
            }
            Ending::PowerCut(disk) => {
                disk.cut()?;
                let (_, said) = process.kill();
                disk.restore()?;
                said
            }
        };
        self.note(&said, matches!(ending, Ending::Kill))?;
        self.verify(&mut random, matches!(ending, Ending::PowerCut(_)))
    }

    /// Takes over what a child was told.
    fn note(&mut self, said: &[Line], no_faults: bool) -> Result<(), String> {
        if no_faults && let Some(fault) = faults(said).first() {
            return Err((*fault).to_owned());
        }
        for line in said {
            if let Line::Acknowledged(thread, number, version) = line {
                self.history.acknowledge(*thread, *number, *version)?;
            }
        }
        Ok(())
    }

    /// Opens the store, compares, and leaves it one way or another.
    fn verify(&mut self, random: &mut Random, only_synced: bool) -> Result<(), String> {
        keep_copy(&self.path).map_err(|error| format!("copying the store: {error}"))?;
        let store = builder(&self.path).open().map_err(|error| format!("opening: {error}"))?;
        self.torn += u64::from(store.recovery().torn_bytes > 0);
        self.history.settle(&store, self.history.last_acknowledged(only_synced))?;
        store.verify().map_err(|error| format!("verifying: {error}"))?;
        if random.below(4) == 0 {
            store.compact().map_err(|error| format!("compacting: {error}"))?;
            self.history.check_settled(&store).map_err(|reason| format!("after compacting, {reason}"))?;
            store.verify().map_err(|error| format!("verifying after compacting: {error}"))?;
        }
        leave(store, random)
    }
}

fn faults(said: &[Line]) -> Vec<&str> {
    let faults = said.iter().filter_map(|line| match line {
        Line::Fault(text) => Some(text.as_str()),
        _ => None,
    });
    faults.collect()
}

/// Opening changes a store: as it was before, it lies beside it until the next round.
fn keep_copy(path: &Path) -> io::Result<()> {
    fn copy(from: &Path, to: &Path) -> io::Result<()> {
        fs::create_dir(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let target = to.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                copy(&entry.path(), &target)?;
            } else {
                fs::copy(entry.path(), target)?;
            }
        }
        Ok(())
    }
    let kept = path.with_extension("before");
    if kept.exists() {
        fs::remove_dir_all(&kept)?;
    }
    if path.exists() { copy(path, &kept) } else { Ok(()) }
}

/// Closes the store in good order, or only lets go of it.
fn leave(store: Store, random: &mut Random) -> Result<(), String> {
    if random.below(2) == 0 {
        return store.close().map_err(|error| format!("closing: {error}"));
    }
    Ok(())
}
