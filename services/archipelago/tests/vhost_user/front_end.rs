//! A small front end: the guest's memory and its driver, as a virtual machine has them.

use std::io::{IoSlice, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// Bytes of the guest's memory.
pub const MEMORY: usize = 64 << 20;
/// Where the guest has it, and where the front end says that it does.
pub const GUEST: u64 = 0x1_0000_0000;
pub const USER: u64 = 0x7f00_0000_0000;
/// Bytes for each queue at the start of memory, and descriptors of each.
const QUEUE: usize = 1 << 16;
pub const SIZE: u16 = 128;
/// Where buffers begin.
pub const DATA: usize = 4 << 20;
/// Longest wait for an answer; far above what it takes.
const PATIENCE: Duration = Duration::from_secs(60);

pub const READ: u32 = 0;
pub const WRITE: u32 = 1;
pub const FLUSH: u32 = 4;
pub const GET_ID: u32 = 8;
pub const DISCARD: u32 = 11;
pub const WRITE_ZEROES: u32 = 13;

const F_FLUSH: u64 = 1 << 9;
const F_DISCARD: u64 = 1 << 13;
const F_WRITE_ZEROES: u64 = 1 << 14;
const F_INDIRECT: u64 = 1 << 28;
const F_EVENT_IDX: u64 = 1 << 29;
const F_PROTOCOL: u64 = 1 << 30;
const F_VERSION_1: u64 = 1 << 32;

/// Memory of a guest.
pub struct Memory {
    file: OwnedFd,
    start: *mut u8,
}

impl Memory {
    pub fn new() -> Memory {
        // SAFETY: the name ends in NUL, and the descriptor is made here.
        let file = unsafe { OwnedFd::from_raw_fd(libc::memfd_create(c"guest".as_ptr(), libc::MFD_CLOEXEC)) };
        // SAFETY: a file of our own, and a new mapping of it.
        let start = unsafe {
            assert_eq!(libc::ftruncate(file.as_raw_fd(), MEMORY as i64), 0);
            let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
            libc::mmap(std::ptr::null_mut(), MEMORY, prot, flags, file.as_raw_fd(), 0)
        };
        assert_ne!(start, libc::MAP_FAILED);
        Memory { file, start: start.cast() }
    }

    pub fn put(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= MEMORY);
        // SAFETY: within the mapping.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.add(at), bytes.len()) };
    }

    pub fn get(&self, at: usize, len: usize) -> Vec<u8> {
        assert!(at + len <= MEMORY);
        let mut bytes = vec![0; len];
        // SAFETY: within the mapping.
        unsafe { std::ptr::copy_nonoverlapping(self.start.add(at), bytes.as_mut_ptr(), len) };
        bytes
    }

    fn u16(&self, at: usize) -> &std::sync::atomic::AtomicU16 {
        // SAFETY: within the mapping, and even.
        unsafe { std::sync::atomic::AtomicU16::from_ptr(self.start.add(at).cast()) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: our own mapping.
        unsafe { libc::munmap(self.start.cast(), MEMORY) };
    }
}

/// A queue of the guest's driver.
struct Queue {
    base: usize,
    kick: OwnedFd,
    call: OwnedFd,
    available: u16,
    used: u16,
    free: Vec<u16>,
}

/// A virtual machine with its memory and queues; the connection may be made again.
pub struct FrontEnd {
    pub memory: Memory,
    queues: Vec<Queue>,
    pub socket: Option<UnixStream>,
    inflight: Option<(Vec<u8>, OwnedFd)>,
    /// What the back end tells unasked.
    pub unasked: Option<UnixStream>,
}

fn eventfd() -> OwnedFd {
    // SAFETY: takes no pointer; the descriptor is made here.
    unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)) }
}

pub fn send(socket: &UnixStream, request: u32, flags: u32, body: &[u8], fds: &[RawFd]) -> std::io::Result<()> {
    let mut bytes: Vec<u8> = [request, flags, body.len() as u32].iter().flat_map(|w| w.to_ne_bytes()).collect();
    bytes.extend_from_slice(body);
    let control = [ControlMessage::ScmRights(fds)];
    let control = if fds.is_empty() { &[][..] } else { &control[..] };
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&bytes)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

fn receive(socket: &UnixStream) -> std::io::Result<(u32, Vec<u8>, Option<OwnedFd>)> {
    let mut head = [0; 12];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let mut fd = None;
    {
        let mut parts = [std::io::IoSliceMut::new(&mut head)];
        let got = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_WAITALL)?;
        if got.bytes == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        for control in got.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = control {
                // SAFETY: received just now.
                fd = fds.first().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) });
            }
        }
    }
    let word = |at: usize| u32::from_ne_bytes(head[at..at + 4].try_into().unwrap());
    let mut body = vec![0; word(8) as usize];
    (&*socket).read_exact(&mut body)?;
    Ok((word(0), body, fd))
}

