//! `attach`, `detach`, `grow`, `open`, `close` with the kernel of this machine: FUSE, loop devices, and a server for each volume.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::os::unix::net::UnixStream;

use crate::moving::{read, write};
use crate::site::{CNAME, MIB, NAME, Site, is_root};

fn size(device: &str) -> u64 {
    File::open(device).unwrap().seek(SeekFrom::End(0)).unwrap()
}

fn device(site: &Site) -> String {
    let out = site.ok("attach", &[]);
    let device = out.strip_suffix('\n').unwrap().to_string();
    assert!(!device.contains('\n') && fs::metadata(&device).unwrap().file_type().is_block_device(), "{out:?}");
    device
}

#[test]
fn a_disk_is_attached_once_and_detached_once_however_often_that_is_asked_for() {
    if !is_root() {
        return;
    }
    let site = Site::new();
    site.ok("create", &[("VOL_SIZE", "16")]);
    let first = device(&site);
    let pid = site.attached()[0].record.pid;
    assert_eq!((device(&site), site.attached()[0].record.pid), (first.clone(), pid));
    // As userspace the device is the same, for OS scripts; what QEMU is told has no comma in it.
    let out = site.ok("attach", &[("EXTP_ACCESS", "userspace")]);
    let socket = site.attached()[0].record.socket.clone().unwrap();
    assert_eq!(out, format!("{first}\nkvm:nbd+unix:///{CNAME}?socket={}\n", socket.display()));
    assert!(!out.contains(','));
    let mut greeting = [0; 8];
    UnixStream::connect(&socket).unwrap().read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"NBDMAGIC");
    site.ok("detach", &[]);
    assert!(site.attached().is_empty() && !socket.exists());
    site.ok("detach", &[]);
    assert!(site.fails("attach", &[("EXTP_ACCESS", "both")]).contains("kernelspace or userspace"));
}

#[test]
fn what_was_written_before_a_detach_is_there_after_the_next_attach() {
    if !is_root() {
        return;
    }
    let site = Site::new();
    site.ok("create", &[("VOL_SIZE", "16")]);
    let file = OpenOptions::new().write(true).open(device(&site)).unwrap();
    file.write_all_at(&[3; 8192], 5 * MIB).unwrap();
    // In use: it is not taken away.
    assert!(site.fails("detach", &[]).contains("in use"));
    drop(file);
    site.ok("detach", &[]);
    let mut read = [0; 8192];
    File::open(device(&site)).unwrap().read_exact_at(&mut read, 5 * MIB).unwrap();
    assert_eq!(read, [3; 8192]);
}

#[test]
fn s46_a_disk_that_a_virtual_machine_has_is_not_detached_nor_removed() {
    if !is_root() {
        return;
    }
    let site = Site::new();
    site.ok("create", &[("VOL_SIZE", "16")]);
    device(&site);
    let client = UnixStream::connect(site.attached()[0].record.socket.as_ref().unwrap()).unwrap();
    assert!(site.fails("detach", &[]).contains("a virtual machine"));
    let text = site.fails("remove", &[]);
    assert!(text.contains("open elsewhere") && text.contains("archipelago showmapped"), "{text}");
    drop(client);
    site.ok("detach", &[]);
    site.ok("remove", &[]);
    // A new disk of the same name is another one; what was there is gone.
    site.ok("create", &[("VOL_SIZE", "1")]);
    assert_eq!(size(&device(&site)), MIB);
}

#[test]
fn a_server_that_was_killed_is_replaced_by_the_next_attach() {
    if !is_root() {
        return;
    }
    let site = Site::new();
    site.ok("create", &[("VOL_SIZE", "16")]);
    let file = OpenOptions::new().write(true).open(device(&site)).unwrap();
    file.write_all_at(&[4; 4096], 0).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let killed = site.attached()[0].record.clone();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(killed.pid as i32), nix::sys::signal::Signal::SIGKILL).unwrap();
    while site.attached()[0].served {
        std::thread::yield_now();
    }
    assert!(site.fails("open", &[("VOL_OPEN_EXCLUSIVE", "True")]).contains("its server has died"));
    let mut read = [0; 4096];
    File::open(device(&site)).unwrap().read_exact_at(&mut read, 0).unwrap();
    assert_eq!(read, [4; 4096]);
    // At the same socket, where QEMU looks for it.
    let healed = &site.attached()[0].record;
    assert!(healed.pid != killed.pid && healed.socket == killed.socket);
    assert!(UnixStream::connect(healed.socket.as_ref().unwrap()).is_ok());
}

#[test]
fn a_disk_grows_to_its_new_size_while_it_is_attached() {
    if !is_root() {
        return;
    }
    let site = Site::new();
    site.ok("create", &[("VOL_SIZE", "16")]);
    let path = device(&site);
    let grow = [("VOL_SIZE", "16"), ("VOL_NEW_SIZE", "48")];
    site.ok("grow", &grow);
    assert_eq!(size(&path), 48 * MIB, "when it returns");
    site.ok("grow", &grow);
    assert!(site.fails("grow", &[("VOL_NEW_SIZE", "47")]).contains("more than"));
    site.ok("detach", &[]);
    site.ok("grow", &[("VOL_NEW_SIZE", "64")]);
    assert_eq!((site.info(CNAME).size, size(&device(&site))), (64 * MIB, 64 * MIB));
    assert!(site.fails("grow", &[]).contains("VOL_NEW_SIZE is not set"));
}

#[test]
fn a_snapshot_of_a_disk_in_use_is_attached_read_only() {
    if !is_root() {
        return;
    }
    let site = Site::new();
    site.ok("create", &[("VOL_SIZE", "16")]);
    let path = device(&site);
    let snap = format!("{NAME}.snap");
    let named = [("VOL_CNAME", ""), ("VOL_UUID", ""), ("VOL_NAME", snap.as_str())];
    site.ok("snapshot", &[("VOL_SNAPSHOT_NAME", &snap)]);
    let shown = site.ok("attach", &named);
    assert_ne!(shown, format!("{path}\n"));
    let name = shown.trim_end().strip_prefix("/dev/").unwrap();
    assert_eq!(fs::read_to_string(format!("/sys/block/{name}/ro")).unwrap(), "1\n");
    site.ok("open", &[named.as_slice(), &[("VOL_OPEN_EXCLUSIVE", "True")]].concat());
    site.ok("detach", &named);
    site.ok("remove", &named);
}

#[test]
fn opening_and_closing_work_as_often_as_they_are_asked_for_where_it_is_attached() {
    if !is_root() {
        return;
    }
    let site = Site::new();
    site.ok("create", &[("VOL_SIZE", "16")]);
    for exclusive in ["True", "False"] {
        assert!(site.fails("open", &[("VOL_OPEN_EXCLUSIVE", exclusive)]).contains("not attached"));
    }
    site.ok("close", &[]);
    let path = device(&site);
    for exclusive in ["True", "True", "False", "False", "True"] {
        site.ok("open", &[("VOL_OPEN_EXCLUSIVE", exclusive)]);
        write(&path, 5).unwrap();
    }
    for bad in ["", "yes", "true"] {
        site.fails("open", &[("VOL_OPEN_EXCLUSIVE", bad)]);
    }
    site.ok("close", &[]);
    site.ok("close", &[]);
    assert!(read(&path).is_err(), "what is closed is for others");
    site.ok("open", &[("VOL_OPEN_EXCLUSIVE", "True")]);
    assert_eq!(read(&path).unwrap(), 5);
}
