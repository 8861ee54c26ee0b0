//! One front end: what it said so far, and the queues that run by it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use parking_lot::Mutex;

use super::config::{self, MAX_CONFIG, feature, protocol};
use super::inflight::{Inflight, Shape};
use super::limits::{MAX_QUEUE_SIZE, MAX_QUEUES, MAX_REGIONS};
use super::memory::{Described, Memory};
use super::message::{self, Body, Message, request};
use super::request::Allowed;
use super::ring::{Agreed, Place, Ring};
use super::worker::{Work, Worker};
use crate::disk::device::Device;
use crate::disk::spin::Spinners;

/// Bit of a queue's message: no descriptor comes with it.
const NO_FD: u64 = 1 << 8;

/// A front end's connection.
pub struct Session {
    disk: Arc<dyn Device>,
    name: Arc<str>,
    spinners: Arc<Spinners>,
    features: u64,
    protocol: u64,
    memory: Option<Arc<Memory>>,
    inflight: Option<Arc<Inflight>>,
    queues: Vec<Queue>,
    /// Where the front end hears of what it did not ask, once it gave a socket for that.
    unasked: Arc<Mutex<Option<UnixStream>>>,
}

#[derive(Default)]
struct Queue {
    place: Place,
    /// The first request to take; where nothing was said, what the queue itself says.
    base: Option<u16>,
    kick: Option<Arc<OwnedFd>>,
    call: Option<Arc<OwnedFd>>,
    err: Option<Arc<OwnedFd>>,
    enabled: bool,
    worker: Option<Worker>,
}

/// What a message is answered with.
enum Answer {
    /// Only if an answer was asked for.
    Done,
    Bytes(Vec<u8>),
    File(Vec<u8>, OwnedFd),
}

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

impl Session {
    /// A session that serves this disk, which the guest sees under this name.
    pub fn new(disk: Arc<dyn Device>, name: &str, spinners: Arc<Spinners>) -> Session {
        let queues = (0..MAX_QUEUES).map(|_| Queue::default()).collect();
        let unasked = Arc::default();
        let name = name.into();
        Session { disk, name, spinners, features: 0, protocol: 0, memory: None, inflight: None, queues, unasked }
    }

    /// Where the front end hears of a new size.
    pub fn unasked(&self) -> Arc<Mutex<Option<UnixStream>>> {
        self.unasked.clone()
    }

    /// Answers messages until the connection ends. Queues end with the session.
    pub fn serve(&mut self, socket: &UnixStream) -> io::Result<()> {
        while let Some(mut message) = message::receive(socket)? {
            let request = message.request;
            let asked = message.need_reply && self.protocol & protocol::REPLY_ACK != 0;
            let answer = self.handle(&mut message);
            match &answer {
                Ok(Answer::Bytes(bytes)) => message::reply(socket, request, bytes, None)?,
                Ok(Answer::File(bytes, file)) => message::reply(socket, request, bytes, Some(file.as_fd()))?,
                Ok(Answer::Done) if asked => message::reply(socket, request, &0u64.to_ne_bytes(), None)?,
                Ok(Answer::Done) => {}
                Err(_) if asked => message::reply(socket, request, &1u64.to_ne_bytes(), None)?,
                Err(_) => {}
            }
            // What the two sides believe of each other differs from here on.
            answer.map_err(|e| io::Error::new(e.kind(), format!("message {request}: {e}")))?;
        }
        Ok(())
    }