impl FrontEnd {
    /// A machine with so many queues, not connected yet.
    pub fn new(queues: usize) -> FrontEnd {
        let queue = |n: usize| Queue {
            base: n * QUEUE,
            kick: eventfd(),
            call: eventfd(),
            available: 0,
            used: 0,
            free: (0..SIZE / 4).map(|slot| slot * 4).collect(),
        };
        let queues = (0..queues).map(queue).collect();
        FrontEnd { memory: Memory::new(), queues, socket: None, inflight: None, unasked: None }
    }

    fn socket(&self) -> &UnixStream {
        self.socket.as_ref().unwrap()
    }

    /// Sends a message that is answered by itself.
    pub fn ask(&self, request: u32, body: &[u8]) -> (Vec<u8>, Option<OwnedFd>) {
        send(self.socket(), request, 1, body, &[]).unwrap();
        let (answered, body, fd) = receive(self.socket()).unwrap();
        assert_eq!(answered, request);
        (body, fd)
    }

    fn ask_number(&self, request: u32) -> u64 {
        u64::from_ne_bytes(self.ask(request, &[]).0.try_into().unwrap())
    }

    /// Sends a message, and returns whether it was accepted.
    pub fn tell(&self, request: u32, body: &[u8], fds: &[RawFd]) -> bool {
        send(self.socket(), request, 1 | 8, body, fds).unwrap();
        receive(self.socket()).is_ok_and(|(_, body, _)| body == 0u64.to_ne_bytes())
    }

