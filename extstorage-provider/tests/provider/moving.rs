//! A disk on two nodes, in the order in which Ganeti calls when it moves an instance. Both nodes are on this machine, each with its own attachments.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::site::{CNAME, Ended, Site, assert_failed, is_root, with};

const EXCLUSIVE: &[(&str, &str)] = &[("VOL_OPEN_EXCLUSIVE", "True")];
const SHARED: &[(&str, &str)] = &[("VOL_OPEN_EXCLUSIVE", "False")];

/// Writes a byte to the first sectors of a device, as a program does that ends then: nothing stays in the kernel.
pub fn write(device: &str, byte: u8) -> io::Result<()> {
    let file = File::options().write(true).open(device)?;
    file.write_all_at(&[byte; 8192], 0)?;
    file.sync_all()
}

/// Reads it.
pub fn read(device: &str) -> io::Result<u8> {
    let mut bytes = [0; 8192];
    File::open(device)?.read_exact_at(&mut bytes, 0)?;
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "half of a write");
    Ok(bytes[0])
}

/// Two nodes with a disk that is attached on the first.
struct Nodes {
    site: Site,
}

impl Nodes {
    /// Also returns the device.
    fn new() -> (Nodes, String) {
        let site = Site::new();
        site.install("node-2", "");
        site.ok("create", &[("VOL_SIZE", "16")]);
        let nodes = Nodes { site };
        let device = nodes.ok(1, "attach", &[]);
        nodes.ok(1, "open", EXCLUSIVE);
        (nodes, device)
    }

    fn call(&self, node: u8, verb: &str, more: &[(&str, &str)]) -> Ended {
        let vars: Vec<_> = with(more).into_iter().map(|(name, value)| (name, OsStr::new(value))).collect();
        self.site.call_on(&format!("node-{node}"), verb, &vars)
    }

    /// A call that succeeds; the first line that it prints.
    #[track_caller]
    fn ok(&self, node: u8, verb: &str, more: &[(&str, &str)]) -> String {
        let ended = self.call(node, verb, more);
        // Detaching repeats what the server said: requests that were refused while the volume was closed.
        assert!(
            ended.code == Some(0) && (ended.err.is_empty() || verb == "detach"),
            "{verb} on node {node}: {ended:?}"
        );
        ended.out.lines().next().unwrap_or_default().to_string()
    }

    /// All up to the moment at which memory is copied. Returns the device on the second node.
    fn begin(&self) -> String {
        let device = self.ok(2, "attach", &[]);
        self.ok(2, "close", &[]);
        self.ok(1, "attach", &[]);
        self.ok(1, "open", SHARED);
        self.ok(2, "attach", &[]);
        self.ok(2, "open", SHARED);
        device
    }

    fn is_attached_on(&self, node: u8) -> bool {
        !self.site.attacher(&format!("node-{node}")).list().unwrap().is_empty()
    }
}

#[test]
fn an_instance_that_moves_finds_on_its_target_what_it_wrote_on_its_source() {
    if !is_root() {
        return;
    }
    let (nodes, mut here) = Nodes::new();
    let (mut source, mut target) = (1, 2);
    for turn in 0..4 {
        write(&here, 10 * turn + 1).unwrap();
        let there = nodes.ok(target, "attach", &[]);
        assert_ne!(here, there);
        // Attached, and not to be had: the source runs, and nobody has said that it moves.
        assert!(read(&there).is_err());
        write(&here, 10 * turn + 2).unwrap();
        nodes.ok(target, "close", &[]);
        nodes.ok(source, "attach", &[]);
        nodes.ok(source, "open", SHARED);
        nodes.ok(target, "open", SHARED);
        // QEMU on the target looks at the disk while the guest runs on the source.
        assert_eq!(read(&there).unwrap(), 10 * turn + 2);
        write(&here, 10 * turn + 3).unwrap();
        assert_eq!(read(&there).unwrap(), 10 * turn + 3);
        // The guest goes on there, before Ganeti says so.
        write(&there, 10 * turn + 4).unwrap();
        nodes.ok(source, "attach", &[]);
        nodes.ok(source, "close", &[]);
        assert!(write(&here, 99).is_err(), "who closed it writes no more");
        nodes.ok(target, "attach", &[]);
        nodes.ok(target, "open", EXCLUSIVE);
        nodes.ok(source, "attach", &[]);
        nodes.ok(source, "detach", &[]);
        assert_eq!(read(&there).unwrap(), 10 * turn + 4);
        assert!(!nodes.is_attached_on(source) && nodes.is_attached_on(target));
        (source, target) = (target, source);
        here = there;
    }
    nodes.ok(source, "detach", &[]);
    nodes.site.ok("remove", &[]);
}

