//! A file system that loses its power on demand: ext4 on a loop device, and the kernel's own way to shut it down.
//!
//! After EXT4_IOC_SHUTDOWN nothing more reaches the device, not even the file system's own journal, and every call
//! fails. Mounted again, it holds what had been synced, and of the rest whatever had happened to be written. That is
//! what the kernel makes of a power cut; a disk that lies about its cache is not covered.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const IMAGE_BYTES: u64 = 1 << 30;

/// The file system. Dropped, it is unmounted, and its image is removed.
pub struct Disk {
    image: PathBuf,
    mount_point: PathBuf,
    mounted: bool,
}

impl Disk {
    /// Makes and mounts one. The error says why there can be none here.
    pub fn new() -> Result<Disk, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("mounting takes root".to_owned());
        }
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (image, mount_point) = (directory.join("power-cut.ext4"), directory.join("power-cut"));
        let mut disk = Disk { image, mount_point, mounted: false };
        // What a run left that was killed itself.
        let _ = run("umount", &[&disk.mount_point]);
        let failed = |error| format!("making {}: {error}", disk.image.display());
        fs::create_dir_all(&disk.mount_point).map_err(failed)?;
        File::create(&disk.image).and_then(|file| file.set_len(IMAGE_BYTES)).map_err(failed)?;
        run("mkfs.ext4", &[Path::new("-q"), &disk.image])?;
        disk.mount()?;
        // Where the kernel refuses, it does so here and not in the middle.
        disk.cut()?;
        disk.restore()?;
        Ok(disk)
    }

    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// From now on nothing reaches the disk.
    pub fn cut(&self) -> Result<(), String> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/cut-power");
        run(script, &[&self.mount_point])
    }

    /// The power is back. Nobody may have files open there.
    pub fn restore(&mut self) -> Result<(), String> {
        self.unmount()?;
        self.mount()
    }

    fn mount(&mut self) -> Result<(), String> {
        run("mount", &[Path::new("-o"), Path::new("loop"), &self.image, &self.mount_point])?;
        self.mounted = true;
        Ok(())
    }

    fn unmount(&mut self) -> Result<(), String> {
        run("umount", &[&self.mount_point])?;
        self.mounted = false;
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The loop device goes with its file system: `mount -o loop` made it so.
        if self.mounted && self.unmount().is_err() {
            let _ = run("umount", &[Path::new("--lazy"), &self.mount_point]);
        }
        let _ = fs::remove_file(&self.image);
        let _ = fs::remove_dir(&self.mount_point);
    }
}

fn run(program: &str, arguments: &[&Path]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {} {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
}
