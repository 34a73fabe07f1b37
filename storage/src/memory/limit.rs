//! How much memory this process may use: what the machine has, or what its control group allows, whichever is less.
//!
//! Linux says it in files below `/proc` and `/sys`. Control groups come in two versions, a machine may use both, and
//! where they are mounted is for `/proc/self/mountinfo` to say. A limit may stand at the process's own group or at any
//! group above it.

use std::path::{Path, PathBuf};

/// The bytes of memory that this process may use, by the files below `root` (`/`, but in tests). `None`: nobody says.
pub(super) fn memory_bytes(root: &Path) -> Option<u64> {
    machine_bytes(root).into_iter().chain(group_limits(root)).min()
}

/// What `/proc/meminfo` has as the machine's memory.
fn machine_bytes(root: &Path) -> Option<u64> {
    let text = read(&root.join("proc/meminfo"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The limits of the process's control groups and of all above them.
fn group_limits(root: &Path) -> Vec<u64> {
    let (Some(mounts), Some(groups)) =
        (read(&root.join("proc/self/mountinfo")), read(&root.join("proc/self/cgroup")))
    else {
        return Vec::new();
    };
    mounts
        .lines()
        .filter_map(Mount::parse)
        .flat_map(|mount| {
            let group = groups.lines().find_map(|line| mount.group(line)).unwrap_or_default();
            mount.limits(root, &group)
        })
        .collect()
}

/// A mounted hierarchy of control groups.
struct Mount<'a> {
    /// Which group is seen at the mount's point.
    group_root: &'a str,
    point: &'a str,
    version: Version,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl<'a> Mount<'a> {
    /// `36 35 0:31 ROOT POINT OPTIONS ... - TYPE SOURCE SUPER_OPTIONS`, if memory is what it governs.
    fn parse(line: &'a str) -> Option<Mount<'a>> {
        let (own, file_system) = line.split_once(" - ")?;
        let mut own = own.split(' ').skip(3);
        let (group_root, point) = (own.next()?, own.next()?);
        let mut file_system = file_system.split(' ');
        let version = match file_system.next()? {
            "cgroup2" => Version::Two,
            "cgroup" if file_system.nth(1)?.split(',').any(|option| option == "memory") => Version::One,
            _ => return None,
        };
        Some(Mount { group_root, point, version })
    }

    /// The process's group below the mount's point, if a line `ID:CONTROLLERS:PATH` is about this hierarchy.
    fn group(&self, line: &str) -> Option<String> {
        let mut fields = line.splitn(3, ':');
        let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let ours = match self.version {
            Version::One => controllers.split(',').any(|controller| controller == "memory"),
            Version::Two => id == "0" && controllers.is_empty(),
        };
        // In a container the path may be one of the machine's: then the container sees its own group at the point.
        let below = path.strip_prefix(self.group_root.trim_end_matches('/')).unwrap_or_default();
        ours.then(|| below.trim_start_matches('/').to_owned())
    }

    fn limits(&self, root: &Path, group: &str) -> Vec<u64> {
        let point = root.join(self.point.trim_start_matches('/'));
        let name = match self.version {
            Version::One => "memory.limit_in_bytes",
            Version::Two => "memory.max",
        };
        let own: PathBuf = point.join(group);
        // "max" is no number, and no limit.
        let limit = |group: &Path| read(&group.join(name))?.trim().parse().ok();
        own.ancestors().take_while(|group| group.starts_with(&point)).filter_map(limit).collect()
    }
}

fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file system of these files, and what it is said to allow.
    fn allowed(files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        memory_bytes(root.path())
    }

    const MACHINE: (&str, &str) = ("proc/meminfo", "MemTotal:       24567808 kB\nMemFree:  1 kB\n");
    const TWO: (&str, &str) = (
        "proc/self/mountinfo",
        "24 1 8:1 / / rw - ext4 /dev/root rw\n29 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n",
    );
    const ONE: (&str, &str) = (
        "proc/self/mountinfo",
        "30 24 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
         31 24 0:28 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n",
    );

    #[test]
    fn the_machine_is_the_limit_without_a_group() {
        assert_eq!(allowed(&[]), None);
        assert_eq!(allowed(&[("proc/meminfo", "nonsense")]), None);
        assert_eq!(allowed(&[MACHINE]), Some(24_567_808 * 1024));
        assert_eq!(allowed(&[MACHINE, TWO, ("proc/self/cgroup", "0::/a/b\n")]), Some(24_567_808 * 1024));
        let unlimited = ("sys/fs/cgroup/a/memory.max", "max\n");
        assert_eq!(
            allowed(&[MACHINE, TWO, ("proc/self/cgroup", "0::/a\n"), unlimited]),
            Some(24_567_808 * 1024)
        );
    }

    #[test]
    fn the_smallest_limit_above_the_process_counts() {
        let group = ("proc/self/cgroup", "1:cpu:/x\n0::/pods/store\n");
        let (own, above) = ("sys/fs/cgroup/pods/store/memory.max", "sys/fs/cgroup/pods/memory.max");
        assert_eq!(allowed(&[MACHINE, TWO, group, (own, "1000\n")]), Some(1000));
        assert_eq!(allowed(&[MACHINE, TWO, group, (own, "1000\n"), (above, "900\n")]), Some(900));
        assert_eq!(allowed(&[MACHINE, TWO, group, (own, "max\n"), (above, "900\n")]), Some(900));
        // Another group's is not ours.
        assert_eq!(
            allowed(&[MACHINE, TWO, group, ("sys/fs/cgroup/other/memory.max", "5\n"), (own, "70\n")]),
            Some(70)
        );
        assert_eq!(allowed(&[TWO, group, (own, "1000\n")]), Some(1000));
    }

    #[test]
    fn the_first_version_is_understood() {
        let group = ("proc/self/cgroup", "4:cpu,memory:/api/7\n0::/\n");
        let limit = ("sys/fs/cgroup/memory/api/7/memory.limit_in_bytes", "2000\n");
        assert_eq!(allowed(&[MACHINE, ONE, group, limit]), Some(2000));
        // What the kernel says for "none".
        let none = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(allowed(&[MACHINE, ONE, group, none]), Some(24_567_808 * 1024));
    }

    /// A container sees its own group as the mount's root, but perhaps the machine's path of it.
    #[test]
    fn a_container_sees_its_own_limit() {
        let mount = (
            "proc/self/mountinfo",
            "31 24 0:28 /docker/17 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
        );
        let limit = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "3000\n");
        for path in ["/docker/17", "/elsewhere", "/"] {
            let group = format!("4:memory:{path}\n");
            assert_eq!(allowed(&[MACHINE, mount, ("proc/self/cgroup", &group), limit]), Some(3000), "{path}");
        }
        let below = ("sys/fs/cgroup/memory/inner/memory.limit_in_bytes", "2500\n");
        let group = ("proc/self/cgroup", "4:memory:/docker/17/inner\n");
        assert_eq!(allowed(&[MACHINE, mount, group, limit, below]), Some(2500));
    }

    #[test]
    fn this_machine_has_memory() {
        let bytes = memory_bytes(Path::new("/")).unwrap();
        assert!(bytes > 32 << 20, "{bytes}");
    }
}
