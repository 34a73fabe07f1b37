//! A memory budget that the kernel holds a process to, page cache included: without it a machine with much memory
//! would keep in its page cache what is meant to be larger than memory.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// A control group below our own one; gone when this is dropped.
#[derive(Debug)]
pub struct Budget {
    directory: PathBuf,
}

impl Budget {
    /// Makes one, for which one mostly must be root.
    pub fn new(bytes: u64) -> Result<Budget> {
        let (parent, limit) = own_group()?;
        let directory = parent.join(format!("paddock-bench-{}", std::process::id()));
        fs::create_dir(&directory).with_context(|| format!("making {}", directory.display()))?;
        let budget = Budget { directory };
        let limit = budget.directory.join(limit);
        fs::write(&limit, bytes.to_string()).with_context(|| format!("writing {}", limit.display()))?;
        Ok(budget)
    }

    /// Where a process writes its number to be held to the budget.
    pub fn members(&self) -> PathBuf {
        self.directory.join("cgroup.procs")
    }

    /// Puts the calling process under the budget whose [`Budget::members`] this is.
    pub fn join(members: &Path) -> Result<()> {
        fs::write(members, std::process::id().to_string())
            .with_context(|| format!("writing {}", members.display()))
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.directory) {
            eprintln!("bench-engines: {} stays behind: {error}", self.directory.display());
        }
    }
}

/// The directory of our control group, and the name of the file that limits memory there.
fn own_group() -> Result<(PathBuf, &'static str)> {
    let text = fs::read_to_string("/proc/self/cgroup").context("reading /proc/self/cgroup")?;
    let path_of = |wanted: fn(&str, &str) -> bool| {
        text.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (number, controllers) = (fields.next()?, fields.next()?);
            wanted(number, controllers).then(|| fields.next())?.map(|path| path.trim_start_matches('/'))
        })
    };
    let first = path_of(|_, controllers| controllers.split(',').any(|name| name == "memory"));
    if let Some(path) = first {
        return Ok((Path::new("/sys/fs/cgroup/memory").join(path), "memory.limit_in_bytes"));
    }
    let second = path_of(|number, _| number == "0").context("no control group limits memory")?;
    Ok((Path::new("/sys/fs/cgroup").join(second), "memory.max"))
}
