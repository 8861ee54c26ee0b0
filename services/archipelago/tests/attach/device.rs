//! A volume as a block device.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::process::Command;

use crate::host::{Host, is_root};
use crate::site::{tool, wait_for};

const MIB: u64 = 1 << 20;

fn size(device: &str) -> u64 {
    File::open(device).unwrap().seek(SeekFrom::End(0)).unwrap()
}

fn pid(host: &Host) -> String {
    host.mapped()[0]["pid"].to_string()
}

#[test]
fn a_file_system_on_a_device_is_whole_in_the_store_when_it_is_detached() {
    if !is_root() {
        return;
    }
    let host = Host::new();
    host.ok(&["create", "disk-1", "--size", "64M"]);
    let device = host.ok(&["map", "disk-1"]);
    assert!(device.starts_with("/dev/loop"), "{device}");
    assert_eq!((size(&device), host.ok(&["map", "disk-1"])), (64 * MIB, device.clone()));
    let (mount, content) = (host.site.text("mount"), vec![7u8; 3 << 20]);
    tool("e2fsprogs", "mke2fs", &["-q", "-t", "ext4", &device]);
    fs::create_dir(&mount).unwrap();
    tool("mount", "mount", &[&device, &mount]);
    fs::write(format!("{mount}/content"), &content).unwrap();
    // In use in two ways, one after the other.
    let refused = host.fails(5, &["unmap", "disk-1"]);
    tool("mount", "umount", &[&mount]);
    assert!(refused.contains("a file system that is mounted"), "{refused}");
    let open = File::open(&device).unwrap();
    let refused = host.fails(5, &["unmap", &device]);
    assert!(refused.contains(&format!("PID: {}", std::process::id())), "{refused}");
    drop(open);
    host.ok(&["unmap", &device]);
    assert!(host.mapped().is_empty() && host.fails(3, &["unmap", &device]).contains("is not attached"));
    // Nobody has it any more, and all is there, also in a snapshot that is attached as a device.
    host.ok(&["export", "disk-1", &host.site.text("image")]);
    tool("e2fsprogs", "e2fsck", &["-fn", &host.site.text("image")]);
    host.ok(&["snapshot", "disk-1", "snap-1"]);
    let device = host.ok(&["map", "snap-1"]);
    tool("mount", "mount", &["-o", "ro", &device, &mount]);
    let read = fs::read(format!("{mount}/content"));
    tool("mount", "umount", &[&mount]);
    assert!(read.unwrap() == content);
    assert_eq!(fs::read_to_string(format!("/sys/block/{}/ro", &device[5..])).unwrap(), "1\n");
    host.ok(&["unmap", "snap-1"]);
}

#[test]
fn a_device_follows_the_size_of_its_volume_and_gives_up_room() {
    if !is_root() {
        return;
    }
    let host = Host::new();
    host.ok(&["create", "disk-1", "--size", "16M"]);
    let device = host.ok(&["map", "disk-1"]);
    host.ok(&["resize", "disk-1", "48M"]);
    wait_for("the device to grow", || size(&device) == 48 * MIB);
    let file = OpenOptions::new().read(true).write(true).open(&device).unwrap();
    file.write_all_at(&[1; 8192], 47 * MIB).unwrap();
    file.sync_all().unwrap();
    drop(file);
    tool("util-linux", "blkdiscard", &["-o", &(47 * MIB).to_string(), "-l", "4096", &device]);
    let mut bytes = vec![9; 8192];
    File::open(&device).unwrap().read_exact_at(&mut bytes, 47 * MIB).unwrap();
    assert!(bytes[..4096] == [0; 4096] && bytes[4096..] == [1; 4096]);
    host.ok(&["unmap", "disk-1"]);
}

#[test]
fn a_server_that_was_killed_is_seen_and_its_volume_attached_again() {
    if !is_root() {
        return;
    }
    let host = Host::new();
    host.ok(&["create", "disk-1", "--size", "16M"]);
    let device = host.ok(&["map", "disk-1"]);
    let file = OpenOptions::new().write(true).open(&device).unwrap();
    file.write_all_at(&[5; 4096], MIB).unwrap();
    file.sync_all().unwrap();
    drop(file);
    assert!(Command::new("kill").args(["-9", &pid(&host)]).status().unwrap().success());
    wait_for("the server to be dead", || host.mapped()[0]["served"] == false);
    assert!(host.ok(&["showmapped"]).contains("dead"));
    let mut byte = [0];
    assert!(File::open(&device).and_then(|mut file| file.read_exact(&mut byte)).is_err(), "nobody is there to answer");
    // Attached again: what was flushed is there.
    let device = host.ok(&["map", "disk-1"]);
    let mut bytes = [0; 4096];
    File::open(&device).unwrap().read_exact_at(&mut bytes, MIB).unwrap();
    assert!(bytes == [5; 4096]);
    // One that is dead can be detached as well.
    assert!(Command::new("kill").args(["-9", &pid(&host)]).status().unwrap().success());
    wait_for("the server to be dead", || host.mapped()[0]["served"] == false);
    host.ok(&["unmap", "disk-1"]);
    assert!(host.mapped().is_empty());
    host.ok(&["check"]);
}

#[test]
fn attaching_at_once_makes_one_device_and_detaching_at_once_ends_it_once() {
    if !is_root() {
        return;
    }
    let host = Host::new();
    host.ok(&["create", "disk-1", "--size", "16M"]);
    let at_once = |arguments: &[&str]| {
        let commands: Vec<_> = (0..4)
            .map(|_| {
                let mut command = host.command_on("node-1", arguments);
                command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
            })
            .collect();
        commands.into_iter().map(|child| child.wait_with_output().unwrap()).collect::<Vec<_>>()
    };
    let attached = at_once(&["map", "disk-1"]);
    assert!(
        attached.iter().all(|output| output.status.success() && output.stdout == attached[0].stdout),
        "{attached:?}"
    );
    assert_eq!(host.mapped().len(), 1);
    let detached = at_once(&["unmap", "disk-1"]);
    let codes: Vec<_> = detached.iter().map(|output| output.status.code()).collect();
    assert_eq!(codes.iter().filter(|code| **code == Some(0)).count(), 1, "{detached:?}");
    assert!(codes.iter().all(|code| matches!(code, Some(0 | 3))), "{detached:?}");
    assert!(host.mapped().is_empty());
}
