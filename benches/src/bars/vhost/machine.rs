//! The driver's side of one virtio-blk queue in shared memory, as a virtual machine has it (virtio 1.2, 2.7; vhost-user of QEMU's documents).

use std::io::{self, IoSlice, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering, fence};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::super::nbd::Case;

/// Bytes of each request.
pub const REQUEST: usize = 4096;
/// Descriptors of the queue: three for each of at most 32 requests.
const QUEUE: u16 = 128;
/// Where the parts of the queue lie in memory.
const AVAILABLE: usize = 0x1000;
const USED: usize = 0x2000;
/// Heads and status bytes, 64 bytes for each request.
const HEADS: usize = 0x4000;
/// Data, a page for each request.
const DATA: usize = 0x10000;
const MEMORY: usize = DATA + REQUEST * QUEUE as usize;
/// Where the machine says that it has its memory.
const GUEST: u64 = 0x1_0000_0000;
const USER: u64 = 0x7f00_0000_0000;

const NEXT: u16 = 1;
const DEVICE_WRITES: u16 = 2;
const F_EVENT_INDEX: u64 = 1 << 29;
const F_PROTOCOL: u64 = 1 << 30;
const F_VERSION_1: u64 = 1 << 32;
const P_REPLY: u64 = 1 << 3;
/// A message, and one that is to be answered.
const VERSION: u32 = 1;
const NEED_REPLY: u32 = 8;
/// Longest wait for a request.
const PATIENCE: u16 = 30_000;

/// A machine with one queue.
pub struct Machine {
    socket: UnixStream,
    memory: NonNull<u8>,
    file: OwnedFd,
    kick: OwnedFd,
    call: OwnedFd,
    available: u16,
    used: u16,
    /// Requests that are not under way, by their first descriptor.
    free: Vec<u16>,
    depth: usize,
}

fn event() -> io::Result<OwnedFd> {
    // SAFETY: takes no pointer.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    // SAFETY: a descriptor that was just made, if it is one.
    if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(unsafe { OwnedFd::from_raw_fd(fd) }) }
}

