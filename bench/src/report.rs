//! The results of a run, for those who read them: medians and worst rounds, ours against each peer, losses marked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::engine::Name;
use crate::record::{Cost, Failure, Line, Measurement, Run, Unit};
use crate::statistics::median;
use crate::table::{Table, figure};
use crate::target::{Target, targets};

/// Between these two lines of a document the report is put.
const BEGIN: &str = "<!-- bench-engines: begin -->";
const END: &str = "<!-- bench-engines: end -->";

/// What was measured of one row, by engine: a measurement for each round.
#[derive(Debug, Default)]
struct Row {
    unit: Option<Unit>,
    engines: BTreeMap<Name, Vec<Measurement>>,
}

/// A whole run.
#[derive(Debug)]
pub struct Report {
    run: Run,
    /// In the order in which they were measured.
    names: Vec<String>,
    rows: BTreeMap<String, Row>,
    failures: Vec<Failure>,
}

impl Report {
    /// Reads a results file.
    pub fn read(path: &Path) -> Result<Report> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        Report::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> Result<Report> {
        let mut lines = text.lines().map(serde_json::from_str);
        let Some(Line::Run(run)) = lines.next().transpose()? else {
            anyhow::bail!("the first line is not that of a run")
        };
        let mut report = Report { run: *run, names: Vec::new(), rows: BTreeMap::new(), failures: Vec::new() };
        for line in lines {
            match line? {
                Line::Measurement(measurement) => report.add(measurement),
                Line::Failure(failure) => report.failures.push(failure),
                Line::Run(_) => anyhow::bail!("two runs in one file"),
            }
        }
        Ok(report)
    }

    fn add(&mut self, measurement: Measurement) {
        if !self.rows.contains_key(&measurement.row) {
            self.names.push(measurement.row.clone());
        }
        let row = self.rows.entry(measurement.row.clone()).or_default();
        row.unit = Some(measurement.unit);
        row.engines.entry(measurement.engine).or_default().push(measurement);
    }

    /// For a terminal.
    pub fn terminal(&self) -> String {
        let tables: Vec<String> = self.tables().iter().map(Table::terminal).collect();
        format!("{}\n{}\n{}", self.description(), tables.join("\n"), self.failure_lines())
    }

    /// For a document.
    pub fn markdown(&self) -> String {
        let tables: Vec<String> = self.tables().iter().map(Table::markdown).collect();
        format!("{}\n{}\n{}", self.description(), tables.join("\n"), self.failure_lines())
    }

    /// Replaces what stands between the markers of a document.
    pub fn put_into(&self, document: &Path) -> Result<()> {
        let text = fs::read_to_string(document).with_context(|| format!("reading {}", document.display()))?;
        let missing = || format!("{} lacks the lines {BEGIN} and {END}", document.display());
        let (before, rest) = text.split_once(BEGIN).with_context(missing)?;
        let (_, after) = rest.split_once(END).with_context(missing)?;
        let text = format!("{before}{BEGIN}\n{}\n{END}{after}", self.markdown().trim());
        fs::write(document, text).with_context(|| format!("writing {}", document.display()))
    }

    fn description(&self) -> String {
        let Run { machine, plan, .. } = &self.run;
        let engines: Vec<_> = self
            .run
            .engines
            .iter()
            .map(|(engine, version)| format!("{} ({version})", engine.label()))
            .collect();
        let budgets = plan.beyond_factors.iter().map(|factor| plan.budget_bytes(*factor) >> 20);
        let budgets: Vec<_> = budgets.map(|mib| mib.to_string()).collect();
        let budget = match self.run.budget_enforced {
            true => "held to it by a control group",
            false => "NOT enforced: the page cache had all of the machine",
        };
        [
            format!("- Command: `{}`, commit {}, {}", self.run.command, self.run.commit, date(self.run.began_unix_s)),
            format!("- Processor: {}, {} cores; memory: {} MiB; kernel {}", machine.processor, machine.cores, machine.memory_bytes >> 20, machine.kernel),
            format!("- Disk: {}; fdatasync of 4 KiB, median: {:.0} us into zero-filled space, {:.0} us at the end of a growing file", machine.filesystem, machine.sync_filled_p50_us, machine.sync_growing_p50_us),
            format!("- Load average when it began: {}", machine.load_average),
            format!("- Engines: {}", engines.join(", ")),
            format!("- {} rounds, {} s for each mix; 24-byte keys; {} rows of 100 B, {} of 1 KiB; caches and write buffers {} MiB", plan.rounds, plan.seconds, plan.small_rows, plan.large_rows, plan.cache_mib),
            format!("- Beyond memory: {} MiB of data, {} MiB of memory for the whole process, {budget}; loaded before without a budget", plan.beyond_mib, budgets.join(" and ")),
            self.score(),
        ]
        .map(|line| line + "\n")
        .concat()
    }

