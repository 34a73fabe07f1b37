//! What the process used: processor time, memory, bytes given to the disk.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::time::{ClockId, clock_gettime};

const BLOCK_BYTES: u64 = 512;

/// Processor time of all threads of this process so far, in user and kernel mode.
pub fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    // The clock of a process is never negative.
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

/// The largest resident size of this process so far, in bytes. Mapped files count as far as they are in memory.
pub fn resident_bytes_max() -> Result<u64> {
    Ok(proc_number("/proc/self/status", "VmHWM:")? << 10)
}

/// Bytes that this process caused to be written to the disk so far, as the kernel counts them: pages made dirty, and
/// not again while they wait to be written.
pub fn written_bytes() -> Result<u64> {
    proc_number("/proc/self/io", "write_bytes:")
}

/// What the files of a directory take on the disk, so that sparse files count only for what they have.
pub fn disk_bytes(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))? {
        let entry = entry?;
        // Engines remove files while we look.
        let Ok(metadata) = entry.metadata() else { continue };
        bytes += if metadata.is_dir() {
            disk_bytes(&entry.path()).unwrap_or(0)
        } else {
            metadata.blocks() * BLOCK_BYTES
        };
    }
    Ok(bytes)
}

/// The number behind a name in one of the kernel's tables.
pub fn proc_number(path: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number
        .with_context(|| format!("{path} has no {name}"))?
        .parse()
        .with_context(|| format!("{path}: {name}"))
}
