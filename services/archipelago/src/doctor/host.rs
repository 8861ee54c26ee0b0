//! What the kernel offers, the limits of the process, and the clock.

use std::fs;
use std::path::Path;

use super::Findings;

/// Descriptors that a busy store wants (docs/operations.md).
const DESCRIPTORS: u64 = 8192;
/// Memory that may be locked below which rings of requests may not fit.
const LOCKED: u64 = 8 << 20;
/// The first second of 2026: a clock before that was never set.
const NOT_BEFORE: u64 = 1_767_225_600;

/// What is looked at. Everything lies below `root`, which is `/` but in tests.
pub struct Host<'a> {
    /// Where `dev`, `proc` and `sys` are.
    pub root: &'a Path,
    /// Seconds since 1970.
    pub now: u64,
}

impl Host<'_> {
    /// Looks at all of it.
    pub fn examine(&self, findings: &mut Findings) {
        self.features(findings);
        self.limits(findings);
        if self.now < NOT_BEFORE {
            let advice = "set the clock (`timedatectl`): times of snapshots are wrong, and content that uploads left stays too long";
            findings.warning(
                "clock",
                format!("the clock says {}", archipelago_core::time::format_utc(self.now)),
                advice,
            );
        }
    }

    fn features(&self, findings: &mut Findings) {
        let switch = fs::read_to_string(self.root.join("proc/sys/kernel/io_uring_disabled"));
        match switch.as_deref().map(str::trim) {
            Ok("0") if archipelago_core::blocker::ring::is_there() => {}
            Ok("0") => findings.note(
                "io_uring",
                "io_uring is refused to this process",
                "look for a filter of system calls (`SystemCallFilter=` of a unit, a container's profile), if a store is opened with `direct`: \
                 without io_uring a few threads make its requests, and fewer are under way at once",
            ),
            Ok(value) => findings.note(
                "io_uring",
                format!("io_uring is switched off (kernel.io_uring_disabled = {value})"),
                "`sysctl kernel.io_uring_disabled=0`, if a store is opened with `direct`: without io_uring a few threads make its requests, \
                 and fewer are under way at once",
            ),
            Err(_) => findings.note(
                "io_uring",
                "the kernel does not say whether io_uring may be used",
                "nothing has to be done; it is known from Linux 6.6 on",
            ),
        }
        for (topic, places, what, advice) in [
            (
                "fuse",
                &["dev/fuse"][..],
                "there is no /dev/fuse: no file systems in user space",
                "`modprobe fuse`, if that is wanted",
            ),
            (
                "loop",
                &["dev/loop-control"],
                "there are no loop devices",
                "`modprobe loop`, if a file is to be a block device",
            ),
            (
                "nbd",
                &["sys/module/nbd", "dev/nbd0"],
                "the kernel attaches no NBD devices",
                "`modprobe nbd`, for block devices without FUSE, and for `nbd-client`",
            ),
            (
                "ublk",
                &["dev/ublk-control"],
                "the kernel has no ublk driver",
                "`modprobe ublk_drv` (Linux 6.5 and later; Debian 12: the kernel of bookworm-backports), for block devices that go on with another server",
            ),
        ] {
            if !places.iter().any(|place| self.root.join(place).exists()) {
                findings.note(topic, what, advice);
            }
        }
    }

    fn limits(&self, findings: &mut Findings) {
        let Ok(limits) = fs::read_to_string(self.root.join("proc/self/limits")) else { return };
        if let Some(files) = soft_limit(&limits, "Max open files").filter(|files| *files < DESCRIPTORS) {
            findings.warning(
                "nofile",
                format!("a process may open {files} files here"),
                format!("`LimitNOFILE={DESCRIPTORS}` in the unit of the service, or `ulimit -n {DESCRIPTORS}`"),
            );
        }
        if let Some(bytes) = soft_limit(&limits, "Max locked memory").filter(|bytes| *bytes < LOCKED) {
            findings.note(
                "memlock",
                format!("a process may lock {bytes} bytes of memory here"),
                "`LimitMEMLOCK=64M` in the unit of the service, for virtual machines with shared memory that is locked",
            );
        }
    }
}

/// The soft limit of a line of `/proc/self/limits`; `None` if there is none.
fn soft_limit(limits: &str, name: &str) -> Option<u64> {
    let rest = limits.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    const LIMITS: &str = "Limit                     Soft Limit           Hard Limit           Units     \n\
        Max open files            8192                 524288               files     \n\
        Max locked memory         8388608              8388608              bytes     \n";

    /// A host on which all is well.
    fn whole() -> TempDir {
        let dir = TempDir::new().unwrap();
        for place in ["dev/fuse", "dev/loop-control", "sys/module/nbd", "dev/ublk-control"] {
            fs::create_dir_all(dir.path().join(place)).unwrap();
        }
        fs::create_dir_all(dir.path().join("proc/sys/kernel")).unwrap();
        fs::create_dir_all(dir.path().join("proc/self")).unwrap();
        fs::write(dir.path().join("proc/sys/kernel/io_uring_disabled"), "0\n").unwrap();
        fs::write(dir.path().join("proc/self/limits"), LIMITS).unwrap();
        dir
    }

    fn topics(root: &Path, now: u64) -> Vec<&'static str> {
        let mut findings = Findings::default();
        Host { root, now }.examine(&mut findings);
        findings.0.iter().map(|finding| finding.topic).collect()
    }

    #[test]
    fn a_host_that_has_everything_has_no_findings_and_each_lack_is_one() {
        let host = whole();
        assert_eq!(topics(host.path(), NOT_BEFORE), Vec::<&str>::new());
        for (place, topic) in [
            ("dev/fuse", "fuse"),
            ("dev/loop-control", "loop"),
            ("sys/module/nbd", "nbd"),
            ("dev/ublk-control", "ublk"),
        ] {
            let host = whole();
            fs::remove_dir(host.path().join(place)).unwrap();
            assert_eq!(topics(host.path(), NOT_BEFORE), [topic]);
        }
        fs::write(host.path().join("proc/sys/kernel/io_uring_disabled"), "2\n").unwrap();
        assert_eq!(topics(host.path(), NOT_BEFORE), ["io_uring"]);
    }

    #[test]
    fn limits_below_what_a_store_wants_are_findings() {
        let host = whole();
        fs::write(host.path().join("proc/self/limits"), LIMITS.replace("8192 ", "1024 ")).unwrap();
        assert_eq!(topics(host.path(), NOT_BEFORE), ["nofile"]);
        fs::write(host.path().join("proc/self/limits"), LIMITS.replacen("8388608", "65536  ", 1)).unwrap();
        assert_eq!(topics(host.path(), NOT_BEFORE), ["memlock"]);
        fs::write(host.path().join("proc/self/limits"), LIMITS.replace("8192 ", "unlimited ")).unwrap();
        assert_eq!(topics(host.path(), NOT_BEFORE), Vec::<&str>::new());
    }

    #[test]
    fn a_clock_that_was_never_set_is_a_finding() {
        assert_eq!(topics(whole().path(), 1000), ["clock"]);
    }

    #[test]
    fn the_limits_of_this_process_can_be_read() {
        let limits = fs::read_to_string("/proc/self/limits").unwrap();
        assert!(limits.contains("Max open files") && limits.contains("Max locked memory"));
    }
}