    fn tables(&self) -> Vec<Table> {
        vec![
            self.results(),
            self.by_engine("Worst round", |row, name| Some(figure(row.worst(name)?))),
            self.by_engine(
                "Latency of sampled operations in us: median / 99th / 99.9th percentile",
                |row, name| {
                    let cost = |pick: fn(&Cost) -> Option<f64>| Some(figure(row.cost(name, pick)?));
                    let [p50, p99] = [cost(|cost| cost.p50_us)?, cost(|cost| cost.p99_us)?];
                    Some(format!("{p50} / {p99} / {}", cost(|cost| cost.p999_us)?))
                },
            ),
            self.by_engine("Processor time per operation in us, background work included", |row, name| {
                Some(figure(row.cost(name, |cost| cost.processor_us_per_operation)?))
            }),
            self.by_engine(
                "Largest resident size of the process so far in MiB, mapped files included",
                |row, name| {
                    Some(figure(row.cost(name, |cost| Some(cost.resident_bytes_max? as f64 / 1_048_576.0))?))
                },
            ),
            self.by_engine("Bytes given to the disk per operation", |row, name| {
                let per_operation =
                    |cost: &Cost| Some(cost.written_bytes? as f64 / cost.operations.max(1) as f64);
                Some(figure(row.cost(name, per_operation)?))
            }),
        ]
    }

    /// Medians; beside a peer's, how many times better ours is.
    fn results(&self) -> Table {
        let mut head = vec![String::new()];
        head.extend(self.engines().map(|engine| engine.label().to_owned()));
        head.push("against the best peer".to_owned());
        head.push("target".to_owned());
        let rows = self.names.iter().filter_map(|name| {
            let row = self.rows.get(name)?;
            let mut cells = vec![format!("{name} ({})", row.unit_name())];
            cells.extend(self.engines().map(|engine| self.result(row, engine)));
            cells.push(row.verdict());
            cells.push(row.judged(name).iter().map(Judged::cell).collect::<Vec<_>>().join("; "));
            Some(cells)
        });
        Table { title: "Medians, and how many times better ours is".to_owned(), head, rows: rows.collect() }
    }

    fn result(&self, row: &Row, engine: Name) -> String {
        let Some(value) = row.median(engine) else {
            // A run that was stopped has rows that nobody failed.
            let failed = self.failures.iter().any(|failure| failure.engine == engine);
            let is_ours = row.engines.keys().all(|engine| *engine == Name::Paddock);
            return if is_ours {
                "-"
            } else if failed {
                "failed"
            } else {
                "not run"
            }
            .to_owned();
        };
        let incomplete = if row.engines[&engine].len() < self.run.plan.rounds as usize { "*" } else { "" };
        match row.ratio(engine) {
            Some(ratio) if engine != Name::Paddock => format!("{}{incomplete} ({ratio:.2}x)", figure(value)),
            _ => figure(value) + incomplete,
        }
    }

    /// How many targets were hit.
    fn score(&self) -> String {
        let rows = self.names.iter().filter_map(|name| Some((name, self.rows.get(name)?)));
        let judged: Vec<_> = rows.flat_map(|(name, row)| row.judged(name)).collect();
        let hit = judged.iter().filter(|judged| judged.hit == Some(true)).count();
        let missed = judged.iter().filter(|judged| judged.hit == Some(false)).count();
        format!("- Targets: {hit} hit, {missed} missed, {} not measured", judged.len() - hit - missed)
    }