impl Machine {
    /// Connects to a server and sets the queue up for requests like these.
    pub fn connect(path: &Path, case: Case) -> io::Result<Machine> {
        // SAFETY: the name ends in NUL.
        let fd = unsafe { libc::memfd_create(c"machine".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that was just made.
        let file = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: a file of our own, and a new mapping of it.
        let start = unsafe {
            if libc::ftruncate(file.as_raw_fd(), MEMORY as i64) != 0 {
                return Err(io::Error::last_os_error());
            }
            let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
            libc::mmap(std::ptr::null_mut(), MEMORY, prot, flags, file.as_raw_fd(), 0)
        };
        let memory = match NonNull::new(start.cast()) {
            Some(memory) if start != libc::MAP_FAILED => memory,
            _ => return Err(io::Error::last_os_error()),
        };
        let (socket, kick, call) = (UnixStream::connect(path)?, event()?, event()?);
        let free = (0..case.depth as u16).map(|n| n * 3).collect();
        let mut machine = Machine { socket, memory, file, kick, call, available: 0, used: 0, free, depth: case.depth };
        machine.describe(case);
        machine.negotiate()?;
        Ok(machine)
    }

    fn put(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= MEMORY);
        // SAFETY: within the mapping; the server does not look at it before it is told of it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.memory.as_ptr().add(at), bytes.len()) };
    }

    fn byte(&self, at: usize) -> u8 {
        assert!(at < MEMORY);
        // SAFETY: within the mapping; the server has given it back.
        unsafe { self.memory.as_ptr().add(at).read_volatile() }
    }

    fn index(&self, at: usize) -> &AtomicU16 {
        assert!(at + 2 <= MEMORY && at.is_multiple_of(2));
        // SAFETY: within the mapping, even, and shared with the server as atomic.
        unsafe { AtomicU16::from_ptr(self.memory.as_ptr().add(at).cast()) }
    }

    /// Writes the descriptors of all requests, which stay as they are.
    fn describe(&mut self, case: Case) {
        for request in 0..case.depth as u16 {
            let (first, head) = (request * 3, HEADS + usize::from(request) * 64);
            let data = if case.write { NEXT } else { NEXT | DEVICE_WRITES };
            let parts = [
                (head, 16, NEXT),
                (DATA + usize::from(request) * REQUEST, REQUEST, data),
                (head + 16, 1, DEVICE_WRITES),
            ];
            for (n, (at, len, flags)) in (first..).zip(parts) {
                let mut bytes = (GUEST + at as u64).to_le_bytes().to_vec();
                bytes.extend((len as u32).to_le_bytes());
                bytes.extend(flags.to_le_bytes());
                bytes.extend((n + 1).to_le_bytes());
                self.put(usize::from(n) * 16, &bytes);
            }
            self.put(head, &u32::from(case.write).to_le_bytes());
        }
    }

    fn send(&self, request: u32, flags: u32, body: &[u8], fds: &[RawFd]) -> io::Result<()> {
        let mut bytes: Vec<u8> =
            [request, flags, body.len() as u32].iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.extend_from_slice(body);
        let control = [ControlMessage::ScmRights(fds)];
        let control = if fds.is_empty() { &[][..] } else { &control[..] };
        sendmsg::<()>(self.socket.as_raw_fd(), &[IoSlice::new(&bytes)], control, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }

    fn answer(&self) -> io::Result<u64> {
        let mut answer = [0; 20];
        (&self.socket).read_exact(&mut answer)?;
        Ok(answer[12..].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn ask(&self, request: u32) -> io::Result<u64> {
        self.send(request, VERSION, &[], &[])?;
        self.answer()
    }

    fn tell(&self, request: u32, body: &[u8], fds: &[RawFd]) -> io::Result<()> {
        self.send(request, VERSION | NEED_REPLY, body, fds)?;
        match self.answer()? {
            0 => Ok(()),
            _ => Err(io::Error::other(format!("the server refuses message {request}"))),
        }
    }

    fn negotiate(&mut self) -> io::Result<()> {
        let wanted = F_EVENT_INDEX | F_PROTOCOL | F_VERSION_1;
        if self.ask(1)? & wanted != wanted || self.ask(15)? & P_REPLY == 0 {
            return Err(io::Error::other("the server lacks what is needed"));
        }
        self.send(16, VERSION, &P_REPLY.to_ne_bytes(), &[])?;
        self.tell(2, &wanted.to_ne_bytes(), &[])?;
        self.tell(3, &[], &[])?;
        let mut table = [1u32.to_ne_bytes(), 0u32.to_ne_bytes()].concat();
        table.extend([GUEST, MEMORY as u64, USER, 0].iter().flat_map(|n| n.to_ne_bytes()));
        self.tell(5, &table, &[self.file.as_raw_fd()])?;
        let state = |value: u32| [0u32.to_ne_bytes(), value.to_ne_bytes()].concat();
        self.tell(8, &state(u32::from(QUEUE)), &[])?;
        self.tell(10, &state(0), &[])?;
        let mut addresses = state(0);
        let places = [USER, USER + USED as u64, USER + AVAILABLE as u64, 0];
        addresses.extend(places.iter().flat_map(|n| n.to_ne_bytes()));
        self.tell(9, &addresses, &[])?;
        self.tell(13, &0u64.to_ne_bytes(), &[self.call.as_raw_fd()])?;
        self.tell(12, &0u64.to_ne_bytes(), &[self.kick.as_raw_fd()])?;
        self.tell(18, &state(1), &[])
    }

    /// Asks for that long, or for that many requests, at places that `place` gives, in units of requests. Requests that came back, and the time
    /// that all took.
    pub fn run(&mut self, time: Duration, most: u64, place: &mut dyn FnMut() -> u64) -> io::Result<(u64, Duration)> {
        let (start, mut sent, mut count) = (Instant::now(), 0, 0);
        loop {
            if sent < most && start.elapsed() < time {
                sent += self.submit(most - sent, place)?;
            } else if self.free.len() == self.depth {
                return Ok((count, start.elapsed()));
            }
            count += self.reap()?;
        }
    }

    /// Puts all requests that are free into the queue, and notifies the server if it wants that.
    fn submit(&mut self, most: u64, place: &mut dyn FnMut() -> u64) -> io::Result<u64> {
        let before = self.available;
        let count = self.free.len().min(usize::try_from(most).unwrap_or(usize::MAX));
        for _ in 0..count {
            let Some(first) = self.free.pop() else { break };
            self.put(HEADS + usize::from(first / 3) * 64 + 8, &(place() * (REQUEST as u64 / 512)).to_le_bytes());
            self.put(AVAILABLE + 4 + 2 * usize::from(self.available % QUEUE), &first.to_le_bytes());
            self.available = self.available.wrapping_add(1);
        }
        self.index(AVAILABLE + 2).store(self.available, Ordering::Release);
        fence(Ordering::SeqCst);
        let event = self.index(USED + 4 + 8 * usize::from(QUEUE)).load(Ordering::Acquire);
        // The server's mark lies among what is new.
        if self.available.wrapping_sub(event).wrapping_sub(1) < self.available.wrapping_sub(before) {
            nix::unistd::write(&self.kick, &1u64.to_ne_bytes())?;
        }
        Ok(count as u64)
    }

    /// Takes all that came back; sleeps until something does.
    fn reap(&mut self) -> io::Result<u64> {
        let mut count = 0;
        loop {
            let there = self.index(USED + 2).load(Ordering::Acquire);
            while self.used != there {
                let entry = USED + 4 + 8 * usize::from(self.used % QUEUE);
                let first = u16::from(self.byte(entry)) | u16::from(self.byte(entry + 1)) << 8;
                if self.byte(HEADS + usize::from(first / 3) * 64 + 16) != 0 {
                    return Err(io::Error::other("a request failed"));
                }
                self.used = self.used.wrapping_add(1);
                self.free.push(first);
                count += 1;
            }
            if count > 0 {
                return Ok(count);
            }
            self.index(AVAILABLE + 4 + 2 * usize::from(QUEUE)).store(self.used, Ordering::Release);
            fence(Ordering::SeqCst);
            if self.index(USED + 2).load(Ordering::Acquire) == self.used {
                let mut fds = [PollFd::new(self.call.as_fd(), PollFlags::POLLIN)];
                if poll(&mut fds, PollTimeout::from(PATIENCE))? == 0 {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                let _ = nix::unistd::read(&self.call, &mut [0; 8]);
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which nothing refers to any more.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), MEMORY) };
    }
}
