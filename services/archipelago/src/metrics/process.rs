//! What the kernel says of this process, under the names that every collector knows.

use std::fs;

/// Figures of this process; `None` where the kernel does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Time on processors, in nanoseconds.
    pub cpu_nanos: Option<u64>,
    /// Memory that is in use, in bytes.
    pub resident: Option<u64>,
    /// Open descriptors.
    pub descriptors: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
}

impl Process {
    /// As of now.
    pub fn read() -> Process {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).ok();
        let micros = |time: nix::sys::time::TimeVal| (time.tv_sec() as u64) * 1_000_000 + time.tv_usec() as u64;
        Process {
            cpu_nanos: usage.map(|usage| (micros(usage.user_time()) + micros(usage.system_time())) * 1000),
            resident: field(&status, "VmRSS:").map(|kib| kib * 1024),
            descriptors: fs::read_dir("/proc/self/fd").ok().map(|list| list.count() as u64),
            threads: field(&status, "Threads:"),
        }
    }
}

fn field(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_itself() {
        let process = Process::read();
        assert!(process.resident.unwrap() > 4096 && process.threads.unwrap() > 0 && process.descriptors.unwrap() > 2);
        assert!(process.cpu_nanos.is_some());
        assert_eq!(field("A:\t 5 kB\nVmRSS:\t  17 kB\n", "VmRSS:"), Some(17));
        assert_eq!(field("A: b", "A:"), None);
    }
}
