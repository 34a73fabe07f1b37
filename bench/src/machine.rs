//! The machine that was measured on.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::measure::proc_number;
use crate::statistics::percentile;

const PROBE_BYTES: usize = 4 << 10;
const PROBES: u64 = 300;
const PAGE_BYTES: usize = 4 << 10;
/// More than the processes of a default run use together.
const TOUCHED_BYTES_MAX: u64 = 2 << 30;

/// What a reader must know to judge figures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// How many threads it runs at once.
    pub cores: usize,
    /// Its memory.
    pub memory_bytes: u64,
    /// The kernel's release.
    pub kernel: String,
    /// What the data lie on: type and device.
    pub filesystem: String,
    /// fdatasync of 4 KiB into space that was filled with zeros: half take no longer.
    pub sync_filled_p50_us: f64,
    /// The same at the end of a file that grows.
    pub sync_growing_p50_us: f64,
    /// How many processes wanted to run when it began, in the last minute's mean.
    pub load_average: String,
}

impl Machine {
    /// Describes this one; data will lie in `directory`, where a file is written to measure fsync.
    pub fn describe(directory: &Path) -> Result<Machine> {
        let processors = fs::read_to_string("/proc/cpuinfo").context("reading /proc/cpuinfo")?;
        let name = processors.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
        Ok(Machine {
            processor: name.trim_start_matches([' ', '\t', ':']).to_owned(),
            cores: std::thread::available_parallelism()?.get(),
            memory_bytes: proc_number("/proc/meminfo", "MemTotal:")? << 10,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            filesystem: filesystem_of(directory)?,
            sync_filled_p50_us: probe_sync(directory, true)?,
            sync_growing_p50_us: probe_sync(directory, false)?,
            load_average: load_average(),
        })
    }
}

/// The last minute's mean number of processes that want to run.
pub fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("unknown").to_owned()
}

/// Touches free memory once: on a virtual machine a page's very first use can cost ten times a later one.
pub fn touch_memory() -> Result<()> {
    let available = proc_number("/proc/meminfo", "MemAvailable:")? << 10;
    let mut memory = vec![0_u8; usize::try_from((available / 2).min(TOUCHED_BYTES_MAX))?];
    for page in memory.chunks_mut(PAGE_BYTES) {
        page[0] = 1;
    }
    std::hint::black_box(&memory);
    Ok(())
}

/// Seconds since 1970.
#[allow(clippy::disallowed_methods, reason = "the one place that asks for the date, to say when a run was")]
pub fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What is checked out, with a "+" if there are changes on top.
pub fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output =
            Command::new("git").args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_owned() };
    // The report itself may lie there changed: it is not measured.
    let changes = git(&["status", "--porcelain", "--", ".", ":(top)", ":(exclude,top)docs"]);
    if changes.is_none_or(|changes| changes.is_empty()) { commit } else { format!("{commit}+") }
}

fn filesystem_of(directory: &Path) -> Result<String> {
    let directory = directory.canonicalize()?;
    let mounts = fs::read_to_string("/proc/self/mounts").context("reading /proc/self/mounts")?;
    let found = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            Some((fields.next()?, fields.next()?, fields.next()?))
        })
        .filter(|(_, path, _)| directory.starts_with(path))
        .max_by_key(|(_, path, _)| path.len());
    let (device, _, kind) = found.context("no file system")?;
    Ok(format!("{kind} on {device}"))
}

fn probe_sync(directory: &Path, filled: bool) -> Result<f64> {
    let path = directory.join("sync-probe");
    let file = File::create(&path)?;
    let block = [1; PROBE_BYTES];
    if filled {
        file.write_all_at(&vec![0; PROBE_BYTES * PROBES as usize], 0)?;
        file.sync_all()?;
    }
    let mut samples = Vec::new();
    for probe in 0..PROBES {
        let began = Instant::now();
        file.write_all_at(&block, probe * PROBE_BYTES as u64)?;
        file.sync_data()?;
        samples.push(u32::try_from(began.elapsed().as_nanos()).unwrap_or(u32::MAX));
    }
    fs::remove_file(&path)?;
    Ok(percentile(&mut samples, 0.5).map_or(0.0, |ns| f64::from(ns) / 1e3))
}