    fn handle(&mut self, message: &mut Message) -> io::Result<Answer> {
        let Message { request, body, fds, .. } = message;
        let answer = match *request {
            request::GET_FEATURES => number(config::features(&*self.disk)),
            request::SET_FEATURES => self.set_features(body.u64()?)?,
            request::SET_OWNER | request::RESET_OWNER => Answer::Done,
            request::GET_PROTOCOL_FEATURES => number(protocol::ALL),
            request::SET_PROTOCOL_FEATURES => self.set_protocol(body.u64()?)?,
            request::GET_QUEUE_NUM => number(MAX_QUEUES as u64),
            request::SET_MEM_TABLE => self.set_memory(body, fds)?,
            request::SET_VRING_NUM => {
                let (index, size) = (self.index(body.u32()?)?, body.u32()?);
                let size = u16::try_from(size).ok().filter(|size| size.is_power_of_two() && *size <= MAX_QUEUE_SIZE);
                let size = size.ok_or_else(|| invalid("a queue of an impossible size"))?;
                self.change(index, |queue| queue.place.size = size)?
            }
            request::SET_VRING_ADDR => {
                let (index, _flags) = (self.index(body.u32()?)?, body.u32()?);
                let (descriptors, used, available, _log) = (body.u64()?, body.u64()?, body.u64()?, body.u64()?);
                self.change(index, |queue| queue.place = Place { descriptors, used, available, ..queue.place })?
            }
            request::SET_VRING_BASE => {
                let (index, base) = (self.index(body.u32()?)?, body.u32()?);
                let base = u16::try_from(base).map_err(|_| invalid("a queue that begins nowhere"))?;
                self.change(index, |queue| queue.base = Some(base))?
            }
            request::GET_VRING_BASE => {
                let (index, _) = (self.index(body.u32()?)?, body.u32()?);
                self.pause(index);
                let queue = &mut self.queues[index];
                queue.kick = None;
                let base = queue.base.unwrap_or(0);
                Answer::Bytes([(index as u32).to_ne_bytes(), u32::from(base).to_ne_bytes()].concat())
            }
            request::SET_VRING_KICK => {
                let (index, event) = self.event(body, fds)?;
                let event = event.ok_or_else(|| invalid("a queue that is to be looked at for ever"))?;
                self.change(index, |queue| queue.kick = Some(event))?
            }
            request::SET_VRING_CALL => {
                let (index, event) = self.event(body, fds)?;
                self.change(index, |queue| queue.call = event)?
            }
            request::SET_VRING_ERR => {
                let (index, event) = self.event(body, fds)?;
                self.change(index, |queue| queue.err = event)?
            }
            request::SET_VRING_ENABLE => {
                let (index, enable) = (self.index(body.u32()?)?, body.u32()?);
                self.change(index, |queue| queue.enabled = enable != 0)?
            }
            request::SET_BACKEND_REQ_FD => {
                self.needs(protocol::BACKEND_REQ)?;
                let socket = UnixStream::from(one(fds)?);
                // A front end that does not read must not stop who tells of new sizes.
                socket.set_nonblocking(true)?;
                *self.unasked.lock() = Some(socket);
                Answer::Done
            }
            request::GET_CONFIG => return self.get_config(body),
            // Whether writes are cached is not the guest's to choose, and nothing else can be written.
            request::SET_CONFIG => return self.needs(protocol::CONFIG).map(|()| Answer::Done),
            request::GET_INFLIGHT_FD => self.get_inflight(body)?,
            request::SET_INFLIGHT_FD => {
                self.needs(protocol::INFLIGHT)?;
                let shape = shape(body)?;
                self.stop_all();
                self.inflight = Some(Arc::new(Inflight::map(shape, &one(fds)?)?));
                self.resume_all()?
            }
            request::RESET_DEVICE => {
                self.needs(protocol::RESET_DEVICE)?;
                self.stop_all();
                self.queues.iter_mut().for_each(|queue| *queue = Queue::default());
                self.features = 0;
                Answer::Done
            }
            other => return Err(invalid(format!("nothing is known of it ({other})"))),
        };
        body.end()?;
        Ok(answer)
    }

    fn needs(&self, feature: u64) -> io::Result<()> {
        if self.protocol & feature != 0 { Ok(()) } else { Err(invalid("its protocol feature was not agreed on")) }
    }

    fn index(&self, index: u32) -> io::Result<usize> {
        let index = index as usize;
        if index < self.queues.len() { Ok(index) } else { Err(invalid(format!("there is no queue {index}"))) }
    }

    fn set_features(&mut self, features: u64) -> io::Result<Answer> {
        if features & !config::features(&*self.disk) != 0 {
            return Err(invalid(format!("features {features:#x} were not offered")));
        }
        if features & feature::VERSION_1 == 0 {
            return Err(invalid("the guest's driver is older than VIRTIO 1.0"));
        }
        self.stop_all();
        self.features = features;
        self.resume_all()
    }

    fn set_protocol(&mut self, features: u64) -> io::Result<Answer> {
        if features & !protocol::ALL != 0 {
            return Err(invalid(format!("protocol features {features:#x} were not offered")));
        }
        self.protocol = features;
        Ok(Answer::Done)
    }

    fn set_memory(&mut self, body: &mut Body, fds: &[OwnedFd]) -> io::Result<Answer> {
        let (count, _padding) = (body.u32()? as usize, body.u32()?);
        if count > MAX_REGIONS {
            return Err(invalid(format!("{count} regions of memory; at most {MAX_REGIONS} are mapped")));
        }
        let mut table = Vec::with_capacity(count);
        for _ in 0..count {
            let (guest, len, user, offset) = (body.u64()?, body.u64()?, body.u64()?, body.u64()?);
            table.push(Described { guest, len, user, offset });
        }
        let memory = Memory::map(&table, fds)?;
        self.stop_all();
        self.memory = Some(Arc::new(memory));
        self.resume_all()
    }

    fn get_config(&mut self, body: &mut Body) -> io::Result<Answer> {
        self.needs(protocol::CONFIG)?;
        let (offset, size, flags) = (body.u32()?, body.u32()?, body.u32()?);
        let end = offset.checked_add(size).filter(|end| *end <= MAX_CONFIG);
        let Some(end) = end.filter(|_| body.rest().len() == size as usize) else {
            return Err(invalid(format!("{size} bytes of the configuration at {offset}")));
        };
        let mut answer: Vec<u8> = [offset, size, flags].iter().flat_map(|word| word.to_ne_bytes()).collect();
        answer.extend_from_slice(&config::space(&*self.disk)[offset as usize..end as usize]);
        Ok(Answer::Bytes(answer))
    }

