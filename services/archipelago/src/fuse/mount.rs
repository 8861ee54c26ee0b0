//! Puts a disk in the place of a file, and takes it away.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use fuser::{BackgroundSession, Config, MountOption};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use super::file::DiskFile;
use super::limits::{LOOK, THREADS, UNMOUNT_TIME};
use crate::disk::device::Device;

/// A disk that is mounted over a file. Unmounted when dropped.
pub struct Mounted {
    path: PathBuf,
    session: Option<BackgroundSession>,
}

impl Mounted {
    /// Mounts a disk over an existing file. `source` is what `findmnt` shows.
    ///
    /// Errors: whatever the system says; without root, `fusermount3` is needed.
    pub fn mount(disk: Arc<dyn Device>, path: &Path, source: &str) -> io::Result<Mounted> {
        let mut config = Config::default();
        let access = if disk.read_only() { MountOption::RO } else { MountOption::RW };
        config.mount_options = vec![
            MountOption::FSName(source.replace(',', "_")),
            MountOption::Subtype("archipelago".into()),
            MountOption::NoDev,
            MountOption::NoSuid,
            MountOption::NoExec,
            access,
        ];
        config.n_threads = Some(THREADS);
        config.clone_fd = true;
        let session = fuser::spawn_mount(DiskFile::new(disk), path, &config)?;
        let mounted = Mounted { path: path.to_path_buf(), session: Some(session) };
        // The kernel takes the root of a file system for empty until somebody asks, and ends asynchronous direct reads at its end.
        fs::metadata(path)?;
        Ok(mounted)
    }

    /// Whether it is served no more, because somebody unmounted it.
    pub fn is_over(&self) -> bool {
        self.session.as_ref().is_none_or(|session| session.guard.is_finished())
    }

    /// Takes it away, with the requests under way.
    pub fn unmount(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        let Some(session) = self.session.take() else { return Ok(()) };
        if !session.guard.is_finished() {
            unmount(&self.path)?;
        }
        // Who has it open keeps it alive, out of sight.
        let deadline = Instant::now() + UNMOUNT_TIME;
        while !session.guard.is_finished() {
            if Instant::now() > deadline {
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, "somebody has the file open still"));
            }
            std::thread::sleep(LOOK);
        }
        session.join()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(path = %self.path.display(), %error, "unmounting failed");
        }
    }
}

/// Unmounts what is mounted over a file, though its server may be dead.
pub fn unmount(path: &Path) -> io::Result<()> {
    match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        // Not mounted.
        Ok(()) | Err(Errno::EINVAL) => Ok(()),
        Err(Errno::EPERM) => by_helper(path),
        Err(error) => Err(error.into()),
    }
}

/// Without root the helper of FUSE does it.
fn by_helper(path: &Path) -> io::Result<()> {
    match Command::new("fusermount3").args(["-u", "-z", "-q", "--"]).arg(path).status()? {
        status if status.success() => Ok(()),
        _ => Err(Errno::EPERM.into()),
    }
}

/// Whether anything is mounted over this very path.
pub fn is_mounted(path: &Path) -> io::Result<bool> {
    let table = fs::read("/proc/self/mountinfo")?;
    let wanted = escaped(path);
    // The fifth field of a line is where it is mounted.
    Ok(table.split(|byte| *byte == b'\n').any(|line| line.split(|byte| *byte == b' ').nth(4) == Some(&wanted)))
}

/// A path as the kernel's tables write it.
fn escaped(path: &Path) -> Vec<u8> {
    let mut text = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => text.extend(format!("\\{byte:03o}").bytes()),
            _ => text.push(*byte),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_written_as_in_the_kernels_tables() {
        assert_eq!(escaped(Path::new("/run/a b\\c")), b"/run/a\\040b\\134c");
        assert!(is_mounted(Path::new("/proc")).unwrap());
        assert!(!is_mounted(Path::new("/proc/self")).unwrap());
    }
}