#[test]
fn a_move_that_fails_leaves_the_disk_where_it_was() {
    if !is_root() {
        return;
    }
    let (nodes, device) = Nodes::new();
    let there = nodes.begin();
    write(&device, 1).unwrap();
    assert_eq!(read(&there).unwrap(), 1);
    nodes.ok(2, "close", &[]);
    nodes.ok(2, "detach", &[]);
    write(&device, 2).unwrap();
    nodes.ok(1, "open", EXCLUSIVE);
    assert_eq!(read(&device).unwrap(), 2);
    assert!(nodes.is_attached_on(1) && !nodes.is_attached_on(2));
    // And once more, to the end.
    nodes.begin();
    nodes.ok(1, "close", &[]);
    nodes.ok(2, "open", EXCLUSIVE);
    nodes.ok(1, "detach", &[]);
}

#[test]
fn a_node_that_has_a_disk_for_itself_keeps_it_and_the_other_is_told_who_has_it() {
    if !is_root() {
        return;
    }
    let (nodes, device) = Nodes::new();
    write(&device, 1).unwrap();
    let there = nodes.ok(2, "attach", &[]);
    nodes.ok(2, "attach", &[]);
    let refused = nodes.call(2, "open", EXCLUSIVE);
    assert_failed(&refused);
    let pid = nodes.site.attached()[0].record.pid;
    assert!(refused.err.contains("open elsewhere") && refused.err.contains(&pid.to_string()), "{}", refused.err);
    assert!(read(&there).is_err());
    write(&device, 2).unwrap();
    // It fails over: the source lets go, or is no more.
    nodes.ok(1, "close", &[]);
    nodes.ok(1, "detach", &[]);
    nodes.ok(2, "open", EXCLUSIVE);
    assert_eq!(read(&there).unwrap(), 2);
    // Each has its own attachment, and takes nothing from the other.
    let back = nodes.ok(1, "attach", &[]);
    nodes.ok(1, "detach", &[]);
    assert!(back != there && nodes.is_attached_on(2) && read(&there).unwrap() == 2);
}

#[test]
fn a_node_whose_server_was_killed_has_its_disk_taken_over() {
    if !is_root() {
        return;
    }
    let (nodes, device) = Nodes::new();
    write(&device, 1).unwrap();
    let there = nodes.ok(2, "attach", &[]);
    let pid = nodes.site.attached()[0].record.pid;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGKILL).unwrap();
    nodes.ok(2, "open", EXCLUSIVE);
    assert_eq!(read(&there).unwrap(), 1);
    write(&there, 2).unwrap();
    // What comes back has nothing until it is told to.
    let back = nodes.ok(1, "attach", &[]);
    assert!(read(&back).is_err());
    nodes.ok(1, "detach", &[]);
    assert_eq!(read(&there).unwrap(), 2);
}

#[test]
fn a_disk_grows_and_is_snapshotted_while_another_node_stands_by() {
    if !is_root() {
        return;
    }
    let (nodes, device) = Nodes::new();
    write(&device, 1).unwrap();
    nodes.begin();
    nodes.ok(1, "grow", &[("VOL_SIZE", "16"), ("VOL_NEW_SIZE", "32")]);
    nodes.ok(1, "snapshot", &[("VOL_SNAPSHOT_NAME", "disk.snap")]);
    nodes.ok(1, "close", &[]);
    nodes.ok(2, "open", EXCLUSIVE);
    nodes.ok(2, "grow", &[("VOL_SIZE", "32"), ("VOL_NEW_SIZE", "48")]);
    let there = nodes.ok(2, "attach", &[]);
    assert_eq!(nodes.site.info(CNAME).size, 48 << 20);
    assert_eq!(read(&there).unwrap(), 1);
    let name = there.strip_prefix("/dev/").unwrap();
    let sectors = std::fs::read_to_string(format!("/sys/block/{name}/size")).unwrap();
    assert_eq!(sectors.trim().parse::<u64>().unwrap() * 512, 48 << 20);
}

#[test]
fn an_attachment_that_has_nothing_and_that_nobody_uses_ends_by_itself() {
    if !is_root() {
        return;
    }
    let (nodes, _) = Nodes::new();
    nodes.ok(1, "detach", &[]);
    for node in ["node-1", "node-2"] {
        let config = nodes.site.path(node).join("archipelago.toml");
        let text = fs::read_to_string(&config).unwrap();
        fs::write(&config, format!("unused_time = 1\n{text}")).unwrap();
    }
    let device = nodes.ok(1, "attach", &[]);
    let there = nodes.ok(2, "attach", &[]);
    let used = File::open(&there).unwrap();
    // Longer than it takes to look whether anybody uses it.
    std::thread::sleep(Duration::from_secs(4));
    assert!(nodes.is_attached_on(2), "somebody has it open");
    drop(used);
    let deadline = Instant::now() + Duration::from_secs(60);
    let places = nodes.site.path("run").join("node-2");
    while fs::read_dir(&places).unwrap().next().is_some() {
        assert!(Instant::now() < deadline, "it never ends");
        std::thread::sleep(Duration::from_millis(20));
    }
    // Nothing is left of it, and who has the volume stays, used or not.
    let name = there.strip_prefix("/dev/").unwrap();
    assert!(!Path::new("/sys/block").join(name).join("loop").exists());
    assert!(nodes.is_attached_on(1) && !nodes.is_attached_on(2));
    write(&device, 1).unwrap();
    // It comes back when it is asked for.
    nodes.ok(2, "attach", &[]);
}
