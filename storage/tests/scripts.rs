//! Golden scripts: commands to a replicated store and what it answers. `UPDATE_GOLDENFILES=1 cargo test` writes the
//! answers anew.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what helpers of a test meet unexpectedly fails it")]

mod support;

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

use goldenscript::{Argument, ArgumentConsumer, Command, Context};
use paddock_storage::disk::{Fault, FaultyDisk, Unsynced};
use paddock_storage::{Readable, ReplicatedStore, Sequence};
use support::{Entry, append, log, open};

type Answer = Result<String, Box<dyn Error>>;

/// Runs one script: a store on a disk in memory.
#[derive(Default)]
struct Runner {
    disk: FaultyDisk,
    store: Option<ReplicatedStore>,
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(&mut self, command: &Command, _context: &Context) -> Answer {
        let mut arguments = command.consume_args();
        let answer = match command.name.as_str() {
            "open" => self.open(),
            "append" => self.append(command),
            "sync" => Ok(format!("durable {}", self.store()?.sync()?)),
            "mark" => {
                self.store()?.mark_durable()?;
                Ok(String::new())
            }
            "apply" => {
                let through = Sequence(number(&mut arguments)?);
                self.store()?.apply(through)?;
                self.state()
            }
            "truncate" => {
                let kept = Sequence(number(&mut arguments)?);
                self.store()?.truncate_after(kept)?;
                self.state()
            }
            "kill" => {
                self.store = None;
                Ok(String::new())
            }
            "crash" => {
                self.store = None;
                self.disk.crash(unsynced(&mut arguments)?);
                Ok(String::new())
            }
            "close" => {
                self.store.take().ok_or("no store is open")?.close()?;
                Ok(String::new())
            }
            "state" => self.state(),
            "log" => self.log(),
            "scan" => self.scan(),
            "get" => self.get(&mut arguments),
            "metadata" => self.metadata(&mut arguments),
            "files" => Ok(self.files()),
            "disk" => self.disk_settings(&mut arguments),
            "damage" => self.damage(&mut arguments),
            other => Err(format!("unknown command {other}").into()),
        };
        let mut answer = answer?;
        if !answer.is_empty() && !answer.ends_with('\n') {
            answer.push('\n');
        }
        Ok(answer)
    }
}

impl Runner {
    fn store(&mut self) -> Result<&mut ReplicatedStore, Box<dyn Error>> {
        Ok(self.store.as_mut().ok_or("no store is open")?)
    }

    fn open(&mut self) -> Answer {
        let store = open(&self.disk)?;
        let found = store.recovery().clone();
        self.store = Some(store);
        let state = self.state()?;
        Ok(format!(
            "created {}, {} entries, {} torn bytes\n{state}",
            found.created, found.entries, found.torn_bytes
        ))
    }

    /// append [epoch=N] [commit=N] [expires=MS] [type=TEXT] key=value ... key=bytes_LENGTH ... "-key" ... "!marker": an
    /// expiry and a content type are those of the puts behind them.
    fn append(&mut self, command: &Command) -> Answer {
        let store = self.store()?;
        let (mut epoch, mut commit, mut entries) = (store.last().epoch, 0, Vec::new());
        let (mut expires_at_ms, mut content_type) = (None, None);
        for argument in &command.args {
            match argument {
                Argument::KeyValue(name, value) if name == "epoch" => epoch = value.parse()?,
                Argument::KeyValue(name, value) if name == "commit" => commit = value.parse()?,
                Argument::KeyValue(name, value) if name == "expires" => expires_at_ms = Some(value.parse()?),
                Argument::KeyValue(name, value) if name == "type" => content_type = Some(value.as_str()),
                Argument::KeyValue(key, value) if expires_at_ms.is_some() || content_type.is_some() => {
                    entries.push(Entry::put_with(key, value, expires_at_ms, content_type));
                }
                Argument::KeyValue(key, value) => match value.strip_prefix("bytes_") {
                    Some(length) => {
                        entries.push(Entry::Put(key.as_bytes().into(), vec![b'x'; length.parse()?]));
                    }
                    None => entries.push(Entry::put(key, value)),
                },
                Argument::Positional(name) => match (name.strip_prefix('-'), name.strip_prefix('!')) {
                    (Some(key), _) => entries.push(Entry::Delete(key.into())),
                    (_, Some(payload)) => entries.push(Entry::Marker(payload.into())),
                    _ => return Err(format!("neither key=value, -key nor !marker: {name}").into()),
                },
                _ => return Err("an argument of a new kind".into()),
            }
        }
        append(store, epoch, &entries, commit)?;
        self.state()
    }

    fn state(&mut self) -> Answer {
        let store = self.store()?;
        let last = store.last();
        let epochs: Vec<String> =
            store.epochs().iter().map(|start| format!("{} from {}", start.epoch, start.first)).collect();
        Ok(format!(
            "last {}@{} durable {} applied {} commit {} epochs [{}]",
            last.sequence,
            last.epoch,
            store.durable(),
            store.applied(),
            store.known_commit(),
            epochs.join(", ")
        ))
    }

