//! A volume as a file: what the kernel asks of it.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};

use crate::host::Host;

const MIB: u64 = 1 << 20;

fn open(path: &str) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

fn fallocate(file: &File, mode: i32, offset: u64, len: u64) -> std::io::Result<()> {
    // SAFETY: takes no pointer.
    match unsafe { libc::fallocate(file.as_raw_fd(), mode, offset as i64, len as i64) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn seek(file: &File, offset: u64, whence: i32) -> Option<u64> {
    // SAFETY: takes no pointer.
    u64::try_from(unsafe { libc::lseek(file.as_raw_fd(), offset as i64, whence) }).ok()
}

#[test]
fn a_file_is_the_disk_whatever_is_asked_of_it() {
    let host = Host::new();
    host.ok(&["create", "disk-1", "--size", "64M"]);
    let path = host.ok(&["map", "disk-1", "--file"]);
    assert_eq!(host.ok(&["map", "disk-1", "--file"]), path, "the same again");
    let meta = fs::metadata(&path).unwrap();
    assert!(meta.is_file() && meta.len() == 64 * MIB && meta.mode() & 0o777 == 0o600, "{meta:?}");
    let mut expect = vec![0u8; 64 << 20];
    let file = open(&path);
    // Any alignment, and pieces larger than one request.
    for (offset, len, byte) in
        [(5u64, 100usize, 1u8), (4096, 4096, 2), (10 * MIB + 3, 5 << 20, 3), (64 * MIB - 7, 7, 4)]
    {
        let data: Vec<u8> = (0..len).map(|at| byte.wrapping_mul(31).wrapping_add((at % 251) as u8)).collect();
        file.write_all_at(&data, offset).unwrap();
        expect[offset as usize..][..len].copy_from_slice(&data);
    }
    // Past the end: what fits, then no room. A disk does not grow by that.
    assert_eq!(file.write_at(&[9; 100], 64 * MIB - 3).unwrap(), 3);
    expect[(64 << 20) - 3..].fill(9);
    assert_eq!(file.write_at(&[9; 100], 64 * MIB).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(file.read_at(&mut [0; 10], 64 * MIB).unwrap(), 0);
    assert_eq!(file.set_len(65 * MIB).unwrap_err().raw_os_error(), Some(libc::EPERM));
    file.set_len(64 * MIB).unwrap();

    assert_eq!(
        (seek(&file, 20 * MIB, libc::SEEK_DATA), seek(&file, 0, libc::SEEK_HOLE)),
        (Some(64 * MIB - 4096), Some(8192))
    );
    assert_eq!((seek(&file, 8192, libc::SEEK_DATA), seek(&file, 64 * MIB, libc::SEEK_DATA)), (Some(10 * MIB), None));
    fallocate(&file, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 11 * MIB, MIB).unwrap();
    fallocate(&file, libc::FALLOC_FL_ZERO_RANGE, 12 * MIB + 1, 1000).unwrap();
    expect[11 << 20..12 << 20].fill(0);
    expect[(12 << 20) + 1..][..1000].fill(0);
    assert_eq!(seek(&file, 11 * MIB, libc::SEEK_HOLE), Some(11 * MIB));
    assert_eq!(fallocate(&file, 0, 0, MIB).unwrap_err().raw_os_error(), Some(libc::EOPNOTSUPP));
    let past = fallocate(&file, libc::FALLOC_FL_ZERO_RANGE, 64 * MIB, 1);
    assert_eq!(past.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    file.sync_all().unwrap();

    let mut read = Vec::new();
    let mut again = File::open(&path).unwrap();
    again.seek(SeekFrom::Start(0)).unwrap();
    again.read_to_end(&mut read).unwrap();
    assert!(read == expect);
    assert!(host.fails(5, &["unmap", "disk-1"]).contains(&format!("PID: {}", std::process::id())), "it is open here");
    drop((file, again));
    host.ok(&["unmap", &path]);
    host.ok(&["export", "disk-1", &host.site.text("image")]);
    assert!(fs::read(host.site.path("image")).unwrap() == expect);
}

#[test]
fn who_never_asked_for_the_size_reads_data_all_the_same() {
    let host = Host::new();
    host.ok(&["create", "disk-1", "--size", "1M"]);
    let path = host.ok(&["map", "disk-1", "--file"]);
    let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).unwrap();
    let mut ring = io_uring::IoUring::new(1).unwrap();
    #[repr(align(4096))]
    struct Page([u8; 4096]);
    let mut page = Box::new(Page([9; 4096]));
    let fd = io_uring::types::Fd(file.as_raw_fd());
    let read = io_uring::opcode::Read::new(fd, page.0.as_mut_ptr(), 4096).offset(8192).build();
    // SAFETY: the page outlives the request, which is waited for.
    unsafe { ring.submission().push(&read).unwrap() };
    ring.submit_and_wait(1).unwrap();
    assert_eq!(ring.completion().next().unwrap().result(), 4096);
    assert!(page.0 == [0; 4096]);
    drop(file);
    host.ok(&["unmap", "disk-1"]);
}

#[test]
fn a_snapshot_is_attached_for_reading_and_only_so() {
    let host = Host::new();
    host.ok(&["create", "disk-1", "--size", "1M"]);
    let path = host.ok(&["map", "disk-1", "--file"]);
    open(&path).write_all(b"of that day").unwrap();
    host.ok(&["snapshot", "disk-1", "snap-1"]);
    open(&path).write_all(b"of this day").unwrap();
    let old = host.ok(&["map", "snap-1", "--file"]);
    assert!(
        fs::read(&old).unwrap().starts_with(b"of that day") && fs::read(&path).unwrap().starts_with(b"of this day")
    );
    let refused = OpenOptions::new().write(true).open(&old).unwrap_err().raw_os_error();
    assert!(matches!(refused, Some(libc::EROFS | libc::EACCES)), "{refused:?}");
    let modes: Vec<_> = host.mapped().iter().map(|a| (a["name"].to_string(), a["read_only"].as_bool())).collect();
    assert_eq!(modes, [("\"disk-1\"".to_string(), Some(false)), ("\"snap-1\"".to_string(), Some(true))]);
    host.ok(&["unmap", "snap-1"]);
    host.ok(&["unmap", "disk-1"]);
    assert!(host.mapped().is_empty());
}

#[test]
fn what_cannot_be_attached_is_refused_in_words_and_leaves_nothing() {
    let host = Host::new();
    host.ok(&["create", "disk-1", "--size", "1M"]);
    assert!(host.fails(3, &["map", "disk-2", "--file"]).contains("disk-2"));
    assert!(host.fails(3, &["unmap", "disk-1"]).contains("is not attached"));
    assert!(host.fails(3, &["unmap", "/dev/loop99999"]).contains("is not attached"));
    let refused = host.command_on("../etc", &["map", "disk-1", "--file"]).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--node"), "{refused:?}");
    // Two nodes may share a machine: the volume is the other's, who is named, and its own list knows nothing of it.
    let path = host.ok(&["map", "disk-1", "--file"]);
    let other = host.command_on("node-2", &["map", "disk-1", "--file"]).output().unwrap();
    assert_eq!(other.status.code(), Some(5), "{other:?}");
    assert!(String::from_utf8_lossy(&other.stderr).contains("disk-1"), "{other:?}");
    let listed = host.command_on("node-2", &["showmapped"]).output().unwrap();
    assert!(listed.stdout.is_empty(), "{listed:?}");
    assert_eq!(host.mapped().len(), 1);
    assert!(host.ok(&["showmapped"]).contains(&path));
    host.ok(&["unmap", "disk-1"]);
    // And now it can be had there.
    let other = host.command_on("node-2", &["map", "disk-1", "--file"]).output().unwrap();
    assert!(other.status.success(), "{other:?}");
}