    fn get_inflight(&mut self, body: &mut Body) -> io::Result<Answer> {
        self.needs(protocol::INFLIGHT)?;
        let asked = shape(body)?;
        let (shape, file) = Inflight::make(asked.queues, asked.size)?;
        let mut answer = [shape.len.to_ne_bytes(), shape.offset.to_ne_bytes()].concat();
        answer.extend([shape.queues, shape.size].iter().flat_map(|n| n.to_ne_bytes()));
        answer.extend([0; 4]);
        Ok(Answer::File(answer, file))
    }

    /// The queue of a message, and the descriptor for notifications that came with it.
    fn event(&self, body: &mut Body, fds: &mut Vec<OwnedFd>) -> io::Result<(usize, Option<Arc<OwnedFd>>)> {
        let value = body.u64()?;
        let index = self.index((value & 0xff) as u32)?;
        if value & NO_FD != 0 {
            return Ok((index, None));
        }
        let fd = one(fds)?;
        // Any other kind of file could stop who writes to it.
        let kind = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
        if kind.to_string_lossy() != "anon_inode:[eventfd]" {
            return Err(invalid("a descriptor that is no eventfd"));
        }
        // SAFETY: takes no pointer.
        unsafe {
            let flags = libc::fcntl(fd.as_raw_fd(), libc::F_GETFL);
            libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK);
        }
        Ok((index, Some(Arc::new(fd))))
    }

    /// Changes something of a queue while it does not run.
    fn change(&mut self, index: usize, change: impl FnOnce(&mut Queue)) -> io::Result<Answer> {
        self.pause(index);
        change(&mut self.queues[index]);
        self.resume(index)?;
        Ok(Answer::Done)
    }

    fn pause(&mut self, index: usize) {
        let queue = &mut self.queues[index];
        if let Some(worker) = queue.worker.take() {
            queue.base = worker.stop();
        }
    }

    fn stop_all(&mut self) {
        (0..self.queues.len()).for_each(|index| self.pause(index));
    }

    fn resume_all(&mut self) -> io::Result<Answer> {
        (0..self.queues.len()).try_for_each(|index| self.resume(index))?;
        Ok(Answer::Done)
    }

    /// Lets a queue run, if all is there that it needs.
    fn resume(&mut self, index: usize) -> io::Result<()> {
        let queue = &mut self.queues[index];
        // Without the features of the protocol there is no message that enables a queue.
        let enabled = queue.enabled || self.features & feature::PROTOCOL == 0;
        let (Some(memory), Some(kick)) = (&self.memory, &queue.kick) else { return Ok(()) };
        if !enabled || queue.place.size == 0 || queue.place.descriptors == 0 || self.features == 0 {
            return Ok(());
        }
        let has = |feature| self.features & feature != 0;
        let agreed = Agreed { event_idx: has(feature::EVENT_IDX), indirect: has(feature::INDIRECT) };
        let broken = |e: super::ring::Broken| invalid(e.to_string());
        let mut ring = Ring::new(memory.clone(), queue.place, agreed, queue.base).map_err(broken)?;
        let mut track = self.inflight.as_ref().and_then(|inflight| inflight.queue(index, queue.place.size));
        let again = track.as_mut().map_or(Vec::new(), |track| track.recover(ring.next_used()));
        if track.is_some() {
            ring.skip_to(ring.next_used().wrapping_add(again.len() as u16));
        }
        let allowed = Allowed {
            flush: has(feature::FLUSH),
            discard: has(feature::DISCARD),
            write_zeroes: has(feature::WRITE_ZEROES),
        };
        let work = Work {
            ring,
            kick: kick.clone(),
            call: queue.call.clone(),
            err: queue.err.clone(),
            track,
            again,
            disk: self.disk.clone(),
            name: self.name.clone(),
            allowed,
            spinners: self.spinners.clone(),
        };
        queue.worker = Some(Worker::start(index, work)?);
        Ok(())
    }
}

fn number(value: u64) -> Answer {
    Answer::Bytes(value.to_ne_bytes().to_vec())
}

fn one(fds: &mut Vec<OwnedFd>) -> io::Result<OwnedFd> {
    match (fds.pop(), fds.len()) {
        (Some(fd), 0) => Ok(fd),
        _ => Err(invalid("one descriptor should come with it")),
    }
}

fn shape(body: &mut Body) -> io::Result<Shape> {
    let (len, offset, queues, size) = (body.u64()?, body.u64()?, body.u16()?, body.u16()?);
    // Some front ends fill the message up to a multiple of eight bytes.
    while !body.rest().is_empty() {
        body.u16()?;
    }
    Ok(Shape { len, offset, queues, size })
}