    fn log(&mut self) -> Answer {
        let mut answer = String::new();
        for (sequence, (epoch, entry)) in (1..).zip(log(self.store()?)) {
            let text = match entry {
                Entry::Put(key, value) if value.len() > 40 => {
                    format!("{}=({} bytes)", key.escape_ascii(), value.len())
                }
                Entry::Put(key, value) => format!("{}={}", key.escape_ascii(), value.escape_ascii()),
                Entry::PutWith(key, value, expires_at_ms, content_type) => {
                    let (key, value) = (key.escape_ascii(), value.escape_ascii());
                    format!("{key}={value}{}", options(expires_at_ms, content_type.as_deref()))
                }
                Entry::Delete(key) => format!("-{}", key.escape_ascii()),
                Entry::Marker(payload) => format!("!{}", payload.escape_ascii()),
            };
            writeln!(answer, "{sequence}@{epoch} {text}")?;
        }
        Ok(answer)
    }

    fn scan(&mut self) -> Answer {
        let mut answer = String::new();
        for record in self.store()?.reader().iter() {
            let record = record?;
            let value = match record.value.len() {
                0..=40 => record.value.escape_ascii().to_string(),
                length => format!("({length} bytes)"),
            };
            let options = options(record.expires_at_ms, record.content_type.as_deref());
            writeln!(answer, "{}={value}{options} version {}", record.key.escape_ascii(), record.version)?;
        }
        Ok(answer)
    }

    fn get(&mut self, arguments: &mut ArgumentConsumer<'_>) -> Answer {
        let key = arguments.next_pos().ok_or("which key?")?;
        let value = self.store()?.reader().get(key.as_bytes())?;
        Ok(value.map_or("none".to_string(), |value| value.escape_ascii().to_string()))
    }

    fn metadata(&mut self, arguments: &mut ArgumentConsumer<'_>) -> Answer {
        let store = self.store()?;
        if let Some(value) = arguments.next_pos() {
            store.set_metadata(value.as_bytes())?;
        }
        Ok(store.metadata().escape_ascii().to_string())
    }

    fn files(&self) -> String {
        let names = self.disk.paths().into_iter().filter_map(|path| {
            let length = self.disk.bytes(&path)?.len();
            let name = path.strip_prefix("/data/store").ok()?.display().to_string();
            // The preallocation depends on sizes that no script is about.
            Some(if name.ends_with(".log") {
                format!("{name}\n")
            } else {
                format!("{name} {length} bytes\n")
            })
        });
        names.collect()
    }

    /// disk full | disk free | disk fail_next
    fn disk_settings(&mut self, arguments: &mut ArgumentConsumer<'_>) -> Answer {
        match arguments.next_pos() {
            Some("full") => self.disk.set_capacity_bytes(Some(self.disk.used_bytes())),
            Some("free") => self.disk.set_capacity_bytes(None),
            Some("fail_next") => {
                let (call, kind) = (self.disk.calls() + 1, std::io::ErrorKind::Other);
                self.disk.set_fault(Some(Fault { call, kind, lasting: false }));
            }
            other => return Err(format!("disk {other:?}?").into()),
        }
        Ok(String::new())
    }

    /// damage file=log/... text=...: flips a bit where the text lies.
    fn damage(&mut self, arguments: &mut ArgumentConsumer<'_>) -> Answer {
        let path = Path::new("/data/store").join(arguments.take_key("file").ok_or("which file?")?);
        let text = arguments.take_key("text").ok_or("which text?")?;
        let mut bytes = self.disk.bytes(&path).ok_or("no such file")?;
        let place =
            bytes.windows(text.len()).position(|window| window == text.as_bytes()).ok_or("not there")?;
        bytes[place] ^= 1;
        self.disk.set_bytes(&path, &bytes);
        Ok(String::new())
    }
}

/// What a put says beside its key and value.
fn options(expires_at_ms: Option<u64>, content_type: Option<&str>) -> String {
    let mut text = expires_at_ms.map_or(String::new(), |expires_at_ms| format!(" expires {expires_at_ms}"));
    if let Some(content_type) = content_type {
        text.push_str(" type ");
        text.push_str(content_type);
    }
    text
}

/// crash lost | crash kept | crash torn=SEED
fn unsynced(arguments: &mut ArgumentConsumer<'_>) -> Result<Unsynced, Box<dyn Error>> {
    match (arguments.take_key("torn"), arguments.next_pos()) {
        (Some(seed), None) => Ok(Unsynced::Torn { seed: seed.parse()? }),
        (None, Some("lost")) => Ok(Unsynced::Lost),
        (None, Some("kept")) => Ok(Unsynced::Kept),
        _ => Err("crash lost, kept or torn=SEED?".into()),
    }
}

fn number(arguments: &mut ArgumentConsumer<'_>) -> Result<u64, Box<dyn Error>> {
    Ok(arguments.next_pos().ok_or("a number is missing")?.parse()?)
}

fn run(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts").join(name);
    let mut runner = Runner { disk: FaultyDisk::new(), store: None };
    goldenscript::run(&mut runner, path).unwrap();
}

macro_rules! scripts {
    ($($name:ident)*) => {
        $(#[test] fn $name() { run(stringify!($name)); })*

        #[test]
        fn every_script_is_run() {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
            let found = std::fs::read_dir(folder).unwrap().count();
            assert_eq!(found, [$(stringify!($name)),*].len());
        }
    };
}

scripts! {
    append_sync_apply
    commit_survives_a_restart
    crash_loses_only_what_was_not_synced
    idle_marker_tells_rot_from_a_torn_tail
    damaged_rows_are_never_served
    deletes_stay_deleted
    disk_full_still_takes_deletes
    disk_full_still_truncates
    expiry_and_content_type_are_kept
    failed_fsync_poisons_for_good
    metadata_is_replaced_as_a_whole
    misplaced_entries_are_refused
    segments_roll_when_full
    truncate_a_divergent_tail
    truncate_never_below_the_commit
    truncate_over_several_segments
}
