//! What the fuzz targets reach: a session with a front end that says anything, and a queue in memory that a guest filled with anything.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::memory::{Described, Memory};
use super::ring::{Agreed, Chain, Part, Place, Ring};
use super::session::Session;
use crate::disk::device::Device;
use crate::disk::spin::Spinners;

/// Bytes of the guest's memory; a queue of eight descriptors lies at its start.
pub const MEMORY: usize = 1 << 16;
/// Where the guest has it.
pub const GUEST: u64 = 0x10_0000;
/// Where the front end has it.
const USER: u64 = 0x7000_0000;
/// Where the parts of the queue lie in memory.
const PLACE: Place = Place { size: 8, descriptors: USER, available: USER + 0x100, used: USER + 0x200 };
/// Requests that are taken from the queue, which a guest may make available over and over.
const MAX_TAKEN: usize = 64;

/// Serves one front end in this thread until it hangs up.
pub fn session(disk: Arc<dyn Device>, socket: &UnixStream) -> io::Result<()> {
    Session::new(disk, "disk", Arc::new(Spinners::new(1))).serve(socket)
}

/// Buffers of one request, each as its first byte in the guest's memory and its length.
pub struct Gathered {
    /// What the device reads.
    pub readable: Vec<(usize, usize)>,
    /// What it writes.
    pub writable: Vec<(usize, usize)>,
}

/// Takes what is available in a queue and gives it back; ends at the first that is no request, with the reason.
pub fn queue(bytes: &[u8], event_idx: bool, indirect: bool) -> io::Result<(Vec<Gathered>, Option<String>)> {
    let fd: OwnedFd = memfd_create(c"guest", MFdFlags::MFD_CLOEXEC)?;
    let mut file = File::from(fd);
    file.set_len(MEMORY as u64)?;
    file.write_all(&bytes[..bytes.len().min(MEMORY)])?;
    let region = Described { guest: GUEST, len: MEMORY as u64, user: USER, offset: 0 };
    let memory = Arc::new(Memory::map(&[region], &[file.into()])?);
    let Some(base) = memory.guest(GUEST, MEMORY as u64) else { return Err(io::ErrorKind::AddrNotAvailable.into()) };
    let place = |part: &Part| (part.start.as_ptr() as usize - base.as_ptr() as usize, part.len);
    let mut ring = match Ring::new(memory, PLACE, Agreed { event_idx, indirect }, None) {
        Ok(ring) => ring,
        Err(broken) => return Ok((Vec::new(), Some(broken.to_string()))),
    };
    let (mut all, mut chain) = (Vec::new(), Chain::default());
    while all.len() < MAX_TAKEN {
        let head = match ring.take() {
            Ok(Some(head)) => head,
            Ok(None) => return Ok((all, None)),
            Err(broken) => return Ok((all, Some(broken.to_string()))),
        };
        if let Err(broken) = ring.gather(head, &mut chain) {
            return Ok((all, Some(broken.to_string())));
        }
        all.push(Gathered {
            readable: chain.readable.iter().map(place).collect(),
            writable: chain.writable.iter().map(place).collect(),
        });
        ring.give_back(head, 1);
        ring.publish();
        ring.wants_call();
        ring.notify_me(true);
    }
    Ok((all, None))
}