    fn by_engine(&self, title: &str, cell: impl Fn(&Row, Name) -> Option<String>) -> Table {
        let mut head = vec![String::new()];
        head.extend(self.engines().map(|engine| engine.label().to_owned()));
        let rows = self.names.iter().filter_map(|name| {
            let row = self.rows.get(name)?;
            let cells: Vec<_> = self.engines().map(|engine| cell(row, engine)).collect();
            // A row of which nobody knows anything is left out.
            cells.iter().any(Option::is_some).then(|| {
                let cells = cells.into_iter().map(|cell| cell.unwrap_or_else(|| "-".to_owned()));
                std::iter::once(name.clone()).chain(cells).collect()
            })
        });
        Table { title: title.to_owned(), head, rows: rows.collect() }
    }

    fn engines(&self) -> impl Iterator<Item = Name> {
        self.run.engines.iter().map(|(engine, _)| *engine)
    }

    fn failure_lines(&self) -> String {
        let mut counts: BTreeMap<(&str, Name, &str), BTreeSet<u32>> = BTreeMap::new();
        for Failure { scenario, engine, round, reason } in &self.failures {
            counts.entry((scenario, *engine, reason)).or_default().insert(*round);
        }
        let line = |((scenario, engine, reason), rounds): (&(&str, Name, &str), &BTreeSet<u32>)| {
            format!(
                "- {} failed in {} of {} rounds of {scenario} (and was not tried again): {reason}\n",
                engine.label(),
                rounds.len(),
                self.run.plan.rounds
            )
        };
        counts.iter().map(line).collect()
    }
}

/// A target, and what came of it.
struct Judged {
    target: Target,
    /// `None`: it was not measured.
    hit: Option<bool>,
}

impl Judged {
    fn cell(&self) -> String {
        let word = match self.hit {
            Some(true) => "hit",
            Some(false) => "MISS",
            None => "unknown",
        };
        format!("{word} {}", self.target)
    }
}

impl Row {
    /// Each target of the row.
    fn judged(&self, name: &str) -> Vec<Judged> {
        let hit = |target: &Target| match *target {
            Target::Peer(times, peer) => Some(self.ratio(peer)? >= times),
            Target::Best(times) => Some(self.best_peer()?.1 >= times),
            Target::AtMost(most) => Some(self.median(Name::Paddock)? <= most),
        };
        targets(name).iter().map(|target| Judged { target: *target, hit: hit(target) }).collect()
    }

    /// The peer that comes closest to ours, and how many times better ours is.
    fn best_peer(&self) -> Option<(Name, f64)> {
        let peers = self.engines.keys().filter(|engine| **engine != Name::Paddock);
        let ratios = peers.filter_map(|engine| Some((*engine, self.ratio(*engine)?)));
        ratios.min_by(|left, right| left.1.total_cmp(&right.1))
    }

    fn unit_name(&self) -> &'static str {
        match self.unit {
            Some(Unit::PerSecond) => "per s",
            Some(Unit::Seconds) => "s",
            Some(Unit::Times) => "times",
            Some(Unit::Milliseconds) => "ms",
            Some(Unit::Bytes) => "bytes",
            None => "",
        }
    }

    fn values(&self, engine: Name) -> Vec<f64> {
        self.engines.get(&engine).into_iter().flatten().map(|measurement| measurement.value).collect()
    }

    fn median(&self, engine: Name) -> Option<f64> {
        median(&self.values(engine))
    }

    fn more_is_better(&self) -> bool {
        self.unit == Some(Unit::PerSecond)
    }

    fn worst(&self, engine: Name) -> Option<f64> {
        let values = self.values(engine).into_iter();
        if self.more_is_better() { values.reduce(f64::min) } else { values.reduce(f64::max) }
    }

    fn cost(&self, engine: Name, pick: impl Fn(&Cost) -> Option<f64>) -> Option<f64> {
        let costs = self.engines.get(&engine)?.iter().filter_map(|measurement| pick(&measurement.cost));
        median(&costs.collect::<Vec<_>>())
    }

    /// How many times better ours is than a peer.
    fn ratio(&self, peer: Name) -> Option<f64> {
        let (ours, peers) = (self.median(Name::Paddock)?, self.median(peer)?);
        Some(if self.more_is_better() { ours / peers } else { peers / ours })
    }

    fn verdict(&self) -> String {
        let Some((engine, ratio)) = self.best_peer() else {
            return "-".to_owned();
        };
        let loss = if ratio < 1.0 { "LOSS " } else { "" };
        format!("{loss}{ratio:.2}x {}", engine.label())
    }
}

