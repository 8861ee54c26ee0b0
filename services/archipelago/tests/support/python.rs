//! Where Python has libnbd's module.
#![allow(dead_code, missing_docs)]

use std::process::Command;

/// The interpreter that has it; one that is installed beside the system's may not.
pub fn interpreter() -> &'static str {
    let has_nbd = |python: &&str| {
        Command::new(python).args(["-c", "import nbd"]).output().is_ok_and(|output| output.status.success())
    };
    let python = ["python3", "/usr/bin/python3"].into_iter().find(has_nbd);
    python.expect("Python's nbd module is needed for this test: apt-get install python3-libnbd")
}
