//! System calls that are tried on files without a name.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Bytes of a trial: some blocks of any file system.
const TRIAL: usize = 256 << 10;

/// A file without a name in a directory, with data in it.
pub fn nameless(directory: &Path) -> io::Result<File> {
    let mut file = File::options().read(true).write(true).custom_flags(libc::O_TMPFILE).mode(0o600).open(directory)?;
    file.write_all(&vec![1; TRIAL])?;
    Ok(file)
}

/// Makes a hole in it.
pub fn punch(file: &File) -> io::Result<()> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: the descriptor is open for the length of the call, and no pointer is passed.
    check(unsafe { libc::fallocate(file.as_raw_fd(), mode, 0, TRIAL as i64 / 2) })
}

/// Makes another file share its room.
pub fn reflink(file: &File, other: &File) -> io::Result<()> {
    // SAFETY: both descriptors are open for the length of the call, and no pointer is passed.
    check(unsafe { libc::ioctl(other.as_raw_fd(), libc::FICLONE, file.as_raw_fd()) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