    /// Connects, and sets everything up as after a reset, or as it was if it was connected before.
    pub fn connect(&mut self, path: &Path) {
        let began = Instant::now();
        let socket = loop {
            match UnixStream::connect(path) {
                Ok(socket) => break socket,
                Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        self.socket = Some(socket);
        let offered = self.ask_number(1);
        let wanted = F_FLUSH | F_DISCARD | F_WRITE_ZEROES | F_INDIRECT | F_EVENT_IDX | F_PROTOCOL | F_VERSION_1;
        let protocol = self.ask_number(15);
        let two = |a: u64| a.to_ne_bytes();
        send(self.socket(), 16, 1, &two(protocol), &[]).unwrap();
        assert!(self.tell(2, &two(offered & wanted), &[]));
        assert!(self.tell(3, &[], &[]));
        assert!(self.ask_number(17) >= self.queues.len() as u64);
        let (ours, theirs) = UnixStream::pair().unwrap();
        assert!(self.tell(21, &[], &[theirs.as_raw_fd()]));
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        self.unasked = Some(ours);
        if self.inflight.is_none() {
            let mut shape = [0u64.to_ne_bytes(), 0u64.to_ne_bytes()].concat();
            shape.extend([self.queues.len() as u16, SIZE].iter().flat_map(|n| n.to_ne_bytes()));
            shape.extend([0; 4]);
            let (shape, fd) = self.ask(31, &shape);
            self.inflight = Some((shape, fd.unwrap()));
        }
        let (shape, fd) = self.inflight.as_ref().unwrap();
        assert!(self.tell(32, shape, &[fd.as_raw_fd()]));
        let mut table = [1u32.to_ne_bytes(), 0u32.to_ne_bytes()].concat();
        table.extend([GUEST, MEMORY as u64, USER, 0].iter().flat_map(|n| n.to_ne_bytes()));
        assert!(self.tell(5, &table, &[self.memory.file.as_raw_fd()]));
        for index in 0..self.queues.len() {
            self.set_up(index);
        }
    }

    fn set_up(&self, index: usize) {
        let queue = &self.queues[index];
        let state = |value: u32| [(index as u32).to_ne_bytes(), value.to_ne_bytes()].concat();
        assert!(self.tell(8, &state(u32::from(SIZE)), &[]));
        assert!(self.tell(10, &state(u32::from(self.memory.u16(queue.base + 0x2002).load_acquire())), &[]));
        let user = USER + queue.base as u64;
        let mut body = state(0);
        body.extend([user, user + 0x2000, user + 0x1000, 0].iter().flat_map(|n| n.to_ne_bytes()));
        assert!(self.tell(9, &body, &[]));
        let which = (index as u64).to_ne_bytes();
        assert!(self.tell(12, &which, &[queue.kick.as_raw_fd()]));
        assert!(self.tell(13, &which, &[queue.call.as_raw_fd()]));
        assert!(self.tell(18, &state(1), &[]));
    }

    /// Capacity in sectors, by the configuration space.
    pub fn capacity(&self) -> u64 {
        let mut body = [0u32, 60, 0].iter().flat_map(|n| n.to_ne_bytes()).collect::<Vec<u8>>();
        body.extend([0; 60]);
        let (answer, _) = self.ask(24, &body);
        u64::from_le_bytes(answer[12..20].try_into().unwrap())
    }

    /// Puts a request into a queue and notifies; `data` lies at this place of memory. Returns the request's slot.
    pub fn submit(&mut self, queue: usize, kind: u32, sector: u64, at: usize, len: usize) -> u16 {
        let memory = &self.memory;
        let queue = &mut self.queues[queue];
        let head = queue.free.pop().expect("a free slot");
        // Head and status of each slot behind the queue.
        let place = queue.base + 0x4000 + usize::from(head) * 64;
        memory.put(place, &[kind.to_le_bytes(), 0u32.to_le_bytes()].concat());
        memory.put(place + 8, &sector.to_le_bytes());
        memory.put(place + 16, &[0xee]);
        let describe = |index: u16, at: usize, len: usize, flags: u16, next: u16| {
            let slot = queue.base + 16 * usize::from(index);
            memory.put(slot, &(GUEST + at as u64).to_le_bytes());
            memory.put(slot + 8, &(len as u32).to_le_bytes());
            memory.put(slot + 12, &[flags.to_le_bytes(), next.to_le_bytes()].concat());
        };
        let device_writes = if matches!(kind, READ | GET_ID) { 2 } else { 0 };
        describe(head, place, 16, 1, head + 1);
        if len > 0 {
            // In two parts, of which the first is no whole sector.
            let first = len.min(1000);
            describe(head + 1, at, first, 1 | device_writes, head + 2);
            describe(head + 2, at + first, len - first, 1 | device_writes, head + 3);
            describe(head + 3, place + 16, 1, 2, 0);
        } else {
            describe(head + 1, place + 16, 1, 2, 0);
        }
        let slot = usize::from(queue.available % SIZE);
        memory.put(queue.base + 0x1004 + 2 * slot, &head.to_le_bytes());
        queue.available = queue.available.wrapping_add(1);
        memory.u16(queue.base + 0x1002).store_release(queue.available);
        nix::unistd::write(&queue.kick, &1u64.to_ne_bytes()).unwrap();
        head
    }

    /// Notifies without a request.
    pub fn kick(&self, queue: usize) {
        nix::unistd::write(&self.queues[queue].kick, &1u64.to_ne_bytes()).unwrap();
    }

    /// Slot and status of a request that came back, if one did.
    pub fn poll(&mut self, queue: usize) -> Option<(u16, u8)> {
        let memory = &self.memory;
        let queue = &mut self.queues[queue];
        if memory.u16(queue.base + 0x2002).load_acquire() == queue.used {
            return None;
        }
        let entry = memory.get(queue.base + 0x2004 + 8 * usize::from(queue.used % SIZE), 8);
        let head = u32::from_le_bytes(entry[..4].try_into().unwrap()) as u16;
        queue.used = queue.used.wrapping_add(1);
        // It wants to hear of the next one.
        memory.put(queue.base + 0x1004 + 2 * usize::from(SIZE), &queue.used.to_le_bytes());
        queue.free.push(head);
        Some((head, memory.get(queue.base + 0x4000 + usize::from(head) * 64 + 16, 1)[0]))
    }

    /// Requests that did not come back yet.
    pub fn outstanding(&self, queue: usize) -> u16 {
        self.queues[queue].available.wrapping_sub(self.queues[queue].used)
    }

    /// Whether the guest is called before long.
    pub fn is_called(&self, queue: usize) -> bool {
        let call = &self.queues[queue].call;
        let mut fds = [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(call), nix::poll::PollFlags::POLLIN)];
        nix::poll::poll(&mut fds, nix::poll::PollTimeout::from(PATIENCE.as_millis() as u16)).unwrap() == 1
    }

    /// Takes the calls that are there.
    pub fn forget_calls(&self, queue: usize) {
        let _ = nix::unistd::read(&self.queues[queue].call, &mut [0; 8]);
    }

    /// Waits for a request to come back.
    pub fn wait(&mut self, queue: usize) -> (u16, u8) {
        let began = Instant::now();
        loop {
            if let Some(done) = self.poll(queue) {
                return done;
            }
            assert!(began.elapsed() < PATIENCE, "no answer");
            let call = &self.queues[queue].call;
            let mut fds = [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(call), nix::poll::PollFlags::POLLIN)];
            nix::poll::poll(&mut fds, nix::poll::PollTimeout::from(1000u16)).unwrap();
            let _ = nix::unistd::read(call, &mut [0; 8]);
        }
    }

    /// Carries out one request; returns its status.
    pub fn carry_out(&mut self, queue: usize, kind: u32, sector: u64, at: usize, len: usize) -> u8 {
        let head = self.submit(queue, kind, sector, at, len);
        let (back, status) = self.wait(queue);
        assert_eq!(back, head);
        status
    }

    pub fn write(&mut self, queue: usize, sector: u64, bytes: &[u8]) -> u8 {
        self.memory.put(DATA, bytes);
        self.carry_out(queue, WRITE, sector, DATA, bytes.len())
    }

    pub fn read(&mut self, queue: usize, sector: u64, len: usize) -> (u8, Vec<u8>) {
        self.memory.put(DATA, &vec![0xa5; len]);
        let status = self.carry_out(queue, READ, sector, DATA, len);
        (status, self.memory.get(DATA, len))
    }
}

trait Ordered {
    fn load_acquire(&self) -> u16;
    fn store_release(&self, value: u16);
}

impl Ordered for std::sync::atomic::AtomicU16 {
    fn load_acquire(&self) -> u16 {
        self.load(std::sync::atomic::Ordering::Acquire)
    }
    fn store_release(&self, value: u16) {
        self.store(value, std::sync::atomic::Ordering::SeqCst);
    }
}
