//! Processor time.

use std::io;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Of all threads of this process, user and system.
pub fn own() -> io::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
}

/// Of all threads that a process has now. Exact while none of them ends.
pub fn of(process: i32) -> io::Result<Duration> {
    let mut sum = 0;
    for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
        // A thread may end meanwhile.
        let stat = std::fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        sum += stat.split_whitespace().next().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_processor_time() {
        let before = own().expect("the clock is there");
        while own().expect("the clock is there") < before + Duration::from_millis(2) {}
        assert!(of(std::process::id() as i32).expect("this process is there") > Duration::ZERO);
    }
}
