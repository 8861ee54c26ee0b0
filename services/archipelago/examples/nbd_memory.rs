//! Serves a disk in memory over NBD until standard input ends: `nbd_memory /run/disk.sock 1G`, then for instance
//! `nbdinfo 'nbd+unix:///?socket=/run/disk.sock'`.

#[path = "../tests/support/memory_disk.rs"]
mod memory_disk;

use std::io::Read;
use std::process::ExitCode;

use archipelago_service::nbd::{DEFAULT_SOCKET_MODE, Endpoint, Server, ServerOptions};
use memory_disk::{MemoryDisk, MemoryExports};

fn size(text: &str) -> Option<u64> {
    let (number, shift) = match text.strip_suffix(['M', 'G']) {
        Some(number) => (number, if text.ends_with('M') { 20 } else { 30 }),
        None => (text, 0),
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, text] = arguments.as_slice() else {
        eprintln!("usage: nbd_memory SOCKET SIZE[M|G]");
        return ExitCode::from(2);
    };
    let Some(size) = size(text) else {
        eprintln!("{text:?}: a size is a number of bytes, or of mebibytes (M) or gibibytes (G)");
        return ExitCode::from(2);
    };
    let endpoint = Endpoint::Unix { path: path.into(), mode: DEFAULT_SOCKET_MODE };
    let exports = MemoryExports::one(MemoryDisk::new(size, false));
    match Server::start(exports, &[endpoint], ServerOptions::default()) {
        Ok(server) => {
            println!("listening on {path}; ends when standard input does");
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            let stopped = server.stop();
            if stopped.cut > 0 {
                eprintln!("{} connections did not finish in time", stopped.cut);
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