/// A date of the calendar, in UTC, from seconds since 1970 (the civil calendar from days, by Howard Hinnant).
fn date(unix_s: u64) -> String {
    let days = unix_s / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;
    use crate::plan::Plan;

    fn report() -> Report {
        let machine = Machine {
            processor: "abacus".into(),
            cores: 2,
            memory_bytes: 1 << 30,
            kernel: "6".into(),
            filesystem: "ext4 on /dev/vda".into(),
            sync_filled_p50_us: 80.0,
            sync_growing_p50_us: 200.0,
            load_average: "0.1".into(),
        };
        let engines = [Name::Paddock, Name::Lmdb, Name::Sled].map(|engine| (engine, "1".to_owned()));
        let run = Run {
            began_unix_s: 951_782_400,
            command: "make".into(),
            commit: "c".into(),
            machine,
            engines: engines.to_vec(),
            plan: Plan { rounds: 3, ..Plan::default() },
            budget_enforced: true,
        };
        let mut lines = vec![Line::Run(Box::new(run))];
        let mut add = |row: &str, engine, unit, values: [f64; 3]| {
            for (round, value) in (0..).zip(values) {
                let cost = Cost::default();
                lines.push(Line::Measurement(Measurement {
                    row: row.into(),
                    engine,
                    round,
                    value,
                    unit,
                    cost,
                }));
            }
        };
        add("reads", Name::Paddock, Unit::PerSecond, [50.0, 40.0, 10.0]);
        add("reads", Name::Lmdb, Unit::PerSecond, [80.0, 70.0, 90.0]);
        add("100 B, 2 threads: load", Name::Paddock, Unit::PerSecond, [30.0, 31.0, 29.0]);
        add("100 B, 2 threads: load", Name::Lmdb, Unit::PerSecond, [10.0, 10.0, 10.0]);
        add("100 B: memory of the index per row", Name::Paddock, Unit::Bytes, [29.0, 30.0, 28.5]);
        add("start", Name::Paddock, Unit::Seconds, [1.0, 2.0, 3.0]);
        add("start", Name::Lmdb, Unit::Seconds, [4.0, 4.0, 4.0]);
        let reason = "killed".to_owned();
        lines.push(Line::Failure(Failure { scenario: "small".into(), engine: Name::Sled, round: 0, reason }));
        let text: String = lines.iter().map(|line| serde_json::to_string(line).unwrap() + "\n").collect();
        Report::parse(&text).unwrap()
    }

    #[test]
    fn losses_and_failures_are_shown() {
        let text = report().markdown();
        assert!(
            text.contains("| reads (per s) | 40.0 | 80.0 (0.50x) | failed | LOSS 0.50x lmdb |  |"),
            "{text}"
        );
        assert!(text.contains("| start (s) | 2.00 | 4.00 (2.00x) | failed | 2.00x lmdb |  |"), "{text}");
        assert!(text.contains("3.00x lmdb | unknown 3x rocksdb; hit 2.7x the best |"), "{text}");
        assert!(text.contains("per row (bytes) | 29.0 | - | - | - | MISS at most 28 |"), "{text}");
        assert!(text.contains("- Targets: 1 hit, 1 missed, 1 not measured"), "{text}");
        assert!(text.contains("| reads | 10.0 | 70.0 | - |"), "{text}");
        assert!(
            text.contains("- sled failed in 1 of 3 rounds of small (and was not tried again): killed"),
            "{text}"
        );
        assert!(text.contains("2000-02-29"), "{text}");
    }

    #[test]
    fn a_document_keeps_what_stands_around_the_markers() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), format!("before\n{BEGIN}\nold\n{END}\nafter\n")).unwrap();
        report().put_into(file.path()).unwrap();
        report().put_into(file.path()).unwrap();
        let text = fs::read_to_string(file.path()).unwrap();
        assert!(text.starts_with("before\n") && text.ends_with("\nafter\n"), "{text}");
        assert!(text.contains("reads") && !text.contains("old\n"), "{text}");
    }
}
